//! What a network of maps is lowered to, run: how many copies there are, and whether the numbers are right.

use super::{Options, lower};
use crate::aligned::AlignedBytes;
use crate::exec::Session;
use crate::graph::{Bytes, Graph, Length, Node, Op, Value, ValueId, Window};
use crate::kernels::Isa;
use crate::program::index::Join;
use crate::program::{Binary, OpKind, Unary};
use crate::tensor::DType;
use crate::{Image, ops, plan};

/// A network under construction: value 0 is the input, the last one the output.
struct Sketch {
    graph: Graph,
}

impl Sketch {
    fn new(dims: &[usize]) -> Sketch {
        let x = Value { name: "x".into(), dtype: DType::F32, dims: dims.to_vec(), constant: None };
        let graph = Graph { values: vec![x], nodes: vec![], inputs: vec![ValueId(0)], outputs: vec![], ..Graph::default() };
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

    fn indices(&mut self, numbers: &[i64], dims: &[usize]) -> usize {
        let bytes: Vec<u8> = numbers.iter().flat_map(|i| i.to_le_bytes()).collect();
        let constant = Some(Bytes::Owned(bytes.into()));
        self.graph.values.push(Value { name: "indices".into(), dtype: DType::I64, dims: dims.to_vec(), constant });
        self.graph.values.len() - 1
    }

    fn constant(&mut self, dims: &[usize], elements: Vec<f32>) -> usize {
        let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        let constant = Some(Bytes::Owned(bytes.into()));
        self.graph.values.push(Value { name: "constant".into(), dtype: DType::F32, dims: dims.to_vec(), constant });
        self.graph.values.len() - 1
    }

    fn concat(&mut self, inputs: &[usize]) -> usize {
        let mut dims = self.graph.values[inputs[0]].dims.clone();
        dims[1] = inputs.iter().map(|&v| self.graph.values[v].dims[1]).sum();
        self.add(Op::Concat { axis: 1 }, inputs, &dims)
    }

    /// The number of copies in the program, and its answer where element i of the input is `i * 37 % 101`.
    fn run(self) -> (usize, Vec<f32>) {
        let (kinds, answer) = self.answer();
        (kinds.iter().filter(|kind| **kind == OpKind::Copy).count(), answer)
    }

    /// The kinds of the program's ops, and its answer to the same input.
    fn answer(self) -> (Vec<OpKind>, Vec<f32>) {
        let (kinds, _, answer) = self.evaluate();
        (kinds, answer)
    }

    /// The same, and the bytes of each of its weights.
    fn evaluate(mut self) -> (Vec<OpKind>, Vec<u64>, Vec<f32>) {
        self.graph.outputs = vec![ValueId(self.graph.values.len() - 1)];
        let lowered = lower(self.graph, &Options::default()).unwrap();
        let kinds = lowered.model.programs[0].ops.iter().map(|op| op.kind).collect();
        let weights = lowered.model.weights.iter().map(|w| w.bytes).collect();
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = Image::new(&built.image).unwrap();
        let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), 64);
        let mut session = Session::new(&image, ops::set(Isa::detect()).unwrap(), &mut arena).unwrap();
        let numbers = (0..).map(|i| (i * 37 % 101) as f32);
        session.input::<f32>(0).unwrap().iter_mut().zip(numbers).for_each(|(x, v)| *x = v);
        session.run().unwrap();
        (kinds, weights, session.output::<f32>(0).unwrap().to_vec())
    }
}

