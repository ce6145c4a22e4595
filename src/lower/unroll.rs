//! Recurrent cells written out step by step: those that no kernel computes. These are plain RNN cells, cells whose weights
//! are computed at run time, and sequences whose lengths are.
//!
//! A sequence that has ended keeps its state and yields zeros. A direction that runs backwards starts at the last step of
//! the longest sequence; the others join in at theirs.

use super::net::Net;
use super::spatial::Chain;
use crate::graph::{Activation, Node, Op, Recurrent, ValueId};
use crate::program::{Binary, Unary};
use crate::tensor::DType;

/// Steps at the most: each is some ten ops of the program.
const STEPS: usize = 256;

/// Rewrites all cells that have no kernel.
pub(super) fn run(net: &mut Net) {
    if net.streamed {
        return;
    }
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        let cell = match &node.op {
            Op::Lstm(r) => Some((r, Kind::Lstm)),
            Op::Gru(r) => Some((r, Kind::Gru)),
            Op::Rnn(r) => Some((r, Kind::Rnn)),
            _ => None,
        };
        if let Some((r, kind)) = cell
            && needed(net, &node, r, kind)
            && let Some(nodes) = unrolled(net, &node, r, kind)
        {
            i += nodes.len();
            let start = i - nodes.len();
            net.graph.nodes.splice(start..start + 1, nodes);
            net.index();
            continue;
        }
        i += 1;
    }
    net.tidy();
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Lstm,
    Gru,
    Rnn,
}

/// Whether there is no kernel for a cell.
fn needed(net: &Net, node: &Node, r: &Recurrent, kind: Kind) -> bool {
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let computed = [1, 2, 3, 7].iter().filter_map(|&slot| input(slot)).any(|v| net.constant(v).is_none());
    let steps = |x: ValueId| net.dims(x).get(r.batch_first as usize).copied().unwrap_or(0) as i64;
    let whole = |v: ValueId| {
        let steps = input(0).map_or(0, steps);
        net.constant(v).is_some_and(|c| c.i64s().iter().all(|&n| n == steps))
    };
    kind == Kind::Rnn || computed || input(4).is_some_and(|v| !whole(v))
}

/// The chain with what a cell's steps do again and again.
struct Steps<'n> {
    chain: Chain<'n>,
    clip: Option<f32>,
}

impl Steps<'_> {
    fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> ValueId {
        let dims = self.chain.net.dims(a).to_vec();
        self.chain.add(Op::Binary(f), &[a, b], &dims)
    }

    /// A part of an axis.
    fn part(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> ValueId {
        let mut dims = self.chain.net.dims(x).to_vec();
        dims[axis] = len;
        self.chain.add(Op::Slice { axis, start, step: 1 }, &[x], &dims)
    }

    fn product(&mut self, a: ValueId, b: ValueId, letters: [&str; 3], dims: &[usize]) -> ValueId {
        let op = Op::EinSum { inputs: vec![letters[0].into(), letters[1].into()], output: letters[2].into() };
        self.chain.add(op, &[a, b], dims)
    }

    fn activation(&mut self, (f, p): Activation, x: ValueId) -> ValueId {
        let dims = self.chain.net.dims(x).to_vec();
        let x = match self.clip {
            Some(c) => self.chain.add(Op::Unary(Unary::Clip, [-c, c]), &[x], &dims),
            None => x,
        };
        self.chain.add(Op::Unary(f, p), &[x], &dims)
    }

    /// Without clipping.
    fn unary(&mut self, f: Unary, p: [f32; 2], x: ValueId) -> ValueId {
        let dims = self.chain.net.dims(x).to_vec();
        self.chain.add(Op::Unary(f, p), &[x], &dims)
    }

    fn select(&mut self, mask: ValueId, a: ValueId, b: ValueId) -> ValueId {
        let dims = self.chain.net.dims(a).to_vec();
        let out = self.chain.net.value(self.chain.net.name(a).to_string(), DType::F32, &dims);
        self.chain.push(Op::Select, &[mask, a, b], out);
        out
    }
}

