//! A single row times weights that no cache holds, as a network's fully connected layers have: memory is the limit, so what
//! need not be read counts.
//!
//! Behind a ReLU half of a layer's inputs are zeros, of trained networks often more (Albericio et al., "Cnvlutin: ineffectual-neuron-free
//! deep neural network computing", 2016). Weights that only a zero is multiplied with are left out. In panels of 16 columns that
//! would skip a line here and there of a stream that the hardware fetches as a whole; so these lie in [slabs](slabs_len), whose
//! rows are of 2 KB. Sums of a slab's columns stay in the first-level cache, and four rows at a time are added to
//! them. Measured with AVX-512, beside panels: 25088 x 4096 with four zeros in ten inputs 1.44 times as fast, 4096 x 4096 with five in
//! ten 1.6 times; without zeros the same.
//!
//! They are fetched past the caches: a network with so large a layer has more weights than caches hold, and what stays there are
//! those of its other layers and its activations (alexnet, 235 MB in three such layers: all of it 1.03 times as fast).
//!
//! 0 times an infinity or a NaN is not 0: weights with one of them, which the last line of a slab tells, are all read.
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, Target, store};
use super::{Backend, Dst, F32s, Kernel, Src, clamp};
use crate::program::{PANEL, SLAB, SLAB_UNIT, slabs_len};
use core::ops::Range;

/// Columns of a slab, and of a unit.
const WIDE: usize = SLAB as usize;
const UNIT: usize = SLAB_UNIT as usize;

/// Steps of the depth that are looked through for zeros at a time: their numbers are on the stack.
const STEPS: usize = 512;

/// Rows of the weights that are added at a time.
const FOUR: usize = 4;

/// `C[n] = epilogue(A[k] * B[k][n])`.
#[derive(Clone, Copy, Debug)]
pub struct Row<'m> {
    /// Columns.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// The row.
    pub a: Src<'m, f32>,
    /// The weights, in [slabs](slabs_len).
    pub b: Src<'m, f32>,
    /// The result; it may share memory with the epilogue's residual, but not with the operands.
    pub c: Dst<'m, f32>,
    /// What happens before the store.
    pub epilogue: &'m Epilogue<'m>,
}

impl Row<'_> {
    /// Units that it is cut into: some columns each.
    pub const fn count(&self) -> usize {
        self.n.div_ceil(UNIT)
    }

    /// Computes these of its units.
    ///
    /// # Panics
    /// If an operand is shorter than the sizes say.
    pub fn units<B: Backend>(&self, units: Range<usize>) {
        let &Row { n, k, a, b, c, epilogue } = self;
        assert!(a.len() >= k && c.len() >= n && b.len() as u64 >= slabs_len(k as u64, n as u64));
        epilogue.assert_holds(n, n);
        let units = clamp(units, self.count());
        let (mut first, end) = (units.start * UNIT, n.min(units.end * UNIT));
        while first < end {
            let slab = first / WIDE * WIDE;
            let columns = first..end.min(slab + WIDE);
            first = columns.end;
            let row = WIDE.min(n - slab).next_multiple_of(PANEL as usize);
            let start = slab * k + slab / WIDE * PANEL as usize;
            let all = b.at(start + row * k) != 0.0;
            let b = b.pointer().wrapping_add(start + (columns.start - slab));
            let target = Target::of::<B>(epilogue, c.pointer(), n);
            B::launch(Part { a: a.pointer(), k, b, row, all, columns, target });
        }
    }
}

/// Columns of one slab.
struct Part<'e> {
    a: *const f32,
    k: usize,
    /// The first of the columns.
    b: *const f32,
    /// Elements between rows of the slab.
    row: usize,
    /// Whether rows are read that are multiplied with 0.
    all: bool,
    columns: Range<usize>,
    target: Target<'e>,
}

impl Kernel for Part<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let Part { a, k, b, row, all, columns, target } = self;
        let width = columns.len().next_multiple_of(PANEL as usize);
        let mut sums = [0.0; WIDE];
        let mut steps = [0u32; STEPS + FOUR];
        // SAFETY: `Row::units` asserted that the row has `k` elements, and that the slab has as many rows of so many columns,
        // rounded up to a panel; `steps` are below `k`, and no more than are looked through; the output and what the epilogue
        // reads have all columns.
        unsafe {
            for start in (0..k).step_by(STEPS) {
                let mut count = 0;
                for step in start..k.min(start + STEPS) {
                    steps[count] = step as u32;
                    count += (all | (a.add(step).read() != 0.0)) as usize;
                }
                // What is fetched behind the last: what may come next.
                for (i, step) in steps[count..][..FOUR].iter_mut().enumerate() {
                    *step = (start + STEPS + i) as u32;
                }
                let mut at = 0;
                while at + FOUR <= count {
                    add::<V, FOUR>(&mut sums, width, a, b, row, steps.as_ptr().add(at));
                    at += FOUR;
                }
                for at in at..count {
                    add::<V, 1>(&mut sums, width, a, b, row, steps.as_ptr().add(at));
                }
            }
            for at in (0..columns.len()).step_by(4 * V::LANES) {
                let mut tile = [[V::splat(0.0); 4]];
                for (w, x) in tile[0].iter_mut().enumerate() {
                    *x = V::load(sums.as_ptr().add(at + w * V::LANES));
                }
                store(tile, &target, columns.start + at, (columns.len() - at).min(4 * V::LANES));
            }
        }
    }
}

/// Adds N rows of the weights, times their elements of A, to the sums, and fetches the N rows after those.
///
/// # Safety
/// `steps` are N of A and as many that may be past it; the weights have the rows of the first ones, of as many columns as `width`
/// says, which is a multiple of 16 and at most a slab's.
#[inline(always)]
unsafe fn add<V: F32s, const N: usize>(
    sums: &mut [f32; WIDE],
    width: usize,
    a: *const f32,
    b: *const f32,
    row: usize,
    steps: *const u32,
) {
    const LINE: usize = PANEL as usize;
    let sums = sums.as_mut_ptr();
    let mut factors = [V::splat(0.0); N];
    let (mut rows, mut next) = ([b; N], [b; N]);
    for i in 0..N {
        // SAFETY: as promised.
        let (step, after) = unsafe { (steps.add(i).read() as usize, steps.add(N + i).read() as usize) };
        // SAFETY: as promised.
        factors[i] = V::splat(unsafe { a.add(step).read() });
        (rows[i], next[i]) = (b.wrapping_add(step * row), b.wrapping_add(after * row));
    }
    for line in (0..width).step_by(LINE) {
        for next in next {
            V::prefetch_once(next.wrapping_add(line));
        }
        for c in (line..line + LINE).step_by(V::LANES) {
            // SAFETY: as promised.
            unsafe {
                let mut sum = V::load(sums.add(c));
                for i in 0..N {
                    sum = factors[i].mul_add(V::load(rows[i].add(c)), sum);
                }
                sum.store(sums.add(c));
            }
        }
    }
}
