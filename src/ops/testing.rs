//! Runs one op in a test: its check, then its evaluator, in an arena where every tensor is followed by canaries; and then
//! again, unit by unit and in other parts, which must give the same bits.

use super::{Context, Entry, Externs, Op, Units};
use crate::error::Result;
use crate::exec::context::Scratch;
use crate::image::OpView;
use crate::image::layout::{Place, TensorRecord};
use crate::program::{self, NONE, Operand, Operands, Record};
use crate::tensor::{DType, Element, MAX_RANK};
use core::ops::Range;

/// An operand: its type and its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: DType,
    pub bytes: Vec<u8>,
}

/// A tensor of these elements.
pub fn tensor<T: Element>(elements: &[T]) -> Tensor {
    Tensor { dtype: T::DTYPE, bytes: elements.iter().flat_map(|e| e.as_bytes().to_vec()).collect() }
}

/// A tensor of `n` elements of no particular value, for an output.
pub fn blank<T: Element>(n: usize) -> Tensor {
    Tensor { dtype: T::DTYPE, bytes: vec![0xb7; n * size_of::<T>()] }
}

impl Tensor {
    /// Its elements.
    pub fn to<T: Element>(&self) -> Vec<T> {
        assert_eq!(self.dtype.size(), size_of::<T>());
        self.bytes.chunks_exact(size_of::<T>()).map(|b| T::read_from_bytes(b).unwrap()).collect()
    }
}

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

const CANARY: u8 = 0xa5;

/// An op with its operands. `shared[i]` = j: output i lies in the memory of input j.
pub struct Case<'a, R> {
    pub record: &'a R,
    pub tail: &'a [u8],
    pub inputs: Vec<Option<Tensor>>,
    pub outputs: Vec<Option<Tensor>>,
    pub shared: Vec<Option<usize>>,
}

impl<'a, R: Record> Case<'a, R> {
    /// A case without tail and sharing, all operands present.
    pub fn new(record: &'a R, inputs: Vec<Tensor>, outputs: Vec<Tensor>) -> Self {
        let all = |v: Vec<Tensor>| v.into_iter().map(Some).collect();
        Case { record, tail: &[], inputs: all(inputs), outputs: all(outputs), shared: Vec::new() }
    }

    /// The record's check.
    pub fn check(&self, kind: program::OpKind) -> Result<()> {
        let operands = |v: &[Option<Tensor>]| -> Vec<Option<Operand>> {
            v.iter().map(|t| t.as_ref().map(|t| Operand { dtype: t.dtype, bytes: t.bytes.len() as u64 })).collect()
        };
        let (inputs, outputs) = (operands(&self.inputs), operands(&self.outputs));
        Operands::with(&inputs, &outputs, |operands| program::check(kind, &self.attributes(), operands))
    }

    fn attributes(&self) -> Vec<u8> {
        [self.record.as_bytes(), self.tail].concat()
    }

    /// Checks and runs the op; gives the outputs.
    ///
    /// # Panics
    /// If anything but the outputs was written.
    pub fn run(&self, entry: Entry) -> Result<Vec<Tensor>> {
        self.run_with(entry, None)
    }

