//! Reductions, softmax and normalisation of `[outer][len][inner]`.
//!
//! With `inner` = 1 a row is folded with four vectors; else columns lie side by side and each vector folds its own. Work comes
//! in [pieces](Pieces): rows, or blocks of columns.
#![allow(unsafe_code)]

use super::simd::{load, store};
use super::{Dst, F32s, Kernel, Src, math};
use crate::program::ReduceKind;
use crate::program::cut::group;
use core::ops::Range;

/// How `[outer][len][inner]` is cut along `outer` and, in blocks of whole vectors, along `inner`.
#[derive(Clone, Copy)]
pub struct Pieces {
    len: usize,
    inner: usize,
    /// Columns of a block.
    width: usize,
    blocks: usize,
    outer: usize,
}

impl Pieces {
    /// The pieces of these sizes.
    pub fn of([outer, len, inner]: [usize; 3]) -> Pieces {
        let width = if inner == 1 { 1 } else { group(len).next_multiple_of(64) };
        Pieces { len, inner, width, blocks: inner.div_ceil(width), outer }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.outer * self.blocks
    }

    /// How many are a unit.
    pub fn of_a_unit(&self) -> usize {
        group(self.len * self.width.min(self.inner))
    }

    /// The outer index of a piece, its first column and the one behind its last.
    #[inline(always)]
    fn get(&self, piece: usize) -> (usize, usize, usize) {
        let first = piece % self.blocks * self.width;
        (piece / self.blocks, first, self.inner.min(first + self.width))
    }
}

/// How a row is folded: what is done to an element, how two are joined.
#[derive(Clone, Copy)]
enum Fold {
    Sum,
    Squares,
    Magnitudes,
    Exponentials,
    Product,
    Max,
    Min,
}

impl Fold {
    /// The neutral element, and the element that maps to it (for lanes past the end).
    fn neutral(self) -> (f32, f32) {
        match self {
            Fold::Sum | Fold::Squares | Fold::Magnitudes => (0.0, 0.0),
            Fold::Exponentials => (0.0, f32::NEG_INFINITY),
            Fold::Product => (1.0, 1.0),
            Fold::Max => (f32::NEG_INFINITY, f32::NEG_INFINITY),
            Fold::Min => (f32::INFINITY, f32::INFINITY),
        }
    }

    /// Joins an element to what has been folded. NaN stays.
    #[inline(always)]
    fn step<V: F32s>(self, sum: V, x: V, shift: V) -> V {
        match self {
            Fold::Sum => sum.add(x),
            Fold::Squares => x.mul_add(x, sum),
            Fold::Magnitudes => sum.add(x.abs()),
            Fold::Exponentials => sum.add(math::exp(x.sub(shift))),
            Fold::Product => sum.mul(x),
            Fold::Max => V::select(sum.eq(sum), sum.max(x), sum),
            Fold::Min => V::select(sum.eq(sum), sum.min(x), sum),
        }
    }

    /// Joins two folded values.
    #[inline(always)]
    fn join<V: F32s>(self, a: V, b: V) -> V {
        match self {
            Fold::Product => a.mul(b),
            Fold::Max | Fold::Min => self.step(a, b, b),
            _ => a.add(b),
        }
    }
}

/// Elements that are summed before they are added to the rest: keeps the error of long sums small.
const BLOCK: usize = 2048;

/// Loads `n` lanes, which may be all; the others are `pad`. A copy in memory that is loaded again at once would wait for its stores.
///
/// # Safety
/// `p` is valid for reads of `n` elements; `n` is at least 1 and at most the number of lanes.
#[inline(always)]
unsafe fn load_padded<V: F32s>(p: *const f32, n: usize, pad: f32) -> V {
    const LANE: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
    // SAFETY: as promised; a vector has at most 16 lanes.
    unsafe {
        if V::LANES == 1 || n == V::LANES {
            return V::load(p);
        }
        V::select(V::load(LANE.as_ptr()).lt(V::splat(n as f32)), V::load_first(p, n), V::splat(pad))
    }
}

