//! Serves an ONNX model by tract, optimised for the sizes of its inputs. One thread.

use kiln_bench_peers::{Elements, Failure, Input, Job};
use tract_onnx::prelude::*;

fn tensor(input: &Input) -> TractResult<Tensor> {
    let dims = &input.dims;
    match &input.elements {
        Elements::F32(v) => Tensor::from_shape(dims, v),
        Elements::I64(v) => Tensor::from_shape(dims, v),
        Elements::I32(v) => Tensor::from_shape(dims, v),
        Elements::I8(v) => Tensor::from_shape(dims, v),
        Elements::U8(v) => Tensor::from_shape(dims, v),
        Elements::Bool(v) => Tensor::from_shape(dims, v),
    }
}

fn main() -> Result<(), Failure> {
    let job = Job::new()?;
    // Sizes that a model declares for its outputs may bear other symbols than tract infers; those of the inputs suffice.
    let mut model = tract_onnx::onnx().with_ignore_output_shapes(true).model_for_path(&job.model)?;
    let mut values = TVec::new();
    for (i, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
        let value = tensor(job.input(&model.node(outlet.node).name)?)?;
        model.set_input_fact(i, TypedFact::shape_and_dt_of(&value).into())?;
        values.push(value.into_tvalue());
    }
    let plan = model.into_optimized()?.into_runnable()?;
    job.serve(
        || Ok(plan.run(values.clone())?),
        |answers| {
            let floats = |answer: &TValue| -> TractResult<_> {
                let values = answer.cast_to::<f32>()?;
                Ok((answer.shape().to_vec(), values.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
            };
            Ok(answers.iter().map(floats).collect::<TractResult<_>>()?)
        },
    )
}
