//! Nodes that move data: most are views, the rest strided copies.

use super::builder::{Builder, View, word};
use super::layout::Layout;
use crate::graph::{Node, Op, ValueId};
use crate::plan::draft::Storage;
use crate::program::{self, OpKind};
use crate::tensor::{DType, MAX_RANK};

/// Binds the output of a data node to a view, or writes the copies that make it.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    let x = node.inputs.first().copied().flatten().ok_or("no input")?;
    let dims = b.net.dims(out).to_vec();
    match &node.op {
        Op::Transpose(perm) => {
            let view = b.view(x)?;
            b.bind(out, view.with_layout(view.layout.transpose(perm)));
            Ok(())
        }
        Op::Reshape => {
            let view = b.view(x)?;
            let (view, layout) = match view.layout.reshape(&dims) {
                Some(layout) => (view, layout),
                None => {
                    let view = b.dense(&view, &view.layout.order_for_reshape(&dims), b.net.name(x))?;
                    let layout = view.layout.reshape(&dims).ok_or("a reshape to another number of elements")?;
                    (view, layout)
                }
            };
            // The same bits may be of another type.
            b.bind(out, View { dtype: b.net.dtype(out), ..view.with_layout(layout) });
            Ok(())
        }
        Op::Slice { axis, start, step, .. } if *step > 0 => {
            let view = b.view(x)?;
            b.bind(out, view.with_layout(view.layout.slice(*axis, *start, *step as usize, dims[*axis])));
            Ok(())
        }
        Op::Slice { axis, start, step } => backwards(b, x, out, *axis, *start, *step),
        Op::Broadcast => {
            let view = b.view(x)?;
            b.bind(out, view.with_layout(view.layout.broadcast(&dims)));
            Ok(())
        }
        Op::Concat { axis } => concat(b, node, out, *axis),
        Op::Window { axis } => window(b, x, out, *axis),
        Op::Pad { before, value } => pad(b, x, out, before, value),
        Op::Gather { axis } => gather(b, node, x, out, *axis),
        _ => Err("it has no native form".into()),
    }
}

fn concat(b: &mut Builder<'_>, node: &Node, out: ValueId, axis: usize) -> Result<(), String> {
    let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
    if !b.is_bound(out) {
        // In the order of the first input that lies somewhere.
        let bound = inputs.iter().copied().find(|&v| b.is_bound(v));
        let order = match bound {
            Some(v) => b.view(v)?.layout.order(),
            None => (0..b.net.dims(out).len()).collect(),
        };
        b.output(out, &order, true)?;
    }
    let whole = b.view(out)?;
    let mut start = 0;
    for v in inputs {
        let n = b.net.dims(v)[axis];
        let place = whole.with_layout(whole.layout.slice(axis, start, 1, n));
        start += n;
        let from = if b.is_bound(v) { b.view(v)? } else { b.ordered(v, &whole.layout.order())? };
        let there = from.root == place.root && from.layout == place.layout;
        if !there && place.layout.elements() > 0 {
            b.copy(&from, &place)?;
        }
    }
    Ok(())
}

fn pad(b: &mut Builder<'_>, x: ValueId, out: ValueId, before: &[usize], value: &[u8]) -> Result<(), String> {
    let view = b.view(x)?;
    // A buffer of its own, which is filled as a whole, and no part of a concat's output.
    let (net, order) = (b.net, view.layout.order());
    let output = b.buffer(net.name(out), net.dtype(out), net.dims(out), &order)?;
    b.bind(out, output.clone());
    let mut inside = output.layout.clone();
    for (axis, &start) in before.iter().enumerate() {
        inside = inside.slice(axis, start, 1, view.layout.dims[axis]);
    }
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(value) {
        *to = *from;
    }
    let elements = output.layout.elements();
    b.copy_filled(&view, &output.with_layout(inside), Some((elements, u64::from_le_bytes(eight))))
}

/// The last steps of a stream: state, to which each run appends one.
fn window(b: &mut Builder<'_>, x: ValueId, out: ValueId, axis: usize) -> Result<(), String> {
    let dims = b.net.dims(out).to_vec();
    // Steps are rows: their axis is the outermost in memory, the others keep their order.
    let mut order = b.view(x)?.layout.order();
    order.retain(|&a| a != axis);
    order.insert(0, axis);
    let step = b.ordered(x, &order)?;
    let state = b.buffer(b.net.name(out), step.dtype, &dims, &order)?;
    b.draft.values[state.root.0 as usize].storage = Storage::State;
    let row = dims.iter().product::<usize>() / dims[axis].max(1) * step.dtype.size();
    let record = program::Window { new: word(b.net.dims(x)[axis])?, keep: word(dims[axis])?, row_bytes: word(row)? };
    let inputs = vec![b.operand(&step)?, Some(state.root)];
    b.push(OpKind::Window, &record, &[], inputs, vec![Some(state.root)], vec![], "the last steps of the stream");
    b.bind(out, state);
    Ok(())
}

