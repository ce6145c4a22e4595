//! Winograd's minimal filtering for 3x3 and 5x5 convolutions of stride 1, on hosts.
//!
//! The map is cut into tiles of `t x t` outputs; a tile's `(t + 2)^2` inputs (with 5x5 taps `(t + 4)^2`) and the weights are
//! transformed, each of as many points is a matrix product over channels, and the products are transformed back: F(2,3) takes
//! 16 multiplications for 4 outputs instead of 36, F(4,3) 36 for 16 instead of 144, F(2,5) 36 for 4 instead of 100. Measured, as a
//! share of the FMA peak in direct operations: F(4,3) 270-330 % on maps from 14x14 up, F(2,3) 160 % at 7x7, where F(4,3)'s larger
//! weights (4 times the direct ones) and partial tiles cost more than they save; F(2,5) 174 % (AVX2) and 145 % (AVX-512) on 27x27
//! with 64 to 192 channels.
//!
//! Weights come [transformed](Weights), in memory of their own, or as direct sums take them. Then those of some columns are
//! transformed, multiplied, and the products transformed back, before the next ones. That takes 0.93 to 1.15 times as long on maps
//! from 28 x 28 up and 1.1 to 1.4 times on smaller ones, of whose few tiles a transform is shared by few (whole networks: 1.02 to 1.1
//! times); but the transformed weights, up to four times the plain ones, need not be made, kept, or read from memory. Of transformed
//! ones all columns are multiplied before the products are transformed back: in pieces they would take 1.02 to 1.15 times as long to
//! read.
//!
//! F(4,3) and F(2,5), whose inputs are the same, use the points 0, ±1/√2, ±√2, ∞: two to four times more exact than the usual
//! 0, ±1, ±2, ∞ at the same cost; errors are about 2e-6 of the largest output (Toom-Cook as in Lavin and Gray, "Fast algorithms for
//! convolutional neural networks", 2015; points as in Barabasz et al., "Error analysis and improving the accuracy of Winograd
//! convolution", 2020).
#![allow(unsafe_code)]

use super::epilogue::{Epilogue, Target, store};
use super::gemm::{Product, Right, tile_of};
use super::tile::{Ahead, PANEL};
use super::{Backend, Dst, F32s, Kernel, Src, clamp};
use crate::program::{Conv, Cut, packed_len};
use core::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use core::ops::Range;

mod weights;

use weights::{Pass, ROWS};
pub use weights::{Weights, derive};

/// The size of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// 2 x 2 outputs of 3 x 3 taps.
    F2,
    /// 4 x 4 outputs of 3 x 3 taps.
    F4,
    /// 2 x 2 outputs of 5 x 5 taps.
    F2Of5,
}

/// Tiles that are transformed and multiplied at a time.
const BLOCK: usize = 48;

/// So many are not divided: all weights would be read once more for the second part (512 x 512 channels on 28 x 28, 49 tiles:
/// 1.07 times as fast).
const UNDIVIDED: usize = 64;

/// Bytes of derived weights from which on they are fetched ahead. Fewer may be near from the run before, and the first block alone
/// finds any of them far away (56x56x64 in resnet18: 0.40 -> 0.36 ms; a network of 300 KB lost a twentieth by it, and so did one
/// whose every block fetched).
const FAR: usize = 512 << 10;

/// Columns of a unit of columns.
const WIDTH: usize = 2 * PANEL;

impl Scheme {
    /// The scheme that suits a convolution, if one does.
    pub fn of(g: &Conv) -> Option<Scheme> {
        let ones = [g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups];
        if ones != [1; 5] || g.kernel_h != g.kernel_w || g.in_c < 16 || g.out_c < 16 || g.batch == 0 {
            return None;
        }
        match g.out_h.min(g.out_w) {
            0..4 => None,
            _ if g.kernel_h == 5 => Some(Scheme::F2Of5),
            _ if g.kernel_h != 3 => None,
            4..12 => Some(Scheme::F2),
            // Beyond 256 x 256 channels F(4,3)'s weights, four times the plain ones, come from memory in every run, and 14 x 14
            // pixels are too few products for them: 1.1 times as fast there, for twice the memory of F(2,3)'s. From 28 x 28 it is
            // 1.45 times (512 x 512 channels).
            ..24 if g.in_c as u64 * g.out_c as u64 > 1 << 16 => Some(Scheme::F2),
            _ => Some(Scheme::F4),
        }
    }

    /// Outputs of a tile along an axis.
    pub const fn outputs(self) -> usize {
        match self {
            Scheme::F2 | Scheme::F2Of5 => 2,
            Scheme::F4 => 4,
        }
    }

