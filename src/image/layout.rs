//! The plain records of an image.

use crate::tensor::{DType, MAX_RANK};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// In the arena, at an offset from its start.
    Arena = 0,
    /// In the image's weights, at an offset from their start.
    Weights = 1,
}

/// One tensor of a program.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TensorRecord {
    /// A [`DType`]'s number.
    pub dtype: u8,
    /// Axes used.
    pub rank: u8,
    /// A [`Place`].
    pub place: u8,
    /// Bit 0: the tensor is state, kept from run to run.
    pub flags: u8,
    /// Byte where it starts.
    pub offset: u32,
    /// Bytes it owns.
    pub bytes: u32,
    /// Where its name stands among the image's strings; `u32::MAX` for none.
    pub name: u32,
    /// Sizes, outermost first.
    pub dims: [u32; MAX_RANK],
}

impl TensorRecord {
    /// The element type; of a checked image it is always a known one.
    pub fn dtype(&self) -> DType {
        DType::from_number(self.dtype).unwrap_or(DType::U8)
    }
}
