//! A run allocates nothing: a counting allocator sees it.
#![allow(unsafe_code)]

mod common;

use kiln::kernels::Isa;
use kiln::{Aligned, Image, Session, ops};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn opening_and_running_an_image_allocate_nothing() {
    let built = common::image();
    for isa in Isa::ALL {
        let Ok(set) = ops::set(isa) else {
            eprintln!("skipped: no {}", isa.name());
            continue;
        };
        let mut arena = Aligned([0u8; 16384]);
        let before = CALLS.get();
        let image = Image::new(&built.image).unwrap();
        let mut session = Session::new(&image, set, &mut arena.0).unwrap();
        for _ in 0..3 {
            session.input::<f32>("x").unwrap().fill(0.5);
            session.run().unwrap();
        }
        let y = session.output::<f32>("y").unwrap();
        assert!(y.iter().all(|y| y.is_finite()));
        assert_eq!(CALLS.get() - before, 0, "allocations on {}", isa.name());
    }
}

#[test]
fn lengths_that_a_run_decides_allocate_nothing() {
    let built = common::lengths();
    let set = ops::set(Isa::detect()).unwrap();
    let mut arena = Aligned([0u8; 4096]);
    let before = CALLS.get();
    let image = Image::new(&built.image).unwrap();
    let mut session = Session::new(&image, set, &mut arena.0).unwrap();
    for n in 0..4 {
        session.input::<f32>("x").unwrap().copy_from_slice(&[0., 0., 0., 1., 0., 0., 0., 0.]);
        session.input::<i64>("n").unwrap()[0] = n;
        session.run().unwrap();
        assert!(session.output_dims("b").unwrap()[..] == [n as u32, 3]);
        assert_eq!(session.output::<f32>("b").unwrap().len(), 3 * n as usize);
    }
    assert_eq!(CALLS.get() - before, 0);
}

/// One session serves all sizes of a range.
#[cfg(feature = "onnx")]
#[test]
fn going_over_to_another_size_allocates_nothing() {
    use kiln::model::{Model, Options};
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text-lstm/model.onnx");
    let symbols = [("seq".to_string(), "1..6".parse().unwrap())].into();
    let mut session = Model::open_with(path, Options { symbols, ..Options::default() }).unwrap().session().unwrap();
    let before = CALLS.get();
    for n in [6, 1, 3, 6, 2] {
        session.choose_for(&[("ids", &[1, n])]).unwrap();
        session.input::<i64>("ids").unwrap().fill(7);
        session.run().unwrap();
    }
    assert_eq!(CALLS.get() - before, 0);
    assert!(session.output::<f32>("logits").unwrap().iter().all(|y| y.is_finite()));
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(CALLS.get() - before, 2);
}
