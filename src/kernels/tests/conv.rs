//! Convolution, depthwise convolution, pooling.

use super::{Buffer, Random, apply, assert_close, assert_parts, check, epilogue};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::{Backend, Dst, conv, depthwise, pool, shallow};
use crate::program::conv::Depthwise;
use crate::program::{Conv, Pool, PoolKind, Record, packed_len};
use core::ops::Range;

pub(super) fn length(batch: u32, h: u32, w: u32, c: u32, pitch: u32) -> usize {
    let pixels = batch as usize * h as usize * w as usize;
    if pixels == 0 || c == 0 { 0 } else { (pixels - 1) * pitch as usize + c as usize }
}

/// Position of the tap, if it is inside the map.
fn tap(out: u32, stride: u32, pad: u32, k: u32, dilation: u32, size: u32) -> Option<usize> {
    let at = (out * stride + k * dilation) as i64 - pad as i64;
    (0..size as i64).contains(&at).then_some(at as usize)
}

/// The kernel that computes a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    Depthwise,
    Shallow,
}

/// Runs one record on random operands and compares every element.
fn run<B: Backend>(g: &Conv, way: Way, random: &mut Random) {
    let by_channel = way == Way::Depthwise;
    let x_len = length(g.batch, g.in_h, g.in_w, g.in_c, g.in_pitch);
    let y_len = length(g.batch, g.out_h, g.out_w, g.out_c, g.out_pitch);
    let (group_in, group_out) = (g.in_c / g.groups, g.out_c / g.groups);
    let taps = (g.kernel_h * g.kernel_w) as usize;
    let group_len = packed_len(g.depth(), group_out as u64) as usize;
    let w_len = if by_channel { taps * g.out_c as usize } else { g.groups as usize * group_len };
    let x = Buffer::random(x_len, random);
    let w = Buffer::random(w_len, random);
    let bias = Buffer::random(g.out_c as usize, random);
    let residual = Buffer::random(y_len, random);
    let mut y = Buffer::canary(y_len);
    let inputs = [x_len, w_len, g.out_c as usize, y_len];
    let before = y.clone();
    let scratch_len = match way {
        Way::Plain => g.scratch(&[]) as usize / 4,
        Way::Depthwise => 0,
        Way::Shallow => shallow::scratch(g),
    };
    let mut scratch = Buffer::canary(scratch_len);
    if by_channel {
        check(&Depthwise(*g), &inputs, y_len)
    } else {
        check(g, &inputs, y_len)
    }
    let e = Epilogue::of(
        &g.epilogue,
        1.0,
        (g.epilogue.bias == 1).then(|| bias.src()),
        (g.epilogue.residual > 0).then(|| residual.src()),
    );
    let run = |y: Dst<'_, f32>, scratch: Dst<'_, f32>, units: Range<usize>, _: bool| match way {
        Way::Plain => conv::conv::<B, true>(g, x.src(), w.src(), y, &e, scratch, units),
        Way::Depthwise => depthwise::depthwise::<B>(g, x.src(), w.src(), y, &e, units),
        Way::Shallow => shallow::conv::<B>(g, x.src(), w.src(), y, e, scratch, units),
    };
    let count = run(y.dst(), scratch.dst(), 0..usize::MAX, false);
    assert_parts(count, &before, &y, scratch_len, random, run);
    y.assert_canary();
    scratch.assert_canary();
    for pixel in 0..g.batch * g.out_h * g.out_w {
        let (b, oy, ox) = (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        for c in 0..g.out_c {
            let group = c / group_out;
            let mut sum = 0.0;
            for ky in 0..g.kernel_h {
                for kx in 0..g.kernel_w {
                    let (iy, ix) = (
                        tap(oy, g.stride_h, g.pad_top, ky, g.dilation_h, g.in_h),
                        tap(ox, g.stride_w, g.pad_left, kx, g.dilation_w, g.in_w),
                    );
                    let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                    let place = ((b * g.in_h) as usize + iy) * g.in_w as usize + ix;
                    let number = (ky * g.kernel_w + kx) as usize;
                    for i in 0..group_in {
                        let value = x.values()[place * g.in_pitch as usize + (group * group_in + i) as usize];
                        let column = (c % group_out) as usize;
                        let weight = if by_channel {
                            number * g.out_c as usize + c as usize
                        } else {
                            group as usize * group_len
                                + column / 16 * 16 * g.depth() as usize
                                + (number * group_in as usize + i as usize) * 16
                                + column % 16
                        };
                        sum += value as f64 * w.values()[weight] as f64;
                    }
                }
            }
            let place = (pixel * g.out_pitch + c) as usize;
            let want = apply(&g.epilogue, sum, bias.values()[c as usize], residual.values()[place]);
            assert_close(y.values()[place], want, g.depth() as usize, g);
        }
        if g.out_c > 0 && g.out_pitch > g.out_c && pixel + 1 < g.batch * g.out_h * g.out_w {
            assert_eq!(y.values()[(pixel * g.out_pitch + g.out_c) as usize], super::CANARY, "a gap was written: {g:?}");
        }
    }
}

/// A random geometry; channels are set by the caller.
pub(super) fn geometry(random: &mut Random) -> Conv {
    let [kernel_h, kernel_w] = [0; 2].map(|_| random.pick(&[1, 1, 2, 3, 3, 5, 7]));
    let [stride_h, stride_w] = [0; 2].map(|_| random.pick(&[1, 1, 2, 3]));
    let [dilation_h, dilation_w] = [0; 2].map(|_| random.pick(&[1, 1, 1, 2]));
    let [in_h, in_w] = [0; 2].map(|_| 1 + random.below(17));
    let [pad_top, pad_left, pad_bottom, pad_right] = [0; 4].map(|_| random.below(4));
    let out = |size: u32, pad: u32, kernel: u32, stride: u32, dilation: u32| {
        (size + pad).checked_sub((kernel - 1) * dilation + 1).map_or(0, |last| last / stride + 1)
    };
    Conv {
        batch: random.pick(&[1, 1, 2]),
        in_h,
        in_w,
        in_c: 0,
        out_h: out(in_h, pad_top + pad_bottom, kernel_h, stride_h, dilation_h),
        out_w: out(in_w, pad_left + pad_right, kernel_w, stride_w, dilation_w),
        out_c: 0,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        groups: 1,
        in_pitch: 0,
        out_pitch: 0,
        epilogue: epilogue(random),
    }
}

fn convolutions<B: Backend>() {
    let mut random = Random::new(6);
    for _ in 0..400 {
        let mut g = geometry(&mut random);
        g.groups = random.pick(&[1, 1, 1, 2, 3]);
        g.in_c = g.groups * random.pick(&[0, 1, 2, 3, 4, 8, 17, 32]);
        g.out_c = g.groups * random.pick(&[0, 1, 3, 4, 8, 9, 16, 20, 40]);
        g.in_pitch = g.in_c + random.pick(&[0, 0, 5]);
        g.out_pitch = g.out_c + random.pick(&[0, 0, 7]);
        run::<B>(&g, Way::Plain, &mut random);
    }
}

fn convolutions_of_few_channels<B: Backend>() {
    let mut random = Random::new(12);
    let mut padded = 0;
    for _ in 0..400 {
        let mut g = geometry(&mut random);
        g.in_c = random.pick(&[0, 1, 1, 2, 3, 3, 4, 8, 12]);
        g.out_c = random.pick(&[0, 1, 2, 3, 4, 4, 8, 9, 16, 20, 40, 300]);
        g.in_pitch = g.in_c + random.pick(&[0, 0, 5]);
        g.out_pitch = g.out_c + random.pick(&[0, 0, 7]);
        if random.below(3) == 0 {
            // No border: the map is used where it is.
            (g.pad_top, g.pad_left) = (0, 0);
            (g.in_h, g.in_w) = (g.in_h + 12, g.in_w + 12);
            g.out_h = (g.in_h - (g.kernel_h - 1) * g.dilation_h - 1) / g.stride_h + 1;
            g.out_w = (g.in_w - (g.kernel_w - 1) * g.dilation_w - 1) / g.stride_w + 1;
        }
        if g.is_pointwise() || g.depth() > 256 {
            continue;
        }
        assert!(shallow::suits(&g), "{g:?}");
        padded += (shallow::scratch(&g) > 0) as usize;
        run::<B>(&g, Way::Shallow, &mut random);
    }
    assert!((100..300).contains(&padded), "{padded} with a border");
}

fn convolutions_of_many_taps<B: Backend>() {
    let mut random = Random::new(7);
    for (h, w, pitch) in [(9, 9, 2), (9, 9, 3), (1, 70, 2), (1, 70, 40), (11, 7, 30), (70, 1, 1), (400, 1, 3)] {
        let mut g = geometry(&mut random);
        (g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) = (h, w, 1, 1, 1, 1);
        (g.in_h, g.in_w, g.pad_top, g.pad_left) = (h + 3, w + 4, 1, 2);
        (g.out_h, g.out_w) = (5, 7);
        (g.in_c, g.out_c, g.in_pitch, g.out_pitch) = (pitch.min(30) - pitch / 20, 5, pitch, 5);
        run::<B>(&g, Way::Plain, &mut random);
    }
}

fn convolutions_whose_windows_are_read_in_place<B: Backend>() {
    let mut random = Random::new(21);
    // A short-time Fourier transform; windows of several rows, which are gathered where they cross the border; pairs of pixels.
    for (kernel, stride, size, out, channels) in
        [([1, 256], [1, 128], [1, 640], [1, 4], 1), ([3, 3], [2, 1], [8, 7], [3, 4], 3), ([1, 2], [3, 1], [40, 5], [8, 4], 2)]
    {
        let mut g = geometry(&mut random);
        ([g.kernel_h, g.kernel_w], [g.stride_h, g.stride_w], [g.dilation_h, g.dilation_w]) = (kernel, stride, [1, 1]);
        ([g.in_h, g.in_w], [g.out_h, g.out_w], [g.pad_top, g.pad_left]) = (size, out, [0, 0]);
        (g.in_c, g.out_c, g.in_pitch, g.out_pitch) = (channels, 20, channels, 20);
        assert_eq!(g.scratch(&[]) == 0, kernel[0] == 1, "{g:?}");
        run::<B>(&g, Way::Plain, &mut random);
        g.in_pitch += 1;
        assert!(g.scratch(&[]) > 0, "{g:?}");
        run::<B>(&g, Way::Plain, &mut random);
        g.in_pitch -= 1;
        g.pad_left = 1;
        assert!(g.scratch(&[]) > 0, "{g:?}");
        run::<B>(&g, Way::Plain, &mut random);
    }
}

fn convolutions_with_large_weights<B: Backend>() {
    let mut random = Random::new(8);
    let mut g = geometry(&mut random);
    (g.batch, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) = (1, 3, 3, 1, 1, 1, 1);
    (g.in_h, g.in_w, g.out_h, g.out_w, g.pad_top, g.pad_left) = (5, 5, 5, 5, 1, 1);
    (g.in_c, g.out_c, g.in_pitch, g.out_pitch) = (96, 72, 96, 72);
    run::<B>(&g, Way::Plain, &mut random);
    (g.kernel_h, g.kernel_w, g.pad_top, g.pad_left, g.in_c, g.in_pitch, g.out_c, g.out_pitch) = (1, 1, 0, 0, 300, 300, 200, 200);
    run::<B>(&g, Way::Plain, &mut random);
}

fn depthwise_convolutions<B: Backend>() {
    let mut random = Random::new(9);
    for _ in 0..300 {
        let mut g = geometry(&mut random);
        let c = random.pick(&[0, 1, 3, 4, 7, 8, 9, 16, 19, 33]);
        (g.in_c, g.out_c, g.groups) = (c, c, c.max(1));
        if c == 0 {
            continue;
        }
        g.in_pitch = c + random.pick(&[0, 0, 5]);
        g.out_pitch = c + random.pick(&[0, 0, 7]);
        run::<B>(&g, Way::Depthwise, &mut random);
    }
}

/// More channels than are computed at a time.
fn depthwise_convolutions_in_parts<B: Backend>() {
    let mut random = Random::new(12);
    for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)] {
        for size in [7, 9, 14] {
            let mut g = geometry(&mut random);
            (g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) = (kernel, kernel, stride, stride, 1, 1);
            (g.in_h, g.in_w, g.pad_top, g.pad_left) = (size, size, kernel / 2, kernel / 2);
            (g.out_h, g.out_w) = (size.div_ceil(stride), size.div_ceil(stride));
            let c = random.pick(&[201, 320, 333]);
            (g.batch, g.in_c, g.out_c, g.groups, g.in_pitch, g.out_pitch) = (1, c, c, c, c, c);
            run::<B>(&g, Way::Depthwise, &mut random);
        }
    }
}

