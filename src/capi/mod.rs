//! The C ABI: the C functions of the runtime, as `include/kiln.h` declares them.
//!
//! A thin layer over [`Image`](crate::Image) and [`Session`](crate::Session). Objects live in the caller's memory: structs
//! whose size the header fixes (compile-time assertions here hold them to it), so neither heap nor libc is needed and the
//! same source serves a server and a bare Cortex-M. Names are `kiln_object_verb` and the C names are the Rust names, so
//! that a reader finds here what the header says; the header is generated from these files (`tests/capi/header`).
//!
//! Rules that every function keeps:
//! * A null pointer, a number out of range, an object that was never initialised: a status, and nothing is written but the
//!   session's last error. To tell an initialised object from zeroed memory, or from a copy of one, each starts with a tag
//!   made of its own address.
//! * Outputs come last and are written only on success.
//! * Nothing unwinds: `extern "C"` ends the process at a panic, and libraries are built with `panic = "abort"`
//!   (`targets/capi`, the leaf crate that also brings the panic handler).
#![allow(unsafe_code)]
// C's names, for C's readers
#![allow(non_camel_case_types, non_upper_case_globals)]
// What a caller must see to is the same for all functions, and stands at the head of the header.
#![allow(clippy::missing_safety_doc)]

mod image;
mod ops;
mod session;
mod status;
#[cfg(test)]
mod tests;

pub use image::*;
pub use ops::*;
pub use session::*;
pub use status::*;

/// The first word of an object at this address, once it is initialised.
fn tag(object: usize, kind: usize) -> usize {
    object ^ kind
}

/// Whether a pointer that is not null may be read as a `T` at all.
fn aligned<T>(pointer: *const T) -> bool {
    (pointer as usize).is_multiple_of(align_of::<T>())
}
