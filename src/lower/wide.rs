//! Element types that no kernel computes in.
//!
//! Kernels compute in `f32`, some also in `f64`, `i64` and `i32`; element-wise maps and copies take every type.
//! * 16-bit floats are a way to store numbers: between the network's inputs, outputs and constants all values are `f32`. That
//!   is what other runtimes do on CPUs, faster, and closer to the truth: a logit of 10 in `f16` is off by up to 0.004, and the
//!   probability made of it by as large a share. Constants are widened when they are packed.
//! * An op that has no kernel for small integers gets casts on both sides, which are maps.

use super::constant::Constant;
use super::net::{Net, made};
use crate::graph::{Bytes, Node, Op, ValueId};
use crate::program::{Join, ReduceKind};
use crate::tensor::DType;
use std::collections::HashMap;
use std::sync::Arc;

/// The type in which a node computes what it gets as `dtype`, if it is another.
fn wider(op: &Op, dtype: DType) -> Option<DType> {
    use DType::*;
    let small = matches!(dtype, I8 | I16 | U8 | U16);
    let integer = match dtype {
        Bool => Some(I32),
        U32 => Some(I64),
        _ if small => Some(I32),
        _ => None,
    };
    match op {
        Op::Reduce { kind: ReduceKind::Sum | ReduceKind::Product | ReduceKind::Max | ReduceKind::Min, .. }
        | Op::ArgReduce { .. }
        | Op::TopK { .. }
        | Op::Cumulate { .. } => integer,
        Op::ScatterElements { join, .. } | Op::ScatterNd { join } if *join != Join::Replace => integer,
        // Exact in 24 bits.
        Op::MaxPool { .. } | Op::GlobalPool { max: true } if small => Some(F32),
        _ => None,
    }
}

