//! Element-wise programs over integers and booleans, in `i64`.
//!
//! As for [`f32`](super::map), tiles are computed instruction by instruction, so that the choice of a function is made once per
//! tile; but all inputs are widened into registers first, which are as long as the tile. The functions that index arithmetic and
//! masks are made of have loops of their own for vectors; a backend of one lane, as a device's, has one loop for all.
#![allow(unsafe_code)]

use super::half::{f32_to_bf16, f32_to_f16};
use super::map::{Input, Tile, Tiles, assert_inside, tiles};
use super::{Backend, Dst, F32s, Kernel, clamp};
use crate::program::map::{MAP_RANK, MAX_REGISTERS, TILE, register_bytes, tile_size};
use crate::program::{Binary, Instruction, Unary};
use crate::tensor::DType;
use core::ops::Range;

/// Elements of a register at the most: as many bytes as one of `f32` has.
const BATCH: usize = TILE / 2;

/// Evaluates a program in the `i64` domain: integers and booleans.
#[derive(Clone, Copy, Debug)]
pub struct MapI64<'a> {
    /// As in [`MapF32`](super::map::MapF32).
    pub dims: [usize; MAP_RANK],
    /// Inputs, of integer types or booleans.
    pub inputs: &'a [Input<'a>],
    /// As in [`MapF32`](super::map::MapF32).
    pub instructions: &'a [Instruction],
    /// As in [`MapF32`](super::map::MapF32).
    pub result: usize,
    /// As in [`MapF32`](super::map::MapF32).
    pub output: Dst<'a, u8>,
    /// Its element type; stores wrap.
    pub dtype: DType,
    /// As large as [`register_bytes`] says, for each.
    pub registers: Dst<'a, i64>,
}

impl MapI64<'_> {
    /// Evaluates these of its units, which are tiles; gives how many there are.
    ///
    /// # Panics
    /// If inputs, output or registers are too short.
    pub fn run<B: Backend>(self, units: Range<usize>) -> usize {
        for input in self.inputs {
            assert_inside(&self.dims, &input.strides, input.dtype.size(), input.data.len());
        }
        let elements: usize = self.dims.iter().product();
        assert!(elements * self.dtype.size() <= self.output.len() && self.inputs.len() <= MAX_REGISTERS);
        let named = self.instructions.iter().flat_map(|s| [s.to, s.a, s.b, s.c].into_iter().take(1 + s.class as usize));
        let registers = named.map(|r| r as usize + 1).max().unwrap_or(0).max(self.inputs.len()).max(self.result + 1);
        let (rows, columns) = (self.dims[MAP_RANK - 2], self.dims[MAP_RANK - 1]);
        let each = register_bytes(rows, columns, size_of::<i64>()) / size_of::<i64>();
        assert!(registers * each <= self.registers.len());
        let size = tile_size(rows, columns, BATCH);
        let count = tiles(&self.dims, size);
        for tile in Tiles::new(self.dims, self.inputs, size, false, clamp(units, count)) {
            // SAFETY: the tile is a part of the index space, whose extent was asserted above, as were the registers.
            unsafe { self.tile::<B>(&tile, each) }
        }
        count
    }

    /// # Safety
    /// The tile is one of the index space; inputs, output and registers (of `each` elements) are as large as `run` asserts.
    unsafe fn tile<B: Backend>(&self, tile: &Tile, each: usize) {
        let Tile { ref offsets, out, rows, columns } = *tile;
        let register = |i: usize| {
            // SAFETY: `run` asserts that all registers are there.
            unsafe { self.registers.pointer().add(i * each) }
        };
        for (i, input) in self.inputs.iter().enumerate() {
            let strides = (input.strides[MAP_RANK - 2], input.strides[MAP_RANK - 1]);
            // SAFETY: the tile lies inside of the input; a register holds a tile.
            unsafe { load(input, offsets[i], strides, register(i), rows, columns) };
        }
        for &step in self.instructions {
            // Only those that the class has: the others may name any register.
            let argument = |k: usize, r: u8| register(if k < step.class as usize { r as usize } else { 0 }).cast_const();
            let arguments = [argument(0, step.a), argument(1, step.b), argument(2, step.c)];
            B::launch(Step { step, arguments, to: register(step.to as usize), n: rows * columns });
        }
        // SAFETY: the result covers the tile, which lies inside of the output.
        unsafe { store(register(self.result), self.output, self.dtype, out, self.dims[MAP_RANK - 1], rows, columns) };
    }
}

