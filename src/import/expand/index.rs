//! Gathers, scatters and what else goes by indices.

use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, Join};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Indices as `i64` or `i32`.
fn indices(s: &mut Sketch<'_>, slot: usize) -> TractResult<Ref> {
    let v = s.input(slot)?;
    Ok(if matches!(s.dtype(v), DType::I64 | DType::I32) { v } else { s.cast(v, DType::I64) })
}

pub(super) fn gather_elements(s: &mut Sketch<'_>) -> Drawn {
    let (x, index) = (s.input(0)?, indices(s, 1)?);
    let axis = s.axis(s.attributes().int("axis", 0), x)?;
    let dims = s.dims(index).to_vec();
    fits(s, x, index, axis)?;
    Ok(vec![s.op(Op::GatherElements { axis }, &[x, index], s.dtype(x), &dims)])
}

/// Indices stand at places that the tensor has.
fn fits(s: &Sketch<'_>, x: Ref, index: Ref, axis: usize) -> TractResult<()> {
    let (dims, places) = (s.dims(x), s.dims(index));
    let inside = dims.len() == places.len() && (0..dims.len()).all(|a| a == axis || places[a] <= dims[a]);
    ensure!(inside, "indices of shape {places:?} do not fit a tensor of {dims:?} along axis {axis}");
    Ok(())
}

pub(super) fn gather_nd(s: &mut Sketch<'_>) -> Drawn {
    let (x, index) = (s.input(0)?, indices(s, 1)?);
    let batch = usize::try_from(s.attributes().int("batch_dims", 0)).context("batch_dims is negative")?;
    let dims = nd_dims(s, x, index, batch)?;
    Ok(vec![s.op(Op::GatherNd { batch }, &[x, index], s.dtype(x), &dims)])
}

/// The shape of the rows that tuples of indices name.
fn nd_dims(s: &Sketch<'_>, x: Ref, index: Ref, batch: usize) -> TractResult<Vec<usize>> {
    let (dims, places) = (s.dims(x), s.dims(index));
    let (&depth, outer) = places.split_last().context("indices have no axis")?;
    let fits = batch <= outer.len() && batch + depth <= dims.len() && dims[..batch] == outer[..batch];
    ensure!(fits, "indices of shape {places:?} do not fit a tensor of {dims:?}, batch_dims {batch}");
    Ok([outer, &dims[batch + depth..]].concat())
}

fn join(s: &Sketch<'_>) -> TractResult<Join> {
    Ok(match s.attributes().text("reduction", "none") {
        "none" => Join::Replace,
        "add" => Join::Add,
        "mul" => Join::Multiply,
        "max" => Join::Max,
        "min" => Join::Min,
        other => bail!("reduction \"{other}\" is not one of ONNX's"),
    })
}

pub(super) fn scatter_elements(s: &mut Sketch<'_>) -> Drawn {
    let (x, index, rows) = (s.input(0)?, indices(s, 1)?, s.input(2)?);
    let axis = s.axis(s.attributes().int("axis", 0), x)?;
    fits(s, x, index, axis)?;
    ensure!(s.dims(index) == s.dims(rows), "indices of {:?}, but updates of {:?}", s.dims(index), s.dims(rows));
    let (op, dims) = (Op::ScatterElements { axis, join: join(s)? }, s.dims(x).to_vec());
    Ok(vec![s.op(op, &[x, index, rows], s.dtype(x), &dims)])
}

pub(super) fn scatter_nd(s: &mut Sketch<'_>) -> Drawn {
    let (x, index, rows) = (s.input(0)?, indices(s, 1)?, s.input(2)?);
    let want = nd_dims(s, x, index, 0)?;
    ensure!(s.dims(rows) == want, "updates of shape {:?}, but the indices name rows of {want:?}", s.dims(rows));
    let (op, dims) = (Op::ScatterNd { join: join(s)? }, s.dims(x).to_vec());
    Ok(vec![s.op(op, &[x, index, rows], s.dtype(x), &dims)])
}

