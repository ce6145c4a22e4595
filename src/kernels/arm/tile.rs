//! Four or three rows by eight columns, or two rows or one by sixteen, of a product with packed weights.
//!
//! Four steps of the depth of a row are one load; a lane of it times the weights is the product. Of the 16 registers the tile
//! of four rows has 8 for sums, 4 for the rows and 4 for weights, those of two steps: while one step is multiplied, the next
//! one's are on their way. 32 products take 42 instructions; a tile of 6 x 8 or 3 x 16, whose rows or weights would have to be
//! loaded in smaller pieces, takes more. Other numbers of rows: 24 of 35, 32 of 44, 16 of 27.

use super::super::tile::{PANEL, RowBlock};
use super::{COLUMNS, F32, Finish, ROWS, ZEROS, all, finish, products, rest, start};
use crate::kernels::epilogue::{Epilogue, Target};
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
    /// Bytes from the tile's columns to the same columns of the next row of the panel.
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
    finish: Finish,
}

type Routine = unsafe extern "C" fn(&mut Tiles);

/// As [`RowBlock`]'s own kernel.
pub fn row_block(block: &RowBlock<'_>) {
    #[cfg(any(test, feature = "alloc"))]
    if !block.offsets.is_null() {
        return at_offsets(block);
    }
    side_by_side(block)
}

/// Each run of a depth that lies scattered is a segment.
#[cfg(any(test, feature = "alloc"))]
#[inline(never)]
fn at_offsets(block: &RowBlock<'_>) {
    use super::super::shallow::DEPTH;
    let mut table = [const { MaybeUninit::uninit() }; ROWS * DEPTH];
    let segments = block.depth.checked_div(block.run).unwrap_or(0); // sums of no terms have no runs
    let mut entries = table.iter_mut();
    for segment in 0..segments {
        // SAFETY: there is an offset for each step of the depth, and a pointer for each row.
        unsafe {
            let offset = block.offsets.add(segment * block.run).read();
            for (r, entry) in (0..block.rows).zip(&mut entries) {
                entry.write(block.table.add(r).read().wrapping_add(offset));
            }
        }
    }
    side_by_side(&RowBlock { table: table.as_ptr().cast(), segments, depth: block.run, ..*block });
}

fn side_by_side(block: &RowBlock<'_>) {
    let (width, routine): (usize, Routine) = match block.rows {
        1 => (16, rows_1),
        2 => (16, rows_2),
        3 => (8, rows_3),
        _ => (8, rows_4),
    };
    let target = block.target;
    let mut column = block.first;
    let whole = (block.end - column) / width;
    if whole > 0
        && let Some(finish) = Finish::of(target.epilogue)
    {
        let mut tiles = Tiles::of(block, column, width, whole);
        (tiles.out, tiles.out_row, tiles.finish) = (target.c.wrapping_add(column), F32 * target.row, finish);
        if let Some(bias) = target.epilogue.bias {
            (tiles.bias, tiles.bias_step) = (bias.pointer().wrapping_add(column), F32 * width);
        }
        if target.epilogue.residual.is_some() {
            tiles.residual = target.residual.wrapping_add(column);
        }
        // SAFETY: rows, weights, bias, residual and output are valid for all whole tiles, as `RowBlock::new` was promised.
        unsafe { routine(&mut tiles) };
        column += whole * width;
    }
    if column < block.end {
        by_memory(block, column, width, routine);
    }
}

/// The columns from this one on, which the routines can't finish: their sums go to memory first.
#[inline(never)]
fn by_memory(block: &RowBlock<'_>, first: usize, width: usize, routine: Routine) {
    let mut sums = MaybeUninit::<[f32; ROWS * COLUMNS]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    let mut room = [0.0; COLUMNS];
    let epilogue: Epilogue<'_> = rest(block.target.epilogue);
    let target = Target { epilogue: &epilogue, ..block.target };
    for column in (first..block.end).step_by(COLUMNS) {
        let columns = COLUMNS.min(block.end - column);
        let count = columns.div_ceil(width);
        let mut tiles = Tiles::of(block, column, width, count);
        (tiles.out, tiles.out_row) = (sums, F32 * width * count);
        let (bias, step) = start(block.target.epilogue, column, columns, &mut room);
        (tiles.bias, tiles.bias_step) = (bias, step * width);
        // SAFETY: as above; packed weights have all columns of a panel, those in place slack behind; the sums have room for
        // the tiles, which the routine writes.
        unsafe {
            routine(&mut tiles);
            (target.finish)(&target, sums, width * count, block.rows, columns, column);
        }
    }
}

