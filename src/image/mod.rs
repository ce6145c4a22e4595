//! The image: one small position-free file that holds everything a device needs to run a model.
//!
//! All numbers are little-endian and all offsets count from the start of what they lie in, so the same bytes are mapped by
//! a host, linked into flash, or built in memory. [`Image::new`] checks everything once, without allocating; whoever holds
//! an `Image` holds proof of it, and nothing is checked again when it runs.
//!
//! # Bytes
//!
//! | from | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic: `89 4B 49 4C 4E 0D 0A 0A` |
//! | 8 | 4 | version: 4 (3 is read as well) |
//! | 12 | 8 | XXH64 (seed 0) of the bytes from 20 to the start of the weights |
//! | 20 | 8 | XXH64 of the weights |
//! | 28 | 4 | bytes of the image |
//! | 32 | 4 | alignment: a power of two from 8 to 4096 |
//! | 36 | 7 × 8 | sections (offset, bytes): programs, tensors, lists, ops, metadata, strings, weights |
//! | 92 | 4 | zero |
//! | 96 | | the sections, each right behind the one before; the weights at the next multiple of the alignment |
//!
//! * **programs**: a [`ProgramRecord`] each: which tensors, ops and list entries are its own, and its memory.
//! * **tensors**: a [`TensorRecord`] each: type, sizes, where it lies.
//! * **lists**: per program the numbers (`u32`) of its input tensors, then of its outputs, then a [`QuantisedRecord`] for each
//!   input and output whose integers stand for real numbers, then a [`LengthRecord`] for each axis of an output whose length a
//!   run decides.
//! * **ops**: an [`OpRecord`], operands (`u32` each, inputs then outputs, `u32::MAX` for an absent one), attributes; in the
//!   order in which they run. What attributes mean is [`program`](crate::program)'s matter.
//! * **metadata**: pairs of `u32`: where key and value stand among the strings.
//! * **strings**: bytes of the text (`u32`), UTF-8 text, padded to 4 bytes; named by their offset.
//! * **weights**: tensors aligned as the image is, in the layout that their ops want, and
//!   [`SLACK`](crate::program::SLACK) bytes behind the last. [Golden values](golden) lie among them.
//!
//! In an arena lie, from its start: state, then tensors and the ops' scratch memory wherever the planner put them, and
//! [`SLACK`](crate::program::SLACK) bytes at the end.
//!
//! Structure and weights are hashed apart, so that a host which has just built or verified a large file can skip the
//! weights ([`Image::without_weights_hash`]): no memory access depends on their values.

#[cfg(target_endian = "big")]
compile_error!("an image is little-endian and used in place: big-endian targets are not supported");

mod check;
pub mod golden;
mod hash;
pub mod layout;
#[cfg(feature = "alloc")]
pub mod write;

use crate::error::{Error, Kind, Result};
use crate::program::{self, OpKind, Rules, Tile};
use crate::tensor::{DType, Quantisation};
pub(crate) use hash::hash;
use layout::{Header, LengthRecord, OpRecord, ProgramRecord, QuantisedRecord, TensorRecord};
use zerocopy::{FromBytes, IntoBytes};

/// The rules of all kinds of ops.
const ALL: check::RulesOf<'static> = &|kind| Some(Rules::of_kind(kind));

/// A checked image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    header: &'a Header,
    programs: &'a [ProgramRecord],
    tensors: &'a [TensorRecord],
    lists: &'a [u32],
    ops: &'a [u8],
    metadata: &'a [[u32; 2]],
    strings: &'a [u8],
    weights: &'a [u8],
}

