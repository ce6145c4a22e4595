//! Axes of one element that stand in the way.
//!
//! Exporters put axes of one element in and take them out between a product and what could run in its epilogue, or before
//! tensors are joined. Such a reshape is a view and costs nothing, but it separates what belongs together. So it moves
//! down: behind the element-wise node that reads a product, and behind the join of tensors that were all reshaped so.

use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId};

/// Rewrites the whole graph.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let nodes = behind(net, i).or_else(|| joined(net, i));
        if let Some(nodes) = nodes {
            // The last one is the reshape; a node that reads it may go before it, too.
            let n = nodes.len();
            net.graph.nodes.splice(i..i + 1, nodes);
            // Reshapes that nobody reads any more, all of them before this node, would count as readers.
            let len = net.graph.nodes.len();
            net.tidy();
            i = i + n - 1 - (len - net.graph.nodes.len());
        }
        i += 1;
    }
    net.tidy();
}

/// What is reshaped, if a value is a reshape (or several) of something, to a shape that differs in axes of one element alone, and
/// all of them have one reader. To move an axis of one element is a reshape.
fn reshaped(net: &Net, v: ValueId) -> Option<ValueId> {
    let mut x = v;
    while let Some(node) = net.node_of(x) {
        let inner = node.inputs.first().copied().flatten();
        match (&node.op, inner) {
            (Op::Reshape, Some(_)) => {}
            (Op::Transpose(perm), Some(inner)) if perm.iter().filter(|&&a| net.dims(inner)[a] != 1).is_sorted() => {}
            _ => break,
        }
        net.only_reader(x)?;
        x = inner?;
    }
    net.only_reader(x)?;
    let alike = || sizes(net.dims(x)).eq(sizes(net.dims(v)));
    (x != v && alike()).then_some(x)
}

/// Axes of more than one element, and their sizes.
fn axes(dims: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    dims.iter().copied().enumerate().filter(|&(_, d)| d != 1)
}

fn sizes(dims: &[usize]) -> impl Iterator<Item = usize> {
    axes(dims).map(|(_, d)| d)
}

/// Whether a value is a product, or element-wise nodes of one, which alone read what is before them.
fn is_product(net: &Net, v: ValueId) -> bool {
    let Some(node) = net.node_of(v) else { return false };
    match node.op {
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::EinSum { .. } => true,
        Op::Unary(..) | Op::Binary(_) => node
            .inputs
            .iter()
            .flatten()
            .any(|&x| net.only_reader(x).is_some() && net.dims(x) == net.dims(v) && is_product(net, x)),
        _ => false,
    }
}

/// An element-wise node that reads a reshaped product: it moves before the reshape.
fn behind(net: &mut Net, i: usize) -> Option<Vec<Node>> {
    let node = net.graph.nodes[i].clone();
    let (Op::Unary(..) | Op::Binary(_), &[Some(out)]) = (&node.op, &node.outputs[..]) else { return None };
    let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    let found = |v: ValueId| reshaped(net, v).filter(|&x| is_product(net, x) && net.dims(v) == net.dims(out));
    let (slot, x) = inputs.iter().enumerate().find_map(|(slot, &v)| Some((slot, found(v)?)))?;
    let (from, to) = (net.dims(out).to_vec(), net.dims(x).to_vec());
    let mut nodes = vec![];
    let mut operands = vec![];
    for (at, &v) in inputs.iter().enumerate() {
        if at == slot {
            operands.push(x);
            continue;
        }
        // Sizes of the other operand on the axes that stay.
        let dims = net.dims(v);
        let size = |axis: usize| (axis + dims.len()).checked_sub(from.len()).map_or(1, |a| dims[a]);
        let mut shape = vec![1; to.len()];
        for ((a, _), (b, _)) in axes(&from).zip(axes(&to)) {
            shape[b] = size(a);
        }
        if dims == shape {
            operands.push(v);
            continue;
        }
        let seen = net.value(net.name(v).to_string(), net.dtype(v), &shape);
        nodes.push(made(&node, Op::Reshape, &[v], seen));
        operands.push(seen);
    }
    let result = net.value(net.name(out).to_string(), net.dtype(out), &to);
    nodes.push(made(&node, node.op.clone(), &operands, result));
    nodes.push(made(&node, Op::Reshape, &[result], out));
    Some(nodes)
}

/// A join of tensors that were all reshaped in the same way: they are joined as they were before.
fn joined(net: &mut Net, i: usize) -> Option<Vec<Node>> {
    let node = net.graph.nodes[i].clone();
    let (&Op::Concat { axis }, &[Some(out)]) = (&node.op, &node.outputs[..]) else { return None };
    let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    let parts: Vec<ValueId> = inputs.iter().map(|&v| reshaped(net, v)).collect::<Option<_>>()?;
    let (first, mut place) = (*parts.first()?, None);
    for (&v, &x) in inputs.iter().zip(&parts) {
        let number = axes(net.dims(v)).position(|(a, _)| a == axis)?;
        let (at, _) = axes(net.dims(x)).nth(number)?;
        let same = |a: usize| a == at || net.dims(x)[a] == net.dims(first)[a];
        let fits = net.dims(x).len() == net.dims(first).len() && (0..net.dims(x).len()).all(same);
        if !fits || *place.get_or_insert(at) != at {
            return None;
        }
    }
    let axis = place?;
    let mut dims = net.dims(first).to_vec();
    dims[axis] = parts.iter().map(|&x| net.dims(x)[axis]).sum();
    let result = net.value(net.name(out).to_string(), net.dtype(out), &dims);
    let join = made(&node, Op::Concat { axis }, &parts, result);
    Some(vec![join, made(&node, Op::Reshape, &[result], out)])
}
