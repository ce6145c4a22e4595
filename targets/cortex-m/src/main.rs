//! Runs two models on a Cortex-M without heap or OS: a text classifier that reads a word at a time, and a classifier of
//! pictures. Says label and scores of 20 inputs of each by semihosting, then what it cost.
//!
//! Lines: `text-lstm NUMBER LABEL SCORE...`, `digits-cnn NUMBER LABEL SCORE...` (scores: the bits of each `f32` in
//! hexadecimal), `steps NAME RUNS`, `stack BYTES`.
#![no_std]
#![no_main]

mod marks;
mod pictures;
mod say;
mod semihosting;
mod stack;

mod models {
    //! The images, their arenas' sizes and their ops: written by `build.rs`.
    #![allow(dead_code)] // those of the other models
    include!(concat!(env!("OUT_DIR"), "/models.rs"));
}

use kiln::error::Result;
use kiln::frontend::Text;
use kiln::{Aligned, Image, Session};
use semihosting::Line;

const SENTENCES: &str = include_str!("../../../models/data/sentences.txt");

/// One arena serves both models: they never run at the same time.
const ARENA: usize =
    if models::TEXT_LSTM_ARENA > models::DIGITS_CNN_ARENA { models::TEXT_LSTM_ARENA } else { models::DIGITS_CNN_ARENA };

// The entry may own a static: the runtime's macro hands it out as a `&mut`, once.
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; ARENA]> = Aligned([0; ARENA]);
    let outcome = text(&mut MEMORY.0)
        .and_then(|()| pictures::classify("digits-cnn", &models::DIGITS_CNN_IMAGE.0, &models::DIGITS_CNN_OPS, &mut MEMORY.0));
    say::end(outcome)
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
        say::answer("text-lstm", i, &image, session.output::<f32>("logits")?)?;
    }
    Line::new().word("steps text-lstm").number(words).end();
    Ok(())
}
