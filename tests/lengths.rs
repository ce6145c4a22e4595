//! Outputs whose lengths a run decides: what a session gives of them, what an image must say, golden values.

mod common;

use kiln::aligned::AlignedBytes;
use kiln::error::Kind;
use kiln::exec::owned::Derived;
use kiln::exec::{Budget, OwnedSession};
use kiln::image::golden::with_golden;
use kiln::image::layout::{Header, ProgramRecord};
use kiln::image::write::seal;
use kiln::kernels::Isa;
use kiln::{Image, Session, ops};
use zerocopy::FromBytes;

fn with_session<T>(image: &Image<'_>, run: impl FnOnce(&mut Session<'_>) -> T) -> T {
    let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), image.alignment());
    run(&mut Session::new(image, ops::set(Isa::detect()).unwrap(), &mut arena).unwrap())
}

/// 0, 1, 2 …, but that the largest is at `place`.
fn x(place: usize) -> [f32; 8] {
    std::array::from_fn(|i| if i == place { 100.0 } else { i as f32 })
}

fn write(session: &mut Session<'_>, place: usize, n: i64) {
    session.input::<f32>("x").unwrap().copy_from_slice(&x(place));
    session.input::<i64>("n").unwrap()[0] = n;
}

#[test]
fn a_session_gives_what_is_there() {
    let built = common::lengths();
    let image = Image::new(&built.image).unwrap();
    with_session(&image, |session| {
        for place in 0..8 {
            // None, some, all, and what no size is.
            for n in [0, 1, 3, 4, i64::MAX, -1, i64::MIN] {
                write(session, place, n);
                session.run().unwrap();
                let (rows, columns, of_b) = (place.min(5), place.min(4), n.clamp(0, 3) as usize);
                let x = x(place);
                assert_eq!(session.output_dims("a").unwrap()[..], [rows as u32, 2]);
                let a: Vec<f32> = (0..rows).flat_map(|i| [x[i], x[i + 1]]).collect();
                assert_eq!(session.output::<f32>("a").unwrap(), a);
                assert_eq!(session.output_dims(1).unwrap()[..], [of_b as u32, columns as u32]);
                assert_eq!(session.output::<f32>(1).unwrap().len(), of_b * columns);
                assert_eq!(session.output_bytes("b").unwrap().len(), 4 * of_b * columns);
                assert_eq!(session.output_dims("d").unwrap()[..], [3]);
                assert_eq!(session.output::<f32>("d").unwrap(), [x[0], x[2], x[4]]);
                assert_eq!(session.output_dims("sum").unwrap()[..], [1]);
                assert_eq!(session.output::<f32>("sum").unwrap(), [x[0] + x[1]]);
            }
        }
        assert_eq!(session.output_dims("e").unwrap_err().kind, Kind::NotFound);
        assert_eq!(session.output_dims(4).unwrap_err().kind, Kind::NotFound);
    });
}

#[test]
fn sizes_are_there_when_outputs_are() {
    let built = common::lengths();
    let image = Image::new(&built.image).unwrap();
    with_session(&image, |session| {
        let there = |session: &Session<'_>| {
            let [a, sum] = ["a", "sum"].map(|name| session.output_dims(name).map(|_| ()).map_err(|e| e.kind));
            assert_eq!(a, sum);
            assert_eq!(a, session.output::<f32>("a").map(|_| ()).map_err(|e| e.kind));
            a
        };
        assert_eq!(there(session), Err(Kind::InputMissing));
        write(session, 2, 1);
        while !session.run_slice(Budget::units(1)).unwrap() {
            assert_eq!(there(session), Err(Kind::InputMissing));
        }
        assert_eq!(there(session), Ok(()));
        write(session, 2, 1);
        assert_eq!(there(session), Err(Kind::InputMissing));
    });
}

#[test]
fn an_image_says_which_sizes_are_bounds() {
    let built = common::lengths();
    let image = Image::new(&built.image).unwrap();
    let bounded = |t: kiln::image::Tensor<'_>| (0..4).filter(|&axis| t.is_bounded(axis)).collect::<Vec<_>>();
    let said: Vec<_> = image.main().outputs().map(|t| (t.name(), t.dims().to_vec(), bounded(t))).collect();
    let want = [("a", vec![5, 2], vec![0]), ("b", vec![3, 4], vec![0, 1]), ("d", vec![4], vec![0]), ("sum", vec![1], vec![])];
    assert_eq!(said, want);
    assert!(image.main().inputs().all(|t| bounded(t).is_empty()));
    let plain = common::image();
    assert!(Image::new(&plain.image).unwrap().main().lengths().is_empty());
}

#[test]
fn an_owned_session_says_the_same() {
    let built = common::lengths();
    let model = kiln::exec::owned::OwnedImage::new(Box::new(built.image), true, None).unwrap();
    let set = ops::set(Isa::detect()).unwrap();
    let mut session = OwnedSession::new(std::sync::Arc::new(model), None, set, Derived::default()).unwrap();
    session.input::<f32>("x").unwrap().copy_from_slice(&x(1));
    session.input::<i64>("n").unwrap()[0] = 2;
    session.run().unwrap();
    assert_eq!(session.output_dims("b").unwrap()[..], [2, 1]);
    // As they stand at its beginning: whoever writes an output with a bounded inner axis puts its rows together.
    assert_eq!(session.output::<f32>("b").unwrap(), [0.0, 100.0]);
}

