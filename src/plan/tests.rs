//! Random programs, built into images and run by the executor, against an interpreter that gives every value its own memory:
//! whatever shares memory wrongly (liveness, in-place, views, scratch) gives another answer.

use super::draft::{Draft, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
use super::room::{Room, room};
use super::{Built, Options, PlanError, build};
use crate::error::Kind;
use crate::exec::{Budget, Host, Session};
use crate::image::layout::{Header, ProgramRecord};
use crate::image::{Image, golden, write};
use crate::ops::{Context, Entry, Externs, Op, Units};
use crate::program::{self, Copy, Extern, OpKind, Record, Rules, TopK};
use crate::tensor::{DType, Quantisation};
use crate::{aligned::AlignedBytes, error};
use proptest::prelude::*;
use std::collections::HashMap;
use zerocopy::FromBytes;

/// One byte of an op's output, from the op's number, the byte's, what is combined byte by byte, and a digest of the rest.
fn mix(op: usize, i: usize, elementwise: u8, digest: u64) -> u8 {
    let x = (digest ^ (op as u64) << 32 ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8 ^ elementwise.rotate_left(3).wrapping_add(op as u8)
}

fn digest(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

/// Inputs that are combined byte by byte, so that the output may overwrite them, by op.
struct InPlace(Vec<Vec<usize>>);

impl InPlace {
    fn eval(&self, index: usize, context: &Context<'_>, op: &Op<'_>) {
        let inputs: Vec<_> = op.inputs.iter().map(|&t| context.src_bytes(t)).collect();
        let whole = (0..inputs.len()).filter(|j| !self.0[index].contains(j));
        let digest = digest(whole.flat_map(|j| (0..inputs[j].len()).map(move |i| (j, i))).map(|(j, i)| inputs[j].at(i)));
        for &out in op.outputs {
            let out = context.dst_bytes(out);
            for i in 0..out.len() {
                let bytes = self.0[index].iter().fold(0u8, |x, &j| x.wrapping_add(inputs[j].at(i)));
                out.set(i, mix(index, i, bytes, digest));
            }
        }
    }
}

impl Externs for InPlace {
    fn run(&self, index: u32, context: &Context<'_>, op: &Op<'_>) -> error::Result<()> {
        self.eval(index as usize, context, op);
        Ok(())
    }
}

fn eval_extern(context: &Context<'_>, op: &Op<'_>) -> error::Result<Units> {
    let (record, _) = op.record::<Extern>()?;
    run_once(context, op, record.index)
}

fn run_once(context: &Context<'_>, op: &Op<'_>, index: u32) -> error::Result<Units> {
    if let Some(externs) = context.externs().filter(|_| !context.units(1).is_empty()) {
        externs.run(index, context, op)?;
    }
    Ok(Units::ONE)
}

/// Stands for an op with scratch memory: spoils it, then does what the others do.
fn eval_top_k(context: &Context<'_>, op: &Op<'_>) -> error::Result<Units> {
    let scratch = context.scratch::<u8>();
    (0..scratch.len()).for_each(|i| scratch.set(i, 0xa5));
    run_once(context, op, op.index)
}

static SET: [Entry; 3] = [
    Entry { kind: OpKind::Copy, rules: Rules::of::<Copy>(), eval: eval_top_k },
    Entry { kind: OpKind::Extern, rules: Rules::of::<Extern>(), eval: eval_extern },
    Entry { kind: OpKind::TopK, rules: Rules::of::<TopK>(), eval: eval_top_k },
];

fn value(name: String, dtype: DType, n: u32, storage: Storage) -> Value {
    Value { name, dtype, dims: vec![n], storage, bytes: n as u64 * dtype.size() as u64 }
}

/// A random program from a list of choices.
fn random_draft(choices: &[(u8, u8, u8, u8)]) -> Draft {
    let mut d = Draft { name: "main".into(), ..Draft::default() };
    let add = |d: &mut Draft, v: Value| {
        d.values.push(v);
        ValueId(d.values.len() as u32 - 1)
    };
    for i in 0..2u32 {
        let v = add(&mut d, value(format!("in{i}"), DType::F32, 16 * (i + 1), Storage::Arena));
        d.inputs.push(v);
    }
    let w = add(&mut d, value("w".into(), DType::F32, 8, Storage::Weight(WeightId(0))));
    let state = add(&mut d, value("state".into(), DType::F32, 32, Storage::State));
    let mut readable = vec![d.inputs[0], d.inputs[1], w, state];
    for (i, &(kind, a, b, size)) in choices.iter().enumerate() {
        let (a, b) = (readable[a as usize % readable.len()], readable[b as usize % readable.len()]);
        let n = 16 * (size as u32 % 4 + 1);
        let name = format!("op{i}");
        match kind % 7 {
            // A plain op of two inputs, which may overwrite the first, or both.
            0 | 1 => {
                let n = if kind % 7 == 0 { d.values[a.0 as usize].dims[0] } else { n };
                let out = add(&mut d, value(name.clone(), DType::F32, n, Storage::Arena));
                let mut op = OpDraft::new(name, OpKind::Extern, &Extern { index: i as u32 }, &[]);
                op.inputs = vec![Some(a), Some(b)];
                op.outputs = vec![Some(out)];
                for (j, v) in [a, b].into_iter().enumerate() {
                    if d.values[v.0 as usize].dims[0] == n {
                        op.in_place.push(j);
                    }
                }
                d.ops.push(op);
                readable.push(out);
            }
            // An op with scratch and two outputs.
            2 => {
                let values = add(&mut d, value(name.clone(), DType::F32, n, Storage::Arena));
                let indices = add(&mut d, value(format!("{name}i"), DType::I64, n, Storage::Arena));
                let len = d.values[a.0 as usize].dims[0];
                let record = TopK { outer: 1, len, inner: 1, k: 0, min: 0 };
                let mut op = OpDraft::new(name, OpKind::TopK, &record, &[]);
                op.inputs = vec![Some(a)];
                op.outputs = vec![Some(values), Some(indices)];
                d.ops.push(op);
                readable.push(values);
            }
            // A concat: two ops write parts of one value.
            3 => {
                let whole = add(&mut d, value(name.clone(), DType::F32, 2 * n, Storage::Arena));
                for half in 0..2 {
                    let offset = half * n as u64 * 4;
                    let part = add(&mut d, value(format!("{name}.{half}"), DType::F32, n, Storage::View { of: whole, offset }));
                    let mut op = OpDraft::new(name.clone(), OpKind::Extern, &Extern { index: d.ops.len() as u32 }, &[]);
                    op.inputs = vec![Some(if half == 0 { a } else { b })];
                    op.outputs = vec![Some(part)];
                    d.ops.push(op);
                    readable.push(part);
                }
                readable.push(whole);
            }
            // A view of the upper half.
            4 => {
                let n = d.values[a.0 as usize].dims[0];
                let storage = Storage::View { of: a, offset: n as u64 / 2 * 4 };
                let v = add(&mut d, value(name, DType::F32, n / 2, storage));
                readable.push(v);
            }
            // An op that is known to write all of its output.
            5 => {
                let n = d.values[a.0 as usize].dims[0];
                let mut copy = Copy::new(4, 1);
                (copy.dims[0], copy.from[0], copy.to[0]) = (n, 1, 1);
                let out = add(&mut d, value(name.clone(), DType::F32, n, Storage::Arena));
                let mut op = OpDraft::new(name, OpKind::Copy, &copy, &[]);
                (op.inputs, op.outputs) = (vec![Some(a)], vec![Some(out)]);
                d.ops.push(op);
                readable.push(out);
            }
            // An update of the state.
            _ => {
                let new = add(&mut d, value(name.clone(), DType::F32, 32, Storage::View { of: state, offset: 0 }));
                let mut op = OpDraft::new(name, OpKind::Extern, &Extern { index: 0 }, &[]);
                op.inputs = vec![Some(a)];
                op.outputs = vec![Some(new)];
                if d.values[a.0 as usize].storage != Storage::State && root(&d, a) != state {
                    d.ops.push(op);
                }
            }
        }
    }
    let n = readable.len();
    d.outputs = [readable[n - 1], readable[n / 2], readable[n - 1 - n / 3]].to_vec();
    for (i, op) in d.ops.iter_mut().enumerate() {
        if op.kind == OpKind::Extern {
            op.attributes = (i as u32).to_le_bytes().to_vec();
        }
    }
    d
}

fn root(d: &Draft, mut v: ValueId) -> ValueId {
    while let Storage::View { of, .. } = d.values[v.0 as usize].storage {
        v = of;
    }
    v
}

/// Runs a draft with memory of its own for every root.
fn interpret(d: &Draft, state: &mut Vec<u8>, weight: &[u8], inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let home = |mut v: ValueId| {
        let (bytes, mut at) = (d.values[v.0 as usize].bytes as usize, 0);
        while let Storage::View { of, offset } = d.values[v.0 as usize].storage {
            (v, at) = (of, at + offset as usize);
        }
        (v, at..at + bytes)
    };
    let mut memory: HashMap<ValueId, Vec<u8>> = HashMap::new();
    for (i, v) in d.values.iter().enumerate() {
        let initial = match v.storage {
            Storage::State => state.clone(),
            Storage::Weight(_) => weight.to_vec(),
            _ => vec![0; v.bytes as usize],
        };
        memory.insert(ValueId(i as u32), initial);
    }
    d.inputs.iter().zip(inputs).for_each(|(&v, bytes)| memory.get_mut(&v).unwrap().copy_from_slice(bytes));
    let read = |memory: &HashMap<ValueId, Vec<u8>>, v| {
        let (root, range) = home(v);
        memory[&root][range].to_vec()
    };
    for (index, op) in d.ops.iter().enumerate() {
        let inputs: Vec<Vec<u8>> = op.inputs.iter().flatten().map(|&v| read(&memory, v)).collect();
        let whole = (0..inputs.len()).filter(|j| !op.in_place.contains(j));
        let digest = digest(whole.flat_map(|j| inputs[j].iter().copied()));
        for &out in op.outputs.iter().flatten() {
            let (root, range) = home(out);
            for (i, byte) in memory.get_mut(&root).unwrap()[range].iter_mut().enumerate() {
                let bytes = op.in_place.iter().fold(0u8, |x, &j| x.wrapping_add(inputs[j][i]));
                *byte = mix(index, i, bytes, digest);
            }
        }
    }
    *state = memory[&ValueId(3)].clone();
    d.outputs.iter().map(|&v| read(&memory, v)).collect()
}

fn model(d: &Draft) -> Model {
    let weights = vec![Weight::whole("w".into(), 32, |out| {
        out.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8 * 7);
        Ok(())
    })];
    Model { programs: vec![d.clone()], weights, metadata: vec![("key".into(), "välue".into())] }
}

fn built(d: &Draft, alignment: u32) -> Built {
    build(model(d), &Options { alignment, ..Options::default() }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn random_programs_compute_what_they_say(
        choices in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..30),
        alignment in prop::sample::select(vec![8u32, 64]),
        more in prop::sample::select(vec![0u64, 64, 200, 5000]),
    ) {
        let draft = random_draft(&choices);
        let built = built(&draft, alignment);
        let image = Image::new(&built.image).unwrap();
        let externs = InPlace(draft.ops.iter().map(|op| op.in_place.clone()).collect());
        let host = Host { externs: Some(&externs), derived: &[] };
        // Scratch memory of a host's own, which is spoilt.
        let needs: Vec<u64> = draft.ops.iter().map(|op| more.max(program::scratch(op.kind, &op.attributes).unwrap())).collect();
        let Room { places, arena: bytes } = room(image.main(), &needs);
        prop_assert!(bytes >= image.main().arena_bytes() as u64);
        let mut arena = AlignedBytes::zeroed(bytes as usize, 64);
        let mut session = Session::of(image.main(), &SET, &mut arena, host).unwrap();
        session.place_scratch(&places).unwrap();
        let weight: Vec<u8> = (0..32u8).map(|i| i * 7).collect();
        let mut state = vec![0u8; 128];
        for run in 0..3u8 {
            let inputs: Vec<Vec<u8>> = [64u8, 128].iter().map(|&n| (0..n).map(|i| i.wrapping_mul(run + 3)).collect()).collect();
            for (i, bytes) in inputs.iter().enumerate() {
                session.input_bytes(i).unwrap().copy_from_slice(bytes);
            }
            session.run().unwrap();
            let want = interpret(&draft, &mut state, &weight, &inputs);
            for (i, want) in want.iter().enumerate() {
                prop_assert_eq!(session.output_bytes(i).unwrap(), &want[..], "output {} of run {}", i, run);
            }
        }
        let report = &built.report.programs[0];
        prop_assert!(report.live_bytes <= report.arena_bytes);
        prop_assert_eq!(image.main().live_bytes() as u64, report.live_bytes);
    }
}

/// in0 -> a -> b, each 64 bytes.
fn chain(in_place: bool) -> Draft {
    let mut d = Draft { name: "main".into(), ..Draft::default() };
    for name in ["x", "a", "y"] {
        d.values.push(value(name.into(), DType::F32, 16, Storage::Arena));
    }
    for i in 0..2 {
        let mut op = OpDraft::new(format!("op{i}"), OpKind::Extern, &Extern { index: i }, &[]);
        op.inputs = vec![Some(ValueId(i))];
        op.outputs = vec![Some(ValueId(i + 1))];
        op.in_place = if in_place { vec![0] } else { vec![] };
        d.ops.push(op);
    }
    d.inputs = vec![ValueId(0)];
    d.outputs = vec![ValueId(2)];
    d
}

#[test]
fn a_chain_takes_two_buffers_or_one_in_place() {
    let arena = |d: &Draft| built(d, 64).report.programs[0].arena_bytes;
    assert_eq!(arena(&chain(false)), 2 * 64 + 64);
    assert_eq!(arena(&chain(true)), 64 + 64);
}

#[test]
fn an_input_that_is_used_later_is_not_overwritten() {
    let mut d = chain(true);
    d.ops[1].inputs.push(Some(ValueId(0)));
    assert_eq!(built(&d, 64).report.programs[0].arena_bytes, 2 * 64 + 64);
}

#[test]
fn the_image_says_what_was_built() {
    let built = built(&chain(false), 16);
    let image = Image::new(&built.image).unwrap();
    let main = image.program("main").unwrap();
    assert_eq!(image.metadata("key"), Some("välue"));
    assert_eq!(image.metadata("other"), None);
    let inputs: Vec<_> = main.inputs().map(|t| (t.name().to_string(), t.dtype(), t.dims().to_vec())).collect();
    assert_eq!(inputs, [("x".to_string(), DType::F32, vec![16])]);
    assert_eq!(main.outputs().next().unwrap().name(), "y");
    assert_eq!(main.ops().map(|op| op.kind).collect::<Vec<_>>(), [OpKind::Extern; 2]);
    assert_eq!(image.program("other").unwrap_err().kind, Kind::NotFound);
    assert_eq!(built.image.len(), image.bytes());
}

/// As [`chain`], from `i8` to `u16`.
fn quantised(x: Quantisation, y: Quantisation) -> Draft {
    let mut d = chain(false);
    d.values[0] = value("x".into(), DType::I8, 16, Storage::Arena);
    d.values[2] = value("y".into(), DType::U16, 16, Storage::Arena);
    d.quantised = vec![(ValueId(2), y), (ValueId(0), x)];
    d
}

#[test]
fn the_image_says_what_integers_stand_for() {
    let x = Quantisation { scale: 0.1, zero_point: -128 };
    let y = Quantisation { scale: f32::MIN_POSITIVE, zero_point: 65535 };
    let of = |image: &[u8]| {
        let image = Image::new(image).unwrap();
        let main = image.main();
        let found: Vec<_> = main.inputs().chain(main.outputs()).map(|t| t.quantisation()).collect();
        (found, main.tensor(1).quantisation())
    };
    let image = built(&quantised(x, y), 64).image;
    assert_eq!(of(&image), (vec![Some(x), Some(y)], None));
    assert_eq!(of(&built(&chain(false), 64).image), (vec![None; 2], None));
    // Golden values are tensors more, behind the others.
    let golden = golden::with_golden(&Image::new(&image).unwrap(), &[("x", &[7; 16])]).unwrap();
    assert_eq!(of(&golden), (vec![Some(x), Some(y)], None));
    // What a draft says is checked with the rest of the image.
    let refuse = |d: Draft| build(model(&d), &Options::default()).unwrap_err().to_string();
    assert!(refuse(quantised(x, Quantisation { scale: 0.0, ..y })).contains("can't be quantised so"));
    let mut of_float = quantised(x, y);
    of_float.quantised[0].0 = ValueId(1);
    assert!(refuse(of_float).contains("can't be quantised so"));
}

#[test]
fn quantisation_that_makes_no_sense_is_refused() {
    let x = Quantisation { scale: 0.5, zero_point: 1 };
    let good = built(&quantised(x, x), 64).image;
    let lists = Header::ref_from_prefix(&good).unwrap().0.sections[2];
    assert_eq!(lists.bytes, 4 * (2 + 2 * 3));
    let with = |changes: &[(usize, u32)]| {
        let mut image = AlignedBytes::copy_of(&good, 64);
        for &(word, to) in changes {
            image[lists.offset as usize + 4 * word..][..4].copy_from_slice(&to.to_le_bytes());
        }
        write::seal(&mut image);
        Image::new(&image).map(|_| ()).map_err(|e| (e.kind, e.what()))
    };
    let refused = Err((Kind::BadImage, "a tensor can't be quantised so"));
    // Words 2, 3, 4: tensor 0 (i8), its scale, its zero point; then the same of tensor 2 (u16).
    assert_eq!(with(&[(3, 1), (4, -128i32 as u32), (6, f32::MAX.to_bits()), (7, 65535)]), Ok(()));
    let no_scale = [0.0, -0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(f32::to_bits);
    no_scale.into_iter().for_each(|bits| assert_eq!(with(&[(3, bits)]), refused, "{bits:x}"));
    [128, -129i32 as u32, i32::MAX as u32].into_iter().for_each(|zero| assert_eq!(with(&[(4, zero)]), refused, "{zero}"));
    [65536, -1i32 as u32].into_iter().for_each(|zero| assert_eq!(with(&[(7, zero)]), refused, "{zero}"));
    // A tensor twice, not in order, of floats, none at all.
    for tensors in [[0, 0], [2, 0], [2, 2], [0, 1], [1, 2], [0, 3], [0, u32::MAX], [u32::MAX, u32::MAX]] {
        assert_eq!(with(&[(2, tensors[0]), (5, tensors[1])]), refused, "{tensors:?}");
    }
    // A count that the lists don't hold.
    for count in [3, 1 << 30, u32::MAX / 3, u32::MAX] {
        let mut image = AlignedBytes::copy_of(&good, 64);
        let at = size_of::<Header>() + std::mem::offset_of!(ProgramRecord, quantised);
        image[at..at + 4].copy_from_slice(&u32::to_le_bytes(count));
        write::seal(&mut image);
        assert!(Image::new(&image).unwrap_err().what().contains("not in the lists"), "{count}");
    }
}

#[test]
fn a_session_says_what_is_wrong() {
    let built = built(&chain(false), 64);
    let image = Image::new(&built.image).unwrap();
    let bytes = image.main().arena_bytes();
    let kind = |r: error::Result<Session<'_>>| r.map(|_| ()).unwrap_err().kind;
    let externs = InPlace(vec![vec![]; 2]);
    let host = Host { externs: Some(&externs), derived: &[] };
    let mut arena = AlignedBytes::zeroed(bytes + 1, 64);
    assert_eq!(kind(Session::of(image.main(), &SET, &mut arena[..bytes - 1], host)), Kind::ArenaTooSmall);
    assert_eq!(kind(Session::of(image.main(), &SET, &mut arena[1..], host)), Kind::Alignment);
    assert_eq!(kind(Session::of(image.main(), &[], &mut arena, host)), Kind::MissingOp);
    assert_eq!(kind(Session::new(&image, &SET, &mut arena)), Kind::Extern);

    let mut session = Session::of(image.main(), &SET, &mut arena, host).unwrap();
    assert_eq!(session.run().unwrap_err().kind, Kind::InputMissing);
    assert_eq!(session.input::<f32>("nothing").unwrap_err().kind, Kind::NotFound);
    assert_eq!(session.input::<i32>("x").unwrap_err().kind, Kind::DType);
    assert_eq!(session.input::<f32>("x").unwrap().len(), 16);
    assert_eq!(session.output::<f32>(0).unwrap_err().kind, Kind::InputMissing);
    assert!(!session.run_slice(Budget::units(1)).unwrap());
    assert!(session.run_slice(Budget::units(1)).unwrap());
    assert_eq!(session.output::<f32>("y").unwrap().len(), 16);
    assert_eq!(session.run().unwrap_err().kind, Kind::InputMissing);
}

#[test]
fn drafts_that_contradict_themselves_are_refused() {
    let refuse = |d: Draft| build(model(&d), &Options::default()).unwrap_err();
    let mut unwritten = chain(false);
    unwritten.ops.swap(0, 1);
    assert!(matches!(refuse(unwritten), PlanError::Op { what, .. } if what.contains("\"a\"")));
    let mut outside = chain(false);
    outside.values[1].storage = Storage::View { of: ValueId(0), offset: 4 };
    assert!(refuse(outside).to_string().contains("view"));
    let mut circle = chain(false);
    circle.values[1].storage = Storage::View { of: ValueId(1), offset: 0 };
    assert!(refuse(circle).to_string().contains("view"));
    let mut weight = chain(false);
    weight.values[1].storage = Storage::Weight(WeightId(0));
    assert!(matches!(refuse(weight), PlanError::Program(_) | PlanError::Op { .. }));
}

#[test]
fn damaged_images_are_refused() {
    let built = built(&chain(false), 64);
    let good = &built.image[..];
    for n in 0..good.len() {
        assert!(Image::new(&AlignedBytes::copy_of(&good[..n], 64)).is_err(), "cut to {n} bytes");
    }
    for bit in 0..8 * good.len() {
        let mut bytes = AlignedBytes::copy_of(good, 64);
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Image::new(&bytes).is_err(), "bit {bit} flipped");
    }
    let shifted = AlignedBytes::copy_of(&[&[0; 8], good].concat(), 64);
    assert_eq!(Image::new(&shifted[8..]).unwrap_err().kind, Kind::Alignment);
}

/// Checksums stop no forger: work that a program states, and others bound a run by, is compared with its ops'.
#[test]
fn an_image_that_misstates_its_work_is_refused() {
    let mut image = built(&chain(false), 64).image;
    let at = size_of::<Header>() + std::mem::offset_of!(ProgramRecord, macs);
    image[at] += 1;
    write::checksums(&mut image, true);
    assert!(Image::new(&image).unwrap_err().what().contains("multiply-accumulates"));
    write::seal(&mut image);
    assert_eq!(Image::new(&image).unwrap().main().macs(), 0);
}

/// An axis without elements is a model's right, but bounds no other: a forged op would go round for ever, to compute nothing.
#[test]
fn an_axis_without_elements_bounds_the_others_no_less() {
    fn op<R: Record>(kind: OpKind, record: &R, inputs: &[u32], outputs: &[u32], tail: &[u8]) -> Result<(), String> {
        let mut d = Draft { name: "main".into(), ..Draft::default() };
        let empty = |name: &str, dtype| value(name.into(), dtype, 0, Storage::Arena);
        d.values = vec![empty("x", DType::F32), empty("i", DType::I64), empty("y", DType::F32), empty("j", DType::I64)];
        d.inputs = vec![ValueId(0), ValueId(1)];
        d.outputs = vec![ValueId(outputs[0])];
        let mut op = OpDraft::new("op", kind, record, tail);
        op.inputs = inputs.iter().map(|&v| Some(ValueId(v))).collect();
        op.outputs = outputs.iter().map(|&v| Some(ValueId(v))).collect();
        d.ops.push(op);
        build(model(&d), &Options::default()).map(|_| ()).map_err(|e| e.to_string())
    }
    let all = |n: u32| {
        let conv = program::Conv {
            batch: n,
            in_h: 1,
            in_w: 1,
            in_c: 0,
            out_h: 1,
            out_w: 1,
            out_c: 0,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 0,
            pad_left: 0,
            groups: 1,
            in_pitch: 0,
            out_pitch: 0,
            epilogue: program::Epilogue::NONE,
        };
        let strides = [0; 4 * program::map::MAP_RANK];
        let map = program::Map {
            domain: 0,
            rank: 2,
            dims: [n, 0, 1, 1, 1, 1],
            inputs: 1,
            registers: 1,
            instructions: 0,
            result: 0,
            direct: 0,
        };
        let mut copy = program::Copy::new(4, 2);
        copy.dims[..2].copy_from_slice(&[n, 0]);
        let mut index = program::Index::new(4, 1);
        (index.rank, index.dims[0], index.dims[1]) = (2, n, 0);
        let mut gemm = program::Gemm::dense(1, 0, 0);
        gemm.batch[1] = n;
        [
            op(OpKind::Softmax, &program::Softmax { outer: n, len: 0, inner: 1, log: 0 }, &[0], &[2], &[]),
            op(OpKind::Softmax, &program::Softmax { outer: 0, len: 1, inner: n, log: 0 }, &[0], &[2], &[]),
            op(OpKind::Norm, &program::Norm { rows: n, len: 0, rms: 0, per_row: 0, epsilon: 0.0 }, &[0], &[2], &[]),
            op(OpKind::Reduce, &program::Reduce { kind: 0, outer: n, len: 1, inner: 0 }, &[0], &[2], &[]),
            op(OpKind::ArgReduce, &program::ArgReduce { outer: n, len: 1, inner: 0, min: 0, last: 0 }, &[0], &[3], &[]),
            op(OpKind::TopK, &TopK { outer: n, len: 0, inner: 1, k: 0, min: 0 }, &[0], &[2, 3], &[]),
            op(OpKind::Gather, &program::Gather { outer: n, axis: 1, row_bytes: 0, count: 0 }, &[0, 1], &[2], &[]),
            op(OpKind::GatherNd, &index, &[0, 1], &[2], &[]),
            op(OpKind::Copy, &copy, &[0], &[2], &[]),
            op(OpKind::Map, &map, &[0], &[2], &strides),
            op(OpKind::Gemm, &program::Gemm::dense(n, 0, 0), &[0, 0], &[2], &[]),
            op(OpKind::Gemm, &gemm, &[0, 0], &[2], &[]),
            op(OpKind::Conv, &conv, &[0, 0], &[2], &[]),
        ]
    };
    for (i, few) in all(1000).into_iter().enumerate() {
        assert!(few.is_ok(), "{i}: {few:?}");
    }
    for (i, many) in all(u32::MAX).into_iter().enumerate() {
        let refused = many.unwrap_err();
        assert!(refused.contains("axis without elements"), "{i}: {refused}");
    }
}
