//! Weights that a host derives from an image's when it opens it: Winograd forms of 3x3 and 5x5 convolutions.
//!
//! They are up to four times the size of the plain panels and take milliseconds to compute, so they are not in the image,
//! and devices never have them. A host calls [`image()`] once, and gives what it returns to each session
//! ([`OwnedSession::new`](crate::exec::owned::OwnedSession::new)). Without derived weights, or without the scratch memory, an
//! op runs on the plain panels.

use super::parallel;
use crate::aligned::AlignedBytes;
use crate::exec::owned::Derived;
use crate::image::layout::Place;
use crate::image::{Image, OpView, Program};
use crate::kernels::shallow;
use crate::kernels::winograd::Scheme;
use crate::program::{self, Conv, OpKind, PANEL, packed_len};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::FromBytes;

/// The derived weights of the programs of an image, and the bytes of scratch memory that a session needs to use them, and
/// others' faster ways; nothing and 0 where there are none. Programs that share a weight share what is derived. A `lean` one
/// derives no weights.
pub fn image(image: &Image<'_>, lean: bool) -> Derived {
    let scratch = image.programs().map(|program| {
        let best = program.ops().map(|op| host_scratch(op.kind, op.attributes, lean)).max().unwrap_or(0);
        if best > program.scratch_bytes() as u64 { best as usize } else { 0 }
    });
    let scratch = scratch.max().unwrap_or(0);
    if lean {
        return Derived { scratch, ..Derived::default() };
    }
    // Which weights are derived, each once, and where they serve.
    let mut wanted: BTreeMap<Key, (OpView<'_>, &[f32])> = BTreeMap::new();
    for program in image.programs() {
        for op in program.ops() {
            if let Some((key, packed)) = source(&program, &op) {
                wanted.entry(key).or_insert((op, packed));
            }
        }
    }
    if wanted.is_empty() {
        return Derived { scratch, ..Derived::default() };
    }
    // They lie in one piece of memory, which has huge pages then: they are read from end to end in every run.
    let mut places = BTreeMap::new();
    let mut bytes = 0;
    for &key in wanted.keys() {
        places.insert(key, bytes..bytes + 4 * key.elements);
        bytes += (4 * key.elements).next_multiple_of(64);
    }
    let mut memory = AlignedBytes::to_fill(bytes, 64);
    let mut left = &mut memory[..];
    let mut jobs = Vec::new();
    for (key, (op, packed)) in wanted {
        let (to, after) = left.split_at_mut((4 * key.elements).next_multiple_of(64));
        left = after;
        if let Ok(to) = <[f32]>::mut_from_bytes(&mut to[..4 * key.elements]) {
            jobs.push((key, op, packed, to));
        }
    }
    // Threads are for what is derived: an image without any opens in less time than one takes to start.
    let made = parallel::each(jobs, parallel::threads_for(bytes as u64), |(key, op, packed, to)| {
        weights_to(op.kind, op.attributes, packed, to).map(|()| key)
    });
    let made: BTreeSet<Key> = made.into_iter().flatten().collect();
    let of = |program: Program<'_>| {
        let known = |op: OpView<'_>| source(&program, &op).map(|s| s.0).filter(|key| made.contains(key));
        let ops: Vec<_> = program.ops().map(|op| known(op).and_then(|key| places.get(&key).cloned())).collect();
        if ops.iter().any(Option::is_some) { ops } else { Vec::new() }
    };
    Derived { weights: image.programs().map(of).collect(), memory: Some(Arc::new(memory)), scratch }
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

/// What an op's derived weights are made of, if it has any.
fn source<'a>(program: &Program<'a>, op: &OpView<'a>) -> Option<(Key, &'a [f32])> {
    let record = conv(op.kind, op.attributes)?;
    let elements = Scheme::of(record)?.weights(record);
    let t = program.tensors().get(*op.inputs.get(1)? as usize)?;
    let bytes = program.weights().get(t.offset as usize..)?.get(..t.bytes as usize)?;
    let packed = (t.place == Place::Weights as u8).then(|| <[f32]>::ref_from_bytes(bytes).ok()).flatten()?;
    Some((Key { offset: t.offset, in_c: record.in_c, out_c: record.out_c, kernel: record.kernel_h, elements }, packed))
}

/// The derived weights of an op, if it has any: of its kind, attributes and weights as the image stores them.
///
/// The record must have passed its check against these weights.
#[cfg(test)]
pub fn weights(kind: OpKind, attributes: &[u8], packed: &[f32]) -> Option<Vec<f32>> {
    let record = conv(kind, attributes)?;
    let mut out = alloc::vec![0.0; Scheme::of(record)?.weights(record)];
    weights_to(kind, attributes, packed, &mut out)?;
    Some(out)
}

