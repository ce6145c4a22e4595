//! Kernels as a share of the core's peak of fused multiply-adds: `cargo bench --no-default-features --features std --bench
//! kernels [-- PART]` prints, for each shape whose name contains PART, the best of 25 batches. A probe of the peak runs
//! before each batch, since clocks and neighbours change from minute to minute: the reason for a harness of its own.
//! Pin it to a core (`taskset -c 0`).

use kiln::kernels::epilogue::Epilogue;
use kiln::kernels::gemm::{Product, Right};
use kiln::kernels::winograd::{self, Scheme};
use kiln::kernels::{Backend, Dst, F32s, Isa, Kernel, Src, conv, depthwise};
use kiln::plan::derive;
use kiln::program::{Conv, OpKind, Record, packed_len};
use std::hint::black_box;
use std::time::Instant;
use zerocopy::IntoBytes;

/// Twelve independent chains of multiply-adds in registers: as many as a tile of 6 x 2 vectors has.
struct Probe {
    steps: usize,
}

impl Kernel for Probe {
    type Output = f32;
    #[inline(always)]
    fn run<V: F32s>(self) -> f32 {
        let factor = V::splat(black_box(0.999));
        let mut sums = [V::splat(black_box(1.0)); 12];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, factor);
            }
        }
        sums.iter().fold(0.0, |total, sum| total + sum.reduce_add())
    }
}

/// Multiply-adds per second at the peak.
fn peak<B: Backend>() -> f64 {
    let steps = 20_000;
    let start = Instant::now();
    black_box(B::launch(Probe { steps }));
    (steps * 12 * B::F::LANES) as f64 / start.elapsed().as_secs_f64()
}

/// Prints the share of the peak that `run`, of so many multiply-adds, reaches, and what it takes.
fn report<B: Backend>(name: &str, macs: u64, mut run: impl FnMut()) {
    if std::env::args().skip(1).any(|part| !part.starts_with("--") && !name.contains(&part)) {
        return;
    }
    let batch = (2e7 / macs as f64).ceil() as usize;
    run();
    let (mut best, mut seconds) = (0f64, 0.0);
    for _ in 0..25 {
        let peak = (0..3).map(|_| peak::<B>()).fold(0.0, f64::max);
        let start = Instant::now();
        for _ in 0..batch {
            run();
        }
        let one = start.elapsed().as_secs_f64() / batch as f64;
        let share = macs as f64 / one / peak;
        if share > best {
            (best, seconds) = (share, one);
        }
    }
    println!("{name:44} {:6.1} % {:9.1} us {:7.1} GFLOP/s", best * 100.0, seconds * 1e6, 2e-9 * macs as f64 / seconds);
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n + 16).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn gemm<B: Backend>(m: usize, k: usize, n: usize) {
    let (a, b) = (numbers(m * k), numbers(packed_len(k as u64, n as u64) as usize));
    let mut c = vec![0.0; m * n];
    report::<B>(&format!("gemm {m}x{k}x{n}"), (m * n * k) as u64, || {
        let (a, b, c) = (Src::from_slice(&a), Right::Packed(Src::from_slice(&b)), Dst::from_slice(&mut c));
        Product { m, n, k, a, a_row: k, b, c, c_row: n, epilogue: Epilogue::NONE }.run::<B>();
    });
}

/// A convolution with "same" padding.
fn shape(size: u32, kernel: u32, stride: u32, in_c: u32, out_c: u32, groups: u32) -> Conv {
    let out = size.div_ceil(stride);
    Conv {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: out,
        out_w: out,
        out_c,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        groups,
        in_pitch: in_c,
        out_pitch: out_c,
        epilogue: kiln::program::Epilogue::NONE,
    }
}

