//! Element-wise functions of one number, for constants. What is missing here is left to the program.

use crate::kernels::map_i64::binary_i64;
use crate::program::{Binary, Unary};

/// A function of one value; `None` for those that are not worth evaluating early.
pub(super) fn unary(f: Unary, p: [f32; 2], x: f32) -> Option<f32> {
    Some(match f {
        Unary::Identity => x,
        Unary::Clip => {
            let low = if x < p[0] { p[0] } else { x };
            if low > p[1] { p[1] } else { low }
        }
        Unary::Affine => x * p[0] + p[1],
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Square => x * x,
        Unary::PowConst => x.powf(p[0]),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Trunc => x.trunc(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        _ => return None,
    })
}

/// A function of two floats.
pub(super) fn binary(f: Binary, a: f32, b: f32) -> Option<f32> {
    Some(match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Max if !a.is_nan() && !b.is_nan() => a.max(b),
        Binary::Min if !a.is_nan() && !b.is_nan() => a.min(b),
        _ => return None,
    })
}

/// A function of two integers or booleans.
pub(super) fn integer(f: Binary, a: i64, b: i64) -> Option<i64> {
    f.on_integers().then(|| binary_i64(f, a, b))
}
