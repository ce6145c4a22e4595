//! Branches and loops whose course is known before anything runs, written out.
//!
//! An `If` whose condition hangs on constants and sizes alone is replaced by its branch, a `Loop` whose number of turns is
//! known by as many copies of its body. Sizes of what is computed are found out by tract, on the part of the graph that leads
//! to them. What depends on data stays: of an `If` tract evaluates both sides' types, a `Loop` is refused by name later on.

use super::guard;
use super::whole::{self, STOCK};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// Turns of a loop at the most.
const TURNS: usize = 4096;
/// Nodes of a model at the most, when its loops are written out.
const NODES: usize = 1 << 18;

/// Writes out what can be, again and again while that brings new branches and loops to light. The graph's inputs have their
/// sizes.
pub(super) fn write_out(graph: &mut GraphProto, opset: i64) {
    if !graph.node.iter().any(|n| matches!(&*n.op_type, "If" | "Loop")) {
        return;
    }
    let known = Known::default();
    let mut at = 0;
    while let Some(node) = graph.node.get(at) {
        let written = match &*node.op_type {
            "If" => branch(graph, node, opset, &known),
            "Loop" => unrolled(graph, node, opset, &known),
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
}

/// Nodes and initializers that stand for a node.
type Written = (Vec<NodeProto>, Vec<TensorProto>);

fn subgraph<'a>(node: &'a NodeProto, name: &str) -> Option<&'a GraphProto> {
    node.attribute.iter().find(|a| a.name == name)?.g.as_ref()
}

fn input(node: &NodeProto, i: usize) -> Option<&str> {
    node.input.get(i).map(|n| &**n).filter(|n| !n.is_empty())
}

fn copy(from: &str, to: &str) -> NodeProto {
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
    let side = if scope.truth(input(node, 0)?)? { "then_branch" } else { "else_branch" };
    let body = subgraph(node, side)?;
    let mut written = (vec![], vec![]);
    let outputs = inlined(body, HashMap::new(), &format!("{}.{side}", node.name), &mut written);
    let wanted = node.output.iter().zip(outputs).filter(|(to, _)| !to.is_empty());
    written.0.extend(wanted.map(|(to, from)| copy(&from, to)));
    Some(written)
}

fn unrolled(graph: &GraphProto, node: &NodeProto, opset: i64, known: &Known) -> Option<Written> {
    let body = subgraph(node, "body")?;
    let mut written: Written = (vec![], vec![]);
    let none = (vec![], vec![]);
    let scope = Scope { graph, more: &none, opset, known };
    let most = match input(node, 0) {
        Some(name) => usize::try_from(scope.integer(name)?).unwrap_or(0),
        None => usize::MAX,
    };
    let mut goes_on = match input(node, 1) {
        Some(name) => scope.truth(name)?,
        None => true,
    };
    let carried = body.input.len().checked_sub(2)?;
    let mut state: Vec<String> = node.input.get(2..2 + carried)?.to_vec();
    let mut rows: Vec<Vec<String>> = vec![vec![]; body.output.len().checked_sub(1 + carried)?];
    let mut turn = 0;
    while goes_on && turn < most {
        if turn == TURNS {
            return None;
        }
        let place = format!("{}.{turn}", node.name);
        let mut names: HashMap<String, String> = HashMap::new();
        for (formal, (what, kind, value)) in body.input.iter().zip([("turn", 7, turn as i64), ("goes", 9, 1)]) {
            let name = format!("{place}.{what}");
            let (int64_data, int32_data) = if kind == 7 { (vec![value], vec![]) } else { (vec![], vec![value as i32]) };
            let data_type = kind;
            written.1.push(TensorProto { name: name.clone(), data_type, int64_data, int32_data, ..Default::default() });
            names.insert(formal.name.clone(), name);
        }
        for (formal, actual) in body.input[2..].iter().zip(&state) {
            names.insert(formal.name.clone(), actual.clone());
        }
        let outputs = inlined(body, names, &place, &mut written);
        goes_on = Scope { graph, more: &written, opset, known }.truth(outputs.first()?)?;
        state = outputs[1..1 + carried].to_vec();
        for (rows, row) in rows.iter_mut().zip(&outputs[1 + carried..]) {
            rows.push(row.clone());
        }
        turn += 1;
        if written.0.len() > NODES {
            return None;
        }
    }
    for (i, to) in node.output.iter().enumerate().filter(|(_, to)| !to.is_empty()) {
        if i < carried {
            written.0.push(copy(&state[i], to));
            continue;
        }
        // Rows are stacked; of none the shape is not known.
        let rows = rows.get(i - carried).filter(|r| !r.is_empty())?;
        let mut parts = vec![];
        for (turn, row) in rows.iter().enumerate() {
            let (name, axes) = (format!("{to}.{turn}"), format!("{to}.{turn}.axis"));
            written.1.push(TensorProto {
                name: axes.clone(),
                dims: vec![1],
                data_type: 7,
                int64_data: vec![0],
                ..Default::default()
            });
            let inputs = if opset < 13 { vec![row.clone()] } else { vec![row.clone(), axes] };
            written.0.push(NodeProto {
                op_type: "Unsqueeze".into(),
                name: name.clone(),
                input: inputs,
                output: vec![name.clone()],
                attribute: if opset < 13 { vec![super::attributes::ints("axes", vec![0])] } else { vec![] },
                ..Default::default()
            });
            parts.push(name);
        }
        written.0.push(NodeProto {
            op_type: "Concat".into(),
            name: to.clone(),
            input: parts,
            output: vec![to.clone()],
            attribute: vec![super::attributes::int("axis", 0)],
            ..Default::default()
        });
    }
    Some(written)
}

