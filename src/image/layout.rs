//! The plain records of an image: see the byte table in the [module above](super).

use crate::tensor::{DType, MAX_RANK, Quantisation};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first eight bytes of every image. The byte past ASCII and the line ends show transfers that damage binary files.
pub const MAGIC: [u8; 8] = *b"\x89KILN\r\n\n";

/// The version that this build writes.
pub const VERSION: u32 = 4;

/// The oldest version that this build reads: its ops have more scratch memory, else it is as the newest.
pub const OLDEST: u32 = 3;

/// The largest number of inputs plus outputs of one op.
pub const MAX_OPERANDS: usize = 64;

/// The largest number of inputs of a program.
pub const MAX_INPUTS: usize = 256;

/// The smallest alignment of an image: that of the largest element.
pub const MIN_ALIGNMENT: u32 = 8;

/// The largest alignment of an image.
pub const MAX_ALIGNMENT: u32 = 4096;

/// A part of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Section {
    /// Byte of the image where it starts.
    pub offset: u32,
    /// Its bytes.
    pub bytes: u32,
}

/// Number of sections of an image.
pub const SECTIONS: usize = 7;

/// The start of an image.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// From [`OLDEST`] to [`VERSION`].
    pub version: u32,
    /// XXH64 of all bytes from `weights_hash` to the start of the weights; low half first.
    pub structure_hash: [u32; 2],
    /// XXH64 of the weights; low half first.
    pub weights_hash: [u32; 2],
    /// Bytes of the image.
    pub length: u32,
    /// Alignment of the image in memory, of its weights, of arenas and of all that lies in them: a power of two.
    pub alignment: u32,
    /// Where programs, tensors, lists, ops, metadata, strings, weights lie: in this order, one behind the other.
    pub sections: [Section; SECTIONS],
    /// Zero.
    pub reserved: u32,
}

/// Byte of the header from which on the structure is hashed.
pub const HASHED_FROM: usize = core::mem::offset_of!(Header, weights_hash);

/// One program.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ProgramRecord {
    /// Its name, among the strings.
    pub name: u32,
    /// Number of its first tensor in the table of tensors.
    pub first_tensor: u32,
    /// How many there are; operands count from the first.
    pub tensors: u32,
    /// Byte of the ops' section where its ops start.
    pub ops_offset: u32,
    /// Their bytes.
    pub ops_bytes: u32,
    /// How many there are.
    pub ops: u32,
    /// Entry of the lists where the numbers of its input tensors start; those of its outputs follow, then a
    /// [`QuantisedRecord`] for each quantised tensor, then a [`LengthRecord`] for each axis whose length a run decides.
    pub lists: u32,
    /// Number of inputs.
    pub inputs: u32,
    /// Number of outputs.
    pub outputs: u32,
    /// Number of quantised tensors.
    pub quantised: u16,
    /// Number of axes of outputs whose lengths a run decides. (Both numbers were one word, of which this half was zero: so images
    /// that know of no such axes are the same as ever, and older builds refuse those that do.)
    pub lengths: u16,
    /// Bytes of its arena, slack included.
    pub arena_bytes: u32,
    /// Bytes at the arena's start that are kept from run to run.
    pub state_bytes: u32,
    /// The largest scratch memory of one op. It lies in the arena.
    pub scratch_bytes: u32,
    /// The largest sum of tensors that are live at one time. For reports; nothing relies on it.
    pub live_bytes: u32,
    /// Multiply-accumulates of one run, low half first: the sum of its ops' ([`Record::macs`](crate::program::Record::macs)).
    pub macs: [u32; 2],
}

impl ProgramRecord {
    /// Entries of the lists that records take.
    pub(super) fn records(&self) -> u32 {
        3 * (self.quantised as u32 + self.lengths as u32)
    }
}

/// How a tensor of a program is quantised: three entries of the lists.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QuantisedRecord {
    /// The tensor's number, larger than that of the record before. Its elements are integers of 8 or 16 bits.
    pub tensor: u32,
    /// Scale, finite and above zero.
    pub scale: f32,
    /// Zero point, in the range of the element type.
    pub zero_point: i32,
}

impl QuantisedRecord {
    /// What it says of its tensor.
    pub fn quantisation(&self) -> Quantisation {
        Quantisation { scale: self.scale, zero_point: self.zero_point }
    }
}

/// An axis of an output whose length a run decides: three entries of the lists. The size of the axis is the most; the output's
/// elements, in row-major order by their actual sizes, stand at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LengthRecord {
    /// The output's tensor. Records ascend by tensor, then axis; none has both of another.
    pub tensor: u32,
    /// The axis.
    pub axis: u32,
    /// The tensor that holds the length when the run is over: `i64`, one element. What is below 0 counts as 0, what is above the
    /// size of the axis as that.
    pub count: u32,
}

/// The start of an op: operands (one `u32` each, inputs first), then attributes follow.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpRecord {
    /// An [`OpKind`](crate::program::OpKind)'s number.
    pub kind: u16,
    /// Number of inputs.
    pub inputs: u8,
    /// Number of outputs.
    pub outputs: u8,
    /// Bytes of attributes, a multiple of 4.
    pub attributes: u32,
    /// Byte of the arena where the op's scratch memory starts; 0 where it needs none.
    pub scratch: u32,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// In the arena, at an offset from its start.
    Arena = 0,
    /// In the image's weights, at an offset from their start.
    Weights = 1,
}

/// Flag of a tensor that is kept from run to run.
pub const STATE: u8 = 1;

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
    /// Bit 0 ([`STATE`]): the tensor is state, kept from run to run.
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

    /// The sizes of the axes that are used.
    pub fn dims(&self) -> &[u32] {
        &self.dims[..(self.rank as usize).min(MAX_RANK)]
    }

    #[cfg_attr(target_os = "none", inline(never))] // many calls, rare ones
    /// Number of elements; of a checked image it never saturates.
    pub fn elements(&self) -> usize {
        self.dims().iter().fold(1usize, |n, &d| n.saturating_mul(d as usize))
    }
}