    /// Taps of the kernel along an axis.
    pub const fn taps(self) -> usize {
        match self {
            Scheme::F2 | Scheme::F4 => 3,
            Scheme::F2Of5 => 5,
        }
    }

    /// Inputs of a tile along an axis.
    pub const fn inputs(self) -> usize {
        self.outputs() + self.taps() - 1
    }

    /// Matrix products: points of the transformed tile.
    pub const fn points(self) -> usize {
        self.inputs() * self.inputs()
    }

    /// Elements of the derived weights: per point a packed matrix of `in_c` by `out_c`.
    pub const fn weights(self, g: &Conv) -> usize {
        self.points() * packed_len(g.in_c as u64, g.out_c as u64) as usize
    }

    /// Tiles of all pictures.
    fn tiles(self, g: &Conv) -> usize {
        let along = |n: u32| (n as usize).div_ceil(self.outputs());
        g.batch as usize * along(g.out_h) * along(g.out_w)
    }

    /// Elements of scratch memory, with derived weights or plain ones: a pixel of zeros, per point a block's transformed inputs and
    /// products (of plain weights, those of some columns), and the weights of a pass.
    pub fn scratch(self, g: &Conv, derived: bool) -> usize {
        let (block, columns) = (self.block(g), if derived { g.out_c as usize } else { self.columns(g).min(g.out_c as usize) });
        let strides = Strides::of(g, columns);
        let weights = if derived { 0 } else { ROWS * self.inputs() * self.apart(g) };
        strides.zeros + self.points() * (point_stride(block, strides.input) + point_stride(block, strides.product)) + weights
    }

    /// The most tiles that are worked on at a time.
    fn block(self, g: &Conv) -> usize {
        let tiles = self.tiles(g);
        if tiles <= UNDIVIDED { tiles } else { BLOCK }
    }
}

/// Elements between rows in scratch. A line more than the channels, so that the points of a tile do not fall into the
/// same sets of the cache.
#[derive(Clone, Copy)]
struct Strides {
    zeros: usize,
    input: usize,
    product: usize,
}

impl Strides {
    /// Where products are of so many columns.
    fn of(g: &Conv, columns: usize) -> Strides {
        let whole = |n: usize| n.next_multiple_of(PANEL) + PANEL;
        let in_c = g.in_c as usize;
        Strides { zeros: whole(in_c), input: whole(in_c), product: whole(columns) }
    }
}

/// Elements between points in scratch, which have so many tiles' rows each: an odd number of lines, so that a tile's points spread
/// over all sets of the cache (64 tiles of 16 channels, 8 KB apart without it: 46 us instead of 23 with AVX2).
fn point_stride(tiles: usize, row: usize) -> usize {
    ((tiles * row / PANEL) | 1) * PANEL
}

/// Computes these of the units of a convolution of a checked record by a scheme; gives how many it has. A unit is a tile of rows of
/// the products (some tiles of the map, at all points), or, where there are few of these, [`WIDTH`] columns of all. Up to [`BLOCK`]
/// tiles of the map are worked on at a time, for the weights' sake, in the same tiles of rows however many units that is.
///
/// Vector loads may reach up to [`SLACK`](crate::program::SLACK) bytes past the end of `x`. The residual may share memory
/// with `y`.
///
/// # Panics
/// If a span is shorter than the record and the scheme say.
pub fn conv<B: Backend>(
    g: &Conv,
    scheme: Scheme,
    x: Src<'_, f32>,
    w: Weights<'_>,
    y: Dst<'_, f32>,
    epilogue: Epilogue<'_>,
    scratch: Dst<'_, f32>,
    units: Range<usize>,
) -> usize {
    let (in_c, out_c) = (g.in_c as usize, g.out_c as usize);
    let in_pixels = g.batch as usize * g.in_h as usize * g.in_w as usize;
    let elements = (g.pixels() as usize - 1) * g.out_pitch as usize + out_c;
    assert!(in_pixels == 0 || x.len() >= (in_pixels - 1) * g.in_pitch as usize + in_c);
    let (derived, there, needed) = match w {
        Weights::Derived(w) => (true, w.len(), scheme.weights(g)),
        Weights::Plain(w) => (false, w.len(), g.weights() as usize),
    };
    assert!(y.len() >= elements && there >= needed && scratch.len() >= scheme.scratch(g, derived));
    epilogue.assert_holds(out_c, elements);
    let points = scheme.points();
    let columns = out_c.next_multiple_of(PANEL);
    let all = Cut::of(scheme.tiles(g), columns, in_c, tile_of::<B>());
    let by_columns = all.tiles < columns.div_ceil(WIDTH);
    let count = if by_columns { columns.div_ceil(WIDTH) } else { all.tiles };
    let units = clamp(units, count);
    if units.is_empty() {
        return count;
    }
    let (units, channels) = match by_columns {
        true => (0..all.tiles, (units.start * WIDTH, columns.min(units.end * WIDTH))),
        false => (units, (0, columns)),
    };
    let target = Target::of::<B>(&epilogue, y.pointer(), g.out_pitch as usize);
    let strides = Strides::of(g, if derived { out_c } else { scheme.columns(g).min(out_c) });
    for i in 0..strides.zeros {
        scratch.set(i, 0.0);
    }
    let most = scheme.block(g);
    let inputs = scratch.from(strides.zeros);
    let products = inputs.from(points * point_stride(most, strides.input));
    let transformed = products.from(points * point_stride(most, strides.product));
    // Blocks as equal as can be, of whole tiles of rows.
    let whole = all.part(units.start, units.end).all_rows() <= most;
    let blocks = if whole { 1 } else { units.len().div_ceil((most / all.rows(0).1).max(1)) };
    for number in 0..blocks {
        let unit = |block: usize| units.start + block * units.len() / blocks;
        let units = unit(number)..unit(number + 1);
        let (first, tiles) = (all.rows(units.start).0, all.part(units.start, units.end).all_rows());
        let block =
            Block { g, scheme, x, units, first, tiles, channels, strides, zeros: scratch.src(), inputs, products, target };
        B::launch(ToPoints(&block));
        match w {
            Weights::Derived(w) => block.by_derived::<B>(w, number == 0),
            Weights::Plain(w) => block.by_plain::<B>(w, transformed, number == 0),
        }
    }
    count
}

