//! Winograd convolution.

use super::conv::{geometry, length};
use super::{Buffer, Random, assert_parts};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::winograd::{self, Scheme};
use crate::kernels::{Backend, Dst, Src, conv};
use crate::plan::{derive, pack};
use crate::program::{OpKind, Record};
use core::ops::Range;
use zerocopy::IntoBytes;

/// Winograd's weights are derived from the plain ones, and the results compared with those of the plain kernel.
fn convolutions<B: Backend>() {
    let mut random = Random::new(11);
    let sizes = [(4, 4), (7, 7), (5, 9), (11, 12), (12, 12), (14, 14), (13, 18), (30, 29)];
    for (round, &(h, w)) in sizes.iter().cycle().take(32).enumerate() {
        let taps = if round < 24 { 3 } else { 5 };
        let mut g = geometry(&mut random);
        (g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) = (taps, taps, 1, 1, 1, 1);
        (g.out_h, g.out_w, g.pad_top, g.pad_left) = (h, w, random.below(taps), random.below(taps));
        (g.in_h, g.in_w) = (h + random.below(taps), w + random.below(taps));
        (g.in_c, g.out_c) = random.pick(&[(16, 16), (20, 17), (33, 40), (64, 16)]);
        (g.in_pitch, g.out_pitch) = (g.in_c + random.pick(&[0, 3]), g.out_c + random.pick(&[0, 5]));
        let scheme = Scheme::of(&g).unwrap();
        match taps {
            3 => assert_eq!(scheme == Scheme::F2, h.min(w) < 12, "{round}"),
            _ => assert_eq!(scheme, Scheme::F2Of5),
        }
        let x = Buffer::random(length(g.batch, g.in_h, g.in_w, g.in_c, g.in_pitch), &mut random);
        let mut plain = vec![0.0; g.weights() as usize];
        let (kernel_h, kernel_w) = (taps as usize, taps as usize);
        let kernel = pack::Kernel { out_c: g.out_c as usize, group_in_c: g.in_c as usize, kernel_h, kernel_w, groups: 1 };
        let values = Buffer::random((taps * taps * g.in_c * g.out_c) as usize, &mut random);
        kernel.pack(|i| values.values()[i], &mut plain);
        let mut derived = vec![0.0; scheme.weights(&g)];
        winograd::derive::<B>(&g, scheme, &plain, &mut derived);
        let y_len = length(g.batch, g.out_h, g.out_w, g.out_c, g.out_pitch);
        let (bias, residual) = (Buffer::random(g.out_c as usize, &mut random), Buffer::random(y_len, &mut random));
        let e = Epilogue::of(
            &g.epilogue,
            1.0,
            (g.epilogue.bias == 1).then(|| bias.src()),
            (g.epilogue.residual > 0).then(|| residual.src()),
        );
        let (mut want, mut got) = (Buffer::canary(y_len), Buffer::canary(y_len));
        let mut few = Buffer::canary(g.scratch(&[]) as usize / 4);
        let longest = scheme.scratch(&g, true).max(scheme.scratch(&g, false));
        assert!(derive::host_scratch(OpKind::Conv, g.as_bytes(), false) >= 4 * longest as u64);
        conv::conv::<B, true>(&g, x.src(), Src::from_slice(&plain), want.dst(), &e, few.dst(), 0..usize::MAX);
        let before = got.clone();
        let plain = winograd::Weights::Plain(Src::from_slice(&plain));
        let mut both = Vec::new();
        for w in [winograd::Weights::Derived(Src::from_slice(&derived)), plain] {
            let len = scheme.scratch(&g, both.is_empty());
            let (mut got, mut scratch) = (before.clone(), Buffer::canary(len));
            let run = |y: Dst<'_, f32>, scratch: Dst<'_, f32>, units: Range<usize>, _: bool| {
                winograd::conv::<B>(&g, scheme, x.src(), w, y, e, scratch, units)
            };
            let count = run(got.dst(), scratch.dst(), 0..usize::MAX, false);
            assert_parts(count, &before, &got, len, &mut random, run);
            got.assert_canary();
            scratch.assert_canary();
            both.push(got);
        }
        assert!(
            both[0].values() == both[1].values(),
            "the same bits from weights that are transformed on the way: {scheme:?} {g:?}"
        );
        got = both.remove(0);
        // Sums before the activation are about the root of the depth.
        let bound = 4e-6 * (g.depth() as f32).sqrt();
        for (got, want) in got.values().iter().zip(want.values()) {
            assert!((got - want).abs() <= bound, "got {got}, want {want}, {scheme:?} {g:?}");
        }
    }
}

mod backends {
    use super::super::on_all_backends;
    on_all_backends!(convolutions);
}
