//! Matrix products.

use super::{Buffer, Random, apply, assert_close, assert_parts, check, epilogue};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::{Backend, Dst};
use crate::program::{self, Gemm, Record, packed_len};
use core::ops::Range;

/// Runs one record on random operands and compares every element.
fn run<B: Backend>(g: &Gemm, random: &mut Random, in_place: bool) {
    let [m, n, k] = [g.m, g.n, g.k].map(|x| x as usize);
    let last = |strides: [u32; 3]| -> usize { (0..3).map(|i| (g.batch[i] as usize - 1) * strides[i] as usize).sum() };
    let none = |inner: usize, empty: bool, strides| if empty { 0 } else { inner + last(strides) };
    let a_len = none((m.max(1) - 1) * g.a_row as usize + (k.max(1) - 1) * g.a_col as usize + 1, m * k == 0, g.a_batch);
    let c_len = none((m.max(1) - 1) * g.c_row as usize + n, m * n == 0, g.c_batch);
    let one_packed = packed_len(k as u64, n as u64) as usize;
    let b_inner = match g.b_packed {
        1 => one_packed,
        _ => (k.max(1) - 1) * g.b_row as usize + (n.max(1) - 1) * g.b_col as usize + 1,
    };
    let b_len = none(b_inner, k * n == 0, g.b_batch);
    let a = Buffer::random(a_len, random);
    let mut b = Buffer::random(b_len, random);
    if g.b_packed == 1 && n % 16 != 0 {
        // What fills the last panel is zero.
        for start in (0..b_len).step_by(one_packed.max(1)) {
            for row in 0..k {
                let panel = start + n / 16 * 16 * k + row * 16;
                b.data[panel + n % 16..panel + 16].fill(0.0);
            }
        }
    }
    let bias = Buffer::random(n, random);
    let residual = Buffer::random(c_len, random);
    let mut c = Buffer::canary(c_len);
    if in_place {
        c.data[..c_len].copy_from_slice(residual.values());
    }
    let before = c.clone();
    let mut scratch = Buffer::canary(g.scratch(&[]) as usize / 4);
    check(g, &[a_len, b_len, n, c_len], c_len);
    let run = |c: Dst<'_, f32>, scratch: Dst<'_, f32>, units: Range<usize>, resumes: bool| {
        let residual = if in_place { c.src() } else { residual.src() };
        let e = Epilogue::of(
            &g.epilogue,
            g.alpha,
            (g.epilogue.bias == 1).then(|| bias.src()),
            (g.epilogue.residual > 0).then_some(residual),
        );
        crate::ops::gemm::gemm::<B>(g, a.src(), b.src(), c, e, scratch, units, resumes)
    };
    let count = run(c.dst(), scratch.dst(), 0..usize::MAX, false);
    assert_parts(count, &before, &c, g.scratch(&[]) as usize / 4, random, run);
    c.assert_canary();
    scratch.assert_canary();
    let mut written = vec![false; c_len];
    for batch in 0..g.batch.iter().product::<u32>() {
        let at = [batch / g.batch[2] / g.batch[1], batch / g.batch[2] % g.batch[1], batch % g.batch[2]];
        let offset = |strides: [u32; 3]| -> usize { (0..3).map(|i| (at[i] * strides[i]) as usize).sum() };
        for i in 0..m {
            for j in 0..n {
                let mut sum = 0.0;
                for d in 0..k {
                    let x = a.values()[offset(g.a_batch) + i * g.a_row as usize + d * g.a_col as usize];
                    let y = b.values()[offset(g.b_batch)
                        + match g.b_packed {
                            1 => j / 16 * 16 * k + d * 16 + j % 16,
                            _ => d * g.b_row as usize + j * g.b_col as usize,
                        }];
                    sum += x as f64 * y as f64;
                }
                let place = offset(g.c_batch) + i * g.c_row as usize + j;
                let want = apply(&g.epilogue, g.alpha as f64 * sum, bias.values()[j], residual.values()[place]);
                assert_close(c.values()[place], want, k, g);
                written[place] = true;
            }
        }
    }
    let before = if in_place { residual.values().to_vec() } else { vec![super::CANARY; c_len] };
    for (place, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
        assert_eq!(c.values()[place], before[place], "a gap of the output was written: {g:?}");
    }
}

/// Sizes around the borders of tiles and panels.
const SIZES: [u32; 21] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 24, 31, 32, 33, 64, 70];

fn every_size<B: Backend>() {
    let mut random = Random::new(1);
    for m in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25] {
        for n in SIZES {
            for k in [0, 1, 2, 3, 4, 5, 16, 19] {
                run::<B>(&Gemm::dense(m, n, k), &mut random, false);
            }
        }
    }
}

/// Tiles of every number of rows, with every number of columns left over, and depths around a vector's: weights that are packed
/// and such that are used in place, with a stride of their own.
fn every_tile<B: Backend>() {
    let mut random = Random::new(6);
    for m in 1..=B::TILE.rows as u32 {
        for n in 1..=66 {
            let k = 1 + random.below(13);
            run::<B>(&Gemm::dense(m, n, k), &mut random, false);
            let g = Gemm { b_packed: 0, b_row: n + 3, b_col: 1, ..Gemm::dense(m, n, k) };
            run::<B>(&g, &mut random, false);
        }
    }
}

