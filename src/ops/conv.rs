//! Convolution.

use super::gemm::epilogue_of;
use super::{Context, Entry, Op};
use crate::error::Result;
use crate::kernels::{Backend, conv, depthwise};
use crate::program::conv::Depthwise;
use crate::program::{Conv, OpKind};

/// [`Conv`](OpKind::Conv).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Conv, eval: eval::<B> }
}

fn eval<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (record, _) = op.record::<Conv>()?;
    let epilogue = epilogue_of(context, op, &record.epilogue, 1.0)?;
    let (x, w, y) = (context.src(op.needed_input(0)?), context.src(op.needed_input(1)?), context.dst(op.needed_output(0)?));
    conv::conv::<B>(record, x, w, y, epilogue, context.scratch());
    Ok(())
}

/// [`Depthwise`](OpKind::Depthwise).
pub const fn depthwise<B: Backend>() -> Entry {
    Entry { kind: OpKind::Depthwise, eval: eval_depthwise::<B> }
}

fn eval_depthwise<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (Depthwise(record), _) = op.record()?;
    let epilogue = epilogue_of(context, op, &record.epilogue, 1.0)?;
    let (x, w, y) = (context.src(op.needed_input(0)?), context.src(op.needed_input(1)?), context.dst(op.needed_output(0)?));
    depthwise::depthwise::<B>(record, x, w, y, epilogue, context.scratch());
    Ok(())
}
