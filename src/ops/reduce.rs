//! Ops along an axis.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::reduce::{self as kernels, Pieces};
use crate::kernels::{Backend, Dst, Src};
use crate::program::cut::group;
use crate::program::{ArgReduce, Norm, OpKind, Reduce, ReduceKind, Rules, Softmax, TopK};
use crate::tensor::{DType, Element};
use core::ops::Range;

/// [`Reduce`](OpKind::Reduce).
pub const fn reduce<B: Backend>() -> Entry {
    Entry { kind: OpKind::Reduce, rules: Rules::of::<Reduce>(), eval: eval_reduce::<B> }
}

fn eval_reduce<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (r, _) = op.record::<Reduce>()?;
    let sizes = [r.outer, r.len, r.inner].map(|n| n as usize);
    let kind = ReduceKind::from_number(r.kind).unwrap_or(ReduceKind::Sum);
    let (x, y) = (op.needed_input(0)?, op.needed_output(0)?);
    let lines = Lines::of(context, sizes);
    match context.dtype(x) {
        DType::I64 => {
            lines.fold(context.src::<i64>(x), context.dst(y), identity(kind), |a, b| integer(kind, a, b), |all| all);
        }
        DType::I32 => {
            let join = |a: i32, b: i32| integer(kind, a as i64, b as i64) as i32;
            // The 64-bit limits don't fit: the 32-bit ones stand for them.
            let start = identity(kind).clamp(i32::MIN as i64, i32::MAX as i64) as i32;
            lines.fold(context.src::<i32>(x), context.dst(y), start, join, |all| all);
        }
        DType::F64 => {
            let start = match kind {
                ReduceKind::Max => f64::NEG_INFINITY,
                ReduceKind::Min => f64::INFINITY,
                ReduceKind::Product => 1.0,
                _ => 0.0,
            };
            let last = |all: f64| if kind == ReduceKind::Mean { all / sizes[1] as f64 } else { all };
            lines.fold(context.src::<f64>(x), context.dst(y), start, |a, b| double(kind, a, b), last);
        }
        _ => {
            let (pieces, units) = pieces(context, sizes);
            B::launch(kernels::Reduce { kind, sizes, x: context.src(x), y: context.dst(y), pieces });
            return Ok(units);
        }
    }
    Ok(lines.units())
}

/// The pieces of `[outer][len][inner]` to compute, and the units.
fn pieces(context: &Context<'_>, sizes: [usize; 3]) -> (Range<usize>, Units) {
    let pieces = Pieces::of(sizes);
    let (count, each) = (pieces.count(), pieces.of_a_unit());
    (context.pieces(count, each), Units::any(count.div_ceil(each)))
}

/// The lines along the middle axis of `[outer][len][inner]`, of which some are to be computed.
pub(super) struct Lines {
    sizes: [usize; 3],
    range: Range<usize>,
}

impl Lines {
    pub(super) fn of(context: &Context<'_>, sizes: [usize; 3]) -> Lines {
        Lines { sizes, range: context.pieces(sizes[0] * sizes[2], group(sizes[1])) }
    }

    /// The units of all lines: so many lines each that they are worth it.
    pub(super) fn units(&self) -> Units {
        let [outer, len, inner] = self.sizes;
        Units::any((outer * inner).div_ceil(group(len)))
    }

    /// The outer and the inner index of each line to compute.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let inner = self.sizes[2];
        self.range.clone().map(move |line| (line / inner, line % inner))
    }

    fn fold<T: Copy>(&self, x: Src<'_, T>, y: Dst<'_, T>, start: T, join: impl Fn(T, T) -> T, last: impl Fn(T) -> T) {
        let [_, len, inner] = self.sizes;
        for (o, i) in self.each() {
            let all = (0..len).fold(start, |all, j| join(all, x.at((o * len + j) * inner + i)));
            y.set(o * inner + i, last(all));
        }
    }
}

/// What a reduction of integers starts from.
fn identity(kind: ReduceKind) -> i64 {
    match kind {
        ReduceKind::Max => i64::MIN,
        ReduceKind::Min => i64::MAX,
        ReduceKind::Product => 1,
        _ => 0,
    }
}

