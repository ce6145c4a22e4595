//! Recurrent cells.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::kernels::Backend;
use crate::program::OpKind;

/// [`Lstm`](OpKind::Lstm).
pub const fn lstm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Lstm, eval: eval_lstm::<B> }
}

fn eval_lstm<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Gru`](OpKind::Gru).
pub const fn gru<B: Backend>() -> Entry {
    Entry { kind: OpKind::Gru, eval: eval_gru::<B> }
}

fn eval_gru<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
