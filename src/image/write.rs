//! Writing an image: its structure from owned parts, then its weights in place, then the checksums.

use super::layout::*;
use super::{Ops, halves, hash};
use crate::aligned::AlignedBytes;
use crate::program::{self, NONE, OpKind, SLACK};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

/// An op, with places settled.
#[derive(Clone, Debug)]
pub struct OpParts {
    /// Its kind.
    pub kind: OpKind,
    /// Numbers of its input tensors, [`NONE`] for an absent one.
    pub inputs: Vec<u32>,
    /// Numbers of its output tensors, likewise.
    pub outputs: Vec<u32>,
    /// Its record and tail: whole words.
    pub attributes: Vec<u8>,
    /// Byte of the arena where its scratch memory starts.
    pub scratch: u32,
}

/// A program, with places settled.
#[derive(Clone, Debug, Default)]
pub struct ProgramParts {
    /// Its name.
    pub name: String,
    /// Its memory and work; the fields that say where its parts lie are filled in here.
    pub record: ProgramRecord,
    /// Its tensors (their field `name` is filled in here) and their names, where they have one.
    pub tensors: Vec<(TensorRecord, Option<String>)>,
    /// Its ops, in the order in which they run.
    pub ops: Vec<OpParts>,
    /// Numbers of its input tensors.
    pub inputs: Vec<u32>,
    /// Numbers of its output tensors.
    pub outputs: Vec<u32>,
    /// Its quantised tensors, by ascending number.
    pub quantised: Vec<QuantisedRecord>,
    /// Axes of its outputs whose lengths a run decides, by ascending tensor, then axis.
    pub lengths: Vec<LengthRecord>,
}

/// What an image is made of, but for the weights' bytes.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Alignment, in bytes.
    pub alignment: u32,
    /// Programs, at least one.
    pub programs: Vec<ProgramParts>,
    /// Metadata: keys and values.
    pub metadata: Vec<(String, String)>,
    /// Bytes of the weights, without slack.
    pub weights: u64,
}

/// The texts of an image, each stored once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: BTreeMap<String, u32>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        if let Some(&at) = self.known.get(text) {
            return at;
        }
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice((text.len() as u32).as_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.known.insert(text.into(), at);
        at
    }
}

