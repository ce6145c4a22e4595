//! From a parsed model to one with types and shapes, in one walk in the order of evaluation.
//!
//! An operator is written into the typed model as soon as its inputs are there: they tell all that its outputs hang on. So most
//! need not state rules about types and shapes, which tract solves like equations: that takes longer than all the rest of the walk.
//! Those that do need it are asked for them ([`infer`]), one by one.
//!
//! What is constant is evaluated on the way, and is put into the typed model when something else reads it: what only made other
//! constants never gets there.

use super::whole::{Held, Whole};
use super::{early, either, hash};
use std::hash::{BuildHasher, Hash, Hasher};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::konst::Const;
use tract_onnx::tract_hir::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::tract_core::optim::CONST_FOLD_MEM_BUDGET;

/// Elements of a constant that is small: shapes, axes, paddings.
const SMALL: usize = 64;

/// What is said of an output that nothing is known of.
pub(super) const OPEN: &str = "stays open";

/// The model with types and shapes, if one walk finds them all; `nodes` are those that it was parsed from.
pub(super) fn typed(mut model: InferenceModel, nodes: &[NodeProto]) -> TractResult<TypedModel> {
    let _proofs = model.symbols.proof_cache_session();
    let mut target = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    // Inputs and initializers stand before them.
    let first = model.nodes.len().saturating_sub(nodes.len());
    target.nodes.reserve(model.nodes.len());
    let values = vec![tvec![]; model.nodes.len()];
    let mut walk = Walk { target, nodes, first, places: HashMap::new(), constants: hash::HashMap::default(), values };
    // How often values are still to be read; those that are outputs of the model stay.
    let order = model.eval_order()?;
    let mut readers = vec![0usize; model.nodes.len()];
    order.iter().flat_map(|&id| &model.node(id).inputs).for_each(|input| readers[input.node] += 1);
    model.output_outlets()?.iter().for_each(|output| readers[output.node] += 1);
    for id in order {
        walk.visit(&mut model, id).with_context(|| format!("at {}", model.node(id)))?;
        for input in &model.node(id).inputs {
            readers[input.node] -= 1;
            if readers[input.node] == 0 {
                walk.values[input.node].clear();
            }
        }
    }
    walk.finish(&model)
}

struct Walk<'a> {
    target: TypedModel,
    /// The nodes as ONNX has them, and the number of their first in the parsed model.
    nodes: &'a [NodeProto],
    first: usize,
    /// Where in the typed model an output of the parsed one is.
    places: HashMap<OutletId, OutletId>,
    /// Constants of the typed model, by a hash of what they are.
    constants: hash::HashMap<u64, TVec<OutletId>>,
    /// Per node: the values of its outputs, if they are constant. They may have no place yet.
    values: Vec<TVec<Arc<Tensor>>>,
}

