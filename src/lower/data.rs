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
                    let view = b.row_major(x)?;
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
        && let Some((start, step, len)) = progression(&constant.i64s(), dims[axis])
    {
        // Known rows at equal distances are a view. The output has the index's axes in the place of `axis`.
        let view = b.view(x)?;
        let slice = view.layout.slice(axis, start, step, len);
        let mut strides = slice.strides.clone();
        let inner = Layout { offset: 0, dims: vec![len], strides: vec![slice.strides[axis]] };
        let shape = net.dims(index).to_vec();
        let split = inner.reshape(&shape).ok_or("a gather of another number of rows")?;
        strides.splice(axis..axis + 1, split.strides);
        let layout = Layout { offset: slice.offset, dims: net.dims(out).to_vec(), strides };
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

/// Start, step and length of indices into an axis of `n` that go up by equal steps.
fn progression(indices: &[i64], n: usize) -> Option<(usize, usize, usize)> {
    let at = |i: i64| usize::try_from(if i < 0 { i + n as i64 } else { i }).ok().filter(|&i| i < n);
    let all: Vec<usize> = indices.iter().map(|&i| at(i)).collect::<Option<_>>()?;
    let first = *all.first()?;
    let step = match all.get(1) {
        Some(&second) => second.checked_sub(first).filter(|&s| s > 0)?,
        None => 1,
    };
    all.windows(2).all(|w| w[0] + step == w[1]).then_some((first, step, all.len()))
}

#[cfg(test)]
mod tests {
    use super::progression;

    #[test]
    fn rows_at_equal_distances() {
        assert_eq!(progression(&[3], 5), Some((3, 1, 1)));
        assert_eq!(progression(&[-1], 5), Some((4, 1, 1)));
        assert_eq!(progression(&[0, 2, 4], 5), Some((0, 2, 3)));
        assert_eq!(progression(&[0, 2, 3], 5), None);
        assert_eq!(progression(&[2, 1], 5), None);
        assert_eq!(progression(&[5], 5), None);
        assert_eq!(progression(&[], 5), None);
    }
}
