//! Sizes that depend on data, from the ONNX nodes to what a run yields: its sizes and its elements.

use super::attributes::{int, ints};
use super::tests::{built, floats, integers, model, node, with};
use crate::exec::owned::{Derived, OwnedImage};
use crate::kernels::Isa;
use crate::tensor::Element;
use crate::{OwnedSession, lower, ops, plan};
use std::sync::Arc;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

/// A model that was compiled once, for many inputs.
pub(super) struct Compiled(OwnedSession);

impl Compiled {
    pub fn new(model: ModelProto) -> Compiled {
        let lowered = lower::lower(built(model).unwrap().graph, &lower::Options::default()).unwrap();
        assert!(lowered.externs.is_empty(), "{:?}", lowered.externs);
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = Arc::new(OwnedImage::new(Box::new(built.image), true, None).unwrap());
        Compiled(OwnedSession::new(image, None, ops::set(Isa::Scalar).unwrap(), Derived::default()).unwrap())
    }

    /// Sizes and elements of `y` for this `x`.
    pub fn run<T: Element + PartialEq>(&mut self, x: &[f32]) -> (Vec<usize>, Vec<T>) {
        self.0.input::<f32>("x").unwrap().copy_from_slice(x);
        self.0.run().unwrap();
        let dims = self.0.output_dims("y").unwrap().iter().map(|&d| d as usize).collect();
        (dims, self.0.output::<T>("y").unwrap().to_vec())
    }
}

/// Behind these nodes `kept` are the elements of `x`, of one axis, that are above zero.
fn kept(mut nodes: Vec<NodeProto>, size: usize, mut constants: Vec<TensorProto>) -> ModelProto {
    let mut all = vec![node("Greater", &["x", "zero"], &["above"], vec![]), node("Compress", &["x", "above"], &["kept"], vec![])];
    all.append(&mut nodes);
    constants.push(floats("zero", &[], &[0.0]));
    with(model(13, &[size], all), constants)
}

/// Runs a model over rows of six of which all, some, one and none are kept; `want` says what follows from those.
fn follows(model: ModelProto, want: impl Fn(&[f32]) -> (Vec<usize>, Vec<f32>)) {
    let mut compiled = Compiled::new(model);
    for x in [[3., 1., 2., 6., 5., 4.], [-1., 7., -2., 0., 9., 8.], [-1., -1., 5., -2., -3., 0.], [-1.; 6]] {
        let kept: Vec<f32> = x.iter().copied().filter(|&v| v > 0.0).collect();
        let (dims, got) = compiled.run::<f32>(&x);
        let (sizes, want) = want(&kept);
        let same = got.len() == want.len()
            && got.iter().zip(&want).all(|(g, w)| g == w || (g - w).abs() < 1e-5 || g.is_nan() && w.is_nan());
        assert!(dims == sizes && same, "of {kept:?}: {dims:?} {got:?}, want {sizes:?} {want:?}");
    }
}

#[test]
fn where_a_tensor_is_not_zero() {
    let mut compiled = Compiled::new(model(13, &[2, 3], vec![node("NonZero", &["x"], &["y"], vec![])]));
    assert_eq!(compiled.run::<i64>(&[1., 0., -2., 0., 3., f32::NAN]), (vec![2, 4], vec![0, 0, 1, 1, 0, 2, 1, 2]));
    assert_eq!(compiled.run::<i64>(&[0., 0., 0., 0., 3., -0.]), (vec![2, 1], vec![1, 1]));
    assert_eq!(compiled.run::<i64>(&[0.0; 6]), (vec![2, 0], vec![]));
    assert_eq!(compiled.run::<i64>(&[1.0; 6]).0, [2, 6]);
}

