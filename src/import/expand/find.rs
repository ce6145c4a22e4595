//! Operators whose outputs have as many elements as values say: found out in the run, or here where those values are known.

use super::super::lengths;
use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, Join};
use crate::tensor::DType;
use std::cmp::Ordering;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Where elements are not zero: a row of coordinates per axis, a column per element.
pub(super) fn non_zero(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let dims = s.dims(x).to_vec();
    let stride = |axis: usize| dims[axis + 1..].iter().product::<usize>();
    if let Ok(Some(values)) = s.doubles(0, "the tensor") {
        let found: Vec<usize> = (0..values.len()).filter(|&i| values[i] != 0.0).collect();
        let all = (0..dims.len()).flat_map(|axis| found.iter().map(move |&i| (axis, i)));
        let places: Vec<i64> = all.map(|(axis, i)| (i / stride(axis) % dims[axis]) as i64).collect();
        return Ok(vec![s.i64s(&places, &[dims.len(), found.len()])]);
    }
    ensure!(!dims.is_empty(), "its input has no axis");
    let mask = if s.dtype(x) == DType::Bool { x } else { s.with(Binary::NotEqual, x, 0.0)? };
    let mask = s.reshape(mask, &[s.len(x)])?;
    let found = s.found(Op::NonZero, &[Some(mask)], &[s.len(x)])?;
    let mut rows = vec![];
    for (axis, &size) in dims.iter().enumerate() {
        let mut place = found;
        if stride(axis) > 1 {
            place = s.with(Binary::Div, place, stride(axis) as f64)?;
        }
        if axis > 0 {
            place = s.with(Binary::Rem, place, size as f64)?;
        }
        let row = [1, s.len(place)];
        rows.push(s.reshape(place, &row)?);
    }
    Ok(vec![s.concat(&rows, 0)?])
}

/// Slices along an axis, or elements, whose condition holds.
pub(super) fn compress(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let axis = if s.attributes().has("axis") {
        s.axis(s.attributes().int("axis", 0), x)?
    } else {
        x = s.reshape(x, &[s.len(x)])?;
        0
    };
    let size = s.dims(x)[axis];
    if let Ok(Some(condition)) = s.ints(1, "the condition") {
        let places: Vec<usize> = (0..condition.len()).filter(|&i| condition[i] != 0).collect();
        ensure!(places.last().is_none_or(|&p| p < size), "the condition is longer than axis {axis}");
        return Ok(vec![s.take(x, axis, &places)]);
    }
    let condition = s.input(1)?;
    ensure!(s.dtype(condition) == DType::Bool && s.rank(condition) == 1, "the condition is no row of booleans");
    ensure!(s.len(condition) <= size, "the condition is longer than axis {axis}");
    let places = s.found(Op::NonZero, &[Some(condition)], &[s.len(condition)])?;
    let mut dims = s.dims(x).to_vec();
    dims[axis] = s.len(places);
    Ok(vec![s.op(Op::Gather { axis }, &[x, places], s.dtype(x), &dims)])
}

/// Boxes by descending score that overlap none of those before them too much: rows of (picture, class, box).
pub(super) fn non_max_suppression(s: &mut Sketch<'_>) -> Drawn {
    let (boxes, scores) = (s.input(0)?, s.input(1)?);
    let ([batch, count, 4], [_, classes, n]) = (s.dims(boxes), s.dims(scores)) else {
        bail!("boxes are of shape {:?}, scores of {:?}", s.dims(boxes), s.dims(scores));
    };
    let (batch, count, classes) = (*batch, *count, *classes);
    ensure!(*n == count && s.dims(scores)[0] == batch, "there are {count} boxes, but scores of {:?}", s.dims(scores));
    if s.floats(0, "boxes").is_ok() && s.floats(1, "scores").is_ok() {
        return known_boxes(s, [batch, classes, count]);
    }
    let most = match s.ints(2, "the number of boxes") {
        Ok(most) => most.and_then(|v| v.first().copied()).unwrap_or(0).clamp(0, count as i64) as usize,
        Err(_) => count,
    };
    let limit = |s: &mut Sketch<'_>, slot: usize, dtype: DType| -> TractResult<Option<Ref>> {
        let Some(limit) = s.optional(slot)? else { return Ok(None) };
        let limit = s.cast(limit, dtype);
        Ok(Some(s.reshape(limit, &[1])?))
    };
    let kept = match limit(s, 2, DType::I64)? {
        Some(kept) => kept,
        None => s.i64s(&[0], &[1]),
    };
    let inputs = [Some(boxes), Some(scores), Some(kept), limit(s, 3, DType::F32)?, limit(s, 4, DType::F32)?];
    let centred = s.attributes().int("center_point_box", 0) != 0;
    Ok(vec![s.found(Op::NonMaxSuppression { centred }, &inputs, &[batch * classes * most, 3])?])
}

