//! Decimal numbers from metadata. The standard library's parser would do, but brings 10 KB of tables into a firmware.

use super::bad;
use crate::error::Result;

/// A whole number; `default` where the text is absent.
pub(super) fn whole(text: Option<&str>, default: u32, what: &'static str) -> Result<u32> {
    let Some(text) = text else { return Ok(default) };
    let text = text.trim_ascii();
    if text.is_empty() {
        return bad(what);
    }
    let digits = text.bytes().try_fold(0u32, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add((b - b'0') as u32),
        _ => None,
    });
    digits.map_or(bad(what), Ok)
}

/// A decimal number, as Python prints it: `-127.5`, `1e-05`. Off by at most one unit in the last place of `f32`: digits
/// are gathered exactly in 64 bits and scaled in `f64`.
pub(super) fn decimal(text: &str) -> Option<f32> {
    let text = text.trim_ascii().as_bytes();
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (mut mantissa, mut exponent, mut digits, mut point) = (0u64, 0i32, 0u32, false);
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        match b {
            b'0'..=b'9' => {
                digits += 1;
                // Digits past the 18th don't matter to a `f32`.
                if mantissa < 100_000_000_000_000_000 {
                    mantissa = mantissa * 10 + (b - b'0') as u64;
                    exponent -= point as i32;
                } else {
                    exponent += !point as i32;
                }
            }
            b'.' if !point => point = true,
            b'e' | b'E' if digits > 0 => {
                exponent = exponent.checked_add(power(bytes.as_slice())?)?;
                break;
            }
            _ => return None,
        }
    }
    if digits == 0 {
        return None;
    }
    let mut value = mantissa as f64;
    for _ in 0..exponent.unsigned_abs().min(400) {
        if exponent > 0 { value *= 10.0 } else { value /= 10.0 }
    }
    Some(if negative { -value } else { value } as f32)
}

/// The exponent behind an `e`.
fn power(text: &[u8]) -> Option<i32> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if text.is_empty() || text.len() > 4 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = text.iter().fold(0, |n, b| n * 10 + (b - b'0') as i32);
    Some(if negative { -n } else { n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_equal_those_of_the_standard_library() {
        for text in [
            "0",
            "255",
            "-1",
            "127.5",
            "33.318421449829934",
            " 0.3081 ",
            "1e-05",
            "2.5E+2",
            "123456789012345678901234.5",
            ".5",
            "5.",
            "0.00000001",
            "1e38",
        ] {
            let want: f32 = text.trim().parse().unwrap();
            let got = decimal(text).unwrap();
            assert!((got - want).abs() <= want.abs() * f32::EPSILON, "{text}: {got} is not {want}");
        }
        assert_eq!(decimal("1e9999"), Some(f32::INFINITY));
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "1,5", "nan", "0x10", "1e99999", "--1"] {
            assert_eq!(decimal(text), None, "{text}");
        }
        assert_eq!(whole(Some(" 28 "), 0, "").unwrap(), 28);
        assert_eq!(whole(None, 7, "").unwrap(), 7);
        for text in ["", "-1", "1.0", "4294967296", "a"] {
            assert!(whole(Some(text), 0, "").is_err(), "{text}");
        }
    }
}
