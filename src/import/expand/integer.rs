//! Products and convolutions of quantised integers, whose sums of products are integers and exact.
//!
//! Kernels compute in `f32`, which holds integers up to 2²⁴. Where a sum may become larger, one operand is cut into digits of
//! so few bits that none of their sums does, and the sums are put together as integers: two or three products for the depths
//! that are common, where no kernel takes the integers themselves.

use super::super::sketch::{Ref, Sketch};
use super::super::windows::{Sizes, window};
use crate::graph::Op;
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Integers of at most 8 bits less their zero point, as `f32`. It is one number, or of the shape that `along` says.
fn centred(s: &mut Sketch<'_>, x: Ref, zero: Option<Ref>, along: &[usize]) -> TractResult<Ref> {
    ensure!(matches!(s.dtype(x), DType::I8 | DType::U8), "its operands must be of 8 bits, not {}", s.dtype(x));
    let x = s.cast(x, DType::F32);
    let Some(zero) = zero else { return Ok(x) };
    let zero = s.cast(zero, DType::F32);
    let zero = broadcast(s, zero, along)?;
    s.binary(Binary::Sub, x, zero)
}

/// One number, or a row of them as a tensor of this shape; one of more axes stays as it is.
fn broadcast(s: &mut Sketch<'_>, v: Ref, along: &[usize]) -> TractResult<Ref> {
    match (s.len(v), s.rank(v)) {
        (1, _) => s.reshape(v, &[]),
        (_, 1) => s.reshape(v, along),
        _ => Ok(v),
    }
}

