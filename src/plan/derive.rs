//! Weights that a host derives from an image's when it opens it: Winograd forms of 3x3 convolutions.
//!
//! They are up to four times the size of the plain panels and take milliseconds to compute, so they are not in the image,
//! and devices never have them. A host calls [`program`] once, and gives what it returns to each session
//! ([`OwnedSession::new`](crate::exec::owned::OwnedSession::new)). Without derived weights, or without the scratch memory, an
//! op runs on the plain panels.

use crate::exec::owned::Derived;
use crate::image::Program;
use crate::image::layout::Place;
use crate::kernels::winograd::Scheme;
use crate::program::{self, Conv, OpKind, PANEL, packed_len};
use alloc::vec::Vec;
use zerocopy::FromBytes;

/// The derived weights of a program's ops, one entry per op, and the bytes of scratch memory that a session needs to use
/// them; nothing and 0 where no op has any.
pub fn program(program: Program<'_>) -> (Vec<Derived>, usize) {
    let all = program.weights();
    let operand = |tensor: u32| {
        let t = program.tensors().get(tensor as usize)?;
        let bytes = all.get(t.offset as usize..)?.get(..t.bytes as usize)?;
        (t.place == Place::Weights as u8).then(|| <[f32]>::ref_from_bytes(bytes).ok()).flatten()
    };
    let (mut derived, mut scratch) = (Vec::new(), 0);
    for op in program.ops() {
        let packed = op.inputs.get(1).and_then(|&tensor| operand(tensor));
        derived.push(packed.and_then(|packed| weights(op.kind, op.attributes, packed)).map(Vec::into_boxed_slice));
        scratch = scratch.max(host_scratch(op.kind, op.attributes));
    }
    match derived.iter().any(Option::is_some) {
        true => (derived, scratch as usize),
        false => (Vec::new(), 0),
    }
}

/// The derived weights of an op, if it has any: of its kind, attributes and weights as the image stores them.
///
/// The record must have passed its check against these weights.
pub fn weights(kind: OpKind, attributes: &[u8], packed: &[f32]) -> Option<Vec<f32>> {
    let record = conv(kind, attributes)?;
    let scheme = Scheme::of(record)?;
    let (depth, channels, panel) = (record.depth() as usize, record.in_c as usize, PANEL as usize);
    let matrix = packed_len(channels as u64, record.out_c as u64) as usize;
    let mut out = alloc::vec![0.0; scheme.weights(record)];
    let mut points = [[0.0; PANEL as usize]; 36];
    for (p, from) in packed.get(..record.weights() as usize)?.chunks_exact(panel * depth).enumerate() {
        for channel in 0..channels {
            let mut taps = [[0.0; PANEL as usize]; 9];
            for (tap, to) in taps.iter_mut().enumerate() {
                to.copy_from_slice(&from[(tap * channels + channel) * panel..][..panel]);
            }
            scheme.transform_weights(&taps, &mut points);
            for (point, values) in points.iter().take(scheme.points()).enumerate() {
                out[point * matrix + (p * channels + channel) * panel..][..panel].copy_from_slice(values);
            }
        }
    }
    Some(out)
}

/// Bytes of scratch memory with which an op runs best on a host: what its record asks for, and more for an op that has
/// derived weights.
pub fn host_scratch(kind: OpKind, attributes: &[u8]) -> u64 {
    let needed = program::scratch(kind, attributes).unwrap_or(0);
    let derived = conv(kind, attributes).and_then(|g| Some(4 * Scheme::of(g)?.scratch(g) as u64));
    needed.max(derived.unwrap_or(0))
}

fn conv(kind: OpKind, attributes: &[u8]) -> Option<&Conv> {
    if kind != OpKind::Conv {
        return None;
    }
    Some(program::split::<Conv>(attributes).ok()?.0)
}
