//! Element-wise programs over tiles.
//!
//! The index space is walked in tiles of rows by columns, small enough for the registers of a program to stay in the L1
//! cache ([`TILE`] elements each); each instruction runs over the whole tile before the next, so that the choice of
//! function is made once per tile and the loops stay simple. What avoids memory traffic:
//! * an `f32` input whose columns lie side by side, or are broadcast, is read where it lies ([`View`]);
//! * a value that does not vary along rows or columns is computed and kept as one row, one column or one number;
//! * the last instruction writes to the output;
//! * a program of one instruction over such inputs needs no register, and then tiles side by side are computed as one.
//!
//! A tile is a work unit; of programs over `f64`, which go element by element, so many elements are.
#![allow(unsafe_code)]

use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::{Backend, Dst, F32s, Kernel, Src, clamp, math};
use crate::program::cut::{ELEMENTS, group};
use crate::program::map::{MAP_RANK, MAX_REGISTERS, TILE, register_bytes, tile_size};
use crate::program::{Binary, Instruction, Unary};
use crate::tensor::DType;
use core::ops::Range;

/// An input: its memory, and its strides in elements, outermost axis first.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All its bytes.
    pub data: Src<'a, u8>,
    /// Element type.
    pub dtype: DType,
    /// Strides.
    pub strides: [usize; MAP_RANK],
}

/// Evaluates a program in the `f32` domain.
#[derive(Clone, Copy, Debug)]
pub struct MapF32<'a> {
    /// Sizes, outermost first; leading ones where there are fewer axes.
    pub dims: [usize; MAP_RANK],
    /// Inputs, one per register from 0 on.
    pub inputs: &'a [Input<'a>],
    /// The program: registers below [`MAX_REGISTERS`], known classes and functions; none writes to an input's.
    pub instructions: &'a [Instruction],
    /// The register that is stored.
    pub result: usize,
    /// The output's bytes: contiguous in the order of the axes. May be the memory of an input of the same element size
    /// that is contiguous in the same order.
    pub output: Dst<'a, u8>,
    /// Its element type.
    pub dtype: DType,
    /// As large as [`register_bytes`] says, for each but the first inputs, as many as are read where they lie.
    pub registers: Dst<'a, f32>,
}

/// A value over the tile: element (r, c) at `pointer + r * row + c * column`; `column` is 0 or 1.
#[derive(Clone, Copy)]
struct View {
    pointer: *const f32,
    row: usize,
    column: usize,
}

/// Panics unless strided accesses of `size` bytes stay inside of `len` bytes.
pub(super) fn assert_inside(dims: &[usize; MAP_RANK], strides: &[usize; MAP_RANK], size: usize, len: usize) {
    if !dims.contains(&0) {
        let last: usize = dims.iter().zip(strides).map(|(&d, &s)| (d - 1) * s).sum();
        assert!((last + 1) * size <= len);
    }
}

/// A tile: where it starts in each input and in the output, in elements, and its size.
pub(super) struct Tile {
    pub offsets: [usize; MAX_REGISTERS],
    pub out: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Some of the tiles of an index space, which are numbered in its order.
pub(super) struct Tiles<'a> {
    dims: [usize; MAP_RANK],
    inputs: &'a [Input<'a>],
    size: (usize, usize),
    /// Tiles side by side in the last two axes are taken as one.
    join: bool,
    /// The outer axes, then the row and the column where the next tile starts.
    index: [usize; MAP_RANK],
    block: usize,
    left: usize,
}

const ROW: usize = MAP_RANK - 2;
const COLUMN: usize = MAP_RANK - 1;

/// The number of tiles of an index space.
pub(super) fn tiles(dims: &[usize; MAP_RANK], size: (usize, usize)) -> usize {
    let outer: usize = dims[..ROW].iter().product();
    outer * dims[ROW].div_ceil(size.0) * dims[COLUMN].div_ceil(size.1)
}

