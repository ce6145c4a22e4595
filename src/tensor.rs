//! Element types, shapes and views: the words that every other module speaks.

use core::fmt;
use core::ops::Deref;

/// The largest number of axes a tensor may have.
pub const MAX_RANK: usize = 8;

/// The type of a tensor's elements. The numbers are those stored in an image and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names say it
pub enum DType {
    F32 = 1,
    F64 = 2,
    F16 = 3,
    BF16 = 4,
    I8 = 5,
    I16 = 6,
    I32 = 7,
    I64 = 8,
    U8 = 9,
    U16 = 10,
    U32 = 11,
    U64 = 12,
    Bool = 13,
}

impl DType {
    /// All element types, in the order of their numbers.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        // Two bits each of one number: less code than a table, wherever this is inlined.
        1 << (Self::SIZES >> (2 * self as u32) & 3)
    }

    /// The logarithms of all sizes, two bits each.
    const SIZES: u32 = {
        let (mut sizes, mut i) = (0, 0);
        while i < Self::ALL.len() {
            let log: u32 = match Self::ALL[i] {
                DType::I8 | DType::U8 | DType::Bool => 0,
                DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 1,
                DType::F32 | DType::I32 | DType::U32 => 2,
                DType::F64 | DType::I64 | DType::U64 => 3,
            };
            sizes |= log << (2 * Self::ALL[i] as u32);
            i += 1;
        }
        sizes
    };

    /// The type with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<DType> {
        // Not by the list: a compiler sees that this is the number itself.
        Some(match number {
            1 => DType::F32,
            2 => DType::F64,
            3 => DType::F16,
            4 => DType::BF16,
            5 => DType::I8,
            6 => DType::I16,
            7 => DType::I32,
            8 => DType::I64,
            9 => DType::U8,
            10 => DType::U16,
            11 => DType::U32,
            12 => DType::U64,
            13 => DType::Bool,
            _ => return None,
        })
    }

    /// Smallest and largest number of a type that quantised numbers are stored in: an integer of 8 or 16 bits.
    pub const fn quantised_range(self) -> Option<[i32; 2]> {
        match self {
            DType::I8 => Some([-128, 127]),
            DType::U8 => Some([0, 255]),
            DType::I16 => Some([-32768, 32767]),
            DType::U16 => Some([0, 65535]),
            _ => None,
        }
    }

    /// The name that numpy gives the type (`float32`, `int64`, `bool` …).
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U8 => "uint8",
            DType::U16 => "uint16",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the integers of a quantised tensor stand for real numbers: `(q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// The distance between neighbours: finite, above zero.
    pub scale: f32,
    /// The integer that stands for zero: one of the element type.
    pub zero_point: i32,
}

impl Quantisation {
    /// Whether a tensor of this element type may be quantised so.
    pub const fn fits(self, dtype: DType) -> bool {
        // By its bits: a device without a floating-point unit checks an image too.
        let scale = matches!(self.scale.to_bits(), 1..0x7f80_0000);
        match dtype.quantised_range() {
            Some([low, high]) => scale && low <= self.zero_point && self.zero_point <= high,
            None => false,
        }
    }
}

/// The length of each axis, outermost first; no axis for a scalar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape(heapless::Vec<u32, MAX_RANK>);

impl Shape {
    /// A shape of these axes; `None` for more than [`MAX_RANK`] of them.
    pub fn new(dims: &[u32]) -> Option<Shape> {
        heapless::Vec::from_slice(dims).ok().map(Shape)
    }

    /// Number of elements; `None` where it does not fit into a `usize`.
    pub fn elements(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |n, &d| n.checked_mul(d as usize))
    }
}

impl Deref for Shape {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.0
    }
}

impl fmt::Display for Shape {
    /// As in ONNX tools: `1x3x224x224`; `scalar` without axes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("scalar");
        }
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("x")?;
            }
            write!(f, "{d}")?;
        }
        Ok(())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be a tensor's element.
pub trait Element:
    Copy + Default + sealed::Sealed + zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + 'static
{
    /// The element type it stands for.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust { const DTYPE: DType = DType::$dtype; }
    )*};
}
element!(f32 => F32, f64 => F64, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_types_are_stable() {
        for (i, d) in DType::ALL.iter().enumerate() {
            assert_eq!(*d as usize, i + 1);
            assert_eq!(DType::from_number(*d as u8), Some(*d));
            let bits: usize = d.name().trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(8);
            assert_eq!(d.size(), bits / 8, "{d}");
        }
        assert_eq!(DType::from_number(0), None);
        assert_eq!(DType::from_number(14), None);
    }

    #[test]
    fn a_scale_is_finite_and_above_zero_and_a_zero_point_of_the_type() {
        let fits = |scale, zero_point, dtype| Quantisation { scale, zero_point }.fits(dtype);
        for (dtype, low, high) in [(DType::I8, i8::MIN as i32, i8::MAX as i32), (DType::U8, 0, u8::MAX as i32)]
            .into_iter()
            .chain([(DType::I16, i16::MIN as i32, i16::MAX as i32), (DType::U16, 0, u16::MAX as i32)])
        {
            assert!(
                fits(0.5, low, dtype) && fits(0.5, high, dtype) && fits(f32::MAX, 0, dtype) && fits(f32::from_bits(1), 0, dtype)
            );
            assert!(!fits(0.5, low - 1, dtype) && !fits(0.5, high + 1, dtype));
            for scale in [0.0, -0.0, -0.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
                assert!(!fits(scale, 0, dtype), "{scale}");
            }
        }
        let integers = [DType::I8, DType::U8, DType::I16, DType::U16];
        assert!(DType::ALL.iter().all(|&d| fits(1.0, 0, d) == integers.contains(&d)));
    }

    #[test]
    fn shapes_count_and_print() {
        let s = Shape::new(&[1, 3, 224, 224]).unwrap();
        assert_eq!(s.elements(), Some(150_528));
        assert_eq!(s.to_string(), "1x3x224x224");
        assert_eq!(Shape::new(&[]).unwrap().elements(), Some(1));
        assert!(Shape::new(&[1; 9]).is_none());
        assert_eq!(Shape::new(&[u32::MAX; 8]).unwrap().elements(), None);
    }
}
