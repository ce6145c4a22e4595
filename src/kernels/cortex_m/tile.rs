//! Two rows by eight columns, or one row by sixteen, of a product with packed weights.
//!
//! By count 2.3 instructions and 2.9 estimated cycles a product with two rows, 2.3 and 3.4 with one: a tile of two rows loads
//! 8 weights and 2 numbers for 16 products. Larger tiles don't fit: 16 sums, 8 weights, 4 numbers and 4 products on their way
//! are all 32 registers.

use super::super::tile::{PANEL, RowBlock};
use super::{F32, ZEROS, add, fpu, scaled, store_relu};
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};

/// What a routine is given. It moves `bias`, `residual` and `out` on as it goes.
#[repr(C)]
struct Tiles {
    /// Pointers to the rows of each segment, `table[segment * rows + row]`.
    table: *const *const f32,
    segments: usize,
    /// Elements of a segment.
    depth: usize,
    /// The first tile's columns in its panel.
    b: *const f32,
    /// Bytes from a tile's columns to the same columns of the next row of the panel.
    b_row: usize,
    /// Tiles side by side.
    tiles: usize,
    /// Bytes from behind a tile's weights to the next tile's: after the first tile, after the second, and so on in turn.
    b_next: [isize; 2],
    /// Bias of the first column.
    bias: *const f32,
    /// Bytes from a tile's bias to the next one's.
    bias_step: usize,
    /// Where the first row and column go.
    out: *mut f32,
    /// Bytes between rows of output and residual.
    out_row: usize,
    /// Residual of the first column, or null.
    residual: *const f32,
    /// Whether negative results become 0.
    relu: usize,
}

type Routine = unsafe extern "C" fn(&mut Tiles);

/// As [`RowBlock`]'s own kernel, for one or two rows. One block of parameters, and one function: it is a deep place of a small stack.
pub fn row_block(block: &RowBlock<'_>) {
    let (width, routine): (usize, Routine) = if block.rows == 2 { (8, rows_2_columns_8) } else { (16, rows_1_columns_16) };
    let (b, target) = (block.b, &block.target);
    let depth = if block.segments == 0 { 0 } else { block.depth };
    let mut sums = MaybeUninit::<[f32; 16]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // From behind the weights of a tile, which are read to the end of the panel, to those of the next one.
    let read = F32 * b.step * block.segments * depth;
    let second = (F32 * (b.panel - width % PANEL)).wrapping_sub(read) as isize;
    let first = if width == PANEL { second } else { (F32 * width).wrapping_sub(read) as isize };
    let mut tiles = Tiles {
        table: block.table,
        segments: block.segments.max(1),
        depth,
        b: core::ptr::null(),
        b_row: F32 * b.step,
        tiles: 0,
        b_next: [first, second],
        bias: ZEROS.as_ptr(),
        bias_step: 0,
        out: sums,
        out_row: F32 * width,
        residual: core::ptr::null(),
        relu: 0,
    };
    let mut column = block.first;
    if let Some(relu) = target.relu {
        (tiles.tiles, tiles.relu) = ((block.end - column) / width, relu as usize);
    }
    // Whole tiles first, which the routines finish, then what is left, whose sums go to memory; either may be nothing.
    while column < block.end {
        tiles.b = b.pointer.wrapping_add(column / PANEL * b.panel + column % PANEL);
        if tiles.tiles > 0 {
            (tiles.out, tiles.out_row) = (target.c.wrapping_add(column), F32 * target.row);
            if let Some(bias) = target.epilogue.bias {
                (tiles.bias, tiles.bias_step) = (bias.pointer().wrapping_add(column), F32 * width);
            }
            if target.epilogue.residual.is_some() {
                tiles.residual = target.residual.wrapping_add(column);
            }
            // SAFETY: rows, weights, bias, residual and output are valid for all whole tiles, as `RowBlock::new` was promised.
            unsafe { routine(&mut tiles) };
            column += tiles.tiles * width;
            tiles.tiles = 0;
            (tiles.bias, tiles.bias_step, tiles.residual) = (ZEROS.as_ptr(), 0, core::ptr::null());
        } else {
            (tiles.tiles, tiles.out, tiles.out_row, tiles.relu) = (1, sums, F32 * width, 0);
            // SAFETY: as above; packed weights have all columns of a panel, those in place slack behind; the sums have room for a
            // tile, which the routine writes.
            unsafe {
                routine(&mut tiles);
                (target.finish)(target, sums, width, block.rows, width.min(block.end - column), column);
            }
            column += width;
            tiles.tiles = 0;
        }
    }
}