impl<'a> Tiles<'a> {
    /// The tiles of this size, from and to these numbers.
    pub fn new(dims: [usize; MAP_RANK], inputs: &'a [Input<'a>], size: (usize, usize), join: bool, range: Range<usize>) -> Self {
        let mut tiles = Tiles { dims, inputs, size, join, index: [0; MAP_RANK], block: 0, left: range.len() };
        if range.start > 0 && tiles.left > 0 {
            let columns = dims[COLUMN].div_ceil(size.1);
            let each = dims[ROW].div_ceil(size.0) * columns;
            let (mut outer, tile) = (range.start / each, range.start % each);
            tiles.block = outer * dims[ROW] * dims[COLUMN];
            (tiles.index[ROW], tiles.index[COLUMN]) = (tile / columns * size.0, tile % columns * size.1);
            for axis in (0..ROW).rev() {
                tiles.index[axis] = outer % dims[axis];
                outer /= dims[axis];
            }
        }
        tiles
    }

    /// To the start of the next tile, behind one of this size.
    fn advance(&mut self, rows: usize, columns: usize) {
        self.index[COLUMN] += columns;
        if self.index[COLUMN] < self.dims[COLUMN] {
            return;
        }
        self.index[COLUMN] = 0;
        self.index[ROW] += rows;
        if self.index[ROW] < self.dims[ROW] {
            return;
        }
        self.index[ROW] = 0;
        self.block += self.dims[ROW] * self.dims[COLUMN];
        for axis in (0..ROW).rev() {
            self.index[axis] += 1;
            if self.index[axis] < self.dims[axis] {
                return;
            }
            self.index[axis] = 0;
        }
    }
}

impl Iterator for Tiles<'_> {
    type Item = Tile;
    fn next(&mut self) -> Option<Tile> {
        if self.left == 0 {
            return None;
        }
        let mut offsets = [0; MAX_REGISTERS];
        for (o, input) in offsets.iter_mut().zip(self.inputs) {
            *o = self.index.iter().zip(&input.strides).map(|(&i, &s)| i * s).sum();
        }
        let (r, c) = (self.index[ROW], self.index[COLUMN]);
        let (rows, columns) = (self.dims[ROW], self.dims[COLUMN]);
        let out = self.block + r * columns + c;
        let (mut height, mut width, mut taken) = (self.size.0, self.size.1, 1);
        if self.join {
            // Whole rows, or parts of one.
            let (length, each) = if width >= columns { (rows - r, &mut height) } else { (columns - c, &mut width) };
            taken = length.div_ceil(*each).min(self.left);
            *each *= taken;
        }
        self.left -= taken;
        let tile = Tile { offsets, out, rows: height.min(rows - r), columns: width.min(columns - c) };
        self.advance(height, width);
        Some(tile)
    }
}

/// Rows so long that they are cut where one instruction reads inputs in place: what a tile costs is nothing to them.
const LONG: usize = 16 * ELEMENTS;

/// The elements of units of [`TILE`] each.
pub(super) fn elements_of(units: Range<usize>, elements: usize) -> Range<usize> {
    clamp(units.start.saturating_mul(TILE)..units.end.saturating_mul(TILE), elements)
}

/// One instruction over a tile: `to[r][c] = f(arguments)`, for a unary function over rows.
///
/// Launched by itself for each instruction and tile: one function for a whole program would be compiled for minutes.
#[derive(Clone, Copy)]
struct Step {
    instruction: Instruction,
    arguments: [View; 3],
    to: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
}

/// `n` elements of a view, from (r, i) on.
///
/// # Safety
/// They are inside of the view; `n` is at most the number of lanes.
#[inline(always)]
unsafe fn part<V: F32s>(v: View, r: usize, i: usize, n: usize) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        let p = v.pointer.add(r * v.row);
        match (v.column, n == V::LANES) {
            (0, _) => V::splat(*p),
            (_, true) => V::load(p.add(i)),
            (_, false) => V::load_first(p.add(i), n),
        }
    }
}

