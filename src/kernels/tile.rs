//! The microkernel that matrix products and convolutions share: one tile of rows times panels of packed weights.
//!
//! The left operand is never copied: a tile's rows are given as pointers, one per row and **segment** of the depth. A
//! matrix product has one segment, the whole row; a convolution has one per tap of its window (or per row of it), whose
//! pointers lead straight into the NHWC map ("indirection"), or to a row of zeros outside. The sums of a tile stay in
//! registers over the whole depth: blocking the depth costs more in reloaded sums than it saves (measured 83-95 % against
//! 92-98 % of the FMA peak, up to a depth of 4608).
//!
//! Tile shapes, by lanes of the vector: with 8 lanes 6 rows x 2 vectors (12 sums, 2 of the panel, 1 broadcast: 15 of 16
//! registers; one more and the compiler spills, at half the speed); 16 lanes 12 x 2, two panels at once; 4 lanes 6 x 4;
//! scalar 4 x 4 columns. Tiles of few rows take more columns (1 x 64, 2 x 32) so that as many sums are in flight as the
//! FMA latency needs, and where there is only one panel they split the depth into independent sums. Half a panel or less
//! at the right border takes a tile of half the width.
//!
//! Where a product by one lane of a vector is an instruction (NEON), a tile loads its left operand four steps of the depth at a
//! time, and a panel's row by one load that moves the pointer on: 94 instructions for 80 products of vectors, not 102.
#![allow(unsafe_code)]

use super::epilogue::{Target, store};
use super::{F32s, Kernel, narrow};
use core::ops::Range;

/// Columns of a panel of packed weights.
pub(super) const PANEL: usize = crate::program::PANEL as usize;

/// The most rows that a tile of this vector has.
pub(super) const fn max_rows<V: F32s>() -> usize {
    match (V::LANES, V::REGISTERS) {
        (1, _) => 4,
        (4, _) => 5,
        (16, _) => 12,
        _ => 6,
    }
}

/// Columns that a tile of many rows takes at a time, at least a panel.
pub(super) const fn max_columns<V: F32s>() -> usize {
    if V::LANES == 16 { 2 * PANEL } else { PANEL }
}

/// The right operand, in panels of 16 columns: element `[k][n]` is `n / 16 * panel + k * step + n % 16` elements on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    pub pointer: *const f32,
    /// 16 in packed weights; the row stride of a matrix used in place.
    pub step: usize,
    /// `16 * depth` in packed weights; 16 in a matrix used in place.
    pub panel: usize,
}

/// One tile of rows times a range of columns. Whoever computes several changes one of these: it stays where it is on the stack, and
/// so does what they have in common.
#[derive(Clone, Copy)]
pub struct RowBlock<'e> {
    pub(super) rows: usize,
    pub(super) table: *const *const f32,
    pub(super) segments: usize,
    pub(super) depth: usize,
    pub(super) b: Panels,
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) target: Target<'e>,
    pub(super) fetch: Fetch,
    /// Where each step of the depth is, in elements from a row's pointer; null: one behind the other.
    pub(super) offsets: *const usize,
    /// Steps whose elements lie side by side in spite of that: every so many, all there are.
    #[allow(dead_code)] // only 32-bit Arm's microkernel walks by runs
    pub(super) run: usize,
}

/// What is fetched into the second-level cache while a tile is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// Nothing: it is there, or the hardware sees it coming.
    Nothing,
    /// A share of the panel after this one, the first time that large weights are walked: all of it in one tile would ask
    /// for more bytes than the core gets from memory in that time.
    Panel(Share),
    /// A share of other panels, as many as this tile's: those that come next, where weights are many small matrices. Panels of a few
    /// kilobytes end before the hardware has seen where they lead.
    Ahead(Ahead, Share),
    /// What a tile that is alone is about to read of its panels, into the first-level cache.
    Near,
    /// The rows so many elements after this tile's, a share with each of its panels: those of the next tile, where the left
    /// operand is too large to be in a cache.
    Rows(usize),
}

/// Panels to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Elements from the first panel that is multiplied to the first of these, wrapping.
    pub after: usize,
    /// Elements between these.
    pub panel: usize,
}

/// One of so many shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    turn: u16,
    of: u16,
}

