//! Windows over three axes, in terms of windows over two.
//!
//! A pool is the pool over height and width of each slice, and then one along the depth: maxima and means of boxes are
//! maxima and means of maxima and means (the numbers of elements that count are products, too). A convolution takes the
//! slices that one step of its window sees as channels of one map: the kernel's depth moves into the depth of the product,
//! and the output's depth into the batch.

use super::constant::Constant;
use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId, Window};
use crate::tensor::DType;

/// Rewrites all nodes that have windows over three axes.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        let nodes = match &node.op {
            Op::MaxPool { window } | Op::AveragePool { window, .. } if window.kernel.len() == 3 => pool(net, &node, window),
            Op::Conv { window, groups } if window.kernel.len() == 3 => conv(net, &node, window, *groups),
            Op::ConvTranspose { window, groups, .. } if window.kernel.len() == 3 => transposed(net, &node, window, *groups),
            _ => None,
        };
        match nodes {
            Some(nodes) => {
                // What was written may itself have three axes: it is looked at again.
                net.graph.nodes.splice(i..i + 1, nodes);
                net.index();
            }
            None => i += 1,
        }
    }
    net.tidy();
}

/// Nodes that are written one after the other, in the name of another.
pub(super) struct Chain<'n> {
    pub net: &'n mut Net,
    like: &'n Node,
    nodes: Vec<Node>,
}

impl<'n> Chain<'n> {
    pub fn new(net: &'n mut Net, like: &'n Node) -> Chain<'n> {
        Chain { net, like, nodes: vec![] }
    }

    pub fn add(&mut self, op: Op, inputs: &[ValueId], dims: &[usize]) -> ValueId {
        let (name, dtype) = (self.like.name.clone(), self.net.dtype(inputs[0]));
        let out = self.net.value(name, dtype, dims);
        self.nodes.push(made(self.like, op, inputs, out));
        out
    }

    /// A node that yields a value which is there already.
    pub fn push(&mut self, op: Op, inputs: &[ValueId], out: ValueId) {
        self.nodes.push(made(self.like, op, inputs, out));
    }

    /// All nodes.
    pub fn nodes(self) -> Vec<Node> {
        self.nodes
    }

    pub fn reshape(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        self.add(Op::Reshape, &[x], dims)
    }

    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        let dims: Vec<usize> = perm.iter().map(|&a| self.net.dims(x)[a]).collect();
        self.add(Op::Transpose(perm.to_vec()), &[x], &dims)
    }

    pub fn pad(&mut self, x: ValueId, axis: usize, before: usize, after: usize) -> ValueId {
        if before + after == 0 {
            return x;
        }
        let mut dims = self.net.dims(x).to_vec();
        dims[axis] += before + after;
        let mut start = vec![0; dims.len()];
        start[axis] = before;
        let value = vec![0; self.net.dtype(x).size()];
        self.add(Op::Pad { before: start, value }, &[x], &dims)
    }

    /// The map over which a transposed convolution is an ordinary one, with zeros between the elements of `x`, and that
    /// one's window.
    pub fn spread(&mut self, x: ValueId, window: &Window, sizes: &[usize]) -> Option<(ValueId, Window)> {
        let (mut wide, mut dims) = (x, self.net.dims(x).to_vec());
        let axes = window.kernel.len();
        let mut plain = Window { strides: vec![1; axes], ..window.clone() };
        for i in 0..axes {
            let (a, stride) = (i + 2, window.strides[i]);
            if stride > 1 {
                let mut apart = dims.clone();
                apart.insert(a + 1, 1);
                let column = self.reshape(wide, &apart);
                let spread = self.pad(column, a + 1, 0, stride - 1);
                dims[a] *= stride;
                let joined = self.reshape(spread, &dims);
                dims[a] -= stride - 1;
                wide = self.add(Op::Slice { axis: a, start: 0, step: 1 }, &[joined], &dims);
            }
            let reach = window.dilations[i] * (window.kernel[i] - 1);
            plain.before[i] = reach.checked_sub(window.before[i])?;
            plain.after[i] = (sizes[a] + reach).checked_sub(dims[a] + plain.before[i])?;
        }
        Some((wide, plain))
    }

    /// The nodes, the last of which yields the output of the node that they replace.
    pub fn end(mut self, out: ValueId) -> Option<Vec<Node>> {
        self.nodes.last_mut()?.outputs = vec![Some(out)];
        Some(self.nodes)
    }
}

/// One axis of a window.
fn axis(w: &Window, i: usize) -> Window {
    let one = |v: &[usize], other: usize| vec![v[i], other];
    Window {
        kernel: one(&w.kernel, 1),
        strides: one(&w.strides, 1),
        dilations: one(&w.dilations, 1),
        before: one(&w.before, 0),
        after: one(&w.after, 0),
    }
}

/// All axes of a window but the first.
fn inner(w: &Window) -> Window {
    Window {
        kernel: w.kernel[1..].to_vec(),
        strides: w.strides[1..].to_vec(),
        dilations: w.dilations[1..].to_vec(),
        before: w.before[1..].to_vec(),
        after: w.after[1..].to_vec(),
    }
}