/// Loops over rows and columns with vectors: columns that lie side by side, or one operand that is broadcast.
macro_rules! sweep {
    ($V:ident, $step:ident, $x:ident, $y:ident, $body:expr) => {{
        let [a, b, _] = $step.arguments;
        let columns = $step.columns;
        let whole = columns / $V::LANES * $V::LANES;
        for r in 0..$step.rows {
            let (pa, pb, pt) = (a.pointer.add(r * a.row), b.pointer.add(r * b.row), $step.to.add(r * $step.stride));
            let mut i = 0;
            if a.column == 1 && b.column == 1 {
                while i < whole {
                    let ($x, $y) = ($V::load(pa.add(i)), $V::load(pb.add(i)));
                    $body.store(pt.add(i));
                    i += $V::LANES;
                }
            } else if a.column == 1 {
                let $y = $V::splat(*pb);
                while i < whole {
                    let $x = $V::load(pa.add(i));
                    $body.store(pt.add(i));
                    i += $V::LANES;
                }
            } else if b.column == 1 {
                let $x = $V::splat(*pa);
                while i < whole {
                    let $y = $V::load(pb.add(i));
                    $body.store(pt.add(i));
                    i += $V::LANES;
                }
            }
            while i < columns {
                let n = (columns - i).min($V::LANES);
                let ($x, $y) = (part::<$V>(a, r, i, n), part::<$V>(b, r, i, n));
                $body.store_first(pt.add(i), n);
                i += n;
            }
        }
    }};
}

impl Kernel for Step {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let step = self;
        let number = self.instruction.function as u32;
        // SAFETY: whoever makes a step promises that the arguments and `to` cover `rows` by `columns` elements, `to` being
        // one of the arguments only with the same strides. The check has seen to it that functions are known.
        unsafe {
            match self.instruction.class {
                Instruction::UNARY => {
                    let f = Unary::from_number(number).unwrap_or(Unary::Identity);
                    let (a, p) = (self.arguments[0], self.instruction.p.map(f32::from_bits));
                    for r in 0..self.rows {
                        let (from, to) = (a.pointer.add(r * a.row), self.to.add(r * self.stride));
                        math::unary_slice::<V>(f, p, Src::from_raw(from, self.columns), Dst::from_raw(to, self.columns));
                    }
                }
                Instruction::BINARY => match Binary::from_number(number).unwrap_or(Binary::Add) {
                    Binary::Add => sweep!(V, step, x, y, x.add(y)),
                    Binary::Sub => sweep!(V, step, x, y, x.sub(y)),
                    Binary::Mul => sweep!(V, step, x, y, x.mul(y)),
                    Binary::Div => sweep!(V, step, x, y, x.div(y)),
                    f => self.each(
                        #[inline(always)]
                        |[x, y, _]: [V; 3]| math::binary(f, x, y),
                    ),
                },
                _ => self.each(
                    #[inline(always)]
                    |[x, y, z]: [V; 3]| V::select(x.eq(V::splat(0.0)), z, y),
                ),
            }
        }
    }
}

impl Step {
    /// Applies a function to all vectors of the tile.
    ///
    /// # Safety
    /// As `run` says.
    #[inline(always)]
    unsafe fn each<V: F32s>(&self, f: impl Fn([V; 3]) -> V) {
        for r in 0..self.rows {
            let mut i = 0;
            while i < self.columns {
                let n = (self.columns - i).min(V::LANES);
                // SAFETY: within `rows` by `columns`.
                unsafe {
                    let [a, b, c] = self.arguments;
                    let result = f([part::<V>(a, r, i, n), part::<V>(b, r, i, n), part::<V>(c, r, i, n)]);
                    let p = self.to.add(r * self.stride + i);
                    if n == V::LANES { result.store(p) } else { result.store_first(p, n) }
                }
                i += n;
            }
        }
    }
}

/// Spreads a value that is kept as a row, a column or a number over the whole tile, in its own memory.
///
/// # Safety
/// `p` holds `rows * columns` elements; the view lies at its start.
unsafe fn spread(view: View, p: *mut f32, rows: usize, columns: usize) -> View {
    // From the end: what is overwritten has been read.
    for r in (0..rows).rev() {
        for c in (0..columns).rev() {
            // SAFETY: r < rows and c < columns.
            unsafe { p.add(r * columns + c).write(*view.pointer.add(r * view.row + c * view.column)) }
        }
    }
    View { pointer: p, row: columns, column: 1 }
}

