//! The thread that polls the boards: densely outside the window, at the sample interval inside.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    super::{clock::monotonic_seconds, live::LivePower, reading::CounterIdentity},
    board::{Board, Poll, unavailable},
    observe::Observer,
    recording::{Place, Recording},
};

/// Time between two dense polls.
pub(super) const DENSE_INTERVAL: Duration = Duration::from_millis(1);

/// Time between two reads while the start edge waits for an update.
pub(super) const ALIGNING_INTERVAL: Duration = Duration::from_micros(250);

/// Counter updates awaited before the window: two whole periods.
pub(super) const UPDATES_BEFORE: usize = 3;

/// Counter updates awaited after the window: one whole period.
const UPDATES_AFTER: usize = 2;

/// Shortest time of dense polls before the window, s: with short updates, two of them say too little about the sensor.
pub(super) const SHORTEST_ARMING_SECONDS: f64 = 0.15;

/// Longest wait for them, s. The slowest period that was reported for a board is 100 ms.
pub(super) const LONGEST_WAIT_SECONDS: f64 = 0.35;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Armed,
    Measuring,
    Settling,
    Finished,
}

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) recordings: Vec<Recording>,
    pub(super) observers: Vec<Observer>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, or less if the phase is no longer `phase`.
    fn rest(&self, phase: Phase, duration: Duration) {
        let state = self.lock();
        drop(
            self.changed
                .wait_timeout_while(state, duration, |state| state.phase == phase),
        );
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_all();
    }
}

impl State {
    pub(super) fn add(&mut self, boards: &[Board], place: Place, polls: Vec<Poll>) {
        for ((recording, board), poll) in self.recordings.iter_mut().zip(boards).zip(polls) {
            let joules = poll.joules.map_err(|error| unavailable("energy counter", &error));
            recording.add(
                place,
                (poll.at, poll.took),
                joules,
                poll.watts.ok(),
                board.has_instant_power,
            );
        }
    }

    pub(super) fn is_phased(&self, place: Place, updates: usize) -> bool {
        self.recordings
            .iter()
            .all(|recording| recording.counter_failed() || recording.updates(place) >= updates)
    }
}

/// The sampler thread, until the window has settled. Inside the window it shows each counter's power.
pub(super) fn sample(
    shared: &Shared,
    boards: &[Board],
    interval: Duration,
    (live, counters): (&LivePower, &[CounterIdentity]),
) {
    let mut settled_by = None;
    loop {
        let phase = shared.lock().phase;
        let place = match phase {
            Phase::Armed => Place::Before,
            Phase::Measuring => Place::Inside,
            Phase::Settling => Place::After,
            Phase::Finished => return,
        };
        let polls: Vec<Poll> = boards.iter().map(Board::poll).collect();
        let mut state = shared.lock();
        if state.phase != phase {
            continue;
        }
        if phase == Phase::Measuring {
            for (poll, counter) in polls.iter().zip(counters) {
                if let Ok(watts) = poll.watts {
                    live.set(counter, watts);
                }
            }
        }
        state.add(boards, place, polls);
        if phase == Phase::Measuring {
            for (observer, board) in state.observers.iter_mut().zip(boards) {
                observer.sample(board);
            }
        }
        if phase == Phase::Settling {
            let deadline = *settled_by.get_or_insert_with(|| monotonic_seconds() + LONGEST_WAIT_SECONDS);
            if state.is_phased(Place::After, UPDATES_AFTER) || monotonic_seconds() >= deadline {
                return;
            }
        }
        drop(state);
        let pause = if phase == Phase::Measuring {
            interval
        } else {
            DENSE_INTERVAL
        };
        shared.rest(phase, pause);
    }
}
