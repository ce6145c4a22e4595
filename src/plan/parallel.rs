//! Independent pieces of work on all cores: packing weights, most of the time that it takes to open a large model.

use alloc::vec::Vec;

/// Threads that are worth starting for work that touches so many bytes: one where it takes less time than a thread's start.
pub fn threads_for(bytes: u64) -> usize {
    /// Some hundred microseconds of packing.
    const SMALL: u64 = 1 << 20;
    #[cfg(feature = "std")]
    if bytes > SMALL {
        // Memory, not the cores, is the limit beyond a few.
        return std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    }
    let _ = bytes > SMALL;
    1
}

/// What `work` makes of each item, in their order. Items are taken one after the other by up to `threads` threads (by the
/// caller alone where there is no `std`).
pub fn each<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    #[cfg(feature = "std")]
    if threads.min(items.len()) > 1 {
        use std::sync::{Mutex, PoisonError};
        let count = items.len();
        let left = Mutex::new(items.into_iter().enumerate());
        let done = Mutex::new(Vec::with_capacity(count));
        let worker = || {
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((i, item)) = next else { return };
                let result = work(item);
                done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
            }
        };
        std::thread::scope(|scope| {
            // A thread that the system refuses is done without.
            for _ in 1..threads.min(count) {
                let started = std::thread::Builder::new().name("kiln-open".into()).spawn_scoped(scope, worker);
                if started.is_err() {
                    break;
                }
            }
            worker();
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|&(i, _)| i);
        return done.into_iter().map(|(_, result)| result).collect();
    }
    let _ = threads;
    items.into_iter().map(work).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_items() {
        for threads in [1, 2, 5] {
            let items: Vec<u64> = (0..100).collect();
            let squares = each(items, threads, |i| {
                // The first take longest, so that others overtake them.
                (0..(100 - i) * 1000).fold(i * i, |x, j| core::hint::black_box(x ^ j ^ j))
            });
            assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<u64>>());
        }
        assert!(each(Vec::<u8>::new(), 4, |b| b).is_empty());
    }
}
