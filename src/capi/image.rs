//! The image: its check, and what it says about itself.

use super::status::kiln_error;
use super::status::kiln_status::{self, *};
use super::{aligned, tag};
use crate::image::{Image, Program, Tensor};
use crate::tensor::DType;
use core::ffi::{c_char, c_void};

/// UTF-8 text of a known length. It does not end in a zero byte: print it with `"%.*s"`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct kiln_text {
    /// Its first byte; never null.
    pub text: *const c_char,
    /// How many bytes it has.
    pub length: usize,
}

impl kiln_text {
    pub(super) const fn new(text: &'static str) -> kiln_text {
        kiln_text { text: text.as_ptr().cast(), length: text.len() }
    }
}

/// The type of a tensor's elements. Numbers keep their meaning for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)] // the names say it
pub enum kiln_dtype {
    KILN_F32 = 1,
    KILN_F64 = 2,
    KILN_F16 = 3,
    KILN_BF16 = 4,
    KILN_I8 = 5,
    KILN_I16 = 6,
    KILN_I32 = 7,
    KILN_I64 = 8,
    KILN_U8 = 9,
    KILN_U16 = 10,
    KILN_U32 = 11,
    KILN_U64 = 12,
    /// A byte, 0 or 1.
    KILN_BOOL = 13,
}
use kiln_dtype::*;

impl From<DType> for kiln_dtype {
    fn from(dtype: DType) -> kiln_dtype {
        match dtype {
            DType::F32 => KILN_F32,
            DType::F64 => KILN_F64,
            DType::F16 => KILN_F16,
            DType::BF16 => KILN_BF16,
            DType::I8 => KILN_I8,
            DType::I16 => KILN_I16,
            DType::I32 => KILN_I32,
            DType::I64 => KILN_I64,
            DType::U8 => KILN_U8,
            DType::U16 => KILN_U16,
            DType::U32 => KILN_U32,
            DType::U64 => KILN_U64,
            DType::Bool => KILN_BOOL,
        }
    }
}

/// A checked image: a view of its bytes. The caller's memory, 16 words; its content is the library's.
#[derive(Debug)]
#[repr(C)]
pub struct kiln_image {
    /// Not to be touched.
    pub opaque: [usize; 16],
}

/// What lies in a `kiln_image`.
#[repr(C)]
struct State {
    tag: usize,
    image: Image<'static>,
}

const _: () = assert!(size_of::<State>() <= size_of::<kiln_image>() && align_of::<State>() <= align_of::<kiln_image>());

const KIND: usize = 0x4B69_6D67; // "Kimg"

impl kiln_image {
    /// The image, if it is initialised.
    ///
    /// # Safety
    /// `image` is null, or points to memory of a `kiln_image` that was zeroed or written by [`kiln_image_init`], and lives.
    pub(super) unsafe fn open(image: *const kiln_image) -> core::result::Result<Image<'static>, kiln_status> {
        if image.is_null() {
            return Err(KILN_NULL);
        }
        if !aligned(image) {
            return Err(KILN_MISALIGNED);
        }
        // SAFETY: aligned memory of a `kiln_image` starts with a word.
        if unsafe { *image.cast::<usize>() } != tag(image as usize, KIND) {
            return Err(KILN_NOT_INITIALIZED);
        }
        // SAFETY: only `kiln_image_init` writes this tag, with a `State` behind it.
        Ok(unsafe { (*image.cast::<State>()).image })
    }
}

/// One program of an image: what it is called and what it needs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct kiln_program {
    /// Its name; part of the image.
    pub name: kiln_text,
    /// Bytes of its arena: state, tensors, scratch memory.
    pub arena_bytes: usize,
    /// What the arena's address must be a multiple of.
    pub arena_alignment: usize,
    /// Bytes of the arena that are kept from run to run; 0 for a program without state.
    pub state_bytes: usize,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Number of its inputs.
    pub inputs: u32,
    /// Number of its outputs.
    pub outputs: u32,
}

