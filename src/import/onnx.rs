//! Operators that were kept whole, as ops of a graph.

use super::attributes::Attributes;
use super::convert::Form;
use super::rules::axis;
use super::whole::{COPY, Whole};
use super::windows::{self, Sizes, window};
use crate::graph::{Activation, Op, Recurrent};
use crate::program::{Binary, Unary};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// What a node becomes that tract did not touch.
pub(super) fn form(whole: &Whole, model: &TypedModel, node: &TypedNode) -> TractResult<Form> {
    let facts = model.node_input_facts(node.id)?;
    let a = Attributes(&whole.node);
    let input = |slot: usize| whole.slots.get(slot).copied().flatten().map(|i| facts[i]);
    let wants = |slot: usize| whole.node.output.get(slot).is_some_and(|name| !name.is_empty());
    let x = input(0).context("input 0 is missing")?;
    let left = |why: &str| Ok(Form::Extern(why.into()));
    let map = |unary, p| Ok(Form::One(Op::Unary(unary, p)));
    let spatial = || x.shape.iter().skip(2).map(|d| Ok(d.to_usize()?)).collect::<TractResult<Vec<_>>>();
    let known = |f: &TypedFact| f.shape.iter().map(|d| Ok(d.to_usize()?)).collect::<TractResult<Vec<_>>>();
    let groups = || usize::try_from(a.int("group", 1)).context("group is negative");
    let epsilon = a.float("epsilon", 1e-5);
    Ok(Form::One(match &*whole.node.op_type {
        COPY => return Ok(Form::Same),
        "Elu" => return map(Unary::Elu, [a.float("alpha", 1.0), 0.0]),
        "Selu" => return map(Unary::Selu, [a.float("alpha", 1.673_263_2), a.float("gamma", 1.050_701)]),
        "HardSigmoid" => return map(Unary::HardSigmoid, [a.float("alpha", 0.2), a.float("beta", 0.5)]),
        "HardSwish" => return map(Unary::HardSwish, [1.0 / 6.0, 0.5]),
        "LeakyRelu" => return map(Unary::LeakyRelu, [a.float("alpha", 0.01), 0.0]),
        "Mish" => return map(Unary::Mish, [0.0; 2]),
        "Softplus" => return map(Unary::Softplus, [0.0; 2]),
        "Softsign" => return map(Unary::Softsign, [0.0; 2]),
        "Gelu" if a.text("approximate", "none") == "tanh" => return map(Unary::GeluTanh, [0.0; 2]),
        "Gelu" => return map(Unary::Gelu, [0.0; 2]),
        "PRelu" => Op::Binary(Binary::Prelu),
        "Softmax" | "LogSoftmax" => return softmax(whole, x),
        "BatchNormalization" if (1..node.outputs.len().max(1)).any(wants) => {
            bail!("batch normalisation in training mode is not supported: export the model for inference")
        }
        "BatchNormalization" => Op::BatchNorm { epsilon },
        "InstanceNormalization" => Op::GroupNorm { groups: x.shape[1].to_usize()?, epsilon },
        "GroupNormalization" if whole.opset < 21 => {
            return left("GroupNormalization of opset 18 to 20 has one scale a group, which is not native");
        }
        "GroupNormalization" => Op::GroupNorm { groups: a.int("num_groups", 1).max(1) as usize, epsilon },
        "LayerNormalization" | "RMSNormalization" => {
            let rms = &*whole.node.op_type == "RMSNormalization";
            Op::LayerNorm { axis: axis(a.int("axis", -1), x.rank())?, epsilon, rms }
        }
        "Conv" => {
            let kernel = known(input(1).context("input 1 is missing")?)?.split_off(2);
            Op::Conv { window: window(a, &spatial()?, Some(&kernel))?, groups: groups()? }
        }
        "ConvTranspose" => {
            let kernel = known(input(1).context("input 1 is missing")?)?.split_off(2);
            let sizes = spatial()?;
            let (window, out) = windows::transposed(a, &sizes, &kernel)?;
            // What the output has beyond the full overlap of the windows: ONNX's output_padding, or what output_shape asks for.
            let mut output_padding = Vec::new();
            for i in 0..sizes.len() {
                let full = window.strides[i] * (sizes[i] - 1) + window.extent(i)?;
                output_padding.push((out[i] + window.before[i] + window.after[i]).saturating_sub(full));
            }
            Op::ConvTranspose { window, groups: groups()?, output_padding }
        }
        "MaxPool" => Op::MaxPool { window: window(a, &spatial()?, None)? },
        "AveragePool" => {
            let count_include_pad = a.int("count_include_pad", 0) != 0;
            Op::AveragePool { window: window(a, &spatial()?, None)?, count_include_pad }
        }
        "GlobalAveragePool" | "GlobalMaxPool" => Op::GlobalPool { max: &*whole.node.op_type == "GlobalMaxPool" },
        "LSTM" | "GRU" | "RNN" => {
            let recurrent = match recurrent(a, &whole.node.op_type, input(2).context("input 2 is missing")?)? {
                Ok(recurrent) => recurrent,
                Err(why) => return Ok(Form::Extern(why)),
            };
            match &*whole.node.op_type {
                "LSTM" => Op::Lstm(recurrent),
                "GRU" => Op::Gru(recurrent),
                _ => Op::Rnn(recurrent),
            }
        }
        "QuantizeLinear" | "DequantizeLinear" => {
            let scalar = input(1).is_none_or(|s| s.shape.volume().is_one());
            let axis = if scalar { 0 } else { axis(a.int("axis", 1), x.rank())? };
            let block = a.int("block_size", 0).max(0) as usize;
            if &*whole.node.op_type == "QuantizeLinear" { Op::Quantize { axis, block } } else { Op::Dequantize { axis, block } }
        }
        other => return Ok(Form::Extern(format!("{other} has no native form"))),
    }))
}

