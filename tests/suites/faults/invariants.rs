//! What must be true after every fault.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus, Runner, RunnerStatus,
    plan::TrialIdentity,
    runner::{CounterIdentity, WindowRecord},
    status::ExperimentPhase,
};
use serde_json::json;

use super::world::{World, described};

/// Looks that must change nothing.
const SECOND_LOOKS: u64 = 3;

/// What an experiment was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) processes: u32,
    pub(crate) trials: u32,
}

/// The experiment is complete, each of its windows is there exactly once, and nothing of it runs any more.
pub(crate) async fn hold(world: &World, name: &str, asked: Asked) {
    let status = hold_after_losses(world, name, asked).await;
    let seen = described(&status);
    assert!(status.failures.is_empty(), "{name}: a trial was lost: {seen}");
    all_succeeded(world, name).await;
    let wanted = (asked.processes * asked.trials) as usize;
    let found: usize = world
        .runners(name)
        .await
        .iter()
        .map(|runner| windows(runner).count())
        .sum();
    assert_eq!(found, wanted, "{name}: windows in the records: {seen}");
}

/// The experiment is complete although trials were lost with their processes; what was finished is there once. Gives
/// the last status.
pub(crate) async fn hold_after_losses(world: &World, name: &str, asked: Asked) -> EfficiencyExperimentStatus {
    let status = world.ended(name).await;
    let seen = described(&status);
    assert_eq!(status.phase, ExperimentPhase::Complete, "{name}: {seen}");
    assert_eq!(status.progress.planned, asked.trials, "{name}: {seen}");
    assert_eq!(status.progress.finished, asked.trials, "{name}: {seen}");
    let cycles: u32 = status.points.iter().map(|point| point.cycles).sum();
    assert_eq!(cycles, asked.trials, "{name}: the result rests on other cycles: {seen}");

    // The last baseline comes after the last result.
    nothing_runs(world, name).await;
    let runners = world.runners(name).await;
    every_window_once(name, &runners, asked);
    no_counter_twice(name, &runners);
    status
}

fn windows(runner: &Runner) -> impl Iterator<Item = &WindowRecord> {
    let status = runner.status.iter();
    status.flat_map(RunnerStatus::all_windows)
}

fn every_window_once(name: &str, runners: &[Runner], asked: Asked) {
    let mut found = BTreeSet::new();
    let mut count = 0;
    for runner in runners {
        for window in windows(runner) {
            count += 1;
            let fresh = found.insert((runner.spec.node.clone(), runner.spec.process, window.trial.clone()));
            assert!(fresh, "{name}: measured twice: {:?}", window.trial);
        }
    }
    let wanted = (asked.processes * asked.trials) as usize;
    assert!(count >= wanted, "{name}: windows are lost: {found:?}");
}

/// A stretch of time, and who used it in which trial.
type Span<'a> = (Timestamp, Timestamp, u32, &'a TrialIdentity);

/// No process measures two windows at a time, no node measures in two trials at a time, and no stretch of a counter is
/// in two windows but those of one trial's processes on one node, between which it is divided.
fn no_counter_twice(name: &str, runners: &[Runner]) {
    let mut spans: BTreeMap<String, Vec<Span<'_>>> = BTreeMap::new();
    for runner in runners {
        for window in windows(runner) {
            let mut add = |what: String, start, end| {
                let span = (start, end, runner.spec.process, &window.trial);
                spans.entry(what).or_default().push(span);
            };
            add(format!("node {}", window.node), window.started_at, window.ended_at);
            for reading in &window.energy {
                if let (Some(start), Some(end)) = (&reading.start, &reading.end) {
                    let CounterIdentity { domain, node, id, .. } = &reading.counter;
                    add(format!("counter {} {node} {id}", domain.name()), start.at, end.at);
                }
            }
        }
    }
    for (what, spans) in spans {
        for (index, one) in spans.iter().enumerate() {
            for other in &spans[index + 1..] {
                let apart = one.1 <= other.0 || other.1 <= one.0;
                let together = one.2 != other.2 && one.3 == other.3;
                assert!(apart || together, "{name}: {what} is counted twice: {one:?} {other:?}");
            }
        }
    }
}

fn of_experiment(name: &str) -> ListParams {
    ListParams::default().labels(&format!("lem.dev/experiment={name}"))
}

fn holds(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut of_kind = conditions.filter(|condition| condition.type_ == kind);
    of_kind.any(|condition| condition.status == "True")
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Its Jobs have ended and are let go, its pods have ended.
async fn nothing_runs(world: &World, name: &str) {
    world
        .eventually(&format!("the end of everything that runs for {name}"), || async move {
            let jobs = world.api::<Job>().list(&of_experiment(name)).await;
            for job in jobs.map_err(|error| error.to_string())? {
                let let_go = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
                if !(holds(&job, "Complete") || holds(&job, "Failed")) || let_go.is_none() {
                    return Err(format!("Job {}: {:?}, {let_go:?}", job.name_any(), job.status));
                }
            }
            let pods = world.api::<Pod>().list(&of_experiment(name)).await;
            for pod in pods.map_err(|error| error.to_string())? {
                if !matches!(phase(&pod), Some("Succeeded" | "Failed")) {
                    return Err(format!("pod {} is {:?}", pod.name_any(), phase(&pod)));
                }
            }
            Ok(())
        })
        .await;
}

/// No process of it has failed.
async fn all_succeeded(world: &World, name: &str) {
    for job in world.api::<Job>().list(&of_experiment(name)).await.unwrap() {
        assert!(
            holds(&job, "Complete"),
            "{name}: Job {}: {:?}",
            job.name_any(),
            job.status
        );
    }
    for pod in world.api::<Pod>().list(&of_experiment(name)).await.unwrap() {
        assert_eq!(phase(&pod), Some("Succeeded"), "{name}: pod {}", pod.name_any());
    }
}

/// An operator whose work can be seen.
pub(crate) trait Watched {
    /// How often it has looked at experiments.
    fn reconciliations(&self) -> impl Future<Output = Result<u64, String>>;

    /// What it has written about the test's experiments.
    fn writes(&self) -> Vec<String>;
}

/// An operator that looks again has nothing to write.
pub(crate) async fn a_second_look_changes_nothing(world: &World, name: &str, operator: &impl Watched) {
    let wanted = operator.writes().len();
    for _ in 0..SECOND_LOOKS {
        let before = world
            .eventually("an operator that has looked", || async {
                let looked = operator.reconciliations().await?;
                (looked > 0).then_some(looked).ok_or_else(|| "none".to_owned())
            })
            .await;
        touch(world, name).await;
        world
            .eventually("another look", || async {
                let looked = operator.reconciliations().await?;
                (looked > before).then_some(()).ok_or_else(|| looked.to_string())
            })
            .await;
    }
    let writes = operator.writes();
    assert_eq!(
        writes.len(),
        wanted,
        "{name}: written without need: {:?}",
        &writes[wanted..]
    );
}

/// Changes nothing that matters, so that the operator looks again.
async fn touch(world: &World, name: &str) {
    let patch = json!({"metadata": {"annotations": {"test.lem.dev/touched": Timestamp::now().to_string()}}});
    let touched = world
        .api::<EfficiencyExperiment>()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    touched.unwrap();
}

/// How often the operator with these metrics has looked at experiments.
pub(crate) fn reconciliations(metrics: &str) -> Result<u64, String> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("lem_operator_reconciliations_total "));
    let value = line.ok_or("the metrics lack the count of reconciliations")?;
    value.parse().map_err(|error| format!("{value}: {error}"))
}
