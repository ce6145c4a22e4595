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
use crate::plan::draft;
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

/// A convolution, as it is written.
struct Form<'a> {
    product: &'a Product,
    node: &'a Node,
    from: Map,
    to: Map,
    input: View,
    in_pitch: usize,
    groups: usize,
    transposed: bool,
    /// What is added to the output.
    residual: Option<View>,
    /// What happens to each channel of the output.
    columns: gemm::Columns,
}

/// Writes the op of a convolution and what is fused into it; several ops for a transposed one.
pub(super) fn emit(b: &mut Builder<'_>, product: &Product, out: ValueId) -> Result<(), String> {
    let net = b.net;
    let node = &net.graph.nodes[product.node];
    let x = node.inputs[0].ok_or("no input")?;
    let (window, groups, strided) = match &node.op {
        Op::Conv { window, groups } => (window.clone(), *groups, None),
        Op::ConvTranspose { window, groups, .. } => {
            (turned(window)?, *groups, Some(window).filter(|w| w.strides.iter().any(|&s| s != 1)))
        }
        _ => return Err("no convolution".into()),
    };
    let spatial = window.kernel.len();
    let mut from = map_of(net.dims(x), spatial)?;
    let to = map_of(net.dims(out), spatial)?;
    let (mut input, mut in_pitch) = from.read(b, x)?;
    let subpixel = strided.and_then(|original| Subpixel::of(original, groups, &from, &to)).filter(|_| product.residual.is_none());
    if let (Some(original), None) = (strided, &subpixel) {
        input = spread(b, &mut from, &input, original, net.name(x))?;
        in_pitch = from.channels;
    }

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
    let columns = gemm::columns(&product.channel, to.channels, bias, at);

    let transposed = matches!(node.op, Op::ConvTranspose { .. });
    let residual = match product.residual {
        Some((v, _)) => Some(b.ordered(v, &to.order)?),
        None => None,
    };
    let form = Form { product, node, from, to, input, in_pitch, groups, transposed, residual, columns };
    let (Some(subpixel), Some(original)) = (subpixel, strided) else {
        let columns = form.columns.clone();
        let weights = form.weights(b, &window, &columns)?;
        let (output, out_pitch) = form.to.write(b, out, product.residual.is_none())?;
        let size = (form.to.height, form.to.width);
        return form.op(b, &window, columns, weights, (&output, out_pitch, size, form.to.channels));
    };
    let (whole, _) = form.to.write(b, out, true)?;
    for part in subpixel.parts(form.from.batch) {
        let values = |v: &Option<Vec<f32>>| v.as_deref().map(|v| part.per_channel(v));
        let columns = gemm::Columns { scale: values(&form.columns.scale), shift: values(&form.columns.shift) };
        let weights = form.phases(b, &part, &columns)?;
        let output = part.buffer(b, net.name(out), form.from.batch)?;
        let channels = form.to.channels * part.phases();
        form.op(b, &part.window(original), columns, weights, (&output, channels, part.size(), channels))?;
        part.interleave(b, &output, &whole, &form.to)?;
    }
    Ok(())
}

