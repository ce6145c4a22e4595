//! Operators that tract keeps whole.
//!
//! tract takes many ONNX operators apart, some of them wrongly (it folds quantisation into tables, ignores the direction of
//! recurrent cells). Those that Kiln lowers on its own get a [`Whole`] op instead, which only says the types and shapes of
//! its outputs and comes out of tract's rewriting as it went in. The same goes for a weight without a value, [`Held`].

use super::attributes::Attributes;
use super::builders::Built;
use super::expand;
use super::guard;
use super::rules::{self, Rule, Shapes};
use super::sketch::{Expansion, Ref, Sketch};
use std::sync::{Arc, LazyLock};
use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::internal::{AxesMapping, AxisChangeConsequence};

/// tract's own importer, unchanged.
pub(super) static STOCK: LazyLock<tract_onnx::Onnx> = LazyLock::new(tract_onnx::onnx);

/// The op type of a node that stands for a weight.
pub(super) const HELD: &str = "KilnWeight";

/// The op type of a node that yields its input.
pub(super) const COPY: &str = "KilnCopy";

/// The op type of a node that yields its second input where its first, one boolean, is true, else its third, which is like it.
pub(super) const CHOICE: &str = "KilnChoice";

/// An importer whose operators are kept whole as `rules` says.
///
/// It takes for granted that what can be known of a node's inputs is known when it is asked for its outputs.
pub(super) static IMPORTER: LazyLock<tract_onnx::Onnx> = LazyLock::new(|| {
    let mut onnx = CAREFUL.clone();
    super::either::register(&mut onnx);
    onnx
});

/// Another, which does not: for tract's own analysis, that asks again and again. Fewer sizes can depend on data.
pub(super) static CAREFUL: LazyLock<tract_onnx::Onnx> = LazyLock::new(importer);

fn importer() -> tract_onnx::Onnx {
    let mut onnx = STOCK.clone().with_ignore_value_info(true);
    for name in rules::NAMES.iter().copied().chain(expand::names()) {
        onnx.op_register.insert(name, whole);
    }
    onnx.op_register.insert(HELD, held);
    onnx.op_register.insert(COPY, whole);
    super::builders::register(&mut onnx);
    onnx
}

fn whole(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let opset = ctx.onnx_operator_set_version;
    match rules::rule(node, opset).or_else(|| expand::rule(node)) {
        Some(rule) => {
            let mut whole = Whole::new(node, opset, rule);
            whole.counts = counts(ctx, node);
            Ok((Box::new(whole), vec![]))
        }
        None => super::builders::stock(ctx, node),
    }
}

/// For what a node counts, if its operator does: the same for nodes that count what is true of the same tensor.
fn counts(ctx: &ParsingContext, node: &NodeProto) -> Option<Symbol> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mask = match &*node.op_type {
        "NonZero" => node.input.first(),
        "Compress" => node.input.get(1),
        op_type => return expand::counts(op_type).then(|| ctx.template.symbols.new_with_prefix("n")),
    };
    let mut hash = DefaultHasher::new();
    mask?.hash(&mut hash);
    Some(ctx.template.symbols.sym(&format!("true_{:016x}", hash.finish())))
}

/// A node of ONNX with its types and shapes.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    /// The node.
    pub node: Arc<NodeProto>,
    /// Version of the operator set that it is written in.
    pub opset: i64,
    /// Per ONNX input: which of tract's inputs it is (absent ones are left out there).
    pub slots: Vec<Option<usize>>,
    rule: Rule,
    /// For what it counts, if it is an operator that does: see [`lengths`](super::lengths).
    pub counts: Option<Symbol>,
}

impl Whole {
    fn new(node: &NodeProto, opset: i64, rule: Rule) -> Whole {
        let slots = optional_inputs(node).take(node.input.len()).collect();
        Whole { node: Arc::new(node.clone()), opset, slots, rule, counts: None }
    }

