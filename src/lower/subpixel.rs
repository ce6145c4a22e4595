//! Transposed convolutions of a stride as ordinary ones with more channels: sub-pixel convolution.
//!
//! Along an axis of stride s and padding p, output o of a transposed convolution sums inputs q - j times the kernel's elements
//! r + s j, where o + p = s q + r. All s phases r of one q read the same window of ceil(kernel / s) inputs: so one
//! convolution, with s times the channels an axis, computes them side by side, and a copy interleaves them (Shi et al., "Is
//! the deconvolution layer the same as a convolutional layer?", 2016). Zeros between the input's pixels would cost s times the
//! products an axis.
//!
//! Where s does not divide the kernel, the later phases have one tap less, and products with zeros would fill the place: 7 of 16
//! of a kernel of 3 x 3 with stride 2. So phases of as many taps are a convolution of their own ([`Subpixel::parts`]) where that
//! saves more than it costs to run some more.

use super::builder::{Builder, View};
use super::conv::Map;
use super::layout::Layout;
use crate::graph::Window;
use crate::program::PANEL;
use crate::tensor::DType;

/// What running one more convolution costs, in multiply-accumulates: some 200 ns of a core.
const ONE_MORE: u64 = 16 << 10;

/// One axis of the map.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    stride: usize,
    kernel: usize,
    /// The phases that are computed: the first one, and how many.
    first: usize,
    phases: usize,
    /// Elements of the ordinary convolution's kernel.
    taps: usize,
    /// Its padding in front.
    before: usize,
    /// Its outputs, of so many phases each: how many, and the first one.
    len: usize,
    start: usize,
    /// Phases of the first output that are cropped.
    crop: usize,
    /// Elements of the transposed convolution's output.
    out: usize,
}

/// Interleaved elements: where the first goes to, and comes from in phases and outputs; and sizes with strides of both.
struct Piece {
    to: usize,
    output: usize,
    phase: usize,
    /// Size, step in the interleaved axis, step in outputs, step in phases.
    axes: Vec<(usize, usize, usize, usize)>,
}

impl Axis {
    fn of(stride: usize, kernel: usize, before: usize, out: usize) -> Option<Axis> {
        let (skipped, crop, taps) = (before / stride, before % stride, kernel.div_ceil(stride));
        let before = (taps - 1).checked_sub(skipped)?;
        Some(Axis {
            stride,
            kernel,
            first: 0,
            phases: stride,
            taps,
            before,
            len: (out + crop).div_ceil(stride),
            start: 0,
            crop,
            out,
        })
    }

    /// The phases that have all taps, and those that have one less; all as one where they cannot be told apart, or the latter
    /// have none.
    fn parts(&self) -> Vec<Axis> {
        let full = self.kernel % self.stride;
        if full == 0 || self.taps == 1 || self.before == 0 {
            return vec![*self];
        }
        let fewer = Axis { first: full, phases: self.stride - full, taps: self.taps - 1, before: self.before - 1, ..*self };
        [Axis { phases: full, ..*self }, fewer].into_iter().filter_map(Axis::trimmed).collect()
    }

    /// Without outputs of which no phase is asked for; `None` where none is.
    fn trimmed(mut self) -> Option<Axis> {
        self.len = (self.out + self.crop).saturating_sub(self.first).div_ceil(self.stride);
        if self.first + self.phases <= self.crop && self.before > 0 {
            (self.start, self.before, self.len) = (1, self.before - 1, self.len.saturating_sub(1));
        }
        (self.len > 0).then_some(self)
    }

    /// All at once, where nothing is cropped; else phase by phase.
    fn pieces(&self) -> Vec<Piece> {
        let s = self.stride;
        if self.phases == s && self.crop == 0 && self.len * s == self.out {
            return vec![Piece { to: 0, output: 0, phase: 0, axes: vec![(self.len, s, 1, 0), (s, 1, 0, 1)] }];
        }
        let phase = |r: usize| {
            let output = (r < self.crop) as usize;
            let to = output * s + r - self.crop;
            let output = output - self.start;
            let count = self.out.saturating_sub(to).div_ceil(s);
            Piece { to, output, phase: r - self.first, axes: vec![(count, s, 1, 0)] }
        };
        (self.first..self.first + self.phases).map(phase).filter(|piece| piece.axes[0].0 > 0).collect()
    }
}

/// How a transposed convolution is an ordinary one.
#[derive(Clone, Debug)]
pub(super) struct Subpixel {
    height: Axis,
    width: Axis,
    groups: usize,
    /// Input and output channels of a group.
    depth: usize,
    channels: usize,
}

