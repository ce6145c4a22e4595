//! The program's allocator: the system's for large blocks; for small ones lists of free blocks by size, one set per thread.
//!
//! Opening an ONNX file makes and drops tens of thousands of small blocks, one after the other: the system's allocator, which
//! looks for neighbours to join with and keeps a header per block, took a sixth of the time. Here a small block comes from the list
//! of its size, or is cut from a chunk, and goes back to the list of the thread that drops it; chunks are kept until the end. What a
//! thread that ends had free is lost: the program starts few.
//!
//! Fresh memory costs more than most of what is written into it: on a virtual machine some 1.3 us for a page of 4 KiB, 100 us for a huge
//! one of 2 MiB, and to ask for many pages at once helps little. So the system's allocator (glibc's alone knows how) keeps what is
//! freed ([`settle`]), and once an import has begun its memory comes in huge pages ([`expect_more`]): `longformer_small` waited for
//! 4,900 pages and waits for 800.
//!
//! Calls are counted, so that `kiln bench` can show that a run makes none.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Sizes of blocks are multiples of this, and so are their addresses.
const STEP: usize = 16;

/// Blocks of more bytes are the system's.
const LARGEST: usize = 512;

/// Bytes of a chunk, from the system.
const CHUNK: usize = 32 << 10;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// The allocator may keep memory.
static SETTLED: AtomicBool = AtomicBool::new(false);

/// Calls so far.
pub fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Counts a call. Of two threads' at the same time one may be lost, which costs less than an atomic sum: that there were
/// some still shows.
fn count() {
    CALLS.store(CALLS.load(Relaxed).wrapping_add(1), Relaxed);
}

/// After so many chunks of one thread a network is being read that mostly takes some hundred kilobytes more.
const MANY: usize = 4;

/// glibc's allocator.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        pub fn mallopt(what: c_int, value: c_int) -> c_int;
        pub fn sbrk(by: isize) -> *mut c_void;
        pub fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }

    pub const TRIM_THRESHOLD: c_int = -1;
    pub const TOP_PAD: c_int = -2;
    pub const MMAP_THRESHOLD: c_int = -3;
    pub const HUGE_PAGE: c_int = 14;

    /// Bytes of a block from which on the system's allocator maps it, so that it comes as fresh memory and goes back at once.
    pub const MAPPED: usize = 1 << 20;

    /// Bytes that it asks the system for beyond what is wanted.
    pub const MORE: usize = 256 << 10;
}

/// Has the system's allocator keep what an import frees for what it needs next: to get a page back from the system takes longer than
/// most of what is done with it.
pub fn settle() {
    SETTLED.store(true, Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: glibc's function as it declares it.
    unsafe {
        glibc::mallopt(glibc::MMAP_THRESHOLD, glibc::MAPPED as _);
        glibc::mallopt(glibc::TRIM_THRESHOLD, 2 * glibc::MAPPED as i32);
        glibc::mallopt(glibc::TOP_PAD, glibc::MORE as _);
    }
}

/// Has it take much memory at a time from here on, in huge pages: of 512 pages, such a one costs as much as some 70. What of the last
/// one is not needed is no loss for long: the import is followed by more that takes memory, and gives back what it freed.
fn expect_more() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const HUGE: usize = 2 << 20;
        const PAD: usize = 32 << 20;
        /// Enough that the system is asked for more.
        const FIRST: usize = 512 << 10;
        /// What glibc keeps in front of a block.
        const HEADER: usize = 16;
        // SAFETY: glibc's functions as it declares them. The block is new and given back at once. Where it is of the heap that ends at
        // the break (another thread's is not), what lies between it and the break is that heap's; the advice changes nothing in it.
        unsafe {
            glibc::mallopt(glibc::TOP_PAD, PAD as _);
            glibc::mallopt(glibc::TRIM_THRESHOLD, 2 * PAD as i32);
            glibc::mallopt(glibc::MMAP_THRESHOLD, 4 * glibc::MAPPED as i32);
            let layout = Layout::from_size_align_unchecked(FIRST, STEP);
            let block = System.alloc(layout);
            if block.is_null() {
                return;
            }
            System.dealloc(block, layout);
            // Where anything is written already, pages stay small: behind the block stands how much is left.
            let start = (block as usize + FIRST + HEADER).next_multiple_of(HUGE);
            let end = glibc::sbrk(0) as usize / HUGE * HUGE;
            if start < end && end - start <= 2 * PAD {
                glibc::madvise(block.with_addr(start).cast(), end - start, glibc::HUGE_PAGE);
                // What lies before the first of them would come in small pages: it is taken, and never touched.
                // The compiler drops what it sees that no one reads.
                let before = start - block as usize - HEADER;
                std::hint::black_box(System.alloc(Layout::from_size_align_unchecked(before, STEP)));
            }
            glibc::mallopt(glibc::TOP_PAD, glibc::MORE as _);
        }
    }
}

/// A block that is free: the next of its list.
type Free = Option<NonNull<Link>>;

struct Link(Free);

/// What a thread has free.
struct Pool {
    lists: [Cell<Free>; LARGEST / STEP],
    /// What is left of its last chunk.
    next: Cell<*mut u8>,
    left: Cell<usize>,
    chunks: Cell<usize>,
}

