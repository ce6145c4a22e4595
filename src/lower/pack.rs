//! Weights into the layouts that kernels read.
//!
//! A packer reads elements by where they lie, through tables of offsets per row (depth) and per column, so that any order
//! of axes is packed straight from the file: a transpose never exists in memory.

use crate::program::PANEL;

/// Where a packer reads elements, each by its offset.
pub enum Source<'a> {
    /// Little-endian `f32`s as a file stores them.
    Stored(&'a [[u8; 4]]),
    /// Made one at a time: of another type, or computed.
    Made(&'a dyn Fn(usize) -> f32),
}

/// Packs a matrix into panels of 16 columns, `[panel][depth][16]`, as [`packed_len`](crate::program::packed_len) says.
/// `rows` holds the offset of each step of depth, `columns` that of each column, `None` for one of zeros; an element lies at
/// the sum of its two offsets.
///
/// `to` takes little-endian `f32`s and is zeroed.
pub fn panels(to: &mut [u8], rows: &[usize], columns: &[Option<usize>], source: Source<'_>, scale: Option<&[f32]>) {
    // One loop for each, so that reading what is stored is a load: packing takes most of the time that opening a model does.
    match source {
        Source::Stored(all) => {
            let run = |i| all.get(i..)?.first_chunk::<WIDTH>().copied();
            panels_of(to, rows, columns, |i| f32::from_le_bytes(all[i]), run, scale);
        }
        Source::Made(at) => panels_of(to, rows, columns, at, |_| None, scale),
    }
}

const WIDTH: usize = PANEL as usize;

/// `at` gives an element, `run` as many as a panel has columns, which lie one after the other, if they are stored.
fn panels_of(
    to: &mut [u8],
    rows: &[usize],
    columns: &[Option<usize>],
    at: impl Fn(usize) -> f32,
    run: impl Fn(usize) -> Option<[[u8; 4]; WIDTH]>,
    scale: Option<&[f32]>,
) {
    let mut panels = to.chunks_exact_mut((4 * WIDTH * rows.len()).max(1));
    for (p, columns) in columns.chunks(WIDTH).enumerate() {
        let Some(to) = panels.next() else { return };
        let panel = Panel::of(columns, scale, p * WIDTH);
        for (&row, to) in rows.iter().zip(to.as_chunks_mut::<4>().0.as_chunks_mut::<WIDTH>().0) {
            panel.row(row, to, &at, &run);
        }
    }
}

/// Columns that lie side by side.
struct Panel<'c> {
    columns: &'c [Option<usize>],
    offsets: [usize; WIDTH],
    scales: [f32; WIDTH],
    /// There is a source for each column.
    whole: bool,
    /// They lie side by side there too, and are taken as they are.
    together: bool,
}

impl Panel<'_> {
    /// These columns, of which the first has this number among the scales.
    fn of<'c>(columns: &'c [Option<usize>], scale: Option<&[f32]>, first: usize) -> Panel<'c> {
        let (mut offsets, mut scales, mut whole) = ([0; WIDTH], [1.0; WIDTH], columns.len() == WIDTH);
        for (j, column) in columns.iter().enumerate() {
            offsets[j] = column.unwrap_or(0);
            scales[j] = scale.map_or(1.0, |s| s[first + j]);
            whole &= column.is_some();
        }
        let together = whole && scale.is_none() && offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        Panel { columns, offsets, scales, whole, together }
    }

    /// Writes one row of them.
    #[inline(always)]
    fn row(
        &self,
        row: usize,
        to: &mut [[u8; 4]; WIDTH],
        at: &impl Fn(usize) -> f32,
        run: &impl Fn(usize) -> Option<[[u8; 4]; WIDTH]>,
    ) {
        if self.together
            && let Some(cells) = run(row + self.offsets[0])
        {
            *to = cells;
        } else if self.whole {
            for ((cell, offset), scale) in to.iter_mut().zip(self.offsets).zip(self.scales) {
                *cell = (at(row + offset) * scale).to_le_bytes();
            }
        } else {
            for (j, column) in self.columns.iter().enumerate() {
                if let Some(column) = column {
                    to[j] = (at(row + column) * self.scales[j]).to_le_bytes();
                }
            }
        }
    }
}

/// Packs a slab, as [`slabs_len`](crate::program::slabs_len) says; rows, columns and `to` are as those of [`panels`].
pub fn slab(to: &mut [u8], rows: &[usize], columns: &[Option<usize>], source: Source<'_>, scale: Option<&[f32]>) {
    match source {
        Source::Stored(all) => {
            let run = |i| all.get(i..)?.first_chunk::<WIDTH>().copied();
            slab_of(to, rows, columns, |i| f32::from_le_bytes(all[i]), run, scale);
        }
        Source::Made(at) => slab_of(to, rows, columns, at, |_| None, scale),
    }
}

/// Adds to each sum a number of its column times 0: 0, but of an infinity or NaN a NaN.
#[inline(always)]
fn watch(sums: &mut [f32; WIDTH], cells: &[[u8; 4]; WIDTH]) {
    for (sum, &cell) in sums.iter_mut().zip(cells) {
        let x = f32::from_le_bytes(cell);
        *sum += x * 0.0;
    }
}

