//! What a run came to, and whether it keeps to the limits. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{Runner, RunnerStatus, plan::TrialIdentity, status::FleetStatus};
use serde::{Deserialize, Serialize};

use crate::process::Written;

/// Where and with what it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kubernetes: String,
    pub(crate) lem: String,
    pub(crate) date: String,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    pub(crate) nodes: u32,
    pub(crate) concurrent: String,
    pub(crate) cycles: u32,
    pub(crate) seed: u64,
    /// Seconds between two kills of the replica that leads; none without.
    pub(crate) kill_every_seconds: Option<u64>,
}

/// Whose requests they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Who {
    /// Replicas of the operator.
    Operator,
    /// Measuring processes.
    Runners,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Requests {
    pub(crate) who: Who,
    pub(crate) verb: String,
    pub(crate) resource: String,
    pub(crate) count: usize,
}

impl Requests {
    fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) machine: Machine,
    pub(crate) asked: Asked,
    /// Final phase of the experiment.
    pub(crate) phase: String,
    /// From `kubectl apply` to the final status.
    pub(crate) seconds: f64,
    /// Pauses in place of measurements, spread over as many processes as may run at the same time: no operator could be
    /// faster.
    pub(crate) measuring_seconds: f64,
    /// From the last report of a process to the final status.
    pub(crate) last_report_to_final_status_seconds: f64,
    pub(crate) requests: Vec<Requests>,
    /// Bytes of watch events, of all watchers together, by kind.
    pub(crate) watch_bytes: BTreeMap<String, f64>,
    /// Growth of the store.
    pub(crate) store_bytes: f64,
    pub(crate) operator_peak_resident_mebibytes: f64,
    pub(crate) operator_cpu_seconds: f64,
    /// Kills of the replica that led.
    pub(crate) kills: u32,
    /// Processes that began, with those that took the place of others.
    pub(crate) processes: u32,
    pub(crate) crashed: u32,
    pub(crate) ended: u32,
    /// Windows that came to their end.
    pub(crate) windows: usize,
    /// Windows that are in no record.
    pub(crate) lost: usize,
    /// Windows that were measured more than once.
    pub(crate) doubled: usize,
    /// Nodes by what became of them, as the status counts them.
    pub(crate) measured_nodes: u32,
    pub(crate) failed_nodes: u32,
    /// Why nodes have no result, each reason with how many they are.
    pub(crate) without_result: Vec<String>,
    pub(crate) classes: usize,
    /// Bytes of the final status.
    pub(crate) status_bytes: usize,
    /// What went wrong with the simulation itself.
    pub(crate) errors: Vec<String>,
}

/// `thresholds.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Thresholds {
    pub(crate) operator_peak_resident_mebibytes: f64,
    pub(crate) operator_cores: f64,
    pub(crate) writes_per_process: f64,
    pub(crate) writes_per_fleet: f64,
    pub(crate) last_report_to_final_status_seconds: f64,
    pub(crate) succession_seconds: f64,
    pub(crate) requests_per_process_ratio: f64,
}

/// Nodes up to which the limit of memory holds as it stands; it grows with a larger fleet, all of which is cached.
const MEMORY_NODES: f64 = 1000.0;

/// Nodes of the fleet whose cost per process larger ones are held against.
const REFERENCE_NODES: u32 = 100;

impl Outcome {
    /// Nobody killed the leader.
    pub(crate) fn is_calm(&self) -> bool {
        self.asked.kill_every_seconds.is_none()
    }

    /// Average processors that all replicas together kept busy.
    pub(crate) fn operator_cores(&self) -> f64 {
        self.operator_cpu_seconds / self.seconds
    }

    fn per_process(&self, counts: impl Fn(&Requests) -> bool) -> f64 {
        let count: usize = self
            .requests
            .iter()
            .filter(|one| counts(one))
            .map(|one| one.count)
            .sum();
        count as f64 / f64::from(self.processes.max(1))
    }

    /// Changes asked for by the operator and the processes, per process.
    pub(crate) fn writes_per_process(&self) -> f64 {
        self.per_process(Requests::is_write)
    }

    /// Requests of the operator and the processes, per process.
    pub(crate) fn requests_per_process(&self) -> f64 {
        self.per_process(|_| true)
    }

    /// What a run does not keep to, in words.
    pub(crate) fn failings(&self, limits: &Thresholds) -> Vec<String> {
        let succession = if self.kills > 0 { limits.succession_seconds } else { 0.0 };
        let figures = [
            (
                "peak resident memory of the operator in MiB",
                self.operator_peak_resident_mebibytes,
                limits.operator_peak_resident_mebibytes * (f64::from(self.asked.nodes) / MEMORY_NODES).max(1.0),
            ),
            (
                "processors that the operator keeps busy",
                self.operator_cores(),
                limits.operator_cores,
            ),
            (
                "writes per process",
                self.writes_per_process(),
                limits.writes_per_process + limits.writes_per_fleet / f64::from(self.processes.max(1)),
            ),
            (
                "seconds from the last report to the final status",
                self.last_report_to_final_status_seconds,
                limits.last_report_to_final_status_seconds + succession,
            ),
            ("lost windows", self.lost as f64, 0.0),
            ("doubled windows", self.doubled as f64, 0.0),
            (
                "nodes without a result",
                f64::from(self.asked.nodes.saturating_sub(self.measured_nodes)),
                0.0,
            ),
        ];
        let of_figures = figures
            .iter()
            .filter(|(_, value, limit)| value > limit)
            .map(|(what, value, limit)| format!("{} nodes: {what}: {value:.2}, limit {limit:.2}", self.asked.nodes));
        let words = self.without_result.iter().chain(&self.errors);
        let of_words = words.map(|words| format!("{} nodes: {words}", self.asked.nodes));
        of_figures.chain(of_words).collect()
    }
}

