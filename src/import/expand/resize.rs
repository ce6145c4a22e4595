//! Resizing: along each axis an element of the output is a weighted sum of a few of the input, whose places and weights
//! depend on sizes alone. Nearest neighbours are rows taken by place. And sampling at places that are computed.

use super::super::sketch::{Ref, Sketch};
use super::super::windows::{Sizes, window};
use crate::graph::Op;
use crate::program::Binary;
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;
/// Places on an axis and their weights.
type Terms = Vec<(usize, f64)>;

/// What the attributes of Resize say about every axis.
struct Mode<'a> {
    kind: &'a str,
    coordinates: &'a str,
    nearest: &'a str,
    cubic_a: f64,
    antialias: bool,
    exclude_outside: bool,
}

/// One axis: size before and after, scale, and the part of the axis that is taken (for `tf_crop_and_resize`).
struct Axis {
    size: usize,
    out: usize,
    scale: f64,
    roi: (f64, f64),
}

pub(super) fn resize(s: &mut Sketch<'_>) -> Drawn {
    let mut x = s.input(0)?;
    let a = s.attributes();
    let (upsample, old) = (s.op_type() == "Upsample", s.opset < 11);
    let rank = s.rank(x);
    let axes: Vec<usize> = match a.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| s.axis(axis, x)).collect::<TractResult<_>>()?,
        None => (0..rank).collect(),
    };
    let filled = |v: Option<Vec<f32>>| v.filter(|v| !v.is_empty());
    let scales = match a.floats("scales") {
        Some(scales) => Some(scales.to_vec()),
        None => filled(s.floats(if upsample || old { 1 } else { 2 }, "scales")?),
    };
    let sizes = if upsample || old { None } else { s.ints(3, "sizes")?.filter(|v| !v.is_empty()) };
    let coordinates = a.text("coordinate_transformation_mode", if upsample || old { "asymmetric" } else { "half_pixel" });
    let roi = if coordinates == "tf_crop_and_resize" { filled(s.floats(1, "roi")?) } else { None };
    let mode = Mode {
        kind: a.text("mode", "nearest"),
        coordinates,
        nearest: a.text("nearest_mode", if upsample || old { "floor" } else { "round_prefer_floor" }),
        cubic_a: a.float("cubic_coeff_a", -0.75) as f64,
        antialias: a.int("antialias", 0) != 0,
        exclude_outside: a.int("exclude_outside", 0) != 0,
    };
    let given =
        scales.as_ref().map(|v| v.len()).or(sizes.as_ref().map(|v| v.len())).context("it has neither sizes nor scales")?;
    ensure!(given == axes.len(), "{given} sizes or scales are given for {} axes", axes.len());
    let uniform = match (&sizes, a.text("keep_aspect_ratio_policy", "stretch")) {
        (Some(sizes), policy @ ("not_larger" | "not_smaller")) => {
            let ratios = axes.iter().zip(sizes).map(|(&axis, &n)| n as f64 / s.dims(x)[axis] as f64);
            Some(if policy == "not_larger" { ratios.fold(f64::INFINITY, f64::min) } else { ratios.fold(0.0, f64::max) })
        }
        _ => None,
    };
    let mut outside: Vec<(usize, Vec<bool>)> = vec![];
    for (i, &axis) in axes.iter().enumerate() {
        let size = s.dims(x)[axis];
        let roi = roi.as_ref().map_or((0.0, 1.0), |r| (r[i] as f64, r[i + axes.len()] as f64));
        let (out, scale) = match (&sizes, &scales) {
            (Some(sizes), _) => {
                let scale = uniform.unwrap_or(sizes[i] as f64 / size as f64);
                let out = if uniform.is_some() { (scale * size as f64 + 0.5).floor() } else { sizes[i] as f64 };
                (out, scale)
            }
            (None, Some(scales)) => {
                let scale = scales[i] as f64;
                let part = if coordinates == "tf_crop_and_resize" { roi.1 - roi.0 } else { 1.0 };
                ((size as f64 * part * scale).floor(), scale)
            }
            _ => bail!("it has neither sizes nor scales"),
        };
        ensure!(scale > 0.0 && out >= 0.0 && out < (1u64 << 31) as f64, "an axis of {size} can't be resized by {scale}");
        let one = Axis { size, out: out as usize, scale, roi };
        if one.out == size && scale == 1.0 && roi == (0.0, 1.0) {
            continue;
        }
        ensure!(size > 0, "an empty axis can't be resized");
        let (taps, beyond) = one.taps(&mode)?;
        if beyond.contains(&true) {
            outside.push((axis, beyond));
        }
        x = along(s, x, axis, &taps)?;
    }
    for (axis, beyond) in outside {
        let value = a.float("extrapolation_value", 0.0) as f64;
        let mut dims = vec![1; rank];
        dims[axis] = beyond.len();
        let mask = s.constant(DType::Bool, &dims, beyond.iter().map(|&b| b as u8).collect());
        let value = s.number(value, s.dtype(x))?;
        x = s.select(mask, value, x)?;
    }
    Ok(vec![x])
}

