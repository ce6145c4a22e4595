//! From a text to the ids of its words.
//!
//! # The tokenizer `words-v1`
//!
//! Letters `A`-`Z` become lower case, other bytes stay as they are. A token is the longest run of bytes that are ASCII
//! letters or digits, apostrophes, or 0x80 and above (so that words of any script stay whole); apostrophes at either end
//! of a run are left off, and a run of nothing else is no token. Each `!` and each `?` is a token of its own. All other
//! bytes separate. `It's "GOOD", really?!` has the tokens `it's`, `good`, `really`, `?`, `!`.
//!
//! # Looking a word up
//!
//! The vocabulary lies in the image as its author wrote it, one word a line. To find a word without building a table, the
//! compiler adds an index (`kiln.text.index`): the lines sorted by their words, [`ENTRY`] characters a line, of 6 bits each
//! (`'0'` is 0, `'o'` is 63): 4 for the byte where the line starts, 3 for the id; the highest first. A binary search then
//! finds one of 20,000 words with 15 comparisons: a few hundred cycles of a Cortex-M, without a byte of RAM. Without an
//! index the vocabulary is searched from its start to its end. A line that repeats an earlier one is never found.

use super::number;
use super::{Result, bad};

/// The id of what fills a text up.
pub const PAD: u32 = 0;

/// The id of a word that is not in the vocabulary.
pub const UNKNOWN: u32 = 1;

/// Characters of one entry of the index.
pub const ENTRY: usize = 7;

/// A model's vocabulary and the length of its input.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    vocabulary: &'a [u8],
    index: &'a [u8],
    length: usize,
}

impl<'a> Text<'a> {
    /// Reads the text front end; `metadata` finds the value of a key.
    ///
    /// # Errors
    /// [`Kind::Value`](crate::error::Kind::Value) for a tokenizer that is not known, a missing vocabulary, or a length that
    /// is no number.
    pub fn read(metadata: &impl Fn(&str) -> Option<&'a str>) -> Result<Text<'a>> {
        match metadata("kiln.text.tokenizer") {
            Some("words-v1") => {}
            Some(_) => return bad("kiln.text.tokenizer is not words-v1, the only one there is"),
            None => return bad("the metadata lack kiln.text.tokenizer"),
        }
        let Some(vocabulary) = metadata("kiln.text.vocabulary") else { return bad("the metadata lack kiln.text.vocabulary") };
        let length = number::whole(metadata("kiln.text.length"), 0, "kiln.text.length is not a whole number")?;
        let index = metadata("kiln.text.index").unwrap_or_default().as_bytes();
        Ok(Text { vocabulary: vocabulary.as_bytes(), index, length: length as usize })
    }

    /// Number of ids that the model's input holds; 0: as many as a text has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id of a word, in any case; [`UNKNOWN`] for one that is not in the vocabulary.
    pub fn id(&self, word: &[u8]) -> u32 {
        let found = if self.index.is_empty() { self.scan(word) } else { self.search(word) };
        found.unwrap_or(UNKNOWN)
    }

    /// The ids of a text's words, in their order: neither cut nor filled up.
    pub fn ids<'t>(&self, text: &'t str) -> impl Iterator<Item = u32> + use<'a, 't> {
        let me = *self;
        words(text).map(move |word| me.id(word))
    }

    /// Number of ids that [`fill`](Text::fill) wants room for.
    pub fn room(&self, text: &str) -> usize {
        if self.length > 0 { self.length } else { words(text).count().max(1) }
    }

    /// Writes the ids of a text: what does not fit is cut, what is left over becomes [`PAD`]. Where the length is that of
    /// the text ([`length`](Text::length) is 0), a text without a word is one [`UNKNOWN`].
    pub fn fill<T: From32>(&self, text: &str, out: &mut [T]) {
        let mut ids = self.ids(text);
        for (i, slot) in out.iter_mut().enumerate() {
            let empty = if i == 0 && self.length == 0 { UNKNOWN } else { PAD };
            *slot = T::from_u32(ids.next().unwrap_or(empty));
        }
    }

    /// By the index.
    fn search(&self, word: &[u8]) -> Option<u32> {
        let (mut low, mut high) = (0, self.index.len() / ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.index.get(middle * ENTRY..(middle + 1) * ENTRY)?;
            let (offset, id) = (digits(&entry[..4]), digits(&entry[4..]));
            match compare(word, self.vocabulary.get(offset as usize..)?) {
                core::cmp::Ordering::Less => high = middle,
                core::cmp::Ordering::Greater => low = middle + 1,
                core::cmp::Ordering::Equal => return Some(id),
            }
        }
        None
    }

    /// From the vocabulary's start to its end.
    fn scan(&self, word: &[u8]) -> Option<u32> {
        let mut lines = self.vocabulary.split(|&b| b == b'\n');
        lines.position(|line| compare(word, line).is_eq()).map(|id| id as u32)
    }
}

/// What an id can be written as: the element types of an input that takes ids.
pub trait From32: Copy {
    /// The id as this type; every id of a model that fits its own table does.
    fn from_u32(id: u32) -> Self;
}