/// A single row times weights of 4.3 MB, which lie in slabs of 512 columns: stored by columns, by rows, and scaled.
#[test]
fn large_weights_of_a_single_row_lie_in_slabs() {
    let (k, n) = (1800, 600);
    let weight = |d: usize, j: usize| ((d * 7 + j * 3) % 13) as f32 - 6.0;
    for (by_columns, scaled) in [(true, false), (false, false), (true, true)] {
        let mut net = Sketch::new(&[1, k]);
        let middle = net.constant(&[1, k], vec![50.0; k]);
        let x = net.add(Op::Binary(Binary::Sub), &[0, middle], &[1, k]);
        let x = net.add(Op::Unary(Unary::Clip, [0.0, f32::INFINITY]), &[x], &[1, k]);
        let (w, letters) = match by_columns {
            true => (net.constant(&[n, k], (0..n * k).map(|i| weight(i % k, i / k)).collect()), "nk"),
            false => (net.constant(&[k, n], (0..n * k).map(|i| weight(i / n, i % n)).collect()), "kn"),
        };
        let op = Op::EinSum { inputs: vec!["mk".into(), letters.into()], output: "mn".into() };
        let y = net.add(op, &[x, w], &[1, n]);
        if scaled {
            let factors = net.constant(&[1, n], (0..n).map(|j| (j % 5) as f32).collect());
            net.add(Op::Binary(Binary::Mul), &[y, factors], &[1, n]);
        }
        let (_, weights, got) = net.evaluate();
        assert!(weights.contains(&(4 * (1800 * 608 + 2 * 16))), "{weights:?}");
        let x: Vec<f32> = (0..k).map(|i| ((i * 37 % 101) as f32 - 50.0).max(0.0)).collect();
        for (j, got) in got.iter().enumerate() {
            let sum: f32 = (0..k).map(|d| x[d] * weight(d, j)).sum();
            assert_eq!(*got, if scaled { sum * (j % 5) as f32 } else { sum }, "column {j}");
        }
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

#[test]
fn windows_that_a_constant_names_are_copied_not_gathered() {
    // Three windows of four, two apart, of both rows of 8.
    let mut net = Sketch::new(&[2, 8]);
    let windows = net.indices(&[0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7], &[3, 4]);
    net.add(Op::Gather { axis: 1 }, &[0, windows], &[2, 3, 4]);
    let (kinds, got) = net.answer();
    assert_eq!(kinds, [OpKind::Copy]);
    let x = |row: usize, i: usize| ((row * 8 + i) * 37 % 101) as f32;
    let want: Vec<f32> = (0..24).map(|i| x(i / 12, i / 4 % 3 * 2 + i % 4)).collect();
    assert_eq!(got, want);
}

#[test]
fn elements_that_constant_tuples_name_are_scattered_and_gathered_by_rows() {
    // x[1..3, 2..5] = x[0..2, 0..3], element by element; then the places [1, 2], [2, -1], [0, 0].
    let mut net = Sketch::new(&[3, 6]);
    let (to, from): (Vec<i64>, Vec<i64>) = (0..2).flat_map(|r| (0..3).flat_map(move |c| [(r + 1, r), (c + 2, c)])).unzip();
    let (to, from) = (net.indices(&to, &[2, 3, 2]), net.indices(&from, &[2, 3, 2]));
    let part = net.add(Op::GatherNd { batch: 0 }, &[0, from], &[2, 3]);
    let whole = net.add(Op::ScatterNd { join: Join::Replace }, &[0, to, part], &[3, 6]);
    let places = net.indices(&[1, 2, 2, -1, 0, 0, 1, 4], &[4, 2]);
    net.add(Op::GatherNd { batch: 0 }, &[whole, places], &[4]);
    let lowered = lower(
        {
            let mut graph = net.graph.clone();
            graph.outputs = vec![ValueId(graph.values.len() - 1)];
            graph
        },
        &Options::default(),
    )
    .unwrap();
    let program = &lowered.model.programs[0];
    let tuples: Vec<u32> = program
        .ops
        .iter()
        .filter(|op| matches!(op.kind, OpKind::Scatter | OpKind::GatherNd))
        .map(|op| program.values[op.inputs[1].unwrap().0 as usize].dims.iter().product())
        .collect();
    // Two rows each of the first two, then four single elements.
    assert_eq!(tuples, [2, 2, 4]);
    let (_, got) = net.answer();
    let x = |r: usize, c: usize| ((r * 6 + c) * 37 % 101) as f32;
    assert_eq!(got, [x(0, 0), x(2, 5), x(0, 0), x(0, 2)]);
}

#[test]
fn a_channel_shuffle_is_one_copy_and_halves_are_read_in_place() {
    let mut net = Sketch::new(&[1, 8, 5, 4]);
    let a = net.pool(0);
    let halves = net.add(Op::Reshape, &[a], &[1, 2, 4, 5, 4]);
    let mixed = net.add(Op::Transpose(vec![0, 2, 1, 3, 4]), &[halves], &[1, 4, 2, 5, 4]);
    let mixed = net.add(Op::Reshape, &[mixed], &[1, 8, 5, 4]);
    let first = net.add(Op::Slice { axis: 1, start: 0, step: 1 }, &[mixed], &[1, 4, 5, 4]);
    let second = net.add(Op::Slice { axis: 1, start: 4, step: 1 }, &[mixed], &[1, 4, 5, 4]);
    let b = net.pool(second);
    let whole = net.concat(&[first, b]);
    net.pool(whole);
    let (copies, got) = net.run();
    // To channels last, the shuffle, the first half into the concat, and back.
    assert_eq!(copies, 4);
    let a = pooled(&input(8));
    let mixed: Vec<f32> = (0..8).flat_map(|c| a[(c % 2 * 4 + c / 2) * 20..][..20].to_vec()).collect();
    assert_eq!(got, pooled(&[&mixed[..80], &pooled(&mixed[80..])].concat()));
}

#[test]
fn axes_of_one_element_do_not_part_a_product_from_what_follows() {
    let mut net = Sketch::new(&[2, 3]);
    let op = Op::EinSum { inputs: vec!["mk".into(), "nk".into()], output: "mn".into() };
    let y = net.add(op, &[0, 0], &[2, 2]);
    let y = net.add(Op::Reshape, &[y], &[1, 2, 2]);
    let y = net.add(Op::Transpose(vec![1, 0, 2]), &[y], &[2, 1, 2]);
    let y = net.add(Op::Unary(Unary::Neg, [0.0; 2]), &[y], &[2, 1, 2]);
    // A part of the input, and one row of it for both.
    let part = net.add(Op::Slice { axis: 1, start: 1, step: 1 }, &[0], &[2, 2]);
    let part = net.add(Op::Reshape, &[part], &[2, 1, 2]);
    net.add(Op::Binary(Binary::Add), &[y, part], &[2, 1, 2]);
    let (kinds, got) = net.answer();
    assert_eq!(kinds.iter().filter(|kind| **kind == OpKind::Map).count(), 0, "{kinds:?}");
    let x = input(1);
    let dot = |i: usize, j: usize| (0..3).map(|k| x[3 * i + k] * x[3 * j + k]).sum::<f32>();
    let want: Vec<f32> = (0..4).map(|i| x[i / 2 * 3 + 1 + i % 2] - dot(i / 2, i % 2)).collect();
    assert_eq!(got, want);
}

#[test]
fn axes_of_one_element_are_taken_out_behind_a_join() {
    let mut net = Sketch::new(&[1, 3, 5, 4]);
    let tall = net.add(Op::Reshape, &[0], &[1, 1, 15, 4]);
    let (a, b) = (net.pool(tall), net.pool(tall));
    let parts = [a, b].map(|v| net.add(Op::Reshape, &[v], &[15, 4]));
    net.add(Op::Concat { axis: 0 }, &parts, &[30, 4]);
    let (copies, got) = net.run();
    assert_eq!((copies, got.len()), (0, 120));
    assert_eq!(got[..60], got[60..]);
}

/// x `[2, 4]`, its negation `[4, 2]` transposed, and the place of the largest of its first row, plus 1: a number of its own that no
/// node reads; then 1 + 1; then n, an input.
fn with_counts() -> (Graph, [ValueId; 4]) {
    let mut net = Sketch::new(&[2, 4]);
    net.graph.values.push(Value { name: "n".into(), dtype: DType::I64, dims: vec![1], constant: None });
    net.graph.inputs.push(ValueId(1));
    let moved = net.add(Op::Transpose(vec![1, 0]), &[0], &[4, 2]);
    let y = net.add(Op::Unary(Unary::Neg, [0.0; 2]), &[moved], &[4, 2]);
    let one = net.indices(&[1], &[1]);
    let row = net.add(Op::Slice { axis: 0, start: 0, step: 1 }, &[0], &[1, 4]);
    let place = net.add(Op::ArgReduce { axis: 1, min: false, last: false }, &[row], &[1, 1]);
    let flat = net.add(Op::Reshape, &[place], &[1]);
    let next = net.add(Op::Binary(Binary::Add), &[flat, one], &[1]);
    let two = net.add(Op::Binary(Binary::Add), &[one, one], &[1]);
    for v in [place, flat, next, two] {
        net.graph.values[v].dtype = DType::I64;
    }
    net.graph.outputs = vec![ValueId(y), ValueId(0)];
    (net.graph, [ValueId(next), ValueId(two), ValueId(1), ValueId(y)])
}

fn length(output: usize, axis: usize, count: ValueId) -> Length {
    Length { output, axis, count }
}

#[test]
fn lengths_are_computed_constants_inputs_or_outputs() {
    let (mut graph, [next, two, n, _]) = with_counts();
    graph.lengths = vec![length(0, 0, next), length(1, 1, n), length(0, 1, two), length(1, 0, two)];
    let run = |graph: Graph| {
        let outputs = graph.outputs.len();
        let lowered = lower(graph, &Options::default()).unwrap();
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = Image::new(&built.image).unwrap();
        let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), 64);
        let mut session = Session::new(&image, ops::set(Isa::detect()).unwrap(), &mut arena).unwrap();
        let dims = |place: usize, n: i64| {
            session.input::<f32>(0).unwrap().fill(0.0);
            session.input::<f32>(0).unwrap()[place] = 1.0;
            session.input::<i64>(1).unwrap()[0] = n;
            session.run().unwrap();
            (0..outputs).map(|i| session.output_dims(i).unwrap().to_vec()).collect::<Vec<_>>()
        };
        [(0, 0), (2, 4), (3, 5)].map({
            let mut dims = dims;
            move |(place, n)| dims(place, n)
        })
    };
    let want = [(1, 0), (3, 4), (4, 4)].map(|(rows, columns)| vec![vec![rows, 2], vec![2, columns]]);
    assert_eq!(run(graph.clone()), want);
    // The same, where two of them are outputs too.
    graph.outputs.extend([next, n]);
    let want = want.map(|dims| [dims, vec![vec![1]; 2]].concat());
    assert_eq!(run(graph), want);
}

