//! From an owned program to an image's bytes: weight packing, liveness, places in the arena.
//!
//! draft: liveness and placement go into this folder; `build` makes image bytes of a model's drafts.

pub mod draft;
