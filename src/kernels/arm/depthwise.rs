//! Depthwise convolution, eight channels at a time.
//!
//! With windows of three columns side by side, four outputs of a row are computed together: the weights of a row of the window
//! stay in registers while the input's columns go by, so that each is loaded once and used for every output whose window it
//! is in: 24 products of vectors take 9 loads with a stride of 1, 12 with 2. Of other windows, four outputs whose taps all lie
//! inside share the weights, and those at the borders go one by one.

use super::super::depthwise::Run;
use super::super::pool::inside;
use super::{COLUMNS, F32, Finish, ZEROS, finish, products, rest, start};
use crate::kernels::epilogue::Target;
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};

/// Outputs that are computed together.
const FOUR: u32 = 4;
/// Channels likewise.
const GROUP: usize = 8;

/// What a routine is given. It moves `x`, `w`, `bias` and `out` on as it goes.
#[repr(C)]
struct Outputs {
    /// First column of the first output's window that lies inside the map.
    x: *const f32,
    /// Bytes between rows of the window.
    x_row: usize,
    /// Bytes between its columns.
    x_column: usize,
    /// Weights of the first row (and, for windows of any form, of the first column) that lies inside.
    w: *const f32,
    /// Bytes between rows of weights.
    w_row: usize,
    /// Bytes between columns of weights.
    w_column: usize,
    /// Rows of the window that lie inside.
    rows: usize,
    /// Columns likewise, for windows of any form. Windows of three columns have all but those `outside`.
    columns: usize,
    /// Groups of eight channels.
    groups: usize,
    /// 1: the first output's first column lies outside of the map; 2: the last one's last column does; 3: both.
    outside: usize,
    /// Bytes from an output's window to the next one's, for windows of any form.
    x_output: usize,
    bias: *const f32,
    /// Bytes from a group's bias to the next one's.
    bias_step: usize,
    /// The first output, and bytes between outputs.
    out: *mut f32,
    out_pitch: usize,
    finish: Finish,
}

type Routine = unsafe extern "C" fn(&mut Outputs);

pub fn run(run: &Run<'_, '_>) {
    let g = run.g;
    let channels = g.out_c as usize;
    let pitch = g.in_pitch as usize;
    let in_row = g.in_w as usize * pitch;
    // The right border: the first column that no window reaches.
    let end = (g.out_w.saturating_sub(1) * g.stride_w) as i32 - g.pad_left as i32 + 3;
    let threes = g.kernel_w == 3
        && g.dilation_w == 1
        && g.stride_w <= 2
        && g.pad_left <= 1
        && end <= g.in_w as i32 + 1
        && g.out_w >= FOUR
        // The last outputs of a row overlap others: a residual in place would be added twice.
        && run.target.epilogue.residual.is_none();
    for line in run.lines.clone() {
        let (picture, oy) = (line / g.out_h as usize, line % g.out_h as usize);
        let y = oy as i32 * g.stride_h as i32 - g.pad_top as i32;
        let (ky, rows) = inside(y, g.kernel_h, g.dilation_h, g.in_h);
        let x_row = run
            .x
            .wrapping_add(picture * g.in_h as usize * in_row)
            .wrapping_offset((y + (ky * g.dilation_h) as i32) as isize * in_row as isize);
        let mut next = 0;
        while next < g.out_w {
            let ox = if threes { next.min(g.out_w - FOUR) } else { next };
            let x = ox as i32 * g.stride_w as i32 - g.pad_left as i32;
            let columns = |x| inside(x, g.kernel_w, g.dilation_w, g.in_w);
            let (kx, columns, count, routine): (_, _, _, Routine) = match (threes, g.stride_w) {
                (true, 1) => ((x < 0) as u32, 3, FOUR, four_by_1),
                (true, _) => ((x < 0) as u32, 3, FOUR, four_by_2),
                _ if ox + FOUR <= g.out_w
                    && columns(x).1 == g.kernel_w
                    && columns(x + ((FOUR - 1) * g.stride_w) as i32).1 == g.kernel_w =>
                {
                    (0, g.kernel_w, FOUR, four)
                }
                _ => {
                    let (first, count) = columns(x);
                    (first, count, 1, one)
                }
            };
            let last = x + ((FOUR - 1) * g.stride_w) as i32 + 3;
            next = ox + count;
            let outputs = Outputs {
                x: x_row.wrapping_offset((x + (kx * g.dilation_w) as i32) as isize * pitch as isize),
                x_row: F32 * g.dilation_h as usize * in_row,
                x_column: F32 * g.dilation_w as usize * pitch,
                w: run.w.wrapping_add((ky * g.kernel_w + if threes { 0 } else { kx }) as usize * channels),
                w_row: F32 * g.kernel_w as usize * channels,
                w_column: F32 * channels,
                rows: if columns == 0 { 0 } else { rows as usize },
                columns: columns as usize,
                groups: channels / GROUP,
                outside: (x < 0) as usize | ((last > g.in_w as i32) as usize) << 1,
                x_output: F32 * g.stride_w as usize * pitch,
                bias: ZEROS.as_ptr(),
                bias_step: 0,
                out: core::ptr::null_mut(),
                out_pitch: 0,
                finish: Finish::NONE,
            };
            let pixel = (line * g.out_w as usize + ox as usize) * g.out_pitch as usize;
            // SAFETY: the taps that are not outside lie in the map, whose length was asserted like those of weights, bias and
            // outputs; a group of fewer than eight channels is loaded whole, which the slack behind allows.
            unsafe { tile(run, outputs, routine, pixel, count as usize) };
        }
    }
}

