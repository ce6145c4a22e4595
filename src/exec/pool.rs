//! Threads that share work: started once, asleep when idle.
//!
//! Work is cut into a few parts, which the caller and the workers take one by one: so the caller never waits for a worker
//! that the system does not let run, and only for parts that are under way. One atomic word, the [ticket](Shared::ticket), says
//! what may be taken. A worker looks at it for some microseconds after its last part, since a network's ops follow one
//! another closely (waking a sleeping thread takes as long as a small op), and then sleeps on a condition variable.
//!
//! Nothing is allocated after the start, and the lock is only held around going to sleep and waking.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is done with a part: given the number of the thread, 0 for the caller, and of the part.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// How long a thread that finds nothing to do looks on before it sleeps.
const LOOK: Duration = Duration::from_micros(40);

/// Looks between two looks at the clock.
const LOOKS: u32 = 64;

/// Bits of a part's number in the ticket.
const BITS: u32 = 16;

/// The most parts that work may have.
pub const MOST_PARTS: usize = (1 << BITS) - 1;

struct Shared {
    /// The turn, then how many parts its work has, then the number of the next part that may be taken.
    ticket: AtomicU64,
    /// The work of this turn. Written while no part can be taken or is under way; read by those who have taken a part.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    /// Parts that are not finished.
    left: AtomicUsize,
    /// A part panicked.
    panicked: AtomicBool,
    /// Workers are to end.
    stop: AtomicBool,
    /// Workers that have started.
    started: AtomicUsize,
    /// Workers that sleep; whether the caller does.
    asleep: AtomicUsize,
    waiting: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    finished: Condvar,
}

// SAFETY: `work` is the only part that is not Sync; its field says when it is touched, and `ticket` and `left` order that.
unsafe impl Sync for Shared {}
// SAFETY: as above; what it refers to is Sync.
unsafe impl Send for Shared {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_parts(&self) -> bool {
        let ticket = self.ticket.load(SeqCst);
        ticket as u16 != (ticket >> BITS) as u16
    }

    /// Takes a part, if there is one. Until it is [finished](Shared::finish) the turn can't end.
    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Acquire);
        while ticket as u16 != (ticket >> BITS) as u16 {
            match self.ticket.compare_exchange_weak(ticket, ticket + 1, AcqRel, Acquire) {
                Ok(_) => return Some(ticket as u16 as usize),
                Err(now) => ticket = now,
            }
        }
        None
    }

    /// Does a part that was taken.
    fn run(&self, thread: usize, part: usize) {
        // SAFETY: the part was taken and is not finished: nobody writes.
        if let Some(work) = unsafe { *self.work.get() } {
            work(thread, part);
        }
    }

    fn finish(&self) {
        // Sequentially consistent, as in `wait`: either the caller sees that nothing is left, or this sees that it waits.
        if self.left.fetch_sub(1, SeqCst) == 1 && self.waiting.load(SeqCst) {
            drop(self.lock());
            self.finished.notify_one();
        }
    }

    /// Waits until all parts are finished.
    fn wait(&self) {
        if look(|| self.left.load(Acquire) == 0) {
            return;
        }
        let mut guard = self.lock();
        self.waiting.store(true, SeqCst);
        while self.left.load(SeqCst) != 0 {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, SeqCst);
    }

    /// A worker's life.
    fn serve(&self, thread: usize) {
        let guard = self.lock();
        self.started.fetch_add(1, Relaxed);
        self.finished.notify_one();
        drop(guard);
        while !self.stop.load(Acquire) {
            while let Some(part) = self.take() {
                if catch_unwind(AssertUnwindSafe(|| self.run(thread, part))).is_err() {
                    self.panicked.store(true, Release);
                }
                self.finish();
            }
            if look(|| self.has_parts() || self.stop.load(Relaxed)) {
                continue;
            }
            let mut guard = self.lock();
            self.asleep.fetch_add(1, SeqCst);
            while !self.has_parts() && !self.stop.load(SeqCst) {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, SeqCst);
        }
    }

    /// Wakes workers that sleep. They count themselves before they look at the ticket for the last time, so whoever has
    /// changed it before this sees all that would miss it.
    fn rouse(&self) {
        if self.asleep.load(SeqCst) > 0 {
            drop(self.lock());
            self.wake.notify_all();
        }
    }
}

