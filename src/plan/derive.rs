//! What a host adds to an image to run it faster: Winograd forms of the weights of 3x3 and 5x5 convolutions, and more scratch memory.
//!
//! Such weights are up to four times the size of the plain panels, so they are not in the image, and devices never have them. A host
//! calls [`image()`], and gives what it returns to a session
//! ([`OwnedSession::new`](crate::exec::owned::OwnedSession::new)), whose second run writes and keeps them. The first one, and all of a
//! session that is to be lean, transforms weights as they are multiplied: a single answer takes less time than it would to write
//! them. Scratch memory lies in the arena, where [nothing else](crate::plan::room) does; without it an op takes direct sums.

use crate::error::{Error, Kind, Result};
use crate::exec::owned::{Derived, Job, Write};
use crate::image::layout::Place;
use crate::image::{Image, OpView, Program};
use crate::kernels::winograd::{self, Scheme};
use crate::kernels::{Isa, shallow};
use crate::plan::room::{Room, room};
use crate::program::{self, Conv, OpKind};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

/// The derived weights of the programs of an image on an instruction set, and the places of scratch memory that a session needs to
/// use them, and others' faster ways; nothing where there are none. Programs that share a weight share what is derived. A
/// `lean` one derives no weights.
///
/// # Errors
/// [`Kind::Isa`] when this build has no kernels for the instruction set.
pub fn image(image: &Image<'_>, isa: Isa, lean: bool) -> Result<Derived> {
    // The scalar path is the reference: it takes the direct sums.
    if isa == Isa::Scalar {
        return Ok(Derived::default());
    }
    let write: Write = crate::with_backend!(isa, B => |g, w, to| {
        if let Some(scheme) = Scheme::of(g) {
            winograd::derive::<B>(g, scheme, w, to);
        }
    }, else {
        return Err(Error::new(Kind::Isa, "this build has no kernels for the instruction set that was asked for"));
    });
    let mut derived = Derived { write: Some(write), ..Derived::default() };
    for program in image.programs() {
        let more = |op: OpView<'_>| {
            let best = host_scratch(op.kind, op.attributes, lean);
            if best > program::scratch(op.kind, op.attributes).unwrap_or(0) { best } else { 0 }
        };
        let needs: Vec<u64> = program.ops().map(more).collect();
        let Room { places, arena } = room(program, &needs);
        derived.arena = derived.arena.max(arena as usize);
        derived.scratch.push(places);
    }
    if lean {
        return Ok(derived);
    }
    // They lie in one piece of memory, which has huge pages then: they are read from end to end in every run.
    let mut places: BTreeMap<Key, Range<usize>> = BTreeMap::new();
    let mut of = |program: Program<'_>| {
        let mut place = |op: OpView<'_>| {
            let (key, record, from) = source(&program, &op)?;
            let place = places.entry(key).or_insert_with(|| {
                let to = derived.bytes..derived.bytes + 4 * key.elements;
                derived.bytes = to.end.next_multiple_of(64);
                derived.jobs.push(Job { record: *record, from, to: to.clone() });
                to
            });
            Some(place.clone())
        };
        let ops: Vec<_> = program.ops().map(&mut place).collect();
        if ops.iter().any(Option::is_some) { ops } else { Vec::new() }
    };
    derived.weights = image.programs().map(&mut of).collect();
    // The largest first, so that threads end at about the same time.
    derived.jobs.sort_by_key(|job| core::cmp::Reverse(job.to.len()));
    Ok(derived)
}

/// What decides derived weights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Where the weights lie.
    offset: u32,
    in_c: u32,
    out_c: u32,
    kernel: u32,
    /// How many come of them: tells the schemes apart.
    elements: usize,
}

/// What an op's derived weights are made of, if it has any: the record, and where its plain weights lie in the image's.
fn source<'a>(program: &Program<'a>, op: &OpView<'a>) -> Option<(Key, &'a Conv, Range<usize>)> {
    let record = conv(op.kind, op.attributes)?;
    let elements = Scheme::of(record)?.weights(record);
    let t = program.tensors().get(*op.inputs.get(1)? as usize)?;
    if t.place != Place::Weights as u8 {
        return None;
    }
    let from = t.offset as usize..t.offset as usize + t.bytes as usize;
    Some((Key { offset: t.offset, in_c: record.in_c, out_c: record.out_c, kernel: record.kernel_h, elements }, record, from))
}

/// Bytes of scratch memory with which an op runs best on a host: what its record asks for, and more for one that takes Winograd's
/// way (with derived weights unless it is `lean`), or copies its map.
pub fn host_scratch(kind: OpKind, attributes: &[u8], lean: bool) -> u64 {
    let needed = program::scratch(kind, attributes).unwrap_or(0);
    let Some(g) = conv(kind, attributes) else { return needed };
    let plain = Scheme::of(g).map_or(0, |scheme| scheme.scratch(g, false));
    let derived = Scheme::of(g).filter(|_| !lean).map_or(0, |scheme| scheme.scratch(g, true));
    let copied = if shallow::suits(g) { shallow::scratch(g) } else { 0 };
    needed.max(4 * plain.max(derived).max(copied) as u64)
}

