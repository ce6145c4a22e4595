//! From the pixels of a picture to numbers.

use super::number;
use super::{Result, bad};
use crate::error::{Error, Kind};

/// The largest number of channels.
pub const MAX_CHANNELS: usize = 4;

/// The size, layout and normalisation of a model's picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Numbers of a pixel: 1 (grey), 3 (red, green, blue) or 4 (with alpha).
    pub channels: usize,
    /// The channels of a pixel lie side by side in the tensor; otherwise each channel is a plane.
    pub channels_last: bool,
    /// Subtracted from each channel, in units of 0..255.
    pub mean: [f32; MAX_CHANNELS],
    /// What the difference is divided by.
    pub std: [f32; MAX_CHANNELS],
}

impl Picture {
    /// Reads the image front end; `metadata` finds the value of a key.
    ///
    /// # Errors
    /// [`Kind::Value`] for a size that is missing, a layout that is not known, and for numbers that can't be read.
    pub fn read<'a>(metadata: &impl Fn(&str) -> Option<&'a str>) -> Result<Picture> {
        let size = |key, what| number::whole(metadata(key), 0, what).map(|n| n as usize);
        let width = size("kiln.image.width", "kiln.image.width is not a whole number")?;
        let height = size("kiln.image.height", "kiln.image.height is not a whole number")?;
        let channels = size("kiln.image.channels", "kiln.image.channels is not a whole number")?;
        if width == 0 || height == 0 || !matches!(channels, 1 | 3 | 4) {
            return bad("kiln.image.width, .height and .channels must be given: at least 1, at least 1, and 1, 3 or 4");
        }
        let channels_last = match metadata("kiln.image.layout") {
            None | Some("nchw") => false,
            Some("nhwc") => true,
            Some(_) => return bad("kiln.image.layout is neither nchw nor nhwc"),
        };
        let mean = numbers(metadata("kiln.image.mean"), channels, 0.0, "kiln.image.mean is not one number, or one a channel")?;
        let std = numbers(metadata("kiln.image.std"), channels, 1.0, "kiln.image.std is not one number, or one a channel")?;
        if std[..channels].contains(&0.0) {
            return bad("kiln.image.std must not be 0");
        }
        Ok(Picture { width, height, channels, channels_last, mean, std })
    }

    /// Numbers of the whole picture.
    pub fn elements(&self) -> usize {
        self.width.saturating_mul(self.height).saturating_mul(self.channels)
    }

    /// Normalises the pixels of a picture, row by row, the channels of a pixel side by side, each in units of 0..255.
    ///
    /// # Errors
    /// [`Kind::Shape`] when `pixels` or `out` does not hold [`elements`](Picture::elements) numbers.
    pub fn fill<P: Copy + Into<f32>>(&self, pixels: &[P], out: &mut [f32]) -> Result<()> {
        if pixels.len() != self.elements() || out.len() != pixels.len() {
            return Err(Error::new(
                Kind::Shape,
                "the pixels or the input tensor are not of the size that the metadata give the picture",
            ));
        }
        let plane = self.width * self.height;
        for (i, pixel) in pixels.chunks_exact(self.channels).enumerate() {
            for (c, ((&p, mean), std)) in pixel.iter().zip(&self.mean).zip(&self.std).enumerate() {
                let at = if self.channels_last { i * self.channels + c } else { c * plane + i };
                if let Some(slot) = out.get_mut(at) {
                    *slot = (p.into() - mean) / std;
                }
            }
        }
        Ok(())
    }
}

/// One number for all channels, or one for each.
fn numbers(text: Option<&str>, channels: usize, default: f32, what: &'static str) -> Result<[f32; MAX_CHANNELS]> {
    let mut values = [default; MAX_CHANNELS];
    let Some(text) = text else { return Ok(values) };
    let mut count = 0;
    for part in text.split(',') {
        let (Some(slot), Some(value)) = (values.get_mut(count), number::decimal(part)) else { return bad(what) };
        *slot = value;
        count += 1;
    }
    if count == 1 {
        values = [values[0]; MAX_CHANNELS];
    } else if count != channels {
        return bad(what);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(layout: &'static str, mean: &'static str, std: &'static str) -> Result<Picture> {
        Picture::read(&|key| match key {
            "kiln.image.width" => Some("2"),
            "kiln.image.height" => Some("1"),
            "kiln.image.channels" => Some("3"),
            "kiln.image.layout" => Some(layout),
            "kiln.image.mean" => Some(mean),
            "kiln.image.std" => Some(std),
            _ => None,
        })
    }

    #[test]
    fn pixels_are_normalised_into_either_layout() {
        let pixels = [10u8, 20, 30, 40, 50, 60];
        let mut out = [0.0; 6];
        read("nchw", "10, 20, 30", "10").unwrap().fill(&pixels, &mut out).unwrap();
        assert_eq!(out, [0.0, 3.0, 0.0, 3.0, 0.0, 3.0]);
        read("nhwc", "0", "1,2,5").unwrap().fill(&pixels, &mut out).unwrap();
        assert_eq!(out, [10.0, 10.0, 6.0, 40.0, 25.0, 12.0]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let picture = read("nchw", "0", "1").unwrap();
        assert_eq!(picture.fill(&[0u8; 5], &mut [0.0; 6]).unwrap_err().kind, Kind::Shape);
        assert_eq!(picture.fill(&[0u8; 6], &mut [0.0; 5]).unwrap_err().kind, Kind::Shape);
        for (layout, mean, std) in
            [("chw", "0", "1"), ("nchw", "1,2", "1"), ("nchw", "0", "0"), ("nchw", "x", "1"), ("nchw", "1,2,3,4,5", "1")]
        {
            assert_eq!(read(layout, mean, std).unwrap_err().kind, Kind::Value, "{layout} {mean} {std}");
        }
        assert!(Picture::read(&|_| None).is_err());
    }
}
