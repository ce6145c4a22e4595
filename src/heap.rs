//! The program's allocator: the system's for large blocks; for small ones lists of free blocks by size, one set per thread.
//!
//! Opening an ONNX file makes and drops tens of thousands of small blocks, one after the other: the system's allocator, which
//! looks for neighbours to join with and keeps a header per block, took a sixth of the time. Here a small block comes from the list
//! of its size, or is cut from a chunk, and goes back to the list of the thread that drops it; chunks are kept until the end. What a
//! thread that ends had free is lost: the program starts few.
//!
//! Calls are counted, so that `kiln bench` can show that a run makes none.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Sizes of blocks are multiples of this, and so are their addresses.
const STEP: usize = 16;

/// Blocks of more bytes are the system's.
const LARGEST: usize = 512;

/// Bytes of a chunk, from the system.
const CHUNK: usize = 32 << 10;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Calls so far.
pub fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Counts a call. Of two threads' at the same time one may be lost, which costs less than an atomic sum: that there were
/// some still shows.
fn count() {
    CALLS.store(CALLS.load(Relaxed).wrapping_add(1), Relaxed);
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
}

thread_local! {
    // Constant and without a destructor: it is there as long as its thread, and reading it allocates nothing.
    static POOL: Pool = const {
        Pool { lists: [const { Cell::new(None) }; LARGEST / STEP], next: Cell::new(ptr::null_mut()), left: Cell::new(0) }
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
