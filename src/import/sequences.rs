//! Sequences of tensors, which tract does not have, written out as the tensors themselves.
//!
//! Where the length of a sequence and the places that are read are known from the file, every operator on it becomes plain
//! ones: `SplitToSequence` and `SequenceAt` a slice, `ConcatFromSequence` a concat. What is not known is left, and refused
//! by name later on.

use super::attributes::{Attributes, int, ints};
use super::hash::HashMap;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

/// What is known of a sequence.
#[derive(Clone)]
enum Sequence {
    /// Its tensors, by name.
    Known(Vec<String>),
    /// Pieces of one tensor along an axis, each of `size` (the last may be smaller); without the axis, if `drop` is set.
    Split { of: String, axis: i64, size: i64, drop: bool },
}

/// Constants of a graph: initializers and `Constant` nodes that hold small integers.
pub(super) fn constants(graph: &GraphProto) -> HashMap<String, Vec<i64>> {
    let mut known: HashMap<String, Vec<i64>> = HashMap::default();
    for tensor in &graph.initializer {
        if let Some(values) = integers(tensor) {
            known.insert(tensor.name.clone(), values);
        }
    }
    for node in graph.node.iter().filter(|n| n.op_type == "Constant") {
        let a = Attributes(node);
        let tensor = node.attribute.iter().find(|a| a.name == "value").and_then(|a| a.t.as_ref()).and_then(integers);
        let plain = if a.has("value_int") { Some(vec![a.int("value_int", 0)]) } else { a.ints("value_ints").map(|v| v.to_vec()) };
        if let (Some(values), Some(name)) = (tensor.or(plain), node.output.first()) {
            known.insert(name.clone(), values);
        }
    }
    known
}

/// The elements of a small tensor of 64-bit or 32-bit integers, or booleans.
fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let count = tensor.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d)).filter(|n| (0..=64).contains(n))? as usize;
    let raw = &tensor.raw_data;
    let values: Vec<i64> = match tensor.data_type {
        7 if raw.is_empty() => tensor.int64_data.clone(),
        7 => raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect(),
        6 if !raw.is_empty() => {
            raw.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap_or_default()).into()).collect()
        }
        9 if !raw.is_empty() => raw.iter().map(|&b| (b != 0).into()).collect(),
        6 | 9 => tensor.int32_data.iter().map(|&v| v.into()).collect(),
        _ => return None,
    };
    (values.len() == count).then_some(values)
}

/// Writes out all operators on sequences that are known.
pub(super) fn write_out(graph: &mut GraphProto) {
    let on_sequences = |n: &NodeProto| n.op_type.contains("Sequence");
    if !graph.node.iter().any(on_sequences) {
        return;
    }
    let constants = constants(graph);
    let mut known: HashMap<String, Sequence> = HashMap::default();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        let written = if on_sequences(&node) { expand(&node, &constants, &mut known, &mut graph.initializer) } else { None };
        match written {
            Some(written) => nodes.extend(written),
            None => nodes.push(node),
        }
    }
    graph.node = nodes;
}

