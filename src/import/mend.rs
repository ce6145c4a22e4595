//! A pass over the decoded model before tract parses it: what tract would read wrongly is mended, what it would choke on or
//! silently misread is refused, by name.

use super::expand;
use super::hash::{HashMap, HashSet};
use super::rules;
use super::whole::{COPY, HELD, STOCK};
use crate::ModelError;
use std::path::Path;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

/// The newest operator set that is known.
const NEWEST_OPSET: i64 = 28;

/// Checks and mends a model. `held` are the names of the weights that were taken out of it.
///
/// # Errors
/// [`ModelError::Format`] or [`ModelError::Node`], saying what is wrong.
pub(super) fn mend(path: &Path, model: &mut ModelProto, held: &HashSet<&str>) -> Result<(), ModelError> {
    let bad = |what: String| ModelError::Format { path: path.to_path_buf(), what };
    for opset in &model.opset_import {
        if is_standard(&opset.domain) && opset.version > NEWEST_OPSET {
            return Err(bad(format!(
                "it uses operator set {}, but the newest known is {NEWEST_OPSET}: export it with an older one",
                opset.version
            )));
        }
    }
    if !model.opset_import.iter().any(|o| is_standard(&o.domain)) && !model.opset_import.is_empty() {
        return Err(bad("it does not import ONNX's operator set".into()));
    }
    super::functions::write_out(model)?;
    let Some(graph) = model.graph.as_mut() else { return Err(bad("it has no graph".into())) };
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |v| &*v.name);
        return Err(bad(format!("the sparse initializer \"{name}\" is not supported: store it dense")));
    }
    name_nodes(graph);
    foreign(graph);
    names(path, graph, held)
}

fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Every node gets a name, which is unique: messages and tract go by it.
fn name_nodes(graph: &mut GraphProto) {
    let mut seen = HashSet::with_capacity_and_hasher(graph.node.len(), Default::default());
    if graph.node.iter().all(|node| !node.name.is_empty() && seen.insert(&*node.name)) {
        return; // as exporters write them
    }
    let mut taken = HashSet::default();
    for (i, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() {
            node.name = node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
        }
        while node.name.is_empty() || !taken.insert(node.name.clone()) {
            node.name = format!("{}#{i}", if node.name.is_empty() { &node.op_type } else { &node.name });
        }
    }
}

/// tract's register goes by op type alone: an operator of a foreign domain must not pass for ONNX's.
fn foreign(graph: &mut GraphProto) {
    for node in &mut graph.node {
        if !is_standard(&node.domain) {
            node.op_type = format!("{}::{}", node.domain, node.op_type);
            node.domain.clear();
        }
        node.attribute.iter_mut().flat_map(|a| a.g.iter_mut()).for_each(foreign);
    }
}

/// An output that is an input or an initializer, or is named twice, gets a node: tract would lose its type. Yields the
/// outputs' names as the file has them.
pub(super) fn outputs(graph: &mut GraphProto) -> Vec<String> {
    let names: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let made: HashSet<&str> = graph.node.iter().flat_map(|n| n.output.iter().map(|o| &**o)).collect();
    let mut seen = HashSet::default();
    let copied: Vec<bool> = names.iter().map(|n| !made.contains(&**n) || !seen.insert(n)).collect();
    for (i, name) in names.iter().enumerate().filter(|&(i, _)| copied[i]) {
        let copy = format!("{name}.output{i}");
        graph.output[i].name = copy.clone();
        graph.node.push(NodeProto {
            op_type: COPY.into(),
            name: copy.clone(),
            input: vec![name.clone()],
            output: vec![copy],
            ..Default::default()
        });
    }
    names
}

/// Every name is given once, and every name that is used is given.
fn names(path: &Path, graph: &GraphProto, held: &HashSet<&str>) -> Result<(), ModelError> {
    let bad = |what: String| ModelError::Format { path: path.to_path_buf(), what };
    let mut known: HashSet<&str> =
        HashSet::with_capacity_and_hasher(held.len() + graph.initializer.len() + graph.node.len(), Default::default());
    known.extend(held);
    for tensor in &graph.initializer {
        if !known.insert(&tensor.name) {
            return Err(bad(format!("there are two initializers called \"{}\"", tensor.name)));
        }
    }
    let mut inputs = HashSet::default();
    for input in &graph.input {
        if !inputs.insert(&*input.name) {
            return Err(bad(format!("there are two inputs called \"{}\"", input.name)));
        }
        known.insert(&input.name);
    }
    for node in &graph.node {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !known.insert(output) {
                let what = format!("its output \"{output}\" is the name of another tensor, too");
                return Err(ModelError::node(&node.name, &node.op_type, what));
            }
        }
    }
    for node in &graph.node {
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !known.contains(&**input) {
                let what =
                    format!("its input \"{input}\" is neither an input of the model, an initializer nor an output of a node");
                return Err(ModelError::node(&node.name, &node.op_type, what));
            }
        }
    }
    for output in &graph.output {
        if !known.contains(&*output.name) {
            return Err(bad(format!("nothing yields the output \"{}\"", output.name)));
        }
    }
    Ok(())
}

/// Every operator is one that is known here or to tract.
pub(super) fn operators(graph: &GraphProto) -> Result<(), ModelError> {
    for node in &graph.node {
        let op = &*node.op_type;
        if ![HELD, COPY].contains(&op)
            && !rules::NAMES.contains(&op)
            && !expand::names().any(|name| name == op)
            && !STOCK.op_register.0.contains_key(op)
        {
            let what = "this operator is not supported: express it in ONNX's own operators, or leave it out of the model";
            return Err(ModelError::node(&node.name, op, what));
        }
    }
    Ok(())
}

/// ONNX's op types, by the names of nodes.
pub(super) fn op_types(graph: &GraphProto) -> HashMap<String, String> {
    graph.node.iter().map(|n| (n.name.clone(), n.op_type.clone())).collect()
}
