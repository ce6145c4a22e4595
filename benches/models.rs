//! The shipped models, one inference each: `cargo bench --bench models [-- NAME]`. From the ONNX file, on the fastest
//! instruction set of this CPU; opening and compiling are not counted.

use criterion::{Criterion, criterion_group, criterion_main};
use kiln::Model;
use kiln::model::Given;
use kiln::tensor::DType;
use std::path::Path;
use std::time::Duration;

/// Name, input, its shape. Of a sentence, word numbers; of a picture, brightness.
const MODELS: [(&str, &str, DType, &[usize]); 4] = [
    ("text-lstm", "ids", DType::I64, &[1, 16]),
    ("text-cnn", "ids", DType::I64, &[1, 48]),
    ("text-transformer", "ids", DType::I64, &[1, 48]),
    ("digits-cnn", "image", DType::F32, &[1, 1, 28, 28]),
];

fn models(c: &mut Criterion) {
    for (name, input, dtype, dims) in MODELS {
        c.bench_function(name, |b| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).join("model.onnx");
            let model = Model::open(path).expect("a shipped model");
            let given = Given { name: input.into(), dtype, dims: dims.to_vec(), bytes: None };
            let mut session = model.session_for(&[given]).expect("a session");
            let elements = dims.iter().product::<usize>();
            let bytes: Vec<u8> = match dtype {
                DType::I64 => (0..elements).flat_map(|i| (2 + 37 * i as i64 % 500).to_le_bytes()).collect(),
                _ => (0..elements).flat_map(|i| ((i % 28) as f32 / 14.0 - 0.4).to_le_bytes()).collect(),
            };
            b.iter(|| {
                session.input_bytes(input).expect("the input").copy_from_slice(&bytes);
                session.run().expect("a run");
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = models
}
criterion_main!(benches);
