//! A program bound to its memory.
#![allow(unsafe_code)]

use super::context::{Context, Scratch};
#[cfg(feature = "std")]
use super::crew::Crew;
use crate::error::{Error, Kind, Result, Where};
use crate::image::layout::{MAX_INPUTS, Place, TensorRecord};
use crate::image::{Image, Ops, Program};
#[cfg(feature = "std")]
use crate::kernels::clamp;
use crate::ops::{Entry, Externs, Op, Units};
use crate::program::OpKind;
#[cfg(feature = "alloc")]
use crate::program::{self, SLACK};
use crate::tensor::{DType, Element};
use core::marker::PhantomData;
use core::ops::Range;

/// What a host may add to a session.
#[derive(Clone, Copy, Default)]
pub struct Host<'a> {
    /// Evaluates extern ops. Without it an image that has one is refused.
    pub externs: Option<&'a dyn Externs>,
    /// Weights that were derived for single ops, by their number; empty, or one entry per op.
    pub derived: &'a [Option<&'a [f32]>],
}

/// How an input or output is named: by its name or its position.
pub trait Key: Copy {
    /// The position among these tensors.
    fn find(self, program: &Program<'_>, numbers: &[u32]) -> Option<usize>;
}

impl Key for usize {
    fn find(self, _: &Program<'_>, numbers: &[u32]) -> Option<usize> {
        (self < numbers.len()).then_some(self)
    }
}

impl Key for &str {
    fn find(self, program: &Program<'_>, numbers: &[u32]) -> Option<usize> {
        numbers.iter().position(|&t| program.tensor(t).name() == self)
    }
}

/// How many work units a call may compute: see [`Session::run_slice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    units: usize,
    ops: usize,
}

impl Budget {
    /// So many units; 0 counts as 1.
    pub const fn units(n: u32) -> Budget {
        Budget { units: if n == 0 { 1 } else { n as usize }, ops: usize::MAX }
    }

    /// All that are left.
    pub const fn all() -> Budget {
        Budget { units: usize::MAX, ops: usize::MAX }
    }

    /// All that are left of the next op.
    pub const fn op() -> Budget {
        Budget { units: usize::MAX, ops: 1 }
    }
}

/// The most threads that a session may have.
#[cfg(feature = "std")]
pub const MOST_THREADS: usize = 256;

/// Work that is shared by threads, at least: about ten microseconds of a core, several times what it takes to deal it out.
#[cfg(feature = "std")]
pub(super) const WORTH: u64 = 200_000;

/// What is needed to evaluate an op, but scratch memory.
struct Site<'s> {
    program: &'s Program<'s>,
    arena: *mut u8,
    host: &'s Host<'s>,
    entry: &'s Entry,
    op: Op<'s>,
}

// SAFETY: `evaluate` says what threads have to see to; everything else in it is Sync, or an address.
unsafe impl Sync for Site<'_> {}

impl Site<'_> {
    /// Evaluates these units of the op, as far as it has them.
    ///
    /// # Safety
    /// The program has been checked, and the arena is as large and as aligned as it asks. Scratch memory is as much as the op
    /// needs, aligned to 8 bytes or more, overlaps none of its operands and is used by nobody else meanwhile. What other threads
    /// evaluate at the same time are other units of this op, which has told that they are independent: they read what none of
    /// them writes, or what each alone writes.
    #[inline]
    unsafe fn evaluate(&self, scratch: Scratch, units: Range<usize>, resumes: bool) -> Result<Units> {
        let (tensors, weights) = (self.program.tensors(), self.program.weights().as_ptr());
        // SAFETY: as promised.
        let context =
            unsafe { Context::new(tensors, weights, self.arena, scratch, self.host.derived, self.host.externs, units, resumes) };
        (self.entry.eval)(&context, &self.op)
    }

    /// Evaluates these units of the op on all threads of a crew.
    ///
    /// # Safety
    /// As [`evaluate`](Site::evaluate); a crew's scratch memory is its own.
    #[cfg(feature = "std")]
    unsafe fn share(&self, crew: &mut Crew, scratch: Scratch, units: Range<usize>, resumes: bool) -> Result<Units> {
        // An empty range evaluates nothing.
        // SAFETY: as promised.
        let said = unsafe { self.evaluate(scratch, 0..0, false)? };
        let range = clamp(units.clone(), said.count);
        if said.in_turn || range.len() < 2 {
            // SAFETY: as promised.
            return unsafe { self.evaluate(scratch, units, resumes) };
        }
        crew.run(range, scratch, &|units, scratch| {
            // SAFETY: as promised: the crew deals out ranges that do not overlap, and gives each thread memory of its own.
            unsafe { self.evaluate(scratch, units, false).map(|_| ()) }
        })?;
        Ok(said)
    }
}

