//! Four lanes in two D registers, an instruction of inline assembler for each operation and half.
//!
//! Operands of inline assembler may be D registers, which hold an `f64` as far as the compiler knows; Q registers, four lanes,
//! may not. So an operation takes two instructions, and the compiler arranges registers and loops around them: half the
//! instructions of scalar code, a quarter for a multiply-add. It never computes with these values as `f64`.
//!
//! Safety of every `unsafe` block here that holds assembler: it needs NEON. A value of [`V`] is only made inside
//! [`Neon32::launch`](super::Neon32), which is only reached after detection. Exception flags of the FPU, which instructions may
//! set in spite of `preserves_flags`, nobody reads.
#![allow(clippy::undocumented_unsafe_blocks)] // one reason for all of them, above

use crate::kernels::F32s;
use core::arch::asm;

/// Four lanes, the first two in the first register.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct V(f64, f64);

/// Lanes of all ones or all zeros, likewise.
#[derive(Clone, Copy, Debug)]
pub struct Mask(f64, f64);

/// From here on every `f32` is integral.
const INTEGRAL: f32 = 8_388_608.0;

/// One instruction on two lanes, to `r`.
macro_rules! op {
    ($text:literal, $($operand:ident = $value:expr),*) => {{
        let r: f64;
        unsafe {
            asm!(".fpu neon", $text, r = lateout(dreg) r, $($operand = in(dreg) $value,)*
                options(pure, nomem, nostack, preserves_flags))
        };
        r
    }};
}

/// One that changes its operand `r`.
macro_rules! change {
    ($text:literal, $r:expr, $($operand:ident = $value:expr),*) => {{
        let mut r: f64 = $r;
        unsafe {
            asm!(".fpu neon", $text, r = inlateout(dreg) r, $($operand = in(dreg) $value,)*
                options(pure, nomem, nostack, preserves_flags))
        };
        r
    }};
}

/// Two lanes of these bits.
#[inline(always)]
fn twice(bits: u32) -> f64 {
    two(bits, bits)
}

#[inline(always)]
fn two(a: u32, b: u32) -> f64 {
    f64::from_bits(a as u64 | (b as u64) << 32)
}

/// The bits of two lanes.
#[inline(always)]
fn bits(x: f64) -> [u32; 2] {
    let bits = x.to_bits();
    [bits as u32, (bits >> 32) as u32]
}

/// Both halves likewise.
#[inline(always)]
fn each(x: V, f: impl Fn(f64) -> f64) -> V {
    V(f(x.0), f(x.1))
}

#[inline(always)]
fn pairs(a: V, b: V, f: impl Fn(f64, f64) -> f64) -> V {
    V(f(a.0, b.0), f(a.1, b.1))
}

#[inline(always)]
fn compare(a: V, b: V, f: impl Fn(f64, f64) -> f64) -> Mask {
    Mask(f(a.0, b.0), f(a.1, b.1))
}

