//! Nodes whose operands have sizes that depend on data, as nodes of a graph: see [`ragged`](super::ragged).

use super::convert::Converter;
use super::lengths::{Lengths, along};
use super::ragged::{self, Mask, Passed, Seen};
use super::types;
use crate::ModelError;
use crate::graph::{Bytes, Length, Op, Value, ValueId};
use crate::program::{Binary, ReduceKind};
use crate::tensor::DType;
use std::collections::HashMap;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// What is known of sizes that depend on data.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The model has such sizes.
    any: bool,
    lengths: HashMap<ValueId, Lengths>,
    /// Values of sizes: `i64`, `[1]`.
    counts: HashMap<TDim, ValueId>,
}

impl Open {
    /// Of a model that has such sizes, or none.
    pub fn new(any: bool) -> Open {
        Open { any, ..Open::default() }
    }

    /// Remembers the lengths of a value, which may be none.
    pub fn tell(&mut self, value: ValueId, lengths: Lengths) {
        if self.any {
            self.lengths.insert(value, lengths);
        }
    }

    /// Remembers the value of a size.
    pub fn counted(&mut self, size: &TDim, count: Option<ValueId>) {
        self.counts.extend(count.map(|count| (size.clone(), count)));
    }

    fn of(&self, value: ValueId) -> Option<&Lengths> {
        self.lengths.get(&value).filter(|l| !l.is_empty())
    }
}

