//! Element-wise programs in `f64`, one element at a time: rare, and exact where `f32` would overflow or round.
#![allow(unsafe_code)]

use super::Dst;
use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::map::{Input, Tiles, assert_inside, elements_of};
use crate::program::map::{MAP_RANK, MAX_REGISTERS, TILE};
use crate::program::{Binary, Instruction, Unary};
use crate::tensor::DType;
use core::ops::Range;

/// Evaluates a program in the `f64` domain.
#[derive(Clone, Copy, Debug)]
pub struct MapF64<'a> {
    /// As in [`MapF32`](super::map::MapF32).
    pub dims: [usize; MAP_RANK],
    /// Inputs of any type.
    pub inputs: &'a [Input<'a>],
    /// As in [`MapF32`](super::map::MapF32).
    pub instructions: &'a [Instruction],
    /// As in [`MapF32`](super::map::MapF32).
    pub result: usize,
    /// As in [`MapF32`](super::map::MapF32).
    pub output: Dst<'a, u8>,
    /// Its element type; stores to integers truncate towards zero and saturate.
    pub dtype: DType,
}

impl MapF64<'_> {
    /// Evaluates these of its units; gives how many there are.
    ///
    /// # Panics
    /// If inputs or output are too short.
    pub fn run(self, units: Range<usize>) -> usize {
        for input in self.inputs {
            assert_inside(&self.dims, &input.strides, input.dtype.size(), input.data.len());
        }
        let elements: usize = self.dims.iter().product();
        assert!(elements * self.dtype.size() <= self.output.len() && self.inputs.len() <= MAX_REGISTERS);
        for tile in Tiles::new(self.dims, self.inputs, (1, 1), false, elements_of(units, elements)) {
            let mut values = [0f64; MAX_REGISTERS];
            for ((v, input), &offset) in values.iter_mut().zip(self.inputs).zip(&tile.offsets) {
                // SAFETY: the offset is inside of the input, whose extent was asserted above.
                *v = unsafe { load(input, offset) };
            }
            for step in self.instructions {
                let [a, b, c] = [step.a, step.b, step.c].map(|r| values[r as usize % MAX_REGISTERS]);
                values[step.to as usize % MAX_REGISTERS] = match step.class {
                    Instruction::CONSTANT => f64::from_bits(step.p[0] as u64 | (step.p[1] as u64) << 32),
                    Instruction::UNARY => {
                        let p = step.p.map(|p| f32::from_bits(p) as f64);
                        unary(Unary::from_number(step.function as u32).unwrap_or(Unary::Identity), p, a)
                    }
                    Instruction::BINARY => binary(Binary::from_number(step.function as u32).unwrap_or(Binary::Add), a, b),
                    _ if a != 0.0 => b,
                    _ => c,
                };
            }
            // SAFETY: the tile is inside of the output, whose extent was asserted above.
            unsafe { store(self.output, self.dtype, tile.out, values[self.result % MAX_REGISTERS]) };
        }
        elements.div_ceil(TILE)
    }
}

/// # Safety
/// The element lies inside of the input.
unsafe fn load(input: &Input<'_>, i: usize) -> f64 {
    macro_rules! element {
        ($t:ty) => {
            // SAFETY: as the caller promises; tensors are aligned for their elements.
            unsafe { input.data.pointer().cast::<$t>().add(i).read() }
        };
    }
    match input.dtype {
        DType::F32 => element!(f32) as f64,
        DType::F64 => element!(f64),
        DType::F16 => f16_to_f32(element!(u16)) as f64,
        DType::BF16 => bf16_to_f32(element!(u16)) as f64,
        DType::I8 => element!(i8) as f64,
        DType::I16 => element!(i16) as f64,
        DType::I32 => element!(i32) as f64,
        DType::I64 => element!(i64) as f64,
        DType::U8 => element!(u8) as f64,
        DType::U16 => element!(u16) as f64,
        DType::U32 => element!(u32) as f64,
        DType::U64 => element!(u64) as f64,
        DType::Bool => (element!(u8) != 0) as u8 as f64,
    }
}