/// The same, where boxes and scores are constants.
fn known_boxes(s: &mut Sketch<'_>, [batch, classes, count]: [usize; 3]) -> Drawn {
    let boxes = s.floats(0, "boxes")?.context("input 0 is missing")?;
    let scores = s.floats(1, "scores")?.context("input 1 is missing")?;
    let most = s.ints(2, "the number of boxes")?.and_then(|v| v.first().copied()).unwrap_or(0);
    let overlap = s.floats(3, "the overlap")?.and_then(|v| v.first().copied()).unwrap_or(0.0);
    let least = s.floats(4, "the least score")?.and_then(|v| v.first().copied());
    let centred = s.attributes().int("center_point_box", 0) != 0;
    // Left, right; top, bottom; area.
    let corners = |picture: usize, i: usize| -> [f32; 4] {
        let b = &boxes[(picture * count + i) * 4..][..4];
        let [x0, x1, y0, y1] = if centred {
            [b[0] - b[2] / 2.0, b[0] + b[2] / 2.0, b[1] - b[3] / 2.0, b[1] + b[3] / 2.0]
        } else {
            [b[1], b[3], b[0], b[2]]
        };
        [x0.min(x1), x0.max(x1), y0.min(y1), y0.max(y1)]
    };
    let too_much = |a: [f32; 4], b: [f32; 4]| {
        let common = (a[1].min(b[1]) - a[0].max(b[0])).max(0.0) * (a[3].min(b[3]) - a[2].max(b[2])).max(0.0);
        let area = |c: [f32; 4]| (c[1] - c[0]) * (c[3] - c[2]);
        let union = area(a) + area(b) - common;
        union > 0.0 && common / union > overlap
    };
    let mut rows: Vec<i64> = vec![];
    for picture in 0..batch {
        for class in 0..classes {
            let score = |i: usize| scores[(picture * classes + class) * count + i];
            let mut order: Vec<usize> =
                (0..count).filter(|&i| least.map_or(!score(i).is_nan(), |least| score(i) > least)).collect();
            order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal));
            let mut kept: Vec<usize> = vec![];
            for i in order {
                if kept.len() as i64 >= most {
                    break;
                }
                if kept.iter().all(|&k| !too_much(corners(picture, k), corners(picture, i))) {
                    kept.push(i);
                    rows.extend([picture as i64, class as i64, i as i64]);
                }
            }
        }
    }
    Ok(vec![s.i64s(&rows, &[rows.len() / 3, 3])])
}

