//! Images changed at random and sealed again, so that only the check stands between them and the executor: what passes is
//! run. Nothing may panic, and no byte outside of image and arena may change.
//!
//! `KILN_MUTATIONS` sets how many are made of each image (20,000 otherwise). For arithmetic that overflows, run it with
//! `CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true`.

mod common;

use kiln::aligned::AlignedBytes;
use kiln::image::write::seal;
use kiln::kernels::Isa;
use kiln::tensor::DType;
use kiln::{Image, Session, ops};

/// Bytes on both sides of an arena that nobody may touch.
const GUARD: usize = 4096;
/// Larger arenas, and larger amounts of work, are not run.
const MOST_ARENA: usize = 1 << 20;
const MOST_MACS: u64 = 1 << 24;
/// Of those with more work than this, one in eight is run.
const MANY_MACS: u64 = 1 << 20;

/// Xorshift: the same mutations each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

fn mutate(bytes: &mut [u8], structure: usize, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        // The word that is changed, mostly in the structure: weights are numbers that decide nothing.
        let word = random.below(structure / 4 - 5) + 5;
        let cell = &mut bytes[4 * word..4 * word + 4];
        let old = u32::from_le_bytes([cell[0], cell[1], cell[2], cell[3]]);
        let edge = [0, 1, 2, 4, 64, 255, 65536, 1 << 24, 1 << 31, u32::MAX, u32::MAX - 1];
        let new = match random.below(5) {
            0 => old ^ 1 << random.below(32),
            1 => old.wrapping_add(1 + random.below(64) as u32),
            2 => old.wrapping_sub(1 + random.below(64) as u32),
            3 => edge[random.below(edge.len())],
            _ => random.below(256) as u32,
        };
        cell.copy_from_slice(&new.to_le_bytes());
    }
}

/// What the check promises of quantised inputs and outputs.
fn ports(image: &Image<'_>) {
    for program in image.programs() {
        for (t, q) in program.inputs().chain(program.outputs()).filter_map(|t| Some((t, t.quantisation()?))) {
            assert!(q.scale > 0.0 && q.scale.is_finite(), "{q:?}");
            let (low, high) = match t.dtype() {
                DType::I8 => (i8::MIN.into(), i8::MAX.into()),
                DType::U8 => (0, u8::MAX.into()),
                DType::I16 => (i16::MIN.into(), i16::MAX.into()),
                DType::U16 => (0, u16::MAX.into()),
                other => panic!("{other} is no type of quantised numbers"),
            };
            assert!(low <= q.zero_point && q.zero_point <= high, "{q:?}");
        }
    }
}

/// Runs an image that passed the check, between guards. Whether it was run at all.
fn run(image: &Image<'_>, isa: Isa) -> bool {
    let program = image.main();
    if program.arena_bytes() > MOST_ARENA || program.macs() > MOST_MACS {
        return false;
    }
    let mut memory = AlignedBytes::zeroed(2 * GUARD + program.arena_bytes(), 4096);
    memory.fill(0x5a);
    let arena = &mut memory[GUARD..GUARD + program.arena_bytes()];
    // An op may have become one that only a host evaluates.
    let Ok(mut session) = Session::new(image, ops::set(isa).unwrap(), arena) else { return false };
    for i in 0..program.inputs().len() {
        session.input_bytes(i).unwrap().fill(1);
    }
    // An error of the run is an answer too.
    let ran = session.run();
    for (i, t) in program.outputs().enumerate() {
        let Ok(bytes) = session.output_bytes(i) else {
            assert!(ran.is_err() && session.output_dims(i).is_err());
            continue;
        };
        // Whatever stands in a count, what is given is what its sizes say, and no more than the tensor has.
        let dims = session.output_dims(i).unwrap();
        assert!(ran.is_ok() && dims.len() == t.dims().len() && dims.iter().zip(t.dims()).all(|(d, most)| d <= most));
        assert_eq!(bytes.len(), dims.iter().fold(t.dtype().size(), |n, &d| n.saturating_mul(d as usize)));
    }
    let end = GUARD + program.arena_bytes();
    assert!(memory[..GUARD].iter().chain(&memory[end..]).all(|&b| b == 0x5a), "a run wrote outside of its arena");
    true
}

