//! The command `kiln`: see [`kiln::cli`].

use std::process::ExitCode;

mod counting {
    //! An allocator that counts, so that `kiln bench` can show that a run allocates nothing.
    #![allow(unsafe_code)]

    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// The system's allocator, counted.
    pub struct Counting;

    // SAFETY: every call goes to the system's allocator unchanged.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            CALLS.fetch_add(1, Relaxed);
            // SAFETY: the caller's promise is the one that the system's allocator asks for; so in all four.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            CALLS.fetch_add(1, Relaxed);
            // SAFETY: see `alloc`.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            CALLS.fetch_add(1, Relaxed);
            // SAFETY: see `alloc`.
            unsafe { System.realloc(at, layout, size) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: see `alloc`.
            unsafe { System.dealloc(at, layout) }
        }
    }

    /// Calls so far.
    pub fn calls() -> u64 {
        CALLS.load(Relaxed)
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn main() -> ExitCode {
    ExitCode::from(kiln::cli::main(counting::calls))
}
