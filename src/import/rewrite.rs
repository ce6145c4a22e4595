//! tract's part of the work: it parses a model, finds types and shapes, folds constants and declutters.
//!
//! tract's own way to a typed model visits every node again and again until nothing new is found, three times over. That is
//! what a network of open sizes needs; here the sizes of all inputs are settled, so that one walk in the order of evaluation
//! tells all there is to know ([`infer`]). Where it does not, or fails, tract goes its own way, and says what is wrong.
//!
//! [`declutter`] runs tract's passes as its optimizer does, but leaves out those that have nothing to do on settled sizes,
//! and a pass that nothing has changed for since it found nothing to do.

use super::guard::{self, Trouble};
use super::whole::{CAREFUL, IMPORTER, Whole};
use super::{either, expand};
use std::collections::HashSet;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::konst::Const;
use tract_onnx::tract_hir::tract_core::internal::translator::Translate;
use tract_onnx::tract_hir::tract_core::optim::Optimizer;

/// Passes of tract's that are left out.
///
/// `ConcatThenEinsum` cuts a 1x1 convolution behind a Concat into one product per branch (googlenet: 38 products become 92).
/// `ChangeAxes` moves and removes axes, and tries each axis of one element anew after every change: half of the import of a
/// transformer. For lowering such an op is a view, and [`units`](crate::lower) gets out of the way those that matter. The
/// others follow masks that are expressions of symbols.
const LEFT_OUT: [&str; 5] = ["ChangeAxes", "ConcatThenEinsum", "FoldUniformMask", "PropagateRoi", "PropagateUniformTdim"];

/// Elements of a constant that is small: shapes, axes, paddings.
const SMALL: usize = 64;

/// What is said of an output that nothing is known of.
const OPEN: &str = "stays open";

/// Why, where data decide sizes.
const UNBOUNDED: &str =
    "it may depend on data that have no bound. Make the inputs that decide it constants (kiln compile --constants …)";

/// The decluttered model. In a `first_try` at a model in which data decide sizes, one of which stays open, tract's own way is
/// left for later: it would hardly find that one.
pub(super) fn decluttered(model: &ModelProto, first_try: bool) -> Result<TypedModel, Trouble> {
    // Of sizes that depend on data the first way knows more, if it knows.
    let counts = model.graph.iter().flat_map(|g| &g.node).any(|n| expand::counts(&n.op_type));
    let typed = guard::run(|| typed(parsed(&IMPORTER, model)?));
    let typed = typed.or_else(|trouble| {
        log::debug!("types and shapes do not follow in one walk: {}, at {:?}", trouble.what, trouble.node);
        let open = trouble.what.ends_with(OPEN);
        if first_try && counts && open {
            return Err(trouble);
        }
        let again = guard::run(|| {
            let mut model = parsed(&CAREFUL, model)?;
            model.analyse(false)?;
            model.into_typed()
        });
        again.map_err(|second| match (counts, open) {
            (true, true) => Trouble { what: format!("{}: {UNBOUNDED}", trouble.what), node: trouble.node },
            (true, false) => trouble,
            (false, _) => second,
        })
    });
    let mut typed = typed?;
    keep_counting(&mut typed)?;
    guard::run(|| declutter(&mut typed))?;
    Ok(typed)
}

/// An operator that finds out a size is wanted for that, even where nothing reads its output: it is made an output of the
/// model, behind the model's own.
fn keep_counting(model: &mut TypedModel) -> Result<(), Trouble> {
    let counts = |node: &TypedNode| {
        let open = node.outputs.iter().any(|o| o.fact.shape.as_concrete().is_none());
        open && node.op_as::<Whole>().is_some_and(|whole| whole.counts.is_some())
    };
    let counting: Vec<OutletId> = model.nodes.iter().filter(|n| counts(n)).map(|n| n.id.into()).collect();
    if counting.is_empty() {
        return Ok(());
    }
    let mut outputs = model.outputs.clone();
    outputs.extend(counting);
    guard::run(|| model.select_output_outlets(&outputs))
}

fn parsed(importer: &tract_onnx::Onnx, model: &ModelProto) -> TractResult<InferenceModel> {
    let parsed = importer.parse(model, None)?;
    ensure!(parsed.unresolved_inputs.is_empty(), "nothing yields {:?}", parsed.unresolved_inputs);
    Ok(parsed.model)
}

/// The model with types and shapes, if one walk finds them all.
fn typed(mut model: InferenceModel) -> TractResult<TypedModel> {
    for id in model.eval_order()? {
        infer(&mut model, id).with_context(|| format!("at {}", model.node(id)))?;
    }
    Typed.translate_model(&model)
}

