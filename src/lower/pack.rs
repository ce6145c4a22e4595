//! Weights into the layouts that kernels read.
//!
//! A packer reads elements by where they lie, through tables of offsets per row (depth) and per column, so that any order
//! of axes is packed straight from the file: a transpose never exists in memory.

use crate::program::PANEL;
use alloc::vec::Vec;

/// Packs a matrix into panels of 16 columns, `[panel][depth][16]`, as [`packed_len`](crate::program::packed_len) says.
/// `rows` holds the offset of each step of depth, `columns` that of each column, `None` for one of zeros; `at(row, column)`
/// reads the element at the sum of offsets.
///
/// `to` takes little-endian `f32`s and is zeroed.
pub fn panels(to: &mut [u8], rows: &[usize], columns: &[Option<usize>], at: impl Fn(usize) -> f32, scale: Option<&[f32]>) {
    let panel = PANEL as usize;
    for (p, columns) in columns.chunks(panel).enumerate() {
        let scales: Vec<f32> = (0..columns.len()).map(|j| scale.map_or(1.0, |s| s[p * panel + j])).collect();
        let base = p * panel * rows.len();
        for (k, &row) in rows.iter().enumerate() {
            let start = 4 * (base + k * panel);
            let cells = to[start..start + 4 * panel].chunks_exact_mut(4);
            for ((cell, column), scale) in cells.zip(columns).zip(&scales) {
                if let Some(column) = column {
                    cell.copy_from_slice(&(at(row + column) * scale).to_le_bytes());
                }
            }
        }
    }
}

/// Packs `[row][column]`, both by tables of offsets, without panels.
pub fn rows(to: &mut [u8], rows: &[usize], columns: &[usize], at: impl Fn(usize) -> f32, scale: Option<&[f32]>) {
    let cells = to.chunks_exact_mut(4);
    let all = rows.iter().flat_map(|&r| columns.iter().enumerate().map(move |(j, &c)| (j, r + c)));
    for (cell, (j, offset)) in cells.zip(all) {
        cell.copy_from_slice(&(at(offset) * scale.map_or(1.0, |s| s[j])).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn panels_are_padded_with_zeros() {
        // 2 x 18, stored transposed.
        let source: Vec<f32> = (0..36).map(|i| i as f32).collect();
        let columns: Vec<Option<usize>> = (0..18).map(|n| Some(2 * n)).collect();
        let mut to = vec![0; 4 * 64];
        panels(&mut to, &[0, 1], &columns, |i| source[i], None);
        let packed = floats(&to);
        assert_eq!(packed[..3], [0., 2., 4.]);
        assert_eq!(packed[16..19], [1., 3., 5.]);
        assert_eq!(packed[32..36], [32., 34., 0., 0.]);
        assert_eq!(packed[48..51], [33., 35., 0.]);
    }

    #[test]
    fn rows_are_scaled_per_column() {
        let mut to = vec![0; 4 * 4];
        rows(&mut to, &[0, 2], &[0, 1], |i| i as f32, Some(&[1., 10.]));
        assert_eq!(floats(&to), [0., 10., 2., 30.]);
    }
}
