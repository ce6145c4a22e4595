//! The session: a program bound to the caller's arena.

use super::image::{kiln_dtype, kiln_image, program_of, report};
use super::ops::kiln_ops;
use super::status::kiln_error;
use super::status::kiln_status::{self, *};
use super::{aligned, tag};
use crate::error::{Error, Kind, Where};
use crate::exec::{Budget, Host, Session};
use crate::image::Tensor;
use crate::tensor::Shape;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};

/// A program ready to run. The caller's memory, 112 words; its content is the library's. Its address is part of it: it may
/// be given back at any time, but not be copied or moved.
#[derive(Debug)]
#[repr(C)]
pub struct kiln_session {
    /// Not to be touched.
    pub opaque: [usize; 112],
}

/// What lies in a `kiln_session`.
#[repr(C)]
struct State {
    tag: usize,
    session: Session<'static>,
    /// What the last call that failed met.
    error: kiln_error,
}

const _: () = assert!(size_of::<State>() <= size_of::<kiln_session>() && align_of::<State>() <= align_of::<kiln_session>());

const KIND: usize = 0x4B73_6573; // "Kses"

type Outcome<T> = core::result::Result<T, kiln_error>;

/// The state of a session, if it is initialised.
///
/// # Safety
/// `session` is null, or points to memory of a `kiln_session` that was zeroed or written by [`kiln_session_init`], lives,
/// and is used by no other call.
unsafe fn open<'a>(session: *mut kiln_session) -> Result<&'a mut State, kiln_status> {
    if session.is_null() {
        return Err(KILN_NULL);
    }
    if !aligned(session) {
        return Err(KILN_MISALIGNED);
    }
    // SAFETY: aligned memory of a `kiln_session` starts with a word.
    if unsafe { *session.cast::<usize>() } != tag(session as usize, KIND) {
        return Err(KILN_NOT_INITIALIZED);
    }
    // SAFETY: only `kiln_session_init` writes this tag, with a `State` behind it; the caller uses it alone.
    Ok(unsafe { &mut *session.cast() })
}

impl State {
    fn input(&mut self, input: u32, dtype: MaybeUninit<kiln_dtype>, elements: usize) -> Outcome<*mut c_void> {
        let program = *self.session.program();
        let missing = Error::new(Kind::NotFound, "the program has no input of that number");
        let &number = program.input_numbers().get(input as usize).ok_or(missing)?;
        expect(program.tensor(number), number, dtype, elements)?;
        Ok(self.session.input_bytes(input as usize)?.as_mut_ptr().cast())
    }

    fn output(&self, output: u32, dtype: MaybeUninit<kiln_dtype>, elements: usize) -> Outcome<*const c_void> {
        let program = *self.session.program();
        let missing = Error::new(Kind::NotFound, "the program has no output of that number");
        let &number = program.output_numbers().get(output as usize).ok_or(missing)?;
        expect(program.tensor(number), number, dtype, elements)?;
        Ok(self.session.output_bytes(output as usize)?.as_ptr().cast())
    }

    fn output_dims(&self, output: u32, rank: u32) -> Outcome<Shape> {
        let program = *self.session.program();
        let missing = Error::new(Kind::NotFound, "the program has no output of that number");
        let &number = program.output_numbers().get(output as usize).ok_or(missing)?;
        if program.tensor(number).dims().len() != rank as usize {
            let other = Error::new(Kind::Shape, "the output has another number of axes than the call says");
            return Err(other.at(Where::Tensor(number)).into());
        }
        Ok(self.session.output_dims(output as usize)?)
    }

    /// Keeps the error of a call that failed.
    fn keep<T>(&mut self, outcome: Outcome<T>) -> Result<T, kiln_status> {
        outcome.map_err(|error| {
            self.error = error;
            error.status
        })
    }
}

fn status(outcome: Result<(), kiln_status>) -> kiln_status {
    match outcome {
        Ok(()) => KILN_OK,
        Err(status) => status,
    }
}

