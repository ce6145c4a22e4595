//! The header of a `.npy` file: a Python dict that says type, order and shape of the array behind it.

use super::array::Array;
use crate::tensor::DType;
use npyz::{Endianness, NpyHeader, Order, TypeChar};
use std::io::{Cursor, Read};

/// Longest header: numpy's own are 128 bytes.
const LONGEST: usize = 1 << 16;

/// Brackets that a header opens at most: numpy's own open two, or some more where elements have fields.
const MOST_BRACKETS: usize = 32;

/// What an array is.
#[derive(Debug, PartialEq)]
pub struct Header {
    /// Element type.
    pub dtype: DType,
    /// The bytes of an element are in the other order.
    pub swap: bool,
    /// The first axis runs fastest.
    pub fortran: bool,
    /// Sizes.
    pub dims: Vec<usize>,
}

impl Header {
    /// Reads one, up to the first byte of the array.
    ///
    /// # Errors
    /// When it is none, or of elements that no tensor has.
    pub fn read(from: &mut impl Read) -> Result<Header, String> {
        let not = |e: std::io::Error| format!("not a .npy file: {e}");
        let mut all = vec![0; 10];
        from.read_exact(&mut all).map_err(not)?;
        let mut length = u16::from_le_bytes([all[8], all[9]]) as usize;
        if all[6] > 1 {
            all.resize(12, 0);
            from.read_exact(&mut all[10..]).map_err(not)?;
            length |= (u16::from_le_bytes([all[10], all[11]]) as usize) << 16;
        }
        if length > LONGEST {
            return Err("not a .npy file: its header is too long".into());
        }
        let text = all.len();
        all.resize(text + length, 0);
        from.read_exact(&mut all[text..]).map_err(not)?;
        // The parser recurses.
        if all[text..].iter().filter(|b| matches!(b, b'(' | b'[' | b'{')).count() > MOST_BRACKETS {
            return Err("not a .npy file: its header nests too deeply".into());
        }
        let header = NpyHeader::from_reader(Cursor::new(all)).map_err(not)?;
        let unknown = || format!("elements of numpy's type '{}' are none of a tensor", header.dtype().descr());
        let (dtype, swap) = element_type(&header).ok_or_else(unknown)?;
        let dims = header.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        let fortran = header.order() == Order::Fortran;
        Ok(Header { dtype, swap, fortran, dims: dims.map_err(|_| "its shape is too large")? })
    }
}

/// The element type, and whether its bytes are in the other order.
fn element_type(header: &NpyHeader) -> Option<(DType, bool)> {
    let npyz::DType::Plain(found) = header.dtype() else { return None };
    let dtype = match (found.type_char(), found.size_field()) {
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::RawData, 2) => DType::BF16,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Bool, 1) => DType::Bool,
        _ => return None,
    };
    Some((dtype, found.endianness() == Endianness::Big))
}

/// The header of an array: version 1.0, its length a multiple of 64 bytes.
pub fn header(array: &Array) -> Vec<u8> {
    let descr = match array.dtype {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::BF16 => "|V2",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
    };
    let dims: String = array.dims.iter().map(|d| format!("{d}, ")).collect();
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end_matches(' '));
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((length as u16).to_le_bytes());
    out.extend(format!("{dict:<width$}\n", width = length - 1).bytes());
    out
}
