//! The matrix product and the epilogue that it shares with convolution.

use super::{Cut, Operands, Record, Tile, Unary, bad, reach, rounds_of};
use crate::error::{Error, Kind, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Columns of one panel of packed f32 weights: one AVX-512, two AVX2, four NEON registers.
pub const PANEL: u32 = 16;

/// Elements of a packed `k x n` matrix: `ceil(n / 16)` panels of `[k][16]`, the last one padded with zeros.
pub const fn packed_len(k: u64, n: u64) -> u64 {
    n.div_ceil(PANEL as u64) * PANEL as u64 * k
}

/// Columns of a slab of weights for a single row.
pub const SLAB: u32 = 512;

/// Columns of a slab that are a unit of work.
pub const SLAB_UNIT: u32 = 256;

/// Elements of a `k x n` matrix in slabs: `ceil(n / 512)` of them, `[k][512]`, the last one `[k][what is left]`, padded with zeros to
/// a multiple of 16. Behind each are 16 elements of which the first is 0.0 if all of the slab are finite.
pub const fn slabs_len(k: u64, n: u64) -> u64 {
    packed_len(k, n) + n.div_ceil(SLAB as u64) * PANEL as u64
}

/// What happens to a product before it is stored:
/// `y = act(product + bias[column] + residual)`, or `act(product + bias[column]) + residual`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Epilogue {
    /// 1 where the op's input 2 is a bias, one `f32` per output column (channel; all groups); else 0.
    pub bias: u32,
    /// 0: none. 1: input 3, laid out like the output, is added before the activation. 2: after it.
    pub residual: u32,
    /// The [`Unary`] function applied; [`Unary::Identity`] for none.
    pub activation: u32,
    /// Parameters of the activation.
    pub p: [f32; 2],
}

impl Epilogue {
    /// Stores the product as it is.
    pub const NONE: Epilogue = Epilogue { bias: 0, residual: 0, activation: Unary::Identity as u32, p: [0.0; 2] };

    /// Whether its activation is none, a clamp or a hard swish: what kernels do in registers.
    pub fn is_clamp(&self) -> bool {
        Unary::from_number(self.activation).is_some_and(Unary::is_clamp)
    }

    /// Checks the epilogue's own operands: `columns` biases, a residual of `extent` elements.
    pub(crate) fn check(&self, operands: &Operands<'_>, columns: u64, extent: u64) -> Result<()> {
        if self.bias > 1 || self.residual > 2 || Unary::from_number(self.activation).is_none() {
            return bad("an epilogue has an unknown bias, residual or activation code");
        }
        if self.bias == 1 {
            operands.reads(2, columns)?;
        }
        if self.residual > 0 {
            operands.reads(3, extent)?;
        }
        Ok(())
    }
}

/// `C[b][m][n] = epilogue(alpha * sum_k A[b][m][k] * B[b][k][n])`.
///
/// Inputs: A, B, bias (`n`; optional), residual (addressed like C; optional). Output: C. All strides are in elements;
/// a batch has up to three axes, of size 1 where unused. C's columns are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Gemm {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Depth.
    pub k: u32,
    /// Batch axes, outermost first.
    pub batch: [u32; 3],
    /// Strides of A along the batch axes (0: the same A for all).
    pub a_batch: [u32; 3],
    /// Strides of B along the batch axes; of a packed B, in elements of the packed form.
    pub b_batch: [u32; 3],
    /// Strides of C along the batch axes.
    pub c_batch: [u32; 3],
    /// Stride between rows of A.
    pub a_row: u32,
    /// Stride between columns (depth) of A. Other than 1, the kernel packs A first.
    pub a_col: u32,
    /// Stride between rows (depth) of an unpacked B.
    pub b_row: u32,
    /// Stride between columns of an unpacked B.
    pub b_col: u32,
    /// Stride between rows of C.
    pub c_row: u32,
    /// 1: B is packed in panels ([`packed_len`]); 0: B is addressed by its strides, and packed into scratch when run; 2: B is packed in
    /// slabs ([`slabs_len`]), and there is a single row (not on bare metal).
    pub b_packed: u32,
    /// Factor of the product.
    pub alpha: f32,
    /// What happens before the store.
    pub epilogue: Epilogue,
}

impl Gemm {
    /// A plain product `[m, k] x packed [k, n] -> [m, n]` of contiguous matrices.
    pub const fn dense(m: u32, n: u32, k: u32) -> Gemm {
        Gemm {
            m,
            n,
            k,
            batch: [1; 3],
            a_batch: [0; 3],
            b_batch: [0; 3],
            c_batch: [0; 3],
            a_row: k,
            a_col: 1,
            b_row: n,
            b_col: 1,
            c_row: n,
            b_packed: 1,
            alpha: 1.0,
            epilogue: Epilogue::NONE,
        }
    }