impl Fetch {
    /// The next panel, spread over the first tiles of rows: this is number `tile`, of `tiles`.
    pub(super) fn panel(tile: usize, tiles: usize) -> Fetch {
        share(tile, tiles).map_or(Fetch::Nothing, Fetch::Panel)
    }

    /// Those panels, likewise.
    pub(super) fn ahead(next: Ahead, tile: usize, tiles: usize) -> Fetch {
        share(tile, tiles).map_or(Fetch::Nothing, |share| Fetch::Ahead(next, share))
    }
}

fn share(tile: usize, tiles: usize) -> Option<Share> {
    let of = tiles.min(MOST_SHARES);
    (tile < of).then_some(Share { turn: tile as u16, of: of as u16 })
}

/// Tiles that the fetching of a panel is spread over; from here on it is slow enough.
const MOST_SHARES: usize = 8;

impl<'e> RowBlock<'e> {
    /// `rows` rows (1 to [`Backend::TILE`](super::Backend::TILE).rows) whose segments of `depth` elements are at
    /// `table[segment * rows + row]`, times the columns `first..end` of `b`; `first` is a multiple of the panel.
    ///
    /// # Safety
    /// The table's pointers, the panels' columns (rounded up to whole vectors) and the target's rows are valid for all of this.
    #[inline(always)]
    pub(super) unsafe fn new(
        rows: usize,
        table: *const *const f32,
        (segments, depth): (usize, usize),
        b: Panels,
        (first, end): (usize, usize),
        target: Target<'e>,
        fetch: Fetch,
    ) -> Self {
        RowBlock { rows, table, segments, depth, b, first, end, target, fetch, offsets: core::ptr::null(), run: depth }
    }

    /// The same with the depth's elements not side by side, but at these offsets from each row's pointer, though every `run`
    /// of them are; there is one segment.
    ///
    /// # Safety
    /// There are at most [`most_offset_rows`] rows (or the block is [narrow](narrow::takes)), as many offsets as the depth has steps, and they lead to valid elements of all
    /// rows; `run` divides their number.
    #[cfg(any(test, feature = "alloc"))]
    #[inline(always)]
    pub(super) unsafe fn at_offsets(self, offsets: *const usize, run: usize) -> Self {
        debug_assert!(self.segments == 1 && self.depth.is_multiple_of(run));
        RowBlock { offsets, run, ..self }
    }
}

impl Kernel for RowBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        debug_assert!(self.rows >= 1 && self.rows <= max_rows::<V>());
        if narrow::suits::<V>(&self) {
            // SAFETY: as `new` was promised.
            return unsafe { narrow::narrow::<V>(&self) };
        }
        // SAFETY: `new` was promised that all pointers are valid; each arm takes the rows that there are.
        unsafe {
            match (V::LANES, V::REGISTERS) {
                (1, _) => match self.rows {
                    1 => few::<V, 1, 16, 4, 2, 1>(&self),
                    2 => few::<V, 2, 8, 4, 2, 1>(&self),
                    3 => few::<V, 3, 4, 4, 2, 1>(&self),
                    _ => many::<V, 4, 4, 2>(&self),
                },
                (4, 16) => match self.rows {
                    1 => few::<V, 1, 8, 4, 2, 2>(&self),
                    2 => few::<V, 2, 4, 2, 1, 2>(&self),
                    3 => few::<V, 3, 2, 2, 1, 2>(&self),
                    4 => many::<V, 4, 2, 1>(&self),
                    _ => many::<V, 5, 2, 1>(&self),
                },
                (4, _) => match self.rows {
                    1 => few::<V, 1, 16, 4, 2, 4>(&self),
                    2 => few::<V, 2, 8, 4, 2, 2>(&self),
                    3 => few::<V, 3, 4, 4, 2, 2>(&self),
                    4 => many::<V, 4, 4, 2>(&self),
                    _ => many::<V, 5, 4, 2>(&self),
                },
                (8, _) => match self.rows {
                    1 => few::<V, 1, 8, 2, 1, 4>(&self),
                    2 => few::<V, 2, 4, 2, 1, 2>(&self),
                    3 => few::<V, 3, 2, 2, 1, 2>(&self),
                    4 => many::<V, 4, 2, 1>(&self),
                    5 => many::<V, 5, 2, 1>(&self),
                    _ => many::<V, 6, 2, 1>(&self),
                },
                _ => match self.rows {
                    1 => few::<V, 1, 4, 2, 1, 4>(&self),
                    2 => few::<V, 2, 4, 2, 1, 2>(&self),
                    3 => few::<V, 3, 2, 2, 1, 2>(&self),
                    4 => many::<V, 4, 2, 1>(&self),
                    5 => many::<V, 5, 2, 1>(&self),
                    6 => many::<V, 6, 2, 1>(&self),
                    7 => many::<V, 7, 2, 1>(&self),
                    8 => many::<V, 8, 2, 1>(&self),
                    9 => many::<V, 9, 2, 1>(&self),
                    10 => many::<V, 10, 2, 1>(&self),
                    11 => many::<V, 11, 2, 1>(&self),
                    _ => many::<V, 12, 2, 1>(&self),
                },
            }
        }
    }
}

