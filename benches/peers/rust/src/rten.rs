//! Serves an ONNX model by rten, with weights packed once.

use kiln_bench_peers::{Elements, Failure, Input, Job, Output};
use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use std::sync::Arc;

/// An input as rten takes it: integers of 32 bits, truth values among them.
fn value(input: &Input) -> Value {
    let dims = input.dims.as_slice();
    let whole = |values: Vec<i32>| Value::from(Tensor::from_data(dims, values));
    match &input.elements {
        Elements::F32(v) => Tensor::from_data(dims, v.clone()).into(),
        Elements::I64(v) => whole(v.iter().map(|&x| x as i32).collect()),
        Elements::I32(v) => whole(v.clone()),
        Elements::Bool(v) => whole(v.iter().map(|&x| x.into()).collect()),
        Elements::I8(v) => Tensor::from_data(dims, v.clone()).into(),
        Elements::U8(v) => Tensor::from_data(dims, v.clone()).into(),
    }
}

fn output(value: Value) -> Result<Output, Failure> {
    let dims = value.shape().to_vec();
    let values = match value {
        Value::FloatTensor(t) => t.to_vec(),
        Value::Int32Tensor(t) => t.iter().map(|&x| x as f32).collect(),
        Value::Int8Tensor(t) => t.iter().map(|&x| x.into()).collect(),
        Value::UInt8Tensor(t) => t.iter().map(|&x| x.into()).collect(),
        _ => return Err("an output is no tensor".into()),
    };
    Ok((dims, values))
}

fn main() -> Result<(), Failure> {
    let job = Job::new()?;
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&job.model)?;
    let mut inputs: Vec<(NodeId, Value)> = Vec::new();
    for &id in model.input_ids() {
        let name = model.node_info(id).and_then(|node| node.name().map(String::from)).ok_or("an input has no name")?;
        inputs.push((id, value(job.input(&name)?)));
    }
    let ids = model.output_ids().to_vec();
    let pool = Arc::new(ThreadPool::with_num_threads(job.threads));
    let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
    let run = || -> Result<Vec<Value>, Failure> {
        let views: Vec<(NodeId, ValueOrView)> = inputs.iter().map(|(id, value)| (*id, value.as_view().into())).collect();
        Ok(model.run(views, &ids, Some(options.clone()))?)
    };
    // Inside the pool: a call from another thread would pay a switch to it each time.
    pool.run(|| job.serve(run, |values| values.into_iter().map(output).collect()))
}
