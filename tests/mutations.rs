//! Images changed at random and sealed again, so that only the check stands between them and the executor: what passes is
//! run. Nothing may panic, and no byte outside of image and arena may change.
//!
//! `KILN_MUTATIONS` sets how many are made (20,000 otherwise). For arithmetic that overflows, run it with
//! `CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true`.
#![cfg(feature = "std")]

mod common;

use kiln::aligned::AlignedBytes;
use kiln::image::write::seal;
use kiln::kernels::Isa;
use kiln::{Image, Session, ops};

/// Bytes on both sides of an arena that nobody may touch.
const GUARD: usize = 4096;
/// Larger arenas, and larger amounts of work, are not run.
const MOST_ARENA: usize = 1 << 20;
const MOST_MACS: u64 = 1 << 24;

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
    for i in 0..program.outputs().len() {
        assert_eq!(session.output_bytes(i).is_ok(), ran.is_ok());
    }
    let end = GUARD + program.arena_bytes();
    assert!(memory[..GUARD].iter().chain(&memory[end..]).all(|&b| b == 0x5a), "a run wrote outside of its arena");
    true
}

#[test]
fn mutated_images_are_refused_or_run() {
    let count = std::env::var("KILN_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000usize);
    let built = common::image();
    let structure = built.image.len() - Image::new(&built.image).unwrap().weight_bytes();
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.available()).collect();
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut passed, mut ran) = (0, 0);
    for i in 0..count {
        let mut bytes = AlignedBytes::copy_of(&built.image, 4096);
        mutate(&mut bytes, structure, &mut random);
        seal(&mut bytes);
        if let Ok(image) = Image::new(&bytes) {
            passed += 1;
            ran += run(&image, isas[i % isas.len()]) as usize;
        }
    }
    println!("{count} mutations: {passed} passed the check, {ran} were run");
    assert!(passed > count / 100 && ran > 0, "the mutations test nothing: {passed} passed, {ran} ran");
}