impl<'a> Image<'a> {
    /// Checks `bytes` and gives a view of them. They must start at a multiple of the image's alignment.
    ///
    /// # Errors
    /// [`Kind::BadImage`] for anything wrong or damaged, [`Kind::Version`], [`Kind::Alignment`].
    pub fn new(bytes: &'a [u8]) -> Result<Image<'a>> {
        let image = Self::with_rules(bytes, ALL)?;
        check::statements(&image)?;
        Ok(image)
    }

    /// As [`Image::new`], by these rules. Not inlined: a device has little stack, and what this needs is not needed when it runs.
    #[inline(never)]
    pub(crate) fn with_rules(bytes: &'a [u8], rules: check::RulesOf<'_>) -> Result<Image<'a>> {
        let image = Self::structure(bytes, rules)?;
        if halves(hash(image.weights)) != image.header.weights_hash {
            return Err(Error::new(Kind::BadImage, "the image's weights are damaged: their checksum is another"));
        }
        Ok(image)
    }

    /// As [`Image::new`], but does not compare the checksum of the weights: damaged weights give wrong answers, no more.
    /// For weights that have just been written, or are too large to read ahead.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn without_weights_hash(bytes: &'a [u8]) -> Result<Image<'a>> {
        let image = Self::structure(bytes, ALL)?;
        check::statements(&image)?;
        Ok(image)
    }

    fn structure(bytes: &'a [u8], rules: check::RulesOf<'_>) -> Result<Image<'a>> {
        let image = Self::sections(bytes)?;
        let hashed = &bytes[layout::HASHED_FROM..image.weights_start()];
        if halves(hash(hashed)) != image.header.structure_hash {
            return Err(Error::new(Kind::BadImage, "the image is damaged: its checksum is another"));
        }
        check::programs(&image, rules)?;
        Ok(image)
    }

    /// As [`Image::new`], without checksums: for an image whose weights are not packed yet.
    #[cfg(feature = "alloc")]
    pub(crate) fn without_hashes(bytes: &'a [u8]) -> Result<Image<'a>> {
        let image = Self::sections(bytes)?;
        check::programs(&image, ALL)?;
        check::statements(&image)?;
        Ok(image)
    }

    fn weights_start(&self) -> usize {
        self.header.sections[6].offset as usize
    }

    /// Its programs; there is at least one.
    pub fn programs(&self) -> impl ExactSizeIterator<Item = Program<'a>> + use<'a> {
        let image = *self;
        self.programs.iter().map(move |record| Program::new(&image, record))
    }

    /// The program of this name.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn program(&self, name: &str) -> Result<Program<'a>> {
        let found = self.programs().find(|p| p.name() == name);
        found.ok_or(Error::new(Kind::NotFound, "the image has no program of that name"))
    }

    /// The first program: of most images, the only one.
    pub fn main(&self) -> Program<'a> {
        Program::new(self, &self.programs[0])
    }

    /// Bytes of an arena that serves every program, one at a time.
    pub fn arena_bytes(&self) -> usize {
        self.programs().map(|p| p.arena_bytes()).max().unwrap_or(0)
    }

    /// The value of a metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&'a str> {
        self.all_metadata().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All metadata: keys and values.
    pub fn all_metadata(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        let strings = self.strings;
        self.metadata.iter().map(move |&[k, v]| (string(strings, k).unwrap_or(""), string(strings, v).unwrap_or("")))
    }

    /// Alignment of the image in memory and of arenas, in bytes.
    pub fn alignment(&self) -> usize {
        self.header.alignment as usize
    }

    /// Bytes of the image.
    pub fn bytes(&self) -> usize {
        self.header.length as usize
    }

    /// Bytes of its weights, slack included.
    pub fn weight_bytes(&self) -> usize {
        self.weights.len()
    }
}

/// One program of a checked image.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    record: &'a ProgramRecord,
    tensors: &'a [TensorRecord],
    inputs: &'a [u32],
    /// Its outputs, then its quantised tensors, then lengths that a run decides.
    rest: &'a [u32],
    ops: &'a [u8],
    strings: &'a [u8],
    weights: &'a [u8],
    alignment: u32,
}

