//! What a streamed program remembers of the steps before.

use super::{Operands, Record, bad, rounds_of};
use crate::error::Result;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The last rows of a stream: moves the state's rows up by `new`, appends the new ones, and the state is then the window
/// that a causal convolution or pooling reads.
///
/// Inputs: the new rows `[new][row_bytes]`; the state `[keep][row_bytes]`. Output: the state again (same memory), now
/// holding the last `keep` rows. A fresh state is zero bytes: the padding before the stream's start.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Window {
    /// Rows that come with each run.
    pub new: u32,
    /// Rows of the window, at least `new`.
    pub keep: u32,
    /// Bytes of a row.
    pub row_bytes: u32,
}

impl Record for Window {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let bytes = |n: u32| n as u64 * self.row_bytes as u64;
        if self.new > self.keep {
            return bad("a window is shorter than a step of its stream");
        }
        let (x, state, out) = (operands.input(0)?, operands.input(1)?, operands.output(0)?);
        if bytes(self.new) > x.bytes || bytes(self.keep) > state.bytes || bytes(self.keep) > out.bytes {
            return bad("a window reaches past the end of an operand");
        }
        Ok(())
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.keep])
    }
}
