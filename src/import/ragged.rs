//! What ops make of axes whose length depends on data.
//!
//! Such an axis is computed for its most, and what lies behind its length `n`, its **rest**, must not change what counts. Two
//! things are kept true of every value:
//!
//! * an element that counts depends on elements that count alone;
//! * the rest repeats the last element (a slice of the tensor) that counts; if there is none, it is what the ops before make
//!   of a zero index. So an index or a divisor in the rest is one that could be there, and no op fails because of it.
//!
//! An op that takes elements one by one, or rows of them, keeps both by itself. One that joins elements of the axis gets an
//! input in which the rest is [masked](Mask); one that leaves another rest is followed by a copy of the last element. What
//! is left is refused.

use super::lengths::{Lengths, along};
use crate::graph::Op;
use crate::program::{Join, ReduceKind};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// By what the rest of an input is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// Nothing is larger.
    Least,
    /// Nothing is smaller.
    Most,
    Zero,
    One,
    /// No number.
    Nan,
}

/// An input as an op sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub dims: &'a [usize],
    pub lengths: &'a Lengths,
}

/// How an op passes lengths on.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Those of its outputs (all have the same), as far as they follow from its inputs.
    pub lengths: Lengths,
    /// Inputs whose rest along an axis must be masked before.
    pub masks: Vec<(usize, usize, Mask)>,
    /// Inputs of indices into an axis of this length: a negative one counts from its end. Of tuples of indices, the place.
    pub indices: Vec<(usize, Option<usize>, TDim)>,
    /// Its rest along this axis must be made good.
    pub repeat: Option<usize>,
    /// A mean: it is the sum of as many elements as this, divided by their number.
    pub mean: Option<TDim>,
    /// It writes rows, as many as this: if there are none, the rest must not write either.
    pub writes: Option<TDim>,
    /// Along this axis its parts must be packed.
    pub packed: Option<usize>,
}

impl Passed {
    fn with(lengths: Lengths) -> Passed {
        Passed { lengths, ..Passed::default() }
    }
}