/// Folds `n` contiguous elements.
///
/// # Safety
/// `p` is valid for reads of `n` elements.
#[inline(always)]
unsafe fn fold_row<V: F32s>(fold: Fold, p: *const f32, n: usize, shift: f32) -> f32 {
    let (neutral, pad) = fold.neutral();
    let (neutral, shift) = (V::splat(neutral), V::splat(shift));
    let mut total = neutral;
    let mut start = 0;
    while start < n {
        let end = n.min(start + BLOCK);
        let [mut a, mut b, mut c, mut d] = [neutral; 4];
        let mut i = start;
        // SAFETY: all loads are below `end`.
        unsafe {
            while i + 4 * V::LANES <= end {
                a = fold.step(a, V::load(p.add(i)), shift);
                b = fold.step(b, V::load(p.add(i + V::LANES)), shift);
                c = fold.step(c, V::load(p.add(i + 2 * V::LANES)), shift);
                d = fold.step(d, V::load(p.add(i + 3 * V::LANES)), shift);
                i += 4 * V::LANES;
            }
            while i < end {
                let m = (end - i).min(V::LANES);
                a = fold.step(a, load_padded(p.add(i), m, pad), shift);
                i += m;
            }
        }
        total = fold.join(total, fold.join(fold.join(a, b), fold.join(c, d)));
        start = end;
    }
    let mut lanes = [0f32; 16];
    // SAFETY: a vector has at most 16 lanes.
    unsafe { total.store(lanes.as_mut_ptr()) };
    let mut width = V::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = join_numbers(fold, lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

fn join_numbers(fold: Fold, a: f32, b: f32) -> f32 {
    match fold {
        Fold::Product => a * b,
        Fold::Max => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        Fold::Min => {
            if a.is_nan() || a < b {
                a
            } else {
                b
            }
        }
        _ => a + b,
    }
}

/// Folds `len` rows of `n` columns, `stride` elements apart.
///
/// # Safety
/// `p` is valid for reads of those elements.
#[inline(always)]
unsafe fn fold_columns<V: F32s>(fold: Fold, p: *const f32, n: usize, len: usize, stride: usize, shift: V) -> V {
    let mut all = V::splat(fold.neutral().0);
    for block in (0..len).step_by(64) {
        let mut sum = V::splat(fold.neutral().0);
        for j in block..len.min(block + 64) {
            // SAFETY: row j < len.
            sum = fold.step(sum, unsafe { load::<V>(p.add(j * stride), n) }, shift);
        }
        all = fold.join(all, sum);
    }
    all
}

/// `y[o][i] = kind over j of x[o][j][i]`.
pub struct Reduce<'m> {
    /// What is computed.
    pub kind: ReduceKind,
    /// `[outer][len][inner]`.
    pub sizes: [usize; 3],
    /// The input.
    pub x: Src<'m, f32>,
    /// `[outer][inner]`.
    pub y: Dst<'m, f32>,
    /// The [`Pieces`] that are computed.
    pub pieces: Range<usize>,
}

impl Kernel for Reduce<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [outer, len, inner] = self.sizes;
        assert!(self.x.len() >= outer * len * inner && self.y.len() >= outer * inner);
        let fold = match self.kind {
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::LogSum => Fold::Sum,
            ReduceKind::Max => Fold::Max,
            ReduceKind::Min => Fold::Min,
            ReduceKind::Product => Fold::Product,
            ReduceKind::SumSquare | ReduceKind::L2 | ReduceKind::MeanSquare => Fold::Squares,
            ReduceKind::L1 => Fold::Magnitudes,
            ReduceKind::LogSumExp => Fold::Exponentials,
        };
        let shifted = matches!(fold, Fold::Exponentials);
        // SAFETY: all offsets are within the sizes asserted above.
        unsafe {
            let pieces = Pieces::of(self.sizes);
            assert!(self.pieces.end <= pieces.count());
            for piece in self.pieces.clone() {
                let (o, mut i, end) = pieces.get(piece);
                let (x, y) = (self.x.pointer().add(o * len * inner), self.y.pointer().add(o * inner));
                if inner == 1 {
                    let max = if shifted { finite(fold_row::<V>(Fold::Max, x, len, 0.0)) } else { 0.0 };
                    y.write(finish(self.kind, fold_row::<V>(fold, x, len, max), max, len));
                    continue;
                }
                while i < end {
                    let n = (end - i).min(V::LANES);
                    let zero = V::splat(0.0);
                    let max = if shifted {
                        math::lanes(fold_columns::<V>(Fold::Max, x.add(i), n, len, inner, zero), finite)
                    } else {
                        zero
                    };
                    let sum = fold_columns::<V>(fold, x.add(i), n, len, inner, max);
                    let result = math::lanes2(sum, max, |sum, max| finish(self.kind, sum, max, len));
                    store(result, y.add(i), n);
                    i += n;
                }
            }
        }
    }
}

