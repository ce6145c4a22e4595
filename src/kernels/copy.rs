//! Strided copies of elements of 1, 2, 4 or 8 bytes.
//!
//! Axes are sorted by the destination's strides and merged where both sides walk on without a jump. Contiguous inner runs
//! are copied as bytes; where only the source jumps, the two innermost axes are taken in squares of 16, so that a
//! transpose touches each cache line a few times only.
#![allow(unsafe_code)]

use super::{Dst, HOST, Src, clamp};
use crate::program::cut::group;
use crate::tensor::MAX_RANK;
use core::ops::Range;

/// One axis: size, stride in the source, stride in the destination, in elements.
pub type Axis = (usize, isize, isize);

/// Side of the squares of a transpose.
const SQUARE: usize = 16;

/// Copies elements of `size` bytes between strided places: these of the units of all `product(sizes)`. Gives how many units
/// there are. They cut the outermost axis that is left when axes have been merged.
///
/// # Panics
/// If an element lies outside of its span, or the size is none of 1, 2, 4, 8.
pub fn strided(size: usize, axes: &[Axis], from: (Src<'_, u8>, usize), to: (Dst<'_, u8>, usize), units: Range<usize>) -> usize {
    match size {
        1 => elements::<u8>(axes, from, to, units),
        2 => elements::<u16>(axes, from, to, units),
        4 => elements::<u32>(axes, from, to, units),
        8 => elements::<u64>(axes, from, to, units),
        _ => panic!("elements of an impossible size"),
    }
}

/// Sets the first `count` elements to the value whose bits these are.
///
/// # Panics
/// If the span is shorter, or the size is none of 1, 2, 4, 8.
pub fn fill(size: usize, count: usize, value: u64, to: Dst<'_, u8>) {
    assert!(count * size <= to.len());
    // SAFETY: as many elements fit, as was just asserted; tensors are aligned for their elements.
    unsafe {
        match size {
            1 => core::slice::from_raw_parts_mut(to.pointer(), count).fill(value as u8),
            2 => core::slice::from_raw_parts_mut(to.pointer().cast::<u16>(), count).fill(value as u16),
            4 => core::slice::from_raw_parts_mut(to.pointer().cast::<u32>(), count).fill(value as u32),
            8 => core::slice::from_raw_parts_mut(to.pointer().cast::<u64>(), count).fill(value),
            _ => panic!("elements of an impossible size"),
        }
    }
}

/// Copies `bytes` bytes; the spans may overlap.
///
/// # Panics
/// If a span is shorter.
#[inline]
pub fn bytes(from: Src<'_, u8>, to: Dst<'_, u8>, bytes: usize) {
    assert!(bytes <= from.len() && bytes <= to.len());
    // SAFETY: both spans hold as many bytes.
    unsafe { core::ptr::copy(from.pointer(), to.pointer(), bytes) }
}

/// Copies `N` bytes from one place to another: for elements that are moved one by one, without a call each.
///
/// # Panics
/// If a span is shorter.
#[inline(always)]
pub fn item<const N: usize>(from: Src<'_, u8>, at: usize, to: Dst<'_, u8>, to_at: usize) {
    let ends = (at.checked_add(N), to_at.checked_add(N));
    assert!(ends.0.is_some_and(|end| end <= from.len()) && ends.1.is_some_and(|end| end <= to.len()));
    // SAFETY: the asserts see to it that both items lie inside of their spans.
    unsafe { to.pointer().add(to_at).cast::<[u8; N]>().write(from.pointer().add(at).cast::<[u8; N]>().read()) }
}

/// Panics unless all elements lie in `len`.
fn assert_inside(axes: &[Axis], offset: usize, stride: impl Fn(&Axis) -> isize, len: usize) {
    let (mut low, mut high) = (offset as i64, offset as i64);
    for axis in axes {
        let reach = (axis.0 as i64 - 1) * stride(axis) as i64;
        if reach < 0 { low += reach } else { high += reach }
    }
    assert!(low >= 0 && high < len as i64);
}

