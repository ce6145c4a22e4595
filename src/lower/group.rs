//! Which nodes run as one op.
//!
//! * A convolution or matrix product takes what follows it into its epilogue: factors and sums per channel, one residual
//!   sum, one activation. It then runs where the last of these nodes stood, so that the residual exists by then; of two
//!   products that are summed, the later one takes the sum.
//! * An element-wise node takes the element-wise nodes before it that nobody else reads.
//!
//! Values in between never exist.

use super::attention::{self, Attention};
use super::constant::Constant;
use super::conv;
use super::expr::Expr;
use super::gemm;
use super::net::Net;
use crate::graph::{Op, ValueId};
use crate::program::{Binary, Unary};
use crate::tensor::DType;

/// A factor or a sum per channel, or of one number.
#[derive(Clone, Debug)]
pub(super) enum Channel {
    /// Multiplied by a constant, seen in the shape of the output.
    Scale(Constant),
    /// Added, seen in the shape of the output.
    Shift(Constant),
    /// `a * x + b`.
    Affine(f32, f32),
}

/// A product and its epilogue.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// The convolution or einsum.
    pub node: usize,
    pub channel: Vec<Channel>,
    /// The value that is added, and whether before (1) or after (2) the activation.
    pub residual: Option<(ValueId, u32)>,
    pub activation: Option<(Unary, [f32; 2])>,
}

/// What a group is.
pub(super) enum Kind {
    Product(Product),
    Map(Expr),
    Attention(Attention),
    /// A node for itself.
    Single(usize),
}

/// Nodes that run as one op.
pub(super) struct Group {
    pub kind: Kind,
    /// In their order.
    pub nodes: Vec<usize>,
    /// The value that is made (of a single node: the first).
    pub output: Option<ValueId>,
}