/// Adds the nodes of a body under names of their own; `names` are those that its inputs have outside. Gives the names of
/// its outputs.
fn inlined(body: &GraphProto, mut names: HashMap<String, String>, place: &str, written: &mut Written) -> Vec<String> {
    for tensor in &body.initializer {
        let name = format!("{place}.{}", tensor.name);
        names.insert(tensor.name.clone(), name.clone());
        written.1.push(TensorProto { name, ..tensor.clone() });
    }
    for output in body.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
        names.insert(output.clone(), format!("{place}.{output}"));
    }
    for node in &body.node {
        let mut node = node.clone();
        rename(&mut node, &names);
        node.name = match &*node.name {
            "" => node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default(),
            name => format!("{place}.{name}"),
        };
        written.0.push(node);
    }
    let outside = |name: &String| names.get(name).unwrap_or(name).clone();
    body.output.iter().map(|o| outside(&o.name)).collect()
}

/// Renames what a node, and the graphs within it, read and yield.
fn rename(node: &mut NodeProto, names: &HashMap<String, String>) {
    for name in node.input.iter_mut().chain(&mut node.output) {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    }
    for graph in node.attribute.iter_mut().flat_map(|a: &mut AttributeProto| a.g.iter_mut()) {
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
        graph.node.iter_mut().for_each(|n| rename(n, &names));
        for output in &mut graph.output {
            if let Some(new) = names.get(&output.name) {
                output.name.clone_from(new);
            }
        }
    }
}

/// Values that were found out before.
type Known = RefCell<HashMap<String, Option<Tensor>>>;

/// A graph, and what has been written for a node of it so far.
struct Scope<'a> {
    graph: &'a GraphProto,
    more: &'a Written,
    opset: i64,
    known: &'a Known,
}

