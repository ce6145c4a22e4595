//! The check of an image: what it has passed, the executor trusts.
//!
//! First the sections (each right behind the one before, so none overlap and no byte is unaccounted for), then, per
//! program, tensors, lists and ops. In particular:
//! * every tensor lies inside the weights or the arena, aligned for its type and with slack behind, and holds its elements;
//! * state lies in the arena's first bytes and nothing else does;
//! * inputs, and every op's outputs, are in the arena;
//! * where a run decides the length of an output's axis, the output has such an axis, said once, and a tensor of the program holds
//!   the length, one `i64` (what it is, no run can be trusted with: the session takes it for no more than the axis has; with the
//!   feature `terse` a record that is wrong is not refused here, and the session leaves the axis as it is);
//! * operands are tensors of the program, and pass the op's own [check](crate::program::check);
//! * an op's scratch memory lies inside the arena, and overlaps neither state nor the op's operands;
//! * the multiply-accumulates that a program states are the sum of its ops', so whoever bounds the work of what it runs by
//!   that number is not deceived; no op goes round for nothing; what is quantised are integers, by a scale and a zero point
//!   that make sense, said once (none of these of an image that is checked for a firmware's own ops).

use super::layout::*;
use super::{Image, OpView, Ops, text};
use crate::error::{Error, Kind, Result, Where};
use crate::program::{NONE, OpKind, Operand, Operands, Rules, SLACK};
use crate::tensor::{DType, MAX_RANK};
use zerocopy::{FromBytes, Immutable, KnownLayout};

const fn bad<T>(what: &'static str) -> Result<T> {
    Err(Error::new(Kind::BadImage, what))
}

fn bad_at<T>(at: usize, what: &'static str) -> Result<T> {
    Err(Error::new(Kind::BadImage, what).at(Where::Offset(at as u32)))
}

