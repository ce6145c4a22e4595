//! Weighted sums along the middle axis of `[outer][len][inner]`: a vector of neighbours at a time, or, where the axis is the
//! innermost, a number at a time.
#![allow(unsafe_code)]

use super::simd::{load, store};
use super::{Dst, F32s, Kernel, Src};
use core::ops::Range;

/// `y[o][j][i] = sum over t of weights[j][t] * x[o][places[j][t]][i]`.
///
/// # Panics
/// If a span is shorter than the sizes say, or a place is not below `len`.
pub struct Resample<'m> {
    /// `[outer, len, out, inner]`.
    pub sizes: [usize; 4],
    /// Terms of a sum, not 0.
    pub taps: usize,
    /// `[outer][len][inner]`.
    pub x: Src<'m, f32>,
    /// `[out][taps]`.
    pub places: Src<'m, i32>,
    /// `[out][taps]`.
    pub weights: Src<'m, f32>,
    /// `[outer][out][inner]`; no part of `x`.
    pub y: Dst<'m, f32>,
    /// Which rows of `y` are computed: those of number `j * outer + o`.
    pub rows: Range<usize>,
}

impl Kernel for Resample<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [outer, len, out, inner] = self.sizes;
        assert!(self.x.len() >= outer * len * inner && self.y.len() >= outer * out * inner);
        assert!(self.places.len() >= out * self.taps && self.weights.len() >= out * self.taps);
        assert!(self.rows.end <= outer * out);
        if self.rows.is_empty() {
            return;
        }
        for j in self.rows.start / outer..self.rows.end.div_ceil(outer) {
            let terms = j * self.taps..(j + 1) * self.taps;
            for t in terms.clone() {
                assert!((self.places.at(t) as usize) < len);
            }
            for o in self.rows.start.saturating_sub(j * outer)..outer.min(self.rows.end - j * outer) {
                let y = self.y.from((o * out + j) * inner);
                let x = self.x.from(o * len * inner);
                if inner == 1 {
                    let sum = terms.clone().fold(0.0, |sum, t| sum + self.weights.at(t) * x.at(self.places.at(t) as usize));
                    y.set(0, sum);
                    continue;
                }
                let mut i = 0;
                while i < inner {
                    let n = V::LANES.min(inner - i);
                    let mut sum = V::splat(0.0);
                    for t in terms.clone() {
                        // SAFETY: the place is below `len`, and `i + n` at most `inner`: the elements are within `x`,
                        // whose length was asserted.
                        let v: V = unsafe { load(x.pointer().add(self.places.at(t) as usize * inner + i), n) };
                        sum = v.mul_add(V::splat(self.weights.at(t)), sum);
                    }
                    // SAFETY: `i + n` is at most `inner`, which `y` holds from here on.
                    unsafe { store(sum, y.pointer().add(i), n) };
                    i += n;
                }
            }
        }
    }
}
