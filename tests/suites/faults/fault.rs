//! What can happen to one request, and which request it happens to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// Longer than the operator's margin before a common start, shorter than any deadline.
pub(crate) const DELAY: Duration = Duration::from_secs(4);

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection breaks before it is sent.
    NotSent,
    /// It is answered with this status and never reaches the API server.
    Answered(u16),
    /// It takes effect and its answer is lost; a watch breaks after the first piece of its answer.
    AnswerLost,
    /// It takes effect twice; the second answer counts.
    Duplicated,
    /// It arrives late.
    Delayed,
    /// The operator dies before it is sent.
    KilledBefore,
    /// The operator dies before it reads the answer.
    KilledAfter,
}

/// One step of an operator's work: the request of its sort that comes after so many that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Method, resource and subresource.
    pub(crate) sort: String,
    /// Requests of the sort that succeeded before.
    pub(crate) number: usize,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.sort, self.number)
    }
}

/// What is to happen to which steps of one experiment, and what has happened. It outlives the operator.
#[derive(Debug, Default)]
pub(crate) struct Script {
    state: Mutex<State>,
    /// The operator is to die.
    pub(crate) deadly: Notify,
}

#[derive(Debug, Default)]
struct State {
    planned: BTreeMap<Step, Fault>,
    happened: BTreeSet<Step>,
    succeeded: BTreeMap<String, usize>,
    /// Every request in order, whatever became of it.
    requests: Vec<Step>,
}

impl Script {
    /// These faults, each once.
    pub(crate) fn of(planned: impl IntoIterator<Item = (Step, Fault)>) -> Self {
        let state = State {
            planned: planned.into_iter().collect(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            deadly: Notify::new(),
        }
    }

    /// A request is about to be sent: what happens to it?
    pub(crate) fn begins(&self, sort: &str) -> Option<Fault> {
        let mut state = self.state();
        let step = Step {
            sort: sort.to_owned(),
            number: state.succeeded.get(sort).copied().unwrap_or(0),
        };
        state.requests.push(step.clone());
        let fault = state.planned.remove(&step)?;
        state.happened.insert(step);
        Some(fault)
    }

    /// The operator has had an answer of success.
    pub(crate) fn succeeded(&self, sort: &str) {
        *self.state().succeeded.entry(sort.to_owned()).or_default() += 1;
    }

    /// The steps at which something happened.
    pub(crate) fn happened(&self) -> BTreeSet<Step> {
        self.state().happened.clone()
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Step> {
        self.state().requests.clone()
    }

    /// Every request so far that asks for a change.
    pub(crate) fn writes(&self) -> Vec<Step> {
        let mut requests = self.requests();
        requests.retain(|step| !step.sort.starts_with("GET") && !step.sort.starts_with("WATCH"));
        requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
