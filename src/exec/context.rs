//! What the op that runs works on: spans of the arena and of the image's weights, and which of its units.
#![allow(unsafe_code)]

use crate::image::layout::{Place, TensorRecord};
use crate::kernels::{Dst, Src, clamp};
use crate::ops::{Externs, Op};
use crate::tensor::{DType, Element};
use core::marker::PhantomData;
use core::ops::Range;

/// Scratch memory of a thread.
#[derive(Clone, Copy)]
pub(crate) struct Scratch {
    pub start: *mut u8,
    pub len: usize,
}

// SAFETY: an address and a number. Whoever makes a context with it says why it may be written.
unsafe impl Send for Scratch {}
// SAFETY: likewise.
unsafe impl Sync for Scratch {}

/// What an evaluator may touch.
pub struct Context<'m> {
    tensors: &'m [TensorRecord],
    weights: *const u8,
    arena: *mut u8,
    scratch: Scratch,
    /// Weights that a host derived, per op of the program; empty: none.
    derived: &'m [Option<&'m [f32]>],
    externs: Option<&'m dyn Externs>,
    /// Units to evaluate.
    range: Range<usize>,
    resumes: bool,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Context<'m> {
    /// A context over a checked program, to evaluate these of an op's units. `resumes`: scratch memory is as the unit before
    /// the first of them left it.
    ///
    /// # Safety
    /// `tensors` have passed the image's check against these weights and this arena: every tensor lies inside, aligned for
    /// its element type, with [`SLACK`](crate::program::SLACK) readable bytes behind. The memory stays valid for `'m` and is
    /// used by nobody else. `scratch` is a part of the arena that no tensor overlaps, aligned to 8 bytes or more.
    pub(crate) unsafe fn new(
        tensors: &'m [TensorRecord],
        weights: *const u8,
        arena: *mut u8,
        scratch: Scratch,
        derived: &'m [Option<&'m [f32]>],
        externs: Option<&'m dyn Externs>,
        range: Range<usize>,
        resumes: bool,
    ) -> Self {
        Context { tensors, weights, arena, scratch, derived, externs, range, resumes, memory: PhantomData }
    }

    /// The record of a tensor.
    ///
    /// # Panics
    /// If there is no tensor of this number; never for an operand of a checked op.
    #[inline]
    pub fn tensor(&self, tensor: u32) -> &'m TensorRecord {
        &self.tensors[tensor as usize]
    }

    /// The element type of a tensor.
    #[inline]
    pub fn dtype(&self, tensor: u32) -> DType {
        self.tensor(tensor).dtype()
    }

    /// A tensor to read from: all its elements, which must be of type `T`.
    ///
    /// # Panics
    /// If the element type is another one; never in an op whose record has been checked.
    #[inline]
    pub fn src<T: Element>(&self, tensor: u32) -> Src<'m, T> {
        let (at, bytes) = self.locate(tensor, T::DTYPE.size(), false);
        // SAFETY: the tensor lies inside the weights or the arena, aligned for its type, as `new` was promised.
        unsafe { Src::from_raw(at.cast_const().cast(), bytes / size_of::<T>()) }
    }

    /// Where a tensor lies and its bytes, if its elements have this size (0: any), and it may be written where that is asked. Not
    /// inlined on a device: each operand of each op would be 80 bytes of code.
    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    fn locate(&self, tensor: u32, size: usize, write: bool) -> (*mut u8, usize) {
        let t = self.tensor(tensor);
        let in_weights = t.place == Place::Weights as u8;
        assert!((size == 0 || size == t.dtype().size()) && !(write && in_weights));
        let base = if in_weights { self.weights.cast_mut() } else { self.arena };
        // SAFETY: the tensor lies inside the weights or the arena, as `new` was promised. Nothing is written to the weights.
        (unsafe { base.add(t.offset as usize) }, t.bytes as usize)
    }

    /// An input of the op to read from, as [`Context::src`].
    ///
    /// # Panics
    /// If it is absent or of another type; never where the op's record has checked that.
    #[inline]
    pub fn input<T: Element>(&self, op: &Op<'_>, i: usize) -> Src<'m, T> {
        let (at, bytes) = self.locate_operand(op.inputs, i, T::DTYPE.size(), false);
        // SAFETY: as in `src`.
        unsafe { Src::from_raw(at.cast_const().cast(), bytes / size_of::<T>()) }
    }

    /// An output of the op to write to, as [`Context::dst`].
    ///
    /// # Panics
    /// As [`Context::input`].
    #[inline]
    pub fn output<T: Element>(&self, op: &Op<'_>, i: usize) -> Dst<'m, T> {
        let (at, bytes) = self.locate_operand(op.outputs, i, T::DTYPE.size(), true);
        // SAFETY: as in `dst`.
        unsafe { Dst::from_raw(at.cast(), bytes / size_of::<T>()) }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    fn locate_operand(&self, numbers: &[u32], i: usize, size: usize, write: bool) -> (*mut u8, usize) {
        self.locate(numbers[i], size, write)
    }

    /// A tensor to write to.
    ///
    /// # Panics
    /// If the element type is another one or the tensor lies in the weights; never in an op whose record has been checked.
    #[inline]
    pub fn dst<T: Element>(&self, tensor: u32) -> Dst<'m, T> {
        let (at, bytes) = self.locate(tensor, T::DTYPE.size(), true);
        // SAFETY: as in `src`; the arena is writable.
        unsafe { Dst::from_raw(at.cast(), bytes / size_of::<T>()) }
    }

    /// A tensor's bytes, to read from.
    #[inline]
    pub fn src_bytes(&self, tensor: u32) -> Src<'m, u8> {
        let (at, bytes) = self.locate(tensor, 0, false);
        // SAFETY: as in `src`.
        unsafe { Src::from_raw(at.cast_const(), bytes) }
    }

    /// A tensor's bytes, to write to.
    ///
    /// # Panics
    /// If the tensor lies in the weights; never for an output of a checked op.
    #[inline]
    pub fn dst_bytes(&self, tensor: u32) -> Dst<'m, u8> {
        let (at, bytes) = self.locate(tensor, 0, true);
        // SAFETY: as in `dst`.
        unsafe { Dst::from_raw(at, bytes) }
    }

    /// All scratch memory, as elements of type `T`: at least what the op's record asks for. A host may give more.
    #[inline]
    pub fn scratch<T: Element>(&self) -> Dst<'m, T> {
        // SAFETY: scratch is a part of the arena of its own, aligned to 8 bytes or more.
        unsafe { Dst::from_raw(self.scratch.start.cast(), self.scratch.len / size_of::<T>()) }
    }

    /// The units to evaluate: of those that the op has, the ones in this range, which may reach past them.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The units to evaluate, of an op that has so many.
    #[inline]
    pub fn units(&self, count: usize) -> Range<usize> {
        clamp(self.range(), count)
    }

    /// As [`Context::units`], where a unit is `each` pieces of so many: the pieces to work on.
    #[inline]
    pub fn pieces(&self, count: usize, each: usize) -> Range<usize> {
        let start = self.range.start.saturating_mul(each);
        clamp(start..self.range.end.saturating_mul(each), count)
    }

    /// Whether scratch memory is as the unit before the first one left it.
    #[inline]
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// Weights that the host derived for this op, if it did.
    #[inline]
    pub fn derived(&self, op: &Op<'_>) -> Option<Src<'m, f32>> {
        self.derived.get(op.index as usize).copied().flatten().map(Src::from_slice)
    }

    /// The host's extern ops, if there is a host.
    #[inline]
    pub fn externs(&self) -> Option<&'m dyn Externs> {
        self.externs
    }
}