/// `count` outputs from the output's element `pixel` on, all channels.
///
/// # Safety
/// The taps, weights and outputs that are described exist.
unsafe fn tile(run: &Run<'_, '_>, mut outputs: Outputs, routine: Routine, pixel: usize, count: usize) {
    let channels = run.g.out_c as usize;
    // SAFETY: the output has this pixel.
    let target = unsafe { run.target.from(pixel) };
    let mut channel = 0;
    if let Some(finish) = Finish::of(target.epilogue)
        && target.epilogue.residual.is_none()
        && outputs.groups > 0
    {
        if let Some(bias) = target.epilogue.bias {
            (outputs.bias, outputs.bias_step) = (bias.pointer(), F32 * GROUP);
        }
        (outputs.out, outputs.out_pitch, outputs.finish) = (target.c, F32 * target.row, finish);
        channel = outputs.groups * GROUP;
        // SAFETY: as promised.
        unsafe { routine(&mut outputs) };
    }
    if channel < channels {
        // SAFETY: as promised.
        unsafe { by_memory(&target, outputs, routine, count, channel..channels) };
    }
}

/// These channels of some outputs, which the routines can't finish: their sums go to memory first.
///
/// # Safety
/// As for [`tile`].
#[inline(never)]
unsafe fn by_memory(
    target: &Target<'_>,
    mut outputs: Outputs,
    routine: Routine,
    count: usize,
    channels: core::ops::Range<usize>,
) {
    let mut sums = MaybeUninit::<[f32; FOUR as usize * COLUMNS]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    let mut room = [0.0; COLUMNS];
    let epilogue = rest(target.epilogue);
    let rest = Target { epilogue: &epilogue, ..*target };
    (outputs.out_pitch, outputs.finish) = (F32 * COLUMNS, Finish::NONE);
    for channel in channels.clone().step_by(COLUMNS) {
        let n = COLUMNS.min(channels.end - channel);
        (outputs.out, outputs.groups) = (sums, n.div_ceil(GROUP));
        let (bias, step) = start(target.epilogue, channel, n, &mut room);
        (outputs.bias, outputs.bias_step) = (bias, step * GROUP);
        // SAFETY: as promised; the sums have room for four outputs of so many channels, which the routine writes.
        unsafe {
            routine(&mut outputs);
            (rest.finish)(&rest, sums, COLUMNS, count, n, channel);
        }
    }
}

