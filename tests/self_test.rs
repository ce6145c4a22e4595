//! Golden values in an image, and the session's self-test with them.

mod common;

use kiln::aligned::AlignedBytes;
use kiln::error::{Kind, Where};
use kiln::image::golden::with_golden;
use kiln::image::layout::{Header, TensorRecord};
use kiln::image::write::seal;
use kiln::kernels::Isa;
use kiln::{Image, Session, ops};
use zerocopy::FromBytes;

const INPUT: usize = 6 * 6 * 3;

fn input() -> Vec<u8> {
    (0..INPUT).flat_map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes()).collect()
}

fn with_session<T>(image: &Image<'_>, isa: Isa, run: impl FnOnce(&mut Session<'_>) -> T) -> T {
    let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), image.alignment());
    run(&mut Session::new(image, ops::set(isa).unwrap(), &mut arena).unwrap())
}

fn answer(image: &Image<'_>) -> Vec<u8> {
    with_session(image, Isa::Scalar, |session| {
        session.input_bytes("x").unwrap().copy_from_slice(&input());
        session.run().unwrap();
        session.output_bytes("y").unwrap().to_vec()
    })
}

#[test]
fn a_right_answer_passes_on_every_instruction_set() {
    let built = common::image();
    let plain = Image::new(&built.image).unwrap();
    let y = answer(&plain);
    let bytes = with_golden(&plain, &[("x", &input()), ("y", &y)]).unwrap();
    let image = Image::new(&bytes).unwrap();
    assert_eq!(image.main().golden("y"), Some(&y[..]));
    assert_eq!((answer(&image), image.metadata("kiln.test")), (y, Some("a value")), "the program is the same");
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        with_session(&image, isa, |session| {
            session.self_test().unwrap();
            assert_eq!(session.run().unwrap_err().kind, Kind::InputMissing, "as after a reset");
        });
    }
}

#[test]
fn a_wrong_answer_fails_and_names_the_output() {
    let built = common::image();
    let plain = Image::new(&built.image).unwrap();
    let mut y = answer(&plain);
    let last = y.len() - 4;
    let x = f32::from_le_bytes(y[last..].try_into().unwrap());
    y[last..].copy_from_slice(&(x * 1.5 + 1.0).to_le_bytes());
    let bytes = with_golden(&plain, &[("x", &input()), ("y", &y)]).unwrap();
    let error = with_session(&Image::new(&bytes).unwrap(), Isa::Scalar, |session| session.self_test().unwrap_err());
    assert_eq!((error.kind, error.place()), (Kind::SelfTest, Where::Tensor(5)));
}

#[test]
fn a_golden_input_of_another_size_is_an_error() {
    let built = common::image();
    let plain = Image::new(&built.image).unwrap();
    let y = answer(&plain);
    let mut bytes = with_golden(&plain, &[("x", &input()), ("y", &y)]).unwrap();
    // Golden tensors stand behind those of the program, here the last two: x has fewer rows.
    let tensors = Header::ref_from_prefix(&bytes).unwrap().0.sections[1];
    let record = (tensors.offset + tensors.bytes) as usize - 2 * size_of::<TensorRecord>();
    let dims = record + std::mem::offset_of!(TensorRecord, dims);
    let rows = dims + 4 * (0..8).find(|i| bytes[dims + 4 * i] == 6).unwrap();
    bytes[rows] = 5;
    seal(&mut bytes);
    let error = with_session(&Image::new(&bytes).unwrap(), Isa::Scalar, |session| session.self_test().unwrap_err());
    assert_eq!(error.kind, Kind::SelfTest);
    assert!(error.what().contains("another size"), "{}", error.what());
}

#[test]
fn golden_values_must_be_there_and_fit() {
    let built = common::image();
    let plain = Image::new(&built.image).unwrap();
    assert_eq!(with_session(&plain, Isa::Scalar, |session| session.self_test().unwrap_err().kind), Kind::NotFound);
    let bytes = with_golden(&plain, &[("x", &input())]).unwrap();
    let image = Image::new(&bytes).unwrap();
    assert_eq!(with_session(&image, Isa::Scalar, |session| session.self_test().unwrap_err().kind), Kind::NotFound);
    assert!(with_golden(&plain, &[("x", &input()[4..])]).unwrap_err().contains("\"x\" has 432 bytes"));
    assert!(with_golden(&plain, &[("z", &input())]).unwrap_err().contains("\"z\""));
}
