//! Sessions that own what they run on: for hosts.
#![allow(unsafe_code)]

#[cfg(feature = "std")]
use super::session::WORTH;
use super::{Budget, Host, Key, Session};
use crate::aligned::AlignedBytes;
use crate::error::{Error, Kind, Result};
use crate::image::{Image, Program};
use crate::ops::{Entry, Externs};
use crate::program::Conv;
use crate::tensor::{Element, Shape};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use zerocopy::FromBytes;

/// The bytes of an image: built in memory, or mapped.
pub type Bytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// What a host adds to the programs of an image to run them faster: [`derive`](crate::plan::derive) finds it out.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// Bytes of all derived weights, which have memory of their own.
    pub bytes: usize,
    /// Per program, where the weights derived for each of its ops lie in there: an entry per op, or none at all. Programs may share
    /// them.
    pub weights: Vec<Vec<Option<Range<usize>>>>,
    /// What is to be written there.
    pub jobs: Vec<Job>,
    /// Writes a convolution's, from its plain weights.
    pub write: Option<Write>,
    /// Bytes of the arena, at least: there is scratch memory in it that the image does not know of.
    pub arena: usize,
    /// Per program, where the scratch memory of each of its ops lies in the arena: a place per op, empty where it is the image's, or
    /// none at all.
    pub scratch: Vec<Vec<Range<u32>>>,
}

/// Writes what is derived from a convolution's plain weights.
pub type Write = fn(&Conv, &[f32], &mut [f32]);

/// The derived weights of a convolution.
#[derive(Clone, Debug)]
pub struct Job {
    /// The convolution.
    pub record: Conv,
    /// Where its plain weights lie among the image's, in bytes.
    pub from: Range<usize>,
    /// Where the derived ones lie, in bytes: apart from those of other jobs.
    pub to: Range<usize>,
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
    /// Of each program, what is lent to the session: nothing yet, before weights are derived.
    lent: Box<[Lent]>,
    derived: Derived,
    weights: AlignedBytes,
    /// Whether a run has been made, and whether weights have been derived.
    ran: bool,
    ready: bool,
    _arena: AlignedBytes,
    image: Arc<OwnedImage>,
    /// The session's program.
    number: usize,
}

/// An address that threads write to at places of their own.
struct Shared(*mut u8);

// SAFETY: it is an address; whoever writes there sees to it that nobody else does.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

impl fmt::Debug for OwnedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a session of {:?}", self.image)
    }
}