/// New entries of a cache: `cache[b, …, (start[b] + i) % size, …] = update[b, …, i, …]`.
pub(super) fn tensor_scatter(s: &mut Sketch<'_>) -> Drawn {
    let (cache, update) = (s.input(0)?, s.input(1)?);
    let axis = s.axis(s.attributes().int("axis", -2), cache)?;
    let (dims, new) = (s.dims(cache).to_vec(), s.dims(update).to_vec());
    ensure!(axis > 0 && dims.len() == new.len(), "the update is of shape {new:?}, the cache of {dims:?}");
    let circular = s.attributes().text("mode", "linear") == "circular";
    let steps: Vec<i64> = (0..new[axis] as i64).collect();
    let steps = s.i64s(&steps, &[1, new[axis]]);
    let mut places = match s.optional(2)? {
        Some(start) => {
            let (start, batch) = (s.cast(start, DType::I64), dims[0]);
            let start = s.reshape(start, &[batch, 1])?;
            s.binary(Binary::Add, start, steps)?
        }
        None => steps,
    };
    if circular {
        places = s.with(Binary::Mod, places, dims[axis] as f64)?;
    }
    let mut shape = vec![1; dims.len()];
    (shape[0], shape[axis]) = (s.dims(places)[0], new[axis]);
    let column = s.reshape(places, &shape)?;
    let index = s.broadcast(column, &new);
    let op = Op::ScatterElements { axis, join: Join::Replace };
    Ok(vec![s.op(op, &[cache, index, update], s.dtype(cache), &dims)])
}

/// The first `sequence_lens[b]` steps of each sequence in the opposite order.
pub(super) fn reverse_sequence(s: &mut Sketch<'_>) -> Drawn {
    let (x, lens) = (s.input(0)?, s.input(1)?);
    let time = s.axis(s.attributes().int("time_axis", 0), x)?;
    let batch = s.axis(s.attributes().int("batch_axis", 1), x)?;
    let dims = s.dims(x).to_vec();
    let mut shape = vec![1; dims.len()];
    shape[batch] = dims[batch];
    let lens = s.cast(lens, DType::I64);
    let lens = s.reshape(lens, &shape)?;
    let steps: Vec<i64> = (0..dims[time] as i64).collect();
    let mut shape = vec![1; dims.len()];
    shape[time] = dims[time];
    let steps = s.i64s(&steps, &shape);
    // t < len ? len - 1 - t : t
    let last = s.with(Binary::Sub, lens, 1.0)?;
    let back = s.binary(Binary::Sub, last, steps)?;
    let inside = s.binary(Binary::Less, steps, lens)?;
    let places = s.select(inside, back, steps)?;
    let index = s.broadcast(places, &dims);
    Ok(vec![s.op(Op::GatherElements { axis: time }, &[x, index], s.dtype(x), &dims)])
}

/// `on` where the index is the place along the new axis, else `off`; indices out of range are nowhere.
pub(super) fn one_hot(s: &mut Sketch<'_>) -> Drawn {
    let (index, values) = (s.input(0)?, s.input(2)?);
    let depth = s.floats(1, "the depth")?.context("input 1 is missing")?;
    let depth = *depth.first().context("the depth is empty")? as i64;
    let depth = usize::try_from(depth).context("the depth is negative")?;
    let axis = s.attributes().int("axis", -1);
    let rank = s.rank(index) as i64 + 1;
    let axis = if axis < 0 { axis + rank } else { axis };
    ensure!((0..rank).contains(&axis), "there is no axis {axis}");
    let axis = axis as usize;
    let mut dims = s.dims(index).to_vec();
    dims.insert(axis, 1);
    let index = s.cast(index, DType::I64);
    let index = s.reshape(index, &dims)?;
    let negative = s.with(Binary::Less, index, 0.0)?;
    let counted = s.with(Binary::Add, index, depth as f64)?;
    let index = s.select(negative, counted, index)?;
    let places: Vec<i64> = (0..depth as i64).collect();
    let mut shape = vec![1; dims.len()];
    shape[axis] = depth;
    let places = s.i64s(&places, &shape);
    let here = s.binary(Binary::Equal, index, places)?;
    let (off, on) = (s.slice(values, 0, 0, 1, 1), s.slice(values, 0, 1, 1, 1));
    let (on, off) = (s.reshape(on, &[])?, s.reshape(off, &[])?);
    Ok(vec![s.select(here, on, off)?])
}
