//! Operators over windows.

use super::super::sketch::{Ref, Sketch};
use super::super::windows::{Sizes, window};
use crate::graph::{Op, Window};
use crate::program::{Binary, Join, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// `|x|` to the power `p`, before a sum.
fn power(s: &mut Sketch<'_>, x: Ref, p: f32) -> Ref {
    match p {
        1.0 => s.unary(Unary::Abs, [0.0; 2], x),
        2.0 => s.unary(Unary::Square, [0.0; 2], x),
        _ => {
            let x = s.unary(Unary::Abs, [0.0; 2], x);
            s.unary(Unary::PowConst, [p, 0.0], x)
        }
    }
}

/// The `p`-th root.
fn root(s: &mut Sketch<'_>, x: Ref, p: f32) -> Ref {
    match p {
        1.0 => x,
        2.0 => s.unary(Unary::Sqrt, [0.0; 2], x),
        _ => s.unary(Unary::PowConst, [1.0 / p, 0.0], x),
    }
}

fn exponent(s: &Sketch<'_>) -> f32 {
    // A real number before opset 2.
    if s.opset < 2 { s.attributes().float("p", 2.0) } else { s.attributes().int("p", 2) as f32 }
}

pub(super) fn lp_pool(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    ensure!(s.rank(x) > 2, "the input has no spatial axes");
    let sizes = s.dims(x)[2..].to_vec();
    let mut window = window(s.attributes(), &sizes, None)?;
    let out = window.pooled(&sizes, s.attributes().int("ceil_mode", 0) == 1)?;
    // Room for all windows, so that each mean is over as many elements.
    for i in 0..sizes.len() {
        let end = (out[i].max(1) - 1) * window.strides[i] + window.extent(i)?;
        window.after[i] = window.after[i].max(end.saturating_sub(sizes[i] + window.before[i]));
    }
    let p = exponent(s);
    let powers = power(s, x, p);
    let taps: usize = window.kernel.iter().product();
    let mut dims = s.dims(x)[..2].to_vec();
    dims.extend(&out);
    let mean = s.op(Op::AveragePool { window, count_include_pad: true }, &[powers], s.dtype(x), &dims);
    let sum = s.with(Binary::Mul, mean, taps as f64)?;
    Ok(vec![root(s, sum, p)])
}

pub(super) fn global_lp_pool(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    ensure!(s.rank(x) > 2, "the input has no spatial axes");
    let axes: Vec<usize> = (2..s.rank(x)).collect();
    let p = exponent(s);
    let powers = power(s, x, p);
    let sum = s.reduce(ReduceKind::Sum, &axes, powers);
    Ok(vec![root(s, sum, p)])
}

/// Each channel divided by the energy of its neighbours.
pub(super) fn lrn(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let a = s.attributes();
    ensure!(s.rank(x) >= 2, "the input has no channels");
    let size = usize::try_from(a.int("size", 1)).ok().filter(|&n| n > 0).context("size must be positive")?;
    let (alpha, beta, bias) = (a.float("alpha", 1e-4), a.float("beta", 0.75), a.float("bias", 1.0));
    let whole = s.dims(x).to_vec();
    let inner: usize = whole[2..].iter().product();
    let squares = s.unary(Unary::Square, [0.0; 2], x);
    // Channels and pixels are the two axes of a map: a mean over neighbouring channels, where padding counts.
    let map = s.reshape(squares, &[whole[0], 1, whole[1], inner])?;
    let window = Window {
        kernel: vec![size, 1],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        before: vec![(size - 1) / 2, 0],
        after: vec![size / 2, 0],
    };
    let dims = s.dims(map).to_vec();
    let mean = s.op(Op::AveragePool { window, count_include_pad: true }, &[map], s.dtype(x), &dims);
    let mean = s.reshape(mean, &whole)?;
    let scaled = s.unary(Unary::Affine, [alpha, bias], mean);
    let divisor = s.unary(Unary::PowConst, [-beta, 0.0], scaled);
    Ok(vec![s.binary(Binary::Mul, x, divisor)?])
}

/// The largest of each window, and where it stands among all elements: for that, the elements of every window are laid out. In
/// place of padding there stands the window's first element again.
pub(super) fn max_pool(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let dims = s.dims(x).to_vec();
    ensure!(dims.len() > 2, "the input has no spatial axes");
    let sizes = dims[2..].to_vec();
    let window = window(s.attributes(), &sizes, None)?;
    let out = window.pooled(&sizes, s.attributes().int("ceil_mode", 0) == 1)?;
    let by_column = s.attributes().int("storage_order", 0) != 0;
    let product = |sizes: &[usize]| sizes.iter().product::<usize>();
    let (pictures, total, spots, taps) = (dims[0] * dims[1], product(&sizes), product(&out), product(&window.kernel));
    ensure!(spots.checked_mul(taps).is_some_and(|n| n <= 1 << 28), "its windows have too many elements");
    // Of each window: the places of its elements, and what they are called.
    let (mut places, mut called) = (Vec::with_capacity(spots * taps), Vec::with_capacity(spots * taps));
    for spot in 0..spots {
        let start = places.len();
        let mut behind = 0;
        for tap in 0..taps {
            let (mut spot, mut tap, mut stride, mut place, mut inside) = (spot, tap, 1, 0, true);
            let mut at = vec![0; sizes.len()];
            for i in (0..sizes.len()).rev() {
                let padded = spot % out[i] * window.strides[i] + tap % window.kernel[i] * window.dilations[i];
                (spot, tap) = (spot / out[i], tap / window.kernel[i]);
                inside &= padded >= window.before[i] && padded - window.before[i] < sizes[i];
                at[i] = padded.saturating_sub(window.before[i]);
                place += at[i] * stride;
                stride *= sizes[i];
            }
            if !inside {
                behind += (places.len() == start) as usize;
                if let (Some(&place), Some(&name)) = (places.get(start), called.get(start)) {
                    places.push(place);
                    called.push(name);
                }
                continue;
            }
            let name = at.iter().zip(&sizes).rev().fold(0, |name, (at, size)| name * size + at);
            for _ in 0..=std::mem::take(&mut behind) {
                places.push(place);
                called.push(if by_column { name as i64 } else { place as i64 });
            }
        }
        ensure!(behind == 0, "a window has nothing but padding in it");
    }
    let mut pooled = dims[..2].to_vec();
    pooled.extend(&out);
    let y = s.op(Op::MaxPool { window }, &[x], s.dtype(x), &pooled);
    let flat = s.reshape(x, &[pictures, total])?;
    let laid = s.take(flat, 1, &places);
    let laid = s.reshape(laid, &[pictures, spots, taps])?;
    let first = Op::ArgReduce { axis: 2, min: false, last: false };
    let tap = s.op(first, &[laid], DType::I64, &[pictures, spots, 1]);
    let tap = s.reshape(tap, &[pictures, spots])?;
    let starts: Vec<i64> = (0..spots).map(|spot| (spot * taps) as i64).collect();
    let starts = s.i64s(&starts, &[1, spots]);
    let row = s.binary(Binary::Add, tap, starts)?;
    let called = s.i64s(&called, &[spots * taps]);
    let name = s.op(Op::Gather { axis: 0 }, &[called, row], DType::I64, &[pictures, spots]);
    let before: Vec<i64> = (0..pictures).map(|picture| (picture * total) as i64).collect();
    let before = s.i64s(&before, &[pictures, 1]);
    let index = s.binary(Binary::Add, name, before)?;
    Ok(vec![y, s.reshape(index, &pooled)?])
}

/// Values back at the places that a maximum pool took them from.
pub(super) fn max_unpool(s: &mut Sketch<'_>) -> Drawn {
    let (x, index) = (s.input(0)?, s.input(1)?);
    let dims = s.dims(x).to_vec();
    ensure!(dims.len() > 2, "the input has no spatial axes");
    let plain = window(s.attributes(), &dims[2..], None)?;
    let mut whole = dims[..2].to_vec();
    for i in 0..dims.len() - 2 {
        let end = (dims[i + 2].max(1) - 1) * plain.strides[i] + plain.kernel[i];
        whole.push(end.checked_sub(plain.before[i] + plain.after[i]).context("pads are larger than the output")?);
    }
    let count = s.len(x);
    let (flat, index) = (s.reshape(x, &[count])?, s.reshape(index, &[count])?);
    let zero = s.number(0.0, s.dtype(x))?;
    let total = whole.iter().product();
    let empty = s.broadcast(zero, &[total]);
    let op = Op::ScatterElements { axis: 0, join: Join::Replace };
    let out = s.op(op, &[empty, index, flat], s.dtype(x), &[total]);
    let mut out = s.reshape(out, &whole)?;
    if let Some(shape) = s.ints(2, "the output's shape")? {
        let after: Option<Vec<usize>> =
            shape.iter().zip(&whole).map(|(&n, &d)| usize::try_from(n).ok()?.checked_sub(d)).collect();
        let after = after.filter(|a| a.len() == whole.len());
        let after = after.with_context(|| format!("the output's shape is {shape:?}, but {whole:?} are needed"))?;
        out = s.pad(out, &vec![0; whole.len()], &after, 0.0)?;
    }
    Ok(vec![out])
}

/// Columns of windows added up to a picture.
pub(super) fn col2im(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let size = |v: Option<Vec<i64>>, what: &str| -> TractResult<Vec<usize>> {
        let v = v.with_context(|| format!("{what} is missing"))?;
        v.iter().map(|&n| usize::try_from(n).with_context(|| format!("{what} holds {n}"))).collect()
    };
    let image = size(s.ints(1, "the image's shape")?, "the image's shape")?;
    let block = size(s.ints(2, "the block's shape")?, "the block's shape")?;
    let axes = image.len();
    ensure!(block.len() == axes && s.rank(x) == 3, "image and block have different numbers of axes");
    let a = s.attributes();
    let many = |name: &str, n: usize, default: i64| -> TractResult<Vec<usize>> {
        let v = a.ints(name).map_or(vec![default; n], |v| v.to_vec());
        ensure!(v.len() == n, "{name} has {} numbers", v.len());
        size(Some(v), name)
    };
    let (dilations, strides) = (many("dilations", axes, 1)?, many("strides", axes, 1)?);
    let pads = many("pads", 2 * axes, 0)?;
    ensure!(!strides.contains(&0), "a stride is 0");
    let padded: Vec<usize> = (0..axes).map(|i| image[i] + pads[i] + pads[axes + i]).collect();
    let mut blocks = vec![];
    for i in 0..axes {
        let extent = (block[i].max(1) - 1) * dilations[i] + 1;
        blocks.push(padded[i].checked_sub(extent).context("the block is larger than the image")? / strides[i] + 1);
    }
    let [n, rows, columns] = s.dims(x)[..] else { bail!("the input must have three axes") };
    let taps: usize = block.iter().product();
    ensure!(taps > 0 && rows % taps == 0, "{rows} rows are no multiple of the block's {taps} elements");
    ensure!(columns == blocks.iter().product::<usize>(), "{columns} columns, but {blocks:?} blocks fit the image");
    let channels = rows / taps;
    // Where each element of a column lies in the padded picture.
    let mut places = Vec::with_capacity(taps * columns);
    for t in 0..taps {
        for c in 0..columns {
            let (mut tap, mut column, mut stride, mut at) = (t, c, 1, 0);
            for i in (0..axes).rev() {
                at += (column % blocks[i] * strides[i] + tap % block[i] * dilations[i]) * stride;
                (tap, column, stride) = (tap / block[i], column / blocks[i], stride * padded[i]);
            }
            places.push(at as i64);
        }
    }
    let dtype = s.dtype(x);
    let flat = s.reshape(x, &[n * channels, taps * columns])?;
    let index = s.i64s(&places, &[1, taps * columns]);
    let index = s.broadcast(index, &[n * channels, taps * columns]);
    let zero = s.number(0.0, dtype)?;
    let total: usize = padded.iter().product();
    let empty = s.broadcast(zero, &[n * channels, total]);
    let op = Op::ScatterElements { axis: 1, join: Join::Add };
    let sums = s.op(op, &[empty, index, flat], dtype, &[n * channels, total]);
    let mut shape = vec![n, channels];
    shape.extend(&padded);
    let mut out = s.reshape(sums, &shape)?;
    for i in 0..axes {
        out = s.slice(out, i + 2, pads[i], 1, image[i]);
    }
    Ok(vec![out])
}