impl Walk<'_> {
    fn visit(&mut self, model: &mut InferenceModel, id: usize) -> TractResult<()> {
        if let Some(values) = self.evaluated(model.node(id))? {
            self.values[id] = values;
            return Ok(());
        }
        for i in 0..model.node(id).inputs.len() {
            self.place(model, model.node(id).inputs[i])?;
        }
        let before = self.target.nodes.len();
        let outputs = match self.wired(model, id) {
            Some(outputs) => outputs,
            None => {
                self.infer(model, id)?;
                if let Some(values) = constants(model.node(id))? {
                    self.values[id] = values.into_iter().map(settled).collect();
                    return Ok(());
                }
                let node = model.node(id);
                node.op.to_typed(model, node, &mut self.target, &self.places)?
            }
        };
        self.fold(before)?;
        if let [output] = outputs[..]
            && let Some(value) = &self.target.outlet_fact(output)?.konst
            && value.datum_type().is_tdim()
        {
            let value = settled(value.clone());
            if !value.datum_type().is_tdim() {
                self.values[id] = tvec![value];
                return Ok(());
            }
        }
        for (slot, output) in outputs.into_iter().enumerate() {
            self.target.outlet_fact(output)?.consistent()?;
            self.places.insert(OutletId::new(id, slot), output);
        }
        Ok(())
    }

    /// The value of an output, if it is known.
    fn value(&self, outlet: OutletId) -> Option<&Arc<Tensor>> {
        let fact = |&place: &OutletId| self.target.outlet_fact(place).ok()?.konst.as_ref();
        self.values[outlet.node].get(outlet.slot).or_else(|| self.places.get(&outlet).and_then(fact))
    }

    /// An output in the typed model; a constant is put there now.
    fn place(&mut self, model: &InferenceModel, outlet: OutletId) -> TractResult<OutletId> {
        if let Some(&place) = self.places.get(&outlet) {
            return Ok(place);
        }
        let value = self.values[outlet.node].get(outlet.slot).with_context(|| format!("{outlet:?} is not known"))?;
        let place = self.constant(format!("{}.{} is known", model.node(outlet.node).name, outlet.slot), value.clone())?;
        self.places.insert(outlet, place);
        Ok(place)
    }

    /// A constant in the typed model, where there may be one like it. tract would look through all of its nodes for that.
    fn constant(&mut self, name: String, value: Arc<Tensor>) -> TractResult<OutletId> {
        let fact = TypedFact::try_from(value.clone())?;
        if fact.exotic_fact.is_some() {
            return self.target.add_const(name, value);
        }
        let alike = self.constants.entry(hash(&value)).or_default();
        let same = |&&place: &&OutletId| self.target.outlet_fact(place).is_ok_and(|fact| fact.konst.as_ref() == Some(&value));
        if let Some(&place) = alike.iter().find(same) {
            return Ok(place);
        }
        let place = self.target.add_node(name, Const::new(value)?, tvec![fact])?.into();
        alike.push(place);
        Ok(place)
    }

    /// The node written into the typed model, if it is of those that ask for no more than their inputs; `None`, too, if that fails:
    /// by its rules it may do better, or they say what is wrong.
    fn wired(&mut self, model: &mut InferenceModel, id: usize) -> Option<TVec<OutletId>> {
        let inputs: TVec<OutletId> = model.node(id).inputs.iter().map(|input| self.places[input]).collect();
        let facts = || inputs.iter().filter_map(|&i| Some(InferenceFact::from(self.target.outlet_fact(i).ok()?))).collect();
        let settled = either::settle(&mut *model.node_mut(id).op, facts);
        let node = model.node(id);
        let op = node.op.as_op();
        if !settled && !op.is::<Box<dyn Expansion>>() && !op.is::<Whole>() && !op.is::<Held>() {
            return None;
        }
        let before = self.target.nodes.len();
        let wired = node.op.to_typed(model, node, &mut self.target, &self.places).and_then(|outputs| {
            self.fits(before)?;
            Ok(outputs)
        });
        if let Err(error) = &wired {
            log::debug!("{node} is not written out by its inputs alone: {error:?}");
            // What there is of it is read by nothing, and goes when the model is put in order; its names are for the next attempt.
            self.target.nodes[before..].iter_mut().for_each(|node| node.name.clear());
        }
        wired.ok()
    }

    /// Whether the factors of products are as long as each other, in the nodes from this one on: rules see to that, products don't.
    fn fits(&self, from: usize) -> TractResult<()> {
        for node in &self.target.nodes[from..] {
            let Some(product) = node.op_as::<EinSum>() else { continue };
            let facts = self.target.node_input_facts(node.id)?;
            for axis in product.axes.iter_all_axes() {
                let sizes = axis.inputs.iter().zip(&facts).flat_map(|(axes, fact)| axes.iter().map(|&a| &fact.shape[a]));
                let repeats = axis.outputs.iter().any(|axes| !axes.is_empty());
                let mut sizes = sizes.filter(|size| !(repeats && size.is_one()));
                let Some(first) = sizes.next() else { continue };
                ensure!(sizes.all(|size| size == first), "factors of other sizes than {first} along {}", axis.repr);
            }
        }
        Ok(())
    }

    /// Evaluates what hangs on constants alone, of the nodes of the typed model from this one on. tract has a pass for that; it looks at
    /// the whole model again after each node that it finds.
    fn fold(&mut self, from: usize) -> TractResult<()> {
        for id in from..self.target.nodes.len() {
            let node = &self.target.nodes[id];
            if node.inputs.is_empty() || node.outputs.len() != 1 || node.outputs[0].fact.exotic_fact.is_some() {
                continue;
            }
            let known = |&input: &OutletId| {
                let value = self.target.outlet_fact(input).ok()?.konst.as_ref()?;
                let dt = value.datum_type();
                let plain = value.is_plain_ram() && (dt.is_number() || dt.is_tdim() || dt == DatumType::Bool);
                let folds = plain && bytes(value) <= CONST_FOLD_MEM_BUDGET;
                folds.then(|| value.clone().into_tvalue())
            };
            let Some(inputs) = node.inputs.iter().map(known).collect::<Option<TVec<_>>>() else { continue };
            let most = inputs.iter().map(|value| bytes(value)).sum::<u64>().max(CONST_FOLD_MEM_BUDGET);
            // A failure is the pass's to tell.
            let Ok(Some(values)) = node.op.eval_out_of_plan(inputs) else { continue };
            let Some(value) = values.into_iter().next().map(IntoArcTensor::into_arc_tensor) else { continue };
            let fact = TypedFact::try_from(value.clone())?;
            if bytes(&value) > most
                || !value.is_plain_ram()
                || (fact.datum_type, &fact.shape) != (node.outputs[0].fact.datum_type, &node.outputs[0].fact.shape)
            {
                continue;
            }
            let node = &mut self.target.nodes[id];
            node.op = Box::new(Const::new(value)?);
            node.outputs[0].fact = fact;
            for input in std::mem::take(&mut node.inputs) {
                self.target.nodes[input.node].outputs[input.slot].successors.retain(|reader| reader.node != id);
            }
        }
        Ok(())
    }

    /// Finds types and shapes of a node's outputs by its own rules; its inputs are in the typed model.
    fn infer(&self, model: &mut InferenceModel, id: usize) -> TractResult<()> {
        for input in model.node(id).inputs.clone() {
            model.set_outlet_fact(input, InferenceFact::from(self.target.outlet_fact(self.places[&input])?))?;
        }
        infer(model, id)
    }

    /// The values of a node that is a constant, or hangs on small ones alone: they say all that its rules would. What has a state
    /// keeps it.
    ///
    /// An operator that tract writes out by others is written into a model of its own, which evaluates what is constant as it grows; to
    /// plan and run that model, as tract does, costs several times as much.
    fn evaluated(&self, node: &InferenceNode) -> TractResult<Option<TVec<Arc<Tensor>>>> {
        if let Some(constant) = node.op.as_op().downcast_ref::<Const>() {
            return Ok(Some(tvec![settled(constant.val().clone())]));
        }
        if let Some(value) = self.early(node) {
            return Ok(Some(tvec![value]));
        }
        let small = |value: &&Arc<Tensor>| value.is_plain_ram() && value.volume() <= SMALL;
        let known = |&outlet: &OutletId| self.value(outlet).filter(small).cloned();
        let Some(inputs) = node.inputs.iter().map(known).collect::<Option<TVec<_>>>() else { return Ok(None) };
        if inputs.is_empty() || node.op.state(&EvalContext::out_of_plan())?.is_some() {
            return Ok(None);
        }
        let values = match node.op.as_op().downcast_ref::<Box<dyn Expansion>>() {
            Some(expansion) => alone(&**expansion, inputs),
            None => {
                let values = node.op.eval_out_of_plan(inputs.into_iter().map(IntoTValue::into_tvalue).collect()).ok().flatten();
                values.map(|values| values.into_iter().map(IntoArcTensor::into_arc_tensor).collect())
            }
        };
        Ok(values.filter(|values: &TVec<_>| values.len() == node.outputs.len() && values.iter().all(|value| small(&value))))
    }

    /// The value of a node that needs no tract: a shape that is known, or what [`early`] finds.
    fn early(&self, node: &InferenceNode) -> Option<Arc<Tensor>> {
        let proto = self.nodes.get(node.id.checked_sub(self.first)?)?;
        if proto.name != node.name || proto.output.len() != 1 || node.outputs.len() != 1 {
            return None;
        }
        let mut inlets = node.inputs.iter();
        if proto.op_type == "Shape" && proto.attribute.is_empty() {
            let inlet = inlets.next()?;
            let dims: TVec<i64> = match self.value(*inlet) {
                Some(value) => value.shape().iter().map(|&d| d as i64).collect(),
                None => self
                    .target
                    .outlet_fact(*self.places.get(inlet)?)
                    .ok()?
                    .shape
                    .iter()
                    .map(TDim::as_i64)
                    .collect::<Option<_>>()?,
            };
            return Some(tensor1(&dims).into_arc_tensor());
        }
        // An input that the node leaves out is none of tract's.
        let input = |name: &String| if name.is_empty() { Some(None) } else { Some(Some(self.value(*inlets.next()?)?.clone())) };
        let inputs = proto.input.iter().map(input).collect::<Option<Vec<_>>>()?;
        early::value(proto, &inputs.into_iter().map(|value| value.map(settled)).collect::<Vec<_>>())
    }

    /// The typed model, with inputs and outputs in the order of the parsed one.
    fn finish(mut self, model: &InferenceModel) -> TractResult<TypedModel> {
        for &input in model.input_outlets()? {
            if !self.places.contains_key(&input) {
                // Nothing reads it, but a caller may give it.
                let node = model.node(input.node);
                let place = node.op.to_typed(model, node, &mut self.target, &self.places)?[input.slot];
                self.places.insert(input, place);
            }
        }
        let outputs = model.output_outlets()?.iter().map(|&output| self.place(model, output)).collect::<TractResult<Vec<_>>>()?;
        self.target.inputs = model.input_outlets()?.iter().map(|input| self.places[input]).collect();
        self.target.outputs = outputs;
        Ok(self.target)
    }
}

