//! Values that are found early are those that tract finds.

use super::attributes::{int, ints};
use super::early::{cast, tensor, value};
use super::tests::node;
use std::slice::from_ref;
use tract_onnx::pb::AttributeProto;
use tract_onnx::tract_hir::internal::*;

fn numbers(dims: &[usize], values: &[i64]) -> Tensor {
    tensor(dims, values).expect("the shape fits")
}

fn bools(dims: &[usize], values: &[i64]) -> Tensor {
    cast(&numbers(dims, values), 9).expect("they are casts")
}

fn floats(dims: &[usize], values: &[i64]) -> Tensor {
    cast(&numbers(dims, values), 1).expect("they are casts")
}

fn row(values: &[i64]) -> Tensor {
    numbers(&[values.len()], values)
}

fn found(op: &str, attributes: Vec<AttributeProto>, inputs: &[Tensor]) -> Option<Arc<Tensor>> {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("in{i}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let inputs: Vec<_> = inputs.iter().map(|x| Some(x.clone().into_arc_tensor())).collect();
    value(&node(op, &names, &["y"], attributes), &inputs)
}

/// What is found is what tract finds.
fn agrees(op: &str, attributes: Vec<AttributeProto>, inputs: &[Tensor]) {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("in{i}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let proto = node(op, &names, &["y"], attributes.clone());
    let slots: Vec<_> = (0..inputs.len()).map(Some).collect();
    let facts: Vec<_> = inputs.iter().map(|x| (x.datum_type(), x.shape().to_vec())).collect();
    let constants: Vec<_> = inputs.iter().map(|x| Some(x.clone().into_arc_tensor())).collect();
    let plan = super::externs::alone(&proto, 17, &slots, &facts, &constants).expect("tract knows it");
    let want = plan.run(tvec![]).expect("tract computes it");
    let want = super::types::plain(&want[0]).expect("it is plain").into_owned();
    let is = found(op, attributes, inputs).unwrap_or_else(|| panic!("{op} of {inputs:?} is not found"));
    assert_eq!((is.datum_type(), is.shape(), &*is), (want.datum_type(), want.shape(), &want), "{op} of {inputs:?}");
}

#[test]
fn elements_are_computed_as_tract_computes_them() {
    let (a, b) = (numbers(&[2, 1, 3], &[7, -7, 3, 0, 5, -2]), numbers(&[4, 1], &[2, -3, 5, 1]));
    for op in ["Add", "Sub", "Mul", "Div", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Max", "Min"] {
        agrees(op, vec![], &[a.clone(), b.clone()]);
        if !matches!(op, "Max" | "Min") {
            agrees(op, vec![], &[floats(&[2, 2], &[1, 2, 3, 4]), floats(&[], &[3])]);
        }
    }
    for op in ["And", "Or"] {
        agrees(op, vec![], &[bools(&[2, 1], &[1, 0]), bools(&[2], &[1, 0])]);
    }
    agrees("Not", vec![], &[bools(&[3], &[1, 0, 1])]);
    agrees("Neg", vec![], from_ref(&a));
    agrees("Abs", vec![], from_ref(&a));
    agrees("Where", vec![], &[bools(&[3], &[1, 0, 1]), a.clone(), numbers(&[], &[9])]);
    for to in [1, 6, 7, 9] {
        for x in [a.clone(), bools(&[2], &[1, 0]), floats(&[3], &[-2, 0, 7])] {
            agrees("Cast", vec![int("to", to)], &[x]);
        }
    }
    // Signs as ONNX has them: of the divisor.
    let rest = found("Mod", vec![], &[row(&[7, -7, 7, -7, 6]), row(&[3, 3, -3, -3, 3])]).expect("it is found");
    assert_eq!(*rest, row(&[1, 2, -2, -1, 0]));
}

#[test]
fn elements_are_moved_as_tract_moves_them() {
    let x = numbers(&[2, 3, 4], &(0..24).collect::<Vec<_>>());
    for axis in [0, 1, -1] {
        agrees("Gather", vec![int("axis", axis)], &[x.clone(), numbers(&[2, 1], &[1, -1])]);
        agrees("Concat", vec![int("axis", axis)], &[x.clone(), x.clone()]);
        agrees("Flatten", vec![int("axis", axis)], from_ref(&x));
        agrees("Unsqueeze", vec![], &[x.clone(), row(&[axis])]);
    }
    agrees("Gather", vec![], &[row(&[5, 6]), numbers(&[], &[1])]);
    agrees("Expand", vec![], &[numbers(&[3, 1], &[1, 2, 3]), row(&[2, 1, 2])]);
    agrees("Expand", vec![], &[floats(&[], &[1]), row(&[2, 2])]);
    agrees("Reshape", vec![], &[x.clone(), row(&[0, -1, 2])]);
    agrees("Squeeze", vec![], &[numbers(&[1, 2, 1], &[1, 2]), row(&[-1])]);
    agrees("Transpose", vec![ints("perm", vec![2, 0, 1])], from_ref(&x));
    agrees("Transpose", vec![], from_ref(&x));
    agrees("NonZero", vec![], &[numbers(&[2, 3], &[1, 0, 2, 0, 0, 3])]);
    agrees("Identity", vec![], from_ref(&x));
    // Both by what ONNX says: tract contradicts itself about ranges that run down, and reads bounds as 32 bits.
    for (bounds, values) in
        [([0, 5, 2], vec![0, 2, 4]), ([5, 0, -2], vec![5, 3, 1]), ([0, 6, 3], vec![0, 3]), ([3, 0, 1], vec![])]
    {
        let range = found("Range", vec![], &bounds.map(|v| numbers(&[], &[v])));
        assert_eq!(*range.expect("it is found"), row(&values));
    }
    let slices: [([i64; 3], &[i64]); 7] = [
        ([1, 3, 1], &[2, 3]),
        ([-3, -1, 1], &[3, 4]),
        ([0, 100, 2], &[1, 3, 5]),
        ([-100, 2, 1], &[1, 2]),
        ([1, i64::MAX, 3], &[2, 5]),
        ([-1, i64::MIN, -2], &[5, 3, 1]),
        ([9, 1, -1], &[5, 4, 3]),
    ];
    for (bounds, values) in slices {
        let [start, end, step] = bounds.map(|v| row(&[v]));
        let slice = found("Slice", vec![], &[row(&[1, 2, 3, 4, 5]), start, end, row(&[0]), step]);
        assert_eq!(*slice.expect("it is found"), row(values), "{bounds:?}");
    }
    agrees("Slice", vec![], &[x.clone(), row(&[0, 1]), row(&[1, 3]), row(&[0, -1])]);
    let none = found("Slice", vec![], &[x.clone(), row(&[3]), row(&[1]), row(&[2]), row(&[1])]);
    assert_eq!(none.expect("it is found").shape(), [2, 3, 0]);
}

#[test]
fn what_is_an_error_or_unusual_is_not_found() {
    let x = numbers(&[2, 3], &[0, 1, 2, 3, 4, 5]);
    let axis = |axis| vec![int("axis", axis)];
    let none: [(&str, Vec<AttributeProto>, Vec<Tensor>); 16] = [
        ("Add", vec![], vec![x.clone(), row(&[1, 2])]),
        ("Add", axis(0), vec![x.clone(), row(&[1, 2])]),
        ("Add", vec![], vec![x.clone(), floats(&[], &[1])]),
        ("Div", vec![], vec![x.clone(), x.clone()]),
        ("Cast", vec![int("to", 7)], vec![tensor(&[1], &[f32::NAN]).expect("the shape fits")]),
        ("Cast", vec![int("to", 6)], vec![row(&[1 << 40])]),
        ("Concat", axis(2), vec![x.clone(), x.clone()]),
        ("Concat", axis(0), vec![x.clone(), row(&[1])]),
        ("Expand", vec![], vec![row(&[1]), row(&[1 << 20])]),
        ("Gather", axis(0), vec![x.clone(), row(&[2])]),
        ("NonZero", vec![], vec![row(&[0])]),
        ("Range", vec![], vec![row(&[0]), row(&[5]), row(&[0])]),
        ("Reshape", vec![], vec![x.clone(), row(&[4, -1])]),
        ("Reshape", vec![], vec![x.clone(), row(&[7])]),
        ("Slice", vec![], vec![x.clone(), row(&[0, 0]), row(&[1, 1]), row(&[0, -2])]),
        ("Squeeze", vec![], vec![x.clone(), row(&[0])]),
    ];
    for (op, attributes, inputs) in none {
        assert!(found(op, attributes, &inputs).is_none(), "{op} of {inputs:?}");
    }
}
