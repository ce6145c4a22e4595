//! Vectors that are arrays: one lane is the scalar reference, 16 lanes test what a wide instruction set does.
#![allow(unsafe_code)]

use super::{Backend, F32s, Isa, Kernel};

/// A vector that is an array of `N` lanes.
#[derive(Clone, Copy, Debug)]
pub struct Lanes<const N: usize>([f32; N]);

/// The scalar reference.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// 16 portable lanes.
#[derive(Clone, Copy, Debug)]
pub struct Portable16;

impl Backend for Scalar {
    const ISA: Isa = Isa::Scalar;
    type F = Lanes<1>;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Lanes<1>>()
    }
}

impl Backend for Portable16 {
    const ISA: Isa = Isa::Portable16;
    type F = Lanes<16>;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Lanes<16>>()
    }
}

/// One lane is inlined, as any vector is. More are not: 16 of each operation, in tiles of 24 vectors, took the compiler
/// longer than everything else in this crate.
impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        if N == 1 { each(self, f) } else { apart(|v| each(v, &f), self) }
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        if N == 1 { pairs(self, b, f) } else { apart(|(a, b)| pairs(a, b, &f), (self, b)) }
    }

    #[inline(always)]
    fn compare(self, b: Self, f: impl Fn(f32, f32) -> bool) -> [bool; N] {
        let lanes = |(a, b): (Self, Self)| core::array::from_fn(|i| f(a.0[i], b.0[i]));
        if N == 1 { lanes((self, b)) } else { apart(lanes, (self, b)) }
    }
}

#[inline(always)]
fn each<const N: usize>(v: Lanes<N>, f: impl Fn(f32) -> f32) -> Lanes<N> {
    Lanes(v.0.map(f))
}

#[inline(always)]
fn pairs<const N: usize>(a: Lanes<N>, b: Lanes<N>, f: impl Fn(f32, f32) -> f32) -> Lanes<N> {
    Lanes(core::array::from_fn(|i| f(a.0[i], b.0[i])))
}

/// Calls a function that is not inlined.
#[inline(never)]
fn apart<A, R>(f: impl Fn(A) -> R, a: A) -> R {
    f(a)
}

impl<const N: usize> F32s for Lanes<N> {
    const LANES: usize = N;
    const REGISTERS: usize = 32;
    type Mask = [bool; N];

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Lanes([x; N])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller promises N readable elements; arrays of f32 are aligned like f32.
        Lanes(unsafe { p.cast::<[f32; N]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller promises N writable elements.
        unsafe { p.cast::<[f32; N]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        let mut out = [0.0; N];
        for (i, x) in out.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller promises n readable elements.
            *x = unsafe { p.add(i).read() };
        }
        Lanes(out)
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        for (i, x) in self.0.iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller promises n writable elements.
            unsafe { p.add(i).write(*x) }
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |x, y| x / y)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        // Two roundings: without hardware support a fused one is a slow library call.
        let lanes = |(x, a, b): (Self, Self, Self)| pairs(pairs(x, a, |x, a| x * a), b, |p, b| p + b);
        if N == 1 { lanes((self, a, b)) } else { apart(lanes, (self, a, b)) }
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.zip(b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(libm::sqrtf)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    fn floor(self) -> Self {
        self.map(libm::floorf)
    }
    #[inline(always)]
    fn round(self) -> Self {
        self.map(libm::rintf)
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        self.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        let exponent = self.map(|x| (x.to_bits() >> 23 & 0xff) as f32 - 127.0);
        let mantissa = self.map(|x| f32::from_bits(x.to_bits() & 0x007f_ffff | 0x3f80_0000));
        (exponent, mantissa)
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    fn lt(self, b: Self) -> [bool; N] {
        self.compare(b, |x, y| x < y)
    }
    #[inline(always)]
    fn le(self, b: Self) -> [bool; N] {
        self.compare(b, |x, y| x <= y)
    }
    #[inline(always)]
    fn eq(self, b: Self) -> [bool; N] {
        self.compare(b, |x, y| x == y)
    }
    #[inline(always)]
    fn select(mask: [bool; N], a: Self, b: Self) -> Self {
        let mut out = b.0;
        for (i, x) in out.iter_mut().enumerate() {
            if mask[i] {
                *x = a.0[i];
            }
        }
        Lanes(out)
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        // Halves are added, as the hardware vectors do, so that all of 16 lanes round alike.
        let mut v = self.0;
        let mut n = N;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                v[i] += v[i + n];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        let mut m = self.0[0];
        for &x in &self.0[1..] {
            m = if x > m { x } else { m };
        }
        m
    }
}
