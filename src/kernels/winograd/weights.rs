//! The transform of weights, `G g Gᵀ`: from plain panels, as direct sums take them, to one matrix per point.
//!
//! It is one kernel for both of its uses, so that answers have the same bits: all weights at once, to be kept, or those of some
//! panels and some points at a time, in scratch memory, as they are multiplied. Points come as rows of the transformed tile, two
//! rows in a **pass**: those of a point and of its negative, whose sums differ in the signs of odd powers, or the first and the last
//! one, which take one row of the taps each.

use super::{Scheme, WIDTH};
use crate::kernels::tile::PANEL;
use crate::kernels::{Backend, Dst, F32s, Kernel, Src};
use crate::program::{Conv, packed_len};
use core::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use core::ops::Range;

/// The weights of a convolution, in panels.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'m> {
    /// Per point a packed matrix: what [`derive()`] wrote.
    Derived(Src<'m, f32>),
    /// As direct sums take them: they are transformed as they are needed.
    Plain(Src<'m, f32>),
}

/// Rows of the transformed tile in a pass.
pub(super) const ROWS: usize = 2;

/// Bytes of the weights that a pass transforms, about: they stay in the second-level cache until they are multiplied, beside the
/// inputs that they are multiplied with.
const PASS: usize = 400 << 10;

impl Scheme {
    /// Passes over the weights.
    pub(super) const fn passes(self) -> usize {
        self.inputs() / ROWS
    }

    /// The rows of a pass.
    pub(super) const fn rows(self, pass: usize) -> [usize; ROWS] {
        if pass == 0 { [0, self.inputs() - 1] } else { [2 * pass - 1, 2 * pass] }
    }

    /// Columns whose weights are transformed at a time, a multiple of a unit's.
    pub(super) fn columns(self, g: &Conv) -> usize {
        let unit = 4 * ROWS * self.inputs() * g.in_c as usize * WIDTH;
        (PASS / unit.max(1)).max(1) * WIDTH
    }

    /// Elements between the points of a pass in scratch memory: an odd number of lines, so that they do not fall into the same sets
    /// of the cache.
    pub(super) fn apart(self, g: &Conv) -> usize {
        let columns = self.columns(g).min((g.out_c as usize).next_multiple_of(PANEL));
        ((columns / PANEL * g.in_c as usize) | 1) * PANEL
    }
}

/// Writes all transformed weights of a convolution of a checked record, for [`Weights::Derived`].
///
/// # Panics
/// If a slice is shorter than the record and the scheme say.
pub fn derive<B: Backend>(g: &Conv, scheme: Scheme, w: &[f32], to: &mut [f32]) {
    assert!(w.len() >= g.weights() as usize && to.len() >= scheme.weights(g));
    let (n, matrix) = (scheme.inputs(), packed_len(g.in_c as u64, g.out_c as u64) as usize);
    let all = Dst::from_slice(to);
    // Panel by panel, whose plain weights stay in a near cache for all passes.
    for panel in 0..(g.out_c as usize).div_ceil(PANEL) {
        for pass in 0..scheme.passes() {
            let rows = scheme.rows(pass).map(|row| row * n * matrix);
            let (panels, to) = (panel..panel + 1, all.from(panel * g.in_c as usize * PANEL));
            B::launch(Pass { g, scheme, w: Src::from_slice(w), panels, pass, to, rows, apart: matrix });
        }
    }
}

/// A pass over the weights of some panels: `[row][point][panel][channel][16]`.
pub(super) struct Pass<'m> {
    pub g: &'m Conv,
    pub scheme: Scheme,
    /// All plain weights.
    pub w: Src<'m, f32>,
    /// There are so many panels.
    pub panels: Range<usize>,
    pub pass: usize,
    /// It has room for both rows.
    pub to: Dst<'m, f32>,
    /// Where the rows begin in it, in elements, and what lies between their points.
    pub rows: [usize; ROWS],
    pub apart: usize,
}

impl Kernel for Pass<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        match self.scheme {
            Scheme::F2 => self.transform::<V, 4, 3>(&G2),
            Scheme::F4 => self.transform::<V, 6, 3>(&G4),
            Scheme::F2Of5 => self.transform::<V, 6, 5>(&G2_OF_5),
        }
    }
}