/// Loads strided elements of any type as `f32`.
///
/// # Safety
/// Elements `offset + r * row + c * column` lie inside of the input; `to` holds `rows * columns`.
unsafe fn load(input: &Input<'_>, offset: usize, (row, column): (usize, usize), to: *mut f32, rows: usize, columns: usize) {
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
        DType::F32 => convert!(f32, v => v),
        DType::F64 => convert!(f64, v => v as f32),
        DType::F16 => convert!(u16, v => f16_to_f32(v)),
        DType::BF16 => convert!(u16, v => bf16_to_f32(v)),
        DType::I8 => convert!(i8, v => v as f32),
        DType::I16 => convert!(i16, v => v as f32),
        DType::I32 => convert!(i32, v => v as f32),
        DType::I64 => convert!(i64, v => v as f32),
        DType::U8 => convert!(u8, v => v as f32),
        DType::U16 => convert!(u16, v => v as f32),
        DType::U32 => convert!(u32, v => v as f32),
        DType::U64 => convert!(u64, v => v as f32),
        DType::Bool => convert!(u8, v => (v != 0) as u8 as f32),
    }
}

/// Stores a value as elements of any type.
///
/// # Safety
/// The view covers `rows` by `columns`; elements `offset + r * stride + c` lie inside of the output.
unsafe fn store(view: View, output: Dst<'_, u8>, dtype: DType, offset: usize, stride: usize, rows: usize, columns: usize) {
    macro_rules! convert {
        ($t:ty, $v:ident => $e:expr) => {{
            // SAFETY: as the caller promises; tensors are aligned for their elements.
            unsafe {
                let to = output.pointer().cast::<$t>().add(offset);
                for r in 0..rows {
                    for c in 0..columns {
                        let $v = *view.pointer.add(r * view.row + c * view.column);
                        to.add(r * stride + c).write($e);
                    }
                }
            }
        }};
    }
    match dtype {
        DType::F32 => convert!(f32, v => v),
        DType::F64 => convert!(f64, v => v as f64),
        DType::F16 => convert!(u16, v => f32_to_f16(v)),
        DType::BF16 => convert!(u16, v => f32_to_bf16(v)),
        DType::I8 => convert!(i8, v => v as i8),
        DType::I16 => convert!(i16, v => v as i16),
        DType::I32 => convert!(i32, v => v as i32),
        DType::I64 => convert!(i64, v => v as i64),
        DType::U8 => convert!(u8, v => v as u8),
        DType::U16 => convert!(u16, v => v as u16),
        DType::U32 => convert!(u32, v => v as u32),
        DType::U64 => convert!(u64, v => v as u64),
        DType::Bool => convert!(u8, v => (v != 0.0) as u8),
    }
}

