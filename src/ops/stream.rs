//! Streams.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::program::OpKind;

/// [`Window`](OpKind::Window).
pub const fn window() -> Entry {
    Entry { kind: OpKind::Window, eval: eval_window }
}

fn eval_window(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
