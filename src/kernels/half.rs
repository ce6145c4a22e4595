//! 16-bit floats: conversion to and from `f32`, by their bits.

/// The value of an IEEE half-precision number.
#[inline(always)]
pub const fn f16_to_f32(h: u16) -> f32 {
    let sign = ((h & 0x8000) as u32) << 16;
    let magnitude = ((h & 0x7fff) as u32) << 13;
    let exponent = magnitude & 0x0f80_0000;
    let bits = if exponent == 0x0f80_0000 {
        magnitude + ((255 - 31) << 23) // infinity, NaN
    } else if exponent == 0 {
        // A subnormal: 2^-14 is given to it and taken away again, which normalises it.
        (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits()
    } else {
        magnitude + ((127 - 15) << 23)
    };
    f32::from_bits(sign | bits)
}

/// The nearest IEEE half-precision number, ties to even; too large a value becomes infinite.
#[inline(always)]
pub const fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 // NaN
    } else if magnitude >= 0x4780_0000 {
        0x7c00 // 65536 and up; what rounds up to it is carried into the exponent below
    } else if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 puts the last bit of the result where f32 rounds.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    sign | half as u16
}

/// The value of a bfloat16 number.
#[inline(always)]
pub const fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

/// The nearest bfloat16 number, ties to even.
#[inline(always)]
pub const fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value by definition.
    fn f16_value(h: u16) -> f64 {
        let (e, m) = ((h >> 10 & 31) as i32, (h & 1023) as f64);
        let v = match e {
            0 => m * 2f64.powi(-24),
            31 if m == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + m) * 2f64.powi(e - 25),
        };
        if h & 0x8000 != 0 { -v } else { v }
    }

    #[test]
    fn every_half_is_widened_exactly_and_comes_back() {
        for h in 0..=u16::MAX {
            let (x, want) = (f16_to_f32(h), f16_value(h));
            assert!(x as f64 == want || x.is_nan() && want.is_nan(), "{h:#x}");
            assert!(f32_to_f16(x) == h || x.is_nan() && f16_to_f32(f32_to_f16(x)).is_nan(), "{h:#x}");
            let b = bf16_to_f32(h);
            assert!(f32_to_bf16(b) == h || b.is_nan() && bf16_to_f32(f32_to_bf16(b)).is_nan(), "{h:#x}");
        }
    }

    #[test]
    fn between_two_halves_the_nearest_is_taken_and_the_even_one_of_two() {
        for h in 0..0x7bffu16 {
            let (a, b) = (f16_value(h), f16_value(h + 1));
            let middle = (a + b) / 2.0;
            let even = if h % 2 == 0 { h } else { h + 1 };
            assert_eq!(f32_to_f16(middle as f32), even, "{h:#x}");
            assert_eq!(f32_to_f16((middle as f32).next_down()), h, "{h:#x}");
            assert_eq!(f32_to_f16(-(middle as f32).next_up()), (h + 1) | 0x8000, "{h:#x}");
        }
        assert_eq!((f32_to_f16(65519.9), f32_to_f16(65520.0), f32_to_f16(1e30)), (0x7bff, 0x7c00, 0x7c00));
        assert_eq!((f32_to_bf16(f32::from_bits(0x3f80_8000)), f32_to_bf16(f32::from_bits(0x3f81_8000))), (0x3f80, 0x3f82));
    }
}