    /// As [`run`](Self::run), with the host's extern ops.
    #[allow(unsafe_code)]
    pub fn run_with(&self, entry: Entry, externs: Option<&dyn Externs>) -> Result<Vec<Tensor>> {
        self.check(entry.kind)?;
        let attributes: Vec<u32> = self.attributes().chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        let attributes = zerocopy::IntoBytes::as_bytes(attributes.as_slice());
        let mut arena: Vec<Line> = Vec::new();
        let mut records: Vec<TensorRecord> = Vec::new();
        let mut place = |t: &Tensor| {
            let offset = arena.len() * 64;
            let lines = t.bytes.len().div_ceil(64) + 1;
            let mut bytes = t.bytes.clone();
            bytes.resize(lines * 64, CANARY);
            arena.extend(bytes.chunks(64).map(|c| Line(c.try_into().unwrap())));
            records.push(TensorRecord {
                dtype: t.dtype as u8,
                rank: 0,
                place: Place::Arena as u8,
                flags: 0,
                offset: offset as u32,
                bytes: t.bytes.len() as u32,
                name: u32::MAX,
                dims: [0; MAX_RANK],
            });
            records.len() as u32 - 1
        };
        let inputs: Vec<u32> = self.inputs.iter().map(|t| t.as_ref().map_or(NONE, &mut place)).collect();
        let outputs: Vec<u32> = self
            .outputs
            .iter()
            .enumerate()
            .map(|(i, t)| match (t, self.shared.get(i).copied().flatten()) {
                (Some(_), Some(j)) => inputs[j],
                (Some(t), None) => place(t),
                (None, _) => NONE,
            })
            .collect();
        let scratch_bytes = self.record.scratch(self.tail) as usize;
        let scratch = arena.len() * 64;
        arena.resize(arena.len() + scratch_bytes.div_ceil(64) + 1, Line([CANARY; 64]));
        let before: Vec<u8> = arena.iter().flat_map(|l| l.0).collect();
        let view = OpView { kind: entry.kind, inputs: &inputs, outputs: &outputs, attributes, scratch: 0 };
        let op = Op { index: 0, view: &view };
        let evaluate = |arena: &mut [Line], range: Range<usize>, resumes: bool| {
            let base = arena.as_mut_ptr().cast::<u8>();
            // SAFETY: the records lie inside of the arena, each with a line behind; scratch has a part of its own.
            let context = unsafe {
                Context::new(
                    &records,
                    base,
                    base,
                    Scratch { start: base.add(scratch), len: scratch_bytes },
                    &[],
                    externs,
                    range,
                    resumes,
                )
            };
            (entry.eval)(&context, &op)
        };
        let fresh = arena.clone();
        let units = evaluate(&mut arena, 0..usize::MAX, false)?;
        let after: Vec<u8> = arena.iter().flat_map(|l| l.0).collect();
        self.run_in_parts(&fresh, &after, scratch, units, evaluate);
        let written = |i: usize| {
            let output = |&t: &u32| {
                let r = &records[t as usize];
                (r.offset as usize..(r.offset + r.bytes) as usize).contains(&i)
            };
            (scratch..scratch + scratch_bytes).contains(&i) || outputs.iter().filter(|&&t| t != NONE).any(output)
        };
        for i in 0..after.len() {
            assert!(after[i] == before[i] || written(i), "byte {i} of the arena was written: it is no output's");
        }
        let take = |&t: &u32| {
            let r = &records[t as usize];
            let bytes = after[r.offset as usize..(r.offset + r.bytes) as usize].to_vec();
            Tensor { dtype: r.dtype(), bytes }
        };
        Ok(outputs.iter().filter(|&&t| t != NONE).map(take).collect())
    }

    /// Runs the units in parts of several sizes, in order and, where that is allowed, from the last to the first with other
    /// scratch memory for each part.
    fn run_in_parts(
        &self,
        before: &[Line],
        after: &[u8],
        scratch: usize,
        units: Units,
        evaluate: impl Fn(&mut [Line], Range<usize>, bool) -> Result<Units>,
    ) {
        let mut random = Random::new(units.count as u64 + 5);
        for budget in [1, 2, 3, 7, 64, 0] {
            if budget > 1 && budget >= units.count {
                continue;
            }
            let mut parts = Vec::new();
            let mut start = 0;
            while start < units.count {
                let end = start + if budget == 0 { 1 + random.below(9) } else { budget };
                parts.push(start..end);
                start = end;
            }
            for backwards in [false, true] {
                if backwards && units.in_turn {
                    continue;
                }
                let mut arena = before.to_vec();
                if backwards {
                    parts.reverse();
                }
                for part in &parts {
                    if backwards {
                        arena[scratch / 64..].fill(Line([CANARY; 64]));
                    }
                    let said = evaluate(&mut arena, part.clone(), !backwards && part.start > 0);
                    assert_eq!(said, Ok(units), "{part:?} alone");
                }
                let got = arena.iter().flat_map(|l| l.0).take(scratch);
                assert!(got.eq(after[..scratch].iter().copied()), "{units:?} by {budget}, backwards: {backwards}");
            }
        }
    }
}

/// A small generator of test values: the same sequence for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// In `-1..1`.
    pub fn unit(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31) - 1.0
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Asserts that all elements agree within `bound`, absolutely or relative to the largest magnitude of `want`.
#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = g as f64 == w || g.is_nan() && w.is_nan() || (g as f64 - w).abs() <= bound * scale;
        assert!(same, "{what}: element {i} is {g}, want {w}");
    }
}