impl Subpixel {
    /// Of a transposed convolution from one map to another; `None` where that form does not serve: without stride, with
    /// dilation, and for one channel a group, which is better off as a depthwise convolution.
    pub fn of(window: &Window, groups: usize, from: &Map, to: &Map) -> Option<Subpixel> {
        let depthwise = groups > 1 && groups == from.channels && groups == to.channels;
        if depthwise || window.strides.iter().all(|&s| s == 1) || window.dilations.iter().any(|&d| d != 1) {
            return None;
        }
        let (depth, channels) = (from.channels / groups, to.channels / groups);
        let axis = |i: usize, out| Axis::of(window.strides[i], window.kernel[i], window.before[i], out);
        let (height, width) = match window.kernel.len() {
            1 => (Axis::of(1, 1, 0, to.height)?, axis(0, to.width)?),
            _ => (axis(0, to.height)?, axis(1, to.width)?),
        };
        Some(Subpixel { height, width, groups, depth, channels })
    }

    /// The convolutions that it is made of: one, or one for each number of taps that phases have.
    pub fn parts(self, batch: usize) -> Vec<Subpixel> {
        let mut parts = Vec::new();
        for height in self.height.parts() {
            parts.extend(self.width.parts().into_iter().map(|width| Subpixel { height, width, ..self.clone() }));
        }
        let cost = |part: &Subpixel| {
            let products = part.height.taps * part.width.taps * part.depth * part.height.len * part.width.len;
            let columns = (part.phases() * part.channels).next_multiple_of(PANEL as usize);
            ONE_MORE + (batch * part.groups) as u64 * products as u64 * columns as u64
        };
        if parts.iter().map(cost).sum::<u64>() < cost(&self) { parts } else { vec![self] }
    }

    /// The window of the ordinary convolution, over as many axes as the transposed one's.
    pub fn window(&self, original: &Window) -> Window {
        let axes = [self.height, self.width];
        let axes = &axes[2 - original.kernel.len()..];
        Window {
            kernel: axes.iter().map(|a| a.taps).collect(),
            before: axes.iter().map(|a| a.before).collect(),
            strides: vec![1; axes.len()],
            ..original.clone()
        }
    }

    /// Phases: how many times as many channels it has.
    pub fn phases(&self) -> usize {
        self.height.phases * self.width.phases
    }

    /// What tells its weights from those of others of the same transposed convolution: strides, and the phases.
    pub fn key(&self) -> [[usize; 3]; 2] {
        [self.height, self.width].map(|axis| [axis.stride, axis.first, axis.phases])
    }

    /// Sizes of its output's map.
    pub fn size(&self) -> (usize, usize) {
        (self.height.len, self.width.len)
    }

    /// Numbers per channel, for its channels: in a group, phase by phase.
    pub fn per_channel(&self, values: &[f32]) -> Vec<f32> {
        let groups = values.chunks_exact(self.channels.max(1));
        groups.flat_map(|group| core::iter::repeat_n(group, self.phases()).flatten().copied()).collect()
    }

    /// Rows and columns of a group's weights; an entry of one and one of the other add up to a number that
    /// [`Subpixel::element`] understands.
    pub fn weights(&self) -> (Vec<usize>, Vec<Option<usize>>) {
        let (h, w) = (&self.height, &self.width);
        let at = |c: usize, o: usize, ky: usize, kx: usize| {
            ((c * self.channels + o) * h.taps * h.stride + ky) * w.taps * w.stride + kx
        };
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for y in (0..h.taps).rev() {
            for x in (0..w.taps).rev() {
                rows.extend((0..self.depth).map(|c| at(c, 0, y * h.stride, x * w.stride)));
            }
        }
        for y in h.first..h.first + h.phases {
            for x in w.first..w.first + w.phases {
                columns.extend((0..self.channels).map(|o| Some(at(0, o, y, x))));
            }
        }
        (rows, columns)
    }

    /// Input channel, output channel, row and column of the kernel; `None` past the kernel's end, where a zero is.
    pub fn element(&self, i: usize) -> Option<[usize; 4]> {
        let (h, w) = (&self.height, &self.width);
        let (x, i) = (i % (w.taps * w.stride), i / (w.taps * w.stride));
        let (y, i) = (i % (h.taps * h.stride), i / (h.taps * h.stride));
        (y < h.kernel && x < w.kernel).then_some([i / self.channels, i % self.channels, y, x])
    }

