//! The threads of a session: which ops they share, how units are dealt out, and each thread's scratch memory.
#![allow(unsafe_code)]

use super::context::Scratch;
use super::pool::{MOST_PARTS, Pool};
use crate::aligned::AlignedBytes;
use crate::error::{Error, Result};
use crate::image::{OpView, Program};
use crate::program;
use core::ops::Range;
use std::io;
use std::sync::{Mutex, PoisonError};

/// What a byte written counts as in multiply-accumulates, where it is asked whether an op is worth sharing.
const BYTE: u64 = 3;

/// Threads for one session.
pub(crate) struct Crew {
    // Dropped in this order: the threads before the memory.
    pool: Pool,
    /// Of each thread but the caller's, and its memory.
    scratch: Box<[Scratch]>,
    _memory: Box<[AlignedBytes]>,
    /// Whether an op is worth sharing, by its number, and from how much work on it is.
    shares: Vec<bool>,
    least: u64,
}

impl Crew {
    /// Threads (the caller's is one of them) to run a program, with so much scratch memory each. Ops of less work than `least`
    /// multiply-accumulates are not shared.
    pub fn new(program: Program<'_>, threads: usize, scratch: usize, least: u64) -> io::Result<Crew> {
        let (scratch, memory) = memory(threads, scratch);
        let mut crew = Crew { pool: Pool::new(threads)?, scratch, _memory: memory, shares: Vec::new(), least };
        crew.follow(program);
        Ok(crew)
    }

    /// Goes over to another program. It allocates only where that has more ops, or needs more scratch memory, than any before.
    pub fn follow(&mut self, program: Program<'_>) {
        let bytes = |&t: &u32| program.tensors().get(t as usize).map_or(0, |t| t.bytes as u64);
        let worth = |op: OpView<'_>| {
            let written: u64 = op.outputs.iter().map(bytes).sum();
            program::macs(op.kind, op.attributes).unwrap_or(0).max(BYTE * written) >= self.least
        };
        self.shares.clear();
        self.shares.extend(program.ops().map(worth));
        if self.scratch.first().is_some_and(|s| s.len < program.scratch_bytes()) {
            (self.scratch, self._memory) = memory(self.pool.threads(), program.scratch_bytes());
        }
    }

    /// Whether an op is worth sharing.
    pub fn shares(&self, op: u32) -> bool {
        self.shares.get(op as usize).copied().unwrap_or(false)
    }

    /// Calls `work` for each of so many parts, on all threads.
    pub fn each(&mut self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        for first in (0..parts).step_by(MOST_PARTS) {
            self.pool.run(MOST_PARTS.min(parts - first), &|_, part| work(first + part));
        }
    }

    /// Evaluates units on all threads: `evaluate` is given ranges of them, and scratch memory as long as `own`, which is the
    /// caller's. Of several errors it gives that of the first units, as a single thread would.
    pub fn run(
        &mut self,
        units: Range<usize>,
        own: Scratch,
        evaluate: &(dyn Fn(Range<usize>, Scratch) -> Result<()> + Sync),
    ) -> Result<()> {
        let threads = self.pool.threads();
        let scratch = &self.scratch;
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        self.pool.run(2 * threads, &|thread, part| {
            let range = deal(part, threads, units.len());
            if range.is_empty() {
                return;
            }
            let mine =
                if thread == 0 { own } else { Scratch { len: own.len.min(scratch[thread - 1].len), ..scratch[thread - 1] } };
            if let Err(error) = evaluate(units.start + range.start..units.start + range.end, mine) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.is_none_or(|(first, _)| part < first) {
                    *failed = Some((part, error));
                }
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// Scratch memory of each thread but the caller's.
fn memory(threads: usize, bytes: usize) -> (Box<[Scratch]>, Box<[AlignedBytes]>) {
    let mut memory: Box<[AlignedBytes]> = (1..threads).map(|_| AlignedBytes::zeroed(bytes, 64)).collect();
    (memory.iter_mut().map(|m| Scratch { start: m.as_mut_ptr(), len: bytes }).collect(), memory)
}

/// The units of a part: a first part of each thread, of three quarters of all in sum, then a second one of what is left. So
/// there are few parts, and a thread that is late does less.
fn deal(part: usize, threads: usize, units: usize) -> Range<usize> {
    let first = units * 3 / 4;
    let share = |k: usize, of: usize| of * k / threads;
    if part < threads {
        share(part, first)..share(part + 1, first)
    } else {
        let part = part - threads;
        first + share(part, units - first)..first + share(part + 1, units - first)
    }
}

#[cfg(test)]
mod tests {
    use super::deal;

    #[test]
    fn parts_are_all_units_in_order() {
        for threads in 1..7 {
            for units in [0, 1, 2, 3, 4, 5, 16, 17, 100, 1001] {
                let mut next = 0;
                for part in 0..2 * threads {
                    let range = deal(part, threads, units);
                    assert!(range.start == next && range.end >= next);
                    assert!(range.len() <= units / threads + 1, "{threads} threads, {units} units: {range:?}");
                    next = range.end;
                }
                assert_eq!(next, units);
            }
        }
    }
}
