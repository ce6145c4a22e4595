//! Operators that move data.

use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Elements around each axis: a number, or those of the tensor (edge, reflected, wrapped); negative: cropped.
pub(super) fn pad(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let rank = s.rank(x);
    let pads = s.ints_of("pads", 1)?.context("pads are missing")?;
    let axes: Vec<usize> = match s.ints(3, "axes")? {
        Some(axes) => axes.iter().map(|&a| s.axis(a, x)).collect::<TractResult<_>>()?,
        None => (0..rank).collect(),
    };
    ensure!(pads.len() == 2 * axes.len(), "there are {} pads for {} axes", pads.len(), axes.len());
    let (mut before, mut after) = (vec![0i64; rank], vec![0i64; rank]);
    for (i, &a) in axes.iter().enumerate() {
        (before[a], after[a]) = (pads[i], pads[axes.len() + i]);
    }
    let mode = s.attributes().text("mode", "constant");
    if mode != "constant" {
        for a in 0..rank {
            if before[a] != 0 || after[a] != 0 {
                ensure!(s.size(x, a).as_i64().is_some(), "the size of axis {a}, which it pads, depends on data");
                let n = s.dims(x)[a];
                let places = places(mode, n, before[a], after[a])?;
                x = s.take(x, a, &places);
            }
        }
        return Ok(vec![x]);
    }
    for a in 0..rank {
        let n = s.dims(x)[a] as i64;
        let (start, end) = ((-before[a]).max(0), n - (-after[a]).max(0));
        ensure!(start <= n && end >= start, "more is cropped off axis {a} than there is");
        x = s.slice(x, a, start as usize, 1, (end - start) as usize);
    }
    let around = |all: Vec<i64>| all.into_iter().map(|n| n.max(0) as usize).collect::<Vec<_>>();
    let (before, after) = (around(before), around(after));
    let value = match s.optional(2)? {
        Some(v) if s.len(v) > 0 => Some(v),
        _ => None,
    };
    let number = match value {
        None => Some(s.attributes().float("value", 0.0) as f64),
        // Exact in `f64` but for very large integers, which pad nothing.
        Some(_) => s.floats(2, "the value").ok().flatten().and_then(|v| v.first().map(|&v| v as f64)),
    };
    if let Some(number) = number {
        return Ok(vec![s.pad(x, &before, &after, number)?]);
    }
    // A value that is computed: joined to the tensor, as rows of it.
    let value = value.context("the value is missing")?;
    for a in 0..rank {
        let mut parts = vec![];
        for (n, behind) in [(before[a], false), (after[a], true)] {
            if behind {
                parts.push(x);
            }
            if n > 0 {
                let mut dims = s.dims(x).to_vec();
                dims[a] = n;
                let one = s.reshape(value, &[])?;
                parts.push(s.broadcast(one, &dims));
            }
        }
        x = s.concat(&parts, a)?;
    }
    Ok(vec![x])
}

/// Which element of an axis of `n` stands at each place of the padded axis.
fn places(mode: &str, n: usize, before: i64, after: i64) -> TractResult<Vec<usize>> {
    let n = n as i64;
    ensure!(n > 0, "an empty axis can't be padded with its own elements");
    let place = |i: i64| -> TractResult<usize> {
        let at = match mode {
            "edge" => i.clamp(0, n - 1),
            "wrap" => i.rem_euclid(n),
            "reflect" => {
                let i = i.rem_euclid((2 * (n - 1)).max(1));
                if i < n { i } else { 2 * (n - 1) - i }
            }
            other => bail!("mode \"{other}\" is not one of ONNX's"),
        };
        Ok(at as usize)
    };
    (-before..n + after).map(place).collect()
}

