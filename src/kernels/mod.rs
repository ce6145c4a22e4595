//! Arithmetic on slices and numbers: no tensors, no shapes, no images.
//!
//! Every kernel is one algorithm, written once over a vector trait ([`F32s`]), and runs on each [`Backend`]: the scalar
//! reference (one lane), a portable vector of 16 lanes (what wide vectors do; tests only), and each instruction set's own. A
//! kernel is a struct of its arguments that implements [`Kernel`]; [`Backend::launch`] runs it inside a function compiled for that
//! instruction set. Everything a kernel calls is `#[inline(always)]`: code that is not inlined into that function would
//! be compiled for the base instruction set, and run several times slower. Where no compiler does a tile justice, a backend
//! has microkernels of its own ([`Backend::row_block`], [`Backend::depthwise`]): on a Cortex-M and on 32-bit Arm they are in
//! assembler.
//!
//! Kernels take [`Src`] and [`Dst`], spans of memory that may overlap where a kernel's docs allow it (in place); a
//! kernel asserts, once and before its loops, that its spans are as long as its sizes say.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(all(target_arch = "arm", not(target_os = "none"), target_abi = "eabihf"))]
pub mod arm;
pub mod conv;
pub mod copy;
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
pub mod cortex_m;
pub mod depthwise;
pub mod epilogue;
pub mod gemm;
pub mod half;
pub mod isa;
pub mod map;
pub mod map_f64;
pub mod map_i64;
pub mod math;
mod narrow;
pub mod pack;
pub mod pool;
pub mod portable;
#[cfg(feature = "std")]
pub mod probe;
pub mod recurrent;
pub mod reduce;
pub mod resample;
#[cfg(any(test, feature = "alloc"))]
pub mod shallow;
pub mod simd;
pub mod slabs;
pub mod span;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(feature = "alloc")]
pub mod winograd;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

pub use isa::{Backend, Clamps, Isa, Kernel};
pub use simd::F32s;
pub use span::{Dst, Src};

/// The backend of what every CPU has that this build is compiled for: for ops that are named one by one ([`ops`](crate::ops)).
#[cfg(target_arch = "x86_64")]
pub type Base = x86_64::sse2::Sse2;
/// The backend of what every CPU has that this build is compiled for: for ops that are named one by one ([`ops`](crate::ops)).
#[cfg(target_arch = "aarch64")]
pub type Base = aarch64::neon::Neon;
/// The backend of what every CPU has that this build is compiled for: for ops that are named one by one ([`ops`](crate::ops)).
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
pub type Base = cortex_m::CortexMF;
/// The backend of what every CPU has that this build is compiled for: for ops that are named one by one ([`ops`](crate::ops)).
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "arm", target_os = "none", target_abi = "eabihf")
)))]
pub type Base = portable::Scalar;

/// Whether code may be spent on speed: not on a device, whose flash is small.
pub(crate) const HOST: bool = cfg!(not(target_os = "none"));

/// Of these units, those that there are.
#[inline]
pub(crate) fn clamp(units: core::ops::Range<usize>, count: usize) -> core::ops::Range<usize> {
    units.start.min(count)..units.end.min(count)
}

/// Calls a test that is generic over its [`Backend`] on each that this CPU has: `on_each_backend!(test(arguments))`.
#[cfg(test)]
macro_rules! on_each_backend {
    ($test:ident($($argument:expr),*)) => {
        for isa in $crate::kernels::Isa::ALL {
            if isa.available() {
                $crate::with_backend!(isa, B => $test::<B>($($argument),*), else unreachable!());
            } else {
                println!("skipped: no {}", isa.name());
            }
        }
    };
}
#[cfg(test)]
pub(crate) use on_each_backend;
