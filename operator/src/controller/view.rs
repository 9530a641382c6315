//! What the cluster shows of an experiment, in the terms in which decisions are made. Pure: from objects to plain
//! facts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use lem_crds::{
    Runner, RunnerStatus,
    plan::TrialIdentity,
    runner::{Assignment, CONTAINER},
};

use super::{
    build::{PROCESS_LABEL, QUEUE_LABEL, runner_name},
    stall::{self, Cause},
};
use crate::experiment::Record;

/// A kubelet that lives has removed a pod so long after its grace period.
const NODE_SILENCE: SignedDuration = SignedDuration::from_secs(10);

/// A Job of a fleet without pods, or a pod without a container, for so long is asked for its events.
const START_EXPECTED_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Label that the Job controller puts on each pod: the Job.
pub const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Mailboxes of the experiment.
    pub runners: Vec<Runner>,
    /// Its Jobs.
    pub jobs: Vec<Job>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// The last warning about a Job whose pods cannot be made, in the API server's own words.
    pub job_warning: Option<String>,
    /// Warnings about pods that have no container yet, by name, in the kubelet's own words.
    pub pod_warnings: BTreeMap<String, String>,
    /// The change that the API server has refused last, if it still refuses it.
    pub api_refusal: Option<Cause>,
    /// The namespace is being deleted.
    pub namespace_ends: bool,
}

impl Observed {
    /// Why there are no pods.
    pub fn refusal(&self) -> Option<Cause> {
        let pods = self.job_warning.as_deref().map(stall::pods_refused);
        pods.or_else(|| self.api_refusal.clone())
    }

    /// The raw facts that all pods have reported.
    pub fn records(&self) -> Vec<Record> {
        let reported = self.runners.iter().filter_map(|runner| {
            let status = runner.status.as_ref()?;
            Some(Record::of_runner(runner.spec.process, status))
        });
        reported.flatten().collect()
    }

    /// Every set of processes that there is or was, in order of cohort and number.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        let mut found: BTreeMap<(String, u32), Vec<Runner>> = BTreeMap::new();
        for runner in &self.runners {
            let key = (runner.spec.cohort.clone(), runner.spec.incarnation);
            found.entry(key).or_default().push(runner.clone());
        }
        found
            .into_iter()
            .map(|((cohort, number), runners)| self.incarnation(cohort, number, runners))
            .collect()
    }

    fn incarnation(&self, cohort: String, number: u32, mut runners: Vec<Runner>) -> Incarnation {
        runners.sort_by_key(|runner| runner.spec.process);
        let name = runners.first().and_then(job_of_runner).unwrap_or_default();
        let job = self.jobs.iter().find(|job| job.name_any() == name).map(job_view);
        let seats = runners
            .into_iter()
            .map(|runner| {
                let pod = self
                    .newest_pod(&name, runner.spec.process)
                    .map(|pod| self.explained(pod));
                Seat { runner, pod }
            })
            .collect();
        Incarnation {
            cohort,
            number,
            name,
            seats,
            job,
        }
    }

    fn explained(&self, pod: &Pod) -> PodView {
        let mut view = pod_view(pod);
        if view.obstacle.is_none() && view.started.is_none() {
            let words = self.pod_warnings.get(&view.name);
            view.obstacle = words.map(|words| stall::not_started(words));
        }
        view
    }

    fn newest_pod(&self, job: &str, process: u32) -> Option<&Pod> {
        let process = process.to_string();
        let of_process = self.pods.iter().filter(|pod| {
            let labels = pod.labels();
            labels.get(JOB_NAME_LABEL).is_some_and(|name| name == job) && labels.get(PROCESS_LABEL) == Some(&process)
        });
        // Of two made within one second the one that still lives.
        of_process.max_by_key(|pod| {
            let made = pod.creation_timestamp().map(|time| time.0).unwrap_or_default();
            (made, !pod_view(pod).ended(), pod.name_any())
        })
    }
}

/// Name of the Job whose pod writes a mailbox.
pub fn job_of_runner(runner: &Runner) -> Option<String> {
    let suffix = runner_name("", runner.spec.process);
    runner.name_any().strip_suffix(&suffix).map(ToOwned::to_owned)
}

