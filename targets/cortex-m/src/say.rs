//! What the firmware says of answers, and at its end.

use crate::semihosting::{self, Line};
use crate::stack;
use kiln::Image;
use kiln::error::{Error, Kind, Result, Where};
use kiln::frontend::{Labels, top_k};

/// One answer: the label of the largest score, and all scores.
pub fn answer(model: &str, number: usize, image: &Image<'_>, scores: &[f32]) -> Result<()> {
    let mut best = [(0, 0.0)];
    top_k(scores, &mut best);
    let label = Labels::read(&|key| image.metadata(key)).label(best[0].0);
    let label = label.ok_or(Error::new(Kind::NotFound, "the image has no label for the best score"))?;
    let mut line = Line::new();
    line.word(model).number(number as u32).word(label);
    scores.iter().for_each(|&score| _ = line.bits(score));
    line.end();
    Ok(())
}

/// The error, if there is one, and the stack that was used; then the end.
pub fn end(outcome: Result<()>) -> ! {
    if let Err(error) = outcome {
        let place = match error.place() {
            Where::Nowhere => 0,
            Where::Offset(n) | Where::Op(n) | Where::Tensor(n) => n,
        };
        Line::new().word("error").number(error.kind as u32).word(error.what()).number(place).end();
    }
    Line::new().word("stack").number(stack::used()).end();
    semihosting::exit(outcome.is_ok())
}
