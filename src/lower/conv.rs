//! Convolutions, over channels-last maps; one-dimensional ones have height 1.
//!
//! A transposed convolution is an ordinary one, of stride 1 and with the kernel turned around: where it has a stride, one that
//! computes several pixels at once ([`Subpixel`]), or over a map with zeros between its pixels.

use super::builder::{Builder, View, word};
use super::constant::{Constant, offsets};
use super::gemm;
use super::group::Product;
use super::layout::Layout;
use super::net::Net;
use super::pack;
use super::subpixel::Subpixel;
use crate::graph::{Node, Op, ValueId, Window};
use crate::program::{Conv, OpKind, packed_len};
use crate::tensor::DType;

/// A map of pixels: sizes, and the axes of a tensor that they are.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Batch, height, width and channels among the tensor's axes, in this order, as far as they are there.
    pub order: Vec<usize>,
}

/// The map that a tensor of `[N, C, spatial…]` or `[C, spatial…]` is, for one or two spatial axes.
pub(super) fn map_of(dims: &[usize], spatial: usize) -> Result<Map, String> {
    let rank = dims.len();
    if !(1..=2).contains(&spatial) {
        return Err(format!("windows over {spatial} axes have no native form"));
    }
    if rank != spatial + 1 && rank != spatial + 2 {
        return Err(format!("a map of {spatial} axes has rank {rank}"));
    }
    let channel = rank - spatial - 1;
    let mut order: Vec<usize> = (0..rank).filter(|&a| a != channel).collect();
    order.push(channel);
    let height = if spatial == 2 { dims[channel + 1] } else { 1 };
    Ok(Map { batch: if channel == 1 { dims[0] } else { 1 }, height, width: dims[rank - 1], channels: dims[channel], order })
}

impl Map {
    /// Elements from one pixel to the next, if the tensor lies as a channels-last map.
    fn pitch(&self, layout: &Layout) -> Option<usize> {
        let (&channel, outer) = self.order.split_last()?;
        let axes: Vec<(usize, usize)> = outer.iter().map(|&a| (layout.dims[a], layout.strides[a])).collect();
        let (pixels, pitch) = super::layout::merge(&axes)?;
        let pitch = if pixels == 1 { self.channels } else { pitch };
        ((self.channels == 1 || layout.strides[channel] == 1) && pitch >= self.channels).then_some(pitch)
    }

    /// A value as a channels-last map, and its pitch: where it lies, or a copy.
    pub fn read(&self, b: &mut Builder<'_>, v: ValueId) -> Result<(View, usize), String> {
        if b.is_bound(v) {
            let view = b.view(v)?;
            if let Some(pitch) = self.pitch(&view.layout) {
                return Ok((view, pitch));
            }
        }
        Ok((b.ordered(v, &self.order)?, self.channels))
    }

    /// Where a map is written, and its pitch.
    pub fn write(&self, b: &mut Builder<'_>, v: ValueId, pitched: bool) -> Result<(View, usize), String> {
        let view = b.output(v, &self.order, pitched)?;
        let pitch = self.pitch(&view.layout).ok_or("a map's pixels do not lie at equal distances")?;
        Ok((view, pitch))
    }
}

/// Two numbers of a window, height first.
pub(super) fn two(values: &[usize], one: usize) -> Result<[u32; 2], String> {
    match *values {
        [w] => Ok([word(one)?, word(w)?]),
        [h, w] => Ok([word(h)?, word(w)?]),
        _ => Err("a window of other than one or two axes".into()),
    }
}

/// Whether a convolution has a native form; else why not.
pub(super) fn supported(net: &Net, node: &Node) -> Result<(), String> {
    let (window, weight) = match &node.op {
        Op::Conv { window, .. } => (window, node.inputs.get(1)),
        Op::ConvTranspose { window, .. } => (window, node.inputs.get(1)),
        _ => return Err("no convolution".into()),
    };
    let out = node.outputs[0].ok_or("no output")?;
    let x = node.inputs[0].ok_or("no input")?;
    map_of(net.dims(x), window.kernel.len())?;
    if [x, out].iter().any(|&v| net.dtype(v) != DType::F32) {
        return Err(format!("a convolution of {} has no native form", net.dtype(x)));
    }
    if super::builder::constant_of(net, weight.copied().flatten()).is_none() {
        return Err("its weights are computed at run time".into());
    }
    if let Some(bias) = node.inputs.get(2).copied().flatten()
        && net.constant(bias).is_none()
    {
        return Err("its bias is computed at run time".into());
    }
    if let Op::ConvTranspose { .. } = node.op {
        turned(window)?;
    }
    Ok(())
}