/// One set of processes of a cohort.
#[derive(Debug, Clone)]
pub struct Incarnation {
    /// Key of the cohort.
    pub cohort: String,
    /// Its number among those of the cohort.
    pub number: u32,
    /// Name of its Job.
    pub name: String,
    /// Its processes, in order of index; one whose mailbox is gone is missing.
    pub seats: Vec<Seat>,
    /// Its Job, unless it is gone or not yet there.
    pub job: Option<JobView>,
}

impl Incarnation {
    /// No window comes any more.
    pub fn closed(&self) -> bool {
        self.seats.iter().all(|seat| seat.runner.spec.finish)
    }

    /// Windows of all processes.
    pub fn windows(&self) -> usize {
        self.seats.iter().map(|seat| seat.windows().count()).sum()
    }

    /// Some processes hold nodes while others wait for one.
    pub fn partly_placed(&self) -> bool {
        let placed = |seat: &&Seat| seat.pod.as_ref().is_some_and(|pod| pod.placed && !pod.ended());
        let count = self.seats.iter().filter(placed).count();
        0 < count && count < self.seats.len()
    }

    /// A process whose node is lost: its Job waits for the pod's end, which nobody brings about.
    pub fn stranded(&self, now: Timestamp) -> bool {
        let since = |seat: &Seat| seat.pod.as_ref()?.stranded_at();
        self.seats.iter().filter_map(since).any(|since| since <= now)
    }

    /// Every process has taken its last baseline, or none of it runs any more.
    pub fn over(&self) -> bool {
        let finished = |seat: &Seat| {
            seat.runner
                .status
                .as_ref()
                .is_some_and(|status| status.phase == lem_crds::runner::RunnerPhase::Finished)
        };
        self.job.as_ref().is_none_or(|job| job.end.is_some()) || self.seats.iter().all(finished)
    }
}

/// One process: its mailbox and its newest pod.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The mailbox.
    pub runner: Runner,
    /// The newest pod.
    pub pod: Option<PodView>,
}

impl Seat {
    /// Index of the process.
    pub fn process(&self) -> u32 {
        self.runner.spec.process
    }

    /// Trials that this process has reported, with whatever pod.
    pub fn windows(&self) -> impl Iterator<Item = &TrialIdentity> {
        let windows = self.runner.status.iter().flat_map(RunnerStatus::all_windows);
        windows.map(|window| &window.trial)
    }

    /// The trial in its mailbox.
    pub fn assigned(&self) -> Option<&TrialIdentity> {
        self.runner.spec.assignment.as_ref().map(|assignment| &assignment.trial)
    }

    /// What its mailbox says of a trial, as the one to measure or as the one after it.
    pub fn told(&self, trial: &TrialIdentity) -> Option<&Assignment> {
        let mut held = self.held();
        held.find(|held| held.trial == *trial)
    }

    /// What its mailbox holds: the assignment, and those after it.
    pub fn held(&self) -> impl Iterator<Item = &Assignment> {
        self.runner.spec.held()
    }

    /// The common start of a trial in its mailbox.
    pub fn start_at(&self, trial: &TrialIdentity) -> Option<Timestamp> {
        self.told(trial)?.start_at
    }

    /// End of the last window of the pod that writes now, by that pod's clock.
    pub fn last_window_ended_at(&self) -> Option<Timestamp> {
        let status = self.runner.status.as_ref()?;
        Some(status.windows.last()?.ended_at)
    }
}

/// What matters of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// When it was made.
    pub created: Timestamp,
    /// Since when it may have pods: where there is a queue, since that has admitted it last; none while it waits.
    pub admitted: Option<Timestamp>,
    /// How it ended, if it has.
    pub end: Option<JobEnd>,
    /// Seconds that it stays after its end, if that is set.
    pub time_to_live: Option<u32>,
    /// It is being deleted.
    pub deleting: bool,
    /// It may have no pods yet: a queue has not admitted it, or has taken that back.
    pub suspended: bool,
}

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// Every process exited without an error.
    Complete,
    /// Kubernetes' reason and message.
    Failed(String),
}

/// A Job without all its pods, or a pod without its container, of which no more is known. Its events may say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexplained {
    /// What it is.
    pub kind: UnexplainedKind,
    /// Its name.
    pub name: String,
    /// Since when it should have started.
    pub since: Timestamp,
}

/// What may wait without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnexplainedKind {
    /// A Job, for its pods.
    Job,
    /// A pod, for its container.
    Pod,
}

impl Unexplained {
    /// When it has waited for longer than what starts does.
    pub fn late_at(&self) -> Timestamp {
        self.since
            .saturating_add(START_EXPECTED_AFTER)
            .unwrap_or(Timestamp::MAX)
    }
}