/// A shift that leaves infinities as they are.
fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

/// From what was folded to the result.
fn finish(kind: ReduceKind, sum: f32, shift: f32, len: usize) -> f32 {
    match kind {
        ReduceKind::Mean | ReduceKind::MeanSquare => sum / len as f32,
        ReduceKind::L2 => libm::sqrtf(sum),
        ReduceKind::LogSum => libm::logf(sum),
        ReduceKind::LogSumExp => libm::logf(sum) + shift,
        _ => sum,
    }
}

/// Softmax (or its logarithm) along `len`; in place or not.
pub struct Softmax<'m> {
    /// `[outer][len][inner]`.
    pub sizes: [usize; 3],
    /// Its logarithm.
    pub log: bool,
    /// The input.
    pub x: Src<'m, f32>,
    /// The output: may be the input's memory.
    pub y: Dst<'m, f32>,
    /// The [`Pieces`] that are computed.
    pub pieces: Range<usize>,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [outer, len, inner] = self.sizes;
        assert!(self.x.len() >= outer * len * inner && self.y.len() >= outer * len * inner);
        // SAFETY: all offsets are within the sizes asserted above.
        unsafe {
            let pieces = Pieces::of(self.sizes);
            assert!(self.pieces.end <= pieces.count());
            for piece in self.pieces.clone() {
                let (o, mut i, end) = pieces.get(piece);
                let (x, y) = (self.x.pointer().add(o * len * inner), self.y.pointer().add(o * len * inner));
                // One lane at a time the loop over columns does as well.
                if inner == 1 && V::LANES > 1 {
                    softmax_row::<V>(x, y, len, self.log);
                    continue;
                }
                while i < end {
                    let n = (end - i).min(V::LANES);
                    let max = fold_columns::<V>(Fold::Max, x.add(i), n, len, inner, V::splat(0.0));
                    let mut sum = V::splat(0.0);
                    for j in 0..len {
                        let v = load::<V>(x.add(j * inner + i), n).sub(max);
                        let e = math::exp(v);
                        sum = sum.add(e);
                        store(if self.log { v } else { e }, y.add(j * inner + i), n);
                    }
                    let last = if self.log { math::log(sum) } else { V::splat(1.0).div(sum) };
                    for j in 0..len {
                        let v = load::<V>(y.add(j * inner + i), n);
                        store(if self.log { v.sub(last) } else { v.mul(last) }, y.add(j * inner + i), n);
                    }
                    i += n;
                }
            }
        }
    }
}

/// # Safety
/// `x` and `y`, which may be the same, are valid for `n` elements.
#[inline(always)]
unsafe fn softmax_row<V: F32s>(x: *const f32, y: *mut f32, n: usize, log: bool) {
    // SAFETY: all accesses are below n.
    unsafe {
        let max = largest::<V>(x, n);
        if log {
            let shift = V::splat(max);
            let sum = libm::logf(fold_row::<V>(Fold::Exponentials, x, n, max));
            let mut i = 0;
            while i < n {
                let m = (n - i).min(V::LANES);
                store(load::<V>(x.add(i), m).sub(shift).sub(V::splat(sum)), y.add(i), m);
                i += m;
            }
            return;
        }
        let scale = V::splat(1.0 / exponentials::<V>(x, y, n, max));
        scale_row(y, n, scale);
    }
}

/// The largest element of a row, or any if one is NaN: then so is what becomes of the row.
///
/// # Safety
/// `x` is valid for `n` elements.
#[inline(always)]
unsafe fn largest<V: F32s>(x: *const f32, n: usize) -> f32 {
    let mut max = [V::splat(f32::NEG_INFINITY); 2];
    let mut i = 0;
    // SAFETY: all loads are below n.
    unsafe {
        while i + 2 * V::LANES <= n {
            max[0] = max[0].max(V::load(x.add(i)));
            max[1] = max[1].max(V::load(x.add(i + V::LANES)));
            i += 2 * V::LANES;
        }
        while i < n {
            let m = (n - i).min(V::LANES);
            max[0] = max[0].max(load_padded(x.add(i), m, f32::NEG_INFINITY));
            i += m;
        }
    }
    max[0].max(max[1]).reduce_max()
}