impl Tiles {
    /// So many tiles of sums alone, from this column on, that go nowhere yet.
    fn of(block: &RowBlock<'_>, column: usize, width: usize, tiles: usize) -> Tiles {
        let b = block.b;
        let (segments, depth) = if block.segments == 0 { (1, 0) } else { (block.segments, block.depth) };
        let read = b.step * segments * depth;
        // From half a panel to the other half, and to the next panel.
        let (within, across) = (width, b.panel - (PANEL - width));
        let steps = match (width == PANEL, column.is_multiple_of(PANEL)) {
            (true, _) => [across, across],
            (false, true) => [within, across],
            (false, false) => [across, within],
        };
        Tiles {
            table: block.table,
            segments,
            depth,
            b: b.pointer.wrapping_add(column / PANEL * b.panel + column % PANEL),
            b_row: F32 * b.step,
            tiles,
            b_next: steps.map(|step| step.wrapping_sub(read).wrapping_mul(F32) as isize),
            bias: ZEROS.as_ptr(),
            bias_step: 0,
            out: core::ptr::null_mut(),
            out_row: 0,
            residual: core::ptr::null(),
            finish: Finish::NONE,
        }
    }
}

/// A load of eight numbers to `$d`, which moves its pointer on.
macro_rules! load {
    ($d:literal, $from:literal) => {
        concat!("vld1.32 {{", $d, "}}, ", $from, "\n")
    };
}

/// One step of the depth of four rows: weights in two registers, and where the rows' numbers are.
macro_rules! step_4 {
    ($b0:literal $b1:literal, $r0:literal $r1:literal $r2:literal $r3:literal) => {
        products!(
            "8" $b0 $r0, "9" $b1 $r0, "10" $b0 $r1, "11" $b1 $r1, "12" $b0 $r2, "13" $b1 $r2, "14" $b0 $r3, "15" $b1 $r3
        )
    };
}
macro_rules! step_3 {
    ($b0:literal $b1:literal, $r0:literal $r1:literal $r2:literal) => {
        products!("8" $b0 $r0, "9" $b1 $r0, "10" $b0 $r1, "11" $b1 $r1, "12" $b0 $r2, "13" $b1 $r2)
    };
}
/// Likewise of two rows, by sixteen columns.
macro_rules! step_2 {
    ($r0:literal $r1:literal) => {
        products!(
            "8" "4" $r0, "9" "5" $r0, "12" "4" $r1, "13" "5" $r1, "10" "6" $r0, "11" "7" $r0, "14" "6" $r1, "15" "7" $r1
        )
    };
}
macro_rules! step_1 {
    ($b0:literal $b1:literal $b2:literal $b3:literal, $r0:literal) => {
        products!("8" $b0 $r0, "9" $b1 $r0, "10" $b2 $r0, "11" $b3 $r0)
    };
}

/// A routine: r0 parameters, r1 to r4 rows, r5 steps left, r6 table, r7 weights, r8 tiles left, r9 segments left, r10 depth, r11
/// and lr from tile to tile, r12 from row to row of the panel. Its sums are registers from q8 on.
macro_rules! routine {
    ($(#[$doc:meta])* $name:ident: enter $enter:expr, copy $copy:expr, rows $rows:literal, four $four:expr, one $one:expr,
        residual $residual:expr, sums $($c:literal $d:literal),*; store $store:expr) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name(tiles: &mut Tiles) {
            naked_asm!(
                ".fpu neon",
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "ldr r7, [r0, #{b}]",
                "ldr r12, [r0, #{b_row}]",
                $enter,
                "ldr r8, [r0, #{tiles}]",
                "ldr r11, [r0, #{b_next}]",
                "ldr lr, [r0, #{b_next} + 4]",
                // Sums begin with the bias.
                "2:",
                "ldr r1, [r0, #{bias}]",
                "ldr r2, [r0, #{bias} + 4]",
                "add r2, r2, r1",
                "str r2, [r0, #{bias}]",
                $copy,
                "ldr r6, [r0]",
                "ldr r9, [r0, #4]",
                "ldr r10, [r0, #8]",
                "4:",
                concat!("ldm r6!, {{", $rows, "}}"),
                "subs r5, r10, #4",
                "blo 6f",
                "5:",
                $four,
                "subs r5, r5, #4",
                "bhs 5b",
                "6:",
                "adds r5, r5, #4",
                "beq 8f",
                "7:",
                $one,
                "subs r5, r5, #1",
                "bne 7b",
                "8:",
                "subs r9, r9, #1",
                "bne 4b",
                "add r7, r7, r11",
                "mov r3, r11",
                "mov r11, lr",
                "mov lr, r3",
                "ldr r3, [r0, #{out_row}]",
                "ldr r1, [r0, #{residual}]",
                "cmp r1, #0",
                "beq 12f",
                $residual,
                "12:",
                finish!($($c $d),*),
                "ldr r1, [r0, #{out}]",
                $store,
                "subs r8, r8, #1",
                "bne 2b",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
                b = const offset_of!(Tiles, b),
                b_row = const offset_of!(Tiles, b_row),
                tiles = const offset_of!(Tiles, tiles),
                b_next = const offset_of!(Tiles, b_next),
                bias = const offset_of!(Tiles, bias),
                residual = const offset_of!(Tiles, residual),
                out = const offset_of!(Tiles, out),
                out_row = const offset_of!(Tiles, out_row),
                finish = const offset_of!(Tiles, finish),
            )
        }
    };
}

