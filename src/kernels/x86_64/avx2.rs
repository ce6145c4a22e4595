//! AVX2 with FMA: eight lanes, 16 registers.
//!
//! Safety of every `unsafe` block here: the intrinsics need AVX2 and FMA. A value of [`V`] is only made inside
//! [`Avx2::launch`], which is only reached after detection (see [`Backend`]).
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above

use crate::kernels::{Backend, F32s, Isa, Kernel};
use core::arch::x86_64::*;

/// The AVX2 backend.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

/// Eight lanes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct V(__m256);

impl Backend for Avx2 {
    const ISA: Isa = Isa::Avx2;
    type F = V;
    #[inline(always)]
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        unsafe { launch(kernel) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn launch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<V>()
}

/// Eight set lanes, then eight clear ones: a load from `8 - n` on masks the first `n`.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()) }
}

impl F32s for V {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const FOLDS: bool = true;
    const PREFETCHES: bool = true;
    type Mask = __m256;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        V(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        V(unsafe { _mm256_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        V(unsafe { _mm256_maskload_ps(p, mask(n)) })
    }
    /// In halves: a masked store takes a dozen cycles on Zen.
    #[inline(always)]
    unsafe fn store_first(self, mut p: *mut f32, n: usize) {
        unsafe {
            if n >= 8 {
                return _mm256_storeu_ps(p, self.0);
            }
            let mut x = _mm256_castps256_ps128(self.0);
            if n & 4 != 0 {
                _mm_storeu_ps(p, x);
                x = _mm256_extractf128_ps::<1>(self.0);
                p = p.add(4);
            }
            if n & 2 != 0 {
                _mm_storel_pd(p.cast(), _mm_castps_pd(x));
                x = _mm_movehl_ps(x, x);
                p = p.add(2);
            }
            if n & 1 != 0 {
                _mm_store_ss(p, x);
            }
        }
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
            // Rows 0..4 and 4..8 side by side: then only 4 x 4 blocks within the halves are left to transpose.
            let pair = |r: usize, c: usize| {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(r * from_row + c)));
                _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add((r + 4) * from_row + c)))
            };
            for c in [0, 4] {
                let [a, b, d, e] = [pair(0, c), pair(1, c), pair(2, c), pair(3, c)];
                let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (de0, de1) = (_mm256_unpacklo_ps(d, e), _mm256_unpackhi_ps(d, e));
                _mm256_storeu_ps(to.add(c * to_row), _mm256_shuffle_ps::<0x44>(ab0, de0));
                _mm256_storeu_ps(to.add((c + 1) * to_row), _mm256_shuffle_ps::<0xee>(ab0, de0));
                _mm256_storeu_ps(to.add((c + 2) * to_row), _mm256_shuffle_ps::<0x44>(ab1, de1));
                _mm256_storeu_ps(to.add((c + 3) * to_row), _mm256_shuffle_ps::<0xee>(ab1, de1));
            }
        }
    }
    #[inline(always)]
    unsafe fn load_columns(p: *const f32, step: usize) -> Self {
        unsafe {
            let (a, b) = (_mm_loadu_ps(p), _mm_loadu_ps(p.add(step)));
            V(_mm256_set_m128(_mm_unpackhi_ps(a, b), _mm_unpacklo_ps(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn load_repeated(p: *const f32) -> Self {
        V(unsafe { _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned())) })
    }
    #[inline(always)]
    fn fold(rows: &[Self]) -> Self {
        let &[V(a), V(b)] = rows else { unreachable!() };
        unsafe {
            let sums = _mm256_castps_pd(_mm256_hadd_ps(a, b));
            V(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(sums)))
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        V(unsafe { _mm256_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        V(unsafe { _mm256_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        V(unsafe { _mm256_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        V(unsafe { _mm256_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        V(unsafe { _mm256_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        V(unsafe { _mm256_min_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        V(unsafe { _mm256_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        V(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        V(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        V(unsafe { _mm256_floor_ps(self.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        V(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            V(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let exponent = _mm256_and_si256(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(0xff));
            let exponent = _mm256_cvtepi32_ps(_mm256_sub_epi32(exponent, _mm256_set1_epi32(127)));
            let mantissa =
                _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff)), _mm256_set1_epi32(0x3f80_0000));
            (V(exponent), V(_mm256_castsi256_ps(mantissa)))
        }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        unsafe {
            let bit = _mm256_set1_ps(-0.0);
            V(_mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0)))
        }
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn le(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LE_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn eq(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn select(mask: __m256, a: Self, b: Self) -> Self {
        V(unsafe { _mm256_blendv_ps(b.0, a.0, mask) })
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
}
