//! Convolution over NHWC maps as an implicit matrix product: rows are output pixels, the depth is the window.
//!
//! The map is not copied. For each tile of output pixels a table of pointers is built on the stack, one per pixel and tap
//! ("indirection"), leading to the input pixel or, outside the map, to a row of zeros; it serves all panels of weights.
//! 96-99 % of the FMA peak from 16 channels on, better than im2col and no worse than a padded copy of the map.
//!
//! Where the pixels of a window's row lie side by side, the row is one segment instead, and rows of taps that are outside
//! for a whole tile are left out. With few channels a tap is too short a run of the depth: then pixels whose window crosses
//! the border at the side are gathered into scratch (and a first layer's segments have 7 x 3 = 21 elements). The same
//! gathering serves windows of so many taps that the table would not fit.
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, Target};
use super::gemm::{MOST_ROWS, Product, Right, SMALL_STACK, tile_of};
use super::pool::inside;
use super::tile::{Fetch, PANEL, Panels, RowBlock};
use super::{Backend, Dst, HOST, Src, clamp};
use crate::program::{Conv, Cut, Tile};
use core::ops::Range;

/// Pointers in the table on the stack: [`Conv::TAPS`] taps of the largest tile, or, where the stack is small, of one row.
const TABLE: usize = Conv::TAPS as usize * if SMALL_STACK { 1 } else { MOST_ROWS };

/// The largest tile of a backend, for a convolution: there is room for its pointers, and for its windows where they are
/// gathered.
fn tile_for<B: Backend>(g: &Conv) -> Tile {
    let tile = tile_of::<B>();
    if g.is_pointwise() {
        return tile;
    }
    // Pointers for a pixel, at the most.
    let (most, pointers) = match (g.gathers(), by_runs(g)) {
        (false, _) => (tile.rows, (g.kernel_h * g.kernel_w) as usize),
        (true, true) => (tile.rows.min(Conv::GATHERED as usize), g.kernel_h as usize),
        (true, false) => (tile.rows.min(Conv::GATHERED as usize), 1),
    };
    Tile { rows: most.min(TABLE / pointers).max(1), ..tile }
}

fn by_runs(g: &Conv) -> bool {
    g.rows_are_runs() && g.kernel_h as usize <= TABLE
}

/// Computes these of the units of a convolution, whose record has passed its check; gives how many it has. Units are those
/// of each group's product over pixels, group by group.
///
/// `scratch` has at least what the record asks for. The residual may share memory with `y`; nothing else may. What is not
/// `GROUPED` has one group.
///
/// # Panics
/// If a span is shorter than the record says, or there are more groups.
pub fn conv<B: Backend, const GROUPED: bool>(
    g: &Conv,
    x: Src<'_, f32>,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    epilogue: &Epilogue<'_>,
    scratch: Dst<'_, f32>,
    units: Range<usize>,
) -> usize {
    let pixels = g.pixels() as usize;
    if pixels == 0 || g.out_c == 0 {
        return 0;
    }
    assert!(GROUPED || g.groups == 1);
    let (groups, depth) = (if GROUPED { g.groups as usize } else { 1 }, g.depth() as usize);
    let (in_group, out_group) = (g.in_c as usize / groups, g.out_c as usize / groups);
    let cut = Cut::of(pixels, out_group, depth, tile_for::<B>(g));
    let each = cut.units();
    let units = clamp(units, groups * each);
    if units.is_empty() {
        return groups * each;
    }
    let group_weights = out_group.div_ceil(PANEL) * PANEL * depth;
    let elements = (pixels - 1) * g.out_pitch as usize + g.out_c as usize;
    assert!(w.len() >= groups * group_weights && y.len() >= elements);
    epilogue.assert_holds(g.out_c as usize, elements);
    let in_pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
    assert!(in_pixels == 0 || g.in_c == 0 || x.len() >= (in_pixels - 1) * g.in_pitch as usize + g.in_c as usize);
    let one = |group: usize, epilogue: &Epilogue<'_>, units: Range<usize>| {
        let (w, y) = (w.from(group * group_weights), y.from(group * out_group));
        let x = if in_group > 0 { x.from(group * in_group) } else { x };
        if g.is_pointwise() {
            pointwise::<B>(g, x, w, y, epilogue, &cut, units);
        } else {
            one_group::<B>(g, x, w, y, epilogue, scratch, &cut, units);
        }
    };
    if !GROUPED {
        one(0, epilogue, units);
        return each;
    }
    for group in units.start / each..units.end.div_ceil(each) {
        let first = group * each;
        let units = units.start.max(first) - first..units.end.min(first + each) - first;
        one(group, &epilogue.from(group * out_group, group * out_group), units);
    }
    groups * each
}

