//! What a network of maps is lowered to, run: how many copies there are, and whether the numbers are right.

use super::{Options, lower};
use crate::aligned::AlignedBytes;
use crate::exec::Session;
use crate::graph::{Graph, Node, Op, Value, ValueId, Window};
use crate::kernels::Isa;
use crate::program::OpKind;
use crate::tensor::DType;
use crate::{Image, ops, plan};

/// A network under construction: value 0 is the input, the last one the output.
struct Sketch {
    graph: Graph,
}

impl Sketch {
    fn new(dims: &[usize]) -> Sketch {
        let x = Value { name: "x".into(), dtype: DType::F32, dims: dims.to_vec(), constant: None };
        let graph = Graph { values: vec![x], nodes: vec![], inputs: vec![ValueId(0)], outputs: vec![], metadata: vec![] };
        Sketch { graph }
    }

    fn add(&mut self, op: Op, inputs: &[usize], dims: &[usize]) -> usize {
        let out = self.graph.values.len();
        let name = format!("v{out}");
        self.graph.values.push(Value { name: name.clone(), dtype: DType::F32, dims: dims.to_vec(), constant: None });
        let inputs = inputs.iter().map(|&v| Some(ValueId(v))).collect();
        let outputs = vec![Some(ValueId(out))];
        self.graph.nodes.push(Node { name, op_type: "N".into(), op, inputs, outputs, recipe: None });
        out
    }

    /// The maximum over the 3x3 pixels around each.
    fn pool(&mut self, x: usize) -> usize {
        let window =
            Window { kernel: vec![3, 3], strides: vec![1, 1], dilations: vec![1, 1], before: vec![1, 1], after: vec![1, 1] };
        let dims = self.graph.values[x].dims.clone();
        self.add(Op::MaxPool { window }, &[x], &dims)
    }

    fn concat(&mut self, inputs: &[usize]) -> usize {
        let mut dims = self.graph.values[inputs[0]].dims.clone();
        dims[1] = inputs.iter().map(|&v| self.graph.values[v].dims[1]).sum();
        self.add(Op::Concat { axis: 1 }, inputs, &dims)
    }

    /// The number of copies in the program, and its answer where element i of the input is `i * 37 % 101`.
    fn run(mut self) -> (usize, Vec<f32>) {
        self.graph.outputs = vec![ValueId(self.graph.values.len() - 1)];
        let lowered = lower(self.graph, &Options::default()).unwrap();
        let copies = lowered.model.programs[0].ops.iter().filter(|op| op.kind == OpKind::Copy).count();
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = Image::new(&built.image).unwrap();
        let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), 64);
        let mut session = Session::new(&image, ops::set(Isa::detect()).unwrap(), &mut arena).unwrap();
        let numbers = (0..).map(|i| (i * 37 % 101) as f32);
        session.input::<f32>(0).unwrap().iter_mut().zip(numbers).for_each(|(x, v)| *x = v);
        session.run().unwrap();
        (copies, session.output::<f32>(0).unwrap().to_vec())
    }
}

/// The maxima over the 3x3 pixels around each, of planes of 5 by 4.
fn pooled(x: &[f32]) -> Vec<f32> {
    let (h, w) = (5, 4);
    let near = |i: usize, n: usize| i.saturating_sub(1)..(i + 2).min(n);
    let at = |i: usize| {
        let (plane, y, x0) = (i / (h * w), i / w % h, i % w);
        let pixels = near(y, h).flat_map(|y| near(x0, w).map(move |x| plane * h * w + y * w + x));
        pixels.map(|i| x[i]).fold(f32::NEG_INFINITY, f32::max)
    };
    (0..x.len()).map(at).collect()
}

fn input(channels: usize) -> Vec<f32> {
    (0..channels * 20).map(|i| (i * 37 % 101) as f32).collect()
}

#[test]
fn nested_concats_are_one_buffer() {
    let mut net = Sketch::new(&[1, 3, 5, 4]);
    let a = net.pool(0);
    let b = net.pool(a);
    let two = net.concat(&[a, b]);
    let c = net.pool(two);
    let three = net.concat(&[a, b, c]);
    let d = net.pool(three);
    let four = net.concat(&[a, b, c, d]);
    net.pool(four);
    let (copies, got) = net.run();
    // To channels last, and back.
    assert_eq!(copies, 2);
    let a = pooled(&input(3));
    let b = pooled(&a);
    let c = pooled(&[&a[..], &b].concat());
    let d = pooled(&[&a[..], &b, &c].concat());
    assert_eq!(got, pooled(&[a, b, c, d].concat()));
}