/// Widens all values and nodes that need it.
pub(super) fn run(net: &mut Net) {
    halves(net);
    let mut i = 0;
    while i < net.graph.nodes.len() {
        i = widen(net, i);
    }
    net.tidy();
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Makes `f32` of all 16-bit floats but those that are seen as they are: inputs, outputs and constants, operands of a node
/// that is left to the host, and bits that are read as another type.
fn halves(net: &mut Net) {
    let before: Vec<DType> = net.graph.values.iter().map(|v| v.dtype).collect();
    if !before.iter().any(|&d| is_half(d)) {
        return;
    }
    let bits = |net: &Net, node: &Node| match (&node.op, &node.inputs[..], &node.outputs[..]) {
        (Op::Extern { .. } | Op::Quantize { .. } | Op::Dequantize { .. }, ..) => true,
        (Op::Reshape, [Some(x)], [Some(y)]) => net.dtype(*x) != net.dtype(*y),
        _ => false,
    };
    let mut kept: Vec<bool> = (0..before.len()).map(|v| net.constant(ValueId(v)).is_some()).collect();
    let apart: Vec<bool> = net.graph.nodes.iter().map(|node| bits(net, node)).collect();
    for v in net.graph.inputs.iter().chain(&net.graph.outputs) {
        kept[v.0] = true;
    }
    for (node, _) in net.graph.nodes.iter().zip(&apart).filter(|(_, apart)| **apart) {
        node.inputs.iter().chain(&node.outputs).flatten().for_each(|v| kept[v.0] = true);
    }
    for (_, value) in net.graph.values.iter_mut().enumerate().filter(|(v, _)| is_half(before[*v]) && !kept[*v]) {
        value.dtype = DType::F32;
    }
    let mut wide: HashMap<ValueId, ValueId> = HashMap::new();
    let mut nodes = vec![];
    for (mut node, apart) in std::mem::take(&mut net.graph.nodes).into_iter().zip(apart) {
        let narrow = |v: &ValueId| before.get(v.0).is_some_and(|&d| is_half(d));
        let touched = node.inputs.iter().chain(&node.outputs).flatten().find(|v| narrow(v)).map(|v| before[v.0]);
        let Some(dtype) = touched.filter(|_| !apart) else {
            nodes.push(node);
            continue;
        };
        node.recipe = None;
        let cast = matches!(node.op, Op::Cast);
        let copy = |net: &mut Net, v: ValueId| {
            let (name, dims) = (net.name(v).to_string(), net.dims(v).to_vec());
            net.value(name, DType::F32, &dims)
        };
        let mut behind = vec![];
        for slot in 0..node.inputs.len() {
            let Some(v) = node.inputs[slot].filter(|v| narrow(v) && kept[v.0] && !cast) else { continue };
            let widened = *wide.entry(v).or_insert_with(|| {
                let new = copy(net, v);
                nodes.push(made(&node, Op::Cast, &[v], new));
                new
            });
            node.inputs[slot] = Some(widened);
        }
        for slot in 0..node.outputs.len() {
            let Some(v) = node.outputs[slot].filter(|v| narrow(v) && kept[v.0] && !cast) else { continue };
            let new = copy(net, v);
            behind.push(made(&node, Op::Cast, &[new], v));
            node.outputs[slot] = Some(new);
        }
        // The value of padding is given as its bytes.
        if let Op::Pad { value, .. } = &mut node.op
            && let [low, high] = value[..]
        {
            let one = Constant::new(Bytes::Owned(Arc::new([low, high])), dtype, &[1]);
            *value = one.f32s()[0].to_le_bytes().to_vec();
        }
        nodes.push(node);
        nodes.append(&mut behind);
    }
    net.graph.nodes = nodes;
    net.tidy();
}

/// Widens node `i`; gives the number of the next.
fn widen(net: &mut Net, i: usize) -> usize {
    let node = net.graph.nodes[i].clone();
    let Some(narrow) = node.inputs.iter().flatten().next().map(|&v| net.dtype(v)) else { return i + 1 };
    let Some(wide) = wider(&node.op, narrow) else { return i + 1 };
    // Lengths, indices and the like keep their type.
    let mut before: Vec<Node> = vec![];
    let mut after: Vec<Node> = vec![];
    let mut changed = Node { recipe: None, ..node.clone() };
    let mut known: Vec<(ValueId, ValueId)> = vec![];
    for slot in 0..node.inputs.len() {
        let Some(v) = node.inputs[slot].filter(|&v| net.dtype(v) == narrow && !is_index(&node.op, slot)) else { continue };
        let wider = match known.iter().find(|(old, _)| *old == v) {
            Some(&(_, new)) => new,
            None => {
                let (name, dims) = (net.name(v).to_string(), net.dims(v).to_vec());
                let new = net.value(name, wide, &dims);
                before.push(made(&node, Op::Cast, &[v], new));
                known.push((v, new));
                new
            }
        };
        changed.inputs[slot] = Some(wider);
    }
    for slot in 0..node.outputs.len() {
        let Some(v) = node.outputs[slot].filter(|&v| net.dtype(v) == narrow) else { continue };
        let (name, dims) = (net.name(v).to_string(), net.dims(v).to_vec());
        let new = net.value(name, wide, &dims);
        after.push(made(&node, Op::Cast, &[new], v));
        changed.outputs[slot] = Some(new);
    }
    let next = i + before.len() + 1 + after.len();
    let mut nodes = before;
    nodes.push(changed);
    nodes.append(&mut after);
    net.graph.nodes.splice(i..i + 1, nodes);
    next
}

/// Whether an input of an op holds indices.
fn is_index(op: &Op, slot: usize) -> bool {
    match op {
        Op::ScatterElements { .. } | Op::ScatterNd { .. } | Op::Resample { .. } => slot == 1,
        Op::Lstm(_) | Op::Gru(_) | Op::Rnn(_) => slot == 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, Value};

    fn net(op: Op, dtype: DType, out: DType) -> Net {
        let value = |name: &str, dtype| Value { name: name.into(), dtype, dims: vec![2, 3], constant: None };
        let node = Node {
            name: "n".into(),
            op_type: "N".into(),
            op,
            inputs: vec![Some(ValueId(0))],
            outputs: vec![Some(ValueId(1))],
            recipe: Some(7),
        };
        let values = vec![value("x", dtype), value("y", out)];
        Net::new(Graph { values, nodes: vec![node], inputs: vec![ValueId(0)], outputs: vec![ValueId(1)], ..Graph::default() })
    }

    fn ops(net: &Net) -> Vec<String> {
        net.graph.nodes.iter().map(|n| format!("{:?}", n.op).split([' ', '{', '(']).next().unwrap().to_string()).collect()
    }

    #[test]
    fn casts_stand_on_both_sides() {
        let mut n = net(Op::Softmax { axis: 1, log: false }, DType::F16, DType::F16);
        run(&mut n);
        assert_eq!(ops(&n), ["Cast", "Softmax", "Cast"]);
        let inner = &n.graph.nodes[1];
        assert_eq!((n.dtype(inner.inputs[0].unwrap()), n.dtype(inner.outputs[0].unwrap())), (DType::F32, DType::F32));
        assert!(inner.recipe.is_none(), "the importer's recipe is for the narrow type");
        assert!(n.is_output(n.graph.nodes[2].outputs[0].unwrap()));
    }

    #[test]
    fn what_is_computed_as_it_is_stays() {
        let mut n = net(Op::Softmax { axis: 1, log: false }, DType::F32, DType::F32);
        run(&mut n);
        assert_eq!((ops(&n), n.graph.nodes[0].recipe), (vec!["Softmax".to_string()], Some(7)));
        let mut n = net(Op::Transpose(vec![1, 0]), DType::U8, DType::U8);
        run(&mut n);
        assert_eq!(ops(&n), ["Transpose"]);
    }

    #[test]
    fn between_input_and_output_floats_are_wide() {
        let mut n = net(Op::Transpose(vec![1, 0]), DType::F16, DType::F16);
        // A second op behind it: the value between the two is widened, not rounded.
        let node = n.graph.nodes[0].clone();
        let between = n.value("t", DType::F16, &[3, 2]);
        n.graph.nodes[0].outputs = vec![Some(between)];
        let second = made(&node, Op::Softmax { axis: 1, log: false }, &[between], ValueId(1));
        n.insert(1, vec![second]);
        n.index();
        run(&mut n);
        assert_eq!(ops(&n), ["Cast", "Transpose", "Softmax", "Cast"]);
        assert_eq!(n.dtype(between), DType::F32);
        assert_eq!([0, 1].map(|v| n.dtype(ValueId(v))), [DType::F16; 2]);
    }

    #[test]
    fn what_is_left_to_the_host_keeps_its_type() {
        let mut n = net(Op::Extern { reason: "no reason".into() }, DType::F16, DType::F16);
        run(&mut n);
        assert_eq!((ops(&n), n.graph.nodes[0].recipe), (vec!["Extern".to_string()], Some(7)));
    }

    #[test]
    fn places_keep_their_type() {
        let mut n = net(Op::ArgReduce { axis: 1, min: false, last: false }, DType::U8, DType::I64);
        run(&mut n);
        assert_eq!(ops(&n), ["Cast", "ArgReduce"]);
    }
}
