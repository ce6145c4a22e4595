//! Operators that are tract's as long as all sizes are settled, and are kept whole where one depends on data.
//!
//! tract takes such a size to be as large as need be: of the first five elements of `n` it says that they are five. Where a
//! bound or a number of elements is computed, it knows no size at all.

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
    onnx.op_register.insert("TopK", |ctx, node| Ok((either(ctx, node, stock(ctx, node)?.0, expand::top_k), vec![])));
    let slice = |ctx: &ParsingContext, node: &NodeProto| -> Built {
        let (stock, names) = super::builders::slice(ctx, node)?;
        Ok((either(ctx, node, stock, expand::slice), names))
    };
    onnx.op_register.insert("Slice", slice);
}

fn either(
    ctx: &ParsingContext,
    node: &NodeProto,
    stock: Box<dyn InferenceOp>,
    expansion: super::sketch::Expansion,
) -> Box<dyn InferenceOp> {
    let mut whole = Whole::expanded(node, ctx.onnx_operator_set_version, expansion);
    whole.counts = Some(ctx.template.symbols.new_with_prefix("n"));
    Box::new(Either { stock, whole, open: false })
}

#[derive(Debug, Clone)]
struct Either {
    stock: Box<dyn InferenceOp>,
    whole: Whole,
    /// A size depends on data.
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

/// What is kept whole in place of an operator, if a size depends on data.
pub(super) fn open(op: &dyn InferenceOp) -> Option<&Whole> {
    op.as_op().downcast_ref::<Either>().filter(|either| either.open).map(|either| &either.whole)
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
        self.open = depends(&inputs);
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
