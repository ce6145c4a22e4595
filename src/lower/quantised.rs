//! Quantisation and its reverse, where no kernel takes them in: as element-wise arithmetic in `f32`.
//!
//! The quotient is a true one, since the product with the reciprocal of the scale rounds otherwise at ties: so this runs
//! after the rewriting of divisions. Blocked scales are left to the host.
//!
//! Before that, [`ports`] reads off what the integers of inputs and outputs stand for.

use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId};
use crate::program::{Binary, Unary};
use crate::tensor::{DType, Quantisation};

/// How the network's inputs, then its outputs, are quantised: an input all of whose readers dequantise it alike, an output that is
/// quantised last of all. One scale for the whole tensor, known before the run; between port and node, elements may move.
pub(super) fn ports(net: &Net) -> Vec<Option<Quantisation>> {
    let inputs = net.graph.inputs.iter().map(|&v| read_as(net, v));
    inputs.chain(net.graph.outputs.iter().map(|&v| made_as(net, v))).collect()
}

/// As what a value is read by all who read it.
fn read_as(net: &Net, v: ValueId) -> Option<Quantisation> {
    let reader = |&i: &usize| {
        let node = &net.graph.nodes[i];
        match node.op {
            Op::Dequantize { .. } if node.inputs[0] == Some(v) => constant(net, node, v),
            _ if moves(net, node) == Some(v) => read_as(net, node.outputs[0]?),
            _ => None,
        }
    };
    let mut all = net.readers(v).iter().map(reader);
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}

/// As what a value is made.
fn made_as(net: &Net, v: ValueId) -> Option<Quantisation> {
    let node = &net.graph.nodes[net.producer(v)?];
    match node.op {
        Op::Quantize { .. } => constant(net, node, v),
        _ => made_as(net, moves(net, node)?),
    }
}

/// The value whose elements a node moves, if it does no more.
fn moves(net: &Net, node: &Node) -> Option<ValueId> {
    let (x, y) = (node.inputs.first().copied()??, node.outputs.first().copied()??);
    let moves = matches!(node.op, Op::Reshape | Op::Transpose(_) | Op::Slice { .. } | Op::Broadcast | Op::Gather { .. });
    (moves && net.dtype(x) == net.dtype(y)).then_some(x)
}

/// The constants by which a node quantises or dequantises integers, if there is one of each.
fn constant(net: &Net, node: &Node, integers: ValueId) -> Option<Quantisation> {
    let [scale] = net.constant(node.inputs.get(1).copied()??)?.f32s()[..] else { return None };
    let zero_point = match node.inputs.get(2).copied().flatten().map(|zero| Some(net.constant(zero)?.i64s())) {
        None => 0,
        Some(zeros) => match zeros?[..] {
            [zero] => i32::try_from(zero).ok()?,
            _ => return None,
        },
    };
    let found = Quantisation { scale, zero_point };
    found.fits(net.dtype(integers)).then_some(found)
}

/// Rewrites all nodes that quantise or dequantise.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        i += written_out(net, i).unwrap_or(1);
    }
    net.tidy();
}

/// The integers of a type, as `f32`.
fn range(dtype: DType) -> Option<[f32; 2]> {
    dtype.quantised_range().map(|range| range.map(|end| end as f32))
}

/// Rewrites node `i`; gives how many nodes there are instead.
fn written_out(net: &mut Net, i: usize) -> Option<usize> {
    let node = net.graph.nodes[i].clone();
    let (quantise, axis) = match node.op {
        Op::Quantize { axis, block: 0 } => (true, axis),
        Op::Dequantize { axis, block: 0 } => (false, axis),
        _ => return None,
    };
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let (x, scale, out) = (input(0)?, input(1)?, node.outputs[0]?);
    let dims = net.dims(x).to_vec();
    let float = |d: DType| matches!(d, DType::F32 | DType::F16);
    let [from, to, of] = [x, out, scale].map(|v| net.dtype(v));
    let fits = if quantise { float(from) && range(to).is_some() } else { range(from).is_some() || from == DType::I32 };
    if !fits || !float(of) || !quantise && !float(to) {
        return None;
    }
    // One number, or one per index of the axis.
    let mut shape = vec![1; dims.len()];
    let count: usize = net.dims(scale).iter().product();
    if count != 1 {
        (*dims.get(axis)? == count).then(|| shape[axis] = count)?;
    }
    let mut nodes = vec![];
    let mut add = |net: &mut Net, op: Op, inputs: &[ValueId], dtype: DType, dims: &[usize]| {
        let v = net.value(node.name.clone(), dtype, dims);
        nodes.push(made(&node, op, inputs, v));
        v
    };
    let mut parameter = |net: &mut Net, v: ValueId| {
        let own = net.dims(v).to_vec();
        let wide = add(net, Op::Cast, &[v], DType::F32, &own);
        add(net, Op::Reshape, &[wide], DType::F32, &shape)
    };
    let factor = parameter(net, scale);
    let zero = match input(2) {
        Some(zero) if net.dims(zero).iter().product::<usize>() == count => Some(parameter(net, zero)),
        Some(_) => return None,
        None => None,
    };
    let mut y = add(net, Op::Cast, &[x], DType::F32, &dims);
    if quantise {
        y = add(net, Op::Binary(Binary::Div), &[y, factor], DType::F32, &dims);
        y = add(net, Op::Unary(Unary::Round, [0.0; 2]), &[y], DType::F32, &dims);
        if let Some(zero) = zero {
            y = add(net, Op::Binary(Binary::Add), &[y, zero], DType::F32, &dims);
        }
        y = add(net, Op::Unary(Unary::Clip, range(to)?), &[y], DType::F32, &dims);
    } else {
        if let Some(zero) = zero {
            y = add(net, Op::Binary(Binary::Sub), &[y, zero], DType::F32, &dims);
        }
        y = add(net, Op::Binary(Binary::Mul), &[y, factor], DType::F32, &dims);
    }
    add(net, Op::Cast, &[y], to, &dims);
    nodes.last_mut()?.outputs = vec![Some(out)];
    let count = nodes.len();
    net.graph.nodes.splice(i..i + 1, nodes);
    net.index();
    Some(count)
}
