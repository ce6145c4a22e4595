//! Types and shapes of the outputs of operators that are kept whole, as ONNX defines them.

use super::attributes::Attributes;
use super::skeleton;
use super::sketch::Expansion;
use super::whole::{COPY, Inputs};
use super::windows::{Sizes, window};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// How a whole operator behaves towards tract.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Type and shape of each output, in ONNX's numbering.
    pub shapes: Shapes,
    /// With one input: axes may be moved, added and removed around it.
    pub element_wise: bool,
    /// tract may evaluate it early, by its own means.
    pub folds: bool,
}

/// Where types and shapes of an operator's outputs come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shapes {
    /// From its inputs.
    Rule(fn(&Inputs<'_>) -> TractResult<Vec<TypedFact>>),
    /// From the ops that it is written out in.
    Expansion(Expansion),
}

/// Operators that have a rule.
pub(super) const NAMES: &[&str] = &[
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "DequantizeLinear",
    "Elu",
    "GRU",
    "Gelu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "LogSoftmax",
    "MaxPool",
    "Mish",
    "PRelu",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "Selu",
    "Softmax",
    "Softplus",
    "Softsign",
];

/// The rule of a node; `None` where it is left to tract.
pub(super) fn rule(node: &NodeProto, opset: i64) -> Option<Rule> {
    let like = |element_wise| Some(Rule { shapes: Shapes::Rule(like_input), element_wise, folds: false });
    let own = |shapes| Some(Rule { shapes: Shapes::Rule(shapes), element_wise: false, folds: false });
    match &*node.op_type {
        "Elu" | "Gelu" | "HardSigmoid" | "HardSwish" | "LeakyRelu" | "Mish" | "Selu" | "Softplus" | "Softsign" => like(true),
        // Written out: in training mode, and before its slopes broadcast.
        "BatchNormalization" if Attributes(node).int("training_mode", 0) != 0 => None,
        "PRelu" if opset < 7 => None,
        "BatchNormalization"
        | COPY
        | "GroupNormalization"
        | "InstanceNormalization"
        | "LogSoftmax"
        | "RMSNormalization"
        | "Softmax" => like(false),
        // One that also yields mean or deviation is written out.
        "LayerNormalization" if node.output.iter().skip(1).any(|o| !o.is_empty()) => None,
        "LayerNormalization" => like(false),
        "PRelu" => own(prelu),
        "Conv" => own(conv),
        "ConvTranspose" => own(conv_transpose),
        // One that also yields indices is written out.
        "MaxPool" if node.output.get(1).is_some_and(|o| !o.is_empty()) => None,
        "MaxPool" | "AveragePool" => own(pool),
        "GlobalAveragePool" | "GlobalMaxPool" => own(global_pool),
        "LSTM" | "GRU" | "RNN" => own(recurrent),
        "QuantizeLinear" => own(quantize),
        "DequantizeLinear" => own(dequantize),
        _ => None,
    }
}

fn like_input(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let x = i.get(0)?;
    Ok(vec![x.datum_type.fact(x.shape.clone())])
}

/// Slopes broadcast to the input, never the other way round.
fn prelu(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let (x, slope) = (i.get(0)?, i.get(1)?);
    let fits = |(a, b): (&TDim, &TDim)| b.is_one() || a == b || a.as_i64().is_none() || b.as_i64().is_none();
    let fit = slope.rank() <= x.rank() && x.shape.iter().rev().zip(slope.shape.iter().rev()).all(fits);
    ensure!(fit, "slopes of shape {:?} do not broadcast to the input's, {:?}", slope.shape, x.shape);
    like_input(i)
}

/// An axis, counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> TractResult<usize> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    ensure!((0..rank as i64).contains(&counted), "axis {axis} does not exist in a tensor of {rank} axes");
    Ok(counted as usize)
}

/// Sizes of the axes from the third on, which must be known.
fn spatial(x: &TypedFact) -> TractResult<Vec<usize>> {
    ensure!(x.rank() >= 2, "the input must have a batch and a channel axis, its shape is {:?}", x.shape);
    let known = |d: &TDim| d.to_usize().with_context(|| format!("the size {d} depends on data"));
    x.shape.iter().skip(2).map(known).collect()
}

