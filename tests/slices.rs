//! A run may be cut in slices of any number of work units, and its ops shared by any number of threads: the shipped models
//! answer with the same bits.

use kiln::exec::{Budget, OwnedSession};
use kiln::kernels::Isa;
use kiln::model::{Model, Options};
use kiln::program::Tile;
use kiln::tensor::DType;
use kiln::{Image, Kind, Session, ops};
use std::path::Path;

/// The shipped models: their folders, and whether they run as streams.
const MODELS: [(&str, bool); 5] =
    [("text-lstm", false), ("text-lstm", true), ("text-cnn", false), ("text-transformer", false), ("digits-cnn", false)];

fn open(name: &str, stream: bool, isa: Isa) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).join("model.onnx");
    let symbols = if name == "text-lstm" && !stream { [("seq".to_string(), 16.into())].into() } else { [].into() };
    Model::open_with(path, Options { isa: Some(isa), symbols, stream, ..Options::default() }).unwrap()
}

/// Other numbers in every step: words of a vocabulary, or pixels.
fn write(session: &mut OwnedSession, step: usize) {
    let inputs: Vec<_> = session.program().inputs().map(|t| t.dtype()).collect();
    for (i, dtype) in inputs.into_iter().enumerate() {
        let number = |k: usize| (k * 37 + step * 11 + i) % 101;
        match dtype {
            DType::I64 => (0..).zip(session.input::<i64>(i).unwrap()).for_each(|(k, x)| *x = number(k) as i64),
            _ => (0..).zip(session.input::<f32>(i).unwrap()).for_each(|(k, x)| *x = number(k) as f32 / 101.0),
        }
    }
}

fn answer(session: &OwnedSession) -> Vec<u8> {
    (0..session.program().outputs().len()).flat_map(|i| session.output_bytes(i).unwrap().to_vec()).collect()
}

/// Three steps, each run by `run`; gives all answers.
fn three(session: &mut OwnedSession, mut run: impl FnMut(&mut OwnedSession)) -> Vec<Vec<u8>> {
    session.reset();
    let step = |step| {
        write(session, step);
        run(session);
        answer(session)
    };
    (0..3).map(step).collect()
}