/// Weighted sums along one axis: per element of the output, places and weights.
fn along(s: &mut Sketch<'_>, x: Ref, axis: usize, taps: &[Terms]) -> TractResult<Ref> {
    if taps.iter().all(|t| t.len() == 1 && t[0].1 == 1.0) {
        let places: Vec<usize> = taps.iter().map(|t| t[0].0).collect();
        return Ok(s.take(x, axis, &places));
    }
    let most = taps.iter().map(|t| t.len()).max().unwrap_or(1).max(1);
    let (mut places, mut weights) = (vec![0i32; taps.len() * most], vec![0f32; taps.len() * most]);
    for (j, terms) in taps.iter().enumerate() {
        for (t, &(place, weight)) in terms.iter().enumerate() {
            (places[j * most + t], weights[j * most + t]) = (place as i32, weight as f32);
        }
    }
    let dtype = s.dtype(x);
    ensure!(
        matches!(dtype, DType::F32 | DType::F16 | DType::F64 | DType::BF16),
        "only the mode nearest resizes tensors of {dtype}: cast them to float32 before"
    );
    let (places, weights) = (s.i32s(&places, &[taps.len(), most]), s.f32s(&weights, &[taps.len(), most]));
    let mut dims = s.dims(x).to_vec();
    dims[axis] = taps.len();
    Ok(s.op(Op::Resample { axis }, &[x, places, weights], dtype, &dims))
}

impl Axis {
    /// Where an element of the output lies on the axis of the input.
    fn place(&self, mode: &Mode<'_>, i: usize) -> TractResult<f64> {
        let (i, n, scale, out) = (i as f64, self.size as f64, self.scale, self.scale * self.size as f64);
        Ok(match mode.coordinates {
            "half_pixel" => (i + 0.5) / scale - 0.5,
            "half_pixel_symmetric" => n / 2.0 * (1.0 - self.out as f64 / out) + (i + 0.5) / scale - 0.5,
            // The sizes are whole, the product of size and scale need not be.
            "pytorch_half_pixel" => {
                if self.out == 1 {
                    -0.5
                } else {
                    (i + 0.5) / scale - 0.5
                }
            }
            "align_corners" => {
                if out == 1.0 {
                    0.0
                } else {
                    i * (n - 1.0) / (out - 1.0)
                }
            }
            "asymmetric" => i / scale,
            "tf_half_pixel_for_nn" => (i + 0.5) / scale,
            "tf_crop_and_resize" => {
                let (start, end) = self.roi;
                let step = if self.out == 1 { 0.5 } else { i / (self.out as f64 - 1.0) };
                (start + step * (end - start)) * (n - 1.0)
            }
            other => bail!("coordinate_transformation_mode \"{other}\" is not one of ONNX's"),
        })
    }

