//! Builders that mend or refuse what tract's own read wrongly, and then leave the operator to them.

use super::attributes::Attributes;
use super::whole::{STOCK, Whole};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::matmul::MatMulInference;
use tract_onnx::tract_hir::tract_core::ops::einsum::EinSum;

/// What a builder yields: an op, and the names of outer values that it reads.
pub(super) type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

const REDUCTIONS: [&str; 10] = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

/// Registers the builders.
pub(super) fn register(onnx: &mut tract_onnx::Onnx) {
    onnx.op_register.insert("ConstantOfShape", constant_of_shape);
    onnx.op_register.insert("Einsum", einsum);
    onnx.op_register.insert("MatMul", |_, _| Ok((expand(Product(MatMulInference::default())), vec![])));
    onnx.op_register.insert("Squeeze", squeeze);
    for name in REDUCTIONS {
        onnx.op_register.insert(name, reduction);
    }
}

/// tract's own builder.
pub(super) fn stock(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let builder = STOCK.op_register.0.get(&node.op_type).with_context(|| format!("tract does not know {}", node.op_type))?;
    builder(ctx, node)
}

/// The integers in an input of a node, if it is an initializer or a `Constant`.
fn constant_ints(ctx: &ParsingContext, node: &NodeProto, slot: usize) -> Option<Vec<i64>> {
    let name = node.input.get(slot).filter(|n| !n.is_empty())?;
    let graph = ctx.model.graph.as_ref()?;
    let found = graph.initializer.iter().find(|t| t.name == *name);
    let tensor = match found {
        Some(tensor) => ctx.load_tensor(tensor).ok()?,
        None => {
            let maker = graph.node.iter().find(|n| n.op_type == "Constant" && n.output.contains(name))?;
            if let Some(ints) = Attributes(maker).ints("value_ints") {
                return Some(ints.to_vec());
            }
            ctx.load_tensor(maker.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?).ok()?
        }
    };
    Some(tensor.cast_to::<i64>().ok()?.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec())
}

/// Without `value` the result is of `f32`, 0; tract takes `f64`.
fn constant_of_shape(ctx: &ParsingContext, node: &NodeProto) -> Built {
    if let Some(dims) = constant_ints(ctx, node, 0) {
        let elements = dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d)).filter(|&n| n <= 1 << 30);
        ensure!(elements.is_some(), "a constant of shape {dims:?} is too large");
    }
    if Attributes(node).has("value") {
        return stock(ctx, node);
    }
    let mut node = node.clone();
    node.attribute.push(tract_onnx::pb::AttributeProto {
        name: "value".into(),
        r#type: 4,
        t: Some(tract_onnx::pb::TensorProto { dims: vec![1], data_type: 1, float_data: vec![0.0], ..Default::default() }),
        ..Default::default()
    });
    stock(ctx, &node)
}

/// What tract evaluates wrongly is written out: a diagonal, a sum of all elements of one operand, an ellipsis that an operand lacks.
fn einsum(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let equation = Attributes(node).text("equation", "");
    let twice = |term: &str| {
        let letters: Vec<char> = term.chars().filter(|c| c.is_alphabetic()).collect();
        letters.iter().enumerate().any(|(i, c)| letters[..i].contains(c))
    };
    let (left, right) = equation.split_once("->").map_or((equation, None), |(left, right)| (left, Some(right.trim())));
    let without_ellipsis = left.split(',').filter(|term| !term.contains("...")).count();
    let partial = left.contains("...") && without_ellipsis > 0;
    let summed = right == Some("") && left.contains(char::is_alphabetic);
    if left.split(',').any(twice) || partial || summed {
        return Ok((Box::new(Whole::expanded(node, ctx.onnx_operator_set_version, super::expand::diagonal)), vec![]));
    }
    stock(ctx, node)
}

/// Without axes, all of one element go; before opset 13 tract wants them named.
fn squeeze(ctx: &ParsingContext, node: &NodeProto) -> Built {
    if ctx.onnx_operator_set_version < 13 && !Attributes(node).has("axes") {
        return Ok((Box::new(Whole::expanded(node, ctx.onnx_operator_set_version, super::expand::squeeze)), vec![]));
    }
    stock(ctx, node)
}

/// A matrix product; tract's own does not take two vectors.
#[derive(Debug, Clone)]
struct Product(MatMulInference);

impl Expansion for Product {
    fn name(&self) -> StaticName {
        "MatMul".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given_2(&inputs[0].rank, &inputs[1].rank, move |s, a, b| {
            ensure!(a > 0 && b > 0, "a scalar has no place in a matrix product");
            if a == 1 && b == 1 { s.equals(&outputs[0].rank, 0) } else { self.0.rules(s, inputs, outputs) }
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let (a, b) = (model.outlet_fact(inputs[0])?, model.outlet_fact(inputs[1])?);
        if a.rank() > 1 || b.rank() > 1 {
            return self.0.wire(prefix, model, inputs);
        }
        let op = EinSum::new("k,k->".parse()?, a.datum_type);
        model.wire_node(prefix, op, inputs)
    }
}

/// A reduction of narrow floats (tract adds them up in their own type), of booleans or of no elements is written out; others
/// are tract's, which sees in them the norms that exporters spell out.
fn reduction(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let (stock, names) = stock(ctx, node)?;
    let whole = Whole::expanded(node, ctx.onnx_operator_set_version, super::expand::reduce);
    Ok((expand(Reduction { stock, whole }), names))
}

#[derive(Debug, Clone)]
struct Reduction {
    stock: Box<dyn InferenceOp>,
    whole: Whole,
}

impl Reduction {
    fn stock(&self) -> TractResult<&dyn Expansion> {
        let expansion = self.stock.as_op().downcast_ref::<Box<dyn Expansion>>();
        expansion.map(|e| &**e).context("tract's reduction is none of its expansions")
    }
}

impl Expansion for Reduction {
    fn name(&self) -> StaticName {
        self.whole.node.op_type.clone().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.stock()?.rules(s, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        let narrow = matches!(fact.datum_type, DatumType::F16 | DatumType::F64 | DatumType::Bool);
        if narrow || fact.shape.iter().any(|d| *d == 0.to_dim()) {
            return model.wire_node(prefix, self.whole.clone(), inputs);
        }
        self.stock()?.wire(prefix, model, inputs)
    }
}
