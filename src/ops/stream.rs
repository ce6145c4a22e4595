//! Streams.

use super::{Context, Entry, Op};
use crate::error::Result;
use crate::kernels::copy;
use crate::program::{OpKind, Window};

/// [`Window`](OpKind::Window).
pub const fn window() -> Entry {
    Entry { kind: OpKind::Window, eval: eval_window }
}

fn eval_window(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (w, _) = op.record::<Window>()?;
    let (new, state) = (context.src_bytes(op.needed_input(0)?), context.src_bytes(op.needed_input(1)?));
    let out = context.dst_bytes(op.needed_output(0)?);
    let bytes = |rows: u32| rows as usize * w.row_bytes as usize;
    let kept = bytes(w.keep - w.new);
    copy::bytes(state.from(bytes(w.new)), out, kept);
    copy::bytes(new, out.from(kept), bytes(w.new));
    Ok(())
}
