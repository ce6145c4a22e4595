//! Status codes, and what an error says beyond its code.

use super::image::kiln_text;
use crate::error::{Error, Kind, Where};
use core::ffi::c_char;
use core::mem::MaybeUninit;

/// What a call came to. Numbers keep their meaning for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(i32)]
#[allow(clippy::upper_case_acronyms)]
pub enum kiln_status {
    /// All is well.
    KILN_OK = 0,
    /// The bytes are not an image, or are damaged.
    KILN_BAD_IMAGE = 1,
    /// The image is of a version, or uses a layout, that this library can't read: compile the model again.
    KILN_BAD_VERSION = 2,
    /// Image, arena or object do not lie in memory as aligned as they must.
    KILN_MISALIGNED = 3,
    /// The arena is smaller than the program asks.
    KILN_ARENA_TOO_SMALL = 4,
    /// The list of ops lacks one that the program has.
    KILN_MISSING_OP = 5,
    /// There is no program, input, output or metadata of that number or name.
    KILN_NOT_FOUND = 6,
    /// The tensor has another element type than the call says.
    KILN_WRONG_DTYPE = 7,
    /// The tensor has another number of elements than the call says.
    KILN_WRONG_SIZE = 8,
    /// A run before every input was written, or an output before a run.
    KILN_INPUT_MISSING = 9,
    /// A value met while running is out of its range: an index into a table, for instance.
    KILN_BAD_VALUE = 10,
    /// The CPU does not have the instruction set that was asked for.
    KILN_NO_ISA = 11,
    /// The program has an op that only a host with the ONNX file can evaluate.
    KILN_EXTERN_OP = 12,
    /// The self-test gave another answer than the image says is right.
    KILN_SELF_TEST_FAILED = 13,
    /// A pointer is null that may not be.
    KILN_NULL = 64,
    /// The object was not initialised, or is a copy of one that was.
    KILN_NOT_INITIALIZED = 65,
}
use kiln_status::*;

impl kiln_status {
    /// The status of an error's kind; their numbers are the same.
    pub(super) const fn of(kind: Kind) -> kiln_status {
        match kind {
            Kind::BadImage => KILN_BAD_IMAGE,
            Kind::Version => KILN_BAD_VERSION,
            Kind::Alignment => KILN_MISALIGNED,
            Kind::ArenaTooSmall => KILN_ARENA_TOO_SMALL,
            Kind::MissingOp => KILN_MISSING_OP,
            Kind::NotFound => KILN_NOT_FOUND,
            Kind::DType => KILN_WRONG_DTYPE,
            Kind::Shape => KILN_WRONG_SIZE,
            Kind::InputMissing => KILN_INPUT_MISSING,
            Kind::Value => KILN_BAD_VALUE,
            Kind::Isa => KILN_NO_ISA,
            Kind::Extern => KILN_EXTERN_OP,
            Kind::SelfTest => KILN_SELF_TEST_FAILED,
        }
    }
}

/// What the number of a `kiln_error` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum kiln_place {
    /// Nothing: the error has no place.
    KILN_NOWHERE = 0,
    /// A byte of the image.
    KILN_AT_BYTE = 1,
    /// An op of the program, in the order in which they run, from 0.
    KILN_AT_OP = 2,
    /// A tensor of the program.
    KILN_AT_TENSOR = 3,
}

/// What a failed call met.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct kiln_error {
    /// The status that the call returned; `KILN_OK` where no call has failed.
    pub status: kiln_status,
    /// What `number` counts.
    pub place: kiln_place,
    /// Where it happened.
    pub number: u32,
    /// What is wrong and, where it is not plain, what to do. Part of the library: valid for ever.
    pub what: kiln_text,
}

impl kiln_error {
    pub(super) const NONE: kiln_error =
        kiln_error { status: KILN_OK, place: kiln_place::KILN_NOWHERE, number: 0, what: kiln_text::new("") };

    pub(super) const fn new(status: kiln_status, what: &'static str) -> kiln_error {
        kiln_error { status, what: kiln_text::new(what), ..Self::NONE }
    }
}

impl From<Error> for kiln_error {
    fn from(error: Error) -> kiln_error {
        let (place, number) = match error.place() {
            Where::Nowhere => (kiln_place::KILN_NOWHERE, 0),
            Where::Offset(n) => (kiln_place::KILN_AT_BYTE, n),
            Where::Op(n) => (kiln_place::KILN_AT_OP, n),
            Where::Tensor(n) => (kiln_place::KILN_AT_TENSOR, n),
        };
        kiln_error { status: kiln_status::of(error.kind), place, number, what: kiln_text::new(error.what()) }
    }
}

/// The text of a status: English, one line, ends in a zero byte, valid for ever. Never null: a number that is no status has
/// a text that says so.
#[unsafe(no_mangle)]
pub extern "C" fn kiln_status_text(status: MaybeUninit<kiln_status>) -> *const c_char {
    // SAFETY: C passes a number, maybe none of the enum's; as a number any value is sound. Same size: `repr(i32)`.
    let number: i32 = unsafe { core::mem::transmute(status) };
    let text = match number {
        0 => c"all is well",
        1 => c"the bytes are not a kiln image, or are damaged",
        2 => c"the image is of a version that this library can't read: compile the model again",
        3 => c"image, arena or object do not lie in memory as aligned as they must",
        4 => c"the arena is smaller than the program asks",
        5 => c"the list of ops lacks one that the program has",
        6 => c"there is no program, input, output or metadata of that number or name",
        7 => c"the tensor has another element type than the call says",
        8 => c"the tensor has another number of elements than the call says",
        9 => c"a run before every input was written, or an output before a run",
        10 => c"a value met while running is out of its range",
        11 => c"the CPU does not have the instruction set that was asked for",
        12 => c"the program has an op that only a host with the ONNX file can evaluate",
        13 => c"the self-test gave another answer than the image says is right",
        64 => c"a pointer is null that may not be",
        65 => c"the object was not initialised, or is a copy of one that was",
        _ => c"not a status of kiln",
    };
    text.as_ptr()
}
