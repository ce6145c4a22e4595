//! From the samples of a sound to a tensor.

use super::Result;
use super::number;

/// The rate and length of a model's sound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sound {
    /// Samples a second; 0: the model does not say.
    pub rate: u32,
    /// Samples that the input holds; 0: as many as the sound has.
    pub length: usize,
}

impl Sound {
    /// Reads the sound front end; `metadata` finds the value of a key.
    ///
    /// # Errors
    /// [`Kind::Value`](crate::error::Kind::Value) for numbers that can't be read.
    pub fn read<'a>(metadata: &impl Fn(&str) -> Option<&'a str>) -> Result<Sound> {
        let rate = number::whole(metadata("kiln.sound.rate"), 0, "kiln.sound.rate is not a whole number")?;
        let length = number::whole(metadata("kiln.sound.length"), 0, "kiln.sound.length is not a whole number")?;
        Ok(Sound { rate, length: length as usize })
    }

    /// Writes samples, each -1..1: what does not fit is cut, what is left over becomes 0.
    pub fn fill(&self, samples: &[f32], out: &mut [f32]) {
        for (i, slot) in out.iter_mut().enumerate() {
            *slot = samples.get(i).copied().unwrap_or(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_are_cut_and_filled_up() {
        let sound = Sound::read(&|key| (key == "kiln.sound.length").then_some("3")).unwrap();
        assert_eq!(sound, Sound { rate: 0, length: 3 });
        let mut out = [9.0; 3];
        sound.fill(&[0.5], &mut out);
        assert_eq!(out, [0.5, 0.0, 0.0]);
        sound.fill(&[0.1, 0.2, 0.3, 0.4], &mut out);
        assert_eq!(out, [0.1, 0.2, 0.3]);
        assert!(Sound::read(&|_| Some("fast")).is_err());
    }
}