fn slab_of(
    to: &mut [u8],
    rows: &[usize],
    columns: &[Option<usize>],
    at: impl Fn(usize) -> f32,
    run: impl Fn(usize) -> Option<[[u8; 4]; WIDTH]>,
    scale: Option<&[f32]>,
) {
    let panels: Vec<_> = columns.chunks(WIDTH).enumerate().map(|(p, c)| Panel::of(c, scale, p * WIDTH)).collect();
    let lines = to.as_chunks_mut::<4>().0.as_chunks_mut::<WIDTH>().0;
    let Some((slab, last)) = lines.split_at_mut_checked(rows.len() * panels.len()) else { return };
    let mut sums = [0.0; WIDTH];
    // In the order of the source, whose pages are given back meanwhile: several panels of a transposed one at a time, which would
    // write longer stretches, took twice as long.
    if panels.iter().all(|panel| panel.together) {
        for (&row, to) in rows.iter().zip(slab.chunks_exact_mut(panels.len().max(1))) {
            for (panel, to) in panels.iter().zip(to) {
                panel.row(row, to, &at, &run);
                watch(&mut sums, to);
            }
        }
    } else {
        for (p, panel) in panels.iter().enumerate() {
            for (&row, to) in rows.iter().zip(slab.chunks_exact_mut(panels.len().max(1))) {
                // Written as a whole, when it has been looked at: its line comes from memory.
                let mut cells = [[0; 4]; WIDTH];
                panel.row(row, &mut cells, &at, &run);
                watch(&mut sums, &cells);
                to[p] = cells;
            }
        }
    }
    let finite = sums == [0.0; WIDTH];
    if let [last, ..] = last {
        last[0] = (!finite as u32 as f32).to_le_bytes();
    }
}

/// Packs `[row][column]`, both by tables of offsets, without panels.
pub fn rows(to: &mut [u8], rows: &[usize], columns: &[usize], source: Source<'_>, scale: Option<&[f32]>) {
    let at = |i: usize| match source {
        Source::Stored(all) => f32::from_le_bytes(all[i]),
        Source::Made(at) => at(i),
    };
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
    use alloc::vec::Vec;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn panels_are_padded_with_zeros() {
        // 2 x 18, stored transposed.
        let source: Vec<f32> = (0..36).map(|i| i as f32).collect();
        let columns: Vec<Option<usize>> = (0..18).map(|n| Some(2 * n)).collect();
        let mut to = vec![0; 4 * 64];
        panels(&mut to, &[0, 1], &columns, Source::Made(&|i| source[i]), None);
        let packed = floats(&to);
        assert_eq!(packed[..3], [0., 2., 4.]);
        assert_eq!(packed[16..19], [1., 3., 5.]);
        assert_eq!(packed[32..36], [32., 34., 0., 0.]);
        assert_eq!(packed[48..51], [33., 35., 0.]);
    }

    #[test]
    fn what_is_stored_is_packed_as_what_is_made() {
        let source: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let bytes: Vec<[u8; 4]> = source.iter().map(|v| v.to_le_bytes()).collect();
        // Columns side by side, and in two halves.
        for columns in [(0..32).map(Some).collect::<Vec<_>>(), (0..32).map(|n| Some(n * 2 % 31)).collect()] {
            let pack = |from: Source<'_>, scale: Option<&[f32]>| {
                let mut to = vec![0; 4 * 64];
                panels(&mut to, &[0, 32], &columns, from, scale);
                to
            };
            for scale in [None, Some(&[2.0; 32][..])] {
                assert_eq!(pack(Source::Stored(&bytes), scale), pack(Source::Made(&|i| source[i]), scale));
            }
        }
    }

    #[test]
    fn slabs_keep_rows_together_and_say_what_is_finite() {
        let source: Vec<f32> = (0..120).map(|i| i as f32).collect();
        let bytes: Vec<[u8; 4]> = source.iter().map(|v| v.to_le_bytes()).collect();
        // 3 x 40: side by side, and transposed.
        for (rows, columns) in [([0, 40, 80], (0..40).collect::<Vec<usize>>()), ([0, 1, 2], (0..40).map(|c| 3 * c).collect())] {
            let places: Vec<_> = columns.iter().copied().map(Some).collect();
            for scale in [None, Some(&[2.0; 40][..])] {
                let (mut to, mut made) = (vec![0; 4 * (3 * 48 + 16)], vec![0; 4 * (3 * 48 + 16)]);
                slab(&mut to, &rows, &places, Source::Stored(&bytes), scale);
                slab(&mut made, &rows, &places, Source::Made(&|i| source[i]), scale);
                assert_eq!(to, made);
                let packed = floats(&to);
                for (r, row) in rows.iter().enumerate() {
                    for (c, column) in columns.iter().enumerate() {
                        assert_eq!(packed[48 * r + c], source[row + column] * scale.map_or(1.0, |s| s[c]));
                    }
                    assert_eq!(packed[48 * r + 40..][..8], [0.0; 8]);
                }
                assert_eq!(packed[3 * 48], 0.0);
            }
            let mut to = vec![0; 4 * (3 * 48 + 16)];
            let at = |i: usize| if i == 119 { f32::NEG_INFINITY } else { 1.0 };
            slab(&mut to, &rows, &places, Source::Made(&at), None);
            assert_eq!(floats(&to)[3 * 48], 1.0);
        }
    }

    #[test]
    fn rows_are_scaled_per_column() {
        let mut to = vec![0; 4 * 4];
        rows(&mut to, &[0, 2], &[0, 1], Source::Made(&|i| i as f32), Some(&[1., 10.]));
        assert_eq!(floats(&to), [0., 10., 2., 30.]);
    }
}
