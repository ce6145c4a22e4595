//! QuantizeLinear and DequantizeLinear on the host, as ONNX defines them.
//!
//! tract's own multiplies by the reciprocal of the scale (one step off at ties) and takes neither scales that are computed,
//! nor blocks, nor 16-bit integers.

use super::types;
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// A tensor's type, shape and bytes.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub dtype: DType,
    pub dims: &'a [usize],
    pub bytes: &'a [u8],
}

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    /// `saturate(round(x / scale) + zero)`, else `(x - zero) * scale`.
    pub quantise: bool,
    /// Axis that scale and zero point go along, if they are not scalars.
    pub axis: usize,
    /// Elements of it that share a scale; 0: each has its own.
    pub block: usize,
}

impl Linear {
    /// Inputs X, scale, zero point (optional).
    pub fn evaluate(self, inputs: &[View<'_>], output: DType) -> TractResult<Vec<u8>> {
        let (x, scale) = match inputs {
            [x, scale, ..] => (*x, *scale),
            _ => bail!("it takes two inputs or three"),
        };
        let elements: usize = x.dims.iter().product();
        let scales: usize = scale.dims.iter().product();
        if scales > 1 {
            let fits = match self.block {
                0 => x.dims.get(self.axis) == Some(&scales),
                block => {
                    let shared = |(i, &d): (usize, &usize)| if i == self.axis { d.div_ceil(block) } else { d };
                    scale.dims.iter().copied().eq(x.dims.iter().enumerate().map(shared))
                }
            };
            ensure!(fits, "a scale of shape {:?} does not fit a tensor of {:?} on axis {}", scale.dims, x.dims, self.axis);
        }
        let zero = inputs.get(2).filter(|z| z.dims.iter().product::<usize>() == scales);
        ensure!(zero.is_some() || inputs.len() < 3, "scale and zero point have different shapes");
        let scale_of = self.numbers(scale)?;
        let zero_of = zero.map(|&z| self.numbers(z)).transpose()?;
        let values = self.numbers(x)?;
        let inner: usize = x.dims.iter().skip(self.axis + 1).product();
        let len = x.dims.get(self.axis).copied().unwrap_or(1);
        let mut out = Vec::with_capacity(elements * output.size());
        for (i, value) in values.into_iter().enumerate() {
            let along = i / inner.max(1) % len.max(1);
            let at = match (scales, self.block) {
                (0 | 1, _) => 0,
                (_, 0) => along,
                (_, block) => (i / (inner * len) * len.div_ceil(block) + along / block) * inner + i % inner,
            };
            let (s, z) = (scale_of[at] as f32, zero_of.as_ref().map_or(0.0, |z| z[at]));
            let y = if self.quantise { (value as f32 / s).round_ties_even() as f64 + z } else { ((value - z) as f32 * s) as f64 };
            put(&mut out, output, y)?;
        }
        Ok(out)
    }

    /// All elements; `f64` holds every value of the types that occur.
    fn numbers(self, view: View<'_>) -> TractResult<Vec<f64>> {
        let tensor = types::tensor(types::datum_type(view.dtype)?, view.dims, view.bytes)?;
        Ok(tensor.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
    }
}

/// Appends a number; integers saturate.
fn put(out: &mut Vec<u8>, dtype: DType, y: f64) -> TractResult<()> {
    match dtype {
        DType::F32 => out.extend((y as f32).to_le_bytes()),
        DType::F16 => out.extend(f16::from_f32(y as f32).to_le_bytes()),
        DType::I8 => out.extend((y as i8).to_le_bytes()),
        DType::U8 => out.push(y as u8),
        DType::I16 => out.extend((y as i16).to_le_bytes()),
        DType::U16 => out.extend((y as u16).to_le_bytes()),
        DType::I32 => out.extend((y as i32).to_le_bytes()),
        other => bail!("quantisation to {other} is not supported"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn ties_go_to_even_and_the_ends_saturate() {
        let x = floats(&[0.5, 1.5, 2.5, -0.5, 1000.0, -1000.0]);
        let (scale, zero) = (floats(&[1.0]), [1u8]);
        let inputs = [
            View { dtype: DType::F32, dims: &[6], bytes: &x },
            View { dtype: DType::F32, dims: &[], bytes: &scale },
            View { dtype: DType::U8, dims: &[], bytes: &zero },
        ];
        let q = Linear { quantise: true, axis: 0, block: 0 };
        assert_eq!(q.evaluate(&inputs, DType::U8).unwrap(), [1, 3, 3, 1, 255, 0]);
    }

    #[test]
    fn scales_go_along_their_axis_or_in_blocks() {
        let x = [1u8, 2, 3, 4, 5, 6];
        let two = floats(&[1.0, 10.0]);
        let x = View { dtype: DType::I8, dims: &[2, 3], bytes: &x };
        let along = [x, View { dtype: DType::F32, dims: &[2], bytes: &two }];
        let d = Linear { quantise: false, axis: 0, block: 0 };
        assert_eq!(d.evaluate(&along, DType::F32).unwrap(), floats(&[1.0, 2.0, 3.0, 40.0, 50.0, 60.0]));
        assert!(Linear { axis: 1, ..d }.evaluate(&along, DType::F32).is_err());
        let four = floats(&[1.0, 10.0, 100.0, 1000.0]);
        let blocks = [x, View { dtype: DType::F32, dims: &[2, 2], bytes: &four }];
        let d = Linear { quantise: false, axis: 1, block: 2 };
        assert_eq!(d.evaluate(&blocks, DType::F32).unwrap(), floats(&[1.0, 2.0, 30.0, 400.0, 500.0, 6000.0]));
    }
}
