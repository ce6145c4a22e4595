//! Writes the program: gives values their memory and layouts, and adds ops and weights.

use super::constant::Constant;
use super::layout::{Layout, join};
use super::net::Net;
use super::{ExternNode, OpReport};
use crate::ModelError;
use crate::graph::{Length, Node, Op, ValueId};
use crate::plan::draft::{self, Draft, OpDraft, Piece, Storage, Weight, WeightId};
use crate::program::{self, OpKind, Record};
use crate::tensor::{DType, MAX_RANK};
use std::collections::HashMap;

/// Where a value of the graph lies: in which value of the program, and how.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// A value of the program that is no view itself.
    pub root: draft::ValueId,
    pub dtype: DType,
    pub layout: Layout,
}

impl View {
    pub fn with_layout(&self, layout: Layout) -> View {
        View { layout, ..self.clone() }
    }
}

/// The place of a value in the output of a concat.
#[derive(Clone, Copy, Debug)]
struct Home {
    whole: ValueId,
    axis: usize,
    start: usize,
}

/// A concat: its output, its axis, its inputs.
type Joined = (ValueId, usize, Vec<ValueId>);

fn joined(node: &Node) -> Option<Joined> {
    match (&node.op, &node.outputs[..]) {
        (Op::Concat { axis }, [Some(whole)]) => Some((*whole, *axis, node.inputs.iter().flatten().copied().collect())),
        _ => None,
    }
}

/// A point to go back to.
pub(super) struct Mark {
    values: usize,
    ops: usize,
    weights: usize,
}

/// A program that is being written.
pub(super) struct Builder<'n> {
    pub net: &'n Net,
    pub draft: Draft,
    pub weights: Vec<Weight>,
    pub report: Vec<OpReport>,
    pub externs: Vec<ExternNode>,
    /// Nodes of the group that is being written.
    pub nodes: Vec<usize>,
    views: Vec<Option<View>>,
    parts: HashMap<(u32, usize, usize), draft::ValueId>,
    packed: HashMap<String, draft::ValueId>,
    homes: HashMap<usize, Home>,
}

/// A size of a record.
pub(super) fn word(n: usize) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| format!("{n} is too large a size"))
}