    /// Per element of the output its terms, and whether it lies beyond the input and is extrapolated.
    fn taps(&self, mode: &Mode<'_>) -> TractResult<(Vec<Terms>, Vec<bool>)> {
        let (mut taps, mut beyond) = (vec![], vec![]);
        for i in 0..self.out {
            let x = self.place(mode, i)?;
            beyond.push(mode.coordinates == "tf_crop_and_resize" && !(0.0..=self.size as f64 - 1.0).contains(&x));
            // The neighbour on the left, and how far behind it: in (0, 1].
            let left = x.ceil() - 1.0;
            let weights = self.weights(mode, x - left)?;
            // As many neighbours on either side; what lies outside takes the value of the border, or does not count.
            let first = left as i64 - (weights.len() as i64 / 2 - 1);
            let mut terms = Terms::new();
            for (t, weight) in weights.into_iter().enumerate() {
                let at = first + t as i64;
                let inside = at.clamp(0, self.size as i64 - 1);
                if weight == 0.0 || mode.exclude_outside && at != inside {
                    continue;
                }
                match terms.iter_mut().find(|(place, _)| *place == inside as usize) {
                    Some((_, sum)) => *sum += weight,
                    None => terms.push((inside as usize, weight)),
                }
            }
            if mode.exclude_outside {
                let sum: f64 = terms.iter().map(|t| t.1).sum();
                terms.iter_mut().for_each(|t| t.1 /= sum);
            }
            taps.push(terms);
        }
        Ok((taps, beyond))
    }

    /// Weights of neighbours, an even number of them, half on either side.
    fn weights(&self, mode: &Mode<'_>, ratio: f64) -> TractResult<Vec<f64>> {
        let one = |right: bool| if right { vec![0.0, 1.0] } else { vec![1.0, 0.0] };
        let cubic = |x: f64| {
            let (a, x) = (mode.cubic_a, x.abs());
            if x <= 1.0 {
                ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
            } else {
                0.0
            }
        };
        // With antialiasing the filter is as wide as the elements of a smaller output.
        let wide = |reach: f64, f: &dyn Fn(f64) -> f64| {
            let scale = if mode.antialias { self.scale.min(1.0) } else { 1.0 };
            let start = (-reach / scale).floor() as i64 + 1;
            let all: Vec<f64> = (start..2 - start).map(|i| f((i as f64 - ratio) * scale)).collect();
            let sum: f64 = all.iter().sum();
            all.into_iter().map(|w| w / sum).collect()
        };
        Ok(match mode.kind {
            "nearest" => match mode.nearest {
                "round_prefer_floor" => one(ratio > 0.5),
                "round_prefer_ceil" => one(ratio >= 0.5),
                "floor" => one(ratio == 1.0),
                "ceil" => one(true),
                other => bail!("nearest_mode \"{other}\" is not one of ONNX's"),
            },
            "linear" | "bilinear" | "trilinear" => wide(1.0, &|x| (1.0 - x.abs()).max(0.0)),
            "cubic" => wide(2.0, &cubic),
            other => bail!("mode \"{other}\" is not one of ONNX's"),
        })
    }
}