fn elements<T: Copy>(
    axes: &[Axis],
    (from, from_at): (Src<'_, u8>, usize),
    (to, to_at): (Dst<'_, u8>, usize),
    units: Range<usize>,
) -> usize {
    if axes.iter().any(|a| a.0 == 0) {
        return 0;
    }
    assert_inside(axes, from_at, |a| a.1, from.len() / size_of::<T>());
    assert_inside(axes, to_at, |a| a.2, to.len() / size_of::<T>());
    let mut merged = [(1, 0, 0); MAX_RANK];
    let n = merge(axes, &mut merged);
    let merged = &mut merged[..n];
    let inner: usize = merged.iter().skip(1).map(|a| a.0).product();
    let (size, f, t) = merged.first().copied().unwrap_or((1, 0, 0));
    // Squares of a transpose stay whole.
    let each = if merged.len() > 1 && size >= 2 * SQUARE { group(inner).next_multiple_of(SQUARE) } else { group(inner) };
    let count = size.div_ceil(each);
    let units = clamp(units, count);
    if units.is_empty() {
        return count;
    }
    let (first, end) = (units.start * each, size.min(units.end * each));
    if let Some(outer) = merged.first_mut() {
        outer.0 = end - first;
    }
    // SAFETY: the asserts above cover all elements, of which these are a part; tensors are aligned for their elements.
    unsafe {
        let from = from.pointer().cast::<T>().add(from_at).offset(first as isize * f);
        copy(merged, from, to.pointer().cast::<T>().add(to_at).offset(first as isize * t));
    }
    count
}

/// Sorts by the destination's stride, largest first, and joins axes; gives how many are left.
fn merge(axes: &[Axis], out: &mut [Axis; MAX_RANK]) -> usize {
    let mut n = 0;
    for &axis in axes.iter().filter(|a| a.0 != 1) {
        let mut i = n;
        while i > 0 && out[i - 1].2.abs() < axis.2.abs() {
            out[i] = out[i - 1];
            i -= 1;
        }
        out[i] = axis;
        n += 1;
    }
    let mut kept = 0;
    for i in 0..n {
        let (size, from, to) = out[i];
        if kept > 0 && out[kept - 1].1 == from * size as isize && out[kept - 1].2 == to * size as isize {
            out[kept - 1] = (out[kept - 1].0 * size, from, to);
        } else {
            out[kept] = (size, from, to);
            kept += 1;
        }
    }
    kept
}

/// # Safety
/// All elements that the axes reach are valid. Where source and destination overlap, what is written is unspecified.
unsafe fn copy<T: Copy>(axes: &[Axis], from: *const T, to: *mut T) {
    // SAFETY: offsets are those of elements within the axes.
    unsafe {
        match axes {
            [] => to.write(from.read()),
            [(n, 1, 1)] => from.copy_to(to, *n),
            &[(n, f, t)] => {
                for i in 0..n as isize {
                    to.offset(i * t).write(from.offset(i * f).read());
                }
            }
            &[(pixels, 1, 2), (2, plane, 1)] => interleave::<T, 2>(pixels, from, plane, to),
            &[(pixels, 1, 3), (3, plane, 1)] => interleave::<T, 3>(pixels, from, plane, to),
            &[(pixels, 1, 4), (4, plane, 1)] => interleave::<T, 4>(pixels, from, plane, to),
            &[(rows, fr, tr), (columns, fc, tc)] if fc != 1 && fr.abs() < fc.abs() => {
                for r in (0..rows).step_by(SQUARE) {
                    for c in (0..columns).step_by(SQUARE) {
                        for i in r..rows.min(r + SQUARE) {
                            for j in c..columns.min(c + SQUARE) {
                                let (i, j) = (i as isize, j as isize);
                                to.offset(i * tr + j * tc).write(from.offset(i * fr + j * fc).read());
                            }
                        }
                    }
                }
            }
            &[(planes, fp, tp), (rows, fr, tr), (n, 1, 1)] if HOST && n * size_of::<T>() <= SHORT => {
                for p in 0..planes as isize {
                    runs(rows, n, (from.offset(p * fp), fr), (to.offset(p * tp), tr));
                }
            }
            &[(rows, fr, tr), (n, 1, 1)] if HOST && n * size_of::<T>() <= SHORT => runs(rows, n, (from, fr), (to, tr)),
            [(n, f, t), rest @ ..] => {
                for i in 0..*n as isize {
                    copy(rest, from.offset(i * f), to.offset(i * t));
                }
            }
        }
    }
}

/// Runs of so few bytes are copied by a loop, on hosts: a call of memmove would take longer.
const SHORT: usize = 256;

/// Rows of `n` elements, `fr` apart in the source and `tr` in the destination.
///
/// # Safety
/// As for [`copy`].
unsafe fn runs<T: Copy>(rows: usize, n: usize, (from, fr): (*const T, isize), (to, tr): (*mut T, isize)) {
    const WIDE: usize = 8;
    for r in 0..rows as isize {
        // SAFETY: within the rows.
        unsafe {
            let (from, to) = (from.offset(r * fr), to.offset(r * tr));
            let mut i = 0;
            while i + WIDE <= n {
                to.add(i).cast::<[T; WIDE]>().write(from.add(i).cast::<[T; WIDE]>().read());
                i += WIDE;
            }
            while i < n {
                to.add(i).write(from.add(i).read());
                i += 1;
            }
        }
    }
}

/// The planes of a picture, one per channel, as pixels: what most networks of pictures begin with.
///
/// # Safety
/// As for [`copy`]; `from` has C planes of so many pixels, `plane` elements apart.
unsafe fn interleave<T: Copy, const C: usize>(pixels: usize, from: *const T, plane: isize, to: *mut T) {
    // SAFETY: as promised.
    unsafe {
        let planes: [&[T]; C] = core::array::from_fn(|c| core::slice::from_raw_parts(from.offset(c as isize * plane), pixels));
        let to = core::slice::from_raw_parts_mut(to.cast::<[T; C]>(), pixels);
        for (i, pixel) in to.iter_mut().enumerate() {
            *pixel = core::array::from_fn(|c| planes[c][i]);
        }
    }
}
