//! Recurrent cells: a product of the state with all gates' weights, then the gates, step by step.

use super::{Context, Entry, Op};
use crate::error::Result;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::gemm::{Product, Right};
use crate::kernels::recurrent::{GruGates, GruPart, LstmGates};
use crate::kernels::{Backend, Dst, Src, copy};
use crate::program::{Gru, Lstm, OpKind, PANEL, Unary, hidden_padded};

/// [`Lstm`](OpKind::Lstm).
pub const fn lstm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Lstm, eval: eval_lstm::<B> }
}

/// Puts the initial state where the last one will be: a copy, nothing if it is there already, or zeros.
fn start(context: &Context<'_>, initial: Option<u32>, to: u32, bytes: usize) {
    let out = context.dst_bytes(to);
    match initial {
        Some(from) => copy::bytes(context.src_bytes(from), out, bytes),
        None => copy::fill(1, bytes, 0, out),
    }
}

fn function(number: u32) -> Unary {
    Unary::from_number(number).unwrap_or(Unary::Identity) // `check` has seen to it that it is known
}

fn eval_lstm<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (l, _) = op.record::<Lstm>()?;
    let [steps, batch, hidden] = [l.steps, l.batch, l.hidden].map(|n| n as usize);
    let width = 4 * hidden_padded(l.hidden) as usize;
    let (pre, r) = (context.src::<f32>(op.needed_input(0)?), context.src::<f32>(op.needed_input(1)?));
    let (last_h, last_c) = (op.needed_output(1)?, op.needed_output(2)?);
    start(context, op.input(2), last_h, 4 * batch * hidden);
    start(context, op.input(3), last_c, 4 * batch * hidden);
    let (h, c) = (context.dst::<f32>(last_h), context.dst::<f32>(last_c));
    let peepholes = op.input(4).map(|t| context.src(t));
    let y = op.output(0).map(|t| context.dst::<f32>(t));
    let activations = [0, 1, 2].map(|i| (function(l.activations[i]), l.p[i]));
    let gates = context.scratch::<f32>();
    for s in 0..steps {
        let t = if l.reverse != 0 { steps - 1 - s } else { s };
        let at = |b: usize, step: u32, row: u32| t * step as usize + b * row as usize;
        for b in 0..batch {
            let row = pre.from(at(b, l.pre_step, l.pre_batch)).first(width);
            let (h, c) = (h.from(b * hidden).first(hidden), c.from(b * hidden).first(hidden));
            product::<B>(h.src(), r, Some(row), gates, width);
            let (clip, coupled) = (l.clip, l.coupled != 0);
            B::launch(LstmGates { gates: gates.src(), peepholes, activations, clip, coupled, c, h });
            emit(h, y, || at(b, l.y_step, l.y_batch));
        }
    }
    Ok(())
}

/// `to = h * r (+ pre)`, one row.
fn product<B: Backend>(h: Src<'_, f32>, r: Src<'_, f32>, pre: Option<Src<'_, f32>>, to: Dst<'_, f32>, n: usize) {
    let record = crate::program::Epilogue { residual: pre.is_some() as u32, ..crate::program::Epilogue::NONE };
    let epilogue = Epilogue::of(&record, 1.0, None, pre);
    let k = h.len();
    Product { m: 1, n, k, a: h, a_row: k, b: Right::Packed(r), c: to, c_row: n, epilogue }.run::<B>();
}

/// Copies a row of hidden state to the output, if that is wanted.
fn emit(h: Dst<'_, f32>, y: Option<Dst<'_, f32>>, at: impl Fn() -> usize) {
    if let Some(y) = y {
        let y = y.from(at());
        for i in 0..h.len() {
            y.set(i, h.src().at(i));
        }
    }
}

/// [`Gru`](OpKind::Gru).
pub const fn gru<B: Backend>() -> Entry {
    Entry { kind: OpKind::Gru, eval: eval_gru::<B> }
}

fn eval_gru<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<()> {
    let (g, _) = op.record::<Gru>()?;
    let [steps, batch, hidden] = [g.steps, g.batch, g.hidden].map(|n| n as usize);
    let panel = PANEL as usize;
    let width = 3 * hidden_padded(g.hidden) as usize;
    let (pre, r) = (context.src::<f32>(op.needed_input(0)?), context.src::<f32>(op.needed_input(1)?));
    let last = op.needed_output(1)?;
    start(context, op.input(2), last, 4 * batch * hidden);
    let h = context.dst::<f32>(last);
    let bias = op.input(3).map(|t| context.src(t));
    let y = op.output(0).map(|t| context.dst::<f32>(t));
    let activations = [0, 1].map(|i| (function(g.activations[i]), g.p[i]));
    let gates = context.scratch::<f32>();
    let reset = gates.from(width).first(hidden);
    for s in 0..steps {
        let t = if g.reverse != 0 { steps - 1 - s } else { s };
        let at = |b: usize, step: u32, row: u32| t * step as usize + b * row as usize;
        for b in 0..batch {
            let pre = pre.from(at(b, g.pre_step, g.pre_batch)).first(width);
            let h = h.from(b * hidden).first(hidden);
            let run = |part| {
                B::launch(GruGates { pre, product: gates, bias, activations, clip: g.clip, part, h, reset });
            };
            if g.linear_before_reset != 0 {
                product::<B>(h.src(), r, None, gates, width);
                run(GruPart::Whole);
            } else {
                // Gates z and r of each block first, then the hidden gate's panel with the reset state.
                for block in (0..width).step_by(3 * panel) {
                    product::<B>(h.src(), r.from(block * hidden), None, gates.from(block), 2 * panel);
                }
                run(GruPart::Reset);
                for block in (0..width).step_by(3 * panel) {
                    let at = block + 2 * panel;
                    product::<B>(reset.src(), r.from(at * hidden), None, gates.from(at), panel);
                }
                run(GruPart::Update);
            }
            emit(h, y, || at(b, g.y_step, g.y_batch));
        }
    }
    Ok(())
}