impl Form<'_> {
    /// The weights' value, `[O, C / groups, kernel…]`, or `[C, O / groups, kernel…]` of a transposed one; and its name.
    fn constant(&self, b: &Builder<'_>) -> Result<(ValueId, Constant, String), String> {
        let id = self.node.inputs[1].ok_or("no weights")?;
        let constant = b.net.constant(id).ok_or("its weights are computed at run time")?;
        Ok((id, constant.clone(), b.net.name(id).to_string()))
    }

    /// Elements of the weights from an input channel to the next, from an output channel, and from a group.
    fn steps(&self, weight: &Constant) -> (usize, usize, usize) {
        let strides = &weight.layout.strides;
        let (depth, width) = (self.from.channels / self.groups, self.to.channels / self.groups);
        match self.transposed {
            true => (strides[0], strides[1], depth * strides[0]),
            false => (strides[1], strides[0], width * strides[0]),
        }
    }

    /// What tells weights in a form from others.
    fn key(&self, b: &Builder<'_>, id: ValueId, columns: &gemm::Columns, form: &str) -> String {
        match &columns.scale {
            None => format!("{} convolution {} {} {form}", id.0, self.groups, self.transposed),
            Some(_) => format!("{} convolution #{}", id.0, b.weights.len()),
        }
    }

    fn depthwise(&self) -> bool {
        self.groups == self.from.channels && self.groups == self.to.channels && self.groups > 1
    }

    /// Its weights; a transposed one's are turned around.
    fn weights(&self, b: &mut Builder<'_>, window: &Window, columns: &gemm::Columns) -> Result<draft::ValueId, String> {
        let (id, constant, name) = self.constant(b)?;
        let (in_step, out_step, group_step) = self.steps(&constant);
        let mut taps = offsets(&window.kernel, &constant.layout.strides[2..]);
        if self.transposed {
            taps.reverse();
        }
        let key = self.key(b, id, columns, "");
        let (base, scale) = (constant.layout.offset, columns.scale.clone());
        if self.depthwise() {
            let columns: Vec<usize> = (0..self.to.channels).map(|g| base + g * group_step).collect();
            let bytes = 4 * (taps.len() * columns.len()) as u64;
            let dims = vec![word(taps.len())?, word(self.to.channels)?];
            return Ok(b.weight(&key, &name, DType::F32, dims, bytes, move |bytes| {
                constant.elements(0, |from| pack::rows(bytes, &taps, &columns, from, scale.as_deref()));
                Ok(())
            }));
        }
        let (depth, width) = (self.from.channels / self.groups, self.to.channels / self.groups);
        let rows: Vec<usize> = taps.iter().flat_map(|t| (0..depth).map(move |c| t + c * in_step)).collect();
        let columns: Vec<Option<usize>> = (0..width).map(|o| Some(o * out_step)).collect();
        let one = packed_len(rows.len() as u64, width as u64) as usize;
        let n = one * self.groups;
        Ok(b.weight(&key, &name, DType::F32, vec![word(n)?], 4 * n as u64, move |bytes| {
            for (g, bytes) in bytes.chunks_exact_mut((4 * one).max(1)).enumerate() {
                let scale = scale.as_deref().map(|s| &s[g * width..(g + 1) * width]);
                constant.elements(base + g * group_step, |from| pack::panels(bytes, &rows, &columns, from, scale));
            }
            Ok(())
        }))
    }

    /// The weights of a part of a transposed convolution: zero where a phase has no tap.
    fn phases(&self, b: &mut Builder<'_>, part: &Subpixel, columns: &gemm::Columns) -> Result<draft::ValueId, String> {
        let (id, constant, name) = self.constant(b)?;
        let (in_step, out_step, group_step) = self.steps(&constant);
        let key = self.key(b, id, columns, &format!("{:?}", part.key()));
        let (rows, places) = part.weights();
        let (base, width, scale) = (constant.layout.offset, places.len(), columns.scale.clone());
        let one = packed_len(rows.len() as u64, width as u64) as usize;
        let n = one * self.groups;
        let kernel = constant.layout.strides[2..].to_vec();
        let part = part.clone();
        Ok(b.weight(&key, &name, DType::F32, vec![word(n)?], 4 * n as u64, move |bytes| {
            for (g, bytes) in bytes.chunks_exact_mut((4 * one).max(1)).enumerate() {
                let scale = scale.as_deref().map(|s| &s[g * width..(g + 1) * width]);
                let at = |i| {
                    let Some([c, o, y, x]) = part.element(i) else { return 0.0 };
                    let tap = if let [only] = kernel[..] { x * only } else { y * kernel[0] + x * kernel[1] };
                    constant.at(base + g * group_step + c * in_step + o * out_step + tap)
                };
                pack::panels(bytes, &rows, &places, pack::Source::Made(&at), scale);
            }
            Ok(())
        }))
    }

    /// The op: with this window and these weights, to an output of a pitch, a height and width, and channels.
    fn op(
        &self,
        b: &mut Builder<'_>,
        window: &Window,
        columns: gemm::Columns,
        weights: draft::ValueId,
        (output, out_pitch, (out_h, out_w), channels): (&View, usize, (usize, usize), usize),
    ) -> Result<(), String> {
        let shared = self.residual.as_ref().is_some_and(|view| b.is_whole(view) && b.is_whole(output));
        let residual = match &self.residual {
            Some(view) => b.operand(view)?,
            None => None,
        };
        let (_, _, name) = self.constant(b)?;
        let (epilogue, [bias, residual]) = gemm::epilogue(b, self.product, &name, columns.shift, residual)?;
        let [kernel_h, kernel_w] = two(&window.kernel, 1)?;
        let [stride_h, stride_w] = two(&window.strides, 1)?;
        let [dilation_h, dilation_w] = two(&window.dilations, 1)?;
        let [pad_top, pad_left] = two(&window.before, 0)?;
        let record = Conv {
            batch: word(self.from.batch)?,
            in_h: word(self.from.height)?,
            in_w: word(self.from.width)?,
            in_c: word(self.from.channels)?,
            out_h: word(out_h)?,
            out_w: word(out_w)?,
            out_c: word(channels)?,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            dilation_h,
            dilation_w,
            pad_top,
            pad_left,
            groups: word(self.groups)?,
            in_pitch: word(self.in_pitch)?,
            out_pitch: word(out_pitch)?,
            epilogue,
        };
        let kind = if self.depthwise() { OpKind::Depthwise } else { OpKind::Conv };
        let inputs = vec![b.operand(&self.input)?, Some(weights), bias, residual];
        let outputs = vec![b.operand(output)?];
        b.push(kind, &record, &[], inputs, outputs, if shared { vec![3] } else { vec![] }, "a convolution, channels last");
        Ok(())
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
