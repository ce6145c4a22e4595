//! From a model's output to an answer: probabilities, the best classes, their labels.

use super::{Result, bad};

/// What makes probabilities of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing: it is shown as it is.
    None,
    /// [`softmax`].
    Softmax,
}

impl Activation {
    /// Reads the activation; `metadata` finds the value of a key.
    ///
    /// # Errors
    /// [`Kind::Value`](crate::error::Kind::Value) for one that is not known.
    pub fn read<'a>(metadata: &impl Fn(&str) -> Option<&'a str>) -> Result<Activation> {
        match metadata("kiln.activation") {
            None | Some("none") => Ok(Activation::None),
            Some("softmax") => Ok(Activation::Softmax),
            Some(_) => bad("kiln.activation is neither softmax nor none"),
        }
    }

    /// Applies it.
    pub fn apply(self, scores: &mut [f32]) {
        if self == Activation::Softmax {
            softmax(scores);
        }
    }
}

/// The names of classes, one a line.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a>(Option<&'a str>);

impl<'a> Labels<'a> {
    /// Reads the labels; `metadata` finds the value of a key. A model may have none.
    pub fn read(metadata: &impl Fn(&str) -> Option<&'a str>) -> Labels<'a> {
        Labels(metadata("kiln.labels"))
    }

    /// The label of a class, if it has one.
    pub fn label(&self, class: usize) -> Option<&'a str> {
        self.0?.split('\n').nth(class)
    }

    /// Number of labels.
    pub fn count(&self) -> usize {
        self.0.map_or(0, |text| text.split('\n').count())
    }
}

/// `exp(x) / sum(exp(x))`, in place: positive numbers whose sum is 1. The largest is subtracted first, so that no `exp`
/// overflows.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in scores.iter_mut() {
        *x = libm::expf(*x - largest);
        sum += *x;
    }
    for x in scores {
        *x /= sum;
    }
}

/// Writes the classes with the largest scores, the largest first (of equal ones the lower class), and returns how many there are:
/// `best.len()`, or fewer where there are fewer scores.
pub fn top_k(scores: &[f32], best: &mut [(usize, f32)]) -> usize {
    let mut found = 0;
    for (class, &score) in scores.iter().enumerate() {
        // The place behind all that are at least as large; a NaN goes last.
        let place =
            best[..found].iter().position(|&(_, other)| score > other || (other.is_nan() && !score.is_nan())).unwrap_or(found);
        if place == best.len() {
            continue;
        }
        found = (found + 1).min(best.len());
        best[place..found].rotate_right(1);
        best[place] = (class, score);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_softmax_sums_to_one_and_does_not_overflow() {
        let mut x = [1000.0, 1000.0, -1000.0];
        softmax(&mut x);
        assert_eq!(x, [0.5, 0.5, 0.0]);
        let mut x = [0.0, 1.0, 2.0];
        softmax(&mut x);
        for (got, want) in x.iter().zip([0.09003057, 0.24472847, 0.66524096]) {
            assert!((got - want).abs() < 1e-6);
        }
        softmax(&mut []);
    }

    #[test]
    fn the_best_come_first() {
        let mut best = [(0, 0.0); 3];
        assert_eq!(top_k(&[0.1, 0.7, f32::NAN, 0.2, 0.7], &mut best), 3);
        assert_eq!(best, [(1, 0.7), (4, 0.7), (3, 0.2)]);
        assert_eq!(top_k(&[5.0], &mut best), 1);
        assert_eq!(best[0], (0, 5.0));
        assert_eq!(top_k(&[1.0], &mut []), 0);
    }

    #[test]
    fn labels_are_lines() {
        let labels = Labels::read(&|_| Some("no\nyes"));
        assert_eq!((labels.label(0), labels.label(1), labels.label(2), labels.count()), (Some("no"), Some("yes"), None, 2));
        assert_eq!(Labels::read(&|_| None).count(), 0);
        assert!(Activation::read(&|_| Some("sigmoid")).is_err());
    }
}
