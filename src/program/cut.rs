//! How an op is cut into work units: pieces that can be computed one by one, in several sittings or on several threads.
//!
//! A cut depends on the op's record and on the [tiles](Tile) of the kernels that run it, never on how many units are computed
//! at a time: so every way to run them gives the same bits.

use super::PANEL;

/// The largest tile of a product that kernels compute at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows.
    pub rows: usize,
    /// Columns that large weights are walked by: a multiple of [`PANEL`].
    pub columns: usize,
}

impl Tile {
    /// What the kernels of a Cortex-M with an FPU take.
    pub const CORTEX_M: Tile = Tile { rows: 2, columns: PANEL as usize };
    /// The reference's: one number at a time.
    pub const SCALAR: Tile = Tile { rows: 4, columns: PANEL as usize };
    /// At least what any kernel takes.
    pub const LARGEST: Tile = Tile { rows: 12, columns: 2 * PANEL as usize };
}

/// Bytes of weights that are walked anew for each tile of rows: so many stay in a second-level cache.
const SMALL: usize = 200 << 10;

/// Columns that one to three rows are computed in at least, and a multiple of what any kernel takes at a time. All blocks
/// of columns are as wide or wider: so all columns are added up in the same order, and equal weights give equal answers.
const FEW: usize = 64;

/// Multiply-accumulates of a unit with few rows, at least.
const LEAST: usize = 16 << 10;

/// Elements that an element-wise unit has, about: what takes some hundred nanoseconds on a host.
pub const ELEMENTS: usize = 1024;

/// How many pieces of `each` elements make a unit of about [`ELEMENTS`].
pub const fn group(each: usize) -> usize {
    let each = if each == 0 { 1 } else { each };
    if each >= ELEMENTS { 1 } else { ELEMENTS / each }
}

/// Elements of the largest unit of an op along the middle axis of `[outer][len][inner]`, at most: a line, or a block of columns,
/// or some of them.
pub fn along(outer: u32, len: u32, inner: u32) -> u64 {
    let width = if inner == 1 { 1 } else { (group(len as usize) as u64).next_multiple_of(64).min(inner as u64) };
    let piece = (len as u64 * width).max(ELEMENTS as u64);
    piece.min((outer as u64 * len as u64).saturating_mul(inner as u64))
}

/// The units of a product: tiles of rows, as equal as can be (49 rows: four of 6, five of 5: tiles of one or two rows would
/// run far below the peak), times blocks of columns. They are numbered block by block.
///
/// Small weights are one block. Of large ones, each block is read once and multiplied with all tiles of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tiles of rows.
    pub tiles: usize,
    /// Blocks of columns.
    pub blocks: usize,
    /// Whether the weights are small.
    pub small: bool,
    /// Rows of a tile, one more in the first `extra`.
    base: usize,
    extra: usize,
    /// Columns of a block; the last one has what is left.
    width: usize,
    columns: usize,
}

impl Cut {
    /// The units of a product of so many rows and columns, with sums of so many terms.
    pub const fn of(rows: usize, columns: usize, depth: usize, tile: Tile) -> Cut {
        let tiles = rows.div_ceil(tile.rows);
        let some = if tiles == 0 { 1 } else { tiles };
        let small = columns.saturating_mul(depth) <= SMALL / 4;
        let (width, blocks) = if small {
            (columns, 1)
        } else if tiles <= 1 {
            let width = LEAST.div_ceil(if depth == 0 { 1 } else { depth }).next_multiple_of(FEW);
            (width, if columns < width { 1 } else { columns / width })
        } else {
            (tile.columns, columns.div_ceil(tile.columns))
        };
        let blocks = if columns == 0 { 0 } else { blocks };
        Cut { tiles, blocks, small, base: rows / some, extra: rows % some, width, columns }
    }

    /// How many units there are.
    pub const fn units(&self) -> usize {
        self.tiles * self.blocks
    }

