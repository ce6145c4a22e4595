//! Traps on the way through tract, each with a small model.

use super::attributes::int;
use super::externs::declare;
use super::wire::{put_bytes, put_varint};
use super::*;
use crate::graph::Op;
use crate::program::Unary;
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, tensor_shape_proto, type_proto,
};

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let texts = |t: &[&str]| t.iter().map(|s| s.to_string()).collect();
    NodeProto { op_type: op.into(), input: texts(inputs), output: texts(outputs), attribute, ..Default::default() }
}

/// A model over `x`, `f32` of these sizes, that yields `y`.
pub(super) fn model(opset: i64, dims: &[usize], nodes: Vec<NodeProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        input: vec![declare("x", 1, Some(dims))],
        output: vec![declare("y", 1, None)],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let (name, dims, float_data) = (name.into(), dims.to_vec(), values.to_vec());
    TensorProto { name, dims, data_type: 1, float_data, ..Default::default() }
}

pub(super) fn integers(name: &str, values: &[i64]) -> TensorProto {
    let dims = vec![values.len() as i64];
    TensorProto { name: name.into(), dims, data_type: 7, int64_data: values.to_vec(), ..Default::default() }
}

pub(super) fn with(mut model: ModelProto, initializers: Vec<TensorProto>) -> ModelProto {
    model.graph.as_mut().unwrap().initializer = initializers;
    model
}

pub(super) fn built(model: ModelProto) -> Result<Imported, ModelError> {
    build(Path::new("test.onnx"), model, &[], &Options::default())
}

