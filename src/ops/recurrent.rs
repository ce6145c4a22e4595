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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_each_backend;
    use crate::ops::testing::{Case, Random, assert_close, blank, tensor};

    /// Weights `[gate][unit][from]` and a function that packs them.
    fn packed(gates: usize, hidden: usize, r: &[f32]) -> Vec<f32> {
        let blocks = hidden.div_ceil(16);
        let mut out = vec![0f32; blocks * gates * 16 * hidden];
        for g in 0..gates {
            for u in 0..hidden {
                for k in 0..hidden {
                    out[((u / 16 * gates + g) * hidden + k) * 16 + u % 16] = r[(g * hidden + u) * hidden + k];
                }
            }
        }
        out
    }

    fn spread(gates: usize, hidden: usize, rows: &[f32]) -> Vec<f32> {
        let width = hidden.div_ceil(16) * 16 * gates;
        let mut out = vec![0f32; rows.len() / (gates * hidden) * width];
        for (row, to) in rows.chunks(gates * hidden).zip(out.chunks_mut(width)) {
            for g in 0..gates {
                for u in 0..hidden {
                    to[(u / 16 * gates + g) * 16 + u % 16] = row[g * hidden + u];
                }
            }
        }
        out
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn lstm_agrees_with_the_formula() {
        on_each_backend!(lstm_on());
    }

    fn lstm_on<B: Backend>() {
        let mut random = Random::new(13);
        for hidden in [1usize, 7, 8, 15, 16, 17, 40] {
            for variant in 0..4 {
                let (steps, batch) = (3usize, 2usize);
                let (reverse, coupled, peep) = (variant & 1 == 1, variant & 2 == 2, variant >= 1);
                let clip = if variant == 3 { 0.5f32 } else { 0.0 };
                let limit = |x: f64| if clip > 0.0 { x.clamp(-clip as f64, clip as f64) } else { x };
                let pre = random.units(steps * batch * 4 * hidden);
                let r: Vec<f32> = random.units(4 * hidden * hidden).iter().map(|v| v * 0.4).collect();
                let (h0, c0, p) = (random.units(batch * hidden), random.units(batch * hidden), random.units(3 * hidden));
                let (mut h, mut c) =
                    (h0.iter().map(|&v| v as f64).collect::<Vec<_>>(), c0.iter().map(|&v| v as f64).collect::<Vec<_>>());
                let mut want = vec![0f64; steps * batch * hidden];
                for s in 0..steps {
                    let t = if reverse { steps - 1 - s } else { s };
                    for b in 0..batch {
                        let old: Vec<f64> = h[b * hidden..(b + 1) * hidden].to_vec();
                        for u in 0..hidden {
                            let gate = |g: usize| {
                                let sum: f64 = (0..hidden).map(|k| old[k] * r[(g * hidden + u) * hidden + k] as f64).sum();
                                sum + pre[((t * batch + b) * 4 + g) * hidden + u] as f64
                            };
                            let weight = |g: usize| if peep { p[g * hidden + u] as f64 } else { 0.0 };
                            let state = c[b * hidden + u];
                            let i = sigmoid(limit(gate(0) + weight(0) * state));
                            let f = if coupled { 1.0 - i } else { sigmoid(limit(gate(2) + weight(2) * state)) };
                            let new = f * state + i * limit(gate(3)).tanh();
                            let o = sigmoid(limit(gate(1) + weight(1) * new));
                            c[b * hidden + u] = new;
                            h[b * hidden + u] = o * new.tanh();
                            want[(t * batch + b) * hidden + u] = o * new.tanh();
                        }
                    }
                }
                let width = 4 * hidden_padded(hidden as u32);
                let record = Lstm {
                    steps: steps as u32,
                    batch: batch as u32,
                    hidden: hidden as u32,
                    reverse: reverse as u32,
                    pre_step: batch as u32 * width,
                    pre_batch: width,
                    y_step: (batch * hidden) as u32,
                    y_batch: hidden as u32,
                    clip,
                    coupled: coupled as u32,
                    activations: [Unary::Sigmoid as u32, Unary::Tanh as u32, Unary::Tanh as u32],
                    p: [[0.0; 2]; 3],
                };
                let mut inputs = vec![tensor(&spread(4, hidden, &pre)), tensor(&packed(4, hidden, &r)), tensor(&h0), tensor(&c0)];
                if peep {
                    inputs.push(tensor(&p));
                }
                let outputs = vec![blank::<f32>(want.len()), blank::<f32>(h0.len()), blank::<f32>(h0.len())];
                let mut case = Case::new(&record, inputs, outputs);
                if variant & 1 == 0 {
                    case.shared = vec![None, Some(2), Some(3)];
                }
                let got = case.run(lstm::<B>()).unwrap();
                let what = format!("hidden {hidden} variant {variant} on {}", B::ISA.name());
                assert_close(&got[0].to(), &want, 1e-5, &what);
                assert_close(&got[1].to(), &h, 1e-5, &what);
                assert_close(&got[2].to(), &c, 1e-5, &what);
            }
        }
    }

    #[test]
    fn gru_agrees_with_the_formula() {
        on_each_backend!(gru_on());
    }

    fn gru_on<B: Backend>() {
        let mut random = Random::new(17);
        for hidden in [1usize, 8, 15, 16, 17, 40] {
            for (linear, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let (steps, batch) = (3usize, 2usize);
                let pre = random.units(steps * batch * 3 * hidden);
                let r: Vec<f32> = random.units(3 * hidden * hidden).iter().map(|v| v * 0.4).collect();
                let (h0, bias) = (random.units(batch * hidden), random.units(hidden));
                let mut h: Vec<f64> = h0.iter().map(|&v| v as f64).collect();
                let mut want = vec![0f64; steps * batch * hidden];
                for s in 0..steps {
                    let t = if reverse == 1 { steps - 1 - s } else { s };
                    for b in 0..batch {
                        let old: Vec<f64> = h[b * hidden..(b + 1) * hidden].to_vec();
                        let dot = |g: usize, u: usize, x: &[f64]| -> f64 {
                            (0..hidden).map(|k| x[k] * r[(g * hidden + u) * hidden + k] as f64).sum()
                        };
                        let x = |g: usize, u: usize| pre[((t * batch + b) * 3 + g) * hidden + u] as f64;
                        let reset: Vec<f64> = (0..hidden).map(|u| sigmoid(x(1, u) + dot(1, u, &old))).collect();
                        let product: Vec<f64> = (0..hidden).map(|u| reset[u] * old[u]).collect();
                        for u in 0..hidden {
                            let z = sigmoid(x(0, u) + dot(0, u, &old));
                            let new = if linear == 1 {
                                (x(2, u) + reset[u] * (dot(2, u, &old) + bias[u] as f64)).tanh()
                            } else {
                                (x(2, u) + dot(2, u, &product)).tanh()
                            };
                            h[b * hidden + u] = (1.0 - z) * new + z * old[u];
                            want[(t * batch + b) * hidden + u] = h[b * hidden + u];
                        }
                    }
                }
                let width = 3 * hidden_padded(hidden as u32);
                let record = Gru {
                    steps: steps as u32,
                    batch: batch as u32,
                    hidden: hidden as u32,
                    reverse,
                    pre_step: batch as u32 * width,
                    pre_batch: width,
                    y_step: (batch * hidden) as u32,
                    y_batch: hidden as u32,
                    clip: 0.0,
                    linear_before_reset: linear,
                    activations: [Unary::Sigmoid as u32, Unary::Tanh as u32],
                    p: [[0.0; 2]; 2],
                };
                let mut inputs = vec![tensor(&spread(3, hidden, &pre)), tensor(&packed(3, hidden, &r)), tensor(&h0)];
                if linear == 1 {
                    inputs.push(tensor(&bias));
                }
                let outputs = vec![blank::<f32>(want.len()), blank::<f32>(h0.len())];
                let got = Case::new(&record, inputs, outputs).run(gru::<B>()).unwrap();
                let what = format!("hidden {hidden} linear {linear} on {}", B::ISA.name());
                assert_close(&got[0].to(), &want, 1e-5, &what);
                assert_close(&got[1].to(), &h, 1e-5, &what);
            }
        }
    }
}
