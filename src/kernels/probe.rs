//! The peak of multiply-adds of the core that this runs on: what kernels are measured against.

use super::{Backend, F32s, Isa, Kernel};
use std::hint::black_box;
use std::time::Instant;

/// Twelve independent chains of multiply-adds in registers: as many as a tile of 6 x 2 vectors has.
struct Probe {
    steps: usize,
}

const CHAINS: usize = 12;

impl Kernel for Probe {
    type Output = f32;
    #[inline(always)]
    fn run<V: F32s>(self) -> f32 {
        let factor = V::splat(black_box(0.999));
        let mut sums = [V::splat(black_box(1.0)); CHAINS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, factor);
            }
        }
        sums.iter().fold(0.0, |total, sum| total + sum.reduce_add())
    }
}

/// Multiply-adds per second that a backend reaches at most: the best of three tries of some tens of microseconds. Clocks
/// and neighbours change it from one moment to the next.
pub fn peak_of<B: Backend>() -> f64 {
    // Fewer where each is slow.
    let steps = if B::ISA == Isa::Portable16 { 500 } else { 20_000 };
    let once = || {
        let start = Instant::now();
        black_box(B::launch(Probe { steps }));
        (steps * CHAINS * B::F::LANES) as f64 / start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| once()).fold(0.0, f64::max)
}

/// [`peak_of`] the backend of an instruction set; 0 where this build has no kernels for it or the CPU lacks it.
pub fn peak(isa: Isa) -> f64 {
    if !isa.available() {
        return 0.0;
    }
    crate::with_backend!(isa, B => peak_of::<B>(), else 0.0)
}
