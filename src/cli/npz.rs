//! Arrays in numpy's files: `.npy` holds one, `.npz` (a zip archive of them) several by name.
//!
//! Names of tensors may hold characters that a file name can't ('/') or shouldn't (':'): they are read percent-encoded or
//! as they are, and written percent-encoded. All element types of a model are read, of either byte order and axis order;
//! `bfloat16`, which numpy lacks, as the raw type of two bytes (`V2`) that its extensions write.

use super::array::{Array, shape};
use super::npy::Header;
use crate::tensor::DType;
use crate::{ModelError, mapped};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Write};
use std::path::Path;

/// Reads a `.npy` file.
///
/// # Errors
/// When the file can't be read or is not what its name says.
pub fn read_npy(path: &Path) -> Result<Array, ModelError> {
    let file = File::open(path).map_err(|source| ModelError::File { path: path.into(), source })?;
    parse(BufReader::new(file)).map_err(|what| ModelError::Format { path: path.into(), what })
}

/// Reads a `.npz` file: names, decoded, and arrays, in the file's order.
///
/// # Errors
/// When the file can't be read or is not what its name says.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Array)>, ModelError> {
    // An archive is read here and there; from a map that takes no calls of the system.
    let file = mapped::map(path)?;
    let format = |what: String| ModelError::Format { path: path.into(), what };
    let mut archive = zip::ZipArchive::new(Cursor::new(&file[..]))
        .map_err(|e| format(format!("not a .npz file, the archive that numpy.savez writes: {e}")))?;
    let mut arrays = Vec::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| format(format!("entry {i}: {e}")))?;
        let name = entry.name().to_string();
        let array = parse(entry).map_err(|what| format(format!("array \"{name}\": {what}")))?;
        let name = decode(name.strip_suffix(".npy").unwrap_or(&name));
        if arrays.iter().any(|(other, _)| *other == name) {
            return Err(format(format!("two arrays are named \"{name}\"")));
        }
        arrays.push((name, array));
    }
    Ok(arrays)
}

/// Writes a `.npz` file of these arrays, in this order, uncompressed.
///
/// # Errors
/// When the file can't be written.
pub fn write_npz(path: &Path, arrays: &[(String, Array)]) -> Result<(), ModelError> {
    let write = || -> std::io::Result<()> {
        // Put together first: an archive is written in many small pieces.
        let bytes = arrays.iter().map(|(name, array)| array.bytes.len() + 2 * name.len() + 256).sum();
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::with_capacity(bytes)));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, array) in arrays {
            archive.start_file(format!("{}.npy", encode(name)), options.large_file(array.bytes.len() > 1 << 31))?;
            archive.write_all(&super::npy::header(array))?;
            archive.write_all(&array.bytes)?;
        }
        std::fs::write(path, archive.finish()?.into_inner())
    };
    write().map_err(|source| ModelError::File { path: path.into(), source })
}

/// Reads the bytes of a `.npy` file.
fn parse(mut from: impl Read) -> Result<Array, String> {
    let Header { dtype, swap, fortran, dims } = Header::read(&mut from)?;
    let size = dims.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).ok_or("its shape is too large")?;
    // One byte more than wanted, to see a file that is too long; memory grows with what is really there.
    let mut bytes = Vec::new();
    from.take(size as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() != size {
        let found = if bytes.len() > size { "more".to_string() } else { bytes.len().to_string() };
        return Err(format!("{dtype} {} wants {size} bytes, the file holds {found}", shape(&dims)));
    }
    if swap {
        bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if fortran && dims.len() > 1 {
        bytes = row_major(&bytes, &dims, dtype.size());
    }
    if dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b = (*b != 0) as u8);
    }
    Ok(Array { dtype, dims, bytes })
}

/// Elements whose first axis runs fastest, with the last one running fastest.
fn row_major(bytes: &[u8], dims: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = vec![0; dims.len()];
    for _ in 0..bytes.len() / size {
        let from = place.iter().zip(dims).rev().fold(0, |n, (&i, &d)| n * d + i);
        out.extend_from_slice(&bytes[from * size..(from + 1) * size]);
        for (i, &d) in place.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// A tensor's name as a file name: what is not a letter, a digit or one of `._-` percent-encoded.
fn encode(name: &str) -> String {
    let mut out = String::new();
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') {
            out.push(b as char);
        } else {
            out += &format!("%{b:02X}");
        }
    }
    out
}

/// The name that a file name stands for.
pub fn decode(name: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((&b, tail)) = rest.split_first() {
        let digit = |i: usize| tail.get(i).and_then(|&d| (d as char).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (b, digit(0), digit(1)) {
            out.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_types() -> Vec<(String, Array)> {
        let name = |d: DType| if d == DType::F32 { "a/b:0".to_string() } else { d.name().to_string() };
        let array = |d: DType| Array {
            dtype: d,
            dims: vec![2, 3],
            bytes: (0..6 * d.size() as u8).map(|b| if d == DType::Bool { b & 1 } else { b }).collect(),
        };
        let mut arrays: Vec<_> = DType::ALL.into_iter().map(|d| (name(d), array(d))).collect();
        arrays.push(("scalar".into(), Array::new(&[], &[1.5f32])));
        arrays.push(("one axis".into(), Array::new(&[3], &[1i64, 2, 3])));
        arrays.push(("empty".into(), Array::new::<f32>(&[0, 4], &[])));
        arrays
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        write_npz(&path, &all_types()).unwrap();
        assert_eq!(read_npz(&path).unwrap(), all_types());
    }

    #[test]
    fn names_are_percent_encoded_and_decoded() {
        assert_eq!(encode("in/x:0 é"), "in%2Fx%3A0%20%C3%A9");
        for name in ["in/x:0 é", "100%", "%2", "a%zz"] {
            assert_eq!(decode(&encode(name)), name);
        }
        assert_eq!(decode("in/x:0"), "in/x:0");
        assert_eq!(decode("%FF"), "%FF");
    }

    fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((dict.len() as u16).to_le_bytes());
        file.extend(dict.bytes());
        file.extend(data);
        file
    }

    #[test]
    fn other_orders_of_bytes_and_axes_are_turned() {
        let file = npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6]);
        assert_eq!(parse(&file[..]).unwrap(), Array::new(&[2, 3], &[1i16, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn bad_headers_are_errors() {
        for (dict, what) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "wants 12 bytes, the file holds 8"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "wants 4 bytes, the file holds more"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "too large"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }", "the file holds 8"),
            ("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", "none of a tensor"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "none of a tensor"),
            ("{'descr': '<f4', 'shape': (1,), }", "not a .npy file"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }", "not a .npy file"),
            ("((((((((((((((((((((((((((((((((((((((((", "nests too deeply"),
        ] {
            let error = parse(&npy(dict, &[0; 8])[..]).unwrap_err();
            assert!(error.contains(what), "{dict}: {error}");
        }
    }

    #[test]
    fn damaged_files_are_errors_or_arrays_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        write_npz(&path, &all_types()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        let mut refused = 0;
        for round in 0..2000 {
            let mut bad = good.clone();
            match round % 3 {
                0 => bad.truncate(random() % good.len()),
                1 => (0..1 + random() % 8).for_each(|_| bad[random() % good.len()] ^= 1 << (random() % 8)),
                _ => bad = (0..random() % 2000).map(|_| random() as u8).collect(),
            }
            std::fs::write(&path, &bad).unwrap();
            refused += read_npz(&path).is_err() as usize;
            let _ = parse(&bad[..]); // random bytes
            let from = random() % good.len();
            let _ = parse(&good[from..]);
        }
        assert!(refused > 1000, "{refused}");
    }
}