/// A grid of places in a picture (or volume), moved by a matrix per picture.
pub(super) fn affine_grid(s: &mut Sketch<'_>) -> Drawn {
    let theta = s.input(0)?;
    let size = s.ints(1, "the size")?.context("input 1 is missing")?;
    let sizes: Vec<usize> = size.iter().map(|&n| usize::try_from(n).context("a size is negative")).collect::<TractResult<_>>()?;
    ensure!((4..=5).contains(&sizes.len()) && s.rank(theta) == 3, "the size has {} numbers", sizes.len());
    let spatial = &sizes[2..];
    let corners = s.attributes().int("align_corners", 0) != 0;
    let at = |i: usize, n: usize| match (corners, n) {
        (true, 1) => 0.0,
        (true, _) => 2.0 * i as f64 / (n as f64 - 1.0) - 1.0,
        _ => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
    };
    let points: usize = spatial.iter().product();
    let k = spatial.len();
    let mut grid = Vec::with_capacity(points * (k + 1));
    for p in 0..points {
        let mut rest = p;
        // The innermost axis comes first: x, y, z.
        for &n in spatial.iter().rev() {
            grid.push(at(rest % n, n) as f32);
            rest /= n;
        }
        grid.push(1.0);
    }
    let dtype = s.dtype(theta);
    let grid = s.f32s(&grid, &[points, k + 1]);
    let wide = s.cast(theta, DType::F32);
    let moved = s.einsum(grid, wide, ["pk", "nik"], "npi")?;
    let mut dims = vec![sizes[0]];
    dims.extend(spatial);
    dims.push(k);
    let out = s.reshape(moved, &dims)?;
    Ok(vec![s.cast(out, dtype)])
}

pub(super) fn grid_sample(s: &mut Sketch<'_>) -> Drawn {
    let (x, grid) = (s.input(0)?, s.input(1)?);
    let a = s.attributes();
    let mode = match a.text("mode", "linear") {
        "nearest" => 0,
        "linear" | "bilinear" => 1,
        "cubic" | "bicubic" => 2,
        other => bail!("mode \"{other}\" is not one of ONNX's"),
    };
    let padding = match a.text("padding_mode", "zeros") {
        "zeros" => 0,
        "border" => 1,
        "reflection" => 2,
        other => bail!("padding_mode \"{other}\" is not one of ONNX's"),
    };
    let axes = s.rank(x).saturating_sub(2);
    let fits = s.rank(grid) == axes + 2 && s.dims(grid).last() == Some(&axes) && s.dims(grid)[0] == s.dims(x)[0];
    ensure!(axes > 0 && fits, "a grid of shape {:?} does not fit pictures of {:?}", s.dims(grid), s.dims(x));
    let mut dims = s.dims(x)[..2].to_vec();
    dims.extend(&s.dims(grid)[1..=axes]);
    let (dtype, corners) = (s.dtype(x), a.int("align_corners", 0) != 0);
    let grid = s.cast(grid, dtype);
    Ok(vec![s.op(Op::GridSample { mode, padding, corners }, &[x, grid], dtype, &dims)])
}

pub(super) fn roi_align(s: &mut Sketch<'_>) -> Drawn {
    let (x, regions, pictures) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let a = s.attributes();
    let size = |name: &str, default: i64| usize::try_from(a.int(name, default)).with_context(|| format!("{name} is negative"));
    let (height, width) = (size("output_height", 1)?, size("output_width", 1)?);
    ensure!(s.rank(x) == 4 && s.rank(regions) == 2 && s.dims(regions)[1] == 4, "regions are of shape {:?}", s.dims(regions));
    ensure!(s.dims(regions)[0] == s.len(pictures), "{} regions, but {} pictures", s.dims(regions)[0], s.len(pictures));
    let op = Op::RoiAlign {
        samples: size("sampling_ratio", 0)?,
        scale: a.float("spatial_scale", 1.0),
        half_pixel: s.opset >= 16 && a.text("coordinate_transformation_mode", "half_pixel") == "half_pixel",
        max: a.text("mode", "avg") == "max",
    };
    let pictures = s.cast(pictures, DType::I64);
    let dims = [s.dims(regions)[0], s.dims(x)[1], height, width];
    Ok(vec![s.op(op, &[x, regions, pictures], s.dtype(x), &dims)])
}