/// `y = exp(x - shift)`; gives their sum.
///
/// # Safety
/// As for [`softmax_row`].
#[inline(always)]
unsafe fn exponentials<V: F32s>(x: *const f32, y: *mut f32, n: usize, shift: f32) -> f32 {
    let shift = V::splat(shift);
    let mut sum = V::splat(0.0);
    let mut i = 0;
    // SAFETY: all accesses are below n.
    unsafe {
        while i + V::LANES <= n {
            let e = math::exp(V::load(x.add(i)).sub(shift));
            e.store(y.add(i));
            sum = sum.add(e);
            i += V::LANES;
        }
        if i < n {
            let e = math::exp(load_padded::<V>(x.add(i), n - i, f32::NEG_INFINITY).sub(shift));
            e.store_first(y.add(i), n - i);
            sum = sum.add(e);
        }
    }
    sum.reduce_add()
}

/// Multiplies a row.
///
/// # Safety
/// `y` is valid for `n` elements.
#[inline(always)]
unsafe fn scale_row<V: F32s>(y: *mut f32, n: usize, scale: V) {
    let mut i = 0;
    while i < n {
        let m = (n - i).min(V::LANES);
        // SAFETY: below n.
        unsafe { store(load::<V>(y.add(i), m).mul(scale), y.add(i), m) };
        i += m;
    }
}

/// Softmax of scores in place, row by row: `rows` rows `stride` apart, each with a mask added; of row `r` the first
/// `visible(r)` columns count and the others become 0. Or only the exponentials, and the sums that are left to divide by.
pub struct Scores<'m> {
    /// The scores.
    pub scores: Dst<'m, f32>,
    /// Rows, elements between them, columns.
    pub sizes: [usize; 3],
    /// The mask and its strides along rows and columns.
    pub mask: Option<(Src<'m, f32>, usize, usize)>,
    /// Columns that row 0 sees; each next row sees one more. At least `columns`: all see all.
    pub visible: usize,
    /// Where the rows' factors go; none: they are applied.
    pub factors: Option<&'m mut [f32]>,
}

impl Kernel for Scores<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [rows, stride, columns] = self.sizes;
        assert!(rows == 0 || columns == 0 || self.scores.len() >= (rows - 1) * stride + columns);
        if let Some((mask, r, c)) = self.mask {
            assert!(rows == 0 || columns == 0 || mask.len() > (rows - 1) * r + (columns - 1) * c);
        }
        let mut factors = self.factors;
        // Where rows have room for whole vectors, minus infinity goes behind the last column, and nothing is done to parts of
        // vectors: one that is stored in part and loaded again waits until the cache has it (24 rows of 24 columns, AVX-512: 2.4 us
        // for four heads, by parts 6.3 us).
        let whole = V::LANES > 1 && stride.is_multiple_of(V::LANES) && self.scores.len() >= rows * stride;
        for r in 0..rows {
            let n = columns.min(self.visible + r);
            let end = if whole { n.next_multiple_of(V::LANES) } else { n };
            // SAFETY: rows and columns are within the scores and the mask, as asserted above.
            unsafe {
                let p = self.scores.pointer().add(r * stride);
                if let Some((mask, row, column)) = self.mask {
                    let mask = mask.pointer().add(r * row);
                    let mut i = 0;
                    while i < n {
                        let m = (n - i).min(V::LANES);
                        if column == 1 {
                            let x = load_padded::<V>(p.add(i), m, f32::NEG_INFINITY).add(load::<V>(mask.add(i), m));
                            store(x, p.add(i), if whole { V::LANES } else { m });
                        } else {
                            for j in i..i + m {
                                *p.add(j) += *mask.add(j * column);
                            }
                        }
                        i += m;
                    }
                }
                if end > n && self.mask.is_none_or(|(_, _, column)| column != 1) {
                    let last = p.add(end - V::LANES);
                    load_padded::<V>(last, n + V::LANES - end, f32::NEG_INFINITY).store(last);
                }
                match factors.as_deref_mut() {
                    Some(factors) => {
                        let max = largest::<V>(p, end);
                        factors[r] = 1.0 / exponentials::<V>(p, p, end, max);
                    }
                    None => softmax_row::<V>(p, p, end, false),
                }
                for i in n..columns {
                    p.add(i).write(0.0);
                }
            }
        }
    }
}