/// NaN stays.
fn double(kind: ReduceKind, a: f64, b: f64) -> f64 {
    match kind {
        ReduceKind::Max if a > b || a.is_nan() => a,
        ReduceKind::Min if a < b || a.is_nan() => a,
        ReduceKind::Max | ReduceKind::Min => b,
        ReduceKind::Product => a * b,
        _ => a + b,
    }
}

fn integer(kind: ReduceKind, a: i64, b: i64) -> i64 {
    match kind {
        ReduceKind::Max => a.max(b),
        ReduceKind::Min => a.min(b),
        ReduceKind::Product => a.wrapping_mul(b),
        _ => a.wrapping_add(b),
    }
}

/// [`Softmax`](OpKind::Softmax).
pub const fn softmax<B: Backend>() -> Entry {
    Entry { kind: OpKind::Softmax, rules: Rules::of::<Softmax>(), eval: eval_softmax::<B, false> }
}

/// [`Softmax`](OpKind::Softmax) for images that have it along the last axis alone, and no logarithm of it
/// ([`Softmax::is_of_rows`]), as classifiers do: another is an error when it runs. It takes half of the code.
pub const fn softmax_rows<B: Backend>() -> Entry {
    Entry { kind: OpKind::Softmax, rules: Rules::of::<Softmax>(), eval: eval_softmax::<B, true> }
}

fn eval_softmax<B: Backend, const ROWS: bool>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (s, _) = op.record::<Softmax>()?;
    if ROWS && !s.is_of_rows() {
        return Err(Error::new(Kind::MissingOp, "the op set's softmax is of rows, without logarithm, and this one is not"));
    }
    let sizes = [s.outer as usize, s.len as usize, if ROWS { 1 } else { s.inner as usize }];
    let (x, y) = (context.input(op, 0), context.output(op, 0));
    let (pieces, units) = pieces(context, sizes);
    B::launch(kernels::Softmax { sizes, log: !ROWS && s.log != 0, x, y, pieces });
    Ok(units)
}

/// [`Norm`](OpKind::Norm).
pub const fn norm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Norm, rules: Rules::of::<Norm>(), eval: eval_norm::<B> }
}

fn eval_norm<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (n, _) = op.record::<Norm>()?;
    let (rows, each) = (n.rows as usize, group(n.len as usize));
    B::launch(kernels::Norm {
        sizes: [rows, n.len as usize],
        rms: n.rms != 0,
        per_row: n.per_row as usize,
        epsilon: n.epsilon,
        x: context.input(op, 0),
        scale: op.input(1).map(|t| context.src(t)),
        bias: op.input(2).map(|t| context.src(t)),
        y: context.output(op, 0),
        rows: context.pieces(rows, each),
    });
    Ok(Units::any(rows.div_ceil(each)))
}

/// Whether `a` comes before `b`: larger (or smaller) first, NaN before all.
fn before<T: PartialOrd>(a: T, b: T, min: bool) -> bool {
    let nan = |v: &T| v.partial_cmp(v).is_none();
    if nan(&a) || nan(&b) {
        nan(&a) && !nan(&b)
    } else if min {
        a < b
    } else {
        a > b
    }
}

/// [`ArgReduce`](OpKind::ArgReduce).
pub const fn arg_reduce() -> Entry {
    Entry { kind: OpKind::ArgReduce, rules: Rules::of::<ArgReduce>(), eval: eval_arg_reduce }
}

fn eval_arg_reduce(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    match context.dtype(op.needed_input(0)?) {
        DType::I64 => arg::<i64>(context, op),
        DType::I32 => arg::<i32>(context, op),
        _ => arg::<f32>(context, op),
    }
}

