//! Gathers and scatters over several axes.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::{Dst, HOST, Src, copy};
use crate::program::cut::group;
use crate::program::index::{Join, Scatter};
use crate::program::{Index, OpKind, Rules};
use crate::tensor::{DType, Element, MAX_RANK};
use core::ops::Range;

/// Calls `each` with the number of each of these tuples and the element of the table where its row starts.
fn walk(record: &Index, context: &Context<'_>, indices: u32, tuples: Range<usize>, each: impl FnMut(usize, usize)) -> Result<()> {
    match context.dtype(indices) {
        DType::I64 => walk_by(record, context.src::<i64>(indices), tuples, each),
        _ => walk_by(record, context.src::<i32>(indices), tuples, each),
    }
}

/// As [`walk`], by indices of this type.
fn walk_by<T: Element + Into<i64>>(
    record: &Index,
    indices: Src<'_, T>,
    tuples: Range<usize>,
    mut each: impl FnMut(usize, usize),
) -> Result<()> {
    let (rank, depth) = (record.rank as usize, record.depth as usize);
    let axes = (&record.sizes[..depth], &record.strides[..depth]);
    let mut place = [0u32; MAX_RANK];
    let mut base = 0usize;
    if tuples.start > 0 && !tuples.is_empty() {
        let mut rest = tuples.start;
        for axis in (0..rank).rev() {
            place[axis] = (rest % record.dims[axis] as usize) as u32;
            rest /= record.dims[axis] as usize;
            base += place[axis] as usize * record.base[axis] as usize;
        }
    }
    if HOST && depth == 1 && rank > 0 {
        // Of single indices most are read one after the other: along the last axis nothing else changes. A device has one loop for all.
        let (size, stride, last) = (record.sizes[0] as i64, record.strides[0] as usize, rank - 1);
        let (row, step) = (record.dims[last], record.base[last] as usize);
        let mut t = tuples.start;
        while t < tuples.end {
            let count = (row.saturating_sub(place[last]) as usize).clamp(1, tuples.end - t);
            for k in t..t + count {
                let index = indices.at(k).into();
                let index = if index < 0 { index.saturating_add(size) } else { index };
                if index < 0 || index >= size {
                    return Err(Error::new(Kind::Value, "an index is outside of the axis that it counts on"));
                }
                each(k, base + index as usize * stride);
                base += step;
            }
            t += count;
            place[last] += count as u32;
            // The next place in the index space.
            for axis in (0..rank).rev().take_while(|_| t < tuples.end) {
                if place[axis] < record.dims[axis] {
                    break;
                }
                base -= place[axis] as usize * record.base[axis] as usize;
                place[axis] = 0;
                if let Some(outer) = axis.checked_sub(1) {
                    place[outer] += 1;
                    base += record.base[outer] as usize;
                }
            }
        }
        return Ok(());
    }
    for t in tuples {
        let mut start = base;
        for (k, (&size, &stride)) in axes.0.iter().zip(axes.1).enumerate() {
            let (size, index) = (size as i64, indices.at(t * depth + k).into());
            let index = if index < 0 { index.saturating_add(size) } else { index };
            if index < 0 || index >= size {
                return Err(Error::new(Kind::Value, "an index is outside of the axis that it counts on"));
            }
            start += index as usize * stride as usize;
        }
        each(t, start);
        // The next place in the index space.
        for axis in (0..rank).rev() {
            place[axis] += 1;
            base += record.base[axis] as usize;
            if place[axis] < record.dims[axis] {
                break;
            }
            base -= place[axis] as usize * record.base[axis] as usize;
            place[axis] = 0;
        }
    }
    Ok(())
}

/// All tuples.
fn all(record: &Index) -> Range<usize> {
    0..record.tuples().unwrap_or(0) as usize
}

/// [`GatherNd`](OpKind::GatherNd).
pub const fn gather_nd() -> Entry {
    Entry { kind: OpKind::GatherNd, rules: Rules::of::<Index>(), eval: eval_gather_nd }
}

