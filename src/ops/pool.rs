//! Pooling.

use super::{Context, Entry, Op, Units};
use crate::error::Result;
use crate::kernels::{Backend, pool};
use crate::program::{OpKind, Pool, Rules};

/// [`Pool`](OpKind::Pool).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Pool, rules: Rules::of::<Pool>(), eval: eval::<B> }
}

fn eval<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (record, _) = op.record::<Pool>()?;
    let (x, y) = (context.input(op, 0), context.output(op, 0));
    Ok(Units::any(pool::pool::<B>(record, x, y, context.range())))
}
