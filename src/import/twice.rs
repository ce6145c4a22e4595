//! Nodes that compute the same from the same.
//!
//! What an exporter writes out twice, for instance a mask for each tensor that it is applied to, is computed once anyway
//! when it is lowered. Where sizes depend on data it must be one node before: how many elements of a mask are true is a size,
//! and of two sizes nobody could say that they are equal.

use std::collections::{HashMap, HashSet};
use tract_onnx::pb::GraphProto;

/// Joins them. Nodes with graphs of their own are left alone.
pub(super) fn join(graph: &mut GraphProto) {
    let kept: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let inner = graph.node.iter().any(|n| n.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()));
    if inner {
        return; // graphs inside may read any name
    }
    let mut names: HashMap<String, String> = HashMap::new();
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    graph.node.retain_mut(|node| {
        for input in &mut node.input {
            if let Some(name) = names.get(input) {
                input.clone_from(name);
            }
        }
        let present: Vec<bool> = node.output.iter().map(|o| !o.is_empty()).collect();
        let mut key = node.clone();
        key.name.clear();
        key.doc_string.clear();
        // Which outputs there are is part of what it is; how they are called is not.
        key.output = present.iter().map(|p| p.to_string()).collect();
        let key = format!("{key:?}");
        let Some(first) = seen.get(&key) else {
            seen.insert(key, node.output.clone());
            return true;
        };
        if node.output.iter().any(|o| kept.contains(o)) {
            return true;
        }
        names.extend(node.output.iter().cloned().zip(first.iter().cloned()).filter(|(name, _)| !name.is_empty()));
        false
    });
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
