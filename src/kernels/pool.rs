//! Pooling over windows of NHWC maps: channels innermost, four vectors of them per pass over a window.
#![allow(unsafe_code)]

use super::{Backend, Dst, F32s, HOST, Kernel, Src, clamp};
use crate::program::{Pool, PoolKind};
use core::ops::Range;

/// Computes these of the rows of the output, of all pictures, of a record that has passed its check; gives how many there are.
///
/// Vector loads may reach up to [`SLACK`](crate::program::SLACK) bytes past the end of `x`. A window without any pixel
/// gives -inf or 0.
///
/// # Panics
/// If a span is shorter than the record says.
pub fn pool<B: Backend>(g: &Pool, x: Src<'_, f32>, y: Dst<'_, f32>, lines: Range<usize>) -> usize {
    let in_pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
    let out_pixels = g.batch as usize * g.out_h as usize * g.out_w as usize;
    if out_pixels == 0 || g.channels == 0 {
        return 0;
    }
    let count = g.batch as usize * g.out_h as usize;
    assert!(in_pixels == 0 || x.len() >= (in_pixels - 1) * g.in_pitch as usize + g.channels as usize);
    assert!(y.len() >= (out_pixels - 1) * g.out_pitch as usize + g.channels as usize);
    B::launch(Run { g, x, y, lines: clamp(lines, count) });
    count
}

/// The taps of a window along one axis that lie in `0..size`: first tap, at most `taps`, and number of taps.
pub(super) fn inside(start: i32, taps: u32, dilation: u32, size: u32) -> (u32, u32) {
    // A division takes as long as a tap's products; on a device, code is dearer.
    let steps = |n: u32| if HOST && dilation == 1 { n } else { n.div_ceil(dilation) };
    let below = (-start).max(0) as u32;
    let first = steps(below).min(taps);
    let room = (size as i32 - start).max(0) as u32;
    (first, steps(room).min(taps).saturating_sub(first))
}

struct Run<'m> {
    g: &'m Pool,
    x: Src<'m, f32>,
    y: Dst<'m, f32>,
    lines: Range<usize>,
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let g = self.g;
        let max = g.kind == PoolKind::Max as u32;
        let (pitch, channels) = (g.in_pitch as usize, g.channels as usize);
        let row = g.in_w as usize * pitch;
        let across = |ox: u32| ox as i32 * g.stride_w as i32 - g.pad_left as i32;
        // Where windows lie inside the map from left to right: nothing is asked there, pixel by pixel (with one channel that
        // took ten times as long as the pooling).
        let last = g.in_w.saturating_sub((g.kernel_w - 1).saturating_mul(g.dilation_w)) as i32;
        let whole = |ox: u32| across(ox) >= 0 && across(ox) < last;
        for line in self.lines.clone() {
            let (picture, oy) = (line / g.out_h as usize, line % g.out_h as usize);
            let y = oy as i32 * g.stride_h as i32 - g.pad_top as i32;
            let (ky, rows) = inside(y, g.kernel_h, g.dilation_h, g.in_h);
            let padded = g.kind == PoolKind::AveragePadded as u32;
            let counted_rows = match padded {
                true => inside(y + g.pad_top as i32, g.kernel_h, g.dilation_h, g.in_h + g.pad_top + g.pad_bottom).1,
                false => rows,
            };
            let scale_of = |columns: u32| {
                let count = counted_rows as f32 * columns as f32;
                if count > 0.0 { 1.0 / count } else { 0.0 }
            };
            let inner = scale_of(g.kernel_w);
            // Inside the map if there is any tap.
            let from = self.x.pointer().wrapping_add(picture * g.in_h as usize * row);
            let from = from.wrapping_offset((y + (ky * g.dilation_h) as i32) as isize * row as isize);
            for ox in 0..g.out_w {
                let x = across(ox);
                let (kx, columns, scale) = if whole(ox) {
                    (0, g.kernel_w, inner)
                } else {
                    let (kx, columns) = inside(x, g.kernel_w, g.dilation_w, g.in_w);
                    let counted = match padded {
                        true => inside(x + g.pad_left as i32, g.kernel_w, g.dilation_w, g.in_w + g.pad_left + g.pad_right).1,
                        false => columns,
                    };
                    (kx, columns, scale_of(counted))
                };
                let window = Window {
                    x: from.wrapping_offset((x + (kx * g.dilation_w) as i32) as isize * pitch as isize),
                    rows: if columns == 0 { 0 } else { rows as usize },
                    columns: columns as usize,
                    row: g.dilation_h as usize * row,
                    column: g.dilation_w as usize * pitch,
                    y: self.y.from((line * g.out_w as usize + ox as usize) * g.out_pitch as usize),
                };
                let mut c = 0;
                // SAFETY: taps lie inside the map and the pixel inside the output, whose lengths were asserted; loads reach
                // past the map's end by less than a vector.
                unsafe {
                    while V::LANES > 1 && c + 4 * V::LANES <= channels {
                        window.run::<V, 4>(max, scale, c, 4 * V::LANES);
                        c += 4 * V::LANES;
                    }
                    while c < channels {
                        window.run::<V, 1>(max, scale, c, V::LANES.min(channels - c));
                        c += V::LANES;
                    }
                }
            }
        }
    }
}

/// The part of a window that lies inside the map, and its output pixel.
struct Window<'m> {
    x: *const f32,
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
    y: Dst<'m, f32>,
}

impl Window<'_> {
    /// W vectors of channels from `c` on, of which `n` are stored.
    #[inline(always)]
    unsafe fn run<V: F32s, const W: usize>(&self, max: bool, scale: f32, c: usize, n: usize) {
        // SAFETY: as the caller sees to.
        unsafe {
            let acc = if max {
                self.fold::<V, W>(c, f32::NEG_INFINITY, |a, x| x.max(a))
            } else {
                let mut acc = self.fold::<V, W>(c, 0.0, |a, x| a.add(x));
                for a in &mut acc {
                    *a = a.mul(V::splat(scale));
                }
                acc
            };
            let y = self.y.pointer().add(c);
            for (w, a) in acc.into_iter().enumerate() {
                if W > 1 { a.store(y.add(w * V::LANES)) } else { a.store_first(y, n) }
            }
        }
    }

    #[inline(always)]
    unsafe fn fold<V: F32s, const W: usize>(&self, c: usize, start: f32, f: impl Fn(V, V) -> V) -> [V; W] {
        let mut acc = [V::splat(start); W];
        for r in 0..self.rows {
            for k in 0..self.columns {
                let x = self.x.wrapping_add(r * self.row + k * self.column + c);
                for (w, a) in acc.iter_mut().enumerate() {
                    // SAFETY: as the caller sees to.
                    *a = f(*a, unsafe { V::load(x.add(w * V::LANES)) });
                }
            }
        }
        acc
    }
}
