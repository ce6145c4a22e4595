//! Element-wise operators.

use super::super::skeleton;
use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// `x < 0 ? alpha * (exp(x / alpha) - 1) : x`
pub(super) fn celu(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let alpha = s.attributes().float("alpha", 1.0);
    let scaled = s.unary(Unary::Affine, [1.0 / alpha, 0.0], x);
    let curve = s.unary(Unary::Elu, [1.0, 0.0], scaled);
    Ok(vec![s.unary(Unary::Affine, [alpha, 0.0], curve)])
}

/// `a * sigmoid(alpha * a) * b`
pub(super) fn swiglu(s: &mut Sketch<'_>) -> Drawn {
    let (a, b) = (s.input(0)?, s.input(1)?);
    let gate = gate(s, a)?;
    Ok(vec![s.binary(Binary::Mul, gate, b)?])
}

/// `x * sigmoid(alpha * x)`
pub(super) fn swish(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    Ok(vec![gate(s, x)?])
}

fn gate(s: &mut Sketch<'_>, x: Ref) -> TractResult<Ref> {
    let alpha = s.attributes().float("alpha", 1.0);
    if alpha == 1.0 {
        return Ok(s.unary(Unary::Silu, [0.0; 2], x));
    }
    let scaled = s.unary(Unary::Affine, [alpha, 0.0], x);
    let gate = s.unary(Unary::Sigmoid, [0.0; 2], scaled);
    s.binary(Binary::Mul, x, gate)
}

/// The right shift of a signed number keeps its sign.
pub(super) fn bit_shift(s: &mut Sketch<'_>) -> Drawn {
    let (x, by) = (s.input(0)?, s.input(1)?);
    let signed = matches!(s.dtype(x), DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let f = match s.attributes().text("direction", "") {
        "LEFT" => Binary::ShiftLeft,
        "RIGHT" if signed => Binary::ShiftRightSigned,
        "RIGHT" => Binary::ShiftRight,
        other => bail!("direction \"{other}\" is neither LEFT nor RIGHT"),
    };
    Ok(vec![s.binary(f, x, by)?])
}

/// One of two tensors of the same type and shape, as one boolean says.
pub(super) fn choice(s: &mut Sketch<'_>) -> Drawn {
    let (goes, a, b) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let what = s.attributes().text("what", "one of two tensors");
    ensure!(s.dtype(goes) == DType::Bool && s.len(goes) == 1, "a condition must be one boolean, it is {:?}", s.dims(goes));
    let (of, sizes) = ([s.dtype(a), s.dtype(b)], [s.dims(a), s.dims(b)]);
    let open = [a, b].iter().any(|v| !s.values[v.0].lengths.is_empty());
    ensure!(
        of[0] == of[1] && sizes[0] == sizes[1] && !open,
        "{what} would be {} {:?} or {} {:?}, as data decide: it must have one shape, that no turn changes and that does not depend \
         on data (write into a tensor of full size, and count how much of it is used)",
        of[0],
        sizes[0],
        of[1],
        sizes[1]
    );
    let goes = s.reshape(goes, &[])?;
    Ok(vec![s.select(goes, a, b)?])
}

/// The same bits as another type.
pub(super) fn bit_cast(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let to = s.attributes().int("to", 0);
    let to = skeleton::dtype(to).with_context(|| format!("elements of type {to} (in ONNX's numbering) are not supported"))?;
    ensure!(to.size() == s.dtype(x).size(), "{} and {to} are of different sizes", s.dtype(x));
    let dims = s.dims(x).to_vec();
    Ok(vec![s.op(Op::Reshape, &[x], to, &dims)])
}

/// The remainder with the sign of the divisor, or (`fmod`) of the dividend. tract takes the two for interchangeable.
pub(super) fn modulo(s: &mut Sketch<'_>) -> Drawn {
    let (a, b) = (s.input(0)?, s.input(1)?);
    let f = if s.attributes().int("fmod", 0) == 0 { Binary::Mod } else { Binary::Rem };
    Ok(vec![s.binary(f, a, b)?])
}

/// The mean of tensors, which may be of different ranks.
pub(super) fn mean(s: &mut Sketch<'_>) -> Drawn {
    let mut sum = s.input(0)?;
    for i in 1..s.inputs() {
        let x = s.input(i)?;
        sum = s.binary(Binary::Add, sum, x)?;
    }
    Ok(vec![if s.inputs() > 1 { s.with(Binary::Div, sum, s.inputs() as f64)? } else { s.unary(Unary::Identity, [0.0; 2], sum) }])
}

/// `x < 0 ? slope * x : x`; before opset 7 with one slope a channel.
pub(super) fn prelu(s: &mut Sketch<'_>) -> Drawn {
    let (x, mut slope) = (s.input(0)?, s.input(1)?);
    if s.opset < 7 && s.len(slope) > 1 {
        ensure!(s.rank(x) >= 2 && s.len(slope) == s.dims(x)[1], "{} slopes for channels of {:?}", s.len(slope), s.dims(x));
        let mut shape = vec![1; s.rank(x) - 1];
        shape[0] = s.len(slope);
        slope = s.reshape(slope, &shape)?;
    }
    Ok(vec![s.binary(Binary::Prelu, x, slope)?])
}
