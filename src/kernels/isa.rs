//! Instruction sets: their names, detection, and how a kernel is run on one.

use super::{F32s, depthwise, tile};
use crate::error::{Error, Kind, Result};
use crate::program::Tile;
use core::marker::PhantomData;

/// Defines [`Isa`] from one table: a doc, the variant, the name.
macro_rules! isas {
    ($($(#[$doc:meta])* $isa:ident $name:literal,)*) => {
        /// An instruction set (or the path that stands for one) that kernels can run on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Isa {
            $($(#[$doc])* $isa,)*
        }

        impl Isa {
            /// All of them, whether or not this CPU or this build has them; of each architecture's, the best last.
            pub const ALL: [Isa; [$($name),*].len()] = [$(Isa::$isa),*];

            /// The name used on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Isa::$isa => $name,)*
                }
            }

            /// The instruction set of this name.
            ///
            /// # Errors
            /// [`Kind::Isa`] for a name that is none of [`Isa::ALL`]'s.
            pub fn from_name(name: &str) -> Result<Isa> {
                let found = Isa::ALL.into_iter().find(|isa| isa.name() == name);
                found.ok_or(Error::new(Kind::Isa, concat!("unknown instruction set, none of" $(, " ", $name)*)))
            }
        }
    };
}

isas! {
    /// One element at a time: the reference.
    Scalar "scalar",
    /// A portable vector of 16 lanes, to test on a host what wide vectors do; slow.
    Portable16 "portable16",
    /// What every x86-64 has: 4 lanes, no fused multiply-add.
    Sse2 "sse2",
    /// AVX2 and FMA.
    Avx2 "avx2",
    /// AVX-512 F.
    Avx512 "avx512",
    /// NEON, of 64-bit Arm.
    Neon "neon",
    /// NEON, of 32-bit Arm.
    Neon32 "neon32",
    /// The single-precision FPU of a Cortex-M.
    CortexMF "cortex-mf",
}

/// Evaluates `$run` with `$B` standing for the [`Backend`] of an instruction set, or `$none` where this build has no kernels for
/// it: the one place that knows which type serves which set.
#[macro_export]
macro_rules! with_backend {
    ($isa:expr, $B:ident => $run:expr, else $none:expr) => {
        match $isa {
            $crate::kernels::Isa::Scalar => {
                type $B = $crate::kernels::portable::Scalar;
                $run
            }
            #[cfg(not(target_os = "none"))]
            $crate::kernels::Isa::Portable16 => {
                type $B = $crate::kernels::portable::Portable16;
                $run
            }
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::Sse2 => {
                type $B = $crate::kernels::x86_64::sse2::Sse2;
                $run
            }
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::Avx2 => {
                type $B = $crate::kernels::x86_64::avx2::Avx2;
                $run
            }
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Isa::Avx512 => {
                type $B = $crate::kernels::x86_64::avx512::Avx512;
                $run
            }
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Isa::Neon => {
                type $B = $crate::kernels::aarch64::neon::Neon;
                $run
            }
            #[cfg(all(target_arch = "arm", not(target_os = "none"), target_abi = "eabihf"))]
            $crate::kernels::Isa::Neon32 => {
                type $B = $crate::kernels::arm::Neon32;
                $run
            }
            #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
            $crate::kernels::Isa::CortexMF => {
                type $B = $crate::kernels::cortex_m::CortexMF;
                $run
            }
            #[allow(unreachable_patterns)] // where the build has all of them
            _ => $none,
        }
    };
}

/// Whether the CPU has all of these features of an architecture. Where neither std nor an instruction can tell (only x86-64
/// has one for programs), what counts is what the build takes for granted.
macro_rules! has {
    ("x86_64", $detected:ident $(, $feature:tt)*) => {{
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        let has = true $(&& std::arch::$detected!($feature))*;
        #[cfg(all(target_arch = "x86_64", not(feature = "std")))]
        let has = true $(&& core_detect::$detected!($feature))*;
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has
    }};
    ($arch:literal, $detected:ident $(, $feature:tt)*) => {{
        #[cfg(all(target_arch = $arch, feature = "std"))]
        let has = true $(&& std::arch::$detected!($feature))*;
        #[cfg(not(all(target_arch = $arch, feature = "std")))]
        let has = cfg!(all(target_arch = $arch $(, target_feature = $feature)*));
        has
    }};
}

impl Isa {
    /// Whether this CPU (on bare metal: this build) has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Portable16 => cfg!(not(target_os = "none")),
            Isa::Sse2 => cfg!(target_arch = "x86_64"),
            Isa::Avx2 => has!("x86_64", is_x86_feature_detected, "avx2", "fma"),
            Isa::Avx512 => has!("x86_64", is_x86_feature_detected, "avx512f", "avx2", "fma"),
            Isa::Neon => has!("aarch64", is_aarch64_feature_detected, "neon"),
            Isa::Neon32 => {
                #[cfg(all(target_arch = "arm", not(target_os = "none"), target_abi = "eabihf"))]
                let has = super::arm::available();
                #[cfg(not(all(target_arch = "arm", not(target_os = "none"), target_abi = "eabihf")))]
                let has = false;
                has
            }
            Isa::CortexMF => cfg!(all(target_arch = "arm", target_os = "none", target_abi = "eabihf")),
        }
    }

    /// The fastest one that is available.
    pub fn detect() -> Isa {
        let real = |isa: &Isa| isa.available() && *isa != Isa::Portable16;
        Isa::ALL.into_iter().rev().find(real).unwrap_or(Isa::Scalar)
    }
}