/// The first of the pods of a Job that does not start and has no word why, or the Job itself where it has not made all.
pub fn unexplained(job: &Job, pods: &[&Pod]) -> Option<Unexplained> {
    let view = job_view(job);
    let since = view.admitted.filter(|_| view.end.is_none() && !view.deleting)?;
    let name = job.name_any();
    let of_job = pods.iter().copied();
    let of_job: Vec<&Pod> = of_job
        .filter(|pod| pod.labels().get(JOB_NAME_LABEL) == Some(&name))
        .collect();
    let made = of_job.iter().filter_map(|pod| pod.labels().get(PROCESS_LABEL));
    let made: BTreeSet<&String> = made.collect();
    let wanted = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
    if made.len() < wanted as usize {
        let kind = UnexplainedKind::Job;
        return Some(Unexplained { kind, name, since });
    }
    let views = of_job.into_iter().map(pod_view);
    let waiting = views.filter(PodView::waits_without_a_word);
    waiting.min_by_key(|pod| pod.created).map(|pod| Unexplained {
        kind: UnexplainedKind::Pod,
        name: pod.name,
        since: pod.created,
    })
}

/// A Job that may still have pods.
pub fn is_live(job: &Job) -> bool {
    let view = job_view(job);
    view.end.is_none() && !view.deleting
}

fn job_view(job: &Job) -> JobView {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let true_condition = |kind: &str| {
        conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let end = if let Some(failed) = true_condition("Failed") {
        let message = failed.message.clone().unwrap_or_default();
        let reason = failed.reason.clone().unwrap_or_default();
        Some(JobEnd::Failed(format!("{reason}: {message}")))
    } else {
        true_condition("Complete").map(|_| JobEnd::Complete)
    };
    // Until the Job controller has seen that it is resumed, its start is that of the time before.
    let asked = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    let suspended = asked || true_condition("Suspended").is_some();
    let created = job.creation_timestamp().map(|time| time.0).unwrap_or_default();
    JobView {
        created,
        admitted: admitted(job, created).filter(|_| !suspended),
        end,
        time_to_live: job
            .spec
            .as_ref()
            .and_then(|spec| u32::try_from(spec.ttl_seconds_after_finished?).ok()),
        deleting: job.metadata.deletion_timestamp.is_some(),
        suspended,
    }
}

/// Kubernetes sets the start anew each time that a Job is resumed. A Job that nobody holds back may have pods from its
/// creation on, whether its controller works or not.
fn admitted(job: &Job, created: Timestamp) -> Option<Timestamp> {
    let status = job.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let queued = job.labels().contains_key(QUEUE_LABEL);
    if queued || conditions.any(|condition| condition.type_ == "Suspended") {
        status?.start_time.as_ref().map(|time| time.0)
    } else {
        Some(created)
    }
}

/// What matters of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was made.
    pub created: Timestamp,
    /// It has a node.
    pub placed: bool,
    /// When its container started.
    pub started: Option<Timestamp>,
    /// How it ended, in words.
    pub end: Option<String>,
    /// Since when it should be gone, if it is being deleted: the end of its grace period.
    pub deleted_by: Option<Timestamp>,
    /// Why it does not start.
    pub obstacle: Option<Cause>,
}

impl PodView {
    /// Nothing comes from it any more.
    pub fn ended(&self) -> bool {
        self.end.is_some() || self.deleted_by.is_some()
    }

    /// It has no container yet, and no word in its status why.
    pub fn waits_without_a_word(&self) -> bool {
        self.started.is_none() && !self.ended() && self.obstacle.is_none()
    }

    /// When it counts as stranded unless it is gone by then: nobody on its node carries out the deletion.
    pub fn stranded_at(&self) -> Option<Timestamp> {
        let by = self.deleted_by.filter(|_| self.end.is_none())?;
        Some(by.saturating_add(NODE_SILENCE).unwrap_or(Timestamp::MAX))
    }
}