/// The beginning of all routines: parameters in r2 to r6 (the row and column of x, w, its row and column); sums `q$d`, the first
/// two of which are loaded; pointers of the window's row in r8 (x) and r9 (w), rows left in r10.
macro_rules! begin {
    ($copy:expr) => {
        concat!(
            "push {{r4-r11, lr}}\n",
            "vpush {{d8-d15}}\n",
            "ldmib r0, {{r2-r6}}\n",
            "2:\n",
            "ldr r7, [r0, #{bias}]\n",
            "ldr r8, [r0, #{bias} + 4]\n",
            "vld1.32 {{d16-d19}}, [r7], r8\n",
            "str r7, [r0, #{bias}]\n",
            $copy,
            "ldr r8, [r0]\n",
            "ldr r9, [r0, #{w}]\n",
            "ldr r10, [r0, #{rows}]\n",
            "cmp r10, #0\n",
            "beq 9f\n",
        )
    };
}
macro_rules! copy_to_four {
    () => {
        "vmov q10, q8\nvmov q11, q9\nvmov q12, q8\nvmov q13, q9\nvmov q14, q8\nvmov q15, q9\n"
    };
}

/// The next row; then the finish, and r11 and r8 say where the outputs go.
macro_rules! end_of_row {
    ($($c:literal $d:literal),*) => {
        concat!(
            "add r8, r8, r2\n",
            "add r9, r9, r5\n",
            "subs r10, r10, #1\n",
            "bne 3b\n",
            "9:\n",
            "mov r9, r2\n",
            finish!($($c $d),*),
            "mov r2, r9\n",
            "ldr r11, [r0, #{out}]\n",
            "ldr r8, [r0, #{out} + 4]\n",
            "add r7, r11, #32\n",
            "str r7, [r0, #{out}]\n",
        )
    };
}

/// The next eight channels, and the end.
macro_rules! end {
    () => {
        concat!(
            "ldr r7, [r0]\n",
            "add r7, r7, #32\n",
            "str r7, [r0]\n",
            "ldr r7, [r0, #{w}]\n",
            "add r7, r7, #32\n",
            "str r7, [r0, #{w}]\n",
            "ldr r7, [r0, #{groups}]\n",
            "subs r7, r7, #1\n",
            "str r7, [r0, #{groups}]\n",
            "bne 2b\n",
            "vpop {{d8-d15}}\n",
            "pop {{r4-r11, pc}}\n",
        )
    };
}

macro_rules! store_four {
    () => {
        concat!(
            "vst1.32 {{d16-d19}}, [r11], r8\n",
            "vst1.32 {{d20-d23}}, [r11], r8\n",
            "vst1.32 {{d24-d27}}, [r11], r8\n",
            "vst1.32 {{d28-d31}}, [r11]\n",
        )
    };
}

/// The next column of the input, in q6 and q7.
macro_rules! column {
    () => {
        "vld1.32 {{d12-d15}}, [r11], r3\n"
    };
}

/// A row of a window of three columns begins: its weights in q0 to q5, the column's pointer in r11.
macro_rules! row {
    () => {
        concat!(
            "3:\n",
            "mov r7, r9\n",
            "mov r11, r8\n",
            "vld1.32 {{d0-d3}}, [r7], r6\n",
            "vld1.32 {{d4-d7}}, [r7], r6\n",
            "vld1.32 {{d8-d11}}, [r7]\n",
        )
    };
}

/// Output times column of the window.
macro_rules! tap {
    (0 0) => { products!("8" "6" "q0", "9" "7" "q1") };
    (0 1) => { products!("8" "6" "q2", "9" "7" "q3") };
    (0 2) => { products!("8" "6" "q4", "9" "7" "q5") };
    (1 0) => { products!("10" "6" "q0", "11" "7" "q1") };
    (1 1) => { products!("10" "6" "q2", "11" "7" "q3") };
    (1 2) => { products!("10" "6" "q4", "11" "7" "q5") };
    (2 0) => { products!("12" "6" "q0", "13" "7" "q1") };
    (2 1) => { products!("12" "6" "q2", "13" "7" "q3") };
    (2 2) => { products!("12" "6" "q4", "13" "7" "q5") };
    (3 0) => { products!("14" "6" "q0", "15" "7" "q1") };
    (3 1) => { products!("14" "6" "q2", "15" "7" "q3") };
    (3 2) => { products!("14" "6" "q4", "15" "7" "q5") };
}