impl<'a> Image<'a> {
    /// Header and sections.
    pub(super) fn sections(bytes: &'a [u8]) -> Result<Image<'a>> {
        if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
            return bad("this is not a kiln image");
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(MIN_ALIGNMENT as usize) {
            return Err(Error::new(Kind::Alignment, "the image does not start at a multiple of 8 in memory"));
        }
        let Ok((header, _)) = Header::ref_from_prefix(bytes) else {
            return bad("the image is cut short");
        };
        if !(OLDEST..=VERSION).contains(&header.version) {
            return Err(Error::new(
                Kind::Version,
                "the image is of a version that this build does not read: compile the model again",
            ));
        }
        if header.length as usize != bytes.len() {
            return bad("the image is cut short, or something follows it");
        }
        if !header.alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&header.alignment) {
            return bad("the image's alignment is not a power of two from 8 to 4096");
        }
        if header.reserved != 0 {
            return bad("a reserved field is not zero");
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(header.alignment as usize) {
            return Err(Error::new(Kind::Alignment, "the image does not lie in memory as aligned as it asks"));
        }
        let mut at = size_of::<Header>();
        let mut parts: [&'a [u8]; SECTIONS] = [&[]; SECTIONS];
        for (i, section) in header.sections.iter().enumerate() {
            if i == SECTIONS - 1 {
                at = at.next_multiple_of(header.alignment as usize);
            }
            let part = at.checked_add(section.bytes as usize).and_then(|end| bytes.get(at..end));
            match part {
                Some(part) if section.offset as usize == at && part.len().is_multiple_of(4) => parts[i] = part,
                _ => return bad("a section of the image does not lie where it should"),
            }
            at += section.bytes as usize;
        }
        if at != bytes.len() {
            return bad("the image's sections do not fill it");
        }
        Ok(Image {
            header,
            programs: table(parts[0])?,
            tensors: table(parts[1])?,
            lists: table(parts[2])?,
            ops: parts[3],
            metadata: table(parts[4])?,
            strings: parts[5],
            weights: parts[6],
        })
    }
}

fn table<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Result<&[T]> {
    <[T]>::ref_from_bytes(bytes).or(bad("a table of the image is cut short"))
}

/// The rules of a kind of op, unless an image must not have such ops.
pub(super) type RulesOf<'r> = &'r dyn Fn(OpKind) -> Option<Rules>;

/// All that the sections hold.
pub(super) fn programs(image: &Image<'_>, rules: RulesOf<'_>) -> Result<()> {
    for &[key, value] in image.metadata {
        if !is_string(image, key) || !is_string(image, value) {
            return bad("a metadata key or value is not a string");
        }
    }
    if image.programs.is_empty() {
        return bad("the image has no program");
    }
    if image.weights.len() < SLACK {
        return bad("the image's weights lack the bytes behind them");
    }
    for record in image.programs {
        if !is_string(image, record.name) {
            return bad("a program's name is not a string");
        }
        program(image, record, rules)?;
    }
    Ok(())
}

/// Whether there is a string at this offset.
#[cfg_attr(target_os = "none", inline(never))]
fn is_string(image: &Image<'_>, offset: u32) -> bool {
    // A vocabulary may have a hundred kilobytes: a host has the room for the quick way.
    let valid = |bytes: &[u8]| if cfg!(feature = "std") { core::str::from_utf8(bytes).is_ok() } else { is_utf8(bytes) };
    offset.is_multiple_of(4) && text(image.strings, offset).is_some_and(valid)
}

/// As `core::str::from_utf8`, byte by byte: a fifth of the code, and a firmware that reads no names has no other use for that.
fn is_utf8(bytes: &[u8]) -> bool {
    // Bytes that are to follow, and between which numbers the next one must be.
    let (mut follow, mut low, mut high) = (0, 0x80, 0xbf);
    for &byte in bytes {
        if follow > 0 {
            if byte < low || byte > high {
                return false;
            }
            (follow, low, high) = (follow - 1, 0x80, 0xbf);
            continue;
        }
        follow = match byte {
            ..=0x7f => 0,
            0xc2..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf4 => 3,
            _ => return false,
        };
        match byte {
            0xe0 => low = 0xa0,  // shorter forms
            0xed => high = 0x9f, // surrogates
            0xf0 => low = 0x90,
            0xf4 => high = 0x8f, // past the last character
            _ => {}
        }
    }
    follow == 0
}

fn part<T>(all: &[T], from: u32, n: u32) -> Option<&[T]> {
    all.get(from as usize..(from as usize).checked_add(n as usize)?)
}

fn program(image: &Image<'_>, record: &ProgramRecord, rules: RulesOf<'_>) -> Result<()> {
    let Some(tensors) = part(image.tensors, record.first_tensor, record.tensors) else {
        return bad("a program's tensors are not in the table");
    };
    // What saturates is more than any image has.
    let ports = record.inputs.saturating_add(record.outputs);
    let Some(lists) = part(image.lists, record.lists, ports.saturating_add(record.records())) else {
        return bad("a program's inputs, outputs and what is said of them are not in the lists");
    };
    let Some(ops) = part(image.ops, record.ops_offset, record.ops_bytes) else {
        return bad("a program's ops are not in their section");
    };
    if record.inputs as usize > MAX_INPUTS {
        return bad("a program has too many inputs");
    }
    if (record.arena_bytes as usize) < SLACK || record.state_bytes as usize > record.arena_bytes as usize - SLACK {
        return bad("an arena has no room for its state and slack");
    }
    for (i, t) in tensors.iter().enumerate() {
        tensor(image, record, t).map_err(|e| e.at(Where::Tensor(i as u32)))?;
    }
    for (i, &number) in lists.iter().enumerate().take(ports as usize) {
        let Some(t) = tensors.get(number as usize) else {
            return bad("a program's input or output is none of its tensors");
        };
        if t.name == NONE {
            return Err(Error::new(Kind::BadImage, "an input or output has no name").at(Where::Tensor(number)));
        }
        if i < record.inputs as usize && t.place != Place::Arena as u8 {
            return Err(Error::new(Kind::BadImage, "an input lies in the weights").at(Where::Tensor(number)));
        }
    }
    if cfg!(not(feature = "terse")) {
        lengths(record, tensors, lists)?;
    }
    let mut rest = Ops::of(ops);
    for i in 0..record.ops {
        op(record, tensors, image.header.alignment, &mut rest, rules).map_err(|e| e.at(Where::Op(i)))?;
    }
    if !rest.rest().is_empty() {
        return bad_at(image.header.sections[3].offset as usize, "bytes follow a program's last op");
    }
    Ok(())
}

/// Lengths that a run decides. How much of an output there is to read hangs on them, but no memory access: a session looks again.
/// So the smallest of firmware, whose errors have no texts, goes without.
fn lengths(record: &ProgramRecord, tensors: &[TensorRecord], lists: &[u32]) -> Result<()> {
    let (ports, records) = lists.split_at(lists.len() - 3 * record.lengths as usize);
    let outputs = &ports[record.inputs as usize..][..record.outputs as usize];
    let mut next = 0;
    for &[number, axis, count] in records.as_chunks::<3>().0 {
        // A program's outputs are its tensors, by now. In order, no axis is named twice; one error keeps firmware small.
        let key = (number as u64) << 32 | axis as u64;
        let fits = key >= next && outputs.contains(&number) && axis < tensors[number as usize].rank as u32;
        let counts = |t: &TensorRecord| t.dtype == DType::I64 as u8 && t.elements() == 1;
        if !(fits && tensors.get(count as usize).is_some_and(counts)) {
            let what = "a length is of no output's axis, or out of order, or stands in no tensor of one int64";
            return Err(Error::new(Kind::BadImage, what).at(Where::Tensor(number)));
        }
        next = key + 1;
    }
    Ok(())
}

fn tensor(image: &Image<'_>, record: &ProgramRecord, t: &TensorRecord) -> Result<()> {
    let Some(dtype) = DType::from_number(t.dtype) else {
        return bad("a tensor's element type is unknown");
    };
    if t.rank as usize > MAX_RANK || t.flags & !STATE != 0 {
        return bad("a tensor has too many axes or an unknown flag");
    }
    if t.name != NONE && !is_string(image, t.name) {
        return bad("a tensor's name is not a string");
    }
    if !(t.offset as usize).is_multiple_of(dtype.size()) {
        return bad("a tensor is not aligned for its type");
    }
    let elements = t.dims[..t.rank as usize].iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    match elements.and_then(|n| n.checked_mul(dtype.size() as u64)) {
        Some(bytes) if bytes <= t.bytes as u64 => {}
        _ => return bad("a tensor has fewer bytes than elements"),
    }
    let room = match t.place {
        p if p == Place::Arena as u8 => record.arena_bytes as usize,
        p if p == Place::Weights as u8 => image.weights.len(),
        _ => return bad("a tensor lies in an unknown place"),
    };
    let end = match t.offset.checked_add(t.bytes) {
        Some(end) if room >= SLACK && end as usize <= room - SLACK => end,
        _ => return bad("a tensor lies outside of its memory"),
    };
    let (in_arena, state) = (t.place == Place::Arena as u8, t.flags & STATE != 0);
    if state && (!in_arena || end > record.state_bytes) {
        return bad("a state tensor lies outside of the state");
    }
    if in_arena && !state && t.bytes > 0 && t.offset < record.state_bytes {
        return bad("a tensor lies in the state and is none");
    }
    Ok(())
}

fn op(record: &ProgramRecord, tensors: &[TensorRecord], alignment: u32, ops: &mut Ops<'_>, rules: RulesOf<'_>) -> Result<()> {
    let Some(op) = ops.next() else {
        return bad("an op is cut short or of an unknown kind");
    };
    if !op.attributes.len().is_multiple_of(4) {
        return bad("an op's attributes are not whole words");
    }
    let Some(rules) = rules(op.kind) else {
        return Err(Error::new(Kind::MissingOp, "the op set lacks an op of the image"));
    };
    let OpView { inputs, outputs, .. } = op;
    if inputs.len() + outputs.len() > MAX_OPERANDS {
        return bad("an op has too many operands");
    }
    if inputs.iter().chain(outputs).any(|&t| t != NONE && t as usize >= tensors.len()) {
        return bad("an op's operand is none of the program's tensors");
    }
    let of = |number: u32| tensors.get(number as usize).map(|t| Operand { dtype: t.dtype(), bytes: t.bytes as u64 });
    (rules.check)(op.attributes, &Operands { inputs, outputs, of: &of })?;
    if outputs.iter().any(|&t| t != NONE && tensors[t as usize].place != Place::Arena as u8) {
        return bad("an op writes into the weights");
    }
    let scratch = (rules.scratch)(op.attributes)?;
    if scratch == 0 {
        return Ok(());
    }
    let from = op.scratch;
    let end = u32::try_from(scratch).ok().and_then(|scratch| from.checked_add(scratch));
    let Some(to) = end.filter(|&to| to as usize <= record.arena_bytes as usize - SLACK) else {
        return bad("an op's scratch memory lies outside of the arena");
    };
    if to - from > record.scratch_bytes || !op.scratch.is_multiple_of(alignment) || op.scratch < record.state_bytes {
        return bad("an op's scratch memory is not as the program says");
    }
    for &number in inputs.iter().chain(outputs).filter(|&&n| n != NONE) {
        let t = &tensors[number as usize];
        if t.place == Place::Arena as u8 && from < t.offset + t.bytes && t.offset < to {
            return bad("an op's scratch memory overlaps an operand");
        }
    }
    Ok(())
}

/// How often an op may go round for nothing: some milliseconds. Shapes without elements are a model's right.
const IDLE: u64 = 1 << 20;

/// What an image that is otherwise good states, and no access to memory depends on: the work of its programs, and what the integers
/// of quantised tensors stand for. Apart from the rest: a firmware's own check ([`Image::for_ops`]) does without, and without the
/// code that reckons it.
pub(super) fn statements(image: &Image<'_>) -> Result<()> {
    for program in image.programs() {
        let mut sum = 0u64;
        for (i, op) in program.ops().enumerate() {
            let macs = crate::program::macs(op.kind, op.attributes)?;
            let of = |&number: &u32| program.tensors().get(number as usize).map_or(0, |t| t.bytes as u64);
            let bytes: u64 = op.inputs.iter().chain(op.outputs).map(of).sum();
            if crate::program::rounds(op.kind, op.attributes)? > macs.saturating_add(bytes).saturating_add(IDLE) {
                return Err(Error::new(Kind::BadImage, "an op has an axis without elements beside too many others")
                    .at(Where::Op(i as u32)));
            }
            sum = sum.saturating_add(macs);
        }
        if program.macs() != sum {
            return bad("a program's multiply-accumulates are not the sum of its ops'");
        }
        let mut next = 0;
        for record in program.quantised() {
            let number = record.tensor;
            let fits = program.tensors().get(number as usize).is_some_and(|t| record.quantisation().fits(t.dtype()));
            if number < next || !fits {
                return Err(Error::new(Kind::BadImage, "a tensor can't be quantised so").at(Where::Tensor(number)));
            }
            next = number + 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_utf8;

    #[test]
    fn text_is_what_core_takes_for_text() {
        // Around each bound that a byte may have, in all combinations of up to four.
        const EDGES: [u8; 20] =
            [0, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff];
        let n = EDGES.len();
        for i in 0..n.pow(4) {
            let bytes = [i, i / n, i / n / n, i / n / n / n].map(|i| EDGES[i % n]);
            for bytes in [&bytes[..], &bytes[..3], &bytes[..2], &bytes[..1], &[]] {
                assert_eq!(is_utf8(bytes), std::str::from_utf8(bytes).is_ok(), "{bytes:x?}");
            }
        }
    }
}
