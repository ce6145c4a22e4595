//! tract's own ops as ops of a graph.

use super::convert::Form;
use super::types;
use crate::graph::Op;
use crate::program::{Binary, ReduceKind, Unary};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::array::{Gather, MultiBroadcastTo, Pad, PadMode, Slice, Tile, Topk, TypedConcat};
use tract_onnx::tract_hir::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_hir::tract_core::ops::cast::Cast;
use tract_onnx::tract_hir::tract_core::ops::downsample::Downsample;
use tract_onnx::tract_hir::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::tract_core::ops::identity::Identity;
use tract_onnx::tract_hir::tract_core::ops::logic::{CompEq, CompGT, CompGTE, CompLT, CompLTE, CompNE, Iff};
use tract_onnx::tract_hir::tract_core::ops::math::{IsInf, PowConst};
use tract_onnx::tract_hir::tract_core::ops::nn::gelu_approximate::GeluApproximate;
use tract_onnx::tract_hir::tract_core::ops::nn::{LeakyRelu, Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind};

/// What a node with one of tract's ops becomes.
pub(super) fn form(model: &TypedModel, node: &TypedNode) -> TractResult<Form> {
    let facts = model.node_input_facts(node.id)?;
    let one = |op| Ok(Form::One(op));
    let left = |why: &str| Ok(Form::Extern(why.into()));
    if let Some(op) = node.op_as::<EinSum>() {
        return if op.q_params.is_some() {
            left("integer matrix products are not native yet")
        } else if facts.iter().any(|f| f.datum_type != op.operating_dt) || node.outputs[0].fact.datum_type != op.operating_dt {
            left("matrix products that mix types are not native yet")
        } else {
            let (inputs, output) = op.axes.to_strs();
            one(Op::EinSum { inputs: inputs.into_iter().collect(), output: output[0].clone() })
        };
    }
    if let Some(op) = node.op_as::<TypedBinOp>() {
        return Ok(match binary(op) {
            Some(binary) => clip(&facts, binary).unwrap_or(Form::One(Op::Binary(binary))),
            None => Form::Extern(format!("{} has no native form", node.op.name())),
        });
    }
    if let Some(op) = node.op_as::<ElementWiseOp>() {
        return Ok(match unary(&*op.0).filter(|_| op.1.is_none()) {
            Some((unary, p)) => Form::One(Op::Unary(unary, p)),
            None => Form::Extern(format!("{} has no native form", node.op.name())),
        });
    }
    if let Some(op) = node.op_as::<AxisOp>() {
        return Ok(Form::One(match op {
            AxisOp::Move(from, to) => {
                let mut perm: Vec<usize> = (0..facts[0].rank()).collect();
                let axis = perm.remove(*from);
                perm.insert(*to, axis);
                Op::Transpose(perm)
            }
            AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..) => Op::Reshape,
        }));
    }
    if let Some(op) = node.op_as::<Reduce>() {
        return Ok(reduce(op));
    }
    if let Some(op) = node.op_as::<Slice>() {
        return match op.start.to_usize() {
            Ok(start) => one(Op::Slice { axis: op.axis, start, step: 1 }),
            Err(_) => left("the start of a slice depends on data"),
        };
    }
    if let Some(op) = node.op_as::<Downsample>() {
        let len = facts[0].shape[op.axis].to_usize().unwrap_or(0);
        // Backwards, tract starts at the last element, and the modulo bounds the other end.
        let start = if op.stride < 0 { len.saturating_sub(1) } else { op.modulo };
        return one(Op::Slice { axis: op.axis, start, step: op.stride });
    }
    if let Some(op) = node.op_as::<TypedConcat>() {
        return one(Op::Concat { axis: op.axis });
    }
    if let Some(op) = node.op_as::<Pad>() {
        return match &op.mode {
            PadMode::Constant(_) if op.pads.iter().any(|p| p.0.max(p.1) > isize::MAX as usize) => {
                bail!("negative pads are not supported: crop with Slice instead")
            }
            PadMode::Constant(value) => {
                let value = value.cast_to_dt(facts[0].datum_type)?;
                let value = types::bytes(&value)?.as_slice().to_vec();
                one(Op::Pad { before: op.pads.iter().map(|p| p.0).collect(), value })
            }
            _ => left("padding by reflection or by the edge is not native yet"),
        };
    }
    if node.op_is::<MultiBroadcastTo>() {
        return one(Op::Broadcast);
    }
    if let Some(op) = node.op_as::<Tile>() {
        return Ok(tile(op, facts[0]));
    }
    if let Some(op) = node.op_as::<Gather>() {
        return if op.output_type.is_some_and(|dt| dt != facts[0].datum_type) {
            left("a gather that converts is not native")
        } else {
            one(Op::Gather { axis: op.axis })
        };
    }
    if node.op_is::<Cast>() {
        let (from, to) = (types::dtype(facts[0].datum_type)?, types::dtype(node.outputs[0].fact.datum_type)?);
        return if from == to { Ok(Form::Same) } else { one(Op::Cast) };
    }
    if node.op_is::<Iff>() {
        return one(Op::Select);
    }
    if node.op_is::<Identity>() {
        return Ok(Form::Same);
    }
    if let Some(op) = node.op_as::<Softmax>() {
        return if op.axes.len() == 1 && op.quant_output_dt.is_none() {
            one(Op::Softmax { axis: op.axes[0], log: op.kind == SoftmaxKind::LogSoftmax })
        } else {
            left("softmax over several axes is not native yet")
        };
    }
    if let Some(op) = node.op_as::<RmsNorm>() {
        let epsilon = op.eps.cast_to_scalar::<f32>()?;
        return if op.axis + 1 == facts[0].rank() {
            one(Op::LayerNorm { axis: op.axis, epsilon, rms: true })
        } else {
            left("normalisation over an axis other than the last is not native yet")
        };
    }
    if let Some(op) = node.op_as::<Topk>() {
        return if facts[1].konst.is_some() {
            Ok(Form::Of(Op::TopK { axis: op.axis, min: !op.largest }, vec![0]))
        } else {
            left("TopK with a k that depends on data is not native")
        };
    }
    Ok(Form::Extern(format!("{} has no native form", node.op.name())))
}

