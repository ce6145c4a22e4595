//! One step of a recurrent cell: the product with the state and the gates, a tile of hidden units at a time.
//!
//! Weights and pre-activations are interleaved by panels, `[ceil(hidden / 16)][gate][16]`, so a tile sums all gates of its
//! units in registers, and they go from there straight into the new state. No row of gates is ever stored: with a product
//! over the whole row first, that row was most of a small cell's arena.
#![allow(unsafe_code)]

use super::simd::{load, store};
use super::{Dst, F32s, Kernel, Src, math, portable::Lanes};
use crate::program::{PANEL, Unary};

const WIDTH: usize = PANEL as usize;

/// An activation function with its parameters.
pub type Activation = (Unary, [f32; 2]);

/// The usual functions in vectors, others number by number.
#[inline(always)]
fn activate<V: F32s>((f, p): Activation, x: V) -> V {
    match f {
        Unary::Sigmoid => math::sigmoid(x),
        Unary::Tanh => math::tanh(x),
        _ => math::lanes(x, |v| number(f, p, v)),
    }
}

#[inline(never)]
fn number(f: Unary, p: [f32; 2], x: f32) -> f32 {
    math::unary(f, p, Lanes::<1>::splat(x)).reduce_add()
}

#[inline(always)]
fn clip<V: F32s>(x: V, limit: f32) -> V {
    if limit > 0.0 { math::clamp(x, -limit, limit) } else { x }
}

/// Products of the state with the columns of a tile: G gates of W vectors of units, the depth split into D sums so that
/// as many are in flight as the FMA latency needs.
///
/// # Safety
/// `state` is valid for `depth` elements; `r`, the tile's first unit in the panel of its first gate, for G panels of
/// `panel` elements.
#[inline(always)]
unsafe fn sums<V: F32s, const G: usize, const W: usize, const D: usize>(
    state: *const f32,
    depth: usize,
    r: *const f32,
    panel: usize,
) -> [[V; W]; G] {
    let mut acc = [[[V::splat(0.0); W]; G]; D];
    let step = |part: &mut [[V; W]; G], k: usize| {
        // SAFETY: `k` is below the depth; a tile's vectors lie within a panel.
        unsafe {
            let x = V::splat(state.add(k).read());
            for (g, gate) in part.iter_mut().enumerate() {
                for (w, sum) in gate.iter_mut().enumerate() {
                    *sum = x.mul_add(V::load(r.add(g * panel + k * WIDTH + w * V::LANES)), *sum);
                }
            }
        }
    };
    let mut k = 0;
    if D > 1 {
        while k + D <= depth {
            for part in &mut acc {
                step(part, k);
                k += 1;
            }
        }
    }
    while k < depth {
        step(&mut acc[0], k);
        k += 1;
    }
    let mut sum = acc[0];
    for part in &acc[1..] {
        for (sums, parts) in sum.iter_mut().zip(part) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = sum.add(*part);
            }
        }
    }
    sum
}

/// As [`sums`]. One lane at a time there are no registers for a tile of more than one gate that is wide enough: gate by gate,
/// a whole panel's row of weights lies side by side (215,158 instead of 256,340 instructions for a word of `text-lstm` on a Cortex-M4).
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn gates<V: F32s, const G: usize, const W: usize, const D: usize>(
    state: *const f32,
    depth: usize,
    r: *const f32,
    panel: usize,
) -> [[V; W]; G] {
    // SAFETY: as promised.
    unsafe {
        if V::LANES == 1 {
            core::array::from_fn(|gate| sums::<V, 1, W, D>(state, depth, r.add(gate * panel), panel)[0])
        } else {
            sums::<V, G, W, D>(state, depth, r, panel)
        }
    }
}

/// One step of one LSTM row.
pub struct LstmStep<'m> {
    /// Pre-activations `[panel][i, o, f, c][16]`.
    pub pre: Src<'m, f32>,
    /// Recurrent weights, packed.
    pub r: Src<'m, f32>,
    /// The hidden state before the step; `None`: zeros.
    pub old: Option<Src<'m, f32>>,
    /// `[3][hidden]`, in the order i, o, f.
    pub peepholes: Option<Src<'m, f32>>,
    /// Functions of the gates, the cell's input and its output.
    pub activations: [Activation; 3],
    /// Limit of pre-activations; 0: none.
    pub clip: f32,
    /// The forget gate is 1 - input gate.
    pub coupled: bool,
    /// Cell state, read and written.
    pub c: Dst<'m, f32>,
    /// The new hidden state; it must not share memory with the old one.
    pub h: Dst<'m, f32>,
}

impl Kernel for LstmStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        match V::LANES {
            1 => self.all::<V, 16, 1>(),
            4 => self.all::<V, 4, 1>(),
            8 => self.all::<V, 2, 1>(),
            _ => self.all::<V, 1, 2>(),
        }
    }
}

