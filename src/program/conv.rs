//! Convolution and pooling over channels-last maps.

use super::{Cut, Epilogue, Operands, Record, Tile, bad, packed_len, reach, rounds_of, work};
use crate::error::Result;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A convolution over an NHWC map (one-dimensional: height 1), with zero padding.
///
/// Inputs: X `[batch][in_h][in_w]` pixels of `in_c` channels, `in_pitch` elements apart; W; bias (`out_c`; optional);
/// residual (laid out like Y; optional). Output: Y `[batch][out_h][out_w]` pixels of `out_c` channels, `out_pitch` apart.
///
/// W of [`Conv`](super::OpKind::Conv): per group a matrix of depth `kernel_h * kernel_w * (in_c / groups)`, in this
/// order, and `out_c / groups` columns, packed as [`packed_len`] says; groups one after another.
/// W of [`Depthwise`](super::OpKind::Depthwise): `[kernel_h * kernel_w][out_c]`.
///
/// Padding at the bottom and right is what the output's size implies.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct Conv {
    pub batch: u32,
    pub in_h: u32,
    pub in_w: u32,
    pub in_c: u32,
    pub out_h: u32,
    pub out_w: u32,
    pub out_c: u32,
    pub kernel_h: u32,
    pub kernel_w: u32,
    pub stride_h: u32,
    pub stride_w: u32,
    pub dilation_h: u32,
    pub dilation_w: u32,
    pub pad_top: u32,
    pub pad_left: u32,
    pub groups: u32,
    /// Elements from one input pixel to the next; at least `in_c`.
    pub in_pitch: u32,
    /// Elements from one output pixel to the next; at least `out_c`.
    pub out_pitch: u32,
    pub epilogue: Epilogue,
}

impl Conv {
    fn check_geometry(&self, operands: &Operands<'_>, weights: Option<u64>) -> Result<()> {
        let positive =
            [self.kernel_h, self.kernel_w, self.stride_h, self.stride_w, self.dilation_h, self.dilation_w, self.groups];
        // The evaluators compute positions in i32.
        let small = |v: u32| v <= 1 << 24;
        if positive.contains(&0) || !positive.iter().all(|&v| small(v)) {
            return bad("a convolution has a size that is zero or too large");
        }
        if ![self.in_h, self.in_w, self.out_h, self.out_w, self.pad_top, self.pad_left].iter().all(|&v| small(v)) {
            return bad("a convolution's map is too large");
        }
        let last = |out: u32, stride: u32, kernel: u32, dilation: u32| {
            out as u64 * stride as u64 + kernel as u64 * dilation as u64 <= 1 << 30
        };
        if !last(self.out_h, self.stride_h, self.kernel_h, self.dilation_h)
            || !last(self.out_w, self.stride_w, self.kernel_w, self.dilation_w)
        {
            return bad("a convolution's window is too large");
        }
        if self.in_pitch < self.in_c || self.out_pitch < self.out_c {
            return bad("pixels of a convolution overlap");
        }
        let map = |h: u32, w: u32, c: u32, pitch: u32| {
            let row = w.checked_mul(pitch);
            let picture = row.and_then(|r| r.checked_mul(h));
            match (row, picture) {
                (Some(row), Some(picture)) => reach(&[(self.batch, picture), (h, row), (w, pitch), (c, 1)]),
                _ => bad("a convolution's map is too large"),
            }
        };
        operands.reads(0, map(self.in_h, self.in_w, self.in_c, self.in_pitch)?)?;
        if let Some(weights) = weights {
            operands.reads(1, weights)?;
        }
        let y = map(self.out_h, self.out_w, self.out_c, self.out_pitch)?;
        operands.writes(0, y)?;
        self.epilogue.check(operands, self.out_c as u64, y)
    }

    /// Taps of a window for which kernels keep pointers, at the most; larger windows are gathered.
    pub const TAPS: u32 = 32;
    /// Windows that are gathered at a time, at the most.
    pub const GATHERED: u32 = 16;

