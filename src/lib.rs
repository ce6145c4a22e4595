//! draft
#![cfg_attr(not(feature = "std"), no_std)]

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
