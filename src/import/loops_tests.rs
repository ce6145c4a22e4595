//! Loops, from their ONNX nodes to their answers: each against a plain loop in Rust.

use super::attributes::{int, ints};
use super::externs::declare;
use super::ragged_tests::Compiled;
use super::tests::{floats, integers, model, node, refused, with};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// A body, or a branch.
fn body(nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> AttributeProto {
    let named = |names: &[&str]| names.iter().map(|n| declare(n, 1, None)).collect();
    let graph = GraphProto { node: nodes, input: named(inputs), output: named(outputs), ..Default::default() };
    AttributeProto { name: "body".into(), g: Some(graph), r#type: 5, ..Default::default() }
}

fn scalar(name: &str, value: i64) -> TensorProto {
    TensorProto { dims: vec![], ..integers(name, &[value]) }
}

fn booleans(name: &str, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 9, int32_data: values.to_vec(), ..Default::default() }
}

fn of_one(op: &str, input: &str, output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    node(op, &[input], &[output], attributes)
}

#[track_caller]
fn close(got: &[f32], want: &[f32]) {
    let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-5 * w.abs().max(1.0);
    assert!(got.len() == want.len() && got.iter().zip(want).all(near), "{got:?}, want {want:?}");
}

/// A scan over the columns of `x`, 2x3, and those of `z`, from the last on: a running sum, and a product with it.
fn over_columns(output: &str, opset: i64) -> ModelProto {
    let nodes = vec![
        node("Add", &["s", "a"], &["sum"], vec![]),
        node("Mul", &["sum", "b"], &["product"], vec![]),
        node("Sub", &["p", "product"], &["left"], vec![]),
    ];
    let mut scan = node("Scan", &["s0", "p0", "x", "z"], &["s", "p", "sums", "products"], vec![int("num_scan_inputs", 2)]);
    scan.attribute.push(body(nodes, &["s", "p", "a", "b"], &["sum", "left", "sum", "product"]));
    scan.attribute.push(ints("scan_input_axes", vec![1, if opset > 10 { -1 } else { 1 }]));
    scan.attribute.push(ints("scan_input_directions", vec![0, 1]));
    scan.attribute.push(ints("scan_output_axes", vec![0, if opset > 10 { -1 } else { 1 }]));
    scan.attribute.push(ints("scan_output_directions", vec![1, 0]));
    let nodes = vec![scan, of_one("Identity", output, "y", vec![])];
    let z = floats("z", &[2, 3], &[1., 2., 3., -1., -2., -3.]);
    with(model(opset, &[2, 3], nodes), vec![floats("s0", &[2], &[1., 2.]), floats("p0", &[2], &[0.; 2]), z])
}

#[test]
fn a_scan_goes_along_axes_in_either_direction() {
    let x = [1., 2., 3., 10., 20., 30.];
    // Sums of columns, from the start values on; products with 3, 2, 1 and -3, -2, -1.
    let sums = [[2., 12.], [4., 32.], [7., 62.]];
    let products = [[6., 8., 7.], [-36., -64., -62.]];
    for opset in [9, 11, 17] {
        let run = |output: &str| Compiled::new(over_columns(output, opset)).run::<f32>(&x);
        assert_eq!(run("s"), (vec![2], sums[2].to_vec()));
        assert_eq!(run("p"), (vec![2], vec![-21., 162.]));
        assert_eq!(run("sums"), (vec![3, 2], [sums[2], sums[1], sums[0]].concat()));
        assert_eq!(run("products"), (vec![2, 3], products.concat()));
    }
}

#[test]
fn a_scan_of_the_first_kind_has_a_batch() {
    let nodes = vec![node("Add", &["s", "a"], &["sum"], vec![]), node("Mul", &["sum", "a"], &["row"], vec![])];
    let scan = |output: &str| {
        let attributes =
            vec![int("num_scan_inputs", 1), ints("directions", vec![1]), body(nodes.clone(), &["s", "a"], &["sum", "row"])];
        let nodes = vec![node("Scan", &["", "s0", "x"], &["s", "rows"], attributes), of_one("Identity", output, "y", vec![])];
        Compiled::new(with(model(8, &[2, 3, 1], nodes), vec![floats("s0", &[2, 1], &[0., 100.])]))
    };
    let x = [1., 2., 3., 4., 5., 6.];
    assert_eq!(scan("s").run::<f32>(&x), (vec![2, 1], vec![6., 115.]));
    // Of 3, 2, 1 and 6, 5, 4.
    assert_eq!(scan("rows").run::<f32>(&x), (vec![2, 3, 1], vec![9., 10., 6., 636., 555., 460.]));
}

#[test]
fn a_scan_along_a_computed_axis_and_one_that_shares_a_weight() {
    // The third column's sum, of a concat: its size is found out. The body has a constant of its own.
    let weight = TensorProto { name: String::new(), ..floats("", &[2], &[2., 3.]) };
    let value = AttributeProto { name: "value".into(), t: Some(weight), r#type: 4, ..Default::default() };
    let nodes = vec![
        node("Constant", &[], &["w"], vec![value]),
        node("Mul", &["a", "w"], &["scaled"], vec![]),
        node("Add", &["s", "scaled"], &["sum"], vec![]),
    ];
    let scan = vec![int("num_scan_inputs", 1), body(nodes, &["s", "a"], &["sum"])];
    let nodes = vec![node("Concat", &["x", "x"], &["xx"], vec![int("axis", 0)]), node("Scan", &["s0", "xx"], &["y"], scan)];
    let mut compiled = Compiled::new(with(model(13, &[2, 2], nodes), vec![floats("s0", &[2], &[0., 0.])]));
    assert_eq!(compiled.run::<f32>(&[1., 2., 3., 4.]), (vec![2], vec![16., 36.]));
}

/// Square roots of `x` by Newton's way, from 1 on, until none moves by more than 0.01: in a loop of at most `most` turns, whose
/// condition `first` decides whether the first turn is taken.
fn newton(output: &str, most: i64, first: &str) -> ModelProto {
    let nodes = vec![
        node("Div", &["x", "r"], &["q"], vec![]),
        node("Add", &["r", "q"], &["twice"], vec![]),
        node("Mul", &["twice", "half"], &["next"], vec![]),
        node("Sub", &["next", "r"], &["step"], vec![]),
        of_one("Abs", "step", "way", vec![]),
        of_one("ReduceMax", "way", "most", vec![int("keepdims", 0)]),
        node("Greater", &["most", "little"], &["on"], vec![]),
        // Carried as booleans and as integers, too.
        node("Greater", &["step", "zero"], &["up"], vec![]),
        node("Or", &["rose", "up"], &["risen"], vec![]),
        node("Add", &["i", "one"], &["turns"], vec![]),
        of_one("Mul", "next", "row", vec![]),
    ];
    let mut nodes = nodes;
    nodes.last_mut().unwrap().input.push("two".into());
    let body = body(nodes, &["i", "c", "r", "rose", "n"], &["on", "next", "risen", "turns", "row"]);
    let nodes = vec![
        of_one("ReduceMax", "x", "largest", vec![int("keepdims", 0)]),
        node("Greater", &["largest", "zero"], &["some"], vec![]),
        node("Loop", &["most_turns", first, "ones", "never", "none"], &["r", "rose", "n", "rows"], vec![body]),
        of_one("Cast", "rose", "flags", vec![int("to", 7)]),
        of_one("Identity", output, "y", vec![]),
    ];
    let one = |name: &str, value: f32| floats(name, &[], &[value]);
    let mut constants =
        vec![one("half", 0.5), one("little", 0.01), one("zero", 0.0), one("two", 2.0), floats("ones", &[3], &[1.; 3])];
    constants.extend([booleans("never", &[3], &[0; 3]), scalar("none", -5), scalar("one", 1), scalar("most_turns", most)]);
    with(model(13, &[3], nodes), constants)
}

/// The same in Rust: roots, which of them rose, turns (or -5), rows.
fn newton_plain(x: &[f32; 3], most: i64, first: &str) -> (Vec<f32>, Vec<i64>, i64, Vec<f32>) {
    let (mut r, mut rose, mut n, mut rows) = ([1f32; 3], [0i64; 3], -5, vec![]);
    let mut goes = first.is_empty() || x.iter().any(|&x| x > 0.0);
    for turn in 0..most {
        if !goes {
            break;
        }
        let next: Vec<f32> = r.iter().zip(x).map(|(r, x)| (r + x / r) * 0.5).collect();
        let way = next.iter().zip(r).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        (0..3).for_each(|i| rose[i] |= (next[i] - r[i] > 0.0) as i64);
        (goes, n) = (way > 0.01, turn + 1);
        r.copy_from_slice(&next);
        rows.extend(next.iter().map(|v| v * 2.0));
    }
    (r.to_vec(), rose.to_vec(), n, rows)
}

#[test]
fn a_loop_stops_when_data_say_so() {
    for first in ["", "some"] {
        for most in [1, 7, 12] {
            let [mut r, mut rose, mut n, mut rows] =
                ["r", "flags", "n", "rows"].map(|output| Compiled::new(newton(output, most, first)));
            for x in [[1., 1., 1.], [4., 9., 2.], [100., 0.2, 300.], [5000., 1., 2.], [0., 0., 0.]] {
                let want = newton_plain(&x, most, first);
                close(&r.run::<f32>(&x).1, &want.0);
                assert_eq!(rose.run::<i64>(&x).1, want.1, "{x:?}");
                assert_eq!(n.run::<i64>(&x).1, [want.2], "{x:?}");
                let (dims, got) = rows.run::<f32>(&x);
                assert_eq!(dims, [want.3.len() / 3, 3], "{x:?}");
                close(&got, &want.3);
            }
        }
    }
}

#[test]
fn a_turn_that_is_not_taken_can_not_fail() {
    // Elements of `x` up to the first that is zero: there is none behind the last.
    let nodes = vec![
        node("Gather", &["x", "at"], &["v"], vec![]),
        node("Add", &["at", "one"], &["next"], vec![]),
        node("Add", &["s", "v"], &["sum"], vec![]),
        node("Greater", &["v", "zero"], &["on"], vec![]),
    ];
    let turns = node(
        "Loop",
        &["many", "", "first", "zero"],
        &["at", "y"],
        vec![body(nodes, &["i", "c", "at", "s"], &["on", "next", "sum"])],
    );
    let constants = vec![scalar("many", 20), scalar("first", 0), scalar("one", 1), floats("zero", &[], &[0.])];
    let mut compiled = Compiled::new(with(model(13, &[4], vec![turns]), constants));
    for (x, want) in [([1., 2., 3., 0.], 6.), ([1., 0., 3., 0.], 1.), ([0., 1., 1., 0.], 0.)] {
        assert_eq!(compiled.run::<f32>(&x).1, [want]);
    }
}

/// Sums of the first `i + 1` elements, until one is not below 5: the number of the turn makes a shape.
fn sums_of_the_first(output: &str) -> ModelProto {
    let nodes = vec![
        node("Add", &["i", "one"], &["n"], vec![]),
        node("Reshape", &["n", "row"], &["end"], vec![]),
        node("Slice", &["x", "start", "end"], &["some"], vec![]),
        of_one("ReduceSum", "some", "sum", vec![int("keepdims", 0)]),
        node("Less", &["sum", "five"], &["on"], vec![]),
    ];
    let turns =
        node("Loop", &["four", "", "none"], &["last", "sums"], vec![body(nodes, &["i", "c", "s"], &["on", "sum", "sum"])]);
    let constants = vec![
        scalar("one", 1),
        scalar("four", 4),
        integers("row", &[1]),
        integers("start", &[0]),
        floats("five", &[], &[5.]),
        floats("none", &[], &[-1.]),
    ];
    with(model(13, &[4], vec![turns, of_one("Identity", output, "y", vec![])]), constants)
}

#[test]
fn the_number_of_a_turn_may_make_a_shape() {
    let (mut last, mut sums) = (Compiled::new(sums_of_the_first("last")), Compiled::new(sums_of_the_first("sums")));
    for x in [[1., 1., 1., 1.], [2., 4., 1., 1.], [9., 9., 9., 9.], [1., 1., 3., 1.]] {
        let mut want: Vec<f32> = vec![];
        for i in 0..4 {
            want.push(x[..=i].iter().sum());
            if want[i] >= 5. {
                break;
            }
        }
        assert_eq!(last.run::<f32>(&x).1, [want[want.len() - 1]]);
        assert_eq!(sums.run::<f32>(&x), (vec![want.len()], want));
    }
}

/// `x` added up as often as its largest element says, `bound` at the most.
fn as_often_as(output: &str, bound: &[TensorProto]) -> ModelProto {
    let nodes = vec![node("Add", &["s", "x"], &["sum"], vec![]), of_one("Identity", "c", "on", vec![])];
    let mut count = vec!["often"];
    count.extend(bound.iter().map(|b| &*b.name));
    let nodes = vec![
        of_one("ReduceMax", "x", "largest", vec![int("keepdims", 0)]),
        of_one("Cast", "largest", "often", vec![int("to", 7)]),
        node("Min", &count, &["turns"], vec![]),
        node("Loop", &["turns", "", "x"], &["s", "rows"], vec![body(nodes, &["i", "c", "s"], &["on", "sum", "sum"])]),
        of_one("Identity", output, "y", vec![]),
    ];
    with(model(13, &[2], nodes), bound.to_vec())
}

#[test]
fn as_many_turns_as_are_computed() {
    let [mut s, mut rows] = ["s", "rows"].map(|output| Compiled::new(as_often_as(output, &[scalar("bound", 5)])));
    for (x, turns) in [([1., -1.], 1), ([3., 0.5], 3), ([2., 9.], 5), ([0., -3.], 0), ([-1., -3.], 0)] {
        assert_eq!(s.run::<f32>(&x).1, x.map(|v| v * (1 + turns) as f32));
        let want: Vec<f32> = (0..turns).flat_map(|t| x.map(|v| v * (2 + t) as f32)).collect();
        assert_eq!(rows.run::<f32>(&x), (vec![turns, 2], want));
    }
}

#[test]
fn a_loop_without_a_turn_yields_no_rows() {
    let mut declared = body(vec![node("Add", &["s", "x"], &["sum"], vec![])], &["i", "c", "s"], &["c", "sum", "sum"]);
    let turns = |body: AttributeProto| {
        let nodes = vec![
            node("Loop", &["none", "", "x"], &["s", "rows"], vec![body]),
            node("Concat", &["rows", "all"], &["y"], vec![int("axis", 0)]),
        ];
        with(model(13, &[2], nodes), vec![scalar("none", 0), floats("all", &[1, 2], &[7., 8.])])
    };
    refused(turns(declared.clone()), &["Loop", "no turn", "\"sum\""]);
    declared.g.as_mut().unwrap().output[2] = declare("sum", 1, Some(&[2]));
    assert_eq!(Compiled::new(turns(declared)).run::<f32>(&[1., 2.]), (vec![1, 2], vec![7., 8.]));
}

#[test]
fn loops_without_a_bound_are_refused() {
    refused(as_often_as("s", &[]), &["(Loop)", "depends on data, and nothing bounds it", "Min of a constant"]);
    // As torch writes `while`.
    let mut endless = newton("r", i64::MAX, "");
    let what = ["(Loop)", "when it stops depends on data", "trip count", "4096 or less"];
    refused(endless.clone(), &what);
    endless.graph.as_mut().unwrap().node[2].input[0] = String::new();
    refused(endless, &what);
}

#[test]
fn a_loop_that_does_not_fit_its_body_is_refused() {
    let twice = || body(vec![node("Add", &["s", "x"], &["sum"], vec![])], &["i", "c", "s"], &["c", "sum"]);
    let turns = |inputs: &[&str], outputs: &[&str], attributes| {
        with(model(13, &[2], vec![node("Loop", inputs, outputs, attributes)]), vec![scalar("many", 2)])
    };
    refused(turns(&["many", "", "x"], &["y"], vec![]), &["(Loop)", "no body"]);
    refused(turns(&["many", ""], &["y"], vec![twice()]), &["(Loop)", "do not fit"]);
    refused(turns(&["many", "", "x"], &["s", "y"], vec![twice()]), &["(Loop)", "do not fit"]);
}

#[test]
fn what_grows_until_data_stop_it_is_refused() {
    let nodes = vec![
        node("Concat", &["s", "x"], &["longer"], vec![int("axis", 0)]),
        of_one("ReduceSum", "longer", "sum", vec![int("keepdims", 0)]),
        node("Less", &["sum", "five"], &["on"], vec![]),
    ];
    let mut turns = node("Loop", &["many", "", "x"], &["y"], vec![body(nodes, &["i", "c", "s"], &["on", "longer"])]);
    turns.name = "greedy.decoder".into();
    let grows = with(model(13, &[1], vec![turns]), vec![scalar("many", 3), floats("five", &[], &[5.])]);
    refused(grows, &["\"greedy.decoder\" (Loop)", "the carried value \"s\"", "[2] or float32 [1]", "one shape"]);
}

/// An `If` on whether the sum of `x` is above zero, between these branches over `x`.
fn either(then: NodeProto, other: NodeProto) -> ModelProto {
    let branch = |name: &str, node: NodeProto| {
        let yields = node.output[0].clone();
        AttributeProto { name: format!("{name}_branch"), ..body(vec![node], &[], &[&yields]) }
    };
    let nodes = vec![
        of_one("ReduceSum", "x", "sum", vec![int("keepdims", 0)]),
        node("Greater", &["sum", "zero"], &["some"], vec![]),
        node("If", &["some"], &["y"], vec![branch("then", then), branch("else", other)]),
    ];
    with(model(13, &[2], nodes), vec![floats("zero", &[], &[0.])])
}

#[test]
fn of_two_branches_the_one_that_data_choose() {
    let mut compiled = Compiled::new(either(of_one("Sqrt", "x", "t", vec![]), of_one("Neg", "x", "e", vec![])));
    // What the other branch yields does not matter, not even if it is no number.
    for (x, want) in [([4., 9.], [2., 3.]), ([-4., 1.], [4., -1.]), ([0., 0.], [0., 0.])] {
        assert_eq!(compiled.run::<f32>(&x).1, want);
    }
}

#[test]
fn a_loop_with_a_break() {
    // As torch writes it: behind the break, a branch leaves everything as it is.
    let branch = |name: &str, nodes: Vec<NodeProto>, yields: &str| AttributeProto {
        name: format!("{name}_branch"),
        ..body(nodes, &[], &[yields])
    };
    let grown = vec![node("Mul", &["s", "x"], &["grown"], vec![])];
    let kept = vec![of_one("Identity", "s", "kept", vec![])];
    let nodes = vec![
        of_one("ReduceMax", "s", "most", vec![int("keepdims", 0)]),
        node("Less", &["most", "ten"], &["on"], vec![]),
        node("If", &["on"], &["next"], vec![branch("then", grown, "grown"), branch("else", kept, "kept")]),
    ];
    let turns = node("Loop", &["many", "", "ones"], &["y"], vec![body(nodes, &["i", "c", "s"], &["on", "next"])]);
    let constants = vec![scalar("many", 5), floats("ten", &[], &[10.]), floats("ones", &[2], &[1.; 2])];
    let mut compiled = Compiled::new(with(model(13, &[2], vec![turns]), constants));
    for (x, times) in [([2., 3.], 3), ([1., 1.5], 5), ([20., 1.], 1)] {
        assert_eq!(compiled.run::<f32>(&x).1, x.map(|v: f32| v.powi(times)));
    }
}