fn convolution<B: Backend>(size: u32, kernel: u32, stride: u32, in_c: u32, out_c: u32) {
    let g = shape(size, kernel, stride, in_c, out_c, 1);
    let (x, w) = (numbers((size * size * in_c) as usize), numbers(g.weights() as usize));
    let (mut y, mut scratch) = (vec![0.0; (g.pixels() * out_c as u64) as usize], vec![0.0; g.scratch(&[]) as usize / 4]);
    report::<B>(&format!("conv {kernel}x{kernel} s{stride} {size}x{size}x{in_c} to {out_c}"), g.macs(), || {
        let (x, w) = (Src::from_slice(&x), Src::from_slice(&w));
        conv::conv::<B>(&g, x, w, Dst::from_slice(&mut y), Epilogue::NONE, Dst::from_slice(&mut scratch));
    });
}

/// A share of more than 100 %: counted in the multiply-adds of the direct sum.
fn winograd<B: Backend>(size: u32, in_c: u32, out_c: u32) {
    let g = shape(size, 3, 1, in_c, out_c, 1);
    let (x, w) = (numbers((size * size * in_c) as usize), numbers(g.weights() as usize));
    let scheme = Scheme::of(&g).expect("a shape for Winograd");
    let derived = derive::weights(OpKind::Conv, g.as_bytes(), &w).expect("derived weights");
    let (mut y, mut scratch) = (vec![0.0; (g.pixels() * out_c as u64) as usize], vec![0.0; scheme.scratch(&g)]);
    report::<B>(&format!("winograd {scheme:?} {size}x{size}x{in_c} to {out_c}"), g.macs(), || {
        let (x, w) = (Src::from_slice(&x), Src::from_slice(&derived));
        winograd::conv::<B>(&g, scheme, x, w, Dst::from_slice(&mut y), Epilogue::NONE, Dst::from_slice(&mut scratch));
    });
}

fn by_channel<B: Backend>(size: u32, stride: u32, channels: u32) {
    let g = shape(size, 3, stride, channels, channels, channels);
    let (x, w) = (numbers((size * size * channels) as usize), numbers(9 * channels as usize));
    let (mut y, mut scratch) = (vec![0.0; (g.pixels() * channels as u64) as usize], vec![0.0; channels as usize + 16]);
    let macs = g.pixels() * channels as u64 * 9;
    report::<B>(&format!("depthwise 3x3 s{stride} {size}x{size}x{channels}"), macs, || {
        let (x, w) = (Src::from_slice(&x), Src::from_slice(&w));
        depthwise::depthwise::<B>(&g, x, w, Dst::from_slice(&mut y), Epilogue::NONE, Dst::from_slice(&mut scratch));
    });
}

fn all<B: Backend>() {
    for (m, k, n) in [(196, 2304, 256), (784, 576, 512), (512, 512, 512), (3136, 576, 64), (49, 2048, 512), (16, 512, 2048)] {
        gemm::<B>(m, k, n);
    }
    for (m, k, n) in [(3136, 64, 64), (3136, 24, 144), (1, 512, 512), (2, 512, 512), (3, 512, 512), (1, 100, 10), (64, 64, 10)] {
        gemm::<B>(m, k, n);
    }
    for (size, channels) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
        convolution::<B>(size, 3, 1, channels, channels);
    }
    convolution::<B>(224, 7, 2, 3, 64);
    convolution::<B>(224, 3, 2, 3, 32);
    convolution::<B>(56, 3, 2, 64, 128);
    convolution::<B>(32, 3, 1, 16, 16);
    convolution::<B>(56, 1, 2, 64, 128);
    for (size, channels) in [(56, 64), (28, 128), (14, 256), (7, 512), (32, 16), (28, 512), (14, 512)] {
        winograd::<B>(size, channels, channels);
    }
    for (size, channels) in [(112, 32), (56, 144), (28, 192), (14, 576), (7, 960), (25, 64)] {
        by_channel::<B>(size, 1, channels);
    }
    by_channel::<B>(112, 2, 96);
    by_channel::<B>(14, 2, 576);
}

fn main() {
    let isa = Isa::detect();
    println!("{}", isa.name());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => all::<kiln::kernels::x86_64::avx2::Avx2>(),
        _ => all::<kiln::kernels::portable::Scalar>(),
    }
}