#[test]
fn lengths_that_make_no_sense_or_are_of_a_stream_are_refused() {
    let (graph, [next, _, _, y]) = with_counts();
    let error = |length: Length, stream: bool| {
        let graph = Graph { lengths: vec![length], ..graph.clone() };
        lower(graph, &Options { stream }).map(|_| ()).unwrap_err().to_string()
    };
    for bad in [length(2, 0, next), length(0, 2, next), length(0, 0, y), length(0, 0, ValueId(0))] {
        assert!(error(bad, false).contains("can't be the length"), "{bad:?}");
    }
    let refused = error(length(1, 0, next), true);
    assert!(refused.contains("\"x\" has an axis whose length each run decides"), "{refused}");
}

/// A transposed convolution by its definition: each input adds its products to the outputs that its window covers.
fn scattered(x: &[f32], w: &[f32], [groups, c, o]: [usize; 3], size: [usize; 2], to: [usize; 2], window: &Window) -> Vec<f32> {
    let (kernel, mut y) = (&window.kernel, vec![0.0; groups * o * to[0] * to[1]]);
    for (i, x) in x.iter().enumerate() {
        let (channel, iy, ix) = (i / (size[0] * size[1]), i / size[1] % size[0], i % size[1]);
        for j in 0..o * kernel[0] * kernel[1] {
            let (out, ky, kx) = (j / (kernel[0] * kernel[1]), j / kernel[1] % kernel[0], j % kernel[1]);
            let place = |i: usize, k: usize, axis: usize| (i * window.strides[axis] + k).checked_sub(window.before[axis]);
            if let (Some(py), Some(px)) = (place(iy, ky, 0), place(ix, kx, 1))
                && py < to[0]
                && px < to[1]
            {
                let out = channel / c * o + out;
                y[(out * to[0] + py) * to[1] + px] += x * w[channel * o * kernel[0] * kernel[1] + j];
            }
        }
    }
    y
}