fn arg<T: Element + PartialOrd>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (a, _) = op.record::<ArgReduce>()?;
    let sizes = [a.outer, a.len, a.inner].map(|n| n as usize);
    let [_, len, inner] = sizes;
    let (x, y) = (context.input::<T>(op, 0), context.output::<i64>(op, 0));
    let lines = Lines::of(context, sizes);
    for (o, i) in lines.each() {
        let at = |j: usize| x.at((o * len + j) * inner + i);
        let (mut best, mut value) = (0, at(0));
        for j in 1..len {
            let v = at(j);
            if before(v, value, a.min != 0) || a.last != 0 && !before(value, v, a.min != 0) {
                (best, value) = (j, v);
            }
        }
        y.set(o * inner + i, best as i64);
    }
    Ok(lines.units())
}

/// [`TopK`](OpKind::TopK).
pub const fn top_k() -> Entry {
    Entry { kind: OpKind::TopK, rules: Rules::of::<TopK>(), eval: eval_top_k }
}

fn eval_top_k(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    match context.dtype(op.needed_input(0)?) {
        DType::I64 => top::<i64>(context, op),
        DType::I32 => top::<i32>(context, op),
        _ => top::<f32>(context, op),
    }
}

/// Keeps the best `k` so far in order, in scratch: an insertion for each element that is better than the last of them.
fn top<T: Element + PartialOrd>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (t, _) = op.record::<TopK>()?;
    let (sizes, k) = ([t.outer, t.len, t.inner].map(|n| n as usize), t.k as usize);
    let [_, len, inner] = sizes;
    let x = context.input::<T>(op, 0);
    let (values, indices) = (context.output::<T>(op, 0), context.output::<i64>(op, 1));
    let best = context.scratch::<u32>();
    let lines = Lines::of(context, sizes);
    for (o, i) in lines.each() {
        let at = |j: usize| x.at((o * len + j) * inner + i);
        let mut kept = 0;
        for j in 0..len {
            let v = at(j);
            let mut place = kept;
            while place > 0 && before(v, at(best.src().at(place - 1) as usize), t.min != 0) {
                place -= 1;
            }
            if place == k {
                continue;
            }
            kept = (kept + 1).min(k);
            for m in (place + 1..kept).rev() {
                best.set(m, best.src().at(m - 1));
            }
            best.set(place, j as u32);
        }
        for j in 0..k {
            let from = best.src().at(j) as usize;
            values.set((o * k + j) * inner + i, at(from));
            indices.set((o * k + j) * inner + i, from as i64);
        }
    }
    Ok(lines.units())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_each_backend;
    use crate::ops::testing::{Case, Random, assert_close, blank, tensor};

    const SIZES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [3, 7, 1],
        [2, 8, 1],
        [2, 9, 1],
        [1, 100, 1],
        [2, 5000, 1],
        [2, 3, 5],
        [1, 10, 8],
        [2, 130, 17],
        [0, 3, 1],
        [3, 16, 16],
        [1, 33, 3],
    ];

    /// Applies a function to each row of f64 values along the middle axis.
    fn along(sizes: [usize; 3], x: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let [outer, len, inner] = sizes;
        let mut out = Vec::new();
        for o in 0..outer {
            let columns: Vec<Vec<f64>> =
                (0..inner).map(|i| f(&(0..len).map(|j| x[(o * len + j) * inner + i] as f64).collect::<Vec<_>>())).collect();
            let n = columns[0].len();
            out.extend((0..n).flat_map(|j| columns.iter().map(move |c| c[j])));
        }
        out
    }

    #[test]
    fn reductions() {
        on_each_backend!(reductions_on());
    }

    fn reductions_on<B: Backend>() {
        use ReduceKind::*;
        let mut random = Random::new(3);
        for sizes in SIZES {
            let [outer, len, inner] = sizes;
            let x: Vec<f32> = random.units(outer * len * inner).iter().map(|v| v * 1.5).collect();
            for kind in [Sum, Mean, Max, Min, Product, SumSquare, L1, L2, LogSumExp, MeanSquare] {
                let n = len as f64;
                let want = along(sizes, &x, |r| {
                    let sum = |f: &dyn Fn(f64) -> f64| r.iter().map(|&v| f(v)).sum::<f64>();
                    vec![match kind {
                        Sum => sum(&|v| v),
                        Mean => sum(&|v| v) / n,
                        Max => r.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v)),
                        Min => r.iter().fold(f64::INFINITY, |m, &v| m.min(v)),
                        Product => r.iter().product(),
                        SumSquare => sum(&|v| v * v),
                        L1 => sum(&f64::abs),
                        L2 => sum(&|v| v * v).sqrt(),
                        LogSumExp => sum(&f64::exp).ln(),
                        _ => sum(&|v| v * v) / n,
                    }]
                });
                let [o, l, i] = sizes.map(|n| n as u32);
                let record = Reduce { kind: kind as u32, outer: o, len: l, inner: i };
                let case = Case::new(&record, vec![tensor(&x)], vec![blank::<f32>(outer * inner)]);
                let got = case.run(reduce::<B>()).unwrap()[0].to::<f32>();
                assert_close(&got, &want, 1e-5, &format!("{kind:?} of {sizes:?} on {}", B::ISA.name()));
            }
        }
    }

    #[test]
    fn reductions_of_integers() {
        let x = tensor(&[5i32, -7, 3, i32::MAX, 1, -2]);
        for (kind, want) in [(ReduceKind::Sum, [1, i32::MAX - 1]), (ReduceKind::Max, [5, i32::MAX]), (ReduceKind::Min, [-7, -2])]
        {
            let record = Reduce { kind: kind as u32, outer: 2, len: 3, inner: 1 };
            let case = Case::new(&record, vec![x.clone()], vec![blank::<i32>(2)]);
            let got = case.run(reduce::<crate::kernels::portable::Scalar>()).unwrap()[0].to::<i32>();
            assert_eq!(got, want, "{kind:?}");
        }
    }

    #[test]
    fn reductions_of_doubles() {
        let x = tensor(&[1e300, -2e300, 3e300, 0.5, f64::NAN, 1.0]);
        let cases =
            [(ReduceKind::Sum, 2e300), (ReduceKind::Max, 3e300), (ReduceKind::Min, -2e300), (ReduceKind::Mean, 2e300 / 3.0)];
        for (kind, want) in cases {
            let record = Reduce { kind: kind as u32, outer: 2, len: 3, inner: 1 };
            let case = Case::new(&record, vec![x.clone()], vec![blank::<f64>(2)]);
            let got = case.run(reduce::<crate::kernels::portable::Scalar>()).unwrap()[0].to::<f64>();
            assert!((got[0] - want).abs() <= 1e285 && got[1].is_nan(), "{kind:?}: {got:?}");
        }
        let record = Reduce { kind: ReduceKind::L2 as u32, outer: 2, len: 3, inner: 1 };
        assert!(Case::new(&record, vec![x], vec![blank::<f64>(2)]).check(OpKind::Reduce).is_err());
    }

    #[test]
    fn softmax_and_its_logarithm() {
        on_each_backend!(softmax_on());
    }

    fn softmax_on<B: Backend>() {
        let mut random = Random::new(5);
        for sizes in SIZES {
            let n: usize = sizes.iter().product();
            let x: Vec<f32> = random.units(n).iter().map(|v| v * 20.0).collect();
            for log in [false, true] {
                let want = along(sizes, &x, |r| {
                    let max = r.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
                    let sum: f64 = r.iter().map(|v| (v - max).exp()).sum();
                    r.iter().map(|v| if log { v - max - sum.ln() } else { (v - max).exp() / sum }).collect()
                });
                let [outer, len, inner] = sizes.map(|n| n as u32);
                let record = Softmax { outer, len, inner, log: log as u32 };
                for shared in [None, Some(0)] {
                    let mut case = Case::new(&record, vec![tensor(&x)], vec![blank::<f32>(n)]);
                    case.shared = vec![shared];
                    let got = case.run(softmax::<B>()).unwrap()[0].to::<f32>();
                    assert_close(&got, &want, 2e-6, &format!("{sizes:?} log {log} on {}", B::ISA.name()));
                }
            }
        }
    }

    #[test]
    fn norms() {
        on_each_backend!(norms_on());
    }

    fn norms_on<B: Backend>() {
        let mut random = Random::new(9);
        for len in [1usize, 7, 8, 9, 16, 17, 33, 384] {
            for (rms, per_row, affine) in [(0, 0, true), (1, 0, true), (0, 3, true), (0, 0, false)] {
                let rows = 6;
                let x: Vec<f32> = random.units(rows * len).iter().map(|v| v * 3.0 + 1.0).collect();
                let p = if per_row == 0 { len } else { per_row };
                let (scale, bias) = (random.units(p), random.units(p));
                let mut want = Vec::new();
                for (r, row) in x.chunks(len).enumerate() {
                    let mean = if rms == 1 { 0.0 } else { row.iter().map(|&v| v as f64).sum::<f64>() / len as f64 };
                    let var = row.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / len as f64;
                    for (i, &v) in row.iter().enumerate() {
                        let at = if per_row == 0 { i } else { r % per_row };
                        let (s, b) = if affine { (scale[at] as f64, bias[at] as f64) } else { (1.0, 0.0) };
                        want.push((v as f64 - mean) / (var + 1e-5).sqrt() * s + b);
                    }
                }
                let record = Norm { rows: rows as u32, len: len as u32, rms, per_row: per_row as u32, epsilon: 1e-5 };
                let mut case = Case::new(&record, vec![tensor(&x), tensor(&scale), tensor(&bias)], vec![blank::<f32>(x.len())]);
                if !affine {
                    case.inputs.truncate(1);
                }
                let got = case.run(norm::<B>()).unwrap()[0].to::<f32>();
                let bound = if len == 1 { 1e-4 } else { 1e-5 };
                assert_close(&got, &want, bound, &format!("{len} {rms} {per_row} on {}", B::ISA.name()));
            }
        }
    }

    #[test]
    fn the_largest_and_where_they_are() {
        let x = tensor(&[3f32, 1.0, 3.0, -2.0, 5.0, 0.0]);
        for (min, last, want) in [(0, 0, [0, 1]), (0, 1, [2, 1]), (1, 0, [1, 0])] {
            let record = ArgReduce { outer: 2, len: 3, inner: 1, min, last };
            let case = Case::new(&record, vec![x.clone()], vec![blank::<i64>(2)]);
            assert_eq!(case.run(arg_reduce()).unwrap()[0].to::<i64>(), want);
        }
        let record = TopK { outer: 1, len: 3, inner: 2, k: 2, min: 0 };
        let case = Case::new(&record, vec![x.clone()], vec![blank::<f32>(4), blank::<i64>(4)]);
        let got = case.run(top_k()).unwrap();
        assert_eq!((got[0].to::<f32>(), got[1].to::<i64>()), (vec![5.0, 1.0, 3.0, 0.0], vec![2, 0, 0, 2]));
        let record = TopK { outer: 1, len: 3, inner: 1, k: 2, min: 0 };
        let wide = [1i64 << 60, (1 << 60) + 1, -5];
        let case = Case::new(&record, vec![tensor(&wide)], vec![blank::<i64>(2), blank::<i64>(2)]);
        let got = case.run(top_k()).unwrap();
        assert_eq!((got[0].to::<i64>(), got[1].to::<i64>()), (vec![wide[1], wide[0]], vec![1, 0]));
        let record = ArgReduce { outer: 1, len: 3, inner: 1, min: 0, last: 0 };
        let case = Case::new(&record, vec![tensor(&[7i32, -1, 9])], vec![blank::<i64>(1)]);
        assert_eq!(case.run(arg_reduce()).unwrap()[0].to::<i64>(), [2]);
        let record = TopK { outer: 1, len: 6, inner: 1, k: 3, min: 1 };
        let case = Case::new(&record, vec![x], vec![blank::<f32>(3), blank::<i64>(3)]);
        let got = case.run(top_k()).unwrap();
        assert_eq!((got[0].to::<f32>(), got[1].to::<i64>()), (vec![-2.0, 0.0, 1.0], vec![3, 5, 1]));
    }
}