/// Passes the lengths of inputs through an op. `told` are the lengths of its output, where they are known: by a slice, a
/// broadcast or a selection a length may arise.
///
/// # Errors
/// When the op does not keep what counts apart, or it is not known here.
pub(super) fn through(op: &Op, inputs: &[Option<Seen<'_>>], dims: &[usize], told: Option<&Lengths>) -> TractResult<Passed> {
    let seen = |slot: usize| inputs.get(slot).copied().flatten();
    let x = seen(0).context("its first input is missing")?;
    let only = |slots: &[usize]| -> TractResult<()> {
        let others = inputs.iter().enumerate().filter(|(slot, _)| !slots.contains(slot));
        for (slot, input) in others {
            let open = input.is_some_and(|i| !i.lengths.is_empty());
            ensure!(!open, "the size of its input {slot} depends on data");
        }
        Ok(())
    };
    // Of input 0 alone, which keeps its axes; none of `axes` may be open.
    let like = |axes: &dyn Fn(usize) -> bool| -> TractResult<Passed> {
        only(&[0])?;
        let open = x.lengths.iter().find(|(axis, _)| axes(*axis));
        ensure!(open.is_none(), "it joins elements of axis {}, whose size depends on data", open.map_or(0, |o| o.0));
        Ok(Passed::with(x.lengths.clone()))
    };
    Ok(match op {
        Op::Unary(..) | Op::Cast => like(&|_| false)?,
        Op::Binary(_) | Op::Select => Passed::with(broadcast(inputs, dims.len())?),
        Op::Broadcast => {
            let mut lengths = aligned(x, dims.len());
            for (axis, length) in told.into_iter().flatten() {
                let one = axis + x.dims.len() < dims.len() || x.dims[axis + x.dims.len() - dims.len()] == 1;
                match along(&lengths, *axis) {
                    Some(known) => ensure!(known == length, "{known} elements can't be broadcast to {length}"),
                    None if one => lengths.push((*axis, length.clone())),
                    None => bail!("axis {axis} can't be broadcast to {length} elements"),
                }
            }
            lengths.sort_by_key(|l| l.0);
            Passed::with(lengths)
        }
        Op::Transpose(perm) => {
            let moved = perm.iter().enumerate().filter_map(|(to, from)| Some((to, along(x.lengths, *from)?.clone())));
            Passed::with(moved.collect())
        }
        Op::Reshape => Passed::with(reshaped(x, dims)?),
        Op::Slice { axis, start, step } => {
            let mut passed = Passed::with(x.lengths.iter().filter(|l| l.0 != *axis).cloned().collect());
            let told = told.and_then(|t| along(t, *axis));
            if let Some(length) = told {
                // Elements that count, from the start on, as many as are told: the rest follows the same way.
                ensure!(*step > 0, "it goes backwards along axis {axis}, whose size depends on data");
                let last = start + dims[*axis].saturating_sub(1) * step.unsigned_abs();
                ensure!(last < x.dims[*axis], "it takes {length} elements from {start} on of {}", x.dims[*axis]);
                passed.lengths.push((*axis, length.clone()));
                passed.lengths.sort_by_key(|l| l.0);
                passed.repeat = Some(*axis);
            } else if let Some(length) = along(x.lengths, *axis) {
                bail!("it takes {} elements from {start} on of an axis of {length}", dims[*axis]);
            }
            passed
        }
        Op::Concat { axis } => {
            let mut lengths = joined(inputs, |a| a != *axis)?;
            // Behind each other they stand as they should if all but the last are full.
            let (mut length, mut open, mut packed) = (TDim::from(0), false, false);
            for (i, part) in inputs.iter().enumerate() {
                let part = part.context("an input is missing")?;
                if let Some(of) = along(part.lengths, *axis) {
                    packed |= i + 1 < inputs.len();
                    open = true;
                    length += of;
                } else {
                    length += part.dims[*axis];
                }
            }
            packed |= open && inputs.iter().flatten().map(|part| part.dims[*axis]).sum::<usize>() != dims[*axis];
            lengths.extend(open.then(|| (*axis, length.simplify())));
            lengths.sort_by_key(|l| l.0);
            Passed { packed: packed.then_some(*axis), ..Passed::with(lengths) }
        }
        Op::Pad { before, .. } => {
            let padded = |a: usize| before[a] != 0 || dims[a] != x.dims[a];
            like(&padded)?
        }
        Op::Gather { axis } => {
            let index = seen(1).context("its indices are missing")?;
            let mut lengths: Lengths = x.lengths.iter().filter(|l| l.0 < *axis).cloned().collect();
            lengths.extend(index.lengths.iter().map(|(a, l)| (a + axis, l.clone())));
            lengths.extend(x.lengths.iter().filter(|l| l.0 > *axis).map(|(a, l)| (a + index.dims.len() - 1, l.clone())));
            let indices = along(x.lengths, *axis).map(|n| (1, None, n.clone()));
            Passed { indices: indices.into_iter().collect(), ..Passed::with(lengths) }
        }
        Op::GatherElements { axis } => {
            let index = seen(1).context("its indices are missing")?;
            let lengths = index.lengths.clone();
            for (a, length) in x.lengths.iter().filter(|l| l.0 != *axis) {
                ensure!(along(&lengths, *a) == Some(length), "its indices have no axis of {length}");
            }
            let indices = along(x.lengths, *axis).map(|n| (1, None, n.clone()));
            Passed { indices: indices.into_iter().collect(), ..Passed::with(lengths) }
        }
        Op::GatherNd { batch } => {
            let index = seen(1).context("its indices are missing")?;
            let outer = index.dims.len() - 1;
            let depth = index.dims[outer];
            ensure!(along(index.lengths, outer).is_none(), "how many indices name a row depends on data");
            let named = x.lengths.iter().filter(|(a, _)| *a < batch + depth);
            let indices = named.map(|(a, n)| {
                let place = a.checked_sub(*batch).with_context(|| format!("the size of axis {a} depends on data"))?;
                Ok((1, Some(place), n.clone()))
            });
            let indices = indices.collect::<TractResult<_>>()?;
            let mut lengths = index.lengths.clone();
            lengths
                .extend(x.lengths.iter().filter(|l| l.0 >= batch + depth).map(|(a, l)| (a - batch - depth + outer, l.clone())));
            Passed { indices, ..Passed::with(lengths) }
        }
        Op::ScatterNd { join } | Op::ScatterElements { join, .. } => {
            let (index, rows) = (seen(1).context("its indices are missing")?, seen(2).context("its updates are missing")?);
            ensure!(x.lengths.is_empty(), "it writes into a tensor whose size depends on data");
            let mut passed = Passed::default();
            if let Some((axis, length)) = index.lengths.first() {
                let one = index.lengths.len() == 1 && rows.lengths.iter().all(|l| l == &index.lengths[0]);
                ensure!(one && *axis == 0, "which rows it writes depends on data along axis {axis}");
                ensure!(*join == Join::Replace, "it joins rows, whose number depends on data, with what is there");
                passed.writes = Some(length.clone());
            } else {
                ensure!(rows.lengths.is_empty(), "the size of its updates depends on data, that of its indices does not");
            }
            passed
        }
        Op::Reduce { kind, axes } => {
            only(&[0])?;
            let mut passed = Passed::with(x.lengths.iter().filter(|l| !axes.contains(&l.0)).cloned().collect());
            let mask = match kind {
                ReduceKind::Max => Mask::Least,
                ReduceKind::Min => Mask::Most,
                ReduceKind::Product => Mask::One,
                ReduceKind::LogSumExp => Mask::Least,
                _ => Mask::Zero,
            };
            passed.masks = x.lengths.iter().filter(|l| axes.contains(&l.0)).map(|l| (0, l.0, mask)).collect();
            if !passed.masks.is_empty() && matches!(kind, ReduceKind::Mean | ReduceKind::MeanSquare) {
                let size = |&a: &usize| along(x.lengths, a).cloned().unwrap_or_else(|| x.dims[a].into());
                passed.mean = Some(axes.iter().map(size).fold(1.into(), |product: TDim, size| product * size));
            }
            passed
        }
        // The first of the largest is never in the rest, which repeats what counts.
        Op::ArgReduce { axis, last: false, .. } => {
            only(&[0])?;
            Passed::with(x.lengths.iter().filter(|l| l.0 != *axis).cloned().collect())
        }
        Op::TopK { axis, min } => {
            only(&[0])?;
            let mut lengths: Lengths = x.lengths.iter().filter(|l| l.0 != *axis).cloned().collect();
            let mut passed = Passed::default();
            if along(x.lengths, *axis).is_some() {
                let length =
                    told.and_then(|t| along(t, *axis)).context("how many it takes of an axis of unknown size is not known")?;
                passed.masks.push((0, *axis, if *min { Mask::Most } else { Mask::Least }));
                lengths.push((*axis, length.clone()));
                lengths.sort_by_key(|l| l.0);
                passed.repeat = Some(*axis);
            }
            Passed { lengths, ..passed }
        }
        Op::Softmax { axis, .. } => {
            only(&[0])?;
            let open = along(x.lengths, *axis).is_some();
            let masks = if open { vec![(0, *axis, Mask::Least)] } else { vec![] };
            Passed { masks, repeat: open.then_some(*axis), ..Passed::with(x.lengths.clone()) }
        }
        Op::Cumulate { axis, reverse, product, .. } => {
            only(&[0])?;
            let open = along(x.lengths, *axis).is_some();
            let mask = if *product { Mask::One } else { Mask::Zero };
            let masks = if open && *reverse { vec![(0, *axis, mask)] } else { vec![] };
            Passed { masks, repeat: open.then_some(*axis), ..Passed::with(x.lengths.clone()) }
        }
        Op::LayerNorm { axis, .. } => like(&|a| a >= *axis)?,
        Op::GroupNorm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } => like(&|a| a > 0)?,
        Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalPool { .. } => like(&|a| a > 0)?,
        Op::BatchNorm { .. } => like(&|a| a == 1)?,
        Op::Resample { axis } => like(&|a| a == *axis)?,
        Op::Quantize { axis, .. } | Op::Dequantize { axis, .. } => {
            let one = seen(1).is_some_and(|s| s.dims.iter().product::<usize>() == 1);
            like(&|a| !one && a == *axis)?
        }
        Op::RoiAlign { .. } => {
            ensure!(x.lengths.is_empty(), "the size of its pictures depends on data");
            let regions = seen(1).context("its regions are missing")?;
            ensure!(regions.lengths.iter().all(|l| l.0 == 0), "how many coordinates a region has depends on data");
            Passed::with(regions.lengths.clone())
        }
        Op::EinSum { inputs: letters, output } => einsum(letters, output, inputs)?,
        Op::NonZero => {
            let open = along(x.lengths, 0).is_some();
            let masks = if open { vec![(0, 0, Mask::Zero)] } else { vec![] };
            Passed { masks, ..Passed::default() }
        }
        Op::NonMaxSuppression { .. } => {
            only(&[0, 1])?;
            let scores = seen(1).context("its scores are missing")?;
            let open = along(scores.lengths, 2);
            let same = x.lengths.len() == scores.lengths.len() && along(x.lengths, 1) == open;
            ensure!(same && x.lengths.len() == open.iter().len(), "only the number of boxes may depend on data, for both inputs");
            // A score that is no number keeps no box.
            let masks = if open.is_some() { vec![(1, 2, Mask::Nan)] } else { vec![] };
            Passed { masks, ..Passed::default() }
        }
        _ => {
            only(&[])?;
            Passed::default()
        }
    })
}