/// One group whose windows are single pixels: a product.
#[cfg_attr(target_os = "none", inline(never))] // what it has on the stack, others need not have
fn pointwise<B: Backend>(
    g: &Conv,
    x: Src<'_, f32>,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    epilogue: &Epilogue<'_>,
    cut: &Cut,
    units: Range<usize>,
) {
    let (m, n, k) = (g.pixels() as usize, (g.out_c / g.groups) as usize, (g.in_c / g.groups) as usize);
    let (a_row, c_row) = (g.in_pitch as usize, g.out_pitch as usize);
    Product { m, n, k, a: x, a_row, b: Right::Packed(w), c: y, c_row, epilogue }.units::<B>(cut, units);
}

/// One group, from its first channel on.
#[cfg_attr(target_os = "none", inline(never))]
fn one_group<B: Backend>(
    g: &Conv,
    x: Src<'_, f32>,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    e: &Epilogue<'_>,
    scratch: Dst<'_, f32>,
    cut: &Cut,
    units: Range<usize>,
) {
    let depth = g.depth() as usize;
    let windows = Windows::new(g, x, scratch);
    let mut table = [core::ptr::null(); TABLE];
    let panels = Panels { pointer: w.pointer(), step: PANEL, panel: PANEL * depth };
    let tiles = cut.tiles;
    let (mut block, mut tile) = (units.start / tiles, units.start % tiles);
    let mut place = windows.place(cut.rows(tile).0);
    // SAFETY: the table is filled with pointers into the map, the zeros or scratch, each valid for a segment; weights, output and
    // epilogue hold all columns and pixels, as `conv` asserted.
    let mut part = unsafe {
        RowBlock::new(
            0,
            table.as_ptr(),
            (0, 0),
            panels,
            (0, 0),
            Target::of::<B>(e, y.pointer(), g.out_pitch as usize),
            Fetch::Nothing,
        )
    };
    let start = (part.target.c, part.target.residual);
    for _ in units {
        let first;
        (first, part.rows) = cut.rows(tile);
        if tile == 0 {
            place = [0; 3];
        }
        (part.first, part.end) = cut.columns(block);
        part.fetch = if cut.small || !HOST { Fetch::Nothing } else { Fetch::panel(tile, tiles) };
        let skipped = windows.fill(&mut place, &mut table, &mut part);
        part.b.pointer = w.pointer().wrapping_add(skipped * PANEL);
        part.target.move_to(start, first * g.out_pitch as usize);
        part.table = table.as_ptr();
        B::row_block(&part);
        tile += 1;
        if tile == tiles {
            (block, tile) = (block + 1, 0);
        }
    }
}

/// The input map, from the first channel of a group on, and how windows lie in it.
struct Windows<'m> {
    g: &'m Conv,
    x: *const f32,
    /// Elements between rows and between pictures.
    row: usize,
    picture: usize,
    /// Zeros as long as a tap, or room for the windows that are gathered.
    scratch: Dst<'m, f32>,
    /// As the record says, and whether a row of a window that lies inside is one segment.
    gathers: bool,
    runs: bool,
}

impl<'m> Windows<'m> {
    fn new(g: &'m Conv, x: Src<'m, f32>, scratch: Dst<'m, f32>) -> Self {
        let row = g.in_w as usize * g.in_pitch as usize;
        let (picture, gathers) = (g.in_h as usize * row, g.gathers());
        if !gathers {
            (0..(g.in_c / g.groups) as usize).for_each(|i| scratch.set(i, 0.0));
        }
        Windows { g, x: x.pointer(), row, picture, scratch, gathers, runs: by_runs(g) }
    }