/// The nodes that stand for an operator on sequences; `None` where too little is known.
fn expand(
    node: &NodeProto,
    constants: &HashMap<String, Vec<i64>>,
    known: &mut HashMap<String, Sequence>,
    initializers: &mut Vec<TensorProto>,
) -> Option<Vec<NodeProto>> {
    let a = Attributes(node);
    let out = node.output.first()?.clone();
    let input = |i: usize| node.input.get(i).filter(|n| !n.is_empty());
    let number = |i: usize| Some(*constants.get(input(i)?)?.first()?);
    let list = |known: &HashMap<String, Sequence>| match known.get(input(0)?) {
        Some(Sequence::Known(list)) => Some(list.clone()),
        _ => None,
    };
    let place = |at: i64, len: usize| usize::try_from(if at < 0 { at + len as i64 } else { at }).ok().filter(|&i| i <= len);
    let named = |op: &str, inputs: Vec<String>, attributes| NodeProto {
        op_type: op.into(),
        name: node.name.clone(),
        input: inputs,
        output: vec![out.clone()],
        attribute: attributes,
        ..Default::default()
    };
    let mut constant = |what: &str, values: Vec<i64>| {
        let name = format!("{out}.{what}");
        initializers.push(TensorProto {
            name: name.clone(),
            dims: vec![values.len() as i64],
            data_type: 7,
            int64_data: values,
            ..Default::default()
        });
        name
    };
    let sequence = match &*node.op_type {
        "SequenceEmpty" => Sequence::Known(vec![]),
        "SequenceConstruct" => Sequence::Known(node.input.clone()),
        "SplitToSequence" => {
            let (axis, of) = (a.int("axis", 0), input(0)?.clone());
            let sizes = match input(1) {
                Some(name) => Some(constants.get(name)?),
                None => None,
            };
            match sizes.map(|s| &s[..]) {
                None => Sequence::Split { of, axis, size: 1, drop: a.int("keepdims", 1) == 0 },
                Some(&[size]) => Sequence::Split { of, axis, size, drop: false },
                Some(sizes) => {
                    // One slice a piece.
                    let mut nodes = vec![];
                    let (mut names, mut start) = (vec![], 0);
                    for (i, size) in sizes.iter().enumerate() {
                        let name = format!("{out}.{i}");
                        let bound = |v: i64, what: &str, constant: &mut dyn FnMut(&str, Vec<i64>) -> String| {
                            constant(&format!("{i}.{what}"), vec![v])
                        };
                        let (from, to) = (bound(start, "start", &mut constant), bound(start + size, "end", &mut constant));
                        let along = bound(axis, "axis", &mut constant);
                        let slice = named("Slice", vec![of.clone(), from, to, along], vec![]);
                        nodes.push(NodeProto { output: vec![name.clone()], name: name.clone(), ..slice });
                        names.push(name);
                        start += size;
                    }
                    known.insert(out, Sequence::Known(names));
                    return Some(nodes);
                }
            }
        }
        "SequenceInsert" => {
            let mut list = list(known)?;
            let at = match input(2) {
                Some(_) => place(number(2)?, list.len())?,
                None => list.len(),
            };
            list.insert(at, input(1)?.clone());
            Sequence::Known(list)
        }
        "SequenceErase" => {
            let mut list = list(known)?;
            let at = match input(1) {
                Some(_) => place(number(1)?, list.len())?,
                None => list.len().checked_sub(1)?,
            };
            (at < list.len()).then(|| list.remove(at))?;
            Sequence::Known(list)
        }
        "SequenceLength" => {
            if let Some(Sequence::Split { of, axis, size, .. }) = known.get(input(0)?) {
                // The axis by the size of a piece, rounded up.
                let place = |what: &str| format!("{out}.{what}");
                let rest = constant("rest", vec![size - 1]);
                let (size, axis) = (constant("size", vec![*size]), constant("axis", vec![*axis]));
                let steps = [
                    ("Shape", vec![of.clone()], place("shape")),
                    ("Gather", vec![place("shape"), axis], place("whole")),
                    ("Add", vec![place("whole"), rest], place("up")),
                    ("Div", vec![place("up"), size], place("pieces")),
                    ("ReduceSum", vec![place("pieces")], out.clone()),
                ];
                let made = steps.into_iter().map(|(op, inputs, output)| {
                    let attributes = if op == "ReduceSum" { vec![int("keepdims", 0)] } else { vec![] };
                    NodeProto { output: vec![output.clone()], name: output, ..named(op, inputs, attributes) }
                });
                return Some(made.collect());
            }
            let len = list(known)?.len() as i64;
            let length = NodeProto { attribute: vec![int("value_int", len)], ..named("Constant", vec![], vec![]) };
            return Some(vec![length]);
        }
        "SequenceAt" => {
            let at = number(1)?;
            return match known.get(input(0)?)? {
                Sequence::Known(list) => {
                    let at = place(at, list.len()).filter(|&i| i < list.len())?;
                    Some(vec![named("Identity", vec![list[at].clone()], vec![])])
                }
                Sequence::Split { of, axis, size, drop } => {
                    // Counted from the end only where pieces are of one element: the last may be smaller.
                    let (start, end) = match at {
                        -1 if *size == 1 => (-1, i64::MAX),
                        _ if at < 0 && *size == 1 => (at, at + 1),
                        _ if at < 0 => return None,
                        _ => (at * size, (at + 1) * size),
                    };
                    let (of, axis, drop) = (of.clone(), *axis, *drop);
                    let bounds =
                        vec![of, constant("start", vec![start]), constant("end", vec![end]), constant("axis", vec![axis])];
                    let slice = named("Slice", bounds, vec![]);
                    if !drop {
                        return Some(vec![slice]);
                    }
                    let whole = format!("{out}.piece");
                    let axes = constant("axes", vec![axis]);
                    let squeeze = named("Squeeze", vec![whole.clone(), axes], vec![ints("axes", vec![axis])]);
                    Some(vec![NodeProto { output: vec![whole], name: format!("{}.piece", node.name), ..slice }, squeeze])
                }
            };
        }
        "ConcatFromSequence" => {
            let list = list(known)?;
            let axis = a.int("axis", 0);
            if a.int("new_axis", 0) == 0 {
                return Some(vec![named("Concat", list, vec![int("axis", axis)])]);
            }
            let mut nodes = vec![];
            let mut parts = vec![];
            for (i, part) in list.into_iter().enumerate() {
                let name = format!("{out}.part{i}");
                let axes = constant(&format!("axes{i}"), vec![axis]);
                let wide = named("Unsqueeze", vec![part, axes], vec![ints("axes", vec![axis])]);
                nodes.push(NodeProto { output: vec![name.clone()], name: name.clone(), ..wide });
                parts.push(name);
            }
            nodes.push(named("Concat", parts, vec![int("axis", axis)]));
            return Some(nodes);
        }
        _ => return None,
    };
    known.insert(out, sequence);
    Some(vec![])
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

    fn constant(name: &str, values: &[i64]) -> TensorProto {
        TensorProto { name: name.into(), dims: vec![], data_type: 7, int64_data: values.to_vec(), ..Default::default() }
    }

    fn ops(graph: &GraphProto) -> Vec<&str> {
        graph.node.iter().map(|n| &*n.op_type).collect()
    }

    #[test]
    fn pieces_that_are_read_become_slices() {
        let mut split = node("SplitToSequence", &["x", "two"], "s");
        split.attribute.push(int("axis", 1));
        let mut graph = GraphProto {
            initializer: vec![constant("two", &[2]), constant("one", &[1])],
            node: vec![split, node("SequenceAt", &["s", "one"], "y")],
            ..Default::default()
        };
        write_out(&mut graph);
        assert_eq!(ops(&graph), ["Slice"]);
        assert_eq!(graph.node[0].output, ["y"]);
        let known = constants(&graph);
        let value = |i: usize| known[&graph.node[0].input[i]].clone();
        assert_eq!((value(1), value(2), value(3)), (vec![2], vec![4], vec![1]));
    }

    #[test]
    fn lists_are_kept_by_name() {
        let mut concat = node("ConcatFromSequence", &["c"], "y");
        concat.attribute.extend([int("axis", 0), int("new_axis", 1)]);
        let mut graph = GraphProto {
            initializer: vec![constant("zero", &[0])],
            node: vec![
                node("SequenceConstruct", &["a", "b"], "s"),
                node("SequenceInsert", &["s", "d", "zero"], "t"),
                node("SequenceErase", &["t"], "c"),
                node("SequenceLength", &["c"], "n"),
                node("SequenceAt", &["c", "zero"], "first"),
                concat,
            ],
            ..Default::default()
        };
        write_out(&mut graph);
        assert_eq!(ops(&graph), ["Constant", "Identity", "Unsqueeze", "Unsqueeze", "Concat"]);
        assert_eq!(graph.node[1].input, ["d"]);
        assert_eq!(graph.node[0].attribute, [int("value_int", 2)]);
        assert_eq!(graph.node[3].input[0], "a");
    }

    #[test]
    fn what_is_not_known_stays() {
        let mut graph = GraphProto {
            node: vec![node("SplitToSequence", &["x", "sizes"], "s"), node("SequenceAt", &["s", "i"], "y")],
            ..Default::default()
        };
        write_out(&mut graph);
        assert_eq!(ops(&graph), ["SplitToSequence", "SequenceAt"]);
    }

    #[test]
    fn attributes_hold_lists_of_integers() {
        let mut maker = node("Constant", &[], "c");
        maker.attribute.push(ints("value_ints", vec![3, 4]));
        let graph = GraphProto { node: vec![maker], ..Default::default() };
        assert_eq!(constants(&graph)["c"], [3, 4]);
    }
}
