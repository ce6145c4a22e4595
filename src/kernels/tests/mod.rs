//! Matrix products, convolutions and pooling against naive references: one suite, run on every backend.

mod conv;
mod gemm;
mod slabs;
#[cfg(feature = "alloc")]
mod winograd;

use super::{Dst, Src};
use crate::program::{Epilogue, Operand, Operands, Record, Unary};
use crate::tensor::DType;
use core::ops::Range;

/// Makes a test of each of these functions that are generic over a backend.
macro_rules! on_all_backends {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            use super::$name as test;
            crate::kernels::on_each_backend!(test());
        }
    )*};
}
use on_all_backends;

/// Seeded pseudo-random numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.next() % n as u64) as u32
    }
    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

const CANARY: f32 = 12_345.5;
const SLACK: usize = crate::program::SLACK / 4;

/// Elements with slack behind them: NaN behind what is read, a canary behind what is written.
#[derive(Clone)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    pub fn random(len: usize, random: &mut Random) -> Buffer {
        let data = (0..len + SLACK).map(|i| if i < len { random.unit() } else { f32::NAN }).collect();
        Buffer { data, len }
    }
    pub fn canary(len: usize) -> Buffer {
        Buffer { data: vec![CANARY; len + SLACK], len }
    }
    pub fn values(&self) -> &[f32] {
        &self.data[..self.len]
    }
    pub fn src(&self) -> Src<'_, f32> {
        Src::from_slice(&self.data[..]).first(self.len)
    }
    pub fn dst(&mut self) -> Dst<'_, f32> {
        let len = self.len;
        Dst::from_slice(&mut self.data[..]).first(len)
    }
    /// Asserts that nothing was written behind the end.
    pub fn assert_canary(&self) {
        assert!(self.data[self.len..].iter().all(|x| *x == CANARY), "written past the end");
    }
}

/// Runs a kernel's `count` units in parts: forwards, each part with the scratch memory of the one before, and backwards, each
/// with memory of its own. `y` starts out as `before` and must end with the bits of `after`, which all units at once gave.
pub fn assert_parts(
    count: usize,
    before: &Buffer,
    after: &Buffer,
    scratch: usize,
    random: &mut Random,
    mut run: impl FnMut(Dst<'_, f32>, Dst<'_, f32>, Range<usize>, bool) -> usize,
) {
    let most = random.pick(&[1, 2, 9, 40]);
    let mut parts: Vec<Range<usize>> = Vec::new();
    while let Some(start) = parts.last().map_or(Some(0), |p| Some(p.end)).filter(|&end| end < count) {
        parts.push(start..start + 1 + random.below(most) as usize);
    }
    for backwards in [false, true] {
        let mut y = before.clone();
        let mut memory = Buffer::canary(scratch);
        for i in 0..parts.len() {
            let part = parts[if backwards { parts.len() - 1 - i } else { i }].clone();
            if backwards {
                memory = Buffer::canary(scratch);
            }
            let resumes = !backwards && part.start > 0;
            assert_eq!(run(y.dst(), memory.dst(), part, resumes), count);
        }
        let same = y.data.iter().zip(&after.data).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{count} units in parts of up to {most}, backwards: {backwards}");
    }
}

/// The operands of an op that are just as long as these.
pub fn check<R: Record>(record: &R, inputs: &[usize], output: usize) {
    let operand = |n: usize| Some(Operand { dtype: DType::F32, bytes: 4 * n as u64 });
    let inputs: Vec<_> = inputs.iter().map(|&n| operand(n)).collect();
    let check = |output| Operands::with(&inputs, &[operand(output)], |operands| record.check(&[], operands));
    check(output).unwrap();
    if output > 0 {
        check(output - 1).unwrap_err();
    }
}

/// A random epilogue.
pub fn epilogue(random: &mut Random) -> Epilogue {
    let (activation, p) = random.pick(&[
        (Unary::Identity, [0.0, 0.0]),
        (Unary::Clip, [0.0, f32::INFINITY]),
        (Unary::Clip, [-0.3, 0.4]),
        (Unary::HardSwish, [1.0 / 6.0, 0.5]),
        (Unary::LeakyRelu, [0.1, 0.0]),
        (Unary::HardSigmoid, [0.2, 0.5]),
        (Unary::Sigmoid, [0.0, 0.0]),
        (Unary::Silu, [0.0, 0.0]),
        (Unary::Tanh, [0.0, 0.0]),
        (Unary::Gelu, [0.0, 0.0]),
        (Unary::GeluTanh, [0.0, 0.0]),
        (Unary::Elu, [1.5, 0.0]),
    ]);
    Epilogue { bias: random.below(2), residual: random.below(3), activation: activation as u32, p }
}

/// What an epilogue makes of a product, in f64.
pub fn apply(e: &Epilogue, product: f64, bias: f32, residual: f32) -> f64 {
    let mut x = product + if e.bias == 1 { bias as f64 } else { 0.0 };
    if e.residual == 1 {
        x += residual as f64;
    }
    let p = e.p.map(|p| p as f64);
    let gelu_tanh = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044715 * x * x * x)).tanh());
    x = match Unary::from_number(e.activation).unwrap() {
        Unary::Identity => x,
        Unary::Clip => x.max(p[0]).min(p[1]),
        Unary::HardSwish => x * (x * p[0] + p[1]).clamp(0.0, 1.0),
        Unary::LeakyRelu => {
            if x < 0.0 {
                p[0] * x
            } else {
                x
            }
        }
        Unary::HardSigmoid => (x * p[0] + p[1]).clamp(0.0, 1.0),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Tanh => x.tanh(),
        Unary::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Unary::GeluTanh => gelu_tanh(x),
        Unary::Elu => {
            if x < 0.0 {
                p[0] * x.exp_m1()
            } else {
                x
            }
        }
        other => unreachable!("{other:?} is not among those tested"),
    };
    x + if e.residual == 2 { residual as f64 } else { 0.0 }
}

/// Asserts that a result is right within the rounding of `terms` products of numbers below 1.
pub fn assert_close(got: f32, want: f64, terms: usize, what: &dyn std::fmt::Debug) {
    let bound = 2e-6 + 1e-7 * terms as f64 + 1e-6 * want.abs();
    assert!((got as f64 - want).abs() <= bound, "got {got}, want {want}: {what:?}");
}
