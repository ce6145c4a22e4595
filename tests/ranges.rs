//! A symbol with a range of sizes: one image has a program for each, and each answers as if it were compiled alone.
#![cfg(feature = "onnx")]

use kiln::aligned::AlignedBytes;
use kiln::exec::OwnedSession;
use kiln::kernels::Isa;
use kiln::model::{Dim, Given, Model, Options, Sizes};
use kiln::tensor::DType;
use kiln::{Image, Kind, Session, ops};
use std::path::PathBuf;

fn text_lstm() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/text-lstm/model.onnx")
}

fn options(seq: &str) -> Options {
    let sizes: Sizes = seq.parse().unwrap();
    Options { symbols: [("seq".to_string(), sizes)].into(), ..Options::default() }
}

fn ids(n: usize) -> Vec<i64> {
    (0..n).map(|i| (i * 37 + n * 11) as i64 % 1001).collect()
}

fn answer(session: &mut OwnedSession, n: usize) -> Vec<f32> {
    session.input::<i64>("ids").unwrap().copy_from_slice(&ids(n));
    session.run().unwrap();
    session.output::<f32>("logits").unwrap().to_vec()
}

fn given(n: usize) -> Given {
    Given { name: "ids".into(), dtype: DType::I64, dims: vec![1, n], bytes: None }
}

#[test]
fn every_size_of_a_range_answers_as_if_compiled_alone() {
    for isa in [Isa::Scalar, Isa::detect()] {
        for threads in [1, 2] {
            let with = |seq: &str| Options { isa: Some(isa), threads, ..options(seq) };
            let range = Model::open_with(text_lstm(), with("1..9")).unwrap();
            let mut session = range.session().unwrap();
            assert_eq!(session.program().name(), "seq=9", "the largest comes first");
            for n in [9, 1, 4, 9, 2] {
                let alone = answer(&mut Model::open_with(text_lstm(), with(&n.to_string())).unwrap().session().unwrap(), n);
                session.choose(&format!("seq={n}")).unwrap();
                assert_eq!(answer(&mut session, n), alone, "{n} words");
                session.choose_for(&[("ids", &[1, n])]).unwrap();
                assert_eq!(answer(&mut session, n), alone, "{n} words, found by the shape");
                assert_eq!(answer(&mut range.session_for(&[given(n)]).unwrap(), n), alone, "{n} words, compiled when asked");
            }
            assert_eq!(session.choose("seq=10").unwrap_err().kind, Kind::NotFound);
            assert_eq!(session.choose_for(&[("ids", &[1, 10])]).unwrap_err().kind, Kind::NotFound);
            assert_eq!(session.program().name(), "seq=2", "a session stays with its program when there is no other");
        }
    }
}

#[test]
fn an_image_of_a_range_is_little_larger_and_runs_any_of_its_sizes() {
    let range = Model::open_with(text_lstm(), options("2..18:4")).unwrap().compiled(&[]).unwrap();
    let alone = Model::open_with(text_lstm(), options("18")).unwrap().compiled(&[]).unwrap();
    assert_eq!(range.report.weight_bytes, alone.report.weight_bytes, "weights are shared");
    assert!(range.bytes().len() < alone.bytes().len() + 8192);
    assert_eq!(range.image().arena_bytes(), alone.image().arena_bytes(), "the arena is that of the largest");
    let names: Vec<&str> = range.image().programs().map(|p| p.name()).collect();
    assert_eq!(names, ["seq=18", "seq=14", "seq=10", "seq=6", "seq=2"]);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), range.bytes()).unwrap();
    let model = Model::open(file.path()).unwrap();
    assert_eq!(model.inputs()[0].dims, Some(vec![Dim::Fixed(1), Dim::Symbol("seq".into())]));
    assert_eq!(model.outputs()[0].dims, Some(vec![Dim::Fixed(1), Dim::Fixed(2)]));
    let mut session = model.session_for(&[given(6)]).unwrap();
    assert_eq!(session.program().name(), "seq=6");
    assert_eq!(answer(&mut session, 6).len(), 2);
    assert_eq!(
        model.session_for(&[given(7)]).unwrap_err().to_string(),
        "the image has no program for the inputs \"ids\" of [1, 7]; its 5 programs go from \"seq=18\" to \"seq=2\""
    );
}

/// The core alone: programs of one image take turns in one arena.
#[test]
fn a_session_goes_over_to_a_program_that_fits_its_arena() {
    let compiled = Model::open_with(text_lstm(), options("1..8")).unwrap().compiled(&[]).unwrap();
    let image: Image<'_> = compiled.image();
    let program = |n: usize| image.program(&format!("seq={n}")).unwrap();
    let mut arena = AlignedBytes::zeroed(program(4).arena_bytes(), image.alignment());
    let set = ops::set(Isa::detect()).unwrap();
    let mut session = Session::of(program(4), set, &mut arena, Default::default()).unwrap();
    let run = |session: &mut Session<'_>, n: usize| {
        session.input::<i64>("ids").unwrap().copy_from_slice(&ids(n));
        session.run().unwrap();
        session.output::<f32>("logits").unwrap().to_vec()
    };
    let four = run(&mut session, 4);
    session.choose(program(2)).unwrap();
    assert_eq!(session.output::<f32>("logits").unwrap_err().kind, Kind::InputMissing, "the old answer is not the new program's");
    assert_eq!(session.run().unwrap_err().kind, Kind::InputMissing);
    assert_ne!(run(&mut session, 2), four);
    assert_eq!(session.choose(program(8)).unwrap_err().kind, Kind::ArenaTooSmall);
    session.choose(program(4)).unwrap();
    assert_eq!(run(&mut session, 4), four);
}

#[test]
fn sizes_outside_of_a_range_are_refused() {
    let model = Model::open_with(text_lstm(), options("2..8:2")).unwrap();
    let error = |n| model.session_for(&[given(n)]).unwrap_err().to_string();
    assert_eq!(error(9), "axis 1 of the input \"ids\" is 9, but its name, seq, stands for 2..8:2");
    assert_eq!(error(3), "axis 1 of the input \"ids\" is 3, but its name, seq, stands for 2..8:2");
    assert!(model.session_for(&[given(4)]).is_ok());

    let refused = |options: Options| Model::open_with(text_lstm(), options).unwrap().session().unwrap_err().to_string();
    let stream = Options { stream: true, ..options("1..8") };
    assert_eq!(refused(stream), "a stream takes one step at a time, with state: seq must be one size, not 1..8");
    assert!(refused(options("1..5000")).contains("take larger steps (seq=FROM..TO:STEP)"));
    let other = Options { symbols: [("time".to_string(), "1..4".parse().unwrap())].into(), ..Options::default() };
    assert!(refused(other).contains("the model has no symbol time"));
}
