//! Nothing but the runtime with the ops that `KILN_OPS` names: what it takes of flash is what they take. It is linked and
//! measured (`sizes.py`), not run.
#![no_std]
#![no_main]

mod model {
    //! The ops: written by `build.rs`.
    include!(concat!(env!("OUT_DIR"), "/size.rs"));
}

use core::hint::black_box;
use core::panic::PanicInfo;
use kiln::error::Result;
use kiln::{Aligned, Image, Session};

/// Stands for an image. The compiler does not see what is in it.
static IMAGE: Aligned<[u8; 64]> = Aligned([0; 64]);

#[cortex_m_rt::entry]
fn main() -> ! {
    static mut MEMORY: Aligned<[u8; 64]> = Aligned([0; 64]);
    loop {
        if model::LINKED {
            black_box(infer(black_box(&IMAGE.0), &mut MEMORY.0).is_ok());
        }
    }
}

fn infer(bytes: &[u8], arena: &mut [u8]) -> Result<()> {
    let image = Image::for_ops(bytes, &model::OPS)?;
    let mut session = Session::new(&image, &model::OPS, arena)?;
    black_box(session.input_bytes(0)?);
    session.run()?;
    black_box(session.output_bytes(0)?);
    Ok(())
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}