fn bytes(value: &Tensor) -> u64 {
    (value.volume() * value.datum_type().size_of()) as u64
}

/// A value, not as sizes that are expressions if they are numbers: those cost more, and ONNX has none.
fn settled(value: Arc<Tensor>) -> Arc<Tensor> {
    match value.datum_type() {
        DatumType::TDim => super::types::plain(&value).map_or(value.clone(), |plain| plain.into_owned().into_arc_tensor()),
        _ => value,
    }
}

/// Of a tensor; the same for equal ones. It reads the first of its bytes alone.
fn hash(value: &Tensor) -> u64 {
    let mut hash = hash::FixedState::default().build_hasher();
    (value.datum_type(), value.shape()).hash(&mut hash);
    let plain = value.try_as_plain_ram().ok().filter(|_| value.datum_type().is_copy());
    if let Some(plain) = plain {
        let bytes = plain.as_bytes();
        bytes[..bytes.len().min(256)].hash(&mut hash);
    }
    hash.finish()
}

/// What an operator yields for constants, if a model of it alone evaluates to that.
fn alone(expansion: &dyn Expansion, inputs: TVec<Arc<Tensor>>) -> Option<TVec<Arc<Tensor>>> {
    if !expansion.runs_out_of_plan() {
        return None;
    }
    let mut alone = TypedModel::default();
    let sources = inputs.into_iter().enumerate();
    let sources = sources.map(|(i, value)| alone.add_source(format!("{i}"), TypedFact::try_from(value)?));
    let sources = sources.collect::<TractResult<TVec<_>>>().ok()?;
    let outputs = expansion.wire("alone", &mut alone, &sources).ok()?;
    outputs.iter().map(|&o| alone.outlet_fact(o).ok()?.konst.clone()).collect()
}