/// A routine of these lines, with the offsets of the parameters that are not loaded at once.
macro_rules! routine {
    ($(#[$doc:meta])* $name:ident: $($line:expr),* $(,)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name(outputs: &mut Outputs) {
            naked_asm!(
                ".fpu neon",
                $($line,)*
                "/* {columns} {outside} {x_output} */", // which not all of them load
                w = const offset_of!(Outputs, w),
                rows = const offset_of!(Outputs, rows),
                columns = const offset_of!(Outputs, columns),
                groups = const offset_of!(Outputs, groups),
                outside = const offset_of!(Outputs, outside),
                x_output = const offset_of!(Outputs, x_output),
                bias = const offset_of!(Outputs, bias),
                out = const offset_of!(Outputs, out),
                finish = const offset_of!(Outputs, finish),
            )
        }
    };
}

routine! {
    /// Four outputs with a stride of 1: six columns.
    four_by_1:
    begin!(copy_to_four!()),
    "ldr r12, [r0, #{outside}]",
    row!(),
    "tst r12, #1",
    "bne 5f",
    column!(), tap!(0 0),
    "5:",
    column!(), tap!(0 1), tap!(1 0),
    column!(), tap!(0 2), tap!(1 1), tap!(2 0),
    column!(), tap!(1 2), tap!(2 1), tap!(3 0),
    column!(), tap!(2 2), tap!(3 1),
    "tst r12, #2",
    "bne 6f",
    column!(), tap!(3 2),
    "6:",
    end_of_row!("8" "9", "10" "11", "12" "13", "14" "15"),
    store_four!(),
    end!(),
}

routine! {
    /// Four outputs with a stride of 2: nine columns.
    four_by_2:
    begin!(copy_to_four!()),
    "ldr r12, [r0, #{outside}]",
    row!(),
    "tst r12, #1",
    "bne 5f",
    column!(), tap!(0 0),
    "5:",
    column!(), tap!(0 1),
    column!(), tap!(0 2), tap!(1 0),
    column!(), tap!(1 1),
    column!(), tap!(1 2), tap!(2 0),
    column!(), tap!(2 1),
    column!(), tap!(2 2), tap!(3 0),
    column!(), tap!(3 1),
    "tst r12, #2",
    "bne 6f",
    column!(), tap!(3 2),
    "6:",
    end_of_row!("8" "9", "10" "11", "12" "13", "14" "15"),
    store_four!(),
    end!(),
}

routine! {
    /// Four outputs, any window: weights in q0 and q1, inputs in q2 to q7; r12 from output to output, r1 walks along them.
    four:
    begin!(copy_to_four!()),
    "ldr r12, [r0, #{x_output}]",
    "3:",
    "mov r11, r8",
    "mov r7, r9",
    "ldr lr, [r0, #{columns}]",
    "4:",
    "mov r1, r11",
    "vld1.32 {{d0-d3}}, [r7], r6",
    "vld1.32 {{d4-d7}}, [r1], r12",
    "vld1.32 {{d8-d11}}, [r1], r12",
    products!("8" "2" "q0", "9" "3" "q1"),
    "vld1.32 {{d12-d15}}, [r1], r12",
    products!("10" "4" "q0", "11" "5" "q1"),
    "vld1.32 {{d4-d7}}, [r1]",
    products!("12" "6" "q0", "13" "7" "q1", "14" "2" "q0", "15" "3" "q1"),
    "add r11, r11, r3",
    "subs lr, lr, #1",
    "bne 4b",
    end_of_row!("8" "9", "10" "11", "12" "13", "14" "15"),
    store_four!(),
    end!(),
}

routine! {
    /// One output, any window.
    one:
    begin!(""),
    "3:",
    "mov r11, r8",
    "mov r7, r9",
    "ldr lr, [r0, #{columns}]",
    "4:",
    "vld1.32 {{d0-d3}}, [r7], r6",
    column!(),
    tap!(0 0),
    "subs lr, lr, #1",
    "bne 4b",
    end_of_row!("8" "9"),
    "vst1.32 {{d16-d19}}, [r11]",
    end!(),
}
