//! What happens to a product on its way to memory: factor, bias, residual, activation.
//!
//! A tile of sums lies in registers when it is done. Where it is whole, all of this happens there ([`store`]), stage by stage
//! over the tile, so that the branches cost a few cycles a tile; but activations that are no clamp or hard-swish, and tiles
//! whose columns end inside a vector, are put down on the stack and finished there by one function per backend ([`Finish`]),
//! so that not every tile shape carries every activation. With short vectors that goes stage by stage too: an activation is chosen
//! once a tile, loads its constants once, and has several of its long chains of operations in flight.
#![allow(unsafe_code)]

use super::{Backend, Dst, F32s, Kernel, Src, math, narrow, simd};
use crate::program::Unary;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

/// `y = act(alpha * product + bias[column] + residual)`, or with the residual added after the activation.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'m> {
    /// Factor of the product.
    pub alpha: f32,
    /// One per column.
    pub bias: Option<Src<'m, f32>>,
    /// Addressed like the output, which may be the same memory.
    pub residual: Option<Src<'m, f32>>,
    /// The residual is added after the activation.
    pub residual_after: bool,
    /// The activation.
    pub activation: Unary,
    /// Its parameters.
    pub p: [f32; 2],
}

impl<'m> Epilogue<'m> {
    /// Stores the product as it is.
    pub const NONE: Epilogue<'static> =
        Epilogue { alpha: 1.0, bias: None, residual: None, residual_after: false, activation: Unary::Identity, p: [0.0; 2] };

    /// The epilogue that a record asks for; of a checked record the activation is always a known one.
    pub fn of(
        record: &crate::program::Epilogue,
        alpha: f32,
        bias: Option<Src<'m, f32>>,
        residual: Option<Src<'m, f32>>,
    ) -> Epilogue<'m> {
        Epilogue {
            alpha,
            bias,
            residual,
            residual_after: record.residual == 2,
            activation: Unary::from_number(record.activation).unwrap_or(Unary::Identity),
            p: record.p,
        }
    }

    /// The same epilogue for the columns and output elements from these on.
    pub(super) fn from(self, column: usize, element: usize) -> Epilogue<'m> {
        Epilogue { bias: self.bias.map(|b| b.from(column)), residual: self.residual.map(|r| r.from(element)), ..self }
    }

    /// Asserts that there is a bias for each of `columns`, and a residual for each of `elements`.
    pub(super) fn assert_holds(&self, columns: usize, elements: usize) {
        assert!(self.bias.is_none_or(|b| b.len() >= columns));
        assert!(self.residual.is_none_or(|r| r.len() >= elements));
    }

    /// The same epilogue without its activation, and the activation alone. None where it can be done in registers, or is not
    /// the last step.
    pub(super) fn split(&self) -> Option<(Epilogue<'m>, Epilogue<'m>)> {
        if self.in_registers() || (self.residual.is_some() && self.residual_after) {
            return None;
        }
        let first = Epilogue { activation: Unary::Identity, ..*self };
        Some((first, Epilogue { activation: self.activation, p: self.p, ..Epilogue::NONE }))
    }

    /// Whether there is nothing but an activation.
    fn activates(&self) -> bool {
        self.alpha == 1.0 && self.bias.is_none() && self.residual.is_none()
    }

    /// What is left after bias and residual, if that is ReLU (true) or nothing (false): what microkernels in assembler know.
    #[cfg_attr(target_os = "none", inline(never))]
    fn relu(&self) -> Option<bool> {
        // By bits: less code. -0 goes the general way.
        if self.alpha.to_bits() != 1f32.to_bits() || (self.residual.is_some() && self.residual_after) {
            return None;
        }
        match self.activation {
            Unary::Identity => Some(false),
            Unary::Clip if self.p.map(f32::to_bits) == [0, f32::INFINITY.to_bits()] => Some(true),
            _ => None,
        }
    }

    /// Whether all of it can be done in registers.
    pub const fn in_registers(&self) -> bool {
        self.activation.is_clamp()
    }
}

