//! NEON on 32-bit Arm (Armv7-A): microkernels in assembler under the portable kernels' loops.
//!
//! Stable Rust has neither intrinsics for it nor a way to compile one function for it, but assembler may begin with `.fpu neon`.
//! So products and depthwise convolutions, where a network spends its time, are whole loops here, which have all 16 Q registers
//! of four lanes to themselves; every other kernel runs over a [vector](vector) of single instructions. All of it is
//! compiled into any build for an Arm Linux with hardware floats, and reached where the kernel says that the CPU has NEON.
//!
//! Products are VMLA by a lane (`vmla.f32 q, q, d[i]`), which rounds twice. The fused VFMA came with VFPv4 and knows no lanes: each
//! number of the left operand would have to be broadcast first.
//!
//! Unlike scalar code, 32-bit NEON **flushes denormals**: operands and results below 1.2e-38 count as 0. NaN stays NaN.
//!
//! A routine is a naked function of one argument, a block of its parameters. It begins its sums with the bias, and finishes them
//! itself where that takes a residual and a clamp or hard-swish at most; what asks for more has its sums put on the stack, and finished
//! by the portable code, up to [`COLUMNS`] columns at a time.
#![allow(unsafe_code)]

mod depthwise;
mod tile;
pub mod vector;

use super::epilogue::Epilogue;
use super::{Backend, Isa, Kernel, depthwise::Run, tile::PANEL, tile::RowBlock};
use crate::program::{Tile, Unary};

/// The backend of 32-bit Arm with NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon32;

impl Backend for Neon32 {
    const ISA: Isa = Isa::Neon32;
    const TILE: Tile = Tile { rows: ROWS, columns: PANEL };
    type F = vector::V;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<vector::V>()
    }
    fn row_block(block: &RowBlock<'_>) {
        tile::row_block(block);
    }
    fn depthwise(run: Run<'_, '_>) {
        depthwise::run(&run);
    }
}

/// Whether the CPU has NEON: what the OS says; without std nobody can.
pub fn available() -> bool {
    #[cfg(all(feature = "std", any(target_os = "linux", target_os = "android")))]
    {
        use core::ffi::c_ulong;
        unsafe extern "C" {
            fn getauxval(kind: c_ulong) -> c_ulong;
        }
        const AT_HWCAP: c_ulong = 16;
        const NEON: c_ulong = 1 << 12;
        // SAFETY: every C library of Linux has it; it reads what the OS left the process.
        unsafe { getauxval(AT_HWCAP) & NEON != 0 }
    }
    #[cfg(not(all(feature = "std", any(target_os = "linux", target_os = "android"))))]
    false
}

/// Rows of the largest tile.
const ROWS: usize = 4;

const F32: usize = size_of::<f32>();

/// Columns of sums that are put on the stack at a time.
const COLUMNS: usize = 64;

/// What a routine does with sums before it stores them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Finish {
    /// 0: nothing; 1: what is below `p[0]` becomes that; 2: and what is above `p[1]` that; 3: hard-swish, `x * clamp(x * p[0] +
    /// p[1])` between 0 and 1.
    mode: usize,
    p: [f32; 2],
    unit: [f32; 2],
}

impl Finish {
    const NONE: Finish = Finish { mode: 0, p: [0.0; 2], unit: [0.0, 1.0] };

    /// What an epilogue asks for, if it is no more than a bias, a residual and this.
    fn of(e: &Epilogue<'_>) -> Option<Finish> {
        if e.alpha != 1.0 || (e.residual.is_some() && e.residual_after) {
            return None;
        }
        let mode = match e.activation {
            Unary::Identity => 0,
            Unary::Clip => 1 + (e.p[1] < f32::INFINITY) as usize,
            Unary::HardSwish => 3,
            _ => return None,
        };
        Some(Finish { mode, p: e.p, ..Finish::NONE })
    }
}

/// Sums of columns that have no bias begin with these.
static ZEROS: [f32; PANEL] = [0.0; PANEL];

/// What the sums of these columns begin with, where the last tile may be wider than they are: pointer, and bytes from a column to
/// the next. A bias is copied to `room`.
fn start(e: &Epilogue<'_>, column: usize, columns: usize, room: &mut [f32; COLUMNS]) -> (*const f32, usize) {
    match e.bias {
        Some(bias) if e.alpha == 1.0 => {
            for (i, x) in room.iter_mut().enumerate().take(columns) {
                *x = bias.at(column + i);
            }
            (room.as_ptr(), F32)
        }
        _ => (ZEROS.as_ptr(), 0),
    }
}

/// What is left of an epilogue for sums that began with [`start`]'s.
fn rest<'e>(e: &Epilogue<'e>) -> Epilogue<'e> {
    if e.alpha == 1.0 { Epilogue { bias: None, ..*e } } else { *e }
}

/// `$op` of sums `q$d` and `q$b`, to the sums.
macro_rules! all {
    ($op:literal, $b:literal: $($d:literal)*) => { concat!($($op, " q", $d, ", q", $d, ", q", $b, "\n"),*) };
}

/// What [`Finish`] says, by the parameters at r0, to pairs of sums. Takes r1, r2, q0 to q5.
macro_rules! finish {
    ($($c:literal $d:literal),*) => {
        concat!(
            "ldr r1, [r0, #{finish}]\n",
            "cmp r1, #0\n",
            "beq 13f\n",
            "add r2, r0, #{finish} + 4\n",
            "vld1.32 {{d0[], d1[]}}, [r2]!\n",
            "vld1.32 {{d2[], d3[]}}, [r2]!\n",
            "cmp r1, #3\n",
            "beq 14f\n",
            $("vmax.f32 q", $c, ", q", $c, ", q0\n", "vmax.f32 q", $d, ", q", $d, ", q0\n",)*
            "cmp r1, #1\n",
            "beq 13f\n",
            $("vmin.f32 q", $c, ", q", $c, ", q1\n", "vmin.f32 q", $d, ", q", $d, ", q1\n",)*
            "b 13f\n",
            "14:\n",
            "vld1.32 {{d4[], d5[]}}, [r2]!\n",
            "vld1.32 {{d6[], d7[]}}, [r2]\n",
            $(
                "vmov q4, q1\n",
                "vmov q5, q1\n",
                "vmla.f32 q4, q", $c, ", q0\n",
                "vmla.f32 q5, q", $d, ", q0\n",
                "vmax.f32 q4, q4, q2\n",
                "vmax.f32 q5, q5, q2\n",
                "vmin.f32 q4, q4, q3\n",
                "vmin.f32 q5, q5, q3\n",
                "vmul.f32 q", $c, ", q", $c, ", q4\n",
                "vmul.f32 q", $d, ", q", $d, ", q5\n",
            )*
            "13:\n",
        )
    };
}

/// Sums `q$d` += `q$b` * `$a`, a vector or a lane of one.
macro_rules! products {
    ($($d:literal $b:literal $a:literal),*) => { concat!($("vmla.f32 q", $d, ", q", $b, ", ", $a, "\n"),*) };
}
use {all, finish, products};
