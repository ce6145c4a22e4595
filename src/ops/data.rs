//! Ops that move data, and the op that the host resolves.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::{Dst, HOST, Src, copy};
use crate::program::cut::group;
use crate::program::{Copy, Extern, Gather, OpKind, Rules};
use crate::tensor::{DType, Element, MAX_RANK};
use core::ops::Range;

/// [`Copy`](OpKind::Copy).
pub const fn copy() -> Entry {
    Entry { kind: OpKind::Copy, rules: Rules::of::<Copy>(), eval: eval_copy }
}

fn eval_copy(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (c, _) = op.record::<Copy>()?;
    let (from, to) = (context.src_bytes(op.needed_input(0)?), context.dst_bytes(op.needed_output(0)?));
    let size = c.size as usize;
    // What fills the output comes before what is copied into it: a unit of its own.
    let fills = (c.fill == 1) as usize;
    let mut units = context.range();
    if fills == 1 && units.start == 0 && !units.is_empty() {
        let value = c.fill_value[0] as u64 | (c.fill_value[1] as u64) << 32;
        copy::fill(size, c.fill_elements as usize, value, to);
    }
    let mut axes = [(1, 0, 0); MAX_RANK];
    for (i, axis) in axes.iter_mut().enumerate().take(c.rank as usize) {
        *axis = (c.dims[i] as usize, c.from[i] as isize, c.to[i] as isize);
    }
    units = units.start.saturating_sub(fills)..units.end.saturating_sub(fills);
    let copies = copy::strided(size, &axes, (from, c.from_offset as usize), (to, c.to_offset as usize), units);
    Ok(Units { count: fills + copies, in_turn: fills == 1 })
}

/// [`Gather`](OpKind::Gather).
pub const fn gather() -> Entry {
    Entry { kind: OpKind::Gather, rules: Rules::of::<Gather>(), eval: eval_gather }
}

fn eval_gather(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (g, _) = op.record::<Gather>()?;
    let (table, indices) = (op.needed_input(0)?, op.needed_input(1)?);
    let (from, to) = (context.src_bytes(table), context.dst_bytes(op.needed_output(0)?));
    let each = group(g.outer as usize * g.row_bytes.div_ceil(4) as usize);
    let pieces = context.pieces(g.count as usize, each);
    match context.dtype(indices) {
        DType::I64 => gather_by(g, context.src::<i64>(indices), from, to, pieces),
        _ => gather_by(g, context.src::<i32>(indices), from, to, pieces),
    }?;
    Ok(Units::any((g.count as usize).div_ceil(each)))
}

/// The rows that these of the indices name, from each part of the table.
fn gather_by<T: Element + Into<i64>>(
    g: &Gather,
    indices: Src<'_, T>,
    from: Src<'_, u8>,
    to: Dst<'_, u8>,
    pieces: Range<usize>,
) -> Result<()> {
    let row = g.row_bytes as usize;
    match row {
        // Single numbers. A device has one loop for all.
        4 if HOST => places(g, indices, pieces, |at, to_at| copy::item::<4>(from, at * 4, to, to_at * 4)),
        8 if HOST => places(g, indices, pieces, |at, to_at| copy::item::<8>(from, at * 8, to, to_at * 8)),
        _ => places(g, indices, pieces, |at, to_at| copy::bytes(from.from(at * row), to.from(to_at * row), row)),
    }
}

/// Calls `each` with the numbers of a row that is read and of the one that is written.
#[inline]
fn places<T: Element + Into<i64>>(
    g: &Gather,
    indices: Src<'_, T>,
    pieces: Range<usize>,
    each: impl Fn(usize, usize),
) -> Result<()> {
    let (axis, count) = (g.axis as usize, g.count as usize);
    for o in 0..g.outer as usize {
        // Side by side in the output.
        for i in pieces.clone() {
            let index = indices.at(i).into();
            let index = if index < 0 { index.saturating_add(axis as i64) } else { index };
            if index < 0 || index >= axis as i64 {
                return Err(Error::new(Kind::Value, "an index is outside of the table that it gathers from"));
            }
            each(o * axis + index as usize, o * count + i);
        }
    }
    Ok(())
}

/// [`Extern`](OpKind::Extern).
pub const fn external() -> Entry {
    Entry { kind: OpKind::Extern, rules: Rules::of::<Extern>(), eval: eval_external }
}

