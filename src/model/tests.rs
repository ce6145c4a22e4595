use super::*;
use crate::plan::draft::{self, Draft, Storage, Value, ValueId};
use std::io::Write;

/// A program without ops: its output is its input.
fn image() -> Vec<u8> {
    let value = Value { name: "x".into(), dtype: DType::F32, dims: vec![1, 4], storage: Storage::Arena, bytes: 16 };
    let main = Draft {
        name: "main".into(),
        values: vec![value],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(0)],
        ..Draft::default()
    };
    let model = draft::Model { programs: vec![main], weights: vec![], metadata: vec![("k".into(), "v".into())] };
    plan::build(model, &plan::Options::default()).unwrap().image.to_vec()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn an_image_is_opened_and_run() {
    let file = file(&image());
    let model = Model::open(file.path()).unwrap();
    assert!(model.is_image());
    assert_eq!(model.metadata("k"), Some("v"));
    assert_eq!(model.inputs()[0].dims, Some(vec![Dim::Fixed(1), Dim::Fixed(4)]));
    let mut session = model.session().unwrap();
    drop(model);
    session.input::<f32>("x").unwrap().copy_from_slice(&[1., 2., 3., 4.]);
    session.run().unwrap();
    assert_eq!(session.output::<f32>("x").unwrap(), [1., 2., 3., 4.]);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let file = file(&image());
    let model = Model::open(file.path()).unwrap();
    let given = |name: &str, dtype, dims: &[usize]| {
        let given = Given { name: name.into(), dtype, dims: dims.to_vec(), bytes: None };
        model.session_for(&[given]).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(given("x", DType::F32, &[1, 4]), Ok(()));
    assert!(given("x", DType::F32, &[2, 4]).unwrap_err().contains("1x4, not 2x4"));
    assert!(given("x", DType::I64, &[1, 4]).unwrap_err().contains("float32"));
    assert!(given("z", DType::F32, &[1, 4]).unwrap_err().contains("no input \"z\""));
}

#[test]
fn other_files_are_refused() {
    assert!(matches!(Model::open("/nowhere/model.kiln"), Err(ModelError::File { .. })));
    assert!(matches!(Model::open(file(b"").path()), Err(ModelError::Format { .. })));
    assert!(matches!(Model::open(file(b"neither").path()), Err(ModelError::Format { .. })));
    let mut damaged = image();
    damaged.truncate(100);
    assert!(matches!(Model::open(file(&damaged).path()), Err(ModelError::Format { .. })));
    let options = Options { symbols: [("seq".to_string(), 4.into())].into(), ..Options::default() };
    assert!(matches!(Model::open_with(file(&image()).path(), options), Err(ModelError::Call(_))));
}