/// An op set, by the kind's number minus 1.
type Entries<'a> = [Option<&'a Entry>; OpKind::ALL.len()];

/// Who says where in the arena ops' scratch memory lies. It has a tag of 32 bits, in which whether a session could be made finds room
/// as well: else a device would have to copy a session before it is used (176 bytes of code).
#[repr(u32)]
enum Places<'a> {
    OfImage,
    /// An entry per op, empty where it is the image's place.
    #[cfg_attr(not(feature = "alloc"), expect(dead_code))]
    OfHost(&'a [Range<u32>]),
}

/// A program of an image, an arena, an op set: ready to run.
///
/// Write every input, [`run`](Session::run), read outputs. A run consumes its inputs (their memory is used again), so each
/// is written before every run; outputs stay until an input is next written.
pub struct Session<'a> {
    program: Program<'a>,
    arena: *mut u8,
    arena_bytes: usize,
    entries: Entries<'a>,
    host: Host<'a>,
    places: Places<'a>,
    #[cfg(feature = "std")]
    crew: Option<Box<Crew>>,
    /// Which inputs have been written since the last run, a bit each.
    written: [u32; MAX_INPUTS / 32],
    /// Whether outputs are there.
    done: bool,
    /// Ops of this run that have been evaluated, units of the next one likewise, and the ops that are left.
    next: u32,
    unit: usize,
    rest: Ops<'a>,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the pointers stand for `&mut [u8]`s that the session has exclusively; all else in it is Send.
unsafe impl Send for Session<'_> {}

impl<'a> Session<'a> {
    /// A session of the image's first program; its state is zero.
    ///
    /// `set` must hold all kinds of ops that the program has ([`Program::ops`]): a host takes [`ops::set`](crate::ops::set). Its
    /// entries must live as long as the session, as those of a static table do.
    /// `arena` must have [`Program::arena_bytes`] bytes or more, from a multiple of [`Program::alignment`] on.
    ///
    /// # Errors
    /// [`Kind::ArenaTooSmall`], [`Kind::Alignment`], [`Kind::MissingOp`]; [`Kind::Extern`] for an image that needs a host.
    pub fn new(image: &Image<'a>, set: &'a [Entry], arena: &'a mut [u8]) -> Result<Session<'a>> {
        Self::of(image.main(), set.iter(), arena, Host::default())
    }

    /// A session of any program, with what a host adds. `set` may come from anywhere, entry by entry.
    ///
    /// # Errors
    /// As [`Session::new`].
    #[inline(never)] // a device has little stack: what this needs of it is not needed when it runs
    pub fn of(
        program: Program<'a>,
        set: impl IntoIterator<Item = &'a Entry>,
        arena: &'a mut [u8],
        host: Host<'a>,
    ) -> Result<Session<'a>> {
        let mut entries = [None; OpKind::ALL.len()];
        for entry in set {
            entries[entry.kind as usize - 1] = Some(entry);
        }
        fits(&program, &entries, arena.as_ptr(), arena.len(), host.externs.is_some())?;
        let state = program.state_bytes();
        arena[..state].fill(0);
        Ok(Session {
            program,
            arena: arena.as_mut_ptr(),
            arena_bytes: arena.len(),
            entries,
            host,
            places: Places::OfImage,
            #[cfg(feature = "std")]
            crew: None,
            written: [0; MAX_INPUTS / 32],
            done: false,
            next: 0,
            unit: 0,
            rest: program.ops(),
            memory: PhantomData,
        })
    }