/// A maximum or minimum with one number is a clip.
fn clip(facts: &[&TypedFact], binary: Binary) -> Option<Form> {
    let of = |number: usize| {
        let uniform = facts[number].uniform.as_ref().filter(|u| u.datum_type() == DatumType::F32)?;
        let (x, c) = (facts[1 - number], uniform.cast_to_scalar::<f32>().ok()?);
        let kept = facts[number].shape.iter().all(|d| d.is_one()) && facts[number].rank() <= x.rank() && !c.is_nan();
        kept.then_some((1 - number, c))
    };
    let (input, c) = match binary {
        Binary::Max | Binary::Min => of(1).or_else(|| of(0))?,
        _ => return None,
    };
    let range = if binary == Binary::Max { [c, f32::INFINITY] } else { [f32::NEG_INFINITY, c] };
    Some(Form::Of(Op::Unary(Unary::Clip, range), vec![input]))
}

fn binary(op: &TypedBinOp) -> Option<Binary> {
    if op.1.is_some() {
        return None;
    }
    let comparisons = [
        (op.0.is::<CompEq>(), Binary::Equal),
        (op.0.is::<CompNE>(), Binary::NotEqual),
        (op.0.is::<CompLT>(), Binary::Less),
        (op.0.is::<CompLTE>(), Binary::LessEqual),
        (op.0.is::<CompGT>(), Binary::Greater),
        (op.0.is::<CompGTE>(), Binary::GreaterEqual),
    ];
    if let Some((_, binary)) = comparisons.into_iter().find(|c| c.0) {
        return Some(binary);
    }
    Some(match op.0.name() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Rem" => Binary::Rem,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "Pow" => Binary::Pow,
        "ShiftLeft" => Binary::ShiftLeft,
        "ShiftRight" => Binary::ShiftRight,
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        "BitAnd" => Binary::BitAnd,
        "BitOr" => Binary::BitOr,
        "BitXor" => Binary::BitXor,
        _ => return None,
    })
}

