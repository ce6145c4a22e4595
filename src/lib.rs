//! Kiln turns a trained ONNX model into one small, checked, memory-mappable **image** and runs it with no heap allocation:
//! on a server core and on a bare Cortex-M, by the same bytes.
//!
//! ```text
//! model.onnx --mmap--> import --> lower --> plan --> image bytes --check--> Image<'a> --> Session --run--> outputs
//!                      tract      fuse,     liveness, one flat             trusted      arena,
//!                      parses     layout    arena     position-free        view         op set and ISA
//!                                                     file                              chosen once
//!                           model.kiln --mmap / flash / include_bytes!--^
//! ```
//!
//! # Use
//!
//! On a host, a file of either kind is opened and run. An ONNX file is compiled in memory for the shapes that it declares, or for
//! those of `Model::session_for`; what `kiln compile` writes to a file are the same bytes.
//!
//! ```
//! # #[cfg(feature = "onnx")]
//! # fn main() -> Result<(), kiln::ModelError> {
//! let model = kiln::Model::open("models/digits-cnn/model.onnx")?;
//! let mut session = model.session()?; // the last allocation: the arena
//! session.input::<f32>("image")?.fill(0.0); // [1, 1, 28, 28], by name or position
//! session.run()?;
//! assert_eq!(session.output::<f32>("logits")?.len(), 10);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "onnx"))]
//! # fn main() {}
//! ```
//!
//! A causal model can be made a **stream**: its time axis is gone, each run takes one step, and what a step must know of
//! earlier ones is state in the session's arena. `reset` starts again.
//!
//! ```
//! # #[cfg(feature = "onnx")]
//! # fn main() -> Result<(), kiln::ModelError> {
//! use kiln::frontend::Text;
//! let options = kiln::model::Options { stream: true, ..Default::default() };
//! let model = kiln::Model::open_with("models/text-lstm/model.onnx", options)?;
//! let mut session = model.session()?;
//! let text = Text::read(&|key| model.metadata(key))?; // the vocabulary that the model carries
//! session.reset();
//! for id in text.ids("a gripping story") {
//!     session.input::<i64>("ids")?.fill(id.into()); // [1, 1]: one word
//!     session.run()?;
//! }
//! let logits = session.output::<f32>("logits")?; // after the words so far
//! assert!(logits[1] > logits[0]); // fresh, not rotten
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "onnx"))]
//! # fn main() {}
//! ```
//!
//! The **core alone** (no feature: `no_std`, no allocator) takes an image as a byte slice and an arena that the caller owns.
//! Both must be [`Aligned`]; a device's image comes from `include_bytes!`.
//!
//! ```
//! use kiln::{Aligned, Image, Session, kernels::Isa, ops};
//!
//! fn answer(bytes: &[u8], pixels: &[f32], arena: &mut [u8], scores: &mut [f32]) -> kiln::error::Result<()> {
//!     let image = Image::new(bytes)?; // the check, once; nothing is copied
//!     let mut session = Session::new(&image, ops::set(Isa::detect())?, arena)?;
//!     session.input::<f32>("image")?.copy_from_slice(pixels);
//!     session.run()?;
//!     scores.copy_from_slice(session.output("logits")?);
//!     Ok(())
//! }
//!
//! # #[cfg(feature = "onnx")]
//! # fn main() -> Result<(), kiln::ModelError> {
//! # let compiled = kiln::Model::open("models/digits-cnn/model.onnx")?.compiled(&[])?;
//! # let bytes = compiled.bytes();
//! # // On a device: static BYTES: Aligned<[u8; N]> = Aligned(*include_bytes!("digits.kiln"));
//! let mut arena = Aligned([0u8; 160_000]); // the image says how much: `arena_bytes` of its program
//! let mut scores = [0.0; 10];
//! answer(bytes, &[0.0; 28 * 28], &mut arena.0, &mut scores)?;
//! assert!(scores.iter().all(|score| score.is_finite()));
//! // One byte less than the image asks for is an error, never a panic.
//! let least = Image::new(bytes)?.main().arena_bytes();
//! let error = answer(bytes, &[0.0; 28 * 28], &mut arena.0[..least - 1], &mut scores).unwrap_err();
//! assert_eq!(error.kind, kiln::Kind::ArenaTooSmall);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "onnx"))]
//! # fn main() {}
//! ```
//!
//! [`ops::set`] holds every op. A firmware names the ops of its image instead (`[kiln::ops::gemm::entry::<B>(), …]`), so that the
//! linker drops the others: `targets/cortex-m` does.
//!
//! # The way of the data, by module
//!
//! | | takes | gives | |
//! |---|---|---|---|
//! | `import` | an ONNX file | a `graph` | the only module that names tract |
//! | `lower` | a `graph` | a draft of a program | fuses, settles layouts, writes op records |
//! | `plan` | a draft | an image's bytes | who lives when, places in the arena, weight packing |
//! | [`image`] | bytes | [`Image`] | byte layout and check |
//! | [`exec`] | [`Image`], arena, op set | [`Session`] | the loop over ops, cut in slices |
//! | [`ops`] | an op record and its operands | calls of kernels | one evaluator per op family |
//! | [`kernels`] | slices and numbers | slices | the arithmetic, once over a vector trait |
//!
//! [`program`] is the one vocabulary between them: op records, which `lower` writes, `plan` places, [`image`] stores and
//! [`ops`] run. [`frontend`] stands between the world and tensors: texts, pictures, sounds, labels. `model` opens files of
//! either kind on a host, `cli` is the command, `capi` the C functions. [`tensor`] and [`error`] serve all.
//!
//! # Rings
//!
//! From the inside out; imports point inward only, and the crate builds for each set of features.
//!
//! | feature | adds | may |
//! |---|---|---|
//! | none | [`image`] (reader, check), [`exec`], [`ops`], [`kernels`], [`program`], [`frontend`] | neither allocate nor use an OS |
//! | `alloc` | `plan`, the image writer, the `certificate`, sessions that own their arena | allocate |
//! | `std` | `graph`, `lower`, `model`, memory maps, detection of the CPU | use files |
//! | `onnx` | `import` | use tract |
//! | `cli` (default) | the command | |
//! | `capi` | beside any of these: the C functions of the core | as the others |
//! | `defmt` | likewise: `defmt::Format` for error and status types | as the others |
//! | `terse` | likewise: errors without texts, for the smallest of flashes; kind and place are left | as the others |
//!
//! # Formats
//!
//! * The **image**: the byte table is in [`image`], attributes of ops in [`program`]. Versioned, little-endian,
//!   position-free; weights in panels of 16 columns, which every kernel reads (large ones of a single row in slabs of
//!   512). Two checksums, of the structure and of the weights.
//! * **Metadata** by which a model carries its vocabulary, labels and normalisation, in ONNX's `metadata_props` and then in the
//!   image: the keys are in [`frontend`].
//!
//! # Decisions, and why
//!
//! * **One executable form.** An ONNX file that is opened is compiled to image bytes in memory, and only those are run: so
//!   every test exercises the format, and a device can't differ from the host but in its kernels.
//! * **Checked once, then trusted.** [`Image::new`] proves every offset, shape, operand and arena range. Records carry their whole
//!   geometry, so the check needs no knowledge of an op beyond its record's `check`, and a run has none of its own to make.
//! * **Weights never pass through tract.** It gets a graph of typed ops without values; packing reads the mapped file. What
//!   tract takes apart or reads wrongly (recurrent cells, norms, GELU, quantisation) stays whole through ops of our own in
//!   its registry.
//! * **Memory is known before the run.** Offsets come from liveness; a session's only memory is the arena. A run consumes its
//!   inputs, whose memory is used again: write each before every run.
//! * **Few, powerful ops**: products and convolutions with one shared epilogue, one element-wise op that evaluates a small program
//!   over tiles, one strided copy. Values carry their layout, so axis ops mostly cost nothing, and channels-last inside a
//!   convolution net needs no pass of its own.
//! * **Work units, one mechanism to pause and to share.** An evaluator cuts its op into [units](ops::Units) by the record and the
//!   backend alone, and computes any range of them. So a run can stop inside an op ([`Session::run_slice`]), and every way to
//!   cut it gives the same bits. A whole run is one range: it costs nothing.
//!   Threads share the same units: a pool's parts are ranges of them (`Session::with_threads`, on hosts).
//! * **Shapes are settled when a program is compiled.** A run decides none: a symbol with a range of sizes makes a program for each
//!   of them. That costs an image some kilobytes a program (records, no weights), and no program is slower than one compiled alone.
//!   One session goes from one to another ([`Session::choose`]).
//!   Where data decide how long an output is, its memory and all that is computed are for the most there can be; a count that the
//!   program computes beside it says how much of it is there ([`Session::output_dims`]).
//! * **What has no native form is left to the host**: tract evaluates that one node, by the `extern` op. It is named by
//!   `kiln inspect` and stops `kiln compile`; nothing falls back in silence.
//! * **One algorithm over a vector trait**, compiled for each instruction set and chosen once, when a session is made. The scalar
//!   path is the reference; a portable vector of 16 lanes tests what wide registers will do.
//! * **Winograd weights are derived, not stored**: they are up to four times as large, and a device never wants them. A host's first
//!   run transforms them as it multiplies, the second one writes and keeps them, so that a single answer does not wait for memory that
//!   it would read once. Both are one kernel, with the same bits. The scalar path takes the direct sums.
//! * **A host's scratch memory lies in the arena**: some kernels want more of it than an image plans for a device, and most of an arena
//!   is idle while they run. Which part, the host finds from the ops' operands when a session is made (`plan::room`).
//!
//! # What is not there
//!
//! Int8 arithmetic (quantised nodes are computed in floating point), images of several networks (what has several programs is one
//! network at several sizes), memory or work that shrink with a length that depends on data.
// Unit tests of every feature set link std: the harness does anyway.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod aligned;
#[cfg(any(test, feature = "capi"))]
pub mod capi;
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
pub mod certificate;
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

/// The README's Rust is compiled with the doc tests.
#[cfg(all(doctest, feature = "onnx"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "cli")]
pub mod cli;