    /// Fills the table for the tile's pixels from this place on, moves that behind them, and sets the tile's segments; gives how many
    /// elements of the depth come before the first.
    #[cfg_attr(target_os = "none", inline(never))] // its stack is free again when the tile is computed
    #[cfg_attr(not(target_os = "none"), inline)]
    fn fill(&self, start: &mut [usize; 3], table: &mut [*const f32; TABLE], tile: &mut RowBlock<'_>) -> usize {
        let (g, rows) = (self.g, tile.rows);
        // Most tiles lie inside: these cost one look at each line of the output.
        if self.runs && g.in_c > 0 {
            let (mut place, mut r) = (*start, 0);
            while r < rows {
                let end = rows.min(r + g.out_w as usize - place[2]);
                let window = self.window(place);
                if !window.are_whole((end - r) as u32) {
                    break;
                }
                place = self.after(place, end - r);
                let mut pixel = window.pixel(window.y, window.x);
                while r < end {
                    self.runs(pixel, g.kernel_h, Entries { table, at: r, step: rows });
                    pixel = pixel.wrapping_add((g.stride_w * g.in_pitch) as usize);
                    r += 1;
                }
            }
            if r == rows {
                *start = place;
                (tile.segments, tile.depth) = (g.kernel_h as usize, g.kernel_w as usize * g.in_c as usize);
                return 0;
            }
        }
        self.fill_any(start, table, tile)
    }

    /// As [`fill`](Windows::fill), wherever the windows lie.
    #[cfg_attr(target_os = "none", inline(never))]
    fn fill_any(&self, start: &mut [usize; 3], table: &mut [*const f32; TABLE], tile: &mut RowBlock<'_>) -> usize {
        let &Windows { g, gathers, runs, scratch, .. } = self;
        let (depth, rows) = (g.depth() as usize, tile.rows);
        if depth == 0 {
            (tile.segments, tile.depth) = (0, 0);
            return 0;
        }
        let row_depth = depth / g.kernel_h as usize;
        // Rows of taps that are outside for all pixels of the tile are left out; not where windows are gathered whole.
        let (mut taps, mut alike, mut place) = ((g.kernel_h, 0), true, *start);
        let those = self.window_at(place).rows();
        for _ in 0..rows {
            let window = self.window_at(place);
            let mine = window.rows();
            alike &= mine == those && window.is_inside_horizontally();
            taps = (taps.0.min(mine.0), taps.1.max(mine.1));
            place = self.after(place, 1);
        }
        let whole = gathers && !runs;
        let taps = if whole { 0..g.kernel_h } else { taps.0..taps.1 };
        let by_rows = runs && (alike || gathers);
        for r in 0..rows {
            let window = self.window_at(*start);
            *start = self.after(*start, 1);
            let mut to = Entries { table, at: r, step: rows };
            if by_rows && (alike || window.is_inside(taps.clone())) {
                self.runs(window.pixel(window.y + (taps.start * g.dilation_h) as i32, window.x), taps.len() as u32, to);
            } else if gathers {
                let slot = scratch.from(r * depth);
                window.gather(slot);
                for ky in if whole { 0..1 } else { taps.clone() } {
                    to.put(slot.from(ky as usize * row_depth).pointer());
                }
            } else {
                window.taps(taps.clone(), scratch.pointer(), to);
            }
        }
        (tile.segments, tile.depth) = if whole {
            (1, depth)
        } else if by_rows {
            (taps.len(), row_depth)
        } else {
            (taps.len() * g.kernel_w as usize, (g.in_c / g.groups) as usize)
        };
        taps.start as usize * row_depth
    }

    /// Writes a pointer for each of so many rows of a window, which lie inside, from this pixel on.
    #[inline]
    fn runs(&self, mut row: *const f32, count: u32, mut to: Entries<'_>) {
        for _ in 0..count {
            to.put(row);
            row = row.wrapping_add(self.g.dilation_h as usize * self.row);
        }
    }

    /// Picture, row and column of an output pixel.
    fn place(&self, pixel: usize) -> [usize; 3] {
        let (out_h, out_w) = (self.g.out_h as usize, self.g.out_w as usize);
        [pixel / (out_w * out_h), pixel / out_w % out_h, pixel % out_w]
    }

    /// The place so many pixels after this one: divisions would cost as much as a first layer's products.
    fn after(&self, [mut picture, mut y, mut x]: [usize; 3], pixels: usize) -> [usize; 3] {
        x += pixels;
        while x >= self.g.out_w as usize {
            x -= self.g.out_w as usize;
            y += 1;
            if y == self.g.out_h as usize {
                (picture, y) = (picture + 1, 0);
            }
        }
        [picture, y, x]
    }

    /// The window of an output pixel.
    #[inline(always)]
    fn window(&self, [picture, y, x]: [usize; 3]) -> Window<'_> {
        let g = self.g;
        let y = y as i32 * g.stride_h as i32 - g.pad_top as i32;
        let x = x as i32 * g.stride_w as i32 - g.pad_left as i32;
        Window { of: self, picture: self.x.wrapping_add(picture * self.picture), y, x }
    }

    /// As [`window`](Windows::window), not inlined on a device.
    #[cfg_attr(target_os = "none", inline(never))]
    fn window_at(&self, place: [usize; 3]) -> Window<'_> {
        self.window(place)
    }
}

