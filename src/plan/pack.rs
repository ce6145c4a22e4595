//! Weights on their way into an image: the layouts that kernels read.
//!
//! One layout for every instruction set: panels of 16 columns (one AVX-512, two AVX2, four NEON registers), each
//! `[depth][16]`, the last one padded with zeros. Measured to lose nothing on x86 and NEON.

use crate::program::{PANEL, packed_len};

/// Packs a `k x n` matrix into panels ([`packed_len`] elements). `at(row, column)` gives its elements, so that any strides,
/// transposition or scaling is the caller's matter.
///
/// # Panics
/// If `to` is shorter than [`packed_len`] says.
pub fn matrix(k: usize, n: usize, at: impl Fn(usize, usize) -> f32, to: &mut [f32]) {
    let panel = PANEL as usize;
    let to = &mut to[..packed_len(k as u64, n as u64) as usize];
    if k == 0 {
        return;
    }
    for (p, to) in to.chunks_exact_mut(panel * k).enumerate() {
        let first = p * panel;
        for (row, to) in to.chunks_exact_mut(panel).enumerate() {
            for (column, to) in to.iter_mut().enumerate() {
                *to = if first + column < n { at(row, first + column) } else { 0.0 };
            }
        }
    }
}

/// Sizes of a convolution's weights, as ONNX lays them out: `[out_c][in_c / groups][kernel_h][kernel_w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct Kernel {
    pub out_c: usize,
    /// Input channels of one group.
    pub group_in_c: usize,
    pub kernel_h: usize,
    pub kernel_w: usize,
    pub groups: usize,
}

impl Kernel {
    /// Elements of the packed weights, as [`Conv`](crate::program::Conv) reads them.
    pub fn packed_len(&self) -> usize {
        let depth = self.kernel_h * self.kernel_w * self.group_in_c;
        self.groups * packed_len(depth as u64, (self.out_c / self.groups) as u64) as usize
    }

    /// Packs weights for [`Conv`](crate::program::Conv): per group a matrix of depth `[kernel_h][kernel_w][in_c]`. `from(i)`
    /// gives the weight of this number, row-major.
    ///
    /// # Panics
    /// If `to` is shorter than [`Kernel::packed_len`].
    pub fn pack(&self, from: impl Fn(usize) -> f32, to: &mut [f32]) {
        let taps = self.kernel_h * self.kernel_w;
        let (depth, columns) = (taps * self.group_in_c, self.out_c / self.groups);
        let size = packed_len(depth as u64, columns as u64) as usize;
        for group in 0..self.groups {
            let at = |row: usize, column: usize| {
                let (tap, channel) = (row / self.group_in_c, row % self.group_in_c);
                from(((group * columns + column) * self.group_in_c + channel) * taps + tap)
            };
            matrix(depth, columns, at, &mut to[group * size..][..size]);
        }
    }

    /// Packs weights for a depthwise convolution: `[kernel_h * kernel_w][out_c]`.
    ///
    /// # Panics
    /// If `to` is shorter than `kernel_h * kernel_w * out_c`.
    pub fn pack_depthwise(&self, from: impl Fn(usize) -> f32, to: &mut [f32]) {
        let taps = self.kernel_h * self.kernel_w;
        for (tap, to) in to.chunks_exact_mut(self.out_c.max(1)).take(taps).enumerate() {
            for (channel, to) in to.iter_mut().enumerate() {
                *to = from(channel * taps + tap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_cut_into_panels() {
        let (k, n) = (3, 18);
        let mut to = vec![-1.0; packed_len(k, n) as usize];
        matrix(k as usize, n as usize, |r, c| (100 * r + c) as f32, &mut to);
        assert_eq!(to.len(), 96);
        assert_eq!(to[16 + 5], 105.0);
        assert_eq!(to[48 + 2 * 16 + 1], 217.0);
        assert_eq!(to[48 + 2], 0.0);
    }

    #[test]
    fn convolution_weights_put_channels_innermost() {
        let kernel = Kernel { out_c: 4, group_in_c: 2, kernel_h: 1, kernel_w: 3, groups: 2 };
        let mut to = vec![-1.0; kernel.packed_len()];
        kernel.pack(|i| i as f32, &mut to);
        // Group 1, output channel 3, tap 2, input channel 1: depth 2 * 2 + 1, column 1.
        assert_eq!(to[6 * 16 + 5 * 16 + 1], ((3 * 2 + 1) * 3 + 2) as f32);
        let kernel = Kernel { out_c: 3, group_in_c: 1, kernel_h: 2, kernel_w: 2, groups: 3 };
        let mut to = vec![-1.0; 12];
        kernel.pack_depthwise(|i| i as f32, &mut to);
        assert_eq!(to[3 + 2], 9.0);
    }
}