/// Elements, or slices along an axis, each once; where each first stands, which one each element is, and how often it does.
pub(super) fn unique(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    if let Ok(Some(values)) = s.doubles(0, "the tensor") {
        return known_unique(s, x, &values);
    }
    let a = s.attributes();
    ensure!(a.int("sorted", 1) != 0, "in the order of first appearance it needs a tensor that is known");
    ensure!(!a.has("axis") || s.rank(x) == 1, "along an axis it needs a tensor that is known, or one of one axis");
    let n = s.len(x);
    let flat = s.reshape(x, &[n])?;
    let open = s.values[flat.0].lengths.first().map(|l| l.1.clone());
    ensure!(open.is_none() && n > 0, "it needs a tensor of a size that is known");
    // In order; equal ones in the order in which they stand.
    let (sorted, order) = s.sorted(flat);
    let (left, right) = (s.slice(sorted, 0, 0, 1, n - 1), s.slice(sorted, 0, 1, 1, n - 1));
    let differ = s.binary(Binary::NotEqual, left, right)?;
    let first = s.constant(DType::Bool, &[1], vec![1]);
    let starts = s.concat(&[first, differ], 0)?;
    let numbers = s.cast(starts, DType::I64);
    let up_to = Op::Cumulate { axis: 0, product: false, exclusive: false, reverse: false };
    let ranks = s.op(up_to, &[numbers], DType::I64, &[n]);
    let ranks = s.with(Binary::Sub, ranks, 1.0)?;
    let places = s.found(Op::NonZero, &[Some(starts)], &[n])?;
    let rows = s.dims(places).to_vec();
    let row = |s: &mut Sketch<'_>, x: Ref, by: Ref| s.op(Op::Gather { axis: 0 }, &[x, by], s.dtype(x), &rows);
    let (y, firsts, own) = (row(s, sorted, places), row(s, order, places), row(s, ranks, places));
    let scatter = |join| Op::ScatterElements { axis: 0, join };
    let zeros = s.i64s(&vec![0; n], &[n]);
    let inverse = s.op(scatter(Join::Replace), &[zeros, order, ranks], DType::I64, &[n]);
    let ones = s.i64s(&vec![1; n], &[n]);
    let often = s.op(scatter(Join::Add), &[zeros, ranks, ones], DType::I64, &[n]);
    let counts = row(s, often, own);
    Ok(vec![y, firsts, inverse, counts])
}

/// The same, where the tensor is a constant.
fn known_unique(s: &mut Sketch<'_>, x: Ref, values: &[f64]) -> Drawn {
    let (flat, axis) =
        if s.attributes().has("axis") { (x, s.axis(s.attributes().int("axis", 0), x)?) } else { (s.reshape(x, &[s.len(x)])?, 0) };
    let dims = s.dims(flat).to_vec();
    let (outer, n, inner) = (dims[..axis].iter().product::<usize>(), dims[axis], dims[axis + 1..].iter().product::<usize>());
    let compare = |a: usize, b: usize| {
        let at = |o: usize, j: usize, i: usize| values[(o * n + j) * inner + i];
        let pairs = (0..outer * inner).map(|e| (at(e / inner, a, e % inner), at(e / inner, b, e % inner)));
        pairs.map(|(a, b)| a.total_cmp(&b)).find(|&o| o != Ordering::Equal).unwrap_or(Ordering::Equal)
    };
    let mut first: Vec<usize> = vec![];
    let mut which: Vec<usize> = vec![];
    for j in 0..n {
        which.push(first.iter().position(|&f| compare(f, j) == Ordering::Equal).unwrap_or(first.len()));
        if which[j] == first.len() {
            first.push(j);
        }
    }
    let mut order: Vec<usize> = (0..first.len()).collect();
    if s.attributes().int("sorted", 1) != 0 {
        order.sort_by(|&a, &b| compare(first[a], first[b]));
    }
    let places: Vec<usize> = order.iter().map(|&o| first[o]).collect();
    let mut rank = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &o)| rank[o] = i);
    let inverse: Vec<i64> = which.iter().map(|&w| rank[w] as i64).collect();
    let counts: Vec<i64> = order.iter().map(|&o| which.iter().filter(|&&w| w == o).count() as i64).collect();
    let starts: Vec<i64> = places.iter().map(|&p| p as i64).collect();
    let y = s.take(flat, axis, &places);
    let (starts, inverse) = (s.i64s(&starts, &[starts.len()]), s.i64s(&inverse, &[n]));
    Ok(vec![y, starts, inverse, s.i64s(&counts, &[counts.len()])])
}