impl LstmStep<'_> {
    #[inline(always)]
    fn all<V: F32s, const W: usize, const D: usize>(self) {
        let hidden = self.c.len();
        let padded = hidden.div_ceil(WIDTH) * WIDTH * 4;
        assert!(self.h.len() == hidden && self.pre.len() >= padded && self.r.len() >= padded * hidden);
        assert!(self.old.is_none_or(|h| h.len() == hidden) && self.peepholes.is_none_or(|p| p.len() >= 3 * hidden));
        let (state, depth) = self.old.map_or((core::ptr::null(), 0), |h| (h.pointer(), hidden));
        let [f, g, out] = self.activations;
        let panel = WIDTH * hidden;
        for first in (0..hidden).step_by(W * V::LANES) {
            // SAFETY: a tile's first unit is below `hidden`; pre-activations and weights are padded to whole panels, which
            // tiles divide; states are loaded and stored up to `hidden`.
            unsafe {
                let (block, lane) = (first / WIDTH * 4, first % WIDTH);
                let sums = gates::<V, 4, W, D>(state, depth, self.r.pointer().add(block * panel + lane), panel);
                for w in 0..W {
                    let u = first + w * V::LANES;
                    if u >= hidden {
                        break;
                    }
                    let (products, n) = (sums.map(|gate| gate[w]), (hidden - u).min(V::LANES));
                    let pre = self.pre.pointer().add(block * WIDTH + lane + w * V::LANES);
                    let gate = |gate: usize| products[gate].add(V::load(pre.add(gate * WIDTH)));
                    let peep = |gate: usize, x: V, c: V| match self.peepholes {
                        Some(p) => load::<V>(p.pointer().add(gate * hidden + u), n).mul_add(c, x),
                        None => x,
                    };
                    let old = load::<V>(self.c.pointer().add(u), n);
                    let i = activate(f, clip(peep(0, gate(0), old), self.clip));
                    let forget =
                        if self.coupled { V::splat(1.0).sub(i) } else { activate(f, clip(peep(2, gate(2), old), self.clip)) };
                    let c = forget.mul(old).add(i.mul(activate(g, clip(gate(3), self.clip))));
                    let o = activate(f, clip(peep(1, gate(1), c), self.clip));
                    store(c, self.c.pointer().add(u), n);
                    store(o.mul(activate(out, c)), self.h.pointer().add(u), n);
                }
            }
        }
    }
}

/// One step of one GRU row.
pub struct GruStep<'m> {
    /// Pre-activations `[panel][z, r, h][16]`.
    pub pre: Src<'m, f32>,
    /// Recurrent weights, packed.
    pub r: Src<'m, f32>,
    /// The hidden state before the step; `None`: zeros.
    pub old: Option<Src<'m, f32>>,
    /// Recurrent bias of the hidden gate, inside the reset gate.
    pub bias: Option<Src<'m, f32>>,
    /// Functions of the gates and of the hidden state.
    pub activations: [Activation; 2],
    /// Limit of pre-activations; 0: none.
    pub clip: f32,
    /// Room for the reset state where the reset gate applies before the product; `None`: it applies after it.
    pub reset: Option<Dst<'m, f32>>,
    /// The new hidden state; it must not share memory with the old one.
    pub h: Dst<'m, f32>,
}

impl Kernel for GruStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let hidden = self.h.len();
        let padded = hidden.div_ceil(WIDTH) * WIDTH * 3;
        assert!(self.pre.len() >= padded && self.r.len() >= padded * hidden);
        assert!(self.old.is_none_or(|h| h.len() == hidden) && self.bias.is_none_or(|b| b.len() >= hidden));
        assert!(self.reset.is_none_or(|r| r.len() == hidden));
        match V::LANES {
            1 => self.all::<V, 16, 1, 1>(),
            4 => self.all::<V, 4, 1, 1>(),
            8 => self.all::<V, 2, 2, 4>(),
            _ => self.all::<V, 1, 4, 8>(),
        }
    }
}

