//! The one error type of the core ring: what kind, what is wrong and where, without allocating.

use core::fmt;

/// What kind of error it is. The numbers are those of the C ABI and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Kind {
    /// The bytes are not an image, or are damaged.
    BadImage = 1,
    /// The image is of a version, or uses a layout, that this build can't read.
    Version = 2,
    /// The bytes or the arena are not aligned as the image asks.
    Alignment = 3,
    /// The caller's arena is too small.
    ArenaTooSmall = 4,
    /// The op set that was given lacks an op of the image.
    MissingOp = 5,
    /// No tensor, program or symbol of that name or number.
    NotFound = 6,
    /// A tensor has another element type than the call says.
    DType = 7,
    /// A tensor has another shape or length than the call says.
    Shape = 8,
    /// A run was asked for before all inputs were written.
    InputMissing = 9,
    /// A value met while running is out of its range (an index into a table, for instance).
    Value = 10,
    /// The instruction set asked for is not one of this CPU, or not one of this build.
    Isa = 11,
    /// An op outside the core ring failed or is not available here.
    Extern = 12,
    /// A self-test gave another answer than the image says is right.
    SelfTest = 13,
}

/// Where the error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Where {
    /// Nowhere in particular.
    Nowhere,
    /// At a byte offset of the image.
    Offset(u32),
    /// At the op with this number, in the program's order.
    Op(u32),
    /// At the tensor with this number, in the program's order.
    Tensor(u32),
}

/// An error of the core ring.
///
/// With the feature `terse` it is two words, which functions return in registers: a firmware is 3 % smaller for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Error {
    /// What kind of error it is.
    pub kind: Kind,
    place: Place,
    number: u32,
    #[cfg(not(feature = "terse"))]
    what: &'static str,
}

/// A [`Where`] without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
enum Place {
    Nowhere,
    Offset,
    Op,
    Tensor,
}

/// A result of the core ring.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// An error without a place.
    #[inline]
    pub const fn new(kind: Kind, what: &'static str) -> Error {
        #[cfg(feature = "terse")]
        let _ = what;
        Error {
            kind,
            place: Place::Nowhere,
            number: 0,
            #[cfg(not(feature = "terse"))]
            what,
        }
    }

    /// The same error at a place; a place that is known already is kept.
    pub const fn at(self, at: Where) -> Error {
        if !matches!(self.place, Place::Nowhere) {
            return self;
        }
        let (place, number) = match at {
            Where::Nowhere => (Place::Nowhere, 0),
            Where::Offset(n) => (Place::Offset, n),
            Where::Op(n) => (Place::Op, n),
            Where::Tensor(n) => (Place::Tensor, n),
        };
        Error { place, number, ..self }
    }

    /// Where it is.
    pub const fn place(&self) -> Where {
        match self.place {
            Place::Nowhere => Where::Nowhere,
            Place::Offset => Where::Offset(self.number),
            Place::Op => Where::Op(self.number),
            Place::Tensor => Where::Tensor(self.number),
        }
    }

    /// What is wrong and, where it is not plain, what to do. Empty in a build with the feature `terse`.
    pub const fn what(&self) -> &'static str {
        #[cfg(feature = "terse")]
        return "";
        #[cfg(not(feature = "terse"))]
        self.what
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what() {
            "" => write!(f, "{:?}", self.kind)?,
            what => f.write_str(what)?,
        }
        match self.place() {
            Where::Nowhere => Ok(()),
            Where::Offset(n) => write!(f, " (byte {n} of the image)"),
            Where::Op(n) => write!(f, " (op {n})"),
            Where::Tensor(n) => write!(f, " (tensor {n})"),
        }
    }
}

impl core::error::Error for Error {}
