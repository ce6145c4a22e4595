//! From an owned program to an image's bytes: liveness, places in the arena, weight packing.
//!
//! [`build`] takes what lowering wrote ([`draft::Model`]). [`live`] finds out which values share memory and when that memory
//! is in use; [`place`] gives each piece an offset, an op's scratch memory being one more piece that lives for that op
//! alone; [`write`](crate::image::write) makes the image, whose weights are then packed straight into it, one after the
//! other, each packer dropped after its call, so that no weight exists twice.

pub mod derive;
pub mod draft;
pub mod join;
pub mod live;
pub mod pack;
pub(crate) mod parallel;
pub mod place;
pub mod room;
#[cfg(test)]
mod tests;

use crate::aligned::AlignedBytes;
use crate::error::Where;
use crate::image::layout::{
    LengthRecord, MAX_ALIGNMENT, MIN_ALIGNMENT, Place, ProgramRecord, QuantisedRecord, STATE, TensorRecord,
};
use crate::image::write::{self, OpParts, Parts, ProgramParts};
use crate::image::{Image, OpView, Program};
use crate::program::{self, NONE, OpKind, SLACK};
use crate::tensor::{MAX_RANK, Quantisation};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use draft::{Draft, Model, OpDraft, ValueId, Weight};
use live::{Lives, Memory};
use place::Block;

/// How an image is built.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Alignment of the image and of all that lies in it, in bytes: a power of two from 8 to 4096. Large vectors like 64; a
    /// device with little memory takes 8 or 16.
    pub alignment: u32,
    /// The image states the checksum of its weights, for which all of them are read once more. One that is used where it was made
    /// can do without: it passes [`Image::without_weights_hash`].
    pub weights_hash: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { alignment: 64, weights_hash: true }
    }
}

/// An image and what is to be said of it.
#[derive(Debug)]
pub struct Built {
    /// The image: checked and sealed.
    pub image: AlignedBytes,
    /// Memory and work.
    pub report: Report,
}

/// Memory and work of a model.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Programs, in the model's order.
    pub programs: Vec<ProgramReport>,
    /// Bytes of weights, without padding.
    pub weight_bytes: u64,
}

/// Memory and work of a program.
#[derive(Clone, Debug, Default)]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// Bytes of the arena: state, tensors, scratch, padding, slack.
    pub arena_bytes: u64,
    /// The largest sum of tensors (state included) that are live at one time, without padding.
    pub live_bytes: u64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// The largest scratch memory of one op; it lies in the arena, where nothing is live.
    pub scratch_bytes: u64,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Its ops, in the order in which they run.
    pub ops: Vec<OpReport>,
}

/// One op of a program.
#[derive(Clone, Debug)]
pub struct OpReport {
    /// The ONNX nodes that it computes, joined by `+`.
    pub name: String,
    /// Its kind.
    pub kind: OpKind,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Bytes of scratch memory.
    pub scratch_bytes: u64,
    /// Bytes of the weights it reads.
    pub weight_bytes: u64,
}

/// Why an image can't be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Because of an op.
    Op {
        /// The ONNX nodes that it computes.
        name: String,
        /// Its kind.
        kind: OpKind,
        /// What is wrong.
        what: String,
    },
    /// Because of a program as a whole.
    Program(String),
}