#[test]
fn columns_that_a_condition_keeps() {
    let nodes = vec![
        node("ReduceMax", &["x"], &["best"], vec![ints("axes", vec![0]), int("keepdims", 0)]),
        node("Greater", &["best", "zero"], &["above"], vec![]),
        node("Compress", &["x", "above"], &["y"], vec![int("axis", 1)]),
    ];
    let mut compiled = Compiled::new(with(model(13, &[2, 3], nodes), vec![floats("zero", &[], &[0.0])]));
    assert_eq!(compiled.run::<f32>(&[1., -2., 3., -4., -5., 6.]), (vec![2, 2], vec![1., 3., -4., 6.]));
    assert_eq!(compiled.run::<f32>(&[-1.; 6]), (vec![2, 0], vec![]));
}

#[test]
fn elements_once_each() {
    let unique = |y: [&str; 4]| {
        let nodes = vec![node("Unique", &["x"], &y, vec![])];
        Compiled::new(model(13, &[5], nodes))
    };
    let x = [2., 1., 2., 9., 1.];
    assert_eq!(unique(["y", "", "", ""]).run::<f32>(&x), (vec![3], vec![1., 2., 9.]));
    assert_eq!(unique(["v", "y", "", ""]).run::<i64>(&x), (vec![3], vec![1, 0, 3]));
    assert_eq!(unique(["v", "", "y", ""]).run::<i64>(&x), (vec![5], vec![1, 0, 1, 2, 0]));
    assert_eq!(unique(["v", "", "", "y"]).run::<i64>(&x), (vec![3], vec![2, 2, 1]));
    assert_eq!(unique(["y", "", "", ""]).run::<f32>(&[4.0; 5]), (vec![1], vec![4.0]));
}