/// An input or output of a program. Name and sizes are part of the image: valid as long as its bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct kiln_tensor {
    /// Its name.
    pub name: kiln_text,
    /// Its element type.
    pub dtype: kiln_dtype,
    /// Number of axes; 0 for a single value.
    pub rank: u32,
    /// Sizes, `rank` of them, outermost first.
    pub dims: *const u32,
    /// Number of elements: the product of the sizes. The most, if there are `bounded_axes`.
    pub elements: usize,
    /// Bytes: elements times the bytes of one.
    pub bytes: usize,
    /// If it is quantised, its integers stand for real numbers: `(q - zero_point) * scale`. Otherwise 0.
    pub scale: f32,
    /// The integer that stands for zero, if it is quantised.
    pub zero_point: i32,
    /// Axes of an output whose length each run decides, up to its size in `dims`: `1 << axis` for each. After a run,
    /// `kiln_session_output_dims` says what it is.
    pub bounded_axes: u32,
}

impl From<Tensor<'static>> for kiln_tensor {
    fn from(t: Tensor<'static>) -> kiln_tensor {
        let quantisation = t.quantisation();
        kiln_tensor {
            name: kiln_text::new(t.name()),
            dtype: t.dtype().into(),
            rank: t.dims().len() as u32,
            dims: t.dims().as_ptr(),
            elements: t.elements(),
            bytes: t.elements() * t.dtype().size(),
            scale: quantisation.map_or(0.0, |q| q.scale),
            zero_point: quantisation.map_or(0, |q| q.zero_point),
            bounded_axes: (0..t.dims().len()).filter(|&axis| t.is_bounded(axis)).fold(0, |axes, axis| axes | 1 << axis),
        }
    }
}

/// Checks the bytes of an image, all of them, and makes `image` a view of them.
///
/// `bytes` must lie at a multiple of the alignment that the image was compiled with (64 unless `kiln compile --align` said
/// otherwise), must not change, and must live as long as `image` and all sessions made with it. `length` is the image's
/// exact length. `error` may be null; otherwise it receives what is wrong, and where, if the check fails.
///
/// Returns `KILN_BAD_IMAGE`, `KILN_BAD_VERSION`, `KILN_MISALIGNED`, `KILN_NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_image_init(
    image: *mut kiln_image,
    bytes: *const c_void,
    length: usize,
    error: *mut kiln_error,
) -> kiln_status {
    let checked = || -> core::result::Result<(), kiln_error> {
        if image.is_null() || bytes.is_null() {
            return Err(kiln_error::new(KILN_NULL, "image or bytes is a null pointer"));
        }
        if !aligned(image) {
            return Err(kiln_error::new(KILN_MISALIGNED, "the kiln_image does not lie at a multiple of a pointer's size"));
        }
        if length > isize::MAX as usize {
            return Err(kiln_error::new(KILN_BAD_IMAGE, "the length is larger than memory can be"));
        }
        // SAFETY: the caller's promise: `length` bytes that live as long as the image and do not change.
        let bytes: &'static [u8] = unsafe { core::slice::from_raw_parts(bytes.cast(), length) };
        let state = State { tag: tag(image as usize, KIND), image: Image::new(bytes)? };
        // SAFETY: the caller's memory of a `kiln_image`, aligned; it is large enough for a `State` (assertion above).
        unsafe { image.cast::<State>().write(state) };
        Ok(())
    };
    // SAFETY: the caller's promise about `error`.
    unsafe { report(checked(), error) }
}

/// The status of a result; an error goes to `to`, if that is not null.
///
/// # Safety
/// `to` is null or may be written.
pub(super) unsafe fn report(result: core::result::Result<(), kiln_error>, to: *mut kiln_error) -> kiln_status {
    match result {
        Ok(()) => KILN_OK,
        Err(error) => {
            if !to.is_null() && aligned(to) {
                // SAFETY: the caller's promise, and aligned.
                unsafe { to.write(error) };
            }
            error.status
        }
    }
}