/// Makes a session of a program of the image; its state is zero, its inputs are not written yet.
///
/// `program` is its number, 0 for most images. `ops` says which kernels it may use (`kiln_ops_all`); the list is read here
/// and not kept. `arena` is memory of `kiln_program.arena_bytes` bytes or more (`arena_bytes` says how many), at a multiple
/// of `kiln_program.arena_alignment`; the session owns it until it is given up, and the bytes of the image must live as
/// long. The `kiln_image` itself need not. `error` may be null; otherwise it receives what is wrong if the call fails.
///
/// Nothing need be freed: a session that is no longer used is simply forgotten.
///
/// Returns `KILN_NOT_FOUND`, `KILN_ARENA_TOO_SMALL`, `KILN_MISALIGNED`, `KILN_MISSING_OP`, `KILN_EXTERN_OP`, `KILN_NULL`,
/// `KILN_NOT_INITIALIZED` (the image). Session and arena are then as they were.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_init(
    session: *mut kiln_session,
    image: *const kiln_image,
    program: u32,
    ops: *const kiln_ops,
    arena: *mut c_void,
    arena_bytes: usize,
    error: *mut kiln_error,
) -> kiln_status {
    let make = || -> Outcome<()> {
        if session.is_null() || image.is_null() || ops.is_null() || arena.is_null() {
            return Err(kiln_error::new(KILN_NULL, "session, image, ops or arena is a null pointer"));
        }
        if !aligned(session) || !aligned(ops) {
            return Err(kiln_error::new(KILN_MISALIGNED, "session or ops do not lie at a multiple of a pointer's size"));
        }
        // SAFETY: the caller's promise about `image`.
        let program = unsafe { program_of(image, program) }.map_err(|status| match status {
            KILN_NOT_FOUND => kiln_error::new(status, "the image has no program of that number"),
            _ => kiln_error::new(status, "the image is not one that kiln_image_init has made"),
        })?;
        // SAFETY: the caller's promise: a list of this library's ops.
        let entries = unsafe { (*ops).entries() };
        // More than is needed is not the session's: and no slice is larger than half of memory.
        let bytes = arena_bytes.min(isize::MAX as usize);
        // SAFETY: the caller's promise: `arena_bytes` bytes that the session owns from now on. That they may not have been
        // written does no harm: nothing reads them before they are (below).
        let memory = unsafe { core::slice::from_raw_parts_mut(arena.cast::<u8>(), bytes) };
        let made = Session::of(program, entries, memory, Host::default())?;
        // Vector loads read past tensors: from here on all of the arena is initialised.
        // SAFETY: as large as the session has found it to be.
        unsafe { arena.cast::<u8>().write_bytes(0, program.arena_bytes()) };
        let state = State { tag: tag(session as usize, KIND), session: made, error: kiln_error::NONE };
        // SAFETY: the caller's memory of a `kiln_session`, aligned; it is large enough for a `State` (assertion above).
        unsafe { session.cast::<State>().write(state) };
        Ok(())
    };
    // SAFETY: the caller's promise about `error`.
    unsafe { report(make(), error) }
}

/// Whether a tensor is what the call says.
fn expect(t: Tensor<'static>, number: u32, dtype: MaybeUninit<kiln_dtype>, elements: usize) -> Outcome<()> {
    // SAFETY: C passes a number, maybe none of the enum's; as a number any value is sound. Same size: `repr(i32)`.
    let dtype: i32 = unsafe { core::mem::transmute(dtype) };
    if kiln_dtype::from(t.dtype()) as i32 != dtype {
        return Err(Error::new(Kind::DType, "the tensor has another element type than the call says")
            .at(Where::Tensor(number))
            .into());
    }
    if t.elements() != elements {
        return Err(Error::new(Kind::Shape, "the tensor has another number of elements than the call says")
            .at(Where::Tensor(number))
            .into());
    }
    Ok(())
}

/// Memory of an input, to write `elements` elements of type `dtype` into: they must be the input's.
///
/// The input counts as written from this call on. A run consumes its inputs, so ask again before every run; the pointer is
/// valid until then. A run that has been begun in slices is given up.
///
/// Returns null for an input past the last, another type or number of elements; `kiln_session_error` then says which.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_input(
    session: *mut kiln_session,
    input: u32,
    dtype: MaybeUninit<kiln_dtype>,
    elements: usize,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let Ok(state) = (unsafe { open(session) }) else { return null_mut() };
    let found = state.input(input, dtype, elements);
    state.keep(found).unwrap_or(null_mut())
}

/// An output's `elements` elements of type `dtype`: they must be the output's.
///
/// Of an output with axes whose length each run decides (`kiln_tensor.bounded_axes`) they are the most there can be, as
/// `kiln_tensor.elements` says; `kiln_session_output_dims` says how many of them are there.
///
/// Outputs are there after a run and until an input is next asked for; the pointer is valid as long.
///
/// Returns null for an output past the last, another type or number of elements, or when no run has been made since an
/// input was asked for; `kiln_session_error` then says which.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_output(
    session: *mut kiln_session,
    output: u32,
    dtype: MaybeUninit<kiln_dtype>,
    elements: usize,
) -> *const c_void {
    // SAFETY: the caller's promise.
    let Ok(state) = (unsafe { open(session) }) else { return null() };
    let found = state.output(output, dtype, elements);
    state.keep(found).unwrap_or(null())
}