fn unary(op: &dyn ElementWiseMiniOp) -> Option<(Unary, [f32; 2])> {
    if let Some(op) = op.downcast_ref::<LeakyRelu>() {
        return Some((Unary::LeakyRelu, [op.alpha, 0.0]));
    }
    if let Some(op) = op.downcast_ref::<PowConst>() {
        return Some((Unary::PowConst, [op.exponent, 0.0]));
    }
    if let Some(op) = op.downcast_ref::<IsInf>() {
        return Some((Unary::IsInf, [op.detect_negative as u8 as f32, op.detect_positive as u8 as f32]));
    }
    if let Some(op) = op.downcast_ref::<GeluApproximate>() {
        return (!op.fast_impl).then_some((Unary::GeluTanh, [0.0; 2]));
    }
    let unary = match &*op.name() {
        "Abs" => Unary::Abs,
        "Exp" => Unary::Exp,
        "Ln" => Unary::Log,
        "Square" => Unary::Square,
        "Sqrt" => Unary::Sqrt,
        "Recip" => Unary::Recip,
        "Rsqrt" => Unary::Rsqrt,
        "Ceil" => Unary::Ceil,
        "Floor" => Unary::Floor,
        "RoundHalfToEven" => Unary::Round,
        "Cos" => Unary::Cos,
        "Sin" => Unary::Sin,
        "Tan" => Unary::Tan,
        "Acos" => Unary::Acos,
        "Asin" => Unary::Asin,
        "Atan" => Unary::Atan,
        "Cosh" => Unary::Cosh,
        "Sinh" => Unary::Sinh,
        "Tanh" => Unary::Tanh,
        "Acosh" => Unary::Acosh,
        "Asinh" => Unary::Asinh,
        "Atanh" => Unary::Atanh,
        "Erf" => Unary::Erf,
        "Neg" => Unary::Neg,
        "Sign" => Unary::Sign,
        "IsNan" => Unary::IsNan,
        "Not" => Unary::Not,
        "BitNot" => Unary::BitNot,
        "Sigmoid" => Unary::Sigmoid,
        "Silu" => Unary::Silu,
        "GeluExact" => Unary::Gelu,
        "HardSwish" => return Some((Unary::HardSwish, [1.0 / 6.0, 0.5])),
        _ => return None,
    };
    Some((unary, [0.0; 2]))
}

fn reduce(op: &Reduce) -> Form {
    let kind = match op.reducer {
        Reducer::Sum => ReduceKind::Sum,
        Reducer::Max => ReduceKind::Max,
        Reducer::Min => ReduceKind::Min,
        Reducer::Prod => ReduceKind::Product,
        Reducer::MeanOfSquares => ReduceKind::MeanSquare,
        Reducer::ArgMax(last) | Reducer::ArgMin(last) if op.axes.len() == 1 => {
            let min = matches!(op.reducer, Reducer::ArgMin(_));
            return Form::One(Op::ArgReduce { axis: op.axes[0], min, last });
        }
        _ => return Form::Extern(format!("{} has no native form", tract_onnx::tract_hir::internal::Op::name(op))),
    };
    Form::One(Op::Reduce { kind, axes: op.axes.to_vec() })
}

/// Tiling along one axis is joining a tensor with itself, which is kept to small counts.
fn tile(op: &Tile, x: &TypedFact) -> Form {
    let counts: Option<Vec<usize>> = op.multipliers.iter().map(|m| m.to_usize().ok()).collect();
    let many = |counts: Vec<usize>| {
        let mut tiled = counts.iter().enumerate().filter(|&(_, &n)| n != 1);
        let (axis, count) = (tiled.next(), tiled.next().is_none());
        axis.filter(|&(_, &n)| count && (1..=64).contains(&n)).map(|(axis, &n)| (axis, n))
    };
    match counts.and_then(many) {
        Some((axis, n)) if x.shape[axis].is_one() && n > 1 => Form::One(Op::Broadcast),
        Some((axis, n)) => Form::Of(Op::Concat { axis }, vec![0; n]),
        None => Form::Extern("tiling along several axes is not native".into()),
    }
}