fn unrolled(net: &mut Net, node: &Node, r: &Recurrent, kind: Kind) -> Option<Vec<Node>> {
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let (x, w, recurrence) = (input(0)?, input(1)?, input(2)?);
    if [x, w, recurrence].iter().any(|&v| net.dtype(v) != DType::F32) || net.dims(x).len() != 3 {
        return None;
    }
    let h = r.hidden;
    let gates = match kind {
        Kind::Lstm => 4,
        Kind::Gru => 3,
        Kind::Rnn => 1,
    };
    let zero = net.constant_f32("zero", &[0.0], &[1, 1]);
    let mut s = Steps { chain: Chain::new(net, node), clip: r.clip };
    let x = if r.batch_first { s.chain.transpose(x, &[1, 0, 2]) } else { x };
    let [steps, batch, features] = s.chain.net.dims(x)[..] else { return None };
    if steps > STEPS || steps == 0 {
        return None;
    }
    let masks = match input(4) {
        Some(lens) => masks(&mut s, lens, steps, batch)?,
        None => vec![],
    };
    let directions = r.directions.len();
    let (mut y, mut last_h, mut last_c) = (vec![], vec![], vec![]);
    for (d, &reverse) in r.directions.iter().enumerate() {
        // What is of this direction, without the axis of directions.
        let own = |s: &mut Steps<'_>, v: ValueId, axis: usize, dims: &[usize]| {
            let one = s.part(v, axis, d, 1);
            s.chain.reshape(one, dims)
        };
        let (w, rec) = (own(&mut s, w, 0, &[gates * h, features]), own(&mut s, recurrence, 0, &[gates * h, h]));
        let bias = input(3).map(|b| own(&mut s, b, 0, &[2, gates * h]));
        let peepholes = input(7).map(|p| own(&mut s, p, 0, &[3, h]));
        let state = |s: &mut Steps<'_>, slot: usize| match input(slot) {
            Some(v) => own(s, v, r.batch_first as usize, &[batch, h]),
            None => s.chain.add(Op::Broadcast, &[zero], &[batch, h]),
        };
        let mut hidden = state(&mut s, 5);
        let mut cell = if kind == Kind::Lstm { Some(state(&mut s, 6)) } else { None };
        let mut products = s.product(x, w, ["tbi", "gi", "tbg"], &[steps, batch, gates * h]);
        let mut inner = None;
        if let Some(bias) = bias {
            let (of_x, of_h) = (s.part(bias, 0, 0, 1), s.part(bias, 0, 1, 1));
            products = s.binary(Binary::Add, products, of_x);
            inner = Some(of_h);
        }
        let functions = &r.activations[d * r.activations.len() / directions..];
        let mut rows = vec![None; steps];
        let order: Vec<usize> = if reverse { (0..steps).rev().collect() } else { (0..steps).collect() };
        for t in order {
            let from_x = s.part(products, 0, t, 1);
            let from_x = s.chain.reshape(from_x, &[batch, gates * h]);
            let (new_h, new_c) = match kind {
                Kind::Rnn => (rnn(&mut s, from_x, hidden, rec, inner, functions), None),
                Kind::Gru => (gru(&mut s, from_x, hidden, rec, inner, functions, r), None),
                Kind::Lstm => {
                    let (new_h, new_c) = lstm(&mut s, from_x, (hidden, cell?), rec, inner, functions, (r, peepholes));
                    (new_h, Some(new_c))
                }
            };
            let row = match masks.get(t) {
                Some(&mask) => {
                    let row = s.select(mask, new_h, zero);
                    hidden = s.select(mask, new_h, hidden);
                    cell = new_c.zip(cell).map(|(new, old)| s.select(mask, new, old));
                    row
                }
                None => {
                    (hidden, cell) = (new_h, new_c);
                    new_h
                }
            };
            rows[t] = Some(s.chain.reshape(row, &[1, 1, batch, h]));
        }
        let rows: Vec<ValueId> = rows.into_iter().collect::<Option<_>>()?;
        y.push(joined(&mut s, rows, 0));
        last_h.push(s.chain.reshape(hidden, &[1, batch, h]));
        last_c.extend(cell.map(|c| s.chain.reshape(c, &[1, batch, h])));
    }
    for (slot, (parts, axis)) in [(y, 1), (last_h, 0), (last_c, 0)].into_iter().enumerate() {
        let Some(out) = node.outputs.get(slot).copied().flatten() else { continue };
        if parts.is_empty() {
            return None;
        }
        let all = joined(&mut s, parts, axis);
        let perm: &[usize] = match (r.batch_first, slot) {
            (false, 0) => &[0, 1, 2, 3],
            (false, _) => &[0, 1, 2],
            (true, 0) => &[2, 0, 1, 3],
            (true, _) => &[1, 0, 2],
        };
        s.chain.push(Op::Transpose(perm.to_vec()), &[all], out);
    }
    Some(s.chain.nodes())
}

/// Per step, which sequences have not ended: `[batch, 1]`.
fn masks(s: &mut Steps<'_>, lens: ValueId, steps: usize, batch: usize) -> Option<Vec<ValueId>> {
    if s.chain.net.dims(lens) != [batch] {
        return None;
    }
    let dtype = s.chain.net.dtype(lens);
    let column = s.chain.net.value("lengths", dtype, &[batch, 1]);
    s.chain.push(Op::Reshape, &[lens], column);
    let one = |t: usize| {
        let step = s.chain.net.value("step", dtype, &[1, 1]);
        s.chain.net.set_constant(step, super::constant::Constant::of_i64(&[t as i64], dtype, &[1, 1]));
        let mask = s.chain.net.value("mask", DType::Bool, &[batch, 1]);
        s.chain.push(Op::Binary(Binary::Less), &[step, column], mask);
        mask
    };
    Some((0..steps).map(one).collect())
}

