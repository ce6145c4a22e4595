//! Element types that no kernel computes in: narrow floats and small integers are widened around the op.
//!
//! Kernels compute in `f32`, some also in `i64` and `i32`; element-wise maps and copies take every type. A node of another
//! kind gets casts on both sides, which are maps. Constants are cast when they are folded, so that weights in 16-bit floats
//! cost nothing at run time.

use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId};
use crate::program::{Join, ReduceKind};
use crate::tensor::DType;

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
        _ if matches!(dtype, F16 | BF16) => match op {
            Op::ScatterElements { join: Join::Replace, .. } | Op::ScatterNd { join: Join::Replace } => None,
            Op::Conv { .. }
            | Op::ConvTranspose { .. }
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalPool { .. }
            | Op::BatchNorm { .. }
            | Op::LayerNorm { .. }
            | Op::GroupNorm { .. }
            | Op::Softmax { .. }
            | Op::EinSum { .. }
            | Op::Reduce { .. }
            | Op::ArgReduce { .. }
            | Op::TopK { .. }
            | Op::Resample { .. }
            | Op::Cumulate { .. }
            | Op::GridSample { .. }
            | Op::RoiAlign { .. }
            | Op::ScatterElements { .. }
            | Op::ScatterNd { .. }
            | Op::Lstm(_)
            | Op::Gru(_)
            | Op::Rnn(_) => Some(F32),
            _ => None,
        },
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

/// Widens all nodes that need it.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        i = widen(net, i);
    }
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
        Net::new(Graph { values, nodes: vec![node], inputs: vec![ValueId(0)], outputs: vec![ValueId(1)], metadata: vec![] })
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
        let mut n = net(Op::Transpose(vec![1, 0]), DType::F16, DType::F16);
        run(&mut n);
        assert_eq!(ops(&n), ["Transpose"]);
    }

    #[test]
    fn places_keep_their_type() {
        let mut n = net(Op::ArgReduce { axis: 1, min: false, last: false }, DType::U8, DType::I64);
        run(&mut n);
        assert_eq!(ops(&n), ["Cast", "ArgReduce"]);
    }
}
