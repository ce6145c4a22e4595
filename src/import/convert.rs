//! From tract's decluttered model to a graph.
//!
//! Each node becomes one node ([`native`](super::native) for tract's own ops, [`onnx`](mod@super::onnx) for those kept whole),
//! a few become two or three, and what neither knows becomes an extern one. Every node that stands for one of tract's gets
//! a recipe.

use super::bfloat::Borders;
use super::externs::{Externs, Operand, Recipe, Work};
use super::hash::HashMap;
use super::lengths::{self, Lengths};
use super::open::Open;
use super::quantise::Linear;
use super::skeleton::Weight;
use super::sketch::{Origin, Ref, Sketch};
use super::whole::{Held, STOCK, Whole, drawn};
use super::{expand, native, onnx, types};
use crate::ModelError;
use crate::graph::{Bytes, Graph, Node, Op, Value, ValueId};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::tract_core::ops::array::Range;
use tract_onnx::tract_hir::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::tract_core::ops::source::TypedSource;

/// What a node becomes.
pub(super) enum Form {
    /// One node with the same inputs.
    One(Op),
    /// One node with these of its inputs.
    Of(Op, Vec<usize>),
    /// Its first input, unchanged.
    Same,
    /// Some nodes, one after the other, from the first input to the first output: an op with the shape of its output,
    /// and how many of the other inputs it takes.
    Chain(Vec<(Op, Option<Vec<usize>>, usize)>),
    /// Left to the host.
    Extern(String),
}

/// What the conversion works on.
pub(super) struct Source<'a> {
    /// The decluttered model.
    pub model: &'a TypedModel,
    /// Weights that tract did not see.
    pub weights: &'a [Weight],
    /// Names of the inputs.
    pub inputs: &'a [String],
    /// Names of the outputs.
    pub outputs: &'a [String],
    /// Inputs and outputs of bfloat16.
    pub borders: &'a Borders,
    /// ONNX's op types, by the names of nodes.
    pub op_types: &'a HashMap<String, String>,
}

pub(super) struct Converter<'a> {
    source: &'a Source<'a>,
    pub(super) graph: Graph,
    pub(super) open: Open,
    recipes: Vec<Recipe>,
    ids: HashMap<OutletId, ValueId>,
}

/// Converts a model whose shapes are all settled.
///
/// # Errors
/// [`ModelError::Node`] for a node with a type that is not supported or a shape that depends on data without a bound.
pub(super) fn convert(source: &Source<'_>) -> Result<(Graph, Externs), ModelError> {
    let model = source.model;
    let any = model.nodes.iter().flat_map(|n| &n.outputs).any(|o| o.fact.shape.as_concrete().is_none());
    let mut c = Converter { source, graph: Graph::default(), open: Open::new(any), recipes: Vec::new(), ids: HashMap::default() };
    for (i, &input) in model.inputs.iter().enumerate() {
        let id = c.value_of(input)?;
        // tract gives an input the name of an operator behind it that does nothing.
        if let Some(name) = source.inputs.get(i) {
            c.graph.values[id.0].name.clone_from(name);
        }
        let narrow = source.borders.inputs.get(i) == Some(&true);
        let id = if narrow { c.bfloat_input(id) } else { id };
        c.graph.inputs.push(id);
    }
    let order = match model.outputs.get(source.outputs.len()..) {
        Some(counting) if !counting.is_empty() => counted_first(model, counting),
        _ => model.eval_order().map_err(|e| ModelError::Call(format!("the graph can't be put in order: {e}")))?,
    };
    for id in order {
        c.node(model.node(id))?;
    }
    // Behind them stand operators that count.
    for (i, &output) in model.outputs.iter().enumerate().take(source.outputs.len()) {
        let name = source.outputs.get(i).cloned().unwrap_or_else(|| format!("output {i}"));
        let narrow = source.borders.outputs.get(i) == Some(&true);
        let node = model.node(output.node);
        let (id, counts) = c.open_output(node, c.ids[&output])?;
        let id = if narrow { c.bfloat_output(id, name) } else { c.output(id, name) };
        c.graph.outputs.push(id);
        c.note_lengths(i, counts);
    }
    Ok((c.graph, Externs::new(c.recipes)))
}

/// All nodes in an order in which they can be evaluated: first those that count and what they need, since sizes are read by
/// nodes that have no edge to them.
fn counted_first(model: &TypedModel, counting: &[OutletId]) -> Vec<usize> {
    let (mut order, mut seen) = (vec![], vec![false; model.nodes.len()]);
    for target in counting.iter().chain(&model.outputs) {
        // Nodes, and how many of their inputs have been gone into.
        let mut stack = vec![(target.node, 0)];
        while let Some((id, input)) = stack.pop() {
            if input == 0 && std::mem::replace(&mut seen[id], true) {
                continue;
            }
            match model.nodes[id].inputs.get(input) {
                Some(from) => stack.extend([(id, input + 1), (from.node, 0)]),
                None => order.push(id),
            }
        }
    }
    order
}

