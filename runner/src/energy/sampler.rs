//! A thread that does one thing at an interval until it is dropped, and a window that is sampled by one.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{MeterError, clock::Mark};

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// Calls a function at an interval on its own thread. Dropping it ends the thread and waits for it.
#[derive(Debug)]
pub(super) struct Sampler {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts; the first call comes one interval later.
    pub(super) fn spawn(
        name: &str,
        interval: Duration,
        mut action: impl FnMut() + Send + 'static,
    ) -> Result<Self, MeterError> {
        let stop = Arc::new(Stop::default());
        let watched = Arc::clone(&stop);
        let run = move || {
            loop {
                let stopped = watched.stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let (stopped, _) = watched
                    .changed
                    .wait_timeout_while(stopped, interval, |stopped| !*stopped)
                    .unwrap_or_else(PoisonError::into_inner);
                if *stopped {
                    return;
                }
                drop(stopped);
                action();
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| MeterError::Thread { source })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A window that a [`Sampler`] follows from its start edge to its end edge. What it has seen is a `T`.
#[derive(Debug)]
pub(super) struct SampledWindow<T> {
    seen: Arc<Mutex<T>>,
    sampler: Option<Sampler>,
    /// Start edge.
    pub(super) start: Mark,
    end: Option<Mark>,
}

impl<T: Send + 'static> SampledWindow<T> {
    /// Follows a window that began at `start`; `seen` holds what was read at that edge.
    pub(super) fn follow(
        name: &str,
        interval: Duration,
        start: Mark,
        seen: T,
        mut sample: impl FnMut(&mut T) + Send + 'static,
    ) -> Result<Self, MeterError> {
        let seen = Arc::new(Mutex::new(seen));
        let shared = Arc::clone(&seen);
        let action = move || sample(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self {
            sampler: Some(Sampler::spawn(name, interval, action)?),
            seen,
            start,
            end: None,
        })
    }

    /// The end edge: now, with one last `read`, or where it was marked before.
    pub(super) fn mark_end(&mut self, read: impl FnOnce(&mut T)) -> Mark {
        if let Some(end) = self.end {
            return end;
        }
        let end = Mark::now();
        read(&mut self.seen());
        self.sampler = None;
        self.end = Some(end);
        end
    }

    /// What was seen.
    pub(super) fn seen(&self) -> MutexGuard<'_, T> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