/// The residual of eight columns of a row, added to two sums.
macro_rules! residual_8 {
    ($s0:literal $s1:literal) => {
        concat!(load!("d0-d3", "[r1], r3"), all!("vadd.f32", "0": $s0), all!("vadd.f32", "1": $s1))
    };
}
/// Of sixteen; r3 is 32 less.
macro_rules! residual_16 {
    ($s0:literal $s1:literal $s2:literal $s3:literal) => {
        concat!(
            load!("d0-d3", "[r1]!"),
            load!("d4-d7", "[r1], r3"),
            all!("vadd.f32", "0": $s0),
            all!("vadd.f32", "1": $s1),
            all!("vadd.f32", "2": $s2),
            all!("vadd.f32", "3": $s3),
        )
    };
}
/// The next tile's residual or output is `$bytes` on.
macro_rules! next {
    ($what:literal, $bytes:literal) => {
        concat!("add r2, r1, #", $bytes, "\n", "str r2, [r0, #{", $what, "}]\n")
    };
}

routine! {
    /// Four rows by eight columns.
    rows_4:
    enter "",
    copy concat!(
        load!("d16-d19", "[r1]"),
        "vmov q10, q8\n", "vmov q11, q9\n", "vmov q12, q8\n", "vmov q13, q9\n", "vmov q14, q8\n", "vmov q15, q9\n",
    ),
    rows "r1-r4",
    four concat!(
        load!("d0-d1", "[r1]!"), load!("d8-d11", "[r7], r12"),
        load!("d2-d3", "[r2]!"), load!("d4-d5", "[r3]!"), load!("d6-d7", "[r4]!"),
        load!("d12-d15", "[r7], r12"), step_4!("4" "5", "d0[0]" "d2[0]" "d4[0]" "d6[0]"),
        load!("d8-d11", "[r7], r12"), step_4!("6" "7", "d0[1]" "d2[1]" "d4[1]" "d6[1]"),
        load!("d12-d15", "[r7], r12"), step_4!("4" "5", "d1[0]" "d3[0]" "d5[0]" "d7[0]"),
        step_4!("6" "7", "d1[1]" "d3[1]" "d5[1]" "d7[1]"),
    ),
    one concat!(
        load!("d0[0]", "[r1]!"), load!("d2[0]", "[r2]!"), load!("d4[0]", "[r3]!"), load!("d6[0]", "[r4]!"),
        load!("d8-d11", "[r7], r12"), step_4!("4" "5", "d0[0]" "d2[0]" "d4[0]" "d6[0]"),
    ),
    residual concat!(
        next!("residual", "32"), residual_8!("8" "9"), residual_8!("10" "11"), residual_8!("12" "13"), residual_8!("14" "15"),
    ),
    sums "8" "9", "10" "11", "12" "13", "14" "15";
    store concat!(
        next!("out", "32"),
        "vst1.32 {{d16-d19}}, [r1], r3\n", "vst1.32 {{d20-d23}}, [r1], r3\n",
        "vst1.32 {{d24-d27}}, [r1], r3\n", "vst1.32 {{d28-d31}}, [r1]\n",
    )
}