/// # Safety
/// The element lies inside of the output.
unsafe fn store(output: Dst<'_, u8>, dtype: DType, i: usize, v: f64) {
    macro_rules! element {
        ($t:ty, $v:expr) => {
            // SAFETY: as the caller promises; tensors are aligned for their elements.
            unsafe { output.pointer().cast::<$t>().add(i).write($v) }
        };
    }
    match dtype {
        DType::F32 => element!(f32, v as f32),
        DType::F64 => element!(f64, v),
        DType::F16 => element!(u16, f32_to_f16(v as f32)),
        DType::BF16 => element!(u16, f32_to_bf16(v as f32)),
        DType::I8 => element!(i8, v as i8),
        DType::I16 => element!(i16, v as i16),
        DType::I32 => element!(i32, v as i32),
        DType::I64 => element!(i64, v as i64),
        DType::U8 => element!(u8, v as u8),
        DType::U16 => element!(u16, v as u16),
        DType::U32 => element!(u32, v as u32),
        DType::U64 => element!(u64, v as u64),
        DType::Bool => element!(u8, (v != 0.0) as u8),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

fn softplus(x: f64) -> f64 {
    libm::log1p(libm::exp(-libm::fabs(x))) + if x > 0.0 { x } else { 0.0 }
}

/// `min(max(x, low), high)`; NaN stays NaN.
fn clip(x: f64, low: f64, high: f64) -> f64 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// A [`Unary`] function; bitwise ones give `x`.
fn unary(f: Unary, p: [f64; 2], x: f64) -> f64 {
    let truth = |b: bool| b as u8 as f64;
    match f {
        Unary::Identity | Unary::BitNot => x,
        Unary::Clip => clip(x, p[0], p[1]),
        Unary::LeakyRelu if x < 0.0 => p[0] * x,
        Unary::LeakyRelu => x,
        Unary::HardSwish => x * clip(x * p[0] + p[1], 0.0, 1.0),
        Unary::HardSigmoid => clip(x * p[0] + p[1], 0.0, 1.0),
        Unary::Sigmoid => sigmoid(x),
        Unary::Silu => x * sigmoid(x),
        Unary::Tanh => libm::tanh(x),
        Unary::Gelu => x / 2.0 * (1.0 + libm::erf(x * core::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => {
            let inner = libm::sqrt(2.0 / core::f64::consts::PI) * (x + 0.044715 * x * x * x);
            x / 2.0 * (1.0 + libm::tanh(inner))
        }
        Unary::Elu if x < 0.0 => p[0] * libm::expm1(x),
        Unary::Elu => x,
        Unary::Selu => p[1] * if x < 0.0 { p[0] * libm::expm1(x) } else { x },
        Unary::Softplus => softplus(x),
        Unary::Softsign => x / (1.0 + libm::fabs(x)),
        Unary::Mish => x * libm::tanh(softplus(x)),
        Unary::Erf => libm::erf(x),
        Unary::Exp => libm::exp(x),
        Unary::Log => libm::log(x),
        Unary::Sqrt => libm::sqrt(x),
        Unary::Rsqrt => 1.0 / libm::sqrt(x),
        Unary::Recip => 1.0 / x,
        Unary::Neg => -x,
        Unary::Abs => libm::fabs(x),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => x,
        Unary::Floor => libm::floor(x),
        Unary::Ceil => libm::ceil(x),
        Unary::Round => libm::rint(x),
        Unary::Square => x * x,
        Unary::PowConst => libm::pow(x, p[0]),
        Unary::Sin => libm::sin(x),
        Unary::Cos => libm::cos(x),
        Unary::Tan => libm::tan(x),
        Unary::Not => truth(x == 0.0),
        Unary::Affine => x * p[0] + p[1],
        Unary::IsNan => truth(x.is_nan()),
        Unary::IsInf => truth(x == f64::NEG_INFINITY && p[0] != 0.0 || x == f64::INFINITY && p[1] != 0.0),
        Unary::Trunc => libm::trunc(x),
        Unary::Asin => libm::asin(x),
        Unary::Acos => libm::acos(x),
        Unary::Atan => libm::atan(x),
        Unary::Sinh => libm::sinh(x),
        Unary::Cosh => libm::cosh(x),
        Unary::Asinh => libm::asinh(x),
        Unary::Acosh => libm::acosh(x),
        Unary::Atanh => libm::atanh(x),
    }
}

/// A [`Binary`] function; those that [`Binary::on_floats`] excludes give `a`.
fn binary(f: Binary, a: f64, b: f64) -> f64 {
    let truth = |b: bool| b as u8 as f64;
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Min if a.is_nan() || b.is_nan() => a + b,
        Binary::Max if a.is_nan() || b.is_nan() => a + b,
        Binary::Min => {
            if b < a {
                b
            } else {
                a
            }
        }
        Binary::Max => {
            if b > a {
                b
            } else {
                a
            }
        }
        Binary::Pow => libm::pow(a, b),
        Binary::Rem => libm::fmod(a, b),
        Binary::Mod => {
            let rest = libm::fmod(a, b);
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Binary::Equal => truth(a == b),
        Binary::NotEqual => truth(a != b),
        Binary::Less => truth(a < b),
        Binary::LessEqual => truth(a <= b),
        Binary::Greater => truth(a > b),
        Binary::GreaterEqual => truth(a >= b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
        Binary::Xor => truth((a != 0.0) != (b != 0.0)),
        Binary::Prelu if a < 0.0 => a * b,
        Binary::Atan2 => libm::atan2(a, b),
        _ => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_the_standard_library() {
        for x in [-3.5f64, -0.75, 0.0, 0.25, 0.9, 2.5, 1e300] {
            let pairs = [
                (Unary::Exp, x.exp()),
                (Unary::Tanh, x.tanh()),
                (Unary::Sigmoid, 1.0 / (1.0 + (-x).exp())),
                (Unary::Softplus, if x > 100.0 { x } else { x.exp().ln_1p() }),
                (Unary::Round, x.round_ties_even()),
                (Unary::Trunc, x.trunc()),
                (Unary::Sin, x.sin()),
                (Unary::Abs, x.abs()),
            ];
            for (f, want) in pairs {
                let got = unary(f, [0.0; 2], x);
                assert!(got == want || (got - want).abs() <= 1e-12 * want.abs(), "{f:?} of {x}: {got}, want {want}");
            }
        }
        assert_eq!(binary(Binary::Add, 1e200, 1e200), 2e200);
        assert_eq!(binary(Binary::Mod, -7.0, 3.0), 2.0);
        assert_eq!(binary(Binary::Rem, -7.0, 3.0), -1.0);
        assert!(binary(Binary::Max, f64::NAN, 1.0).is_nan() && binary(Binary::Min, 1.0, f64::NAN).is_nan());
        assert!(unary(Unary::Clip, [0.0, 1.0], f64::NAN).is_nan());
    }
}
