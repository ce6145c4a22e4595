//! Elementary functions over vectors, with stated errors.
//!
//! Every function here is `#[inline(always)]` and branch-free over its lanes, unless it is said to go lane by lane. The
//! errors hold on every backend, with and without fused multiply-add, and are tested over the floats of both signs. "ULP"
//! counts units in the last place of the exact result, subnormal results aside; NaN gives NaN. Vectors that
//! [flush](F32s::FLUSHES) may take a denormal argument, or give a result about as small, for 0.
//!
//! Polynomials and rational functions are minimax fits (weighted least squares, reweighted until the error is level) of our
//! own. `exp` multiplies by the power of two in one step: results below `1.8e-38` become 0 (on AVX-512 `1.2e-38`), which saves a second scaling.
//! `tanh` and `erf` are odd rational functions of the clamped argument: as fast as one exponential, and exact near 0.
#![allow(unsafe_code)]
#![allow(clippy::excessive_precision, clippy::approx_constant)] // coefficients stand as they were fitted

use super::{Dst, F32s, Src};
use crate::program::{Binary, Unary};
use core::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI, LN_2, LOG2_E, SQRT_2};

/// `c[0] + c[1] x + c[2] x² …`
#[inline(always)]
fn polynomial<V: F32s, const N: usize>(x: V, c: [f32; N]) -> V {
    let mut sum = V::constant(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, V::constant(c[i]));
    }
    sum
}

/// [`polynomial`] of five coefficients, with a shorter chain of operations, and as many: `square` is `x²`. Not for single numbers:
/// a device has no use for it, and it takes more registers.
#[inline(always)]
fn quartic<V: F32s>(x: V, square: V, c: [f32; 5]) -> V {
    if V::LANES == 1 {
        return polynomial(x, c);
    }
    let low = V::splat(c[1]).mul_add(x, V::constant(c[0]));
    let high = V::splat(c[3]).mul_add(x, V::constant(c[2]));
    V::splat(c[4]).mul_add(square, high).mul_add(square, low)
}

/// `min(max(x, low), high)`; NaN stays NaN.
#[inline(always)]
pub fn clamp<V: F32s>(x: V, low: f32, high: f32) -> V {
    V::splat(high).min(V::splat(low).max(x))
}

/// Applies a function lane by lane.
#[inline(always)]
pub fn lanes<V: F32s>(x: V, f: impl Fn(f32) -> f32) -> V {
    const { assert!(V::LANES <= 16) };
    let mut buffer = [0f32; 16];
    // SAFETY: the buffer holds at least as many elements as the vector has lanes.
    unsafe {
        x.store(buffer.as_mut_ptr());
        for v in &mut buffer[..V::LANES] {
            *v = f(*v);
        }
        V::load(buffer.as_ptr())
    }
}

/// Applies a function of two values lane by lane.
#[inline(always)]
pub fn lanes2<V: F32s>(x: V, y: V, f: impl Fn(f32, f32) -> f32) -> V {
    const { assert!(V::LANES <= 16) };
    let (mut a, mut b) = ([0f32; 16], [0f32; 16]);
    // SAFETY: the buffers hold at least as many elements as a vector has lanes.
    unsafe {
        x.store(a.as_mut_ptr());
        y.store(b.as_mut_ptr());
        for (v, w) in a[..V::LANES].iter_mut().zip(b) {
            *v = f(*v, w);
        }
        V::load(a.as_ptr())
    }
}

/// ln 2 in two parts; the first has 9 bits, so that its product with an exponent is exact without a fused multiply.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `x = n ln 2 + r`: gives `n`, integral, and `r`.
#[inline(always)]
fn reduce<V: F32s>(x: V) -> (V, V) {
    let n = x.mul(V::splat(LOG2_E)).round();
    let r = n.mul_add(V::splat(-LN_2_HIGH), x);
    (n, n.mul_add(V::splat(-LN_2_LOW), r))
}

/// `(exp(r) - 1 - r) / r²` for `|r| <= ln 2 / 2`, times `SCALE`.
const EXP: [f32; 5] = [4.999_999_4e-1, 1.666_652_1e-1, 4.166_839e-2, 8.368_725e-3, 1.381_458_1e-3];