/// A convolution whose taps are each moved by a computed offset: a picture of the taps is sampled, as `GridSample` does, and
/// multiplied by the weights.
pub(super) fn deform_conv(s: &mut Sketch<'_>) -> Drawn {
    let (x, w, offset) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let (bias, mask) = (s.optional(3)?, s.optional(4)?);
    let (&[n, channels, height, width], &[out, own, ky, kx]) = (s.dims(x), s.dims(w)) else {
        bail!("it takes pictures of two axes, the input is of shape {:?}, the weights of {:?}", s.dims(x), s.dims(w));
    };
    let count = |name: &str| usize::try_from(s.attributes().int(name, 1)).ok().filter(|&n| n > 0);
    let groups = count("group").context("group is not positive")?;
    let parts = count("offset_group").context("offset_group is not positive")?;
    let divides = channels.is_multiple_of(parts) && out.is_multiple_of(groups);
    ensure!(channels == own * groups && divides, "{channels} channels, {groups} groups and {parts} offset groups do not fit");
    let window = window(s.attributes(), &[height, width], Some(&[ky, kx]))?;
    let size = window.convolved(&[height, width])?;
    let (taps, spots) = (ky * kx, size[0] * size[1]);
    let shape = |per_tap: usize| [n, parts * taps * per_tap, size[0], size[1]];
    ensure!(s.dims(offset) == shape(2), "offsets are of shape {:?}, not {:?}", s.dims(offset), shape(2));
    let fits = mask.is_none_or(|mask| s.dims(mask) == shape(1));
    ensure!(fits, "the mask is not of shape {:?}", shape(1));
    ensure!(height > 0 && width > 0, "its pictures are empty");
    // Where each tap would stand, as the sampler counts: from -1 to 1 across, then down.
    let mut stands = Vec::with_capacity(taps * spots * 2);
    for (tap, spot) in (0..taps).flat_map(|tap| (0..spots).map(move |spot| (tap, spot))) {
        let at = |axis: usize, spot: usize, tap: usize, len: usize| {
            let place = (spot * window.strides[axis] + tap * window.dilations[axis]) as f64 - window.before[axis] as f64;
            ((2.0 * place + 1.0) / len as f64 - 1.0) as f32
        };
        stands.push(at(1, spot % size[1], tap % kx, width));
        stands.push(at(0, spot / size[1], tap / kx, height));
    }
    let dtype = s.dtype(x);
    let constant = |s: &mut Sketch<'_>, values: &[f32], dims: &[usize]| {
        let values = s.f32s(values, dims);
        s.cast(values, dtype)
    };
    let stands = constant(s, &stands, &[1, taps, spots, 2]);
    let unit = constant(s, &[2.0 / width as f32, 2.0 / height as f32], &[1, 1, 1, 2]);
    let moved = s.reshape(offset, &[n * parts, taps, 2, spots])?;
    let moved = s.transpose(moved, &[0, 1, 3, 2]);
    let moved = s.take(moved, 3, &[1, 0]);
    let moved = s.binary(Binary::Mul, moved, unit)?;
    let grid = s.binary(Binary::Add, moved, stands)?;
    let pictures = s.reshape(x, &[n * parts, channels / parts, height, width])?;
    let sample = Op::GridSample { mode: 1, padding: 0, corners: false };
    let mut found = s.op(sample, &[pictures, grid], dtype, &[n * parts, channels / parts, taps, spots]);
    if let Some(mask) = mask {
        let mask = s.reshape(mask, &[n * parts, 1, taps, spots])?;
        found = s.binary(Binary::Mul, found, mask)?;
    }
    let found = s.reshape(found, &[n, groups, own * taps, spots])?;
    let weights = s.reshape(w, &[groups, out / groups, own * taps])?;
    let y = s.einsum(weights, found, ["gmk", "ngks"], "ngms")?;
    let y = s.reshape(y, &[n, out, size[0], size[1]])?;
    let Some(bias) = bias else { return Ok(vec![y]) };
    let bias = s.reshape(bias, &[out, 1, 1])?;
    Ok(vec![s.binary(Binary::Add, y, bias)?])
}
