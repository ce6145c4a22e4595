//! Element-wise computation: one op evaluates a small program of unary and binary functions over tiles, with broadcast.

use super::cut::ELEMENTS;
use super::{Operands, Record, Tile, bad, rounds_of};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Axes of a [`Map`]'s index space at the most, after merging.
pub const MAP_RANK: usize = 6;
/// Values that may be live in a map's program, inputs included.
pub const MAX_REGISTERS: usize = 16;
/// Elements that are computed at a time, half as many of integers.
pub const TILE: usize = 256;

/// Rows and columns that are computed at a time, of so many elements at most: whole rows if they fit.
pub(crate) fn tile_size(rows: usize, columns: usize, most: usize) -> (usize, usize) {
    let width = columns.clamp(1, most);
    ((most / width).clamp(1, rows.max(1)), width)
}

/// Bytes of a register, whose elements have `size` bytes: a tile's, a multiple of eight of them. If all registers had [`TILE`]
/// elements, a small network would have more scratch memory than activations.
pub(crate) fn register_bytes(rows: usize, columns: usize, size: usize) -> usize {
    let (rows, columns) = tile_size(rows, columns, 4 * TILE / size);
    size * (rows * columns).next_multiple_of(8)
}

/// The numbers that a map computes in. Inputs are converted when loaded, results when stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Domain {
    /// `f32`; booleans are 0 and 1, and a stored boolean is "not zero". Conversion to an integer type truncates towards
    /// zero and saturates. `f64` inputs are rounded to `f32`.
    F32 = 0,
    /// `i64`, for all integer types and booleans; stores wrap (a store to floats rounds).
    I64 = 1,
    /// `f64`, for any types of which one is `f64`; otherwise as [`Domain::F32`].
    F64 = 2,
}

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$doc])* $variant = $number),* }
        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[$name] = &[$($name::$variant),*];
            /// The one with this number, if there is one.
            pub const fn from_number(number: u32) -> Option<$name> {
                match number { $($number => Some($name::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// A function of one value `x` and up to two parameters `p`. The numbers are stored in images and never change.
    Unary {
        /// `x`
        Identity = 0,
        /// `min(max(x, p0), p1)`; ReLU is `p = [0, inf]`. NaN stays NaN.
        Clip = 1,
        /// `x < 0 ? p0 * x : x`
        LeakyRelu = 2,
        /// `x * min(max(x * p0 + p1, 0), 1)`; hard-swish is `p = [1/6, 0.5]`
        HardSwish = 3,
        /// `min(max(x * p0 + p1, 0), 1)`
        HardSigmoid = 4,
        /// `1 / (1 + exp(-x))`
        Sigmoid = 5,
        /// `x * sigmoid(x)`
        Silu = 6,
        /// `tanh(x)`
        Tanh = 7,
        /// `x / 2 * (1 + erf(x / sqrt(2)))`
        Gelu = 8,
        /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`
        GeluTanh = 9,
        /// `x < 0 ? p0 * (exp(x) - 1) : x`
        Elu = 10,
        /// `p1 * (x < 0 ? p0 * (exp(x) - 1) : x)`
        Selu = 11,
        /// `ln(1 + exp(x))`
        Softplus = 12,
        /// `x / (1 + |x|)`
        Softsign = 13,
        /// `x * tanh(ln(1 + exp(x)))`
        Mish = 14,
        /// `erf(x)`
        Erf = 15,
        /// `exp(x)`
        Exp = 16,
        /// `ln(x)`
        Log = 17,
        /// `sqrt(x)`
        Sqrt = 18,
        /// `1 / sqrt(x)`
        Rsqrt = 19,
        /// `1 / x`
        Recip = 20,
        /// `-x`
        Neg = 21,
        /// `|x|`
        Abs = 22,
        /// -1, 0 or 1
        Sign = 23,
        /// Largest integer not above `x`
        Floor = 24,
        /// Smallest integer not below `x`
        Ceil = 25,
        /// Nearest integer, ties to even
        Round = 26,
        /// `x * x`
        Square = 27,
        /// `x` to the power `p0`
        PowConst = 28,
        /// `sin(x)`
        Sin = 29,
        /// `cos(x)`
        Cos = 30,
        /// `tan(x)`
        Tan = 31,
        /// `x == 0`
        Not = 32,
        /// `x * p0 + p1`
        Affine = 33,
        /// `x` is NaN
        IsNan = 34,
        /// `x` is infinite (`p0 != 0`: minus infinity counts; `p1 != 0`: plus infinity counts)
        IsInf = 35,
        /// Towards zero
        Trunc = 36,
        /// `asin(x)`
        Asin = 37,
        /// `acos(x)`
        Acos = 38,
        /// `atan(x)`
        Atan = 39,
        /// `sinh(x)`
        Sinh = 40,
        /// `cosh(x)`
        Cosh = 41,
        /// `asinh(x)`
        Asinh = 42,
        /// `acosh(x)`
        Acosh = 43,
        /// `atanh(x)`
        Atanh = 44,
        /// All bits flipped (integers)
        BitNot = 45,
    }
}

codes! {
    /// A function of two values. The numbers are stored in images and never change.
    Binary {
        /// `a + b`
        Add = 0,
        /// `a - b`
        Sub = 1,
        /// `a * b`
        Mul = 2,
        /// `a / b`; integers towards zero, by zero gives 0
        Div = 3,
        /// The smaller; NaN if either is
        Min = 4,
        /// The larger; NaN if either is
        Max = 5,
        /// `a` to the power `b`
        Pow = 6,
        /// Remainder with the sign of `a` (C's); integers by zero give 0
        Rem = 7,
        /// Remainder with the sign of `b` (Python's); integers by zero give 0
        Mod = 8,
        /// `a == b`
        Equal = 9,
        /// `a != b`
        NotEqual = 10,
        /// `a < b`
        Less = 11,
        /// `a <= b`
        LessEqual = 12,
        /// `a > b`
        Greater = 13,
        /// `a >= b`
        GreaterEqual = 14,
        /// Both not zero
        And = 15,
        /// Either not zero
        Or = 16,
        /// Exactly one not zero
        Xor = 17,
        /// `a < 0 ? b * a : a`
        Prelu = 18,
        /// Bitwise, integers
        BitAnd = 19,
        /// Bitwise, integers
        BitOr = 20,
        /// Bitwise, integers
        BitXor = 21,
        /// `a << b`, 0 from the width on
        ShiftLeft = 22,
        /// `a >> b` of a value taken as unsigned, 0 from the width on
        ShiftRight = 23,
        /// `atan2(a, b)`
        Atan2 = 24,
        /// `a >> b`, which keeps the sign; from the width on, or by a negative `b`, only the sign is left
        ShiftRightSigned = 25,
    }
}

impl Unary {
    /// Whether kernels finish a product with it in registers: none, a clamp, or a hard swish.
    pub const fn is_clamp(self) -> bool {
        matches!(self, Unary::Identity | Unary::Clip | Unary::HardSwish)
    }

    /// Whether it is a function of floats: all but the bitwise ones.
    pub const fn on_floats(self) -> bool {
        !matches!(self, Unary::BitNot)
    }

    /// Whether it is a function of integers.
    pub const fn on_integers(self) -> bool {
        use Unary::*;
        matches!(self, Identity | Neg | Abs | Sign | Floor | Ceil | Round | Trunc | Square | Not | BitNot)
    }
}

impl Binary {
    /// Whether it is a function of floats: all but the bitwise ones and shifts.
    pub const fn on_floats(self) -> bool {
        use Binary::*;
        !matches!(self, BitAnd | BitOr | BitXor | ShiftLeft | ShiftRight | ShiftRightSigned)
    }

    /// Whether it is a function of integers.
    pub const fn on_integers(self) -> bool {
        !matches!(self, Binary::Atan2)
    }
}

/// One step of a map's program: `register[to] = f(registers a, b, c)`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Instruction {
    /// 0: constant (the parameters; in the `I64` and `F64` domains the low and high half of its bits). 1: [`Unary`] of `a`.
    /// 2: [`Binary`] of `a`, `b`. 3: `a != 0 ? b : c`.
    pub class: u8,
    /// Number of the [`Unary`] or [`Binary`] function.
    pub function: u8,
    /// The register written: not one of the inputs'.
    pub to: u8,
    /// First argument.
    pub a: u8,
    /// Second argument.
    pub b: u8,
    /// Third argument.
    pub c: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Parameters, as the bits of two `f32` (or of one `i64` constant, low half first).
    pub p: [u32; 2],
}

impl Instruction {
    /// Class of a constant.
    pub const CONSTANT: u8 = 0;
    /// Class of a unary function.
    pub const UNARY: u8 = 1;
    /// Class of a binary function.
    pub const BINARY: u8 = 2;
    /// Class of a selection.
    pub const SELECT: u8 = 3;
}

/// An element-wise op over an index space of up to [`MAP_RANK`] axes.
///
/// Inputs: one tensor per register `0..inputs`, addressed by its own strides (0: broadcast). Output: one tensor, contiguous
/// in the order of the axes, whose type the result is converted to. The output may share its memory with an input of the
/// same element size that is contiguous in the same order.
///
/// Tail: per input `[i32; MAP_RANK]` strides in elements of that input (never negative), then the [`Instruction`]s.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Map {
    /// A [`Domain`].
    pub domain: u32,
    /// Axes that are used, 1 to [`MAP_RANK`]; the others have size 1.
    pub rank: u32,
    /// Sizes, outermost first: the first `rank` of them count.
    pub dims: [u32; MAP_RANK],
    /// Number of inputs.
    pub inputs: u32,
    /// Number of registers, inputs included.
    pub registers: u32,
    /// Number of instructions.
    pub instructions: u32,
    /// The register that is stored.
    pub result: u16,
    /// The first so many inputs are read where they lie, and have no memory as registers: `f32` in a map over `f32`, whose elements
    /// lie side by side along the last axis of more than one element, or are one.
    pub direct: u16,
}

impl Map {
    /// The strides of the inputs and the instructions, out of the tail.
    ///
    /// # Errors
    /// [`Kind::BadImage`](crate::error::Kind::BadImage) when the tail is too short.
    pub fn tail<'a>(&self, tail: &'a [u8]) -> Result<(&'a [[i32; MAP_RANK]], &'a [Instruction])> {
        let strides = <[[i32; MAP_RANK]]>::ref_from_prefix_with_elems(tail, self.inputs as usize);
        if let Ok((strides, rest)) = strides
            && let Ok((instructions, _)) = <[Instruction]>::ref_from_prefix_with_elems(rest, self.instructions as usize)
        {
            return Ok((strides, instructions));
        }
        bad("a map's program is cut short")
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().take(self.rank as usize).fold(1u64, |n, &d| n.saturating_mul(d as u64))
    }

    /// Sizes of the last two axes.
    fn rows_and_columns(&self) -> (usize, usize) {
        match self.dims.get(..self.rank as usize) {
            Some([.., rows, columns]) => (*rows as usize, *columns as usize),
            Some([columns]) => (1, *columns as usize),
            _ => (1, 1),
        }
    }
}

impl Record for Map {
    fn check(&self, tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        let inputs = self.inputs as usize;
        if self.domain > 2 || self.rank == 0 || self.rank as usize > MAP_RANK {
            return bad("a map has an unknown domain or too many axes");
        }
        if self.registers as usize > MAX_REGISTERS || self.result as u32 >= self.registers || self.inputs > self.registers {
            return bad("a map has too many registers, or none for its result");
        }
        if operands.inputs.len() < inputs {
            return bad("an op lacks an input");
        }
        let integers = self.domain == Domain::I64 as u32;
        let direct = self.direct as usize;
        if direct > inputs || (direct > 0 && self.domain != Domain::F32 as u32) {
            return bad("a map can't read so many inputs where they lie");
        }
        let (strides, instructions) = self.tail(tail)?;
        let dims = &self.dims[..self.rank as usize];
        for (i, strides) in strides.iter().enumerate() {
            let mut last = 0u64;
            for (&d, &s) in dims.iter().zip(strides) {
                if s < 0 {
                    return bad("a map's stride is negative");
                }
                let step = (d.max(1) as u64 - 1) * s as u64;
                last = match last.checked_add(step) {
                    Some(last) => last,
                    None => return bad("an op's strides overflow"),
                };
            }
            let operand = operands.input(i)?;
            let innermost = dims.iter().zip(strides).rfind(|&(&d, _)| d != 1).map_or(0, |(_, &s)| s);
            if i < direct && (operand.dtype != DType::F32 || innermost > 1) {
                return bad("a map can't read an input where it lies");
            }
            if integers && matches!(operand.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
                return bad("a map over integers has a floating-point input");
            }
            let elements = if dims.contains(&0) { 0 } else { last + 1 };
            operand.holds(operand.dtype, elements)?;
        }
        let output = operands.output(0)?;
        output.holds(output.dtype, self.elements())?;
        let mut written = [false; MAX_REGISTERS];
        written[..inputs].fill(true);
        for step in instructions {
            let known = match step.class {
                Instruction::CONSTANT => true,
                Instruction::UNARY => Unary::from_number(step.function as u32)
                    .is_some_and(|f| if integers { f.on_integers() } else { f.on_floats() }),
                Instruction::BINARY => Binary::from_number(step.function as u32)
                    .is_some_and(|f| if integers { f.on_integers() } else { f.on_floats() }),
                Instruction::SELECT => true,
                _ => false,
            };
            if !known {
                return bad("a map's program has an instruction that is unknown, or not one of its numbers");
            }
            let all = [step.a, step.b, step.c];
            if all.iter().any(|&r| r as usize >= MAX_REGISTERS) {
                return bad("a map's program names a register that there can't be");
            }
            let used = &all[..step.class as usize];
            if used.iter().any(|&r| r as usize >= self.registers as usize || !written[r as usize]) {
                return bad("a map's program reads a register that holds nothing");
            }
            if step.to as u32 >= self.registers || (step.to as usize) < inputs {
                return bad("a map's program writes to a register that it must not");
            }
            written[step.to as usize] = true;
        }
        if !written[self.result as usize] {
            return bad("a map's result is never computed");
        }
        Ok(())
    }

    /// Its registers, but those of the inputs that are read where they lie; `f64` are computed one at a time.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        let size = match self.domain {
            d if d == Domain::F32 as u32 => size_of::<f32>(),
            d if d == Domain::I64 as u32 => size_of::<i64>(),
            _ => return 0,
        };
        let (rows, columns) = self.rows_and_columns();
        self.registers.saturating_sub(self.direct as u32) as u64 * register_bytes(rows, columns, size) as u64
    }

    fn rounds(&self) -> u64 {
        rounds_of(&self.dims)
    }

    /// Elements of a tile, or of a few rows of less than sixteen times as many.
    fn unit_work(&self, _tile: Tile) -> u64 {
        self.elements().min(16 * ELEMENTS as u64)
    }
}