/// Whether the cost per process stays as the fleet grows.
pub(crate) fn growth(outcomes: &[Outcome], limits: &Thresholds) -> Option<String> {
    let calm = || outcomes.iter().filter(|one| one.is_calm());
    let reference = calm().find(|one| one.asked.nodes == REFERENCE_NODES)?;
    let largest = calm().max_by_key(|one| one.asked.nodes)?;
    let ratio = largest.requests_per_process() / reference.requests_per_process();
    (ratio > limits.requests_per_process_ratio).then(|| {
        format!(
            "requests per process with {} nodes are {ratio:.2} times those with {REFERENCE_NODES}, limit {}",
            largest.asked.nodes, limits.requests_per_process_ratio
        )
    })
}

/// Windows that the processes have measured and that no record holds, and windows that were measured more than once.
pub(crate) fn lost_and_doubled(written: &Written, runners: &[Runner]) -> (usize, usize) {
    let recorded: Vec<(&str, &TrialIdentity)> = runners.iter().flat_map(windows).collect();
    let known: BTreeSet<(&str, &TrialIdentity)> = recorded.iter().copied().collect();
    let measured: BTreeSet<(&str, &TrialIdentity)> = written
        .windows
        .iter()
        .map(|(node, trial)| (node.as_str(), trial))
        .collect();
    let lost = measured.difference(&known).count();
    let in_records = recorded.len() - known.len();
    let by_processes = written.windows.len() - measured.len();
    (lost, in_records.max(by_processes))
}

fn windows(runner: &Runner) -> impl Iterator<Item = (&str, &TrialIdentity)> {
    let status = runner.status.iter();
    let windows = status.flat_map(RunnerStatus::all_windows);
    windows.map(|window| (window.node.as_str(), &window.trial))
}

/// Nodes of a status by what became of them.
pub(crate) fn counted(fleet: Option<&FleetStatus>) -> (u32, u32, usize) {
    fleet.map_or((0, 0, 0), |fleet| {
        (fleet.nodes.measured, fleet.nodes.failed, fleet.classes.len())
    })
}

/// Reasons for which nodes have no result, in words.
pub(crate) fn reasons(fleet: Option<&FleetStatus>) -> Vec<String> {
    let reasons = fleet.into_iter().flat_map(|fleet| &fleet.without_result);
    reasons
        .map(|one| format!("{} × {}: {}", one.count, one.reason, one.message))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trial(cycle: u32) -> TrialIdentity {
        TrialIdentity {
            plan_sha256: "0".repeat(64),
            point: 0,
            cycle,
            attempt: 0,
        }
    }

    fn written(cycles: &[u32]) -> Written {
        Written {
            windows: cycles.iter().map(|cycle| ("a".to_owned(), trial(*cycle))).collect(),
            ..Written::default()
        }
    }

    fn runner(cycles: &[u32]) -> Runner {
        let behaviour = crate::behaviour::Behaviour { seed: 1, node: "a" };
        let figures = crate::figures::Figures {
            behaviour,
            class: crate::behaviour::CLASSES[0],
        };
        let windows = cycles.iter().map(|cycle| {
            figures
                .window(&trial(*cycle), jiff::Timestamp::UNIX_EPOCH, 1.0)
                .unwrap()
        });
        let experiment = crate::fleet::experiment("1", 1).unwrap();
        let mut runner = Runner::new(
            "a",
            serde_json::from_value(json!({
                "experiment": "fleet", "cohort": "a", "process": 0, "processes": 1,
                "load": {"model": experiment.spec.model, "engine": experiment.spec.engine,
                    "energy": experiment.spec.energy, "baseline": experiment.spec.protocol.baseline, "gpusPerProcess": 1},
            }))
            .unwrap(),
        );
        runner.status = Some(RunnerStatus {
            windows: windows.collect(),
            ..RunnerStatus::default()
        });
        runner
    }

    #[test]
    fn a_window_that_no_record_holds_is_lost_and_one_that_is_there_twice_is_doubled() {
        assert_eq!(lost_and_doubled(&written(&[0, 1]), &[runner(&[0, 1])]), (0, 0));
        assert_eq!(lost_and_doubled(&written(&[0, 1]), &[runner(&[0])]), (1, 0));
        assert_eq!(
            lost_and_doubled(&written(&[0, 1]), &[runner(&[0, 1]), runner(&[1])]),
            (0, 1)
        );
        assert_eq!(lost_and_doubled(&written(&[0, 0]), &[runner(&[0])]), (0, 1));
    }
}
