//! Depthwise convolution over NHWC maps: channels innermost, a tile of outputs of one row at a time.
//!
//! A tile of 7 outputs (4 with a stride) shares its weights, which are loaded once per vector of channels. Weights kept in
//! registers along a row, or one output at a time, measured half as fast; more outputs spill.
//!
//! Activations built on exponentials are applied afterwards to the outputs of several tiles, in the first-level cache.
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, HOT, Target, store};
use super::pool::inside;
use super::{Backend, Dst, F32s, Kernel, Src, clamp};
use crate::program::Conv;
use core::ops::Range;

/// Computes these of the rows of the output, of all pictures, of a record that has passed its check; gives how many there are.
///
/// Vector loads may reach up to [`SLACK`](crate::program::SLACK) bytes past the end of `x` and `w`. The residual may share
/// memory with `y`.
///
/// # Panics
/// If a span is shorter than the record says.
pub fn depthwise<B: Backend>(
    g: &Conv,
    x: Src<'_, f32>,
    w: Src<'_, f32>,
    y: Dst<'_, f32>,
    epilogue: &Epilogue<'_>,
    lines: Range<usize>,
) -> usize {
    let in_pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
    let out_pixels = g.pixels() as usize;
    if out_pixels == 0 || g.out_c == 0 {
        return 0;
    }
    let count = g.batch as usize * g.out_h as usize;
    let channels = g.out_c as usize;
    let elements = (out_pixels - 1) * g.out_pitch as usize + channels;
    assert!(in_pixels == 0 || x.len() >= (in_pixels - 1) * g.in_pitch as usize + channels);
    assert!(w.len() >= g.kernel_h as usize * g.kernel_w as usize * channels);
    assert!(y.len() >= elements);
    epilogue.assert_holds(channels, elements);
    let target = Target::of::<B>(epilogue, y.pointer(), g.out_pitch as usize);
    B::depthwise(Run { g, x: x.pointer(), w: w.pointer(), target, lines: clamp(lines, count) });
    count
}

/// For a window of three columns side by side and a stride of 1 or 2: how many outputs from the one at `x` on make a tile, and
/// whether its first and its last column lie outside the map (no others may).
#[inline(always)]
fn three(g: &Conv, x: i32, left: u32) -> Option<(u32, [bool; 2])> {
    if g.kernel_w != 3 || g.dilation_w != 1 || g.stride_w > 2 || x < -1 {
        return None;
    }
    for outputs in [7, 4, 2, 1] {
        let last = x + ((outputs - 1) * g.stride_w) as i32 + 2;
        if outputs <= left && last <= g.in_w as i32 && (outputs < 7 || g.stride_w == 1) {
            return Some((outputs, [x < 0, last == g.in_w as i32]));
        }
    }
    None
}

/// A depthwise convolution whose spans have been asserted to be long enough.
pub struct Run<'m, 'e> {
    pub(super) g: &'m Conv,
    pub(super) x: *const f32,
    pub(super) w: *const f32,
    pub(super) target: Target<'e>,
    /// Rows of the output, of all pictures.
    pub(super) lines: Range<usize>,
}

