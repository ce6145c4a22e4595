//! Windows of convolutions and pools: from ONNX's attributes to numbers, and how many of them fit.

use super::attributes::Attributes;
use crate::graph::Window;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// Numbers of one per axis, none negative.
fn positive(a: Attributes<'_>, name: &str, axes: usize, default: usize) -> TractResult<Vec<usize>> {
    let Some(ints) = a.ints(name) else { return Ok(vec![default; axes]) };
    ensure!(ints.len() == axes, "{name} has {} numbers, but there are {axes} spatial axes", ints.len());
    let ok = |&n: &i64| usize::try_from(n).ok().filter(|&n| n > 0);
    ints.iter().map(|n| ok(n).with_context(|| format!("{name} holds {n}"))).collect()
}

/// The kernel of a node: as its attribute says, else as its weights do.
fn kernel(a: Attributes<'_>, axes: usize, weights: Option<&[usize]>) -> TractResult<Vec<usize>> {
    let kernel = match weights {
        Some(w) if a.ints("kernel_shape").is_none() => w.to_vec(),
        _ => {
            ensure!(a.has("kernel_shape"), "kernel_shape is missing");
            positive(a, "kernel_shape", axes, 1)?
        }
    };
    if let Some(w) = weights {
        ensure!(*w == *kernel, "kernel_shape is {kernel:?}, but the weights are of {w:?}");
    }
    Ok(kernel)
}

fn pads(a: Attributes<'_>, axes: usize) -> TractResult<(Vec<usize>, Vec<usize>)> {
    let Some(pads) = a.ints("pads") else { return Ok((vec![0; axes], vec![0; axes])) };
    ensure!(pads.len() == 2 * axes, "pads has {} numbers, but there are {axes} spatial axes", pads.len());
    let pads: Option<Vec<usize>> = pads.iter().map(|&p| usize::try_from(p).ok()).collect();
    let pads = pads.context("pads holds a negative number, which is not supported: crop with Slice instead")?;
    Ok((pads[..axes].to_vec(), pads[axes..].to_vec()))
}

/// The window of a convolution or pool over these spatial sizes.
pub(super) fn window(a: Attributes<'_>, sizes: &[usize], weights: Option<&[usize]>) -> TractResult<Window> {
    let axes = sizes.len();
    let mut window = Window {
        kernel: kernel(a, axes, weights)?,
        strides: positive(a, "strides", axes, 1)?,
        dilations: positive(a, "dilations", axes, 1)?,
        before: vec![0; axes],
        after: vec![0; axes],
    };
    let auto = a.text("auto_pad", "NOTSET");
    match auto {
        "NOTSET" => (window.before, window.after) = pads(a, axes)?,
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for (i, &size) in sizes.iter().enumerate() {
                let needed = (size.div_ceil(window.strides[i]).max(1) - 1) * window.strides[i] + window.extent(i)?;
                let (small, large) = halves(needed.saturating_sub(size));
                (window.before[i], window.after[i]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            }
        }
        other => bail!("auto_pad \"{other}\" is not one of ONNX's"),
    }
    Ok(window)
}

fn halves(n: usize) -> (usize, usize) {
    (n / 2, n - n / 2)
}

/// The window and the output sizes of a transposed convolution. `output_padding` comes out of the sizes.
pub(super) fn transposed(a: Attributes<'_>, sizes: &[usize], weights: &[usize]) -> TractResult<(Window, Vec<usize>)> {
    let axes = sizes.len();
    let mut window = Window {
        kernel: kernel(a, axes, Some(weights))?,
        strides: positive(a, "strides", axes, 1)?,
        dilations: positive(a, "dilations", axes, 1)?,
        before: vec![0; axes],
        after: vec![0; axes],
    };
    let extra = output_padding(a, axes)?;
    let auto = a.text("auto_pad", "NOTSET");
    let mut wanted = a.ints("output_shape").map(|s| s.iter().map(|&d| d.max(0) as usize).collect::<Vec<_>>());
    if let Some(w) = &mut wanted {
        if w.len() == axes + 2 {
            w.drain(..2); // some exporters write batch and channels too
        }
        ensure!(w.len() == axes, "output_shape has {} numbers, but there are {axes} spatial axes", w.len());
    } else if auto.starts_with("SAME") {
        wanted = Some((0..axes).map(|i| sizes[i] * window.strides[i]).collect());
    }
    let mut out = vec![0; axes];
    if wanted.is_none() && auto == "NOTSET" {
        (window.before, window.after) = pads(a, axes)?;
    }
    for i in 0..axes {
        ensure!(sizes[i] > 0, "the input is empty");
        let full = window.strides[i] * (sizes[i] - 1) + window.extent(i)? + extra[i];
        if let Some(wanted) = &wanted {
            let (small, large) = halves(full.saturating_sub(wanted[i]));
            (window.before[i], window.after[i]) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            out[i] = wanted[i];
        } else {
            let pads = window.before[i] + window.after[i];
            out[i] = full.checked_sub(pads).with_context(|| format!("pads {pads} are larger than the output, {full}"))?;
        }
    }
    Ok((window, out))
}