impl Converter<'_> {
    /// ONNX's op type of a node, or tract's where the node is not in the file.
    pub(super) fn op_type(&self, node: &TypedNode) -> String {
        self.source.op_types.get(&node.name).cloned().unwrap_or_else(|| node.op.name().to_string())
    }

    pub(super) fn error(&self, node: &TypedNode, what: impl ToString) -> ModelError {
        ModelError::node(&node.name, self.op_type(node), what.to_string())
    }

    /// Type and shape of a value of tract's, and what of it depends on data.
    fn fact(&self, outlet: OutletId) -> Result<(DType, Vec<usize>, Lengths), ModelError> {
        let node = self.source.model.node(outlet.node);
        let fact = &node.outputs[outlet.slot].fact;
        let dtype = types::dtype(fact.datum_type).map_err(|e| self.error(node, e))?;
        let (dims, lengths) = lengths::of(&fact.shape).map_err(|e| {
            let why = "its shape depends on data without a bound, which is not supported";
            self.error(
                node,
                format!("{why}: {:?} ({e:#}). Make the inputs that decide it constants (kiln compile --constants …)", fact.shape),
            )
        })?;
        Ok((dtype, dims, lengths))
    }

    /// A new value for one of tract's.
    pub(super) fn value_of(&mut self, outlet: OutletId) -> Result<ValueId, ModelError> {
        let (dtype, dims, lengths) = self.fact(outlet)?;
        let name = &self.source.model.node(outlet.node).name;
        let name = if outlet.slot == 0 { name.clone() } else { format!("{name}:{}", outlet.slot) };
        let id = self.add(Value { name, dtype, dims, constant: None });
        self.ids.insert(outlet, id);
        self.open.tell(id, lengths);
        Ok(id)
    }

    pub(super) fn add(&mut self, value: Value) -> ValueId {
        self.graph.values.push(value);
        ValueId(self.graph.values.len() - 1)
    }

    fn constant(&mut self, node: &TypedNode, bytes: Bytes) -> Result<(), ModelError> {
        let id = self.value_of(node.id.into())?;
        self.graph.values[id.0].constant = Some(bytes);
        Ok(())
    }

    fn operand(&self, outlet: OutletId) -> Result<Operand, ModelError> {
        let (_, dims, _) = self.fact(outlet)?;
        let dt = self.source.model.node(outlet.node).outputs[outlet.slot].fact.datum_type;
        let constant = self.ids.get(&outlet).and_then(|id| self.graph.values[id.0].constant.clone());
        Ok(Operand { dt, dims, constant })
    }

    fn node(&mut self, node: &TypedNode) -> Result<(), ModelError> {
        if node.op_is::<TypedSource>() {
            return if self.ids.contains_key(&node.id.into()) { Ok(()) } else { Err(self.error(node, "it is not an input")) };
        }
        if let Some(op) = node.op_as::<Const>() {
            if op.val().datum_type() == DatumType::TDim && types::plain(op.val()).is_err() {
                let id = self.sizes(node, op.val())?;
                self.ids.insert(node.id.into(), id);
                return Ok(());
            }
            let bytes = types::bytes(op.val()).map_err(|e| self.error(node, e))?;
            return self.constant(node, bytes);
        }
        if let Some(held) = node.op_as::<Held>() {
            let weight = &self.source.weights[held.index];
            if weight.dtype == DType::BF16 {
                // tract took it for `f32`.
                let id = self.value_of(node.id.into())?;
                let narrow = self.bfloat_input(id);
                self.graph.values[narrow.0].name.clone_from(&weight.name);
                self.graph.values[narrow.0].constant = Some(weight.bytes.clone());
                return Ok(());
            }
            self.constant(node, weight.bytes.clone())?;
            let id = self.ids[&node.id.into()];
            self.graph.values[id.0].name = weight.name.clone();
            return Ok(());
        }
        if node.op_is::<Range>()
            && let Some((bounds, length)) = self.settled_range(node)
        {
            return self.range(node, bounds, &length);
        }
        let whole = node.op_as::<Whole>();
        if let Some(whole) = whole {
            let facts = self.source.model.node_input_facts(node.id).map_err(|e| self.error(node, e))?;
            let inputs = whole.inputs(&facts);
            if let Some(drawn) = drawn(whole, &inputs) {
                let (sketch, outputs) = drawn.map_err(|e| self.error(node, e))?;
                return self.sketch(node, whole, &sketch, &outputs);
            }
        }
        let form = match whole {
            Some(whole) => onnx::form(whole, self.source.model, node),
            None => native::form(self.source.model, node),
        };
        let form = form.map_err(|e| self.error(node, e))?;
        if let Form::Same = form {
            let id = self.ids[&node.inputs[0]];
            self.ids.insert(node.id.into(), id);
            return Ok(());
        }
        let recipe = self.recipe(node, whole, &form)?;
        let mut inputs = self.inputs(node, whole);
        let outputs = self.outputs(node, whole)?;
        match form {
            Form::One(op) => self.push(node, op, inputs, outputs, Some(recipe))?,
            Form::Of(op, of) => {
                // A node that takes one of tract's inputs twice is not what the recipe evaluates.
                let recipe = (of.len() <= inputs.len()).then_some(recipe);
                inputs = of.iter().map(|&i| inputs.get(i).copied().flatten()).collect();
                self.push(node, op, inputs, outputs, recipe)?;
            }
            Form::Extern(reason) => self.push(node, Op::Extern { reason }, inputs, outputs, Some(recipe))?,
            Form::Chain(links) => {
                let dtype = outputs[0].map_or(DType::F32, |id| self.graph.values[id.0].dtype);
                let mut rest = inputs.split_off(1);
                let (mut x, last) = (inputs[0], links.len() - 1);
                for (i, (op, dims, takes)) in links.into_iter().enumerate() {
                    let name = format!("{}.{i}", node.name);
                    let y = match dims {
                        Some(dims) if i < last => Some(self.add(Value { name, dtype, dims, constant: None })),
                        _ => outputs[0],
                    };
                    let of = std::iter::once(x).chain(rest.drain(..takes.min(rest.len()))).collect();
                    self.push(node, op, of, vec![y], None)?;
                    x = y;
                }
            }
            Form::Same => {}
        }
        Ok(())
    }

    /// The ops of a sketch. Of a type that they can't compute, tract evaluates the operator as a whole, if it knows it.
    fn sketch(&mut self, node: &TypedNode, whole: &Whole, sketch: &Sketch<'_>, outputs: &[Ref]) -> Result<(), ModelError> {
        let inputs = self.inputs(node, Some(whole));
        let values = self.outputs(node, Some(whole))?;
        if let Some(reason) = expand::unsupported(sketch)
            && STOCK.op_register.0.contains_key(&whole.node.op_type)
        {
            let recipe = self.recipe(node, Some(whole), &Form::Same)?;
            return self.push(node, Op::Extern { reason }, inputs, values, Some(recipe));
        }
        let wanted = |i: usize| outputs.iter().position(|r| r.0 == i).and_then(|slot| values.get(slot).copied().flatten());
        let mut ids: Vec<Option<ValueId>> = (0..sketch.values.len())
            .map(|i| {
                let value = &sketch.values[i];
                let constant = match &value.origin {
                    Origin::Input(slot) => return inputs.get(*slot).copied().flatten(),
                    Origin::Constant(bytes) => Some(bytes.clone()),
                    Origin::Made | Origin::Size(_) => None,
                };
                if let (None, Some(id)) = (&constant, wanted(i)) {
                    return Some(id);
                }
                let (name, dtype, dims) = (format!("{}.{i}", node.name), value.dtype, value.dims.clone());
                let id = self.add(Value { name, dtype, dims, constant });
                self.open.tell(id, value.lengths.clone());
                Some(id)
            })
            .collect();
        for (length, count) in &sketch.counted {
            self.open.counted(length, ids[count.0]);
        }
        for (value, id) in sketch.values.iter().zip(&mut ids) {
            if let Origin::Size(size) = &value.origin {
                *id = Some(self.count(node, size)?);
            }
        }
        for drawn in &sketch.ops {
            let of = |all: &[Option<Ref>]| all.iter().map(|r| r.and_then(|r| ids[r.0])).collect();
            let (op, inputs, outputs) = (drawn.op.clone(), of(&drawn.inputs), of(&drawn.outputs));
            if drawn.outputs.iter().flatten().any(|r| sketch.values[r.0].vouched) {
                self.push_open(node, op, inputs, outputs, true)?;
            } else {
                self.push(node, op, inputs, outputs, None)?;
            }
        }
        // An output that is an input, a constant or another output, too.
        for (slot, r) in outputs.iter().enumerate() {
            if let (Some(Some(id)), Some(from)) = (values.get(slot), ids[r.0])
                && *id != from
            {
                self.push(node, Op::Reshape, vec![Some(from)], vec![Some(*id)], None)?;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        node: &TypedNode,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        recipe: Option<u32>,
    ) -> Result<(), ModelError> {
        if self.is_open(inputs.iter().chain(&outputs)) {
            return self.push_open(node, op, inputs, outputs, false);
        }
        self.plain(node, op, inputs, outputs, recipe);
        Ok(())
    }

    /// Adds a node as it is.
    pub(super) fn plain(
        &mut self,
        node: &TypedNode,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        recipe: Option<u32>,
    ) {
        let op_type = self.op_type(node);
        self.graph.nodes.push(Node { name: node.name.clone(), op_type, op, inputs, outputs, recipe });
    }

    /// The inputs, by ONNX's numbers for an operator that was kept whole.
    fn inputs(&self, node: &TypedNode, whole: Option<&Whole>) -> Vec<Option<ValueId>> {
        match whole {
            Some(w) => w.slots.iter().map(|s| s.map(|i| self.ids[&node.inputs[i]])).collect(),
            None => node.inputs.iter().map(|i| Some(self.ids[i])).collect(),
        }
    }

    /// An input of bfloat16, from which `wide` is cast.
    fn bfloat_input(&mut self, wide: ValueId) -> ValueId {
        let value = Value { dtype: DType::BF16, ..self.graph.values[wide.0].clone() };
        let name = value.name.clone();
        let narrow = self.add(value);
        self.cast(name, narrow, wide);
        narrow
    }

    /// An output of bfloat16.
    fn bfloat_output(&mut self, wide: ValueId, name: String) -> ValueId {
        let narrow =
            self.add(Value { name: name.clone(), dtype: DType::BF16, constant: None, ..self.graph.values[wide.0].clone() });
        self.cast(name, wide, narrow);
        narrow
    }

    fn cast(&mut self, name: String, from: ValueId, to: ValueId) {
        let (inputs, outputs) = (vec![Some(from)], vec![Some(to)]);
        self.graph.nodes.push(Node { name, op_type: "Cast".into(), op: Op::Cast, inputs, outputs, recipe: None });
    }

    /// New values for the outputs, by ONNX's numbers for an operator that was kept whole.
    fn outputs(&mut self, node: &TypedNode, whole: Option<&Whole>) -> Result<Vec<Option<ValueId>>, ModelError> {
        let mut values = (0..node.outputs.len())
            .map(|slot| self.value_of(OutletId::new(node.id, slot)))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        Ok(match whole {
            Some(w) => w.node.output.iter().map(|name| if name.is_empty() { None } else { values.next() }).collect(),
            None => values.map(Some).collect(),
        })
    }

    fn recipe(&mut self, node: &TypedNode, whole: Option<&Whole>, form: &Form) -> Result<u32, ModelError> {
        let linear = match *form {
            Form::One(Op::Quantize { axis, block }) => Some(Linear { quantise: true, axis, block }),
            Form::One(Op::Dequantize { axis, block }) => Some(Linear { quantise: false, axis, block }),
            _ => None,
        };
        let work = match (linear, whole) {
            (Some(linear), _) => Work::Linear(linear),
            (None, Some(w)) => Work::Onnx(w.node.clone(), w.opset, w.slots.clone()),
            (None, None) => Work::Tract(node.op.clone()),
        };
        let inputs = node.inputs.iter().map(|&i| self.operand(i)).collect::<Result<Vec<_>, _>>()?;
        let outputs = (0..node.outputs.len()).map(|slot| self.operand(OutletId::new(node.id, slot)));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        self.recipes.push(Recipe { node: node.name.clone(), op_type: self.op_type(node), work, inputs, outputs });
        Ok(self.recipes.len() as u32 - 1)
    }

    /// The value of an output, under its ONNX name. One that is an input, a constant or another output too is copied.
    fn output(&mut self, id: ValueId, name: String) -> ValueId {
        let g = &self.graph;
        if g.values[id.0].constant.is_none() && !g.inputs.contains(&id) && !g.outputs.contains(&id) {
            self.graph.values[id.0].name = name;
            return id;
        }
        let Value { dtype, dims, .. } = self.graph.values[id.0].clone();
        let copy = self.add(Value { name: name.clone(), dtype, dims, constant: None });
        let (inputs, outputs) = (vec![Some(id)], vec![Some(copy)]);
        self.graph.nodes.push(Node { name, op_type: "Identity".into(), op: Op::Reshape, inputs, outputs, recipe: None });
        copy
    }

    /// Start and step of a range whose length depends on data, and that length.
    fn settled_range(&self, node: &TypedNode) -> Option<([i64; 2], TDim)> {
        let length = node.outputs[0].fact.shape.first().filter(|d| d.as_i64().is_none())?.clone();
        let facts = self.source.model.node_input_facts(node.id).ok()?;
        // Whole numbers, of whichever type: others are left to who can't follow them.
        let known = |slot: usize| {
            let number = facts.get(slot)?.konst.as_ref()?.cast_to_scalar::<f64>().ok()?;
            (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
        };
        Some(([known(0)?, known(2)?], length))
    }
}