/// A block of tiles; all spans have been checked.
#[derive(Clone)]
struct Block<'m, 'e> {
    g: &'m Conv,
    scheme: Scheme,
    x: Src<'m, f32>,
    /// Its tiles of rows.
    units: Range<usize>,
    first: usize,
    tiles: usize,
    /// The first channel of the output that is computed, and the one behind the last; it may be padding.
    channels: (usize, usize),
    strides: Strides,
    zeros: Src<'m, f32>,
    /// `[point][tile][channel]`
    inputs: Dst<'m, f32>,
    /// `[point][tile][channel]`
    products: Dst<'m, f32>,
    target: Target<'e>,
}

impl Block<'_, '_> {
    /// Multiplies by derived weights and transforms the products back; `cold`: the weights have not been read just now.
    fn by_derived<B: Backend>(&self, w: Src<'_, f32>, cold: bool) {
        let in_c = self.g.in_c as usize;
        let matrix = packed_len(in_c as u64, self.g.out_c as u64) as usize;
        let far = cold && 4 * self.scheme.weights(self.g) >= FAR;
        let cut = self.cut::<B>();
        for point in 0..self.scheme.points() {
            let b = w.from(point * matrix + self.channels.0 * in_c);
            let next = Ahead { after: matrix, panel: in_c * PANEL };
            self.multiply::<B>(point, if far { Right::Series(b, next) } else { Right::Packed(b) }, &cut);
        }
        B::launch(FromPoints(self));
    }

    /// As [`by_derived`](Block::by_derived), by plain weights, some columns at a time.
    fn by_plain<B: Backend>(&self, w: Src<'_, f32>, transformed: Dst<'_, f32>, cold: bool) {
        let &Block { g, scheme, channels, .. } = self;
        let (n, points, in_c) = (scheme.inputs(), scheme.points(), g.in_c as usize);
        let (taps, apart) = (scheme.taps() * scheme.taps(), scheme.apart(g));
        let mut some = self.clone();
        for first in (channels.0..channels.1).step_by(scheme.columns(g)) {
            some.channels = (first, channels.1.min(first + scheme.columns(g)));
            let cut = some.cut::<B>();
            let end = some.channels.1;
            let panels = first / PANEL..end.div_ceil(PANEL);
            for pass in 0..scheme.passes() {
                let (panels, rows) = (panels.clone(), [0, n * apart]);
                B::launch(Pass { g, scheme, w, panels, pass, to: transformed, rows, apart });
                for (row, i) in scheme.rows(pass).into_iter().zip(0..) {
                    for x in 0..n {
                        let b = transformed.from((i * n + x) * apart).src();
                        // A tap of the panels that follow, with as many of the products as there are taps.
                        let point = (pass * ROWS + i) * n + x;
                        let (tap, due) = (point * taps / points, (point + 1) * taps / points > point * taps / points);
                        let next = w.pointer().wrapping_add((end * taps + tap * PANEL) * in_c);
                        let after = (next.addr().wrapping_sub(b.pointer().addr()) as isize / 4) as usize;
                        let next = Ahead { after, panel: taps * in_c * PANEL };
                        let fetch = cold && due && end < channels.1;
                        some.multiply::<B>(row * n + x, if fetch { Right::Series(b, next) } else { Right::Packed(b) }, &cut);
                    }
                }
            }
            B::launch(FromPoints(&some));
        }
    }

