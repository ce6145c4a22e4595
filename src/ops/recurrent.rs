//! Recurrent cells: step by step, from one hidden state to the next.
//!
//! A step reads all of the old hidden state while it writes the new one, so the two lie apart. Where Y is wanted, its rows
//! are the states, and a step goes from one row to the next; otherwise the old state moves to scratch memory first.

use super::{Context, Entry, Op, Units};
use crate::error::Result;
use crate::kernels::recurrent::{GruStep, LstmStep};
use crate::kernels::{Backend, Dst, Src, copy};
use crate::program::{Gru, Lstm, OpKind, Rules, Steps, Unary};

/// [`Lstm`](OpKind::Lstm).
pub const fn lstm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Lstm, rules: Rules::of::<Lstm>(), eval: eval_lstm::<B> }
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

/// Copies a row of hidden state.
fn copy_row(from: Src<'_, f32>, to: Dst<'_, f32>) {
    for i in 0..from.len().min(to.len()) {
        to.set(i, from.at(i));
    }
}

/// One step of one row.
struct Step<'m> {
    /// Number of the row among the batch.
    row: usize,
    /// Its pre-activations.
    pre: Src<'m, f32>,
    /// The hidden state before and after; never the same memory.
    old: Option<Src<'m, f32>>,
    new: Dst<'m, f32>,
}

/// Calls `step` for each row of each step, in order: a unit. `spare` has room for a row where there is no Y.
fn each<'m>(
    context: &Context<'m>,
    op: &Op<'_>,
    at: &Steps,
    spare: Dst<'m, f32>,
    mut step: impl FnMut(Step<'m>),
) -> Result<Units> {
    let [steps, batch, hidden] = [at.steps, at.batch, at.hidden].map(|n| n as usize);
    let pre = context.input::<f32>(op, 0);
    let initial = op.input(2).map(|t| context.src::<f32>(t));
    let y = op.output(0).map(|t| context.dst::<f32>(t));
    let last = op.needed_output(1)?;
    // Without a step the initial state is the last one, which is a unit, too.
    let count = if steps == 0 { 1 } else { steps * batch };
    let units = context.units(count);
    if steps == 0 {
        if !units.is_empty() {
            start(context, op.input(2), last, 4 * batch * hidden);
        }
        return Ok(Units::in_turn(count));
    }
    let last = context.dst::<f32>(last);
    let state = |row: usize| last.from(row * hidden).first(hidden);
    let y_row = |y: Dst<'m, f32>, t: usize, row: usize| y.from(t * at.y_step as usize + row * at.y_batch as usize).first(hidden);
    let time = |s: usize| if at.reverse != 0 { steps - 1 - s } else { s };
    for unit in units {
        let (s, row) = (unit / batch, unit % batch);
        let t = time(s);
        let mut old = match (s, y) {
            (0, _) => initial.map(|h| h.from(row * hidden).first(hidden)),
            (_, Some(y)) => Some(y_row(y, time(s - 1), row).src()),
            (_, None) => Some(state(row).src()),
        };
        let new = y.map_or(state(row), |y| y_row(y, t, row));
        if let (None, Some(from)) = (y, old) {
            let spare = spare.first(hidden);
            copy_row(from, spare);
            old = Some(spare.src());
        }
        let pre = pre.from(t * at.pre_step as usize + row * at.pre_batch as usize);
        step(Step { row, pre, old, new });
        if s + 1 == steps && y.is_some() {
            copy_row(new.src(), state(row));
        }
    }
    Ok(Units::in_turn(count))
}

fn eval_lstm<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (l, _) = op.record::<Lstm>()?;
    let (batch, hidden) = (l.at.batch as usize, l.at.hidden as usize);
    let r = context.input::<f32>(op, 1);
    let last_c = op.needed_output(2)?;
    if !context.units(1).is_empty() {
        start(context, op.input(3), last_c, 4 * batch * hidden);
    }
    let cells = context.dst::<f32>(last_c);
    let peepholes = op.input(4).map(|t| context.src(t));
    let activations = [0, 1, 2].map(|i| (function(l.activations[i]), l.p[i]));
    let (clip, coupled) = (l.at.clip, l.coupled != 0);
    each(context, op, &l.at, context.scratch(), |Step { row, pre, old, new: h }| {
        let c = cells.from(row * hidden).first(hidden);
        B::launch(LstmStep { pre, r, old, peepholes, activations, clip, coupled, c, h });
    })
}

/// [`Gru`](OpKind::Gru).
pub const fn gru<B: Backend>() -> Entry {
    Entry { kind: OpKind::Gru, rules: Rules::of::<Gru>(), eval: eval_gru::<B> }
}

