//! Running a checked image: the session, its arena, the loop over ops.
//!
//! A [`Session`] binds a program of an [`Image`](crate::Image) to an arena that the caller owns and to an op set; all that could fail for
//! reasons of set-up fails when it is made. A run is a loop over op records: each is read where it stands in the image,
//! its evaluator is one array access away, and its operands are offsets into arena and weights. Nothing allocates.
//!
//! Position and inputs' state are part of the session, so a run may be cut between any two [work units](Session::run_slice)
//! and go on later. With std, threads may share an op's units.

pub mod context;
#[cfg(feature = "std")]
mod crew;
mod lengths;
#[cfg(feature = "alloc")]
pub mod owned;
#[cfg(feature = "std")]
mod pool;
mod self_test;
mod session;

#[cfg(feature = "alloc")]
pub use owned::OwnedSession;
#[cfg(feature = "std")]
pub use session::MOST_THREADS;
pub use session::{Budget, Host, Key, Session};
