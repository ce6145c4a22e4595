//! Products with at most four columns: heads that give a few numbers, masks and pictures of few channels.
//!
//! A tile of vectors of columns would leave most of its lanes empty: of 16 lanes one column uses one, four use four. Here a vector
//! takes four columns of several steps of the depth (LANES / 4 of them): the left operand's steps are loaded once and repeated for
//! the four columns, so a multiply-add does four columns' work of LANES / 4 steps, and at the end the steps' sums are added up,
//! several rows at a time.
#![allow(unsafe_code)]

use super::F32s;
use super::epilogue::store_fours;
use super::tile::{Panels, RowBlock};
use core::ops::Range;

/// Columns that a step of the depth has here.
pub(super) const COLUMNS: usize = 4;

/// The most rows of a tile: each takes a pointer, and with twelve of them the compiler moves them to the stack and back.
const ROWS: usize = 8;

/// Whether a block is one of these, has rows enough to fill a tile, and a depth whose steps lie side by side in whole vectors.
#[inline(always)]
pub(super) fn suits<V: F32s>(block: &RowBlock<'_>) -> bool {
    let run = if block.offsets.is_null() { block.depth } else { block.run };
    block.rows > 1 && takes::<V>(block.end, run)
}

/// Whether [`suits`] takes blocks of some rows, with so many columns and steps side by side, if there are any.
#[inline(always)]
pub(super) fn takes<V: F32s>(columns: usize, run: usize) -> bool {
    V::FOLDS && columns <= COLUMNS && run > 0 && run.is_multiple_of(V::LANES / COLUMNS)
}

/// Computes a block that [`suits`].
///
/// # Safety
/// As [`RowBlock::new`] was promised.
#[inline(always)]
pub(super) unsafe fn narrow<V: F32s>(block: &RowBlock<'_>) {
    let most = if V::LANES == 8 { 6 } else { ROWS };
    for from in (0..block.rows).step_by(most) {
        let rows = from..block.rows.min(from + most);
        // SAFETY: as promised; each arm has room for the rows that there are.
        unsafe {
            match (V::LANES, rows.len().div_ceil(V::LANES / COLUMNS)) {
                (8, 1) => tile::<V, 2>(block, rows),
                (8, 2) => tile::<V, 4>(block, rows),
                (8, _) => tile::<V, 6>(block, rows),
                (_, 1) => tile::<V, 4>(block, rows),
                (_, _) => tile::<V, 8>(block, rows),
            }
        }
    }
}

/// These of the rows, at most R.
#[inline(always)]
unsafe fn tile<V: F32s, const R: usize>(block: &RowBlock<'_>, rows: Range<usize>) {
    const { assert!(R <= ROWS) };
    let Panels { pointer: mut b, step, .. } = block.b;
    let each = V::LANES / COLUMNS;
    let mut acc = [V::splat(0.0); R];
    // SAFETY: the table and what it points to, and the panel, are valid as `RowBlock::new` was promised; a run is a multiple of
    // `each`. Rows that there are not are the first one again.
    unsafe {
        for segment in 0..block.segments {
            let table = block.table.add(segment * block.rows + rows.start);
            let mut a = [table.read(); R];
            for (r, a) in a.iter_mut().enumerate().take(rows.len()) {
                *a = table.add(r).read();
            }
            let (runs, run) = match block.offsets.is_null() {
                true => (1, block.depth),
                false => (block.depth / block.run, block.run),
            };
            for i in 0..runs {
                let start = if block.offsets.is_null() { 0 } else { block.offsets.add(i * run).read() };
                for at in (start..start + run).step_by(each) {
                    let columns = V::load_columns(b, step);
                    for (acc, a) in acc.iter_mut().zip(a) {
                        *acc = V::load_repeated(a.add(at)).mul_add(columns, *acc);
                    }
                    b = b.wrapping_add(each * step);
                }
            }
        }
        let target = block.target.from(rows.start * block.target.row);
        store_fours(acc, rows.len(), &target, block.end);
    }
}
