//! Which processes of a trial reported, each index once, in one schema (METHODOLOGY §6, completeness). Pure.

use std::collections::BTreeMap;

use lem_crds::{
    SCHEMA_VERSION,
    plan::TrialIdentity,
    runner::{Environment, HeldSeconds, IdleBaseline, RunnerError, WindowRecord},
    status::{Doubt, Verdict, VerdictReason},
};

use super::{record::same_trial, trial::ProcessInput, verdict::reason};

/// A process whose window can be aggregated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported<'a> {
    pub(super) index: u32,
    pub(super) environment: Option<&'a Environment>,
    pub(super) baselines: &'a [IdleBaseline],
    pub(super) held: &'a HeldSeconds,
    pub(super) window: &'a WindowRecord,
}

/// The processes that reported, in order of index, and what is wrong with the set.
///
/// A set with an `Invalid` reason must not be aggregated: its sums would lack or repeat a process.
pub(super) fn completeness<'a>(
    processes: &[ProcessInput<'a>],
    expected: u32,
    trial: &TrialIdentity,
) -> (Vec<Reported<'a>>, Vec<VerdictReason>) {
    let mut by_index: BTreeMap<u32, Vec<&ProcessInput<'a>>> = (0..expected).map(|index| (index, Vec::new())).collect();
    for process in processes {
        by_index.entry(process.index).or_default().push(process);
    }
    let mut reported = Vec::new();
    let mut reasons = Vec::new();
    for (index, found) in by_index {
        if found.len() > 1 || index >= expected {
            let message = format!("process {index} of {expected} reported {} times", found.len());
            reasons.push(reason(Doubt::DuplicateProcess, message));
        }
        let windows: Vec<_> = found.iter().filter_map(|process| of_trial(process, trial)).collect();
        reasons.extend(found.iter().filter_map(|process| failed(process, !windows.is_empty())));
        let lost_to_error = found.iter().any(|process| process.failure.is_some());
        if windows.is_empty() && !lost_to_error {
            let message = format!("process {index} of {expected} did not report cycle {}", trial.cycle);
            reasons.push(reason(Doubt::MissingProcess, message));
        }
        for process in found.iter().filter(|process| process.schema_version != SCHEMA_VERSION) {
            if of_trial(process, trial).is_some() {
                let message = format!(
                    "process {index} reports schema {}, this lem reads {SCHEMA_VERSION}",
                    process.schema_version
                );
                reasons.push(reason(Doubt::SchemaVersion, message));
            }
        }
        reported.extend(windows.first().copied());
    }
    (reported, reasons)
}

/// The process's window, if it is of this trial and not of one before.
fn of_trial<'a>(process: &ProcessInput<'a>, trial: &TrialIdentity) -> Option<Reported<'a>> {
    let window = process.window.filter(|window| same_trial(&window.trial, trial))?;
    Some(Reported {
        index: process.index,
        environment: process.environment,
        baselines: process.baselines,
        held: process.held,
        window,
    })
}

/// An error before the report costs the trial; one after it is a doubt.
fn failed(process: &ProcessInput<'_>, has_window: bool) -> Option<VerdictReason> {
    let RunnerError { category, message } = process.failure?;
    let when = if has_window { "after" } else { "before" };
    let mut found = reason(
        Doubt::FailedProcess,
        format!(
            "process {} failed {when} it reported: {category}: {message}",
            process.index
        ),
    );
    if has_window {
        found.severity = Verdict::Suspect;
    }
    Some(found)
}