    /// Rows of each product, and the batch that is left: inner batch axes that only continue the rows become rows.
    pub fn merged(&self) -> (usize, [usize; 3]) {
        let (mut m, mut batch) = (self.m as usize, self.batch.map(|b| b as usize));
        for axis in (0..3).rev() {
            let continues = |batch: u32, row: u32| batch as u64 == m as u64 * row as u64;
            if batch[axis] > 1 {
                if self.a_col != 1
                    || self.b_batch[axis] != 0
                    || !continues(self.a_batch[axis], self.a_row)
                    || !continues(self.c_batch[axis], self.c_row)
                {
                    break;
                }
                m *= batch[axis];
                batch[axis] = 1;
            }
        }
        (m, batch)
    }

    /// Whether it is one row times packed weights: what [`Row`] asks.
    pub fn is_row(&self) -> bool {
        self.is_single() && self.b_packed == 1
    }

    /// Whether it is one row, contiguous, and no batch.
    pub fn is_single(&self) -> bool {
        let [a, b, c] = self.batch;
        [self.m, a, b, c, self.a_col].iter().all(|&n| n == 1)
    }

    fn axes(&self, strides: [u32; 3], inner: [(u32, u32); 2]) -> [(u32, u32); 5] {
        let b = self.batch;
        [(b[0], strides[0]), (b[1], strides[1]), (b[2], strides[2]), inner[0], inner[1]]
    }
}

impl Record for Gemm {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let a = reach(&self.axes(self.a_batch, [(self.m, self.a_row), (self.k, self.a_col)]))?;
        operands.reads(0, a)?;
        let b = match self.b_packed {
            0 => reach(&self.axes(self.b_batch, [(self.k, self.b_row), (self.n, self.b_col)]))?,
            1 => {
                let one = match packed_len(self.k as u64, self.n as u64) {
                    one @ 0..=0xffff_ffff => one as u32,
                    _ => return bad("a packed matrix is too large"),
                };
                reach(&self.axes(self.b_batch, [(one, 1), (1, 0)]))?
            }
            2 if self.is_single() && cfg!(not(target_os = "none")) => slabs_len(self.k as u64, self.n as u64),
            2 => return bad("a gemm's weights in slabs are for one row, and for hosts"),
            _ => return bad("a gemm has an unknown layout of B"),
        };
        operands.reads(1, b)?;
        let c = reach(&self.axes(self.c_batch, [(self.m, self.c_row), (self.n, 1)]))?;
        operands.writes(0, c)?;
        if self.m > 1 && self.c_row < self.n {
            return bad("rows of a gemm's output overlap");
        }
        // Also bounds the work: each product writes elements of its own.
        let written = self.batch.iter().try_fold(self.m as u64 * self.n as u64, |p, &b| p.checked_mul(b as u64));
        if c > 0 && written.is_none_or(|written| written > c) {
            return bad("products of a gemm's batch overlap");
        }
        self.epilogue.check(operands, self.n as u64, c)
    }

    fn scratch(&self, _tail: &[u8]) -> u64 {
        let b = if self.b_packed == 0 { packed_len(self.k as u64, self.n as u64) } else { 0 };
        let a = if self.a_col != 1 { self.m as u64 * self.k as u64 } else { 0 };
        let bytes = |elements: u64| elements.saturating_mul(4).checked_next_multiple_of(64).unwrap_or(u64::MAX);
        bytes(b).saturating_add(bytes(a))
    }

    fn macs(&self) -> u64 {
        self.batch.iter().fold(self.m as u64 * self.n as u64, |p, &b| p.saturating_mul(b as u64)).saturating_mul(self.k as u64)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&self.batch).saturating_mul(rounds_of(&[self.m, self.n]))
    }

    fn unit_work(&self, tile: Tile) -> u64 {
        if self.b_packed == 2 {
            return SLAB_UNIT.min(self.n) as u64 * self.k as u64;
        }
        let (rows, columns) = Cut::of(self.merged().0, self.n as usize, self.k as usize, tile).largest();
        (rows as u64 * columns as u64).saturating_mul(self.k as u64)
    }
}

/// The record of a product of one row and packed weights: a [`Gemm`] under the few rules that are left of it.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Row(pub Gemm);

impl Record for Row {
    const SCRATCH: bool = false;

    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let g = &self.0;
        if !g.is_row() {
            return Err(Error::new(
                Kind::MissingOp,
                "the op set's products have one row and packed weights, and this one has not",
            ));
        }
        operands.reads(0, g.k as u64)?;
        operands.reads(1, packed_len(g.k as u64, g.n as u64))?;
        operands.writes(0, g.n as u64)?;
        g.epilogue.check(operands, g.n as u64, g.n as u64)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.0.n])
    }

    fn macs(&self) -> u64 {
        self.0.n as u64 * self.0.k as u64
    }
}