    /// The first row of a tile, and how many it has.
    pub const fn rows(&self, tile: usize) -> (usize, usize) {
        let before = if tile < self.extra { tile } else { self.extra };
        (tile * self.base + before, self.base + (tile < self.extra) as usize)
    }

    /// The first column of a block, and the one behind its last.
    pub const fn columns(&self, block: usize) -> (usize, usize) {
        (block * self.width, if block + 1 == self.blocks { self.columns } else { (block + 1) * self.width })
    }

    /// The same cut of these tiles' rows alone, which are counted from 0.
    pub const fn part(&self, first: usize, end: usize) -> Cut {
        let extra = if self.extra <= first {
            0
        } else if self.extra < end {
            self.extra - first
        } else {
            end - first
        };
        Cut { tiles: end - first, extra, ..*self }
    }

    /// Rows of all tiles.
    pub const fn all_rows(&self) -> usize {
        self.tiles * self.base + self.extra
    }

    /// Rows and columns of the largest unit.
    pub const fn largest(&self) -> (usize, usize) {
        let (first, end) = self.columns(self.blocks.saturating_sub(1));
        let last = end.saturating_sub(first);
        (self.rows(0).1, if self.blocks > 1 && self.width > last { self.width } else { last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_balanced() {
        let sizes = |m, rows| {
            let cut = Cut::of(m, 1, 1, Tile { rows, columns: 16 });
            (0..cut.tiles).map(|t| cut.rows(t).1).collect::<Vec<_>>()
        };
        assert_eq!(sizes(49, 6), [6, 6, 6, 6, 5, 5, 5, 5, 5]);
        assert_eq!(sizes(7, 6), [4, 3]);
        assert_eq!(sizes(1, 6), [1]);
        assert!(sizes(0, 6).is_empty());
    }

    #[test]
    fn units_cover_each_element_once() {
        let tiles = [Tile::CORTEX_M, Tile::SCALAR, Tile { rows: 6, columns: 16 }, Tile::LARGEST];
        for tile in tiles {
            for rows in [0, 1, 2, 3, 11, 12, 13, 100] {
                for (columns, depth) in [(0, 9), (1, 1), (17, 100_000), (100, 20_000), (1000, 512), (4096, 300), (64, 64)] {
                    let cut = Cut::of(rows, columns, depth, tile);
                    let mut covered = vec![0u8; rows * columns];
                    let (most, widest) = cut.largest();
                    let mut largest = (0, 0);
                    for unit in 0..cut.units() {
                        let ((row, n), (first, end)) = (cut.rows(unit % cut.tiles), cut.columns(unit / cut.tiles));
                        assert!(n > 0 && n <= tile.rows && end > first && first % PANEL as usize == 0);
                        // Few rows: no block is narrow beside a wide one.
                        assert!(cut.tiles > 1 || cut.blocks == 1 || end - first >= FEW);
                        largest = (largest.0.max(n), largest.1.max(end - first));
                        for r in row..row + n {
                            covered[r * columns + first..r * columns + end].iter_mut().for_each(|c| *c += 1);
                        }
                    }
                    assert!(covered.iter().all(|&c| c == 1), "{rows} x {columns} x {depth}, {tile:?}");
                    if cut.units() > 0 {
                        assert_eq!((most, widest), largest, "{rows} x {columns} x {depth}, {tile:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_keep_the_tiles() {
        let cut = Cut::of(49, 300, 400, Tile { rows: 6, columns: 16 });
        for first in 0..cut.tiles {
            for end in first + 1..=cut.tiles {
                let part = cut.part(first, end);
                let start = cut.rows(first).0;
                for tile in first..end {
                    let (row, n) = cut.rows(tile);
                    assert_eq!(part.rows(tile - first), (row - start, n));
                }
                assert_eq!(part.all_rows(), (first..end).map(|t| cut.rows(t).1).sum::<usize>());
            }
        }
    }
}