fn pool(net: &mut Net, node: &Node, window: &Window) -> Option<Vec<Node>> {
    let (x, out) = (node.inputs[0]?, node.outputs[0]?);
    if net.dtype(x) != DType::F32 {
        return None;
    }
    let [n, c, d, h, w] = net.dims(x)[..] else { return None };
    let [_, _, od, oh, ow] = net.dims(out)[..] else { return None };
    let op = |window: Window| match node.op {
        Op::MaxPool { .. } => Op::MaxPool { window },
        _ => Op::AveragePool { window, count_include_pad: matches!(node.op, Op::AveragePool { count_include_pad: true, .. }) },
    };
    let mut chain = Chain::new(net, node);
    // Channels and slices are walked alike: each slice of a channel is a channel of its own.
    let slices = chain.reshape(x, &[n, c * d, h, w]);
    let pooled = chain.add(op(inner(window)), &[slices], &[n, c * d, oh, ow]);
    let columns = chain.reshape(pooled, &[n, c, d, oh * ow]);
    let deep = chain.add(op(axis(window, 0)), &[columns], &[n, c, od, oh * ow]);
    chain.reshape(deep, &[n, c, od, oh, ow]);
    chain.end(out)
}

fn conv(net: &mut Net, node: &Node, window: &Window, groups: usize) -> Option<Vec<Node>> {
    let (x, weight, out) = (node.inputs[0]?, node.inputs[1]?, node.outputs[0]?);
    let [n, c, d, h, w] = net.dims(x)[..] else { return None };
    let [_, o, od, oh, ow] = net.dims(out)[..] else { return None };
    let [_, per, kd, kh, kw] = net.dims(weight)[..] else { return None };
    if net.dtype(x) != DType::F32 || net.constant(weight).is_none() {
        return None;
    }
    let (stride, dilation) = (window.strides[0], window.dilations[0]);
    let mut chain = Chain::new(net, node);
    let padded = chain.pad(x, 2, window.before[0], window.after[0]);
    // [n, group, 1, channel of it, depth, h, w] per step of the window.
    let depth = d + window.before[0] + window.after[0];
    let split = chain.reshape(padded, &[n, groups, 1, per, depth, h, w]);
    let steps: Vec<ValueId> = (0..kd)
        .map(|k| {
            let op = Op::Slice { axis: 4, start: k * dilation, step: stride as isize };
            chain.add(op, &[split], &[n, groups, 1, per, od, h, w])
        })
        .collect();
    let stacked = match steps[..] {
        [one] => one,
        _ => chain.add(Op::Concat { axis: 2 }, &steps, &[n, groups, kd, per, od, h, w]),
    };
    let moved = chain.transpose(stacked, &[0, 4, 1, 2, 3, 5, 6]);
    let map = chain.reshape(moved, &[n * od, kd * c, h, w]);
    let turned = chain.transpose(weight, &[0, 2, 1, 3, 4]);
    let weights = chain.reshape(turned, &[o, kd * per, kh, kw]);
    let mut inputs = vec![map, weights];
    inputs.extend(node.inputs.get(2).copied().flatten());
    let made = chain.add(Op::Conv { window: inner(window), groups }, &inputs, &[n * od, o, oh, ow]);
    let apart = chain.reshape(made, &[n, od, o, oh, ow]);
    chain.transpose(apart, &[0, 2, 1, 3, 4]);
    chain.end(out)
}

/// A transposed convolution as an ordinary one: zeros between the elements of its input, and the kernel turned around.
fn transposed(net: &mut Net, node: &Node, window: &Window, groups: usize) -> Option<Vec<Node>> {
    let (x, weight, out) = (node.inputs[0]?, node.inputs[1]?, node.outputs[0]?);
    let dims = net.dims(x).to_vec();
    let weight_dims = net.dims(weight).to_vec();
    let sizes = net.dims(out).to_vec();
    let constant = net.constant(weight)?.f32s();
    if net.dtype(weight) != DType::F32 || dims.len() != 5 {
        return None;
    }
    let (c, per) = (weight_dims[0], weight_dims[1]);
    let taps: usize = weight_dims[2..].iter().product();
    // [C, O / groups, kernel] to [O, C / groups, kernel turned around].
    let mut turned = Vec::with_capacity(constant.len());
    for o in 0..per * groups {
        for i in 0..c / groups {
            let (group, column) = (o / per, o % per);
            let start = ((group * (c / groups) + i) * per + column) * taps;
            turned.extend(constant[start..start + taps].iter().rev());
        }
    }
    let mut shape = vec![per * groups, c / groups];
    shape.extend(&weight_dims[2..]);
    let name = net.name(weight).to_string();
    let turned_weight = net.value(name, DType::F32, &shape);
    net.set_constant(turned_weight, Constant::of_f32(&turned, &shape));
    let mut chain = Chain::new(net, node);
    let (wide, plain) = chain.spread(x, window, &sizes)?;
    let mut inputs = vec![wide, turned_weight];
    inputs.extend(node.inputs.get(2).copied().flatten());
    chain.add(Op::Conv { window: plain, groups }, &inputs, &sizes);
    chain.end(out)
}