impl<'a> Program<'a> {
    fn new(image: &Image<'a>, record: &'a ProgramRecord) -> Program<'a> {
        let part = |from: u32, n: u32| from as usize..from as usize + n as usize;
        Program {
            record,
            tensors: &image.tensors[part(record.first_tensor, record.tensors)],
            inputs: &image.lists[part(record.lists, record.inputs)],
            rest: &image.lists[part(record.lists + record.inputs, record.outputs + record.records())],
            ops: &image.ops[part(record.ops_offset, record.ops_bytes)],
            strings: image.strings,
            weights: image.weights,
            alignment: image.header.alignment,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        string(self.strings, self.record.name).unwrap_or("")
    }

    /// Its inputs, in the model's order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = Tensor<'a>> + use<'a> {
        let program = *self;
        self.inputs.iter().map(move |&t| program.tensor(t))
    }

    /// Its outputs, in the model's order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = Tensor<'a>> + use<'a> {
        let program = *self;
        self.output_numbers().iter().map(move |&t| program.tensor(t))
    }

    /// Whether it has inputs of these names and shapes.
    pub fn takes(&self, inputs: &[(&str, &[usize])]) -> bool {
        inputs.iter().all(|(name, dims)| {
            self.inputs().any(|t| t.name() == *name && t.dims().iter().map(|&d| d as usize).eq(dims.iter().copied()))
        })
    }

    /// The tensor with this number.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor(&self, number: u32) -> Tensor<'a> {
        let (quantised, lengths) = (self.quantised(), self.lengths());
        Tensor { record: &self.tensors[number as usize], strings: self.strings, number, quantised, lengths }
    }

    /// All its tensors' records; operands are numbers of these.
    pub fn tensors(&self) -> &'a [TensorRecord] {
        self.tensors
    }

    pub(crate) fn input_numbers(&self) -> &'a [u32] {
        self.inputs
    }

    pub(crate) fn output_numbers(&self) -> &'a [u32] {
        self.rest.get(..self.record.outputs as usize).unwrap_or(&[])
    }

    /// How its quantised tensors are quantised.
    pub fn quantised(&self) -> &'a [QuantisedRecord] {
        let words = self.rest.get(self.record.outputs as usize..).unwrap_or(&[]);
        let words = words.get(..3 * self.record.quantised as usize).unwrap_or(&[]);
        <[QuantisedRecord]>::ref_from_bytes(words.as_bytes()).unwrap_or(&[])
    }

    /// Axes of its outputs whose lengths a run decides.
    pub fn lengths(&self) -> &'a [LengthRecord] {
        let words = self.rest.get(self.record.outputs as usize + 3 * self.record.quantised as usize..).unwrap_or(&[]);
        <[LengthRecord]>::ref_from_bytes(words.as_bytes()).unwrap_or(&[])
    }

    /// Its ops, in the order in which they run.
    pub fn ops(&self) -> Ops<'a> {
        Ops { rest: self.ops }
    }

    /// The weights of the image.
    pub fn weights(&self) -> &'a [u8] {
        self.weights
    }

    /// Bytes of its arena: state, tensors, scratch and slack.
    pub fn arena_bytes(&self) -> usize {
        self.record.arena_bytes as usize
    }

    /// Alignment of its arena.
    pub fn alignment(&self) -> usize {
        self.alignment as usize
    }

    /// Bytes of state, at the arena's start.
    pub fn state_bytes(&self) -> usize {
        self.record.state_bytes as usize
    }

    /// The largest scratch memory of one op: it shares the arena with tensors that are not live then.
    pub fn scratch_bytes(&self) -> usize {
        self.record.scratch_bytes as usize
    }

    /// The largest sum of tensors that are live at one time, as the planner saw it.
    pub fn live_bytes(&self) -> usize {
        self.record.live_bytes as usize
    }

    /// Multiply-accumulates of one run.
    pub fn macs(&self) -> u64 {
        self.record.macs[0] as u64 | (self.record.macs[1] as u64) << 32
    }

    /// The work of the largest [work unit](crate::Session::run_slice) of any op, and the number of that op: multiply-accumulates
    /// (elements, for an op that has none), at most, where kernels compute such tiles. No slice of one unit is longer, but for the
    /// packing that a product of two activations begins with.
    pub fn largest_unit(&self, tile: Tile) -> (u64, u32) {
        let work = |op: OpView<'_>| program::unit_work(op.kind, op.attributes, tile).unwrap_or(0);
        (0..).zip(self.ops()).map(|(i, op)| (work(op), i)).max_by_key(|&(work, i)| (work, u32::MAX - i)).unwrap_or((0, 0))
    }
}

