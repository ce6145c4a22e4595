//! Convolution.

use super::gemm::epilogue_of;
use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::{Backend, conv, depthwise};
#[cfg(feature = "alloc")]
use crate::kernels::{shallow, winograd};
use crate::program::conv::Depthwise;
use crate::program::{Conv, OpKind, Rules};

/// [`Conv`](OpKind::Conv).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Conv, rules: Rules::of::<Conv>(), eval: eval::<B, true> }
}

/// [`Conv`](OpKind::Conv) for images whose convolutions have one group each, but for depthwise ones, which are a kind of their own:
/// one with more is an error when it runs. It takes less code and stack.
pub const fn ungrouped<B: Backend>() -> Entry {
    Entry { kind: OpKind::Conv, rules: Rules::of::<Conv>(), eval: eval::<B, false> }
}

fn eval<B: Backend, const GROUPED: bool>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (record, _) = op.record::<Conv>()?;
    if !GROUPED && record.groups != 1 {
        return Err(Error::new(Kind::MissingOp, "the op set's convolutions have one group, and this one has more"));
    }
    let made = epilogue_of::<B>(context, op, &record.epilogue, 1.0);
    let epilogue = made.as_ref().map_err(|&e| e)?; // in place: no second one on the stack
    let (x, w, y) = (context.input(op, 0), context.input(op, 1), context.output(op, 0));
    // Devices give no scratch memory beside the arena's, and firmware links no code for this.
    #[cfg(feature = "alloc")]
    if let Some(scheme) = winograd::Scheme::of(record) {
        let derived = context.derived(op).filter(|derived| derived.len() >= scheme.weights(record));
        if context.scratch::<f32>().len() >= scheme.scratch(record, derived.is_some()) {
            let w = derived.map_or(winograd::Weights::Plain(w), winograd::Weights::Derived);
            let count = winograd::conv::<B>(record, scheme, x, w, y, *epilogue, context.scratch(), context.range());
            return Ok(Units::any(count));
        }
    }
    #[cfg(feature = "alloc")]
    if shallow::suits(record) && context.scratch::<f32>().len() >= shallow::scratch(record) {
        return Ok(Units::any(shallow::conv::<B>(record, x, w, y, *epilogue, context.scratch(), context.range())));
    }
    Ok(Units::any(conv::conv::<B, GROUPED>(record, x, w, y, epilogue, context.scratch(), context.range())))
}

/// [`Depthwise`](OpKind::Depthwise).
pub const fn depthwise<B: Backend>() -> Entry {
    Entry { kind: OpKind::Depthwise, rules: Rules::of::<Depthwise>(), eval: eval_depthwise::<B> }
}

fn eval_depthwise<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (Depthwise(record), _) = op.record()?;
    let made = epilogue_of::<B>(context, op, &record.epilogue, 1.0);
    let epilogue = made.as_ref().map_err(|&e| e)?; // in place: no second one on the stack
    let (x, w, y) = (context.input(op, 0), context.input(op, 1), context.output(op, 0));
    Ok(Units::any(depthwise::depthwise::<B>(record, x, w, y, epilogue, context.range())))
}
