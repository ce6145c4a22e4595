//! Gathers and scatters by tuples of indices.

use super::builder::{Builder, word};
use super::layout::Layout;
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
    let (view, indices) = (b.row_major(table)?, b.row_major(index)?);
    let order: Vec<usize> = (0..net.dims(out).len()).collect();
    let (Op::ScatterElements { join, .. } | Op::ScatterNd { join }) = node.op else {
        let output = b.output(out, &order, false)?;
        let (inputs, outputs) = (vec![b.operand(&view)?, b.operand(&indices)?], vec![b.operand(&output)?]);
        b.push(OpKind::GatherNd, &record, &[], inputs, outputs, vec![], "rows by tuples of indices");
        return Ok(());
    };
    record.join = join as u32;
    let rows = b.row_major(rest.first().copied().flatten().ok_or("nothing to write")?)?;
    let output = b.output(out, &order, false)?;
    let in_place = if b.is_whole(&view) && b.is_whole(&output) { vec![0] } else { vec![] };
    let inputs = vec![b.operand(&view)?, b.operand(&indices)?, b.operand(&rows)?];
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
