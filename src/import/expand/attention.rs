//! Attention and what stands beside it in networks of language.

use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// `[batch, time, heads * size]` as `[batch, heads, time, size]`.
fn heads(s: &mut Sketch<'_>, x: Ref, attribute: &str) -> TractResult<Ref> {
    if s.rank(x) == 4 {
        return Ok(x);
    }
    let [b, t, d] = s.dims(x)[..] else { bail!("an input has {} axes, not three or four", s.rank(x)) };
    let n = usize::try_from(s.attributes().int(attribute, 0)).unwrap_or(0);
    ensure!(n > 0 && d % n == 0, "{attribute} is {n}, but the input's rows are of {d} elements");
    let apart = s.reshape(x, &[b, t, n, d / n])?;
    Ok(s.transpose(apart, &[0, 2, 1, 3]))
}

/// `heads` undone.
fn together(s: &mut Sketch<'_>, x: Ref) -> TractResult<Ref> {
    let [b, n, t, d] = s.dims(x)[..] else { bail!("no heads") };
    let moved = s.transpose(x, &[0, 2, 1, 3]);
    s.reshape(moved, &[b, t, n * d])
}

/// Each head as many times as queries share it, one after the other.
fn shared(s: &mut Sketch<'_>, x: Ref, times: usize) -> TractResult<Ref> {
    let [b, n, t, d] = s.dims(x)[..] else { bail!("no heads") };
    if times == 1 {
        return Ok(x);
    }
    let column = s.reshape(x, &[b, n, 1, t, d])?;
    let many = s.broadcast(column, &[b, n, times, t, d]);
    s.reshape(many, &[b, n * times, t, d])
}

/// Scaled dot-product attention, computed in `f32`.
pub(super) fn attention(s: &mut Sketch<'_>) -> Drawn {
    let a = s.attributes();
    let (q, k, v) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let (dtype, flat) = (s.dtype(q), s.rank(q) == 3);
    ensure!(matches!(dtype, DType::F32 | DType::F16 | DType::BF16), "attention of {dtype} is not supported");
    let (q, mut k, mut v) = (heads(s, q, "q_num_heads")?, heads(s, k, "kv_num_heads")?, heads(s, v, "kv_num_heads")?);
    let past = s.optional(4)?.map(|p| s.dims(p)[2]);
    if let (Some(past_k), Some(past_v)) = (s.optional(4)?, s.optional(5)?) {
        k = s.concat(&[past_k, k], 2)?;
        v = s.concat(&[past_v, v], 2)?;
    }
    let (present_k, present_v) = (k, v);
    let ([batch, qn, queries, size], [_, kn, keys, _]) = (four(s, q)?, four(s, k)?);
    ensure!(kn > 0 && qn % kn == 0, "{qn} heads of queries can't share {kn} heads of keys");
    let (q, k, v) = (s.cast(q, DType::F32), s.cast(k, DType::F32), s.cast(v, DType::F32));
    let (k, v) = (shared(s, k, qn / kn)?, shared(s, v, qn / kn)?);

    let scale = if a.has("scale") { a.float("scale", 1.0) } else { 1.0 / (size as f32).sqrt() };
    let products = s.einsum(q, k, ["bhqd", "bhkd"], "bhqk")?;
    let mut scores = s.unary(Unary::Affine, [scale, 0.0], products);
    let mut shown = scores;
    let mode = a.int("qk_matmul_output_mode", 0);
    let cap = a.float("softcap", 0.0);
    if cap > 0.0 {
        let small = s.unary(Unary::Affine, [1.0 / cap, 0.0], scores);
        let bent = s.unary(Unary::Tanh, [0.0; 2], small);
        scores = s.unary(Unary::Affine, [cap, 0.0], bent);
    }
    if mode == 1 {
        shown = scores;
    }
    let (bias, certain) = bias(s, [batch, queries, keys], past)?;
    if let Some(bias) = bias {
        scores = s.binary(Binary::Add, scores, bias)?;
    }
    if mode == 2 {
        shown = scores;
    }
    let mut weights = s.softmax(scores, 3, false);
    if let Some(bias) = bias.filter(|_| !certain) {
        // A row without any key attends to nothing.
        let last = s.rank(bias) - 1;
        let best = s.reduce(ReduceKind::Max, &[last], bias);
        let none = s.with(Binary::Equal, best, f64::NEG_INFINITY)?;
        let zero = s.number(0.0, DType::F32)?;
        weights = s.select(none, zero, weights)?;
    }
    if mode == 3 {
        shown = weights;
    }
    let y = s.einsum(weights, v, ["bhqk", "bhkd"], "bhqd")?;
    let y = if flat { together(s, y)? } else { y };
    let (y, shown) = (s.cast(y, dtype), s.cast(shown, dtype));
    Ok(vec![y, present_k, present_v, shown])
}

