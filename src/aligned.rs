//! Memory that starts at a multiple of 64: what an image or an arena lies in.

/// A value at a multiple of 64 bytes: for an image that is linked into a program, or for an arena of a fixed size.
///
/// ```
/// static ARENA: kiln::Aligned<[u8; 128]> = kiln::Aligned([0; 128]);
/// assert_eq!(ARENA.0.as_ptr() as usize % 64, 0);
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

#[cfg(feature = "alloc")]
pub use owned::AlignedBytes;

#[cfg(feature = "alloc")]
mod owned {
    use alloc::vec::Vec;
    use core::ops::{Deref, DerefMut};

    /// Zeroed bytes whose start is a multiple of a power of two.
    ///
    /// A plain zeroed `Vec` with room to move the start: unlike an allocation with a large alignment it comes as untouched
    /// pages of the system, so that a large image becomes resident only as it is written. On a host, 2 MiB or more
    /// are a mapping of their own that starts with a huge page and asks for as many as there can be: weights are read once a run, from
    /// end to end, and what the address translation of small pages costs then is more than a tenth of a small product.
    #[derive(Debug)]
    pub struct AlignedBytes {
        memory: Memory,
        start: usize,
        len: usize,
    }

    #[derive(Debug)]
    enum Memory {
        Heap(Vec<u8>),
        #[cfg(feature = "std")]
        Mapped(memmap2::MmapMut),
    }

    /// Bytes of a huge page, and of memory from which on it is mapped.
    #[cfg(feature = "std")]
    const HUGE: usize = 2 << 20;

    /// Bytes from which on memory that will be written from end to end is mapped: less comes from the heap, which has it at hand.
    #[cfg(feature = "std")]
    const MAPPED: usize = 128 << 10;

    impl Memory {
        fn zeroed(len: usize, all_written: bool) -> Memory {
            #[cfg(feature = "std")]
            if all_written
                && (MAPPED..HUGE).contains(&len)
                && let Ok(map) = memmap2::MmapOptions::new().len(len).populate().map_anon()
            {
                return Memory::Mapped(map);
            }
            let _ = all_written;
            #[cfg(feature = "std")]
            if len >= HUGE
                && let Ok(map) = memmap2::MmapMut::map_anon(len)
            {
                return Memory::Mapped(map);
            }
            Memory::Heap(alloc::vec![0u8; len])
        }

        /// Asks for huge pages from here on, but for what would not fill one at the end.
        #[cfg(all(feature = "std", target_os = "linux"))]
        fn huge(&self, start: usize, len: usize) {
            if len >= HUGE
                && let Memory::Mapped(map) = self
                && let Err(error) = map.advise_range(memmap2::Advice::HugePage, start, len / HUGE * HUGE)
            {
                log::debug!("no huge pages: {error}");
            }
        }
    }

    impl Deref for Memory {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            match self {
                Memory::Heap(bytes) => bytes,
                #[cfg(feature = "std")]
                Memory::Mapped(bytes) => bytes,
            }
        }
    }

    impl DerefMut for Memory {
        fn deref_mut(&mut self) -> &mut [u8] {
            match self {
                Memory::Heap(bytes) => bytes,
                #[cfg(feature = "std")]
                Memory::Mapped(bytes) => bytes,
            }
        }
    }

    impl AlignedBytes {
        /// `len` zero bytes, aligned to `alignment`.
        ///
        /// # Panics
        /// If `alignment` is not a power of two, or memory is short.
        pub fn zeroed(len: usize, alignment: usize) -> AlignedBytes {
            AlignedBytes::with(len, alignment, false)
        }

        /// As [`AlignedBytes::zeroed`], of bytes that are all about to be written: a host asks the system for their pages at once,
        /// which costs less than half of what it does page by page, as each is written for the first time.
        ///
        /// # Panics
        /// As [`AlignedBytes::zeroed`].
        pub fn to_fill(len: usize, alignment: usize) -> AlignedBytes {
            AlignedBytes::with(len, alignment, true)
        }

        fn with(len: usize, alignment: usize, all_written: bool) -> AlignedBytes {
            assert!(alignment.is_power_of_two());
            // Systems need not start a mapping where a huge page could be: up to two of them would be small pages then.
            #[cfg(feature = "std")]
            let alignment = if len >= HUGE { alignment.max(HUGE) } else { alignment };
            let memory = Memory::zeroed(len + alignment - 1, all_written);
            let start = memory.as_ptr().align_offset(alignment);
            #[cfg(all(feature = "std", target_os = "linux"))]
            memory.huge(start, len);
            AlignedBytes { memory, start, len }
        }

        /// A copy of `bytes`, aligned to `alignment`.
        ///
        /// # Panics
        /// As [`AlignedBytes::zeroed`].
        pub fn copy_of(bytes: &[u8], alignment: usize) -> AlignedBytes {
            let mut copy = AlignedBytes::zeroed(bytes.len(), alignment);
            copy.copy_from_slice(bytes);
            copy
        }
    }

    impl Deref for AlignedBytes {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            &self.memory[self.start..self.start + self.len]
        }
    }

    impl DerefMut for AlignedBytes {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.memory[self.start..self.start + self.len]
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn starts_where_it_should() {
            for alignment in [1, 8, 64, 4096] {
                for len in [0, 1, 100, 1 << 20, 9 << 20, (2 << 20) + 100] {
                    for bytes in [AlignedBytes::zeroed(len, alignment), AlignedBytes::to_fill(len, alignment)] {
                        assert_eq!((bytes.as_ptr() as usize % alignment, bytes.len()), (0, len));
                        assert!(bytes.iter().all(|&b| b == 0));
                    }
                }
            }
        }
    }
}
