//! A weight that has been packed is in memory once, not twice: pages of mapped files are given back while it is done. Packers read
//! the map as they like and know nothing of it; a page that is still needed is mapped again from the page cache.

use crate::mapped;
use crate::plan::draft::Model;
use memmap2::Mmap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::Thread;
use std::time::Duration;

/// After so many packed bytes pages are given back.
const STEP: u64 = 256 << 10;

/// From so many bytes on, packing one weight takes milliseconds: too long to wait for its end.
const LARGE: u64 = 4 << 20;

/// How often pages are given back then.
const PERIOD: Duration = Duration::from_millis(2);

/// Lets `work` pack this model's weights while pages of the files that they are read from are given back.
pub(super) fn releasing<T>(maps: &[Arc<Mmap>], mut model: Model, work: impl FnOnce(Model) -> T) -> T {
    if maps.is_empty() {
        return work(model);
    }
    let (maps, packed): (Arc<[_]>, _) = (maps.into(), Arc::new(AtomicU64::new(0)));
    for piece in model.weights.iter_mut().flat_map(|weight| &mut weight.pieces) {
        let (maps, packed, bytes) = (maps.clone(), packed.clone(), piece.bytes);
        let pack = std::mem::replace(&mut piece.pack, Box::new(|_| Ok(())));
        piece.pack = Box::new(move |to| {
            pack(to)?;
            if packed.fetch_add(bytes, Relaxed) % STEP + bytes >= STEP {
                maps.iter().for_each(|m| mapped::release(m));
            }
            Ok(())
        });
    }
    let largest = model.weights.iter().map(|w| w.bytes).max().unwrap_or(0);
    let result = if largest < LARGE { work(model) } else { periodically(&maps, || work(model)) };
    maps.iter().for_each(|m| mapped::release(m));
    result
}

/// Ends the thread that gives pages back, however the work ends.
struct Ends<'a>(&'a AtomicBool, &'a Thread);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        self.1.unpark();
    }
}

/// Does `work` while another thread gives pages back every few milliseconds.
fn periodically<T>(maps: &[Arc<Mmap>], work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            while !done.load(Relaxed) {
                maps.iter().for_each(|m| mapped::release(m));
                std::thread::park_timeout(PERIOD);
            }
        });
        let _ends = Ends(&done, thread.thread());
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_ends_the_other_thread() {
        let panics = || periodically(&[], || panic!("a packer panics"));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(periodically(&[], || 7), 7);
    }
}