fn four(s: &Sketch<'_>, x: Ref) -> TractResult<[usize; 4]> {
    s.dims(x).try_into().map_err(|_| format_err!("an input has {} axes, not four", s.rank(x)))
}

/// What is added to the scores, of rank 2 to 4: minus infinity where a query does not attend to a key. And whether every
/// query is certain to have a key.
fn bias(s: &mut Sketch<'_>, [batch, queries, keys]: [usize; 3], past: Option<usize>) -> TractResult<(Option<Ref>, bool)> {
    let a = s.attributes();
    let (causal, left, right) = (a.int("is_causal", 0) != 0, a.int("left_window_size", -1), a.int("right_window_size", -1));
    let mut bias = None;
    let mut certain = true;
    if let Some(mask) = s.optional(3)? {
        let mask = additive(s, mask)?;
        let missing = keys.saturating_sub(*s.dims(mask).last().context("the mask has no axis")?);
        let (mut after, before) = (vec![0; s.rank(mask)], vec![0; s.rank(mask)]);
        *after.last_mut().context("the mask has no axis")? = missing;
        bias = Some(s.pad(mask, &before, &after, f64::NEG_INFINITY)?);
        certain = false;
    }
    let valid = s.optional(6)?;
    if causal || left >= 0 || right >= 0 {
        // How far each query is behind each key, without what comes before the queries.
        let steps: Vec<i64> = (0..queries as i64).flat_map(|i| (0..keys as i64).map(move |j| i - j)).collect();
        let steps = s.i64s(&steps, &[queries, keys]);
        let behind = match (past, valid) {
            (None, Some(valid)) => {
                let valid = s.cast(valid, DType::I64);
                let valid = s.reshape(valid, &[batch, 1, 1, 1])?;
                let offset = s.with(Binary::Sub, valid, queries as f64)?;
                certain = false;
                s.binary(Binary::Add, steps, offset)?
            }
            _ => s.with(Binary::Add, steps, past.unwrap_or(0) as f64)?,
        };
        let mut bounds = vec![];
        if causal {
            bounds.push((Binary::GreaterEqual, 0));
        }
        if left >= 0 {
            certain = false;
            bounds.push((Binary::LessEqual, left));
        }
        if right >= 0 {
            bounds.push((Binary::GreaterEqual, -right));
        }
        for (compare, bound) in bounds {
            let allowed = s.with(compare, behind, bound as f64)?;
            bias = Some(masked(s, allowed, bias)?);
        }
    }
    if let Some(valid) = valid {
        let places: Vec<i64> = (0..keys as i64).collect();
        let places = s.i64s(&places, &[1, 1, 1, keys]);
        let valid = s.cast(valid, DType::I64);
        let valid = s.reshape(valid, &[batch, 1, 1, 1])?;
        let allowed = s.binary(Binary::Less, places, valid)?;
        bias = Some(masked(s, allowed, bias)?);
        certain = false;
    }
    Ok((bias, certain))
}

/// A mask as a sum: booleans say who is attended to.
fn additive(s: &mut Sketch<'_>, mask: Ref) -> TractResult<Ref> {
    if s.dtype(mask) == DType::Bool { masked(s, mask, None) } else { Ok(s.cast(mask, DType::F32)) }
}

/// The bias with minus infinity where it is not allowed.
fn masked(s: &mut Sketch<'_>, allowed: Ref, bias: Option<Ref>) -> TractResult<Ref> {
    let (zero, never) = (s.number(0.0, DType::F32)?, s.number(f64::NEG_INFINITY, DType::F32)?);
    let add = s.select(allowed, zero, never)?;
    match bias {
        Some(bias) => s.binary(Binary::Add, bias, add),
        None => Ok(add),
    }
}