/// The window of the ordinary convolution that a transposed one is.
fn turned(window: &Window) -> Result<Window, String> {
    let mut before = vec![];
    for i in 0..window.kernel.len() {
        let reach = window.dilations[i] * (window.kernel[i] - 1);
        before.push(reach.checked_sub(window.before[i]).ok_or("it crops more than its kernel reaches")?);
    }
    Ok(Window { before, strides: vec![1; window.kernel.len()], ..window.clone() })
}

/// Writes the op of a convolution and what is fused into it.
pub(super) fn emit(b: &mut Builder<'_>, product: &Product, out: ValueId) -> Result<(), String> {
    let net = b.net;
    let node = &net.graph.nodes[product.node];
    let x = node.inputs[0].ok_or("no input")?;
    let weight_id = node.inputs[1].ok_or("no weights")?;
    let weight = net.constant(weight_id).ok_or("its weights are computed at run time")?;
    let name = net.name(weight_id).to_string();
    let (window, groups, transposed) = match &node.op {
        Op::Conv { window, groups } => (window.clone(), *groups, false),
        Op::ConvTranspose { window, groups, .. } => (turned(window)?, *groups, true),
        _ => return Err("no convolution".into()),
    };
    let spatial = window.kernel.len();
    let mut from = map_of(net.dims(x), spatial)?;
    let to = map_of(net.dims(out), spatial)?;
    let (mut input, mut in_pitch) = from.read(b, x)?;
    let (mut window, mut subpixel) = (window, None);
    if let Op::ConvTranspose { window: original, .. } = &node.op
        && original.strides.iter().any(|&s| s != 1)
    {
        subpixel = Subpixel::of(original, groups, &from, &to).filter(|_| product.residual.is_none());
        if let Some(subpixel) = &subpixel {
            window = subpixel.window(original);
        } else {
            input = spread(b, &mut from, &input, original, net.name(x))?;
            in_pitch = from.channels;
        }
    }
    let phases = subpixel.as_ref().map_or(1, Subpixel::phases);

    // [O, C / groups, kernel…], or [C, O / groups, kernel…] turned around.
    let l = &weight.layout;
    let mut taps = if subpixel.is_none() { offsets(&window.kernel, &l.strides[2..]) } else { Vec::new() };
    if transposed {
        taps.reverse();
    }
    let (depth, width) = (from.channels / groups, to.channels / groups);
    let (in_stride, out_stride) = if transposed { (l.strides[0], l.strides[1]) } else { (l.strides[1], l.strides[0]) };
    let group_stride = if transposed { depth * in_stride } else { width * out_stride };
    let base = l.offset;

    let bias = node.inputs.get(2).copied().flatten().map(|v| {
        let c = net.constant(v).map(|c| c.f32s()).unwrap_or_default();
        if c.len() == 1 { vec![c[0]; to.channels] } else { c }
    });
    let bias = bias.filter(|c| c.iter().any(|&v| v != 0.0));
    if bias.as_ref().is_some_and(|c| c.len() != to.channels) {
        return Err("its bias has another length than it has channels".into());
    }
    let channel_axis = net.dims(out).len() - spatial - 1;
    let at = |c: &Constant| (0..to.channels).map(|i| c.layout.offset + i * c.layout.strides[channel_axis]).collect();
    let mut columns = gemm::columns(&product.channel, to.channels, bias, at);
    if let Some(subpixel) = &subpixel {
        for values in [&mut columns.scale, &mut columns.shift].into_iter().flatten() {
            *values = subpixel.per_channel(values);
        }
    }

    let depthwise = groups == from.channels && groups == to.channels && groups > 1;
    let constant = weight.clone();
    let scale = columns.scale;
    let key = match &scale {
        None => format!("{} convolution {groups} {transposed} {:?}", weight_id.0, subpixel.as_ref().map(Subpixel::strides)),
        Some(_) => format!("{} convolution #{}", weight_id.0, b.weights.len()),
    };
    let packed = if depthwise {
        let columns: Vec<usize> = (0..to.channels).map(|g| base + g * group_stride).collect();
        let n = taps.len() * columns.len();
        b.weight(&key, &name, DType::F32, vec![word(taps.len())?, word(to.channels)?], 4 * n as u64, move |bytes| {
            constant.elements(0, |from| pack::rows(bytes, &taps, &columns, from, scale.as_deref()));
            Ok(())
        })
    } else {
        let (rows, columns) = match &subpixel {
            Some(subpixel) => subpixel.weights(),
            None => (
                taps.iter().flat_map(|t| (0..depth).map(move |c| t + c * in_stride)).collect::<Vec<_>>(),
                (0..width).map(|o| Some(o * out_stride)).collect(),
            ),
        };
        let kernel_strides = l.strides[2..].to_vec();
        let place = subpixel.clone();
        // The weight that the sub-pixel form has here: zero where a phase has no tap.
        let phase = move |constant: &Constant, subpixel: &Subpixel, base: usize, i: usize| {
            let Some([c, o, y, x]) = subpixel.element(i) else { return 0.0 };
            let kernel = if let [only] = kernel_strides[..] { x * only } else { y * kernel_strides[0] + x * kernel_strides[1] };
            constant.at(base + c * in_stride + o * out_stride + kernel)
        };
        let width = columns.len();
        let one = packed_len(rows.len() as u64, width as u64) as usize;
        let n = one * groups;
        b.weight(&key, &name, DType::F32, vec![word(n)?], 4 * n as u64, move |bytes| {
            for (g, bytes) in bytes.chunks_exact_mut((4 * one).max(1)).enumerate() {
                let scale = scale.as_deref().map(|s| &s[g * width..(g + 1) * width]);
                let base = base + g * group_stride;
                match &place {
                    None => constant.elements(base, |from| pack::panels(bytes, &rows, &columns, from, scale)),
                    Some(subpixel) => {
                        let at = |i| phase(&constant, subpixel, base, i);
                        pack::panels(bytes, &rows, &columns, pack::Source::Made(&at), scale);
                    }
                }
            }
            Ok(())
        })
    };

    let residual = match product.residual {
        Some((v, _)) => Some(b.ordered(v, &to.order)?),
        None => None,
    };
    let (mut output, mut out_pitch) = to.write(b, out, residual.is_none())?;
    let (whole, mut out_size) = (output.clone(), (to.height, to.width));
    if let Some(subpixel) = &subpixel {
        output = subpixel.buffer(b, net.name(out), from.batch)?;
        (out_pitch, out_size) = (to.channels * phases, subpixel.size());
    }
    let shared = residual.as_ref().is_some_and(|view| b.is_whole(view) && b.is_whole(&output));
    let residual = match &residual {
        Some(view) => b.operand(view)?,
        None => None,
    };
    let (epilogue, [bias, residual]) = gemm::epilogue(b, product, &name, columns.shift, residual)?;
    let [kernel_h, kernel_w] = two(&window.kernel, 1)?;
    let [stride_h, stride_w] = two(&window.strides, 1)?;
    let [dilation_h, dilation_w] = two(&window.dilations, 1)?;
    let [pad_top, pad_left] = two(&window.before, 0)?;
    let record = Conv {
        batch: word(from.batch)?,
        in_h: word(from.height)?,
        in_w: word(from.width)?,
        in_c: word(from.channels)?,
        out_h: word(out_size.0)?,
        out_w: word(out_size.1)?,
        out_c: word(to.channels * phases)?,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        groups: word(groups)?,
        in_pitch: word(in_pitch)?,
        out_pitch: word(out_pitch)?,
        epilogue,
    };
    let kind = if depthwise { OpKind::Depthwise } else { OpKind::Conv };
    let inputs = vec![b.operand(&input)?, Some(packed), bias, residual];
    let outputs = vec![b.operand(&output)?];
    b.push(kind, &record, &[], inputs, outputs, if shared { vec![3] } else { vec![] }, "a convolution, channels last");
    match &subpixel {
        Some(subpixel) => subpixel.interleave(b, &output, &whole, &to),
        None => Ok(()),
    }
}

/// A map with zeros between its pixels, as many as the strides of a transposed convolution say.
fn spread(b: &mut Builder<'_>, map: &mut Map, view: &View, window: &Window, name: &str) -> Result<View, String> {
    let spatial = window.kernel.len();
    let rank = view.layout.dims.len();
    let mut dims = view.layout.dims.clone();
    for (i, stride) in window.strides.iter().enumerate() {
        let d = &mut dims[rank - spatial + i];
        *d = (*d - 1) * stride + 1;
    }
    let wide = b.buffer(name, DType::F32, &dims, &map.order)?;
    let mut layout = wide.layout.clone();
    for (i, &stride) in window.strides.iter().enumerate() {
        layout.strides[rank - spatial + i] *= stride;
    }
    layout.dims.clone_from(&view.layout.dims);
    b.copy_filled(view, &wide.with_layout(layout), Some((wide.layout.elements(), 0)))?;
    *map = map_of(&dims, spatial)?;
    Ok(wide)
}
