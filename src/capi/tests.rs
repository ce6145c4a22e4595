//! The numbers of the C ABI. What the functions do is tested from C (`tests/capi`).

use super::*;
use crate::error::Kind;
use crate::program::OpKind;
use crate::tensor::DType;
use core::ffi::CStr;
use core::mem::MaybeUninit;

const KINDS: [Kind; 13] = [
    Kind::BadImage,
    Kind::Version,
    Kind::Alignment,
    Kind::ArenaTooSmall,
    Kind::MissingOp,
    Kind::NotFound,
    Kind::DType,
    Kind::Shape,
    Kind::InputMissing,
    Kind::Value,
    Kind::Isa,
    Kind::Extern,
    Kind::SelfTest,
];

fn text(status: kiln_status) -> &'static str {
    // SAFETY: the texts end in a zero byte and are static.
    unsafe { CStr::from_ptr(kiln_status_text(MaybeUninit::new(status))) }.to_str().unwrap()
}

#[test]
fn statuses_have_the_numbers_of_kinds_and_texts_of_their_own() {
    let mut texts = vec![text(kiln_status::KILN_OK), text(kiln_status::KILN_NULL), text(kiln_status::KILN_NOT_INITIALIZED)];
    for kind in KINDS {
        assert_eq!(kiln_status::of(kind) as i32, kind as i32, "{kind:?}");
        texts.push(text(kiln_status::of(kind)));
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), KINDS.len() + 3);
    assert!(!texts.contains(&"not a status of kiln"));
}

#[test]
fn element_types_have_the_numbers_of_the_image() {
    for dtype in DType::ALL {
        assert_eq!(kiln_dtype::from(dtype) as i32, dtype as i32);
    }
}

#[test]
fn all_ops_are_listed_once_by_kiln_ops_all() {
    let mut ops = kiln_ops { list: [core::ptr::null(); KILN_MAX_OPS] };
    // SAFETY: a `kiln_ops`, and then one that the library has written.
    let entries = unsafe {
        assert_eq!(kiln_ops_all(&mut ops), kiln_status::KILN_OK);
        ops.entries()
    };
    let kinds: Vec<OpKind> = entries.map(|entry| entry.kind).collect();
    assert_eq!(kinds, OpKind::ALL);
}