/// One step of the depth: eight columns times a number of each row.
macro_rules! step_2x8 {
    ($a:literal, $b:literal) => {
        concat!(
            "vldmia r7, {{s16-s23}}\n",
            "add r7, r7, r12\n",
            scaled!("0" "1" "2" "3", "16" "17" "18" "19", $a),
            scaled!("4" "5" "6" "7", "20" "21" "22" "23", $a),
            scaled!("8" "9" "10" "11", "16" "17" "18" "19", $b),
            scaled!("12" "13" "14" "15", "20" "21" "22" "23", $b),
        )
    };
}

/// One step of the depth: sixteen columns times a number.
macro_rules! step_1x16 {
    ($a:literal) => {
        concat!(
            "vldmia r7!, {{s16-s23}}\n",
            scaled!("0" "1" "2" "3", "16" "17" "18" "19", $a),
            scaled!("4" "5" "6" "7", "20" "21" "22" "23", $a),
            "vldmia r7, {{s16-s23}}\n",
            "add r7, r7, r12\n",
            scaled!("8" "9" "10" "11", "16" "17" "18" "19", $a),
            scaled!("12" "13" "14" "15", "20" "21" "22" "23", $a),
        )
    };
}

/// r0 parameters, r1 and r2 rows, r3 steps left, r4 table, r5 segments left, r6 depth, r7 weights, r8 tiles left, r9 and
/// r10 from tile to tile, r12 from row to row of the panel.
#[unsafe(naked)]
unsafe extern "C" fn rows_2_columns_8(tiles: &mut Tiles) {
    naked_asm!(
        fpu!(),
        "push {{r4-r11, lr}}",
        "vpush {{s16-s31}}",
        "ldr r7, [r0, #{b}]",
        "ldr r12, [r0, #{b_row}]",
        "ldr r8, [r0, #{tiles}]",
        "ldrd r9, r10, [r0, #{b_next}]",
        // Sums begin with the bias, and the residual.
        "2:",
        "ldrd r1, r2, [r0, #{bias}]",
        "vldmia r1, {{s0-s7}}",
        "vldmia r1, {{s8-s15}}",
        "add r1, r1, r2",
        "str r1, [r0, #{bias}]",
        "ldr r1, [r0, #{residual}]",
        "cmp r1, #0",
        "beq 3f",
        "ldr r2, [r0, #{out_row}]",
        "add r2, r2, r1",
        "vldmia r1!, {{s16-s23}}",
        "vldmia r2, {{s24-s31}}",
        "str r1, [r0, #{residual}]",
        add!("0" "16", "1" "17", "2" "18", "3" "19", "4" "20", "5" "21", "6" "22", "7" "23"),
        add!("8" "24", "9" "25", "10" "26", "11" "27", "12" "28", "13" "29", "14" "30", "15" "31"),
        "3:",
        "ldm r0, {{r4-r6}}",
        "4:",
        "ldrd r1, r2, [r4], #8",
        "subs r3, r6, #4",
        "blo 6f",
        "5:",
        "vldmia r1!, {{s24-s25}}",
        "vldmia r2!, {{s26-s27}}",
        step_2x8!("24", "26"),
        step_2x8!("25", "27"),
        "vldmia r1!, {{s24-s25}}",
        "vldmia r2!, {{s26-s27}}",
        step_2x8!("24", "26"),
        step_2x8!("25", "27"),
        "subs r3, r3, #4",
        "bhs 5b",
        "6:",
        "adds r3, r3, #4",
        "beq 8f",
        "7:",
        "vldmia r1!, {{s24}}",
        "vldmia r2!, {{s26}}",
        step_2x8!("24", "26"),
        "subs r3, r3, #1",
        "bne 7b",
        "8:",
        "subs r5, r5, #1",
        "bne 4b",
        "add r7, r7, r9",
        "mov r3, r9",
        "mov r9, r10",
        "mov r10, r3",
        "ldrd r1, r2, [r0, #{out}]",
        "add r2, r2, r1",
        "ldr r3, [r0, #{relu}]",
        "cmp r3, #0",
        "beq 9f",
        store_relu!("r1!", "r3" "r4" "r5" "r6", "0" "1" "2" "3"),
        store_relu!("r1!", "r3" "r4" "r5" "r6", "4" "5" "6" "7"),
        store_relu!("r2!", "r3" "r4" "r5" "r6", "8" "9" "10" "11"),
        store_relu!("r2!", "r3" "r4" "r5" "r6", "12" "13" "14" "15"),
        "b 12f",
        "9:",
        "vstmia r1!, {{s0-s7}}",
        "vstmia r2, {{s8-s15}}",
        "12:",
        "str r1, [r0, #{out}]",
        "subs r8, r8, #1",
        "bne 2b",
        "vpop {{s16-s31}}",
        "pop {{r4-r11, pc}}",
        b = const offset_of!(Tiles, b),
        b_row = const offset_of!(Tiles, b_row),
        tiles = const offset_of!(Tiles, tiles),
        b_next = const offset_of!(Tiles, b_next),
        bias = const offset_of!(Tiles, bias),
        residual = const offset_of!(Tiles, residual),
        out = const offset_of!(Tiles, out),
        out_row = const offset_of!(Tiles, out_row),
        relu = const offset_of!(Tiles, relu),
    )
}

