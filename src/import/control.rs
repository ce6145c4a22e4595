//! Branches and loops whose course is known before anything runs, written out.
//!
//! An `If` whose condition hangs on constants and sizes alone is replaced by its branch; a `Loop` or `Scan` of which it is known
//! how many turns it takes, or may take at the most, by as many copies of its body ([`loops`]). What is needed of values and
//! sizes for that is found out by tract ([`known`](super::known)). Of an `If` that data decide both branches are computed, if
//! that can do no harm. What is left, tract runs on the host, but for a `Loop`.

use super::hash::{HashMap, HashSet};
use super::known::{Known, Scope};
use super::loops;
use crate::ModelError;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

/// Nodes of a model at the most, when its loops are written out.
pub(super) const NODES: usize = 1 << 18;

/// Writes out what can be, again and again while that brings new branches and loops to light. The graph's inputs have their
/// sizes.
///
/// # Errors
/// When a loop can't be written out: nothing else runs it.
pub(super) fn write_out(graph: &mut GraphProto, opset: i64) -> Result<(), ModelError> {
    if !graph.node.iter().any(|n| matches!(&*n.op_type, "If" | "Loop" | "Scan")) {
        return Ok(());
    }
    let known = Known::default();
    let mut at = 0;
    while let Some(node) = graph.node.get(at) {
        let written = match &*node.op_type {
            "If" => branch(graph, node, opset, &known),
            "Loop" => {
                let fits = |written: &Written| graph.node.len() + written.0.len() <= NODES;
                let turns = loops::turns(graph, node, opset, &known);
                let turns = turns.and_then(|w| fits(&w).then_some(w).ok_or_else(|| loops::too_long(NODES, "nodes")));
                Some(turns.map_err(|what| ModelError::node(&node.name, "Loop", what))?)
            }
            "Scan" => loops::scanned(graph, node, opset, &known),
            _ => None,
        };
        match written {
            Some((nodes, initializers)) if graph.node.len() + nodes.len() <= NODES => {
                graph.node.splice(at..at + 1, nodes);
                graph.initializer.extend(initializers);
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// Nodes and initializers that stand for a node.
pub(super) type Written = (Vec<NodeProto>, Vec<TensorProto>);

pub(super) fn subgraph<'a>(node: &'a NodeProto, name: &str) -> Option<&'a GraphProto> {
    node.attribute.iter().find(|a| a.name == name)?.g.as_ref()
}

pub(super) fn input(node: &NodeProto, i: usize) -> Option<&str> {
    node.input.get(i).map(|n| &**n).filter(|n| !n.is_empty())
}

/// A node that gives a tensor another name.
pub(super) fn copy(from: &str, to: &str) -> NodeProto {
    NodeProto {
        op_type: "Identity".into(),
        name: to.into(),
        input: vec![from.into()],
        output: vec![to.into()],
        ..Default::default()
    }
}

fn branch(graph: &GraphProto, node: &NodeProto, opset: i64, known: &Known) -> Option<Written> {
    let scope = Scope { graph, more: &(vec![], vec![]), opset, known };
    let condition = input(node, 0)?;
    let Some(truth) = scope.truth(condition) else { return both(graph, node, opset, known) };
    let side = if truth { "then_branch" } else { "else_branch" };
    let body = subgraph(node, side)?;
    let mut written = (vec![], vec![]);
    let outputs = inlined(body, HashMap::default(), &format!("{}.{side}", node.name), &mut written);
    let wanted = node.output.iter().zip(outputs).filter(|(to, _)| !to.is_empty());
    written.0.extend(wanted.map(|(to, from)| copy(&from, to)));
    Some(written)
}

/// Both branches, and a choice of what they yield: where that is of one shape, and neither can fail when it is not taken.
fn both(graph: &GraphProto, node: &NodeProto, opset: i64, known: &Known) -> Option<Written> {
    let mut written: Written = (vec![], vec![]);
    let mut sides = vec![];
    for side in ["then_branch", "else_branch"] {
        let body = subgraph(node, side).filter(|body| body.node.iter().all(never_fails))?;
        sides.push(inlined(body, HashMap::default(), &format!("{}.{side}", node.name), &mut written));
    }
    let condition = input(node, 0)?;
    for (i, to) in node.output.iter().enumerate().filter(|(_, to)| !to.is_empty()) {
        let (a, b) = (sides[0].get(i)?, sides[1].get(i)?);
        let scope = Scope { graph, more: &written, opset, known };
        let fact = scope.fact(a)?;
        if scope.fact(b)? != fact {
            return None;
        }
        let what = format!("the output \"{to}\" of \"{}\"", node.name);
        let chosen = loops::choice(condition, a, b, to.clone(), &what);
        written.0.push(chosen);
        known.depends(to, fact);
    }
    Some(written)
}

/// Whether an operator computes whatever its inputs hold: it has no index that might not be there, and its branches don't either.
fn never_fails(node: &NodeProto) -> bool {
    let indexed = ["Gather", "Loop", "MaxUnpool", "OneHot", "Optional", "RoiAlign", "Scan", "Scatter", "Sequence"];
    let bodies = || node.attribute.iter().filter_map(|a| a.g.as_ref());
    !indexed.iter().any(|part| node.op_type.contains(part)) && bodies().all(|body| body.node.iter().all(never_fails))
}

/// Adds what a body has of constants, under names of their own, unless `names` says already how they are called outside.
pub(super) fn constants(body: &GraphProto, names: &mut HashMap<String, String>, place: &str, written: &mut Written) {
    for tensor in body.initializer.iter().filter(|t| !names.contains_key(&t.name)).collect::<Vec<_>>() {
        let name = format!("{place}.{}", tensor.name);
        names.insert(tensor.name.clone(), name.clone());
        written.1.push(TensorProto { name, ..tensor.clone() });
    }
    for node in body.node.iter().filter(|n| n.op_type == "Constant") {
        if let Some(output) = node.output.first().filter(|o| !names.contains_key(*o)) {
            let name = format!("{place}.{output}");
            names.insert(output.clone(), name.clone());
            written.0.push(NodeProto { name: name.clone(), output: vec![name], ..node.clone() });
        }
    }
}

/// Adds the nodes of a body under names of their own; `names` are those that its inputs, and constants that were added before,
/// have outside. Gives the names of its outputs.
pub(super) fn inlined(body: &GraphProto, mut names: HashMap<String, String>, place: &str, written: &mut Written) -> Vec<String> {
    constants(body, &mut names, place, written);
    let nodes = || body.node.iter().filter(|n| n.op_type != "Constant");
    for output in nodes().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
        names.insert(output.clone(), format!("{place}.{output}"));
    }
    for node in nodes() {
        let mut node = node.clone();
        rename(&mut node, &names, place);
        written.0.push(node);
    }
    let outside = |name: &String| names.get(name).unwrap_or(name).clone();
    body.output.iter().map(|o| outside(&o.name)).collect()
}

/// Renames a node, and what it and the graphs within it read and yield.
fn rename(node: &mut NodeProto, names: &HashMap<String, String>, place: &str) {
    let unnamed = |node: &NodeProto| node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
    node.name = format!("{place}.{}", if node.name.is_empty() { unnamed(node) } else { node.name.clone() });
    for name in node.input.iter_mut().chain(&mut node.output) {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    }
    let inside = node.attribute.iter_mut().filter_map(|a| Some((format!("{}.{}", node.name, a.name), a.g.as_mut()?)));
    for (place, graph) in inside {
        // Names that the graph gives itself hide those outside.
        let own: HashSet<String> = graph
            .node
            .iter()
            .flat_map(|n| n.output.clone())
            .chain(graph.input.iter().map(|i| i.name.clone()))
            .chain(graph.initializer.iter().map(|t| t.name.clone()))
            .collect();
        let names: HashMap<String, String> =
            names.iter().filter(|(old, _)| !own.contains(*old)).map(|(a, b)| (a.clone(), b.clone())).collect();
        graph.node.iter_mut().for_each(|n| rename(n, &names, &place));
        for output in &mut graph.output {
            if let Some(new) = names.get(&output.name) {
                output.name.clone_from(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::AttributeProto;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            name: output.into(),
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn constant(name: &str, data_type: i32, value: i64) -> TensorProto {
        let (int64_data, int32_data) = if data_type == 7 { (vec![value], vec![]) } else { (vec![], vec![value as i32]) };
        TensorProto { name: name.into(), data_type, int64_data, int32_data, ..Default::default() }
    }

    fn body(name: &str, graph: GraphProto) -> AttributeProto {
        AttributeProto { name: name.into(), g: Some(graph), r#type: 5, ..Default::default() }
    }

    fn named(names: &[&str]) -> Vec<tract_onnx::pb::ValueInfoProto> {
        names.iter().map(|n| super::super::externs::declare(n, 1, None)).collect()
    }

    #[test]
    fn the_branch_that_is_taken_stays() {
        // The rank of x decides.
        let side = |op: &str| GraphProto { node: vec![node(op, &["x"], "t")], output: named(&["t"]), ..Default::default() };
        for (rank, want) in [(2, "Relu"), (3, "Neg")] {
            let mut choice = node("If", &["two"], "y");
            choice.attribute = vec![body("then_branch", side("Relu")), body("else_branch", side("Neg"))];
            let mut graph = GraphProto {
                node: vec![node("Shape", &["x"], "s"), node("Size", &["s"], "r"), node("Equal", &["r", "c"], "two"), choice],
                initializer: vec![constant("c", 7, 2)],
                input: vec![super::super::externs::declare("x", 1, Some(&vec![4; rank]))],
                ..Default::default()
            };
            write_out(&mut graph, 13).unwrap();
            assert_eq!(graph.node[3].op_type, want);
            assert_eq!((&*graph.node[4].op_type, &*graph.node[4].output[0]), ("Identity", "y"));
        }
    }

    #[test]
    fn a_loop_stops_when_its_condition_fails() {
        let inner = GraphProto {
            node: vec![
                node("Add", &["a", "step"], "b"),
                node("Add", &["i", "one"], "next"),
                node("Less", &["next", "three"], "on"),
                node("Neg", &["b"], "row"),
            ],
            input: named(&["i", "c", "a"]),
            output: named(&["on", "b", "row"]),
            ..Default::default()
        };
        let mut turns = node("Loop", &["many", "go", "x"], "last");
        turns.output.push("rows".into());
        turns.attribute = vec![body("body", inner)];
        let mut graph = GraphProto {
            node: vec![turns],
            initializer: vec![constant("many", 7, 5), constant("go", 9, 1), constant("one", 7, 1), constant("three", 7, 3)],
            input: vec![
                super::super::externs::declare("x", 1, Some(&[2])),
                super::super::externs::declare("step", 1, Some(&[2])),
            ],
            ..Default::default()
        };
        let dynamic = graph.clone();
        write_out(&mut graph, 13).unwrap();
        let count = |op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
        assert_eq!([count("Loop"), count("Neg"), count("Unsqueeze"), count("Concat")], [0, 3, 3, 1]);
        // Without a number that is known nothing runs it.
        let mut graph = dynamic;
        graph.initializer.remove(0);
        let error = write_out(&mut graph, 13).unwrap_err().to_string();
        assert!(error.contains("\"last\" (Loop)") && error.contains("nothing bounds it"), "{error}");
    }
}