impl MapF32<'_> {
    /// Whether the program is one instruction that reads inputs in place and writes the whole output.
    fn needs_no_register(&self) -> bool {
        let [step] = self.instructions else { return false };
        if self.dtype != DType::F32 || step.class == Instruction::CONSTANT || step.to as usize != self.result {
            return false;
        }
        let arguments = [step.a, step.b, step.c];
        let arguments = &arguments[..step.class as usize];
        let (rows, columns) = (self.dims[MAP_RANK - 2], self.dims[MAP_RANK - 1]);
        arguments.iter().all(|&a| self.in_place(&self.inputs[a as usize]))
            && (rows == 1 || arguments.iter().any(|&a| self.inputs[a as usize].strides[MAP_RANK - 2] != 0))
            && (columns == 1 || arguments.iter().any(|&a| self.inputs[a as usize].strides[MAP_RANK - 1] != 0))
    }

    /// Whether an input is read where it lies.
    fn in_place(&self, input: &Input<'_>) -> bool {
        input.dtype == DType::F32 && (input.strides[MAP_RANK - 1] <= 1 || self.dims[MAP_RANK - 1] == 1)
    }

    /// # Safety
    /// The tile is one of the index space; inputs, output and registers (of `each` elements, none for the first `direct` inputs) are
    /// as large as `run` asserts.
    unsafe fn tile<B: Backend>(&self, tile: &Tile, direct: usize, each: usize) {
        let Tile { ref offsets, out, rows, columns } = *tile;
        let stride = self.dims[MAP_RANK - 1];
        let register = |i: usize| self.registers.pointer().wrapping_add(i * each).wrapping_sub(direct * each);
        let mut values = [View { pointer: self.registers.pointer(), row: 0, column: 0 }; MAX_REGISTERS];
        for (i, input) in self.inputs.iter().enumerate() {
            let row = if rows == 1 { 0 } else { input.strides[MAP_RANK - 2] };
            let column = if columns == 1 { 0 } else { input.strides[MAP_RANK - 1] };
            values[i] = if self.in_place(input) {
                // SAFETY: the offset lies inside of the input.
                View { pointer: unsafe { input.data.pointer().cast::<f32>().add(offsets[i]) }, row, column }
            } else {
                let (n, m) = (if row == 0 { 1 } else { rows }, if column == 0 { 1 } else { columns });
                // SAFETY: the tile lies inside of the input; a register holds a tile.
                unsafe { load(input, offsets[i], (row, column), register(i), n, m) };
                View { pointer: register(i), row: if n == 1 { 0 } else { m }, column: (m != 1) as usize }
            };
        }
        for (i, step) in self.instructions.iter().enumerate() {
            let to = step.to as usize;
            if step.class == Instruction::CONSTANT {
                // SAFETY: a register holds at least one element.
                unsafe { register(to).write(f32::from_bits(step.p[0])) };
                values[to] = View { pointer: register(to), row: 0, column: 0 };
                continue;
            }
            let arguments = [step.a as usize, step.b as usize, step.c as usize];
            let used = &arguments[..step.class as usize];
            let n = if used.iter().any(|&a| values[a].row != 0) { rows } else { 1 };
            let m = if used.iter().any(|&a| values[a].column != 0) { columns } else { 1 };
            for &a in used {
                let full = (n == 1 || values[a].row == m) && (m == 1 || values[a].column == 1);
                if a == to && !full {
                    // SAFETY: a register holds a tile, and this one is not an input's.
                    values[a] = unsafe { spread(values[a], register(a), n, m) };
                }
            }
            let last = i + 1 == self.instructions.len() && to == self.result && self.dtype == DType::F32;
            let last = last && n == rows && m == columns;
            let (target, pitch) = if last {
                // SAFETY: the offset lies inside of the output.
                (unsafe { self.output.pointer().cast::<f32>().add(out) }, stride)
            } else {
                (register(to), m)
            };
            // What is contiguous as a whole is one row.
            let whole = |v: View| v.row == m && (v.column == 1 || m == 1) || v.row == 0 && v.column == 0;
            let flat = n > 1 && pitch == m && arguments[..step.class as usize].iter().all(|&a| whole(values[a]));
            let (rows, columns) = if flat { (1, n * m) } else { (n, m) };
            let mut arguments = arguments.map(|a| values[a]);
            if flat && m == 1 {
                // A column of single numbers: side by side, so now a row.
                arguments.iter_mut().for_each(|v| v.column = (v.row == 1) as usize);
            }
            B::launch(Step { instruction: *step, arguments, to: target, stride: pitch, rows, columns });
            if last {
                return;
            }
            values[to] = View { pointer: target, row: if n == 1 { 0 } else { m }, column: (m != 1) as usize };
        }
        // SAFETY: the result covers the tile, broadcast where it must be; the tile lies inside of the output.
        unsafe { store(values[self.result], self.output, self.dtype, out, stride, rows, columns) };
    }
}

impl MapF32<'_> {
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
        let registers = self.instructions.iter().map(|s| s.to as usize + 1).max().unwrap_or(0).max(self.inputs.len());
        let direct = self.inputs.iter().take_while(|input| self.in_place(input)).count();
        let (rows, columns) = (self.dims[MAP_RANK - 2], self.dims[MAP_RANK - 1]);
        let each = register_bytes(rows, columns, size_of::<f32>()) / size_of::<f32>();
        assert!(registers <= MAX_REGISTERS && (registers - direct) * each <= self.registers.len());
        let join = self.needs_no_register();
        let size = if !join {
            tile_size(rows, columns, TILE)
        } else if rows <= 1 || columns >= LONG {
            (1, ELEMENTS)
        } else {
            (group(columns), columns.max(1))
        };
        let count = tiles(&self.dims, size);
        for tile in Tiles::new(self.dims, self.inputs, size, join, clamp(units, count)) {
            // SAFETY: the tile is a part of the index space, whose extent was asserted above.
            unsafe { self.tile::<B>(&tile, direct, each) }
        }
        count
    }
}
