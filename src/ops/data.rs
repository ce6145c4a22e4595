//! Ops that move data.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::program::OpKind;

/// [`Copy`](OpKind::Copy).
pub const fn copy() -> Entry {
    Entry { kind: OpKind::Copy, eval: eval_copy }
}

fn eval_copy(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Gather`](OpKind::Gather).
pub const fn gather() -> Entry {
    Entry { kind: OpKind::Gather, eval: eval_gather }
}

fn eval_gather(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Extern`](OpKind::Extern).
pub const fn external() -> Entry {
    Entry { kind: OpKind::Extern, eval: eval_external }
}

fn eval_external(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