impl OwnedSession {
    /// A session of a program; its state is zero. The arena is large enough for every program of the image. This allocates;
    /// running does not. What can be derived is derived by the [second run](OwnedSession::run).
    ///
    /// # Errors
    /// As [`Session::of`]; [`Kind::NotFound`] when there is no such program.
    pub fn new(image: Arc<OwnedImage>, program: Option<&str>, set: &'static [Entry], derived: Derived) -> Result<OwnedSession> {
        let number = match program {
            Some(name) => number_of(&image.image, name)?,
            None => 0,
        };
        let Some(program) = image.image.programs().nth(number) else { return Err(no_program()) };
        let bytes = image.image.arena_bytes().max(derived.arena);
        let mut arena = AlignedBytes::zeroed(bytes, program.alignment().max(64));
        // Its pages stay untouched until weights are derived.
        let weights = AlignedBytes::zeroed(derived.bytes, 64);
        let lent: Box<[Lent]> = derived.weights.iter().map(|ops| ops.iter().map(|_| None).collect()).collect();
        // SAFETY: the boxed extern ops live as long as the image, which the session keeps.
        let externs = image.externs.as_deref().map(|e| unsafe { &*core::ptr::from_ref::<dyn Externs>(e) });
        // SAFETY: the arena lies on the heap, stays as long as the session, and is touched through the session alone.
        let memory: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(arena.as_mut_ptr(), arena.len()) };
        let session = Session::of(program, set, memory, Host { externs, ..Host::default() })?;
        let (ran, ready) = (false, derived.jobs.is_empty());
        let mut session = OwnedSession { session, lent, derived, weights, ran, ready, _arena: arena, image, number };
        session.place_scratch()?;
        Ok(session)
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
        self.session.choose(program)?;
        self.number = number;
        self.lend();
        self.place_scratch()
    }

    /// Whether [`derive`](OwnedSession::derive) has nothing left to do, and had something.
    pub fn has_derived(&self) -> bool {
        self.ready && !self.derived.jobs.is_empty()
    }

    /// Derives weights now, as the second [`run`](OwnedSession::run) does otherwise: for whoever wants even that one to be fast, or
    /// runs in slices only. It does not allocate, but memory that was set aside for them becomes resident.
    pub fn derive(&mut self) {
        let Some(write) = self.derived.write.filter(|_| !self.ready) else { return };
        let (jobs, plain) = (&self.derived.jobs, self.session.program().weights());
        let all = Shared(self.weights.as_mut_ptr());
        self.session.each(jobs.len(), &|i| {
            let Job { record, from, to } = &jobs[i];
            let Some(plain) = plain.get(from.clone()).and_then(|bytes| <[f32]>::ref_from_bytes(bytes).ok()) else { return };
            // SAFETY: jobs' places lie in the memory, aligned, apart from each other, and no session has been given them so far.
            let to = unsafe { core::slice::from_raw_parts_mut(all.at(to.start).cast(), to.len() / 4) };
            write(record, plain, to);
        });
        for (lent, places) in self.lent.iter_mut().zip(&self.derived.weights) {
            for (lent, place) in lent.iter_mut().zip(places) {
                let of = |place: &Range<usize>| {
                    let weights = <[f32]>::ref_from_bytes(self.weights.get(place.clone())?).ok()?;
                    // SAFETY: the memory is neither moved nor written to from now on, as long as the session lives.
                    Some(unsafe { core::slice::from_raw_parts(weights.as_ptr(), weights.len()) })
                };
                *lent = place.as_ref().and_then(of);
            }
        }
        self.ready = true;
        self.lend();
    }

    /// Gives the session what has been derived for its program.
    fn lend(&mut self) {
        if let Some(lent) = self.lent.get(self.number).filter(|_| self.ready) {
            // SAFETY: it is kept unchanged beside the session.
            self.session.take_derived(unsafe { core::slice::from_raw_parts(lent.as_ptr(), lent.len()) });
        }
    }

    /// Gives the session the places of scratch memory that have been found for its program.
    fn place_scratch(&mut self) -> Result<()> {
        let Some(places) = self.derived.scratch.get(self.number) else { return Ok(()) };
        // SAFETY: they are kept unchanged beside the session.
        self.session.place_scratch(unsafe { core::slice::from_raw_parts(places.as_ptr(), places.len()) })
    }

    /// The longest of those places, of any program.
    #[cfg(feature = "std")]
    fn longest_scratch(&self) -> usize {
        self.derived.scratch.iter().flatten().map(|place| place.len()).max().unwrap_or(0)
    }

    /// See [`Session::with_threads`].
    ///
    /// # Errors
    /// As [`Session::with_threads`].
    #[cfg(feature = "std")]
    pub fn with_threads(mut self, threads: usize) -> Result<OwnedSession> {
        let scratch = self.longest_scratch();
        self.session = self.session.with_crew(threads, WORTH, scratch)?;
        Ok(self)
    }

    /// See [`Session::with_threads_from`].
    ///
    /// # Errors
    /// As [`Session::with_threads`].
    #[cfg(feature = "std")]
    pub fn with_threads_from(mut self, threads: usize, work: u64) -> Result<OwnedSession> {
        let scratch = self.longest_scratch();
        self.session = self.session.with_crew(threads, work, scratch)?;
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

    /// See [`Session::run`]. The first run transforms weights as it multiplies by them, where that is called for; the second one
    /// begins by [deriving](OwnedSession::derive) them, unless the session is to be lean, and takes longer. Answers have the same bits.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run(&mut self) -> Result<()> {
        if self.ran {
            self.derive();
        }
        self.ran = true;
        self.session.run()
    }

    /// See [`Session::run_slice`]. No slice [derives](OwnedSession::derive) weights.
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