/// Elements that are computed at a time where there are vectors: each register is a multiple of them.
const CHUNK: usize = 8;
const _: () = assert!(BATCH.is_multiple_of(CHUNK));

/// One instruction over registers: `to[i] = f(arguments[i])`.
#[derive(Clone, Copy)]
struct Step {
    step: Instruction,
    arguments: [*const i64; 3],
    to: *mut i64,
    n: usize,
}

impl Kernel for Step {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        if V::LANES == 1 || !self.by_vectors() {
            for i in 0..self.n {
                // SAFETY: registers hold `n` elements and more.
                unsafe { self.to.add(i).write(one(&self.step, self.arguments.map(|a| a.add(i).read()))) }
            }
        }
    }
}

impl Step {
    /// Computes all elements if the function is one of those for vectors, else none.
    #[inline(always)]
    fn by_vectors(&self) -> bool {
        macro_rules! binary {
            ($f:expr => $($name:ident)*) => {
                match $f {
                    $(Some(Binary::$name) => self.each(#[inline(always)] |[x, y, _]| binary_i64(Binary::$name, x, y)),)*
                    _ => return false,
                }
            };
        }
        let number = self.step.function as u32;
        match self.step.class {
            Instruction::CONSTANT => {
                let value = constant(&self.step);
                self.each(|_| value);
            }
            Instruction::UNARY => match Unary::from_number(number) {
                Some(Unary::Neg) => self.each(|[x, _, _]| x.wrapping_neg()),
                Some(Unary::Not) => self.each(|[x, _, _]| (x == 0) as i64),
                _ => return false,
            },
            Instruction::BINARY => binary!(Binary::from_number(number) =>
                Add Sub Mul Min Max Equal NotEqual Less LessEqual Greater GreaterEqual And Or Xor BitAnd BitOr BitXor),
            _ => self.each(|[x, y, z]| if x != 0 { y } else { z }),
        }
        true
    }

    /// Applies a function to all elements, and to what is left of the last chunk.
    #[inline(always)]
    fn each(&self, f: impl Fn([i64; 3]) -> i64) {
        for i in (0..self.n).step_by(CHUNK) {
            // A chunk is read before it is written: the loop needs no question whether registers are the same.
            // SAFETY: registers are whole chunks.
            unsafe {
                let [x, y, z] = self.arguments.map(|a| a.add(i).cast::<[i64; CHUNK]>().read());
                let mut result = [0; CHUNK];
                for (k, r) in result.iter_mut().enumerate() {
                    *r = f([x[k], y[k], z[k]]);
                }
                self.to.add(i).cast::<[i64; CHUNK]>().write(result);
            }
        }
    }
}

fn constant(step: &Instruction) -> i64 {
    (step.p[0] as u64 | (step.p[1] as u64) << 32) as i64
}

/// An instruction's value of these arguments.
pub(crate) fn one(step: &Instruction, [a, b, c]: [i64; 3]) -> i64 {
    match step.class {
        Instruction::CONSTANT => constant(step),
        Instruction::UNARY => unary_i64(Unary::from_number(step.function as u32).unwrap_or(Unary::Identity), a),
        Instruction::BINARY => binary_i64(Binary::from_number(step.function as u32).unwrap_or(Binary::Add), a, b),
        _ if a != 0 => b,
        _ => c,
    }
}

/// Loads strided elements.
///
/// # Safety
/// Elements `offset + r * row + c * column` lie inside of the input; `to` holds `rows * columns`.
unsafe fn load(input: &Input<'_>, offset: usize, (row, column): (usize, usize), to: *mut i64, rows: usize, columns: usize) {
    macro_rules! convert {
        ($t:ty, $v:ident => $e:expr) => {{
            // SAFETY: as the caller promises; tensors are aligned for their elements.
            unsafe {
                let from = input.data.pointer().cast::<$t>().add(offset);
                for r in 0..rows {
                    for c in 0..columns {
                        let $v = from.add(r * row + c * column).read();
                        to.add(r * columns + c).write($e);
                    }
                }
            }
        }};
    }
    match input.dtype {
        DType::I8 => convert!(i8, v => v as i64),
        DType::I16 => convert!(i16, v => v as i64),
        DType::I32 => convert!(i32, v => v as i64),
        DType::I64 | DType::U64 => convert!(i64, v => v),
        DType::U8 => convert!(u8, v => v as i64),
        DType::U16 => convert!(u16, v => v as i64),
        DType::U32 => convert!(u32, v => v as i64),
        DType::Bool => convert!(u8, v => (v != 0) as i64),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {} // `check` rejects them
    }
}

/// Stores a register as elements of any type.
///
/// # Safety
/// `from` holds `rows * columns` elements; elements `offset + r * stride + c` lie inside of the output.
unsafe fn store(from: *const i64, output: Dst<'_, u8>, dtype: DType, offset: usize, stride: usize, rows: usize, columns: usize) {
    macro_rules! convert {
        ($t:ty, $v:ident => $e:expr) => {{
            // SAFETY: as the caller promises; tensors are aligned for their elements.
            unsafe {
                let to = output.pointer().cast::<$t>().add(offset);
                for r in 0..rows {
                    for c in 0..columns {
                        let $v = from.add(r * columns + c).read();
                        to.add(r * stride + c).write($e);
                    }
                }
            }
        }};
    }
    match dtype {
        DType::I8 | DType::U8 => convert!(u8, v => v as u8),
        DType::I16 | DType::U16 => convert!(u16, v => v as u16),
        DType::I32 | DType::U32 => convert!(u32, v => v as u32),
        DType::I64 | DType::U64 => convert!(i64, v => v),
        DType::Bool => convert!(u8, v => (v != 0) as u8),
        DType::F32 => convert!(f32, v => v as f32),
        DType::F64 => convert!(f64, v => v as f64),
        DType::F16 => convert!(u16, v => f32_to_f16(v as f32)),
        DType::BF16 => convert!(u16, v => f32_to_bf16(v as f32)),
    }
}

/// A [`Unary`] function of an integer; those that [`Unary::on_integers`] excludes give `x`.
fn unary_i64(f: Unary, x: i64) -> i64 {
    match f {
        Unary::Neg => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Sign => x.signum(),
        Unary::Square => x.wrapping_mul(x),
        Unary::Not => (x == 0) as i64,
        Unary::BitNot => !x,
        _ => x,
    }
}

/// A [`Binary`] function of integers; those that [`Binary::on_integers`] excludes give `a`.
#[inline]
pub(crate) fn binary_i64(f: Binary, a: i64, b: i64) -> i64 {
    match f {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => {
            if b == 0 {
                0
            } else {
                a.wrapping_div(b)
            }
        }
        Binary::Rem => {
            if b == 0 {
                0
            } else {
                a.wrapping_rem(b)
            }
        }
        Binary::Mod if b == 0 => 0,
        Binary::Mod => {
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
        }
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Pow => pow_i64(a, b),
        Binary::Equal => (a == b) as i64,
        Binary::NotEqual => (a != b) as i64,
        Binary::Less => (a < b) as i64,
        Binary::LessEqual => (a <= b) as i64,
        Binary::Greater => (a > b) as i64,
        Binary::GreaterEqual => (a >= b) as i64,
        Binary::And => (a != 0 && b != 0) as i64,
        Binary::Or => (a != 0 || b != 0) as i64,
        Binary::Xor => ((a != 0) != (b != 0)) as i64,
        Binary::Prelu => {
            if a < 0 {
                a.wrapping_mul(b)
            } else {
                a
            }
        }
        Binary::BitAnd => a & b,
        Binary::BitOr => a | b,
        Binary::BitXor => a ^ b,
        Binary::ShiftLeft => {
            if (0..64).contains(&b) {
                a << b
            } else {
                0
            }
        }
        Binary::ShiftRightSigned => a >> if (0..64).contains(&b) { b } else { 63 },
        Binary::ShiftRight => {
            if (0..64).contains(&b) {
                (a as u64 >> b) as i64
            } else {
                0
            }
        }
        Binary::Atan2 => a,
    }
}

/// Wraps; a negative exponent truncates the quotient towards zero (0 to a negative power gives 0).
fn pow_i64(a: i64, b: i64) -> i64 {
    match (a, b) {
        (1, _) => 1,
        (-1, b) => {
            if b & 1 == 0 {
                1
            } else {
                -1
            }
        }
        (_, b) if b < 0 => 0,
        (a, b) => {
            let (mut base, mut exponent, mut result) = (a, b, 1i64);
            while exponent > 0 {
                if exponent & 1 == 1 {
                    result = result.wrapping_mul(base);
                }
                base = base.wrapping_mul(base);
                exponent >>= 1;
            }
            result
        }
    }
}