pub(super) fn tile(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let counts = s.ints(1, "repeats")?.context("input 1 is missing")?;
    ensure!(counts.len() == s.rank(x), "there are {} counts for {} axes", counts.len(), s.rank(x));
    for (axis, &count) in counts.iter().enumerate() {
        let count = usize::try_from(count).context("a count is negative")?;
        if count != 1 {
            // A new axis, along which the tensor is the same.
            let mut dims = s.dims(x).to_vec();
            let whole = dims[axis] * count;
            dims.insert(axis, 1);
            let column = s.reshape(x, &dims)?;
            dims[axis] = count;
            let many = s.broadcast(column, &dims);
            dims.remove(axis);
            dims[axis] = whole;
            x = s.reshape(many, &dims)?;
        }
    }
    Ok(vec![x])
}

/// Squares of pixels side by side as channels.
pub(super) fn space_to_depth(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let b = usize::try_from(s.attributes().int("blocksize", 0)).unwrap_or(0);
    let [n, c, h, w] = s.dims(x)[..] else { bail!("the input has {} axes, not four", s.rank(x)) };
    ensure!(b > 0 && h % b == 0 && w % b == 0, "a picture of {h} by {w} pixels can't be cut into squares of {b}");
    let apart = s.reshape(x, &[n, c, h / b, b, w / b, b])?;
    let moved = match s.attributes().text("mode", "DCR") {
        "DCR" => s.transpose(apart, &[0, 3, 5, 1, 2, 4]),
        "CRD" => s.transpose(apart, &[0, 1, 3, 5, 2, 4]),
        other => bail!("mode \"{other}\" is not one of ONNX's"),
    };
    Ok(vec![s.reshape(moved, &[n, c * b * b, h / b, w / b])?])
}

/// The upper or lower triangle of matrices, zeros elsewhere.
pub(super) fn trilu(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let [.., rows, columns] = s.dims(x)[..] else { bail!("the input has {} axes", s.rank(x)) };
    let k = s.ints(1, "the diagonal")?.and_then(|k| k.first().copied()).unwrap_or(0);
    let upper = s.attributes().int("upper", 1) != 0;
    let kept = |i: usize, j: usize| {
        let above = (j as i64).saturating_sub(i as i64);
        if upper { above >= k } else { above <= k }
    };
    let mask: Vec<u8> = (0..rows).flat_map(|i| (0..columns).map(move |j| kept(i, j) as u8)).collect();
    let mask = s.constant(DType::Bool, &[rows, columns], mask);
    let zero = s.number(0.0, s.dtype(x))?;
    Ok(vec![s.select(mask, x, zero)?])
}

/// To a given size around the centre: cropped where it is larger, padded with zeros where it is smaller.
pub(super) fn center_crop_pad(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let shape = s.ints(1, "the shape")?.context("input 1 is missing")?;
    let axes: Vec<usize> = match s.attributes().ints("axes") {
        Some(axes) => axes.iter().map(|&a| s.axis(a, x)).collect::<TractResult<_>>()?,
        None => (0..s.rank(x)).collect(),
    };
    ensure!(axes.len() == shape.len(), "there are {} sizes for {} axes", shape.len(), axes.len());
    for (&axis, &want) in axes.iter().zip(&shape) {
        let (n, want) = (s.dims(x)[axis], usize::try_from(want).context("a size is negative")?);
        if n > want {
            x = s.slice(x, axis, (n - want) / 2, 1, want);
        } else {
            let (mut before, mut after) = (vec![0; s.rank(x)], vec![0; s.rank(x)]);
            before[axis] = (want - n) / 2;
            after[axis] = want - n - before[axis];
            x = s.pad(x, &before, &after, 0.0)?;
        }
    }
    Ok(vec![x])
}

/// Without its axes of one element.
pub(in super::super) fn squeeze(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let dims: Vec<usize> = s.dims(x).iter().copied().filter(|&d| d != 1).collect();
    Ok(vec![s.reshape(x, &dims)?])
}