fn eval_external(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (external, _) = op.record::<Extern>()?;
    match context.externs() {
        _ if context.units(1).is_empty() => Ok(Units::ONE),
        Some(externs) => externs.run(external.index, context, op).map(|()| Units::ONE),
        None => Err(Error::new(Kind::Extern, "the program has an op that only a host can evaluate, and there is none here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, blank, tensor};

    fn random_copies<T: Element + PartialEq + core::fmt::Debug>(value: impl Fn(u32) -> T) {
        let mut random = Random::new(21);
        for round in 0..300 {
            let rank = random.below(5);
            let sizes: Vec<usize> =
                (0..rank).map(|_| [0, 1, 2, 3, 5, 17, 33][random.below(7).max((round > 9) as usize)]).collect();
            let n: usize = sizes.iter().product();
            // Strides of each side by a random order of the axes, the source backwards along some.
            let mut side = |backwards: bool| {
                let mut order: Vec<usize> = (0..rank).collect();
                for i in (1..rank).rev() {
                    order.swap(i, random.below(i + 1));
                }
                let (mut strides, mut offset, mut size) = ([0i32; MAX_RANK], 0i64, 1i64);
                for &axis in &order {
                    strides[axis] = size as i32;
                    size *= sizes[axis].max(1) as i64;
                    if backwards && random.below(3) == 0 && sizes[axis] > 0 {
                        strides[axis] = -strides[axis];
                        offset -= (sizes[axis] as i64 - 1) * strides[axis] as i64;
                    }
                }
                (strides, offset as u32)
            };
            let ((from, from_offset), (to, to_offset)) = (side(true), side(false));
            let mut dims = [1; MAX_RANK];
            for (d, &s) in dims.iter_mut().zip(&sizes) {
                *d = s as u32;
            }
            let size = size_of::<T>() as u32;
            let mut record = Copy {
                size,
                rank: rank as u32,
                dims,
                from_offset,
                from,
                to_offset,
                to,
                fill: 1,
                fill_elements: n as u32 + 3,
                fill_value: [0; 2],
            };
            let x: Vec<T> = (0..n.max(1)).map(|i| value(i as u32 + 1)).collect();
            let mut want = vec![value(0); n + 3];
            for e in 0..n {
                let (mut rest, mut a, mut b) = (e, from_offset as i64, to_offset as i64);
                for axis in (0..rank).rev() {
                    let i = (rest % sizes[axis]) as i64;
                    rest /= sizes[axis];
                    (a, b) = (a + i * from[axis] as i64, b + i * to[axis] as i64);
                }
                want[b as usize] = x[a as usize];
            }
            let case = Case::new(&record, vec![tensor(&x)], vec![blank::<T>(n + 3)]);
            assert_eq!(case.run(copy()).unwrap()[0].to::<T>(), want, "{record:?}");
            record.from_offset += n.max(1) as u32;
            if n > 0 {
                assert!(Case::new(&record, vec![tensor(&x)], vec![blank::<T>(n + 3)]).run(copy()).is_err());
            }
        }
    }

    #[test]
    fn copies_of_all_element_sizes_agree_with_the_definition() {
        random_copies(|v| v as u8);
        random_copies(|v| v as u16);
        random_copies(|v| v);
        random_copies(|v| v as i64);
    }

    #[test]
    fn gather_takes_rows_from_either_end_and_reports_what_is_outside() {
        let table = tensor(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        let record = Gather { outer: 2, axis: 3, row_bytes: 8, count: 2 };
        let run = |i: [i64; 2]| Case::new(&record, vec![table.clone(), tensor(&i)], vec![blank::<f32>(8)]).run(gather());
        assert_eq!(run([2, -3]).unwrap()[0].to::<f32>(), [5.0, 6.0, 1.0, 2.0, 11.0, 12.0, 7.0, 8.0]);
        for bad in [3, -4, i64::MAX, i64::MIN] {
            assert_eq!(run([0, bad]).unwrap_err().kind, Kind::Value, "{bad}");
        }
    }

    #[test]
    fn without_a_host_an_extern_op_is_an_error() {
        let case = Case::new(&Extern { index: 3 }, vec![], vec![]);
        assert_eq!(case.run(external()).unwrap_err().kind, Kind::Extern);
    }
}