/// A slice whose bounds, or the axis that it is taken of, depend on data.
pub(super) fn slice(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let axes = s.ints(3, "axes")?;
    let steps = s.ints(4, "steps")?;
    let count = match &axes {
        Some(axes) => axes.len(),
        None => s.input(1).map(|v| s.len(v))?,
    };
    for i in 0..count {
        let axis = axes.as_ref().map_or(i as i64, |axes| axes[i]);
        let (axis, step) = (s.axis(axis, x)?, steps.as_ref().map_or(1, |steps| steps[i]));
        let size = s.size(x, axis);
        if s.dims(x)[axis] == 0 {
            continue; // nothing is left to take
        }
        ensure!(step > 0, "it goes by {step} along axis {axis}, where a size depends on data");
        // Bounds as sizes, where they are known, and as values.
        let bound = |s: &mut Sketch<'_>, slot: usize| -> TractResult<(Option<TDim>, Ref)> {
            let known = s.sizes(slot)?.and_then(|all| all.get(i).cloned());
            if let Some(bound) = known {
                let counted = if lengths::negative(&bound)? { size.clone() + bound } else { bound };
                let inside = TDim::Max(vec![0.into(), TDim::Min(vec![size.clone(), counted]).simplify()]).simplify();
                let value = s.size_value(&inside);
                return Ok((Some(inside), value));
            }
            let all = s.input(slot)?;
            let all = s.cast(all, DType::I64);
            let given = s.slice(all, 0, i, 1, 1);
            let size = s.size_value(&size);
            let from_end = s.binary(Binary::Add, given, size)?;
            let negative = s.with(Binary::Less, given, 0.0)?;
            let counted = s.select(negative, from_end, given)?;
            let low = s.with(Binary::Max, counted, 0.0)?;
            Ok((None, s.binary(Binary::Min, low, size)?))
        };
        let ((start, first), (end, last)) = (bound(s, 1)?, bound(s, 2)?);
        let most = s.dims(x)[axis].div_ceil(step as usize);
        let length = if let (Some(start), Some(end)) = (&start, &end) {
            let room = TDim::Max(vec![0.into(), end.clone() - start]).simplify();
            ((room + (step - 1)) / step as u64).simplify()
        } else {
            let room = s.binary(Binary::Sub, last, first)?;
            let room = s.with(Binary::Max, room, 0.0)?;
            let up = s.with(Binary::Add, room, (step - 1) as f64)?;
            let count = s.with(Binary::Div, up, step as f64)?;
            let length = s.symbol(most)?;
            s.counted.push((length.clone(), count));
            length
        };
        // Each element's place; the rest repeats the last one.
        let planned = lengths::planned(&length)?;
        let numbers: Vec<i64> = (0..planned as i64).collect();
        let numbers = s.i64s(&numbers, &[planned]);
        let count = s.size_value(&length);
        let behind = s.with(Binary::Sub, count, 1.0)?;
        let number = s.binary(Binary::Min, numbers, behind)?;
        let number = s.with(Binary::Max, number, 0.0)?;
        let way = if step == 1 { number } else { s.with(Binary::Mul, number, step as f64)? };
        let place = s.binary(Binary::Add, way, first)?;
        let place = s.with(Binary::Min, place, s.dims(x)[axis].saturating_sub(1) as f64)?;
        if length.as_i64().is_none() {
            s.vouch(place, vec![(0, length)]);
        }
        let mut dims = s.dims(x).to_vec();
        dims[axis] = planned;
        x = s.op(Op::Gather { axis }, &[x, place], s.dtype(x), &dims);
    }
    Ok(vec![x])
}

/// The largest or smallest of an axis whose size depends on data, or as many of them as is computed.
pub(in super::super) fn top_k(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let axis = s.axis(s.attributes().int("axis", -1), x)?;
    let min = s.attributes().int("largest", 1) == 0;
    let size = s.size(x, axis);
    let most = s.dims(x)[axis];
    let length = match s.sizes(1)?.and_then(|all| all.first().cloned()) {
        Some(k) => TDim::Min(vec![size, k]).simplify(),
        None => {
            let k = s.input(1)?;
            let k = s.cast(k, DType::I64);
            let k = s.reshape(k, &[1])?;
            let size = s.size_value(&size);
            let low = s.with(Binary::Max, k, 0.0)?;
            let count = s.binary(Binary::Min, low, size)?;
            let length = s.symbol(most)?;
            s.counted.push((length.clone(), count));
            length
        }
    };
    let planned = lengths::planned(&length)?;
    ensure!(planned <= most, "it takes {length} of {most} elements");
    let mut dims = s.dims(x).to_vec();
    dims[axis] = planned;
    s.top_k(x, axis, min, &dims, length)
}