/// Finds types and shapes of a node's outputs; those of its inputs are known.
fn infer(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let node = model.node(id);
    let known = |fact: &InferenceFact| fact.datum_type.is_concrete() && fact.shape.is_concrete();
    if node.inputs.is_empty() && node.outputs.iter().all(|o| known(&o.fact)) {
        return Ok(()); // an input
    }
    ensure!(node.op.observe_outlets(model, node)?.is_empty(), "it asks about other nodes");
    // The op changes as it infers, and reads facts of the model it is in.
    let dummy = model.create_dummy();
    let mut op = std::mem::replace(&mut model.node_mut(id).op, dummy);
    let (inputs, outputs) = model.node_facts(id)?;
    let inferred = op.infer(inputs, outputs, tvec![])?.1;
    for (slot, fact) in inferred.into_iter().enumerate() {
        let outlet = OutletId::new(id, slot);
        let fact = fact.unify(model.outlet_fact(outlet)?)?;
        if !known(&fact) {
            let whole = op.as_op().downcast_ref::<Whole>().or_else(|| either::open(&*op));
            whole.map_or(Ok(()), |whole| whole.why(&model.node_facts(id)?.0))?;
            bail!("output {slot} {OPEN}");
        }
        model.set_outlet_fact(outlet, fact)?;
    }
    model.node_mut(id).op = op;
    let node = model.node(id);
    ensure!(node.op.incorporate(model, node)?.is_none(), "it changes the network around it");
    Ok(())
}

/// The values of a node's outputs, if all are known. An input stays one, and what has a state keeps it, even where the value is
/// known.
fn constants(node: &InferenceNode) -> TractResult<Option<TVec<Arc<Tensor>>>> {
    let values: Option<TVec<_>> = node.outputs.iter().map(|o| o.fact.value.concretize()).collect();
    match values.filter(|_| !InferenceModel::is_source(&node.op)) {
        Some(values) if node.op.state(&EvalContext::out_of_plan())?.is_none() => Ok(Some(values)),
        _ => Ok(None),
    }
}
