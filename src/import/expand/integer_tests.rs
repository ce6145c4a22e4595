//! Products of quantised integers, against sums of integers.

use super::tests::{answer, bytes};
use crate::import::attributes::{int, ints};
use crate::import::tests::{floats, model, node, with};
use tract_onnx::pb::{ModelProto, TensorProto};

/// Numbers that look random, of 8 bits.
fn noise(n: usize, seed: u32) -> Vec<u8> {
    (0..n as u32).map(|i| (((i + 1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 13) as u8).collect()
}

/// A constant of unsigned (2) or signed (3) bytes.
fn octets(name: &str, data_type: i32, dims: &[i64], raw: &[u8]) -> TensorProto {
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data: raw.to_vec(), ..Default::default() }
}

/// The same model over bytes instead of `f32`.
fn of_bytes(mut model: ModelProto, dims: &[usize]) -> ModelProto {
    model.graph.as_mut().unwrap().input[0] = crate::import::externs::declare("x", 2, Some(dims));
    model
}

fn i32s(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn sums_of_products_are_exact() {
    // One digit, two, three and five; the largest sums that there can be among them.
    for (depth, largest) in [(3, false), (258, true), (259, true), (1000, false), (4500, true), (9000, true)] {
        let (x, w) =
            if largest { (vec![255; 2 * depth], vec![0x80; depth * 3]) } else { (noise(2 * depth, 1), noise(depth * 3, 2)) };
        let zeros = [3u8, 0, 250];
        for columns in [false, true] {
            let (b_zero, dims): (&[u8], &[i64]) = if columns { (&zeros, &[3]) } else { (&[127], &[]) };
            let nodes = vec![node("MatMulInteger", &["x", "w", "xz", "wz"], &["y"], vec![])];
            let constants = vec![
                octets("w", 3, &[depth as i64, 3], &w),
                octets("xz", 2, &[], &[if largest { 0 } else { 131 }]),
                octets("wz", 3, dims, b_zero),
            ];
            let got = bytes(of_bytes(with(model(13, &[2, depth], nodes), constants), &[2, depth]), &x);
            let mut want = vec![];
            for row in 0..2 {
                for column in 0..3 {
                    let zero = b_zero[if columns { column } else { 0 }] as i8 as i32;
                    let term = |k: usize| {
                        (x[row * depth + k] as i32 - if largest { 0 } else { 131 }) * (w[k * 3 + column] as i8 as i32 - zero)
                    };
                    want.push((0..depth).map(term).sum::<i32>());
                }
            }
            assert_eq!(i32s(&got), want, "{depth} {columns}");
        }
    }
}

/// Over one axis, padded by one in front: taps of a kernel of 2, in two groups.
fn convolved(x: &[u8], w: &[u8], [x_zero, channels, size]: [usize; 3], w_zeros: [i32; 2]) -> Vec<i32> {
    let own = channels / 2;
    let mut sums = vec![];
    for out in 0..2 {
        for place in 0..size {
            let mut sum = 0;
            for channel in 0..own {
                for tap in 0..2 {
                    let Some(at) = (place + tap).checked_sub(1) else { continue };
                    let v = x[(out * own + channel) * size + at] as i32 - x_zero as i32;
                    sum += v * (w[(out * own + channel) * 2 + tap] as i8 as i32 - w_zeros[out]);
                }
            }
            sums.push(sum);
        }
    }
    sums
}

#[test]
fn convolutions_of_integers_pad_with_the_zero_point() {
    for channels in [4, 600] {
        let (x, w) = (noise(channels * 5, 3), noise(channels * 2, 4));
        let dims = [1, channels, 5];
        let attributes = || vec![int("group", 2), ints("pads", vec![1, 0])];
        let weights = octets("w", 3, &[2, channels as i64 / 2, 2], &w);
        let nodes = vec![node("ConvInteger", &["x", "w", "xz", "wz"], &["y"], attributes())];
        let zeros = || vec![octets("xz", 2, &[], &[117]), octets("wz", 3, &[2], &[5, 0xf0])];
        let constants = [vec![weights.clone()], zeros()].concat();
        let got = bytes(of_bytes(with(model(13, &dims, nodes), constants), &dims), &x);
        let sums = convolved(&x, &w, [117, channels, 5], [5, -16]);
        assert_eq!(i32s(&got), sums);
        // Quantised again, with a scale and a bias for each channel.
        let inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"];
        let scale = 0.25 * (channels as f32).sqrt();
        let constants = vec![
            weights,
            floats("xs", &[], &[0.125]),
            floats("ws", &[2], &[0.0625, 0.03125]),
            floats("ys", &[], &[scale]),
            octets("yz", 2, &[], &[100]),
            TensorProto { name: "b".into(), dims: vec![2], data_type: 6, int32_data: vec![500, -700], ..Default::default() },
        ];
        let nodes = vec![node("QLinearConv", &inputs, &["y"], attributes())];
        let got = bytes(of_bytes(with(model(13, &dims, nodes), [constants, zeros()].concat()), &dims), &x);
        let want = sums.iter().enumerate().map(|(i, sum)| {
            let (bias, by) = if i < 5 { (500, 0.125 * 0.0625) } else { (-700, 0.125 * 0.03125) };
            (((sum + bias) as f32 * (by / scale)).round_ties_even() + 100.0).clamp(0.0, 255.0) as u8
        });
        assert_eq!(got, want.collect::<Vec<_>>());
    }
}

#[test]
fn a_product_that_is_quantised_again() {
    let inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"];
    let (x, w) = (noise(6, 5), noise(12, 6));
    let nodes = vec![node("QLinearMatMul", &inputs, &["y"], vec![])];
    let constants = vec![
        octets("w", 3, &[3, 4], &w),
        floats("xs", &[2], &[0.5, 0.25]),
        octets("xz", 2, &[2], &[100, 120]),
        floats("ws", &[], &[0.125]),
        octets("wz", 3, &[], &[4]),
        floats("ys", &[], &[8.0]),
        octets("yz", 3, &[], &[3]),
    ];
    let got = bytes(of_bytes(with(model(21, &[2, 3], nodes), constants), &[2, 3]), &x);
    let want = (0..8).map(|i| {
        let (row, column) = (i / 4, i % 4);
        let term = |k: usize| (x[row * 3 + k] as i32 - [100, 120][row]) * (w[k * 4 + column] as i8 as i32 - 4);
        let scale = [0.5f32, 0.25][row] * 0.125 / 8.0;
        let sum = (0..3).map(term).sum::<i32>() as f32 * scale;
        (sum.round_ties_even() + 3.0).clamp(-128.0, 127.0) as i8 as u8
    });
    assert_eq!(got, want.collect::<Vec<_>>());
}

#[test]
fn a_tensor_is_quantised_by_its_own_range() {
    for x in [[-1.0f32, 0.5, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], [-4.0, -1.0, -2.0, -2.5], [0.0; 4]] {
        let raw: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let of = |outputs: [&str; 3]| bytes(model(13, &[4], vec![node("DynamicQuantizeLinear", &["x"], &outputs, vec![])]), &raw);
        let low = x.iter().copied().fold(0f32, f32::min);
        let range = x.iter().copied().fold(0f32, f32::max) - low;
        let scale = if range == 0.0 { 1.0 } else { range / 255.0 };
        let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
        let want = x.map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8);
        assert_eq!(of(["y", "s", "z"]), want, "{x:?}");
        assert_eq!(of(["q", "y", "z"]), scale.to_le_bytes(), "{x:?}");
        assert_eq!(of(["q", "s", "y"]), [zero as u8], "{x:?}");
    }
}

#[test]
fn the_largest_of_a_window_and_where_it_stands() {
    // 1 is in the corner, 8 and 9 are found by several windows; equal ones: the first. Padding is never found.
    let x = [1., -8., -8., 9., -8., -8., 8., -8., -8., -8., -8., -8.];
    let places = |attributes: Vec<_>| {
        let nodes = vec![
            node("MaxPool", &["x"], &["m", "i"], attributes),
            node("Cast", &["i"], &["f"], vec![int("to", 1)]),
            node("Concat", &["m", "f"], &["y"], vec![int("axis", 0)]),
        ];
        answer(model(12, &[1, 2, 2, 3], nodes), &x)
    };
    let kernel = || vec![ints("kernel_shape", vec![2, 2])];
    assert_eq!(places(kernel()), [9., -8., 8., -8., 3., 1., 6., 7.]);
    let padded = || [kernel(), vec![ints("pads", vec![1, 1, 0, 0]), ints("strides", vec![1, 2])]].concat();
    assert_eq!(places(padded()), [1., -8., 9., -8., 8., -8., 8., -8., 0., 1., 3., 1., 6., 7., 6., 7.]);
    // Counted by columns.
    let columns = [padded(), vec![int("storage_order", 1)]].concat();
    assert_eq!(places(columns)[8..], [0., 2., 1., 2., 6., 8., 6., 8.]);
}

#[test]
fn reductions_in_double_precision() {
    let reduced = |op: &str, x: &[f64], axes: &[i64]| {
        let mut model = model(13, &[2, 2], vec![node(op, &["x"], &["y"], vec![ints("axes", axes.to_vec()), int("keepdims", 0)])]);
        model.graph.as_mut().unwrap().input[0] = crate::import::externs::declare("x", 11, Some(&[2, 2]));
        let raw: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let got = bytes(model, &raw);
        got.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    let near = |got: Vec<f64>, want: &[f64]| {
        assert!(got.iter().zip(want).all(|(g, w)| g == w || (g - w).abs() <= 1e-14 * w.abs()), "{got:?}, want {want:?}");
    };
    let x = [3.0, -1000.0, 4.0, 1000.0];
    near(reduced("ReduceL1", &x, &[1]), &[1003.0, 1004.0]);
    near(reduced("ReduceL2", &x, &[0]), &[5.0, 2e6f64.sqrt()]);
    near(reduced("ReduceSumSquare", &x, &[0]), &[25.0, 2e6]);
    near(reduced("ReduceLogSum", &[1.0, 2.0, 0.0, 0.0], &[1]), &[3f64.ln(), f64::NEG_INFINITY]);
    near(reduced("ReduceLogSumExp", &x, &[0]), &[4.0 + (-1f64).exp().ln_1p(), 1000.0]);
    near(
        reduced("ReduceLogSumExp", &[f64::INFINITY, 1.0, f64::NEG_INFINITY, f64::NEG_INFINITY], &[1]),
        &[f64::INFINITY, f64::NEG_INFINITY],
    );
}
