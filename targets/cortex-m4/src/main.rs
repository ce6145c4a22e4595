//! Runs two models on a Cortex-M4F without heap or OS: a text classifier that reads a word at a time, and a classifier of
//! pictures. Says label and scores of 20 inputs of each by semihosting, then what it cost.
//!
//! Lines: `text-lstm NUMBER LABEL SCORE...`, `digits-cnn NUMBER LABEL SCORE...` (scores: the bits of each `f32` in
//! hexadecimal), `steps NAME RUNS`, `stack BYTES`.
#![no_std]
#![no_main]

mod marks;
mod semihosting;
mod stack;

mod models {
    //! The images, their arenas' sizes and their ops: written by `build.rs`.
    include!(concat!(env!("OUT_DIR"), "/models.rs"));
}

use core::panic::PanicInfo;
use kiln::error::{Error, Kind, Result, Where};
use kiln::frontend::{Labels, Picture, Text, top_k};
use kiln::{Aligned, Image, Session};
use semihosting::Line;

const SENTENCES: &str = include_str!("../../../models/data/sentences.txt");
static PICTURES: &[u8] = include_bytes!("../images/digits.u8");

/// One arena serves both models: they never run at the same time.
const ARENA: usize =
    if models::TEXT_LSTM_ARENA > models::DIGITS_CNN_ARENA { models::TEXT_LSTM_ARENA } else { models::DIGITS_CNN_ARENA };

// The entry may own a static: the runtime's macro hands it out as a `&mut`, once.
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; ARENA]> = Aligned([0; ARENA]);
    let outcome = text(&mut MEMORY.0).and_then(|()| digits(&mut MEMORY.0));
    if let Err(error) = outcome {
        let place = match error.at {
            Where::Nowhere => 0,
            Where::Offset(n) | Where::Op(n) | Where::Tensor(n) => n,
        };
        Line::new().word("error").word(error.what).number(place).end();
    }
    Line::new().word("stack").number(stack::used()).end();
    semihosting::exit(outcome.is_ok())
}

/// Each sentence word by word, with the state kept in between.
fn text(arena: &mut [u8]) -> Result<()> {
    let image = Image::for_ops(&models::TEXT_LSTM_IMAGE.0, &models::TEXT_LSTM_OPS)?;
    let text = Text::read(&|key| image.metadata(key))?;
    let mut session = Session::new(&image, &models::TEXT_LSTM_OPS, arena)?;
    let mut words = 0;
    for (i, sentence) in SENTENCES.lines().enumerate() {
        session.reset();
        for id in text.ids(sentence) {
            session.input::<i64>("ids")?.fill(id.into());
            marks::region_begin();
            let ran = session.run();
            marks::region_end();
            ran?;
            words += 1;
        }
        say("text-lstm", i, &image, session.output::<f32>("logits")?)?;
    }
    Line::new().word("steps text-lstm").number(words).end();
    Ok(())
}

fn digits(arena: &mut [u8]) -> Result<()> {
    let image = Image::for_ops(&models::DIGITS_CNN_IMAGE.0, &models::DIGITS_CNN_OPS)?;
    let picture = Picture::read(&|key| image.metadata(key))?;
    let mut session = Session::new(&image, &models::DIGITS_CNN_OPS, arena)?;
    let mut pictures = 0;
    for (i, pixels) in PICTURES.chunks_exact(picture.elements()).enumerate() {
        picture.fill(pixels, session.input::<f32>("image")?)?;
        marks::region_begin();
        let ran = session.run();
        marks::region_end();
        ran?;
        pictures += 1;
        say("digits-cnn", i, &image, session.output::<f32>("logits")?)?;
    }
    Line::new().word("steps digits-cnn").number(pictures).end();
    Ok(())
}

/// One answer: the label of the largest score, and all scores.
fn say(model: &str, number: usize, image: &Image<'_>, scores: &[f32]) -> Result<()> {
    let mut best = [(0, 0.0)];
    top_k(scores, &mut best);
    let label = Labels::read(&|key| image.metadata(key)).label(best[0].0);
    let label = label.ok_or(Error::new(Kind::NotFound, "the image has no label for the best score"))?;
    let line = Line::new().word(model).number(number as u32).word(label);
    scores.iter().fold(line, |line, &score| line.bits(score)).end();
    Ok(())
}

/// Takes no notice of what the panic says: so its texts, and the code that would format them, are never linked.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    Line::new().word("panic").end();
    semihosting::exit(false)
}

#[cortex_m_rt::exception]
unsafe fn HardFault(_: &cortex_m_rt::ExceptionFrame) -> ! {
    Line::new().word("hard fault").end();
    semihosting::exit(false)
}
