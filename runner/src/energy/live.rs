//! The power of each counter as last sampled, for whoever looks while a window is measured. Written by the sampling
//! threads, never by the one that measures.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::reading::CounterIdentity;

/// Shared by the meters and the metrics. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct LivePower {
    watts: Arc<Mutex<BTreeMap<CounterIdentity, f64>>>,
}

impl LivePower {
    /// The power of each counter in watts; empty outside of windows.
    pub fn watts(&self) -> BTreeMap<CounterIdentity, f64> {
        self.lock().clone()
    }

    /// A sample was taken.
    pub(super) fn set(&self, counter: &CounterIdentity, watts: f64) {
        let mut all = self.lock();
        match all.get_mut(counter) {
            Some(last) => *last = watts,
            None => drop(all.insert(counter.clone(), watts)),
        }
    }

    /// The window of some counters is over: what they showed is no longer so.
    pub(super) fn forget<'a>(&self, counters: impl IntoIterator<Item = &'a CounterIdentity>) {
        let mut all = self.lock();
        for counter in counters {
            all.remove(counter);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CounterIdentity, f64>> {
        self.watts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
