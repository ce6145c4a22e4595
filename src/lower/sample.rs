//! Reading pictures between their pixels.

use super::builder::{Builder, word};
use crate::graph::{Node, Op, ValueId};
use crate::program::{self, OpKind};
use crate::tensor::DType;

/// Writes the op of a grid sample, or of regions.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>().ok_or("an input is missing")?;
    let (x, where_) = (*inputs.first().ok_or("no input")?, *inputs.get(1).ok_or("no places")?);
    if [x, where_].iter().any(|&v| b.net.dtype(v) != DType::F32) {
        return Err(format!("{} of {} has no native form", node.op_type, b.net.dtype(x)));
    }
    let (dims, to) = (b.net.dims(x).to_vec(), b.net.dims(out).to_vec());
    let views = inputs.iter().map(|&v| b.row_major(v)).collect::<Result<Vec<_>, _>>()?;
    let order: Vec<usize> = (0..to.len()).collect();
    let output = b.output(out, &order, false)?;
    let operands = views.iter().map(|v| b.operand(v)).collect::<Result<_, _>>()?;
    let outputs = vec![b.operand(&output)?];
    match node.op {
        Op::GridSample { mode, padding, corners } => {
            let spatial = &dims[2..];
            if !(1..=3).contains(&spatial.len()) {
                return Err(format!("pictures of {} axes have no native form", spatial.len()));
            }
            let mut sizes = [1; 3];
            for (to, &n) in sizes.iter_mut().zip(spatial) {
                *to = word(n)?;
            }
            let record = program::GridSample {
                batch: word(dims[0])?,
                channels: word(dims[1])?,
                axes: word(spatial.len())?,
                sizes,
                points: word(to[2..].iter().product())?,
                mode,
                padding,
                corners: corners as u32,
            };
            b.push(OpKind::GridSample, &record, &[], operands, outputs, vec![], "elements between pixels");
        }
        Op::RoiAlign { samples, scale, half_pixel, max } => {
            let record = program::RoiAlign {
                batch: word(dims[0])?,
                channels: word(dims[1])?,
                height: word(dims[2])?,
                width: word(dims[3])?,
                regions: word(to[0])?,
                out_h: word(to[2])?,
                out_w: word(to[3])?,
                samples: word(samples)?,
                scale,
                half_pixel: half_pixel as u32,
                max: max as u32,
            };
            b.push(OpKind::RoiAlign, &record, &[], operands, outputs, vec![], "regions of a picture");
        }
        _ => return Err("it has no native form".into()),
    }
    Ok(())
}