impl Scope<'_> {
    fn truth(&self, name: &str) -> Option<bool> {
        self.integer(name).map(|v| v != 0)
    }

    /// The value of a tensor of one integer or boolean, if it hangs on constants and sizes alone.
    fn integer(&self, name: &str) -> Option<i64> {
        let value = self.value(name)?;
        let value = value.cast_to::<i64>().ok()?;
        value.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.first().copied()
    }

    fn value(&self, name: &str) -> Option<Tensor> {
        if let Some(value) = self.known.borrow().get(name) {
            return value.clone();
        }
        let value = guard::run(|| self.found(name)).ok().flatten();
        self.known.borrow_mut().insert(name.to_string(), value.clone());
        value
    }

    fn found(&self, name: &str) -> TractResult<Option<Tensor>> {
        let mut graph = GraphProto::default();
        let mut wanted = vec![name.to_string()];
        let mut seen: HashSet<String> = HashSet::new();
        // Whether what is wanted hangs on more than constants.
        let mut open = false;
        while let Some(name) = wanted.pop() {
            if name.is_empty() || !seen.insert(name.clone()) {
                continue;
            }
            let tensor = self.graph.initializer.iter().chain(&self.more.1).find(|t| t.name == name);
            if let Some(tensor) = tensor {
                graph.initializer.push(tensor.clone());
                continue;
            }
            if let Some(Some(value)) = self.known.borrow().get(&name)
                && let Ok(tensor) = constant(&name, value)
            {
                graph.initializer.push(tensor);
                continue;
            }
            if let Some(input) = self.graph.input.iter().find(|i| i.name == name) {
                graph.input.push(input.clone());
                open = true;
                continue;
            }
            let maker = self.graph.node.iter().chain(&self.more.0).find(|n| n.output.contains(&name));
            let Some(maker) = maker.filter(|n| n.attribute.iter().all(|a| a.g.is_none())) else { return Ok(None) };
            let sized = maker.op_type == "Shape" && maker.attribute.is_empty();
            if let Some(dims) = maker.input.first().filter(|_| sized).and_then(|x| self.sizes(x)) {
                let count = vec![dims.len() as i64];
                graph.initializer.push(TensorProto { name, dims: count, data_type: 7, int64_data: dims, ..Default::default() });
                continue;
            }
            open |= maker.op_type == whole::HELD;
            wanted.extend(maker.input.iter().cloned());
            graph.node.push(maker.clone());
        }
        // In the order in which they stand.
        let order: HashMap<&[String], usize> =
            self.graph.node.iter().chain(&self.more.0).enumerate().map(|(i, n)| (&*n.output, i)).collect();
        graph.node.sort_by_key(|n| order.get(&*n.output).copied());
        graph.node.dedup_by(|a, b| a.output == b.output);
        graph.output.push(super::externs::declare(name, 1, None));
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: self.opset }];
        let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
        if open {
            let parsed = whole::CAREFUL.clone().with_ignore_output_types(true).parse(&model, None)?;
            let typed = parsed.model.into_typed()?.into_decluttered()?;
            return Ok(typed.output_fact(0)?.konst.as_ref().map(|v| (**v).clone()));
        }
        let parsed = STOCK.clone().with_ignore_output_types(true).parse(&model, None)?;
        let plan = SimplePlan::new(parsed.model.into_typed()?.into_decluttered()?)?;
        Ok(plan.run(tvec![])?.first().map(|v| v.clone().into_tensor()))
    }

    /// The declared sizes of an input of the graph.
    fn sizes(&self, name: &str) -> Option<Vec<i64>> {
        let declared = self.graph.input.iter().find(|i| i.name == name)?;
        let type_proto::Value::TensorType(tensor) = declared.r#type.as_ref()?.value.as_ref()?;
        let size = |d: &tract_onnx::pb::tensor_shape_proto::Dimension| match d.value {
            Some(DimValue::DimValue(n)) => Some(n),
            _ => None,
        };
        tensor.shape.as_ref()?.dim.iter().map(size).collect()
    }
}

/// A value as an initializer.
fn constant(name: &str, value: &Tensor) -> TractResult<TensorProto> {
    let plain = super::types::plain(value)?;
    Ok(TensorProto {
        name: name.into(),
        dims: value.shape().iter().map(|&d| d as i64).collect(),
        data_type: super::skeleton::dtype_number(super::types::dtype(plain.datum_type())?),
        raw_data: plain.try_as_plain_ram()?.as_bytes().to_vec(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            write_out(&mut graph, 13);
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
        write_out(&mut graph, 13);
        let count = |op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
        assert_eq!([count("Loop"), count("Neg"), count("Unsqueeze"), count("Concat")], [0, 3, 3, 1]);
        // Without a number that is known it stays.
        let mut graph = dynamic;
        graph.initializer.remove(0);
        write_out(&mut graph, 13);
        assert_eq!(graph.node[0].op_type, "Loop");
    }
}
