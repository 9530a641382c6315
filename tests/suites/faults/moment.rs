//! Experiments whose windows last long enough to do something in them, and waiting for such a moment.

use std::time::Duration;

use jiff::Timestamp;
use lem_crds::{EfficiencyExperiment, Runner, runner::Assignment};
use serde_json::json;

use super::{experiment, invariants::Asked, world::World};

/// Requests of a window, and how many arrive in a second.
const REQUESTS: u32 = 12;
const RATE: u32 = 2;
/// Most windows take less than this: arrivals are random, but always the same.
pub(crate) const WINDOW: Duration = Duration::from_secs(12);

/// Windows of some seconds, however fast the machine is: requests arrive at their own pace.
pub(crate) fn unhurried(name: &str, asked: Asked) -> EfficiencyExperiment {
    let other = json!({
        "workload": {"requests": REQUESTS, "arrival": {"poisson": {"requestsPerSecond": RATE.to_string()}}},
        "protocol": {"baseline": {"duration": "500ms"}, "cooldown": {"duration": "0s"}},
    });
    experiment::with(name, asked.processes, asked.trials, &other)
}

/// Waits until an experiment's processes are as wanted.
pub(crate) async fn until<T>(world: &World, name: &str, what: &str, wanted: impl Fn(&[Runner]) -> Option<T>) -> T {
    let wanted = &wanted;
    world
        .eventually(what, || async move {
            let runners = world.runners(name).await;
            wanted(&runners).ok_or_else(|| {
                let seen = runners.iter().map(|runner| {
                    let phase = runner.status.as_ref().map(|status| status.phase);
                    let start = runner.spec.assignment.as_ref().map(|assignment| assignment.start_at);
                    format!("{phase:?} {start:?}")
                });
                seen.collect::<Vec<_>>().join(", ")
            })
        })
        .await
}

/// Waits until all processes measure a cycle; gives the common start.
pub(crate) async fn in_window(world: &World, name: &str, asked: Asked, cycle: u32) -> Timestamp {
    until(world, name, "a window that has begun", |runners| {
        let assigned: Vec<&Assignment> = runners
            .iter()
            .filter_map(|runner| runner.spec.assignment.as_ref())
            .filter(|assignment| assignment.trial.cycle == cycle)
            .collect();
        let start = assigned.iter().filter_map(|assignment| assignment.start_at).max()?;
        (assigned.len() == asked.processes as usize && start < Timestamp::now()).then_some(start)
    })
    .await
}

/// Waits until a window that began then is over by all means.
pub(crate) async fn after_window(world: &World, start: Timestamp) {
    world
        .eventually("the end of the window", || async {
            let since = Timestamp::now().duration_since(start);
            let over = Duration::try_from(since).is_ok_and(|since| since > WINDOW);
            over.then_some(()).ok_or_else(|| format!("{since:?}"))
        })
        .await;
}