fn eval_gather_nd(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (record, _) = op.record::<Index>()?;
    let (from, to) = (context.src_bytes(op.needed_input(0)?), context.dst_bytes(op.needed_output(0)?));
    let (size, row) = (record.size as usize, record.row as usize * record.size as usize);
    let (count, each) = (all(record).len(), group(record.row as usize + record.depth as usize));
    let (indices, tuples) = (op.needed_input(1)?, context.pieces(count, each));
    match row {
        // Single numbers, as `gather` along an axis takes them. A device has one loop for all.
        4 if HOST => walk(record, context, indices, tuples, |t, start| copy::item::<4>(from, start * size, to, t * 4)),
        8 if HOST => walk(record, context, indices, tuples, |t, start| copy::item::<8>(from, start * size, to, t * 8)),
        _ => walk(record, context, indices, tuples, |t, start| copy::bytes(from.from(start * size), to.from(t * row), row)),
    }?;
    Ok(Units::any(count.div_ceil(each)))
}

/// [`Scatter`](OpKind::Scatter).
pub const fn scatter() -> Entry {
    Entry { kind: OpKind::Scatter, rules: Rules::of::<Scatter>(), eval: eval_scatter }
}

fn eval_scatter(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    if !context.units(1).is_empty() {
        scatter_all(context, op)?;
    }
    Ok(Units::ONE)
}

fn scatter_all(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (Scatter(record), _) = op.record::<Scatter>()?;
    let (table, output) = (op.needed_input(0)?, op.needed_output(0)?);
    let to = context.dst_bytes(output);
    copy::bytes(context.src_bytes(table), to, to.len());
    let join = Join::from_number(record.join).unwrap_or(Join::Replace);
    if join == Join::Replace {
        let rows = context.src_bytes(op.needed_input(2)?);
        let (size, row) = (record.size as usize, record.row as usize * record.size as usize);
        return walk(record, context, op.needed_input(1)?, all(record), |t, start| {
            copy::bytes(rows.from(t * row), to.from(start * size), row);
        });
    }
    match context.dtype(table) {
        DType::I64 => joined::<i64>(record, context, op, |a, b| integer(join, a, b)),
        DType::I32 => joined::<i32>(record, context, op, |a, b| match join {
            Join::Add => a.wrapping_add(b),
            Join::Multiply => a.wrapping_mul(b),
            _ => integer(join, a as i64, b as i64) as i32,
        }),
        _ => joined::<f32>(record, context, op, |a, b| match join {
            Join::Add => a + b,
            Join::Multiply => a * b,
            // NaN stays.
            Join::Max if b > a || b.is_nan() => b,
            Join::Min if b < a || b.is_nan() => b,
            _ => a,
        }),
    }
}

fn integer(join: Join, a: i64, b: i64) -> i64 {
    match join {
        Join::Add => a.wrapping_add(b),
        Join::Multiply => a.wrapping_mul(b),
        Join::Max => a.max(b),
        Join::Min => a.min(b),
        Join::Replace => b,
    }
}

