//! Gates of recurrent cells, after the product: rows of `[ceil(hidden / 16)][gate][16]`.
#![allow(unsafe_code)]

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

/// # Safety
/// `p` is valid for `n` elements, at most a vector's.
#[inline(always)]
unsafe fn load<V: F32s>(p: *const f32, n: usize) -> V {
    // SAFETY: as promised.
    unsafe { if n == V::LANES { V::load(p) } else { V::load_first(p, n) } }
}
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn store<V: F32s>(v: V, p: *mut f32, n: usize) {
    // SAFETY: as promised.
    unsafe { if n == V::LANES { v.store(p) } else { v.store_first(p, n) } }
}

/// One step of one LSTM row: from pre-activations, the recurrent product added, to the new state.
pub struct LstmGates<'m> {
    /// `[panel][i, o, f, c][16]`.
    pub gates: Src<'m, f32>,
    /// `[3][hidden]`, in the order i, o, f.
    pub peepholes: Option<Src<'m, f32>>,
    /// Functions of the gates, the cell's input and its output.
    pub activations: [Activation; 3],
    /// Limit of pre-activations; 0: none.
    pub clip: f32,
    /// The forget gate is 1 - input gate.
    pub coupled: bool,
    /// State, read and written.
    pub c: Dst<'m, f32>,
    /// The new hidden state.
    pub h: Dst<'m, f32>,
}

impl Kernel for LstmGates<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let hidden = self.c.len();
        assert!(self.h.len() == hidden && self.gates.len() >= hidden.div_ceil(WIDTH) * WIDTH * 4);
        assert!(self.peepholes.is_none_or(|p| p.len() >= 3 * hidden));
        let [f, g, out] = self.activations;
        let mut u = 0;
        while u < hidden {
            let n = (hidden - u).min(V::LANES);
            // SAFETY: units u..u + n are below `hidden`; gates are padded to whole panels, which vectors divide.
            unsafe {
                let gates = self.gates.pointer().add(u / WIDTH * 4 * WIDTH + u % WIDTH);
                let peep = |gate: usize, x: V, c: V| match self.peepholes {
                    Some(p) => load::<V>(p.pointer().add(gate * hidden + u), n).mul_add(c, x),
                    None => x,
                };
                let old = load::<V>(self.c.pointer().add(u), n);
                let i = activate(f, clip(peep(0, V::load(gates), old), self.clip));
                let forget = if self.coupled {
                    V::splat(1.0).sub(i)
                } else {
                    activate(f, clip(peep(2, V::load(gates.add(2 * WIDTH)), old), self.clip))
                };
                let cell = activate(g, clip(V::load(gates.add(3 * WIDTH)), self.clip));
                let c = forget.mul(old).add(i.mul(cell));
                let o = activate(f, clip(peep(1, V::load(gates.add(WIDTH)), c), self.clip));
                store(c, self.c.pointer().add(u), n);
                store(o.mul(activate(out, c)), self.h.pointer().add(u), n);
            }
            u += n;
        }
    }
}

/// One step of one GRU row, in one or two parts.
pub struct GruGates<'m> {
    /// Pre-activations `[panel][z, r, h][16]`.
    pub pre: Src<'m, f32>,
    /// The recurrent product of z and r, and of h, each `[panel][z, r, h][16]`. Gate z is replaced by its activation.
    pub product: Dst<'m, f32>,
    /// Recurrent bias of the hidden gate.
    pub bias: Option<Src<'m, f32>>,
    /// Functions of the gates and of the hidden state.
    pub activations: [Activation; 2],
    /// Limit of pre-activations; 0: none.
    pub clip: f32,
    /// What is done.
    pub part: GruPart,
    /// The hidden state: read, and written unless by [`GruPart::Reset`].
    pub h: Dst<'m, f32>,
    /// `r * h`, written by [`GruPart::Reset`].
    pub reset: Dst<'m, f32>,
}

/// Which part of a GRU's step is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum GruPart {
    /// All: the reset gate applies after the product.
    Whole,
    /// The gates, and `r * h`.
    Reset,
    /// The new state, from the product of `r * h`.
    Update,
}

impl Kernel for GruGates<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        let hidden = self.h.len();
        let padded = hidden.div_ceil(WIDTH) * WIDTH * 3;
        assert!(self.pre.len() >= padded && self.product.len() >= padded);
        assert!(self.part != GruPart::Reset || self.reset.len() >= hidden);
        assert!(self.bias.is_none_or(|b| b.len() >= hidden));
        let [f, g] = self.activations;
        let mut u = 0;
        while u < hidden {
            let n = (hidden - u).min(V::LANES);
            // SAFETY: units u..u + n are below `hidden`; gates are padded to whole panels, which vectors divide.
            unsafe {
                let at = u / WIDTH * 3 * WIDTH + u % WIDTH;
                let (pre, product) = (self.pre.pointer().add(at), self.product.pointer().add(at));
                let old = load::<V>(self.h.pointer().add(u), n);
                let gate = |i: usize| V::load(pre.add(i * WIDTH)).add(V::load(product.add(i * WIDTH)));
                let update = |z: V, x: V| {
                    let new = activate(g, clip(x, self.clip));
                    store(V::splat(1.0).sub(z).mul(new).add(z.mul(old)), self.h.pointer().add(u), n);
                };
                if self.part == GruPart::Update {
                    update(V::load(product), gate(2));
                } else {
                    let z = activate(f, clip(gate(0), self.clip));
                    let r = activate(f, clip(gate(1), self.clip));
                    if self.part == GruPart::Reset {
                        z.store(product);
                        store(r.mul(old), self.reset.pointer().add(u), n);
                    } else {
                        let linear = V::load(product.add(2 * WIDTH));
                        let linear = match self.bias {
                            Some(b) => linear.add(load::<V>(b.pointer().add(u), n)),
                            None => linear,
                        };
                        update(z, r.mul_add(linear, V::load(pre.add(2 * WIDTH))));
                    }
                }
            }
            u += n;
        }
    }
}
