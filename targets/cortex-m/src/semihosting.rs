//! Text to the debugger (here QEMU), and the end of the program, by Arm semihosting: when all is done, at a panic, at a fault.
//! Numbers are written by hand: `core::fmt` would be the largest thing in the firmware.

use core::arch::asm;
use core::panic::PanicInfo;

const SYS_WRITE0: usize = 0x04;
const SYS_EXIT: usize = 0x18;
const APPLICATION_EXIT: usize = 0x20026;
const RUN_TIME_ERROR: usize = 0x20023;

fn request(operation: usize, argument: usize) {
    // SAFETY: the debugger answers in r0 and reads no more than what the argument points to.
    unsafe { asm!("bkpt #0xab", inout("r0") operation => _, in("r1") argument, options(nostack)) }
}

/// Ends the program; QEMU's exit status is 0 or 1.
pub fn exit(ok: bool) -> ! {
    loop {
        request(SYS_EXIT, if ok { APPLICATION_EXIT } else { RUN_TIME_ERROR });
    }
}

/// One line of text, sent when it is full or ended. Words are separated by single spaces.
pub struct Line {
    bytes: [u8; 64],
    len: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Line {
        Line { bytes: [0; 64], len: 0 }
    }

    #[inline(never)]
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        if self.len == self.bytes.len() - 1 {
            self.send();
        }
    }

    fn send(&mut self) {
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = 0;
            request(SYS_WRITE0, self.bytes.as_ptr() as usize);
        }
        self.len = 0;
    }

    /// Appends a word, with a space behind it.
    #[inline(never)]
    pub fn word(&mut self, text: &str) -> &mut Line {
        text.bytes().for_each(|byte| self.byte(byte));
        self.byte(b' ');
        self
    }

    /// Appends a number in decimal.
    #[inline(never)]
    pub fn number(&mut self, n: u32) -> &mut Line {
        let mut unit = 1;
        while n / unit >= 10 {
            unit *= 10;
        }
        while unit > 0 {
            self.byte(b'0' + (n / unit % 10) as u8);
            unit /= 10;
        }
        self.byte(b' ');
        self
    }

    /// Appends the bits of a number, as eight hexadecimal digits.
    pub fn bits(&mut self, x: f32) -> &mut Line {
        let bits = x.to_bits();
        for shift in (0..8).rev() {
            let digit = (bits >> (4 * shift) & 15) as u8;
            self.byte(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
        self.byte(b' ');
        self
    }

    /// Ends the line and sends it.
    pub fn end(&mut self) {
        self.byte(b'\n');
        self.send();
    }
}

/// A last word.
#[cold]
#[inline(never)]
fn die(word: &str) -> ! {
    Line::new().word(word).end();
    exit(false)
}

/// Takes no notice of what the panic says: so its texts, and the code that would format them, are never linked.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    die("panic")
}

#[cortex_m_rt::exception]
unsafe fn HardFault(_: &cortex_m_rt::ExceptionFrame) -> ! {
    die("hard fault")
}
