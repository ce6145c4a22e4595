//! Runs images op by op, and says how much of the stack each op takes, painting it anew before each: for `stacks.py`.
//!
//! Lines: `op KIND BYTES`, the kind by its number; `open BYTES`, for the calls that check an image and make a session; `image NAME`
//! before those of each.
#![no_std]
#![no_main]

#[path = "../semihosting.rs"]
#[allow(dead_code)] // no floats are written here
mod semihosting;
#[path = "../stack.rs"]
#[allow(dead_code)] // nor the whole stack
mod stack;

mod images {
    //! Names and bytes of the images, and the largest of their arenas: written by `build.rs`.
    include!(concat!(env!("OUT_DIR"), "/stacks.rs"));
}

use kiln::error::Result;
use kiln::exec::Budget;
use kiln::kernels::Isa;
use kiln::tensor::DType;
use kiln::{Aligned, Image, Session, ops};
use semihosting::Line;
use stack::Mark;

const NUMBERS: [f32; 9] = [0.5, -3.0, 1e30, 0.0, -1e9, 1e-40, f32::INFINITY, f32::NAN, 7.0];

// The entry may own a static: the runtime's macro hands it out as a `&mut`, once.
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; images::ARENA]> = Aligned([0; images::ARENA]);
    let mut good = true;
    for (name, bytes) in images::IMAGES {
        Line::new().word("image").word(name).end();
        if let Err(error) = run(bytes, &mut MEMORY.0) {
            Line::new().word("error").number(error.kind as u32).end();
            good = false;
        }
    }
    semihosting::exit(good)
}

#[inline(never)]
fn run(bytes: &[u8], arena: &mut [u8]) -> Result<()> {
    let set = ops::set(Isa::CortexMF)?;
    let mark = Mark::here();
    let image = Image::for_ops(bytes, set)?;
    let mut session = Session::new(&image, set, arena)?;
    say("open", None, mark.used());
    let program = image.main();
    for (i, input) in program.inputs().enumerate() {
        // Numbers of all kinds and sizes: some functions take more for the large ones. Integers are 0: they may be indices.
        match input.dtype() {
            DType::F32 => session.input::<f32>(i)?.iter_mut().zip(NUMBERS.iter().cycle()).for_each(|(to, x)| *to = *x),
            DType::F64 => session.input::<f64>(i)?.iter_mut().zip(NUMBERS.iter().cycle()).for_each(|(to, x)| *to = f64::from(*x)),
            _ => session.input_bytes(i)?.fill(0),
        }
    }
    for op in program.ops() {
        let mark = Mark::here();
        let ran = session.run_slice(Budget::op());
        let used = mark.used();
        say("op", Some(op.kind as u32), used);
        ran?;
    }
    Ok(())
}

#[inline(never)]
fn say(what: &str, kind: Option<u32>, used: u32) {
    let mut line = Line::new();
    line.word(what);
    if let Some(kind) = kind {
        line.number(kind);
    }
    line.number(used).end();
}