/// `exp(x)`, within 2 ULP. From 88.73 on it is infinite; below -86.98 (results under 1.8e-38) it is 0.
#[inline(always)]
pub fn exp<V: F32s>(x: V) -> V {
    const LOW: f32 = -87.3;
    let below_high = V::splat(89.0).min(x);
    if V::SCALES {
        let (n, r) = reduce(below_high);
        return exp_of_rest(r).scale_unless(x.lt(V::splat(LOW)), n);
    }
    let (n, r) = reduce(V::splat(LOW).max(below_high));
    // Twice the polynomial times 2^(n - 1): n reaches 128, and at -126 the power's bits are those of 0.
    let square = r.mul(r);
    let p = quartic(r, square, [2.0 * EXP[0], 2.0 * EXP[1], 2.0 * EXP[2], 2.0 * EXP[3], 2.0 * EXP[4]]);
    let p = p.mul_add(square, r.add(r)).add(V::splat(2.0));
    p.mul(n.sub(V::splat(1.0)).exp2_integral())
}

/// `exp(r)` for `|r| <= ln 2 / 2`.
#[inline(always)]
fn exp_of_rest<V: F32s>(r: V) -> V {
    let square = r.mul(r);
    quartic(r, square, EXP).mul_add(square, r.add(V::splat(1.0)))
}

/// `exp(x) - 1` for `x <= 0` (what is above counts as 0), within 4 ULP.
#[inline(always)]
pub fn expm1_negative<V: F32s>(x: V) -> V {
    let (n, r) = reduce(clamp(x, -87.0, 0.0));
    let q = polynomial(r, EXP).mul_add(r.mul(r), r);
    let s = n.exp2_integral();
    s.mul_add(q, s.sub(V::splat(1.0)))
}

/// `ln(x)` for positive normal numbers.
#[inline(always)]
fn log_normal<V: F32s>(x: V) -> V {
    let (e, m) = x.split_exponent();
    let one = V::splat(1.0);
    let large = V::splat(SQRT_2).lt(m);
    let m = V::select(large, m.mul(V::splat(0.5)), m);
    let e = V::select(large, e.add(one), e);
    let f = m.sub(one);
    let p = polynomial(
        f,
        [
            3.333_333_1e-1,
            -2.500_082e-1,
            2.000_122_7e-1,
            -1.662_335_7e-1,
            1.420_175_7e-1,
            -1.316_018_3e-1,
            1.276_157_8e-1,
            -7.634_497_4e-2,
        ],
    );
    let f2 = f.mul(f);
    let y = p.mul(f2).mul(f);
    let y = e.mul_add(V::splat(LN_2_LOW), y);
    let y = f2.mul_add(V::splat(-0.5), y).add(f);
    e.mul_add(V::splat(LN_2_HIGH), y)
}

/// `ln(x)`, within 2 ULP; minus infinity at 0, NaN below.
#[inline(always)]
pub fn log<V: F32s>(x: V) -> V {
    let tiny = x.lt(V::splat(f32::MIN_POSITIVE));
    let y = log_normal(V::select(tiny, x.mul(V::splat(8_388_608.0)), x));
    let y = V::select(tiny, y.sub(V::splat(23.0 * LN_2)), y);
    let y = V::select(x.lt(V::splat(f32::INFINITY)), y, x);
    let zero = V::splat(0.0);
    let special = V::select(x.eq(zero), V::splat(f32::NEG_INFINITY), V::splat(f32::NAN));
    V::select(x.le(zero), special, y)
}

/// `ln(1 + x)` for `0 <= x <= 1`, within 4 ULP.
#[inline(always)]
fn log1p_unit<V: F32s>(x: V) -> V {
    let one = V::splat(1.0);
    let u = one.add(x);
    // What was lost when 1 was added, to first order.
    log_normal(u).add(x.sub(u.sub(one)).div(u))
}

/// `tanh(x)`, within 8 ULP.
#[inline(always)]
pub fn tanh<V: F32s>(x: V) -> V {
    let x = clamp(x, -9.02, 9.02);
    let t = x.mul(x);
    let p = polynomial(t, [1.0, 1.337_972e-1, 3.494_036_2e-3, 2.058_350_6e-5, 1.331_910_3e-8]);
    let q = polynomial(t, [1.0, 4.671_303_3e-1, 2.587_107_9e-2, 3.283_095_4e-4, 7.762_032_5e-7]);
    clamp(x.mul(p).over(q), -1.0, 1.0)
}

/// Where [`sigmoid`] and [`silu`] level off, to 4e-18: a product of two such values is a normal number still. Subnormal ones, which
/// saturated units would give otherwise, make later products up to a hundred times slower on many cores.
const LEVEL: f32 = -40.0;