/// All columns in tiles of W vectors, the last one of H if that is enough.
#[inline(always)]
unsafe fn many<V: F32s, const R: usize, const W: usize, const H: usize>(block: &RowBlock<'_>) {
    let mut column = block.first;
    while column < block.end {
        let left = block.end - column;
        if left > H * V::LANES {
            // SAFETY: as promised to `RowBlock::new`, here and below.
            unsafe { tile::<V, R, W, 1>(block, column, left.min(W * V::LANES)) };
            column += W * V::LANES;
        } else {
            // SAFETY: as above.
            unsafe { tile::<V, R, H, 1>(block, column, left) };
            column += H * V::LANES;
        }
    }
}

/// As [`many`], but with tiles of X vectors as long as they are full. Where not even one is, sums are split by D. Behind
/// full tiles they are not: all columns are added up in the same order, so that equal weights give equal answers.
#[inline(always)]
unsafe fn few<V: F32s, const R: usize, const X: usize, const W: usize, const H: usize, const D: usize>(block: &RowBlock<'_>) {
    let mut column = block.first;
    while X > W && block.end - column >= X * V::LANES {
        // SAFETY: as promised to `RowBlock::new`, here and below.
        unsafe { tile::<V, R, X, 1>(block, column, X * V::LANES) };
        column += X * V::LANES;
    }
    if column > block.first && D > 1 {
        let rest = RowBlock { first: column, ..*block };
        // SAFETY: as above: a part of the block.
        return unsafe { many::<V, R, W, H>(&rest) };
    }
    while column < block.end {
        let left = block.end - column;
        if left > H * V::LANES {
            // SAFETY: as above.
            unsafe { tile::<V, R, W, D>(block, column, left.min(W * V::LANES)) };
            column += W * V::LANES;
        } else {
            // SAFETY: as above.
            unsafe { tile::<V, R, H, D>(block, column, left) };
            column += H * V::LANES;
        }
    }
}

/// The most rows of a tile of so many vectors of columns whose depth is at offsets: each takes a pointer of its own, and with more
/// of them the compiler moves pointers and sums to the stack within the loop. Of one wide vector there are few sums: more rows
/// hide the latency of a multiply-add.
pub(super) const fn most_offset_rows<V: F32s>(vectors: usize) -> usize {
    if V::LANES == 16 && vectors == 1 { 12 } else { 6 }
}

/// Depth steps between bursts of prefetches of a panel. Each line takes a fill buffer of the core, of which it has about sixteen, and
/// the panel that is multiplied needs them too on its way from the second-level cache: with 16 lanes eight lines at a time made
/// products of cold weights 1.03 to 1.14 times as fast as 32. Shorter vectors take longer over a panel, and sixteen cost nothing.
const fn burst<V: F32s>() -> usize {
    if V::LANES == 16 { 4 } else { 16 }
}

/// Depth steps by which the only tile of some rows fetches weights in advance, each a line of each panel (12 rows of cold weights with 16 lanes: 59 %
/// of the FMA peak by 32, 79 by 64, 85 by 80, 87 by 128; 5 rows 27, 33, 31, 28).
const AHEAD_NEAR: usize = 80;

/// Depth steps that a line of a row has.
const LINE: usize = 16;

