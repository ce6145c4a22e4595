//! Depthwise convolution, four channels at a time.
//!
//! With windows of three columns side by side, three outputs of a row are computed together: the weights of a row of the
//! window stay in registers while the input's columns go by, so that each is loaded once and used for every output whose
//! window it is in. Other windows go one output at a time.

use super::super::depthwise::Run;
use super::super::pool::inside;
use super::{F32, ZEROS, fpu, product, store_relu};
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};

/// Outputs that are computed together.
const THREE: u32 = 3;
/// Channels likewise.
const GROUP: usize = 4;

/// What a routine is given. It moves pointers on as it goes.
#[repr(C)]
struct Outputs {
    /// First column of the first output's window that lies inside the map.
    x: *const f32,
    /// Bytes between rows of the window.
    x_row: usize,
    /// Bytes between its columns.
    x_column: usize,
    /// Weights of the first row (and, one output at a time, of the first column) that lies inside.
    w: *const f32,
    /// Bytes between rows of weights.
    w_row: usize,
    /// Bytes between columns of weights.
    w_column: usize,
    /// Rows of the window that lie inside, and behind it, for `one`, columns. Three outputs together have all columns but those `outside`.
    rows: usize,
    columns: usize,
    /// Groups of four channels.
    groups: usize,
    /// 1: the first output's first column lies outside of the map; 2: the last one's last column does; 3: both.
    outside: usize,
    bias: *const f32,
    /// Bytes from a group's bias to the next one's.
    bias_step: usize,
    /// The first output, and bytes between outputs.
    out: *mut f32,
    out_pitch: usize,
    /// Whether negative results become 0.
    relu: usize,
}

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
        && g.out_w >= THREE
        // The last three outputs of a row overlap others: a residual in place would be added twice.
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
            let ox = if threes { next.min(g.out_w - THREE) } else { next };
            let x = ox as i32 * g.stride_w as i32 - g.pad_left as i32;
            let (kx, columns) = if threes { ((x < 0) as u32, 3) } else { inside(x, g.kernel_w, g.dilation_w, g.in_w) };
            let (last, count, routine): (_, _, Routine) = match (threes, g.stride_w) {
                (false, _) => (0, 1, one),
                (true, 1) => (x + 5, THREE, three_by_1),
                (true, _) => (x + 7, THREE, three_by_2),
            };
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
                bias: ZEROS.as_ptr(),
                bias_step: 0,
                out: core::ptr::null_mut(),
                out_pitch: 0,
                relu: 0,
            };
            let pixel = (line * g.out_w as usize + ox as usize) * g.out_pitch as usize;
            // SAFETY: the taps that are not outside lie in the map, whose length was asserted like those of weights, bias and
            // outputs; a group of fewer than four channels is loaded whole, which the slack behind allows.
            unsafe { tile(run, outputs, routine, pixel, count as usize) };
        }
    }
}

type Routine = unsafe extern "C" fn(&mut Outputs);

/// `count` outputs from the output's element `pixel` on, all channels.
///
/// # Safety
/// The taps, weights and outputs that are described exist.
unsafe fn tile(run: &Run<'_, '_>, mut outputs: Outputs, routine: Routine, pixel: usize, count: usize) {
    let channels = run.g.out_c as usize;
    // SAFETY: the output has this pixel.
    let target = unsafe { run.target.from(pixel) };
    let mut channel = 0;
    if let Some(relu) = target.relu
        && target.epilogue.residual.is_none()
        && outputs.groups > 0
    {
        if let Some(bias) = target.epilogue.bias {
            (outputs.bias, outputs.bias_step) = (bias.pointer(), F32 * GROUP);
        }
        (outputs.out, outputs.out_pitch, outputs.relu) = (target.c, F32 * target.row, relu as usize);
        channel = outputs.groups * GROUP;
        // SAFETY: as promised.
        unsafe { routine(&mut outputs) };
        (outputs.bias, outputs.bias_step, outputs.relu) = (ZEROS.as_ptr(), 0, 0);
    }
    // Sums of what is left go to memory first.
    let mut sums = MaybeUninit::<[f32; THREE as usize * GROUP]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    outputs.out_pitch = F32 * GROUP;
    outputs.groups = 1;
    while channel < channels {
        outputs.out = sums;
        // SAFETY: as promised; the sums have room for three outputs of four channels, which the routine
        // writes.
        unsafe {
            routine(&mut outputs);
            (target.finish)(&target, sums, GROUP, count, GROUP.min(channels - channel), channel);
        }
        outputs.groups = 1;
        channel += GROUP;
    }
}

/// The beginning of all routines: parameters in r1 to r6 (x, its row, its column, w, its row, its column), r12 (outside);
/// sums in s0-s3, s4-s7, s8-s11; pointers of the window's row in r8 (x) and r9 (w), rows left in r10.
macro_rules! begin {
    () => {
        concat!(
            "push {{r4-r11, lr}}\n",
            "vpush {{s16-s31}}\n",
            "ldm r0, {{r1-r6}}\n",
            "ldr r12, [r0, #{outside}]\n",
            "2:\n",
            "ldrd r7, r8, [r0, #{bias}]\n",
            "vldmia r7, {{s0-s3}}\n",
            "vldmia r7, {{s4-s7}}\n",
            "vldmia r7, {{s8-s11}}\n",
            "add r7, r7, r8\n",
            "str r7, [r0, #{bias}]\n",
            "mov r8, r1\n",
            "mov r9, r4\n",
            "ldr r10, [r0, #{rows}]\n",
            "cmp r10, #0\n",
            "beq 9f\n",
        )
    };
}