    /// Whether it is a matrix product over pixels.
    pub fn is_pointwise(&self) -> bool {
        let ones = [self.kernel_h, self.kernel_w, self.stride_h, self.stride_w];
        ones.iter().all(|&n| n == 1)
            && self.pad_top == 0
            && self.pad_left == 0
            && self.out_h == self.in_h
            && self.out_w == self.in_w
    }

    /// Whether the pixels of one row of a window lie side by side in memory.
    pub const fn rows_are_runs(&self) -> bool {
        self.groups == 1 && self.in_pitch == self.in_c && (self.dilation_w == 1 || self.kernel_w == 1)
    }

    /// Whether all windows are one run of a row and none crosses the border, in a record that has passed its check.
    fn is_one_run(&self) -> bool {
        let last = |out: u32, stride: u32| out.wrapping_sub(1).wrapping_mul(stride);
        let width = last(self.out_w, self.stride_w).wrapping_add(self.kernel_w);
        let inside = self.pad_top | self.pad_left == 0 && last(self.out_h, self.stride_h) < self.in_h && width <= self.in_w;
        inside && self.kernel_h == 1 && self.rows_are_runs()
    }

    /// Whether windows that cross the border (or all of them, where rows are no runs) are copied to scratch: with few
    /// channels, where a tap is too short a run of the depth, and with too many taps.
    pub const fn gathers(&self) -> bool {
        let taps = self.kernel_h as u64 * self.kernel_w as u64;
        taps > Self::TAPS as u64 || (self.rows_are_runs() && self.kernel_w > 1 && self.in_c < 16)
    }

    /// Depth of one group's weight matrix.
    #[cfg_attr(target_os = "none", inline(never))] // a dozen calls, none of them in a loop
    pub const fn depth(&self) -> u64 {
        let groups = if self.groups == 0 { 1 } else { self.groups };
        (self.kernel_h as u64 * self.kernel_w as u64).saturating_mul((self.in_c / groups) as u64)
    }

    /// Output pixels of all pictures.
    #[cfg_attr(target_os = "none", inline(never))]
    pub const fn pixels(&self) -> u64 {
        (self.out_h as u64 * self.out_w as u64).saturating_mul(self.batch as u64)
    }

    /// The units of one group's product, with kernels of such tiles.
    pub const fn cut(&self, tile: Tile) -> Cut {
        let groups = if self.groups == 0 { 1 } else { self.groups };
        Cut::of(self.pixels() as usize, (self.out_c / groups) as usize, self.depth() as usize, tile)
    }

    fn rounds_of_outputs(&self) -> u64 {
        rounds_of(&[self.batch, self.out_h, self.out_w, self.out_c, self.kernel_h, self.kernel_w])
    }

    /// Elements of the packed weights of all groups.
    pub const fn weights(&self) -> u64 {
        self.groups as u64 * packed_len(self.depth(), (self.out_c / self.groups) as u64)
    }
}

impl Record for Conv {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let sizes = [self.groups, self.kernel_h, self.kernel_w];
        if sizes.contains(&0) || sizes.iter().any(|&s| s > 1 << 16) || self.in_c > 1 << 24 || self.out_c > 1 << 24 {
            return bad("a convolution has a size that is zero or too large");
        }
        if !self.in_c.is_multiple_of(self.groups) || !self.out_c.is_multiple_of(self.groups) {
            return bad("a convolution's channels are not a multiple of its groups");
        }
        match self.depth().checked_mul(self.out_c as u64 + 16 * self.groups as u64) {
            Some(n) if n < 1 << 40 => {}
            _ => return bad("a convolution's weights are too large"),
        }
        self.check_geometry(operands, Some(self.weights()))
    }

    /// Room to gather the windows of one tile of output pixels, unless all are read where they lie, or for a row of zeros.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        if self.is_pointwise() {
            return 0;
        }
        let elements = if !self.gathers() {
            (self.in_c / self.groups.max(1)) as u64
        } else if self.is_one_run() {
            return 0;
        } else {
            self.pixels().min(Self::GATHERED as u64).saturating_mul(self.depth())
        };
        elements.saturating_mul(4).checked_next_multiple_of(64).unwrap_or(u64::MAX)
    }

    fn macs(&self) -> u64 {
        work(&[self.pixels(), self.out_c as u64, self.depth()])
    }

    fn rounds(&self) -> u64 {
        self.rounds_of_outputs()
    }

    fn unit_work(&self, tile: Tile) -> u64 {
        let (rows, columns) = self.cut(tile).largest();
        (rows as u64 * columns as u64).saturating_mul(self.depth())
    }
}