/// Pairs of elements turned by angles that depend on the place in the sequence.
pub(super) fn rotary_embedding(s: &mut Sketch<'_>) -> Drawn {
    let a = s.attributes();
    let (x, mut cos, mut sin) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let flat = s.rank(x) == 3;
    let x = heads(s, x, "num_heads")?;
    let [batch, n, t, size] = four(s, x)?;
    let turned = match usize::try_from(a.int("rotary_embedding_dim", 0)) {
        Ok(0) | Err(_) => size,
        Ok(n) => n,
    };
    ensure!(turned <= size && turned % 2 == 0, "rotary_embedding_dim is {turned}, but heads are of {size} elements");
    let half = turned / 2;
    if let Some(places) = s.optional(3)? {
        let dims = [s.dims(places), &[*s.dims(cos).last().context("cos_cache has no axis")?]].concat();
        let places = s.cast(places, DType::I64);
        let dtype = s.dtype(cos);
        cos = s.op(Op::Gather { axis: 0 }, &[cos, places], dtype, &dims);
        sin = s.op(Op::Gather { axis: 0 }, &[sin, places], dtype, &dims);
    }
    let table = |s: &mut Sketch<'_>, v: Ref| -> TractResult<Ref> {
        let [b, time, width] = s.dims(v)[..] else { bail!("the caches have {} axes", s.rank(v)) };
        ensure!(width == half && time == t && (b == batch || b == 1), "the caches are of shape {:?}", s.dims(v));
        s.reshape(v, &[b, 1, t, half])
    };
    let (cos, sin) = (table(s, cos)?, table(s, sin)?);
    let rest = s.slice(x, 3, turned, 1, size - turned);
    let interleaved = a.int("interleaved", 0) != 0;
    let (first, second) = if interleaved {
        (s.slice(x, 3, 0, 2, half), s.slice(x, 3, 1, 2, half))
    } else {
        (s.slice(x, 3, 0, 1, half), s.slice(x, 3, half, 1, half))
    };
    let product = |s: &mut Sketch<'_>, a, b| s.binary(Binary::Mul, a, b);
    let (fc, ss) = (product(s, first, cos)?, product(s, second, sin)?);
    let (fs, sc) = (product(s, first, sin)?, product(s, second, cos)?);
    let (real, imaginary) = (s.binary(Binary::Sub, fc, ss)?, s.binary(Binary::Add, fs, sc)?);
    let new = if interleaved {
        let (re, im) = (s.reshape(real, &[batch, n, t, half, 1])?, s.reshape(imaginary, &[batch, n, t, half, 1])?);
        let pairs = s.concat(&[re, im], 4)?;
        s.reshape(pairs, &[batch, n, t, turned])?
    } else {
        s.concat(&[real, imaginary], 3)?
    };
    let y = if turned < size { s.concat(&[new, rest], 3)? } else { new };
    Ok(vec![if flat { together(s, y)? } else { y }])
}

/// A depthwise convolution over the past, whose last elements are kept for the next call.
pub(super) fn causal_conv(s: &mut Sketch<'_>) -> Drawn {
    let (x, w, bias, past) = (s.input(0)?, s.input(1)?, s.optional(2)?, s.optional(3)?);
    let ([b, c, t], [_, _, k]) = (three(s, x)?, three(s, w)?);
    ensure!(k > 0, "the kernel is empty");
    let dtype = s.dtype(x);
    let padded = match past {
        Some(past) => s.concat(&[past, x], 2)?,
        None => s.pad(x, &[0, 0, k - 1], &[0; 3], 0.0)?,
    };
    ensure!(s.dims(padded)[2] == t + k - 1, "the past is of shape {:?}", past.map(|p| s.dims(p).to_vec()));
    // Tap by tap: the kernel may be computed at run time.
    let mut sum: Option<Ref> = None;
    for tap in 0..k {
        let (part, factor) = (s.slice(padded, 2, tap, 1, t), s.slice(w, 2, tap, 1, 1));
        let (part, factor) = (s.cast(part, DType::F32), s.cast(factor, DType::F32));
        let factor = s.reshape(factor, &[1, c, 1])?;
        let term = s.binary(Binary::Mul, part, factor)?;
        sum = Some(match sum {
            Some(sum) => s.binary(Binary::Add, sum, term)?,
            None => term,
        });
    }
    let mut y = sum.context("the kernel is empty")?;
    if let Some(bias) = bias {
        let bias = s.cast(bias, DType::F32);
        let bias = s.reshape(bias, &[1, c, 1])?;
        y = s.binary(Binary::Add, y, bias)?;
    }
    match s.attributes().text("activation", "none") {
        "none" => {}
        "silu" | "swish" => y = s.unary(Unary::Silu, [0.0; 2], y),
        other => bail!("activation \"{other}\" is not one of ONNX's"),
    }
    let state = s.slice(padded, 2, t, 1, k - 1);
    debug_assert_eq!(s.dims(y), [b, c, t]);
    Ok(vec![s.cast(y, dtype), state])
}