impl GruStep<'_> {
    /// D sums for each column where a tile has two or three gates, E where it has one.
    ///
    /// What becomes of the products are methods: a closure can't be told to be inlined, and in a function of its own each
    /// vector operation would be a call (3.0 instead of 0.7 us for 64 units, where the compiler chose so).
    #[inline(always)]
    fn all<V: F32s, const W: usize, const D: usize, const E: usize>(&self) {
        let old = self.old.map(|h| h.pointer());
        let tiles = || (0..self.h.len()).step_by(W * V::LANES);
        match self.reset {
            None => {
                for first in tiles() {
                    let sums = self.products::<V, 3, W, D>(0, old, first);
                    for w in 0..W {
                        let (u, n) = self.units::<V>(first, w);
                        if n == 0 {
                            break;
                        }
                        // SAFETY: units u..u + n are below `hidden`, which the operands hold.
                        unsafe { self.new_state(sums.map(|gate| gate[w]), u, n) };
                    }
                }
            }
            Some(reset) => {
                for first in tiles() {
                    let sums = self.products::<V, 2, W, D>(0, old, first);
                    for w in 0..W {
                        let (u, n) = self.units::<V>(first, w);
                        if n == 0 {
                            break;
                        }
                        // SAFETY: as above.
                        unsafe { self.reset_state(reset, sums.map(|gate| gate[w]), u, n) };
                    }
                }
                for first in tiles() {
                    let [sums] = self.products::<V, 1, W, E>(2, old.map(|_| reset.src().pointer()), first);
                    for (w, &h) in sums.iter().enumerate() {
                        let (u, n) = self.units::<V>(first, w);
                        if n == 0 {
                            break;
                        }
                        // SAFETY: as above.
                        unsafe { self.new_state_of_reset(h, u, n) };
                    }
                }
            }
        }
    }

    /// The first unit of a tile's vector `w`, and how many it has.
    #[inline(always)]
    fn units<V: F32s>(&self, first: usize, w: usize) -> (usize, usize) {
        let unit = first + w * V::LANES;
        (unit, self.h.len().saturating_sub(unit).min(V::LANES))
    }

    /// The products of `state` with G gates from `gate` on, for the tile from unit `first` on.
    #[inline(always)]
    fn products<V: F32s, const G: usize, const W: usize, const D: usize>(
        &self,
        gate: usize,
        state: Option<*const f32>,
        first: usize,
    ) -> [[V; W]; G] {
        let hidden = self.h.len();
        let (state, depth) = state.map_or((core::ptr::null(), 0), |h| (h, hidden));
        let panel = WIDTH * hidden;
        // SAFETY: a tile's first unit is below `hidden`, and weights are padded to whole panels, which tiles divide.
        unsafe {
            let at = (first / WIDTH * 3 + gate) * panel + first % WIDTH;
            gates::<V, G, W, D>(state, depth, self.r.pointer().add(at), panel)
        }
    }

    /// The new state of units `u..u + n`, from all gates' products with the old one.
    ///
    /// # Safety
    /// The units are below `hidden`.
    #[inline(always)]
    unsafe fn new_state<V: F32s>(&self, [z, r, h]: [V; 3], u: usize, n: usize) {
        let [f, g] = self.activations;
        // SAFETY: as promised.
        unsafe {
            let z = activate(f, clip(z.add(self.pre::<V>(0, u)), self.clip));
            let r = activate(f, clip(r.add(self.pre::<V>(1, u)), self.clip));
            let linear = self.bias.map_or(h, |b| h.add(load::<V>(b.pointer().add(u), n)));
            self.update(z, activate(g, clip(r.mul_add(linear, self.pre::<V>(2, u)), self.clip)), u, n);
        }
    }

    /// The state of units `u..u + n` behind the reset gate; gate z waits in the new state's place.
    ///
    /// # Safety
    /// As [`new_state`](Self::new_state).
    #[inline(always)]
    unsafe fn reset_state<V: F32s>(&self, reset: Dst<'_, f32>, [z, r]: [V; 2], u: usize, n: usize) {
        let [f, _] = self.activations;
        // SAFETY: as promised.
        unsafe {
            store(activate(f, clip(z.add(self.pre::<V>(0, u)), self.clip)), self.h.pointer().add(u), n);
            let r = activate(f, clip(r.add(self.pre::<V>(1, u)), self.clip));
            store(r.mul(self.old_at::<V>(u, n)), reset.pointer().add(u), n);
        }
    }

    /// The new state of units `u..u + n`, from the last gate's products with the state behind the reset gate.
    ///
    /// # Safety
    /// As [`new_state`](Self::new_state).
    #[inline(always)]
    unsafe fn new_state_of_reset<V: F32s>(&self, h: V, u: usize, n: usize) {
        let [_, g] = self.activations;
        // SAFETY: as promised.
        unsafe {
            let z = load::<V>(self.h.pointer().add(u), n);
            self.update(z, activate(g, clip(h.add(self.pre::<V>(2, u)), self.clip)), u, n);
        }
    }

    /// # Safety
    /// `u` is a unit.
    #[inline(always)]
    unsafe fn pre<V: F32s>(&self, gate: usize, u: usize) -> V {
        // SAFETY: pre-activations are padded to whole panels, which vectors divide.
        unsafe { V::load(self.pre.pointer().add((u / WIDTH * 3 + gate) * WIDTH + u % WIDTH)) }
    }

    /// # Safety
    /// Units `u..u + n` are below `hidden`.
    #[inline(always)]
    unsafe fn old_at<V: F32s>(&self, u: usize, n: usize) -> V {
        // SAFETY: as promised.
        self.old.map_or(V::splat(0.0), |h| unsafe { load(h.pointer().add(u), n) })
    }

    /// `h = (1 - z) * new + z * old`.
    ///
    /// # Safety
    /// As [`old_at`](Self::old_at).
    #[inline(always)]
    unsafe fn update<V: F32s>(&self, z: V, new: V, u: usize, n: usize) {
        // SAFETY: as promised.
        unsafe {
            let kept = z.mul(self.old_at(u, n));
            store(V::splat(1.0).sub(z).mul(new).add(kept), self.h.pointer().add(u), n);
        }
    }
}