/// `1 + exp(-x)` for `x >= LEVEL`.
#[inline(always)]
fn one_and_exp_minus<V: F32s>(x: V) -> V {
    let (n, r) = reduce(V::splat(-1.0).mul(V::splat(-LEVEL).min(x)));
    exp_of_rest(r).mul_add(n.exp2_integral(), V::splat(1.0))
}

/// `1 / (1 + exp(-x))`, within 4 ULP; below -40 it stays at 4.2e-18.
#[inline(always)]
pub fn sigmoid<V: F32s>(x: V) -> V {
    V::splat(1.0).over(one_and_exp_minus(V::splat(LEVEL).max(x)))
}

/// `x * sigmoid(x)`, within 5 ULP; below -40 it stays at -1.7e-16.
#[inline(always)]
pub fn silu<V: F32s>(x: V) -> V {
    let x = V::splat(LEVEL).max(x);
    x.over(one_and_exp_minus(x))
}

/// `erf(x)`, within 8 ULP.
#[inline(always)]
pub fn erf<V: F32s>(x: V) -> V {
    let x = clamp(x, -3.93, 3.93);
    let t = x.mul(x);
    let p = polynomial(t, [1.128_379_1, 1.907_835_9e-1, 5.279_025_4e-2, 3.779_599_2e-3, 2.848_084_3e-4, 2.041_973_4e-6]);
    let q = polynomial(t, [1.0, 5.024_102_9e-1, 1.142_574_25e-1, 1.499_741_7e-2, 1.165_210_4e-3, 3.800_409_1e-5]);
    clamp(x.mul(p).over(q), -1.0, 1.0)
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`, with an absolute error of at most `4e-7 * |x|`: below -2, where `1 + erf` cancels,
/// the relative error is large. Minus infinity gives NaN, as the formula does.
#[inline(always)]
pub fn gelu<V: F32s>(x: V) -> V {
    let half = x.mul(V::splat(0.5));
    half.mul(V::splat(1.0).add(erf(x.mul(V::splat(FRAC_1_SQRT_2)))))
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x³)))`, as `x * sigmoid(2 …)`: `1e-6 * |x|` of absolute error at most,
/// without the cancellation of the formula. Minus infinity gives NaN.
#[inline(always)]
pub fn gelu_tanh<V: F32s>(x: V) -> V {
    const A: f32 = -2.0 * 0.797_884_6;
    let minus_2u = x.mul(x.mul(x).mul_add(V::splat(A * 0.044_715), V::splat(A)));
    x.over(V::splat(1.0).add(exp(minus_2u)))
}

/// `ln(1 + exp(x))`, within 5 ULP (0 below -86.98).
#[inline(always)]
pub fn softplus<V: F32s>(x: V) -> V {
    let y = log1p_unit(exp(V::splat(0.0).sub(x.abs())));
    V::splat(0.0).max(x).add(y)
}

/// `x < 0 ? alpha * (exp(x) - 1) : x`, within 5 ULP.
#[inline(always)]
pub fn elu<V: F32s>(x: V, alpha: f32) -> V {
    V::select(x.lt(V::splat(0.0)), expm1_negative(x).mul(V::splat(alpha)), x)
}

/// `x * tanh(ln(1 + exp(x)))`, within 8 ULP (0 below -86.98): with `n = e^x (e^x + 2)` it is `x * n / (n + 2)`.
#[inline(always)]
pub fn mish<V: F32s>(x: V) -> V {
    let low = V::splat(-1e4).max(x);
    let e = exp(V::splat(20.0).min(low));
    let two = V::splat(2.0);
    let n = e.mul(e.add(two));
    low.mul(n.over(n.add(two)))
}

/// Largest magnitude that the vector form of sine and cosine reduces; lanes beyond go through libm.
const TRIG_LIMIT: f32 = 8192.0;

/// Sine (`phase` 0) or cosine (1).
#[inline(always)]
fn sine<V: F32s>(x: V, phase: f32) -> V {
    // π/2 in three parts: the first two have few enough bits that their products with n are exact.
    let n = x.mul(V::splat(FRAC_2_PI)).round();
    let r = n.mul_add(V::splat(-1.570_312_5), x);
    let r = n.mul_add(V::splat(-4.837_513e-4), r);
    let r = n.mul_add(V::splat(-7.549_79e-8), r);
    let t = r.mul(r);
    let s = polynomial(t, SIN).mul(t).mul_add(r, r);
    let c = polynomial(t, COS).mul(t).mul_add(t, t.mul_add(V::splat(-0.5), V::splat(1.0)));
    // The quadrant, 0 to 3.
    let n = n.add(V::splat(phase));
    let q = n.sub(n.mul(V::splat(0.25)).floor().mul(V::splat(4.0)));
    let odd = q.mul(V::splat(0.5)).floor().mul(V::splat(2.0)).lt(q);
    let y = V::select(odd, c, s);
    let y = V::select(V::splat(1.5).lt(q), V::splat(0.0).sub(y), y);
    let large = V::select(x.abs().le(V::splat(TRIG_LIMIT)), V::splat(0.0), V::splat(1.0));
    if large.reduce_add() > 0.0 {
        return lanes(x, if phase == 0.0 { libm::sinf } else { libm::cosf });
    }
    y
}

/// `(sin(r) - r) / r³` and `(cos(r) - 1 + r² / 2) / r⁴` in `r²`, for `|r| <= π / 4`.
const SIN: [f32; 3] = [-1.666_665_5e-1, 8.332_158e-3, -1.951_495_8e-4];
const COS: [f32; 3] = [4.166_664_6e-2, -1.388_731_3e-3, 2.443_278_6e-5];

/// `sin(x)`, with an absolute error of at most 2e-7.
#[inline(always)]
pub fn sin<V: F32s>(x: V) -> V {
    sine(x, 0.0)
}

/// `cos(x)`, with an absolute error of at most 2e-7.
#[inline(always)]
pub fn cos<V: F32s>(x: V) -> V {
    sine(x, 1.0)
}

/// `x` to the power `y`: lane by lane, within 1 ULP.
#[inline(always)]
pub fn pow<V: F32s>(x: V, y: V) -> V {
    lanes2(x, y, libm::powf)
}

/// `x` to a constant power: the usual exponents by products and roots (2 ULP), the others as [`pow`].
#[inline(always)]
pub fn pow_const<V: F32s>(x: V, y: f32) -> V {
    let one = V::splat(1.0);
    if y == 2.0 {
        x.mul(x)
    } else if y == 3.0 {
        x.mul(x).mul(x)
    } else if y == 0.5 {
        x.sqrt()
    } else if y == -0.5 {
        one.div(x.sqrt())
    } else if y == -1.0 {
        one.div(x)
    } else {
        pow(x, V::splat(y))
    }
}

/// 1 where the mask is set, else 0.
#[inline(always)]
fn truth<V: F32s>(mask: V::Mask) -> V {
    V::select(mask, V::splat(1.0), V::splat(0.0))
}

#[inline(always)]
fn sign<V: F32s>(x: V) -> V {
    let zero = V::splat(0.0);
    V::select(zero.lt(x), V::splat(1.0), V::select(x.lt(zero), V::splat(-1.0), x))
}

#[inline(always)]
fn is_infinite<V: F32s>(x: V, p: [f32; 2]) -> V {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    let minus = V::select(x.eq(V::splat(f32::NEG_INFINITY)), one, zero);
    let plus = V::select(x.eq(V::splat(f32::INFINITY)), one, zero);
    minus.mul(V::splat((p[0] != 0.0) as u32 as f32)).add(plus.mul(V::splat((p[1] != 0.0) as u32 as f32)))
}

/// Functions that no vector form is worth: lane by lane, out of line.
#[inline(never)]
fn rare(function: Unary, x: f32) -> f32 {
    match function {
        Unary::Tan => libm::tanf(x),
        Unary::Asin => libm::asinf(x),
        Unary::Acos => libm::acosf(x),
        Unary::Atan => libm::atanf(x),
        Unary::Sinh => libm::sinhf(x),
        Unary::Cosh => libm::coshf(x),
        Unary::Asinh => libm::asinhf(x),
        Unary::Acosh => libm::acoshf(x),
        Unary::Atanh => libm::atanhf(x),
        _ => x,
    }
}

/// Writes the table of unary functions once, and from it [`unary`] (one vector) and [`unary_slice`] (one match, then a
/// loop per function: bodies are repeated textually, since a closure might not be inlined into the instruction set).
macro_rules! unary_functions {
    ($V:ident, $x:ident, $p:ident, { $($name:ident => $body:expr),* $(,)? }) => {
        /// A [`Unary`] function with its parameters. Functions that the elementary ones above don't cover go lane by lane
        /// through libm, within 2 ULP. [`Unary::BitNot`] is of integers; here it is the identity, and checks reject it.
        #[inline(always)]
        pub fn unary<$V: F32s>(function: Unary, $p: [f32; 2], $x: $V) -> $V {
            match function {
                $(Unary::$name => $body,)*
                function => lanes($x, |v| rare(function, v)),
            }
        }

        /// `y[i] = function(x[i])`; both may be the same memory.
        ///
        /// # Panics
        /// If the lengths differ.
        #[inline(always)]
        pub fn unary_slice<$V: F32s>(function: Unary, $p: [f32; 2], x: Src<'_, f32>, y: Dst<'_, f32>) {
            assert!(x.len() == y.len());
            let n = x.len();
            let whole = n / $V::LANES * $V::LANES;
            let mut tail = [0f32; 16];
            let (mut from, mut to, mut count) = (x.pointer(), y.pointer(), whole);
            loop {
                // SAFETY: loads and stores stay below `whole`, or within the tail's buffer, which holds a vector.
                unsafe {
                    match function {
                        $(Unary::$name => {
                            let mut i = 0;
                            while i < count {
                                let $x = $V::load(from.add(i));
                                let result: $V = $body;
                                result.store(to.add(i));
                                i += $V::LANES;
                            }
                        })*
                        function => {
                            for i in 0..count {
                                to.add(i).write(rare(function, from.add(i).read()));
                            }
                        }
                    }
                }
                if !core::ptr::eq(to, tail.as_ptr()) {
                    if n == whole {
                        return;
                    }
                    // The rest goes through the same loop once more, in a buffer: a body is compiled once.
                    // SAFETY: `n - whole` elements are left in both spans, fewer than a vector's.
                    unsafe { x.pointer().add(whole).copy_to_nonoverlapping(tail.as_mut_ptr(), n - whole) };
                    (from, to, count) = (tail.as_ptr(), tail.as_mut_ptr(), $V::LANES);
                } else {
                    // SAFETY: as above.
                    unsafe { tail.as_ptr().copy_to_nonoverlapping(y.pointer().add(whole), n - whole) };
                    return;
                }
            }
        }
    };
}

unary_functions!(V, x, p, {
    Identity => x,
    Clip => clamp(x, p[0], p[1]),
    LeakyRelu => V::select(x.lt(V::splat(0.0)), x.mul(V::splat(p[0])), x),
    HardSwish => x.mul(clamp(x.mul_add(V::splat(p[0]), V::splat(p[1])), 0.0, 1.0)),
    HardSigmoid => clamp(x.mul_add(V::splat(p[0]), V::splat(p[1])), 0.0, 1.0),
    Sigmoid => sigmoid(x),
    Silu => silu(x),
    Tanh => tanh(x),
    Gelu => gelu(x),
    GeluTanh => gelu_tanh(x),
    Elu => elu(x, p[0]),
    Selu => elu(x, p[0]).mul(V::splat(p[1])),
    Softplus => softplus(x),
    Softsign => x.over(V::splat(1.0).add(x.abs())),
    Mish => mish(x),
    Erf => erf(x),
    Exp => exp(x),
    Log => log(x),
    Sqrt => x.sqrt(),
    Rsqrt => V::splat(1.0).div(x.sqrt()),
    Recip => V::splat(1.0).div(x),
    Neg => V::splat(-1.0).mul(x),
    Abs => x.abs(),
    Sign => sign(x),
    Floor => x.floor(),
    Ceil => V::splat(-1.0).mul(V::splat(-1.0).mul(x).floor()),
    Round => x.round(),
    Square => x.mul(x),
    PowConst => pow_const(x, p[0]),
    Sin => sin(x),
    Cos => cos(x),
    Not => truth::<V>(x.eq(V::splat(0.0))),
    Affine => x.mul_add(V::splat(p[0]), V::splat(p[1])),
    IsNan => V::select(x.eq(x), V::splat(0.0), V::splat(1.0)),
    IsInf => is_infinite(x, p),
    Trunc => x.abs().floor().copysign(x),
    BitNot => x,
});

/// 0 for 0, else 1.
#[inline(always)]
fn set<V: F32s>(x: V) -> V {
    V::select(x.eq(V::splat(0.0)), V::splat(0.0), V::splat(1.0))
}

/// A [`Binary`] function. Bitwise functions and shifts are of integers; here they give `a`, and checks reject them.
#[inline(always)]
pub fn binary<V: F32s>(function: Binary, a: V, b: V) -> V {
    let zero = V::splat(0.0);
    match function {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Div => a.div(b),
        // The vectors' own minimum gives b if either is NaN: a NaN in a is put back.
        Binary::Min => V::select(a.eq(a), a.min(b), a),
        Binary::Max => V::select(a.eq(a), a.max(b), a),
        Binary::Equal => truth::<V>(a.eq(b)),
        Binary::NotEqual => V::select(a.eq(b), zero, V::splat(1.0)),
        Binary::Less => truth::<V>(a.lt(b)),
        Binary::LessEqual => truth::<V>(a.le(b)),
        Binary::Greater => truth::<V>(b.lt(a)),
        Binary::GreaterEqual => truth::<V>(b.le(a)),
        Binary::And => set(a).mul(set(b)),
        Binary::Or => set(a).max(set(b)),
        Binary::Xor => set(a).sub(set(b)).abs(),
        Binary::Prelu => V::select(a.lt(zero), a.mul(b), a),
        function => lanes2(a, b, |a, b| rare2(function, a, b)),
    }
}

/// Functions of two values that go lane by lane, out of line.
#[inline(never)]
fn rare2(function: Binary, a: f32, b: f32) -> f32 {
    match function {
        Binary::Pow => libm::powf(a, b),
        Binary::Rem => libm::fmodf(a, b),
        Binary::Mod => floor_mod(a, b),
        Binary::Atan2 => libm::atan2f(a, b),
        _ => a,
    }
}

/// The remainder with the divisor's sign.
fn floor_mod(a: f32, b: f32) -> f32 {
    let r = libm::fmodf(a, b);
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Backend, Kernel, on_each_backend};

    struct Slice<'a>(Unary, [f32; 2], &'a [f32], &'a mut [f32]);
    impl Kernel for Slice<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: F32s>(self) {
            unary_slice::<V>(self.0, self.1, Src::from_slice(self.2), Dst::from_slice(self.3));
        }
    }

    /// Floats of both signs at a dense stride through all exponents, subnormals too, within `low..=high`.
    fn floats(low: f32, high: f32) -> Vec<f32> {
        let mut all = vec![0.0, -0.0, f32::MIN_POSITIVE, 1e-40, 1.0, -1.0, low, high];
        for bits in (0..0x7f80_0000u32).step_by(4_001) {
            all.push(f32::from_bits(bits));
            all.push(-f32::from_bits(bits));
        }
        all.retain(|&x| low <= x && x <= high);
        all
    }

    /// Units in the last place of the exact result, at least those of the smallest normal number.
    fn ulps(got: f32, want: f64) -> f64 {
        if got as f64 == want || got == want as f32 || got.is_nan() && want.is_nan() {
            return 0.0;
        }
        let exponent = want.abs().max(f32::MIN_POSITIVE as f64).log2().floor();
        (got as f64 - want).abs() / (exponent - 23.0).exp2()
    }

    /// Runs a function over all floats of a range; the error, as `measure` counts it, stays within `bound`.
    fn check(f: Unary, p: [f32; 2], range: (f32, f32), bound: f64, want: fn(f64) -> f64, measure: fn(f32, f32, f64) -> f64) {
        let x = floats(range.0, range.1);
        on_each_backend!(check_on(f, p, &x, bound, want, measure));
    }

    fn check_on<B: Backend>(
        f: Unary,
        p: [f32; 2],
        x: &[f32],
        bound: f64,
        want: fn(f64) -> f64,
        measure: fn(f32, f32, f64) -> f64,
    ) {
        let name = B::ISA.name();
        let mut y = vec![7.0; x.len()];
        B::launch(Slice(f, p, x, &mut y));
        let mut worst = (0.0, 0.0, 0.0);
        for (&x, &y) in x.iter().zip(&y) {
            let exact = want(x as f64);
            let y = as_flushed::<B>(y);
            let mut error = measure(x, y, exact);
            if B::F::FLUSHES && x.is_subnormal() {
                error = error.min(measure(x, y, want(0f64.copysign(x as f64))));
            } else if B::F::FLUSHES && y == 0.0 && exact.abs() < f32::MIN_POSITIVE as f64 {
                error = 0.0;
            }
            // A NaN that should not be there counts as well.
            if error > worst.0 || error.is_nan() {
                worst = (error, x, y);
            }
        }
        println!("{f:?} on {name}: {:.3} at {}", worst.0, worst.1);
        assert!(worst.0 <= bound, "{f:?} on {name}: {} at {}: {}, want {}", worst.0, worst.1, worst.2, want(worst.1 as f64));
    }

    /// A result as a vector that [flushes](F32s::FLUSHES) would take it: a subnormal one is 0.
    fn as_flushed<B: Backend>(y: f32) -> f32 {
        if B::F::FLUSHES && y.is_subnormal() { 0f32.copysign(y) } else { y }
    }

    const ALL: (f32, f32) = (f32::MIN, f32::MAX);
    fn ulp(_: f32, got: f32, want: f64) -> f64 {
        ulps(got, want)
    }
    /// As [`ulp`], but results under 1.8e-38 may be 0.
    fn flushed(_: f32, got: f32, want: f64) -> f64 {
        if want.abs() < 1.8e-38 && got == 0.0 { 0.0 } else { ulps(got, want) }
    }
    fn difference(_: f32, got: f32, want: f64) -> f64 {
        (got as f64 - want).abs()
    }
    /// Absolute error as a share of |x|, for |x| >= 1e-30.
    fn share(x: f32, got: f32, want: f64) -> f64 {
        if x.abs() < 1e-30 { 0.0 } else { (got as f64 - want).abs() / x.abs() as f64 }
    }

    #[test]
    fn exponentials_keep_their_bounds() {
        let p = [0.0; 2];
        check(Unary::Exp, p, ALL, 2.0, libm::exp, flushed);
        check(Unary::Sigmoid, p, (-40.0, f32::MAX), 4.0, |x| 1.0 / (1.0 + libm::exp(-x)), ulp);
        check(Unary::Sigmoid, p, (f32::MIN, -40.0), 4.3e-18, |x| 1.0 / (1.0 + libm::exp(-x)), difference);
        check(Unary::Silu, p, (-40.0, f32::MAX), 5.0, |x| x / (1.0 + libm::exp(-x)), ulp);
        check(Unary::Silu, p, (f32::MIN, -40.0), 1.71e-16, |x| x / (1.0 + libm::exp(-x)), difference);
        check(Unary::Softplus, p, ALL, 5.0, |x| libm::log1p(libm::exp(-x.abs())) + x.max(0.0), flushed);
        check(Unary::Elu, [1.0, 0.0], ALL, 5.0, |x| if x < 0.0 { libm::expm1(x) } else { x }, ulp);
        check(Unary::Mish, p, (-80.0, f32::MAX), 8.0, |x| x * libm::tanh(libm::log1p(libm::exp(-x.abs())) + x.max(0.0)), ulp);
    }

    #[test]
    fn logarithm_keeps_its_bound() {
        check(Unary::Log, [0.0; 2], (0.0, f32::MAX), 2.0, libm::log, ulp);
    }

    #[test]
    fn tanh_and_erf_keep_their_bounds() {
        check(Unary::Tanh, [0.0; 2], ALL, 8.0, libm::tanh, ulp);
        check(Unary::Erf, [0.0; 2], ALL, 8.0, libm::erf, ulp);
    }

    #[test]
    fn gelus_keep_their_bounds() {
        let erf = |x: f64| x * 0.5 * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2);
        check(Unary::Gelu, [0.0; 2], ALL, 4e-7, erf, share);
        let tanh = |x: f64| x / (1.0 + libm::exp(-2.0 * 0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)));
        check(Unary::GeluTanh, [0.0; 2], (-1e12, 1e12), 1e-6, tanh, share);
    }

    #[test]
    fn sine_and_cosine_keep_their_bounds() {
        let absolute = |_: f32, got: f32, want: f64| (got as f64 - want).abs();
        check(Unary::Sin, [0.0; 2], ALL, 2e-7, libm::sin, absolute);
        check(Unary::Cos, [0.0; 2], ALL, 2e-7, libm::cos, absolute);
    }

    #[test]
    fn the_others_are_exact_or_nearly() {
        let p = [0.0; 2];
        check(Unary::Sqrt, p, (0.0, f32::MAX), 0.5, libm::sqrt, ulp);
        check(Unary::Rsqrt, p, (1e-38, f32::MAX), 2.0, |x| 1.0 / libm::sqrt(x), ulp);
        check(Unary::Floor, p, ALL, 0.0, libm::floor, ulp);
        check(Unary::Ceil, p, ALL, 0.0, libm::ceil, ulp);
        check(Unary::Round, p, ALL, 0.0, libm::rint, ulp);
        check(Unary::Trunc, p, ALL, 0.0, libm::trunc, ulp);
        check(Unary::Clip, [-1.5, 6.0], ALL, 0.0, |x| x.clamp(-1.5, 6.0), ulp);
        check(Unary::LeakyRelu, [0.125, 0.0], ALL, 0.0, |x| if x < 0.0 { 0.125 * x } else { x }, ulp);
        check(Unary::Tan, p, (-1e4, 1e4), 2.0, libm::tan, ulp);
        check(Unary::Atan, p, ALL, 2.0, libm::atan, ulp);
        check(Unary::Sinh, p, (-80.0, 80.0), 2.0, libm::sinh, ulp);
    }

    #[test]
    fn special_values_have_their_limits() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x = [0.0, -0.0, inf, -inf, nan, 1e-40, -1e-40, 100.0, -200.0, 88.72, 88.73];
        let any = [f32::NAN; 2];
        let cases: &[(Unary, [f32; 2], [f32; 11])] = &[
            (Unary::Exp, any, [1.0, 1.0, inf, 0.0, nan, 1.0, 1.0, inf, 0.0, 3.4e38, inf]),
            (Unary::Sigmoid, any, [0.5, 0.5, 1.0, 4.25e-18, nan, 0.5, 0.5, 1.0, 4.25e-18, 1.0, 1.0]),
            (Unary::Tanh, any, [0.0, -0.0, 1.0, -1.0, nan, 1e-40, -1e-40, 1.0, -1.0, 1.0, 1.0]),
            (Unary::Erf, any, [0.0, -0.0, 1.0, -1.0, nan, 1.13e-40, -1.13e-40, 1.0, -1.0, 1.0, 1.0]),
            (Unary::Log, any, [-inf, -inf, inf, nan, nan, -92.1034, nan, 4.6051702, nan, 4.485485, 4.4855976]),
            (Unary::Clip, [0.0, inf], [0.0, 0.0, inf, 0.0, nan, 1e-40, 0.0, 100.0, 0.0, 88.72, 88.73]),
            (Unary::Softplus, any, [0.6931472, 0.6931472, inf, 0.0, nan, 0.6931472, 0.6931472, 100.0, 0.0, 88.72, 88.73]),
            (Unary::Sign, any, [0.0, -0.0, 1.0, -1.0, nan, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0]),
            (Unary::IsNan, any, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            (Unary::IsInf, [1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            (Unary::Not, any, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            (Unary::Sin, any, [0.0, -0.0, nan, nan, nan, 1e-40, -1e-40, -0.5063656, 0.8732973, 0.6866, 0.69383]),
        ];
        on_each_backend!(limits_on(&x, cases));
    }

    fn limits_on<B: Backend>(x: &[f32; 11], cases: &[(Unary, [f32; 2], [f32; 11])]) {
        for &(f, p, want) in cases {
            let mut y = [7.0; 11];
            B::launch(Slice(f, p, x, &mut y));
            for i in 0..x.len() {
                let y = as_flushed::<B>(y[i]);
                let same = |want: f32| y == want || (y - want).abs() <= 1e-2 * want.abs() || y.is_nan() && want.is_nan();
                // The first two are zeros.
                let flushed = B::F::FLUSHES && x[i].is_subnormal() && same(want[x[i].is_sign_negative() as usize]);
                assert!(same(want[i]) || flushed, "{f:?}({}) on {}: {y}", x[i], B::ISA.name());
            }
        }
    }

    #[test]
    fn slices_of_any_length_leave_their_neighbours_alone() {
        on_each_backend!(lengths_on());
    }

    fn lengths_on<B: Backend>() {
        let x: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
        for n in 0..40 {
            let mut y = [7.0; 48];
            B::launch(Slice(Unary::Neg, [0.0; 2], &x[..n], &mut y[..n]));
            assert!((0..n).all(|i| y[i] == -x[i]) && y[n..].iter().all(|&v| v == 7.0), "{n} on {}", B::ISA.name());
        }
    }

    #[test]
    fn functions_of_two_values() {
        let f = |f, a, b| super::binary(f, crate::kernels::portable::Lanes::<1>::splat(a), F32s::splat(b)).reduce_add();
        assert_eq!(f(Binary::Mod, -7.0, 3.0), 2.0);
        assert_eq!(f(Binary::Rem, -7.0, 3.0), -1.0);
        assert_eq!(f(Binary::Mod, 7.0, -3.0), -2.0);
        assert_eq!(f(Binary::Pow, 2.0, 10.0), 1024.0);
        assert!(f(Binary::Min, f32::NAN, 1.0).is_nan() && f(Binary::Min, 1.0, f32::NAN).is_nan());
        assert!(f(Binary::Max, f32::NAN, 1.0).is_nan() && f(Binary::Max, 1.0, f32::NAN).is_nan());
        assert_eq!((f(Binary::Xor, 3.0, 0.0), f(Binary::Xor, 3.0, 2.0), f(Binary::And, 3.0, -2.0)), (1.0, 0.0, 1.0));
        assert_eq!((f(Binary::Greater, 1.0, f32::NAN), f(Binary::NotEqual, f32::NAN, f32::NAN)), (0.0, 1.0));
        assert_eq!(f(Binary::Prelu, -2.0, 0.25), -0.5);
    }
}
