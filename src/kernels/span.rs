//! Spans of memory for kernels: pointer and length, read-only or writable, allowed to overlap.
//!
//! Ops run in place where that is safe, so an input and an output may be the same memory, which Rust's references can't
//! express. A span is made by the executor from a checked image and its arena; whoever makes one promises that the memory
//! stays valid and is not touched by others while kernels use it.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ptr::NonNull;

/// Memory that a kernel reads.
#[derive(Debug)]
pub struct Src<'m, T> {
    pointer: NonNull<T>,
    len: usize,
    memory: PhantomData<&'m T>,
}

/// Memory that a kernel writes, and may read.
#[derive(Debug)]
pub struct Dst<'m, T> {
    pointer: NonNull<T>,
    len: usize,
    memory: PhantomData<&'m T>,
}

impl<T> Clone for Src<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Src<'_, T> {}
impl<T> Clone for Dst<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Dst<'_, T> {}

impl<'m, T: Copy> Src<'m, T> {
    /// A span of `len` elements.
    ///
    /// # Safety
    /// `pointer` is not null, aligned and valid for reads of `len` elements for `'m`, and written to only by kernels that were given
    /// an overlapping span on purpose.
    pub const unsafe fn from_raw(pointer: *const T, len: usize) -> Self {
        // SAFETY: not null, as promised.
        Src { pointer: unsafe { NonNull::new_unchecked(pointer.cast_mut()) }, len, memory: PhantomData }
    }

    /// The span of a slice.
    pub const fn from_slice(slice: &'m [T]) -> Self {
        // SAFETY: a slice's own pointer and length.
        unsafe { Src::from_raw(slice.as_ptr(), slice.len()) }
    }

    /// Number of elements.
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where it starts.
    pub const fn pointer(self) -> *const T {
        self.pointer.as_ptr()
    }

    /// The part from `start` on.
    ///
    /// # Panics
    /// If `start` is past the end.
    #[inline(always)]
    pub fn from(self, start: usize) -> Self {
        assert!(start <= self.len);
        // SAFETY: `start` is within the span.
        Src { pointer: unsafe { self.pointer.add(start) }, len: self.len - start, memory: PhantomData }
    }

    /// The first `len` elements.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline(always)]
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len);
        Src { len, ..self }
    }

    /// One element.
    ///
    /// # Panics
    /// If `i` is past the end.
    #[inline(always)]
    pub fn at(self, i: usize) -> T {
        assert!(i < self.len);
        // SAFETY: `i` is within the span, which is valid for reads.
        unsafe { self.pointer.add(i).read() }
    }

    /// As a slice.
    ///
    /// # Safety
    /// No one writes to this memory while the slice lives: it must not overlap a [`Dst`] in use.
    pub const unsafe fn as_slice(self) -> &'m [T] {
        // SAFETY: valid for reads by construction; no writes, as the caller promises.
        unsafe { core::slice::from_raw_parts(self.pointer(), self.len) }
    }
}

impl<'m, T: Copy> Dst<'m, T> {
    /// A span of `len` elements.
    ///
    /// # Safety
    /// `pointer` is not null, aligned and valid for reads and writes of `len` elements for `'m`, and used by nobody but kernels that
    /// were given it.
    pub const unsafe fn from_raw(pointer: *mut T, len: usize) -> Self {
        // SAFETY: not null, as promised.
        Dst { pointer: unsafe { NonNull::new_unchecked(pointer) }, len, memory: PhantomData }
    }

    /// The span of a slice.
    pub const fn from_slice(slice: &'m mut [T]) -> Self {
        // SAFETY: a slice's own pointer and length.
        unsafe { Dst::from_raw(slice.as_mut_ptr(), slice.len()) }
    }

    /// Number of elements.
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where it starts.
    pub const fn pointer(self) -> *mut T {
        self.pointer.as_ptr()
    }

    /// The same memory, to read from.
    pub const fn src(self) -> Src<'m, T> {
        Src { pointer: self.pointer, len: self.len, memory: PhantomData }
    }

    /// The part from `start` on.
    ///
    /// # Panics
    /// If `start` is past the end.
    #[inline(always)]
    pub fn from(self, start: usize) -> Self {
        assert!(start <= self.len);
        // SAFETY: `start` is within the span.
        Dst { pointer: unsafe { self.pointer.add(start) }, len: self.len - start, memory: PhantomData }
    }

    /// The first `len` elements.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline(always)]
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len);
        Dst { len, ..self }
    }

    /// Writes one element.
    ///
    /// # Panics
    /// If `i` is past the end.
    #[inline(always)]
    pub fn set(self, i: usize, value: T) {
        assert!(i < self.len);
        // SAFETY: `i` is within the span, which is valid for writes.
        unsafe { self.pointer.add(i).write(value) }
    }
}
