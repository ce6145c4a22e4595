//! Pooling over windows, and over whole maps.

use super::builder::{Builder, word};
use super::conv::{map_of, two};
use super::reduce;
use crate::graph::{Node, Op, ValueId, Window};
use crate::program::{OpKind, Pool, PoolKind, ReduceKind};
use crate::tensor::DType;

/// Writes the op of a pooling node.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    let x = node.inputs[0].ok_or("no input")?;
    if b.net.dtype(x) != DType::F32 {
        return Err(format!("pooling of {} has no native form", b.net.dtype(x)));
    }
    let (kind, window): (PoolKind, &Window) = match &node.op {
        Op::MaxPool { window } => (PoolKind::Max, window),
        Op::AveragePool { window, count_include_pad: false } => (PoolKind::Average, window),
        Op::AveragePool { window, count_include_pad: true } => (PoolKind::AveragePadded, window),
        Op::GlobalPool { max } => {
            // All axes behind the channels. The batch axis is always there.
            let axes: Vec<usize> = (2..b.net.dims(x).len()).collect();
            return reduce::along(b, x, out, &axes, if *max { ReduceKind::Max } else { ReduceKind::Mean });
        }
        _ => return Err("no pooling".into()),
    };
    let from = map_of(b.net.dims(x), window.kernel.len())?;
    let to = map_of(b.net.dims(out), window.kernel.len())?;
    let (input, in_pitch) = from.read(b, x)?;
    let (output, out_pitch) = to.write(b, out, true)?;
    let [kernel_h, kernel_w] = two(&window.kernel, 1)?;
    let [stride_h, stride_w] = two(&window.strides, 1)?;
    let [dilation_h, dilation_w] = two(&window.dilations, 1)?;
    let [pad_top, pad_left] = two(&window.before, 0)?;
    let [pad_bottom, pad_right] = two(&window.after, 0)?;
    let record = Pool {
        kind: kind as u32,
        batch: word(from.batch)?,
        in_h: word(from.height)?,
        in_w: word(from.width)?,
        channels: word(from.channels)?,
        out_h: word(to.height)?,
        out_w: word(to.width)?,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        pad_bottom,
        pad_right,
        in_pitch: word(in_pitch)?,
        out_pitch: word(out_pitch)?,
    };
    let (inputs, outputs) = (vec![b.operand(&input)?], vec![b.operand(&output)?]);
    b.push(OpKind::Pool, &record, &[], inputs, outputs, vec![], "pooling, channels last");
    Ok(())
}