routine! {
    /// Three rows by eight columns.
    rows_3:
    enter "",
    copy concat!(load!("d16-d19", "[r1]"), "vmov q10, q8\n", "vmov q11, q9\n", "vmov q12, q8\n", "vmov q13, q9\n"),
    rows "r1-r3",
    four concat!(
        load!("d0-d1", "[r1]!"), load!("d8-d11", "[r7], r12"), load!("d2-d3", "[r2]!"), load!("d4-d5", "[r3]!"),
        load!("d12-d15", "[r7], r12"), step_3!("4" "5", "d0[0]" "d2[0]" "d4[0]"),
        load!("d8-d11", "[r7], r12"), step_3!("6" "7", "d0[1]" "d2[1]" "d4[1]"),
        load!("d12-d15", "[r7], r12"), step_3!("4" "5", "d1[0]" "d3[0]" "d5[0]"),
        step_3!("6" "7", "d1[1]" "d3[1]" "d5[1]"),
    ),
    one concat!(
        load!("d0[0]", "[r1]!"), load!("d2[0]", "[r2]!"), load!("d4[0]", "[r3]!"),
        load!("d8-d11", "[r7], r12"), step_3!("4" "5", "d0[0]" "d2[0]" "d4[0]"),
    ),
    residual concat!(next!("residual", "32"), residual_8!("8" "9"), residual_8!("10" "11"), residual_8!("12" "13")),
    sums "8" "9", "10" "11", "12" "13";
    store concat!(
        next!("out", "32"),
        "vst1.32 {{d16-d19}}, [r1], r3\n", "vst1.32 {{d20-d23}}, [r1], r3\n", "vst1.32 {{d24-d27}}, [r1]\n",
    )
}

routine! {
    /// Two rows by sixteen columns: a step's weights are two loads, so r12 is 32 less.
    rows_2:
    enter "sub r12, r12, #32",
    copy concat!(
        load!("d16-d19", "[r1]!"), load!("d20-d23", "[r1]"),
        "vmov q12, q8\n", "vmov q13, q9\n", "vmov q14, q10\n", "vmov q15, q11\n",
    ),
    rows "r1-r2",
    four concat!(
        load!("d0-d1", "[r1]!"), load!("d2-d3", "[r2]!"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_2!("d0[0]" "d2[0]"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_2!("d0[1]" "d2[1]"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_2!("d1[0]" "d3[0]"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_2!("d1[1]" "d3[1]"),
    ),
    one concat!(
        load!("d0[0]", "[r1]!"), load!("d2[0]", "[r2]!"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_2!("d0[0]" "d2[0]"),
    ),
    residual concat!(
        next!("residual", "64"), "sub r3, r3, #32\n", residual_16!("8" "9" "10" "11"), residual_16!("12" "13" "14" "15"),
        "add r3, r3, #32\n",
    ),
    sums "8" "9", "10" "11", "12" "13", "14" "15";
    store concat!(
        next!("out", "64"), "sub r3, r3, #32\n",
        "vst1.32 {{d16-d19}}, [r1]!\n", "vst1.32 {{d20-d23}}, [r1], r3\n",
        "vst1.32 {{d24-d27}}, [r1]!\n", "vst1.32 {{d28-d31}}, [r1]\n",
    )
}

routine! {
    /// One row by sixteen columns, likewise.
    rows_1:
    enter "sub r12, r12, #32",
    copy concat!(load!("d16-d19", "[r1]!"), load!("d20-d23", "[r1]")),
    rows "r1",
    four concat!(
        load!("d0-d1", "[r1]!"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"),
        load!("d24-d27", "[r7]!"), load!("d28-d31", "[r7], r12"), step_1!("4" "5" "6" "7", "d0[0]"),
        load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_1!("12" "13" "14" "15", "d0[1]"),
        load!("d24-d27", "[r7]!"), load!("d28-d31", "[r7], r12"), step_1!("4" "5" "6" "7", "d1[0]"),
        step_1!("12" "13" "14" "15", "d1[1]"),
    ),
    one concat!(
        load!("d0[0]", "[r1]!"), load!("d8-d11", "[r7]!"), load!("d12-d15", "[r7], r12"), step_1!("4" "5" "6" "7", "d0[0]"),
    ),
    residual concat!(next!("residual", "64"), residual_16!("8" "9" "10" "11")),
    sums "8" "9", "10" "11";
    store concat!(next!("out", "64"), "vst1.32 {{d16-d19}}, [r1]!\n", "vst1.32 {{d20-d23}}, [r1]\n")
}
