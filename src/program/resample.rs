//! Weighted sums along one axis, and running ones.

use super::cut::{ELEMENTS, along};
use super::{Operands, Record, Tile, bad, rounds_of, work};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `y[o][j][i] = sum over t of weight[j][t] * x[o][place[j][t]][i]`: one axis of a resize of any mode, an axis at a time.
///
/// Inputs: X `[outer][len][inner]`, places `i32` `[out][taps]`, weights `f32` `[out][taps]`. Output: Y
/// `[outer][out][inner]`. A place out of range is an error of the run.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Resample {
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the axis.
    pub len: u32,
    /// Its size in the output.
    pub out: u32,
    /// Size of the axes after.
    pub inner: u32,
    /// Terms of a sum.
    pub taps: u32,
}

impl Record for Resample {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if self.taps == 0 {
            return bad("a resample has no taps");
        }
        let cube = |sizes: [u32; 3]| volume(&sizes);
        operands.reads(0, cube([self.outer, self.len, self.inner])?)?;
        let sums = cube([self.out, self.taps, 1])?;
        operands.input(1)?.holds(DType::I32, sums)?;
        operands.reads(2, sums)?;
        operands.writes(0, cube([self.outer, self.out, self.inner])?)
    }

    fn macs(&self) -> u64 {
        work(&[self.outer, self.out, self.inner, self.taps].map(u64::from))
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.out, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        (self.inner as u64 * self.taps as u64).max(ELEMENTS as u64).min(self.macs())
    }
}

/// Sums (or products) of all elements up to this one along the middle axis of `[outer][len][inner]`.
///
/// Input and output: `f32`, or both `f64`, `i64` or `i32` (which wrap). May be in place.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Cumulate {
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the axis.
    pub len: u32,
    /// Size of the axes after.
    pub inner: u32,
    /// 1: products.
    pub product: u32,
    /// 1: the element itself does not count.
    pub exclusive: u32,
    /// 1: from the end.
    pub reverse: u32,
}

impl Record for Cumulate {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let (x, y) = (operands.input(0)?, operands.output(0)?);
        if !matches!(x.dtype, DType::F32 | DType::F64 | DType::I64 | DType::I32) {
            return bad("a running sum does not work on this element type");
        }
        let n = volume(&[self.outer, self.len, self.inner])?;
        x.holds(x.dtype, n)?;
        y.holds(x.dtype, n)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.len, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.outer, self.len, self.inner)
    }
}

/// The product of sizes.
fn volume(sizes: &[u32]) -> Result<u64> {
    match sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)) {
        Some(n) => Ok(n),
        None => bad("an op's sizes overflow"),
    }
}
