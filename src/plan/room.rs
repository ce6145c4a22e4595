//! Room in an arena for scratch memory of a host's own: some kernels are faster with more of it than an op's record asks for, and
//! most of an arena lies idle while most ops run.
//!
//! An image states where its tensors lie, not when they are in use. That is found as compilers find which variables are live: from the
//! last op to the first, what an op writes is not in use before it, and what it reads is. Of an op that may write a part of its
//! output (one input of a concatenation), nothing is taken for written: so more may count as in use than is, never less. State is
//! always in use, outputs to the end.

use crate::image::layout::{Place, TensorRecord};
use crate::image::{OpView, Program};
use crate::program::conv::Depthwise;
use crate::program::{self, Conv, Copy, Gemm, Map, OpKind, Pool, SLACK};
use crate::tensor::MAX_RANK;
use alloc::vec::Vec;
use core::ops::Range;

/// Where scratch memory lies in a program's arena.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Per op: empty where nothing was asked for.
    pub places: Vec<Range<u32>>,
    /// Bytes of the arena with all of them in it: those of the program, or more.
    pub arena: u64,
}

/// Finds room for so many bytes of scratch memory of each op: at the lowest place that is large enough and not in use while the op
/// runs, in the program's arena or reaching past its end. An op of which nothing is asked gets none.
pub fn room(program: Program<'_>, needs: &[u64]) -> Room {
    let mut room = Room { places: needs.iter().map(|_| 0..0).collect(), arena: program.arena_bytes() as u64 };
    let tensors = program.tensors();
    let in_arena = |number: &u32| tensors.get(*number as usize).filter(|t| t.place == Place::Arena as u8);
    let mut live = Live::default();
    let counts = program.lengths().iter().map(|length| &length.count);
    program.output_numbers().iter().chain(counts).filter_map(in_arena).for_each(|t| live.begin(span(t)));
    let ops: Vec<OpView<'_>> = program.ops().collect();
    for (op, (&bytes, place)) in ops.iter().zip(needs.iter().zip(&mut room.places)).rev() {
        let (reads, writes) = (|| op.inputs.iter().filter_map(in_arena), || op.outputs.iter().filter_map(in_arena));
        if bytes > 0 {
            let mut busy = live.clone();
            busy.begin(0..program.state_bytes() as u64);
            reads().chain(writes()).for_each(|t| busy.begin(span(t)));
            let start = busy.gap(bytes);
            // An arena has less than 4 GiB.
            if let (Ok(from), Ok(to)) = (u32::try_from(start), u32::try_from(start + bytes)) {
                (*place, room.arena) = (from..to, room.arena.max(start + bytes + SLACK as u64));
            }
        }
        writes().take(1).filter(|t| fills(op, t)).for_each(|t| live.end(span(t)));
        reads().for_each(|t| live.begin(span(t)));
    }
    room
}

fn span(t: &TensorRecord) -> Range<u64> {
    t.offset as u64..t.offset as u64 + t.bytes as u64
}

/// Whether an op is known to write all of its output's bytes.
fn fills(op: &OpView<'_>, t: &TensorRecord) -> bool {
    let product = |sizes: &[u32]| sizes.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
    let conv = |g: &Conv| product(&[g.batch, g.out_h, g.out_w, g.out_c]);
    let attributes = op.attributes;
    let written = match op.kind {
        OpKind::Conv => program::split::<Conv>(attributes).map(|(g, _)| conv(g)),
        OpKind::Depthwise => program::split::<Depthwise>(attributes).map(|(g, _)| conv(&g.0)),
        OpKind::Pool => program::split::<Pool>(attributes).map(|(g, _)| product(&[g.batch, g.out_h, g.out_w, g.channels])),
        OpKind::Gemm => program::split::<Gemm>(attributes).map(|(g, _)| product(&g.batch).saturating_mul(product(&[g.m, g.n]))),
        OpKind::Map => program::split::<Map>(attributes).map(|(g, _)| g.elements()),
        OpKind::Copy => program::split::<Copy>(attributes).map(|(g, _)| product(&g.dims[..(g.rank as usize).min(MAX_RANK)])),
        _ => return false,
    };
    written.is_ok_and(|n| n.saturating_mul(t.dtype().size() as u64) == t.bytes as u64)
}

/// Bytes in use: spans that ascend and do not touch.
#[derive(Clone, Debug, Default)]
struct Live(Vec<Range<u64>>);

impl Live {
    fn begin(&mut self, mut new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|span| span.end < new.start);
        let last = self.0.partition_point(|span| span.start <= new.end);
        if let Some(touching) = self.0.get(first..last).filter(|spans| !spans.is_empty()) {
            new = new.start.min(touching[0].start)..new.end.max(touching[touching.len() - 1].end);
        }
        self.0.splice(first..last, [new]);
    }

    fn end(&mut self, old: Range<u64>) {
        let first = self.0.partition_point(|span| span.end <= old.start);
        let last = self.0.partition_point(|span| span.start < old.end);
        if first >= last || old.is_empty() {
            return;
        }
        let left = self.0[first].start..old.start;
        let right = old.end..self.0[last - 1].end;
        self.0.splice(first..last, [left, right].into_iter().filter(|rest| !rest.is_empty()));
    }

    /// Where so many bytes may lie that are not in use, from a multiple of 64 on.
    fn gap(&self, bytes: u64) -> u64 {
        let mut from = 0u64;
        for span in &self.0 {
            if from + bytes <= span.start {
                break;
            }
            from = from.max(span.end.next_multiple_of(SLACK as u64));
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_are_what_single_bytes_would_be(
            changes in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..40),
            bytes in 1u64..3,
        ) {
            let (mut live, mut byte) = (Live::default(), [false; 64]);
            for (begins, from, n) in changes {
                if begins { live.begin(64 * from..64 * (from + n)) } else { live.end(64 * from..64 * (from + n)) }
                byte[from as usize..(from + n) as usize].fill(begins);
            }
            prop_assert!(live.0.windows(2).all(|w| w[0].end < w[1].start) && live.0.iter().all(|span| !span.is_empty()));
            let is = |i: u64| live.0.iter().any(|span| span.contains(&(64 * i)));
            prop_assert!((0..64).all(|i| is(i) == byte[i as usize]));
            let fits = |&i: &u64| (i..i + bytes).all(|i| !byte.get(i as usize).unwrap_or(&false));
            prop_assert_eq!(Some(live.gap(64 * bytes) / 64), (0..).find(fits));
        }
    }
}
