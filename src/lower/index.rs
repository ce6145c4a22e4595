//! Gathers and scatters by tuples of indices.

use super::builder::{Builder, word};
use super::layout::Layout;
use super::net::Net;
use crate::graph::{Node, Op, ValueId};
use crate::program::index::Scatter;
use crate::program::{Index, OpKind};
use crate::tensor::{DType, MAX_RANK};

/// Writes the op of a gather or scatter.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    let net = b.net;
    let [Some(table), Some(index), rest @ ..] = &node.inputs[..] else { return Err("no indices".into()) };
    let (table, index) = (*table, *index);
    if !matches!(net.dtype(index), DType::I64 | DType::I32) {
        return Err(format!("indices of {} have no native form", net.dtype(index)));
    }
    let (dims, places) = (net.dims(table).to_vec(), net.dims(index).to_vec());
    let strides = Layout::row_major(&dims).strides;
    let size = word(net.dtype(table).size())?;
    let mut record = match node.op {
        Op::GatherElements { axis } | Op::ScatterElements { axis, .. } => {
            if dims.len() > MAX_RANK || dims.len() != places.len() {
                return Err(format!("indices of {} axes into a tensor of {}", places.len(), dims.len()));
            }
            let mut record = Index::new(size, 1);
            (record.rank, record.depth) = (places.len() as u32, 1);
            for (a, &n) in places.iter().enumerate() {
                record.dims[a] = word(n)?;
                record.base[a] = if a == axis { 0 } else { word(strides[a])? };
                if a != axis && n > dims[a] {
                    return Err("there are more indices along an axis than elements".into());
                }
            }
            (record.sizes[0], record.strides[0]) = (word(dims[axis])?, word(strides[axis])?);
            record
        }
        Op::GatherNd { batch } => tuples(size, &dims, &places, batch)?,
        Op::ScatterNd { .. } => tuples(size, &dims, &places, 0)?,
        _ => return Err("no gather or scatter".into()),
    };
    let (view, indices) = match runs(net, index, &record, dims.iter().product()) {
        Some((joined, starts)) => {
            record = joined;
            (b.row_major(table)?, Some(b.weight_i32(&format!("{} rows", net.name(index)), starts)?))
        }
        None => (b.row_major(table)?, b.row_major(index).and_then(|v| b.operand(&v))?),
    };
    let order: Vec<usize> = (0..net.dims(out).len()).collect();
    let (Op::ScatterElements { join, .. } | Op::ScatterNd { join }) = node.op else {
        let output = b.output(out, &order, false)?;
        let (inputs, outputs) = (vec![b.operand(&view)?, indices], vec![b.operand(&output)?]);
        b.push(OpKind::GatherNd, &record, &[], inputs, outputs, vec![], "rows by tuples of indices");
        return Ok(());
    };
    record.join = join as u32;
    let rows = b.row_major(rest.first().copied().flatten().ok_or("nothing to write")?)?;
    let output = b.output(out, &order, false)?;
    let in_place = if b.is_whole(&view) && b.is_whole(&output) { vec![0] } else { vec![] };
    let inputs = vec![b.operand(&view)?, indices, b.operand(&rows)?];
    let outputs = vec![b.operand(&output)?];
    b.push(OpKind::Scatter, &Scatter(record), &[], inputs, outputs, in_place, "written where indices say");
    Ok(())
}

/// Tuples along the last axis of the indices, behind `batch` axes that table and indices share.
fn tuples(size: u32, dims: &[usize], places: &[usize], batch: usize) -> Result<Index, String> {
    let (&depth, outer) = places.split_last().ok_or("indices without an axis")?;
    if batch + depth > dims.len() || batch > outer.len() || depth > MAX_RANK || dims[..batch] != outer[..batch] {
        return Err(format!("indices of shape {places:?} do not fit a tensor of {dims:?}"));
    }
    let strides = Layout::row_major(dims).strides;
    let row: usize = dims[batch + depth..].iter().product();
    let mut record = Index::new(size, word(row.max(1))?);
    (record.rank, record.depth) = (2, depth as u32);
    record.dims[0] = word(outer[..batch].iter().product())?;
    // Rows of no elements: nothing is moved.
    record.dims[1] = if row == 0 { 0 } else { word(outer[batch..].iter().product())? };
    record.base[0] = word(dims[batch..].iter().product())?;
    for k in 0..depth {
        record.sizes[k] = word(dims[batch + k])?;
        record.strides[k] = word(strides[batch + k])?;
    }
    Ok(record)
}

/// The rows that constant tuples name, as few and as long as they can be, with the element where each starts: an export of an
/// assignment to a slice names every element by a tuple, whole runs of which lie side by side. `None` where the tuples are
/// not constant, or in several batches, or out of range, which the run reports.
fn runs(net: &Net, index: ValueId, record: &Index, elements: usize) -> Option<(Index, Vec<i32>)> {
    let (row, depth) = (record.row as usize, record.depth as usize);
    // In one batch, tuples are the last axis of the places, or the only one.
    let one_batch = record.rank == 2 && record.dims[0] == 1 && record.base[1] == 0;
    if !one_batch || depth == 0 || record.dims[1] == 0 {
        return None;
    }
    let axes = || record.sizes.iter().zip(&record.strides).take(depth);
    let start = |tuple: &[i64]| -> Option<i32> {
        let mut start = 0;
        for (&i, (&size, &stride)) in tuple.iter().zip(axes()) {
            let i = if i < 0 { i.checked_add(size as i64)? } else { i };
            (0..size as i64).contains(&i).then_some(())?;
            start += i as usize * stride as usize;
        }
        i32::try_from(start).ok()
    };
    let starts: Vec<i32> = net.constant(index)?.i64s().chunks_exact(depth).map(start).collect::<Option<_>>()?;
    let follows = |pair: &[i32]| pair[0] as i64 + row as i64 == pair[1] as i64;
    let first = 1 + starts.windows(2).take_while(|pair| follows(pair)).count();
    let whole = starts.len().is_multiple_of(first) && starts.chunks_exact(first).all(|run| run.windows(2).all(follows));
    let run = if whole { first } else { 1 };
    let mut joined = Index::new(record.size, u32::try_from(row * run).ok()?);
    (joined.rank, joined.depth, joined.join) = (1, 1, record.join);
    joined.dims[0] = (starts.len() / run) as u32;
    (joined.sizes[0], joined.strides[0]) = (u32::try_from(elements.checked_sub(row * run)? + 1).ok()?, 1);
    Some((joined, starts.into_iter().step_by(run).collect()))
}
