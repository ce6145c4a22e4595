//! Classifies the pictures of digits, with any model that reads such.

use crate::semihosting::Line;
use crate::{marks, say};
use kiln::error::Result;
use kiln::frontend::Picture;
use kiln::ops::Entry;
use kiln::{Image, Session};

static PICTURES: &[u8] = include_bytes!("../images/digits.u8");

/// Says label and scores of each picture, then how many runs that took.
pub fn classify(name: &str, bytes: &[u8], ops: &[Entry], arena: &mut [u8]) -> Result<()> {
    let image = Image::for_ops(bytes, ops)?;
    let picture = Picture::read(&|key| image.metadata(key))?;
    let mut session = Session::new(&image, ops, arena)?;
    let mut pictures = 0;
    for (i, pixels) in PICTURES.chunks_exact(picture.elements()).enumerate() {
        picture.fill(pixels, session.input::<f32>("image")?)?;
        marks::region_begin();
        let ran = session.run();
        marks::region_end();
        ran?;
        pictures += 1;
        say::answer(name, i, &image, session.output::<f32>("logits")?)?;
    }
    Line::new().word("steps").word(name).number(pictures).end();
    Ok(())
}