/// As numpy slices, with constant starts, ends, axes and steps.
pub(in super::super) fn slice(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    if !s.values[x.0].lengths.is_empty() || s.ints(1, "starts").is_err() || s.ints(2, "ends").is_err() {
        return super::find::slice(s);
    }
    let starts = s.ints(1, "starts")?.context("input 1 is missing")?;
    let ends = s.ints(2, "ends")?.context("input 2 is missing")?;
    let axes = s.ints(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = s.ints(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    let same = [ends.len(), axes.len(), steps.len()].iter().all(|&n| n == starts.len());
    ensure!(same, "starts, ends, axes and steps are of different lengths");
    for i in 0..starts.len() {
        let (axis, step) = (s.axis(axes[i], x)?, steps[i]);
        ensure!(step != 0, "a step is 0");
        let n = s.dims(x)[axis] as i64;
        let counted = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        // Forwards from 0 to n, backwards from n - 1 to -1.
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let (start, end) = (counted(starts[i]).clamp(low.max(0), high), counted(ends[i]).clamp(low, high));
        let room = if step > 0 { end - start } else { start - end };
        let len = if room <= 0 { 0 } else { (room as u64).div_ceil(step.unsigned_abs()) as usize };
        let step = if len > 1 { step as isize } else { 1 };
        x = s.slice(x, axis, if len == 0 { 0 } else { start as usize }, step, len);
    }
    Ok(vec![x])
}

/// An einsum with letters that stand twice in one operand: their diagonal is taken, and the rest is an einsum of the others.
pub(in super::super) fn diagonal(s: &mut Sketch<'_>) -> Drawn {
    let equation: String = s.attributes().text("equation", "").chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), Some(right.to_string())),
        None => (equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    ensure!(terms.len() == s.inputs(), "the equation has {} operands, the node {}", terms.len(), s.inputs());
    // Letters for the axes of an ellipsis, counted from the last.
    let hidden = |n: usize| (0..n).rev().map(|i| char::from_u32(0x3b1 + i as u32).unwrap_or('?')).collect::<String>();
    let (mut operands, mut letters, mut most) = (vec![], vec![], 0);
    for (slot, term) in terms.iter().enumerate() {
        let mut x = s.input(slot)?;
        let named = term.chars().filter(|c| *c != '.').count();
        let others = s.rank(x).checked_sub(named).context("an operand has fewer axes than letters")?;
        ensure!(others <= 16 && (others == 0 || term.contains("...")), "operand {slot} has more axes than letters");
        most = most.max(others);
        let mut term: Vec<char> = term.replace("...", &hidden(others)).chars().collect();
        while let Some((i, j)) = (0..term.len()).find_map(|j| Some(((0..j).find(|&i| term[i] == term[j])?, j))) {
            let rank = term.len();
            let n = s.dims(x)[i];
            ensure!(s.dims(x)[j] == n, "a diagonal of {n} by {} elements", s.dims(x)[j]);
            // The two axes last and joined: of those n * n elements each n + 1st.
            let mut perm: Vec<usize> = (0..rank).filter(|&a| a != i && a != j).collect();
            perm.extend([i, j]);
            x = s.transpose(x, &perm);
            let mut dims = s.dims(x)[..rank - 2].to_vec();
            dims.push(n * n);
            x = s.reshape(x, &dims)?;
            x = s.slice(x, rank - 2, 0, n as isize + 1, n);
            let letter = term[i];
            term = perm[..rank - 2].iter().map(|&a| term[a]).collect();
            term.push(letter);
        }
        operands.push(x);
        letters.push(term.into_iter().collect::<String>());
    }
    let output = match right {
        Some(right) => right.replace("...", &hidden(most)),
        None => {
            // The ellipsis, then all letters that stand once, in the alphabet's order.
            let mut once: Vec<char> = left.chars().filter(|c| c.is_alphabetic() && left.matches(*c).count() == 1).collect();
            once.sort();
            hidden(if left.contains("...") { most } else { 0 }) + &once.into_iter().collect::<String>()
        }
    };
    let mut dims = vec![];
    for c in output.chars() {
        let sizes =
            operands.iter().zip(&letters).filter_map(|(&x, term)| term.chars().position(|d| d == c).map(|i| s.dims(x)[i]));
        dims.push(sizes.max().with_context(|| format!("the output's letter {c} is in no operand"))?);
    }
    let dtype = s.dtype(operands[0]);
    Ok(vec![s.op(Op::EinSum { inputs: letters, output }, &operands, dtype, &dims)])
}