/// All groups, in an order in which they can run.
pub(super) fn form(net: &Net) -> Vec<Group> {
    let nodes = &net.graph.nodes;
    let mut groups: Vec<Option<Group>> = nodes.iter().map(|_| None).collect();
    // Attention first: what it takes must not go into other groups.
    let mut taken = vec![false; nodes.len()];
    for i in 0..nodes.len() {
        if let Some(attention) = attention::find(net, i) {
            for &n in &attention.nodes {
                taken[n] = true;
            }
            let (last, output) = (attention.last(), attention.output);
            groups[last] = Some(Group { nodes: attention.nodes.clone(), kind: Kind::Attention(attention), output: Some(output) });
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        if taken[i] {
            continue;
        }
        let output = node.outputs.first().copied().flatten();
        let group = if let Some(output) = output
            && let Some(group) = extend_product(net, &mut groups, i, output)
        {
            group
        } else if let Some(output) = output
            && let Some(group) = extend_map(net, &mut groups, i, output)
        {
            group
        } else {
            let kind = match node.op {
                Op::Conv { .. } | Op::ConvTranspose { .. } if conv::supported(net, node).is_ok() => Kind::Product(Product::of(i)),
                Op::EinSum { .. } if gemm::roles(net, node).is_some() => Kind::Product(Product::of(i)),
                _ => Kind::Single(i),
            };
            Group { kind, nodes: vec![i], output }
        };
        groups[i] = Some(group);
    }
    groups.into_iter().flatten().collect()
}

impl Product {
    pub fn of(node: usize) -> Product {
        Product { node, channel: vec![], residual: None, activation: None }
    }
}

/// The product whose value only node `i` reads, if it is one: its place among the groups.
fn open(net: &Net, groups: &[Option<Group>], v: ValueId, i: usize) -> Option<usize> {
    let at = net.producer(v)?;
    let group = groups[at].as_ref()?;
    (matches!(group.kind, Kind::Product(_)) && group.output == Some(v) && net.only_reader(v) == Some(i)).then_some(at)
}

fn extend_product(net: &Net, groups: &mut [Option<Group>], i: usize, output: ValueId) -> Option<Group> {
    let node = &net.graph.nodes[i];
    if net.dtype(output) != DType::F32 {
        return None;
    }
    let mut places: Vec<(usize, usize)> = vec![];
    for (slot, v) in node.inputs.iter().enumerate() {
        if let Some(at) = v.and_then(|v| open(net, groups, v, i)) {
            places.push((at, slot));
        }
    }
    places.sort();
    while let Some((at, slot)) = places.pop() {
        let Some(Group { kind: Kind::Product(product), nodes, .. }) = &groups[at] else { continue };
        let Some(product) = extended(net, product, i, slot, output) else { continue };
        let mut nodes = nodes.clone();
        nodes.push(i);
        groups[at] = None;
        return Some(Group { kind: Kind::Product(product), nodes, output: Some(output) });
    }
    None
}

/// The product with node `i`, which reads it as input `slot`, in its epilogue.
fn extended(net: &Net, product: &Product, i: usize, slot: usize, output: ValueId) -> Option<Product> {
    let node = &net.graph.nodes[i];
    let mut p = product.clone();
    let value = node.inputs[slot]?;
    if net.dims(value) != net.dims(output) {
        return None;
    }
    let early = p.residual.is_none() && p.activation.is_none();
    let other = |slot: usize| node.inputs.get(1 - slot).copied().flatten();
    match node.op {
        Op::Unary(Unary::Affine, [a, b]) if early && (b == 0.0 || channels(net, p.node).is_some()) => {
            p.channel.push(Channel::Affine(a, b));
        }
        Op::Unary(f, parameters) if p.activation.is_none() && p.residual.is_none_or(|r| r.1 == 1) => {
            if matches!(f, Unary::Not | Unary::IsNan | Unary::IsInf | Unary::BitNot) {
                return None;
            }
            p.activation = Some((f, parameters));
        }
        Op::Binary(f @ (Binary::Add | Binary::Sub | Binary::Mul)) => {
            let other = other(slot)?;
            if other == value || net.dtype(other) != DType::F32 {
                return None;
            }
            let constant = net.constant(other).map(|c| c.with_layout(c.layout.broadcast(net.dims(output))));
            let per_channel = |c: &Constant| {
                let axes = channels(net, p.node)?;
                let outside = |a: usize| c.layout.dims[a] > 1 && c.layout.strides[a] != 0 && !axes.contains(&a);
                (!(0..c.layout.dims.len()).any(outside)).then_some(())
            };
            match (f, constant) {
                (Binary::Add, Some(c)) if early && per_channel(&c).is_some() => p.channel.push(Channel::Shift(c)),
                (Binary::Mul, Some(c)) if early && per_channel(&c).is_some() && scalable(net, p.node) => {
                    p.channel.push(Channel::Scale(c))
                }
                (Binary::Sub, Some(c)) if early && slot == 0 && per_channel(&c).is_some() => {
                    let negative: Vec<f32> = c.f32s().iter().map(|v| -v).collect();
                    p.channel.push(Channel::Shift(Constant::of_f32(&negative, net.dims(output))));
                }
                (Binary::Add, _) if p.residual.is_none() && net.dims(other) == net.dims(output) => {
                    p.residual = Some((other, if p.activation.is_none() { 1 } else { 2 }));
                }
                _ => return None,
            }
        }
        _ => return None,
    }
    Some(p)
}

/// The axes of a product's output that its columns are.
pub(super) fn channels(net: &Net, product: usize) -> Option<Vec<usize>> {
    let node = &net.graph.nodes[product];
    match &node.op {
        Op::Conv { window, .. } | Op::ConvTranspose { window, .. } => {
            let rank = net.dims(node.outputs[0]?).len();
            Some(vec![rank.checked_sub(window.kernel.len() + 1)?])
        }
        Op::EinSum { output, .. } => {
            let roles = gemm::roles(net, node)?;
            Some(output.chars().enumerate().filter(|(_, c)| roles.n.contains(c)).map(|(i, _)| i).collect())
        }
        _ => None,
    }
}

/// Whether a product's columns can be scaled by scaling its weights.
fn scalable(net: &Net, product: usize) -> bool {
    let node = &net.graph.nodes[product];
    match &node.op {
        Op::EinSum { .. } => gemm::roles(net, node).is_some_and(|r| node.inputs[r.b].is_some_and(|b| net.constant(b).is_some())),
        _ => true,
    }
}

fn extend_map(net: &Net, groups: &mut [Option<Group>], i: usize, output: ValueId) -> Option<Group> {
    let node = &net.graph.nodes[i];
    let mut expr = Expr::of(net, node)?;
    expr.instructions()?;
    let mut nodes = vec![i];
    let mut seen: Vec<ValueId> = vec![];
    while let Some(v) = expr.inputs.iter().copied().find(|v| !seen.contains(v)) {
        seen.push(v);
        if net.only_reader(v) != Some(i) || net.dims(v) != net.dims(output) {
            continue;
        }
        let Some(at) = net.producer(v) else { continue };
        let Some(Group { kind: Kind::Map(inner), nodes: inside, .. }) = &groups[at] else { continue };
        let Some(whole) = expr.absorb(v, net.dtype(v), inner) else { continue };
        // The inputs of what was absorbed have been tried when it was formed.
        seen.extend(inner.inputs.iter());
        nodes.extend(inside);
        expr = whole;
        groups[at] = None;
    }
    nodes.sort();
    Some(Group { kind: Kind::Map(expr), nodes, output: Some(output) })
}
