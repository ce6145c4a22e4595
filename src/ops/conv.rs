//! Convolution.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::kernels::Backend;
use crate::program::OpKind;

/// [`Conv`](OpKind::Conv).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Conv, eval: eval_entry::<B> }
}

fn eval_entry<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Depthwise`](OpKind::Depthwise).
pub const fn depthwise<B: Backend>() -> Entry {
    Entry { kind: OpKind::Depthwise, eval: eval_depthwise::<B> }
}

fn eval_depthwise<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