/// The lengths of a value by the axes of a shape of `rank` to which it is broadcast.
fn aligned(x: Seen<'_>, rank: usize) -> Lengths {
    let missing = rank - x.dims.len().min(rank);
    x.lengths.iter().map(|(a, l)| (a + missing, l.clone())).collect()
}

fn broadcast(inputs: &[Option<Seen<'_>>], rank: usize) -> TractResult<Lengths> {
    let mut lengths: Lengths = vec![];
    for input in inputs.iter().flatten() {
        for (axis, length) in aligned(*input, rank) {
            match along(&lengths, axis) {
                Some(known) => ensure!(*known == length, "{length} elements meet {known} along axis {axis}"),
                None => lengths.push((axis, length)),
            }
        }
    }
    for input in inputs.iter().flatten() {
        let missing = rank - input.dims.len();
        for (axis, length) in lengths.iter().filter(|l| l.0 >= missing) {
            let size = input.dims[axis - missing];
            let fits = size == 1 || along(input.lengths, axis - missing).is_some();
            ensure!(fits, "{size} elements meet {length} along axis {axis}");
        }
    }
    lengths.sort_by_key(|l| l.0);
    Ok(lengths)
}

/// The lengths that all inputs have along the axes that are `kept`.
fn joined(inputs: &[Option<Seen<'_>>], kept: impl Fn(usize) -> bool) -> TractResult<Lengths> {
    let of = |s: &Seen<'_>| s.lengths.iter().filter(|l| kept(l.0)).cloned().collect::<Lengths>();
    let mut all = inputs.iter().flatten().map(of);
    let first = all.next().unwrap_or_default();
    ensure!(all.all(|l| l == first), "its inputs have different sizes, which depend on data");
    Ok(first)
}

/// A reshape keeps an open axis if it stays one, or if it is the first of those that become one, or the other way round: in
/// row-major order the rest then stays behind what counts.
fn reshaped(x: Seen<'_>, dims: &[usize]) -> TractResult<Lengths> {
    let mut lengths: Lengths = vec![];
    let (mut from, mut to) = (0, 0);
    while from < x.dims.len() || to < dims.len() {
        // The next axes of both whose products are the same.
        let (start, first) = (from, to);
        let (mut a, mut b) = (1usize, 1usize);
        loop {
            if from < x.dims.len() && (a < b || (a == b && from == start)) {
                a = a.saturating_mul(x.dims[from]);
                from += 1;
            } else if to < dims.len() && (b < a || (a == b && to == first)) {
                b = b.saturating_mul(dims[to]);
                to += 1;
            } else {
                break;
            }
        }
        // Axes of one element may stand anywhere.
        while from < x.dims.len() && x.dims[from] == 1 {
            from += 1;
        }
        while to < dims.len() && dims[to] == 1 {
            to += 1;
        }
        let open: Vec<&(usize, TDim)> = x.lengths.iter().filter(|l| (start..from).contains(&l.0)).collect();
        let Some((axis, length)) = open.first() else { continue };
        ensure!(a == b, "{:?} can't be followed into {dims:?}", x.dims);
        let leads = x.dims[start..*axis].iter().all(|&d| d == 1);
        ensure!(leads && open.len() == 1, "axis {axis}, whose size depends on data, is joined with those before it");
        let behind: usize = x.dims[axis + 1..from].iter().product();
        let target = (first..to).find(|&t| dims[t] != 1).context("no axis is left for it")?;
        let after: usize = dims[target + 1..to].iter().product();
        let total = (length.clone() * behind as i64).simplify();
        ensure!(after > 0 && total.gcd().is_multiple_of(after as u64), "{total} elements are cut in pieces of {after}");
        lengths.push((target, (total / after as u64).simplify()));
    }
    Ok(lengths)
}

fn einsum(letters: &[String], output: &str, inputs: &[Option<Seen<'_>>]) -> TractResult<Passed> {
    let mut open: Vec<(char, TDim)> = vec![];
    let operands = || letters.iter().zip(inputs).filter_map(|(l, i)| Some((l, (*i)?)));
    for (letters, input) in operands() {
        for (axis, length) in input.lengths {
            let letter = letters.chars().nth(*axis).context("an axis without a letter")?;
            match open.iter().find(|o| o.0 == letter) {
                Some((_, known)) => ensure!(known == length, "{length} elements meet {known}"),
                None => open.push((letter, length.clone())),
            }
        }
    }
    let mut passed = Passed::default();
    for (letter, length) in open {
        let place = output.chars().position(|c| c == letter);
        for (slot, (letters, input)) in operands().enumerate() {
            let Some(axis) = letters.chars().position(|c| c == letter) else { continue };
            let own = along(input.lengths, axis).is_some();
            ensure!(own || input.dims[axis] == 1, "{} elements meet {length}", input.dims[axis]);
            if own && place.is_none() {
                passed.masks.push((slot, axis, Mask::Zero));
            }
        }
        passed.lengths.extend(place.map(|place| (place, length)));
    }
    passed.lengths.sort_by_key(|l| l.0);
    Ok(passed)
}