/// A slice whose step is negative: the one layout that has no view.
fn backwards(b: &mut Builder<'_>, x: ValueId, out: ValueId, axis: usize, start: usize, step: isize) -> Result<(), String> {
    let view = b.view(x)?;
    let output = b.output(out, &view.layout.order(), false)?;
    let rank = output.layout.dims.len();
    if rank > MAX_RANK {
        return Err(format!("a slice of {rank} axes"));
    }
    let int = |n: usize| i32::try_from(n).map_err(|_| "a stride is too large");
    let mut record = program::Copy::new(word(view.dtype.size())?, rank as u32);
    record.from_offset = word(start * view.layout.strides[axis])?;
    let order = output.layout.order();
    for (i, &a) in order.iter().enumerate() {
        record.dims[i] = word(output.layout.dims[a])?;
        record.from[i] = int(view.layout.strides[a])?;
        record.to[i] = int(output.layout.strides[a])?;
        if a == axis {
            record.from[i] *= i32::try_from(step).map_err(|_| "a step is too large")?;
        }
    }
    let (inputs, outputs) = (vec![b.operand(&view)?], vec![b.operand(&output)?]);
    b.push(OpKind::Copy, &record, &[], inputs, outputs, vec![], "a slice taken backwards");
    Ok(())
}

fn gather(b: &mut Builder<'_>, node: &Node, x: ValueId, out: ValueId, axis: usize) -> Result<(), String> {
    let net = b.net;
    let index = node.inputs.get(1).copied().flatten().ok_or("no indices")?;
    let dims = net.dims(x).to_vec();
    if let Some(constant) = net.constant(index)
        && let Some((start, steps)) = affine(&constant.i64s(), net.dims(index), dims[axis])
    {
        // Known rows at equal distances, along each of the index's axes, are a view (also where windows overlap, as exports
        // of `as_strided` have them). The output has the index's axes in the place of `axis`.
        let view = b.view(x)?;
        let stride = view.layout.strides[axis];
        let mut strides = view.layout.strides.clone();
        strides.splice(axis..axis + 1, steps.iter().map(|s| s * stride));
        let layout = Layout { offset: view.layout.offset + start * stride, dims: net.dims(out).to_vec(), strides };
        if layout.dims.len() == layout.strides.len() {
            b.bind(out, view.with_layout(layout));
            return Ok(());
        }
    }
    if !matches!(net.dtype(index), DType::I64 | DType::I32) {
        return Err(format!("indices of {} have no native form", net.dtype(index)));
    }
    let table = b.row_major(x)?;
    let indices = b.row_major(index)?;
    let order: Vec<usize> = (0..net.dims(out).len()).collect();
    let output = b.output(out, &order, false)?;
    let record = program::Gather {
        outer: word(dims[..axis].iter().product())?,
        axis: word(dims[axis])?,
        row_bytes: word(dims[axis + 1..].iter().product::<usize>() * table.dtype.size())?,
        count: word(net.dims(index).iter().product())?,
    };
    let inputs = vec![b.operand(&table)?, b.operand(&indices)?];
    let outputs = vec![b.operand(&output)?];
    b.push(OpKind::Gather, &record, &[], inputs, outputs, vec![], "rows by index");
    Ok(())
}

/// The first of these indices into an axis of `n`, and how much further each axis of their `shape` leads, if that is the same
/// everywhere.
fn affine(indices: &[i64], shape: &[usize], n: usize) -> Option<(usize, Vec<usize>)> {
    let at = |&i: &i64| usize::try_from(if i < 0 { i + n as i64 } else { i }).ok().filter(|&i| i < n);
    let all: Vec<usize> = indices.iter().map(at).collect::<Option<_>>()?;
    let first = *all.first()?;
    let mut steps = vec![0; shape.len()];
    let mut inner = 1; // elements of the index from one place along the axis to the next
    for (step, &len) in steps.iter_mut().zip(shape).rev() {
        if len > 1 {
            *step = all[inner].checked_sub(first)?;
            // Each block of the axes from this one on is the one inside of it, shifted.
            let shifted = |k: usize| all[k * inner..][..inner].iter().zip(&all).all(|(&i, &first)| i == first + k * *step);
            if !(1..len).all(shifted) {
                return None;
            }
        }
        inner *= len;
    }
    Some((first, steps))
}

#[cfg(test)]
mod tests {
    use super::affine;

    #[test]
    fn rows_at_equal_distances() {
        assert_eq!(affine(&[3], &[1], 5), Some((3, vec![0])));
        assert_eq!(affine(&[-1], &[], 5), Some((4, vec![])));
        assert_eq!(affine(&[0, 2, 4], &[3], 5), Some((0, vec![2])));
        assert_eq!(affine(&[1, 1, 1], &[3], 5), Some((1, vec![0])));
        assert_eq!(affine(&[0, 2, 3], &[3], 5), None);
        assert_eq!(affine(&[2, 1], &[2], 5), None);
        assert_eq!(affine(&[5], &[1], 5), None);
        assert_eq!(affine(&[], &[0], 5), None);
    }

    #[test]
    fn overlapping_windows() {
        assert_eq!(affine(&[1, 2, 3, 2, 3, 4], &[2, 3], 5), Some((1, vec![1, 1])));
        assert_eq!(affine(&[0, 1, 4, 5, 2, 3, 6, 7], &[2, 1, 2, 2], 8), Some((0, vec![2, 0, 4, 1])));
        assert_eq!(affine(&[0, 1, 4, 5, 2, 3, 6, 6], &[2, 1, 2, 2], 8), None);
        assert_eq!(affine(&[0, 1, 4, 5, 2, 3, 7, 8], &[2, 1, 2, 2], 9), None);
    }
}
