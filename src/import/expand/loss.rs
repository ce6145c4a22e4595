//! Losses.

use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

pub(super) fn negative_log_likelihood(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    Ok(vec![likelihood(s, x)?])
}

pub(super) fn softmax_cross_entropy(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let log = s.softmax(x, 1, true);
    Ok(vec![likelihood(s, log)?, log])
}

/// Minus the logarithm of the probability of the right class, weighted by class. `log`: `[N, C, …]`; targets: `[N, …]`.
fn likelihood(s: &mut Sketch<'_>, log: Ref) -> TractResult<Ref> {
    let (target, weight) = (s.input(1)?, s.optional(2)?);
    let dims = s.dims(target).to_vec();
    ensure!(s.rank(log) == dims.len() + 1, "scores of shape {:?}, but targets of {dims:?}", s.dims(log));
    let dtype = s.dtype(log);
    let mut place = s.cast(target, DType::I64);
    let ignored = match s.attributes().has("ignore_index") {
        true => Some(s.with(Binary::Equal, place, s.attributes().int("ignore_index", 0) as f64)?),
        false => None,
    };
    if let Some(ignored) = ignored {
        let zero = s.number(0.0, DType::I64)?;
        place = s.select(ignored, zero, place)?;
    }
    let mut column = dims.clone();
    column.insert(1, 1);
    let index = s.reshape(place, &column)?;
    let chosen = s.op(Op::GatherElements { axis: 1 }, &[log, index], dtype, &column);
    let chosen = s.reshape(chosen, &dims)?;
    let mut loss = s.unary(Unary::Neg, [0.0; 2], chosen);
    // What each element counts.
    let mut counts = weight.map(|w| s.op(Op::Gather { axis: 0 }, &[w, place], dtype, &dims));
    if let Some(ignored) = ignored {
        let (zero, one) = (s.number(0.0, dtype)?, s.number(1.0, dtype)?);
        let kept = counts.unwrap_or(one);
        counts = Some(s.select(ignored, zero, kept)?);
    }
    if let Some(counts) = counts {
        loss = s.binary(Binary::Mul, loss, counts)?;
    }
    let all: Vec<usize> = (0..dims.len()).collect();
    let total = |s: &mut Sketch<'_>, kind, v| {
        let sum = s.reduce(kind, &all, v);
        s.reshape(sum, &[])
    };
    match (s.attributes().text("reduction", "mean"), counts) {
        ("none", _) => Ok(loss),
        ("sum", _) => total(s, ReduceKind::Sum, loss),
        ("mean", None) => total(s, ReduceKind::Mean, loss),
        ("mean", Some(counts)) => {
            let (loss, counts) = (total(s, ReduceKind::Sum, loss)?, total(s, ReduceKind::Sum, counts)?);
            s.binary(Binary::Div, loss, counts)
        }
        (other, _) => bail!("reduction \"{other}\" is not one of ONNX's"),
    }
}
