//! Runs an ONNX model by tract, optimised for the sizes of its inputs, twice; the second run lies between the marks.

mod given;

use given::{elements, marks};
use tract_onnx::prelude::*;

fn main() -> TractResult<()> {
    let (path, given, outputs) = given::given();
    let mut model = tract_onnx::onnx().model_for_path(&path)?;
    // In the model's order; the command line may have another.
    let mut values = Vec::new();
    for (i, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
        let name = model.node(outlet.node).name.clone();
        let input = given.iter().find(|g| g.name == name).unwrap_or_else(|| panic!("no value for {name}"));
        let value = match input.dtype.as_str() {
            "F32" => Tensor::from_shape(&input.dims, &elements(&input.bytes, f32::from_le_bytes))?,
            "I32" => Tensor::from_shape(&input.dims, &elements(&input.bytes, i32::from_le_bytes))?,
            "I64" => Tensor::from_shape(&input.dims, &elements(&input.bytes, i64::from_le_bytes))?,
            _ => Tensor::from_shape(&input.dims, &elements(&input.bytes, |[b]: [u8; 1]| b != 0))?,
        };
        model.set_input_fact(i, InferenceFact::dt_shape(value.datum_type(), &input.dims))?;
        values.push(value.into_tvalue());
    }
    for i in 0..model.output_outlets()?.len() {
        model.set_output_fact(i, InferenceFact::default())?;
    }
    let plan = model.into_optimized()?.into_runnable()?;
    let inputs: TVec<TValue> = values.into_iter().collect();
    plan.run(inputs.clone())?;
    marks::region_begin();
    let answers = plan.run(inputs)?;
    marks::region_end();
    let mut all = Vec::new();
    for answer in answers {
        all.extend_from_slice(answer.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?);
    }
    given::write(&outputs, &all);
    Ok(())
}