impl<'n> Builder<'n> {
    pub fn new(net: &'n Net) -> Result<Builder<'n>, ModelError> {
        let mut b = Builder {
            net,
            draft: Draft { name: "main".into(), ..Draft::default() },
            weights: vec![],
            report: vec![],
            externs: vec![],
            nodes: vec![],
            views: vec![None; net.graph.values.len()],
            parts: HashMap::new(),
            packed: HashMap::new(),
            homes: HashMap::new(),
        };
        for &v in &net.graph.inputs {
            let value = &net.graph.values[v.0];
            let order: Vec<usize> = (0..value.dims.len()).collect();
            let view = b.buffer(&value.name, value.dtype, &value.dims, &order).map_err(ModelError::Call)?;
            b.draft.inputs.push(view.root);
            b.views[v.0] = Some(view);
        }
        b.find_homes();
        Ok(b)
    }

    /// Values that ops may write straight into the output of a concat. The output of a concat is such a value, too, where another
    /// one joins the same values and more (as each layer of a DenseNet joins all before it): then both are parts of one buffer.
    fn find_homes(&mut self) {
        let net = self.net;
        let concats: Vec<_> = net.graph.nodes.iter().filter_map(joined).collect();
        for &(whole, axis, ref inputs) in &concats {
            let mut start = 0;
            for &v in inputs {
                let free = net.producer(v).is_some() && !net.is_output(v) && !self.homes.contains_key(&v.0);
                if free && inputs.iter().filter(|i| **i == v).count() == 1 {
                    self.homes.insert(v.0, Home { whole, axis, start });
                }
                start += net.dims(v)[axis];
            }
            let part = |c: &Joined| {
                let first = c.2.windows(inputs.len()).position(|run| run == inputs)?;
                Some(Home { whole: c.0, axis, start: c.2[..first].iter().map(|&v| net.dims(v)[axis]).sum() })
            };
            let mut wider = concats.iter().filter(|c| c.1 == axis && c.2.len() > inputs.len());
            if inputs.len() > 1
                && !net.is_output(whole)
                && let Some(home) = wider.find_map(part)
            {
                self.homes.entry(whole.0).or_insert(home);
            }
        }
    }

    /// A value of the program, dense, with the axes in this order.
    pub fn buffer(&mut self, name: &str, dtype: DType, dims: &[usize], order: &[usize]) -> Result<View, String> {
        let sizes: Vec<u32> = order.iter().map(|&a| word(dims[a])).collect::<Result<_, _>>()?;
        let bytes = dims.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d as u64));
        let bytes = bytes.ok_or("a tensor is too large")?;
        let root = self.value(draft::Value { name: name.into(), dtype, dims: sizes, storage: Storage::Arena, bytes });
        Ok(View { root, dtype, layout: Layout::dense(dims, order) })
    }

    pub fn value(&mut self, mut value: draft::Value) -> draft::ValueId {
        // An image knows no more axes; the sizes of what is no input or output are only read by people.
        if value.dims.len() > MAX_RANK {
            let rest: u64 = value.dims.split_off(MAX_RANK - 1).iter().map(|&d| d as u64).product();
            value.dims.push(rest.min(u32::MAX as u64) as u32);
        }
        self.draft.values.push(value);
        draft::ValueId(self.draft.values.len() as u32 - 1)
    }

    /// Where a value lies; constants become weights as they are, row-major.
    pub fn view(&mut self, v: ValueId) -> Result<View, String> {
        if let Some(view) = &self.views[v.0] {
            return Ok(view.clone());
        }
        let order: Vec<usize> = (0..self.net.dims(v).len()).collect();
        if self.net.constant(v).is_some() {
            return self.constant(v, &order);
        }
        Err(format!("\"{}\" is read before it is computed", self.net.name(v)))
    }

    /// A constant as a weight, dense, with the axes in this order.
    fn constant(&mut self, v: ValueId, order: &[usize]) -> Result<View, String> {
        let constant = self.net.constant(v).ok_or("a constant is missing")?.clone();
        let dims = constant.layout.dims.clone();
        let ordered = constant.with_layout(constant.layout.transpose(order));
        let dtype = constant.dtype;
        let sizes = ordered.layout.dims.iter().map(|&d| word(d)).collect::<Result<Vec<_>, _>>()?;
        let bytes = (constant.layout.elements() * dtype.size()) as u64;
        let name = self.net.name(v).to_string();
        let root = self.weight(&format!("{} {order:?}", v.0), &name, dtype, sizes, bytes, move |to| {
            ordered.write(to);
            Ok(())
        });
        Ok(View { root, dtype, layout: Layout::dense(&dims, order) })
    }

    /// A weight. Of the same `key` there is only one.
    pub fn weight(
        &mut self,
        key: &str,
        name: &str,
        dtype: DType,
        dims: Vec<u32>,
        bytes: u64,
        pack: impl FnOnce(&mut [u8]) -> Result<(), String> + Send + 'static,
    ) -> draft::ValueId {
        self.weight_in_pieces(key, name, dtype, dims, || Weight::whole(name.into(), bytes, pack).pieces)
    }

    /// The same of a weight whose pieces can be packed side by side.
    pub fn weight_in_pieces(
        &mut self,
        key: &str,
        name: &str,
        dtype: DType,
        dims: Vec<u32>,
        pieces: impl FnOnce() -> Vec<Piece>,
    ) -> draft::ValueId {
        if let Some(&known) = self.packed.get(key) {
            return known;
        }
        let pieces = pieces();
        let bytes = pieces.iter().map(|p| p.bytes).sum();
        self.weights.push(Weight { name: name.into(), bytes, pieces });
        let storage = Storage::Weight(WeightId(self.weights.len() as u32 - 1));
        let value = self.value(draft::Value { name: name.into(), dtype, dims, storage, bytes });
        self.packed.insert(key.into(), value);
        value
    }

    /// A weight of `f32`s that exist already.
    pub fn weight_f32(&mut self, name: &str, values: Vec<f32>) -> Result<draft::ValueId, String> {
        self.weight_words(name, DType::F32, values, f32::to_le_bytes)
    }

    /// A weight of `i32`s that exist already.
    pub fn weight_i32(&mut self, name: &str, values: Vec<i32>) -> Result<draft::ValueId, String> {
        self.weight_words(name, DType::I32, values, i32::to_le_bytes)
    }

    fn weight_words<T: Copy + Send + 'static>(
        &mut self,
        name: &str,
        dtype: DType,
        values: Vec<T>,
        bytes: fn(T) -> [u8; 4],
    ) -> Result<draft::ValueId, String> {
        let key = format!("{name} #{}", self.weights.len());
        let dims = vec![word(values.len())?];
        Ok(self.weight(&key, name, dtype, dims, 4 * values.len() as u64, move |to| {
            for (to, &v) in to.chunks_exact_mut(4).zip(&values) {
                to.copy_from_slice(&bytes(v));
            }
            Ok(())
        }))
    }

    /// A value, dense, with the axes in this order: as it is, or a copy.
    pub fn ordered(&mut self, v: ValueId, order: &[usize]) -> Result<View, String> {
        if self.views[v.0].is_none() && self.net.constant(v).is_some() {
            return self.constant(v, order);
        }
        let view = self.view(v)?;
        self.dense(&view, order, self.net.name(v))
    }

    /// A value, dense and row-major.
    pub fn row_major(&mut self, v: ValueId) -> Result<View, String> {
        let order: Vec<usize> = (0..self.net.dims(v).len()).collect();
        self.ordered(v, &order)
    }

    /// A view, dense, with the axes in this order: as it is, or a copy.
    pub fn dense(&mut self, view: &View, order: &[usize], name: &str) -> Result<View, String> {
        if view.layout.is_dense(order) {
            return Ok(view.clone());
        }
        let to = self.buffer(name, view.dtype, &view.layout.dims, order)?;
        self.copy(view, &to)?;
        Ok(to)
    }

    /// The operand of an op that reads or writes at a view.
    pub fn operand(&mut self, view: &View) -> Result<Option<draft::ValueId>, String> {
        let size = view.dtype.size();
        let root = &self.draft.values[view.root.0 as usize];
        let reach = view.layout.reach();
        if view.layout.offset == 0 && root.dtype == view.dtype && root.bytes == (reach * size) as u64 {
            return Ok(Some(view.root));
        }
        let key = (view.root.0, view.layout.offset, reach);
        if let Some(&known) = self.parts.get(&key) {
            return Ok(Some(known));
        }
        let (name, offset) = (root.name.clone(), (view.layout.offset * size) as u64);
        let value = self.value(draft::Value {
            name,
            dtype: view.dtype,
            dims: vec![word(reach)?],
            storage: Storage::View { of: view.root, offset },
            bytes: (reach * size) as u64,
        });
        self.parts.insert(key, value);
        Ok(Some(value))
    }

    /// How much has been written so far.
    pub fn mark(&self) -> Mark {
        Mark { values: self.draft.values.len(), ops: self.draft.ops.len(), weights: self.weights.len() }
    }

    /// Takes back what was written since: an op turned out to have no native form.
    pub fn back_to(&mut self, mark: &Mark) {
        let old = |v: draft::ValueId| (v.0 as usize) < mark.values;
        self.draft.values.truncate(mark.values);
        self.draft.ops.truncate(mark.ops);
        self.report.truncate(mark.ops);
        self.weights.truncate(mark.weights);
        self.parts.retain(|_, v| old(*v));
        self.packed.retain(|_, v| old(*v));
        for view in &mut self.views {
            if view.as_ref().is_some_and(|v| !old(v.root)) {
                *view = None;
            }
        }
    }

    /// Where an op writes a value that it yields dense, with the axes in this order. With `pitched`, the op can also leave
    /// gaps behind each run of the innermost axis, so that the value may be a slice of a larger one.
    pub fn output(&mut self, v: ValueId, order: &[usize], pitched: bool) -> Result<View, String> {
        let view = match self.home(v, order, pitched)? {
            Some(view) => view,
            None => {
                let (net, name) = (self.net, self.net.name(v).to_string());
                self.buffer(&name, net.dtype(v), net.dims(v), order)?
            }
        };
        self.bind(v, view.clone());
        Ok(view)
    }

    fn home(&mut self, v: ValueId, order: &[usize], pitched: bool) -> Result<Option<View>, String> {
        let Some(&Home { whole, axis, start }) = self.homes.get(&v.0) else { return Ok(None) };
        let dims = self.net.dims(v);
        // Axes of one element may stand anywhere in the order.
        let real: Vec<usize> = order.iter().copied().filter(|&a| dims[a] != 1 || a == axis).collect();
        let outermost = real.first() == Some(&axis);
        let innermost = real.last() == Some(&axis);
        if !(outermost || innermost && pitched) || dims.contains(&0) {
            return Ok(None);
        }
        let outer = match &self.views[whole.0] {
            Some(view) => view.clone(),
            None => self.output(whole, order, pitched)?,
        };
        if outer.layout.order() != Layout::dense(&outer.layout.dims, order).order() {
            return Ok(None);
        }
        let layout = outer.layout.slice(axis, start, 1, dims[axis]);
        let fits = if outermost { layout.is_dense(order) } else { self.is_pitched(&layout, order) };
        Ok(fits.then(|| outer.with_layout(layout)))
    }

    /// Whether runs of the innermost axis lie at equal distances.
    fn is_pitched(&self, layout: &Layout, order: &[usize]) -> bool {
        let real: Vec<usize> = order.iter().copied().filter(|&a| layout.dims[a] != 1).collect();
        let Some((&inner, outer)) = real.split_last() else { return true };
        let axes: Vec<(usize, usize)> = outer.iter().map(|&a| (layout.dims[a], layout.strides[a])).collect();
        layout.strides[inner] == 1 && super::layout::merge(&axes).is_some()
    }

    /// Says where a value lies.
    pub fn bind(&mut self, v: ValueId, view: View) {
        debug_assert_eq!(view.layout.dims, self.net.dims(v));
        self.views[v.0] = Some(view);
    }

    /// Whether a value's memory has been given to it already: a concat's, whose inputs are written in place.
    pub fn is_bound(&self, v: ValueId) -> bool {
        self.views[v.0].is_some()
    }

    /// A strided copy between views of the same dimensions.
    pub fn copy(&mut self, from: &View, to: &View) -> Result<(), String> {
        self.copy_filled(from, to, None)
    }

    /// A strided copy; `fill` sets that many elements from the start of the destination's root before it.
    pub fn copy_filled(&mut self, from: &View, to: &View, fill: Option<(usize, u64)>) -> Result<(), String> {
        // Wide stores where the destination runs on.
        let mut axes: Vec<usize> = (0..to.layout.dims.len()).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse(to.layout.strides[a]));
        let walked = axes.iter().map(|&a| (to.layout.dims[a], vec![from.layout.strides[a], to.layout.strides[a]])).collect();
        let mut axes = join(walked);
        if axes.is_empty() {
            axes.push((1, vec![0, 0]));
        }
        if axes.len() > MAX_RANK {
            return Err(format!("a copy over {} axes that can't be joined", axes.len()));
        }
        let mut record = program::Copy::new(word(from.dtype.size())?, axes.len() as u32);
        for (i, (size, strides)) in axes.iter().enumerate() {
            record.dims[i] = word(*size)?;
            record.from[i] = i32::try_from(strides[0]).map_err(|_| "a stride is too large")?;
            record.to[i] = i32::try_from(strides[1]).map_err(|_| "a stride is too large")?;
        }
        let mut to = to.clone();
        if let Some((elements, bits)) = fill {
            record.fill = 1;
            record.fill_elements = word(elements)?;
            record.fill_value = [bits as u32, (bits >> 32) as u32];
            record.to_offset = word(to.layout.offset)?;
            to.layout.offset = 0;
        }
        let source = self.operand(from)?;
        // What is filled is the whole, of which the copy may reach a part.
        let destination = if fill.is_some() { Some(to.root) } else { self.operand(&to)? };
        self.push(OpKind::Copy, &record, &[], vec![source], vec![destination], vec![], "data moves to another layout");
        Ok(())
    }

    /// Adds an op for the nodes that are being written.
    pub fn push<R: Record>(
        &mut self,
        kind: OpKind,
        record: &R,
        tail: &[u8],
        inputs: Vec<Option<draft::ValueId>>,
        outputs: Vec<Option<draft::ValueId>>,
        in_place: Vec<usize>,
        why: &str,
    ) {
        let mut names: Vec<&str> = vec![];
        for &n in &self.nodes {
            let name = self.net.graph.nodes[n].name.as_str();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut op = OpDraft::new(names.join("+"), kind, record, tail);
        (op.inputs, op.outputs, op.in_place) = (inputs, outputs, in_place);
        self.report.push(OpReport {
            nodes: names.into_iter().map(String::from).collect(),
            how: kind.name().into(),
            why: why.into(),
        });
        self.draft.ops.push(op);
    }

    /// Whether a view is the whole of a buffer in the arena, and no input of the program.
    pub fn is_whole(&self, view: &View) -> bool {
        let root = &self.draft.values[view.root.0 as usize];
        let bytes = (view.layout.elements() * view.dtype.size()) as u64;
        root.storage == Storage::Arena && view.layout.offset == 0 && root.bytes == bytes && root.dtype == view.dtype
    }

    /// Makes the program's outputs: each a buffer of its own, row-major, with the ONNX name; and says what their lengths are.
    pub fn finish(&mut self) -> Result<(), String> {
        for &v in &self.net.graph.outputs {
            let (name, dims) = (self.net.name(v).to_string(), self.net.dims(v).to_vec());
            let mut view = self.view(v)?;
            let own = self.is_whole(&view) && view.layout.is_row_major();
            let used = self.draft.inputs.contains(&view.root) || self.draft.outputs.contains(&view.root);
            if !own || used {
                let order: Vec<usize> = (0..dims.len()).collect();
                let to = self.buffer(&name, view.dtype, &dims, &order)?;
                self.nodes = self.net.producer(v).into_iter().collect();
                self.copy(&view, &to)?;
                view = to;
            }
            let value = &mut self.draft.values[view.root.0 as usize];
            value.name = name;
            value.dims = dims.iter().map(|&d| word(d)).collect::<Result<_, _>>()?;
            self.draft.outputs.push(view.root);
        }
        for &Length { output, axis, count } in &self.net.graph.lengths {
            let name = self.net.name(count);
            let whole = self.net.graph.outputs.get(output).is_some_and(|&v| axis < self.net.dims(v).len());
            let one = self.net.dtype(count) == DType::I64 && self.net.dims(count).iter().product::<usize>() == 1;
            if !whole || !one {
                return Err(format!("\"{name}\" can't be the length of axis {axis} of output {output}"));
            }
            // One element is in row-major order wherever it lies, and may lie in a weight or an input too.
            let view = self.view(count)?;
            let count = self.operand(&view)?.ok_or_else(|| format!("\"{name}\" is not there"))?;
            self.draft.lengths.push(draft::Length { output, axis: word(axis)?, count });
        }
        Ok(())
    }
}

/// A weight that is read as it is.
pub(super) fn constant_of(net: &Net, v: Option<ValueId>) -> Option<&Constant> {
    net.constant(v?)
}
