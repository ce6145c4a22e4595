//! Running a checked image: the session, its arena, the loop over ops.
//!
//! draft: session, arena, run loop go into this folder.

pub mod context;
