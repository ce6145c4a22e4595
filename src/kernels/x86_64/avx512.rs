//! AVX-512 F: 16 lanes, 32 registers, mask registers.
//!
//! Safety of every `unsafe` block here: the intrinsics need AVX-512 F. A value of [`V`] is only made inside
//! [`Avx512::launch`], which is only reached after detection (see [`Backend`]).
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above

use crate::kernels::{Backend, F32s, Isa, Kernel};
use core::arch::x86_64::*;

/// The AVX-512 backend.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

/// Sixteen lanes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct V(__m512);

impl Backend for Avx512 {
    const ISA: Isa = Isa::Avx512;
    type F = V;
    #[inline(always)]
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        unsafe { launch(kernel) }
    }
}

#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn launch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<V>()
}

/// The first `n` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// The transpose of a square of four rows.
#[inline(always)]
unsafe fn by_columns(x: __m512) -> __m512 {
    unsafe { _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x) }
}

/// The upper half.
#[inline(always)]
unsafe fn high(x: __m512) -> __m256 {
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x))) }
}

impl F32s for V {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const PREFETCHES: bool = true;
    const SCALES: bool = true;
    const FOLDS: bool = true;
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        V(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        V(unsafe { _mm512_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        V(unsafe { _mm512_maskz_loadu_ps(mask(n), p) })
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, mask(n), self.0) }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_once(p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        unsafe {
            // Rows r, r + 4, r + 8, r + 12 side by side: then only 4 x 4 blocks within the quarters are left to transpose.
            let four = |r: usize, c: usize| {
                let quarter = |r: usize| _mm_loadu_ps(from.add(r * from_row + c));
                let x = _mm512_insertf32x4::<1>(_mm512_castps128_ps512(quarter(r)), quarter(r + 4));
                _mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(x, quarter(r + 8)), quarter(r + 12))
            };
            for c in [0, 4, 8, 12] {
                let [a, b, d, e] = [four(0, c), four(1, c), four(2, c), four(3, c)];
                let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (de0, de1) = (_mm512_unpacklo_ps(d, e), _mm512_unpackhi_ps(d, e));
                _mm512_storeu_ps(to.add(c * to_row), _mm512_shuffle_ps::<0x44>(ab0, de0));
                _mm512_storeu_ps(to.add((c + 1) * to_row), _mm512_shuffle_ps::<0xee>(ab0, de0));
                _mm512_storeu_ps(to.add((c + 2) * to_row), _mm512_shuffle_ps::<0x44>(ab1, de1));
                _mm512_storeu_ps(to.add((c + 3) * to_row), _mm512_shuffle_ps::<0xee>(ab1, de1));
            }
        }
    }
    #[inline(always)]
    unsafe fn load_columns(p: *const f32, step: usize) -> Self {
        unsafe {
            let row = |r: usize| _mm_loadu_ps(p.add(r * step));
            let x = _mm512_insertf32x4::<1>(_mm512_castps128_ps512(row(0)), row(1));
            V(by_columns(_mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(x, row(2)), row(3))))
        }
    }
    #[inline(always)]
    unsafe fn load_repeated(p: *const f32) -> Self {
        V(unsafe { _mm512_broadcast_f32x4(_mm_loadu_ps(p)) })
    }
    #[inline(always)]
    fn fold(rows: &[Self]) -> Self {
        let &[V(a), V(b), V(c), V(d)] = rows else { unreachable!() };
        unsafe {
            // In each quarter: a0 + a2, b0 + b2, a1 + a3, b1 + b3.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            V(by_columns(_mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd))))
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        V(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        V(unsafe { _mm512_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        V(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        V(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    /// A step of Newton's after 14 bits: a division takes 16 cycles of an Intel core, this 4. Over infinity the step's residual is
    /// NaN, which the maximum replaces.
    #[inline(always)]
    fn over(self, b: Self) -> Self {
        unsafe {
            let (one, r) = (_mm512_set1_ps(1.0), _mm512_rcp14_ps(b.0));
            let residual = _mm512_max_ps(_mm512_fnmadd_ps(b.0, r, one), _mm512_set1_ps(-1.0));
            V(_mm512_mul_ps(self.0, _mm512_fmadd_ps(r, residual, r)))
        }
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        V(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        V(unsafe { _mm512_min_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        V(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        V(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        V(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        V(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        V(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            V(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    fn scale_unless(self, zero: __mmask16, n: Self) -> Self {
        V(unsafe { _mm512_maskz_scalef_ps(!zero, self.0, n.0) })
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let exponent = _mm512_and_si512(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(0xff));
            let exponent = _mm512_cvtepi32_ps(_mm512_sub_epi32(exponent, _mm512_set1_epi32(127)));
            let mantissa =
                _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(0x007f_ffff)), _mm512_set1_epi32(0x3f80_0000));
            (V(exponent), V(_mm512_castsi512_ps(mantissa)))
        }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        unsafe {
            // The truth table of "bit ? sign : self": floats have no bitwise instruction in the foundation.
            let bit = _mm512_set1_epi32(i32::MIN);
            let bits = _mm512_ternarylogic_epi32::<0xca>(bit, _mm512_castps_si512(sign.0), _mm512_castps_si512(self.0));
            V(_mm512_castsi512_ps(bits))
        }
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn le(self, b: Self) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn eq(self, b: Self) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn select(mask: __mmask16, a: Self, b: Self) -> Self {
        V(unsafe { _mm512_mask_blend_ps(mask, b.0, a.0) })
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe {
            let x = _mm256_add_ps(_mm512_castps512_ps256(self.0), high(self.0));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe {
            let x = _mm256_max_ps(_mm512_castps512_ps256(self.0), high(self.0));
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
}
