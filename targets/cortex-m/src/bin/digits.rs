//! Runs `digits-mlp`, which is small enough for 16 KB of RAM, on 20 pictures.
//!
//! Lines: `digits-mlp NUMBER LABEL SCORE...` (scores: the bits of each `f32` in hexadecimal), `steps digits-mlp RUNS`, `stack BYTES`.
#![no_std]
#![no_main]

#[path = "../marks.rs"]
mod marks;
#[path = "../pictures.rs"]
mod pictures;
#[path = "../say.rs"]
mod say;
#[path = "../semihosting.rs"]
mod semihosting;
#[path = "../stack.rs"]
mod stack;

mod models {
    //! The images, their arenas' sizes and their ops: written by `build.rs`.
    #![allow(dead_code)] // those of the other models
    include!(concat!(env!("OUT_DIR"), "/models.rs"));
}

use kiln::Aligned;

// The entry may own a static: the runtime's macro hands it out as a `&mut`, once.
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; models::DIGITS_MLP_ARENA]> = Aligned([0; models::DIGITS_MLP_ARENA]);
    say::end(pictures::classify("digits-mlp", &models::DIGITS_MLP_IMAGE.0, &models::DIGITS_MLP_OPS, &mut MEMORY.0))
}
