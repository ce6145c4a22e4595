//! Attributes of an ONNX node, with their defaults.

use tract_onnx::pb::{AttributeProto, NodeProto};

/// The attributes of a node.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub &'a NodeProto);

impl<'a> Attributes<'a> {
    fn find(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|a| a.name == name)
    }

    /// Whether it is there.
    pub fn has(self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A number.
    pub fn int(self, name: &str, default: i64) -> i64 {
        self.find(name).map_or(default, |a| a.i)
    }

    /// A real number.
    pub fn float(self, name: &str, default: f32) -> f32 {
        self.find(name).map_or(default, |a| a.f)
    }

    /// Numbers, if they are there.
    pub fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|a| &*a.ints)
    }

    /// Real numbers, if they are there.
    pub fn floats(self, name: &str) -> Option<&'a [f32]> {
        self.find(name).map(|a| &*a.floats)
    }

    /// Text.
    pub fn text(self, name: &str, default: &'a str) -> &'a str {
        self.find(name).map_or(default, |a| std::str::from_utf8(&a.s).unwrap_or(default))
    }

    /// Texts, if they are there.
    pub fn texts(self, name: &str) -> Option<Vec<&'a str>> {
        self.find(name).map(|a| a.strings.iter().map(|s| std::str::from_utf8(s).unwrap_or("")).collect())
    }
}

/// An attribute that holds a number.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() }
}

/// An attribute that holds numbers.
pub(super) fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { name: name.into(), ints, r#type: 7, ..Default::default() }
}