    /// One that is written out by this expansion.
    pub fn expanded(node: &NodeProto, opset: i64, expansion: Expansion) -> Whole {
        Whole::new(node, opset, Rule { shapes: Shapes::Expansion(expansion), element_wise: false, folds: false })
    }

    /// tract's own evaluation of the node.
    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let facts: Vec<(DatumType, Vec<usize>)> = inputs.iter().map(|t| (t.datum_type(), t.shape().to_vec())).collect();
        let constants: Vec<_> = inputs.iter().map(|t| Some(t.clone().into_arc_tensor())).collect();
        super::externs::alone(&self.node, self.opset, &self.slots, &facts, &constants)?.run(tvec![])
    }

    /// The node and what is known of its inputs.
    pub fn inputs<'a>(&'a self, facts: &'a [&'a TypedFact]) -> Inputs<'a> {
        Inputs { node: &self.node, slots: &self.slots, facts, counts: self.counts.as_ref() }
    }

    /// # Errors
    /// Why types and shapes of its outputs can't be said, if these inputs are all that can be known.
    pub fn why(&self, inputs: &[&InferenceFact]) -> TractResult<()> {
        let known: Option<Vec<TypedFact>> = inputs.iter().map(|&f| TypedFact::try_from(f).ok()).collect();
        known.map_or(Ok(()), |known| self.facts(&known.iter().collect::<Vec<_>>()).map(|_| ()))
    }

    fn facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let inputs = self.inputs(inputs);
        let all = match self.rule.shapes {
            Shapes::Rule(shapes) => shapes(&inputs)?,
            Shapes::Expansion(expansion) => {
                let mut sketch = Sketch::new(&inputs, self.opset);
                let outputs = expansion(&mut sketch)?;
                sketch.sound()?;
                sketch.facts(&outputs)?
            }
        };
        let wanted = self.node.output.iter().enumerate().filter(|(_, name)| !name.is_empty());
        wanted.map(|(slot, _)| all.get(slot).cloned().with_context(|| format!("output {slot} is not supported"))).collect()
    }
}

/// What an operator's expansion draws, if that is how it is described.
pub(super) fn drawn<'a>(whole: &'a Whole, inputs: &'a Inputs<'a>) -> Option<TractResult<(Sketch<'a>, Vec<Ref>)>> {
    let Shapes::Expansion(expansion) = whole.rule.shapes else { return None };
    let mut sketch = Sketch::new(inputs, whole.opset);
    Some(expansion(&mut sketch).and_then(|outputs| {
        sketch.sound()?;
        Ok((sketch, outputs))
    }))
}

impl PartialEq for Whole {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }
}
impl Eq for Whole {}

impl Op for Whole {
    fn name(&self) -> StaticName {
        self.node.op_type.clone().into()
    }
    op_as_typed_op!();
}

impl EvalOp for Whole {
    /// Small integers are often shapes in the making: where all inputs are known, tract evaluates the node by its own means
    /// if it can.
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        let integer = |t: &TValue| t.datum_type().is_integer() || t.datum_type() == DatumType::TDim;
        if !self.rule.folds || !inputs.first().is_some_and(integer) || !STOCK.op_register.0.contains_key(&self.node.op_type) {
            return Ok(None);
        }
        Ok(guard::run(|| self.run(inputs)).ok())
    }

    /// Inside a loop or a branch tract runs the op, by its own means.
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.run(inputs)
    }
}

impl TypedOp for Whole {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.facts(inputs)
    }

    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        if self.rule.element_wise && inputs.len() == 1 {
            AxesMapping::natural(inputs, outputs)
        } else {
            AxesMapping::disconnected(inputs, outputs)
        }
    }

    fn change_axes(
        &self,
        model: &TypedModel,
        node: &TypedNode,
        _io: InOut,
        change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        if self.rule.element_wise && node.inputs.len() == 1 {
            Ok(Some(AxisChangeConsequence::new(model, node, None, change)))
        } else {
            Ok(None)
        }
    }
}

