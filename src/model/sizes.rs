//! What a symbol of a model's shapes may stand for.

use std::fmt;
use std::str::FromStr;

/// The sizes that a symbol may stand for: one, or those of a range.
///
/// As text, `64`, `1..512` (both ends included) or `16..512:16` (every 16th from the first on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    from: usize,
    to: usize,
    step: usize,
}

impl Sizes {
    /// The sizes from one to another, both included, every `step`-th.
    ///
    /// # Errors
    /// A message, when the last is not one of them, or the step is 0.
    pub fn range(from: usize, to: usize, step: usize) -> Result<Sizes, String> {
        if step == 0 {
            return Err("the step of a range must be 1 or more".into());
        }
        if to < from {
            return Err(format!("a range goes from the smaller size to the larger: {to}..{from}"));
        }
        if !(to - from).is_multiple_of(step) {
            let last = to - (to - from) % step;
            return Err(format!("steps of {step} from {from} do not meet {to}: end at {last}, or at {}", last + step));
        }
        Ok(Sizes { from, to, step })
    }

    /// The size, if there is but one.
    pub fn one(self) -> Option<usize> {
        (self.from == self.to).then_some(self.to)
    }

    /// Whether a size is among them.
    pub fn contains(self, size: usize) -> bool {
        (self.from..=self.to).contains(&size) && (size - self.from).is_multiple_of(self.step)
    }

    /// How many there are.
    pub fn count(self) -> usize {
        (self.to - self.from) / self.step + 1
    }

    /// All of them, the largest first.
    pub fn descending(self) -> impl Iterator<Item = usize> {
        (0..self.count()).rev().map(move |i| self.from + i * self.step)
    }
}

impl From<usize> for Sizes {
    fn from(size: usize) -> Sizes {
        Sizes { from: size, to: size, step: 1 }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("\"{text}\" is not a whole number"));
        let Some((from, rest)) = text.split_once("..") else { return number(text).map(Sizes::from) };
        let (to, step) = rest.split_once(':').map_or((rest, "1"), |(to, step)| (to, step));
        Sizes::range(number(from)?, number(to)?, number(step)?)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.one(), self.step) {
            (Some(size), _) => write!(f, "{size}"),
            (None, 1) => write!(f, "{}..{}", self.from, self.to),
            (None, step) => write!(f, "{}..{}:{step}", self.from, self.to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends() {
        let sizes: Sizes = "1..4".parse().unwrap();
        assert_eq!(sizes.descending().collect::<Vec<_>>(), [4, 3, 2, 1]);
        assert_eq!((sizes.one(), sizes.count()), (None, 4));
        let sizes: Sizes = "16..48:16".parse().unwrap();
        assert_eq!(sizes.descending().collect::<Vec<_>>(), [48, 32, 16]);
        assert!(sizes.contains(32) && !sizes.contains(33) && !sizes.contains(0) && !sizes.contains(64));
        assert_eq!("64".parse::<Sizes>().unwrap().one(), Some(64));
        for text in ["64", "1..4", "16..48:16"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_ranges_are_explained() {
        let error = |text: &str| text.parse::<Sizes>().unwrap_err();
        assert_eq!(error("-1"), "\"-1\" is not a whole number");
        assert_eq!(error("1.."), "\"\" is not a whole number");
        assert_eq!(error("8..1"), "a range goes from the smaller size to the larger: 1..8");
        assert_eq!(error("1..8:0"), "the step of a range must be 1 or more");
        assert_eq!(error("1..8:4"), "steps of 4 from 1 do not meet 8: end at 5, or at 9");
    }
}
