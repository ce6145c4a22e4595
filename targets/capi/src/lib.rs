//! The C libraries: the functions of `kiln::capi`, which `include/kiln.h` declares, and what ends the program at a panic.
#![no_std]

// Linked for its exported functions; nothing here calls them.
extern crate core_ring as _;

/// A panic is a fault of the library's own: no call from C, however wrong, reaches one. It stops as an illegal instruction
/// does: by a signal on a host, by a fault handler on a Cortex-M.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: the instruction traps; it touches neither memory nor registers.
        unsafe {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            core::arch::asm!("ud2", options(nomem, nostack));
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!("brk #1", options(nomem, nostack));
            #[cfg(target_arch = "arm")]
            core::arch::asm!("udf #0", options(nomem, nostack));
        }
    }
}