/// Channels that are transformed at a time.
const CHANNELS: usize = 8;

/// Writes the derived weights of an op, if it has any, to zeros: of its kind, attributes and weights as the image stores them.
///
/// The record must have passed its check against these weights.
fn weights_to(kind: OpKind, attributes: &[u8], packed: &[f32], out: &mut [f32]) -> Option<()> {
    let record = conv(kind, attributes)?;
    let scheme = Scheme::of(record)?;
    let (depth, channels, panel) = (record.depth() as usize, record.in_c as usize, PANEL as usize);
    let matrix = packed_len(channels as u64, record.out_c as u64) as usize;
    // The points' matrices lie far from each other: some channels are transformed before each gets its part.
    let mut points = [[[0.0; PANEL as usize]; CHANNELS]; 36];
    for (p, from) in packed.get(..record.weights() as usize)?.chunks_exact(panel * depth).enumerate() {
        for first in (0..channels).step_by(CHANNELS) {
            let some = CHANNELS.min(channels - first);
            for channel in 0..some {
                let mut taps = [[0.0; PANEL as usize]; 25];
                for (tap, to) in taps.iter_mut().enumerate().take(scheme.taps() * scheme.taps()) {
                    to.copy_from_slice(&from[(tap * channels + first + channel) * panel..][..panel]);
                }
                scheme.transform_weights(&taps, |point, values| points[point][channel] = values);
            }
            for (point, values) in points.iter().take(scheme.points()).enumerate() {
                let to = &mut out[point * matrix + (p * channels + first) * panel..][..some * panel];
                to.copy_from_slice(values[..some].as_flattened());
            }
        }
    }
    Some(())
}

/// Bytes of scratch memory with which an op runs best on a host: what its record asks for, and more for an op that has
/// derived weights (unless it is `lean`), or copies its map.
pub fn host_scratch(kind: OpKind, attributes: &[u8], lean: bool) -> u64 {
    let needed = program::scratch(kind, attributes).unwrap_or(0);
    let Some(g) = conv(kind, attributes) else { return needed };
    let derived = Scheme::of(g).filter(|_| !lean).map_or(0, |scheme| scheme.scratch(g));
    let copied = if shallow::suits(g) { shallow::scratch(g) } else { 0 };
    needed.max(4 * derived.max(copied) as u64)
}

fn conv(kind: OpKind, attributes: &[u8]) -> Option<&Conv> {
    if kind != OpKind::Conv {
        return None;
    }
    Some(program::split::<Conv>(attributes).ok()?.0)
}

#[cfg(test)]
mod tests {
    use crate::exec::owned::{OwnedImage, OwnedSession};
    use crate::kernels::Isa;
    use crate::ops;
    use crate::plan::draft::{Draft, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
    use crate::plan::{Options, build};
    use crate::program::{Conv, Epilogue, OpKind};
    use crate::tensor::DType;
    use std::sync::Arc;

    /// A session of one convolution gives the same answer with derived weights as without.
    #[test]
    fn sessions_use_derived_weights() {
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
        let weight = Weight {
            name: "w".into(),
            bytes: 4 * g.weights(),
            pack: Box::new(|to| {
                for (i, to) in to.chunks_exact_mut(4).enumerate() {
                    to.copy_from_slice(&((i * 7919 % 2003) as f32 / 2003.0 - 0.5).to_le_bytes());
                }
                Ok(())
            }),
        };
        // A second program of the same weight.
        let other = Draft { name: "other".into(), ..draft.clone() };
        let model = Model { programs: vec![draft, other], weights: vec![weight], metadata: Vec::new() };
        let built = build(model, &Options::default()).unwrap();
        let image = Arc::new(OwnedImage::new(Box::new(built.image), true, None).unwrap());
        let derived = super::image(&image.image(), false);
        let of = |program: usize| derived.weights[program][0].as_ref().unwrap();
        assert!(of(0) == of(1) && derived.scratch > 0);
        let set = ops::set(Isa::detect()).unwrap();
        let run = |derived| {
            let mut session = OwnedSession::new(image.clone(), None, set, derived).unwrap();
            for (i, x) in session.input::<f32>("x").unwrap().iter_mut().enumerate() {
                *x = (i * 31 % 101) as f32 / 101.0 - 0.5;
            }
            session.run().unwrap();
            session.output::<f32>("y").unwrap().to_vec()
        };
        let nothing = super::image(&image.image(), true);
        assert!(nothing.weights.is_empty() && nothing.scratch == 0, "a lean one derives nothing");
        let (plain, winograd) = (run(nothing), run(derived));
        assert!(plain != winograd, "the derived weights were not used");
        for (a, b) in plain.iter().zip(&winograd) {
            assert!((a - b).abs() < 2e-5, "{a} and {b}");
        }
    }
}