    /// A buffer for what the ordinary convolution yields.
    pub fn buffer(&self, b: &mut Builder<'_>, name: &str, batch: usize) -> Result<View, String> {
        let dims = [batch, self.height.len, self.width.len, self.groups * self.phases() * self.channels];
        b.buffer(name, DType::F32, &dims, &[0, 1, 2, 3])
    }

    /// Interleaves it into the output, a map of this order of axes.
    pub fn interleave(&self, b: &mut Builder<'_>, from: &View, to: &View, map: &Map) -> Result<(), String> {
        // Strides of the output; those of absent axes mean nothing.
        let axes = &map.order;
        let stride = |back: usize| axes.len().checked_sub(back + 1).map_or(0, |i| to.layout.strides[axes[i]]);
        let spatial = if axes.len() == 4 || (axes.len() == 3 && map.height > 1) { 2 } else { 1 };
        let (channel, x) = (stride(0), stride(1));
        let y = if spatial == 2 { stride(2) } else { 0 };
        let batch = if axes.len() == spatial + 2 { to.layout.strides[axes[0]] } else { 0 };
        let phase_x = self.channels;
        let phase_y = self.width.phases * phase_x;
        let group = self.height.phases * phase_y;
        let pixel = self.groups * group;
        let row = self.width.len * pixel;
        for piece_y in self.height.pieces() {
            for piece_x in self.width.pieces() {
                let mut source = Layout {
                    offset: from.layout.offset + piece_y.output * row + piece_y.phase * phase_y,
                    dims: vec![map.batch, self.groups, self.channels],
                    strides: vec![self.height.len * row, group, 1],
                };
                source.offset += piece_x.output * pixel + piece_x.phase * phase_x;
                let mut target = Layout {
                    offset: to.layout.offset + piece_y.to * y + piece_x.to * x,
                    dims: Vec::new(),
                    strides: vec![batch, self.channels * channel, channel],
                };
                let steps = [(&piece_y, y, row, phase_y), (&piece_x, x, pixel, phase_x)];
                for (piece, step, output, phase) in steps {
                    for &(size, to, outputs, phases) in &piece.axes {
                        source.dims.push(size);
                        source.strides.push(outputs * output + phases * phase);
                        target.strides.push(to * step);
                    }
                }
                target.dims.clone_from(&source.dims);
                b.copy(&from.with_layout(source), &to.with_layout(target))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every output is written once, and summed from all pairs that the definition names.
    #[test]
    fn phases_are_the_definition() {
        for stride in 1..5 {
            for kernel in 1..8 {
                for before in 0..kernel {
                    for (input, padding) in [(1usize, 0), (4, 0), (5, 1)] {
                        let Some(out) = ((input - 1) * stride + kernel + padding).checked_sub(before) else { continue };
                        let axis = Axis::of(stride, kernel, before, out).unwrap();
                        assert_all(axis, &[axis], input);
                        assert_all(axis, &axis.parts(), input);
                    }
                }
            }
        }
    }

    fn assert_all(whole: Axis, parts: &[Axis], input: usize) {
        let Axis { stride, kernel, out, .. } = whole;
        let before = stride * (whole.taps - 1 - whole.before) + whole.crop;
        let mut written = vec![0; out];
        for axis in parts {
            for piece in axis.pieces() {
                let mut places = vec![(piece.to, piece.output, piece.phase)];
                for &(size, to, output, phase) in &piece.axes {
                    let steps =
                        |(t, o, p): (usize, usize, usize)| (0..size).map(move |i| (t + i * to, o + i * output, p + i * phase));
                    places = places.into_iter().flat_map(steps).collect();
                }
                for (to, output, phase) in places {
                    written[to] += 1;
                    let mut pairs: Vec<_> = (0..axis.taps)
                        .filter_map(|t| {
                            let i = (output + t).checked_sub(axis.before).filter(|&i| i < input)?;
                            let k = (axis.taps - 1 - t) * stride + axis.first + phase;
                            (k < kernel).then_some((i, k))
                        })
                        .collect();
                    pairs.sort();
                    let all = (0..input).flat_map(|i| (0..kernel).map(move |k| (i, k)));
                    let want: Vec<_> = all.filter(|(i, k)| i * stride + k == to + before).collect();
                    assert_eq!(pairs, want, "output {to} of {axis:?}");
                    assert!(output < axis.len);
                }
            }
        }
        assert!(written.iter().all(|&n| n == 1), "{parts:?}: {written:?}");
    }
}