/// The entries of one pixel in a tile's table.
struct Entries<'t> {
    table: &'t mut [*const f32; TABLE],
    at: usize,
    step: usize,
}

impl Entries<'_> {
    #[inline(always)]
    fn put(&mut self, pointer: *const f32) {
        self.table[self.at] = pointer;
        self.at += self.step;
    }
}

/// The window of one output pixel and group.
struct Window<'m> {
    of: &'m Windows<'m>,
    /// The picture's first pixel, at the group's first channel.
    picture: *const f32,
    /// Where the window's first tap is.
    y: i32,
    x: i32,
}

impl Window<'_> {
    /// The rows of taps that lie inside the map: first and end; the latter is 0 if there are none.
    #[cfg_attr(target_os = "none", inline(never))]
    fn rows(&self) -> (u32, u32) {
        let g = self.of.g;
        match inside(self.y, g.kernel_h, g.dilation_h, g.in_h) {
            (_, 0) => (g.kernel_h, 0),
            (first, count) => (first, first + count),
        }
    }

    /// Whether all taps of this window lie inside, and those of the next ones in its line, so many in all.
    fn are_whole(&self, count: u32) -> bool {
        let g = self.of.g;
        let (height, width) = ((g.kernel_h - 1) * g.dilation_h, (g.kernel_w - 1) * g.dilation_w + (count - 1) * g.stride_w);
        self.y >= 0 && self.y + (height as i32) < g.in_h as i32 && self.x >= 0 && self.x + (width as i32) < g.in_w as i32
    }

    /// Whether all columns of taps lie inside.
    fn is_inside_horizontally(&self) -> bool {
        let g = self.of.g;
        self.x >= 0 && self.x + (((g.kernel_w - 1) * g.dilation_w) as i32) < g.in_w as i32
    }

    /// Whether all taps of these rows lie inside.
    fn is_inside(&self, taps: Range<u32>) -> bool {
        let (first, end) = self.rows();
        first <= taps.start && taps.end <= end && self.is_inside_horizontally()
    }

    /// Where the pixel at these coordinates is; it need not exist.
    #[cfg_attr(not(target_os = "none"), inline(always))]
    fn pixel(&self, y: i32, x: i32) -> *const f32 {
        let offset = y as isize * self.of.row as isize + x as isize * self.of.g.in_pitch as isize;
        self.picture.wrapping_offset(offset)
    }

    /// Writes a pointer for each tap of these rows; to the zeros, for one that is outside.
    fn taps(&self, taps: Range<u32>, zeros: *const f32, mut to: Entries<'_>) {
        let g = self.of.g;
        let inside = HOST && self.is_inside(taps.clone()); // on a device, code is dearer than a look at each tap
        for ky in taps {
            let y = self.y + (ky * g.dilation_h) as i32;
            let mut x = self.x;
            for _ in 0..g.kernel_w {
                let inside = inside || ((y as u32) < g.in_h && (x as u32) < g.in_w);
                to.put(if inside { self.pixel(y, x) } else { zeros });
                x += g.dilation_w as i32;
            }
        }
    }

    /// Copies the window, zeros outside the map.
    fn gather(&self, to: Dst<'_, f32>) {
        let g = self.of.g;
        let channels = (g.in_c / g.groups) as usize;
        assert!(to.len() >= g.depth() as usize);
        let row = g.kernel_w as usize * channels;
        let (first, columns) = inside(self.x, g.kernel_w, g.dilation_w, g.in_w);
        let left = first as usize * channels;
        // Pixels side by side are copied at once.
        let (pieces, piece) = if g.rows_are_runs() { (1, columns as usize * channels) } else { (columns, channels) };
        let mut to = to.pointer();
        for ky in 0..g.kernel_h {
            let y = self.y + (ky * g.dilation_h) as i32;
            // SAFETY: these pixels lie inside the map, whose length was asserted; `to` has room for the depth.
            unsafe {
                let mut copied = 0;
                if (y as u32) < g.in_h {
                    to.write_bytes(0, left);
                    copied = left;
                    for i in 0..pieces {
                        let x = self.x + ((first + i) * g.dilation_w) as i32;
                        to.add(copied).copy_from_nonoverlapping(self.pixel(y, x), piece);
                        copied += piece;
                    }
                }
                to.add(copied).write_bytes(0, row - copied);
                to = to.add(row);
            }
        }
    }
}
