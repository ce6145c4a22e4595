//! How much stack was used, at most: what was painted and is no longer was used. cortex-m-rt paints all of it before `main`.

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};

unsafe extern "C" {
    static mut _stack_end: u32; // its lowest word
    static _stack_start: u32; // the word above it
}

/// Bytes of stack that have been used since the start, or the last [`Mark`] if that is more than what was used before it.
pub fn used() -> u32 {
    (addr_of!(_stack_start) as u32).wrapping_sub(lowest())
}

/// The lowest address that is no longer painted.
#[inline(never)]
fn lowest() -> u32 {
    let (mut lowest, top) = (addr_of!(_stack_end), addr_of!(_stack_start));
    // SAFETY: the words from `_stack_end` to `_stack_start` are the stack, which the linker script places in RAM.
    while lowest < top && unsafe { lowest.read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
        lowest = lowest.wrapping_add(1);
    }
    lowest as u32
}

/// A place of the stack, below which all was painted anew: what calls take from there.
#[allow(dead_code)] // not in all binaries
#[derive(Clone, Copy)]
pub struct Mark(u32);

#[allow(dead_code)]
impl Mark {
    /// Here. Inlined, so that it is the caller's stack pointer.
    #[inline(always)]
    pub fn here() -> Mark {
        let pointer: u32;
        // SAFETY: fills the words from `_stack_end` up to the stack pointer: the part of the stack that nobody uses.
        unsafe {
            asm!(
                "mov {sp}, sp",
                "2: cmp {at}, {sp}",
                "bhs 3f",
                "str {paint}, [{at}]",
                "adds {at}, #4",
                "b 2b",
                "3:",
                sp = out(reg) pointer,
                at = inout(reg) addr_of_mut!(_stack_end) => _,
                paint = in(reg) cortex_m_rt::STACK_PAINT_VALUE,
            );
        }
        Mark(pointer)
    }

    /// Bytes that have been used below it.
    pub fn used(self) -> u32 {
        self.0.saturating_sub(lowest())
    }
}
