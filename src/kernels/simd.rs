//! The vector trait that every f32 kernel is written over.
#![allow(unsafe_code)]

/// A vector of `f32` with a fixed number of lanes.
///
/// All methods are `#[inline(always)]` in every implementation: see the module docs of [`kernels`](super).
pub trait F32s: Copy + 'static {
    /// Number of lanes: 1, 4, 8 or 16.
    const LANES: usize;
    /// Vector registers that the instruction set has: tiles keep at most one less alive.
    const REGISTERS: usize;
    /// Whether a product with one lane of a vector is one instruction: then a tile loads its left operand a vector of
    /// depth at a time, instead of broadcasting every element.
    const LANE_PRODUCTS: bool = false;
    /// Whether [`prefetch`](Self::prefetch) does anything.
    const PREFETCHES: bool = false;
    /// Whether operations may take a denormal (a magnitude below [`f32::MIN_POSITIVE`]) for 0, as an operand and as a result.
    const FLUSHES: bool = false;
    /// Whether [`scale_unless`](Self::scale_unless) is one instruction.
    const SCALES: bool = false;
    /// Whether there are [`load_columns`](Self::load_columns), [`load_repeated`](Self::load_repeated) and [`fold`](Self::fold).
    const FOLDS: bool = false;
    /// What a comparison gives.
    type Mask: Copy;

    /// The same value in all lanes.
    fn splat(x: f32) -> Self;
    /// The same value in all lanes, for a constant in a loop that would rather keep it in a register than make it anew each time.
    #[inline(always)]
    fn constant(x: f32) -> Self {
        Self::splat(x)
    }
    /// Loads a vector from memory of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of [`Self::LANES`] elements.
    unsafe fn load(p: *const f32) -> Self;
    /// Stores a vector to memory of any alignment.
    ///
    /// # Safety
    /// `p` is valid for writes of [`Self::LANES`] elements.
    unsafe fn store(self, p: *mut f32);
    /// Loads `n` vectors that lie one behind the other, 2 or 4, and moves the pointer on by `step` elements, to any address;
    /// the others of the four are any.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` times [`Self::LANES`] elements.
    #[inline(always)]
    unsafe fn load_row(p: &mut *const f32, step: usize, n: usize) -> [Self; 4] {
        let mut row = [Self::splat(0.0); 4];
        for (i, x) in row.iter_mut().enumerate().take(n) {
            // SAFETY: as promised.
            *x = unsafe { Self::load(p.add(i * Self::LANES)) };
        }
        *p = p.wrapping_add(step);
        row
    }
    /// Loads the first `n` lanes; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements, and `n <= LANES`.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements, and `n <= LANES`.
    unsafe fn store_first(self, p: *mut f32, n: usize);

    /// Asks for the line at `p`, which may be any address, in the second-level cache.
    #[inline(always)]
    fn prefetch(_p: *const f32) {}
    /// Asks for the line at `p`, which may be any address, in the first-level cache.
    #[inline(always)]
    fn prefetch_near(_p: *const f32) {}
    /// Asks for the line at `p`, which may be any address, past the other caches: it is read once and not soon again.
    #[inline(always)]
    fn prefetch_once(_p: *const f32) {}
    /// Copies a square of [`Self::LANES`] rows and columns and transposes it. Rows are `from_row` and `to_row` elements apart.
    ///
    /// # Safety
    /// `from` is valid for reads, and `to` for writes, of all those elements.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for r in 0..Self::LANES {
            for c in 0..Self::LANES {
                // SAFETY: as promised.
                unsafe { to.add(c * to_row + r).write(from.add(r * from_row + c).read()) };
            }
        }
    }

    /// Loads four columns of `LANES / 4` rows that are `step` elements apart, column by column; with [`FOLDS`](Self::FOLDS).
    ///
    /// # Safety
    /// `p` is valid for reads of four elements of each row.
    #[inline(always)]
    unsafe fn load_columns(_p: *const f32, _step: usize) -> Self {
        unreachable!()
    }
    /// Loads `LANES / 4` elements and repeats them four times; with [`FOLDS`](Self::FOLDS).
    ///
    /// # Safety
    /// `p` is valid for reads of them.
    #[inline(always)]
    unsafe fn load_repeated(_p: *const f32) -> Self {
        unreachable!()
    }
    /// Of `LANES / 4` vectors the sums of each quarter's lanes, four of a vector side by side; with [`FOLDS`](Self::FOLDS).
    #[inline(always)]
    fn fold(_rows: &[Self]) -> Self {
        unreachable!()
    }

    /// Lane by lane.
    fn add(self, b: Self) -> Self;
    /// Lane by lane.
    fn sub(self, b: Self) -> Self;
    /// Lane by lane.
    fn mul(self, b: Self) -> Self;
    /// Lane by lane.
    fn div(self, b: Self) -> Self;
    /// `self / b` within 2 ULP, for finite numbers over what is at least 1: by an approximate reciprocal where a division of the
    /// vector takes longer.
    #[inline(always)]
    fn over(self, b: Self) -> Self {
        self.div(b)
    }
    /// `self * a + b`, rounded once where the hardware can.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// `self * a[L] + b`, rounded like [`mul_add`](Self::mul_add); for vectors with [`Self::LANE_PRODUCTS`].
    #[inline(always)]
    fn mul_add_lane<const L: i32>(self, a: Self, b: Self) -> Self {
        let mut lanes = [0f32; 16];
        const { assert!(Self::LANES <= 16) };
        // SAFETY: the buffer holds a vector.
        unsafe { a.store(lanes.as_mut_ptr()) };
        self.mul_add(Self::splat(lanes[L as usize]), b)
    }
    /// The smaller one. NaN where `b` is; where only `self` is, `b` or NaN.
    fn min(self, b: Self) -> Self;
    /// The larger one. NaN where `b` is; where only `self` is, `b` or NaN.
    fn max(self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// Largest integer not above.
    fn floor(self) -> Self;
    /// Nearest integer, ties to even.
    fn round(self) -> Self;
    /// `2^self` for integral values in `-126..=127`, by building the exponent's bits.
    fn exp2_integral(self) -> Self;
    /// `self * 2^n` for integral `n` in `-126..=127`, with [`SCALES`](Self::SCALES) for any; 0 where `zero` is true.
    #[inline(always)]
    fn scale_unless(self, zero: Self::Mask, n: Self) -> Self {
        Self::select(zero, Self::splat(0.0), self.mul(n.exp2_integral()))
    }
    /// Exponent `e` and mantissa `m` with `self = m * 2^e`, `m` in `[1, 2)`, for positive normal values.
    fn split_exponent(self) -> (Self, Self);
    /// The sign bit of `sign` on the magnitude of `self`.
    fn copysign(self, sign: Self) -> Self;

    /// `self < b`, false for NaN.
    fn lt(self, b: Self) -> Self::Mask;
    /// `self <= b`, false for NaN.
    fn le(self, b: Self) -> Self::Mask;
    /// `self == b`, false for NaN.
    fn eq(self, b: Self) -> Self::Mask;
    /// Lane by lane `mask ? a : b`.
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self;

    /// The sum of all lanes.
    fn reduce_add(self) -> f32;
    /// The largest lane.
    fn reduce_max(self) -> f32;
}

/// Loads `n` lanes, which may be all; the others are 0.
///
/// # Safety
/// `p` is valid for reads of `n` elements; `n` is at most the number of lanes.
#[inline(always)]
pub(super) unsafe fn load<V: F32s>(p: *const f32, n: usize) -> V {
    // SAFETY: as promised.
    unsafe { if n == V::LANES { V::load(p) } else { V::load_first(p, n) } }
}

/// Stores `n` lanes, which may be all.
///
/// # Safety
/// `p` is valid for writes of `n` elements; `n` is at most the number of lanes.
#[inline(always)]
pub(super) unsafe fn store<V: F32s>(v: V, p: *mut f32, n: usize) {
    // SAFETY: as promised.
    unsafe { if n == V::LANES { v.store(p) } else { v.store_first(p, n) } }
}
