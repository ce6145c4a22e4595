//! Matrix products: the loops around the microkernel.
//!
//! Rows of A are read in place. Small weights (up to about 200 KB, so that they stay in the second-level cache) are walked
//! once per tile of rows, whose part of A stays in the first-level cache; larger ones are read once, panel by panel, each
//! times all tiles of rows, while the next panel is fetched.
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, Target};
use super::tile::{Fetch, PANEL, Panels, RowBlock};
use super::{Backend, Dst, HOST, Src};
use crate::program::{Cut, Tile};
use core::ops::Range;

/// Bytes of a left operand from which on its rows come from memory or a far cache: with small weights, the next tile's
/// are fetched in time (3136 x 576 x 64: 93 instead of 79 % of the FMA peak; smaller ones lose 3 % by it).
const FAR: usize = 1 << 20;

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'m> {
    /// Packed in panels of 16 columns: see [`packed_len`](crate::program::packed_len).
    Packed(Src<'m, f32>),
    /// Row-major, rows this many elements apart. Vector loads may reach up to
    /// [`SLACK`](crate::program::SLACK) bytes past its last element.
    InPlace(Src<'m, f32>, usize),
}

/// `C[m][n] = epilogue(A[m][k] * B[k][n])`, with contiguous rows of A and C.
#[derive(Clone, Copy, Debug)]
pub struct Product<'m> {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// Left operand.
    pub a: Src<'m, f32>,
    /// Elements between its rows (0: the same row throughout).
    pub a_row: usize,
    /// Right operand.
    pub b: Right<'m>,
    /// The result. It may share memory with the epilogue's residual, but not with the operands.
    pub c: Dst<'m, f32>,
    /// Elements between its rows.
    pub c_row: usize,
    /// What happens before the store; the residual is addressed like C.
    pub epilogue: &'m Epilogue<'m>,
}

/// The largest tile of a backend for which there is room in the table of rows.
pub fn tile_of<B: Backend>() -> Tile {
    Tile { rows: B::TILE.rows.min(MOST_ROWS), ..B::TILE }
}

impl Product<'_> {
    /// How it is cut into units.
    pub fn cut<B: Backend>(&self) -> Cut {
        Cut::of(self.m, self.n, self.k, tile_of::<B>())
    }

    /// Computes all of it.
    ///
    /// # Panics
    /// If an operand is shorter than the sizes say.
    pub fn run<B: Backend>(&self) {
        let cut = self.cut::<B>();
        self.units::<B>(&cut, 0..cut.units());
    }

    /// Computes these units of a cut of it.
    ///
    /// # Panics
    /// If an operand is shorter than the sizes say, or the cut is of another product.
    pub fn units<B: Backend>(&self, cut: &Cut, units: Range<usize>) {
        let &Product { m, n, k, a, a_row, c, c_row, epilogue: e, .. } = self;
        assert!(cut.all_rows() == m && units.end <= cut.units());
        if m == 0 || n == 0 {
            return;
        }
        let elements = (m - 1) * c_row + n;
        assert!(k == 0 || a.len() > (m - 1) * a_row + (k - 1));
        assert!(c.len() >= elements);
        e.assert_holds(n, elements);
        let panels = match self.b {
            Right::Packed(b) => {
                assert!(b.len() >= n.div_ceil(PANEL) * PANEL * k);
                Panels { pointer: b.pointer(), step: PANEL, panel: PANEL * k }
            }
            Right::InPlace(b, row) => {
                assert!(k == 0 || b.len() >= (k - 1) * row + n);
                Panels { pointer: b.pointer(), step: row, panel: PANEL }
            }
        };
        let packed = matches!(self.b, Right::Packed(_));
        let tiles = cut.tiles;
        let (mut block, mut tile) = (units.start / tiles, units.start % tiles);
        let mut table = [core::ptr::null(); MOST_ROWS];
        // SAFETY: the asserts above cover all rows, columns and depths that the blocks touch; B in place may be read past its end
        // by less than a panel, which is less than the slack.
        let mut part = unsafe {
            let target = Target::of::<B>(e, c.pointer(), c_row);
            RowBlock::new(0, table.as_ptr(), (1, k), panels, (0, 0), target, Fetch::Nothing)
        };
        let start = (part.target.c, part.target.residual);
        for _ in units {
            let (row, rows) = cut.rows(tile);
            (part.rows, (part.first, part.end)) = (rows, cut.columns(block));
            for (r, pointer) in table.iter_mut().enumerate().take(rows) {
                *pointer = a.pointer().wrapping_add((row + r) * a_row);
            }
            part.table = table.as_ptr();
            part.target.move_to(start, row * c_row);
            part.fetch = match (cut.small, packed) {
                _ if !HOST => Fetch::Nothing,
                (true, _) if 4 * m * k > FAR => Fetch::Rows(rows * a_row),
                // One to three rows take weights as fast as the hardware sees them coming.
                (false, true) if m > 3 => Fetch::panel(tile, tiles),
                _ => Fetch::Nothing,
            };
            B::row_block(&part);
            tile += 1;
            if tile == tiles {
                (block, tile) = (block + 1, 0);
            }
        }
    }
}

/// The most rows that a tile has: any backend's, or, where the table of them is on a small stack and cleared for each tile, a
/// scalar one's.
pub(super) const MOST_ROWS: usize = if SMALL_STACK { 4 } else { 12 };

/// Whether the stack is small: on bare metal.
pub(super) const SMALL_STACK: bool = cfg!(target_os = "none") && cfg!(target_pointer_width = "32");