/// Elements that are left in the first-level cache for an activation that is applied to several tiles at once.
pub(super) const HOT: usize = 4096;

/// Where the rows of a tile go: element 0 of a row `r` is `r * row` elements on.
#[derive(Clone, Copy)]
pub(super) struct Target<'e> {
    /// What is done on the way.
    pub epilogue: &'e Epilogue<'e>,
    /// Compiled for the backend: [`finish`].
    pub finish: Finish,
    /// Row 0, column 0 of the output.
    pub c: *mut f32,
    /// The same place in the residual, if there is one.
    pub residual: *const f32,
    /// Elements between rows.
    pub row: usize,
    /// Asked of the epilogue once an op: see [`Epilogue::relu`].
    #[cfg_attr(not(all(target_os = "none", target_abi = "eabihf")), allow(dead_code))]
    pub relu: Option<bool>,
}

impl<'e> Target<'e> {
    /// The output's first row and column, and elements between rows; the residual is laid out like it.
    #[inline]
    pub fn of<B: Backend>(epilogue: &'e Epilogue<'e>, c: *mut f32, row: usize) -> Target<'e> {
        let residual = epilogue.residual.map_or(core::ptr::null(), |r| r.pointer());
        Target { epilogue, finish: finish::<B>, c, residual, row, relu: epilogue.relu() }
    }

    /// The same place under another epilogue.
    #[inline]
    pub fn under<'f>(self, epilogue: &'f Epilogue<'f>) -> Target<'f> {
        let Target { finish, c, residual, row, .. } = self;
        Target { epilogue, finish, c, residual, row, relu: epilogue.relu() }
    }
    /// Moves to `elements` behind this place in the output and the residual.
    #[inline(always)]
    pub fn move_to(&mut self, (c, residual): (*mut f32, *const f32), elements: usize) {
        (self.c, self.residual) = (c.wrapping_add(elements), residual.wrapping_add(elements));
    }

    /// Applies an activation to these rows and columns of the output, in place.
    ///
    /// # Safety
    /// The output has them, and all of them are written.
    #[inline(always)]
    pub unsafe fn activate(self, activation: &Epilogue<'_>, rows: usize, columns: usize) {
        let target = self.under(activation);
        // SAFETY: the tile is the target's own memory.
        unsafe { (target.finish)(&target, target.c, target.row, rows, columns, 0) };
    }

    /// The place `elements` further on.
    ///
    /// # Safety
    /// The output, and the residual if there is one, reach so far.
    #[inline(always)]
    pub unsafe fn from(self, elements: usize) -> Self {
        // SAFETY: as promised; the residual may be absent, then its pointer is never read.
        Target { c: unsafe { self.c.add(elements) }, residual: self.residual.wrapping_add(elements), ..self }
    }
}

