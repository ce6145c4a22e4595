//! Element-wise programs.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::kernels::Backend;
use crate::program::OpKind;

/// [`Map`](OpKind::Map).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Map, eval: eval_entry::<B> }
}

fn eval_entry<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
