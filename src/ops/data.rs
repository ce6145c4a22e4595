//! Ops that move data, and the op that the host resolves.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::kernels::copy;
use crate::program::{Copy, Extern, Gather, OpKind};
use crate::tensor::{DType, MAX_RANK};

/// [`Copy`](OpKind::Copy).
pub const fn copy() -> Entry {
    Entry { kind: OpKind::Copy, eval: eval_copy }
}

fn eval_copy(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (c, _) = op.record::<Copy>()?;
    let (from, to) = (context.src_bytes(op.needed_input(0)?), context.dst_bytes(op.needed_output(0)?));
    let size = c.size as usize;
    if c.fill == 1 {
        let value = c.fill_value[0] as u64 | (c.fill_value[1] as u64) << 32;
        copy::fill(size, c.fill_elements as usize, value, to);
    }
    let mut axes = [(1, 0, 0); MAX_RANK];
    for (i, axis) in axes.iter_mut().enumerate().take(c.rank as usize) {
        *axis = (c.dims[i] as usize, c.from[i] as isize, c.to[i] as isize);
    }
    copy::strided(size, &axes, (from, c.from_offset as usize), (to, c.to_offset as usize));
    Ok(())
}

/// [`Gather`](OpKind::Gather).
pub const fn gather() -> Entry {
    Entry { kind: OpKind::Gather, eval: eval_gather }
}

fn eval_gather(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (g, _) = op.record::<Gather>()?;
    let (table, indices) = (op.needed_input(0)?, op.needed_input(1)?);
    let (from, to) = (context.src_bytes(table), context.dst_bytes(op.needed_output(0)?));
    let (axis, count, row) = (g.axis as usize, g.count as usize, g.row_bytes as usize);
    for i in 0..count {
        let index = match context.dtype(indices) {
            DType::I64 => context.src::<i64>(indices).at(i),
            _ => context.src::<i32>(indices).at(i) as i64,
        };
        let index = if index < 0 { index + axis as i64 } else { index };
        if index < 0 || index >= axis as i64 {
            return Err(Error::new(Kind::Value, "an index is outside of the table that it gathers from"));
        }
        for o in 0..g.outer as usize {
            copy::bytes(from.from((o * axis + index as usize) * row), to.from((o * count + i) * row), row);
        }
    }
    Ok(())
}

/// [`Extern`](OpKind::Extern).
pub const fn external() -> Entry {
    Entry { kind: OpKind::Extern, eval: eval_external }
}

fn eval_external(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (external, _) = op.record::<Extern>()?;
    match context.externs() {
        Some(externs) => externs.run(external.index, context, op),
        None => Err(Error::new(Kind::Extern, "the program has an op that only a host can evaluate, and there is none here")),
    }
}