/// Helpers that write nodes for a node of tract's.
impl Converter<'_> {
    fn emit(&mut self, node: &TypedNode, op: Op, inputs: &[ValueId], dtype: DType, dims: &[usize]) -> ValueId {
        let name = format!("{}.{}", node.name, self.graph.values.len());
        let out = self.add(Value { name, dtype, dims: dims.to_vec(), constant: None });
        self.plain(node, op, inputs.iter().map(|&v| Some(v)).collect(), vec![Some(out)], None);
        out
    }

    fn binary(&mut self, node: &TypedNode, f: Binary, a: ValueId, b: ValueId) -> ValueId {
        let (x, y) = (self.dims(a), self.dims(b));
        let rank = x.len().max(y.len());
        let size = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |a| dims[a]);
        let dims: Vec<usize> = (0..rank).map(|axis| if size(&x, axis) == 1 { size(&y, axis) } else { size(&x, axis) }).collect();
        let logical = matches!(f, Binary::Less | Binary::GreaterEqual | Binary::Equal);
        let dtype = if logical { DType::Bool } else { self.graph.values[a.0].dtype };
        self.emit(node, Op::Binary(f), &[a, b], dtype, &dims)
    }

    fn dims(&self, v: ValueId) -> Vec<usize> {
        self.graph.values[v.0].dims.clone()
    }

    fn bytes(&mut self, dtype: DType, dims: &[usize], bytes: Vec<u8>) -> ValueId {
        let name = format!("constant {}", self.graph.values.len());
        self.add(Value { name, dtype, dims: dims.to_vec(), constant: Some(Bytes::Owned(bytes.into())) })
    }

    fn i64s(&mut self, values: impl IntoIterator<Item = i64>, dims: &[usize]) -> ValueId {
        self.bytes(DType::I64, dims, values.into_iter().flat_map(i64::to_le_bytes).collect())
    }

    /// The value of a size: `i64`, `[1]`.
    pub(super) fn count(&mut self, node: &TypedNode, size: &TDim) -> Result<ValueId, ModelError> {
        if let Some(&known) = self.open.counts.get(size) {
            return Ok(known);
        }
        let fold = |c: &mut Self, f: Binary, terms: &[TDim]| {
            let mut all = None;
            for term in terms {
                let term = c.count(node, term)?;
                all = Some(all.map_or(term, |all| c.binary(node, f, all, term)));
            }
            all.ok_or_else(|| c.error(node, "an empty size"))
        };
        let count = match size {
            TDim::Val(v) => self.i64s([*v], &[1]),
            TDim::Add(terms) => fold(self, Binary::Add, terms)?,
            TDim::Mul(terms) => fold(self, Binary::Mul, terms)?,
            TDim::Max(terms) | TDim::Broadcast(terms) => fold(self, Binary::Max, terms)?,
            TDim::Min(terms) => fold(self, Binary::Min, terms)?,
            TDim::MulInt(k, of) => fold(self, Binary::Mul, &[TDim::Val(*k), (**of).clone()])?,
            TDim::Div(of, by) => fold(self, Binary::Div, &[(**of).clone(), TDim::Val(*by as i64)])?,
            TDim::Ge(a, b) | TDim::Eq(a, b) => {
                let f = if matches!(size, TDim::Ge(..)) { Binary::GreaterEqual } else { Binary::Equal };
                let truth = fold(self, f, &[(**a).clone(), (**b).clone()])?;
                self.emit(node, Op::Cast, &[truth], DType::I64, &[1])
            }
            TDim::Sym(_) => return Err(self.error(node, format!("nothing counts {size}"))),
        };
        self.open.counts.insert(size.clone(), count);
        Ok(count)
    }

    /// A constant of tract's that holds sizes.
    pub(super) fn sizes(&mut self, node: &TypedNode, sizes: &Tensor) -> Result<ValueId, ModelError> {
        let plain = sizes.try_as_plain_ram().and_then(|t| t.as_slice::<TDim>().map(<[TDim]>::to_vec));
        let plain = plain.map_err(|e| self.error(node, e))?;
        let parts = plain.iter().map(|size| self.count(node, size)).collect::<Result<Vec<_>, _>>()?;
        let row = match parts[..] {
            [one] => one,
            _ => self.emit(node, Op::Concat { axis: 0 }, &parts, DType::I64, &[parts.len()]),
        };
        Ok(self.emit(node, Op::Reshape, &[row], DType::I64, sizes.shape()))
    }

    /// A row of numbers `start + i * step`, as many as a size.
    pub(super) fn range(&mut self, node: &TypedNode, [start, step]: [i64; 2], size: &TDim) -> Result<(), ModelError> {
        let out = self.value_of(node.id.into())?;
        let most = self.dims(out)[0];
        let dtype = self.graph.values[out.0].dtype;
        let numbers = self.i64s((0..most as i64).map(|i| start.saturating_add(i.saturating_mul(step))), &[most]);
        let row = if dtype == DType::I64 { numbers } else { self.emit(node, Op::Cast, &[numbers], dtype, &[most]) };
        self.repeat(node, row, 0, size, out)
    }

    /// Where an axis of a tensor counts: `bool`, in a shape that broadcasts to the tensor's.
    fn inside(&mut self, node: &TypedNode, dims: &[usize], axis: usize, length: &TDim) -> Result<ValueId, ModelError> {
        let count = self.count(node, length)?;
        let mut shape = vec![1; dims.len()];
        shape[axis] = dims[axis];
        let places = self.i64s(0..dims[axis] as i64, &shape);
        Ok(self.binary(node, Binary::Less, places, count))
    }

    fn masked(&mut self, node: &TypedNode, x: ValueId, axis: usize, mask: Mask) -> Result<ValueId, ModelError> {
        let Some(length) = self.open.of(x).and_then(|l| along(l, axis)).cloned() else { return Ok(x) };
        let (dtype, dims) = (self.graph.values[x.0].dtype, self.dims(x));
        let inside = self.inside(node, &dims, axis, &length)?;
        let value = neutral(dtype, mask).map_err(|e| self.error(node, e))?;
        let value = self.bytes(dtype, &[1], value);
        Ok(self.emit(node, Op::Select, &[inside, x, value], dtype, &dims))
    }

    /// Writes `out`: `x` with the rest along an axis made the last element that counts.
    fn repeat(&mut self, node: &TypedNode, x: ValueId, axis: usize, length: &TDim, out: ValueId) -> Result<(), ModelError> {
        let count = self.count(node, length)?;
        let one = self.i64s([1], &[1]);
        let last = self.binary(node, Binary::Sub, count, one);
        let most = self.dims(x)[axis];
        let places = self.i64s(0..most as i64, &[most]);
        let first = self.i64s([0], &[1]);
        let places = self.binary(node, Binary::Min, places, last);
        let places = self.binary(node, Binary::Max, places, first);
        self.plain(node, Op::Gather { axis }, vec![Some(x), Some(places)], vec![Some(out)], None);
        Ok(())
    }

    /// Indices into an axis whose length is `size`: negative ones count from its end. Of tuples of indices, those at `place`.
    fn counted(&mut self, node: &TypedNode, index: ValueId, place: Option<usize>, size: &TDim) -> Result<ValueId, ModelError> {
        let Value { dtype, dims, constant, .. } = self.graph.values[index.0].clone();
        let negative = |bytes: &[u8]| bytes.chunks_exact(dtype.size()).any(|i| i.last().is_some_and(|b| b & 0x80 != 0));
        if constant.is_some_and(|c| !negative(c.as_slice())) {
            return Ok(index);
        }
        let mut size = self.count(node, size)?;
        if let (Some(place), Some(&depth)) = (place, dims.last()) {
            let here = self.i64s((0..depth).map(|i| (i == place) as i64), &[depth]);
            size = self.binary(node, Binary::Mul, size, here);
        }
        if dtype != DType::I64 {
            let dims = self.dims(size);
            size = self.emit(node, Op::Cast, &[size], dtype, &dims);
        }
        let zero = self.bytes(dtype, &[1], vec![0; dtype.size()]);
        let below = self.binary(node, Binary::Less, index, zero);
        let from_end = self.emit(node, Op::Binary(Binary::Add), &[index, size], dtype, &dims);
        Ok(self.emit(node, Op::Select, &[below, from_end, index], dtype, &dims))
    }

    /// Adds a node some of whose operands have sizes that depend on data, and what it needs around it. If they are `vouched` for, the
    /// lengths of its outputs are known already.
    pub(super) fn push_open(
        &mut self,
        node: &TypedNode,
        op: Op,
        mut inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        vouched: bool,
    ) -> Result<(), ModelError> {
        let Some(first) = outputs.iter().flatten().next().copied() else { return Ok(()) };
        let told = self.open.lengths.get(&first).cloned();
        let dims = self.dims(first);
        let empty = Lengths::new();
        let passed = {
            let seen = |v: &Option<ValueId>| {
                let v = (*v)?;
                let value = &self.graph.values[v.0];
                let lengths = self.open.of(v).unwrap_or(&empty);
                Some(Seen { dims: &value.dims, lengths })
            };
            let seen: Vec<_> = inputs.iter().map(seen).collect();
            ragged::through(&op, &seen, &dims, told.as_ref())
        };
        let why = |e: TractError| format!("sizes that depend on data can't be followed through it: {e:#}");
        let Passed { lengths, masks, indices, repeat, mean, writes, packed } = passed.map_err(|e| self.error(node, why(e)))?;
        if !vouched && told.is_some_and(|told| told != lengths) {
            return Err(self.error(node, "sizes that depend on data can't be followed through it"));
        }
        if !vouched {
            outputs.iter().flatten().for_each(|&out| self.open.tell(out, lengths.clone()));
        }
        for (slot, axis, mask) in masks {
            if let Some(x) = inputs[slot] {
                // What is masked along one axis is still open along another.
                let lengths = self.open.lengths.get(&x).cloned();
                let masked = self.masked(node, x, axis, mask)?;
                self.open.tell(masked, lengths.unwrap_or_default());
                inputs[slot] = Some(masked);
            }
        }
        for (slot, place, size) in indices {
            if let Some(index) = inputs[slot] {
                inputs[slot] = Some(self.counted(node, index, place, &size)?);
            }
        }
        if let (Some(length), [Some(x), Some(index), Some(rows)]) = (writes, &inputs[..]) {
            let (x, index, rows) = (*x, *index, *rows);
            let there = match op {
                Op::ScatterElements { axis, .. } => Op::GatherElements { axis },
                _ => Op::GatherNd { batch: 0 },
            };
            let (dtype, dims) = (self.graph.values[rows.0].dtype, self.dims(rows));
            let there = self.emit(node, there, &[x, index], dtype, &dims);
            let (count, one) = (self.count(node, &length)?, self.i64s([1], &[1]));
            let some = self.binary(node, Binary::GreaterEqual, count, one);
            inputs[2] = Some(self.emit(node, Op::Select, &[some, rows, there], dtype, &dims));
        }
        if let (Some(number), &Op::Reduce { kind, ref axes }) = (mean, &op) {
            let kind = if kind == ReduceKind::MeanSquare { ReduceKind::SumSquare } else { ReduceKind::Sum };
            let sum = Op::Reduce { kind, axes: axes.clone() };
            let dtype = self.graph.values[first.0].dtype;
            let sum = self.emit(node, sum, &inputs.iter().flatten().copied().collect::<Vec<_>>(), dtype, &dims);
            let number = self.count(node, &number)?;
            let number = self.emit(node, Op::Cast, &[number], dtype, &[1]);
            self.plain(node, Op::Binary(Binary::Div), vec![Some(sum), Some(number)], outputs, None);
            return Ok(());
        }
        if let Some(axis) = packed {
            return self.packed(node, axis, &inputs.into_iter().flatten().collect::<Vec<_>>(), first);
        }
        let Some(axis) = repeat else {
            self.plain(node, op, inputs, outputs, None);
            return Ok(());
        };
        let again = |c: &mut Self, out: &Option<ValueId>| {
            let value = c.graph.values[out.as_ref()?.0].clone();
            Some(c.add(Value { name: format!("{}.all", value.name), ..value }))
        };
        let all: Vec<_> = outputs.iter().map(|out| again(self, out)).collect();
        self.plain(node, op, inputs, all.clone(), None);
        let length = along(&lengths, axis).cloned().unwrap_or_else(|| dims[axis].into());
        for (from, to) in all.into_iter().zip(outputs) {
            if let (Some(from), Some(to)) = (from, to) {
                self.repeat(node, from, axis, &length, to)?;
            }
        }
        Ok(())
    }

    /// Writes `out`: parts behind each other along an axis, without the rest of any but the last.
    fn packed(&mut self, node: &TypedNode, axis: usize, parts: &[ValueId], out: ValueId) -> Result<(), ModelError> {
        let (dtype, dims) = (self.graph.values[out.0].dtype, self.dims(out));
        // More than `out` has room for, where sizes of one element at most were planned for two.
        let total: usize = parts.iter().map(|&part| self.graph.values[part.0].dims[axis]).sum();
        let mut whole = dims.clone();
        whole[axis] = total;
        let all = self.emit(node, Op::Concat { axis }, parts, dtype, &whole);
        let mut inside = vec![];
        for &part in parts {
            let size = self.dims(part)[axis];
            let length = self.open.of(part).and_then(|l| along(l, axis)).cloned();
            inside.push(match length {
                Some(length) => self.inside(node, &[size], 0, &length)?,
                None => self.bytes(DType::Bool, &[size], vec![1; size]),
            });
        }
        let mask = self.emit(node, Op::Concat { axis: 0 }, &inside, DType::Bool, &[total]);
        let name = format!("{}.{}", node.name, self.graph.values.len());
        let [places, count] =
            [dims[axis], 1].map(|n| self.add(Value { name: name.clone(), dtype: DType::I64, dims: vec![n], constant: None }));
        self.plain(node, Op::NonZero, vec![Some(mask)], vec![Some(places), Some(count)], None);
        self.plain(node, Op::Gather { axis }, vec![Some(all), Some(places)], vec![Some(out)], None);
        Ok(())
    }

    /// Whether one of these has a size that depends on data.
    pub(super) fn is_open<'v>(&self, values: impl IntoIterator<Item = &'v Option<ValueId>>) -> bool {
        self.open.any && values.into_iter().flatten().any(|v| self.open.of(*v).is_some())
    }

    /// Notes the lengths of an output. If what counts does not stand at its beginning, `value` is written anew so that it does.
    pub(super) fn open_output(
        &mut self,
        node: &TypedNode,
        value: ValueId,
    ) -> Result<(ValueId, Vec<(usize, ValueId)>), ModelError> {
        let Some(lengths) = self.open.of(value).cloned() else { return Ok((value, vec![])) };
        let mut counts = vec![];
        for (axis, length) in &lengths {
            counts.push((*axis, self.count(node, length)?));
        }
        let dims = self.dims(value);
        let leads = matches!(lengths[..], [(axis, _)] if dims[..axis].iter().all(|&d| d == 1));
        if leads {
            return Ok((value, counts));
        }
        // Of each element of the dense tensor: where it stands in this one. From the last axis on, those between open ones
        // together.
        let total: usize = dims.iter().product();
        let one = self.i64s([1], &[1]);
        let mut rest = self.i64s(0..total as i64, &[total]);
        let (mut place, mut stride, mut end) = (None, 1usize, dims.len());
        while end > 0 {
            let open = counts.iter().find(|c| c.0 == end - 1).map(|c| c.1);
            let start = match open {
                Some(_) => end - 1,
                None => counts.iter().map(|c| c.0 + 1).filter(|&a| a < end).max().unwrap_or(0),
            };
            let size: usize = dims[start..end].iter().product();
            let actual = match open {
                Some(count) => self.binary(node, Binary::Max, count, one),
                None => self.i64s([size as i64], &[1]),
            };
            let step = self.i64s([stride as i64], &[1]);
            let here = if start == 0 { rest } else { self.binary(node, Binary::Rem, rest, actual) };
            let here = self.binary(node, Binary::Mul, here, step);
            place = Some(place.map_or(here, |place| self.binary(node, Binary::Add, place, here)));
            if start > 0 {
                rest = self.binary(node, Binary::Div, rest, actual);
            }
            (stride, end) = (stride * size, start);
        }
        // Behind what counts, any element.
        let last = self.i64s([total.saturating_sub(1) as i64], &[1]);
        let place = place.unwrap_or(rest);
        let place = self.binary(node, Binary::Min, place, last);
        let dtype = self.graph.values[value.0].dtype;
        let flat = self.emit(node, Op::Reshape, &[value], dtype, &[total]);
        let dense = self.emit(node, Op::Gather { axis: 0 }, &[flat, place], dtype, &[total]);
        Ok((self.emit(node, Op::Reshape, &[dense], dtype, &dims), counts))
    }

    /// Notes which axes of the output with this number a run decides.
    pub(super) fn note_lengths(&mut self, output: usize, counts: Vec<(usize, ValueId)>) {
        self.graph.lengths.extend(counts.into_iter().map(|(axis, count)| Length { output, axis, count }));
    }
}

