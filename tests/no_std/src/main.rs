//! The core ring in a program without std and without an allocator: `no-std IMAGE < INPUT > OUTPUT` runs the image once.
//! INPUT holds the bytes of all inputs, OUTPUT gets those of all outputs. Exit status: 0, an error's kind, or 100 for a
//! file that can't be read.
#![no_std]
#![no_main]

use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;
use core::ptr::addr_of_mut;
use kiln::error::{Error, Kind};
use kiln::kernels::Isa;
use kiln::{Aligned, Image, Session, ops};

/// Room for an image, and for its arena.
const ROOM: usize = 4 << 20;
static mut IMAGE: Aligned<[u8; ROOM]> = Aligned([0; ROOM]);
static mut ARENA: Aligned<[u8; ROOM]> = Aligned([0; ROOM]);

#[link(name = "c")]
unsafe extern "C" {
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn read(file: c_int, to: *mut u8, bytes: usize) -> isize;
    fn write(file: c_int, from: *const u8, bytes: usize) -> isize;
    fn abort() -> !;
}

#[unsafe(no_mangle)]
extern "C" fn main(arguments: c_int, argument: *const *const c_char) -> c_int {
    if arguments != 2 {
        return 100;
    }
    // SAFETY: the C runtime passes as many arguments as it says, and this is the only thread: nobody else uses the statics.
    let (file, image, arena) =
        unsafe { (open(*argument.add(1), 0), &mut (*addr_of_mut!(IMAGE)).0, &mut (*addr_of_mut!(ARENA)).0) };
    let Some(len) = fill(file, image) else { return 100 };
    match run(&image[..len], arena) {
        Ok(()) => 0,
        Err(error) => error.kind as c_int,
    }
}

fn run(image: &[u8], arena: &mut [u8]) -> kiln::error::Result<()> {
    let image = Image::new(image)?;
    let mut session = Session::new(&image, ops::set(Isa::Scalar)?, arena)?;
    for i in 0..image.main().inputs().len() {
        let input = session.input_bytes(i)?;
        if fill(0, input) != Some(input.len()) {
            return Err(Error::new(Kind::InputMissing, "the standard input is too short"));
        }
    }
    session.run()?;
    for i in 0..image.main().outputs().len() {
        let output = session.output_bytes(i)?;
        // SAFETY: the slice is readable.
        let written = unsafe { write(1, output.as_ptr(), output.len()) };
        assert!(written == output.len() as isize);
    }
    Ok(())
}

/// Reads until the file ends or the buffer is full: bytes read, `None` on an error.
fn fill(file: c_int, buffer: &mut [u8]) -> Option<usize> {
    let mut at = 0;
    while at < buffer.len() {
        // SAFETY: the rest of the buffer is writable.
        match unsafe { read(file, buffer[at..].as_mut_ptr(), buffer.len() - at) } {
            0 => break,
            n => at += usize::try_from(n).ok()?,
        }
    }
    Some(at)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: ends the program.
    unsafe { abort() }
}
