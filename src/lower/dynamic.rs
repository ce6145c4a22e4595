//! Convolutions whose weights or bias are computed at run time: windows are copied side by side, and multiplied by the
//! weights as a matrix. A bias that is computed becomes a sum.

use super::net::Net;
use super::spatial::Chain;
use crate::graph::{Node, Op, ValueId, Window};
use crate::program::Binary;
use crate::tensor::DType;

/// Elements of a window, at the most: each is a copy of its own.
const TAPS: usize = 256;

/// Rewrites all convolutions that don't have constant weights and a constant bias.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        let constant = |v: Option<&Option<ValueId>>| v.copied().flatten().is_none_or(|v| net.constant(v).is_some());
        let fixed = [constant(node.inputs.get(1)), constant(node.inputs.get(2))];
        let nodes = match &node.op {
            Op::Conv { .. } | Op::ConvTranspose { .. } if fixed == [true, false] => add_bias(net, &node),
            Op::Conv { window, groups } if !fixed[0] => conv(net, &node, window, *groups),
            Op::ConvTranspose { window, groups, .. } if !fixed[0] => transposed(net, &node, window, *groups),
            _ => None,
        };
        match nodes {
            Some(nodes) => {
                net.graph.nodes.splice(i..i + 1, nodes);
                net.index();
            }
            None => i += 1,
        }
    }
    net.tidy();
}

/// The convolution without its bias, and a sum.
fn add_bias(net: &mut Net, node: &Node) -> Option<Vec<Node>> {
    let (bias, out) = (node.inputs.get(2).copied().flatten()?, node.outputs[0]?);
    let dims = net.dims(out).to_vec();
    let plain = net.value(node.name.clone(), net.dtype(out), &dims);
    let conv = Node { inputs: node.inputs[..2].to_vec(), outputs: vec![Some(plain)], recipe: None, ..node.clone() };
    let mut chain = Chain::new(net, node);
    let column = per_channel(&mut chain, bias, &dims);
    chain.add(Op::Binary(Binary::Add), &[plain, column], &dims);
    let mut nodes = chain.end(out)?;
    nodes.insert(0, conv);
    Some(nodes)
}

/// A bias in a shape that broadcasts over `[N, C, …]`.
fn per_channel(chain: &mut Chain<'_>, bias: ValueId, dims: &[usize]) -> ValueId {
    let mut shape = vec![1; dims.len() - 1];
    shape[0] = chain.net.dims(bias)[0];
    chain.reshape(bias, &shape)
}

fn conv(net: &mut Net, node: &Node, window: &Window, groups: usize) -> Option<Vec<Node>> {
    let (x, weight, out) = (node.inputs[0]?, node.inputs[1]?, node.outputs[0]?);
    let (dims, sizes) = (net.dims(x).to_vec(), net.dims(out).to_vec());
    let axes = window.kernel.len();
    let taps: usize = window.kernel.iter().product();
    if [x, weight, out].iter().any(|&v| net.dtype(v) != DType::F32) || taps > TAPS || dims.len() != axes + 2 || axes > 3 {
        return None;
    }
    let (n, c, o) = (dims[0], dims[1], sizes[1]);
    let (per, width) = (c / groups, o / groups);
    let pixels: usize = sizes[2..].iter().product();
    let mut chain = Chain::new(net, node);
    let mut map = x;
    for i in 0..axes {
        map = chain.pad(map, i + 2, window.before[i], window.after[i]);
    }
    let mut windows = vec![];
    for tap in 0..taps {
        let (mut rest, mut part) = (tap, map);
        for i in (0..axes).rev() {
            let start = rest % window.kernel[i] * window.dilations[i];
            rest /= window.kernel[i];
            let mut dims = chain.net.dims(part).to_vec();
            dims[i + 2] = sizes[i + 2];
            part = chain.add(Op::Slice { axis: i + 2, start, step: window.strides[i] as isize }, &[part], &dims);
        }
        windows.push(chain.reshape(part, &[n, groups, per, 1, pixels]));
    }
    let columns = match windows[..] {
        [one] => one,
        _ => chain.add(Op::Concat { axis: 3 }, &windows, &[n, groups, per, taps, pixels]),
    };
    let columns = chain.reshape(columns, &[n, groups, per * taps, pixels]);
    let matrix = chain.reshape(weight, &[groups, width, per * taps]);
    let letters = Op::EinSum { inputs: vec!["gok".into(), "ngkp".into()], output: "ngop".into() };
    let product = chain.add(letters, &[matrix, columns], &[n, groups, width, pixels]);
    let mut y = chain.reshape(product, &sizes);
    if let Some(bias) = node.inputs.get(2).copied().flatten() {
        let column = per_channel(&mut chain, bias, &sizes);
        y = chain.add(Op::Binary(Binary::Add), &[y, column], &sizes);
    }
    debug_assert_eq!(chain.net.dims(y), sizes);
    chain.end(out)
}

/// As an ordinary convolution over a map with zeros between its pixels, with the weights turned around.
fn transposed(net: &mut Net, node: &Node, window: &Window, groups: usize) -> Option<Vec<Node>> {
    let (x, weight, out) = (node.inputs[0]?, node.inputs[1]?, node.outputs[0]?);
    let (kernel, sizes) = (net.dims(weight).to_vec(), net.dims(out).to_vec());
    if [x, weight, out].iter().any(|&v| net.dtype(v) != DType::F32) || kernel.len() != window.kernel.len() + 2 {
        return None;
    }
    let (c, width) = (kernel[0], kernel[1]);
    let mut chain = Chain::new(net, node);
    let (wide, plain) = chain.spread(x, window, &sizes)?;
    let mut turned = weight;
    for (i, &k) in window.kernel.iter().enumerate() {
        if k > 1 {
            turned = chain.add(Op::Slice { axis: i + 2, start: k - 1, step: -1 }, &[turned], &kernel);
        }
    }
    let mut shape = vec![groups, c / groups, width];
    shape.extend(&window.kernel);
    let apart = chain.reshape(turned, &shape);
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    perm.swap(1, 2);
    let swapped = chain.transpose(apart, &perm);
    let mut shape = vec![groups * width, c / groups];
    shape.extend(&window.kernel);
    let weights = chain.reshape(swapped, &shape);
    let mut inputs = vec![wide, weights];
    inputs.extend(node.inputs.get(2).copied().flatten());
    chain.add(Op::Conv { window: plain, groups }, &inputs, &sizes);
    chain.end(out)
}