/// Finds types and shapes of a node's outputs; those of its inputs are known.
fn infer(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let node = model.node(id);
    let known = |fact: &InferenceFact| fact.datum_type.is_concrete() && fact.shape.is_concrete();
    if node.inputs.is_empty() && node.outputs.iter().all(|o| known(&o.fact)) {
        return Ok(()); // an input or a constant
    }
    ensure!(node.op.observe_outlets(model, node)?.is_empty(), "it asks about other nodes");
    if let Some(values) = evaluated(model, node) {
        for (slot, value) in values.into_iter().enumerate() {
            let outlet = OutletId::new(id, slot);
            let fact = InferenceFact::try_from(value)?.unify(model.outlet_fact(outlet)?)?;
            model.set_outlet_fact(outlet, fact)?;
        }
        return Ok(());
    }
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

/// The values of a node that is a constant, or hangs on small ones alone: they say all that its rules would. `None` leaves it to
/// them, and to what they evaluate.
///
/// An operator that tract writes out by others is written into a model of its own, which evaluates what is constant as it grows;
/// to plan and run that model, as tract does, costs several times as much.
fn evaluated(model: &InferenceModel, node: &InferenceNode) -> Option<TVec<Arc<Tensor>>> {
    if let Some(constant) = node.op.as_op().downcast_ref::<Const>() {
        return Some(tvec![constant.val().clone()]);
    }
    if node.inputs.is_empty() {
        return None;
    }
    let small = |tensor: &Arc<Tensor>| tensor.is_plain_ram() && tensor.volume() <= SMALL;
    let value = |&outlet: &OutletId| model.outlet_fact(outlet).ok()?.value.concretize().filter(small);
    let inputs = node.inputs.iter().map(value).collect::<Option<TVec<_>>>()?;
    let values = match node.op.as_op().downcast_ref::<Box<dyn Expansion>>() {
        Some(expansion) if expansion.runs_out_of_plan() => {
            let mut alone = TypedModel::default();
            let sources = inputs.into_iter().enumerate();
            let sources = sources.map(|(i, value)| alone.add_source(format!("{i}"), TypedFact::try_from(value)?));
            let sources = sources.collect::<TractResult<TVec<_>>>().ok()?;
            let outputs = expansion.wire("alone", &mut alone, &sources).ok()?;
            outputs.iter().map(|&o| alone.outlet_fact(o).ok()?.konst.clone()).collect::<Option<TVec<_>>>()?
        }
        Some(_) => return None,
        None => {
            let inputs = inputs.into_iter().map(IntoTValue::into_tvalue).collect();
            node.op.eval_out_of_plan(inputs).ok()??.into_iter().map(IntoArcTensor::into_arc_tensor).collect()
        }
    };
    (values.len() == node.outputs.len() && values.iter().all(small)).then_some(values)
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

/// From a model whose types and shapes are known to a typed one, as tract does it.
#[derive(Debug)]
struct Typed;

impl Translate<InferenceFact, Box<dyn InferenceOp>, TypedFact, Box<dyn TypedOp>> for Typed {
    fn translate_node(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        if let Some(values) = constants(node)? {
            // What only constants are made of has served. tract drops it later, but compares each constant with all others before.
            let serves =
                |o: &Outlet<InferenceFact>| o.successors.iter().any(|s| !matches!(constants(source.node(s.node)), Ok(Some(_))));
            if !node.outputs.iter().any(serves) && !source.outputs.iter().any(|o| o.node == node.id) {
                return Ok(tvec![]);
            }
            let values = values.into_iter().enumerate();
            return values.map(|(slot, value)| target.add_const(format!("{}.{slot}", node.name), value)).collect();
        }
        let outputs = node.op.to_typed(source, node, target, mapping)?;
        for &output in &outputs {
            target.outlet_fact(output)?.consistent()?;
        }
        Ok(outputs)
    }
}

/// Runs tract's passes over a model until none finds anything to do.
fn declutter(model: &mut TypedModel) -> TractResult<()> {
    let mut optimizer = Optimizer::declutter();
    optimizer.passes.retain(|pass| !LEFT_OUT.iter().any(|name| format!("{pass:?}").starts_with(name)));
    let mut session = optimizer.session(); // for the bodies of loops
    let _proofs = model.symbols.proof_cache_session();
    let mut passes = optimizer.passes.clone();
    // Per pass: how many changes there had been when it found nothing more to do.
    let mut done: Vec<Option<usize>> = vec![None; passes.len()];
    let (mut changes, mut once) = (0, HashSet::new());
    model.compact()?;
    while done.iter().any(|&d| d != Some(changes)) {
        for (pass, done) in passes.iter_mut().zip(&mut done) {
            while *done != Some(changes) {
                let before = changes;
                pass.reset()?;
                while let Some(mut patch) = pass.next(&mut session, model)? {
                    if patch.dont_apply_twice.take().is_some_and(|name| !once.insert(name)) {
                        continue;
                    }
                    patch.apply(model)?;
                    changes += 1;
                }
                pass.run_direct(model)?;
                if changes == before {
                    *done = Some(changes);
                } else {
                    model.compact()?;
                }
            }
        }
    }
    Ok(())
}
