//! Operators whose outputs have as many elements as their inputs' values say: evaluated where those values are known.

use super::super::sketch::{Ref, Sketch};
use std::cmp::Ordering;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Boxes by descending score that overlap none of those before them too much: rows of (picture, class, box).
pub(super) fn non_max_suppression(s: &mut Sketch<'_>) -> Drawn {
    let (boxes, scores) = (s.input(0)?, s.input(1)?);
    let ([batch, count, 4], [_, classes, n]) = (s.dims(boxes), s.dims(scores)) else {
        bail!("boxes are of shape {:?}, scores of {:?}", s.dims(boxes), s.dims(scores));
    };
    let (batch, count, classes) = (*batch, *count, *classes);
    ensure!(*n == count && s.dims(scores)[0] == batch, "there are {count} boxes, but scores of {:?}", s.dims(scores));
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
            let mut order: Vec<usize> = (0..count).filter(|&i| least.is_none_or(|least| score(i) > least)).collect();
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
    let values = s.doubles(0, "the tensor")?.context("input 0 is missing")?;
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