impl F32s for V {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    const FLUSHES: bool = true;
    type Mask = Mask;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        let both = twice(x.to_bits());
        V(both, both)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        let (a, b): (f64, f64);
        unsafe {
            asm!("vldr {a}, [{p}]", "vldr {b}, [{p}, #8]", a = out(dreg) a, b = out(dreg) b, p = in(reg) p,
                options(pure, readonly, nostack, preserves_flags))
        };
        V(a, b)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe {
            asm!("vstr {a}, [{p}]", "vstr {b}, [{p}, #8]", a = in(dreg) self.0, b = in(dreg) self.1, p = in(reg) p,
                options(nostack, preserves_flags))
        };
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        let p = p.cast::<u32>();
        unsafe {
            match n {
                0 => V(0.0, 0.0),
                1 => V(two(p.read(), 0), 0.0),
                2 => V(two(p.read(), p.add(1).read()), 0.0),
                3 => V(two(p.read(), p.add(1).read()), two(p.add(2).read(), 0)),
                _ => Self::load(p.cast()),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        if n >= 4 {
            return unsafe { self.store(p) };
        }
        let ([a, b], [c, _]) = (bits(self.0), bits(self.1));
        for (i, lane) in [a, b, c].into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(f32::from_bits(lane)) };
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        unsafe {
            asm!(
                ".fpu neon",
                "vld1.32 {{d0-d1}}, [{from}], {from_row}",
                "vld1.32 {{d2-d3}}, [{from}], {from_row}",
                "vld1.32 {{d4-d5}}, [{from}], {from_row}",
                "vld1.32 {{d6-d7}}, [{from}]",
                "vtrn.32 q0, q1",
                "vtrn.32 q2, q3",
                "vswp d1, d4",
                "vswp d3, d6",
                "vst1.32 {{d0-d1}}, [{to}], {to_row}",
                "vst1.32 {{d2-d3}}, [{to}], {to_row}",
                "vst1.32 {{d4-d5}}, [{to}], {to_row}",
                "vst1.32 {{d6-d7}}, [{to}]",
                from = inout(reg) from => _,
                from_row = in(reg) from_row * size_of::<f32>(),
                to = inout(reg) to => _,
                to_row = in(reg) to_row * size_of::<f32>(),
                out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _, out("d7") _,
                options(nostack, preserves_flags)
            )
        };
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        pairs(self, b, |a, b| op!("vadd.f32 {r}, {a}, {b}", a = a, b = b))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        pairs(self, b, |a, b| op!("vsub.f32 {r}, {a}, {b}", a = a, b = b))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        pairs(self, b, |a, b| op!("vmul.f32 {r}, {a}, {b}", a = a, b = b))
    }
    /// Lane by lane: NEON has no division.
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        pairs(self, b, |a, b| {
            let ([a0, a1], [b0, b1]) = (bits(a).map(f32::from_bits), bits(b).map(f32::from_bits));
            two((a0 / b0).to_bits(), (a1 / b1).to_bits())
        })
    }
    /// Rounded twice: the fused instruction came later than NEON, and has no form with a lane, which products want.
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        V(
            change!("vmla.f32 {r}, {a}, {b}", b.0, a = self.0, b = a.0),
            change!("vmla.f32 {r}, {a}, {b}", b.1, a = self.1, b = a.1),
        )
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        pairs(self, b, |a, b| op!("vmin.f32 {r}, {a}, {b}", a = a, b = b))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        pairs(self, b, |a, b| op!("vmax.f32 {r}, {a}, {b}", a = a, b = b))
    }
    /// Lane by lane: NEON has no square root.
    #[inline(always)]
    fn sqrt(self) -> Self {
        each(self, |x| {
            let [a, b] = bits(x).map(|lane| libm::sqrtf(f32::from_bits(lane)).to_bits());
            two(a, b)
        })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        each(self, |x| op!("vabs.f32 {r}, {a}", a = x))
    }
    #[inline(always)]
    fn floor(self) -> Self {
        let nearest = self.round();
        let above = self.lt(nearest);
        let one = Self::splat(1.0);
        nearest.sub(pairs(V(above.0, above.1), one, |a, b| op!("vand {r}, {a}, {b}", a = a, b = b)))
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
        let bias = twice(127);
        each(self, |x| {
            let n = op!("vcvt.s32.f32 {r}, {a}", a = x);
            let n = op!("vadd.i32 {r}, {a}, {b}", a = n, b = bias);
            op!("vshl.i32 {r}, {a}, #23", a = n)
        })
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        let (byte, bias, fraction, one) = (twice(0xff), twice(127), twice(0x007f_ffff), twice(1f32.to_bits()));
        let exponent = each(self, |x| {
            let e = op!("vshr.u32 {r}, {a}, #23", a = x);
            let e = op!("vand {r}, {a}, {b}", a = e, b = byte);
            let e = op!("vsub.i32 {r}, {a}, {b}", a = e, b = bias);
            op!("vcvt.f32.s32 {r}, {a}", a = e)
        });
        let mantissa = each(self, |x| {
            let m = op!("vand {r}, {a}, {b}", a = x, b = fraction);
            op!("vorr {r}, {a}, {b}", a = m, b = one)
        });
        (exponent, mantissa)
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let bit = twice(1 << 31);
        pairs(self, sign, |x, sign| change!("vbit {r}, {a}, {b}", x, a = sign, b = bit))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> Mask {
        compare(self, b, |a, b| op!("vcgt.f32 {r}, {b}, {a}", a = a, b = b))
    }
    #[inline(always)]
    fn le(self, b: Self) -> Mask {
        compare(self, b, |a, b| op!("vcge.f32 {r}, {b}, {a}", a = a, b = b))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> Mask {
        compare(self, b, |a, b| op!("vceq.f32 {r}, {a}, {b}", a = a, b = b))
    }
    #[inline(always)]
    fn select(mask: Mask, a: Self, b: Self) -> Self {
        V(change!("vbsl {r}, {a}, {b}", mask.0, a = a.0, b = b.0), change!("vbsl {r}, {a}, {b}", mask.1, a = a.1, b = b.1))
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        let halves = op!("vadd.f32 {r}, {a}, {b}", a = self.0, b = self.1);
        f32::from_bits(bits(op!("vpadd.f32 {r}, {a}, {a}", a = halves))[0])
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        let halves = op!("vmax.f32 {r}, {a}, {b}", a = self.0, b = self.1);
        f32::from_bits(bits(op!("vpmax.f32 {r}, {a}, {a}", a = halves))[0])
    }
}
