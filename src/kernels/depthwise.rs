//! Depthwise convolution over NHWC maps: channels innermost, a tile of outputs of one row at a time.
//!
//! A tile of 7 outputs (4 with a stride) shares its weights, which are loaded once per vector of channels. Weights kept in
//! registers along a row, or one output at a time, measured half as fast; more outputs spill. For the usual windows a tile goes
//! over the columns of its input, at the map's edges too, and uses each for all windows that it is in.
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

/// Columns of a window that [`Tile::beside`] takes: side by side, as many as registers hold weights for.
fn is_beside(g: &Conv) -> bool {
    matches!(g.kernel_w, 3 | 5 | 7) && g.dilation_w == 1 && matches!(g.stride_w, 1 | 2)
}

/// Channels that are computed before the next ones, of all rows: as many as leave the rows of a window in the first-level cache, so
/// that the second-level one is asked for them once and not once a row of taps. All, where that would be less than 64: on wide
/// maps with 96 channels parts cost 5 % (AVX-512, Zen 5).
fn block(g: &Conv) -> usize {
    const CACHE: usize = 24 * 1024;
    let channels = g.out_c as usize;
    let most = CACHE / (size_of::<f32>() * g.kernel_h as usize * g.in_w.max(1) as usize);
    if most < 64 || channels <= most {
        return channels;
    }
    channels.div_ceil(channels.div_ceil(most)).next_multiple_of(16)
}

/// The channels, so many at a time.
fn parts(channels: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..channels).step_by(block).map(move |from| from..channels.min(from + block))
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
        let block = if V::LANES > 1 { block(g) } else { channels };
        for (line, part) in parts(channels, block).flat_map(|part| self.lines.clone().map(move |line| (line, part.clone()))) {
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
                    && (ox - activated) as usize * part.len() >= HOT
                {
                    // SAFETY: the row has these outputs, and all of them are sums.
                    unsafe { self.activate(activation, line, activated..ox, part.clone()) };
                    activated = ox;
                }
                let x = ox as i32 * g.stride_w as i32 - g.pad_left as i32;
                if V::LANES > 1 && is_beside(g) {
                    let (rest, wide) = (g.out_w - ox, if g.stride_w == 1 { 7 } else { 4 });
                    let outputs = if rest >= wide { wide } else { 1 << rest.ilog2() };
                    let columns = (outputs - 1) * g.stride_w + g.kernel_w;
                    // SAFETY: the taps of the mask's columns lie inside, in all of the rows; the rest as below.
                    unsafe {
                        let tile = Tile {
                            x: x_row.wrapping_offset(x as isize * pitch as isize),
                            w: self.w.wrapping_add(ky as usize * (g.kernel_w as usize * channels)),
                            rows: rows as usize,
                            columns: columns as usize,
                            row: g.dilation_h as usize * in_row,
                            column: pitch,
                            output: g.stride_w as usize * pitch,
                            w_row: g.kernel_w as usize * channels,
                            channels,
                            part: part.clone(),
                            target: tiles.from((line * g.out_w as usize + ox as usize) * g.out_pitch as usize),
                        };
                        let (first, columns) = inside(x, columns, 1, g.in_w);
                        let columns = ((1u32 << columns) - 1) << first;
                        match g.kernel_w {
                            3 => tile.any_beside::<V, 3>(g.stride_w, outputs, columns),
                            5 => tile.any_beside::<V, 5>(g.stride_w, outputs, columns),
                            _ => tile.any_beside::<V, 7>(g.stride_w, outputs, columns),
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
                        part: part.clone(),
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
                unsafe { self.activate(activation, line, activated..g.out_w, part.clone()) };
            }
        }
    }
}

impl Run<'_, '_> {
    /// Applies an activation to these outputs and channels of a row, in place.
    ///
    /// # Safety
    /// The row has them, and the epilogue nothing but an activation.
    #[inline(always)]
    unsafe fn activate(&self, activation: &Epilogue<'_>, line: usize, outputs: Range<u32>, part: Range<usize>) {
        let g = self.g;
        // SAFETY: the outputs are the target's own memory.
        unsafe {
            let pixel = line * g.out_w as usize + outputs.start as usize;
            self.target.from(pixel * g.out_pitch as usize + part.start).activate(activation, outputs.len(), part.len());
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
    /// The channels that are computed.
    part: Range<usize>,
    target: Target<'e>,
}

impl Tile<'_> {
    /// 7, 4, 2 or 1 outputs with a stride of 1, at most 4 with one of 2.
    ///
    /// # Safety
    /// As for [`beside`](Self::beside).
    #[inline(always)]
    unsafe fn any_beside<V: F32s, const K: usize>(&self, stride: u32, outputs: u32, columns: u32) {
        let all = columns == (1 << self.columns) - 1;
        // SAFETY: as the caller sees to.
        unsafe {
            match (stride, outputs) {
                (1, 7) if all => self.beside::<V, 7, 1, K, true>(columns),
                (1, 7) => self.beside::<V, 7, 1, K, false>(columns),
                (1, 4) => self.beside::<V, 4, 1, K, false>(columns),
                (1, 2) => self.beside::<V, 2, 1, K, false>(columns),
                (1, _) => self.beside::<V, 1, 1, K, false>(columns),
                (_, 4) if all => self.beside::<V, 4, 2, K, true>(columns),
                (_, 4) => self.beside::<V, 4, 2, K, false>(columns),
                (_, 2) => self.beside::<V, 2, 2, K, false>(columns),
                (_, _) => self.beside::<V, 1, 2, K, false>(columns),
            }
        }
    }

    /// O outputs, S apart, whose windows have K columns side by side: each input is loaded once per row of taps, and used
    /// for all windows that it is in. Of the input's columns those count whose bit is set: all, if `ALL`.
    ///
    /// # Safety
    /// These columns lie in the map, and the target has these outputs.
    #[inline(always)]
    unsafe fn beside<V: F32s, const O: usize, const S: usize, const K: usize, const ALL: bool>(&self, columns: u32) {
        for c in self.part.clone().step_by(V::LANES) {
            let mut acc = [[V::splat(0.0); 1]; O];
            for r in 0..self.rows {
                let x = self.x.wrapping_add(r * self.row + c);
                let w = self.w.wrapping_add(r * self.w_row + c);
                // SAFETY: the columns lie in the map, as the caller sees to; there are weights for all taps.
                unsafe {
                    let weights: [V; K] = core::array::from_fn(|k| V::load(w.wrapping_add(k * self.channels)));
                    for column in 0..(O - 1) * S + K {
                        if ALL || columns >> column & 1 == 1 {
                            let value = V::load(x.wrapping_add(column * self.column));
                            for (o, acc) in acc.iter_mut().enumerate() {
                                if column >= o * S && column - o * S < K {
                                    acc[0] = value.mul_add(weights[column - o * S], acc[0]);
                                }
                            }
                        }
                    }
                }
            }
            // SAFETY: the output has these pixels and channels.
            unsafe { store(acc, &self.target, c, V::LANES.min(self.part.end - c)) };
        }
    }

    /// O outputs, W vectors of channels at a time. Gives O.
    #[inline(always)]
    unsafe fn run<V: F32s, const O: usize, const W: usize>(&self) -> u32 {
        let mut c = self.part.start;
        while c < self.part.end {
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
            unsafe { store(acc, &self.target, c, (W * V::LANES).min(self.part.end - c)) };
            c += W * V::LANES;
        }
        O as u32
    }
}