    /// Lets so many threads, the caller's included, share the units of large ops. The others are started here and sleep while
    /// the session is idle; they end with it. Answers have the same bits whatever the number.
    ///
    /// # Errors
    /// [`Kind::Value`] for none, for more than [`MOST_THREADS`], or when the system gives no more threads.
    #[cfg(feature = "std")]
    pub fn with_threads(self, threads: usize) -> Result<Session<'a>> {
        self.with_threads_from(threads, WORTH)
    }

    /// As [`Session::with_threads`], for ops of at least this much work: multiply-accumulates, or three times the bytes that are
    /// written. Smaller ones run on the caller's thread alone.
    ///
    /// # Errors
    /// As [`Session::with_threads`].
    #[cfg(feature = "std")]
    pub fn with_threads_from(self, threads: usize, work: u64) -> Result<Session<'a>> {
        self.with_crew(threads, work, 0)
    }

    /// As [`Session::with_threads_from`], each thread with so much scratch memory at least.
    #[cfg(feature = "std")]
    pub(super) fn with_crew(mut self, threads: usize, work: u64, scratch: usize) -> Result<Session<'a>> {
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(Error::new(Kind::Value, "the number of threads must be from 1 to 256"));
        }
        let scratch = scratch.max(self.program.scratch_bytes());
        self.crew = match threads {
            1 => None,
            _ => match Crew::new(self.program, threads, scratch, work) {
                Ok(crew) => Some(Box::new(crew)),
                Err(_) => return Err(Error::new(Kind::Value, "the system gives no more threads: ask for fewer")),
            },
        };
        Ok(self)
    }

    /// Goes over to another program, in the same arena, without what a host had derived for the old one: an image may hold the
    /// same network at several sizes. All inputs are to be written then, and state is zero.
    ///
    /// # Errors
    /// [`Kind::ArenaTooSmall`], [`Kind::Alignment`], [`Kind::MissingOp`], [`Kind::Extern`]; the session stays with its program.
    pub fn choose(&mut self, program: Program<'a>) -> Result<()> {
        fits(&program, &self.entries, self.arena, self.arena_bytes, self.host.externs.is_some())?;
        #[cfg(feature = "std")]
        if let Some(crew) = &mut self.crew {
            crew.follow(program);
        }
        self.program = program;
        (self.host.derived, self.places) = (&[], Places::OfImage);
        self.reset();
        Ok(())
    }

    /// Takes weights that were derived for this program's ops: of one entry per op.
    #[cfg(feature = "alloc")]
    pub(super) fn take_derived(&mut self, derived: &'a [Option<&'a [f32]>]) {
        self.host.derived = derived;
    }

    /// Lets ops of this program have scratch memory at other places in the arena than the image says, for kernels that use more when
    /// there is more: an entry per op, empty for one that is to have its own.
    ///
    /// # Errors
    /// [`Kind::Value`] for a place that is no place for the op: outside of the arena, on its operands, not aligned to 64 bytes, or
    /// too small.
    #[cfg(feature = "alloc")]
    pub(crate) fn place_scratch(&mut self, places: &'a [Range<u32>]) -> Result<()> {
        let aligned = (self.arena as usize).is_multiple_of(SLACK);
        for (i, (op, place)) in self.program.ops().zip(places).enumerate().filter(|(_, (_, place))| !place.is_empty()) {
            let mut operands = op.inputs.iter().chain(op.outputs).filter_map(|&t| self.program.tensors().get(t as usize));
            let apart =
                |t: &TensorRecord| t.place != Place::Arena as u8 || place.end <= t.offset || t.offset + t.bytes <= place.start;
            let lies = place.end as usize <= self.arena_bytes && place.start.is_multiple_of(SLACK as u32) && aligned;
            let needed = program::scratch(op.kind, op.attributes)?;
            if !lies || needed > place.len() as u64 || !operands.all(apart) {
                let error = Error::new(Kind::Value, "this is no place for scratch memory of the op");
                return Err(error.at(Where::Op(i as u32)));
            }
        }
        self.places = Places::OfHost(places);
        Ok(())
    }

    /// Calls `work` for each of so many parts, on all threads of the session.
    #[cfg(feature = "alloc")]
    pub(super) fn each(&mut self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        #[cfg(feature = "std")]
        if let Some(crew) = self.crew.as_deref_mut() {
            return crew.each(parts, work);
        }
        (0..parts).for_each(work);
    }

    /// Its program.
    pub fn program(&self) -> &Program<'a> {
        &self.program
    }

    /// The input of this name or position, to write into; counts as written from then on.
    ///
    /// Booleans are `u8`, 0 or 1.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::DType`].
    pub fn input<T: Element>(&mut self, key: impl Key) -> Result<&mut [T]> {
        let (i, t) = self.find_input(key)?;
        same_type::<T>(t)?;
        let pointer = self.write(i, t);
        // SAFETY: a checked tensor of the arena: inside, aligned for its type and initialised; any bits are a `T`.
        Ok(unsafe { core::slice::from_raw_parts_mut(pointer.cast(), t.elements()) })
    }

    /// As [`Session::input`], as bytes, whatever the element type is.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn input_bytes(&mut self, key: impl Key) -> Result<&mut [u8]> {
        let (i, t) = self.find_input(key)?;
        let pointer = self.write(i, t);
        // SAFETY: as in `input`.
        Ok(unsafe { core::slice::from_raw_parts_mut(pointer, t.elements() * t.dtype().size()) })
    }

    fn find_input(&self, key: impl Key) -> Result<(usize, &'a TensorRecord)> {
        let numbers = self.program.input_numbers();
        let found = key.find(&self.program, numbers);
        let i = found.ok_or(Error::new(Kind::NotFound, "the program has no such input"))?;
        Ok((i, &self.program.tensors()[numbers[i] as usize]))
    }

    fn write(&mut self, i: usize, t: &TensorRecord) -> *mut u8 {
        if self.is_under_way() {
            // The run that is given up has consumed the other inputs, or part of them.
            self.end();
        }
        self.written[i / 32] |= 1 << (i % 32);
        self.done = false;
        // SAFETY: a checked tensor lies inside the arena.
        unsafe { self.arena.add(t.offset as usize) }
    }

    /// The output of this name or position. Of one whose length a run decides, the elements that are there, in row-major order by
    /// [their sizes](Session::output_dims).
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::DType`]; [`Kind::InputMissing`] when no run has been made since an input was written.
    pub fn output<T: Element>(&self, key: impl Key) -> Result<&[T]> {
        let (number, t) = self.find_output(key)?;
        same_type::<T>(t)?;
        let elements = self.elements(number, t);
        // SAFETY: a checked tensor: inside its memory, aligned for its type and initialised; any bits are a `T`. No axis is longer
        // than its size, so these are no more elements than it has.
        Ok(unsafe { core::slice::from_raw_parts(self.address(t).cast(), elements) })
    }

    /// As [`Session::output`], as bytes.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::InputMissing`].
    pub fn output_bytes(&self, key: impl Key) -> Result<&[u8]> {
        let (number, t) = self.find_output(key)?;
        let bytes = self.elements(number, t) * t.dtype().size();
        // SAFETY: as in `output`.
        Ok(unsafe { core::slice::from_raw_parts(self.address(t), bytes) })
    }

    /// An output's tensor and its number, when a run is over.
    pub(super) fn find_output(&self, key: impl Key) -> Result<(u32, &'a TensorRecord)> {
        let numbers = self.program.output_numbers();
        let found = key.find(&self.program, numbers);
        let i = found.ok_or(Error::new(Kind::NotFound, "the program has no such output"))?;
        if !self.done {
            return Err(Error::new(Kind::InputMissing, "outputs are there after a run and before an input is written again"));
        }
        Ok((numbers[i], &self.program.tensors()[numbers[i] as usize]))
    }

    /// What a tensor of `i64` holds first, if it is one.
    pub(super) fn count(&self, t: &TensorRecord) -> Option<i64> {
        let holds = t.dtype == DType::I64 as u8 && t.elements() > 0;
        // SAFETY: a checked tensor, of eight bytes at least, inside its memory and initialised.
        holds.then(|| unsafe { self.address(t).cast::<i64>().read_unaligned() })
    }

    fn address(&self, t: &TensorRecord) -> *const u8 {
        let weights = t.place == Place::Weights as u8;
        let base = if weights { self.program.weights().as_ptr() } else { self.arena.cast_const() };
        // SAFETY: a checked tensor lies inside the weights or the arena.
        unsafe { base.add(t.offset as usize) }
    }

    /// Runs the program, or the rest of it if [`run_slice`](Session::run_slice) has begun.
    ///
    /// # Errors
    /// [`Kind::InputMissing`] when an input has not been written since the last run; what an op meets ([`Kind::Value`],
    /// [`Kind::Extern`]), with its number. The run is then over; inputs have to be written again.
    pub fn run(&mut self) -> Result<()> {
        self.run_slice(Budget::all()).map(|_| ())
    }

    /// Runs until so many work units are computed, and says whether the run is complete. The next call goes on where this one
    /// stopped; writing an input starts afresh (of a stream, state may have moved on by then: [`reset`](Session::reset) it).
    /// However a run is cut, its outputs have the same bits.
    ///
    /// A unit is a piece of an op that can be computed by itself: a few rows of a matrix product or pixels of a convolution
    /// times its columns (or a block of them, where there are many), a row of pooled or depthwise pixels, about a thousand
    /// elements of an element-wise op, a block of rows of one head of an attention, a step of a recurrent cell. It is made so
    /// that it is not much less work than starting it; [`Program::largest_unit`] says how much it is at the most. Packing, where
    /// an op multiplies two activations, comes with the first unit that needs it.
    ///
    /// ```
    /// # fn f(session: &mut kiln::Session<'_>, feed_watchdog: fn()) -> kiln::error::Result<()> {
    /// use kiln::exec::Budget;
    /// while !session.run_slice(Budget::units(100))? {
    ///     feed_watchdog();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::run`].
    #[cfg_attr(target_os = "none", inline(never))] // what it needs of the stack is its own, not its caller's
    pub fn run_slice(&mut self, budget: Budget) -> Result<bool> {
        if !self.is_under_way() {
            self.begin()?;
        }
        let Budget { units: mut left, mut ops } = budget;
        loop {
            let mut rest = self.rest;
            let next = rest.next();
            let Some(view) = &next else { break };
            if left == 0 || ops == 0 {
                return Ok(false);
            }
            let (index, scratch) = (self.next, view.scratch);
            let op = Op { index, view };
            let end = self.unit.saturating_add(left);
            match self.evaluate(op, scratch, self.unit..end) {
                Ok(units) if units.count > end => {
                    self.unit = end;
                    return Ok(false);
                }
                Ok(units) => {
                    left -= units.count - self.unit;
                    ops -= 1;
                    (self.next, self.unit, self.rest) = (index + 1, 0, rest);
                }
                Err(error) => {
                    self.end();
                    return Err(error.at(Where::Op(index)));
                }
            }
        }
        self.done = true;
        self.end();
        Ok(true)
    }

    fn is_under_way(&self) -> bool {
        self.next > 0 || self.unit > 0
    }

    fn begin(&mut self) -> Result<()> {
        for (i, &number) in self.program.input_numbers().iter().enumerate() {
            if self.written[i / 32] & 1 << (i % 32) == 0 {
                let error = Error::new(Kind::InputMissing, "an input has not been written since the last run");
                return Err(error.at(Where::Tensor(number)));
            }
        }
        self.done = false;
        self.rest = self.program.ops();
        Ok(())
    }

    fn end(&mut self) {
        self.written = [0; MAX_INPUTS / 32];
        (self.next, self.unit) = (0, 0);
        self.rest = self.program.ops();
    }

    /// Evaluates these units of an op, as far as it has them.
    #[inline]
    fn evaluate(&mut self, op: Op<'_>, scratch_at: u32, units: Range<usize>) -> Result<Units> {
        let Some(entry) = self.entries[op.kind as usize - 1] else { return missing_at(op.index as usize) };
        let needed = (entry.rules.scratch)(op.attributes)? as usize;
        let own = (scratch_at as usize, needed.min(self.program.arena_bytes()));
        let resumes = units.start > 0;
        let (start, len) = match self.places {
            #[cfg(feature = "alloc")]
            Places::OfHost(places) => match places.get(op.index as usize) {
                Some(place) if !place.is_empty() => (place.start as usize, place.len()),
                _ => own,
            },
            _ => own,
        };
        // SAFETY: a checked op's scratch memory lies inside the arena, and so does a place that `place_scratch` was given.
        let scratch = Scratch { start: unsafe { self.arena.add(start) }, len };
        let site = Site { program: &self.program, arena: self.arena, host: &self.host, entry, op };
        #[cfg(feature = "std")]
        if let Some(crew) = self.crew.as_deref_mut().filter(|crew| crew.shares(op.index)) {
            // SAFETY: as below.
            return unsafe { site.share(crew, scratch, units, resumes) };
        }
        // SAFETY: the program has been checked, and the arena is as large and as aligned as it asks (`of`). Scratch is a
        // part of the arena that the image's check, or `place_scratch`, has found to overlap none of the op's operands.
        unsafe { site.evaluate(scratch, units, resumes) }
    }

    /// Forgets a run that has begun and sets the state to zero: the start of a new stream.
    pub fn reset(&mut self) {
        self.end();
        self.done = false;
        // SAFETY: the state lies at the arena's start, by the check.
        unsafe { self.arena.write_bytes(0, self.program.state_bytes()) }
    }
}