/// One tile: R rows, W vectors of columns, the depth split into D sums.
#[inline(always)]
unsafe fn tile<V: F32s, const R: usize, const W: usize, const D: usize>(block: &RowBlock<'_>, column: usize, columns: usize) {
    let Panels { pointer, step, panel } = block.b;
    // SAFETY: the table and what it points to, and the panels, are valid as `RowBlock::new` was promised; a prefetch may
    // go anywhere.
    unsafe {
        let mut b = pointer.wrapping_add(column / PANEL * panel + column % PANEL);
        let mut acc = [[[V::splat(0.0); W]; R]; D];
        // Where the result goes: large ones are not in the cache, and a store would wait for its line (3136 x 24 x 144: 87
        // instead of 77 % of the FMA peak).
        for r in 0..R {
            V::prefetch_near(block.target.c.wrapping_add(r * block.target.row + column));
        }
        // Likewise a residual of its own, whose lines a tile waits for at its end.
        if V::PREFETCHES && block.target.epilogue.residual.is_some() && block.target.residual != block.target.c.cast_const() {
            for r in 0..R {
                for w in (0..W * V::LANES).step_by(LINE) {
                    V::prefetch_near(block.target.residual.wrapping_add(r * block.target.row + column + w));
                }
            }
        }
        let (burst, turn, of) = match block.fetch {
            Fetch::Panel(share) | Fetch::Ahead(_, share) => (burst::<V>(), share.turn as usize, share.of as usize),
            _ => {
                let of = (block.end - block.first).div_ceil(W * V::LANES);
                (LINE, (column - block.first) / (W * V::LANES), of)
            }
        };
        // Bursts of the depth before the next one in which a share of what is fetched is due.
        let mut until = turn;
        for segment in 0..block.segments {
            let mut a = [core::ptr::null(); R];
            for (r, a) in a.iter_mut().enumerate() {
                *a = block.table.add(segment * R + r).read();
            }
            if R <= most_offset_rows::<V>(W) && !block.offsets.is_null() {
                for i in 0..block.depth {
                    depth_step(&mut acc[0], a, block.offsets.add(i).read(), b, panel);
                    b = b.wrapping_add(step);
                }
            } else if V::PREFETCHES && D == 1 && block.fetch == Fetch::Near {
                let panels = const { (W * V::LANES).div_ceil(PANEL) };
                let last = block.depth.saturating_sub(AHEAD_NEAR);
                // Behind the end of a panel come those that the next tile takes.
                for (steps, more) in [(0..last, 0), (last..block.depth, (panels - 1) * panel)] {
                    for i in steps {
                        for p in 0..panels {
                            V::prefetch_near(b.wrapping_add(p * panel + more + AHEAD_NEAR * PANEL));
                        }
                        depth_step(&mut acc[0], a, i, b, panel);
                        b = b.wrapping_add(step);
                    }
                }
            } else if V::PREFETCHES && matches!(block.fetch, Fetch::Panel(_) | Fetch::Ahead(..) | Fetch::Rows(_)) {
                let mut i = 0;
                while i < block.depth {
                    let n = burst.min(block.depth - i);
                    accumulate(&mut acc, a, i..i + n, b, step, panel);
                    if until == 0 {
                        until = of;
                        if let Fetch::Rows(after) = block.fetch {
                            // A burst of the depth is one line of each row.
                            a.iter().for_each(|a| V::prefetch(a.wrapping_add(i + after)));
                        } else {
                            // As many panels as the tile takes at a time.
                            let panels = const { (W * V::LANES).div_ceil(PANEL) };
                            let mut next = Ahead { after: panels * panel, panel };
                            if let Fetch::Ahead(other, _) = block.fetch {
                                // Columns before this tile's lie as much further on as those panels are further apart.
                                let after = other.after.wrapping_add(column / PANEL * other.panel.wrapping_sub(panel));
                                next = Ahead { after, ..other };
                            }
                            for i in 0..panels {
                                let next = b.wrapping_add(next.after).wrapping_add(next.panel * i);
                                (0..n).for_each(|i| V::prefetch(next.wrapping_add(i * step)));
                            }
                        }
                    }
                    until -= 1;
                    b = b.wrapping_add(n * step);
                    i += n;
                }
            } else {
                accumulate(&mut acc, a, 0..block.depth, b, step, panel);
                b = b.wrapping_add(block.depth * step);
            }
        }
        let mut sum = acc[0];
        for part in &acc[1..] {
            for r in 0..R {
                for w in 0..W {
                    sum[r][w] = sum[r][w].add(part[r][w]);
                }
            }
        }
        store(sum, &block.target, column, columns);
    }
}