#[test]
fn joins_take_what_counts_alone() {
    let one = |op: &str, of: fn(&[f32]) -> f32| {
        let nodes = vec![node(op, &["kept"], &["y"], vec![int("keepdims", 0)])];
        follows(kept(nodes, 6, vec![]), |kept| (vec![], vec![of(kept)]));
    };
    one("ReduceSum", |kept| kept.iter().sum());
    one("ReduceMean", |kept| kept.iter().sum::<f32>() / kept.len() as f32);
    one("ReduceProd", |kept| kept.iter().product());
    one("ReduceMax", |kept| kept.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    one("ReduceMin", |kept| kept.iter().copied().fold(f32::INFINITY, f32::min));
    one("ReduceL2", |kept| kept.iter().map(|v| v * v).sum::<f32>().sqrt());
    // Sums from the end, and shares of the whole.
    let nodes = vec![node("CumSum", &["kept", "axis"], &["y"], vec![int("reverse", 1)])];
    let scalar = TensorProto { dims: vec![], ..integers("axis", &[0]) };
    follows(kept(nodes, 6, vec![scalar]), |kept| (vec![kept.len()], (0..kept.len()).map(|i| kept[i..].iter().sum()).collect()));
    follows(kept(vec![node("Softmax", &["kept"], &["y"], vec![int("axis", 0)])], 6, vec![]), |kept| {
        let all: f32 = kept.iter().map(|v| v.exp()).sum();
        (vec![kept.len()], kept.iter().map(|v| v.exp() / all).collect())
    });
    // All against all: an output with two such axes.
    let nodes = vec![
        node("Unsqueeze", &["kept", "first"], &["row"], vec![]),
        node("Unsqueeze", &["kept", "second"], &["column"], vec![]),
        node("Sub", &["column", "row"], &["y"], vec![]),
    ];
    follows(kept(nodes, 6, vec![integers("first", &[0]), integers("second", &[1])]), |kept| {
        (vec![kept.len(); 2], kept.iter().flat_map(|a| kept.iter().map(move |b| a - b)).collect())
    });
    // A product over what is kept.
    let nodes = vec![node("MatMul", &["kept", "kept"], &["y"], vec![])];
    follows(kept(nodes, 6, vec![]), |kept| (vec![], vec![kept.iter().map(|v| v * v).sum()]));
}

#[test]
fn sizes_are_numbers_too() {
    let nodes = vec![node("Shape", &["kept"], &["n"], vec![]), node("Cast", &["n"], &["y"], vec![int("to", 1)])];
    follows(kept(nodes, 6, vec![]), |kept| (vec![1], vec![kept.len() as f32]));
    // 0, 1, 2 ... for each.
    let nodes = vec![
        node("Size", &["kept"], &["n"], vec![]),
        node("Range", &["start", "n", "step"], &["places"], vec![]),
        node("Cast", &["places"], &["numbers"], vec![int("to", 1)]),
        node("Mul", &["numbers", "kept"], &["y"], vec![]),
    ];
    let scalar = |name: &str, value| TensorProto { dims: vec![], ..integers(name, &[value]) };
    follows(kept(nodes, 6, vec![scalar("start", 0), scalar("step", 1)]), |kept| {
        (vec![kept.len()], kept.iter().enumerate().map(|(i, v)| i as f32 * v).collect())
    });
}

#[test]
fn slices_end_where_the_elements_do() {
    let slice = |start: i64, end: i64, step: i64| {
        let nodes = vec![node("Slice", &["kept", "start", "end", "axes", "step"], &["y"], vec![])];
        let bounds = [("start", start), ("end", end), ("axes", 0), ("step", step)];
        kept(nodes, 6, bounds.map(|(name, value)| integers(name, &[value])).to_vec())
    };
    for (start, end, step) in
        [(0, 2, 1), (1, i64::MAX, 1), (0, i64::MAX, 2), (0, -1, 1), (-2, i64::MAX, 1), (-3, -1, 1), (2, 1, 1)]
    {
        follows(slice(start, end, step), |kept| {
            let n = kept.len() as i64;
            let counted = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n) as usize;
            let (start, end) = (counted(start), counted(end));
            let want: Vec<f32> = kept.get(start..end).unwrap_or(&[]).iter().copied().step_by(step as usize).collect();
            (vec![want.len()], want)
        });
    }
    // As many as another tensor says.
    let nodes = vec![
        node("ReduceMax", &["x"], &["most"], vec![int("keepdims", 1)]),
        node("Cast", &["most"], &["end"], vec![int("to", 7)]),
        node("Slice", &["x", "start", "end"], &["y"], vec![]),
    ];
    let mut compiled = Compiled::new(with(model(13, &[4], nodes), vec![integers("start", &[1])]));
    for (x, want) in [
        ([1., 3., 2., 0.], &[3., 2.][..]),
        ([9., 3., 2., 0.], &[3., 2., 0.]),
        ([0.; 4], &[]),
        ([-1., -2., -1., -1.], &[-2., -1.]),
    ] {
        assert_eq!(compiled.run::<f32>(&x), (vec![want.len()], want.to_vec()), "{x:?}");
    }
}

#[test]
fn the_best_of_those_that_there_are() {
    let nodes = vec![
        node("Shape", &["kept"], &["n"], vec![]),
        node("Concat", &["n", "two"], &["both"], vec![int("axis", 0)]),
        node("ReduceMin", &["both"], &["k"], vec![int("keepdims", 1)]),
        node("TopK", &["kept", "k"], &["y", "places"], vec![int("axis", 0)]),
    ];
    follows(kept(nodes, 6, vec![integers("two", &[2])]), |kept| {
        let mut best = kept.to_vec();
        best.sort_by(|a, b| b.total_cmp(a));
        best.truncate(2);
        (vec![best.len()], best)
    });
    // The last of them; the place of the largest.
    let last = TensorProto { dims: vec![], ..integers("last", &[-1]) };
    let mut compiled = Compiled::new(kept(vec![node("Gather", &["kept", "last"], &["y"], vec![])], 6, vec![last]));
    assert_eq!(compiled.run::<f32>(&[3., 1., 2., -1., -1., -1.]), (vec![], vec![2.0]));
    let mut compiled =
        Compiled::new(kept(vec![node("ArgMax", &["kept"], &["y"], vec![int("axis", 0), int("keepdims", 0)])], 6, vec![]));
    assert_eq!(compiled.run::<i64>(&[-3., 1., 9., -1., 9., -1.]), (vec![], vec![1]));
}

