//! A single row times weights in slabs.

use super::{Buffer, Random, apply, assert_close, assert_parts, check, epilogue};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::slabs::Row;
use crate::kernels::{Backend, Dst};
use crate::program::{Gemm, PANEL, SLAB, slabs_len};
use core::ops::Range;

/// The slabs of row-major weights.
fn slabs(weights: &[f32], k: usize, n: usize) -> Buffer {
    let (panel, mut data) = (PANEL as usize, Vec::new());
    for first in (0..n).step_by(SLAB as usize) {
        let columns = first..n.min(first + SLAB as usize);
        for row in weights.chunks_exact(n) {
            data.extend_from_slice(&row[columns.clone()]);
            data.resize(data.len().next_multiple_of(panel), 0.0);
        }
        let finite = weights.chunks_exact(n).all(|row| row[columns.clone()].iter().all(|x| x.is_finite()));
        data.push(!finite as u32 as f32);
        data.resize(data.len() + panel - 1, f32::NAN);
    }
    let len = data.len();
    assert_eq!(len as u64, slabs_len(k as u64, n as u64));
    data.resize(len + super::SLACK, f32::NAN);
    Buffer { data, len }
}

/// Runs a record on weights; gives the row and what came out, as a whole and in parts.
fn run<B: Backend>(g: &Gemm, weights: &[f32], zeros: u32, random: &mut Random) -> (Buffer, Buffer) {
    let (k, n) = (g.k as usize, g.n as usize);
    let mut a = Buffer::random(k, random);
    a.data[..k].iter_mut().for_each(|x| *x *= (random.below(8) >= zeros) as u32 as f32);
    let b = slabs(weights, k, n);
    let (bias, residual) = (Buffer::random(n, random), Buffer::random(n, random));
    check(g, &[k, b.len, n, n], n);
    let epilogue = Epilogue::of(
        &g.epilogue,
        g.alpha,
        (g.epilogue.bias == 1).then(|| bias.src()),
        (g.epilogue.residual > 0).then(|| residual.src()),
    );
    let before = Buffer::canary(n);
    let mut c = before.clone();
    let run = |c: Dst<'_, f32>, units: Range<usize>| {
        let row = Row { n, k, a: a.src(), b: b.src(), c, epilogue: &epilogue };
        row.units::<B>(units);
        row.count()
    };
    let count = run(c.dst(), 0..usize::MAX);
    assert_parts(count, &before, &c, 0, random, |c, _, units, _| run(c, units));
    c.assert_canary();
    for j in 0..n {
        let sum: f64 = (0..k).map(|d| a.values()[d] as f64 * weights[d * n + j] as f64).sum();
        let want = apply(&g.epilogue, g.alpha as f64 * sum, bias.values()[j], residual.values()[j]);
        if want.is_nan() {
            assert!(c.values()[j].is_nan(), "column {j} of {g:?}");
        } else {
            assert_close(c.values()[j], want, k, g);
        }
    }
    (a, c)
}

fn inputs_with_zeros<B: Backend>() {
    let mut random = Random::new(71);
    for (k, n) in [(0, 5), (1, 1), (3, 16), (700, 17), (513, 600), (1200, 512), (5, 1100), (40, 2049)] {
        for zeros in [0, 3, 8] {
            let mut g = Gemm { b_packed: 2, alpha: random.pick(&[1.0, -0.5]), ..Gemm::dense(1, n, k) };
            g.epilogue = epilogue(&mut random);
            let weights = Buffer::random((k * n) as usize, &mut random);
            run::<B>(&g, weights.values(), zeros, &mut random);
        }
    }
}

/// A zero times an infinity is not left out.
fn weights_that_are_not_finite<B: Backend>() {
    let mut random = Random::new(72);
    let g = Gemm { b_packed: 2, ..Gemm::dense(1, 1040, 90) };
    let mut weights = Buffer::random(90 * 1040, &mut random);
    weights.data[37 * 1040 + 700] = f32::INFINITY;
    weights.data[5 * 1040 + 1030] = f32::NAN;
    let (a, c) = run::<B>(&g, weights.values(), 4, &mut random);
    assert!(c.values()[1030].is_nan());
    assert!(if a.values()[37] == 0.0 { c.values()[700].is_nan() } else { c.values()[700].is_infinite() });
    // All of the row is zero.
    let (_, c) = run::<B>(&g, weights.values(), 8, &mut random);
    assert!(c.values()[700].is_nan() && c.values()[1030].is_nan() && c.values()[0] == 0.0);
}

mod backends {
    use super::super::on_all_backends;
    on_all_backends!(inputs_with_zeros, weights_that_are_not_finite);
}