/// Multiplies each row, `stride` apart, with a factor of its own.
pub struct RowFactors<'m> {
    /// The rows.
    pub rows: Dst<'m, f32>,
    /// Elements between rows, and of each.
    pub sizes: [usize; 2],
    /// One for each row.
    pub factors: &'m [f32],
}

impl Kernel for RowFactors<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [stride, columns] = self.sizes;
        let count = self.factors.len();
        assert!(count == 0 || columns == 0 || self.rows.len() >= (count - 1) * stride + columns);
        for (r, &factor) in self.factors.iter().enumerate() {
            // SAFETY: within the rows, as asserted above.
            unsafe { scale_row(self.rows.pointer().add(r * stride), columns, V::splat(factor)) };
        }
    }
}

/// Normalisation of rows; in place or not. See [`program::Norm`](crate::program::Norm).
pub struct Norm<'m> {
    /// Rows and their length.
    pub sizes: [usize; 2],
    /// The mean is not subtracted.
    pub rms: bool,
    /// 0: scale and bias have an element a column; p: row `r` takes element `r % p`.
    pub per_row: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// The input.
    pub x: Src<'m, f32>,
    /// Factors.
    pub scale: Option<Src<'m, f32>>,
    /// What is added.
    pub bias: Option<Src<'m, f32>>,
    /// The output: may be the input's memory.
    pub y: Dst<'m, f32>,
    /// The rows that are computed.
    pub rows: Range<usize>,
}

impl Kernel for Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let [rows, len] = self.sizes;
        assert!(self.x.len() >= rows * len && self.y.len() >= rows * len);
        let parameters = if self.per_row == 0 { len } else { self.per_row };
        assert!([self.scale, self.bias].iter().flatten().all(|p| p.len() >= parameters));
        assert!(self.rows.end <= rows);
        for r in self.rows.clone() {
            // SAFETY: all offsets are within the sizes asserted above.
            unsafe {
                let (x, y) = (self.x.pointer().add(r * len), self.y.pointer().add(r * len));
                let mean = if self.rms { 0.0 } else { fold_row::<V>(Fold::Sum, x, len, 0.0) / len as f32 };
                let center = V::splat(mean);
                let (mut squares, mut other) = (V::splat(0.0), V::splat(0.0));
                let mut i = 0;
                while i + 2 * V::LANES <= len {
                    let (a, b) = (V::load(x.add(i)).sub(center), V::load(x.add(i + V::LANES)).sub(center));
                    (squares, other) = (a.mul_add(a, squares), b.mul_add(b, other));
                    i += 2 * V::LANES;
                }
                while i < len {
                    let m = (len - i).min(V::LANES);
                    let mut tail = [mean; 16];
                    core::ptr::copy_nonoverlapping(x.add(i), tail.as_mut_ptr(), m);
                    if self.rms {
                        tail[m..].fill(0.0);
                    }
                    let a = V::load(tail.as_ptr()).sub(center);
                    squares = a.mul_add(a, squares);
                    i += m;
                }
                let variance = squares.add(other).reduce_add() / len as f32;
                let factor = 1.0 / libm::sqrtf(variance + self.epsilon);
                let row = |p: Option<Src<'_, f32>>, absent: f32| p.map_or(absent, |p| p.at(r % self.per_row.max(1)));
                let per_row = self.per_row != 0;
                let (scale, bias) = if per_row { (row(self.scale, 1.0), row(self.bias, 0.0)) } else { (1.0, 0.0) };
                let (factor, bias) = (V::splat(factor * scale), V::splat(bias));
                let mut i = 0;
                while i < len {
                    let m = (len - i).min(V::LANES);
                    let v = load::<V>(x.add(i), m).sub(center).mul(factor);
                    let v = match self.scale {
                        Some(s) if !per_row => v.mul(load::<V>(s.pointer().add(i), m)),
                        _ => v,
                    };
                    let v = match self.bias {
                        Some(b) if !per_row => v.add(load::<V>(b.pointer().add(i), m)),
                        _ => v.add(bias),
                    };
                    store(v, y.add(i), m);
                    i += m;
                }
            }
        }
    }
}