/// Before opset 13 the axes from `axis` (1) on are taken together, since then it is one axis (the last).
fn softmax(whole: &Whole, x: &TypedFact) -> TractResult<Form> {
    let a = Attributes(&whole.node);
    let log = &*whole.node.op_type == "LogSoftmax";
    if whole.opset >= 13 {
        return Ok(Form::One(Op::Softmax { axis: axis(a.int("axis", -1), x.rank())?, log }));
    }
    let dims = x.shape.as_concrete().context("the shape depends on data")?;
    let first = a.int("axis", 1);
    let first = if first == x.rank() as i64 { x.rank() } else { axis(first, x.rank())? };
    let (outer, inner) = dims.split_at(first);
    if inner.iter().filter(|&&d| d != 1).count() <= 1 && !inner.is_empty() {
        let axis = inner.iter().position(|&d| d != 1).unwrap_or(0) + first;
        return Ok(Form::One(Op::Softmax { axis, log }));
    }
    let flat = vec![outer.iter().product(), inner.iter().product()];
    let links = vec![(Op::Reshape, Some(flat.clone()), 0), (Op::Softmax { axis: 1, log }, Some(flat), 0), (Op::Reshape, None, 0)];
    Ok(Form::Chain(links))
}

/// The cell of a recurrent node, or why it has no native form.
fn recurrent(a: Attributes<'_>, op: &str, r: &TypedFact) -> TractResult<Result<Recurrent, String>> {
    let directions = match a.text("direction", "forward") {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => bail!("direction \"{other}\" is not one of ONNX's"),
    };
    ensure!(r.shape[0].to_usize()? == directions.len(), "R is for {} directions, not {}", r.shape[0], directions.len());
    let hidden = r.shape[2].to_usize()?;
    let declared = a.int("hidden_size", hidden as i64);
    ensure!(declared == hidden as i64, "hidden_size is {declared}, but R is for {hidden} units");
    let default: &[&str] = match op {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    let names = a.texts("activations").unwrap_or_else(|| default.repeat(directions.len()));
    ensure!(names.len() == default.len() * directions.len(), "there are {} activations", names.len());
    let mut alphas = a.floats("activation_alpha").unwrap_or_default().iter().copied();
    let mut betas = a.floats("activation_beta").unwrap_or_default().iter().copied();
    let mut activations: Vec<Activation> = Vec::new();
    for name in names {
        let mut alpha = |default| alphas.next().unwrap_or(default);
        let mut beta = |default| betas.next().unwrap_or(default);
        activations.push(match &*name.to_ascii_lowercase() {
            "sigmoid" => (Unary::Sigmoid, [0.0; 2]),
            "tanh" => (Unary::Tanh, [0.0; 2]),
            "relu" => (Unary::Clip, [0.0, f32::INFINITY]),
            "affine" => (Unary::Affine, [alpha(1.0), beta(0.0)]),
            "leakyrelu" => (Unary::LeakyRelu, [alpha(0.01), 0.0]),
            "hardsigmoid" => (Unary::HardSigmoid, [alpha(0.2), beta(0.5)]),
            "elu" => (Unary::Elu, [alpha(1.0), 0.0]),
            "softsign" => (Unary::Softsign, [0.0; 2]),
            "softplus" => (Unary::Softplus, [0.0; 2]),
            other => return Ok(Err(format!("the activation function {other} in a recurrent cell is not native"))),
        });
    }
    Ok(Ok(Recurrent {
        hidden,
        directions,
        activations,
        clip: a.has("clip").then(|| a.float("clip", 0.0)),
        coupled: a.int("input_forget", 0) != 0,
        linear_before_reset: a.int("linear_before_reset", 0) != 0,
        batch_first: a.int("layout", 0) == 1,
    }))
}
