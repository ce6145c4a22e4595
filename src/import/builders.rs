//! Builders that mend or refuse what tract's own read wrongly, and then leave the operator to them.

use super::attributes::Attributes;
use super::whole::STOCK;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::matmul::MatMulInference;
use tract_onnx::tract_hir::tract_core::ops::einsum::EinSum;

/// What a builder yields: an op, and the names of outer values that it reads.
pub(super) type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Registers the builders.
pub(super) fn register(onnx: &mut tract_onnx::Onnx) {
    onnx.op_register.insert("ConstantOfShape", constant_of_shape);
    onnx.op_register.insert("Einsum", einsum);
    onnx.op_register.insert("MatMul", |_, _| Ok((expand(Product(MatMulInference::default())), vec![])));
    onnx.op_register.insert("Pad", pad);
    onnx.op_register.insert("Slice", slice);
    onnx.op_register.insert("SpaceToDepth", space_to_depth);
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

/// tract evaluates a diagonal wrongly.
fn einsum(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let equation = Attributes(node).text("equation", "");
    for term in equation.split("->").next().unwrap_or_default().split(',') {
        let letters: Vec<char> = term.chars().filter(|c| c.is_alphabetic()).collect();
        let twice = letters.iter().enumerate().any(|(i, c)| letters[..i].contains(c));
        ensure!(!twice, "a letter that stands twice in one operand (\"{}\") is not supported", term.trim());
    }
    stock(ctx, node)
}

/// tract does not know the mode, which came with opset 28.
fn space_to_depth(ctx: &ParsingContext, node: &NodeProto) -> Built {
    ensure!(Attributes(node).text("mode", "DCR") == "DCR", "modes other than DCR are not supported");
    stock(ctx, node)
}

/// tract takes a negative number for a huge one.
fn pad(ctx: &ParsingContext, node: &NodeProto) -> Built {
    let given = constant_ints(ctx, node, 1);
    let pads = given.as_deref().or(Attributes(node).ints("pads")).unwrap_or_default();
    ensure!(pads.iter().all(|&p| p >= 0), "negative pads are not supported: crop with Slice instead");
    stock(ctx, node)
}

/// Backwards, an end past the last element means that nothing is taken; tract takes all.
fn slice(ctx: &ParsingContext, node: &NodeProto) -> Built {
    if let (Some(ends), Some(steps)) = (constant_ints(ctx, node, 2), constant_ints(ctx, node, 4)) {
        let nothing = ends.iter().zip(&steps).any(|(&end, &step)| step < 0 && end >= i32::MAX as i64);
        ensure!(!nothing, "a backward slice whose end lies behind its start takes nothing, which is not supported");
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