    /// How the product of a point is cut into units: the same tiles of rows for all columns.
    fn cut<B: Backend>(&self) -> Cut {
        let columns = self.channels.1 - self.channels.0;
        let all = Cut::of(self.scheme.tiles(self.g), columns, self.g.in_c as usize, tile_of::<B>());
        all.part(self.units.start, self.units.end)
    }

    /// The product of a point.
    fn multiply<B: Backend>(&self, point: usize, b: Right<'_>, cut: &Cut) {
        let product = Product {
            m: self.tiles,
            n: self.channels.1 - self.channels.0,
            k: self.g.in_c as usize,
            a: self.inputs.from(point * point_stride(self.tiles, self.strides.input)).src(),
            a_row: self.strides.input,
            b,
            c: self.products.from(point * point_stride(self.tiles, self.strides.product)),
            c_row: self.strides.product,
            epilogue: &Epilogue::NONE,
        };
        product.units::<B>(cut, 0..cut.units());
    }

    /// Picture, row and column of the first output of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let t = self.scheme.outputs();
        let (rows, columns) = ((self.g.out_h as usize).div_ceil(t), (self.g.out_w as usize).div_ceil(t));
        let tile = self.first + tile;
        (tile / columns / rows, tile / columns % rows * t, tile % columns * t)
    }
}

struct ToPoints<'b, 'm, 'e>(&'b Block<'m, 'e>);

impl Kernel for ToPoints<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        match self.0.scheme {
            Scheme::F2 => self.0.to_points::<V, 4>(),
            Scheme::F4 | Scheme::F2Of5 => self.0.to_points::<V, 6>(),
        }
    }
}

impl Block<'_, '_> {
    /// Transforms the inputs of all tiles, of N x N pixels each.
    #[inline(always)]
    #[allow(clippy::wrong_self_convention)] // a transform into the domain of points, not a conversion of the block
    fn to_points<V: F32s, const N: usize>(&self) {
        let g = self.g;
        let (pitch, row) = (g.in_pitch as usize, g.in_w as usize * g.in_pitch as usize);
        for tile in 0..self.tiles {
            let (picture, oy, ox) = self.place(tile);
            let mut pixels = [[self.zeros.pointer(); N]; N];
            for (r, pixels) in pixels.iter_mut().enumerate() {
                let y = (oy + r).wrapping_sub(g.pad_top as usize);
                for (c, pixel) in pixels.iter_mut().enumerate() {
                    let x = (ox + c).wrapping_sub(g.pad_left as usize);
                    if y < g.in_h as usize && x < g.in_w as usize {
                        *pixel = self.x.pointer().wrapping_add((picture * g.in_h as usize + y) * row + x * pitch);
                    }
                }
            }
            let out = self.inputs.pointer().wrapping_add(tile * self.strides.input);
            let point = point_stride(self.tiles, self.strides.input);
            for channel in (0..g.in_c as usize).step_by(V::LANES) {
                let mut rows = [[V::splat(0.0); N]; N];
                for (pixels, row) in pixels.iter().zip(&mut rows) {
                    let mut d = [V::splat(0.0); N];
                    for (d, pixel) in d.iter_mut().zip(pixels) {
                        // SAFETY: pixels lie inside the map or are the row of zeros; loads reach past their channels by
                        // less than a vector.
                        *d = unsafe { V::load(pixel.wrapping_add(channel)) };
                    }
                    *row = input_transform(d);
                }
                for x in 0..N {
                    let mut d = [V::splat(0.0); N];
                    for (d, row) in d.iter_mut().zip(&rows) {
                        *d = row[x];
                    }
                    for (y, v) in input_transform(d).into_iter().enumerate() {
                        // SAFETY: scratch has room for whole vectors of each point and tile.
                        unsafe { v.store(out.wrapping_add((y * N + x) * point + channel)) };
                    }
                }
            }
        }
    }

