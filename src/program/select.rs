//! Ops that choose: how many elements they find, only a run knows. Outputs have room for `bound`, and say how many there are.

use super::{Operands, Record, Tile, bad, work};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where a mask is true.
///
/// Input: `bool` `[len]`. Outputs: the indices of its first `bound` true elements, in ascending order (`i64` `[bound]`), and how
/// many those are (`i64` `[1]`). The places behind them repeat the last index, or are 0.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NonZero {
    /// Elements of the mask.
    pub len: u32,
    /// Indices that there is room for.
    pub bound: u32,
}

impl Record for NonZero {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        operands.input(0)?.holds(DType::Bool, self.len as u64)?;
        operands.output(0)?.holds(DType::I64, self.bound as u64)?;
        operands.output(1)?.holds(DType::I64, 1)
    }

    fn rounds(&self) -> u64 {
        self.len as u64 + self.bound as u64
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        self.len.max(self.bound) as u64
    }
}

/// Per picture and class, the boxes by descending score that overlap none kept before them by more than a share of their union.
/// Of equal scores the lower index comes first; a box whose score is NaN is never kept.
///
/// Inputs: boxes `[batch][boxes][4]`, scores `[batch][classes][boxes]`, how many a class keeps (`i64` `[1]`; absent: none), the
/// share (`f32` `[1]`; absent: 0), the score that a box must exceed (`f32` `[1]`; absent: any will do). Outputs: the first
/// `bound` rows (picture, class, box) (`i64` `[bound][3]`), and how many those are (`i64` `[1]`). The rows behind them repeat
/// the last, or are 0.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NonMaxSuppression {
    /// Pictures.
    pub batch: u32,
    /// Classes.
    pub classes: u32,
    /// Boxes of a picture.
    pub boxes: u32,
    /// Rows that there is room for.
    pub bound: u32,
    /// 1: boxes are (x centre, y centre, width, height), else two corners (y, x, y, x).
    pub centred: u32,
}

impl NonMaxSuppression {
    /// Words of scratch memory for a box that is kept: its corners.
    pub const CORNERS: usize = 4;

    /// Boxes that a class keeps, at most.
    pub fn most(&self) -> u32 {
        self.boxes.min(self.bound)
    }

    /// Steps by which a class's boxes are put in order.
    fn order(&self) -> u64 {
        let deep = u32::BITS - self.boxes.leading_zeros();
        self.boxes as u64 * (1 + deep as u64)
    }

    /// The work of holding each box of a picture against so many that are kept.
    fn pairs(&self, kept: u64) -> u64 {
        work(&[4, self.boxes as u64, kept])
    }
}

impl Record for NonMaxSuppression {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let volume = |sizes: [u32; 3]| match sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)) {
            Some(n) => Ok(n),
            None => bad("the sizes of boxes and scores overflow"),
        };
        operands.reads(0, volume([self.batch, self.boxes, 4])?)?;
        operands.reads(1, volume([self.batch, self.classes, self.boxes])?)?;
        for (i, dtype) in [(2, DType::I64), (3, DType::F32), (4, DType::F32)] {
            if let Some(limit) = operands.optional_input(i) {
                limit.holds(dtype, 1)?;
            }
        }
        operands.output(0)?.holds(DType::I64, 3 * self.bound as u64)?;
        operands.output(1)?.holds(DType::I64, 1)
    }

    /// The corners of boxes that a class keeps, and an index per box.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        (4 * Self::CORNERS as u64 * self.most() as u64 + 4 * self.boxes as u64).next_multiple_of(64)
    }

    /// At most: a class holds its boxes against those that it keeps, and all classes together keep no more than `bound`.
    fn macs(&self) -> u64 {
        let all = work(&[self.batch, self.classes, self.boxes].map(u64::from));
        let order = work(&[self.batch as u64, self.classes as u64, self.order()]);
        order.saturating_add(self.pairs(all.min(self.bound as u64)))
    }

    /// Beside [`macs`](Record::macs): classes without boxes are not gone through.
    fn rounds(&self) -> u64 {
        work(&[self.batch, self.classes, self.boxes].map(u64::from)).saturating_add(self.bound as u64)
    }

    /// A class of a picture.
    fn unit_work(&self, _tile: Tile) -> u64 {
        self.macs().min(self.order().saturating_add(self.pairs(self.most() as u64)))
    }
}