/// The record of a depthwise convolution: a [`Conv`] under other rules (`in_c = out_c = groups`).
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Depthwise(pub Conv);

impl Record for Depthwise {
    const SCRATCH: bool = false;

    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let c = &self.0;
        if c.in_c != c.out_c || c.groups != c.out_c {
            return bad("a depthwise convolution has one input and one output channel per group");
        }
        match (c.kernel_h as u64 * c.kernel_w as u64).checked_mul(c.out_c as u64) {
            Some(weights) => c.check_geometry(operands, Some(weights)),
            None => bad("a convolution's weights are too large"),
        }
    }

    fn macs(&self) -> u64 {
        let c = &self.0;
        work(&[c.pixels(), c.out_c as u64, c.kernel_h as u64, c.kernel_w as u64])
    }

    fn rounds(&self) -> u64 {
        self.0.rounds_of_outputs()
    }

    /// A row of the output.
    fn unit_work(&self, _tile: Tile) -> u64 {
        self.macs() / (self.0.batch as u64 * self.0.out_h as u64).max(1)
    }
}

/// What a [`Pool`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PoolKind {
    /// The largest value of the window; padding does not take part.
    Max = 0,
    /// The mean of the window's values; padding does not count.
    Average = 1,
    /// The mean of the window's values; padding (but not what lies beyond it) counts as zeros.
    AveragePadded = 2,
}

/// Pooling over windows of an NHWC map. Input: X. Output: Y. Laid out as in [`Conv`].
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct Pool {
    /// A [`PoolKind`].
    pub kind: u32,
    pub batch: u32,
    pub in_h: u32,
    pub in_w: u32,
    pub channels: u32,
    pub out_h: u32,
    pub out_w: u32,
    pub kernel_h: u32,
    pub kernel_w: u32,
    pub stride_h: u32,
    pub stride_w: u32,
    pub dilation_h: u32,
    pub dilation_w: u32,
    pub pad_top: u32,
    pub pad_left: u32,
    /// Padding at the bottom and right, which [`PoolKind::AveragePadded`] needs to know.
    pub pad_bottom: u32,
    pub pad_right: u32,
    pub in_pitch: u32,
    pub out_pitch: u32,
}

impl Record for Pool {
    const SCRATCH: bool = false;
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if self.kind > 2 {
            return bad("a pooling op is of an unknown kind");
        }
        // Geometry and extents are those of a depthwise convolution without weights.
        let conv = Conv {
            batch: self.batch,
            in_h: self.in_h,
            in_w: self.in_w,
            in_c: self.channels,
            out_h: self.out_h,
            out_w: self.out_w,
            out_c: self.channels,
            kernel_h: self.kernel_h,
            kernel_w: self.kernel_w,
            stride_h: self.stride_h,
            stride_w: self.stride_w,
            dilation_h: self.dilation_h,
            dilation_w: self.dilation_w,
            pad_top: self.pad_top,
            pad_left: self.pad_left,
            groups: self.channels.max(1),
            in_pitch: self.in_pitch,
            out_pitch: self.out_pitch,
            epilogue: Epilogue::NONE,
        };
        if self.pad_bottom > 1 << 24 || self.pad_right > 1 << 24 {
            return bad("a pooling op's padding is too large");
        }
        conv.check_geometry(operands, None)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.batch, self.out_h, self.out_w, self.channels])
    }

    /// A row of the output: what its windows read.
    fn unit_work(&self, _tile: Tile) -> u64 {
        let sizes = [self.out_w, self.kernel_h, self.kernel_w, self.channels];
        sizes.iter().fold(1, |n: u64, &d| n.saturating_mul(d as u64))
    }
}
