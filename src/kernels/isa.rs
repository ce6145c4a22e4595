//! Instruction sets: their names, detection, and how a kernel is run on one.

use super::F32s;
use crate::error::{Error, Kind, Result};

/// An instruction set (or the path that stands for one) that kernels can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// One element at a time: the reference.
    Scalar,
    /// A portable vector of 16 lanes, to test what wide vectors do; slow.
    Portable16,
    /// AVX2 and FMA.
    Avx2,
}

impl Isa {
    /// All of them, the best last.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Portable16, Isa::Avx2];

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Portable16 => "portable16",
            Isa::Avx2 => "avx2",
        }
    }

    /// The instruction set of this name.
    ///
    /// # Errors
    /// [`Kind::Isa`] for a name that is none of [`Isa::ALL`]'s.
    pub fn from_name(name: &str) -> Result<Isa> {
        let found = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        found.ok_or(Error::new(Kind::Isa, "unknown instruction set: it is scalar, portable16 or avx2"))
    }

    /// Whether this CPU (on bare metal: this build) has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar | Isa::Portable16 => true,
            #[cfg(all(target_arch = "x86_64", feature = "std"))]
            Isa::Avx2 => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            #[cfg(not(all(target_arch = "x86_64", feature = "std")))]
            Isa::Avx2 => cfg!(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma")),
        }
    }

    /// The fastest one that is available.
    pub fn detect() -> Isa {
        if Isa::Avx2.available() { Isa::Avx2 } else { Isa::Scalar }
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
    /// Runs a kernel in a function compiled for the instruction set.
    fn launch<K: Kernel>(kernel: K) -> K::Output;
}