/// A computation that can run on any backend: a struct of its arguments.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it with vectors of type `V`. Implementations and all that they call are `#[inline(always)]`.
    fn run<V: F32s>(self) -> Self::Output;
}

/// A type that stands for an instruction set. It is only named where the set is known to be available
/// ([`Isa::available`]): [`ops::set`](crate::ops::set) sees to that.
pub trait Backend: Copy + 'static {
    /// Which one.
    const ISA: Isa;
    /// Its vector of `f32`.
    type F: F32s;
    /// Whether epilogues know no activations but [clamps](crate::program::Epilogue::is_clamp): see [`Clamps`].
    const CLAMPS: bool = false;
    /// The largest tile of a product.
    const TILE: Tile = Tile { rows: tile::max_rows::<Self::F>(), columns: tile::max_columns::<Self::F>() };
    /// Runs a kernel in a function compiled for the instruction set.
    fn launch<K: Kernel>(kernel: K) -> K::Output;
    /// Computes a tile of a product: the microkernel, unless the instruction set has one of its own.
    #[inline(always)]
    fn row_block(block: &tile::RowBlock<'_>) {
        Self::launch(*block);
    }
    /// Computes a depthwise convolution, likewise.
    fn depthwise(run: depthwise::Run<'_, '_>) {
        Self::launch(run);
    }
}

/// A backend whose epilogues have no activations but [clamps](crate::program::Epilogue::is_clamp): an op with another is an
/// error when it runs. For firmware whose image has no others, and that is not to carry `exp` and the like.
#[derive(Clone, Copy, Debug)]
pub struct Clamps<B>(PhantomData<B>);

impl<B: Backend> Backend for Clamps<B> {
    const ISA: Isa = B::ISA;
    type F = B::F;
    const CLAMPS: bool = true;
    const TILE: Tile = B::TILE;
    fn launch<K: Kernel>(kernel: K) -> K::Output {
        B::launch(kernel)
    }
    #[inline(always)]
    fn row_block(block: &tile::RowBlock<'_>) {
        B::row_block(block);
    }
    fn depthwise(run: depthwise::Run<'_, '_>) {
        B::depthwise(run);
    }
}