/// Rows that a transposed convolution adds at the end of each axis.
pub(super) fn output_padding(a: Attributes<'_>, axes: usize) -> TractResult<Vec<usize>> {
    let Some(ints) = a.ints("output_padding") else { return Ok(vec![0; axes]) };
    ensure!(ints.len() == axes, "output_padding has {} numbers, but there are {axes} spatial axes", ints.len());
    ints.iter().map(|&n| usize::try_from(n).ok().context("output_padding is negative")).collect()
}

/// What a window yields on given sizes.
pub(super) trait Sizes {
    /// Elements that the window spans on an axis, dilation included.
    fn extent(&self, axis: usize) -> TractResult<usize>;
    /// Output sizes of a convolution.
    fn convolved(&self, sizes: &[usize]) -> TractResult<Vec<usize>>;
    /// Output sizes of a pool. With `ceil` a last window may hang over the end, if it starts inside input or front padding.
    fn pooled(&self, sizes: &[usize], ceil: bool) -> TractResult<Vec<usize>>;
}

impl Sizes for Window {
    fn extent(&self, axis: usize) -> TractResult<usize> {
        let extent = (self.kernel[axis].max(1) - 1).checked_mul(self.dilations[axis]).and_then(|n| n.checked_add(1));
        extent.context("the window is impossibly large")
    }

    fn convolved(&self, sizes: &[usize]) -> TractResult<Vec<usize>> {
        self.pooled(sizes, false)
    }

    fn pooled(&self, sizes: &[usize], ceil: bool) -> TractResult<Vec<usize>> {
        let one = |i: usize| {
            let (padded, extent) = (sizes[i] + self.before[i] + self.after[i], self.extent(i)?);
            let room = padded.checked_sub(extent).with_context(|| {
                format!("the window spans {extent} elements, but spatial axis {i} has only {padded}, padding included")
            })?;
            let mut n = if ceil { room.div_ceil(self.strides[i]) } else { room / self.strides[i] } + 1;
            if ceil && (n - 1) * self.strides[i] >= sizes[i] + self.before[i] {
                n -= 1;
            }
            Ok(n)
        };
        (0..sizes.len()).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::{int, ints};
    use super::*;
    use tract_onnx::pb::{AttributeProto, NodeProto};

    fn node(attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto { attribute, ..Default::default() }
    }

    fn text(name: &str, value: &str) -> AttributeProto {
        AttributeProto { name: name.into(), s: value.into(), r#type: 3, ..Default::default() }
    }

    #[test]
    fn same_padding_goes_to_the_side_that_is_named() {
        for (auto, before, after) in [("SAME_UPPER", 0, 1), ("SAME_LOWER", 1, 0)] {
            let n = node(vec![text("auto_pad", auto), ints("strides", vec![2]), ints("kernel_shape", vec![3])]);
            let w = window(Attributes(&n), &[4], None).unwrap();
            assert_eq!((w.before[0], w.after[0]), (before, after));
            assert_eq!(w.convolved(&[4]).unwrap(), [2]);
        }
    }

    #[test]
    fn ceil_mode_drops_a_window_that_would_start_in_the_padding_behind() {
        let n =
            node(vec![ints("kernel_shape", vec![2]), ints("strides", vec![3]), ints("pads", vec![0, 1]), int("ceil_mode", 1)]);
        let w = window(Attributes(&n), &[3], None).unwrap();
        assert_eq!(w.pooled(&[3], true).unwrap(), [1]);
        assert_eq!(w.pooled(&[4], true).unwrap(), [2]);
    }

    #[test]
    fn transposed_sizes_follow_the_standard() {
        let n = node(vec![ints("strides", vec![2]), ints("pads", vec![1, 1]), ints("output_padding", vec![1])]);
        let (w, out) = transposed(Attributes(&n), &[5], &[3]).unwrap();
        assert_eq!((out[0], w.before[0], w.after[0]), (10, 1, 1));
        let n = node(vec![ints("strides", vec![2]), ints("output_shape", vec![10]), text("auto_pad", "SAME_UPPER")]);
        let (w, out) = transposed(Attributes(&n), &[5], &[3]).unwrap();
        assert_eq!((out[0], w.before[0], w.after[0]), (10, 0, 1));
    }

    #[test]
    fn a_window_larger_than_its_input_is_an_error() {
        let n = node(vec![ints("kernel_shape", vec![5])]);
        let w = window(Attributes(&n), &[3], None).unwrap();
        assert!(w.convolved(&[3]).unwrap_err().to_string().contains("spans 5"));
    }
}
