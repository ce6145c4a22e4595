//! Kiln turns a trained ONNX model into one small, checked, memory-mappable **image** and runs it with no heap allocation:
//! on a server core, on a phone-class Arm core, on a bare Cortex-M.
//!
//! ```text
//! model.onnx --mmap--> import --> lower --> plan --> image bytes --check--> Image<'a> --> Session --run--> outputs
//!                      tract      fuse,     liveness, one flat             trusted      arena,
//!                      parses     layout    arena     position-free        view         op set and ISA
//!                                                     file                              chosen once
//!                           model.kiln --mmap / flash / include_bytes!--^
//! ```
//!
//! In the order of the data: `import` (the only module that names tract) makes a `graph` of an ONNX file, without copying
//! its weights; `lower` fuses it, settles layouts and writes op records, the vocabulary of [`program`]; `plan` finds out who
//! lives when and gives everything a place in the arena; [`image`] stores and checks the result; [`exec`] runs it with the
//! evaluators of [`ops`] and their [`kernels`]. [`frontend`] stands between the world and tensors. `model` opens files of
//! either kind on a host, `cli` is the command.
//!
//! Rings, from the inside out: without any feature the crate is the core ring (`no_std`, no allocator); `alloc` adds planning
//! and image writing; `std` files and memory maps; `onnx` the import by tract; `cli` the command.
// Unit tests of every feature set link std: the harness does anyway.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod aligned;
pub mod error;
pub mod exec;
pub mod frontend;
pub mod image;
pub mod kernels;
pub mod ops;
pub mod program;
pub mod tensor;

pub use aligned::Aligned;
pub use error::{Error, Kind};
pub use exec::Session;
pub use image::Image;

#[cfg(feature = "alloc")]
pub mod plan;

#[cfg(feature = "std")]
pub mod graph;
#[cfg(feature = "onnx")]
pub mod import;
#[cfg(feature = "std")]
pub mod lower;
#[cfg(feature = "std")]
pub mod mapped;
#[cfg(feature = "std")]
pub mod model;
#[cfg(feature = "std")]
mod model_error;
#[cfg(feature = "std")]
pub use exec::OwnedSession;
#[cfg(feature = "std")]
pub use model::Model;
#[cfg(feature = "std")]
pub use model_error::ModelError;
#[cfg(feature = "cli")]
pub mod cli;