fn joined(s: &mut Steps<'_>, parts: Vec<ValueId>, axis: usize) -> ValueId {
    if let [one] = parts[..] {
        return one;
    }
    let mut dims = s.chain.net.dims(parts[0]).to_vec();
    dims[axis] = parts.len();
    s.chain.add(Op::Concat { axis }, &parts, &dims)
}

/// `hidden * rec`, with the recurrent bias, and what comes from X.
fn gates_of(s: &mut Steps<'_>, from_x: ValueId, hidden: ValueId, rec: ValueId, inner: Option<ValueId>) -> ValueId {
    let dims = s.chain.net.dims(from_x).to_vec();
    let mut sum = s.product(hidden, rec, ["bh", "gh", "bg"], &dims);
    if let Some(inner) = inner {
        sum = s.binary(Binary::Add, sum, inner);
    }
    s.binary(Binary::Add, sum, from_x)
}

fn rnn(s: &mut Steps<'_>, x: ValueId, hidden: ValueId, rec: ValueId, inner: Option<ValueId>, f: &[Activation]) -> ValueId {
    let sum = gates_of(s, x, hidden, rec, inner);
    s.activation(f[0], sum)
}

fn gru(
    s: &mut Steps<'_>,
    x: ValueId,
    hidden: ValueId,
    rec: ValueId,
    inner: Option<ValueId>,
    f: &[Activation],
    r: &Recurrent,
) -> ValueId {
    let h = r.hidden;
    // Update and reset gate, then the candidate, whose recurrent part is reset.
    let (x_gates, x_new) = (s.part(x, 1, 0, 2 * h), s.part(x, 1, 2 * h, h));
    let (rec_gates, rec_new) = (s.part(rec, 0, 0, 2 * h), s.part(rec, 0, 2 * h, h));
    let (inner_gates, inner_new) = match inner {
        Some(b) => (Some(s.part(b, 1, 0, 2 * h)), Some(s.part(b, 1, 2 * h, h))),
        None => (None, None),
    };
    let sum = gates_of(s, x_gates, hidden, rec_gates, inner_gates);
    let (z, reset) = (s.part(sum, 1, 0, h), s.part(sum, 1, h, h));
    let (z, reset) = (s.activation(f[0], z), s.activation(f[0], reset));
    let dims = s.chain.net.dims(hidden).to_vec();
    let sum = if r.linear_before_reset {
        let mut own = s.product(hidden, rec_new, ["bh", "gh", "bg"], &dims);
        if let Some(b) = inner_new {
            own = s.binary(Binary::Add, own, b);
        }
        let own = s.binary(Binary::Mul, own, reset);
        s.binary(Binary::Add, own, x_new)
    } else {
        let kept = s.binary(Binary::Mul, hidden, reset);
        gates_of(s, x_new, kept, rec_new, inner_new)
    };
    let new = s.activation(f[1], sum);
    // (1 - z) * new + z * hidden
    let rest = s.unary(Unary::Affine, [-1.0, 1.0], z);
    let (new, old) = (s.binary(Binary::Mul, new, rest), s.binary(Binary::Mul, hidden, z));
    s.binary(Binary::Add, new, old)
}

fn lstm(
    s: &mut Steps<'_>,
    x: ValueId,
    (hidden, cell): (ValueId, ValueId),
    rec: ValueId,
    inner: Option<ValueId>,
    f: &[Activation],
    (r, peepholes): (&Recurrent, Option<ValueId>),
) -> (ValueId, ValueId) {
    let h = r.hidden;
    let sum = gates_of(s, x, hidden, rec, inner);
    // In ONNX's order: input, output, forget, cell; peepholes: input, output, forget.
    let gate = |s: &mut Steps<'_>, i: usize, state: ValueId| {
        let own = s.part(sum, 1, i * h, h);
        match peepholes.filter(|_| i < 3) {
            Some(p) => {
                let p = s.part(p, 0, i, 1);
                let seen = s.binary(Binary::Mul, state, p);
                s.binary(Binary::Add, own, seen)
            }
            None => own,
        }
    };
    let i = gate(s, 0, cell);
    let i = s.activation(f[0], i);
    let forget = if r.coupled {
        s.unary(Unary::Affine, [-1.0, 1.0], i)
    } else {
        let forget = gate(s, 2, cell);
        s.activation(f[0], forget)
    };
    let new = gate(s, 3, cell);
    let new = s.activation(f[1], new);
    let (kept, added) = (s.binary(Binary::Mul, cell, forget), s.binary(Binary::Mul, new, i));
    let new_cell = s.binary(Binary::Add, kept, added);
    let o = gate(s, 1, new_cell);
    let o = s.activation(f[0], o);
    // The state itself is not clipped.
    let shown = s.unary(f[2].0, f[2].1, new_cell);
    (s.binary(Binary::Mul, shown, o), new_cell)
}