fn pooling<B: Backend>() {
    let mut random = Random::new(10);
    for _ in 0..300 {
        let c = geometry(&mut random);
        let channels = random.pick(&[1, 3, 8, 9, 32, 37, 64]);
        let kind = random.pick(&[PoolKind::Max, PoolKind::Average, PoolKind::AveragePadded]);
        let [pad_bottom, pad_right] = [0; 2].map(|_| random.below(3));
        let g = Pool {
            kind: kind as u32,
            batch: c.batch,
            in_h: c.in_h,
            in_w: c.in_w,
            channels,
            out_h: c.out_h,
            out_w: c.out_w,
            kernel_h: c.kernel_h,
            kernel_w: c.kernel_w,
            stride_h: c.stride_h,
            stride_w: c.stride_w,
            dilation_h: c.dilation_h,
            dilation_w: c.dilation_w,
            pad_top: c.pad_top,
            pad_left: c.pad_left,
            pad_bottom,
            pad_right,
            in_pitch: channels + random.pick(&[0, 3]),
            out_pitch: channels + random.pick(&[0, 9]),
        };
        let x_len = length(g.batch, g.in_h, g.in_w, channels, g.in_pitch);
        let y_len = length(g.batch, g.out_h, g.out_w, channels, g.out_pitch);
        check(&g, &[x_len], y_len);
        let x = Buffer::random(x_len, &mut random);
        let mut y = Buffer::canary(y_len);
        let before = y.clone();
        let count = pool::pool::<B>(&g, x.src(), y.dst(), 0..usize::MAX);
        y.assert_canary();
        assert_parts(count, &before, &y, 0, &mut random, |y, _, units, _| pool::pool::<B>(&g, x.src(), y, units));
        for pixel in 0..g.batch * g.out_h * g.out_w {
            let (b, oy, ox) = (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
            for channel in 0..channels as usize {
                let (mut max, mut sum, mut inside, mut padded) = (f64::NEG_INFINITY, 0.0, 0, 0);
                for ky in 0..g.kernel_h {
                    for kx in 0..g.kernel_w {
                        let padded_y = tap(oy, g.stride_h, 0, ky, g.dilation_h, g.in_h + g.pad_top + pad_bottom);
                        let padded_x = tap(ox, g.stride_w, 0, kx, g.dilation_w, g.in_w + g.pad_left + pad_right);
                        padded += (padded_y.is_some() && padded_x.is_some()) as u32;
                        let iy = tap(oy, g.stride_h, g.pad_top, ky, g.dilation_h, g.in_h);
                        let ix = tap(ox, g.stride_w, g.pad_left, kx, g.dilation_w, g.in_w);
                        let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                        let place = ((b * g.in_h) as usize + iy) * g.in_w as usize + ix;
                        let value = x.values()[place * g.in_pitch as usize + channel] as f64;
                        max = max.max(value);
                        sum += value;
                        inside += 1;
                    }
                }
                let want = match kind {
                    PoolKind::Max => max,
                    PoolKind::Average => sum / inside.max(1) as f64,
                    PoolKind::AveragePadded => sum / padded.max(1) as f64,
                };
                let got = y.values()[pixel as usize * g.out_pitch as usize + channel];
                if want.is_finite() {
                    assert_close(got, want, 25, &g);
                } else {
                    assert_eq!(got as f64, want);
                }
            }
        }
    }
}

mod backends {
    use super::super::on_all_backends;
    on_all_backends!(
        convolutions,
        convolutions_of_few_channels,
        convolutions_of_many_taps,
        convolutions_whose_windows_are_read_in_place,
        convolutions_with_large_weights,
        depthwise_convolutions,
        depthwise_convolutions_in_parts,
        pooling
    );
}

#[test]
fn records_that_reach_too_far_are_refused() {
    use crate::program::{Operand, Operands};
    use crate::tensor::DType;
    let g = Conv {
        batch: 1,
        in_h: 4,
        in_w: 4,
        in_c: 2,
        out_h: 4,
        out_w: 4,
        out_c: 2,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 1,
        groups: 1,
        in_pitch: 2,
        out_pitch: 2,
        epilogue: crate::program::Epilogue::NONE,
    };
    let operand = |n: u64| Some(Operand { dtype: DType::F32, bytes: 4 * n });
    let inputs = [operand(32), operand(16 * 18), None, None];
    let refused =
        |record: &dyn Fn(&Operands<'_>) -> crate::error::Result<()>| Operands::with(&inputs, &[operand(32)], record).is_err();
    assert!(!refused(&|operands| g.check(&[], operands)));
    let max = u32::MAX;
    let broken = [
        Conv { batch: 2, ..g },
        Conv { batch: max, ..g },
        Conv { in_h: 5, ..g },
        Conv { in_h: max, in_w: max, ..g },
        Conv { out_w: 5, ..g },
        Conv { in_c: 3, ..g },
        Conv { out_c: 17, out_pitch: 17, ..g },
        Conv { kernel_h: 4, ..g },
        Conv { kernel_h: max, kernel_w: max, ..g },
        Conv { kernel_w: 0, ..g },
        Conv { stride_h: 0, ..g },
        Conv { dilation_w: max, ..g },
        Conv { pad_top: max, ..g },
        Conv { groups: 0, ..g },
        Conv { groups: 3, ..g },
        Conv { in_pitch: 1, ..g },
        Conv { out_pitch: 3, ..g },
    ];
    for g in broken {
        assert!(refused(&|operands| g.check(&[], operands)));
        // The sizes that planning asks for never overflow either.
        let _ = (g.scratch(&[]), g.macs(), Depthwise(g).scratch(&[]), Depthwise(g).macs());
        assert!(refused(&|operands| Depthwise(g).check(&[], operands)));
    }
}
