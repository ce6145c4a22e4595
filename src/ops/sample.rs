//! Reading pictures between their pixels.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::program::cut::group;
use crate::program::{GridSample, OpKind, RoiAlign, Rules};

/// [`GridSample`](OpKind::GridSample).
pub const fn grid_sample() -> Entry {
    Entry { kind: OpKind::GridSample, rules: Rules::of::<GridSample>(), eval: eval_grid_sample }
}

/// Elements of one axis that take part, with their weights.
#[derive(Clone, Copy)]
struct Taps {
    places: [usize; 4],
    weights: [f32; 4],
    count: usize,
}

/// `x` reflected at `low` and `high` until it lies between them.
fn reflect(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    // Twice the range is a period.
    let from = libm::fmodf(libm::fabsf(x - low), 2.0 * range);
    if from <= range { low + from } else { high - (from - range) }
}

impl GridSample {
    /// Where a coordinate of the grid lies on an axis of `n` elements, and who takes part in its value.
    fn taps(&self, coordinate: f32, n: u32) -> Taps {
        let size = n as f32;
        let (low, high) = if self.corners != 0 { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
        let mut x =
            if self.corners != 0 { (coordinate + 1.0) / 2.0 * (size - 1.0) } else { ((coordinate + 1.0) * size - 1.0) / 2.0 };
        if self.mode == 0 {
            x = libm::rintf(x);
        }
        if x < low || x > high {
            match self.padding {
                1 => x = x.clamp(0.0, size - 1.0),
                2 => x = reflect(x, low, high),
                _ => {}
            }
        }
        let first = libm::floorf(x);
        let t = x - first;
        let (start, weights, count) = match self.mode {
            0 => (x, [1.0, 0.0, 0.0, 0.0], 1),
            1 => (first, [1.0 - t, t, 0.0, 0.0], 2),
            _ => (first - 1.0, cubic(t), 4),
        };
        let mut taps = Taps { places: [0; 4], weights: [0.0; 4], count };
        for (i, &weight) in weights.iter().enumerate().take(count) {
            let at = start + i as f32;
            let at = match self.padding {
                1 => at.clamp(0.0, size - 1.0),
                2 => libm::truncf(reflect(at, low, high)),
                _ => at,
            };
            let outside = at < 0.0 || at >= size;
            taps.weights[i] = if outside { 0.0 } else { weight };
            // NaN becomes 0; its weight is NaN, too.
            taps.places[i] = if outside { 0 } else { (at as usize).min(n as usize - 1) };
        }
        taps
    }
}

/// Weights of the neighbours at -1, 0, 1 and 2, for a place `t` behind the second.
fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

fn eval_grid_sample(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (g, _) = op.record::<GridSample>()?;
    let (x, grid) = (context.input::<f32>(op, 0), context.input::<f32>(op, 1));
    let y = context.output::<f32>(op, 0);
    let [batch, channels, points, axes] = [g.batch, g.channels, g.points, g.axes].map(|n| n as usize);
    let sizes = g.sizes.map(|n| n as usize);
    let plane = sizes[0] * sizes[1] * sizes[2];
    let (count, each) = (batch * points, group(4 * channels));
    for point in context.pieces(count, each) {
        let (b, p) = (point / points, point % points);
        let one = Taps { places: [0; 4], weights: [1.0, 0.0, 0.0, 0.0], count: 1 };
        let mut taps = [one; 3];
        for (axis, taps) in taps.iter_mut().enumerate().take(axes) {
            let coordinate = grid.at((b * points + p) * axes + axes - 1 - axis);
            *taps = g.taps(coordinate, g.sizes[axis]);
        }
        let [first, second, third] = taps;
        for c in 0..channels {
            let from = x.from((b * channels + c) * plane);
            let mut sum = 0.0;
            for i in 0..first.count {
                for j in 0..second.count {
                    for k in 0..third.count {
                        let at = (first.places[i] * sizes[1] + second.places[j]) * sizes[2] + third.places[k];
                        let weight = first.weights[i] * second.weights[j] * third.weights[k];
                        // What has no weight does not count, be it infinite.
                        if weight != 0.0 {
                            sum += weight * from.at(at);
                        }
                    }
                }
            }
            y.set((b * channels + c) * points + p, sum);
        }
    }
    Ok(Units::any(count.div_ceil(each)))
}

/// [`RoiAlign`](OpKind::RoiAlign).
pub const fn roi_align() -> Entry {
    Entry { kind: OpKind::RoiAlign, rules: Rules::of::<RoiAlign>(), eval: eval_roi_align }
}

/// The pixels on both sides of a place, and their weights; `None` for one outside of the map.
fn sides(x: f32, n: usize) -> Option<[(usize, f32); 2]> {
    if !(-1.0..=n as f32).contains(&x) {
        return None;
    }
    let x = x.max(0.0);
    let low = (x as usize).min(n - 1);
    let high = (low + 1).min(n - 1);
    let t = if low == high { 0.0 } else { x - low as f32 };
    Some([(low, 1.0 - t), (high, t)])
}

fn eval_roi_align(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (r, _) = op.record::<RoiAlign>()?;
    let (x, regions) = (context.input::<f32>(op, 0), context.input::<f32>(op, 1));
    let (pictures, y) = (context.input::<i64>(op, 2), context.output::<f32>(op, 0));
    let [channels, h, w] = [r.channels, r.height, r.width].map(|n| n as usize);
    let [count, out_h, out_w] = [r.regions, r.out_h, r.out_w].map(|n| n as usize);
    let offset = if r.half_pixel != 0 { 0.5 } else { 0.0 };
    for n in context.units(count) {
        let picture = pictures.at(n);
        if picture < 0 || picture >= r.batch as i64 {
            return Err(Error::new(Kind::Value, "a region lies in a picture that does not exist"));
        }
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|i| regions.at(4 * n + i) * r.scale - offset);
        let size = |length: f32, cells: usize| (if r.half_pixel != 0 { length } else { length.max(1.0) }) / cells as f32;
        let (cell_h, cell_w) = (size(bottom - top, out_h), size(right - left, out_w));
        let samples = |cell: f32| if r.samples > 0 { r.samples as f32 } else { libm::ceilf(cell).max(0.0) };
        let (rows, columns) = (samples(cell_h), samples(cell_w));
        if !(rows <= RoiAlign::MOST_SAMPLES as f32 && columns <= RoiAlign::MOST_SAMPLES as f32) {
            return Err(Error::new(Kind::Value, "a region is too large for its map, or no number"));
        }
        let all = (rows * columns).max(1.0);
        for c in 0..channels {
            let plane = x.from((picture as usize * channels + c) * h * w);
            for i in 0..out_h * out_w {
                let (row, column) = ((i / out_w) as f32, (i % out_w) as f32);
                let (mut sum, mut best) = (0.0, f32::NEG_INFINITY);
                for sy in 0..rows as usize {
                    let at_y = sides(top + row * cell_h + (sy as f32 + 0.5) * cell_h / rows, h);
                    for sx in 0..columns as usize {
                        let at_x = sides(left + column * cell_w + (sx as f32 + 0.5) * cell_w / columns, w);
                        let mut largest = f32::NEG_INFINITY;
                        if let (Some(at_y), Some(at_x)) = (at_y, at_x) {
                            for (py, wy) in at_y {
                                for (px, wx) in at_x {
                                    let v = wy * wx * plane.at(py * w + px);
                                    sum += v;
                                    largest = largest.max(v);
                                }
                            }
                        } else {
                            largest = 0.0;
                        }
                        best = best.max(largest);
                    }
                }
                let none = rows * columns == 0.0;
                let value = if r.max == 0 {
                    sum / all
                } else if none {
                    0.0
                } else {
                    best
                };
                y.set((n * channels + c) * out_h * out_w + i, value);
            }
        }
    }
    Ok(Units::any(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, assert_close, blank, tensor};

    fn sample(mode: u32, padding: u32, corners: u32, grid: &[f32]) -> Vec<f32> {
        let points = grid.len() as u32 / 2;
        let record = GridSample { batch: 1, channels: 2, axes: 2, sizes: [2, 3, 1], points, mode, padding, corners };
        let x = tensor(&core::array::from_fn::<f32, 12, _>(|i| i as f32));
        let case = Case::new(&record, vec![x, tensor(grid)], vec![blank::<f32>(2 * points as usize)]);
        case.run(grid_sample()).unwrap()[0].to::<f32>()
    }

    #[test]
    fn corners_and_centres() {
        // x first: left top, right bottom, centre.
        let grid = [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0];
        for mode in 0..2 {
            let want = if mode == 0 { [0.0, 5.0, 1.0, 6.0, 11.0, 7.0] } else { [0.0, 5.0, 2.5, 6.0, 11.0, 8.5] };
            assert_eq!(sample(mode, 0, 1, &grid), want, "mode {mode}");
        }
        // Edges of pixels: a quarter of the corner is inside, the rest zeros, or the border.
        assert_eq!(sample(1, 0, 0, &[1.0, 1.0]), [5.0 / 4.0, 11.0 / 4.0]);
        assert_eq!(sample(1, 1, 0, &[1.0, 1.0]), [5.0, 11.0]);
        assert_eq!(sample(1, 2, 0, &[1.0, 1.0]), [5.0, 11.0]);
        assert_eq!(sample(2, 1, 1, &[-1.0, 1.0]), [3.0, 9.0]);
    }

    #[test]
    fn far_outside() {
        assert_eq!(sample(1, 0, 0, &[9.0, -9.0, f32::INFINITY, 0.0])[..2], [0.0, 0.0]);
        assert_eq!(sample(0, 1, 0, &[9.0, -9.0]), [2.0, 8.0]);
        // Coordinate 2 with corners is place 3, which is reflected to 1.
        assert_eq!(sample(0, 2, 1, &[2.0, -1.0]), [1.0, 7.0]);
        for padding in 0..3 {
            for mode in 0..3 {
                sample(mode, padding, padding & 1, &[f32::NAN, f32::NEG_INFINITY, 1e30, -1e30]);
            }
        }
    }

    #[test]
    fn reflections_repeat() {
        let want = [(-0.5, -0.5), (-1.0, 0.0), (2.5, 2.5), (3.0, 2.0), (5.5, -0.5), (6.0, 0.0)];
        for (x, y) in want {
            assert_eq!(reflect(x, -0.5, 2.5), y, "{x}");
        }
        assert_eq!(reflect(7.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn regions_are_averaged() {
        let x = tensor(&core::array::from_fn::<f32, 16, _>(|i| i as f32));
        let mut record = RoiAlign {
            batch: 1,
            channels: 1,
            height: 4,
            width: 4,
            regions: 1,
            out_h: 2,
            out_w: 2,
            samples: 2,
            scale: 1.0,
            half_pixel: 1,
            max: 0,
        };
        let run = |record: &RoiAlign, picture: i64| {
            let inputs = vec![x.clone(), tensor(&[0f32, 0.0, 4.0, 4.0]), tensor(&[picture])];
            Case::new(record, inputs, vec![blank::<f32>(4)]).run(roi_align()).map(|v| v[0].to::<f32>())
        };
        // Two by two samples of each cell are its four pixels.
        assert_close(&run(&record, 0).unwrap(), &[2.5, 4.5, 10.5, 12.5], 1e-6, "means");
        record.samples = 0;
        assert_close(&run(&record, 0).unwrap(), &[2.5, 4.5, 10.5, 12.5], 1e-6, "as many samples as pixels");
        record.max = 1;
        assert_close(&run(&record, 0).unwrap(), &[5.0, 7.0, 13.0, 15.0], 1e-6, "maxima");
        assert_eq!(run(&record, 1).unwrap_err().kind, Kind::Value);
        record.scale = 1e9;
        assert_eq!(run(&record, 0).unwrap_err().kind, Kind::Value);
    }

    #[test]
    fn bad_records_are_rejected() {
        let good = GridSample { batch: 1, channels: 2, axes: 2, sizes: [2, 3, 1], points: 1, mode: 0, padding: 0, corners: 0 };
        let check = |record: GridSample| {
            let inputs = vec![tensor(&[0f32; 12]), tensor(&[0f32; 2])];
            Case::new(&record, inputs, vec![blank::<f32>(2)]).check(OpKind::GridSample)
        };
        assert_eq!(check(good), Ok(()));
        let bad = [
            GridSample { axes: 0, ..good },
            GridSample { axes: 4, ..good },
            GridSample { mode: 3, ..good },
            GridSample { padding: 3, ..good },
            GridSample { sizes: [2, 3, 2], ..good },
            GridSample { sizes: [2, 0, 1], ..good },
            GridSample { points: 2, ..good },
            GridSample { batch: u32::MAX, channels: u32::MAX, points: u32::MAX, ..good },
        ];
        assert!(bad.into_iter().all(|record| check(record).is_err()));
    }
}
