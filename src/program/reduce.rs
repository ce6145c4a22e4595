//! Ops along an axis: sums, softmax, norms, the largest and where it is.

use super::cut::along;
use super::{Operand, Operands, Record, Tile, bad, rounds_of};
use crate::error::{Error, Kind, Result};
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

fn product(sizes: &[u32]) -> Result<u64> {
    let all = sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    all.ok_or(Error::new(Kind::BadImage, "an op's sizes overflow"))
}

/// What a [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names say it
pub enum ReduceKind {
    Sum = 0,
    Mean = 1,
    Max = 2,
    Min = 3,
    Product = 4,
    /// Sum of squares.
    SumSquare = 5,
    /// Sum of magnitudes.
    L1 = 6,
    /// Root of the sum of squares.
    L2 = 7,
    /// Logarithm of the sum.
    LogSum = 8,
    /// Logarithm of the sum of exponentials.
    LogSumExp = 9,
    /// Mean of squares.
    MeanSquare = 10,
}

impl ReduceKind {
    /// The kind with this number, if there is one.
    pub const fn from_number(n: u32) -> Option<ReduceKind> {
        use ReduceKind::*;
        const ALL: [ReduceKind; 11] = [Sum, Mean, Max, Min, Product, SumSquare, L1, L2, LogSum, LogSumExp, MeanSquare];
        if n < 11 { Some(ALL[n as usize]) } else { None }
    }
}

/// `out[o][i] = kind over j of x[o][j][i]`. Input and output: `f32`, or both `f64`, `i64` or `i32`
/// (sum, max, min, product; `f64` also mean).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Reduce {
    /// A [`ReduceKind`].
    pub kind: u32,
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the reduced axes.
    pub len: u32,
    /// Size of the axes after.
    pub inner: u32,
}

impl Record for Reduce {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let Some(kind) = ReduceKind::from_number(self.kind) else {
            return bad("a reduction is of an unknown kind");
        };
        let (x, y) = (operands.input(0)?, operands.output(0)?);
        let whole = matches!(kind, ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min | ReduceKind::Product);
        let wide = x.dtype == DType::F64 && (whole || kind == ReduceKind::Mean);
        if !(x.dtype == DType::F32 || wide || whole && matches!(x.dtype, DType::I64 | DType::I32)) {
            return bad("a reduction does not work on this element type");
        }
        x.holds(x.dtype, product(&[self.outer, self.len, self.inner])?)?;
        y.holds(x.dtype, product(&[self.outer, self.inner])?)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.len, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.outer, self.len, self.inner)
    }
}

/// Softmax (or its logarithm) along the middle axis of `[outer][len][inner]`. Input, output (may be in place).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Softmax {
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the axis.
    pub len: u32,
    /// Size of the axes after.
    pub inner: u32,
    /// 1: the logarithm of it.
    pub log: u32,
}

impl Softmax {
    /// Whether it is along the last axis, and no logarithm.
    pub fn is_of_rows(&self) -> bool {
        self.inner == 1 && self.log == 0
    }
}

impl Record for Softmax {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let n = product(&[self.outer, self.len, self.inner])?;
        operands.reads(0, n)?;
        operands.writes(0, n)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.len, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.outer, self.len, self.inner)
    }
}

/// Normalisation of rows: `y = (x - mean) / sqrt(variance + epsilon) * scale + bias`; with `rms` = 1 the mean is not
/// subtracted and the mean of squares stands for the variance.
///
/// Inputs: X `[rows][len]`, scale (optional), bias (optional). Output (may be in place). Row `r` takes its scale and bias
/// - with `per_row` = 0 from an array of `len`, an element a column;
/// - with `per_row` = p > 0 from an array of `p`, element `r % p` for the whole row (instance and group norm on `NC…`).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Norm {
    /// Number of rows.
    pub rows: u32,
    /// Length of a row.
    pub len: u32,
    /// See above.
    pub rms: u32,
    /// See above.
    pub per_row: u32,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Record for Norm {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let n = product(&[self.rows, self.len])?;
        operands.reads(0, n)?;
        operands.writes(0, n)?;
        let parameters = if self.per_row == 0 { self.len } else { self.per_row } as u64;
        for i in 1..3 {
            if let Some(p) = operands.optional_input(i) {
                p.holds(DType::F32, parameters)?;
            }
        }
        Ok(())
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.rows, self.len])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.rows, self.len, 1)
    }
}

/// The first operand, if its elements are of a type that is compared.
fn comparable(operands: &Operands<'_>) -> Result<Operand> {
    let x = operands.input(0)?;
    if matches!(x.dtype, DType::F32 | DType::I64 | DType::I32) { Ok(x) } else { bad("this element type is not compared") }
}

/// Where along the middle axis of `[outer][len][inner]` the largest (smallest) value is. Input: `f32`, `i64` or `i32`.
/// Output: `i64` `[outer][inner]`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ArgReduce {
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the axis, not 0.
    pub len: u32,
    /// Size of the axes after.
    pub inner: u32,
    /// 1: the smallest.
    pub min: u32,
    /// 1: of equal values the last one counts, else the first.
    pub last: u32,
}

impl Record for ArgReduce {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if self.len == 0 {
            return bad("the largest of no values was asked for");
        }
        let x = comparable(operands)?;
        x.holds(x.dtype, product(&[self.outer, self.len, self.inner])?)?;
        operands.output(0)?.holds(DType::I64, product(&[self.outer, self.inner])?)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.len, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.outer, self.len, self.inner)
    }
}

/// The `k` largest (smallest) along the middle axis of `[outer][len][inner]`, in order; of equal values the one with the
/// lower index comes first. Input: `f32`, `i64` or `i32`. Outputs: values of the same type and indices `i64`, both
/// `[outer][k][inner]`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TopK {
    /// Size of the axes before.
    pub outer: u32,
    /// Size of the axis.
    pub len: u32,
    /// Size of the axes after.
    pub inner: u32,
    /// How many, at most `len`.
    pub k: u32,
    /// 1: the smallest.
    pub min: u32,
}

impl Record for TopK {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if self.k > self.len {
            return bad("more values were asked for than there are");
        }
        let x = comparable(operands)?;
        x.holds(x.dtype, product(&[self.outer, self.len, self.inner])?)?;
        let n = product(&[self.outer, self.k, self.inner])?;
        operands.output(0)?.holds(x.dtype, n)?;
        operands.output(1)?.holds(DType::I64, n)
    }

    /// One index per element of the axis.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        (4 * self.len as u64).next_multiple_of(64)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.outer, self.len, self.inner])
    }

    fn unit_work(&self, _tile: Tile) -> u64 {
        along(self.outer, self.len, self.inner)
    }
}
