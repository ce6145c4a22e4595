//! Ops that move data and compute nothing, and the op that the host resolves.

use super::cut::ELEMENTS;
use super::{Operands, Record, Tile, bad, rounds_of, work};
use crate::error::Result;
use crate::tensor::{DType, MAX_RANK};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A strided copy: transpose, slice (also backwards), concat (one copy an input), pad (fill, then copy), expand.
///
/// Input: the source. Output: the destination; elements of `size` bytes, both.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Copy {
    /// Bytes of an element: 1, 2, 4 or 8.
    pub size: u32,
    /// Axes used, up to [`MAX_RANK`].
    pub rank: u32,
    /// Sizes, outermost first.
    pub dims: [u32; MAX_RANK],
    /// Element of the source where the copy starts.
    pub from_offset: u32,
    /// Strides in the source, in elements.
    pub from: [i32; MAX_RANK],
    /// Element of the destination where the copy starts.
    pub to_offset: u32,
    /// Strides in the destination, in elements.
    pub to: [i32; MAX_RANK],
    /// 1: `fill_elements` elements of the destination, from its start, are set to `fill` first.
    pub fill: u32,
    /// How many are filled.
    pub fill_elements: u32,
    /// The value's bits, low half first.
    pub fill_value: [u32; 2],
}

impl Copy {
    /// Of elements of `size` bytes, over `rank` axes; their sizes (1 for now) and strides are still to be set.
    pub const fn new(size: u32, rank: u32) -> Copy {
        let strides = [0; MAX_RANK];
        Copy {
            size,
            rank,
            dims: [1; MAX_RANK],
            from_offset: 0,
            from: strides,
            to_offset: 0,
            to: strides,
            fill: 0,
            fill_elements: 0,
            fill_value: [0; 2],
        }
    }

    fn check_side(&self, offset: u32, strides: &[i32; MAX_RANK], bytes: u64) -> Result<()> {
        let (mut low, mut high) = (offset as i64, offset as i64);
        for (&d, &s) in self.dims.iter().zip(strides).take(self.rank as usize) {
            if d == 0 {
                return Ok(()); // nothing is touched
            }
            let step = (d as i64 - 1) * s as i64;
            if step < 0 {
                low = low.saturating_add(step);
            } else {
                high = high.saturating_add(step);
            }
        }
        if low < 0 || high >= (bytes / self.size as u64) as i64 {
            return bad("a copy reaches outside of an operand");
        }
        Ok(())
    }
}

impl Record for Copy {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if !matches!(self.size, 1 | 2 | 4 | 8) || self.rank as usize > MAX_RANK || self.fill > 1 {
            return bad("a copy has an impossible element size, rank or fill");
        }
        let to = operands.output(0)?;
        if operands.input(0)?.dtype.size() != self.size as usize || to.dtype.size() != self.size as usize {
            return bad("a copy's element size is not that of its operands");
        }
        if self.fill == 1 && self.fill_elements as u64 * self.size as u64 > to.bytes {
            return bad("a copy fills past the end of its destination");
        }
        // Strides of 0 would let a few bytes stand for any number of elements, and a forged copy run for ever.
        if work(&self.dims.map(|d| d as u64)[..self.rank as usize]) > to.bytes / self.size as u64 {
            return bad("a copy writes more elements than its destination has");
        }
        self.check_side(self.from_offset, &self.from, operands.input(0)?.bytes)?;
        self.check_side(self.to_offset, &self.to, to.bytes)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&self.dims)
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        let all = self.dims.iter().take(self.rank as usize).fold(1, |n: u64, &d| n.saturating_mul(d as u64));
        // Rows of the outermost axis, sixteen at least for a transpose, or all that is filled.
        let outer = self.dims.iter().take(self.rank as usize).find(|&&d| d > 1).map_or(1, |&d| d as u64);
        let rows = (all / outer.max(1)).saturating_mul(16).max(16 * ELEMENTS as u64);
        rows.min(all).max(if self.fill == 1 { self.fill_elements as u64 } else { 0 })
    }
}

/// `out[o][i] = table[o][index[i]]`, rows of `row_bytes` bytes. A negative index counts from the end; an index out of
/// range is an error of the run.
///
/// Inputs: the table, the indices (`i64` or `i32`). Output.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Gather {
    /// Size of the axes before the gathered one.
    pub outer: u32,
    /// Size of the gathered axis.
    pub axis: u32,
    /// Bytes of all axes after it.
    pub row_bytes: u32,
    /// Number of indices.
    pub count: u32,
}

impl Record for Gather {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let bytes = |n: u32| (self.outer as u64).checked_mul(n as u64).and_then(|v| v.checked_mul(self.row_bytes as u64));
        let index = operands.input(1)?;
        if !matches!(index.dtype, DType::I64 | DType::I32) {
            return bad("a gather's indices are neither int64 nor int32");
        }
        index.holds(index.dtype, self.count as u64)?;
        match (bytes(self.axis), bytes(self.count)) {
            (Some(table), Some(out)) if table <= operands.input(0)?.bytes && out <= operands.output(0)?.bytes => Ok(()),
            _ => bad("a gather reaches past the end of an operand"),
        }
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.count])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        (self.outer as u64 * self.row_bytes as u64 / 4).max(ELEMENTS as u64)
    }
}

/// An op that the host evaluates; an image for a device never holds one.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Extern {
    /// Number of the op in the host's list.
    pub index: u32,
}

impl Record for Extern {
    fn check(&self, _tail: &[u8], _operands: &Operands<'_>) -> Result<()> {
        Ok(())
    }

    fn rounds(&self) -> u64 {
        1
    }
}