impl Pass<'_> {
    /// By a matrix of `P` points and `T` taps.
    #[inline(always)]
    fn transform<V: F32s, const P: usize, const T: usize>(&self, matrix: &[[f32; T]; P]) {
        let in_c = self.g.in_c as usize;
        let tap = in_c * PANEL;
        let mut m = [V::splat(0.0); T];
        if self.pass > 0 {
            for t in 0..T {
                m[t] = V::splat(matrix[2 * self.pass - 1][t]);
            }
        }
        for i in 0..self.panels.len() {
            let from = self.w.pointer().wrapping_add((self.panels.start + i) * T * T * tap);
            let to = self.to.pointer().wrapping_add(i * tap);
            for k in (0..tap).step_by(V::LANES) {
                let (mut first, mut second) = ([V::splat(0.0); T], [V::splat(0.0); T]);
                for x in 0..T {
                    let from = from.wrapping_add(x * tap + k);
                    // SAFETY: the taps of a channel of a panel, of which the weights have as many as the record says.
                    unsafe {
                        if self.pass == 0 {
                            first[x] = V::load(from);
                            second[x] = V::load(from.wrapping_add((T - 1) * T * tap));
                        } else {
                            let mut sums = [V::splat(0.0); 2];
                            for t in 0..T {
                                let taps = V::load(from.wrapping_add(t * T * tap));
                                sums[t % 2] = if t < 2 { taps.mul(m[t]) } else { taps.mul_add(m[t], sums[t % 2]) };
                            }
                            first[x] = sums[0].add(sums[1]);
                            second[x] = sums[0].sub(sums[1]);
                        }
                    }
                }
                let to = to.wrapping_add(k);
                // SAFETY: there is room for the points of both rows.
                unsafe {
                    self.store(matrix, first, to.wrapping_add(self.rows[0]));
                    self.store(matrix, second, to.wrapping_add(self.rows[1]));
                }
            }
        }
    }

    /// Stores `G r`: a value per point.
    ///
    /// # Safety
    /// All points of the row can be written.
    #[inline(always)]
    unsafe fn store<V: F32s, const P: usize, const T: usize>(&self, matrix: &[[f32; T]; P], r: [V; T], to: *mut f32) {
        // SAFETY: as promised, here and below.
        unsafe {
            r[0].store(to);
            r[T - 1].store(to.wrapping_add((P - 1) * self.apart));
        }
        let mut p = 1;
        while p + 1 < P - 1 {
            let m = &matrix[p];
            let (mut even, mut odd) = (r[0].mul(V::splat(m[0])), r[1].mul(V::splat(m[1])));
            for t in 2..T {
                if t % 2 == 0 {
                    even = r[t].mul_add(V::splat(m[t]), even);
                } else {
                    odd = r[t].mul_add(V::splat(m[t]), odd);
                }
            }
            // SAFETY: as above.
            unsafe {
                even.add(odd).store(to.wrapping_add(p * self.apart));
                even.sub(odd).store(to.wrapping_add((p + 1) * self.apart));
            }
            p += 2;
        }
    }
}

/// The matrix `G` of F(2,3), by the points 0, 1, -1, ∞.
const G2: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

/// The matrix `G` of F(4,3): a row `[1, p, p²] / N(p)` per point `p`, `N(p)` the product of its distances to the others.
const G4: [[f32; 3]; 6] = [
    [1.0, 0.0, 0.0],
    [1.0 / -1.5, FRAC_1_SQRT_2 / -1.5, 0.5 / -1.5],
    [1.0 / -1.5, FRAC_1_SQRT_2 / 1.5, 0.5 / -1.5],
    [1.0 / 6.0, SQRT_2 / 6.0, 2.0 / 6.0],
    [1.0 / 6.0, SQRT_2 / -6.0, 2.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// The matrix `G` of F(2,5): the same points, to their fourth power.
const G2_OF_5: [[f32; 5]; 6] = [
    [1.0, 0.0, 0.0, 0.0, 0.0],
    [1.0 / -1.5, FRAC_1_SQRT_2 / -1.5, 0.5 / -1.5, FRAC_1_SQRT_2 / -3.0, 0.25 / -1.5],
    [1.0 / -1.5, FRAC_1_SQRT_2 / 1.5, 0.5 / -1.5, FRAC_1_SQRT_2 / 3.0, 0.25 / -1.5],
    [1.0 / 6.0, SQRT_2 / 6.0, 2.0 / 6.0, SQRT_2 / 3.0, 4.0 / 6.0],
    [1.0 / 6.0, SQRT_2 / -6.0, 2.0 / 6.0, SQRT_2 / -3.0, 4.0 / 6.0],
    [0.0, 0.0, 0.0, 0.0, 1.0],
];
