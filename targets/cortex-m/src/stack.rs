//! How much stack was used, at most: cortex-m-rt paints all of it before `main`, and what is no longer painted was used.

use core::ptr::addr_of;

unsafe extern "C" {
    static _stack_end: u32; // its lowest word
    static _stack_start: u32; // the word above it
}

/// Bytes of stack that have been used since the start.
pub fn used() -> u32 {
    let (mut lowest, top) = (addr_of!(_stack_end), addr_of!(_stack_start));
    // SAFETY: the words from `_stack_end` to `_stack_start` are the stack, which the linker script places in RAM.
    while lowest < top && unsafe { lowest.read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
        lowest = lowest.wrapping_add(1);
    }
    (top as u32).wrapping_sub(lowest as u32)
}