fn epilogues_and_pitches<B: Backend>() {
    let mut random = Random::new(2);
    for _ in 0..400 {
        let [m, n, k] = [0; 3].map(|_| random.pick(&SIZES));
        let mut g = Gemm::dense(m, n, k);
        g.epilogue = epilogue(&mut random);
        g.alpha = random.pick(&[1.0, 0.125]);
        g.a_row = random.pick(&[k, k + 3, 0]);
        g.c_row = n + random.pick(&[0, 5]);
        let in_place = g.epilogue.residual > 0 && random.below(2) == 1;
        run::<B>(&g, &mut random, in_place);
    }
}

fn narrow_products<B: Backend>() {
    let mut random = Random::new(8);
    for _ in 0..400 {
        let mut g = Gemm::dense(1 + random.below(30), 1 + random.below(4), 2 * random.pick(&[1, 2, 3, 4, 6, 32, 51]));
        g.epilogue = epilogue(&mut random);
        g.alpha = random.pick(&[1.0, 0.125]);
        g.a_row = g.k + random.pick(&[0, 3]);
        g.c_row = g.n + random.pick(&[0, 1, 5]);
        (g.b_packed, g.b_row) = (random.below(2), g.n + random.pick(&[0, 3]));
        let in_place = g.epilogue.residual > 0 && random.below(2) == 1;
        run::<B>(&g, &mut random, in_place);
    }
}

fn operands_of_any_stride<B: Backend>() {
    let mut random = Random::new(3);
    for _ in 0..300 {
        let [m, n, k] = [0; 3].map(|_| random.pick(&SIZES));
        let mut g = Gemm::dense(m, n, k);
        g.b_packed = 0;
        (g.b_row, g.b_col) = random.pick(&[(n, 1), (n + 5, 1), (1, k), (1, k + 2), (3, 3 * k), (2 * n, 2)]);
        (g.a_row, g.a_col) = random.pick(&[(k, 1), (1, m), (1, m + 1), (2 * k, 2)]);
        run::<B>(&g, &mut random, false);
    }
    // Deep and tall enough not to be used in place.
    let mut g = Gemm::dense(40, 35, 300);
    g.b_packed = 0;
    run::<B>(&g, &mut random, false);
}

fn batches<B: Backend>() {
    let mut random = Random::new(4);
    for _ in 0..200 {
        let [m, n, k] = [0; 3].map(|_| random.pick(&SIZES[1..14]));
        let batch = [0; 3].map(|_| 1 + random.below(3));
        let mut g = Gemm { batch, ..Gemm::dense(m, n, k) };
        g.epilogue = epilogue(&mut random);
        g.b_packed = random.below(2);
        let axes = |one: u32| [batch[1] * batch[2] * one, batch[2] * one, one];
        g.a_batch = random.pick(&[[0; 3], axes(m * k), axes(m * k + 1)]);
        let b = if g.b_packed == 1 { packed_len(k as u64, n as u64) as u32 } else { k * n };
        g.b_batch = random.pick(&[[0; 3], axes(b), [b, 0, 0]]);
        g.c_batch = random.pick(&[axes(m * n), axes(m * n + 2)]);
        // Interleaved heads: rows of C belong to the batch axes in turn.
        if random.below(4) == 0 {
            g.c_row = n * batch[2];
            g.c_batch = [m * g.c_row * batch[1], m * g.c_row, n];
        }
        run::<B>(&g, &mut random, false);
    }
}

fn large_weights<B: Backend>() {
    // More than a cache holds: panel by panel, with prefetching.
    let mut random = Random::new(5);
    for m in [1, 3, 6, 13, 25] {
        run::<B>(&Gemm::dense(m, 130, 500), &mut random, false);
    }
}

mod backends {
    use super::super::on_all_backends;
    on_all_backends!(
        every_size,
        every_tile,
        epilogues_and_pitches,
        narrow_products,
        operands_of_any_stride,
        batches,
        large_weights
    );
}

#[test]
fn records_that_reach_too_far_are_refused() {
    use crate::program::{Operand, Operands};
    use crate::tensor::DType;
    let operand = |n: u64| Some(Operand { dtype: DType::F32, bytes: 4 * n });
    let inputs = [operand(6), operand(48), None, None];
    let check = |g: &Gemm| Operands::with(&inputs, &[operand(4)], |operands| g.check(&[], operands));
    let g = Gemm::dense(2, 2, 3);
    check(&g).unwrap();
    let broken = [
        Gemm { m: 3, ..g },
        Gemm { n: 3, ..g },
        Gemm { k: 4, ..g },
        Gemm { a_row: 4, ..g },
        Gemm { a_col: 2, ..g },
        Gemm { c_row: 1, ..g },
        Gemm { c_row: 3, ..g },
        Gemm { b_packed: 2, ..g },
        Gemm { batch: [2, 1, 1], ..g },
        Gemm { batch: [u32::MAX; 3], ..g },
        Gemm { m: u32::MAX, n: u32::MAX, k: u32::MAX, ..g },
        Gemm { k: u32::MAX, a_row: u32::MAX, a_col: u32::MAX, ..g },
        Gemm { b_packed: 0, b_row: 40, ..g },
        Gemm { epilogue: program::Epilogue { bias: 1, ..g.epilogue }, ..g },
        Gemm { epilogue: program::Epilogue { residual: 1, ..g.epilogue }, ..g },
        Gemm { epilogue: program::Epilogue { activation: 999, ..g.epilogue }, ..g },
    ];
    for g in broken {
        check(&g).unwrap_err();
    }
    assert_eq!(Gemm { b_packed: 0, a_col: 2, m: u32::MAX, n: u32::MAX, k: u32::MAX, ..g }.scratch(&[]), u64::MAX);
}
