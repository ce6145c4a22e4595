//! Convolution of maps with few channels, as a network's first layer has: sums over single elements.
//!
//! Where a tap is a few elements long (three, or one; up to sixteen it still pays), a kernel that walks tap by tap spends its time on
//! the taps' pointers, and on windows that cross the border. Here the map is copied once into scratch memory with its padding around it, so that all
//! windows are whole; then the terms of every pixel's sum lie at the same offsets from its window's start. A tile needs a
//! pointer per pixel, and one list of offsets serves all tiles. The copy is as large as the map: hosts have room for it.
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, HOT, Target};
use super::gemm::{MOST_ROWS, tile_of};
use super::tile::{Fetch, PANEL, Panels, RowBlock, most_offset_rows};
use super::{Backend, Dst, F32s, Src, clamp, narrow};
use crate::program::{Conv, Cut};
use core::ops::Range;

/// The longest sum: its offsets are on the stack.
pub(super) const DEPTH: usize = 256;
/// The largest copy of a map, in elements: it should stay in a cache.
const COPY: u64 = 1 << 18;

/// Whether a convolution is one of these, and the host has the memory: see [`scratch`].
pub fn suits(g: &Conv) -> bool {
    g.groups == 1 && g.in_c <= 16 && !g.is_pointwise() && g.depth() <= DEPTH as u64 && Padded::of(g).is_some()
}

/// Elements of scratch memory that it takes.
pub fn scratch(g: &Conv) -> usize {
    Padded::of(g).map_or(0, |padded| padded.elements * g.batch as usize)
}

/// The map as windows see it: padded, or where none is cut off, as it is.
#[derive(Clone, Copy, Debug)]
struct Padded {
    /// Rows and columns.
    height: usize,
    width: usize,
    /// Elements from pixel to pixel, from row to row, and of a picture.
    pixel: usize,
    row: usize,
    picture: usize,
    /// Elements to be copied of a picture; 0 where the map is used as it is.
    elements: usize,
}

impl Padded {
    /// `None` where it would be too large.
    fn of(g: &Conv) -> Option<Padded> {
        let reach = |out: u32, stride: u32, kernel: u32, dilation: u32| {
            out.saturating_sub(1) as u64 * stride as u64 + (kernel as u64 - 1) * dilation as u64 + 1
        };
        let height = reach(g.out_h, g.stride_h, g.kernel_h, g.dilation_h);
        let width = reach(g.out_w, g.stride_w, g.kernel_w, g.dilation_w);
        let whole = g.pad_top == 0 && g.pad_left == 0 && height <= g.in_h as u64 && width <= g.in_w as u64;
        if whole {
            let (pixel, row) = (g.in_pitch as usize, g.in_w as usize * g.in_pitch as usize);
            let (height, width) = (height as usize, width as usize);
            return Some(Padded { height, width, pixel, row, picture: g.in_h as usize * row, elements: 0 });
        }
        let elements = height.checked_mul(width)?.checked_mul(g.in_c as u64)?;
        if elements.checked_mul(g.batch as u64)? > COPY {
            return None;
        }
        let (pixel, row) = (g.in_c as usize, width as usize * g.in_c as usize);
        let elements = elements as usize;
        Some(Padded { height: height as usize, width: width as usize, pixel, row, picture: elements, elements })
    }

    /// Copies these rows of a picture.
    fn copy(&self, g: &Conv, x: Src<'_, f32>, to: Dst<'_, f32>, picture: usize, rows: Range<usize>) {
        let channels = g.in_c as usize;
        // Columns of the map that there are, and where they go.
        let left = (g.pad_left as usize).min(self.width);
        let columns = (g.in_w as usize).min(self.width - left);
        for y in rows {
            let to = to.from(picture * self.elements + y * self.row).first(self.row);
            let from = y.wrapping_sub(g.pad_top as usize);
            // SAFETY: the row is the length of `to`; the map's elements are read through checked spans; scratch memory overlaps
            // no operand.
            unsafe {
                if from >= g.in_h as usize {
                    to.pointer().write_bytes(0, self.row);
                    continue;
                }
                to.pointer().write_bytes(0, left * channels);
                let end = (left + columns) * channels;
                to.pointer().add(end).write_bytes(0, self.row - end);
                let source = (picture * g.in_h as usize + from) * g.in_w as usize * g.in_pitch as usize;
                if g.in_pitch == g.in_c {
                    if columns > 0 {
                        let source = x.from(source).first(columns * channels);
                        source.pointer().copy_to_nonoverlapping(to.pointer().add(left * channels), columns * channels);
                    }
                } else {
                    for column in 0..columns {
                        for c in 0..channels {
                            let value = x.at(source + column * g.in_pitch as usize + c);
                            to.set((left + column) * channels + c, value);
                        }
                    }
                }
            }
        }
    }
}

