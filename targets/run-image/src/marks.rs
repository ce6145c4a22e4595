//! The functions between which `targets/count` counts executed instructions. Their bodies differ, so that the linker does
//! not make one of them.

use std::arch::asm;

/// Counting starts.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn region_begin() {
    // SAFETY: does nothing, but the compiler can't tell.
    unsafe { asm!("nop") }
}

/// Counting ends.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn region_end() {
    // SAFETY: as above.
    unsafe { asm!("nop", "nop") }
}
