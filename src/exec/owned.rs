//! Sessions that own what they run on: for hosts.
#![allow(unsafe_code)]

use super::{Budget, Host, Key, Session};
use crate::aligned::AlignedBytes;
use crate::error::Result;
use crate::image::{Image, Program};
use crate::ops::{Entry, Externs};
use crate::tensor::Element;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// The bytes of an image: built in memory, or mapped.
pub type Bytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Weights derived for one op.
pub type Derived = Option<Box<[f32]>>;

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A checked image with the bytes it is a view of, and what the host adds.
pub struct OwnedImage {
    /// A view of `bytes`, for as long as they live: it is only handed out for as long as `self` is borrowed.
    image: Image<'static>,
    bytes: Bytes,
    externs: Option<Box<dyn Externs>>,
}

impl fmt::Debug for OwnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an image of {} bytes", self.image.bytes())
    }
}

impl OwnedImage {
    /// Checks an image; see [`Image::new`], and [`Image::without_weights_hash`] for `hash_weights` = false.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn new(bytes: Bytes, hash_weights: bool, externs: Option<Box<dyn Externs>>) -> Result<OwnedImage> {
        let view: &[u8] = (*bytes).as_ref();
        // SAFETY: the bytes lie behind a box that is dropped after the image, never replaced, and lent out only shared:
        // their address stays and nothing writes to them.
        let view: &'static [u8] = unsafe { core::slice::from_raw_parts(view.as_ptr(), view.len()) };
        let image = if hash_weights { Image::new(view)? } else { Image::without_weights_hash(view)? };
        Ok(OwnedImage { image, bytes, externs })
    }

    /// The image.
    pub fn image(&self) -> Image<'_> {
        self.image
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

/// A [`Session`] that owns its arena and shares its image.
pub struct OwnedSession {
    // Dropped in this order: the session before what it points to.
    session: Session<'static>,
    _derived: Box<[Derived]>,
    _lent: Box<[Option<&'static [f32]>]>,
    _arena: AlignedBytes,
    _scratch: AlignedBytes,
    image: Arc<OwnedImage>,
}

impl fmt::Debug for OwnedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a session of {:?}", self.image)
    }
}

impl OwnedSession {
    /// A session of a program; its state is zero. `derived` is empty, or has an entry per op; `scratch` bytes of scratch memory are
    /// given beside the arena's (0: none). This allocates; running does not.
    ///
    /// # Errors
    /// As [`Session::of`]; [`Kind::NotFound`](crate::Kind::NotFound) when there is no such program.
    pub fn new(
        image: Arc<OwnedImage>,
        program: Option<&str>,
        set: &'static [Entry],
        derived: Vec<Derived>,
        scratch: usize,
    ) -> Result<OwnedSession> {
        let program = match program {
            Some(name) => image.image.program(name)?,
            None => image.image.main(),
        };
        let mut arena = AlignedBytes::zeroed(program.arena_bytes(), program.alignment().max(64));
        let mut more = AlignedBytes::zeroed(scratch, 64);
        let derived = derived.into_boxed_slice();
        // SAFETY: each slice lies on the heap and is neither moved nor changed while `derived` is kept.
        let lend = |d: &[f32]| unsafe { core::slice::from_raw_parts(d.as_ptr(), d.len()) };
        let lent: Box<[Option<&'static [f32]>]> = derived.iter().map(|d| d.as_deref().map(lend)).collect();
        // SAFETY: as above: `lent` is kept unchanged beside the session.
        let lent_view: &'static [Option<&'static [f32]>] = unsafe { core::slice::from_raw_parts(lent.as_ptr(), lent.len()) };
        // SAFETY: the boxed extern ops live as long as the image, which the session keeps.
        let externs = image.externs.as_deref().map(|e| unsafe { &*core::ptr::from_ref::<dyn Externs>(e) });
        // SAFETY: the arena lies on the heap, stays as long as the session, and is touched through the session alone.
        let memory: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(arena.as_mut_ptr(), arena.len()) };
        let mut session = Session::of(program, set, memory, Host { externs, derived: lent_view })?;
        if scratch > 0 {
            // SAFETY: as the arena.
            let memory: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(more.as_mut_ptr(), more.len()) };
            session = session.with_scratch(memory)?;
        }
        Ok(OwnedSession { session, _derived: derived, _lent: lent, _arena: arena, _scratch: more, image })
    }

    /// See [`Session::with_threads`].
    ///
    /// # Errors
    /// As [`Session::with_threads`].
    #[cfg(feature = "std")]
    pub fn with_threads(mut self, threads: usize) -> Result<OwnedSession> {
        self.session = self.session.with_threads(threads)?;
        Ok(self)
    }

    /// See [`Session::with_threads_from`].
    ///
    /// # Errors
    /// As [`Session::with_threads`].
    #[cfg(feature = "std")]
    pub fn with_threads_from(mut self, threads: usize, work: u64) -> Result<OwnedSession> {
        self.session = self.session.with_threads_from(threads, work)?;
        Ok(self)
    }

    /// Its program.
    pub fn program(&self) -> Program<'_> {
        *self.session.program()
    }

    /// Its image.
    pub fn image(&self) -> Image<'_> {
        self.image.image()
    }

    /// See [`Session::input`].
    ///
    /// # Errors
    /// As [`Session::input`].
    pub fn input<T: Element>(&mut self, key: impl Key) -> Result<&mut [T]> {
        self.session.input(key)
    }

    /// See [`Session::input_bytes`].
    ///
    /// # Errors
    /// As [`Session::input_bytes`].
    pub fn input_bytes(&mut self, key: impl Key) -> Result<&mut [u8]> {
        self.session.input_bytes(key)
    }

    /// See [`Session::output`].
    ///
    /// # Errors
    /// As [`Session::output`].
    pub fn output<T: Element>(&self, key: impl Key) -> Result<&[T]> {
        self.session.output(key)
    }

    /// See [`Session::output_bytes`].
    ///
    /// # Errors
    /// As [`Session::output_bytes`].
    pub fn output_bytes(&self, key: impl Key) -> Result<&[u8]> {
        self.session.output_bytes(key)
    }

    /// See [`Session::run`].
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run(&mut self) -> Result<()> {
        self.session.run()
    }

    /// See [`Session::run_slice`].
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_slice(&mut self, budget: Budget) -> Result<bool> {
        self.session.run_slice(budget)
    }

    /// See [`Session::reset`].
    pub fn reset(&mut self) {
        self.session.reset();
    }
}