fn three(s: &Sketch<'_>, x: Ref) -> TractResult<[usize; 3]> {
    s.dims(x).try_into().map_err(|_| format_err!("an input has {} axes, not three", s.rank(x)))
}

/// A state per head, to which each step adds the product of its key and value, and which each step's query reads.
pub(super) fn linear_attention(s: &mut Sketch<'_>) -> Drawn {
    let a = s.attributes();
    let (q, k, v) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let dtype = s.dtype(q);
    let rule = a.text("update_rule", "gated_delta");
    let (gated, delta) = (rule.starts_with("gated"), rule.ends_with("delta"));
    ensure!(matches!(rule, "linear" | "gated" | "delta" | "gated_delta"), "update_rule \"{rule}\" is not one of ONNX's");
    let (q, k, v) = (heads(s, q, "q_num_heads")?, heads(s, k, "kv_num_heads")?, heads(s, v, "kv_num_heads")?);
    let (q, k, v) = (s.cast(q, DType::F32), s.cast(k, DType::F32), s.cast(v, DType::F32));
    let ([b, qn, t, dk], [_, n, _, dv]) = (four(s, q)?, four(s, v)?);
    ensure!(t <= 1024, "a sequence of {t} steps is too long to be written out");
    ensure!(n > 0 && qn % n == 0, "{qn} heads of queries can't share {n} heads of keys");
    let per_head = |s: &mut Sketch<'_>, slot: usize| -> TractResult<Ref> {
        let x = s.input(slot)?;
        let x = s.cast(x, DType::F32);
        let [_, _, width] = three(s, x)?;
        let per = if width == 1 { 1 } else { width / n };
        let apart = s.reshape(x, &[b, t, width / per, per])?;
        Ok(s.transpose(apart, &[0, 2, 1, 3]))
    };
    let decay = if gated { Some(per_head(s, 4)?) } else { None };
    let beta = if delta { Some(per_head(s, 5)?) } else { None };
    let past = s.optional(3)?;
    let state_type = past.map_or(dtype, |p| s.dtype(p));
    let mut state = match past {
        Some(past) => s.cast(past, DType::F32),
        None => {
            let zero = s.number(0.0, DType::F32)?;
            s.broadcast(zero, &[b, n, dk, dv])
        }
    };
    let scale = match a.float("scale", 0.0) {
        0.0 => 1.0 / (dk as f32).sqrt(),
        scale => scale,
    };
    let mut steps = vec![];
    for i in 0..t {
        let (q, k, mut v) = (s.slice(q, 2, i, 1, 1), s.slice(k, 2, i, 1, 1), s.slice(v, 2, i, 1, 1));
        let column = s.transpose(k, &[0, 1, 3, 2]);
        if let Some(decay) = decay {
            let g = s.slice(decay, 2, i, 1, 1);
            let g = s.transpose(g, &[0, 1, 3, 2]);
            let g = s.unary(Unary::Exp, [0.0; 2], g);
            state = s.binary(Binary::Mul, state, g)?;
        }
        if let Some(beta) = beta {
            let read = s.einsum(k, state, ["bhtd", "bhdm"], "bhtm")?;
            let wrong = s.binary(Binary::Sub, v, read)?;
            let rate = s.slice(beta, 2, i, 1, 1);
            v = s.binary(Binary::Mul, wrong, rate)?;
        }
        let new = s.binary(Binary::Mul, column, v)?;
        state = s.binary(Binary::Add, state, new)?;
        let seen = shared(s, state, qn / n)?;
        steps.push(s.einsum(q, seen, ["bhtd", "bhdm"], "bhtm")?);
    }
    let y = s.concat(&steps, 2)?;
    let y = s.unary(Unary::Affine, [scale, 0.0], y);
    let y = together(s, y)?;
    Ok(vec![s.cast(y, dtype), s.cast(state, state_type)])
}
