//! What stands between the world and tensors: a text, a picture or a sound in, a label out. On the device too.
//!
//! A model says in its metadata how its input is made and how its output is read, so that a model file is complete by
//! itself. In an ONNX file these are `metadata_props`; compiling carries them into the image, so that a firmware reads
//! the same words from flash. Nothing here allocates: texts, vocabularies and labels are read where they lie.
//!
//! # Keys, for authors of models
//!
//! | key | value |
//! |---|---|
//! | `kiln.frontend` | `text`, `image` or `sound` |
//! | `kiln.input` | name of the input tensor that the front end fills; absent: the first input |
//! | `kiln.output` | name of the output tensor that holds one number a class; absent: the first output |
//! | `kiln.activation` | `softmax`: the output is logits, a softmax makes probabilities of them; `none` (as when absent): it is shown as it is |
//! | `kiln.labels` | one label a line, in the order of the classes |
//! | `kiln.text.tokenizer` | `words-v1` (see [`text`]) |
//! | `kiln.text.vocabulary` | one word a line; the number of the line, from 0, is its id. Line 0 is `<pad>`, line 1 `<unk>` |
//! | `kiln.text.length` | number of ids that the input holds: a longer text is cut, a shorter one filled up with 0 on the right. 0 (as when absent): as many as the text has; a text without a word is one `<unk>` |
//! | `kiln.text.index` | written by the compiler, never by an author: see [`text`] |
//! | `kiln.image.width`, `.height`, `.channels` | size in pixels; 1 channel (grey), 3 (red, green, blue) or 4 (with alpha) |
//! | `kiln.image.layout` | `nchw` (as when absent) or `nhwc` |
//! | `kiln.image.mean`, `kiln.image.std` | one number, or one a channel with commas between, in units of 0..255; `x = (pixel - mean) / std`. Absent: 0 and 1 |
//! | `kiln.sound.rate` | samples a second; one channel |
//! | `kiln.sound.length` | samples that the input holds, each -1..1: a longer sound is cut, a shorter one followed by zeros; 0: as many as the sound has |
//! | `kiln.stream` | written by the compiler: the input that takes one step of a stream with each run |
//!
//! The tensor that a text fills is of integers or `f32`, `[1, length]` or of any shape with as many elements; pictures
//! and sounds are `f32`.

pub mod answer;
#[cfg(feature = "alloc")]
pub mod index;
mod number;
pub mod picture;
pub mod sound;
pub mod text;

pub use answer::{Activation, Labels, softmax, top_k};
pub use picture::Picture;
pub use sound::Sound;
pub use text::Text;

use crate::error::{Error, Kind, Result};

/// How a model's input is made.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// From a text.
    Text(Text<'a>),
    /// From a picture.
    Image(Picture),
    /// From a sound.
    Sound(Sound),
}

/// What a model says about its input and output. A firmware that knows its model reads [`Text`], [`Picture`] or [`Labels`]
/// alone, so that the rest is not linked.
#[derive(Clone, Debug)]
pub struct Frontend<'a> {
    /// How the input is made.
    pub source: Source<'a>,
    /// The input tensor that it fills; `None`: the first one.
    pub input: Option<&'a str>,
    /// The output tensor that holds one number a class; `None`: the first one.
    pub output: Option<&'a str>,
    /// What makes probabilities of the output.
    pub activation: Activation,
    /// Names of the classes.
    pub labels: Labels<'a>,
}

impl<'a> Frontend<'a> {
    /// Reads a model's front end; `None` where it has none. `metadata` finds the value of a key.
    ///
    /// # Errors
    /// [`Kind::Value`] for a kind that is not known or a value that can't be read.
    pub fn read(metadata: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Frontend<'a>>> {
        let source = match metadata("kiln.frontend") {
            None => return Ok(None),
            Some("text") => Source::Text(Text::read(&metadata)?),
            Some("image") => Source::Image(Picture::read(&metadata)?),
            Some("sound") => Source::Sound(Sound::read(&metadata)?),
            Some(_) => return bad("kiln.frontend is not one of text, image and sound"),
        };
        Ok(Some(Frontend {
            source,
            input: metadata("kiln.input"),
            output: metadata("kiln.output"),
            activation: Activation::read(&metadata)?,
            labels: Labels::read(&metadata),
        }))
    }
}

/// Shorthand for metadata that can't be read.
pub(crate) const fn bad<T>(what: &'static str) -> Result<T> {
    Err(Error::new(Kind::Value, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_end_is_read_from_metadata() {
        let get = |key: &str| match key {
            "kiln.frontend" => Some("text"),
            "kiln.text.tokenizer" => Some("words-v1"),
            "kiln.text.vocabulary" => Some("<pad>\n<unk>\ngood"),
            "kiln.activation" => Some("softmax"),
            "kiln.labels" => Some("rotten\nfresh"),
            _ => None,
        };
        let f = Frontend::read(get).unwrap().unwrap();
        assert!(matches!(f.source, Source::Text(_)));
        assert_eq!(f.activation, Activation::Softmax);
        assert_eq!((f.labels.label(1), f.labels.label(2)), (Some("fresh"), None));
        assert!(f.input.is_none());
    }

    #[test]
    fn a_model_without_a_front_end_has_none_and_an_unknown_one_is_an_error() {
        assert!(Frontend::read(|_| None).unwrap().is_none());
        let smell = |key: &str| (key == "kiln.frontend").then_some("smell");
        assert_eq!(Frontend::read(smell).unwrap_err().kind, Kind::Value);
    }
}