thread_local! {
    // Constant and without a destructor: it is there as long as its thread, and reading it allocates nothing.
    static POOL: Pool = const {
        Pool {
            lists: [const { Cell::new(None) }; LARGEST / STEP],
            next: Cell::new(ptr::null_mut()),
            left: Cell::new(0),
            chunks: Cell::new(0),
        }
    };
}

impl Pool {
    /// A block of `(list + 1) * STEP` bytes; null if memory is short.
    fn take(&self, list: usize) -> *mut u8 {
        if let Some(block) = self.lists[list].get() {
            // SAFETY: a block in a list is no one else's, and starts with a link, which `give` wrote.
            self.lists[list].set(unsafe { block.read() }.0);
            return block.as_ptr().cast();
        }
        let bytes = (list + 1) * STEP;
        if self.left.get() < bytes {
            self.chunks.set(self.chunks.get() + 1);
            if self.chunks.get() == MANY && SETTLED.load(Relaxed) {
                expect_more();
            }
            // SAFETY: the layout is of some bytes, and its alignment a power of two.
            let chunk = unsafe { System.alloc(Layout::from_size_align_unchecked(CHUNK, STEP)) };
            if chunk.is_null() {
                return chunk;
            }
            self.next.set(chunk);
            self.left.set(CHUNK);
        }
        let block = self.next.get();
        // SAFETY: so many bytes are left of the chunk.
        self.next.set(unsafe { block.add(bytes) });
        self.left.set(self.left.get() - bytes);
        block
    }

    /// Takes back a block of this list.
    ///
    /// # Safety
    /// It came from [`Pool::take`] with the same `list`, of any thread's pool, and no one uses it any more.
    unsafe fn give(&self, list: usize, block: *mut u8) {
        let block = block.cast::<Link>();
        // SAFETY: it has STEP bytes at least, at a multiple of STEP: a link fits.
        unsafe { block.write(Link(self.lists[list].get())) };
        self.lists[list].set(NonNull::new(block));
    }
}

/// The list for blocks of this layout, if they are small.
fn list(layout: Layout) -> Option<usize> {
    (layout.size() <= LARGEST && layout.align() <= STEP && layout.size() > 0).then(|| (layout.size() - 1) / STEP)
}

/// The allocator.
pub struct Heap;

// SAFETY: a block is the system's or a pool's as its layout says, when it is made and when it is dropped; a pool's block has the
// size of its list and is in no list while it is in use.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        match list(layout) {
            Some(list) => POOL.with(|pool| pool.take(list)),
            // SAFETY: the caller's promise is the one that the system's allocator asks for; so in all four.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if list(layout).is_none() {
            count();
            // SAFETY: see `alloc`.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: see `alloc`.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: it has so many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, is a size of a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (list(layout), list(new)) {
            (None, None) => {
                count();
                // SAFETY: see `alloc`.
                return unsafe { System.realloc(at, layout, size) };
            }
            (from, to) if from == to => return at,
            _ => {}
        }
        // SAFETY: see `alloc`.
        let block = unsafe { self.alloc(new) };
        if !block.is_null() {
            // SAFETY: both have so many bytes, and one is new: they don't overlap. The old one came with this layout.
            unsafe {
                ptr::copy_nonoverlapping(at, block, layout.size().min(size));
                self.dealloc(at, layout);
            }
        }
        block
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match list(layout) {
            // SAFETY: a block of this layout came from a pool, from this list, and the caller gives it up.
            Some(list) => POOL.with(|pool| unsafe { pool.give(list, at) }),
            // SAFETY: see `alloc`.
            None => unsafe { System.dealloc(at, layout) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_what_is_in_them() {
        let sizes = [1, 15, 16, 17, 100, 511, 512, 513, 5000];
        for align in [1, 8, 16, 64] {
            for (i, &from) in sizes.iter().enumerate() {
                for &to in &sizes {
                    let layout = Layout::from_size_align(from, align).unwrap();
                    // SAFETY: no size is zero; each block is read and written within its size and dropped with its layout.
                    unsafe {
                        let a = Heap.alloc_zeroed(layout);
                        assert!((a as usize).is_multiple_of(align) && (0..from).all(|i| *a.add(i) == 0));
                        a.write_bytes(i as u8 + 1, from);
                        let b = Heap.realloc(a, layout, to);
                        assert!((b as usize).is_multiple_of(align) && (0..from.min(to)).all(|n| *b.add(n) == i as u8 + 1));
                        Heap.dealloc(b, Layout::from_size_align(to, align).unwrap());
                    }
                }
            }
        }
        assert!(calls() > 0);
    }

    #[test]
    fn blocks_go_from_thread_to_thread() {
        let layout = Layout::from_size_align(24, 8).unwrap();
        // SAFETY: as above.
        let blocks: Vec<usize> = (0..10_000).map(|_| unsafe { Heap.alloc(layout) } as usize).collect();
        std::thread::spawn(move || {
            // SAFETY: as above; no one else has them.
            blocks.iter().for_each(|&b| unsafe { Heap.dealloc(b as *mut u8, layout) });
            // SAFETY: as above.
            let again: std::collections::HashSet<usize> = (0..10_000).map(|_| unsafe { Heap.alloc(layout) } as usize).collect();
            assert_eq!(again, blocks.into_iter().collect());
        })
        .join()
        .unwrap();
    }
}