/// Phases of a strided transposed convolution that have fewer taps are convolutions of their own where that pays.
#[test]
fn transposed_convolutions_are_their_definition() {
    let size = [9, 8];
    for (strides, kernel, before, more, [groups, c, o], convolutions) in [
        ([2, 2], [3, 3], [1, 1], [1, 1], [1, 16, 24], 4),
        ([2, 2], [3, 3], [0, 1], [0, 0], [1, 16, 24], 4),
        ([2, 3], [5, 4], [2, 3], [1, 2], [2, 16, 16], 2), // the cropped axis stays whole
        ([3, 2], [4, 3], [2, 0], [2, 1], [1, 32, 16], 4),
        ([2, 1], [3, 3], [1, 1], [1, 0], [1, 32, 32], 2),
        ([2, 2], [2, 2], [0, 0], [0, 0], [1, 16, 24], 1),
        ([2, 2], [3, 3], [1, 1], [1, 1], [1, 16, 1], 1),
        ([3, 3], [2, 2], [0, 0], [1, 0], [1, 16, 24], 1),
    ] {
        let window = Window {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: vec![1, 1],
            before: before.to_vec(),
            after: before.to_vec(),
        };
        let to = [0, 1].map(|i| (size[i] - 1) * strides[i] + kernel[i] + more[i] - 2 * before[i]);
        let mut sketch = Sketch::new(&[1, groups * c, size[0], size[1]]);
        let weights: Vec<f32> = (0..groups * c * o * kernel[0] * kernel[1]).map(|i| (i * 29 % 15) as f32 - 7.0).collect();
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        sketch.graph.values.push(Value {
            name: "w".into(),
            dtype: DType::F32,
            dims: vec![groups * c, o, kernel[0], kernel[1]],
            constant: Some(Bytes::Owned(bytes.into())),
        });
        let op = Op::ConvTranspose { window: window.clone(), groups, output_padding: more.to_vec() };
        sketch.add(op, &[0, 1], &[1, groups * o, to[0], to[1]]);
        let (kinds, y) = sketch.answer();
        let case = format!("strides {strides:?}, kernel {kernel:?}, before {before:?}");
        assert_eq!(kinds.iter().filter(|&&kind| kind == OpKind::Conv).count(), convolutions, "{case}");
        let x: Vec<f32> = (0..groups * c * size[0] * size[1]).map(|i| (i * 37 % 101) as f32).collect();
        // Whole numbers, and sums of them below 2^24: exact in any order.
        assert!(y == scattered(&x, &weights, [groups, c, o], size, to, &window), "{case}");
    }
}
