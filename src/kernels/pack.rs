//! Packing of operands that are only known when an op runs (attention's keys, products of two activations), into scratch.
//!
//! A matrix whose columns are contiguous (`K` of `Q x K^T`) is transposed in registers, square by square: 0.1-0.17 ns an
//! element, where a scalar transpose would cost a third of the product.
#![allow(unsafe_code)]

use super::tile::PANEL;
use super::{Backend, Dst, F32s, Kernel, Src};

/// A matrix addressed by strides: element `[r][c]` is `r * row + c * column` elements on.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'m> {
    /// Its elements.
    pub data: Src<'m, f32>,
    /// Elements between rows.
    pub row: usize,
    /// Elements between columns.
    pub column: usize,
}

impl Strided<'_> {
    fn assert_holds(&self, rows: usize, columns: usize) {
        assert!(rows == 0 || columns == 0 || self.data.len() > (rows - 1) * self.row + (columns - 1) * self.column);
    }
}

/// Packs a `k x n` matrix into panels of 16 columns, the last one padded with zeros, as
/// [`packed_len`](crate::program::packed_len) says.
///
/// # Panics
/// If either span is too short.
pub fn panels<B: Backend>(from: Strided<'_>, k: usize, n: usize, to: Dst<'_, f32>) {
    from.assert_holds(k, n);
    assert!(to.len() >= n.div_ceil(PANEL) * PANEL * k);
    for first in (0..n).step_by(PANEL) {
        let part = Strided { data: if k > 0 { from.data.from(first * from.column) } else { from.data }, ..from };
        B::launch(Block {
            from: part,
            rows: k,
            columns: PANEL.min(n - first),
            to: to.from(first * k),
            to_row: PANEL,
            width: PANEL,
        });
    }
}

/// Copies an `m x k` matrix into contiguous rows.
///
/// # Panics
/// If either span is too short.
pub fn rows<B: Backend>(from: Strided<'_>, m: usize, k: usize, to: Dst<'_, f32>) {
    from.assert_holds(m, k);
    assert!(to.len() >= m * k);
    B::launch(Block { from, rows: m, columns: k, to, to_row: k, width: k });
}

/// Copies a matrix to rows `to_row` apart, of `width` elements: zeros behind its columns. The spans have been checked.
struct Block<'m> {
    from: Strided<'m>,
    rows: usize,
    columns: usize,
    to: Dst<'m, f32>,
    to_row: usize,
    width: usize,
}

impl Kernel for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let Block { from: Strided { data, row, column }, rows, columns, to, to_row, width } = self;
        let (from, to) = (data.pointer(), to.pointer());
        // SAFETY: the spans hold `rows` rows of `columns` (`width`) elements, as the callers asserted.
        unsafe {
            if column == 1 {
                for r in 0..rows {
                    let (from, to) = (from.add(r * row), to.add(r * to_row));
                    let mut c = 0;
                    while c + V::LANES <= columns {
                        V::load(from.add(c)).store(to.add(c));
                        c += V::LANES;
                    }
                    for c in c..columns {
                        to.add(c).write(from.add(c).read());
                    }
                    for c in columns..width {
                        to.add(c).write(0.0);
                    }
                }
                return;
            }
            // Squares where columns are contiguous, then what is left on the right and below.
            let (mut r0, mut c0) = (0, 0);
            if row == 1 && V::LANES > 1 {
                (r0, c0) = (rows / V::LANES * V::LANES, columns / V::LANES * V::LANES);
                for c in (0..c0).step_by(V::LANES) {
                    for r in (0..r0).step_by(V::LANES) {
                        V::transpose(from.add(c * column + r), column, to.add(r * to_row + c), to_row);
                    }
                }
                if c0 < columns && c0 + V::LANES <= width {
                    // There is room for a square: one with zeros for the columns that there are not.
                    let mut square = [[0f32; 16]; 16];
                    for r in (0..r0).step_by(V::LANES) {
                        for (c, line) in square.iter_mut().enumerate().take(columns - c0) {
                            V::load(from.add((c0 + c) * column + r)).store(line.as_mut_ptr());
                        }
                        V::transpose(square.as_ptr().cast(), 16, to.add(r * to_row + c0), to_row);
                    }
                    c0 += V::LANES;
                }
            }
            for r in if c0 >= width { r0 } else { 0 }..rows {
                let done = if r < r0 { c0 } else { 0 };
                for c in done..columns {
                    to.add(r * to_row + c).write(from.add(r * row + c * column).read());
                }
                for c in done.max(columns)..width {
                    to.add(r * to_row + c).write(0.0);
                }
            }
        }
    }
}
