//! Matrix products: the loops around the microkernel.
//!
//! Rows of A are read in place. Small weights (up to about 200 KB, so that they stay in the second-level cache) are walked
//! once per tile of rows, whose part of A stays in the first-level cache; larger ones are read panel by panel, each times all
//! tiles of rows, while the next panel is fetched. Where A is too large to be read anew from a near cache for each panel, that is
//! done for some rows at a time ([`Walk`]).
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, Target};
use super::tile::{Ahead, Fetch, PANEL, Panels, RowBlock};
use super::{Backend, Dst, HOST, Src};
use crate::program::{Cut, Tile};
use core::ops::Range;

/// Bytes of a left operand from which on its rows come from memory or a far cache: with small weights, the next tile's
/// are fetched in time (3136 x 576 x 64: 93 instead of 79 % of the FMA peak; smaller ones lose 3 % by it).
const FAR: usize = 1 << 20;

/// Bytes of such a left operand that are multiplied by all panels before the next: they stay in the second-level cache. The
/// panels are then read as many times as there are such parts (1500 x 384 x 384: 1.07 times as fast).
const NEAR: usize = 256 << 10;

/// Tiles of rows of such a part, at least: a panel that comes from a far cache is worth as many products.
const LEAST: usize = 16;

/// The longest rows for which that is done: the hardware fetches long ones in time, and it costs more than it saves
/// (1500 x 1536 x 384 took 1.03 times as long).
const SHORT: usize = 768;

/// The order in which units are computed: tiles of rows in groups, and within a group block by block.
struct Walk {
    tiles: usize,
    blocks: usize,
    /// Tiles of a group.
    group: usize,
}

/// Where a walk is.
struct Place {
    block: usize,
    tile: usize,
    /// The group's tiles.
    first: usize,
    end: usize,
}

impl Walk {
    fn of(cut: &Cut, m: usize, k: usize) -> Walk {
        let tiles = cut.tiles;
        let far = HOST && !cut.small && k <= SHORT && 4 * m * k > FAR;
        let groups = if far { (4 * m * k).div_ceil(NEAR).min(tiles.div_ceil(LEAST)) } else { 1 };
        Walk { tiles, blocks: cut.blocks, group: tiles.div_ceil(groups).max(1) }
    }

    /// The unit of this number.
    fn start(&self, unit: usize) -> Place {
        if !HOST {
            return Place { block: unit / self.tiles, tile: unit % self.tiles, first: 0, end: self.tiles };
        }
        let (before, unit) = (unit / (self.group * self.blocks), unit % (self.group * self.blocks));
        let first = before * self.group;
        let end = (first + self.group).min(self.tiles);
        Place { block: unit / (end - first), tile: first + unit % (end - first), first, end }
    }

    /// The next unit.
    fn step(&self, at: &mut Place) {
        at.tile += 1;
        if at.tile == at.end {
            at.block += 1;
            if HOST && at.block == self.blocks {
                (at.block, at.first, at.end) = (0, at.end, (at.end + self.group).min(self.tiles));
            }
            at.tile = at.first;
        }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'m> {
    /// Packed in panels of 16 columns: see [`packed_len`](crate::program::packed_len).
    Packed(Src<'m, f32>),
    /// The same, and what is read next is fetched meanwhile, column for column.
    Series(Src<'m, f32>, Ahead),
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
            Right::Packed(b) | Right::Series(b, _) => {
                assert!(b.len() >= n.div_ceil(PANEL) * PANEL * k);
                Panels { pointer: b.pointer(), step: PANEL, panel: PANEL * k }
            }
            Right::InPlace(b, row) => {
                assert!(k == 0 || b.len() >= (k - 1) * row + n);
                Panels { pointer: b.pointer(), step: row, panel: PANEL }
            }
        };
        let packed = !matches!(self.b, Right::InPlace(..));
        let series = if let Right::Series(_, next) = self.b { Some(next) } else { None };
        if units.is_empty() {
            return;
        }
        let walk = Walk::of(cut, m, k);
        let mut at = walk.start(units.start);
        let mut table = [core::ptr::null(); MOST_ROWS];
        // SAFETY: the asserts above cover all rows, columns and depths that the blocks touch; B in place may be read past its end
        // by less than a panel, which is less than the slack.
        let mut part = unsafe {
            let target = Target::of::<B>(e, c.pointer(), c_row);
            RowBlock::new(0, table.as_ptr(), (1, k), panels, (0, 0), target, Fetch::Nothing)
        };
        let start = (part.target.c, part.target.residual);
        for _ in units {
            let (row, rows) = cut.rows(at.tile);
            (part.rows, (part.first, part.end)) = (rows, cut.columns(at.block));
            for (r, pointer) in table.iter_mut().enumerate().take(rows) {
                *pointer = a.pointer().wrapping_add((row + r) * a_row);
            }
            part.table = table.as_ptr();
            part.target.move_to(start, row * c_row);
            part.fetch = match (cut.small, packed, series) {
                _ if !HOST => Fetch::Nothing,
                (true, ..) if 4 * m * k > FAR => Fetch::Rows(rows * a_row),
                (true, _, Some(next)) => Fetch::ahead(next, at.tile - at.first, at.end - at.first),
                // Up to three rows take others as fast as the hardware sees them coming. One tile gains by fetching what it reads
                // itself, and near: with 16 lanes 4 rows of weights in the third-level cache are 1.43 times as fast as by panels,
                // 8 rows 1.12, 12 rows 1.03, and none is slower from memory. Several tiles are, by up to a tenth: their first one
                // would ask for all that the others have time to fetch.
                (false, true, _) if m > 3 && cut.tiles == 1 => Fetch::Near,
                (false, true, _) if m > 3 => Fetch::panel(at.tile - at.first, at.end - at.first),
                _ => Fetch::Nothing,
            };
            B::row_block(&part);
            walk.step(&mut at);
        }
    }
}

/// The most rows that a tile has: any backend's, or, where the table of them is on a small stack and cleared for each tile, a
/// scalar one's.
pub(super) const MOST_ROWS: usize = if SMALL_STACK { 4 } else { 12 };

/// Whether the stack is small: on bare metal.
pub(super) const SMALL_STACK: bool = cfg!(target_os = "none") && cfg!(target_pointer_width = "32");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_each_unit_once_wherever_it_starts() {
        for (m, n, k) in [
            (1500, 384, 384),
            (1501, 1000, 768),
            (1500, 100, 1536),
            (5000, 96, 600),
            (12, 4096, 300),
            (1, 1000, 1000),
            (40, 40, 40),
        ] {
            let cut = Cut::of(m, n, k, Tile::LARGEST);
            let walk = Walk::of(&cut, m, k);
            let far = 4 * m * k > FAR && k <= SHORT && !cut.small;
            assert_eq!(walk.group < cut.tiles, far && cut.tiles > LEAST, "{m} {n} {k}");
            let mut met = vec![0; cut.units()];
            let mut at = walk.start(0);
            for unit in 0..cut.units() {
                let started = walk.start(unit);
                assert_eq!((started.block, started.tile), (at.block, at.tile), "unit {unit} of {m} {n} {k}");
                assert!(at.first <= at.tile && at.tile < at.end && at.end <= cut.tiles);
                met[at.block * cut.tiles + at.tile] += 1;
                walk.step(&mut at);
            }
            assert!(met.iter().all(|&n| n == 1));
        }
    }
}
