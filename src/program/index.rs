//! Ops that read or write where indices say: gathers and scatters over several axes.

use super::{Operand, Operands, Record, bad, reach, rounds_of};
use crate::error::{Error, Kind, Result};
use crate::tensor::{DType, MAX_RANK};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Places in a table that an array of index tuples names.
///
/// Tuples stand in an index space of `rank` axes, and are stored in its order, `depth` indices each. The tuple `(i0, i1 …)`
/// at `(a0, a1 …)` names the `row` elements from `sum(a * base) + sum(i * strides)` on. A negative index counts from the
/// end of its axis; an index out of range is an error of the run.
///
/// [`GatherNd`](super::OpKind::GatherNd): inputs table, indices (`i64` or `i32`); output: the rows, in the order of the
/// tuples. [`Scatter`](super::OpKind::Scatter): inputs table, indices, rows (of the table's type); output: the table with
/// those rows joined to it (it may lie in the memory of the table).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Index {
    /// Bytes of an element: 1, 2, 4 or 8.
    pub size: u32,
    /// Axes of the index space that are used, up to [`MAX_RANK`].
    pub rank: u32,
    /// Their sizes, outermost first.
    pub dims: [u32; MAX_RANK],
    /// Elements of the table from one tuple to the next, per axis of the index space.
    pub base: [u32; MAX_RANK],
    /// Indices in a tuple, up to [`MAX_RANK`].
    pub depth: u32,
    /// Size of the table's axis that each of them counts on.
    pub sizes: [u32; MAX_RANK],
    /// Elements of the table from one element of that axis to the next.
    pub strides: [u32; MAX_RANK],
    /// Elements side by side that a tuple names.
    pub row: u32,
    /// How a scatter joins what it writes to what is there: a [`Join`].
    pub join: u32,
}

/// How a scatter joins a new value to the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the names say it
pub enum Join {
    Replace = 0,
    Add = 1,
    Multiply = 2,
    Max = 3,
    Min = 4,
}

impl Join {
    /// The one with this number, if there is one.
    pub const fn from_number(n: u32) -> Option<Join> {
        use Join::*;
        const ALL: [Join; 5] = [Replace, Add, Multiply, Max, Min];
        if n < 5 { Some(ALL[n as usize]) } else { None }
    }
}

impl Index {
    /// Of elements of `size` bytes, rows of `row` elements; everything else is still to be set.
    pub const fn new(size: u32, row: u32) -> Index {
        let none = [0; MAX_RANK];
        Index { size, rank: 0, dims: none, base: none, depth: 0, sizes: none, strides: none, row, join: 0 }
    }

    /// Number of tuples.
    pub fn tuples(&self) -> Option<u64> {
        self.dims.iter().take(self.rank as usize).try_fold(1u64, |n, &d| n.checked_mul(d as u64))
    }

    /// The table and the operand that holds the rows are large enough.
    fn check_places(&self, table: Operand, index: Operand, rows: Operand) -> Result<()> {
        if !matches!(self.size, 1 | 2 | 4 | 8) || self.rank as usize > MAX_RANK || self.depth as usize > MAX_RANK {
            return bad("an op by indices has an impossible element size or too many axes");
        }
        if self.row == 0 {
            return bad("rows of an op by indices have no elements");
        }
        if table.dtype.size() != self.size as usize || rows.dtype.size() != self.size as usize {
            return bad("the element size of an op by indices is not that of its operands");
        }
        if !matches!(index.dtype, DType::I64 | DType::I32) {
            return bad("indices are neither int64 nor int32");
        }
        let overflow = Error::new(Kind::BadImage, "an op's sizes overflow");
        let tuples = self.tuples().ok_or(overflow)?;
        index.holds(index.dtype, tuples.checked_mul(self.depth as u64).ok_or(overflow)?)?;
        rows.holds(rows.dtype, tuples.checked_mul(self.row as u64).ok_or(overflow)?)?;
        if tuples == 0 {
            return Ok(());
        }
        let mut axes = [(1, 0); 2 * MAX_RANK + 1];
        let (rank, depth) = (self.rank as usize, self.depth as usize);
        for (i, axis) in axes.iter_mut().enumerate().take(rank) {
            *axis = (self.dims[i], self.base[i]);
        }
        for (i, axis) in axes[MAX_RANK..].iter_mut().enumerate().take(depth) {
            // An axis of no elements has no index in range: the run says so.
            *axis = (self.sizes[i].max(1), self.strides[i]);
        }
        axes[2 * MAX_RANK] = (self.row, 1);
        table.holds(table.dtype, reach(&axes)?)
    }
}

impl Record for Index {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        self.check_places(operands.input(0)?, operands.input(1)?, operands.output(0)?)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&self.dims)
    }
}

/// The record of a scatter: an [`Index`] under other rules.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Scatter(pub Index);

impl Record for Scatter {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let (table, index, rows) = (operands.input(0)?, operands.input(1)?, operands.input(2)?);
        let output = operands.output(0)?;
        let Some(join) = Join::from_number(self.0.join) else {
            return bad("a scatter joins values in an unknown way");
        };
        if join != Join::Replace && !matches!(table.dtype, DType::F32 | DType::I32 | DType::I64) {
            return bad("a scatter can't join values of this element type");
        }
        if table.bytes != output.bytes || table.dtype != output.dtype || table.dtype != rows.dtype {
            return bad("a scatter's table, rows and output are of different types or sizes");
        }
        self.0.check_places(output, index, rows)
    }

    fn rounds(&self) -> u64 {
        self.0.rounds()
    }
}