fn conv(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let (x, w) = (i.get(0)?, i.get(1)?);
    let (sizes, kernel) = (spatial(x)?, spatial(w)?);
    ensure!(x.rank() == w.rank(), "input and weights have different numbers of axes: {:?} and {:?}", x.shape, w.shape);
    let groups = i.attributes().int("group", 1);
    ensure!(groups > 0, "group is {groups}");
    ensure!(
        x.shape[1] == w.shape[1].clone() * groups,
        "the input has {} channels, the weights are for {} groups of {}",
        x.shape[1],
        groups,
        w.shape[1]
    );
    let window = window(i.attributes(), &sizes, Some(&kernel))?;
    let mut dims = tvec![x.shape[0].clone(), w.shape[0].clone()];
    dims.extend(window.convolved(&sizes)?.iter().map(|d| d.to_dim()));
    Ok(vec![x.datum_type.fact(&*dims)])
}

fn conv_transpose(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let (x, w) = (i.get(0)?, i.get(1)?);
    ensure!(x.rank() == w.rank(), "input and weights have different numbers of axes: {:?} and {:?}", x.shape, w.shape);
    let (sizes, kernel) = (spatial(x)?, spatial(w)?);
    let groups = i.attributes().int("group", 1);
    let (_, out) = super::windows::transposed(i.attributes(), &sizes, &kernel)?;
    let mut dims = tvec![x.shape[0].clone(), w.shape[1].clone() * groups];
    dims.extend(out.iter().map(|d| d.to_dim()));
    Ok(vec![x.datum_type.fact(&*dims)])
}

fn pool(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let x = i.get(0)?;
    let sizes = spatial(x)?;
    let window = window(i.attributes(), &sizes, None)?;
    let mut dims = tvec![x.shape[0].clone(), x.shape[1].clone()];
    dims.extend(window.pooled(&sizes, i.attributes().int("ceil_mode", 0) == 1)?.iter().map(|d| d.to_dim()));
    Ok(vec![x.datum_type.fact(&*dims)])
}

fn global_pool(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let x = i.get(0)?;
    ensure!(x.rank() >= 2, "the input must have a batch and a channel axis, its shape is {:?}", x.shape);
    let mut dims = x.shape.to_tvec();
    dims[2..].fill(1.to_dim());
    Ok(vec![x.datum_type.fact(&*dims)])
}

fn recurrent(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let (x, r) = (i.get(0)?, i.get(2)?);
    ensure!(x.rank() == 3 && r.rank() == 3, "X and R must have three axes");
    let batch_first = i.attributes().int("layout", 0) == 1;
    let (a, b) = (x.shape[0].clone(), x.shape[1].clone());
    let (d, h) = (r.shape[0].clone(), r.shape[2].clone());
    let (y, state) = if batch_first {
        (tvec![a.clone(), b, d.clone(), h.clone()], tvec![a, d, h])
    } else {
        (tvec![a, d.clone(), b.clone(), h.clone()], tvec![d, b, h])
    };
    let state = x.datum_type.fact(&*state);
    Ok(vec![x.datum_type.fact(&*y), state.clone(), state])
}

/// An attribute that names an element type.
fn type_attribute(a: Attributes<'_>, name: &str) -> TractResult<Option<DatumType>> {
    match a.int(name, 0) {
        0 => Ok(None),
        n => {
            let known = skeleton::dtype(n).with_context(|| format!("{name} {n} (in ONNX's numbering) is not supported"))?;
            super::types::datum_type(known).map(Some)
        }
    }
}

fn quantize(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let x = i.get(0)?;
    let dt = match (i.optional(2), type_attribute(i.attributes(), "output_dtype")?) {
        (Some(zero), _) => zero.datum_type,
        (None, Some(dt)) => dt,
        (None, None) => DatumType::U8,
    };
    Ok(vec![dt.fact(x.shape.clone())])
}

fn dequantize(i: &Inputs<'_>) -> TractResult<Vec<TypedFact>> {
    let dt = type_attribute(i.attributes(), "output_dtype")?.unwrap_or(i.get(1)?.datum_type);
    Ok(vec![dt.fact(i.get(0)?.shape.clone())])
}
