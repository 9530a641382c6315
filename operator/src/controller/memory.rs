//! What the operator remembers of an experiment between two looks at it. All of it may be lost: the next operator finds
//! it out again. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::stall::Cause;

/// Experiments that are remembered before those that are gone are forgotten.
const MOST: usize = 1000;

/// Of one experiment.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the API server has refused last.
    pub(super) obstacle: Option<Cause>,
    /// Errors in a row.
    pub(super) errors: u32,
    /// Its namespace is being deleted, which cannot be taken back.
    pub(super) namespace_ends: bool,
    /// When it came into its present phase, if this operator has seen that.
    pub(super) phase_since: Option<Instant>,
}

/// Of all experiments, by UID.
#[derive(Debug, Default)]
pub(super) struct Memories {
    by_experiment: Mutex<HashMap<String, Memory>>,
}

impl Memories {
    /// Reads or changes what is remembered of an experiment.
    pub(super) fn of<T>(&self, uid: &str, look: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.by_experiment.lock().unwrap_or_else(PoisonError::into_inner);
        look(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets experiments that are gone, once there are many. `there` gives the UIDs of all that there are.
    pub(super) fn tidy(&self, there: impl FnOnce() -> HashSet<String>) {
        let mut memories = self.by_experiment.lock().unwrap_or_else(PoisonError::into_inner);
        if memories.len() > MOST {
            let there = there();
            memories.retain(|uid, _| there.contains(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_that_are_gone_are_forgotten_and_others_are_not() {
        let memories = Memories::default();
        for number in 0..=MOST {
            memories.of(&number.to_string(), |memory| memory.errors = 1);
        }
        memories.tidy(|| HashSet::from(["7".to_owned()]));
        assert_eq!(memories.of("7", |memory| memory.errors), 1);
        assert_eq!(memories.of("8", |memory| memory.errors), 0);
    }
}