macro_rules! from32 {
    ($($type:ty),*) => {$(
        impl From32 for $type {
            fn from_u32(id: u32) -> Self {
                id as $type
            }
        }
    )*};
}
from32!(i8, u8, i16, u16, i32, u32, i64, u64, f32);

/// The number that these characters of 6 bits stand for.
fn digits(text: &[u8]) -> u32 {
    text.iter().fold(0, |n, &b| (n << 6) | (b.wrapping_sub(b'0') & 63) as u32)
}

/// A word in any case against the lower-case line at the start of `lines`.
fn compare(word: &[u8], lines: &[u8]) -> core::cmp::Ordering {
    let line = lines.iter().copied().take_while(|&b| b != b'\n');
    word.iter().map(u8::to_ascii_lowercase).cmp(line)
}

/// The tokens of a text by `words-v1`, each as it stands in the text (not yet in lower case).
pub fn words(text: &str) -> impl Iterator<Item = &[u8]> {
    Words { rest: text.as_bytes() }
}

struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (&first, tail) = self.rest.split_first()?;
            if matches!(first, b'!' | b'?') {
                let (token, rest) = self.rest.split_at(1);
                self.rest = rest;
                return Some(token);
            }
            if !in_word(first) {
                self.rest = tail;
                continue;
            }
            let end = self.rest.iter().position(|&b| !in_word(b)).unwrap_or(self.rest.len());
            let (mut token, rest) = self.rest.split_at(end);
            self.rest = rest;
            while let [b'\'', inner @ ..] | [inner @ .., b'\''] = token {
                token = inner;
            }
            if !token.is_empty() {
                return Some(token);
            }
        }
    }
}

fn in_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'\'' || b >= 0x80
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    fn tokens(text: &str) -> Vec<String> {
        words(text).map(|w| String::from_utf8(w.to_ascii_lowercase()).unwrap()).collect()
    }

    fn text<'a>(vocabulary: &'a str, index: &'a str, length: &'a str) -> Text<'a> {
        Text::read(&|key| match key {
            "kiln.text.tokenizer" => Some("words-v1"),
            "kiln.text.vocabulary" => Some(vocabulary),
            "kiln.text.index" if !index.is_empty() => Some(index),
            "kiln.text.length" => Some(length),
            _ => None,
        })
        .unwrap()
    }

    #[test]
    fn words_are_runs_of_letters_digits_and_apostrophes() {
        assert_eq!(tokens("A gripping story, I loved every minute"), ["a", "gripping", "story", "i", "loved", "every", "minute"]);
        assert_eq!(tokens("It's 90's 'quoted' ''"), ["it's", "90's", "quoted"]);
        assert_eq!(tokens("rock'n'roll' ''tis"), ["rock'n'roll", "tis"]);
        assert_eq!(tokens("wow!!really?"), ["wow", "!", "!", "really", "?"]);
        assert_eq!(tokens("well-made_film/2.5"), ["well", "made", "film", "2", "5"]);
        assert_eq!(tokens("Café NAÏVE straße—ok"), ["café", "naÏve", "straße—ok"]);
        assert_eq!(tokens(" \t\n.,;'"), [""; 0]);
        assert_eq!(tokens(""), [""; 0]);
    }

    #[test]
    fn an_index_finds_what_a_scan_finds() {
        let mut vocabulary = String::from("<pad>\n<unk>");
        for i in 0..3000u32 {
            vocabulary += &format!("\nw{}", i.wrapping_mul(2_654_435_761) % 5000);
        }
        vocabulary += "\né\nit's\n!";
        let index = crate::frontend::index::build(&vocabulary).unwrap();
        let (fast, slow) = (text(&vocabulary, &index, "0"), text(&vocabulary, "", "0"));
        for i in 0..5000 {
            let word = format!("W{i}");
            assert_eq!(fast.id(word.as_bytes()), slow.id(word.as_bytes()), "{word}");
        }
        for word in ["é", "it's", "!", "?", "", "zzz", "<unk>", "w", "w1\nw2"] {
            assert_eq!(fast.id(word.as_bytes()), slow.id(word.as_bytes()), "{word}");
        }
        assert_eq!(fast.id(b"IT'S"), 3003);
    }

    #[test]
    fn texts_are_cut_and_filled_up() {
        let vocabulary = "<pad>\n<unk>\ngood\nfilm";
        let mut ids = [9i64; 4];
        text(vocabulary, "", "4").fill("Good? film", &mut ids);
        assert_eq!(ids, [2, 1, 3, 0]);
        let mut two = [9i32; 2];
        text(vocabulary, "", "2").fill("film film good", &mut two);
        assert_eq!(two, [3, 3]);
        text(vocabulary, "", "2").fill("", &mut two);
        assert_eq!(two, [0, 0]);
        let free = text(vocabulary, "", "0");
        assert_eq!((free.room("good film"), free.room("...")), (2, 1));
        let mut one = [9f32];
        free.fill("...", &mut one);
        assert_eq!(one, [1.0]);
    }

    #[test]
    fn a_damaged_index_finds_nothing_and_breaks_nothing() {
        for index in ["ooooooo", "0000", "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}", "oooo00100000020000003"] {
            assert_eq!(text("<pad>\n<unk>\ngood", index, "0").id(b"good"), UNKNOWN);
        }
    }
}
