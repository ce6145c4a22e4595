//! Runs one of MLPerf Tiny's networks once, on the reference's input, and says what it answers and what it cost. The binary's
//! name says which network.
//!
//! Lines: `output BITS...` (each `f32` in hexadecimal); `stack ALL OPEN RUN`, in bytes: at most in all, this program's own among it; by
//! the calls that check the image and make a session; by the run.

#[path = "marks.rs"]
mod marks;
#[path = "memory.rs"]
mod memory;
#[path = "semihosting.rs"]
mod semihosting;
#[path = "stack.rs"]
mod stack;

mod model {
    //! The image, its arena's size, its ops and the reference's input: written by `build.rs`.
    include!(concat!(env!("OUT_DIR"), "/", env!("CARGO_BIN_NAME"), ".rs"));
}

use kiln::error::{Error, Result};
use kiln::{Aligned, Image, Session};
use semihosting::Line;
use stack::Mark;

// The entry may own a static: the runtime's macro hands it out as a `&mut`, once.
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; model::ARENA]> = Aligned([0; model::ARENA]);
    let outcome = infer(&mut MEMORY.0);
    if let Err(error) = outcome {
        say_error(error);
    }
    semihosting::exit(outcome.is_ok())
}

fn infer(arena: &mut [u8]) -> Result<()> {
    let mark = Mark::here();
    let image = Image::for_ops(&model::IMAGE.0, &model::OPS)?;
    // Where it was made: moved out, there would be two of it on the stack.
    let mut made = Session::new(&image, &model::OPS, arena);
    let session = made.as_mut().map_err(|error| *error)?;
    let (opening, before) = (mark.used(), stack::used());
    session.input_bytes(0)?.copy_from_slice(&model::INPUT.0);
    let mark = Mark::here();
    marks::region_begin();
    let ran = session.run();
    marks::region_end();
    let (running, all) = (mark.used(), stack::used());
    ran?;
    say_output(session.output::<f32>(0)?);
    say_stack(before.max(all), opening, running);
    Ok(())
}

// Lines are on the stack, so functions of their own write them: they are not there while the network runs.
#[inline(never)]
fn say_output(values: &[f32]) {
    let mut line = Line::new();
    line.word("output");
    values.iter().for_each(|&x| _ = line.bits(x));
    line.end();
}

#[inline(never)]
fn say_error(error: Error) {
    Line::new().word("error").number(error.kind as u32).word(error.what()).end();
}

#[inline(never)]
fn say_stack(all: u32, open: u32, run: u32) {
    Line::new().word("stack").number(all).number(open).number(run).end();
}
