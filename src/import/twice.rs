//! Nodes that compute the same from the same.
//!
//! What an exporter writes out twice, for instance a mask for each tensor that it is applied to, is computed once anyway
//! when it is lowered. Where sizes depend on data it must be one node before: how many elements of a mask are true is a size,
//! and of two sizes nobody could say that they are equal.

use super::hash::{FixedState, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};
use tract_onnx::prelude::TVec;

/// Joins them. Nodes with graphs of their own are left alone.
pub(super) fn join(graph: &mut GraphProto) {
    let kept: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let inner = graph.node.iter().any(|n| n.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()));
    if inner {
        return; // graphs inside may read any name
    }
    let mut names: HashMap<String, String> = HashMap::default();
    let mut seen: HashMap<u64, TVec<usize>> = HashMap::with_capacity_and_hasher(graph.node.len(), Default::default());
    let mut nodes: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for mut node in graph.node.drain(..) {
        for input in &mut node.input {
            if let Some(name) = names.get(input) {
                input.clone_from(name);
            }
        }
        let others = seen.entry(hash(&node)).or_default();
        let first = others.iter().map(|&i| &nodes[i]).find(|first| same(first, &node));
        match first.filter(|_| !node.output.iter().any(|o| kept.contains(o))) {
            Some(first) => {
                let outputs = node.output.into_iter().zip(first.output.iter().cloned());
                names.extend(outputs.filter(|(name, _)| !name.is_empty()));
            }
            None => {
                if first.is_none() {
                    others.push(nodes.len());
                }
                nodes.push(node);
            }
        }
    }
    graph.node = nodes;
}

/// Whether two nodes compute the same. Which outputs there are is part of that; how they and the nodes are called is not.
fn same(a: &NodeProto, b: &NodeProto) -> bool {
    let outputs = a.output.len() == b.output.len() && a.output.iter().zip(&b.output).all(|(a, b)| a.is_empty() == b.is_empty());
    let inputs = || a.input.len() == b.input.len() && a.input.iter().zip(&b.input).all(|(a, b)| alike(a, b));
    let attributes =
        || a.attribute.len() == b.attribute.len() && a.attribute.iter().zip(&b.attribute).all(|(a, b)| same_attribute(a, b));
    outputs && alike(&a.op_type, &b.op_type) && alike(&a.domain, &b.domain) && inputs() && attributes()
}

/// Most are constants of a few bytes, which have nothing but these.
fn same_attribute(a: &AttributeProto, b: &AttributeProto) -> bool {
    let (Some(x), Some(y)) = (&a.t, &b.t) else { return a == b };
    let raw = |t: &TensorProto| {
        let typed = t.float_data.len() + t.int32_data.len() + t.int64_data.len() + t.double_data.len() + t.uint64_data.len();
        typed + t.string_data.len() + t.external_data.len() == 0 && t.segment.is_none() && !t.raw_data.is_empty()
    };
    if !raw(x) || !raw(y) {
        return a == b;
    }
    alike(&a.name, &b.name) && x.data_type == y.data_type && x.dims == y.dims && x.raw_data == y.raw_data
}

/// Texts that are equal. Of empty ones that takes no look at memory: where they lie there is none, and to find that out takes some
/// processors longer than all the rest.
fn alike(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

/// Of a node; the same for nodes that are the [`same`], and mostly another for others.
fn hash(node: &NodeProto) -> u64 {
    let mut hash = FixedState::default().build_hasher();
    (&node.op_type, &node.input).hash(&mut hash);
    for a in &node.attribute {
        (&a.name, a.i, a.f.to_bits(), &a.s, &a.ints).hash(&mut hash);
        if let Some(t) = &a.t {
            (&t.raw_data, &t.int64_data, &t.dims).hash(&mut hash);
        }
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{model, node};
    use super::*;

    #[test]
    fn chains_are_joined_and_outputs_stay() {
        let nodes = vec![
            node("Neg", &["x"], &["a"], vec![]),
            node("Exp", &["a"], &["b"], vec![]),
            node("Neg", &["x"], &["c"], vec![]),
            node("Exp", &["c"], &["d"], vec![]),
            node("Add", &["b", "d"], &["e"], vec![]),
            node("Add", &["d", "b"], &["y"], vec![]),
            node("Softmax", &["x"], &["f"], vec![super::super::attributes::int("axis", 0)]),
            node("Softmax", &["x"], &["g"], vec![super::super::attributes::int("axis", 1)]),
        ];
        let mut graph = model(13, &[2, 2], nodes).graph.unwrap();
        join(&mut graph);
        let left: Vec<String> = graph.node.iter().map(|n| format!("{} = {}", n.output[0], n.input.join(" "))).collect();
        assert_eq!(left, ["a = x", "b = a", "e = b b", "y = b b", "f = x", "g = x"]);
    }
}
