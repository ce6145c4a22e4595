//! Ops that read a picture between its pixels, where other tensors say.

use super::{Operands, Record, bad, rounds_of, work};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Elements of pictures at places of a grid, by interpolation.
///
/// Inputs: X `[batch][channels][sizes…]`, grid `[batch][points][axes]`, whose coordinates run from -1 to 1, those of the
/// innermost axis first. Output: `[batch][channels][points]`. All `f32`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GridSample {
    /// Pictures.
    pub batch: u32,
    /// Channels.
    pub channels: u32,
    /// Axes of a picture, 1 to 3.
    pub axes: u32,
    /// Their sizes, outermost first; those that are not used are 1.
    pub sizes: [u32; 3],
    /// Places per picture.
    pub points: u32,
    /// 0: the nearest element, 1: linear, 2: cubic.
    pub mode: u32,
    /// What is outside: 0: zeros, 1: the border, 2: the picture, reflected.
    pub padding: u32,
    /// 1: -1 and 1 are the centres of the outermost elements, else their outer edges.
    pub corners: u32,
}

impl Record for GridSample {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        if !(1..=3).contains(&self.axes) || self.mode > 2 || self.padding > 2 {
            return bad("a grid sample is of an unknown mode, or over too many axes");
        }
        if self.sizes.iter().any(|&d| d == 0 || d > 1 << 24) || self.sizes[self.axes as usize..] != [1; 3][self.axes as usize..] {
            return bad("a grid sample's picture has an impossible size");
        }
        let x = volume(&[self.batch, self.channels, self.sizes[0], self.sizes[1], self.sizes[2]])?;
        operands.reads(0, x)?;
        operands.reads(1, volume(&[self.batch, self.points, self.axes])?)?;
        operands.writes(0, volume(&[self.batch, self.channels, self.points])?)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.batch, self.channels, self.points])
    }

    fn macs(&self) -> u64 {
        let taps = [1u64, 2, 4][self.mode.min(2) as usize].pow(self.axes.min(3));
        work(&[taps, self.batch as u64, self.channels as u64, self.points as u64])
    }
}

/// Regions of pictures, each as a map of one size: means or maxima of interpolated samples of each cell.
///
/// Inputs: X `[batch][channels][height][width]`, regions `[regions][4]` (left, top, right, bottom), the picture of each
/// (`i64`). Output: `[regions][channels][out_h][out_w]`. A picture out of range, and cells of more than [`MOST_SAMPLES`]
/// samples an axis, are errors of the run.
///
/// [`MOST_SAMPLES`]: RoiAlign::MOST_SAMPLES
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct RoiAlign {
    pub batch: u32,
    pub channels: u32,
    pub height: u32,
    pub width: u32,
    pub regions: u32,
    pub out_h: u32,
    pub out_w: u32,
    /// Samples per cell and axis; 0: as many as the cell has pixels.
    pub samples: u32,
    /// Size of a pixel of the map in the regions' coordinates, inverted.
    pub scale: f32,
    /// 1: coordinates are of pixels' centres.
    pub half_pixel: u32,
    /// 1: the maximum.
    pub max: u32,
}

impl RoiAlign {
    /// Samples of a cell along an axis, at the most.
    pub const MOST_SAMPLES: u32 = 256;
}

impl Record for RoiAlign {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let sizes = [self.height, self.width, self.out_h, self.out_w];
        if sizes.iter().any(|&d| d == 0 || d > 1 << 24) || self.samples > Self::MOST_SAMPLES {
            return bad("a region's cells or samples are of an impossible number");
        }
        operands.reads(0, volume(&[self.batch, self.channels, self.height, self.width])?)?;
        operands.reads(1, volume(&[self.regions, 4])?)?;
        operands.input(2)?.holds(DType::I64, self.regions as u64)?;
        operands.writes(0, volume(&[self.regions, self.channels, self.out_h, self.out_w])?)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.regions, self.channels, self.out_h, self.out_w])
    }

    fn macs(&self) -> u64 {
        let samples = self.samples.max(1);
        work(&[4, samples, samples, self.regions, self.channels, self.out_h, self.out_w].map(u64::from))
    }
}

/// The product of sizes.
fn volume(sizes: &[u32]) -> Result<u64> {
    match sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)) {
        Some(n) => Ok(n),
        None => bad("an op's sizes overflow"),
    }
}
