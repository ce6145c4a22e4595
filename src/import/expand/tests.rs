//! Operators that are written out, from their ONNX node to their answer.

use crate::exec::owned::{Derived, OwnedImage};
use crate::import::attributes::{int, ints};
use crate::import::tests::{built, floats, integers, model, node, with};
use crate::kernels::Isa;
use crate::{OwnedSession, lower, ops, plan};
use prost::Message;
use std::sync::Arc;
use tract_onnx::pb::{AttributeProto, ModelProto, TensorProto};

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: value.into(), r#type: 3, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: 1, ..Default::default() }
}

/// Runs a model over `x` natively; gives the bytes of `y`.
pub(super) fn bytes(model: ModelProto, x: &[u8]) -> Vec<u8> {
    let graph = built(model).unwrap().graph;
    let lowered = lower::lower(graph, &lower::Options::default()).unwrap();
    assert!(lowered.externs.is_empty(), "{:?}", lowered.externs);
    let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
    let image = Arc::new(OwnedImage::new(Box::new(built.image), true, None).unwrap());
    let mut session = OwnedSession::new(image, None, ops::set(Isa::Scalar).unwrap(), Derived::default()).unwrap();
    session.input_bytes("x").unwrap().copy_from_slice(x);
    session.run().unwrap();
    session.output_bytes("y").unwrap().to_vec()
}

pub(super) fn answer(model: ModelProto, x: &[f32]) -> Vec<f32> {
    let x: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes(model, &x).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The answer of one operator over `x` and constants.
fn one(
    opset: i64,
    op: &str,
    attributes: Vec<AttributeProto>,
    dims: &[usize],
    x: &[f32],
    constants: Vec<TensorProto>,
) -> Vec<f32> {
    let mut inputs = vec!["x"];
    inputs.extend(constants.iter().map(|c| if c.name == "none" { "" } else { &*c.name }));
    let node = node(op, &inputs, &["y"], attributes);
    answer(with(model(opset, dims, vec![node]), constants.iter().filter(|c| c.name != "none").cloned().collect()), x)
}

fn none() -> TensorProto {
    integers("none", &[])
}

fn shaped(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto { dims: dims.to_vec(), ..integers(name, values) }
}

fn counted(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f32]) {
    let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-4 * w.abs().max(1.0);
    assert!(got.len() == want.len() && got.iter().zip(want).all(near), "{got:?}, want {want:?}");
}

#[test]
fn gathers_and_scatters() {
    let x = counted(6);
    let index = shaped("i", &[2, 2], &[0, -1, 2, 0]);
    assert_eq!(one(13, "GatherElements", vec![int("axis", 1)], &[2, 3], &x, vec![index.clone()]), [0.0, 2.0, 5.0, 3.0]);
    assert_eq!(one(13, "GatherND", vec![], &[2, 3], &x, vec![shaped("i", &[2, 1], &[-1, 0])]), [3., 4., 5., 0., 1., 2.]);
    assert_eq!(one(13, "GatherND", vec![int("batch_dims", 1)], &[2, 3], &x, vec![shaped("i", &[2, 1], &[1, -1])]), [1.0, 5.0]);
    let rows = floats("r", &[2, 2], &[10.0, 20.0, 30.0, 40.0]);
    let scattered = one(13, "ScatterElements", vec![int("axis", 1)], &[2, 3], &x, vec![index.clone(), rows.clone()]);
    assert_eq!(scattered, [10.0, 1.0, 20.0, 40.0, 4.0, 30.0]);
    let added = vec![int("axis", 1), text("reduction", "add")];
    assert_eq!(one(18, "ScatterElements", added, &[2, 3], &x, vec![index, rows]), [10.0, 1.0, 22.0, 43.0, 4.0, 35.0]);
    let rows = floats("r", &[2, 3], &[9.0; 6]);
    let max = vec![text("reduction", "max")];
    assert_eq!(one(18, "ScatterND", max, &[2, 3], &[10.0; 6], vec![shaped("i", &[2, 1], &[-1, -1]), rows]), [10.0; 6]);
    let compressed = one(13, "Compress", vec![int("axis", 1)], &[2, 3], &x, vec![integers("c", &[0, 1, 1])]);
    assert_eq!(compressed, [1.0, 2.0, 4.0, 5.0]);
    let lens = integers("l", &[2, 3]);
    let reversed = vec![int("time_axis", 1), int("batch_axis", 0)];
    assert_eq!(one(10, "ReverseSequence", reversed, &[2, 3], &x, vec![lens]), [1.0, 0.0, 2.0, 5.0, 4.0, 3.0]);
}

#[test]
fn one_where_the_index_is() {
    let nodes = vec![
        node("Cast", &["x"], &["i"], vec![int("to", 7)]),
        node("OneHot", &["i", "depth", "values"], &["y"], vec![int("axis", 0)]),
    ];
    let constants = vec![integers("depth", &[3]), floats("values", &[2], &[-1.0, 5.0])];
    let got = answer(with(model(13, &[4], nodes), constants), &[0.0, -1.0, 7.0, 1.0]);
    assert_eq!(got, [5., -1., -1., -1., -1., -1., -1., 5., -1., 5., -1., -1.]);
}