/// Looks for a short time whether something has become true.
fn look(is: impl Fn() -> bool) -> bool {
    let mut until = None;
    loop {
        for _ in 0..LOOKS {
            if is() {
                return true;
            }
            spin_loop();
        }
        let now = Instant::now();
        if now >= *until.get_or_insert(now + LOOK) {
            return is();
        }
    }
}

/// Some threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of this many threads, of which the caller is one.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(threads: usize) -> io::Result<Pool> {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            left: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            finished: Condvar::new(),
        });
        let mut pool = Pool { shared, workers: Vec::new() };
        for thread in 1..threads {
            let shared = pool.shared.clone();
            let builder = std::thread::Builder::new().name(format!("kiln-{thread}"));
            pool.workers.push(builder.spawn(move || shared.serve(thread))?);
        }
        // A thread allocates as it starts: that is not to fall into a run.
        let mut guard = pool.shared.lock();
        while pool.shared.started.load(Relaxed) < pool.workers.len() {
            guard = pool.shared.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        Ok(pool)
    }

    /// How many threads there are, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once for each part from 0 on, on all threads, and returns when all parts are finished.
    ///
    /// # Panics
    /// If a part panics, when all parts are finished; or if there are more than [`MOST_PARTS`].
    pub fn run(&mut self, parts: usize, work: &Work<'_>) {
        assert!(parts <= MOST_PARTS);
        let shared = &*self.shared;
        // SAFETY: of the lifetime alone. This function does not return, nor unwind (`Turn`), before all parts are finished, and the
        // reference is only used for parts.
        let work = unsafe { core::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        // SAFETY: no part can be taken, since those of the last turn are finished; and only one thread has the pool.
        unsafe { *shared.work.get() = Some(work) };
        shared.left.store(parts, Relaxed);
        let turn = (shared.ticket.load(Relaxed) >> (2 * BITS)).wrapping_add(1);
        shared.ticket.store(turn << (2 * BITS) | (parts as u64) << BITS, SeqCst);
        let end = Turn(shared);
        if parts > 1 {
            shared.rouse();
        }
        while let Some(part) = shared.take() {
            let own = Part(shared);
            shared.run(0, part);
            drop(own);
        }
        drop(end);
        assert!(!shared.panicked.swap(false, Acquire), "a thread of the pool panicked");
    }
}

/// A part of the caller's, finished when it is dropped: also if it panics.
struct Part<'a>(&'a Shared);

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// The end of a turn: what nobody has taken is given up (nothing, unless the caller's part panicked), the rest is waited for.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        while self.0.take().is_some() {
            self.0.finish();
        }
        self.0.wait();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its parts.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_part_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for turn in 0..2000 {
                let parts = turn % 11;
                let done: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                pool.run(parts, &|thread, part| {
                    assert!(thread < threads);
                    done[part].fetch_add(1, Relaxed);
                });
                assert!(done.iter().all(|d| d.load(Relaxed) == 1));
                if turn % 500 == 0 {
                    std::thread::sleep(3 * LOOK); // so that workers are found asleep, too
                }
            }
        }
    }

    #[test]
    fn idle_workers_sleep() {
        let mut pool = Pool::new(3).unwrap();
        pool.run(8, &|_, _| std::thread::sleep(Duration::from_millis(1)));
        let start = Instant::now();
        while pool.shared.asleep.load(SeqCst) < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "workers do not go to sleep");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        for bad in 0..6 {
            let count = AtomicU32::new(0);
            let run = catch_unwind(AssertUnwindSafe(|| {
                pool.run(6, &|_, part| {
                    count.fetch_add(1, Relaxed);
                    std::thread::sleep(Duration::from_micros(200));
                    assert!(part != bad);
                });
            }));
            assert!(run.is_err());
            count.store(0, Relaxed);
            pool.run(6, &|_, _| {
                count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.load(Relaxed), 6);
        }
    }
}
