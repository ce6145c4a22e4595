//! Kernels of this core against the scalar reference, on random operands of many shapes: `kernels NAME PASSED FAILED` each.
#![no_std]
#![no_main]

#[path = "../semihosting.rs"]
#[allow(dead_code)] // no floats are written here
mod semihosting;

use kiln::kernels::Base;
use kiln::kernels::epilogue::Epilogue;
use kiln::kernels::gemm::{Product, Right};
use kiln::kernels::portable::Scalar;
use kiln::kernels::{Dst, Src, conv, depthwise};
use kiln::program::{self, Conv, Record, Unary, packed_len};
use semihosting::Line;

/// Elements of each operand, at the most; what a case does not write must stay as it was.
const MOST: usize = 6000;
const CANARY: f32 = 12345.5;

struct Operands {
    x: [f32; MOST],
    w: [f32; MOST],
    bias: [f32; 64],
    residual: [f32; MOST],
    scratch: [f32; MOST],
    got: [f32; MOST],
    want: [f32; MOST],
}

/// Seeded pseudo-random numbers (xorshift32).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
    fn below(&mut self, n: u32) -> u32 {
        (self.next() >> 8) % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
    fn fill(&mut self, to: &mut [f32]) {
        to.iter_mut().for_each(|x| *x = (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0);
    }
}

impl Operands {
    fn fill(&mut self, random: &mut Random) {
        [&mut self.x[..], &mut self.w, &mut self.bias, &mut self.residual].into_iter().for_each(|to| random.fill(to));
        [&mut self.scratch, &mut self.got, &mut self.want].into_iter().for_each(|to| to.fill(CANARY));
    }

    fn same(&self, terms: usize) -> bool {
        let bound = 1e-6 + 3e-7 * terms as f32;
        self.got.iter().zip(&self.want).all(|(a, b)| (a - b).abs() <= bound || a.to_bits() == b.to_bits())
    }
}

fn epilogue(random: &mut Random) -> program::Epilogue {
    let relu = (Unary::Clip, [0.0, f32::INFINITY]);
    let (activation, p) =
        random.pick(&[relu, relu, (Unary::Identity, [0.0; 2]), (Unary::Clip, [-0.5, 0.5]), (Unary::Tanh, [0.0; 2])]);
    program::Epilogue { bias: random.below(2), residual: random.below(4) % 3, activation: activation as u32, p }
}

fn of<'m>(e: &program::Epilogue, alpha: f32, bias: &'m [f32], residual: &'m [f32]) -> Epilogue<'m> {
    let bias = (e.bias == 1).then(|| Src::from_slice(bias));
    Epilogue::of(e, alpha, bias, (e.residual > 0).then(|| Src::from_slice(residual)))
}

fn product(o: &mut Operands, random: &mut Random) -> bool {
    let (m, n, k) = (random.below(9) as usize, random.below(50) as usize, random.below(40) as usize);
    let (a_row, c_row) = (k + random.below(3) as usize, n + random.below(3) as usize);
    let (b_row, in_place) = (n + random.below(9) as usize, random.below(3) == 0);
    let e = epilogue(random);
    let alpha = random.pick(&[1.0, 1.0, 0.5]);
    let Operands { x, w, bias, residual, got, want, .. } = o;
    let b = if in_place { Right::InPlace(Src::from_slice(w), b_row) } else { Right::Packed(Src::from_slice(w)) };
    let e = of(&e, alpha, bias, residual);
    let product = |c| Product { m, n, k, a: Src::from_slice(x), a_row, b, c, c_row, epilogue: &e };
    product(Dst::from_slice(got)).run::<Base>();
    product(Dst::from_slice(want)).run::<Scalar>();
    o.same(k)
}

fn geometry(random: &mut Random, by_channel: bool) -> Conv {
    let mut below = |n| random.below(n);
    let (kernel_h, kernel_w) = if below(2) == 0 { (3, 3) } else { (1 + below(4), 1 + below(5)) };
    let (dilation_h, dilation_w) = if below(3) == 0 { (1 + below(2), 1 + below(2)) } else { (1, 1) };
    let (in_h, in_w, stride_h, stride_w) = (1 + below(7), 1 + below(9), 1 + below(2), 1 + below(3) % 3);
    let (pad_top, pad_left) = (below(2) + below(2), below(2) + below(2));
    let out = |size: u32, pad: u32, kernel: u32, dilation: u32, stride: u32, more: u32| {
        (size + pad + more).checked_sub((kernel - 1) * dilation + 1).map_or(0, |room| room / stride + 1)
    };
    let out_h = out(in_h, pad_top, kernel_h, dilation_h, stride_h, below(2));
    let out_w = out(in_w, pad_left, kernel_w, dilation_w, stride_w, below(2));
    let (groups, in_c, out_c) = if by_channel {
        let c = if below(3) > 0 { 4 * (1 + below(4)) } else { 1 + below(17) };
        (c, c, c)
    } else {
        let groups = 1 + below(5) / 4;
        (groups, groups * (1 + below(20)), groups * (1 + below(24)))
    };
    let (in_pitch, out_pitch) = (in_c + below(3) / 2, out_c + below(3) / 2);
    #[rustfmt::skip]
    let conv = Conv { batch: 1 + below(5) / 4, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_h, stride_w,
        dilation_h, dilation_w, pad_top, pad_left, groups, in_pitch, out_pitch, epilogue: epilogue(random) };
    conv
}

fn convolution(o: &mut Operands, random: &mut Random, by_channel: bool) -> Option<bool> {
    let g = geometry(random, by_channel);
    let group = packed_len(g.depth(), (g.out_c / g.groups) as u64);
    let sizes = [
        g.batch * g.in_h * g.in_w * g.in_pitch,
        g.pixels() as u32 * g.out_pitch,
        g.groups * group as u32,
        g.scratch(&[]) as u32 / 4,
    ];
    if sizes.iter().any(|&size| size as usize + 16 > MOST) {
        return None;
    }
    let Operands { x, w, bias, residual, scratch, got, want } = o;
    let e = of(&g.epilogue, 1.0, bias, residual);
    let (x, w) = (Src::from_slice(x), Src::from_slice(w));
    if by_channel {
        depthwise::depthwise::<Base>(&g, x, w, Dst::from_slice(got), &e, 0..usize::MAX);
        depthwise::depthwise::<Scalar>(&g, x, w, Dst::from_slice(want), &e, 0..usize::MAX);
    } else {
        conv::conv::<Base, true>(&g, x, w, Dst::from_slice(got), &e, Dst::from_slice(scratch), 0..usize::MAX);
        conv::conv::<Scalar, true>(&g, x, w, Dst::from_slice(want), &e, Dst::from_slice(scratch), 0..usize::MAX);
    }
    Some(o.same(g.depth() as usize))
}

#[cortex_m_rt::entry]
fn main() -> ! {
    static mut OPERANDS: Operands = Operands {
        x: [0.0; MOST],
        w: [0.0; MOST],
        bias: [0.0; 64],
        residual: [0.0; MOST],
        scratch: [0.0; MOST],
        got: [0.0; MOST],
        want: [0.0; MOST],
    };
    let mut random = Random(1);
    let mut good = true;
    for (kind, name) in ["product", "conv", "depthwise"].into_iter().enumerate() {
        let (mut passed, mut failed) = (0, 0);
        while passed + failed < 2000 {
            let seed = random.0;
            OPERANDS.fill(&mut random);
            let same = match kind {
                0 => Some(product(OPERANDS, &mut random)),
                kind => convolution(OPERANDS, &mut random, kind == 2),
            };
            if same == Some(false) {
                failed += 1;
                Line::new().word("FAILED").word(name).word("seed").number(seed).end();
            }
            passed += (same == Some(true)) as u32;
        }
        Line::new().word("kernels").word(name).number(passed).number(failed).end();
        good &= failed == 0;
    }
    semihosting::exit(good)
}