/// Computes these of the units of a convolution that [`suits`]; gives how many it has. Units are those of the product
/// over pixels.
///
/// `scratch` has at least as many elements as [`scratch`] says. The residual may share memory with `y`; nothing else may.
///
/// # Panics
/// If a span is shorter than the record says, or the record does not suit.
pub fn conv<B: Backend>(
    g: &Conv,
    x: Src<'_, f32>,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    epilogue: Epilogue<'_>,
    scratch: Dst<'_, f32>,
    units: Range<usize>,
) -> usize {
    let pixels = g.pixels() as usize;
    if pixels == 0 || g.out_c == 0 {
        return 0;
    }
    let (depth, columns, out_pitch) = (g.depth() as usize, g.out_c as usize, g.out_pitch as usize);
    let cut = g.cut(tile_of::<B>());
    let units = clamp(units, cut.units());
    if units.is_empty() {
        return cut.units();
    }
    let Some(padded) = Padded::of(g) else { panic!("a map that is too large to be copied") };
    let in_pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
    assert!(in_pixels == 0 || g.in_c == 0 || x.len() >= (in_pixels - 1) * g.in_pitch as usize + g.in_c as usize);
    let elements = (pixels - 1) * out_pitch + columns;
    assert!(w.len() >= columns.next_multiple_of(PANEL) * depth && y.len() >= elements && depth <= DEPTH);
    assert!(scratch.len() >= padded.elements * g.batch as usize);
    epilogue.assert_holds(columns, elements);
    let map = if padded.elements == 0 {
        x.pointer()
    } else {
        copy(g, &padded, x, scratch, &cut, &units);
        scratch.pointer().cast_const()
    };

    let mut offsets = [0; DEPTH];
    let mut terms = offsets.iter_mut();
    for ky in 0..g.kernel_h as usize {
        for kx in 0..g.kernel_w as usize {
            let tap = ky * g.dilation_h as usize * padded.row + kx * g.dilation_w as usize * padded.pixel;
            for (c, term) in (0..g.in_c as usize).zip(&mut terms) {
                *term = tap + c;
            }
        }
    }
    // Of a row of taps, where they are neighbours.
    let run = if g.dilation_w == 1 && padded.pixel == g.in_c as usize { g.kernel_w * g.in_c } else { g.in_c } as usize;
    let narrow = narrow::takes::<B::F>(columns, run);
    let most = if narrow { MOST_ROWS } else { most_offset_rows::<B::F>(columns.div_ceil(B::F::LANES)) };
    // A narrow tile gives a few vectors: too few for an activation that is a chain of operations.
    let split = if narrow && out_pitch == columns { epilogue.split() } else { None };
    let whole = Target::of::<B>(&epilogue, y.pointer(), out_pitch);
    let tiles = match &split {
        Some((first, _)) => whole.under(first),
        None => whole,
    };
    let panels = Panels { pointer: w.pointer(), step: PANEL, panel: PANEL * depth };
    let (step_y, step_x) = (g.stride_h as usize * padded.row, g.stride_w as usize * padded.pixel);
    let (out_h, out_w) = (g.out_h as usize, g.out_w as usize);
    let (mut block, mut tile) = (units.start / cut.tiles, units.start % cut.tiles);
    let place = |pixel: usize| [pixel / (out_w * out_h), pixel / out_w % out_h, pixel % out_w];
    let mut next = place(cut.rows(tile).0);
    // Narrow products have one block of columns: pixels follow each other.
    let mut sums = cut.rows(tile).0..cut.rows(tile).0;
    for unit in units.clone() {
        let (first, rows) = cut.rows(tile);
        let mut starts = [core::ptr::null(); MOST_ROWS];
        for start in &mut starts[..rows] {
            *start = map.wrapping_add(next[0] * padded.picture + next[1] * step_y + next[2] * step_x);
            // Divisions would cost as much as the sums.
            next[2] += 1;
            if next[2] == out_w {
                next = if next[1] + 1 == out_h { [next[0] + 1, 0, 0] } else { [next[0], next[1] + 1, 0] };
            }
        }
        let parts = rows.div_ceil(most);
        for part in 0..parts {
            let (from, to) = (rows * part / parts, rows * (part + 1) / parts);
            // SAFETY: windows are whole, so all terms lie inside of the map or its copy, whose extents were asserted; weights,
            // output and epilogue hold all columns and pixels, as was asserted too.
            unsafe {
                let (target, starts) = (tiles.from((first + from) * out_pitch), starts[from..to].as_ptr());
                let rows = RowBlock::new(to - from, starts, (1, depth), panels, cut.columns(block), target, Fetch::Nothing);
                B::row_block(&rows.at_offsets(offsets.as_ptr(), run));
            }
        }
        sums.end = first + rows;
        if let Some((_, activation)) = &split
            && (sums.len() * columns >= HOT || unit + 1 == units.end)
        {
            // SAFETY: the output has these pixels, and all of them are sums.
            unsafe { whole.from(sums.start * out_pitch).activate(activation, sums.len(), columns) };
            sums.start = sums.end;
        }
        tile += 1;
        if tile == cut.tiles {
            (block, tile, next) = (block + 1, 0, [0; 3]);
        }
    }
    cut.units()
}

/// Copies the rows that these units' windows have.
fn copy(g: &Conv, padded: &Padded, x: Src<'_, f32>, to: Dst<'_, f32>, cut: &Cut, units: &Range<usize>) {
    let (first, last) = (units.start, units.end - 1);
    let pixels = if first / cut.tiles == last / cut.tiles {
        let (start, rows) = cut.rows(last % cut.tiles);
        cut.rows(first % cut.tiles).0..start + rows
    } else {
        0..g.pixels() as usize
    };
    let (out_h, out_w) = (g.out_h as usize, g.out_w as usize);
    let (first, last) = (pixels.start / out_w, (pixels.end - 1) / out_w);
    for picture in first / out_h..=last / out_h {
        let top = if picture == first / out_h { first % out_h } else { 0 };
        let bottom = if picture == last / out_h { last % out_h } else { out_h - 1 };
        let end = bottom * g.stride_h as usize + (g.kernel_h as usize - 1) * g.dilation_h as usize + 1;
        padded.copy(g, x, to, picture, top * g.stride_h as usize..end.min(padded.height));
    }
}