#[test]
fn parts_are_packed() {
    let nodes = vec![node("Concat", &["kept", "more", "kept", "x"], &["y"], vec![int("axis", 0)])];
    let mut compiled = Compiled::new(kept(nodes, 3, vec![floats("more", &[2], &[10., 20.])]));
    assert_eq!(compiled.run::<f32>(&[1., -1., 2.]), (vec![9], vec![1., 2., 10., 20., 1., 2., 1., -1., 2.]));
    assert_eq!(compiled.run::<f32>(&[-1.; 3]), (vec![5], vec![10., 20., -1., -1., -1.]));
}

#[test]
fn rows_that_are_not_there_write_nothing() {
    let nodes = vec![
        node("Greater", &["x", "zero"], &["above"], vec![]),
        node("NonZero", &["above"], &["found"], vec![]),
        node("Transpose", &["found"], &["places"], vec![ints("perm", vec![1, 0])]),
        node("GatherND", &["x", "places"], &["old"], vec![]),
        node("Neg", &["old"], &["new"], vec![]),
        node("ScatterND", &["x", "places", "new"], &["y"], vec![]),
    ];
    let mut compiled = Compiled::new(with(model(13, &[4], nodes), vec![floats("zero", &[], &[0.0])]));
    assert_eq!(compiled.run::<f32>(&[1., -2., 3., 0.]).1, [-1., -2., -3., 0.]);
    assert_eq!(compiled.run::<f32>(&[-1., -2., -3., 0.]).1, [-1., -2., -3., 0.]);
    assert_eq!(compiled.run::<f32>(&[4.0; 4]).1, [-4.0; 4]);
}

#[test]
fn boxes_that_stand_for_others() {
    // x: rows of a score and a box; the boxes that are kept, of those above a score.
    let nodes = vec![
        node("Split", &["x", "parts"], &["scores", "boxes"], vec![int("axis", 1)]),
        node("Squeeze", &["scores", "second"], &["row"], vec![]),
        node("Greater", &["row", "tenth"], &["good"], vec![]),
        node("Compress", &["boxes", "good"], &["b"], vec![int("axis", 0)]),
        node("Compress", &["row", "good"], &["s"], vec![int("axis", 0)]),
        node("Unsqueeze", &["b", "first"], &["batch"], vec![]),
        node("Unsqueeze", &["s", "both"], &["classes"], vec![]),
        node("NonMaxSuppression", &["batch", "classes", "most", "share"], &["rows"], vec![]),
        node("Gather", &["rows", "third"], &["column"], vec![int("axis", 1)]),
        node("Squeeze", &["column", "second"], &["places"], vec![]),
        node("Gather", &["b", "places"], &["y"], vec![]),
    ];
    let constants = vec![
        integers("parts", &[1, 4]),
        integers("first", &[0]),
        integers("second", &[1]),
        integers("third", &[2]),
        integers("both", &[0, 1]),
        integers("most", &[10]),
        floats("share", &[1], &[0.5]),
        floats("tenth", &[], &[0.1]),
    ];
    let mut compiled = Compiled::new(with(model(13, &[4, 5], nodes), constants));
    let (left, near, right) = ([0., 0., 2., 2.], [0., 0.1, 2., 2.], [5., 5., 6., 6.]);
    let mut run = |scores: [f32; 4]| {
        let rows = scores.iter().zip([left, near, right, left]).flat_map(|(s, b)| [*s].into_iter().chain(b));
        compiled.run::<f32>(&rows.collect::<Vec<f32>>())
    };
    assert_eq!(run([0.5, 0.9, 0.2, 0.3]), (vec![2, 4], [near, right].concat()));
    assert_eq!(run([0.5, 0.05, 0.2, 0.3]), (vec![2, 4], [left, right].concat()));
    assert_eq!(run([0.0, 0.05, 0.2, 0.1]), (vec![1, 4], right.to_vec()));
    assert_eq!(run([0.0; 4]), (vec![0, 4], vec![]));
}

