//! Cortex-M with a single-precision FPU (M4F, M33, M7): microkernels in assembler under the portable kernels' loops.
//!
//! Compilers spill here: a tile wants all 32 registers of the FPU, and plain Rust takes 4 to 5 cycles a product where these
//! loops take less than 3. Products are VMUL and VADD in groups of four, so that no result is used at once: half as many
//! VFMAs would take longer, at three cycles each. Loads are of many registers at a time, and what they load is shared by two
//! rows of a product or three outputs of a window. Everything around the tiles, and every op without products, is the scalar
//! code; no scalar tile is linked, for these take every shape.
//!
//! Each routine is a naked function of one argument, a block of its parameters: with 12 registers for pointers and counts
//! nothing is left for a compiler to arrange. Routines begin their sums with the bias (and the residual) and know one
//! activation, ReLU, by a trick of the integer unit: a sign bit clears the number (so a NaN that has one becomes 0). What asks
//! for more has its sums stored as they are, and finished by the portable code.
#![allow(unsafe_code)]

mod depthwise;
mod tile;

use super::portable::Lanes;
use super::{Backend, Isa, Kernel, depthwise::Run, tile::RowBlock};
use crate::program::Tile;

/// Cortex-M with a single-precision FPU.
#[derive(Clone, Copy, Debug)]
pub struct CortexMF;

impl Backend for CortexMF {
    const ISA: Isa = Isa::CortexMF;
    const TILE: Tile = Tile::CORTEX_M;
    type F = Lanes<1>;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Lanes<1>>()
    }
    fn row_block(block: &RowBlock<'_>) {
        #[cfg(any(test, feature = "alloc"))]
        if !block.offsets.is_null() {
            return Self::launch(*block);
        }
        tile::row_block(block);
    }
    fn depthwise(run: Run<'_, '_>) {
        depthwise::run(&run);
    }
}

/// Bias of ops without one, and of sums that are finished elsewhere.
static ZEROS: [f32; super::tile::PANEL] = [0.0; super::tile::PANEL];

const F32: usize = size_of::<f32>();

/// Sums `s$d` += `s$x` * `s$a`, for four sums and numbers and one factor. Takes s28 to s31.
macro_rules! scaled {
    ($d0:literal $d1:literal $d2:literal $d3:literal, $x0:literal $x1:literal $x2:literal $x3:literal, $a:literal) => {
        concat!(
            "vmul.f32 s28, s",
            $x0,
            ", s",
            $a,
            "\n",
            "vmul.f32 s29, s",
            $x1,
            ", s",
            $a,
            "\n",
            "vmul.f32 s30, s",
            $x2,
            ", s",
            $a,
            "\n",
            "vmul.f32 s31, s",
            $x3,
            ", s",
            $a,
            "\n",
            "vadd.f32 s",
            $d0,
            ", s",
            $d0,
            ", s28\n",
            "vadd.f32 s",
            $d1,
            ", s",
            $d1,
            ", s29\n",
            "vadd.f32 s",
            $d2,
            ", s",
            $d2,
            ", s30\n",
            "vadd.f32 s",
            $d3,
            ", s",
            $d3,
            ", s31\n",
        )
    };
}

/// Sums `s$d` += `s$w` * s24 to s27, element by element. Takes s28 to s31.
macro_rules! product {
    ($d0:literal $d1:literal $d2:literal $d3:literal, $w0:literal $w1:literal $w2:literal $w3:literal) => {
        concat!(
            "vmul.f32 s28, s24, s",
            $w0,
            "\n",
            "vmul.f32 s29, s25, s",
            $w1,
            "\n",
            "vmul.f32 s30, s26, s",
            $w2,
            "\n",
            "vmul.f32 s31, s27, s",
            $w3,
            "\n",
            "vadd.f32 s",
            $d0,
            ", s",
            $d0,
            ", s28\n",
            "vadd.f32 s",
            $d1,
            ", s",
            $d1,
            ", s29\n",
            "vadd.f32 s",
            $d2,
            ", s",
            $d2,
            ", s30\n",
            "vadd.f32 s",
            $d3,
            ", s",
            $d3,
            ", s31\n",
        )
    };
}

/// Sums `s$d` += `s$x`.
macro_rules! add {
    ($($d:literal $x:literal),*) => { concat!($("vadd.f32 s", $d, ", s", $d, ", s", $x, "\n"),*) };
}

/// ReLU of four sums, stored to `$to` through four registers in ascending order.
macro_rules! store_relu {
    ($to:literal, $r0:literal $r1:literal $r2:literal $r3:literal, $d0:literal $d1:literal $d2:literal $d3:literal) => {
        concat!(
            "vmov ",
            $r0,
            ", ",
            $r1,
            ", s",
            $d0,
            ", s",
            $d1,
            "\n",
            "vmov ",
            $r2,
            ", ",
            $r3,
            ", s",
            $d2,
            ", s",
            $d3,
            "\n",
            "bic ",
            $r0,
            ", ",
            $r0,
            ", ",
            $r0,
            ", asr #31\n",
            "bic ",
            $r1,
            ", ",
            $r1,
            ", ",
            $r1,
            ", asr #31\n",
            "bic ",
            $r2,
            ", ",
            $r2,
            ", ",
            $r2,
            ", asr #31\n",
            "bic ",
            $r3,
            ", ",
            $r3,
            ", ",
            $r3,
            ", asr #31\n",
            "stmia ",
            $to,
            ", {{",
            $r0,
            ", ",
            $r1,
            ", ",
            $r2,
            ", ",
            $r3,
            "}}\n",
        )
    };
}
/// What a routine begins with: the assembler does not take the build's FPU for naked functions.
macro_rules! fpu {
    () => {
        ".fpu fpv4-sp-d16\n"
    };
}
use {add, fpu, product, scaled, store_relu};
