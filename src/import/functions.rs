//! Local functions of a model, written out where they are called: tract does not know them.

use crate::ModelError;
use std::collections::HashMap;
use tract_onnx::pb::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// Calls within calls at the most; more means that a function calls itself.
const DEPTH: usize = 64;
/// Nodes at the most, lest small functions that call each other twice fill the memory.
const NODES: usize = 1 << 20;

type Functions = HashMap<(String, String), FunctionProto>;

/// Replaces every call of a local function by the function's nodes.
///
/// # Errors
/// [`ModelError::Node`] for a function that calls itself.
pub(super) fn write_out(model: &mut ModelProto) -> Result<(), ModelError> {
    let key = |f: &FunctionProto| (f.domain.clone().unwrap_or_default(), f.name.clone().unwrap_or_default());
    let functions: Functions = model.functions.drain(..).map(|f| (key(&f), f)).collect();
    if functions.is_empty() {
        return Ok(());
    }
    match model.graph.as_mut() {
        Some(graph) => write_out_graph(graph, &functions),
        None => Ok(()),
    }
}

fn write_out_graph(graph: &mut GraphProto, functions: &Functions) -> Result<(), ModelError> {
    let mut nodes = Vec::new();
    for node in std::mem::take(&mut graph.node) {
        expand(node, functions, 0, &mut nodes)?;
    }
    graph.node = nodes;
    Ok(())
}

fn expand(mut node: NodeProto, functions: &Functions, depth: usize, out: &mut Vec<NodeProto>) -> Result<(), ModelError> {
    let Some(function) = functions.get(&(node.domain.clone(), node.op_type.clone())) else {
        for graph in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut()) {
            write_out_graph(graph, functions)?;
        }
        out.push(node);
        return Ok(());
    };
    if depth == DEPTH || out.len() > NODES {
        return Err(ModelError::node(&node.name, &node.op_type, "this local function calls itself, or grows without end"));
    }
    let place = node.output.iter().find(|o| !o.is_empty()).map_or(&*node.name, |o| o);
    let mut names: HashMap<String, String> = HashMap::new();
    for (i, formal) in function.input.iter().enumerate() {
        names.insert(formal.clone(), node.input.get(i).cloned().unwrap_or_default());
    }
    for (formal, actual) in function.output.iter().zip(&node.output).filter(|(_, actual)| !actual.is_empty()) {
        names.insert(formal.clone(), actual.clone());
    }
    let scope = Scope { place, call: &node, names };
    for inner in &function.node {
        expand(scope.node(inner), functions, depth + 1, out)?;
    }
    Ok(())
}

/// A call: what the function's names and attributes stand for.
struct Scope<'a> {
    place: &'a str,
    call: &'a NodeProto,
    names: HashMap<String, String>,
}

impl Scope<'_> {
    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            Some(known) => known.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{}/{name}", self.place),
        }
    }

    fn node(&self, node: &NodeProto) -> NodeProto {
        let mut node = node.clone();
        node.name = format!("{}/{}", self.place, if node.name.is_empty() { &node.op_type } else { &node.name });
        node.input.iter_mut().chain(node.output.iter_mut()).for_each(|name| *name = self.name(name));
        node.attribute = node.attribute.into_iter().filter_map(|a| self.attribute(a)).collect();
        node
    }

    /// An attribute, or the caller's that it refers to; one that the caller leaves out is left out here.
    fn attribute(&self, mut attribute: AttributeProto) -> Option<AttributeProto> {
        if !attribute.ref_attr_name.is_empty() {
            let given = self.call.attribute.iter().find(|a| a.name == attribute.ref_attr_name)?;
            return Some(AttributeProto { name: attribute.name, ..given.clone() });
        }
        if let Some(graph) = attribute.g.as_mut() {
            graph.node = graph.node.iter().map(|n| self.node(n)).collect();
            graph.initializer.iter_mut().for_each(|t| t.name = self.name(&t.name));
            for value in graph.input.iter_mut().chain(graph.output.iter_mut()) {
                value.name = self.name(&value.name);
            }
        }
        Some(attribute)
    }
}
