//! One experiment from where it is to its end, with what is worth saying on the way. Client, but for what is said.

use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus,
    status::{ExperimentPhase, TrialFailure},
};

use super::{
    connection::Connection,
    error::{ClusterError, Request},
    experiments::EXPERIMENTS,
    status::waiting,
};
use crate::{controller::aggregate::is_over, local::progress::Progress};

/// An operator has seen an experiment within a second; after so long something is wrong with it.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// How following an experiment ended.
#[derive(Debug)]
pub(super) enum Followed {
    /// Nothing more comes.
    Over(Box<EfficiencyExperiment>),
    /// The operator will not run it as written.
    Refused(String),
    /// The user has enough; it goes on.
    Left,
}

/// Follows an experiment until it is over.
pub(super) async fn follow(
    connection: &Connection,
    namespace: &str,
    name: &str,
    progress: Progress,
) -> Result<Followed, ClusterError> {
    let changes = watcher::watch_object(connection.api::<EfficiencyExperiment>(namespace), name).default_backoff();
    let mut changes = std::pin::pin!(changes);
    let mut teller = Teller::new(progress);
    loop {
        let change = if teller.is_seen {
            changes.next().await
        } else if let Ok(change) = tokio::time::timeout(SEEN_WITHIN, changes.next()).await {
            change
        } else {
            teller.warn_once(&format!(
                "no operator has looked at {name} yet: `{}` says whether there is one",
                connection.command("doctor", namespace)
            ));
            continue;
        };
        match change {
            Some(Ok(Some(experiment))) => {
                teller.tell(&experiment);
                if let Some(end) = end(&experiment) {
                    return Ok(end);
                }
            }
            Some(Ok(None)) => {
                return Err(ClusterError::NoSuchExperiment {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    hint: " any more: it was deleted, and its results with it".to_owned(),
                });
            }
            Some(Err(error)) => {
                if let Some(error) = final_error(connection, namespace, error) {
                    return Err(error);
                }
                teller.warn_once(
                    "the API server does not answer: the experiment goes on, and is followed as soon as it does",
                );
            }
            // The watch has no end of its own.
            None => return Ok(Followed::Left),
        }
    }
}

/// What asking again does not cure.
fn final_error(connection: &Connection, namespace: &str, error: watcher::Error) -> Option<ClusterError> {
    let (verb, error) = match error {
        watcher::Error::InitialListFailed(error) => ("list", error),
        watcher::Error::WatchStartFailed(error) => ("watch", error),
        _ => return None,
    };
    match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404) => {
            Some(connection.explain(Request::new(verb, EXPERIMENTS, namespace), error))
        }
        _ => None,
    }
}

/// How an experiment has ended, if it has.
fn end(experiment: &EfficiencyExperiment) -> Option<Followed> {
    let status = experiment.status.as_ref()?;
    if is_over(status.phase) {
        return Some(Followed::Over(Box::new(experiment.clone())));
    }
    let is_current = status.observed_generation == experiment.metadata.generation;
    let refused = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Validated" && condition.status == "False");
    refused
        .filter(|_| is_current)
        .map(|condition| Followed::Refused(condition.message.clone()))
}

/// Says what has changed, once.
struct Teller {
    progress: Progress,
    is_seen: bool,
    planned: u32,
    finished: u32,
    failures: usize,
    doing: String,
    warned: Vec<String>,
}

impl Teller {
    fn new(progress: Progress) -> Self {
        Self {
            progress,
            is_seen: false,
            planned: 0,
            finished: 0,
            failures: 0,
            doing: String::new(),
            warned: Vec::new(),
        }
    }

    fn warn_once(&mut self, text: &str) {
        if !self.warned.iter().any(|said| said == text) {
            self.progress.warn(text);
            self.warned.push(text.to_owned());
        }
    }

    fn tell(&mut self, experiment: &EfficiencyExperiment) {
        let unseen = EfficiencyExperimentStatus::default();
        let status = experiment.status.as_ref().unwrap_or(&unseen);
        self.is_seen |= status.observed_generation.is_some();
        let planned = status.progress.planned;
        self.progress.extend(u64::from(planned.saturating_sub(self.planned)));
        for _ in self.finished..status.progress.finished {
            self.progress.advance();
        }
        let moved = (planned, status.progress.finished) != (self.planned, self.finished);
        (self.planned, self.finished) = (self.planned.max(planned), self.finished.max(status.progress.finished));
        for failure in status.failures.iter().skip(self.failures) {
            self.progress.warn(&failed(failure).join(": "));
        }
        self.failures = status.failures.len();
        let doing = doing(experiment);
        if doing != self.doing || moved {
            self.progress.say(&doing);
        }
        self.doing = doing;
        if let Some(waiting) = waiting(experiment).filter(|waiting| waiting.is_stalled) {
            self.warn_once(&format!("waiting ({}): {}", waiting.reason, waiting.message));
        }
    }
}

/// What an experiment is doing, in a few words. Pure.
fn doing(experiment: &EfficiencyExperiment) -> String {
    let Some(status) = &experiment.status else {
        return "waits for the operator".to_owned();
    };
    if is_over(status.phase) {
        return format!("{:?}", status.phase);
    }
    match waiting(experiment) {
        Some(waiting) if waiting.is_stalled => format!("waiting: {}", waiting.reason),
        Some(waiting) => waiting.message,
        None => measuring(status),
    }
}

fn measuring(status: &EfficiencyExperimentStatus) -> String {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Measuring");
    condition
        .filter(|_| status.phase == ExperimentPhase::Measuring)
        .map_or_else(|| format!("{:?}", status.phase), |condition| condition.message.clone())
}

/// A trial that failed: which, and why. Pure.
pub(super) fn failed(failure: &TrialFailure) -> [String; 2] {
    let trial = &failure.trial;
    let processes: Vec<String> = failure
        .processes
        .iter()
        .map(|process| format!("process {}: {}", process.process, process.message))
        .collect();
    [
        format!(
            "point {} cycle {} attempt {}",
            trial.point,
            trial.cycle + 1,
            trial.attempt + 1
        ),
        processes.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn experiment(status: &Value) -> EfficiencyExperiment {
        let object = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment",
            "metadata": {"name": "quick", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"model": {"name": "m", "source": {"synthetic": {"preset": "tiny-test"}}}},
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn a_refusal_of_an_older_spec_is_not_the_end_of_the_corrected_one() {
        let refused = |generation: i64| {
            let conditions = [condition("Validated", "False", "Refused", "spec.x: wrong")];
            end(&experiment(
                &json!({"phase": "Pending", "observedGeneration": generation, "conditions": conditions}),
            ))
        };
        assert!(refused(1).is_none());
        assert!(matches!(refused(2), Some(Followed::Refused(message)) if message == "spec.x: wrong"));
    }

    #[test]
    fn what_an_experiment_does_is_said_in_the_operators_words() {
        let conditions = [
            condition("Scheduled", "True", "Placed", "3 processes run"),
            condition("Measuring", "True", "Trial", "default cycle 2 attempt 1"),
            condition("Stalled", "False", "Progressing", ""),
        ];
        let status = json!({"phase": "Measuring", "observedGeneration": 2, "conditions": conditions});
        assert_eq!(doing(&experiment(&status)), "default cycle 2 attempt 1");
        let stalled = json!({"phase": "Starting", "observedGeneration": 2,
            "conditions": [condition("Stalled", "True", "GpuMissing", "no node has the GPUs free")]});
        assert_eq!(doing(&experiment(&stalled)), "waiting: GpuMissing");
        assert_eq!(doing(&experiment(&json!({"phase": "Complete"}))), "Complete");
    }
}
