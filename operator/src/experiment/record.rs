//! The records that everything is computed from: one per child or pod of a process, and the trials that failed. Pure.

use lem_crds::{
    RunnerStatus,
    plan::TrialIdentity,
    runner::{RunnerError, WindowRecord},
    status::{ProcessFailure, TrialFailure},
};
use serde::{Deserialize, Serialize};

/// What one child or pod of one process reported.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Index of the process.
    pub process: u32,
    /// What it reported last.
    pub status: RunnerStatus,
}

impl Record {
    /// Whether it has measured anything.
    pub fn has_windows(&self) -> bool {
        !self.status.windows.is_empty()
    }

    /// The records of one `Runner`: of the pods that were lost, and of the present one.
    pub fn of_runner(process: u32, status: &RunnerStatus) -> Vec<Self> {
        let earlier = status.earlier.iter().map(|lost| RunnerStatus {
            schema_version: lost.schema_version,
            pod_uid: lost.pod_uid.clone(),
            environment: lost.environment.clone(),
            held: lost.held,
            baselines: lost.baselines.clone(),
            windows: lost.windows.clone(),
            ..RunnerStatus::default()
        });
        let present = RunnerStatus {
            earlier: Vec::new(),
            ..status.clone()
        };
        earlier
            .chain([present])
            .map(|status| Self { process, status })
            .collect()
    }
}

/// A trial that did not come to all its windows, or whose result was invalid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The trial.
    pub trial: TrialIdentity,
    /// Per process, what went wrong.
    pub processes: Vec<(u32, RunnerError)>,
}

impl From<&TrialFailure> for Failure {
    fn from(failure: &TrialFailure) -> Self {
        let error = |process: &ProcessFailure| RunnerError {
            category: process.category.clone(),
            message: process.message.clone(),
        };
        Self {
            trial: failure.trial.clone(),
            processes: failure
                .processes
                .iter()
                .map(|process| (process.process, error(process)))
                .collect(),
        }
    }
}

/// The window of one process in one trial, with the record it stands in.
pub fn find_window<'a>(
    records: &'a [Record],
    trial: &TrialIdentity,
    process: u32,
) -> Option<(&'a Record, &'a WindowRecord)> {
    records
        .iter()
        .filter(|record| record.process == process)
        .find_map(|record| {
            let window = record
                .status
                .windows
                .iter()
                .find(|window| same_trial(&window.trial, trial));
            window.map(|window| (record, window))
        })
}

/// Points may move within a sweep; the plan's hash, the cycle and the attempt name a trial.
pub(super) fn same_trial(left: &TrialIdentity, right: &TrialIdentity) -> bool {
    left.plan_sha256 == right.plan_sha256 && left.cycle == right.cycle && left.attempt == right.attempt
}