/// As [`rows_2_columns_8`], without r2 and r10.
#[unsafe(naked)]
unsafe extern "C" fn rows_1_columns_16(tiles: &mut Tiles) {
    naked_asm!(
        fpu!(),
        "push {{r4-r11, lr}}",
        "vpush {{s16-s31}}",
        "ldr r7, [r0, #{b}]",
        "ldr r12, [r0, #{b_row}]",
        "sub r12, r12, #32",
        "ldr r8, [r0, #{tiles}]",
        "ldr r9, [r0, #{b_next}]",
        "2:",
        "ldrd r1, r2, [r0, #{bias}]",
        "vldmia r1, {{s0-s15}}",
        "add r1, r1, r2",
        "str r1, [r0, #{bias}]",
        "ldr r1, [r0, #{residual}]",
        "cmp r1, #0",
        "beq 3f",
        "vldmia r1!, {{s16-s31}}",
        "str r1, [r0, #{residual}]",
        add!("0" "16", "1" "17", "2" "18", "3" "19", "4" "20", "5" "21", "6" "22", "7" "23"),
        add!("8" "24", "9" "25", "10" "26", "11" "27", "12" "28", "13" "29", "14" "30", "15" "31"),
        "3:",
        "ldm r0, {{r4-r6}}",
        "4:",
        "ldr r1, [r4], #4",
        "subs r3, r6, #4",
        "blo 6f",
        "5:",
        "vldmia r1!, {{s24-s27}}",
        step_1x16!("24"),
        step_1x16!("25"),
        step_1x16!("26"),
        step_1x16!("27"),
        "subs r3, r3, #4",
        "bhs 5b",
        "6:",
        "adds r3, r3, #4",
        "beq 8f",
        "7:",
        "vldmia r1!, {{s24}}",
        step_1x16!("24"),
        "subs r3, r3, #1",
        "bne 7b",
        "8:",
        "subs r5, r5, #1",
        "bne 4b",
        "add r7, r7, r9",
        "ldr r1, [r0, #{out}]",
        "ldr r3, [r0, #{relu}]",
        "cmp r3, #0",
        "beq 9f",
        store_relu!("r1!", "r3" "r4" "r5" "r6", "0" "1" "2" "3"),
        store_relu!("r1!", "r3" "r4" "r5" "r6", "4" "5" "6" "7"),
        store_relu!("r1!", "r3" "r4" "r5" "r6", "8" "9" "10" "11"),
        store_relu!("r1!", "r3" "r4" "r5" "r6", "12" "13" "14" "15"),
        "b 12f",
        "9:",
        "vstmia r1!, {{s0-s15}}",
        "12:",
        "str r1, [r0, #{out}]",
        "subs r8, r8, #1",
        "bne 2b",
        "vpop {{s16-s31}}",
        "pop {{r4-r11, pc}}",
        b = const offset_of!(Tiles, b),
        b_row = const offset_of!(Tiles, b_row),
        tiles = const offset_of!(Tiles, tiles),
        b_next = const offset_of!(Tiles, b_next),
        bias = const offset_of!(Tiles, bias),
        residual = const offset_of!(Tiles, residual),
        out = const offset_of!(Tiles, out),
        relu = const offset_of!(Tiles, relu),
    )
}
