//! SSE2, which every x86-64 has: four lanes, 16 registers, no fused multiply-add.
//!
//! Safety of every `unsafe` block here: the intrinsics need SSE2, which is part of x86-64.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above

use crate::kernels::{Backend, F32s, Isa, Kernel};
use core::arch::x86_64::*;

/// The SSE2 backend.
#[derive(Clone, Copy, Debug)]
pub struct Sse2;

/// Four lanes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct V(__m128);

impl Backend for Sse2 {
    const ISA: Isa = Isa::Sse2;
    type F = V;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<V>()
    }
}

/// From here on every `f32` is integral.
const INTEGRAL: f32 = 8_388_608.0;

impl F32s for V {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    const PREFETCHES: bool = true;
    type Mask = __m128;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        V(unsafe { _mm_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        V(unsafe { _mm_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        unsafe {
            let two = |p: *const f32| _mm_castpd_ps(_mm_load_sd(p.cast()));
            V(match n {
                0 => _mm_setzero_ps(),
                1 => _mm_load_ss(p),
                2 => two(p),
                3 => _mm_movelh_ps(two(p), _mm_load_ss(p.add(2))),
                _ => _mm_loadu_ps(p),
            })
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, mut p: *mut f32, n: usize) {
        unsafe {
            if n >= 4 {
                return _mm_storeu_ps(p, self.0);
            }
            let mut x = self.0;
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
            let row = |r: usize| _mm_loadu_ps(from.add(r * from_row));
            let (mut a, mut b, mut c, mut d) = (row(0), row(1), row(2), row(3));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            for (r, row) in [a, b, c, d].into_iter().enumerate() {
                _mm_storeu_ps(to.add(r * to_row), row);
            }
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        V(unsafe { _mm_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        V(unsafe { _mm_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        V(unsafe { _mm_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        V(unsafe { _mm_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.mul(a).add(b)
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        V(unsafe { _mm_min_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        V(unsafe { _mm_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        V(unsafe { _mm_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        V(unsafe { _mm_andnot_ps(_mm_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        let nearest = self.round();
        let one = unsafe { _mm_and_ps(self.lt(nearest), _mm_set1_ps(1.0)) };
        nearest.sub(V(one))
    }
    /// Adding 2^23 to a magnitude leaves no bits for a fraction.
    #[inline(always)]
    fn round(self) -> Self {
        let (magnitude, limit) = (self.abs(), Self::splat(INTEGRAL));
        let rounded = magnitude.add(limit).sub(limit).copysign(self);
        Self::select(magnitude.lt(limit), rounded, self)
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        unsafe {
            let n = _mm_add_epi32(_mm_cvtps_epi32(self.0), _mm_set1_epi32(127));
            V(_mm_castsi128_ps(_mm_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        unsafe {
            let bits = _mm_castps_si128(self.0);
            let exponent = _mm_and_si128(_mm_srli_epi32::<23>(bits), _mm_set1_epi32(0xff));
            let exponent = _mm_cvtepi32_ps(_mm_sub_epi32(exponent, _mm_set1_epi32(127)));
            let mantissa = _mm_or_si128(_mm_and_si128(bits, _mm_set1_epi32(0x007f_ffff)), _mm_set1_epi32(0x3f80_0000));
            (V(exponent), V(_mm_castsi128_ps(mantissa)))
        }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        unsafe {
            let bit = _mm_set1_ps(-0.0);
            V(_mm_or_ps(_mm_andnot_ps(bit, self.0), _mm_and_ps(bit, sign.0)))
        }
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __m128 {
        unsafe { _mm_cmplt_ps(self.0, b.0) }
    }
    #[inline(always)]
    fn le(self, b: Self) -> __m128 {
        unsafe { _mm_cmple_ps(self.0, b.0) }
    }
    #[inline(always)]
    fn eq(self, b: Self) -> __m128 {
        unsafe { _mm_cmpeq_ps(self.0, b.0) }
    }
    #[inline(always)]
    fn select(mask: __m128, a: Self, b: Self) -> Self {
        V(unsafe { _mm_or_ps(_mm_and_ps(mask, a.0), _mm_andnot_ps(mask, b.0)) })
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe {
            let x = _mm_add_ps(self.0, _mm_movehl_ps(self.0, self.0));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe {
            let x = _mm_max_ps(self.0, _mm_movehl_ps(self.0, self.0));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
}