impl Kernel for Run<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let g = self.g;
        let channels = g.out_c as usize;
        let pitch = g.in_pitch as usize;
        let in_row = g.in_w as usize * pitch;
        // Outputs whose windows lie inside, horizontally.
        let reach = ((g.kernel_w - 1) * g.dilation_w) as i32;
        let left = g.pad_left.div_ceil(g.stride_w).min(g.out_w);
        let last = g.in_w as i32 + g.pad_left as i32 - reach - 1;
        let right = if last < 0 { left } else { (last as u32 / g.stride_w + 1).clamp(left, g.out_w) };
        let split = if V::LANES > 1 { self.target.epilogue.split() } else { None };
        let tiles = match &split {
            Some((first, _)) => self.target.under(first),
            None => self.target,
        };
        for line in self.lines.clone() {
            let (picture, oy) = (line / g.out_h as usize, line % g.out_h as usize);
            let y = oy as i32 * g.stride_h as i32 - g.pad_top as i32;
            let (ky, rows) = inside(y, g.kernel_h, g.dilation_h, g.in_h);
            let x_row = self
                .x
                .wrapping_add(picture * g.in_h as usize * in_row)
                .wrapping_offset((y + (ky * g.dilation_h) as i32) as isize * in_row as isize);
            // Outputs of this row, and how many of them have had their activation.
            let (mut ox, mut activated) = (0, 0);
            while ox < g.out_w {
                if let Some((_, activation)) = &split
                    && (ox - activated) as usize * channels >= HOT
                {
                    // SAFETY: the row has these outputs, and all of them are sums.
                    unsafe { self.activate(activation, line, activated..ox) };
                    activated = ox;
                }
                let x = ox as i32 * g.stride_w as i32 - g.pad_left as i32;
                if V::LANES > 1
                    && let Some((outputs, outside)) = three(g, x, g.out_w - ox)
                {
                    // SAFETY: all taps lie inside but those that are `outside`; the rest as below.
                    unsafe {
                        let tile = Tile {
                            x: x_row.wrapping_offset(x as isize * pitch as isize),
                            w: self.w.wrapping_add(ky as usize * 3 * channels),
                            rows: rows as usize,
                            columns: 3,
                            row: g.dilation_h as usize * in_row,
                            column: pitch,
                            output: g.stride_w as usize * pitch,
                            w_row: 3 * channels,
                            channels,
                            target: tiles.from((line * g.out_w as usize + ox as usize) * g.out_pitch as usize),
                        };
                        match (g.stride_w, outputs) {
                            (1, 7) => tile.three::<V, 7, 1>(outside),
                            (1, 4) => tile.three::<V, 4, 1>(outside),
                            (1, 2) => tile.three::<V, 2, 1>(outside),
                            (1, _) => tile.three::<V, 1, 1>(outside),
                            (_, 4) => tile.three::<V, 4, 2>(outside),
                            (_, 2) => tile.three::<V, 2, 2>(outside),
                            (_, _) => tile.three::<V, 1, 2>(outside),
                        }
                    }
                    ox += outputs;
                    continue;
                }
                let within = ox >= left && ox < right;
                let (kx, columns) = if within { (0, g.kernel_w) } else { inside(x, g.kernel_w, g.dilation_w, g.in_w) };
                let outputs = if within { right - ox } else { 1 };
                // SAFETY: the first `rows` x `columns` taps from `ky`, `kx` on lie inside the map for all outputs of the tile;
                // lengths were asserted, and loads reach past the end by less than a vector.
                unsafe {
                    let tile = Tile {
                        x: x_row.wrapping_offset((x + (kx * g.dilation_w) as i32) as isize * pitch as isize),
                        w: self.w.wrapping_add((ky as usize * g.kernel_w as usize + kx as usize) * channels),
                        rows: rows as usize,
                        columns: columns as usize,
                        row: g.dilation_h as usize * in_row,
                        column: g.dilation_w as usize * pitch,
                        output: g.stride_w as usize * pitch,
                        w_row: g.kernel_w as usize * channels,
                        channels,
                        target: tiles.from((line * g.out_w as usize + ox as usize) * g.out_pitch as usize),
                    };
                    ox += match outputs {
                        7.. if g.stride_w == 1 && V::LANES > 1 => tile.run::<V, 7, 1>(),
                        4.. => match V::LANES {
                            1 => tile.run::<V, 4, 4>(),
                            _ => tile.run::<V, 4, 1>(),
                        },
                        3 => tile.run::<V, 3, 1>(),
                        2 => tile.run::<V, 2, 1>(),
                        _ => tile.run::<V, 1, 1>(),
                    };
                }
            }
            if let Some((_, activation)) = &split {
                // SAFETY: as above.
                unsafe { self.activate(activation, line, activated..g.out_w) };
            }
        }
    }
}

