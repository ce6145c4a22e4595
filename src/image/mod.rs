//! The image: one small position-free file that holds everything a device needs to run a model.
//!
//! draft: byte table, reader, check, writer go into this folder.

pub mod layout;
