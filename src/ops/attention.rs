//! Attention.
//!
//! For each batch element and head: K is packed as the right operand of Q·Kᵀ; rows of Q are taken in blocks, whose scores
//! become probabilities in place and are multiplied by V, which is read where it lies if it has few
//! rows. Where there are more columns than V is wide, the division by the sum of exponentials is left to the product. A block of
//! rows is a work unit.

use super::{Context, Entry, Op, Units};
use crate::error::Result;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::gemm::{Product, Right};
use crate::kernels::pack::{self, Strided};
use crate::kernels::reduce::{RowFactors, Scores};
use crate::kernels::{Backend, F32s, HOST};
use crate::program::attention::BLOCK;
use crate::program::{Attention, OpKind, Rules, packed_len};

/// [`Attention`](OpKind::Attention).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Attention, rules: Rules::of::<Attention>(), eval: eval::<B> }
}

fn eval<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (a, _) = op.record::<Attention>()?;
    let [rows, columns, depth, width] = [a.rows, a.columns, a.depth, a.width].map(|n| n as usize);
    let [q, k, v] = [context.input::<f32>(op, 0), context.input(op, 1), context.input(op, 2)];
    let mask = op.input(3).map(|t| context.src::<f32>(t));
    let out = context.output::<f32>(op, 0);
    if rows == 0 || width == 0 {
        return Ok(Units::any(0));
    }
    let keys = context.scratch::<f32>();
    let values = keys.from((packed_len(depth as u64, columns as u64) as usize).next_multiple_of(16));
    let in_place = a.reads_v_in_place();
    let panels = if in_place { 0 } else { packed_len(columns as u64, width as u64) as usize };
    let scores = values.from(panels.next_multiple_of(16));
    let stride = columns.next_multiple_of(16);
    let plain = |alpha| Epilogue::of(&crate::program::Epilogue::NONE, alpha, None, None);
    let (heads, blocks) = (a.heads as usize, rows.div_ceil(BLOCK as usize));
    let count = a.batch as usize * heads * blocks;
    let units = context.units(count);
    // The head, of all batches, whose K and V are packed in scratch memory.
    let mut packed = if context.resumes() { Some((units.start.max(1) - 1) / blocks) } else { None };
    // A device's stack is small.
    let later = HOST && columns > width;
    let mut factors = [1.0; if HOST { BLOCK as usize } else { 0 }];
    for unit in units {
        let (batch, h, r) = (unit / blocks / heads, unit / blocks % heads, unit % blocks * BLOCK as usize);
        let at = |s: [u32; 3]| batch * s[0] as usize + h * s[1] as usize;
        let [q_row, k_row, v_row, out_row] = [a.q, a.k, a.v, a.out].map(|s| s[2] as usize);
        if packed != Some(unit / blocks) {
            packed = Some(unit / blocks);
            if columns > 0 && depth > 0 {
                let from = Strided { data: k.from(at(a.k)), row: 1, column: k_row };
                pack::panels::<B>(from, depth, columns, keys);
            }
            if columns > 0 && !in_place {
                let from = Strided { data: v.from(at(a.v)), row: v_row, column: 1 };
                pack::panels::<B>(from, columns, width, values);
            }
        }
        let right = if columns > 0 && in_place { Right::InPlace(v.from(at(a.v)), v_row) } else { Right::Packed(values.src()) };
        let m = (rows - r).min(BLOCK as usize);
        if columns > 0 {
            let a_part = if depth > 0 { q.from(at(a.q) + r * q_row) } else { q };
            let (b, epilogue) = (Right::Packed(keys.src()), plain(a.scale));
            // Whole vectors, where there are more than a few columns: there is room in the rows of scores, and tiles whose columns end
            // inside a vector are put down on the stack first.
            let n = if columns > 4 { columns.next_multiple_of(B::F::LANES) } else { columns };
            Product { m, n, k: depth, a: a_part, a_row: q_row, b, c: scores, c_row: stride, epilogue: &epilogue }.run::<B>();
            let [mb, mh, mr, mc] = a.mask.map(|s| s as usize);
            let mask = mask.map(|t| (t.from(batch * mb + h * mh + r * mr), mr, mc));
            let visible = if a.causal != 0 { r + columns - rows + 1 } else { columns };
            let factors = if later { Some(&mut factors[..m]) } else { None };
            B::launch(Scores { scores, sizes: [m, stride, columns], mask, visible, factors });
        }
        let c = out.from(at(a.out) + r * out_row);
        let epilogue = plain(1.0);
        let a = scores.src();
        Product { m, n: width, k: columns, a, a_row: stride, b: right, c, c_row: out_row, epilogue: &epilogue }.run::<B>();
        if later {
            B::launch(RowFactors { rows: c, sizes: [out_row, width], factors: &factors[..m] });
        }
    }
    Ok(Units::any(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_each_backend;
    use crate::ops::testing::{Case, Random, assert_close, blank, tensor};

    #[test]
    fn attention_agrees_with_the_formula() {
        on_each_backend!(attention_on());
    }

    fn attention_on<B: Backend>() {
        let mut random = Random::new(11);
        for (rows, columns, depth, width) in [(1, 1, 1, 1), (7, 9, 8, 5), (50, 50, 16, 17), (3, 210, 4, 16), (49, 64, 64, 64)] {
            for (masked, causal) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
                let (batch, heads) = (2usize, 3usize);
                // [batch][row][head][depth], as the projections leave it.
                let strides = |n: usize, d: usize| [n * heads * d, d, heads * d];
                let (qs, ks, vs) = (strides(rows, depth), strides(columns, depth), strides(columns, width));
                let os = strides(rows, width);
                let (q, k) = (random.units(batch * qs[0]), random.units(batch * ks[0]));
                let (v, mask) = (random.units(batch * vs[0]), random.units(batch * columns));
                let mut want = vec![0f64; batch * os[0]];
                for b in 0..batch {
                    for h in 0..heads {
                        for r in 0..rows {
                            let seen = if causal == 1 && columns >= rows { r + columns - rows + 1 } else { columns };
                            let mut s: Vec<f64> = (0..seen)
                                .map(|c| {
                                    let at = |s: [usize; 3], n: usize| b * s[0] + h * s[1] + n * s[2];
                                    let dot = |i: usize| q[at(qs, r) + i] as f64 * k[at(ks, c) + i] as f64;
                                    let sum: f64 = (0..depth).map(dot).sum();
                                    sum * 0.3 + if masked { mask[b * columns + c] as f64 } else { 0.0 }
                                })
                                .collect();
                            let max = s.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
                            s.iter_mut().for_each(|v| *v = (*v - max).exp());
                            let sum: f64 = s.iter().sum();
                            for w in 0..width {
                                let at = |c: usize| v[b * vs[0] + h * vs[1] + c * vs[2] + w] as f64;
                                want[b * os[0] + h * os[1] + r * os[2] + w] =
                                    s.iter().enumerate().map(|(c, p)| p / sum * at(c)).sum();
                            }
                        }
                    }
                }
                let word = |s: [usize; 3]| s.map(|n| n as u32);
                let record = Attention {
                    batch: batch as u32,
                    heads: heads as u32,
                    rows: rows as u32,
                    columns: columns as u32,
                    depth: depth as u32,
                    width: width as u32,
                    q: word(qs),
                    k: word(ks),
                    v: word(vs),
                    out: word(os),
                    mask: [columns as u32, 0, 0, 1],
                    causal,
                    scale: 0.3,
                };
                let mut inputs = vec![tensor(&q), tensor(&k), tensor(&v)];
                if masked {
                    inputs.push(tensor(&mask));
                }
                let mut case = Case::new(&record, inputs, vec![blank::<f32>(want.len())]);
                let what = format!("{rows} {columns} {masked} {causal} on {}", B::ISA.name());
                assert_close(&case.run(entry::<B>()).unwrap()[0].to(), &want, 1e-5, &what);
                assert_eq!(record.out_may_replace_q(), depth == width, "{what}");
                if depth == width {
                    case.shared = vec![Some(0)];
                    assert_close(&case.run(entry::<B>()).unwrap()[0].to(), &want, 1e-5, &what);
                }
            }
        }
    }
}