    /// Transforms the products of all tiles, of N x N points and T x T outputs each, and stores them.
    #[inline(always)]
    fn store_points<V: F32s, const N: usize, const T: usize>(&self) {
        let g = self.g;
        let out_row = g.out_w as usize * g.out_pitch as usize;
        for tile in 0..self.tiles {
            let (picture, oy, ox) = self.place(tile);
            let from = self.products.pointer().wrapping_add(tile * self.strides.product);
            let point = point_stride(self.tiles, self.strides.product);
            let (height, width) = (T.min(g.out_h as usize - oy), T.min(g.out_w as usize - ox));
            let pixel = (picture * g.out_h as usize + oy) * out_row + ox * g.out_pitch as usize;
            let (first, end) = self.channels;
            for channel in (first..end.min(g.out_c as usize)).step_by(V::LANES) {
                let n = V::LANES.min(g.out_c as usize - channel);
                let mut columns = [[V::splat(0.0); N]; T];
                #[allow(clippy::needless_range_loop)] // x is also a place in memory
                for x in 0..N {
                    let mut m = [V::splat(0.0); N];
                    for (y, m) in m.iter_mut().enumerate() {
                        // SAFETY: scratch holds whole vectors of each point and tile.
                        *m = unsafe { V::load(from.wrapping_add((y * N + x) * point + channel - first)) };
                    }
                    for (y, v) in output_transform::<V, N, T>(m).into_iter().enumerate() {
                        columns[y][x] = v;
                    }
                }
                for (y, row) in columns.into_iter().enumerate().take(height) {
                    let out = output_transform::<V, N, T>(row);
                    // SAFETY: the output has these pixels; no more than `width` of them and `n` channels are stored.
                    unsafe {
                        let target = self.target.from(pixel + y * out_row);
                        if width == T {
                            store(out.map(|v| [v]), &target, channel, n);
                        } else {
                            for (x, v) in out.into_iter().enumerate().take(width) {
                                store([[v]], &target.from(x * g.out_pitch as usize), channel, n);
                            }
                        }
                    }
                }
            }
        }
    }
}

struct FromPoints<'b, 'm, 'e>(&'b Block<'m, 'e>);

impl Kernel for FromPoints<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        match self.0.scheme {
            Scheme::F2 => self.0.store_points::<V, 4, 2>(),
            Scheme::F4 => self.0.store_points::<V, 6, 4>(),
            Scheme::F2Of5 => self.0.store_points::<V, 6, 2>(),
        }
    }
}

/// `Bᵀ d`: a row per point `p`, the coefficients of the product of `x - q` over all other points `q`.
#[inline(always)]
fn input_transform<V: F32s, const N: usize>(d: [V; N]) -> [V; N] {
    let mut out = d;
    if N == 4 {
        out[0] = d[0].sub(d[2]);
        out[1] = d[1].add(d[2]);
        out[2] = d[2].sub(d[1]);
        out[3] = d[3].sub(d[1]);
    } else {
        let k = V::splat;
        out[0] = d[2].mul_add(k(-2.5), d[0]).add(d[4]);
        let (even, odd) = (d[2].mul_add(k(-2.0), d[4]), d[1].mul_add(k(-2.0), d[3]));
        out[1] = odd.mul_add(k(FRAC_1_SQRT_2), even);
        out[2] = odd.mul_add(k(-FRAC_1_SQRT_2), even);
        let (even, odd) = (d[2].mul_add(k(-0.5), d[4]), d[1].mul_add(k(-0.5), d[3]));
        out[3] = odd.mul_add(k(SQRT_2), even);
        out[4] = odd.mul_add(k(-SQRT_2), even);
        out[5] = d[3].mul_add(k(-2.5), d[1]).add(d[5]);
    }
    out
}

/// `Aᵀ m`: output `i` is the sum over points of `pⁱ m`, the last one with infinity's.
#[inline(always)]
fn output_transform<V: F32s, const N: usize, const T: usize>(m: [V; N]) -> [V; T] {
    let mut out = [m[0]; T];
    let (even, odd) = (m[1].add(m[2]), m[1].sub(m[2]));
    if N == 4 {
        out[0] = m[0].add(even);
        out[1] = odd.add(m[3]);
    } else {
        let k = V::splat;
        let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
        out[0] = m[0].add(even).add(even_b);
        if T == 2 {
            out[1] = odd.mul_add(k(FRAC_1_SQRT_2), odd_b.mul_add(k(SQRT_2), m[5]));
            return out;
        }
        out[1] = odd.mul(k(FRAC_1_SQRT_2)).add(odd_b.mul(k(SQRT_2)));
        out[2] = even.mul_add(k(0.5), even_b.add(even_b));
        out[3] = odd.mul_add(k(FRAC_1_SQRT_2 / 2.0), odd_b.mul_add(k(SQRT_2 * 2.0), m[5]));
    }
    out
}