/// An input or output of a program.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    record: &'a TensorRecord,
    strings: &'a [u8],
    number: u32,
    quantised: &'a [QuantisedRecord],
    lengths: &'a [LengthRecord],
}

impl<'a> Tensor<'a> {
    /// Its name; empty for a tensor without one.
    pub fn name(&self) -> &'a str {
        string(self.strings, self.record.name).unwrap_or("")
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.record.dtype()
    }

    /// How its integers stand for real numbers, if they do.
    pub fn quantisation(&self) -> Option<Quantisation> {
        let found = self.quantised.iter().find(|record| record.tensor == self.number)?.quantisation();
        found.fits(self.dtype()).then_some(found) // a firmware's own check does not ask
    }

    /// Its sizes, outermost first; of an axis that [is bounded](Tensor::is_bounded) the most.
    pub fn dims(&self) -> &'a [u32] {
        self.record.dims()
    }

    /// Whether a run decides the length of this axis, up to its size: [`Session::output_dims`](crate::Session::output_dims) says it
    /// when the run is over.
    pub fn is_bounded(&self, axis: usize) -> bool {
        self.lengths.iter().any(|record| record.tensor == self.number && record.axis as usize == axis)
    }

    /// Number of elements; where an axis is bounded, the most.
    pub fn elements(&self) -> usize {
        self.record.elements()
    }
}

/// An op of a program, as it stands in the image.
#[derive(Clone, Copy, Debug)]
pub struct OpView<'a> {
    /// Its kind.
    pub kind: OpKind,
    /// Numbers of its input tensors, [`NONE`](crate::program::NONE) for an absent one.
    pub inputs: &'a [u32],
    /// Numbers of its output tensors, likewise.
    pub outputs: &'a [u32],
    /// Its record and tail.
    pub attributes: &'a [u8],
    /// Byte of the arena where its scratch memory starts.
    pub scratch: u32,
}

/// The ops of a program.
#[derive(Clone, Copy, Debug)]
pub struct Ops<'a> {
    rest: &'a [u8],
}

impl<'a> Ops<'a> {
    /// The ops in these bytes of an image.
    pub(crate) fn of(bytes: &'a [u8]) -> Ops<'a> {
        Ops { rest: bytes }
    }

    /// The bytes that are not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = OpView<'a>;

    #[cfg_attr(target_os = "none", inline(never))] // the check, a new session and each run have it
    #[cfg_attr(not(target_os = "none"), inline)]
    fn next(&mut self) -> Option<OpView<'a>> {
        let (record, rest) = OpRecord::ref_from_prefix(self.rest).ok()?;
        let (inputs, rest) = <[u32]>::ref_from_prefix_with_elems(rest, record.inputs as usize).ok()?;
        let (outputs, rest) = <[u32]>::ref_from_prefix_with_elems(rest, record.outputs as usize).ok()?;
        let (attributes, rest) = rest.split_at_checked(record.attributes as usize)?;
        self.rest = rest;
        Some(OpView { kind: OpKind::from_number(record.kind)?, inputs, outputs, attributes, scratch: record.scratch })
    }
}

/// The string at an offset of the strings' section.
fn string(strings: &[u8], offset: u32) -> Option<&str> {
    core::str::from_utf8(text(strings, offset)?).ok()
}

/// Its bytes, which the check has found to be UTF-8.
fn text(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let (len, text) = u32::ref_from_prefix(strings.get(offset as usize..)?).ok()?;
    text.get(..*len as usize)
}

/// Low and high half.
const fn halves(hash: u64) -> [u32; 2] {
    [hash as u32, (hash >> 32) as u32]
}