/// `product` of integers of magnitude 255 at the most, in sums of `depth` terms: exact, as `i32`.
fn exact(
    s: &mut Sketch<'_>,
    x: Ref,
    depth: usize,
    product: impl Fn(&mut Sketch<'_>, Ref) -> TractResult<Ref>,
) -> TractResult<Ref> {
    let room = (1usize << 24) / depth.max(1).saturating_mul(255);
    ensure!(room >= 2, "sums of {depth} products may be too large for 32 bits");
    let bits = room.ilog2();
    let (mut rest, mut left, mut weight, mut sum) = (x, 8, 1.0, None);
    loop {
        // The last digit has the sign.
        let last = left <= bits;
        let digit = if last {
            rest
        } else {
            let base = (1u32 << bits) as f32;
            let scaled = s.unary(Unary::Affine, [1.0 / base, 0.0], rest);
            let high = s.unary(Unary::Floor, [0.0; 2], scaled);
            let shifted = s.unary(Unary::Affine, [base, 0.0], high);
            let digit = s.binary(Binary::Sub, rest, shifted)?;
            rest = high;
            digit
        };
        let part = product(s, digit)?;
        let part = s.cast(part, DType::I32);
        let part = if weight == 1.0 { part } else { s.with(Binary::Mul, part, weight)? };
        let all = match sum {
            Some(sum) => s.binary(Binary::Add, sum, part)?,
            None => part,
        };
        if last {
            return Ok(all);
        }
        sum = Some(all);
        left -= bits;
        weight *= (1u32 << bits) as f64;
    }
}

/// The product of matrices, or of batches of them, at these inputs; zero points behind.
fn product(s: &mut Sketch<'_>, [a, b, a_zero, b_zero]: [usize; 4]) -> TractResult<Ref> {
    let (a, b) = (s.input(a)?, s.input(b)?);
    let (a_zero, b_zero) = (s.optional(a_zero)?, s.optional(b_zero)?);
    let (rows, columns) = (s.rank(a), s.rank(b));
    ensure!(rows > 0 && columns > 0 && rows.max(columns) <= 20, "its operands have {rows} and {columns} axes");
    // A row of zero points goes along the rows of the one, the columns of the other.
    let by_row = [s.dims(a)[rows.max(2) - 2], 1];
    let by_row = if rows == 1 { &[][..] } else { &by_row };
    let by_column = if columns == 1 { vec![] } else { vec![s.dims(b)[columns - 1]] };
    let depth = s.dims(a)[rows - 1];
    ensure!(depth == s.dims(b)[columns.max(2) - 2], "{:?} can't be multiplied by {:?}", s.dims(a), s.dims(b));
    let (a, b) = (centred(s, a, a_zero, by_row)?, centred(s, b, b_zero, &by_column)?);
    let batch: Vec<char> = ('a'..='r').take((rows.max(columns)).saturating_sub(2)).collect();
    let outer = |rank: usize| batch[batch.len() - rank.saturating_sub(2)..].iter().collect::<String>();
    let (m, n) = (if rows == 1 { "" } else { "x" }, if columns == 1 { "" } else { "z" });
    let letters = [format!("{}{m}y", outer(rows)), format!("{}y{n}", outer(columns))];
    let output = format!("{}{m}{n}", batch.iter().collect::<String>());
    exact(s, a, depth, |s, digit| s.einsum(digit, b, [&letters[0], &letters[1]], &output))
}

/// The convolution of these inputs; zero points behind. One of a row of them is an output channel's.
fn convolution(s: &mut Sketch<'_>, [x, w, x_zero, w_zero]: [usize; 4]) -> TractResult<Ref> {
    let (x, w) = (s.input(x)?, s.input(w)?);
    let (x_zero, w_zero) = (s.optional(x_zero)?, s.optional(w_zero)?);
    ensure!(s.rank(x) > 2 && s.rank(x) == s.rank(w), "input and weights are of shape {:?} and {:?}", s.dims(x), s.dims(w));
    ensure!(x_zero.is_none_or(|z| s.len(z) == 1), "its input has several zero points");
    let (sizes, kernel) = (s.dims(x)[2..].to_vec(), s.dims(w)[2..].to_vec());
    let window = window(s.attributes(), &sizes, Some(&kernel))?;
    let groups = usize::try_from(s.attributes().int("group", 1)).ok().filter(|&g| g > 0).context("group is not positive")?;
    ensure!(s.dims(x)[1] == s.dims(w)[1] * groups, "{:?} does not fit {groups} groups of {:?}", s.dims(x), s.dims(w));
    let mut dims = vec![s.dims(x)[0], s.dims(w)[0]];
    dims.extend(window.convolved(&sizes)?);
    let depth = s.dims(w)[1..].iter().product();
    let mut by_channel = vec![1; s.rank(w)];
    by_channel[0] = s.dims(w)[0];
    // Without its zero point, what is padded is zero.
    let (x, w) = (centred(s, x, x_zero, &[])?, centred(s, w, w_zero, &by_channel)?);
    exact(s, x, depth, |s, digit| Ok(s.op(Op::Conv { window: window.clone(), groups }, &[digit, w], DType::F32, &dims)))
}

pub(super) fn mat_mul_integer(s: &mut Sketch<'_>) -> Drawn {
    Ok(vec![product(s, [0, 1, 2, 3])?])
}

pub(super) fn conv_integer(s: &mut Sketch<'_>) -> Drawn {
    Ok(vec![convolution(s, [0, 1, 2, 3])?])
}

/// Sums of products quantised: scales are those of the operands, at these inputs, and the result's, whose zero point follows.
fn quantised(s: &mut Sketch<'_>, sum: Ref, scales: [usize; 2], along: [&[usize]; 2], result: usize) -> TractResult<Ref> {
    let mut scale = None;
    for (slot, along) in scales.into_iter().zip(along) {
        let own = s.input(slot)?;
        let own = s.cast(own, DType::F32);
        let own = broadcast(s, own, along)?;
        scale = Some(scale.map_or(Ok(own), |scale| s.binary(Binary::Mul, scale, own))?);
    }
    let (to, zero) = (s.input(result)?, s.input(result + 1)?);
    ensure!(s.len(to) == 1 && s.len(zero) == 1, "its result has several scales");
    let to = s.cast(to, DType::F32);
    let to = s.reshape(to, &[])?;
    let scale = s.binary(Binary::Div, scale.context("it has no scale")?, to)?;
    let sum = s.cast(sum, DType::F32);
    let scaled = s.binary(Binary::Mul, sum, scale)?;
    saturated(s, scaled, zero)
}

/// Rounded, moved by the zero point, and kept within the range of its type.
fn saturated(s: &mut Sketch<'_>, x: Ref, zero: Ref) -> TractResult<Ref> {
    let dtype = s.dtype(zero);
    let range = match dtype {
        DType::I8 => [-128.0, 127.0],
        DType::U8 => [0.0, 255.0],
        other => bail!("its result must be of 8 bits, not {other}"),
    };
    let rounded = s.unary(Unary::Round, [0.0; 2], x);
    let zero = s.cast(zero, DType::F32);
    let zero = s.reshape(zero, &[])?;
    let moved = s.binary(Binary::Add, rounded, zero)?;
    let kept = s.unary(Unary::Clip, range, moved);
    Ok(s.cast(kept, dtype))
}

pub(super) fn q_linear_mat_mul(s: &mut Sketch<'_>) -> Drawn {
    let (a, b) = (s.input(0)?, s.input(3)?);
    let sum = product(s, [0, 3, 2, 5])?;
    let by_row = if s.rank(a) > 1 { vec![s.dims(a)[s.rank(a) - 2], 1] } else { vec![] };
    let by_column = if s.rank(b) > 1 { vec![s.dims(b)[s.rank(b) - 1]] } else { vec![] };
    Ok(vec![quantised(s, sum, [1, 4], [&by_row, &by_column], 6)?])
}

pub(super) fn q_linear_conv(s: &mut Sketch<'_>) -> Drawn {
    let mut sum = convolution(s, [0, 3, 2, 5])?;
    let mut by_channel = vec![1; s.rank(sum) - 1];
    by_channel[0] = s.dims(sum)[1];
    if let Some(bias) = s.optional(8)? {
        let bias = s.reshape(bias, &by_channel)?;
        sum = s.binary(Binary::Add, sum, bias)?;
    }
    Ok(vec![quantised(s, sum, [1, 4], [&[], &by_channel], 6)?])
}

/// A tensor in 8 bits, by a scale and a zero point that its own range gives.
pub(super) fn dynamic_quantize(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    ensure!(s.dtype(x) == DType::F32, "its input is of {}", s.dtype(x));
    let axes: Vec<usize> = (0..s.rank(x)).collect();
    // The range has zero in it.
    let mut end = |kind, f| -> TractResult<Ref> {
        let end = s.reduce(kind, &axes, x);
        let end = s.reshape(end, &[])?;
        s.with(f, end, 0.0)
    };
    let (low, high) = (end(ReduceKind::Min, Binary::Min)?, end(ReduceKind::Max, Binary::Max)?);
    let range = s.binary(Binary::Sub, high, low)?;
    let scale = s.with(Binary::Div, range, 255.0)?;
    // A tensor of zeros has no range.
    let none = s.with(Binary::Equal, range, 0.0)?;
    let one = s.number(1.0, DType::F32)?;
    let scale = s.select(none, one, scale)?;
    let ratio = s.binary(Binary::Div, low, scale)?;
    let zero = s.unary(Unary::Neg, [0.0; 2], ratio);
    let zero = s.unary(Unary::Clip, [0.0, 255.0], zero);
    let zero = s.unary(Unary::Round, [0.0; 2], zero);
    let zero = s.cast(zero, DType::U8);
    let scaled = s.binary(Binary::Div, x, scale)?;
    let y = saturated(s, scaled, zero)?;
    Ok(vec![y, scale, zero])
}