/// Mutates an image `count` times: how many passed the check, and how many of those were run.
fn storm(image: &[u8], count: usize, random: &mut Random) -> [usize; 2] {
    let mut bytes = AlignedBytes::copy_of(image, 4096);
    let structure = image.len() - Image::new(&bytes).unwrap().weight_bytes();
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.available()).collect();
    let (mut passed, mut ran) = (0, 0);
    for i in 0..count {
        mutate(&mut bytes, structure, random);
        seal(&mut bytes);
        // Sealed a moment ago: reading all weights again to compare their checksum would show nothing.
        if let Ok(image) = Image::without_weights_hash(&bytes) {
            passed += 1;
            ports(&image);
            if image.main().macs() <= MANY_MACS || passed % 8 == 0 {
                ran += run(&image, isas[i % isas.len()]) as usize;
            }
        }
        bytes[..structure].copy_from_slice(&image[..structure]);
    }
    println!("{count} mutations: {passed} passed the check, {ran} were run");
    [passed, ran]
}

fn mutations(otherwise: usize) -> usize {
    std::env::var("KILN_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn mutated_images_are_refused_or_run() {
    let count = mutations(20_000);
    let [passed, ran] = storm(&common::image().image, count, &mut Random(0x1234_5678_9abc_def1));
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}

#[test]
fn mutated_images_of_ops_by_indices_are_refused_or_run() {
    let count = mutations(20_000);
    let [passed, ran] = storm(&common::indexed().image, count, &mut Random(0x2468_ace0_1357_9bdf));
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}

#[test]
fn mutated_images_of_outputs_whose_lengths_a_run_decides_are_refused_or_run() {
    let count = mutations(20_000);
    let [passed, ran] = storm(&common::lengths().image, count, &mut Random(0x0246_8ace_1357_9bdf));
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}

#[test]
fn mutated_images_of_ops_that_choose_are_refused_or_run() {
    let count = mutations(20_000);
    let [passed, ran] = storm(&common::choosing().image, count, &mut Random(0x0f1e_2d3c_4b5a_6978));
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}

/// A network that takes and gives integers which stand for real numbers.
#[cfg(feature = "onnx")]
#[test]
fn mutated_images_of_a_quantised_model_are_refused_or_run() {
    let count = mutations(20_000);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantised.onnx");
    let compiled = kiln::Model::open(path).unwrap().compiled(&[]).unwrap();
    let [passed, ran] = storm(compiled.bytes(), count, &mut Random(0x1357_9bdf_0246_8ace));
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}

/// All shipped models, 100,000 mutations in all; `text-lstm` also as a stream.
#[cfg(feature = "onnx")]
#[test]
fn mutated_images_of_shipped_models_are_refused_or_run() {
    use kiln::model::{Model, Options};
    let count = mutations(20_000);
    let mut random = Random(0x0fed_cba9_8765_4321);
    for (name, stream) in
        [("text-lstm", false), ("text-lstm", true), ("text-cnn", false), ("text-transformer", false), ("digits-cnn", false)]
    {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).join("model.onnx");
        let seq = (name == "text-lstm" && !stream).then(|| ("seq".to_string(), 3.into()));
        let model = Model::open_with(path, Options { stream, symbols: seq.into_iter().collect(), ..Options::default() }).unwrap();
        let compiled = model.compiled(&[]).unwrap();
        println!("{name}{}:", if stream { ", a stream" } else { "" });
        let [passed, ran] = storm(compiled.bytes(), count, &mut random);
        assert!(passed > count / 100 && ran > 0, "{name}: the mutations test nothing: {passed} passed, {ran} ran");
    }
}
