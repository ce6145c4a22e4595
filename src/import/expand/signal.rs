//! Fourier transforms, as products with matrices of sines and cosines.

use super::super::sketch::{Ref, Sketch};
use crate::program::Binary;
use crate::tensor::DType;
use std::f64::consts::TAU;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Longer transforms would need matrices of more than 128 MB.
const LONGEST: usize = 4096;

/// What a transform does to one axis.
#[derive(Clone, Copy)]
struct Transform {
    /// Length of the transform.
    n: usize,
    inverse: bool,
    onesided: bool,
}

impl Transform {
    /// Rows: elements of the input, real (and imaginary) parts; columns: those of the output.
    fn matrix(self, complex: bool) -> (Vec<f32>, [usize; 4]) {
        let Transform { n, inverse, onesided } = self;
        let real_output = inverse && onesided;
        let rows = if real_output { n / 2 + 1 } else { n };
        let columns = if onesided && !inverse { n / 2 + 1 } else { n };
        let (parts, outs) = (if complex { 2 } else { 1 }, if real_output { 1 } else { 2 });
        let mut matrix = vec![0.0; rows * parts * columns * outs];
        for j in 0..rows {
            // The other half of a one-sided spectrum mirrors this one.
            let twice = if real_output && j > 0 && 2 * j != n { 2.0 } else { 1.0 };
            let scale = if inverse { twice / n as f64 } else { 1.0 };
            for k in 0..columns {
                let angle = TAU * ((j * k) % n) as f64 / n as f64;
                let (sin, cos) = (if inverse { angle } else { -angle }).sin_cos();
                let mut set = |part: usize, out: usize, value: f64| {
                    matrix[((j * parts + part) * columns + k) * outs + out] = (value * scale) as f32;
                };
                set(0, 0, cos);
                if !real_output {
                    set(0, 1, sin);
                }
                if complex {
                    set(1, 0, -sin);
                    if !real_output {
                        set(1, 1, cos);
                    }
                }
            }
        }
        (matrix, [rows, parts, columns, outs])
    }

    /// Of `[…, length, parts]` along the axis before the last.
    fn along(self, s: &mut Sketch<'_>, x: Ref) -> TractResult<Ref> {
        ensure!(
            (1..=LONGEST).contains(&self.n),
            "a Fourier transform of {} elements is not supported, the longest is {LONGEST}",
            self.n
        );
        let dtype = s.dtype(x);
        let mut x = s.cast(x, DType::F32);
        let rank = s.rank(x);
        let (length, parts) = (s.dims(x)[rank - 2], s.dims(x)[rank - 1]);
        ensure!((1..=2).contains(&parts), "the last axis must hold real and imaginary parts, its size is {parts}");
        let (matrix, [rows, parts, columns, outs]) = self.matrix(parts == 2);
        if length < rows {
            let mut after = vec![0; rank];
            after[rank - 2] = rows - length;
            x = s.pad(x, &vec![0; rank], &after, 0.0)?;
        }
        x = s.slice(x, rank - 2, 0, 1, rows);
        let mut dims = s.dims(x)[..rank - 2].to_vec();
        let outer: usize = dims.iter().product();
        let flat = s.reshape(x, &[outer, rows * parts])?;
        let matrix = s.f32s(&matrix, &[rows * parts, columns * outs]);
        let product = s.einsum(flat, matrix, ["mk", "kn"], "mn")?;
        dims.extend([columns, outs]);
        let y = s.reshape(product, &dims)?;
        Ok(s.cast(y, dtype))
    }
}

pub(super) fn dft(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let a = s.attributes();
    let rank = s.rank(x);
    ensure!(rank >= 2, "the input has {rank} axes");
    let axis = match s.ints(2, "the axis")? {
        Some(axis) => *axis.first().context("the axis is empty")?,
        None => a.int("axis", if s.opset < 20 { 1 } else { -2 }),
    };
    let axis = s.axis(axis, x)?;
    ensure!(axis + 1 < rank, "the last axis holds real and imaginary parts, it can't be transformed");
    let (inverse, onesided) = (a.int("inverse", 0) != 0, a.int("onesided", 0) != 0);
    let length = s.dims(x)[axis];
    let n = match s.ints(1, "the length")? {
        Some(n) => usize::try_from(*n.first().context("the length is empty")?).context("the length is negative")?,
        None if inverse && onesided => 2 * length.saturating_sub(1),
        None => length,
    };
    let mut there: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    there.insert(rank - 2, axis);
    let mut back = vec![0; rank];
    there.iter().enumerate().for_each(|(i, &from)| back[from] = i);
    let moved = s.transpose(x, &there);
    let y = Transform { n, inverse, onesided }.along(s, moved)?;
    Ok(vec![s.transpose(y, &back)])
}

/// Transforms of pieces of a signal, each weighted by a window.
pub(super) fn stft(s: &mut Sketch<'_>) -> Drawn {
    let (mut x, window) = (s.input(0)?, s.optional(2)?);
    if s.rank(x) == 2 {
        let dims = [s.dims(x), &[1]].concat();
        x = s.reshape(x, &dims)?;
    }
    let [batch, length, parts] = s.dims(x)[..] else { bail!("the signal has {} axes, not three", s.rank(x)) };
    let one = |v: Option<Vec<i64>>| v.and_then(|v| v.first().copied()).and_then(|n| usize::try_from(n).ok());
    let step = one(s.ints(1, "the step")?).filter(|&n| n > 0).context("the step must be positive")?;
    let n = match (one(s.ints(3, "the length of a frame")?), window) {
        (Some(n), _) => n,
        (None, Some(window)) => s.len(window),
        (None, None) => length,
    };
    ensure!(n > 0 && n <= length, "a frame of {n} elements does not fit a signal of {length}");
    let frames = (length - n) / step + 1;
    let places: Vec<usize> = (0..frames).flat_map(|f| (0..n).map(move |i| f * step + i)).collect();
    let pieces = s.take(x, 1, &places);
    let mut pieces = s.reshape(pieces, &[batch, frames, n, parts])?;
    if let Some(window) = window {
        ensure!(s.len(window) == n, "the window has {} elements, a frame {n}", s.len(window));
        let window = s.reshape(window, &[1, 1, n, 1])?;
        pieces = s.binary(Binary::Mul, pieces, window)?;
    }
    let onesided = s.attributes().int("onesided", 1) != 0;
    Ok(vec![Transform { n, inverse: false, onesided }.along(s, pieces)?])
}