/// The image with these words of its lists changed, and these halves of the word that counts records, sealed.
fn with(changes: &[(usize, u32)], lengths: Option<u16>) -> Result<(), (Kind, &'static str)> {
    let mut image = common::lengths().image;
    let lists = Header::ref_from_prefix(&image).unwrap().0.sections[2];
    assert_eq!(lists.bytes, 4 * (2 + 4 + 4 * 3));
    for &(word, to) in changes {
        image[lists.offset as usize + 4 * word..][..4].copy_from_slice(&to.to_le_bytes());
    }
    if let Some(n) = lengths {
        let at = size_of::<Header>() + std::mem::offset_of!(ProgramRecord, lengths);
        image[at..at + 2].copy_from_slice(&n.to_le_bytes());
    }
    seal(&mut image);
    Image::new(&image).map(|_| ()).map_err(|e| (e.kind, e.what()))
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    // From word 6 on: tensor, axis, count of a's rows; of b's rows, and its columns; of d.
    assert_eq!(with(&[(6, 3), (7, 0), (8, 2), (9, 4), (10, 0), (11, 1), (12, 4), (13, 1), (14, 2)], None), Ok(()));
    let refused = Err((Kind::BadImage, "a length is of no output's axis, or out of order, or stands in no tensor of one int64"));
    // An input's, that of a tensor within, of none at all; an axis that a, d and no tensor has.
    for change in [(6, 0), (6, 2), (6, 7), (6, 9), (6, u32::MAX), (7, 2), (7, u32::MAX), (16, 1), (16, 1 << 31)] {
        assert_eq!(with(&[change], None), refused, "{change:?}");
    }
    // Floats, one of them; no tensor.
    for change in [(8, 0), (8, 3), (8, 8), (17, 9), (17, u32::MAX)] {
        assert_eq!(with(&[change], None), refused, "{change:?}");
    }
    for changes in [&[(13, 0)][..], &[(10, 1), (13, 0)], &[(6, 5)], &[(15, 3)]] {
        assert_eq!(with(changes, None), refused, "{changes:?}");
    }
    // Fewer are an image too, as far as its check goes; more are not in the lists.
    assert_eq!(with(&[], Some(3)), Ok(()));
    for n in [5, u16::MAX] {
        assert!(with(&[], Some(n)).unwrap_err().1.contains("not in the lists"), "{n}");
    }
}

#[test]
fn what_lies_behind_an_output_is_no_part_of_golden_values() {
    let built = common::lengths();
    let plain = Image::new(&built.image).unwrap();
    let (x, n) = (x(2), 2i64.to_le_bytes());
    let input: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let answers: Vec<(String, Vec<u8>)> = with_session(&plain, |session| {
        write(session, 2, 2);
        session.run().unwrap();
        let outputs = plain.main().outputs().map(|t| t.name().to_string());
        outputs.map(|name| (name.clone(), session.output_bytes(&*name).unwrap().to_vec())).collect()
    });
    let mut golden: Vec<(&str, &[u8])> = answers.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    golden.extend([("x", &input[..]), ("n", &n[..])]);
    let tested = |golden: &[(&str, &[u8])]| {
        let bytes = with_golden(&plain, golden)?;
        let image = Image::new(&bytes).unwrap();
        assert_eq!(image.main().lengths(), plain.main().lengths());
        let (a, bytes) = golden[0];
        assert_eq!(image.main().golden(a), Some(bytes));
        Ok::<_, String>(with_session(&image, |session| session.self_test().map_err(|e| e.kind)))
    };
    assert_eq!(golden[0].1.len(), 2 * 2 * 4);
    assert_eq!(tested(&golden), Ok(Ok(())));
    // A row less, a row more, none.
    let more = [golden[0].1, &[0; 8]].concat();
    for other in [&more[..8], &more, &[]] {
        let mut golden = golden.clone();
        golden[0].1 = other;
        assert_eq!(tested(&golden), Ok(Err(Kind::SelfTest)), "{} bytes", other.len());
    }
    // Half a row, and more than there can be.
    for other in [&more[..12], &[0; 48]] {
        let mut golden = golden.clone();
        golden[0].1 = other;
        assert!(tested(&golden).unwrap_err().contains("\"a\" has 40 bytes"));
    }
}

/// `tests/capi` has no other way to such an image. With `KILN_RENEW` set, the file is written anew.
#[test]
fn the_image_that_c_programs_are_tested_with_is_this_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lengths.kiln");
    let image = common::lengths().image;
    if std::env::var_os("KILN_RENEW").is_some() {
        std::fs::write(&path, &image[..]).unwrap();
    }
    let renew = "tests/data/lengths.kiln is not what is built now: KILN_RENEW=1 cargo test --release --test lengths";
    assert!(std::fs::read(&path).unwrap() == image[..], "{renew}");
}

/// The same as it was compiled when images were of version 3.
#[test]
fn an_image_of_version_3_is_still_read() {
    let old = include_bytes!("data/lengths-version-3.kiln");
    let old = AlignedBytes::copy_of(old, 64);
    assert_eq!(Header::ref_from_prefix(&old).unwrap().0.version, 3);
    let built = common::lengths();
    let answers = |image: &[u8]| {
        with_session(&Image::new(image).unwrap(), |session| {
            write(session, 3, 2);
            session.run().unwrap();
            ["a", "b", "d", "sum"].map(|name| session.output::<f32>(name).unwrap().to_vec())
        })
    };
    assert_eq!(answers(&old), answers(&built.image));
}