/// The sizes that an output has after this run, `rank` of them, outermost first: `rank` must be the output's, and `dims` have room
/// for as many. They are those of `kiln_image_output`, but for axes whose length each run decides (`kiln_tensor.bounded_axes`):
/// of these the output has fewer elements, maybe none, and they stand one behind the other at its beginning, the last axis
/// fastest, by the sizes given here.
///
/// Returns `KILN_NOT_FOUND` for an output past the last, `KILN_WRONG_SIZE` for another rank, `KILN_INPUT_MISSING` when no run
/// has been made since an input was asked for, `KILN_NULL`, `KILN_MISALIGNED` (`dims` too), `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_output_dims(
    session: *mut kiln_session,
    output: u32,
    rank: u32,
    dims: *mut u32,
) -> kiln_status {
    if dims.is_null() && rank > 0 {
        return KILN_NULL;
    }
    if !aligned(dims) {
        return KILN_MISALIGNED;
    }
    // SAFETY: the caller's promise.
    status(unsafe { open(session) }.and_then(|state| {
        let found = state.output_dims(output, rank);
        for (i, &size) in state.keep(found)?.iter().enumerate() {
            // SAFETY: the caller's promise: room for `rank` sizes, which are as many as there are here, and aligned.
            unsafe { dims.add(i).write(size) };
        }
        Ok(())
    }))
}

/// Runs the program once.
///
/// Returns `KILN_INPUT_MISSING` when an input has not been written since the last run (nothing is changed), `KILN_BAD_VALUE`
/// when an op meets a value out of its range (the run is over: inputs have to be written again), `KILN_NULL`,
/// `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_run(session: *mut kiln_session) -> kiln_status {
    // SAFETY: the caller's promise.
    status(unsafe { open(session) }.and_then(|state| {
        let ran = state.session.run().map_err(kiln_error::from);
        state.keep(ran)
    }))
}

/// Runs the program a slice at a time: until `budget` work units are computed (0 counts as 1), or the run is complete. The next
/// call goes on where this one stopped; asking for an input starts afresh (of a stream, state may have moved on by then: reset
/// it). However a run is cut, its outputs have the same bits.
/// A unit is a piece of an op, tens of thousands of multiplications at the most in most programs.
///
/// `done` receives whether the run is complete: 1, outputs are there; 0, call again. That is no error: `KILN_OK` is returned
/// for both.
///
/// Returns what `kiln_session_run` returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_run_slice(session: *mut kiln_session, budget: u32, done: *mut i32) -> kiln_status {
    if done.is_null() {
        return KILN_NULL;
    }
    if !aligned(done) {
        return KILN_MISALIGNED;
    }
    // SAFETY: the caller's promise.
    status(unsafe { open(session) }.and_then(|state| {
        let ran = state.session.run_slice(Budget::units(budget)).map_err(kiln_error::from);
        let complete = state.keep(ran)?;
        // SAFETY: the caller's promise, and aligned.
        unsafe { done.write(complete.into()) };
        Ok(())
    }))
}

/// Runs the golden input that the image carries (`kiln compile --golden`) and compares with the golden output: floats within a
/// thousandth of the output's largest, all else exactly. Meant for power-on; state and inputs are afterwards as after a reset.
///
/// Returns `KILN_NOT_FOUND` for an image without golden values, `KILN_SELF_TEST_FAILED` (of which output,
/// `kiln_session_error` says), what `kiln_session_run` returns, `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_self_test(session: *mut kiln_session) -> kiln_status {
    // SAFETY: the caller's promise.
    status(unsafe { open(session) }.and_then(|state| {
        let tested = state.session.self_test().map_err(kiln_error::from);
        state.keep(tested)
    }))
}

/// Sets the state to zero: the start of a new stream. Inputs have to be written again.
///
/// Returns `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_reset(session: *mut kiln_session) -> kiln_status {
    // SAFETY: the caller's promise.
    status(unsafe { open(session) }.map(|state| state.session.reset()))
}

/// What the last call on this session that failed met; its status is `KILN_OK` where none has failed.
///
/// Returns `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_session_error(session: *const kiln_session, error: *mut kiln_error) -> kiln_status {
    if error.is_null() {
        return KILN_NULL;
    }
    if !aligned(error) {
        return KILN_MISALIGNED;
    }
    // SAFETY: the caller's promises; nothing is written to the session.
    status(unsafe { open(session.cast_mut()) }.map(|state| unsafe { error.write(state.error) }))
}
