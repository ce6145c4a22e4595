//! Arrays of any element type, as they stand in files: what goes into a session and comes out of it.

use crate::tensor::DType;
use std::fmt;

/// An array: row-major, little-endian.
#[derive(Clone, PartialEq)]
pub struct Array {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
    /// The elements' bytes; as many as `dtype` and `dims` say.
    pub bytes: Vec<u8>,
}

impl Array {
    /// An array of these elements.
    #[cfg(test)]
    pub fn new<T: crate::tensor::Element>(dims: &[usize], elements: &[T]) -> Array {
        debug_assert_eq!(dims.iter().product::<usize>(), elements.len());
        Array { dtype: T::DTYPE, dims: dims.to_vec(), bytes: zerocopy::IntoBytes::as_bytes(elements).to_vec() }
    }

    /// An array of an integer or floating type, each element rounded towards zero where the type is an integer one.
    pub fn from_f64(dtype: DType, dims: &[usize], elements: impl Iterator<Item = f64>) -> Option<Array> {
        let mut bytes = Vec::new();
        for x in elements {
            match dtype {
                DType::F32 => bytes.extend((x as f32).to_le_bytes()),
                DType::F64 => bytes.extend(x.to_le_bytes()),
                DType::I8 => bytes.extend((x as i8).to_le_bytes()),
                DType::I16 => bytes.extend((x as i16).to_le_bytes()),
                DType::I32 => bytes.extend((x as i32).to_le_bytes()),
                DType::I64 => bytes.extend((x as i64).to_le_bytes()),
                DType::U8 => bytes.push(x as u8),
                DType::U16 => bytes.extend((x as u16).to_le_bytes()),
                DType::U32 => bytes.extend((x as u32).to_le_bytes()),
                DType::U64 => bytes.extend((x as u64).to_le_bytes()),
                DType::F16 | DType::BF16 | DType::Bool => return None,
            }
        }
        Some(Array { dtype, dims: dims.to_vec(), bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The bytes of one element.
    pub fn element(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.dtype.size()..(i + 1) * self.dtype.size()]
    }

    /// One element as a number; integers of 64 bits beyond 2^53 are rounded.
    pub fn value(&self, i: usize) -> f64 {
        let b = self.element(i);
        let two = || u16::from_le_bytes([b[0], b[1]]);
        let four = || u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let eight = || u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        match self.dtype {
            DType::F32 => f32::from_bits(four()) as f64,
            DType::F64 => f64::from_bits(eight()),
            DType::F16 => half(two()),
            DType::BF16 => f32::from_bits((two() as u32) << 16) as f64,
            DType::I8 => b[0] as i8 as f64,
            DType::I16 => two() as i16 as f64,
            DType::I32 => four() as i32 as f64,
            DType::I64 => eight() as i64 as f64,
            DType::U8 => b[0] as f64,
            DType::U16 => two() as f64,
            DType::U32 => four() as f64,
            DType::U64 => eight() as f64,
            DType::Bool => (b[0] != 0) as u8 as f64,
        }
    }

    /// All elements as numbers.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        (0..self.len()).map(|i| self.value(i))
    }

    /// Where the element of this number stands: one index an axis, as `[0, 17]`.
    pub fn place(&self, mut i: usize) -> Vec<usize> {
        let mut place = vec![0; self.dims.len()];
        for (at, &d) in place.iter_mut().zip(&self.dims).rev() {
            *at = i % d.max(1);
            i /= d.max(1);
        }
        place
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.dtype, shape(&self.dims))
    }
}

/// A shape as listings show it: `1x3x224x224`, `scalar`.
pub fn shape(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "scalar".into();
    }
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// The number that 16 bits of an IEEE half stand for.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (bits >> 10 & 31, (bits & 1023) as f64);
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent as i32 - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_numbers() {
        for (bits, want) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 2f64.powi(-24)),
            (0x7bff, 65504.0),
            (0x3555, 0.333251953125),
            (0xfc00, f64::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), want, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
        let a = Array { dtype: DType::BF16, dims: vec![1], bytes: vec![0x80, 0x3f] };
        assert_eq!(a.value(0), 1.0);
    }

    #[test]
    fn places_count_from_the_last_axis() {
        let a = Array::new(&[2, 3], &[0i64, -1, 2, 3, 4, i64::MIN]);
        assert_eq!(a.place(4), [1, 1]);
        assert_eq!(a.values().collect::<Vec<_>>(), [0.0, -1.0, 2.0, 3.0, 4.0, i64::MIN as f64]);
        assert_eq!(format!("{a:?}"), "int64 2x3");
    }
}
