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

use super::epilogue::{self, Epilogue, Target};
use super::gemm::{MOST_ROWS, Product, Right, tile_of};
use super::pool::inside;
use super::tile::{Fetch, PANEL, Panels, RowBlock};
use super::{Backend, Dst, Src, clamp};
use crate::program::{Conv, Cut, Tile};
use core::ops::Range;

/// Pointers in the table on the stack: [`Conv::TAPS`] taps of the largest tile, or, where the stack is small, of one row.
const TABLE: usize = Conv::TAPS as usize * if cfg!(target_pointer_width = "64") { MOST_ROWS } else { 1 };

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
/// `scratch` has at least what the record asks for. The residual may share memory with `y`; nothing else may.
///
/// # Panics
/// If a span is shorter than the record says.
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
    let (groups, depth) = (g.groups as usize, g.depth() as usize);
    let (in_group, out_group) = (g.in_c as usize / groups, g.out_c as usize / groups);
    let cut = g.cut(tile_for::<B>(g));
    let each = cut.units();
    let units = clamp(units, groups * each);
    if units.is_empty() {
        return groups * each;
    }
    let group_weights = out_group.div_ceil(PANEL) * PANEL * depth;
    let elements = (pixels - 1) * g.out_pitch as usize + g.out_c as usize;
    assert!(w.len() >= groups * group_weights && y.len() >= elements);
    epilogue.assert_holds(g.out_c as usize, elements);
    let map = Map::new(g, x);
    for group in units.start / each..units.end.div_ceil(each) {
        let first = group * each;
        let units = units.start.max(first) - first..units.end.min(first + each) - first;
        let e = epilogue.from(group * out_group, group * out_group);
        let (w, y) = (w.from(group * group_weights), y.from(group * out_group));
        if g.is_pointwise() {
            let (m, n, k) = (pixels, out_group, in_group);
            let a = if k > 0 { x.from(group * in_group) } else { x };
            let b = Right::Packed(w);
            let product = Product { m, n, k, a, a_row: g.in_pitch as usize, b, c: y, c_row: g.out_pitch as usize, epilogue: e };
            product.units::<B>(&cut, units);
        } else {
            one_group::<B>(&map, group * in_group, w, y, &e, scratch, &cut, units);
        }
    }
    groups * each
}