#[test]
fn slices_of_any_size_give_the_same_bits() {
    for (name, stream) in MODELS {
        for isa in [Isa::Scalar, Isa::detect()] {
            let mut session = open(name, stream, isa).session().unwrap();
            let want = three(&mut session, |s| s.run().unwrap());
            assert_ne!(want[0], want[1], "{name}: the input counts");
            let ops = session.program().ops().count();
            let mut random = 1u32;
            for budget in [1, 2, 3, 7, 64, 0] {
                let mut calls = 0;
                let got = three(&mut session, |s| {
                    let mut units = || {
                        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        if budget == 0 { 1 + (random >> 24) % 40 } else { budget }
                    };
                    while !s.run_slice(Budget::units(units())).unwrap() {
                        calls += 1;
                        assert_eq!(s.output_bytes(0).unwrap_err().kind, Kind::InputMissing, "{name}: not before it is done");
                    }
                });
                assert_eq!(got, want, "{name} on {} by {budget}", isa.name());
                assert!(budget != 1 || calls + 3 >= 3 * ops, "{name}: {calls} slices of a unit, {ops} ops");
            }
            let by_op = three(&mut session, |s| while !s.run_slice(Budget::op()).unwrap() {});
            assert_eq!(by_op, want, "{name} on {} op by op", isa.name());
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (name, stream) in MODELS {
        let model = open(name, stream, Isa::detect());
        let want = three(&mut model.session().unwrap(), |s| s.run().unwrap());
        for threads in [1, 2, 3, 5] {
            // All ops are shared, and those only that are worth it.
            for work in [0, 50_000] {
                let mut session = model.session().unwrap().with_threads_from(threads, work).unwrap();
                for _ in 0..5 {
                    assert_eq!(three(&mut session, |s| s.run().unwrap()), want, "{name} on {threads} threads from {work}");
                }
                let sliced = three(&mut session, |s| while !s.run_slice(Budget::units(13)).unwrap() {});
                assert_eq!(sliced, want, "{name} on {threads} threads from {work}, sliced");
            }
        }
    }
}

#[test]
fn errors_are_those_of_one_thread() {
    let model = open("text-cnn", false, Isa::detect());
    let error = |threads| {
        let mut session = model.session().unwrap().with_threads_from(threads, 0).unwrap();
        write(&mut session, 1);
        session.input::<i64>(0).unwrap()[3] = i64::MAX;
        let error = session.run().unwrap_err();
        assert_eq!(session.run().unwrap_err().kind, Kind::InputMissing);
        error
    };
    assert_eq!(error(1).kind, Kind::Value);
    assert!([2, 3, 5].iter().all(|&threads| error(threads) == error(1)));
}

#[test]
fn a_number_of_threads_that_can_not_be_is_refused() {
    for threads in [0, 257, usize::MAX] {
        let options = Options { threads, ..Options::default() };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-cnn/model.onnx");
        assert!(Model::open_with(path, options).unwrap_err().to_string().contains("threads"));
        let session = open("digits-cnn", false, Isa::Scalar).session().unwrap();
        assert_eq!(session.with_threads(threads).unwrap_err().kind, Kind::Value);
    }
}

#[test]
fn a_run_that_was_begun_can_be_given_up() {
    for (name, stream) in MODELS {
        let mut session = open(name, stream, Isa::detect()).session().unwrap();
        let want = three(&mut session, |s| s.run().unwrap());
        // After a reset there is nothing to go on with, and nothing is left of what was begun.
        session.reset();
        write(&mut session, 5);
        assert!(!session.run_slice(Budget::units(2)).unwrap(), "{name}");
        session.reset();
        assert_eq!(session.run_slice(Budget::units(1)).unwrap_err().kind, Kind::InputMissing, "{name}");
        assert_eq!(three(&mut session, |s| s.run().unwrap()), want, "{name} after a reset");
        if stream {
            continue; // what was begun may have written to the state: only a reset forgets it
        }
        // An input that is written starts afresh.
        let restarted = three(&mut session, |s| {
            for step in [0, 1] {
                assert!(!s.run_slice(Budget::units(3 + step)).unwrap(), "{name}");
            }
            assert_eq!(s.output_bytes(0).unwrap_err().kind, Kind::InputMissing);
            write(s, 0);
            while !s.run_slice(Budget::units(5)).unwrap() {}
        });
        assert!(restarted.iter().all(|answer| *answer == want[0]), "{name} after another input");
        // A slice, then the rest at once.
        let rest = three(&mut session, |s| {
            s.run_slice(Budget::units(2)).unwrap();
            s.run().unwrap();
        });
        assert_eq!(rest, want, "{name}, the rest at once");
    }
}

#[test]
fn an_error_in_a_slice_ends_the_run() {
    let mut session = open("text-lstm", true, Isa::detect()).session().unwrap();
    session.input::<i64>(0).unwrap().fill(i64::MAX);
    let error = loop {
        match session.run_slice(Budget::units(1)) {
            Ok(done) => assert!(!done),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, Kind::Value);
    assert_eq!(session.run_slice(Budget::units(1)).unwrap_err().kind, Kind::InputMissing);
}

#[test]
fn a_program_says_how_large_its_units_are() {
    let compiled = open("digits-cnn", false, Isa::Scalar).compiled(&[]).unwrap();
    let image = Image::new(compiled.bytes()).unwrap();
    let main = image.main();
    let (device, _) = main.largest_unit(Tile::CORTEX_M);
    let (host, op) = main.largest_unit(Tile::LARGEST);
    assert!(device > 0 && device <= host && host < main.macs(), "{device}, {host} of {}", main.macs());
    assert!((op as usize) < main.ops().count());
    // Two rows instead of twelve.
    assert!(device * 3 < host, "{device} and {host}");
    // A session needs little memory of its own.
    let mut arena = kiln::aligned::AlignedBytes::zeroed(main.arena_bytes(), image.alignment());
    let session = Session::new(&image, ops::set(Isa::Scalar).unwrap(), &mut arena).unwrap();
    assert!(size_of_val(&session) <= 75 * size_of::<usize>(), "{}", size_of_val(&session));
}
