//! The header of a `.npy` file: a Python dict that says type, order and shape of the array behind it.
//!
//! Only what numpy writes is read, of Python's literals: strings, `True` and `False`, and tuples of numbers. A parser of the whole
//! language takes longer than a small network's first answer.

use super::array::Array;
use crate::tensor::DType;
use std::io::Read;

/// Longest header: numpy's own are 128 bytes.
const LONGEST: usize = 1 << 16;

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
        let mut start = [0; 12];
        let (first, wide) = start.split_at_mut(10);
        from.read_exact(first).map_err(not)?;
        if !first.starts_with(b"\x93NUMPY") {
            return Err("not a .npy file: it does not start as one".into());
        }
        let mut length = u16::from_le_bytes([first[8], first[9]]) as usize;
        if first[6] > 1 {
            from.read_exact(wide).map_err(not)?;
            length |= (u16::from_le_bytes([wide[0], wide[1]]) as usize) << 16;
        }
        if length > LONGEST {
            return Err("not a .npy file: its header is too long".into());
        }
        let mut text = vec![0; length];
        from.read_exact(&mut text).map_err(not)?;
        let text = String::from_utf8_lossy(&text);
        let entries = Entries::read(&text).ok_or("not a .npy file: its header is not numpy's")?;
        let unknown = || format!("elements of numpy's type {} are none of a tensor", entries.descr);
        let (dtype, swap) = element_type(entries.descr).ok_or_else(unknown)?;
        let dims = entries.shape.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        Ok(Header { dtype, swap, fortran: entries.fortran, dims: dims.map_err(|_| "its shape is too large")? })
    }
}

/// The entries of the dict; others than these are passed over.
struct Entries<'a> {
    /// As it is written, in its quotes if it is a string; a list, if elements have fields.
    descr: &'a str,
    fortran: bool,
    shape: Vec<u64>,
}

impl<'a> Entries<'a> {
    fn read(text: &'a str) -> Option<Entries<'a>> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
        while !rest.is_empty() {
            let key = &rest[..value_end(rest)?];
            let after = rest[key.len()..].trim_start().strip_prefix(':')?.trim_start();
            let value = &after[..value_end(after)?];
            match key.trim_matches(['\'', '"']) {
                "descr" => descr = Some(value),
                "fortran_order" => fortran = Some(truth(value)?),
                "shape" => shape = Some(sizes(value)?),
                _ => {}
            }
            rest = after[value.len()..].trim_start();
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
        Some(Entries { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

/// Bytes of the value that a text starts with: a string, a word or number, or what stands in brackets.
fn value_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (i, b) in text.bytes().enumerate() {
        match (quote, b) {
            (Some(q), _) if b != q => {}
            (Some(_), _) => {
                quote = None;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            (None, b'\'' | b'"') => quote = Some(b),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            (None, b',' | b':') if depth == 0 => return (i > 0).then_some(i),
            (None, _) => {}
        }
    }
    (depth == 0 && quote.is_none() && !text.is_empty()).then_some(text.len())
}

fn truth(value: &str) -> Option<bool> {
    match value.trim_end() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// The numbers of a tuple; Python 2 wrote long ones with an `L`.
fn sizes(value: &str) -> Option<Vec<u64>> {
    let inner = value.trim_end().strip_prefix('(')?.strip_suffix(')')?.trim();
    let inner = inner.strip_suffix(',').unwrap_or(inner);
    if inner.is_empty() {
        return Some(Vec::new());
    }
    inner.split(',').map(|n| n.trim().trim_end_matches('L').parse().ok()).collect()
}

/// The element type, and whether its bytes are in the other order.
fn element_type(descr: &str) -> Option<(DType, bool)> {
    let name = descr.trim_end();
    let name = name.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
    let mut chars = name.chars();
    let swap = match chars.next()? {
        '<' | '|' | '=' => false,
        '>' => true,
        _ => return None,
    };
    let dtype = match chars.as_str() {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "V2" => DType::BF16,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        _ => return None,
    };
    Some((dtype, swap))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dict: &str) -> Result<Header, String> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((dict.len() as u16).to_le_bytes());
        file.extend(dict.bytes());
        Header::read(&mut &file[..])
    }

    #[test]
    fn dicts_are_read_however_they_are_spaced() {
        let is = |fortran, swap, dims: &[usize]| Ok(Header { dtype: DType::I16, swap, fortran, dims: dims.to_vec() });
        assert_eq!(read("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }   \n"), is(false, false, &[2, 3]));
        assert_eq!(read("{\"shape\":(7,),\"descr\":\">i2\",\"fortran_order\":True}"), is(true, true, &[7]));
        assert_eq!(
            read("{ 'shape' : ( ) , 'x': {'y': [1, '}']}, 'descr' : '|i2' , 'fortran_order' : False }"),
            is(false, false, &[])
        );
        assert_eq!(read("{'descr': '<i2', 'fortran_order': False, 'shape': (10L, 3L), }"), is(false, false, &[10, 3]));
    }

    #[test]
    fn what_is_missing_or_left_over_is_an_error() {
        for dict in [
            "",
            "{}",
            "{'descr': '<i2', 'fortran_order': False}",
            "{'descr': '<i2', 'fortran_order': 0, 'shape': (2,)}",
            "{'descr': '<i2', 'fortran_order': False, 'shape': [2]}",
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2,, 3)}",
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2,) 1}",
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2,)",
            "{'descr: <i2}",
            "{,}",
            "{:}",
        ] {
            assert!(read(dict).unwrap_err().starts_with("not a .npy file"), "{dict}");
        }
        assert!(Header::read(&mut &b"\x93NUMPX\x01\x00\x02\x00{}"[..]).is_err());
    }
}
