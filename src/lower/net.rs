//! The graph while it is rewritten: its values, which of them are constants, who makes and who reads them.
//!
//! A rewrite replaces the last node of what it matched and leaves the others, which [`Net::tidy`] removes when nobody reads
//! them any more. So the order of nodes stays one in which they can run.

use super::constant::Constant;
use crate::graph::{Graph, Node, Op, Value, ValueId};
use crate::program::{Binary, Unary};
use crate::tensor::DType;

/// A graph with its uses.
pub(super) struct Net {
    pub graph: Graph,
    constants: Vec<Option<Constant>>,
    producers: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    /// The network takes one step of a stream at a time: recurrent cells keep their state.
    pub streamed: bool,
}

impl Net {
    pub fn new(graph: Graph) -> Net {
        let constant = |v: &Value| v.constant.clone().map(|bytes| Constant::new(bytes, v.dtype, &v.dims));
        let constants = graph.values.iter().map(constant).collect();
        let mut net = Net { graph, constants, producers: vec![], readers: vec![], streamed: false };
        net.tidy();
        net
    }

    pub fn dims(&self, v: ValueId) -> &[usize] {
        &self.graph.values[v.0].dims
    }

    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.values[v.0].dtype
    }

    pub fn name(&self, v: ValueId) -> &str {
        &self.graph.values[v.0].name
    }

    pub fn constant(&self, v: ValueId) -> Option<&Constant> {
        self.constants[v.0].as_ref()
    }

    pub fn set_constant(&mut self, v: ValueId, constant: Constant) {
        self.constants[v.0] = Some(constant);
    }

    /// Whether the importer knows the value as a constant too.
    pub fn was_constant(&self, v: ValueId) -> bool {
        self.graph.values[v.0].constant.is_some()
    }

    /// A new value.
    pub fn value(&mut self, name: impl Into<String>, dtype: DType, dims: &[usize]) -> ValueId {
        self.graph.values.push(Value { name: name.into(), dtype, dims: dims.to_vec(), constant: None });
        self.constants.push(None);
        self.producers.push(None);
        self.readers.push(vec![]);
        ValueId(self.graph.values.len() - 1)
    }

    /// A new constant of `f32`.
    pub fn constant_f32(&mut self, name: impl Into<String>, values: &[f32], dims: &[usize]) -> ValueId {
        let v = self.value(name, DType::F32, dims);
        self.set_constant(v, Constant::of_f32(values, dims));
        v
    }

    /// The node that makes a value; none for inputs and constants.
    pub fn producer(&self, v: ValueId) -> Option<usize> {
        if self.constants[v.0].is_some() { None } else { self.producers[v.0] }
    }

    /// Whether a value is wanted when the run is over: an output, or the length of one.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.graph.outputs.contains(&v) || self.graph.lengths.iter().any(|length| length.count == v)
    }

    /// The nodes that read a value.
    pub fn readers(&self, v: ValueId) -> &[usize] {
        &self.readers[v.0]
    }

    /// Whether anybody wants a value.
    pub fn is_wanted(&self, v: ValueId) -> bool {
        !self.readers[v.0].is_empty() || self.is_output(v)
    }

    /// The node that alone reads a value which is not an output.
    pub fn only_reader(&self, v: ValueId) -> Option<usize> {
        match self.readers[v.0][..] {
            [reader] if !self.is_output(v) => Some(reader),
            _ => None,
        }
    }

    /// The node that makes a value, if it is one of one output.
    pub fn node_of(&self, v: ValueId) -> Option<&Node> {
        self.producer(v).map(|i| &self.graph.nodes[i]).filter(|n| n.outputs.len() == 1)
    }

    /// The operands, if a value is this function of two others.
    pub fn binary(&self, v: ValueId, f: Binary) -> Option<[ValueId; 2]> {
        match self.node_of(v) {
            Some(Node { op: Op::Binary(g), inputs, .. }) if *g == f => Some([inputs[0]?, inputs[1]?]),
            _ => None,
        }
    }

    /// The function, its parameters and its operand, if a value is a function of one other.
    pub fn unary(&self, v: ValueId) -> Option<(Unary, [f32; 2], ValueId)> {
        match self.node_of(v) {
            Some(Node { op: Op::Unary(f, p), inputs, .. }) => Some((*f, *p, inputs[0]?)),
            _ => None,
        }
    }

    /// All `(x, a, b)` with `v = a * x + b` that affine nodes say, from `v` itself inwards.
    pub fn affine(&self, v: ValueId) -> Vec<(ValueId, f32, f32)> {
        let mut all = vec![(v, 1.0, 0.0)];
        let (mut x, mut a, mut b) = (v, 1.0, 0.0);
        while let Some((Unary::Affine, p, inner)) = self.unary(x) {
            b += a * p[1];
            a *= p[0];
            x = inner;
            all.push((x, a, b));
        }
        all
    }

    /// The value of all elements of a constant, if they agree.
    pub fn uniform(&self, v: ValueId) -> Option<f32> {
        self.constant(v)?.uniform()
    }

    /// Replaces what node `i` computes. The importer's recipe for it no longer holds.
    pub fn replace(&mut self, i: usize, op: Op, inputs: &[ValueId]) {
        let node = &mut self.graph.nodes[i];
        node.op = op;
        node.inputs = inputs.iter().map(|&v| Some(v)).collect();
        node.recipe = None;
        self.index();
    }

    /// Removes nodes whose outputs nobody reads, and indexes the rest.
    pub fn tidy(&mut self) {
        let mut needed = vec![false; self.graph.values.len()];
        let counts = self.graph.lengths.iter().map(|length| &length.count);
        for v in self.graph.outputs.iter().chain(counts) {
            needed[v.0] = true;
        }
        let mut keep = vec![false; self.graph.nodes.len()];
        for (i, node) in self.graph.nodes.iter().enumerate().rev() {
            let wanted = |v: &ValueId| needed[v.0] && self.constants[v.0].is_none();
            keep[i] = node.outputs.iter().flatten().any(wanted);
            if keep[i] {
                for v in node.inputs.iter().flatten() {
                    needed[v.0] = true;
                }
            }
        }
        let mut keep = keep.into_iter();
        self.graph.nodes.retain(|_| keep.next().unwrap_or(true));
        self.index();
    }

    /// Finds out who makes and who reads each value.
    pub fn index(&mut self) {
        let n = self.graph.values.len();
        self.producers.clear();
        self.producers.resize(n, None);
        // Done after every rewrite: lists keep their memory.
        self.readers.iter_mut().for_each(Vec::clear);
        self.readers.resize(n, vec![]);
        for (i, node) in self.graph.nodes.iter().enumerate() {
            for v in node.inputs.iter().flatten() {
                if self.readers[v.0].last() != Some(&i) {
                    self.readers[v.0].push(i);
                }
            }
            for v in node.outputs.iter().flatten() {
                self.producers[v.0] = Some(i);
            }
        }
    }

    /// Puts nodes before node `i`, for rewrites that make several of one. Call [`Net::index`] or [`Net::tidy`] after it.
    pub fn insert(&mut self, i: usize, nodes: Vec<Node>) {
        self.graph.nodes.splice(i..i, nodes);
    }
}

/// A node that lowering made, in the name of another.
pub(super) fn made(like: &Node, op: Op, inputs: &[ValueId], output: ValueId) -> Node {
    Node {
        name: like.name.clone(),
        op_type: like.op_type.clone(),
        op,
        inputs: inputs.iter().map(|&v| Some(v)).collect(),
        outputs: vec![Some(output)],
        recipe: None,
    }
}
