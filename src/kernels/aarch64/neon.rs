//! NEON on 64-bit Arm: four lanes, 32 registers, fused multiply-add, also by a lane of a register.
//!
//! Safety of every `unsafe` block here: the intrinsics need NEON. A value of [`V`] is only made inside [`Neon::launch`],
//! which is only reached after detection (see [`Backend`]).
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above

use crate::kernels::{Backend, F32s, Isa, Kernel};
use core::arch::aarch64::*;

/// The NEON backend.
#[derive(Clone, Copy, Debug)]
pub struct Neon;

/// Four lanes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct V(float32x4_t);

impl Backend for Neon {
    const ISA: Isa = Isa::Neon;
    type F = V;
    #[inline(always)]
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        unsafe { launch(kernel) }
    }
}

#[target_feature(enable = "neon")]
unsafe fn launch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<V>()
}

impl F32s for V {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const LANE_PRODUCTS: bool = true;
    type Mask = uint32x4_t;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        V(unsafe { vdupq_n_f32(x) })
    }
    /// A product's addend is overwritten, so a constant one costs a copy; the compiler would rather load it from memory again,
    /// two instructions, were it not kept from knowing that it is constant.
    #[inline(always)]
    fn constant(x: f32) -> Self {
        let mut v = unsafe { vdupq_n_f32(x) };
        unsafe { core::arch::asm!("/* {0:v} */", inlateout(vreg) v, options(pure, nomem, nostack, preserves_flags)) };
        V(v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        V(unsafe { vld1q_f32(p) })
    }
    /// One instruction: the intrinsics of this name become loads of pairs and an addition.
    #[inline(always)]
    unsafe fn load_row(p: &mut *const f32, step: usize, n: usize) -> [Self; 4] {
        let (a, b, c, d): (float32x4_t, float32x4_t, float32x4_t, float32x4_t);
        unsafe {
            if n == 2 {
                core::arch::asm!("ld1 {{v0.4s, v1.4s}}, [{p}], {step}", p = inout(reg) *p, step = in(reg) step * 4,
                    out("v0") a, out("v1") b, options(pure, readonly, nostack, preserves_flags));
                (c, d) = (a, b);
            } else {
                core::arch::asm!("ld1 {{v0.4s, v1.4s, v2.4s, v3.4s}}, [{p}], {step}", p = inout(reg) *p, step = in(reg) step * 4,
                    out("v0") a, out("v1") b, out("v2") c, out("v3") d, options(pure, readonly, nostack, preserves_flags));
            }
        }
        [V(a), V(b), V(c), V(d)]
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { vst1q_f32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        unsafe {
            let zero = vdupq_n_f32(0.0);
            let two = |p: *const f32| vcombine_f32(vld1_f32(p), vdup_n_f32(0.0));
            V(match n {
                0 => zero,
                1 => vld1q_lane_f32::<0>(p, zero),
                2 => two(p),
                3 => vld1q_lane_f32::<2>(p.add(2), two(p)),
                _ => vld1q_f32(p),
            })
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, self.0),
                2 => vst1_f32(p, vget_low_f32(self.0)),
                3 => {
                    vst1_f32(p, vget_low_f32(self.0));
                    vst1q_lane_f32::<2>(p.add(2), self.0);
                }
                _ => vst1q_f32(p, self.0),
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        unsafe {
            let row = |r: usize| vld1q_f32(from.add(r * from_row));
            let (ab, cd) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
            let low = |a: float32x4_t, b: float32x4_t| vcombine_f32(vget_low_f32(a), vget_low_f32(b));
            let high = |a: float32x4_t, b: float32x4_t| vcombine_f32(vget_high_f32(a), vget_high_f32(b));
            vst1q_f32(to, low(ab.0, cd.0));
            vst1q_f32(to.add(to_row), low(ab.1, cd.1));
            vst1q_f32(to.add(2 * to_row), high(ab.0, cd.0));
            vst1q_f32(to.add(3 * to_row), high(ab.1, cd.1));
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        V(unsafe { vaddq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        V(unsafe { vsubq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        V(unsafe { vmulq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        V(unsafe { vdivq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        V(unsafe { vfmaq_f32(b.0, self.0, a.0) })
    }
    #[inline(always)]
    fn mul_add_lane<const L: i32>(self, a: Self, b: Self) -> Self {
        V(unsafe { vfmaq_laneq_f32::<L>(b.0, self.0, a.0) })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        V(unsafe { vminq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        V(unsafe { vmaxq_f32(self.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        V(unsafe { vsqrtq_f32(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        V(unsafe { vabsq_f32(self.0) })
    }
    #[inline(always)]
    fn floor(self) -> Self {
        V(unsafe { vrndmq_f32(self.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        V(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        unsafe {
            let n = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            V(vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        }
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let exponent = vandq_s32(vreinterpretq_s32_u32(vshrq_n_u32::<23>(bits)), vdupq_n_s32(0xff));
            let exponent = vcvtq_f32_s32(vsubq_s32(exponent, vdupq_n_s32(127)));
            let mantissa = vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x007f_ffff)), vdupq_n_u32(0x3f80_0000));
            (V(exponent), V(vreinterpretq_f32_u32(mantissa)))
        }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        V(unsafe { vbslq_f32(vdupq_n_u32(1 << 31), sign.0, self.0) })
    }
    #[inline(always)]
    fn lt(self, b: Self) -> uint32x4_t {
        unsafe { vcltq_f32(self.0, b.0) }
    }
    #[inline(always)]
    fn le(self, b: Self) -> uint32x4_t {
        unsafe { vcleq_f32(self.0, b.0) }
    }
    #[inline(always)]
    fn eq(self, b: Self) -> uint32x4_t {
        unsafe { vceqq_f32(self.0, b.0) }
    }
    #[inline(always)]
    fn select(mask: uint32x4_t, a: Self, b: Self) -> Self {
        V(unsafe { vbslq_f32(mask, a.0, b.0) })
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_and_four_vectors() {
        let numbers: [f32; 32] = core::array::from_fn(|i| i as f32);
        for n in [2, 4] {
            for step in [1, 8, 16] {
                let mut p = numbers.as_ptr();
                for row in 0..2 {
                    let mut got = [0f32; 16];
                    unsafe {
                        for (i, v) in V::load_row(&mut p, step, n).into_iter().enumerate() {
                            v.store(got.as_mut_ptr().add(4 * i));
                        }
                    }
                    assert_eq!(got[..4 * n], numbers[row * step..][..4 * n], "{n} vectors, {step} elements on");
                }
                assert_eq!(p, numbers.as_ptr().wrapping_add(2 * step));
            }
        }
    }
}