fn one_group<B: Backend>(
    map: &Map<'_>,
    channel: usize,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    e: &Epilogue<'_>,
    scratch: Dst<'_, f32>,
    cut: &Cut,
    units: Range<usize>,
) {
    let g = map.g;
    let depth = g.depth() as usize;
    let row = g.out_pitch as usize;
    let whole = Target {
        epilogue: e,
        finish: epilogue::finish::<B>,
        c: y.pointer(),
        residual: e.residual.map_or(core::ptr::null(), |r| r.pointer()),
        row,
    };
    let (gathers, runs) = (g.gathers(), by_runs(g));
    let zeros = if gathers { scratch.src() } else { map.zeros(scratch) };
    let row_depth = depth / g.kernel_h as usize;
    let mut table = [core::ptr::null(); TABLE];
    // Fills the table; gives it, the tile's segments, and how many elements of the depth come before them.
    let mut fill = |(first, rows): (usize, usize)| {
        if depth == 0 {
            return (table.as_ptr(), (0, 0), 0);
        }
        if gathers && !runs {
            let mut place = map.place(first);
            for (r, entry) in table.iter_mut().enumerate().take(rows) {
                let slot = scratch.from(r * depth);
                map.window(place, channel).gather(slot);
                *entry = slot.pointer().cast_const();
                place = map.next(place);
            }
            return (table.as_ptr(), (1, depth), 0);
        }
        let start = map.place(first);
        // Most tiles lie inside: these cost one look at each window.
        if runs {
            let (mut place, mut r) = (start, 0);
            while r < rows {
                let window = map.window(place, channel);
                if !window.is_whole() {
                    break;
                }
                window.runs(0..g.kernel_h, &mut table[r..], rows);
                place = map.next(place);
                r += 1;
            }
            if r == rows {
                return (table.as_ptr(), (g.kernel_h as usize, row_depth), 0);
            }
        }
        // Rows of taps that are outside for all pixels of the tile are left out.
        let (mut taps, mut alike, mut place) = (map.window(start, channel).rows(), true, start);
        for _ in 0..rows {
            let window = map.window(place, channel);
            let mine = window.rows();
            alike &= mine == taps && window.is_inside_horizontally();
            taps = (taps.0.min(mine.0), taps.1.max(mine.1));
            place = map.next(place);
        }
        let taps = taps.0..taps.1;
        let skipped = taps.start as usize * row_depth;
        place = start;
        for r in 0..rows {
            let window = map.window(place, channel);
            place = map.next(place);
            if runs && (alike || (gathers && window.is_inside(taps.clone()))) {
                window.runs(taps.clone(), &mut table[r..], rows);
            } else if gathers {
                let slot = scratch.from(r * depth);
                window.gather(slot);
                for (s, ky) in taps.clone().enumerate() {
                    table[s * rows + r] = slot.from(ky as usize * row_depth).pointer().cast_const();
                }
            } else {
                window.taps(taps.clone(), zeros, &mut table[r..], rows);
            }
        }
        let height = taps.len();
        let segments = if runs && (alike || gathers) {
            (height, row_depth)
        } else {
            (height * g.kernel_w as usize, (g.in_c / g.groups) as usize)
        };
        (table.as_ptr(), segments, skipped)
    };
    let tiles = cut.tiles;
    let (mut block, mut tile) = (units.start / tiles, units.start % tiles);
    for _ in units {
        let (first, rows) = cut.rows(tile);
        let fetch = if cut.small { Fetch::Nothing } else { Fetch::panel(tile, tiles) };
        let (table, segments, skipped) = fill((first, rows));
        let panels = Panels { pointer: w.pointer().wrapping_add(skipped * PANEL), step: PANEL, panel: PANEL * depth };
        // SAFETY: the table was filled with pointers into the map, the zeros or scratch, each valid for a segment; weights,
        // output and epilogue hold all columns and pixels, as `conv` asserted.
        unsafe {
            let target = whole.from(first * row);
            B::row_block(RowBlock::new(rows, table, segments, panels, cut.columns(block), &target, fetch));
        }
        tile += 1;
        if tile == tiles {
            (block, tile) = (block + 1, 0);
        }
    }
}

/// The input map and how windows lie in it.
struct Map<'m> {
    g: &'m Conv,
    x: Src<'m, f32>,
    /// Elements between rows and between pictures.
    row: usize,
    picture: usize,
}

impl<'m> Map<'m> {
    fn new(g: &'m Conv, x: Src<'m, f32>) -> Self {
        let row = g.in_w as usize * g.in_pitch as usize;
        let picture = g.in_h as usize * row;
        let pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
        assert!(pixels == 0 || g.in_c == 0 || x.len() >= (pixels - 1) * g.in_pitch as usize + g.in_c as usize);
        Map { g, x, row, picture }
    }

    /// A row of zeros, as long as a tap, at the start of scratch.
    fn zeros(&self, scratch: Dst<'m, f32>) -> Src<'m, f32> {
        for i in 0..(self.g.in_c / self.g.groups) as usize {
            scratch.set(i, 0.0);
        }
        scratch.src()
    }

    /// Picture, row and column of an output pixel.
    fn place(&self, pixel: usize) -> [usize; 3] {
        let (out_h, out_w) = (self.g.out_h as usize, self.g.out_w as usize);
        [pixel / (out_w * out_h), pixel / out_w % out_h, pixel % out_w]
    }

    /// The place after this one: divisions would cost as much as a first layer's products.
    fn next(&self, [picture, y, x]: [usize; 3]) -> [usize; 3] {
        if x + 1 < self.g.out_w as usize {
            [picture, y, x + 1]
        } else if y + 1 < self.g.out_h as usize {
            [picture, y + 1, 0]
        } else {
            [picture + 1, 0, 0]
        }
    }

    /// The window of an output pixel.
    #[inline(always)]
    fn window(&self, [picture, y, x]: [usize; 3], channel: usize) -> Window<'_> {
        let g = self.g;
        let y = y as i32 * g.stride_h as i32 - g.pad_top as i32;
        let x = x as i32 * g.stride_w as i32 - g.pad_left as i32;
        Window { map: self, start: picture * self.picture + channel, y, x }
    }
}