fn eval_gru<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (g, _) = op.record::<Gru>()?;
    let hidden = g.at.hidden as usize;
    let r = context.input::<f32>(op, 1);
    let bias = op.input(3).map(|t| context.src(t));
    let activations = [0, 1].map(|i| (function(g.activations[i]), g.p[i]));
    let scratch = context.scratch::<f32>();
    let (reset, spare) = match g.linear_before_reset {
        0 => (Some(scratch.first(hidden)), scratch.from(hidden)),
        _ => (None, scratch),
    };
    each(context, op, &g.at, spare, |Step { pre, old, new: h, .. }| {
        B::launch(GruStep { pre, r, old, bias, activations, clip: g.at.clip, reset, h });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_each_backend;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, blank, tensor};
    use crate::program::hidden_padded;

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
                    at: Steps {
                        steps: steps as u32,
                        batch: batch as u32,
                        hidden: hidden as u32,
                        reverse: reverse as u32,
                        pre_step: batch as u32 * width,
                        pre_batch: width,
                        y_step: (batch * hidden) as u32,
                        y_batch: hidden as u32,
                        clip,
                    },
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

                // Without Y, and with both initial states where the last ones will be.
                let record = Lstm { at: Steps { y_step: 0, y_batch: 0, ..record.at }, ..record };
                case.record = &record;
                (case.outputs[0], case.shared) = (None, vec![None, Some(2), Some(3)]);
                let got = case.run(lstm::<B>()).unwrap();
                assert_close(&got[0].to(), &h, 1e-5, &what);
                assert_close(&got[1].to(), &c, 1e-5, &what);
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
                    at: Steps {
                        steps: steps as u32,
                        batch: batch as u32,
                        hidden: hidden as u32,
                        reverse,
                        pre_step: batch as u32 * width,
                        pre_batch: width,
                        y_step: (batch * hidden) as u32,
                        y_batch: hidden as u32,
                        clip: 0.0,
                    },
                    linear_before_reset: linear,
                    activations: [Unary::Sigmoid as u32, Unary::Tanh as u32],
                    p: [[0.0; 2]; 2],
                };
                let mut inputs = vec![tensor(&spread(3, hidden, &pre)), tensor(&packed(3, hidden, &r)), tensor(&h0)];
                if linear == 1 {
                    inputs.push(tensor(&bias));
                }
                let outputs = vec![blank::<f32>(want.len()), blank::<f32>(h0.len())];
                let mut case = Case::new(&record, inputs, outputs);
                let got = case.run(gru::<B>()).unwrap();
                let what = format!("hidden {hidden} linear {linear} on {}", B::ISA.name());
                assert_close(&got[0].to(), &want, 1e-5, &what);
                assert_close(&got[1].to(), &h, 1e-5, &what);

                // Without Y, and with the initial state where the last one will be.
                let record = Gru { at: Steps { y_step: 0, y_batch: 0, ..record.at }, ..record };
                case.record = &record;
                (case.outputs[0], case.shared) = (None, vec![None, Some(2)]);
                assert_close(&case.run(gru::<B>()).unwrap()[0].to(), &h, 1e-5, &what);
            }
        }
    }

    #[test]
    fn no_initial_state_is_zeros() {
        on_each_backend!(zeros_on());
    }

    fn zeros_on<B: Backend>() {
        let mut random = Random::new(19);
        let (steps, hidden) = (3usize, 17usize);
        let zeros = tensor(&[0f32; 17]);
        let close = |a: &[Tensor], b: &[Tensor]| {
            for (a, b) in a.iter().zip(b) {
                let want: Vec<f64> = b.to::<f32>().iter().map(|&v| v as f64).collect();
                assert_close(&a.to(), &want, 1e-6, B::ISA.name());
            }
        };
        let width = hidden_padded(hidden as u32);
        let at = |gates: u32| Steps {
            steps: steps as u32,
            batch: 1,
            hidden: hidden as u32,
            reverse: 0,
            pre_step: gates * width,
            pre_batch: 0,
            y_step: hidden as u32,
            y_batch: 0,
            clip: 0.0,
        };
        for linear in 0..2 {
            let (pre, r) = (random.units(steps * 3 * hidden), random.units(3 * hidden * hidden));
            let record = Gru {
                at: at(3),
                linear_before_reset: linear,
                activations: [Unary::Sigmoid as u32, Unary::Tanh as u32],
                p: [[0.0; 2]; 2],
            };
            let inputs = vec![tensor(&spread(3, hidden, &pre)), tensor(&packed(3, hidden, &r)), zeros.clone()];
            let mut case = Case::new(&record, inputs, vec![blank::<f32>(steps * hidden), blank::<f32>(hidden)]);
            let want = case.run(gru::<B>()).unwrap();
            case.inputs[2] = None;
            close(&case.run(gru::<B>()).unwrap(), &want);
        }
        let (pre, r) = (random.units(steps * 4 * hidden), random.units(4 * hidden * hidden));
        let record = Lstm {
            at: at(4),
            coupled: 0,
            activations: [Unary::Sigmoid as u32, Unary::Tanh as u32, Unary::Tanh as u32],
            p: [[0.0; 2]; 3],
        };
        let inputs = vec![tensor(&spread(4, hidden, &pre)), tensor(&packed(4, hidden, &r)), zeros.clone(), zeros];
        let outputs = vec![blank::<f32>(steps * hidden), blank::<f32>(hidden), blank::<f32>(hidden)];
        let mut case = Case::new(&record, inputs, outputs);
        let want = case.run(lstm::<B>()).unwrap();
        (case.inputs[2], case.inputs[3]) = (None, None);
        close(&case.run(lstm::<B>()).unwrap(), &want);
    }
}