/// What a mask writes, as bytes.
fn neutral(dtype: DType, mask: Mask) -> TractResult<Vec<u8>> {
    let number = match (mask, dtype) {
        (Mask::Zero, _) => return Ok(vec![0; dtype.size()]),
        (Mask::One, _) => tensor0(1i64),
        (Mask::Nan, _) => tensor0(f32::NAN),
        (Mask::Least, DType::F32 | DType::F64 | DType::F16) => tensor0(f32::NEG_INFINITY),
        (Mask::Most, DType::F32 | DType::F64 | DType::F16) => tensor0(f32::INFINITY),
        (Mask::Least, DType::Bool) => return Ok(vec![0]),
        (Mask::Most, DType::Bool) => return Ok(vec![1]),
        (Mask::Least, DType::U8 | DType::U16 | DType::U32 | DType::U64) => return Ok(vec![0; dtype.size()]),
        (Mask::Most, DType::U8 | DType::U16 | DType::U32 | DType::U64) => return Ok(vec![0xff; dtype.size()]),
        (Mask::Least | Mask::Most, DType::I8 | DType::I16 | DType::I32 | DType::I64) => {
            let (low, high) = if mask == Mask::Least { (0, 0x80) } else { (0xff, 0x7f) };
            let mut bytes = vec![low; dtype.size()];
            bytes[dtype.size() - 1] = high;
            return Ok(bytes);
        }
        (_, DType::BF16) => bail!("bfloat16 has no mask"),
    };
    let number = number.cast_to_dt(types::datum_type(dtype)?)?.into_owned();
    Ok(number.try_as_plain_ram()?.as_bytes().to_vec())
}