type Facts = TVec<InferenceFact>;

impl InferenceOp for Whole {
    as_op!();

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.node.output.iter().filter(|s| !s.is_empty()).count())
    }

    /// Called again and again while little is known: says nothing until types and shapes of all inputs are.
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(Facts, Facts, Facts)> {
        let known: Option<Vec<TypedFact>> = inputs.iter().map(|&f| TypedFact::try_from(f).ok()).collect();
        let mut out: Facts = outputs.into_iter().cloned().collect();
        if let Some(known) = known {
            let facts = match self.facts(&known.iter().collect::<Vec<_>>()) {
                // A value that the expansion asks for may become known later; if not, `output_facts` says so.
                Err(_) if matches!(self.rule.shapes, Shapes::Expansion(_)) => tvec![],
                facts => facts?,
            };
            for (out, fact) in out.iter_mut().zip(facts) {
                out.unify_with(&InferenceFact::dt_shape(fact.datum_type, fact.shape.to_tvec()))?;
            }
        }
        Ok((inputs.into_iter().cloned().collect(), out, observed.into_iter().cloned().collect()))
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<_> = node.inputs.iter().map(|i| mapping[i]).collect();
        target.wire_node(&node.name, self.clone(), &inputs)
    }
}

/// What a rule sees: a node and what is known of its inputs, by ONNX's numbers.
pub(super) struct Inputs<'a> {
    pub node: &'a NodeProto,
    pub slots: &'a [Option<usize>],
    pub facts: &'a [&'a TypedFact],
    /// For what the operator counts.
    pub counts: Option<&'a Symbol>,
}

impl<'a> Inputs<'a> {
    /// An input that must be there.
    pub fn get(&self, slot: usize) -> TractResult<&'a TypedFact> {
        self.optional(slot).with_context(|| format!("input {slot} is missing"))
    }

    /// An input, if it is there.
    pub fn optional(&self, slot: usize) -> Option<&'a TypedFact> {
        self.slots.get(slot).copied().flatten().and_then(|i| self.facts.get(i).copied())
    }

    /// The node's attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.node)
    }
}

/// A weight whose values tract does not get to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Number in the list of weights.
    pub index: usize,
    fact: (DatumType, TVec<usize>),
}

/// The node that stands for a weight.
pub(super) fn held_node(index: usize, name: &str, data_type: i32, dims: &[usize]) -> NodeProto {
    use super::attributes::{int, ints};
    NodeProto {
        op_type: HELD.into(),
        name: name.into(),
        output: vec![name.into()],
        attribute: vec![
            int("index", index as i64),
            int("dtype", data_type as i64),
            ints("dims", dims.iter().map(|&d| d as i64).collect()),
        ],
        ..Default::default()
    }
}

fn held(_ctx: &ParsingContext, node: &NodeProto) -> Built {
    let a = Attributes(node);
    let dt = super::types::datum_type(super::skeleton::dtype(a.int("dtype", 0)).context("a weight of an unknown type")?)?;
    let dims = a.ints("dims").unwrap_or_default().iter().map(|&d| d as usize).collect();
    Ok((Box::new(Held { index: a.int("index", 0) as usize, fact: (dt, dims) }), vec![]))
}

impl Op for Held {
    fn name(&self) -> StaticName {
        "Weight".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Held {
    not_out_of_plan!();
}

impl TypedOp for Held {
    as_op!();
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.0.fact(&*self.fact.1)))
    }
}

impl InferenceOp for Held {
    as_op!();

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        _outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(Facts, Facts, Facts)> {
        let fact = InferenceFact::dt_shape(self.fact.0, &*self.fact.1);
        Ok((inputs.into_iter().cloned().collect(), tvec!(fact), observed.into_iter().cloned().collect()))
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        _mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        target.wire_node(&node.name, self.clone(), &[])
    }
}
