//! Runs an ONNX model by rten, twice; the second run lies between the marks.

mod given;

use given::{elements, marks};
use rten::{ModelOptions, NodeId, Value};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

fn main() {
    let (path, given, outputs) = given::given();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&path).expect("rten can't load it");
    let inputs = || -> Vec<(NodeId, rten::ValueOrView)> {
        given
            .iter()
            .map(|g| {
                let value: Value = match g.dtype.as_str() {
                    "F32" => Tensor::from_data(&g.dims, elements(&g.bytes, f32::from_le_bytes)).into(),
                    "I32" => Tensor::from_data(&g.dims, elements(&g.bytes, i32::from_le_bytes)).into(),
                    "I64" => Tensor::from_data(&g.dims, elements(&g.bytes, |b| i64::from_le_bytes(b) as i32)).into(),
                    _ => Tensor::from_data(&g.dims, elements(&g.bytes, |[b]: [u8; 1]| b as i32)).into(),
                };
                (model.node_id(&g.name).expect("no such input"), value.into())
            })
            .collect()
    };
    let ids = model.output_ids().to_vec();
    model.run(inputs(), &ids, None).expect("rten can't run it");
    let again = inputs();
    marks::region_begin();
    let answers = model.run(again, &ids, None).expect("rten can't run it");
    marks::region_end();
    let mut all = Vec::new();
    for answer in answers {
        match answer {
            Value::FloatTensor(t) => all.extend(t.to_vec()),
            Value::Int32Tensor(t) => all.extend(t.to_vec().into_iter().map(|v| v as f32)),
            _ => panic!("an output of another type"),
        }
    }
    given::write(&outputs, &all);
}