/// A row of the window begins: its weights in s12-s15, s16-s19, s20-s23, the column's pointer in r11.
macro_rules! row {
    () => {
        concat!(
            "3:\n",
            "vldmia r9, {{s12-s15}}\n",
            "add r7, r9, r6\n",
            "vldmia r7, {{s16-s19}}\n",
            "add r7, r7, r6\n",
            "vldmia r7, {{s20-s23}}\n",
            "mov r11, r8\n",
        )
    };
}

/// The next row; then, stores go to r11 and so on.
macro_rules! end_of_row {
    () => {
        concat!(
            "add r8, r8, r2\n",
            "add r9, r9, r5\n",
            "subs r10, r10, #1\n",
            "bne 3b\n",
            "9:\n",
            "ldrd r11, lr, [r0, #{out}]\n",
            "add r7, r11, #16\n",
            "str r7, [r0, #{out}]\n",
            "ldr r7, [r0, #{relu}]\n",
            "cmp r7, #0\n",
            "beq 12f\n",
        )
    };
}

/// The next four channels, and the end.
macro_rules! end {
    () => {
        concat!(
            "13:\n",
            "add r1, r1, #16\n",
            "add r4, r4, #16\n",
            "ldr r7, [r0, #{groups}]\n",
            "subs r7, r7, #1\n",
            "str r7, [r0, #{groups}]\n",
            "bne 2b\n",
            // What is left after the last group begins behind it.
            "str r1, [r0, #{x}]\n",
            "str r4, [r0, #{w}]\n",
            "vpop {{s16-s31}}\n",
            "pop {{r4-r11, pc}}\n",
        )
    };
}

macro_rules! store_three {
    () => {
        concat!(
            store_relu!("r11", "r7" "r8" "r9" "r10", "0" "1" "2" "3"),
            "add r11, r11, lr\n",
            store_relu!("r11", "r7" "r8" "r9" "r10", "4" "5" "6" "7"),
            "add r11, r11, lr\n",
            store_relu!("r11", "r7" "r8" "r9" "r10", "8" "9" "10" "11"),
            "b 13f\n",
            "12:\n",
            "vstmia r11, {{s0-s3}}\n",
            "add r11, r11, lr\n",
            "vstmia r11, {{s4-s7}}\n",
            "add r11, r11, lr\n",
            "vstmia r11, {{s8-s11}}\n",
        )
    };
}

/// The next column of the input, in s24-s27.
macro_rules! column {
    () => {
        "vldmia r11, {{s24-s27}}\nadd r11, r11, r3\n"
    };
}

/// Output times column of the window.
macro_rules! tap {
    (0 0) => { product!("0" "1" "2" "3", "12" "13" "14" "15") };
    (0 1) => { product!("0" "1" "2" "3", "16" "17" "18" "19") };
    (0 2) => { product!("0" "1" "2" "3", "20" "21" "22" "23") };
    (1 0) => { product!("4" "5" "6" "7", "12" "13" "14" "15") };
    (1 1) => { product!("4" "5" "6" "7", "16" "17" "18" "19") };
    (1 2) => { product!("4" "5" "6" "7", "20" "21" "22" "23") };
    (2 0) => { product!("8" "9" "10" "11", "12" "13" "14" "15") };
    (2 1) => { product!("8" "9" "10" "11", "16" "17" "18" "19") };
    (2 2) => { product!("8" "9" "10" "11", "20" "21" "22" "23") };
}

/// A routine of these lines, with the offsets of the parameters that are not loaded at once.
macro_rules! routine {
    ($(#[$doc:meta])* $name:ident: $($line:expr),* $(,)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name(outputs: &mut Outputs) {
            naked_asm!(
                fpu!(),
                $($line,)*
                x = const offset_of!(Outputs, x),
                w = const offset_of!(Outputs, w),
                rows = const offset_of!(Outputs, rows),
                groups = const offset_of!(Outputs, groups),
                outside = const offset_of!(Outputs, outside),
                bias = const offset_of!(Outputs, bias),
                out = const offset_of!(Outputs, out),
                relu = const offset_of!(Outputs, relu),
            )
        }
    };
}

routine! {
    /// Three outputs with a stride of 1: five columns.
    three_by_1:
    begin!(),
    row!(),
    "tst r12, #1",
    "bne 5f",
    column!(), tap!(0 0),
    "5:",
    column!(), tap!(0 1), tap!(1 0),
    column!(), tap!(0 2), tap!(1 1), tap!(2 0),
    column!(), tap!(1 2), tap!(2 1),
    "tst r12, #2",
    "bne 6f",
    column!(), tap!(2 2),
    "6:",
    end_of_row!(),
    store_three!(),
    end!(),
}

routine! {
    /// Three outputs with a stride of 2: seven columns.
    three_by_2:
    begin!(),
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
    "tst r12, #2",
    "bne 6f",
    column!(), tap!(2 2),
    "6:",
    end_of_row!(),
    store_three!(),
    end!(),
}

routine! {
    /// One output; any window.
    one:
    begin!(),
    "3:",
    "mov r11, r8",
    "mov r7, r9",
    "ldr lr, [r0, #{rows} + 4]",
    "4:",
    column!(),
    "vldmia r7, {{s12-s15}}",
    "add r7, r7, r6",
    tap!(0 0),
    "subs lr, lr, #1",
    "bne 4b",
    end_of_row!(),
    store_relu!("r11", "r7" "r8" "r9" "r10", "0" "1" "2" "3"),
    "b 13f",
    "12:",
    "vstmia r11, {{s0-s3}}",
    end!(),
}