/// Writes an answer, on success; gives the status.
///
/// # Safety
/// `to` is null or may be written.
unsafe fn answer<T>(found: core::result::Result<T, kiln_status>, to: *mut T) -> kiln_status {
    match found {
        Err(status) => status,
        Ok(_) if to.is_null() => KILN_NULL,
        Ok(_) if !aligned(to) => KILN_MISALIGNED,
        Ok(value) => {
            // SAFETY: the caller's promise, and aligned.
            unsafe { to.write(value) };
            KILN_OK
        }
    }
}

/// The program of this number.
///
/// # Safety
/// As [`kiln_image::open`].
pub(super) unsafe fn program_of(image: *const kiln_image, number: u32) -> core::result::Result<Program<'static>, kiln_status> {
    // SAFETY: passed on.
    let image = unsafe { kiln_image::open(image) }?;
    image.programs().nth(number as usize).ok_or(KILN_NOT_FOUND)
}

/// What a program of the image needs. Programs are numbered from 0; every image has number 0, most have no other. An image that was
/// compiled for a range of sizes (--set seq=1..64) has one for each, the largest first; an arena as large as any of them asks serves
/// all, and `kiln_session_init` goes from one to another.
///
/// Returns `KILN_NOT_FOUND` past the last, `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_image_program(image: *const kiln_image, number: u32, program: *mut kiln_program) -> kiln_status {
    let needs = |p: Program<'static>| kiln_program {
        name: kiln_text::new(p.name()),
        arena_bytes: p.arena_bytes(),
        arena_alignment: p.alignment(),
        state_bytes: p.state_bytes(),
        macs: p.macs(),
        inputs: p.inputs().len() as u32,
        outputs: p.outputs().len() as u32,
    };
    // SAFETY: the caller's promises.
    unsafe { answer(program_of(image, number).map(needs), program) }
}

/// An input of a program, by number: the model's order, from 0.
///
/// Returns `KILN_NOT_FOUND` past the last, `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_image_input(
    image: *const kiln_image,
    program: u32,
    input: u32,
    tensor: *mut kiln_tensor,
) -> kiln_status {
    // SAFETY: the caller's promises.
    unsafe {
        let found = program_of(image, program).and_then(|p| p.inputs().nth(input as usize).ok_or(KILN_NOT_FOUND));
        answer(found.map(kiln_tensor::from), tensor)
    }
}

/// An output of a program, by number: the model's order, from 0.
///
/// Returns `KILN_NOT_FOUND` past the last, `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_image_output(
    image: *const kiln_image,
    program: u32,
    output: u32,
    tensor: *mut kiln_tensor,
) -> kiln_status {
    // SAFETY: the caller's promises.
    unsafe {
        let found = program_of(image, program).and_then(|p| p.outputs().nth(output as usize).ok_or(KILN_NOT_FOUND));
        answer(found.map(kiln_tensor::from), tensor)
    }
}

/// The value of a metadata entry of the model (labels, vocabulary, normalisation ...), by its key, which ends in a zero byte.
///
/// Returns `KILN_NOT_FOUND`, `KILN_NULL`, `KILN_NOT_INITIALIZED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_image_metadata(image: *const kiln_image, key: *const c_char, value: *mut kiln_text) -> kiln_status {
    let find = || {
        // SAFETY: the caller's promise.
        let image = unsafe { kiln_image::open(image) }?;
        if key.is_null() {
            return Err(KILN_NULL);
        }
        // SAFETY: the caller's promise: a text that ends in a zero byte.
        let found = image.all_metadata().find(|(k, _)| unsafe { equal(k, key) });
        found.map(|(_, v)| kiln_text::new(v)).ok_or(KILN_NOT_FOUND)
    };
    // SAFETY: the caller's promise about `value`.
    unsafe { answer(find(), value) }
}

/// Whether the texts are the same. (`CStr` would ask for a C library's `strlen`.)
///
/// # Safety
/// `other` ends in a zero byte.
unsafe fn equal(text: &str, other: *const c_char) -> bool {
    let other: *const u8 = other.cast();
    // SAFETY: every byte before this one is equal to one of the text's that is not zero, so the other text goes on.
    let same = |i: usize, b: u8| unsafe { *other.add(i) } == b;
    text.bytes().enumerate().all(|(i, b)| b != 0 && same(i, b)) && same(text.len(), 0)
}