/// An image with zero weights and without checksums: [`weights_mut`], then [`seal`] complete it.
///
/// # Errors
/// A message, where a limit of the format is exceeded.
pub fn unsealed(parts: &Parts) -> Result<AlignedBytes, String> {
    let mut strings = Strings::default();
    let (mut programs, mut tensors, mut lists, mut ops) = (Vec::new(), Vec::new(), Vec::<u32>::new(), Vec::new());
    for p in &parts.programs {
        let ops_offset = ops.len();
        for op in &p.ops {
            let fits = op.inputs.len() + op.outputs.len() <= MAX_OPERANDS;
            if !fits {
                return Err(alloc::format!("an op of kind {} has more than {MAX_OPERANDS} inputs and outputs", op.kind.name()));
            }
            let record = OpRecord {
                kind: op.kind as u16,
                inputs: op.inputs.len() as u8,
                outputs: op.outputs.len() as u8,
                attributes: op.attributes.len() as u32,
                scratch: op.scratch,
            };
            ops.extend_from_slice(record.as_bytes());
            ops.extend_from_slice(op.inputs.as_bytes());
            ops.extend_from_slice(op.outputs.as_bytes());
            ops.extend_from_slice(&op.attributes);
        }
        programs.push(ProgramRecord {
            name: strings.add(&p.name),
            first_tensor: tensors.len() as u32,
            tensors: p.tensors.len() as u32,
            ops_offset: ops_offset as u32,
            ops_bytes: (ops.len() - ops_offset) as u32,
            ops: p.ops.len() as u32,
            lists: lists.len() as u32,
            inputs: p.inputs.len() as u32,
            outputs: p.outputs.len() as u32,
            quantised: count(p.quantised.len(), "quantised tensors")?,
            lengths: count(p.lengths.len(), "axes whose lengths a run decides")?,
            ..p.record
        });
        for (record, name) in &p.tensors {
            let name = name.as_ref().map_or(NONE, |n| strings.add(n));
            tensors.push(TensorRecord { name, ..*record });
        }
        lists.extend(p.inputs.iter().chain(&p.outputs));
        lists.extend(p.quantised.iter().flat_map(|q| [q.tensor, q.scale.to_bits(), q.zero_point as u32]));
        lists.extend(p.lengths.iter().flat_map(|l| [l.tensor, l.axis, l.count]));
    }
    let metadata: Vec<[u32; 2]> = parts.metadata.iter().map(|(k, v)| [strings.add(k), strings.add(v)]).collect();

    let contents: [&[u8]; SECTIONS - 1] =
        [programs.as_bytes(), tensors.as_bytes(), lists.as_bytes(), &ops, metadata.as_bytes(), &strings.bytes];
    let mut sections = [Section::default(); SECTIONS];
    let mut at = size_of::<Header>() as u64;
    let weights = parts.weights.next_multiple_of(4) + SLACK as u64;
    let lengths = contents.iter().map(|c| c.len() as u64).chain([weights]);
    for (i, (section, bytes)) in sections.iter_mut().zip(lengths).enumerate() {
        if i == SECTIONS - 1 {
            at = at.next_multiple_of(parts.alignment as u64);
        }
        *section = Section { offset: at as u32, bytes: bytes as u32 };
        at += bytes;
    }
    let Ok(length) = u32::try_from(at) else {
        return Err(alloc::format!("the image would have {at} bytes: more than its format's 4 GiB"));
    };
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        structure_hash: [0; 2],
        weights_hash: [0; 2],
        length,
        alignment: parts.alignment,
        sections,
        reserved: 0,
    };
    let mut image = AlignedBytes::to_fill(length as usize, parts.alignment as usize);
    image[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    for (section, bytes) in sections.iter().zip(contents) {
        image[section.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(image)
}

/// How many records a program has of a kind.
fn count(n: usize, what: &str) -> Result<u16, String> {
    u16::try_from(n).map_err(|_| alloc::format!("a program has {n} {what}: more than {}", u16::MAX))
}

fn weights_start(image: &[u8]) -> Option<usize> {
    let (header, _) = Header::ref_from_prefix(image).ok()?;
    let start = header.sections[SECTIONS - 1].offset as usize;
    let whole = start.is_multiple_of(4) && image.len().is_multiple_of(4);
    (whole && (HASHED_FROM..=image.len()).contains(&start)).then_some(start)
}

/// The weights of an image that is being written, slack included; none if the bytes are no image.
pub fn weights_mut(image: &mut [u8]) -> &mut [u8] {
    match weights_start(image) {
        Some(start) => &mut image[start..],
        None => &mut [],
    }
}

/// Writes into an image what follows from the rest of it: the work of its programs, then the checksums. Bytes that are no
/// image are left alone.
pub fn seal(image: &mut [u8]) {
    seal_with(image, true);
}

/// As [`seal`]; without `weights_hash` the weights' checksum stays 0, and only
/// [`Image::without_weights_hash`](super::Image::without_weights_hash) takes the image.
pub(crate) fn seal_with(image: &mut [u8], weights_hash: bool) {
    state_work(image);
    checksums(image, weights_hash);
}

/// The multiply-accumulates of each program: those of its ops, as far as these can be read.
fn state_work(image: &mut [u8]) -> Option<()> {
    let header = *Header::ref_from_prefix(image).ok()?.0;
    let section =
        |i: usize| header.sections[i].offset as usize..header.sections[i].offset as usize + header.sections[i].bytes as usize;
    let n = image.get(section(0))?.len() / size_of::<ProgramRecord>();
    for i in 0..n {
        let at = section(0).start + i * size_of::<ProgramRecord>();
        let mut record = *ProgramRecord::ref_from_prefix(&image[at..]).ok()?.0;
        let from = record.ops_offset as usize;
        let ops = image.get(section(3))?.get(from..from + record.ops_bytes as usize)?;
        let macs = Ops::of(ops).take(record.ops as usize).map(|op| program::macs(op.kind, op.attributes).unwrap_or(0));
        let macs = macs.fold(0, u64::saturating_add);
        record.macs = [macs as u32, (macs >> 32) as u32];
        image[at..at + size_of::<ProgramRecord>()].copy_from_slice(record.as_bytes());
    }
    Some(())
}

/// The checksums alone.
pub(crate) fn checksums(image: &mut [u8], weights_hash: bool) {
    let Some(start) = weights_start(image) else { return };
    let weights = if weights_hash { halves(hash(&image[start..])) } else { [0; 2] };
    image[HASHED_FROM..HASHED_FROM + 8].copy_from_slice(weights.as_bytes());
    let structure = halves(hash(&image[HASHED_FROM..start]));
    image[HASHED_FROM - 8..HASHED_FROM].copy_from_slice(structure.as_bytes());
}
