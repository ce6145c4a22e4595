//! Sessions that own what they run on: for hosts.
#![allow(unsafe_code)]

use super::{Budget, Host, Key, Session};
use crate::aligned::AlignedBytes;
use crate::error::{Error, Kind, Result};
use crate::image::{Image, Program};
use crate::ops::{Entry, Externs};
use crate::tensor::{Element, Shape};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use zerocopy::FromBytes;

/// The bytes of an image: built in memory, or mapped.
pub type Bytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// What a host adds to the programs of an image to run them faster.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// All derived weights, in memory of their own.
    pub memory: Option<Arc<AlignedBytes>>,
    /// Per program, where the weights derived for each of its ops lie in there, in bytes: an entry per op, or none at all.
    /// Programs may share them.
    pub weights: Vec<Vec<Option<Range<usize>>>>,
    /// Bytes of scratch memory beside the arena's.
    pub scratch: usize,
}

/// Derived weights as a session of one program takes them.
type Lent = Box<[Option<&'static [f32]>]>;

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
    lent: Box<[Lent]>,
    _derived: Derived,
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
    /// A session of a program; its state is zero. The arena is large enough for every program of the image. This allocates;
    /// running does not.
    ///
    /// # Errors
    /// As [`Session::of`]; [`Kind::NotFound`] when there is no such program.
    pub fn new(image: Arc<OwnedImage>, program: Option<&str>, set: &'static [Entry], derived: Derived) -> Result<OwnedSession> {
        let number = match program {
            Some(name) => number_of(&image.image, name)?,
            None => 0,
        };
        let Some(program) = image.image.programs().nth(number) else { return Err(no_program()) };
        let mut arena = AlignedBytes::zeroed(image.image.arena_bytes(), program.alignment().max(64));
        let mut more = AlignedBytes::zeroed(derived.scratch, 64);
        let memory = derived.memory.as_ref().map_or(&[][..], |memory| &memory[..]);
        let lend = |place: &Option<Range<usize>>| {
            let weights = <[f32]>::ref_from_bytes(memory.get(place.clone()?)?).ok()?;
            // SAFETY: the memory is neither moved nor changed while `derived` is kept.
            Some(unsafe { core::slice::from_raw_parts(weights.as_ptr(), weights.len()) })
        };
        let lent: Box<[Lent]> = derived.weights.iter().map(|ops| ops.iter().map(lend).collect()).collect();
        // SAFETY: `lent` is kept unchanged beside the session.
        let view = unsafe { lent_to(&lent, number) };
        // SAFETY: the boxed extern ops live as long as the image, which the session keeps.
        let externs = image.externs.as_deref().map(|e| unsafe { &*core::ptr::from_ref::<dyn Externs>(e) });
        // SAFETY: the arena lies on the heap, stays as long as the session, and is touched through the session alone.
        let memory: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(arena.as_mut_ptr(), arena.len()) };
        let mut session = Session::of(program, set, memory, Host { externs, derived: view })?;
        if derived.scratch > 0 {
            // SAFETY: as the arena.
            let memory: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(more.as_mut_ptr(), more.len()) };
            session = session.with_scratch(memory)?;
        }
        Ok(OwnedSession { session, lent, _derived: derived, _arena: arena, _scratch: more, image })
    }

    /// Goes over to another program of the image, by its name: the same network at another size, for instance. All inputs are to
    /// be written then, and state is zero. It does not allocate, unless threads need more memory than they had.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such program; as [`Session::choose`].
    pub fn choose(&mut self, program: &str) -> Result<()> {
        self.choose_number(number_of(&self.image.image, program)?)
    }

    /// As [`OwnedSession::choose`], the first program that takes inputs of these shapes, by their names; other inputs may have
    /// any.
    ///
    /// # Errors
    /// As [`OwnedSession::choose`].
    pub fn choose_for(&mut self, inputs: &[(&str, &[usize])]) -> Result<()> {
        let number = self.image.image.programs().position(|program| program.takes(inputs)).ok_or_else(no_program)?;
        self.choose_number(number)
    }

    fn choose_number(&mut self, number: usize) -> Result<()> {
        let program = self.image.image.programs().nth(number).ok_or_else(no_program)?;
        // SAFETY: `lent` is kept unchanged beside the session.
        let derived = unsafe { lent_to(&self.lent, number) };
        self.session.choose_with(program, derived)
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

    /// See [`Session::output_dims`].
    ///
    /// # Errors
    /// As [`Session::output_dims`].
    pub fn output_dims(&self, key: impl Key) -> Result<Shape> {
        self.session.output_dims(key)
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

fn no_program() -> Error {
    Error::new(Kind::NotFound, "the image has no such program")
}

fn number_of(image: &Image<'_>, name: &str) -> Result<usize> {
    image.programs().position(|program| program.name() == name).ok_or_else(no_program)
}

/// What is lent to the program of this number: nothing, if nothing was derived for it.
///
/// # Safety
/// `lent` outlives what is returned, and does not change meanwhile.
unsafe fn lent_to(lent: &[Lent], number: usize) -> &'static [Option<&'static [f32]>] {
    match lent.get(number) {
        // SAFETY: the caller's promise.
        Some(ops) => unsafe { core::slice::from_raw_parts(ops.as_ptr(), ops.len()) },
        None => &[],
    }
}