pub(super) fn refused(model: ModelProto, parts: &[&str]) {
    let error = built(model).map(|i| i.graph).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// Evaluates a graph whose nodes all have recipes, for one `f32` input.
fn evaluate(imported: &Imported, x: &[f32]) -> Vec<f32> {
    let g = &imported.graph;
    let mut values = vec![Vec::new(); g.values.len()];
    values[g.inputs[0].0] = x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    for node in &g.nodes {
        let live = node.inputs.iter().flatten().filter(|v| g.values[v.0].constant.is_none());
        let live: Vec<&[u8]> = live.map(|v| &*values[v.0]).collect();
        let results = match node.recipe {
            Some(recipe) => imported.externs.evaluate(recipe, &live).unwrap(),
            None => vec![live[0].to_vec()],
        };
        for (id, bytes) in node.outputs.iter().flatten().zip(results) {
            values[id.0] = bytes;
        }
    }
    values[g.outputs[0].0].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn an_operator_of_a_foreign_domain_does_not_pass_for_onnxs() {
    let mut relu = node("Relu", &["x"], &["y"], vec![]);
    relu.domain = "my".into();
    refused(model(13, &[2], vec![relu]), &["\"y\"", "my::Relu", "not supported"]);
}

#[test]
fn a_local_function_is_written_out_with_its_attributes() {
    let mut leaky = node("LeakyRelu", &["a"], &["t"], vec![int("alpha", 0)]);
    leaky.attribute[0] = AttributeProto { name: "alpha".into(), ref_attr_name: "slope".into(), r#type: 1, ..Default::default() };
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("my".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![leaky, node("Neg", &["t"], &["b"], vec![])],
        ..Default::default()
    };
    let slope = AttributeProto { name: "slope".into(), f: 0.5, r#type: 1, ..Default::default() };
    let mut call = node("F", &["x"], &["z"], vec![slope]);
    call.domain = "my".into();
    let mut again = call.clone();
    (again.input, again.output) = (vec!["z".into()], vec!["y".into()]);
    let mut model = model(13, &[2], vec![call, again]);
    model.functions.push(function);
    let imported = built(model).unwrap();
    assert_eq!(imported.graph.nodes.len(), 4);
    assert_eq!(evaluate(&imported, &[-2.0, 4.0]), [-1.0, 2.0]);
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let mut inner = node("F", &["a"], &["b"], vec![]);
    inner.domain = "my".into();
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("my".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![inner.clone()],
        ..Default::default()
    };
    (inner.input, inner.output) = (vec!["x".into()], vec!["y".into()]);
    let mut model = model(13, &[2], vec![inner]);
    model.functions.push(function);
    refused(model, &["calls itself"]);
}

#[test]
fn slopes_larger_than_what_they_slope_are_refused() {
    let prelu = |dims: &[usize], slopes: &[f32]| {
        with(model(16, dims, vec![node("PRelu", &["x", "slopes"], &["y"], vec![])]), vec![floats("slopes", &[3, 2], slopes)])
    };
    assert!(built(prelu(&[3, 2], &[0.5; 6])).is_ok());
    refused(prelu(&[2], &[0.5; 6]), &["\"y\"", "PRelu"]);
}

#[test]
fn names_that_do_not_fit_together_are_refused() {
    let twice = vec![node("Neg", &["x"], &["y"], vec![]), node("Abs", &["x"], &["y"], vec![])];
    refused(model(13, &[2], twice), &["Abs", "\"y\" is the name of another"]);
    refused(model(13, &[2], vec![node("Add", &["x", "w"], &["y"], vec![])]), &["Add", "\"w\" is neither"]);
    refused(model(13, &[2], vec![node("Abs", &["x"], &["z"], vec![])]), &["nothing yields the output \"y\""]);
}

#[test]
fn an_operator_set_from_the_future_is_refused() {
    refused(model(99, &[2], vec![node("Abs", &["x"], &["y"], vec![])]), &["operator set 99", "newest known"]);
}

#[test]
fn constant_of_shape_is_f32_by_default_and_never_huge() {
    let nodes = || vec![node("ConstantOfShape", &["s"], &["z"], vec![]), node("Add", &["x", "z"], &["y"], vec![])];
    let imported = built(with(model(13, &[2], nodes()), vec![integers("s", &[2])])).unwrap();
    assert_eq!(evaluate(&imported, &[1.0, 2.0]), [1.0, 2.0]);
    refused(with(model(13, &[2], nodes()), vec![integers("s", &[1 << 40])]), &["too large"]);
}

#[test]
fn quantisation_stays_whole_around_softmax() {
    let nodes = vec![
        node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![]),
        node("DequantizeLinear", &["q", "s", "z"], &["d"], vec![]),
        node("Softmax", &["d"], &["p"], vec![]),
        node("QuantizeLinear", &["p", "s2", "z"], &["r"], vec![]),
        node("DequantizeLinear", &["r", "s2", "z"], &["y"], vec![]),
    ];
    let zero = TensorProto { name: "z".into(), data_type: 3, int32_data: vec![0], ..Default::default() };
    let scales = vec![floats("s", &[], &[0.1]), floats("s2", &[], &[0.01]), zero];
    let imported = built(with(model(13, &[1, 3], nodes), scales)).unwrap();
    let ops: Vec<&Op> = imported.graph.nodes.iter().map(|n| &n.op).collect();
    assert!(matches!(
        ops[..],
        [Op::Quantize { .. }, Op::Dequantize { .. }, Op::Softmax { .. }, Op::Quantize { .. }, Op::Dequantize { .. }]
    ));
    let y = evaluate(&imported, &[0.0, 1.0, 2.0]);
    for (got, want) in y.iter().zip([0.09, 0.24, 0.67]) {
        assert!((got - want).abs() < 1e-6, "{y:?}");
    }
}

#[test]
fn a_reverse_lstm_keeps_its_direction_and_activations() {
    let text = |name: &str, s: &str| AttributeProto { name: name.into(), s: s.into(), r#type: 3, ..Default::default() };
    let activations = AttributeProto {
        name: "activations".into(),
        strings: ["HardSigmoid", "Relu", "Tanh"].map(|s| s.into()).to_vec(),
        r#type: 8,
        ..Default::default()
    };
    let attributes = vec![text("direction", "reverse"), int("hidden_size", 1), activations];
    let nodes = vec![node("LSTM", &["x", "w", "r"], &["y"], attributes)];
    let weights = vec![floats("w", &[1, 4, 1], &[0.5; 4]), floats("r", &[1, 4, 1], &[0.1; 4])];
    let imported = built(with(model(14, &[3, 1, 1], nodes), weights)).unwrap();
    let Op::Lstm(cell) = &imported.graph.nodes[0].op else { panic!("{:?}", imported.graph.nodes) };
    assert_eq!((&*cell.directions, cell.hidden), (&[true][..], 1));
    assert_eq!(cell.activations[0], (Unary::HardSigmoid, [0.2, 0.5]));
    assert_eq!(cell.activations[1], (Unary::Clip, [0.0, f32::INFINITY]));
    let y = imported.graph.nodes[0].outputs[0].unwrap();
    assert_eq!(imported.graph.values[y.0].dims, [3, 1, 1, 1]);
}

#[test]
fn a_difference_with_a_convolution_keeps_its_sign() {
    // tract folds the constant of `k - conv(x)` into the bias and forgets to negate the kernel.
    let nodes = vec![node("Conv", &["x", "w"], &["c"], vec![]), node("Sub", &["k", "c"], &["y"], vec![])];
    let constants = vec![floats("w", &[1, 1, 2], &[1.0, 1.0]), floats("k", &[], &[10.0])];
    let imported = built(with(model(13, &[1, 1, 3], nodes), constants)).unwrap();
    assert_eq!(evaluate(&imported, &[1.0, 2.0, 3.0]), [7.0, 5.0]);
}

#[test]
fn softmax_before_opset_13_takes_axes_together() {
    let softmax = |opset| built(model(opset, &[2, 2, 2], vec![node("Softmax", &["x"], &["y"], vec![])])).unwrap().graph.nodes;
    let old = softmax(11);
    assert!(matches!(old[1].op, Op::Softmax { axis: 1, .. }) && old.len() == 3, "{old:?}");
    let new = softmax(13);
    assert!(matches!(new[0].op, Op::Softmax { axis: 2, .. }) && new.len() == 1, "{new:?}");
}

#[test]
fn an_input_keeps_its_name_before_an_operator_that_does_nothing() {
    let nodes = vec![node("Slice", &["x", "s", "e"], &["t"], vec![]), node("Squeeze", &["t", "a"], &["y"], vec![])];
    let numbers = vec![integers("s", &[0]), integers("e", &[1]), integers("a", &[0])];
    let graph = built(with(model(13, &[1, 1], nodes), numbers)).unwrap().graph;
    assert_eq!(graph.values[graph.inputs[0].0].name, "x");
}

#[test]
fn vectors_have_a_product() {
    let nodes = vec![node("MatMul", &["x", "w"], &["y"], vec![])];
    let imported = built(with(model(13, &[3], nodes), vec![floats("w", &[3], &[1.0, 10.0, 100.0])])).unwrap();
    assert_eq!(evaluate(&imported, &[1.0, 2.0, 3.0]), [321.0]);
}

/// A cell of too many steps to be written out, of which tract would not heed the direction.
fn reversed_cell() -> ModelProto {
    let text = AttributeProto { name: "direction".into(), s: "reverse".into(), r#type: 3, ..Default::default() };
    let cell = NodeProto { name: "backwards".into(), ..node("RNN", &["x", "w", "r"], &["y"], vec![text]) };
    with(model(14, &[300, 1, 1], vec![cell]), vec![floats("w", &[1, 1, 1], &[0.5]), floats("r", &[1, 1, 1], &[0.1])])
}

#[test]
fn a_cell_that_tract_would_run_forwards_is_not_left_to_it() {
    let imported = built(reversed_cell()).unwrap();
    let recipe = imported.graph.nodes[0].recipe.unwrap();
    assert!(imported.externs.prepare(recipe).unwrap_err().to_string().contains("direction"));
}

#[test]
fn what_nobody_can_evaluate_is_refused_when_a_session_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, reversed_cell().encode_to_vec()).unwrap();
    let error = crate::Model::open(&path).unwrap().session().unwrap_err();
    assert!(matches!(&error, ModelError::Node { .. }), "{error:?}");
    for part in ["backwards", "RNN", "direction"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn relu_and_clip_are_clips() {
    let nodes = vec![node("Relu", &["x"], &["r"], vec![]), node("Clip", &["r", "", "six"], &["y"], vec![])];
    let imported = built(with(model(13, &[3], nodes), vec![floats("six", &[], &[6.0])])).unwrap();
    let clips = imported.graph.nodes.iter().filter(|n| matches!(n.op, Op::Unary(Unary::Clip, _))).count();
    assert_eq!((clips, imported.graph.nodes.len()), (2, 2));
    assert_eq!(evaluate(&imported, &[-1.0, 3.0, 9.0]), [0.0, 3.0, 6.0]);
}

#[test]
fn an_output_that_is_an_input_gets_a_node() {
    let mut model = model(13, &[2], vec![node("Neg", &["x"], &["y"], vec![])]);
    model.graph.as_mut().unwrap().output.push(declare("x", 1, None));
    let graph = built(model).unwrap().graph;
    let names: Vec<&str> = graph.outputs.iter().map(|o| &*graph.values[o.0].name).collect();
    assert_eq!(names, ["y", "x"]);
    assert_ne!(graph.outputs[1], graph.inputs[0]);
}

#[test]
fn a_branch_that_may_fail_is_one_extern_node() {
    // An index may be out of range where the branch is not taken: so both can't be computed.
    let branch = |name: &str, op: &str| {
        let graph = GraphProto {
            name: name.into(),
            node: vec![node("Gather", &["x", "order"], &["kept"], vec![]), node(op, &["kept"], &["out"], vec![])],
            output: vec![declare("out", 1, Some(&[2]))],
            ..Default::default()
        };
        AttributeProto { name: name.into(), g: Some(graph), r#type: 5, ..Default::default() }
    };
    let mut zero = int("axis", 0);
    zero.name = "keepdims".into();
    let nodes = vec![
        node("ReduceSum", &["x"], &["s"], vec![zero]),
        node("Greater", &["s", "zero"], &["c"], vec![]),
        node("If", &["c"], &["y"], vec![branch("then_branch", "Gelu"), branch("else_branch", "Neg")]),
    ];
    let constants = vec![floats("zero", &[], &[0.0]), integers("order", &[0, 1])];
    let imported = built(with(model(20, &[2], nodes), constants)).unwrap();
    let left = imported.graph.nodes.iter().filter(|n| matches!(n.op, Op::Extern { .. })).count();
    assert_eq!(left, 1, "{:?}", imported.graph.nodes);
    assert_eq!(evaluate(&imported, &[-1.0, -2.0]), [1.0, 2.0]);
    assert!((evaluate(&imported, &[1.0, 0.0])[0] - 0.841_345).abs() < 1e-4);
}

#[test]
fn symbols_come_from_options_and_shapes_and_must_agree() {
    use tensor_shape_proto::dimension::Value as DimValue;
    let open = || {
        let mut model = model(13, &[1, 1], vec![node("Neg", &["x"], &["y"], vec![])]);
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let Some(type_proto::Value::TensorType(tensor)) = &mut input.r#type.as_mut().unwrap().value else { panic!() };
        let dims = &mut tensor.shape.as_mut().unwrap().dim;
        dims[0].value = Some(DimValue::DimParam("n".into()));
        dims[1].value = Some(DimValue::DimParam("n + 1".into()));
        model
    };
    let run = |options: &Options| build(Path::new("test.onnx"), open(), &[], options);
    let error = run(&Options::default()).unwrap_err().to_string();
    assert!(error.contains("--set n="), "{error}");
    let set = Options { symbols: [("n".to_string(), 3)].into(), ..Default::default() };
    let graph = run(&set).unwrap().graph;
    assert_eq!(graph.values[graph.inputs[0].0].dims, [3, 4]);
    let mut both = Options { shapes: [("x".to_string(), vec![2, 3])].into(), ..set };
    assert!(run(&both).unwrap_err().to_string().contains("stands for 3"));
    both.symbols = [("m".to_string(), 3)].into();
    assert!(run(&both).unwrap_err().to_string().contains("no symbol m"));
    both.symbols.clear();
    assert!(run(&both).is_ok());
}

#[test]
fn an_input_with_a_value_becomes_a_constant() {
    let mut model = model(13, &[2, 3], vec![node("Reshape", &["x", "s"], &["y"], vec![])]);
    model.graph.as_mut().unwrap().input.push(declare("s", 7, Some(&[2])));
    let value = [3i64, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    let options = Options { values: [("s".to_string(), (DType::I64, vec![2], value))].into(), ..Default::default() };
    let graph = build(Path::new("test.onnx"), model, &[], &options).unwrap().graph;
    assert_eq!((graph.inputs.len(), &*graph.values[graph.outputs[0].0].dims), (1, &[3, 2][..]));
}

/// A file with one initializer, `w`: `MatMul(x, w)`, with `x` of one row.
fn file(rows: usize, tensor_fields: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let number = |out: &mut Vec<u8>, field: u32, value: u64| {
        put_varint(out, (field as u64) << 3);
        put_varint(out, value);
    };
    let mut tensor = Vec::new();
    number(&mut tensor, 1, rows as u64);
    number(&mut tensor, 1, 2);
    number(&mut tensor, 2, 1);
    put_bytes(&mut tensor, 8, b"w");
    for (field, bytes) in tensor_fields {
        match field {
            14 => number(&mut tensor, 14, 1),
            _ => put_bytes(&mut tensor, *field, bytes),
        }
    }
    let value = |name: &str, dims: &[u64]| {
        let mut shape = Vec::new();
        for &d in dims {
            let mut dim = Vec::new();
            number(&mut dim, 1, d);
            put_bytes(&mut shape, 1, &dim);
        }
        let (mut tensor, mut kind, mut info) = (Vec::new(), Vec::new(), Vec::new());
        number(&mut tensor, 1, 1);
        put_bytes(&mut tensor, 2, &shape);
        put_bytes(&mut kind, 1, &tensor);
        put_bytes(&mut info, 1, name.as_bytes());
        put_bytes(&mut info, 2, &kind);
        info
    };
    let (mut node, mut graph, mut opset, mut model) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut node, 1, b"x");
    put_bytes(&mut node, 1, b"w");
    put_bytes(&mut node, 2, b"y");
    put_bytes(&mut node, 4, b"MatMul");
    put_bytes(&mut graph, 1, &node);
    put_bytes(&mut graph, 5, &tensor);
    put_bytes(&mut graph, 11, &value("x", &[1, rows as u64]));
    put_bytes(&mut graph, 12, &value("y", &[1, 2]));
    number(&mut model, 1, 8);
    put_bytes(&mut model, 7, &graph);
    number(&mut opset, 2, 13);
    put_bytes(&mut model, 8, &opset);
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, b"key");
    put_bytes(&mut entry, 2, b"value");
    put_bytes(&mut model, 14, &entry);
    model
}

fn external(location: &str, offset: &str) -> Vec<(u32, Vec<u8>)> {
    let entry = |key: &str, value: &str| {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        (13, entry)
    };
    vec![entry("location", location), entry("offset", offset), (14, vec![])]
}

#[test]
fn a_large_weight_stays_in_the_map_and_reaches_the_graph() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let values: Vec<u8> = (0..8192).flat_map(|i| ((i % 7) as f32).to_le_bytes()).collect();
    std::fs::write(&path, file(4096, &[(9, values.clone())])).unwrap();
    let imported = import(&path, &Options::default()).unwrap();
    let constants: Vec<_> = imported.graph.values.iter().filter_map(|v| v.constant.as_ref()).collect();
    assert!(matches!(constants[..], [crate::graph::Bytes::Mapped { .. }]), "{constants:?}");
    assert_eq!(constants[0].as_slice(), values);
    assert_eq!(imported.graph.metadata, [("key".to_string(), "value".to_string())]);
    let mut x = vec![0.0; 4096];
    x[3] = 1.0;
    assert_eq!(evaluate(&imported, &x), [6.0, 0.0]);
    let signature = signature(&path).unwrap();
    assert_eq!(signature.inputs.len(), 1);
    assert!(!signature.inputs[0].decides);
    assert_eq!(signature.inputs[0].dims, Some(vec![Dim::Fixed(1), Dim::Fixed(4096)]));
}

#[test]
fn weights_outside_must_lie_in_the_folder_and_be_whole() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("in/m.onnx");
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let data = folder.path().join("in/w.bin");
    std::fs::write(&data, [0u8; 4 + 8 * 3]).unwrap();
    std::fs::write(folder.path().join("out.bin"), [0u8; 64]).unwrap();
    let run = |fields: Vec<(u32, Vec<u8>)>| {
        std::fs::write(&model, file(3, &fields)).unwrap();
        import(&model, &Options::default()).map(|i| i.graph).map_err(|e| e.to_string())
    };
    assert!(run(external("w.bin", "4")).is_ok());
    assert!(run(external("w.bin", "8")).unwrap_err().contains("need 24"));
    assert!(run(external("w.bin", "99")).unwrap_err().contains("at byte 99"));
    assert!(run(external("w.bin", "-1")).unwrap_err().contains("bad offset"));
    assert!(run(external("../out.bin", "0")).unwrap_err().contains("inside the model's folder"));
    assert!(run(external("none.bin", "0")).unwrap_err().contains("none.bin"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("out.bin"), folder.path().join("in/link.bin")).unwrap();
        assert!(run(external("link.bin", "0")).unwrap_err().contains("inside the model's folder"));
    }
}

#[test]
fn a_damaged_file_is_an_error_wherever_it_is_cut_or_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let whole = file(3, &[(9, vec![0; 24])]);
    std::fs::write(&path, &whole).unwrap();
    assert!(import(&path, &Options::default()).is_ok());
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        // Cut between two fields of the model it may still be one.
        let _ = import(&path, &Options::default());
        let _ = signature(&path);
    }
    std::fs::write(&path, [0xff; 100]).unwrap();
    assert!(import(&path, &Options::default()).unwrap_err().to_string().contains("not an ONNX model"));
    for i in 0..whole.len() {
        let mut changed = whole.clone();
        changed[i] ^= 0x55;
        std::fs::write(&path, &changed).unwrap();
        let _ = import(&path, &Options::default());
    }
}
