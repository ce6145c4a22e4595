//! Writes the index that makes looking a word up cheap; the compiler's part of [`text`](super::text).

use super::text::ENTRY;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Bytes of a vocabulary that an index can point into: 4 characters of 6 bits.
const BYTES: usize = 1 << 24;
/// Words that it can number: 3 characters.
const WORDS: usize = 1 << 18;

/// The index of a vocabulary (see [`text`](super::text)); `None` for one of more than 16 MB or 262,144 words, which is then
/// searched without.
pub fn build(vocabulary: &str) -> Option<String> {
    let mut lines = Vec::new();
    let mut offset = 0;
    for (id, line) in vocabulary.split('\n').enumerate() {
        lines.push((line, id, offset));
        offset += line.len() + 1;
    }
    if vocabulary.len() > BYTES || lines.len() > WORDS {
        return None;
    }
    lines.sort_unstable();
    lines.dedup_by_key(|line| line.0); // the first of equal words has the smallest id
    let mut index = String::with_capacity(lines.len() * ENTRY);
    for (_, id, offset) in lines {
        let digit = |n: usize, place: u32| (b'0' + (n >> (6 * place) & 63) as u8) as char;
        index.extend((0..4).rev().map(|place| digit(offset, place)));
        index.extend((0..3).rev().map(|place| digit(id, place)));
    }
    Some(index)
}

/// Adds what a compiler derives from a model's metadata: the index of its vocabulary. One that is there is replaced, so
/// that it always fits.
pub fn complete(metadata: &mut Vec<(String, String)>) {
    metadata.retain(|(key, _)| key != "kiln.text.index");
    let vocabulary = metadata.iter().find(|(key, _)| key == "kiln.text.vocabulary");
    if let Some(index) = vocabulary.and_then(|(_, words)| build(words)) {
        metadata.push(("kiln.text.index".to_string(), index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn entries_are_sorted_offsets_and_ids() {
        // Lines start at 0, 6, 12 and 14; "a" (line 3) sorts before "b" (line 2), and both behind "<".
        assert_eq!(build("<pad>\n<unk>\nb\na\nb").unwrap(), concat!("0000000", "0006001", "000>003", "000<002"));
    }

    #[test]
    fn an_old_index_is_replaced() {
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        let mut metadata = vec![pair("kiln.text.index", "old"), pair("kiln.text.vocabulary", "a"), pair("other", "kept")];
        complete(&mut metadata);
        assert_eq!(metadata.iter().filter(|(k, _)| k == "kiln.text.index").count(), 1);
        assert_eq!(metadata.last().unwrap().1, "0000000");
        let mut none = vec![pair("other", "kept")];
        complete(&mut none);
        assert_eq!(none.len(), 1);
    }
}