/// Adds the products of these steps of the depth to each of a tile's sums; `b` is at the first of them.
#[inline(always)]
unsafe fn accumulate<V: F32s, const R: usize, const W: usize, const D: usize>(
    acc: &mut [[[V; W]; R]; D],
    a: [*const f32; R],
    depth: Range<usize>,
    b: *const f32,
    step: usize,
    panel: usize,
) {
    let Range { start: mut i, end: depth } = depth;
    let mut b = b;
    if V::LANE_PRODUCTS && V::LANES == 4 {
        // One pointer to each panel.
        const { assert!(V::LANES < 4 || W <= 4 * MOST) };
        let mut panels: [*const f32; MOST] = [b, b.wrapping_add(panel), b.wrapping_add(2 * panel), b.wrapping_add(3 * panel)];
        while i + 4 <= depth {
            let mut x = [V::splat(0.0); R];
            for (x, a) in x.iter_mut().zip(a) {
                // SAFETY: `i + 4` elements of the row are within the depth.
                *x = unsafe { V::load(a.add(i)) };
            }
            // SAFETY: as promised to `RowBlock::new`.
            unsafe {
                lane_step::<V, R, W, 0>(&mut acc[0], &x, &mut panels, step);
                lane_step::<V, R, W, 1>(&mut acc[1 % D], &x, &mut panels, step);
                lane_step::<V, R, W, 2>(&mut acc[2 % D], &x, &mut panels, step);
                lane_step::<V, R, W, 3>(&mut acc[3 % D], &x, &mut panels, step);
            }
            i += 4;
        }
        while i < depth {
            let mut x = [V::splat(0.0); R];
            for (x, a) in x.iter_mut().zip(a) {
                // SAFETY: `i` is within the depth.
                *x = unsafe { V::load_first(a.add(i), 1) };
            }
            // SAFETY: as above.
            unsafe { lane_step::<V, R, W, 0>(&mut acc[0], &x, &mut panels, step) };
            i += 1;
        }
        return;
    }
    if D > 1 {
        while i + D <= depth {
            for part in acc.iter_mut() {
                // SAFETY: `i` stays below the depth, to which rows and panels are valid.
                unsafe { depth_step(part, a, i, b, panel) };
                b = b.wrapping_add(step);
                i += 1;
            }
        }
    }
    while i < depth {
        // SAFETY: as above.
        unsafe { depth_step(&mut acc[0], a, i, b, panel) };
        b = b.wrapping_add(step);
        i += 1;
    }
}

/// Panels that a tile of four lanes takes at most.
const MOST: usize = 4;

/// One step of the depth, that of lane L of the rows' vectors; moves the pointers to the panels on.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as in `depth_step`: columns outside, so that each is loaded once
unsafe fn lane_step<V: F32s, const R: usize, const W: usize, const L: i32>(
    acc: &mut [[V; W]; R],
    a: &[V; R],
    panels: &mut [*const f32; MOST],
    step: usize,
) {
    // A panel's row at a time, or all there is of it.
    let each = W.min(4);
    for first in (0..W).step_by(each) {
        // SAFETY: as promised to `RowBlock::new`.
        let b = unsafe { V::load_row(&mut panels[first / each], step, each) };
        for w in first..first + each {
            for (row, &a) in acc.iter_mut().zip(a) {
                row[w] = b[w - first].mul_add_lane::<L>(a, row[w]);
            }
        }
    }
}

#[inline(always)]
unsafe fn depth_step<V: F32s, const R: usize, const W: usize>(
    acc: &mut [[V; W]; R],
    a: [*const f32; R],
    i: usize,
    b: *const f32,
    panel: usize,
) {
    let mut row = [V::splat(0.0); W];
    for (w, x) in row.iter_mut().enumerate() {
        let at = w * V::LANES;
        // SAFETY: as promised to `RowBlock::new`.
        *x = unsafe { V::load(b.add(at / PANEL * panel + at % PANEL)) };
    }
    for r in 0..R {
        // SAFETY: likewise.
        let x = V::splat(unsafe { a[r].add(i).read() });
        for w in 0..W {
            acc[r][w] = x.mul_add(row[w], acc[r][w]);
        }
    }
}
