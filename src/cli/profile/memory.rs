//! Who lives where in the arena, and when: read from a program as it stands in its image.

use crate::image::Program;
use crate::image::layout::{Place, STATE};
use crate::program::NONE;

/// A tensor of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its number in the program.
    pub tensor: u32,
    /// Byte where it starts.
    pub offset: u32,
    /// Bytes.
    pub bytes: u32,
    /// The first and the last op at which it is held: an input is from the start on, an output (and what says how long it is) to the end, state throughout.
    pub ops: (usize, usize),
    /// It is kept from run to run.
    pub state: bool,
}

/// All tensors of the arena that an op touches, by their numbers.
pub fn lives(program: &Program<'_>) -> Vec<Life> {
    let last = program.ops().count().saturating_sub(1);
    let mut when: Vec<Option<(usize, usize)>> = vec![None; program.tensors().len()];
    let mut touch = |t: u32, op: usize| {
        if t != NONE {
            let (first, end) = when[t as usize].get_or_insert((op, op));
            (*first, *end) = ((*first).min(op), (*end).max(op));
        }
    };
    for (i, op) in program.ops().enumerate() {
        op.inputs.iter().chain(op.outputs).for_each(|&t| touch(t, i));
    }
    program.input_numbers().iter().for_each(|&t| touch(t, 0));
    program.output_numbers().iter().for_each(|&t| touch(t, last));
    program.lengths().iter().for_each(|length| touch(length.count, last));
    let lives = program.tensors().iter().zip(when).enumerate().filter_map(|(i, (t, ops))| {
        let state = t.flags & STATE != 0;
        let ops = if state { (0, last) } else { ops? };
        (t.place == Place::Arena as u8).then_some(Life { tensor: i as u32, offset: t.offset, bytes: t.bytes, ops, state })
    });
    lives.collect()
}
