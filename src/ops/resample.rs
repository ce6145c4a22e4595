//! Weighted and running sums along an axis.

use super::reduce::Lines;
use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::{Backend, resample as kernels};
use crate::program::cut::group;
use crate::program::{Cumulate, OpKind, Resample, Rules};
use crate::tensor::{DType, Element};

/// [`Resample`](OpKind::Resample).
pub const fn resample<B: Backend>() -> Entry {
    Entry { kind: OpKind::Resample, rules: Rules::of::<Resample>(), eval: eval_resample::<B> }
}

fn eval_resample<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (r, _) = op.record::<Resample>()?;
    let sizes = [r.outer, r.len, r.out, r.inner].map(|n| n as usize);
    let (taps, places) = (r.taps as usize, context.input::<i32>(op, 1));
    if (0..sizes[2] * taps).any(|t| places.at(t) as usize >= sizes[1]) {
        return Err(Error::new(Kind::Value, "a resample reads outside of its axis"));
    }
    let (x, weights) = (context.input(op, 0), context.input(op, 2));
    let (count, each) = (sizes[0] * sizes[2], group(sizes[3] * taps));
    let rows = context.pieces(count, each);
    B::launch(kernels::Resample { sizes, taps, x, places, weights, y: context.output(op, 0), rows });
    Ok(Units::any(count.div_ceil(each)))
}

/// [`Cumulate`](OpKind::Cumulate).
pub const fn cumulate() -> Entry {
    Entry { kind: OpKind::Cumulate, rules: Rules::of::<Cumulate>(), eval: eval_cumulate }
}

fn eval_cumulate(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (c, _) = op.record::<Cumulate>()?;
    let (x, y) = (op.needed_input(0)?, op.needed_output(0)?);
    let product = c.product != 0;
    let start = product as u8;
    Ok(match context.dtype(x) {
        DType::I64 => {
            let join = |a: i64, b| if product { a.wrapping_mul(b) } else { a.wrapping_add(b) };
            running(c, context, x, y, start.into(), join)
        }
        DType::I32 => {
            let join = |a: i32, b| if product { a.wrapping_mul(b) } else { a.wrapping_add(b) };
            running(c, context, x, y, start.into(), join)
        }
        DType::F64 => running::<f64>(c, context, x, y, start.into(), |a, b| if product { a * b } else { a + b }),
        _ => running::<f32>(c, context, x, y, start.into(), |a, b| if product { a * b } else { a + b }),
    })
}

fn running<T: Element>(c: &Cumulate, context: &Context<'_>, x: u32, y: u32, start: T, join: impl Fn(T, T) -> T) -> Units {
    let (x, y) = (context.src::<T>(x), context.dst::<T>(y));
    let sizes = [c.outer, c.len, c.inner].map(|n| n as usize);
    let [_, len, inner] = sizes;
    let lines = Lines::of(context, sizes);
    for (o, i) in lines.each() {
        let mut all = start;
        for step in 0..len {
            let j = if c.reverse != 0 { len - 1 - step } else { step };
            let at = (o * len + j) * inner + i;
            let before = all;
            all = join(all, x.at(at));
            y.set(at, if c.exclusive != 0 { before } else { all });
        }
    }
    lines.units()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_each_backend;
    use crate::ops::testing::{Case, Random, assert_close, blank, tensor};

    #[test]
    fn sums_by_place_and_weight() {
        on_each_backend!(sums_on());
    }

    fn sums_on<B: Backend>() {
        let mut random = Random::new(31);
        for [outer, len, out, inner, taps] in
            [[1, 1, 1, 1, 1], [2, 5, 9, 1, 2], [3, 4, 2, 7, 3], [1, 6, 3, 16, 4], [2, 3, 5, 33, 2], [0, 3, 2, 4, 1]]
        {
            let x = random.units(outer * len * inner);
            let places: Vec<i32> = (0..out * taps).map(|_| random.below(len) as i32).collect();
            let weights = random.units(out * taps);
            let mut want = Vec::new();
            for o in 0..outer {
                for j in 0..out {
                    for i in 0..inner {
                        let term = |t: usize| {
                            weights[j * taps + t] as f64 * x[(o * len + places[j * taps + t] as usize) * inner + i] as f64
                        };
                        want.push((0..taps).map(term).sum());
                    }
                }
            }
            let [o, l, n, i, t] = [outer, len, out, inner, taps].map(|n| n as u32);
            let record = Resample { outer: o, len: l, out: n, inner: i, taps: t };
            let inputs = vec![tensor(&x), tensor(&places), tensor(&weights)];
            let mut case = Case::new(&record, inputs, vec![blank::<f32>(want.len())]);
            let got = case.run(resample::<B>()).unwrap()[0].to::<f32>();
            assert_close(&got, &want, 1e-6, B::ISA.name());
            for outside in [-1, len as i32] {
                case.inputs[1] = Some(tensor(&vec![outside; places.len()]));
                assert_eq!(case.run(resample::<B>()).unwrap_err().kind, Kind::Value);
            }
        }
    }

    #[test]
    fn running_sums_and_products() {
        let cases = [
            (0, 0, 0, [1, 2, 4, 6, 9, 12]),
            (0, 1, 0, [0, 0, 1, 2, 4, 6]),
            (0, 0, 1, [9, 12, 8, 10, 5, 6]),
            (0, 1, 1, [8, 10, 5, 6, 0, 0]),
            (1, 0, 0, [1, 2, 3, 8, 15, 48]),
            (1, 1, 0, [1, 1, 1, 2, 3, 8]),
        ];
        for (product, exclusive, reverse, want) in cases {
            let record = Cumulate { outer: 1, len: 3, inner: 2, product, exclusive, reverse };
            for shared in [None, Some(0)] {
                let mut case = Case::new(&record, vec![tensor(&[1i64, 2, 3, 4, 5, 6])], vec![blank::<i64>(6)]);
                case.shared = vec![shared];
                assert_eq!(case.run(cumulate()).unwrap()[0].to::<i64>(), want);
                let mut case = Case::new(&record, vec![tensor(&[1i32, 2, 3, 4, 5, 6])], vec![blank::<i32>(6)]);
                case.shared = vec![shared];
                assert_eq!(case.run(cumulate()).unwrap()[0].to::<i32>(), want.map(|v| v as i32));
                let mut case = Case::new(&record, vec![tensor(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])], vec![blank::<f32>(6)]);
                case.shared = vec![shared];
                assert_eq!(case.run(cumulate()).unwrap()[0].to::<f32>(), want.map(|v| v as f32));
                let mut case = Case::new(&record, vec![tensor(&[1f64, 2.0, 3.0, 4.0, 5.0, 6.0])], vec![blank::<f64>(6)]);
                case.shared = vec![shared];
                assert_eq!(case.run(cumulate()).unwrap()[0].to::<f64>(), want.map(|v| v as f64));
            }
        }
        let record = Cumulate { outer: 2, len: 3, inner: 2, product: 0, exclusive: 0, reverse: 0 };
        assert!(Case::new(&record, vec![tensor(&[0i64; 6])], vec![blank::<i64>(12)]).check(OpKind::Cumulate).is_err());
        let record = Cumulate { outer: 1, ..record };
        assert!(Case::new(&record, vec![tensor(&[0u8; 6])], vec![blank::<u8>(6)]).check(OpKind::Cumulate).is_err());
    }
}
