//! Pictures and sounds from files.

use super::{Failure, Result};
use crate::frontend::{Picture, Sound};
use std::path::Path;

/// The pixels of a picture file (PNG, JPEG, BMP, PNM), turned to the size and channels that a model wants: row by row, the
/// channels of a pixel side by side, in units of 0..255.
pub fn pixels(path: &Path, want: &Picture) -> Result<Vec<u8>> {
    let broken = |e: &dyn std::fmt::Display| {
        Failure::new(format!("{}: {e}: the model wants the path of a picture (PNG, JPEG, BMP, PNM)", path.display()))
    };
    let reader = image::ImageReader::open(path).map_err(|e| broken(&e))?;
    let picture = reader.with_guessed_format().map_err(|e| broken(&e))?.decode().map_err(|e| broken(&e))?;
    let (width, height) = (want.width as u32, want.height as u32);
    let picture = match (picture.width(), picture.height()) == (width, height) {
        true => picture,
        false => picture.resize_exact(width, height, image::imageops::FilterType::Triangle),
    };
    Ok(match want.channels {
        1 => picture.into_luma8().into_raw(),
        3 => picture.into_rgb8().into_raw(),
        _ => picture.into_rgba8().into_raw(),
    })
}

/// The samples of a WAV file, each -1..1; several channels become their mean.
pub fn samples(path: &Path, want: &Sound) -> Result<Vec<f32>> {
    let broken = |e: hound::Error| Failure::new(format!("{}: {e}: the model wants the path of a sound (WAV)", path.display()));
    let mut reader = hound::WavReader::open(path).map_err(broken)?;
    let spec = reader.spec();
    if want.rate != 0 && spec.sample_rate != want.rate {
        let (found, rate) = (spec.sample_rate, want.rate);
        return Err(Failure::new(format!(
            "{}: it has {found} samples a second, the model wants {rate}: resample it",
            path.display()
        )));
    }
    let all: std::result::Result<Vec<f32>, _> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect(),
        hound::SampleFormat::Int => {
            let full = (1u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 / full)).collect()
        }
    };
    let channels = spec.channels.max(1) as usize;
    Ok(all.map_err(broken)?.chunks(channels).map(|c| c.iter().sum::<f32>() / c.len() as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, channels: usize) -> Picture {
        Picture { width, height, channels, channels_last: false, mean: [0.0; 4], std: [1.0; 4] }
    }

    #[test]
    fn pictures_are_turned_to_the_size_and_channels_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        image::GrayImage::from_raw(2, 2, vec![0, 50, 100, 255]).unwrap().save(&path).unwrap();
        assert_eq!(pixels(&path, &grey(2, 2, 1)).unwrap(), [0, 50, 100, 255]);
        assert_eq!(pixels(&path, &grey(2, 2, 3)).unwrap()[3..6], [50, 50, 50]);
        assert_eq!(pixels(&path, &grey(28, 28, 1)).unwrap().len(), 784);
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nrubbish").unwrap();
        assert!(matches!(pixels(&path, &grey(2, 2, 1)), Err(Failure::Message(m)) if m.contains("a.png")));
    }

    #[test]
    fn sounds_are_scaled_and_mixed_and_never_resampled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let spec =
            hound::WavSpec { channels: 2, sample_rate: 8000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        for s in [16384i16, 0, -32768, -32768] {
            writer.write_sample(s).unwrap();
        }
        writer.finalize().unwrap();
        assert_eq!(samples(&path, &Sound { rate: 8000, length: 0 }).unwrap(), [0.25, -1.0]);
        assert!(samples(&path, &Sound { rate: 16000, length: 0 }).is_err());
        std::fs::write(&path, b"RIFF").unwrap();
        assert!(samples(&path, &Sound { rate: 0, length: 0 }).is_err());
    }
}