#[test]
fn rows_behind_rows() {
    // Of the rows whose sum is above zero, repeated and padded, the elements above zero: indices into what has such a size.
    let nodes = vec![
        node("ReduceSum", &["x", "second"], &["sum"], vec![int("keepdims", 0)]),
        node("Greater", &["sum", "zero"], &["good"], vec![]),
        node("Compress", &["x", "good"], &["rows"], vec![int("axis", 0)]),
        node("Tile", &["rows", "twice"], &["wide"], vec![]),
        node("Pad", &["wide", "pads"], &["padded"], vec![]),
        node("Greater", &["padded", "zero"], &["above"], vec![]),
        node("NonZero", &["above"], &["found"], vec![]),
        node("Transpose", &["found"], &["places"], vec![ints("perm", vec![1, 0])]),
        node("GatherND", &["padded", "places"], &["y"], vec![]),
    ];
    let constants =
        vec![integers("second", &[1]), integers("twice", &[1, 2]), integers("pads", &[0, 1, 0, 0]), floats("zero", &[], &[0.0])];
    let mut compiled = Compiled::new(with(model(13, &[3, 2], nodes), constants));
    assert_eq!(compiled.run::<f32>(&[-1., 3., 2., -5., 4., 6.]), (vec![6], vec![3., 3., 4., 6., 4., 6.]));
    assert_eq!(compiled.run::<f32>(&[-1.; 6]), (vec![0], vec![]));
    // Tuples that count from the end of both axes.
    let nodes = vec![
        node("ReduceSum", &["x", "second"], &["sum"], vec![int("keepdims", 0)]),
        node("Greater", &["sum", "zero"], &["good"], vec![]),
        node("Compress", &["x", "good"], &["rows"], vec![int("axis", 0)]),
        node("GatherND", &["rows", "corner"], &["y"], vec![]),
    ];
    let corner = TensorProto { dims: vec![1, 2], ..integers("corner", &[-1, -2]) };
    let constants = vec![integers("second", &[1]), floats("zero", &[], &[0.0]), corner];
    let mut compiled = Compiled::new(with(model(13, &[3, 2], nodes), constants));
    assert_eq!(compiled.run::<f32>(&[-1., 3., 2., 5., -4., -6.]), (vec![1], vec![2.0]));
}

#[test]
fn what_can_not_be_followed_is_refused() {
    let refused = |nodes: Vec<NodeProto>, constants, parts: &[&str]| {
        let error = built(kept(nodes, 6, constants)).map(|i| i.graph).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    };
    let backwards = [("start", -1), ("end", i64::MIN), ("axes", 0), ("step", -1)];
    let backwards = backwards.map(|(name, value)| integers(name, &[value])).to_vec();
    let slice = vec![node("Slice", &["kept", "start", "end", "axes", "step"], &["y"], vec![])];
    refused(slice, backwards, &["y", "Slice", "-1 along axis 0"]);
    // As many as are kept are not six.
    refused(vec![node("Add", &["kept", "x"], &["y"], vec![])], vec![], &["y", "Add"]);
    // From a half on: a row of whole numbers would be wrong.
    let nodes = vec![
        node("Size", &["kept"], &["n"], vec![]),
        node("Cast", &["n"], &["end"], vec![int("to", 1)]),
        node("Range", &["half", "end", "one"], &["y"], vec![]),
    ];
    refused(nodes, vec![floats("half", &[], &[0.5]), floats("one", &[], &[1.0])], &["y", "Range"]);
    // Nothing says how large it can be.
    let nodes = vec![
        node("ReduceSum", &["x"], &["sum"], vec![int("keepdims", 0)]),
        node("Cast", &["sum"], &["n"], vec![int("to", 7)]),
        node("Range", &["start", "n", "step"], &["y"], vec![]),
    ];
    let scalar = |name: &str, value| TensorProto { dims: vec![], ..integers(name, &[value]) };
    refused(nodes, vec![scalar("start", 0), scalar("step", 1)], &["y", "Range", "depends on data without a bound"]);
}