/// Whether a program can run with these.
fn fits(program: &Program<'_>, entries: &Entries<'_>, arena: *const u8, bytes: usize, externs: bool) -> Result<()> {
    if bytes < program.arena_bytes() {
        return Err(Error::new(Kind::ArenaTooSmall, "the arena is smaller than the program's arena bytes"));
    }
    if !(arena as usize).is_multiple_of(program.alignment()) {
        return Err(Error::new(Kind::Alignment, "the arena does not lie in memory as aligned as the image asks"));
    }
    for (i, op) in program.ops().enumerate() {
        if entries[op.kind as usize - 1].is_none() {
            return missing_at(i);
        }
        if op.kind == OpKind::Extern && !externs {
            let error = Error::new(Kind::Extern, "the program has an op that only a host with its ONNX file can evaluate");
            return Err(error.at(Where::Op(i as u32)));
        }
    }
    Ok(())
}

#[cold]
fn missing_at<T>(op: usize) -> Result<T> {
    Err(Error::new(Kind::MissingOp, "the op set lacks an op of the program").at(Where::Op(op as u32)))
}

fn same_type<T: Element>(t: &TensorRecord) -> Result<()> {
    let (want, is) = (T::DTYPE, t.dtype());
    if want == is || (want == DType::U8 && is == DType::Bool) {
        return Ok(());
    }
    Err(Error::new(Kind::DType, "the tensor has another element type than the call says"))
}