impl PlanError {
    fn of(op: &OpDraft, what: String) -> PlanError {
        PlanError::Op { name: op.name.clone(), kind: op.kind, what }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Op { name, kind, what } => write!(f, "op \"{name}\" ({}): {what}", kind.name()),
            PlanError::Program(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for PlanError {}

/// Builds an image of a model; a host packs its weights on all its cores.
///
/// # Errors
/// Where a draft contradicts itself, an op's record does not fit its operands, a weight can't be packed, or a limit of the
/// format is exceeded.
pub fn build(model: Model, options: &Options) -> Result<Built, PlanError> {
    let alignment = options.alignment;
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(PlanError::Program(format!("an alignment of {alignment} is not a power of two from 8 to 4096")));
    }
    let Model { programs: drafts, weights, metadata } = model;
    let lives = drafts.iter().map(|d| live::lives(d, alignment as u64)).collect::<Result<Vec<_>, _>>()?;
    let (offsets, weights_end) = weight_offsets(&drafts, &lives, &weights, alignment as u64)?;
    let mut report = Report::default();
    let mut programs = Vec::new();
    for (draft, lives) in drafts.iter().zip(&lives) {
        let (parts, program) = place_program(draft, lives, &weights, &offsets, alignment as u64)?;
        programs.push(parts);
        report.programs.push(program);
    }
    let mut parts = Parts { alignment, programs, metadata, weights: weights_end };
    let mut image = write::unsealed(&parts).map_err(PlanError::Program)?;
    // Before the weights are packed: an op that does not fit its operands is found without reading a large file.
    Image::without_hashes(&image).map_err(|e| explain(&drafts, &mut parts, e))?;
    drop(parts);

    report.weight_bytes = pack(weights, &offsets, write::weights_mut(&mut image))?;
    write::seal_with(&mut image, options.weights_hash);
    Ok(Built { image, report })
}

/// Packs each weight that has a place, and says how many bytes they are. Places ascend, as [`weight_offsets`] gives them.
fn pack(weights: Vec<Weight>, offsets: &[Option<u64>], bytes: &mut [u8]) -> Result<u64, PlanError> {
    let (mut rest, mut start, mut total, mut jobs) = (bytes, 0u64, 0, Vec::new());
    for (weight, offset) in weights.into_iter().zip(offsets) {
        let Some(offset) = *offset else { continue };
        let room = (offset - start) as usize..(offset - start + weight.bytes) as usize;
        if room.end > rest.len() {
            return Err(PlanError::Program(format!("weight \"{}\" is too large", weight.name)));
        }
        let (to, behind) = rest.split_at_mut(room.end);
        (rest, start, total) = (behind, offset + weight.bytes, total + weight.bytes);
        jobs.extend(weight.jobs(&mut to[room.start..]).map_err(PlanError::Program)?);
    }
    let done = parallel::each(jobs, parallel::threads_for(total), draft::Job::run);
    done.into_iter().collect::<Result<Vec<()>, _>>().map_err(PlanError::Program)?;
    Ok(total)
}

/// Finds the op that an error of the image's check speaks of. An op's number does not say of which program: of several, each is
/// checked alone.
fn explain(drafts: &[Draft], parts: &mut Parts, error: crate::error::Error) -> PlanError {
    if let [draft] = drafts {
        return match error.place() {
            Where::Op(i) if (i as usize) < draft.ops.len() => PlanError::of(&draft.ops[i as usize], error.what().into()),
            _ => PlanError::Program(format!("{error}")),
        };
    }
    for (draft, program) in drafts.iter().zip(core::mem::take(&mut parts.programs)) {
        parts.programs = alloc::vec![program];
        let checked = write::unsealed(parts).map(|image| Image::without_hashes(&image).map(|_| ()));
        if let Ok(Err(error)) = checked {
            return explain(core::slice::from_ref(draft), parts, error);
        }
    }
    PlanError::Program(format!("{error}"))
}

/// Where each weight that an op or an output needs lies, and where they end.
fn weight_offsets(
    drafts: &[Draft],
    lives: &[Lives],
    weights: &[Weight],
    alignment: u64,
) -> Result<(Vec<Option<u64>>, u64), PlanError> {
    let mut used = alloc::vec![false; weights.len()];
    for (draft, lives) in drafts.iter().zip(lives) {
        for (value, (root, home)) in draft.values.iter().zip(lives.roots.iter().zip(&lives.homes)) {
            let Memory::Weight(id) = root.memory else { continue };
            let Some(weight) = weights.get(id.0 as usize) else {
                return Err(PlanError::Program(format!("\"{}\" is a weight that the model lacks", value.name)));
            };
            if value.bytes > weight.bytes {
                return Err(PlanError::Program(format!("\"{}\" is larger than its weight", value.name)));
            }
            used[id.0 as usize] |= lives.roots[home.root].life.is_some();
        }
    }
    let mut end = 0u64;
    let offsets = weights
        .iter()
        .zip(used)
        .map(|(weight, used)| {
            used.then(|| {
                let at = end.next_multiple_of(alignment);
                end = at + weight.bytes;
                at
            })
        })
        .collect();
    Ok((offsets, end))
}

fn narrow(n: u64, what: &str) -> Result<u32, PlanError> {
    u32::try_from(n).map_err(|_| PlanError::Program(format!("{what} takes {n} bytes: more than the image's 4 GiB")))
}

fn place_program(
    draft: &Draft,
    lives: &Lives,
    weights: &[Weight],
    weight_offsets: &[Option<u64>],
    alignment: u64,
) -> Result<(ProgramParts, ProgramReport), PlanError> {
    let round = |n: u64| n.next_multiple_of(alignment);
    // State first, then blocks: those of values, then those of scratch.
    let mut offsets = alloc::vec![0u64; draft.values.len()];
    let (mut state_bytes, mut state_live) = (0, 0);
    let (mut blocks, mut exact, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for (i, root) in lives.roots.iter().enumerate() {
        match (root.memory, root.life) {
            (Memory::State, Some(_)) => {
                offsets[i] = state_bytes;
                state_bytes += round(root.bytes);
                state_live += root.bytes;
            }
            (Memory::Arena, Some((first, last))) => {
                blocks.push(Block { first, last, bytes: round(root.bytes) });
                exact.push(Block { first, last, bytes: root.bytes });
                owners.push(i);
            }
            _ => {}
        }
    }
    let scratch = draft
        .ops
        .iter()
        .map(|op| program::scratch(op.kind, &op.attributes).map_err(|e| PlanError::of(op, e.what().into())))
        .collect::<Result<Vec<_>, _>>()?;
    let first_scratch = blocks.len();
    for (i, &bytes) in scratch.iter().enumerate() {
        blocks.push(Block { first: i as u32 + 1, last: i as u32 + 1, bytes: round(bytes) });
    }
    let placement = place::place(&blocks);
    for (&owner, offset) in owners.iter().zip(&placement.offsets) {
        offsets[owner] = state_bytes + offset;
    }
    let arena_bytes = state_bytes + placement.end + SLACK as u64;

    let (tensors, numbers) = tensors(draft, lives, weight_offsets, &offsets)?;
    let number = |v: &Option<ValueId>| v.map_or(NONE, |v| numbers[v.0 as usize]);
    let mut report = ProgramReport {
        name: draft.name.clone(),
        arena_bytes,
        live_bytes: state_live + place::lower_bound(&exact),
        state_bytes,
        scratch_bytes: scratch.iter().copied().max().unwrap_or(0),
        ..ProgramReport::default()
    };
    let mut ops = Vec::new();
    for (i, op) in draft.ops.iter().enumerate() {
        let at = if scratch[i] == 0 { 0 } else { state_bytes + placement.offsets[first_scratch + i] };
        ops.push(OpParts {
            kind: op.kind,
            inputs: op.inputs.iter().map(number).collect(),
            outputs: op.outputs.iter().map(number).collect(),
            attributes: op.attributes.clone(),
            scratch: narrow(at, "the arena")?,
        });
        let weight = |v: &ValueId| match lives.roots[lives.homes[v.0 as usize].root].memory {
            Memory::Weight(w) => weights[w.0 as usize].bytes,
            _ => 0,
        };
        let macs = program::macs(op.kind, &op.attributes).map_err(|e| PlanError::of(op, e.what().into()))?;
        report.macs = report.macs.saturating_add(macs);
        report.ops.push(OpReport {
            name: op.name.clone(),
            kind: op.kind,
            macs,
            scratch_bytes: scratch[i],
            weight_bytes: op.inputs.iter().flatten().map(weight).sum(),
        });
    }
    let record = ProgramRecord {
        arena_bytes: narrow(arena_bytes, "the arena")?,
        state_bytes: narrow(state_bytes, "the state")?,
        scratch_bytes: narrow(report.scratch_bytes, "scratch memory")?,
        live_bytes: narrow(report.live_bytes, "the arena")?,
        macs: [report.macs as u32, (report.macs >> 32) as u32],
        ..ProgramRecord::default()
    };
    let list = |ids: &[ValueId]| ids.iter().map(|v| numbers[v.0 as usize]).collect();
    let (inputs, outputs) = (list(&draft.inputs), list(&draft.outputs));
    let of = |&(v, q): &(ValueId, Quantisation)| QuantisedRecord {
        tensor: numbers[v.0 as usize],
        scale: q.scale,
        zero_point: q.zero_point,
    };
    let mut quantised: Vec<QuantisedRecord> = draft.quantised.iter().map(of).collect();
    quantised.sort_by_key(|record| record.tensor);
    let lengths = lengths(draft, &numbers)?;
    Ok((ProgramParts { name: draft.name.clone(), record, tensors, ops, inputs, outputs, quantised, lengths }, report))
}

/// Records of the lengths that a run decides, each once, in their order.
fn lengths(draft: &Draft, numbers: &[u32]) -> Result<Vec<LengthRecord>, PlanError> {
    let of = |&draft::Length { output, axis, count }: &draft::Length| {
        let Some(v) = draft.outputs.get(output) else {
            return Err(PlanError::Program(format!("a length is of output {output}, of {}", draft.outputs.len())));
        };
        Ok(LengthRecord { tensor: numbers[v.0 as usize], axis, count: numbers[count.0 as usize] })
    };
    let mut lengths = draft.lengths.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    lengths.sort();
    lengths.dedup();
    Ok(lengths)
}

/// A tensor's record and its name, if it has one.
type Named = (TensorRecord, Option<String>);

/// Records of the values that an op or the border of the program uses, and the number of each value among them.
fn tensors(
    draft: &Draft,
    lives: &Lives,
    weight_offsets: &[Option<u64>],
    offsets: &[u64],
) -> Result<(Vec<Named>, Vec<u32>), PlanError> {
    let mut used = alloc::vec![false; draft.values.len()];
    let operands = draft.ops.iter().flat_map(|op| op.inputs.iter().chain(&op.outputs).flatten());
    let counts = draft.lengths.iter().map(|length| &length.count);
    operands.chain(&draft.inputs).chain(&draft.outputs).chain(counts).for_each(|v| used[v.0 as usize] = true);
    let mut named = alloc::vec![false; draft.values.len()];
    draft.inputs.iter().chain(&draft.outputs).for_each(|v| named[v.0 as usize] = true);

    let (mut records, mut numbers) = (Vec::new(), alloc::vec![NONE; draft.values.len()]);
    for (i, value) in draft.values.iter().enumerate().filter(|&(i, _)| used[i]) {
        let home = lives.homes[i];
        let (place, flags, base) = match lives.roots[home.root].memory {
            Memory::Arena => (Place::Arena, 0, offsets[home.root]),
            Memory::State => (Place::Arena, STATE, offsets[home.root]),
            Memory::Weight(w) => (Place::Weights, 0, weight_offsets[w.0 as usize].unwrap_or(0)),
        };
        if value.dims.len() > MAX_RANK {
            return Err(PlanError::Program(format!("\"{}\" has {} axes: more than {MAX_RANK}", value.name, value.dims.len())));
        }
        let mut dims = [0; MAX_RANK];
        dims[..value.dims.len()].copy_from_slice(&value.dims);
        numbers[i] = records.len() as u32;
        let record = TensorRecord {
            dtype: value.dtype as u8,
            rank: value.dims.len() as u8,
            place: place as u8,
            flags,
            offset: narrow(base + home.offset, "the memory")?,
            bytes: narrow(value.bytes, &value.name)?,
            name: NONE,
            dims,
        };
        records.push((record, named[i].then(|| value.name.clone())));
    }
    Ok((records, numbers))
}

/// What an image alone can say of its memory and work: names of ONNX nodes are not in it, so ops are named by number.
pub fn report_of(image: &Image<'_>) -> Report {
    Report { programs: image.programs().map(report_on).collect(), weight_bytes: image.weight_bytes() as u64 }
}

/// As [`report_of`], of the program of this number alone.
#[cfg(feature = "std")]
pub(crate) fn report_of_program(image: &Image<'_>, number: usize) -> Report {
    let programs = image.programs().skip(number).take(1).map(report_on).collect();
    Report { programs, weight_bytes: image.weight_bytes() as u64 }
}

fn report_on(p: Program<'_>) -> ProgramReport {
    let op = |(i, op): (usize, OpView<'_>)| OpReport {
        name: format!("{i}"),
        kind: op.kind,
        macs: program::macs(op.kind, op.attributes).unwrap_or(0),
        scratch_bytes: program::scratch(op.kind, op.attributes).unwrap_or(0),
        weight_bytes: op
            .inputs
            .iter()
            .filter_map(|&t| p.tensors().get(t as usize))
            .filter(|t| t.place == Place::Weights as u8)
            .map(|t| t.bytes as u64)
            .sum(),
    };
    ProgramReport {
        name: p.name().into(),
        arena_bytes: p.arena_bytes() as u64,
        live_bytes: p.live_bytes() as u64,
        state_bytes: p.state_bytes() as u64,
        scratch_bytes: p.scratch_bytes() as u64,
        macs: p.macs(),
        ops: p.ops().enumerate().map(op).collect(),
    }
}
