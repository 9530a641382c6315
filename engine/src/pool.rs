//! Threads that wait between the regions of a step.
//!
//! A region is a number of equal chunks; whoever is free takes the next. Between regions the threads spin, as the next
//! one comes within microseconds; between steps they sleep, so that waiting costs no energy. A region takes no lock and
//! no memory.
#![expect(unsafe_code, reason = "the work of a region outlives its call only in the types")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of spinning before a thread sleeps: some tens of microseconds.
const SPIN_ROUNDS: u32 = 20_000;

/// Alone on its cache lines, so that who waits for one value does not slow who writes another.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

type Work = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct State {
    /// Number of the region; odd and even ones alike, 0 before the first.
    region: Padded<AtomicUsize>,
    /// The next chunk.
    next: Padded<AtomicUsize>,
    /// Threads that have left the region.
    left: Padded<AtomicUsize>,
    /// The region's work and its number of chunks; written before `region` is.
    work: Padded<std::cell::UnsafeCell<Option<(Work, usize)>>>,
    /// Which threads sleep.
    asleep: Vec<Padded<AtomicBool>>,
    ended: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `work` is written only between regions, when no thread reads it.
unsafe impl Sync for State {}
// SAFETY: the pointer in it is used only while the region's call lasts.
unsafe impl Send for State {}

/// The calling thread and some more.
#[derive(Debug)]
pub struct Pool {
    state: Arc<State>,
    threads: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Pool {
    /// A pool of so many threads, the calling one included; at least that one.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let workers = threads.max(1) - 1;
        let state = Arc::new(State {
            region: Padded::default(),
            next: Padded::default(),
            left: Padded::default(),
            work: Padded(std::cell::UnsafeCell::new(None)),
            asleep: (0..workers).map(|_| Padded::default()).collect(),
            ended: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Self {
            state: Arc::clone(&state),
            threads: Vec::with_capacity(workers),
        };
        for index in 0..workers {
            let state = Arc::clone(&state);
            let handle = thread::Builder::new()
                .name(format!("engine-{}", index + 1))
                .spawn(move || serve(&state, index))?;
            pool.threads.push((handle.thread().clone(), Some(handle)));
        }
        Ok(pool)
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work` with each number below `chunks`, on all threads, and returns when all calls have.
    ///
    /// # Panics
    /// If a call panics on another thread.
    pub fn run(&mut self, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || chunks <= 1 {
            (0..chunks).for_each(work);
            return;
        }
        let state = &*self.state;
        // SAFETY: the pointer is used only until all threads have left the region, which this call awaits. No thread is
        // in a region now, so nobody reads `work`.
        unsafe {
            let work = std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work);
            *state.work.0.get() = Some((std::ptr::from_ref(work), chunks));
        }
        state.next.0.store(0, Ordering::Relaxed);
        state.left.0.store(0, Ordering::Relaxed);
        // Sequentially consistent together with the worker's announcement that it goes to sleep: one sees the other.
        state.region.0.fetch_add(1, Ordering::SeqCst);
        for ((thread, _), asleep) in self.threads.iter().zip(&state.asleep) {
            if asleep.0.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        // Also if this thread's part panics: the others still use the work.
        let others = AwaitOthers(state, self.threads.len());
        take_chunks(state, chunks, work);
        drop(others);
        assert!(
            !state.panicked.load(Ordering::Relaxed),
            "a thread of the engine's pool panicked"
        );
    }
}

/// Waits at its end until so many threads have left the region.
struct AwaitOthers<'state>(&'state State, usize);

impl Drop for AwaitOthers<'_> {
    fn drop(&mut self) {
        while self.0.left.0.load(Ordering::Acquire) < self.1 {
            std::hint::spin_loop();
        }
    }
}

fn take_chunks(state: &State, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
    loop {
        let chunk = state.next.0.fetch_add(1, Ordering::Relaxed);
        if chunk >= chunks {
            return;
        }
        work(chunk);
    }
}

fn serve(state: &State, index: usize) {
    let mut seen = 0;
    loop {
        let Some(region) = await_region(state, index, seen) else {
            return;
        };
        seen = region;
        // SAFETY: written before the region's number, and not again before this thread has left.
        let work = unsafe { *state.work.0.get() };
        if let Some((work, chunks)) = work {
            let run = std::panic::AssertUnwindSafe(|| {
                // SAFETY: the call that began the region waits for this thread.
                take_chunks(state, chunks, unsafe { &*work });
            });
            if std::panic::catch_unwind(run).is_err() {
                state.panicked.store(true, Ordering::Relaxed);
            }
        }
        state.left.0.fetch_add(1, Ordering::Release);
    }
}

/// Waits for a region other than `seen`; `None` when the pool has ended.
fn await_region(state: &State, index: usize, seen: usize) -> Option<usize> {
    loop {
        for _ in 0..SPIN_ROUNDS {
            let region = state.region.0.load(Ordering::Acquire);
            if region != seen {
                return (!state.ended.load(Ordering::Acquire)).then_some(region);
            }
            std::hint::spin_loop();
        }
        let asleep = &state.asleep[index].0;
        asleep.store(true, Ordering::SeqCst);
        while state.region.0.load(Ordering::SeqCst) == seen {
            thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        self.state.region.0.fetch_add(1, Ordering::SeqCst);
        for (thread, handle) in &mut self.threads {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A panic of the thread has been reported by `run`.
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests;
