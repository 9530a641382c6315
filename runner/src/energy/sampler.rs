//! A thread that does one thing at an interval until it is dropped.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::MeterError;

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