/// The window of one output pixel and group.
struct Window<'m> {
    map: &'m Map<'m>,
    /// Element of the picture's first pixel, at the group's first channel.
    start: usize,
    /// Where the window's first tap is.
    y: i32,
    x: i32,
}

impl Window<'_> {
    /// The rows of taps that lie inside the map: first and end; the latter is 0 if there are none.
    fn rows(&self) -> (u32, u32) {
        let g = self.map.g;
        match inside(self.y, g.kernel_h, g.dilation_h, g.in_h) {
            (_, 0) => (g.kernel_h, 0),
            (first, count) => (first, first + count),
        }
    }

    /// Whether all taps lie inside.
    fn is_whole(&self) -> bool {
        let g = self.map.g;
        self.y >= 0 && self.y + (((g.kernel_h - 1) * g.dilation_h) as i32) < g.in_h as i32 && self.is_inside_horizontally()
    }

    /// Whether all columns of taps lie inside.
    fn is_inside_horizontally(&self) -> bool {
        let g = self.map.g;
        self.x >= 0 && self.x + (((g.kernel_w - 1) * g.dilation_w) as i32) < g.in_w as i32
    }

    /// Whether all taps of these rows lie inside.
    fn is_inside(&self, taps: Range<u32>) -> bool {
        let (first, end) = self.rows();
        first <= taps.start && taps.end <= end && self.is_inside_horizontally()
    }

    /// Where the pixel at these coordinates is; it need not exist.
    #[inline(always)]
    fn pixel(&self, y: i32, x: i32) -> *const f32 {
        let offset = y as isize * self.map.row as isize + x as isize * self.map.g.in_pitch as isize;
        self.map.x.pointer().wrapping_add(self.start).wrapping_offset(offset)
    }

    /// Writes a pointer for each tap of these rows, every `step` entries.
    fn taps(&self, taps: Range<u32>, zeros: Src<'_, f32>, table: &mut [*const f32], step: usize) {
        let g = self.map.g;
        let mut entries = table.iter_mut().step_by(step);
        if self.is_inside(taps.clone()) {
            for ky in taps {
                let mut pixel = self.pixel(self.y + (ky * g.dilation_h) as i32, self.x);
                for entry in entries.by_ref().take(g.kernel_w as usize) {
                    *entry = pixel;
                    pixel = pixel.wrapping_add(g.dilation_w as usize * g.in_pitch as usize);
                }
            }
            return;
        }
        for ky in taps {
            let y = self.y + (ky * g.dilation_h) as i32;
            let row_inside = (y as u32) < g.in_h;
            for (kx, entry) in (0..g.kernel_w).zip(&mut entries) {
                let x = self.x + (kx * g.dilation_w) as i32;
                let inside = row_inside && (x as u32) < g.in_w;
                *entry = if inside { self.pixel(y, x) } else { zeros.pointer() };
            }
        }
    }

    /// Writes a pointer for each of these rows, which lie inside.
    #[inline(always)]
    fn runs(&self, taps: Range<u32>, table: &mut [*const f32], step: usize) {
        let g = self.map.g;
        let mut row = self.pixel(self.y + (taps.start * g.dilation_h) as i32, self.x);
        for entry in table.iter_mut().step_by(step).take(taps.len()) {
            *entry = row;
            row = row.wrapping_add(g.dilation_h as usize * self.map.row);
        }
    }

    /// Copies the window, zeros outside the map.
    fn gather(&self, to: Dst<'_, f32>) {
        let g = self.map.g;
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
