//! Scaled dot-product attention in one op.

use super::{Operands, Record, Tile, bad, packed_len, reach, rounds_of};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `out = softmax(scale * Q·Kᵀ + mask) · V` for each batch element and head.
///
/// Inputs: Q, K, V, mask (`f32`, added; optional). Output. Strides (batch, head, row) are in elements; the elements of a
/// head are contiguous. The mask has four strides (batch, head, row, column), 0 where it is broadcast. A row whose mask is
/// minus infinity throughout gives NaN, as the formula does. The output may be Q's memory: see
/// [`out_may_replace_q`](Attention::out_may_replace_q).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct Attention {
    pub batch: u32,
    pub heads: u32,
    pub rows: u32,
    pub columns: u32,
    /// Depth of Q and K.
    pub depth: u32,
    /// Width of V and of the output.
    pub width: u32,
    pub q: [u32; 3],
    pub k: [u32; 3],
    pub v: [u32; 3],
    pub out: [u32; 3],
    pub mask: [u32; 4],
    /// 1: row `i` sees columns `0 ..= i + columns - rows` only.
    pub causal: u32,
    pub scale: f32,
}

/// Rows of scores that are computed at a time.
pub const BLOCK: u32 = 48;

/// Rows of V up to which it is read where it lies: packing it would not pay.
pub const IN_PLACE: u32 = 200;

impl Attention {
    /// Whether the output may take the memory of Q: each block of rows of a head is read before the same block is written.
    pub fn out_may_replace_q(&self) -> bool {
        let sizes = [self.batch, self.heads, self.rows];
        let same = sizes.iter().zip(self.q.iter().zip(&self.out)).all(|(&size, (q, out))| size <= 1 || q == out);
        same && self.depth == self.width
    }

    /// Whether V is read where it lies, without a copy in panels.
    pub fn reads_v_in_place(&self) -> bool {
        self.columns <= IN_PLACE && self.v[2] >= self.width
    }
}

impl Record for Attention {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if self.causal > 1 || self.causal == 1 && self.columns < self.rows {
            return bad("a causal attention has fewer columns than rows");
        }
        // Rows that don't overlap: so the operands' bytes bound all sizes, and those of scratch.
        let apart = |n: u32, row: u32, width: u32| n <= 1 || row >= width;
        let rows = apart(self.rows, self.out[2], self.width);
        let columns = apart(self.columns, self.k[2], self.depth) && apart(self.columns, self.v[2], self.width);
        if self.depth == 0 || self.width == 0 || !rows || !columns {
            return bad("an attention has no depth or width, or rows that overlap");
        }
        let axes = |s: [u32; 3], n: u32, d: u32| [(self.batch, s[0]), (self.heads, s[1]), (n, s[2]), (d, 1)];
        operands.reads(0, reach(&axes(self.q, self.rows, self.depth))?)?;
        operands.reads(1, reach(&axes(self.k, self.columns, self.depth))?)?;
        operands.reads(2, reach(&axes(self.v, self.columns, self.width))?)?;
        if let Some(mask) = operands.optional_input(3) {
            let [b, h, r, c] = self.mask;
            mask.holds(DType::F32, reach(&[(self.batch, b), (self.heads, h), (self.rows, r), (self.columns, c)])?)?;
        }
        operands.writes(0, reach(&axes(self.out, self.rows, self.width))?)
    }

    /// K and, unless it is read in place, V of one head in panels, and a block of scores.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        let bytes = |elements: u64| elements.saturating_mul(4).checked_next_multiple_of(64).unwrap_or(u64::MAX);
        let k = packed_len(self.depth as u64, self.columns as u64);
        let v = if self.reads_v_in_place() { 0 } else { packed_len(self.columns as u64, self.width as u64) };
        let scores = BLOCK.min(self.rows) as u64 * (self.columns as u64).next_multiple_of(16);
        bytes(k).saturating_add(bytes(v)).saturating_add(bytes(scores))
    }

    fn macs(&self) -> u64 {
        let heads = self.batch as u64 * self.heads as u64;
        heads.saturating_mul(self.rows as u64 * self.columns as u64).saturating_mul(self.depth as u64 + self.width as u64)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.batch, self.heads, self.rows, self.columns])
    }

    /// A block of rows of one head.
    fn unit_work(&self, _tile: Tile) -> u64 {
        let rows = self.rows.min(BLOCK) as u64;
        (rows * self.columns as u64).saturating_mul(self.depth as u64 + self.width as u64)
    }
}