fn conv(kind: OpKind, attributes: &[u8]) -> Option<&Conv> {
    if kind != OpKind::Conv {
        return None;
    }
    Some(program::split::<Conv>(attributes).ok()?.0)
}

#[cfg(test)]
mod tests {
    use crate::exec::owned::{Derived, OwnedImage, OwnedSession};
    use crate::kernels::Isa;
    use crate::ops;
    use crate::plan::draft::{Draft, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
    use crate::plan::{Options, build};
    use crate::program::{Conv, Epilogue, OpKind};
    use crate::tensor::DType;
    use std::sync::Arc;

    /// A session of one convolution gives the same answer in its first run as in those that follow, whose weights are derived, on one
    /// thread or more; a lean one too. Direct sums give nearly the same.
    #[test]
    fn sessions_derive_weights() {
        let g = Conv {
            batch: 1,
            in_h: 12,
            in_w: 13,
            in_c: 24,
            out_h: 12,
            out_w: 13,
            out_c: 32,
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 1,
            pad_left: 1,
            groups: 1,
            in_pitch: 24,
            out_pitch: 32,
            epilogue: Epilogue::NONE,
        };
        let value = |name: &str, dims: &[u32], storage| Value {
            name: name.into(),
            dtype: DType::F32,
            dims: dims.to_vec(),
            storage,
            bytes: 4 * dims.iter().product::<u32>() as u64,
        };
        let mut op = OpDraft::new("conv", OpKind::Conv, &g, &[]);
        (op.inputs, op.outputs) = (vec![Some(ValueId(0)), Some(ValueId(1))], vec![Some(ValueId(2))]);
        let draft = Draft {
            name: "main".into(),
            values: vec![
                value("x", &[1, 12, 13, 24], Storage::Arena),
                value("w", &[g.weights() as u32], Storage::Weight(WeightId(0))),
                value("y", &[1, 12, 13, 32], Storage::Arena),
            ],
            ops: vec![op],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(2)],
            ..Draft::default()
        };
        let weight = Weight::whole("w".into(), 4 * g.weights(), |to| {
            for (i, to) in to.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&((i * 7919 % 2003) as f32 / 2003.0 - 0.5).to_le_bytes());
            }
            Ok(())
        });
        // A second program of the same weight.
        let other = Draft { name: "other".into(), ..draft.clone() };
        let model = Model { programs: vec![draft, other], weights: vec![weight], metadata: Vec::new() };
        let built = build(model, &Options::default()).unwrap();
        let image = Arc::new(OwnedImage::new(Box::new(built.image), true, None).unwrap());
        let isa = Isa::detect();
        let derived = |lean| super::image(&image.image(), isa, lean).unwrap();
        let of = |program: usize| derived(false).weights[program][0].clone().unwrap();
        assert!(of(0) == of(1) && derived(false).jobs.len() == 1 && !derived(false).scratch[0][0].is_empty());
        assert!(derived(true).jobs.is_empty() && derived(true).bytes == 0, "a lean one derives nothing");
        let set = ops::set(isa).unwrap();
        let run = |session: &mut OwnedSession| {
            for (i, x) in session.input::<f32>("x").unwrap().iter_mut().enumerate() {
                *x = (i * 31 % 101) as f32 / 101.0 - 0.5;
            }
            session.run().unwrap();
            session.output::<f32>("y").unwrap().to_vec()
        };
        let session = |derived| OwnedSession::new(image.clone(), None, set, derived).unwrap();
        let direct = run(&mut session(Derived::default()));
        let mut lean = session(derived(true));
        let winograd = run(&mut lean);
        assert!(direct != winograd, "Winograd's way was not taken");
        for (a, b) in direct.iter().zip(&winograd) {
            assert!((a - b).abs() < 2e-5, "{a} and {b}");
        }
        assert_eq!(run(&mut lean), winograd);
        for threads in 1..4 {
            let session = session(derived(false));
            #[cfg(feature = "std")]
            let session = session.with_threads(threads).unwrap();
            let mut session = session;
            assert!(!session.has_derived());
            assert_eq!(run(&mut session), winograd, "first run, {threads} threads");
            assert!(!session.has_derived());
            assert_eq!(run(&mut session), winograd, "second run, {threads} threads");
            assert!(session.has_derived());
            session.choose("other").unwrap();
            assert_eq!(run(&mut session), winograd, "another program, {threads} threads");
        }
    }
}
