//! Ops along an axis.

use super::{Context, Entry, Op};
use crate::error::Result;
use crate::kernels::{Backend, Dst, Src, reduce as kernels};
use crate::program::{ArgReduce, Norm, OpKind, Reduce, ReduceKind, Softmax, TopK};
use crate::tensor::DType;

/// [`Reduce`](OpKind::Reduce).
pub const fn reduce<B: Backend>() -> Entry {
    Entry { kind: OpKind::Reduce, eval: eval_reduce::<B> }
}

fn eval_reduce<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (r, _) = op.record::<Reduce>()?;
    let sizes = [r.outer, r.len, r.inner].map(|n| n as usize);
    let kind = ReduceKind::from_number(r.kind).unwrap_or(ReduceKind::Sum);
    let (x, y) = (op.needed_input(0)?, op.needed_output(0)?);
    match context.dtype(x) {
        DType::I64 => whole(sizes, context.src::<i64>(x), context.dst(y), |a, b| integer(kind, a, b), identity(kind)),
        DType::I32 => {
            let join = |a: i32, b: i32| integer(kind, a as i64, b as i64) as i32;
            // The 64-bit limits don't fit: the 32-bit ones stand for them.
            let start = identity(kind).clamp(i32::MIN as i64, i32::MAX as i64) as i32;
            whole(sizes, context.src::<i32>(x), context.dst(y), join, start);
        }
        _ => B::launch(kernels::Reduce { kind, sizes, x: context.src(x), y: context.dst(y) }),
    }
    Ok(())
}

fn whole<T: Copy>([outer, len, inner]: [usize; 3], x: Src<'_, T>, y: Dst<'_, T>, join: impl Fn(T, T) -> T, start: T) {
    for o in 0..outer {
        for i in 0..inner {
            let all = (0..len).fold(start, |all, j| join(all, x.at((o * len + j) * inner + i)));
            y.set(o * inner + i, all);
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
    Entry { kind: OpKind::Softmax, eval: eval_softmax::<B> }
}

fn eval_softmax<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (s, _) = op.record::<Softmax>()?;
    let sizes = [s.outer, s.len, s.inner].map(|n| n as usize);
    let (x, y) = (context.src(op.needed_input(0)?), context.dst(op.needed_output(0)?));
    B::launch(kernels::Softmax { sizes, log: s.log != 0, x, y });
    Ok(())
}

/// [`Norm`](OpKind::Norm).
pub const fn norm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Norm, eval: eval_norm::<B> }
}

fn eval_norm<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (n, _) = op.record::<Norm>()?;
    B::launch(kernels::Norm {
        sizes: [n.rows as usize, n.len as usize],
        rms: n.rms != 0,
        per_row: n.per_row as usize,
        epsilon: n.epsilon,
        x: context.src(op.needed_input(0)?),
        scale: op.input(1).map(|t| context.src(t)),
        bias: op.input(2).map(|t| context.src(t)),
        y: context.dst(op.needed_output(0)?),
    });
    Ok(())
}

/// Whether `a` comes before `b`: larger (or smaller) first, NaN before all.
fn before(a: f32, b: f32, min: bool) -> bool {
    if a.is_nan() || b.is_nan() {
        a.is_nan() && !b.is_nan()
    } else if min {
        a < b
    } else {
        a > b
    }
}

/// [`ArgReduce`](OpKind::ArgReduce).
pub const fn arg_reduce() -> Entry {
    Entry { kind: OpKind::ArgReduce, eval: eval_arg_reduce }
}

fn eval_arg_reduce(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (a, _) = op.record::<ArgReduce>()?;
    let [outer, len, inner] = [a.outer, a.len, a.inner].map(|n| n as usize);
    let (x, y) = (context.src::<f32>(op.needed_input(0)?), context.dst::<i64>(op.needed_output(0)?));
    for o in 0..outer {
        for i in 0..inner {
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
    }
    Ok(())
}

/// [`TopK`](OpKind::TopK).
pub const fn top_k() -> Entry {
    Entry { kind: OpKind::TopK, eval: eval_top_k }
}

/// Keeps the best `k` so far in order, in scratch: an insertion for each element that is better than the last of them.
fn eval_top_k(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (t, _) = op.record::<TopK>()?;
    let [outer, len, inner, k] = [t.outer, t.len, t.inner, t.k].map(|n| n as usize);
    let x = context.src::<f32>(op.needed_input(0)?);
    let (values, indices) = (context.dst::<f32>(op.needed_output(0)?), context.dst::<i64>(op.needed_output(1)?));
    let best = context.scratch::<u32>();
    for o in 0..outer {
        for i in 0..inner {
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
    }
    Ok(())
}
