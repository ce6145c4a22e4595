//! Operators that are tract's as long as all sizes are settled, and are kept whole where one depends on data.
//!
//! tract takes such a size to be as large as need be: of the first five elements of `n` it says that they are five. Where a
//! bound or a number of elements is computed, it knows no size at all.
//!
//! A slice that runs backwards or takes nothing is kept whole as well: tract reads its bounds as 32 bits, and has no empty ones.

use super::attributes::Attributes;
use super::builders::{Built, stock};
use super::expand;
use super::whole::Whole;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::{Factoid, GenericFactoid};
use tract_onnx::tract_hir::internal::*;

/// Registers the operators.
pub(super) fn register(onnx: &mut tract_onnx::Onnx) {
    onnx.op_register
        .insert("TopK", |ctx, node| Ok((either(ctx, node, stock(ctx, node)?.0, expand::top_k, |_, _| false), vec![])));
    let slice = |ctx: &ParsingContext, node: &NodeProto| -> Built {
        let (stock, names) = stock(ctx, node)?;
        Ok((either(ctx, node, stock, expand::slice, backwards_or_empty), names))
    };
    onnx.op_register.insert("Slice", slice);
}

fn either(
    ctx: &ParsingContext,
    node: &NodeProto,
    stock: Box<dyn InferenceOp>,
    expansion: super::sketch::Expansion,
    beyond: Beyond,
) -> Box<dyn InferenceOp> {
    let mut whole = Whole::expanded(node, ctx.onnx_operator_set_version, expansion);
    whole.counts = Some(ctx.template.symbols.new_with_prefix("n"));
    Box::new(Either { stock, whole, beyond, open: false })
}

/// Whether these inputs of a node are beyond tract, though their sizes are settled.
type Beyond = fn(&Whole, &[&InferenceFact]) -> bool;

#[derive(Debug, Clone)]
struct Either {
    stock: Box<dyn InferenceOp>,
    whole: Whole,
    beyond: Beyond,
    /// A size depends on data, or the inputs are beyond tract.
    open: bool,
}

impl PartialEq for Either {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}
impl Eq for Either {}

impl Op for Either {
    fn name(&self) -> StaticName {
        self.stock.name()
    }
    not_a_typed_op!();
}

impl EvalOp for Either {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.stock.eval_out_of_plan(inputs)
    }

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.stock.eval(ctx, inputs)
    }
}

/// What is kept whole in place of an operator, if it has to be.
pub(super) fn open(op: &dyn InferenceOp) -> Option<&Whole> {
    op.as_op().downcast_ref::<Either>().filter(|either| either.open).map(|either| &either.whole)
}

/// Tells such an operator what its inputs are, and whether it is one. It decides then what it is, as it does when it infers.
pub(super) fn settle(op: &mut dyn InferenceOp, inputs: impl FnOnce() -> TVec<InferenceFact>) -> bool {
    let Some(either) = op.as_op_mut().downcast_mut::<Either>() else { return false };
    let inputs = inputs();
    either.decide(&inputs.iter().collect::<Vec<_>>());
    true
}

impl Either {
    fn decide(&mut self, inputs: &[&InferenceFact]) {
        self.open = depends(inputs) || (self.beyond)(&self.whole, inputs);
    }
}

/// Whether the first input's shape, or a value of the others, depends on data.
fn depends(inputs: &[&InferenceFact]) -> bool {
    let settled = |fact: &InferenceFact| fact.shape.dims().all(|d| d.concretize().is_none_or(|d| d.as_i64().is_some()));
    let known = |fact: &InferenceFact| match &fact.value {
        GenericFactoid::Any => false,
        GenericFactoid::Only(value) => super::types::plain(value).is_ok(),
    };
    inputs.split_first().is_some_and(|(x, others)| !settled(x) || !others.iter().all(|fact| known(fact)))
}

/// Whether a slice of known bounds runs backwards, or takes nothing of an axis.
fn backwards_or_empty(whole: &Whole, inputs: &[&InferenceFact]) -> bool {
    // An input that the node leaves out is not among the facts.
    let fact = |slot: usize| {
        let named = |slot: usize| whole.node.input.get(slot).is_some_and(|name| !name.is_empty());
        if named(slot) { inputs.get((0..slot).filter(|&slot| named(slot)).count()).copied() } else { None }
    };
    let ints = |slot: usize, name: &str| -> Option<Vec<i64>> {
        if slot > 0 && whole.node.input.len() == 1 {
            return Attributes(&whole.node).ints(name).map(<[i64]>::to_vec);
        }
        let GenericFactoid::Only(value) = &fact(slot)?.value else { return None };
        let tensor = super::types::plain(value).ok()?.cast_to::<i64>().ok()?.into_owned();
        Some(tensor.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec())
    };
    let (Some(starts), Some(ends)) = (ints(1, "starts"), ints(2, "ends")) else { return false };
    if ints(4, "steps").is_some_and(|steps| steps.iter().any(|&step| step < 0)) {
        return true;
    }
    let Some(dims) = inputs.first().and_then(|x| x.shape.as_concrete_finite().ok().flatten()) else { return false };
    let axes = ints(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
    axes.iter().zip(starts.iter().zip(&ends)).any(|(&axis, (&start, &end))| {
        let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
        let Some(&n) = usize::try_from(axis).ok().and_then(|axis| dims.get(axis)) else { return false };
        let n = n as i64;
        let place = |i: i64| if i < 0 { i.saturating_add(n).max(0) } else { i.min(n) };
        place(start) >= place(end)
    })
}

impl InferenceOp for Either {
    as_op!();

    fn nboutputs(&self) -> TractResult<usize> {
        self.stock.nboutputs()
    }

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        self.decide(&inputs);
        if self.open {
            self.whole.infer_facts(inputs, outputs, observed)
        } else {
            self.stock.infer_facts(inputs, outputs, observed)
        }
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let op: &dyn InferenceOp = if self.open { &self.whole } else { &*self.stock };
        op.to_typed(source, node, target, mapping)
    }
}