fn joined<T: Element>(record: &Index, context: &Context<'_>, op: &Op<'_>, join: impl Fn(T, T) -> T) -> Result<()> {
    let (rows, to): (_, Dst<'_, T>) = (context.input::<T>(op, 2), context.output(op, 0));
    let row = record.row as usize;
    walk(record, context, op.needed_input(1)?, all(record), |t, start| {
        for i in 0..row {
            to.set(start + i, join(to.src().at(start + i), rows.at(t * row + i)));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, blank, tensor};

    /// A 2x3x2 table, indexed on the last two axes per batch: the record of GatherND with one batch axis.
    fn batched() -> Index {
        let mut record = Index::new(4, 1);
        (record.rank, record.depth) = (2, 2);
        record.dims[..2].copy_from_slice(&[2, 2]);
        record.base[..2].copy_from_slice(&[6, 0]);
        record.sizes[..2].copy_from_slice(&[3, 2]);
        record.strides[..2].copy_from_slice(&[2, 1]);
        record
    }

    fn table() -> Tensor {
        tensor(&core::array::from_fn::<f32, 12, _>(|i| i as f32))
    }

    #[test]
    fn tuples_name_places_from_either_end() {
        let indices = tensor(&[0i64, 0, -1, 1, 1, -2, 2, 0]);
        let record = batched();
        let case = Case::new(&record, vec![table(), indices], vec![blank::<f32>(4)]);
        assert_eq!(case.run(gather_nd()).unwrap()[0].to::<f32>(), [0.0, 5.0, 8.0, 10.0]);
        for bad in [3i64, -4, i64::MAX, i64::MIN] {
            let indices = tensor(&[0i64, 0, -1, 1, 1, -2, bad, 0]);
            let case = Case::new(&record, vec![table(), indices], vec![blank::<f32>(4)]);
            assert_eq!(case.run(gather_nd()).unwrap_err().kind, Kind::Value, "{bad}");
        }
    }

    #[test]
    fn rows_are_taken_whole() {
        let mut record = Index::new(4, 2);
        (record.rank, record.depth) = (1, 2);
        record.dims[0] = 3;
        record.sizes[..2].copy_from_slice(&[2, 3]);
        record.strides[..2].copy_from_slice(&[6, 2]);
        let indices = tensor(&[1i32, 0, 0, -1, 0, 0]);
        let case = Case::new(&record, vec![table(), indices], vec![blank::<f32>(6)]);
        assert_eq!(case.run(gather_nd()).unwrap()[0].to::<f32>(), [6.0, 7.0, 4.0, 5.0, 0.0, 1.0]);
    }

    #[test]
    fn scatters_join_as_they_are_told() {
        let mut record = Index::new(4, 1);
        (record.rank, record.depth) = (1, 1);
        (record.dims[0], record.sizes[0], record.strides[0]) = (3, 4, 1);
        let cases = [
            (Join::Replace, [1, 30, 3, -5]),
            (Join::Add, [1, 42, 3, -1]),
            (Join::Multiply, [1, 600, 3, -20]),
            (Join::Max, [1, 30, 3, 4]),
            (Join::Min, [1, 2, 3, -5]),
        ];
        for (join, want) in cases {
            record.join = join as u32;
            for shared in [None, Some(0)] {
                let inputs = vec![tensor(&[1i32, 2, 3, 4]), tensor(&[1i64, -1, -3]), tensor(&[10i32, -5, 30])];
                let scatter_record = Scatter(record);
                let mut case = Case::new(&scatter_record, inputs, vec![blank::<i32>(4)]);
                case.shared = vec![shared];
                assert_eq!(case.run(scatter()).unwrap()[0].to::<i32>(), want, "{join:?}");
                let floats = |v: &[i32]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
                let inputs = vec![tensor(&floats(&[1, 2, 3, 4])), tensor(&[1i64, -1, -3]), tensor(&floats(&[10, -5, 30]))];
                let mut case = Case::new(&scatter_record, inputs, vec![blank::<f32>(4)]);
                case.shared = vec![shared];
                assert_eq!(case.run(scatter()).unwrap()[0].to::<f32>(), floats(&want), "{join:?}");
            }
        }
    }

    #[test]
    fn bad_records_are_rejected() {
        let run = |change: &dyn Fn(&mut Index)| {
            let mut record = batched();
            change(&mut record);
            Case::new(&record, vec![table(), tensor(&[0i64; 8])], vec![blank::<f32>(4)]).check(OpKind::GatherNd)
        };
        assert_eq!(run(&|_| ()), Ok(()));
        assert!(run(&|r| r.size = 3).is_err());
        assert!(run(&|r| r.rank = 9).is_err());
        assert!(run(&|r| r.row = 0).is_err());
        assert!(run(&|r| r.depth = 9).is_err());
        assert!(run(&|r| r.depth = 3).is_err(), "too few indices");
        assert!(run(&|r| r.dims[1] = 3).is_err(), "too few rows");
        assert!(run(&|r| r.base[0] = 7).is_err(), "past the table");
        assert!(run(&|r| r.sizes[0] = 4).is_err(), "past the table");
        assert!(run(&|r| r.strides = [u32::MAX; MAX_RANK]).is_err(), "far past the table");
        assert!(run(&|r| r.dims = [u32::MAX; MAX_RANK]).is_err(), "past the table");
        let inputs = vec![table(), tensor(&[0f32; 8])];
        let record = batched();
        assert!(Case::new(&record, inputs, vec![blank::<f32>(4)]).check(OpKind::GatherNd).is_err(), "float indices");
        let inputs = || vec![table(), tensor(&[0i64; 8]), tensor(&[0f32; 4])];
        let record = Scatter(batched());
        assert_eq!(Case::new(&record, inputs(), vec![blank::<f32>(12)]).check(OpKind::Scatter), Ok(()));
        assert!(Case::new(&record, inputs(), vec![blank::<f32>(13)]).check(OpKind::Scatter).is_err());
        let unknown = Scatter(Index { join: 5, ..batched() });
        assert!(Case::new(&unknown, inputs(), vec![blank::<f32>(12)]).check(OpKind::Scatter).is_err());
    }
}