impl Run<'_, '_> {
    /// Applies an activation to these outputs of a row, in place.
    ///
    /// # Safety
    /// The row has these outputs, and the epilogue nothing but an activation.
    #[inline(always)]
    unsafe fn activate(&self, activation: &Epilogue<'_>, line: usize, outputs: Range<u32>) {
        let g = self.g;
        // SAFETY: the outputs are the target's own memory.
        unsafe {
            let first = self.target.from((line * g.out_w as usize + outputs.start as usize) * g.out_pitch as usize);
            first.activate(activation, outputs.len(), g.out_c as usize);
        }
    }
}

/// Outputs side by side and the taps that they all have.
struct Tile<'e> {
    /// First tap of the first output, channel 0.
    x: *const f32,
    /// Its weights.
    w: *const f32,
    /// Taps.
    rows: usize,
    columns: usize,
    /// Input elements between rows and columns of taps, and between outputs.
    row: usize,
    column: usize,
    output: usize,
    /// Weights between rows of taps.
    w_row: usize,
    channels: usize,
    target: Target<'e>,
}

impl Tile<'_> {
    /// O outputs whose windows have three columns side by side, S apart: each input is loaded once per row of taps.
    #[inline(always)]
    unsafe fn three<V: F32s, const O: usize, const S: usize>(&self, outside: [bool; 2]) {
        for c in (0..self.channels).step_by(V::LANES) {
            let mut acc = [[V::splat(0.0); 1]; O];
            for r in 0..self.rows {
                let x = self.x.wrapping_add(r * self.row + c);
                let w = self.w.wrapping_add(r * self.w_row + c);
                // SAFETY: the taps that are not outside lie in the map, as the caller sees to.
                unsafe {
                    let weights =
                        [V::load(w), V::load(w.wrapping_add(self.channels)), V::load(w.wrapping_add(2 * self.channels))];
                    for (k, weight) in weights.iter().enumerate() {
                        for (o, acc) in acc.iter_mut().enumerate() {
                            let is_outside = (k == 0 && o == 0 && outside[0]) || (k == 2 && o == O - 1 && outside[1]);
                            if !is_outside {
                                let value = V::load(x.wrapping_add((o * S + k) * self.column));
                                acc[0] = value.mul_add(*weight, acc[0]);
                            }
                        }
                    }
                }
            }
            // SAFETY: the output has these pixels and channels.
            unsafe { store(acc, &self.target, c, V::LANES.min(self.channels - c)) };
        }
    }

    /// O outputs, W vectors of channels at a time. Gives O.
    #[inline(always)]
    unsafe fn run<V: F32s, const O: usize, const W: usize>(&self) -> u32 {
        let mut c = 0;
        while c < self.channels {
            let mut acc = [[V::splat(0.0); W]; O];
            for r in 0..self.rows {
                let mut x = self.x.wrapping_add(r * self.row + c);
                let mut w = self.w.wrapping_add(r * self.w_row + c);
                for _ in 0..self.columns {
                    for v in 0..W {
                        // SAFETY: all taps lie inside, as the caller sees to.
                        unsafe {
                            let weight = V::load(w.add(v * V::LANES));
                            for (o, acc) in acc.iter_mut().enumerate() {
                                acc[v] = V::load(x.add(o * self.output + v * V::LANES)).mul_add(weight, acc[v]);
                            }
                        }
                    }
                    x = x.wrapping_add(self.column);
                    w = w.wrapping_add(self.channels);
                }
            }
            // SAFETY: the output has these pixels and channels.
            unsafe { store(acc, &self.target, c, (W * V::LANES).min(self.channels - c)) };
            c += W * V::LANES;
        }
        O as u32
    }
}