fn pod_view(pod: &Pod) -> PodView {
    let status = pod.status.clone().unwrap_or_default();
    // An injected container may stand before it.
    let mut containers = status.container_statuses.iter().flatten();
    let container = containers.find(|container| container.name == CONTAINER);
    let state = container.and_then(|container| container.state.as_ref());
    let running = state.and_then(|state| state.running.as_ref());
    let terminated = state.and_then(|state| state.terminated.as_ref());
    let phase = status.phase.clone().unwrap_or_default();
    let ended = matches!(phase.as_str(), "Failed" | "Succeeded");
    let started = running
        .and_then(|running| running.started_at.as_ref())
        .or(terminated.and_then(|terminated| terminated.started_at.as_ref()));
    let end = ended.then(|| {
        let reason = terminated
            .and_then(|terminated| terminated.reason.clone())
            .or(status.reason.clone())
            .unwrap_or(phase);
        let code = terminated.map_or(String::new(), |terminated| {
            format!(", exit code {}", terminated.exit_code)
        });
        let message = status
            .message
            .clone()
            .map_or(String::new(), |message| format!(": {message}"));
        format!("pod {} ended: {reason}{code}{message}", pod.name_any())
    });
    PodView {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        created: pod.creation_timestamp().map(|time| time.0).unwrap_or_default(),
        placed: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
        started: started.map(|time| time.0),
        end,
        deleted_by: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        obstacle: stall::obstacle(pod),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(labels: &serde_json::Value, suspend: bool, status: &serde_json::Value) -> JobView {
        let job = json!({
            "metadata": {"name": "job", "creationTimestamp": "2027-01-15T08:00:00Z", "labels": labels},
            "spec": {"suspend": suspend, "template": {}},
            "status": status,
        });
        job_view(&serde_json::from_value(job).unwrap())
    }

    fn pod(process: u32, status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{process}"), "creationTimestamp": "2027-01-15T08:01:00Z", "labels": {
                JOB_NAME_LABEL: "job", PROCESS_LABEL: process.to_string()}},
            "spec": {"containers": []},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_does_not_start_and_does_not_say_why_is_found() {
        let job = |suspend: bool| -> Job {
            let job = json!({"metadata": {"name": "job", "creationTimestamp": "2027-01-15T08:00:00Z"},
                "spec": {"suspend": suspend, "completions": 2, "template": {}}});
            serde_json::from_value(job).unwrap()
        };
        let started = json!({"phase": "Running", "containerStatuses": [{"name": CONTAINER, "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2027-01-15T08:02:00Z"}}}]});
        let explained = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
        let found = |suspend: bool, pods: &[Pod]| {
            let pods: Vec<&Pod> = pods.iter().collect();
            unexplained(&job(suspend), &pods).map(|found| (found.kind, found.name))
        };
        let without_pods = Some((UnexplainedKind::Job, "job".to_owned()));
        let silent = Some((UnexplainedKind::Pod, "pod-1".to_owned()));
        assert_eq!(found(false, &[]), without_pods);
        assert_eq!(found(true, &[]), None, "a queue holds it");
        assert_eq!(found(false, &[pod(0, &started)]), without_pods);
        assert_eq!(found(false, &[pod(0, &started), pod(1, &json!({}))]), silent);
        assert_eq!(found(false, &[pod(0, &started), pod(1, &explained)]), None);
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_job_that_was_held_back_may_have_pods_since_it_was_resumed_last() {
        let suspended = |status: &str| json!({"type": "Suspended", "status": status});
        let start = "2027-01-15T11:00:00Z";
        let queued = json!({QUEUE_LABEL: "team"});
        let waits = seen(&queued, true, &json!({"conditions": [suspended("True")]}));
        assert_eq!((waits.admitted, waits.suspended), (None, true));
        let unseen = seen(&queued, false, &json!({}));
        assert_eq!((unseen.admitted, unseen.suspended), (None, false));
        let again = json!({"startTime": start, "conditions": [suspended("True")]});
        assert_eq!(
            seen(&queued, false, &again).admitted,
            None,
            "the start is that of the time before"
        );
        let resumed = json!({"startTime": start, "conditions": [suspended("False")]});
        assert_eq!(seen(&queued, false, &resumed).admitted, Some(at(start)));
        assert_eq!(
            seen(&json!({}), false, &resumed).admitted,
            Some(at(start)),
            "somebody else than a queue"
        );
    }

    #[test]
    fn a_job_that_nobody_holds_back_may_have_pods_since_it_was_made() {
        let made = "2027-01-15T08:00:00Z";
        assert_eq!(seen(&json!({}), false, &json!({})).admitted, Some(at(made)));
        let late = json!({"startTime": "2027-01-15T09:00:00Z"});
        assert_eq!(seen(&json!({}), false, &late).admitted, Some(at(made)));
    }
}