#[test]
fn pads_of_all_modes() {
    let pad =
        |mode: &str, pads: &[i64]| one(19, "Pad", vec![text("mode", mode)], &[1, 3], &[1.0, 2.0, 3.0], vec![integers("p", pads)]);
    assert_eq!(pad("constant", &[0, 2, 0, 1]), [0.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
    assert_eq!(pad("constant", &[1, -1, 0, 1]), [0.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
    assert_eq!(pad("edge", &[0, 2, 0, 1]), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
    assert_eq!(pad("reflect", &[0, 2, 0, 1]), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
    assert_eq!(pad("wrap", &[0, 2, 0, 1]), [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
    assert_eq!(pad("edge", &[0, -1, 0, 1]), [2.0, 3.0, 3.0]);
    let constants = vec![integers("p", &[1, 1]), floats("v", &[], &[7.0]), integers("a", &[-1])];
    assert_eq!(one(18, "Pad", vec![], &[1, 2], &[1.0, 2.0], constants), [7.0, 1.0, 2.0, 7.0]);
    // A pool takes the padding of a pad into account, wherever that ends.
    let nodes =
        vec![node("Pad", &["x", "p"], &["t"], vec![]), node("AveragePool", &["t"], &["y"], vec![ints("kernel_shape", vec![2])])];
    let padded = with(model(13, &[1, 1, 2], nodes), vec![integers("p", &[0, 0, 1, 0, 0, 0])]);
    assert_eq!(answer(padded, &[2.0, 4.0]), [1.0, 3.0]);
}

#[test]
fn tiles_triangles_and_crops() {
    assert_eq!(one(13, "Tile", vec![], &[1, 2], &[1.0, 2.0], vec![integers("r", &[2, 2])]), [1., 2., 1., 2., 1., 2., 1., 2.]);
    let x = counted(6);
    assert_eq!(one(14, "Trilu", vec![], &[2, 3], &x, vec![integers("k", &[1])]), [0.0, 1.0, 2.0, 0.0, 0.0, 5.0]);
    assert_eq!(one(14, "Trilu", vec![int("upper", 0)], &[2, 3], &x, vec![]), [0.0, 0.0, 0.0, 3.0, 4.0, 0.0]);
    let shape = || vec![integers("s", &[1, 5])];
    assert_eq!(one(18, "CenterCropPad", vec![], &[2, 3], &x, shape()), [0.0, 0.0, 1.0, 2.0, 0.0]);
    let blocks = vec![int("blocksize", 2), text("mode", "CRD")];
    let crd = one(28, "SpaceToDepth", blocks, &[1, 2, 2, 2], &counted(8), vec![]);
    assert_eq!(crd, counted(8));
    let dcr = one(13, "SpaceToDepth", vec![int("blocksize", 2)], &[1, 2, 2, 2], &counted(8), vec![]);
    assert_eq!(dcr, [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
}

#[test]
fn remainders_of_a_dividend_that_is_broadcast() {
    let divisors = || floats("b", &[4], &[2.0, -3.0, 4.0, -0.75]);
    let fmod = |a: f32| one(13, "Mod", vec![int("fmod", 1)], &[1], &[a], vec![divisors()]);
    assert_eq!(fmod(5.0), [1.0, 2.0, 1.0, 0.5]);
    assert_eq!(fmod(-5.0), [-1.0, -2.0, -1.0, -0.5]);
    let mod_ = one(13, "Mod", vec![], &[1], &[-5.0], vec![divisors()]);
    assert_eq!(mod_, [1.0, -2.0, 3.0, -0.5]);
}

#[test]
fn means_of_tensors_of_different_ranks() {
    let row = || floats("b", &[2], &[2.0, 4.0]);
    let means = one(13, "Mean", vec![], &[2, 2], &counted(4), vec![row(), floats("c", &[], &[3.0]), floats("d", &[1], &[1.0])]);
    assert_eq!(means, [1.5, 2.25, 2.0, 2.75]);
    assert_eq!(one(13, "Mean", vec![], &[2], &counted(2), vec![]), [0.0, 1.0]);
}

#[test]
fn slices_that_take_nothing_or_run_backwards() {
    let slice = |start: i64, end: i64, step: i64| {
        let constants = vec![integers("s", &[start]), integers("e", &[end]), integers("a", &[0]), integers("t", &[step])];
        one(13, "Slice", vec![], &[6], &counted(6), constants)
    };
    assert!(slice(-1, i64::MAX, -1).is_empty());
    assert_eq!(slice(-1, i64::MIN, -2), [5.0, 3.0, 1.0]);
    assert_eq!(slice(9, 1, -1), [5.0, 4.0, 3.0, 2.0]);
    assert_eq!(slice(-4, 100, 3), [2.0, 5.0]);
    assert_eq!(slice(i64::MAX, -(1 << 40), -1), [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], "bounds of more than 32 bits");
    assert_eq!(slice(1 << 31, -4, -1), [5.0, 4.0, 3.0]);
    assert!(slice(4, 1, 1).is_empty() && slice(-1, 3, 2).is_empty(), "the end comes first");
    let constants = || vec![integers("s", &[4, 1]), integers("e", &[1, 3]), integers("a", &[0, 1])];
    assert!(one(13, "Slice", vec![], &[6, 3], &counted(18), constants()).is_empty(), "nothing, and a part of another axis");
}

#[test]
fn diagonals_and_sums_of_products() {
    let einsum = |equation: &str, dims: &[usize], x: &[f32], constants| {
        one(13, "Einsum", vec![text("equation", equation)], dims, x, constants)
    };
    assert_eq!(einsum("ii->i", &[3, 3], &counted(9), vec![]), [0.0, 4.0, 8.0]);
    assert_eq!(einsum("bii->b", &[2, 2, 2], &counted(8), vec![]), [3.0, 11.0]);
    assert_eq!(einsum("ij->j", &[2, 3], &counted(6), vec![]), [3.0, 5.0, 7.0]);
    let y = floats("b", &[2], &[10.0, 100.0]);
    let z = floats("c", &[3], &[1.0, 2.0, 3.0]);
    assert_eq!(einsum("ij,i,j->", &[2, 3], &counted(6), vec![y, z]), [80.0 + 2600.0]);
    assert_eq!(einsum("ab->", &[2, 3], &counted(6), vec![]), [15.0]);
    let w = || floats("w", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    let rows = [2.0, 1.0, 8.0, 4.0, 14.0, 7.0, 20.0, 10.0];
    assert_eq!(einsum("...c,cz->...z", &[2, 2, 3], &counted(12), vec![w()]), rows, "an ellipsis that one operand lacks");
    assert_eq!(einsum("...ii->...i", &[2, 1, 2, 2], &counted(8), vec![]), [0.0, 3.0, 4.0, 7.0]);
}

#[test]
fn resizes() {
    let resize = |attributes: Vec<AttributeProto>, n: usize, scale: f32| {
        one(19, "Resize", attributes, &[1, n], &counted(n), vec![none(), floats("s", &[2], &[1.0, scale])])
    };
    assert_eq!(resize(vec![], 2, 2.0), [0.0, 0.0, 1.0, 1.0]);
    close(&resize(vec![text("mode", "linear")], 2, 2.0), &[0.0, 0.25, 0.75, 1.0]);
    let corners = text("coordinate_transformation_mode", "align_corners");
    close(&resize(vec![text("mode", "linear"), corners], 2, 2.0), &[0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
    let antialias = vec![text("mode", "linear"), int("antialias", 1)];
    close(&resize(antialias.clone(), 4, 0.5), &[0.625, 2.375]);
    close(&resize([antialias, vec![int("exclude_outside", 1)]].concat(), 4, 0.5), &[0.714_286, 2.285_714]);
    // The cubic weights half way are -0.09375, 0.59375, 0.59375, -0.09375.
    let cubic = vec![text("mode", "cubic"), text("coordinate_transformation_mode", "half_pixel")];
    close(&resize(cubic, 4, 0.5), &[0.5 - 0.09375, 2.5 + 0.09375]);
    let sizes = vec![none(), none(), integers("s", &[3])];
    let floor = vec![text("nearest_mode", "floor"), text("coordinate_transformation_mode", "asymmetric"), ints("axes", vec![1])];
    assert_eq!(one(19, "Resize", floor, &[1, 5], &counted(5), sizes), [0.0, 1.0, 3.0]);
    let crop = vec![
        text("mode", "linear"),
        text("coordinate_transformation_mode", "tf_crop_and_resize"),
        float("extrapolation_value", 9.0),
    ];
    let constants = vec![floats("roi", &[4], &[0.0, 0.5, 1.0, 1.5]), none(), integers("s", &[1, 3])];
    close(&one(13, "Resize", crop, &[1, 3], &counted(3), constants), &[1.0, 2.0, 9.0]);
    let upsample = vec![text("mode", "nearest")];
    assert_eq!(one(9, "Upsample", upsample, &[1, 2], &counted(2), vec![floats("s", &[2], &[1.0, 2.0])]), [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn running_sums() {
    let sum = |attributes| one(14, "CumSum", attributes, &[2, 3], &counted(6), vec![integers("a", &[-1])]);
    assert_eq!(sum(vec![]), [0.0, 1.0, 3.0, 3.0, 7.0, 12.0]);
    assert_eq!(sum(vec![int("reverse", 1), int("exclusive", 1)]), [3.0, 2.0, 0.0, 9.0, 5.0, 0.0]);
}

#[test]
fn windows() {
    let pool = |op: &str, p: i64, dims: &[usize], attributes: Vec<AttributeProto>| {
        one(18, op, [attributes, vec![int("p", p)]].concat(), dims, &[3.0, -4.0, 0.0, 5.0], vec![])
    };
    close(&pool("LpPool", 2, &[1, 1, 4], vec![ints("kernel_shape", vec![2])]), &[5.0, 4.0, 5.0]);
    close(&pool("LpPool", 1, &[1, 1, 4], vec![ints("kernel_shape", vec![2]), ints("pads", vec![1, 0])]), &[3.0, 7.0, 4.0, 5.0]);
    close(&pool("GlobalLpPool", 2, &[1, 1, 4], vec![]), &[50f32.sqrt()]);
    let columns = one(18, "Col2Im", vec![], &[1, 4, 2], &counted(8), vec![integers("i", &[2, 3]), integers("b", &[2, 2])]);
    assert_eq!(columns, [0.0, 1.0 + 2.0, 3.0, 4.0, 5.0 + 6.0, 7.0]);
    let places = shaped("i", &[1, 1, 2], &[1, 2]);
    let unpool = vec![ints("kernel_shape", vec![2]), ints("strides", vec![2])];
    assert_eq!(one(11, "MaxUnpool", unpool, &[1, 1, 2], &[5.0, 7.0], vec![places]), [0.0, 5.0, 7.0, 0.0]);
    // Energies of three neighbours: 0 + 0 + 4, 0 + 4 + 16 for channels 0, 2, 4.
    let lrn = vec![int("size", 3), float("alpha", 3.0), float("beta", 1.0), float("bias", 1.0)];
    close(&one(13, "LRN", lrn, &[1, 3, 1], &[0.0, 2.0, 4.0], vec![]), &[0.0, 2.0 / 21.0, 4.0 / 21.0]);
}

#[test]
fn windows_over_three_axes() {
    // A box of ones over a volume whose elements count up.
    let (x, w) = (counted(27), floats("w", &[1, 1, 2, 2, 2], &[1.0; 8]));
    let sums: Vec<f32> = [0, 1, 3, 4, 9, 10, 12, 13].iter().map(|&i| 8.0 * i as f32 + 52.0).collect();
    assert_eq!(one(11, "Conv", vec![], &[1, 1, 3, 3, 3], &x, vec![w.clone()]), sums);
    let means: Vec<f32> = sums.iter().map(|v| v / 8.0).collect();
    let kernel = || vec![ints("kernel_shape", vec![2, 2, 2])];
    close(&one(11, "AveragePool", kernel(), &[1, 1, 3, 3, 3], &x, vec![]), &means);
    let largest: Vec<f32> = means.iter().map(|v| v + 6.5).collect();
    assert_eq!(one(11, "MaxPool", kernel(), &[1, 1, 3, 3, 3], &x, vec![]), largest);
    // Transposed with stride 2, each element becomes a box of its own.
    let strides = vec![ints("strides", vec![2, 2, 2])];
    let boxes = one(11, "ConvTranspose", strides, &[1, 1, 1, 1, 2], &[3.0, 5.0], vec![w]);
    assert_eq!(boxes, [3., 3., 5., 5.].repeat(4));
    let grouped = floats("w", &[2, 1, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
    let got = one(11, "Conv", vec![int("group", 2)], &[1, 2, 3, 1, 1], &counted(6), vec![grouped]);
    assert_eq!(got, [2.0, 5.0, 3.0 * 3.0 + 4.0 * 4.0, 3.0 * 4.0 + 4.0 * 5.0]);
}

#[test]
fn weights_that_are_computed() {
    // The weights are a part of the input.
    let nodes = vec![
        node("Split", &["x", "s"], &["a", "b", "c"], vec![int("axis", 0)]),
        node("Reshape", &["a", "map"], &["m"], vec![]),
        node("Reshape", &["b", "kernel"], &["w"], vec![]),
        node("Conv", &["m", "w", "c"], &["y"], vec![ints("pads", vec![1, 0]), ints("strides", vec![2])]),
    ];
    let constants = vec![integers("s", &[4, 2, 1]), integers("map", &[1, 1, 4]), integers("kernel", &[1, 1, 2])];
    let got = answer(with(model(13, &[7], nodes.clone()), constants.clone()), &[1.0, 2.0, 3.0, 4.0, 10.0, 100.0, 0.5]);
    assert_eq!(got, [100.5, 320.5]);
    let mut nodes = nodes;
    nodes[3] = node("ConvTranspose", &["m", "w", "c"], &["y"], vec![ints("strides", vec![2])]);
    let got = answer(with(model(13, &[7], nodes), constants), &[1.0, 2.0, 3.0, 4.0, 10.0, 100.0, 0.5]);
    assert_eq!(got, [10.5, 100.5, 20.5, 200.5, 30.5, 300.5, 40.5, 400.5]);
}

#[test]
fn losses() {
    let x = [0.1f32, 0.7, 0.2, 0.3, 0.3, 0.4].map(f32::ln);
    let target = || integers("t", &[1, 2]);
    let nll = |attributes, more: Vec<TensorProto>| {
        one(13, "NegativeLogLikelihoodLoss", attributes, &[2, 3], &x, [vec![target()], more].concat())
    };
    let (a, b) = (-(0.7f32.ln()), -(0.4f32.ln()));
    close(&nll(vec![text("reduction", "none")], vec![]), &[a, b]);
    close(&nll(vec![], vec![]), &[(a + b) / 2.0]);
    close(&nll(vec![], vec![floats("w", &[3], &[1.0, 2.0, 6.0])]), &[(2.0 * a + 6.0 * b) / 8.0]);
    close(&nll(vec![int("ignore_index", 2)], vec![]), &[a]);
    let sum = vec![text("reduction", "sum")];
    close(&one(13, "SoftmaxCrossEntropyLoss", sum, &[2, 3], &x, vec![target()]), &[a + b]);
}

#[test]
fn norms_and_activations() {
    close(&one(13, "LpNormalization", vec![], &[2, 2], &[3.0, 4.0, 0.0, 0.0], vec![]), &[0.6, 0.8, 0.0, 0.0]);
    assert_eq!(one(13, "Hardmax", vec![], &[2, 2], &[3.0, 4.0, 5.0, 5.0], vec![]), [0.0, 1.0, 1.0, 0.0]);
    let axes = vec![ints("axes", vec![1])];
    close(&one(13, "MeanVarianceNormalization", axes, &[1, 2], &[1.0, 3.0], vec![]), &[-1.0, 1.0]);
    let e = |x: f32| x.exp();
    close(&one(12, "Celu", vec![float("alpha", 2.0)], &[2], &[-2.0, 3.0], vec![]), &[2.0 * (e(-1.0) - 1.0), 3.0]);
    close(
        &one(24, "Swish", vec![float("alpha", 2.0)], &[2], &[1.0, -1.0], vec![]),
        &[1.0 / (1.0 + e(-2.0)), -1.0 / (1.0 + e(2.0))],
    );
    let slopes = floats("s", &[2], &[0.5, 0.25]);
    assert_eq!(one(6, "PRelu", vec![], &[1, 2, 2], &[-1.0, 1.0, -4.0, 4.0], vec![slopes]), [-0.5, 1.0, -1.0, 4.0]);
    let [ones, zeros] = [1.0, 0.0].map(|v| floats(if v == 1.0 { "s" } else { "b" }, &[2], &[v; 2]));
    let nodes = vec![node("LayerNormalization", &["x", "s", "b"], &["n", "m", "y"], vec![float("epsilon", 0.0)])];
    close(&answer(with(model(17, &[2, 2], nodes), vec![ones, zeros]), &[1.0, 3.0, 0.0, 8.0]), &[1.0, 0.25]);
    // By the batch's own mean and variance.
    let constants = ["s", "b", "m", "v"].map(|name| floats(name, &[1], &[(name == "s") as u8 as f32])).to_vec();
    let training = vec![int("training_mode", 1), float("epsilon", 0.0)];
    close(&one(15, "BatchNormalization", training, &[2, 1], &[1.0, 3.0], constants), &[-1.0, 1.0]);
}

#[test]
fn reductions_of_nothing_and_of_narrow_floats() {
    let reduce = |op: &str| one(13, op, vec![ints("axes", vec![1]), int("keepdims", 0)], &[2, 0], &[], vec![]);
    assert_eq!(reduce("ReduceMax"), [f32::NEG_INFINITY; 2]);
    assert_eq!(reduce("ReduceMin"), [f32::INFINITY; 2]);
    assert_eq!(reduce("ReduceProd"), [1.0; 2]);
    // 2 * 60000 is no float16, their mean is.
    let nodes = vec![
        node("Cast", &["x"], &["h"], vec![int("to", 10)]),
        node("ReduceMean", &["h"], &["m"], vec![]),
        node("Cast", &["m"], &["y"], vec![int("to", 1)]),
    ];
    close(&answer(model(13, &[2], nodes), &[60000.0, 60000.0]), &[60000.0]);
}

#[test]
fn half_floats_are_rounded_at_the_border_alone() {
    // 1 + 2^-12 is no float16: rounded in between, the difference would be 0.
    let nodes = vec![
        node("Cast", &["x"], &["h"], vec![int("to", 10)]),
        node("Mul", &["h", "small"], &["s"], vec![]),
        node("Add", &["s", "one"], &["t"], vec![]),
        node("Pad", &["t", "p", "one"], &["q"], vec![]),
        node("Softmax", &["q"], &["u"], vec![int("axis", 0)]),
        node("Sub", &["t", "one"], &["d"], vec![]),
        node("Cast", &["d"], &["y"], vec![int("to", 1)]),
        node("Identity", &["u"], &["unused"], vec![]),
    ];
    let half =
        |name: &str, bits: i32| TensorProto { name: name.into(), data_type: 10, int32_data: vec![bits], ..Default::default() };
    let constants = vec![half("small", 0x0c00), half("one", 0x3c00), integers("p", &[0, 1])];
    close(&answer(with(model(13, &[1], nodes), constants), &[1.0]).iter().map(|v| v * 4096.0).collect::<Vec<_>>(), &[1.0]);
}

#[test]
fn shifts_keep_the_sign() {
    let nodes = vec![
        node("Cast", &["x"], &["i"], vec![int("to", 3)]),
        node("BitShift", &["i", "by"], &["s"], vec![text("direction", "RIGHT")]),
        node("Cast", &["s"], &["y"], vec![int("to", 1)]),
    ];
    let by = TensorProto { name: "by".into(), dims: vec![4], data_type: 3, int32_data: vec![1, 1, 9, -1], ..Default::default() };
    assert_eq!(answer(with(model(28, &[4], nodes), vec![by]), &[-8.0, 9.0, -1.0, -5.0]), [-4.0, 4.0, -1.0, -1.0]);
}

#[test]
fn bits_are_read_as_another_type() {
    let nodes = vec![node("BitCast", &["x"], &["y"], vec![int("to", 6)])];
    let got = bytes(model(26, &[1], nodes), &1f32.to_le_bytes());
    assert_eq!(i32::from_le_bytes(got.try_into().unwrap()), 0x3f80_0000);
}

#[test]
fn doubles_stay_doubles() {
    let nodes = vec![
        node("Cast", &["x"], &["d"], vec![int("to", 11)]),
        node("Mul", &["d", "d"], &["s"], vec![]),
        node("CumSum", &["s", "axis"], &["c"], vec![]),
        node("ReduceMax", &["c"], &["m"], vec![]),
        node("Sqrt", &["m"], &["r"], vec![]),
        node("Cast", &["r"], &["y"], vec![int("to", 1)]),
    ];
    close(&answer(with(model(14, &[2], nodes), vec![integers("axis", &[0])]), &[3e30, 4e30]), &[5e30]);
}

#[test]
fn transforms() {
    let dft = |attributes: Vec<AttributeProto>, dims: &[usize], x: &[f32]| one(17, "DFT", attributes, dims, x, vec![]);
    // Of 1, 2, 3, 4: 10, -2 + 2i, -2, -2 - 2i.
    let whole = [10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0];
    close(&dft(vec![], &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]), &whole);
    close(&dft(vec![int("onesided", 1)], &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]), &whole[..6]);
    close(&dft(vec![int("inverse", 1)], &[1, 4, 2], &whole), &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
    let both = vec![int("inverse", 1), int("onesided", 1)];
    close(&dft(both, &[1, 3, 2], &whole[..6]), &[1.0, 2.0, 3.0, 4.0]);
    let frames = vec![integers("step", &[2]), floats("w", &[2], &[1.0, 0.5])];
    close(&one(17, "STFT", vec![], &[1, 4, 1], &[1.0, 2.0, 3.0, 4.0], frames), &[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 1.0, 0.0]);
}

#[test]
fn attention_by_hand() {
    // One head of size 1; keys 0 and ln 3 give the second value three quarters of the weight.
    let constants = vec![floats("k", &[1, 1, 2, 1], &[0.0, 3f32.ln()]), floats("v", &[1, 1, 2, 1], &[10.0, 20.0])];
    close(&one(23, "Attention", vec![], &[1, 1, 2, 1], &[1.0, 1.0], constants.clone()), &[17.5, 17.5]);
    close(&one(23, "Attention", vec![int("is_causal", 1)], &[1, 1, 2, 1], &[1.0, 1.0], constants.clone()), &[10.0, 17.5]);
    let never = floats("mask", &[2, 2], &[f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]);
    let masked = [constants, vec![never]].concat();
    close(&one(23, "Attention", vec![], &[1, 1, 2, 1], &[1.0, 1.0], masked), &[0.0, 10.0]);
    // A quarter turn of pairs (1, 0) and (0, 1).
    let tables = vec![floats("c", &[1, 2, 1], &[0.0; 2]), floats("s", &[1, 2, 1], &[1.0; 2])];
    close(&one(23, "RotaryEmbedding", vec![], &[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0], tables), &[0.0, 1.0, -1.0, 0.0]);
    let conv = vec![floats("w", &[1, 1, 2], &[10.0, 1.0])];
    close(&one(27, "CausalConvWithState", vec![], &[1, 1, 3], &[1.0, 2.0, 3.0], conv), &[1.0, 12.0, 23.0]);
    // The state is 2 * 1 after the first step, and 2 + 3 * 1 after the second.
    let linear = vec![text("update_rule", "linear"), int("q_num_heads", 1), int("kv_num_heads", 1)];
    let keys = vec![floats("k", &[1, 2, 1], &[1.0; 2]), floats("v", &[1, 2, 1], &[2.0, 3.0])];
    close(&one(27, "LinearAttention", linear, &[1, 2, 1], &[1.0, 10.0], keys), &[2.0, 50.0]);
}

#[test]
fn boxes_and_grids() {
    // Two boxes that overlap by half, and one apart.
    let boxes = floats("boxes", &[1, 3, 4], &[0., 0., 1., 1., 0., 0.25, 1., 1.25, 5., 5., 6., 6.]);
    let constants =
        vec![boxes, floats("scores", &[1, 1, 3], &[0.5, 0.9, 0.8]), integers("most", &[9]), floats("overlap", &[1], &[0.5])];
    let nodes = vec![
        node("NonMaxSuppression", &["boxes", "scores", "most", "overlap"], &["n"], vec![]),
        node("Cast", &["n"], &["f"], vec![int("to", 1)]),
        node("Mul", &["f", "x"], &["y"], vec![]),
    ];
    assert_eq!(answer(with(model(11, &[1], nodes), constants), &[1.0]), [0.0, 0.0, 1.0, 0.0, 0.0, 2.0]);
    let theta = vec![1.0, 0.0, 0.5, 0.0, 1.0, 0.0];
    let grid = one(20, "AffineGrid", vec![int("align_corners", 1)], &[1, 2, 3], &theta, vec![integers("s", &[1, 1, 2, 2])]);
    close(&grid, &[-0.5, -1.0, 1.5, -1.0, -0.5, 1.0, 1.5, 1.0]);
    let places = floats("g", &[1, 1, 1, 2], &[0.0, 0.0]);
    close(&one(16, "GridSample", vec![], &[1, 1, 2, 2], &counted(4), vec![places]), &[1.5]);
    let region = vec![floats("r", &[1, 4], &[0.0, 0.0, 2.0, 2.0]), integers("b", &[0])];
    let size = vec![int("output_height", 1), int("output_width", 1), int("sampling_ratio", 2)];
    close(&one(16, "RoiAlign", size, &[1, 1, 2, 2], &counted(4), region), &[1.5]);
}

/// Nodes that make `name` a value that is computed, though it is always the same: `constant + 0 * x`.
fn computed(constant: &str, name: &str) -> Vec<tract_onnx::pb::NodeProto> {
    let [zeros, zero] = ["zeros", "zero"].map(|what| format!("{name}.{what}"));
    vec![
        node("Sub", &["x", "x"], &[&zeros], vec![]),
        node("ReduceSum", &[&zeros], &[&zero], vec![int("keepdims", 0)]),
        node("Add", &[constant, &zero], &[name], vec![]),
    ]
}

#[test]
fn plain_recurrent_cells() {
    // The state is the sum of what has come so far.
    let weights = || vec![floats("w", &[1, 1, 1], &[1.0]), floats("r", &[1, 1, 1], &[1.0])];
    let affine = AttributeProto { name: "activations".into(), strings: vec!["Affine".into()], r#type: 8, ..Default::default() };
    let run = |direction: &str, lens: Option<i64>| {
        let mut constants = weights();
        if let Some(n) = lens {
            let dims = vec![1];
            constants.extend([
                none(),
                TensorProto { name: "n".into(), dims, data_type: 6, int32_data: vec![n as i32], ..Default::default() },
            ]);
        }
        let attributes = vec![int("hidden_size", 1), text("direction", direction), affine.clone()];
        one(14, "RNN", attributes, &[3, 1, 1], &[1.0, 10.0, 100.0], constants)
    };
    assert_eq!(run("forward", None), [1.0, 11.0, 111.0]);
    assert_eq!(run("reverse", None), [111.0, 110.0, 100.0]);
    assert_eq!(run("forward", Some(2)), [1.0, 11.0, 0.0]);
    assert_eq!(run("reverse", Some(2)), [11.0, 10.0, 0.0]);
}

/// Cells with weights that are computed are written out step by step: they must agree with the kernels.
#[test]
fn cells_step_by_step_agree_with_kernels() {
    let mut seed = 1u32;
    let mut some = |name: &str, dims: &[i64]| {
        let n = dims.iter().product::<i64>() as usize;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        floats(name, dims, &(0..n).map(|_| next()).collect::<Vec<_>>())
    };
    let x: Vec<f32> = (0..3 * 2 * 4).map(|i| (i as f32 * 0.7).sin()).collect();
    let cases: [(&str, i64, Vec<AttributeProto>); 5] = [
        ("LSTM", 4, vec![]),
        ("LSTM", 4, vec![int("input_forget", 1), float("clip", 0.4)]),
        ("GRU", 3, vec![]),
        ("GRU", 3, vec![int("linear_before_reset", 1)]),
        ("LSTM", 4, vec![int("layout", 1)]),
    ];
    for (op, gates, attributes) in cases {
        let constants =
            vec![some("w", &[2, 5 * gates, 4]), some("r", &[2, 5 * gates, 5]), some("b", &[2, 10 * gates]), some("p", &[2, 15])];
        let attributes = [attributes, vec![int("hidden_size", 5), text("direction", "bidirectional")]].concat();
        for output in 0..2 {
            let run = |weights: &str| {
                let mut inputs = vec!["x", weights, "r", "b"];
                if op == "LSTM" {
                    inputs.extend(["", "", "", "p"]);
                }
                let outputs = if output == 0 { vec!["y"] } else { vec!["", "y"] };
                let mut nodes = computed("w", "computed");
                nodes.push(node(op, &inputs, &outputs, attributes.clone()));
                answer(with(model(14, &[3, 2, 4], nodes), constants.clone()), &x)
            };
            close(&run("computed"), &run("w"));
        }
    }
}

#[test]
fn quantised_numbers() {
    let quantise = |scale: &[f32], zero: &[i64], dims: i64| {
        let dims = if dims == 0 { vec![] } else { vec![dims] };
        let zero: Vec<i32> = zero.iter().map(|&z| z as i32).collect();
        let constants = vec![
            floats("s", &dims, scale),
            TensorProto { name: "z".into(), dims: dims.clone(), data_type: 3, int32_data: zero, ..Default::default() },
        ];
        let nodes = vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![]),
            node("Cast", &["q"], &["f"], vec![int("to", 1)]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"], vec![]),
            node("Concat", &["f", "d"], &["y"], vec![int("axis", 0)]),
        ];
        answer(with(model(13, &[1, 4], nodes), constants), &[0.5, 1.5, -900.0, 3.0])
    };
    // Ties to even; far below the range.
    assert_eq!(quantise(&[1.0], &[1], 0), [1.0, 3.0, -128.0, 4.0, 0.0, 2.0, -129.0, 3.0]);
    assert_eq!(quantise(&[1.0, 0.5, 10.0, 2.0], &[0, 0, 5, -1], 4), [0.0, 3.0, -85.0, 1.0, 0.0, 1.5, -900.0, 4.0]);
}

fn scalar(name: &str, data_type: i32, value: i32) -> TensorProto {
    TensorProto { name: name.into(), data_type, int32_data: vec![value], ..Default::default() }
}

/// `int8` x in, `uint8` y out, both quantised: dequantised, cut off below zero, quantised.
fn quantised_model() -> ModelProto {
    let nodes = vec![
        node("DequantizeLinear", &["x", "s", "z"], &["d"], vec![]),
        node("Relu", &["d"], &["r"], vec![]),
        node("QuantizeLinear", &["r", "t", "u"], &["y"], vec![]),
    ];
    let constants = vec![floats("s", &[], &[0.1]), scalar("z", 3, -3), floats("t", &[], &[0.2]), scalar("u", 2, 5)];
    let mut model = with(model(13, &[1, 8], nodes), constants);
    let graph = model.graph.as_mut().unwrap();
    graph.input = vec![crate::import::externs::declare("x", 3, Some(&[1, 8]))];
    graph.output = vec![crate::import::externs::declare("y", 2, Some(&[1, 8]))];
    model
}

#[test]
fn quantised_numbers_in_and_out() {
    // -128, -3 and -1 are below zero or 0; 3 is 0.6; 127 is 13.
    let x = [-128i8, -3, -4, -1, 1, 3, 127, 125].map(|x| x as u8);
    assert_eq!(bytes(quantised_model(), &x), [5, 5, 5, 6, 7, 8, 70, 69]);
}

/// The file that the C programs and the mutations take is this model.
#[test]
fn the_quantised_model_of_the_tests_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/quantised.onnx");
    let bytes = quantised_model().encode_to_vec();
    if std::env::var_os("KILN_RENEW").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert!(std::fs::read(path).unwrap() == bytes, "{path} is another model: KILN_RENEW=1 writes it again");
}

#[test]
fn inputs_and_outputs_are_quantised_as_their_neighbours_say() {
    use crate::tensor::Quantisation;
    let ports = |model: ModelProto| {
        let lowered = lower::lower(built(model).unwrap().graph, &lower::Options::default()).unwrap();
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = crate::Image::new(&built.image).unwrap();
        let main = image.main();
        [main.inputs().next().unwrap().quantisation(), main.outputs().next().unwrap().quantisation()]
    };
    let [x, y] = [(0.1, -3), (0.2, 5)].map(|(scale, zero_point)| Some(Quantisation { scale, zero_point }));
    assert_eq!(ports(quantised_model()), [x, y]);
    let changed = |change: &dyn Fn(&mut tract_onnx::pb::GraphProto)| {
        let mut model = quantised_model();
        change(model.graph.as_mut().unwrap());
        ports(model)
    };
    // Elements that move on the way are the same numbers still.
    let moved = changed(&|graph| {
        graph.node[0].input[0] = "transposed".into();
        graph.node[2].output[0] = "q".into();
        let perm = vec![ints("perm", vec![1, 0])];
        graph.node.insert(0, node("Transpose", &["x"], &["transposed"], perm));
        graph.node.push(node("Reshape", &["q", "shape"], &["y"], vec![]));
        graph.initializer.push(integers("shape", &[2, 4]));
        graph.output = vec![crate::import::externs::declare("y", 2, Some(&[2, 4]))];
    });
    assert_eq!(moved, [x, y]);
    // Readers who agree, and readers who don't.
    let twice = |scale: &'static str| {
        changed(&|graph| {
            graph.node.insert(1, node("DequantizeLinear", &["x", scale, "z"], &["e"], vec![]));
            graph.node[2] = node("Add", &["d", "e"], &["r"], vec![]);
        })
    };
    assert_eq!(twice("s"), [x, y]);
    assert_eq!(twice("t"), [None, y]);
    // No zero point: 0.
    let plain = changed(&|graph| {
        graph.node[0].input.truncate(2);
        graph.node[2].input.truncate(2);
    });
    assert_eq!(plain, [(0.1, 0), (0.2, 0)].map(|(scale, zero_point)| Some(Quantisation { scale, zero_point })));
    // A number per channel, a scale of the wrong sign, numbers that are used as they are.
    let channels = changed(&|graph| {
        graph.initializer[0] = floats("s", &[8], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]);
        graph.initializer[1] = TensorProto { dims: vec![8], int32_data: vec![0; 8], ..scalar("z", 3, 0) };
    });
    assert_eq!(channels, [None, y]);
    assert_eq!(changed(&|graph| graph.initializer[0] = floats("s", &[], &[-0.1])), [None, y]);
    let cast = changed(&|graph| graph.node[0] = node("Cast", &["x"], &["d"], vec![int("to", 1)]));
    assert_eq!(cast, [None, y]);
    let clipped = changed(&|graph| {
        graph.node[2].output[0] = "q".into();
        graph.node.push(node("Max", &["q", "u"], &["y"], vec![]));
    });
    assert_eq!(clipped, [x, None]);
}

#[test]
fn bfloat16_is_computed_in_f32() {
    let bits = |v: &[f32]| v.iter().map(|v| (v.to_bits() >> 16) as u16).collect::<Vec<_>>();
    let int32_data = bits(&[2.0, -0.5]).iter().map(|&v| v as i32).collect();
    let w = TensorProto { name: "w".into(), dims: vec![2], data_type: 16, int32_data, ..Default::default() };
    let nodes = vec![node("Cast", &["w"], &["v"], vec![int("to", 16)]), node("Mul", &["x", "v"], &["y"], vec![])];
    let mut model = with(model(13, &[2], nodes), vec![w]);
    let graph = model.graph.as_mut().unwrap();
    graph.input = vec![crate::import::externs::declare("x", 16, Some(&[2]))];
    graph.output = vec![crate::import::externs::declare("y", 16, None)];
    let x: Vec<u8> = bits(&[1.5, 3.0]).iter().flat_map(|v| v.to_le_bytes()).collect();
    let want: Vec<u8> = bits(&[3.0, -1.5]).iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bytes(model, &x), want);
}

/// A value of a picture between its elements; outside they are zero.
fn between(picture: &[f32], [height, width]: [usize; 2], y: f32, x: f32) -> f32 {
    let mut sum = 0.0;
    for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (cy, cx) = (y.floor() + dy as f32, x.floor() + dx as f32);
        if (0.0..height as f32).contains(&cy) && (0.0..width as f32).contains(&cx) {
            sum += picture[cy as usize * width + cx as usize] * (1.0 - (y - cy).abs()) * (1.0 - (x - cx).abs());
        }
    }
    sum
}

#[test]
fn a_convolution_whose_taps_are_moved() {
    // Two offset groups of two channels each, two groups; 2x2 taps, dilated down and strided across, padded above.
    let (channels, [height, width], out, [rows, columns]) = (4, [4, 5], 2, [3, 2]);
    let (taps, spots) = (4, rows * columns);
    let noise = |n: usize, by: f32| (0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) * by).collect::<Vec<f32>>();
    let (x, w) = (noise(channels * height * width, 0.25), noise(out * 2 * taps, 0.125));
    let (offset, mask) = (noise(2 * taps * 2 * spots, 0.2), noise(2 * taps * spots, 0.1));
    for masked in [false, true] {
        let attributes = vec![
            ints("dilations", vec![2, 1]),
            ints("strides", vec![1, 3]),
            ints("pads", vec![1, 0, 0, 0]),
            int("group", 2),
            int("offset_group", 2),
        ];
        let shape = |per_tap: usize| [1, (2 * taps * per_tap) as i64, rows as i64, columns as i64];
        let mut constants =
            vec![floats("w", &[2, 2, 2, 2], &w), floats("o", &shape(2), &offset), floats("b", &[2], &[0.5, -2.0])];
        constants.extend(masked.then(|| floats("m", &shape(1), &mask)));
        let got = one(19, "DeformConv", attributes, &[1, channels, height, width], &x, constants);
        let mut want = vec![];
        for channel in 0..out {
            for spot in 0..spots {
                let mut sum = [0.5, -2.0][channel];
                // Its group's channels, which are those of an offset group, too.
                for (own, tap) in (0..2).flat_map(|own| (0..taps).map(move |tap| (own, tap))) {
                    let moved = |axis: usize| offset[((channel * taps + tap) * 2 + axis) * spots + spot];
                    let y = (spot / columns + tap / 2 * 2) as f32 - 1.0 + moved(0);
                    let x_at = (spot % columns * 3 + tap % 2) as f32 + moved(1);
                    let picture = &x[(channel * 2 + own) * height * width..][..height * width];
                    let by = if masked { mask[(channel * taps + tap) * spots + spot] } else { 1.0 };
                    sum += w[(channel * 2 + own) * taps + tap] * by * between(picture, [height, width], y, x_at);
                }
                want.push(sum);
            }
        }
        close(&got, &want);
    }
}

#[test]
fn determinants() {
    assert_eq!(one(22, "Det", vec![], &[2, 2, 2], &[1., 2., 3., 4., 0., 1., 1., 0.], vec![]), [-2., -1.]);
    // Of a product of triangles: the product of their diagonals.
    let (low, high) = ([[1., 0., 0., 0.], [2., 3., 0., 0.], [-1., 1., 2., 0.], [4., 0., 1., -1.]], [2., 1., -3., 0.5]);
    let product = |n: usize| {
        let upper = |k: usize, j: usize| if k == j { high[k] } else { (j > k) as u8 as f32 * (k as f32 - 1.5) };
        let all = (0..n * n).map(|i| (0..n).map(|k| low[i / n][k] * upper(k, i % n)).sum());
        all.collect::<Vec<f32>>()
    };
    for n in 1..=4 {
        let want: f32 = (0..n).map(|i| low[i][i] * high[i]).product();
        close(&one(11, "Det", vec![], &[n, n], &product(n), vec![]), &[want]);
    }
}
