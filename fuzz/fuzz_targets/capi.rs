//! Image check and run through the C ABI.
//!
//! An input is not an image but what to change in one: which image of the folder `KILN_FUZZ_IMAGES` (2 bytes), then for each
//! change a word's number (2 bytes: of the structure, or of the weights where the highest bit is set) and what to put there
//! (4 bytes). The image is sealed again, so that the checksums, which no fuzzer gets past, don't stand in the way: only the
//! check stands between the bytes and the executor. What passes gets a session in an arena of the very size that it asks
//! for, inputs, two runs and a reset.
#![no_main]
#![allow(unsafe_code)]

use kiln::aligned::AlignedBytes;
use kiln::capi::kiln_status::KILN_OK;
use kiln::capi::*;
use kiln::image::layout::Header;
use kiln::image::write::seal;
use libfuzzer_sys::fuzz_target;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::OnceLock;
use zerocopy::FromBytes;

/// Larger arenas, and larger amounts of work, are not run.
const MOST_ARENA: usize = 1 << 20;
const MOST_MACS: u64 = 1 << 20;

fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let folder = std::env::var("KILN_FUZZ_IMAGES").expect("KILN_FUZZ_IMAGES names a folder of images");
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "KILN_FUZZ_IMAGES has no images");
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    })
}

fn changed(data: &[u8]) -> Option<AlignedBytes> {
    let (which, changes) = data.split_first_chunk()?;
    let original = &images()[u16::from_le_bytes(*which) as usize % images().len()];
    let mut bytes = AlignedBytes::copy_of(original, 4096);
    let weights = weights_start(&bytes)? / 4;
    for change in changes.chunks_exact(6) {
        let place = u16::from_le_bytes([change[0], change[1]]) as usize;
        let (first, words) = if place < 1 << 15 { (0, weights) } else { (weights, bytes.len() / 4 - weights) };
        if words > 0 {
            let word = first + place % (1 << 15) % words;
            bytes[4 * word..4 * word + 4].copy_from_slice(&change[2..]);
        }
    }
    seal(&mut bytes);
    Some(bytes)
}

/// The byte of the image where its weights start.
fn weights_start(image: &[u8]) -> Option<usize> {
    let (header, _) = Header::read_from_prefix(image).ok()?;
    Some(header.sections.last()?.offset as usize)
}

fuzz_target!(|data: &[u8]| {
    let Some(bytes) = changed(data) else { return };
    // SAFETY: zeroed objects, memory that lives as long as they and is as large as is said; what the header asks for.
    unsafe { check_and_run(&bytes) }
});

unsafe fn check_and_run(bytes: &AlignedBytes) {
    unsafe {
        let mut image: kiln_image = zeroed();
        if kiln_image_init(&mut image, bytes.as_ptr().cast(), bytes.len(), null_mut()) != KILN_OK {
            return;
        }
        for number in 0.. {
            let mut program = MaybeUninit::<kiln_program>::uninit();
            if kiln_image_program(&image, number, program.as_mut_ptr()) != KILN_OK {
                break;
            }
            run(&image, number, &program.assume_init());
        }
    }
}

unsafe fn run(image: &kiln_image, number: u32, program: &kiln_program) {
    if program.arena_bytes > MOST_ARENA || program.macs > MOST_MACS {
        return;
    }
    unsafe {
        let mut ops: kiln_ops = zeroed();
        assert!(kiln_ops_all(&mut ops) == KILN_OK);
        // Of its own, so that a byte past its end is one that the sanitizer guards.
        let layout = std::alloc::Layout::from_size_align(program.arena_bytes, program.arena_alignment).unwrap();
        let arena = std::alloc::alloc(layout);
        let mut session: kiln_session = zeroed();
        let status = kiln_session_init(&mut session, image, number, &ops, arena.cast(), program.arena_bytes, null_mut());
        if status == KILN_OK {
            for fill in [0u8, 1] {
                for i in 0..program.inputs {
                    let mut tensor = MaybeUninit::<kiln_tensor>::uninit();
                    assert!(kiln_image_input(image, number, i, tensor.as_mut_ptr()) == KILN_OK);
                    let tensor = tensor.assume_init();
                    let input = kiln_session_input(&mut session, i, MaybeUninit::new(tensor.dtype), tensor.elements);
                    assert!(!input.is_null());
                    input.cast::<u8>().write_bytes(fill, tensor.bytes);
                }
                let ran = kiln_session_run(&mut session);
                for i in 0..program.outputs {
                    let mut tensor = MaybeUninit::<kiln_tensor>::uninit();
                    assert!(kiln_image_output(image, number, i, tensor.as_mut_ptr()) == KILN_OK);
                    let tensor = tensor.assume_init();
                    let output = kiln_session_output(&mut session, i, MaybeUninit::new(tensor.dtype), tensor.elements);
                    assert!(output.is_null() == (ran != KILN_OK));
                    let mut dims = [u32::MAX; 8];
                    let said = kiln_session_output_dims(&mut session, i, tensor.rank, dims.as_mut_ptr());
                    assert!((said == KILN_OK) == (ran == KILN_OK));
                    if said == KILN_OK {
                        // Each run may decide, but to no more than there is memory for.
                        let most = std::slice::from_raw_parts(tensor.dims, tensor.rank as usize);
                        assert!(dims.iter().zip(most).all(|(size, most)| size <= most));
                    }
                    if !output.is_null() {
                        let bytes = std::slice::from_raw_parts(output.cast::<u8>(), tensor.bytes);
                        std::hint::black_box(bytes.iter().fold(0u8, |sum, b| sum ^ b));
                    }
                }
            }
            assert!(kiln_session_reset(&mut session) == KILN_OK);
        }
        std::alloc::dealloc(arena, layout);
    }
}