/// Finishes a tile of sums that lies in memory, rows `stride` apart: rows, columns, first column. The tile's memory is used up.
pub(super) type Finish = unsafe fn(&Target<'_>, *mut f32, usize, usize, usize, usize);

/// Whether a tile in memory is finished stage by stage. Scalar code is to be small; with 16 lanes the division that most
/// activations end with takes all the time, and more passes over the tile cost up to 5 % of an op.
const fn in_stages<V: F32s>() -> bool {
    V::LANES > 1 && V::LANES < 16
}

/// The [`Finish`] of a backend.
///
/// # Safety
/// `tile` holds `rows` rows of whole vectors, at least `columns` elements each, and the target has room for them from
/// `column` on. Or the tile is that part of the target's output, and all that is done is an activation; a clamp asks for whole vectors.
pub(super) unsafe fn finish<B: Backend>(
    target: &Target<'_>,
    tile: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    column: usize,
) {
    B::launch(FinishTile::<B> { target, tile, stride, rows, columns, column, backend: PhantomData });
}

struct FinishTile<'t, 'e, B> {
    target: &'t Target<'e>,
    tile: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    column: usize,
    backend: PhantomData<B>,
}

impl<B: Backend> Kernel for FinishTile<'_, '_, B> {
    type Output = ();
    #[inline(always)]
    fn run<V: F32s>(self) {
        // SAFETY: as `finish` was promised.
        unsafe {
            let in_place = core::ptr::eq(self.tile, self.target.c.wrapping_add(self.column));
            if in_stages::<V>() || (V::LANES > 1 && in_place) {
                self.in_stages::<V>(in_place);
            } else {
                self.at_once::<V>();
            }
        }
    }
}

impl<B: Backend> FinishTile<'_, '_, B> {
    /// Vector by vector through all stages: the least code.
    ///
    /// # Safety
    /// As for [`finish`].
    #[inline(always)]
    unsafe fn at_once<V: F32s>(&self) {
        let e = self.target.epilogue;
        let alpha = V::splat(e.alpha);
        for at in (0..self.columns).step_by(V::LANES) {
            let n = V::LANES.min(self.columns - at);
            for r in 0..self.rows {
                let place = r * self.target.row + self.column + at;
                // SAFETY: rows and columns are those of the tile, the target and the bias, as promised; no more than the first
                // `n` lanes of the target and of the residual are touched.
                unsafe {
                    let bias = match e.bias {
                        Some(bias) => V::load_first(bias.pointer().add(self.column + at), n),
                        None => V::splat(0.0),
                    };
                    let mut x = V::load(self.tile.add(r * self.stride + at)).mul_add(alpha, bias);
                    let residual = match e.residual {
                        Some(_) => V::load_first(self.target.residual.add(place), n),
                        None => V::splat(0.0),
                    };
                    if e.residual.is_some() && !e.residual_after {
                        x = x.add(residual);
                    }
                    x = match e.activation {
                        Unary::Identity => x,
                        Unary::Clip => clip(x, e.p),
                        Unary::HardSwish => hard_swish(x, e.p),
                        _ if B::CLAMPS => x,
                        function => math::unary(function, e.p, x),
                    };
                    if e.residual.is_some() && e.residual_after {
                        x = x.add(residual);
                    }
                    x.store_first(self.target.c.add(place), n);
                }
            }
        }
    }

    /// Each stage over the whole tile.
    ///
    /// # Safety
    /// As for [`finish`].
    #[inline(always)]
    unsafe fn in_stages<V: F32s>(&self, in_place: bool) {
        let e = self.target.epilogue;
        let end = self.columns.next_multiple_of(V::LANES);
        let c = self.target.c.wrapping_add(self.column);
        // SAFETY: rows and columns are those of the tile, the target and the bias, as promised; of the target, the bias and the
        // residual only the first `columns` of a row are touched, and of the tile too where it is the target's memory.
        unsafe {
            if !e.activates() {
                let alpha = V::splat(e.alpha);
                let residual = e.residual.filter(|_| !e.residual_after).is_some();
                for at in (0..end).step_by(V::LANES) {
                    let n = V::LANES.min(self.columns - at);
                    let bias = match e.bias {
                        Some(bias) => simd::load(bias.pointer().add(self.column + at), n),
                        None => V::splat(0.0),
                    };
                    for r in 0..self.rows {
                        let p = self.tile.add(r * self.stride + at);
                        let mut x = V::load(p).mul_add(alpha, bias);
                        if residual {
                            x = x.add(simd::load(self.target.residual.add(r * self.target.row + self.column + at), n));
                        }
                        x.store(p);
                    }
                }
            }
            if !B::CLAMPS && e.activation != Unary::Identity {
                let columns = if in_place { self.columns } else { end };
                let joined = columns == self.stride;
                let (rows, columns) = if joined { (1, self.rows * columns) } else { (self.rows, columns) };
                for r in 0..rows {
                    let p = self.tile.add(r * self.stride);
                    math::unary_slice::<V>(e.activation, e.p, Src::from_raw(p, columns), Dst::from_raw(p, columns));
                }
            } else if e.activation == Unary::Clip || e.activation == Unary::HardSwish {
                for r in 0..self.rows {
                    for at in (0..end).step_by(V::LANES) {
                        let p = self.tile.add(r * self.stride + at);
                        let x = V::load(p);
                        let x = if e.activation == Unary::Clip { clip(x, e.p) } else { hard_swish(x, e.p) };
                        x.store(p);
                    }
                }
            }
            if in_place {
                return;
            }
            let residual = e.residual.filter(|_| e.residual_after).is_some();
            for r in 0..self.rows {
                let to = c.add(r * self.target.row);
                let from = self.tile.add(r * self.stride);
                let after = self.target.residual.wrapping_add(r * self.target.row + self.column);
                for at in (0..end).step_by(V::LANES) {
                    let n = V::LANES.min(self.columns - at);
                    let mut x = V::load(from.add(at));
                    if residual {
                        x = x.add(simd::load(after.add(at), n));
                    }
                    simd::store(x, to.add(at), n);
                }
            }
        }
    }
}

/// `min(max(x, p0), p1)`, NaN stays NaN.
#[inline(always)]
fn clip<V: F32s>(x: V, p: [f32; 2]) -> V {
    V::splat(p[1]).min(V::splat(p[0]).max(x))
}

/// `x * min(max(x * p0 + p1, 0), 1)`.
#[inline(always)]
fn hard_swish<V: F32s>(x: V, p: [f32; 2]) -> V {
    x.mul(clip(x.mul_add(V::splat(p[0]), V::splat(p[1])), [0.0, 1.0]))
}

/// Stores a tile of sums, `columns` of them in each row, the first of which is column `column`.
///
/// # Safety
/// The target has room for the tile's rows and columns from `column` on, and so has the bias.
#[inline(always)]
pub(super) unsafe fn store<V: F32s, const R: usize, const W: usize>(
    mut acc: [[V; W]; R],
    target: &Target<'_>,
    column: usize,
    columns: usize,
) {
    let e = target.epilogue;
    const { assert!(size_of::<V>() == V::LANES * size_of::<f32>()) };
    let mut tile = MaybeUninit::<[[V; W]; R]>::uninit();
    let tile = tile.as_mut_ptr().cast::<f32>();
    if columns < W * V::LANES || !(in_stages::<V>() || e.in_registers()) {
        // SAFETY: the tile has room for R rows of W vectors, and they are written; the rest as promised to this function.
        unsafe {
            put(&acc, tile);
            (target.finish)(target, tile, W * V::LANES, R, columns, column);
        }
        return;
    }
    let mut bias = [V::splat(0.0); W];
    if let Some(b) = e.bias {
        for (w, x) in bias.iter_mut().enumerate() {
            // SAFETY: all columns of the tile have a bias, as promised.
            *x = unsafe { V::load(b.pointer().add(column + w * V::LANES)) };
        }
    }
    let alpha = V::splat(e.alpha);
    for row in &mut acc {
        for w in 0..W {
            row[w] = row[w].mul_add(alpha, bias[w]);
        }
    }
    if e.residual.is_some() && !e.residual_after {
        // SAFETY: the residual reaches as far as the output.
        unsafe { add_residual(&mut acc, target, column) };
    }
    match e.activation {
        Unary::Clip => {
            for row in &mut acc {
                for x in row {
                    *x = clip(*x, e.p);
                }
            }
        }
        Unary::HardSwish => {
            for row in &mut acc {
                for x in row {
                    *x = hard_swish(*x, e.p);
                }
            }
        }
        Unary::Identity => {}
        _ if in_stages::<V>() => {
            let activation = Epilogue { activation: e.activation, p: e.p, ..Epilogue::NONE };
            let in_place = Target { c: tile, ..*target }.under(&activation);
            // SAFETY: the tile has room for R rows of W vectors; they are written, changed and read again.
            unsafe {
                put(&acc, tile);
                (target.finish)(&in_place, tile, W * V::LANES, R, W * V::LANES, 0);
                acc = tile.cast::<[[V; W]; R]>().read();
            }
        }
        _ => {}
    }
    if e.residual.is_some() && e.residual_after {
        // SAFETY: as above.
        unsafe { add_residual(&mut acc, target, column) };
    }
    for (r, row) in acc.iter().enumerate() {
        for (w, x) in row.iter().enumerate() {
            // SAFETY: the target has room for all rows and columns of the tile.
            unsafe { x.store(target.c.add(r * target.row + column + w * V::LANES)) };
        }
    }
}

/// Stores `rows` rows of four sums each, of which there are `columns` columns; a vector has [a row's parts](F32s::fold) still to be
/// added up.
///
/// # Safety
/// The target has room for these rows and columns, and so has the bias.
#[inline(always)]
pub(super) unsafe fn store_fours<V: F32s, const R: usize>(acc: [V; R], rows: usize, target: &Target<'_>, columns: usize) {
    const FOUR: usize = narrow::COLUMNS;
    let e = target.epilogue;
    let mut bias = [0.0; 16];
    if let Some(b) = e.bias {
        (0..V::LANES).filter(|i| i % FOUR < columns).for_each(|i| bias[i] = b.at(i % FOUR));
    }
    let mut tile = MaybeUninit::<[[f32; FOUR]; R]>::uninit();
    // SAFETY: the buffers hold whole vectors; rows and columns of the target and the residual are there, as promised.
    unsafe {
        let (alpha, bias) = (V::splat(e.alpha), V::load(bias.as_ptr()));
        let before = e.residual.is_some() && !e.residual_after;
        for (group, vectors) in acc.chunks_exact(V::LANES / FOUR).enumerate() {
            let mut x = V::fold(vectors).mul_add(alpha, bias);
            if !before {
                x = match e.activation {
                    Unary::Clip => clip(x, e.p),
                    Unary::HardSwish => hard_swish(x, e.p),
                    _ => x,
                };
            }
            x.store(tile.as_mut_ptr().cast::<f32>().add(group * V::LANES));
        }
        let tile = tile.assume_init_mut();
        let residual = |tile: &mut [[f32; FOUR]; R]| {
            for (r, row) in tile.iter_mut().enumerate().take(rows) {
                for (c, x) in row.iter_mut().enumerate().take(columns) {
                    *x += target.residual.add(r * target.row + c).read();
                }
            }
        };
        if before {
            residual(tile);
        }
        if before || !e.in_registers() {
            let activation = Epilogue { activation: e.activation, p: e.p, ..Epilogue::NONE };
            let p = tile.as_mut_ptr().cast::<f32>();
            let in_place = Target { c: p, ..*target }.under(&activation);
            (target.finish)(&in_place, p, R * FOUR, 1, R * FOUR, 0);
        }
        if e.residual.is_some() && e.residual_after {
            residual(tile);
        }
        for (r, row) in tile.iter().enumerate().take(rows) {
            let to = target.c.add(r * target.row);
            // By numbers that are known when this is compiled: each is one or two moves.
            match columns {
                1 => to.write(row[0]),
                2 => to.copy_from_nonoverlapping(row.as_ptr(), 2),
                3 => to.copy_from_nonoverlapping(row.as_ptr(), 3),
                _ => to.copy_from_nonoverlapping(row.as_ptr(), FOUR),
            }
        }
    }
}

/// # Safety
/// The tile has room for R rows of W vectors.
#[inline(always)]
unsafe fn put<V: F32s, const R: usize, const W: usize>(acc: &[[V; W]; R], tile: *mut f32) {
    for (r, row) in acc.iter().enumerate() {
        for (w, x) in row.iter().enumerate() {
            // SAFETY: as promised.
            unsafe { x.store(tile.add((r * W + w) * V::LANES)) };
        }
    }
}

/// # Safety
/// There is a residual, with room for the tile from `column` on.
#[inline(always)]
unsafe fn add_residual<V: F32s, const R: usize, const W: usize>(acc: &mut [[V; W]; R], target: &Target<'_>, column: usize) {
    for (r, row) in acc.iter_mut().enumerate() {
        for (w, x) in row.iter_mut().enumerate() {
            // SAFETY: as promised.
            *x = x.add(unsafe { V::load(target.residual.add(r * target.row + column + w * V::LANES)) });
        }
    }
}
