//! A cluster in memory: what the API server keeps, and what pods and the Job controller do between two looks of the
//! operator.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus, Runner, SCHEMA_VERSION,
    experiment::Barrier,
    plan::TrialIdentity,
    runner::{Assignment, HeldSeconds, RunnerError, RunnerPhase, RunnerStatus},
};
use serde_json::json;

use crate::{
    controller::{
        aggregate::{self, Aggregated},
        build::{self, CohortPlan, Defaults},
        decide::{self, Change, Decision, Letter, Situation},
        neighbour::Neighbour,
        prepare::{Prepared, prepare},
        view::Observed,
    },
    experiment::{Failure, tests::fixtures},
};

/// A pod as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct SimulatedPod {
    job: String,
    process: u32,
    uid: String,
    created: Timestamp,
    pub(super) end: Option<&'static str>,
    hangs: bool,
    /// It was deleted, and its node is lost: nobody carries the deletion out.
    stranded_since: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) experiment: EfficiencyExperiment,
    pub(super) runners: Vec<Runner>,
    pub(super) jobs: Vec<Job>,
    pub(super) pods: Vec<SimulatedPod>,
    pub(super) now: Timestamp,
    /// Writes of the operator so far.
    pub(super) writes: usize,
    pub(super) last: Option<Decision>,
    /// Every process ends with this error when it loads.
    pub(super) refuse: Option<(&'static str, &'static str)>,
    /// The pod of this process has no node.
    pub(super) unplaced: Option<u32>,
    /// Letters written so far.
    pub(super) letters: usize,
    /// No pod is placed, for this reason.
    pub(super) unschedulable: Option<&'static str>,
    /// The first pod of all never loads.
    pub(super) hang_once: bool,
    /// Other experiments that are partly placed.
    pub(super) neighbours: Vec<Neighbour>,
    /// Most Jobs that ran at the same time.
    pub(super) most_running: usize,
    uids: u32,
}

impl World {
    pub(super) fn new(spec: &serde_json::Value) -> Self {
        let mut experiment = EfficiencyExperiment::new("quick", fixtures::spec(spec));
        experiment.metadata.namespace = Some("lab".to_owned());
        experiment.metadata.uid = Some("experiment-uid".to_owned());
        Self {
            experiment,
            runners: Vec::new(),
            jobs: Vec::new(),
            pods: Vec::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            writes: 0,
            last: None,
            refuse: None,
            unschedulable: None,
            unplaced: None,
            letters: 0,
            hang_once: false,
            neighbours: Vec::new(),
            most_running: 0,
            uids: 0,
        }
    }

    pub(super) fn status(&self) -> EfficiencyExperimentStatus {
        self.experiment.status.clone().unwrap_or_default()
    }

    pub(super) fn condition(&self, kind: &str) -> Condition {
        let mut conditions = self.status().conditions.into_iter();
        conditions.find(|one| one.type_ == kind).unwrap()
    }

    pub(super) fn is_over(&self) -> bool {
        aggregate::is_over(self.status().phase)
    }

    pub(super) fn run(&mut self) {
        self.turns_until(Self::is_over);
    }

    pub(super) fn turns_until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if done(self) {
                return;
            }
            self.turns(1);
        }
        panic!(
            "it never comes to that: {:#?} {:#?}",
            self.last,
            self.status().conditions
        );
    }

    pub(super) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn_with_kills(&BTreeSet::new());
        }
    }

    pub(super) fn run_with_one_kill_after(&mut self, write: usize) {
        let kills = BTreeSet::from([write]);
        for _ in 0..1000 {
            if self.is_over() {
                return;
            }
            self.turn_with_kills(&kills);
        }
        panic!("it never ends: {:#?}", self.last);
    }

    /// One look of the operator, one act of each pod, one second. The operator is killed after the writes named.
    pub(super) fn turn_with_kills(&mut self, kills: &BTreeSet<usize>) {
        let allowed = kills
            .iter()
            .find(|kill| **kill >= self.writes)
            .copied()
            .unwrap_or(usize::MAX);
        self.reconcile(allowed);
        self.pods_act();
        self.now += std::time::Duration::from_secs(1);
    }

    fn may_write(&mut self, last: usize) -> bool {
        if self.writes >= last {
            // Killed: the next look is another operator's.
            self.writes += 1;
            return false;
        }
        self.writes += 1;
        true
    }

    /// One reconciliation that may write up to and without the write of that number.
    pub(super) fn reconcile(&mut self, last: usize) {
        let prepared = prepare(&self.experiment).unwrap();
        let observed = self.observed();
        let records = observed.records();
        let before = self.status();
        let failures: Vec<Failure> = before.failures.iter().map(Failure::from).collect();
        let situation = Situation {
            prepared: &prepared,
            node: None,
            observed: &observed,
            records: &records,
            failures: &failures,
            this: &Neighbour::of(&self.experiment),
            neighbours: &self.neighbours,
            over_budget: None,
            now: self.now,
        };
        if self.is_over() {
            return;
        }
        let decision = decide::decide(&situation);
        let status = aggregate::status(&Aggregated {
            prepared: &prepared,
            generation: Some(1),
            before: &before,
            records: &records,
            decision: &decision,
            now: self.now,
        });
        self.last = Some(decision.clone());
        if status != before {
            if !self.may_write(last) {
                return;
            }
            self.experiment.status = Some(status);
        }
        if !decision.failures.is_empty() {
            return;
        }
        for change in &decision.changes {
            if !self.apply(&prepared, change, last) {
                return;
            }
        }
    }

    /// What the operator does once its namespace is being deleted.
    pub(super) fn namespace_ends(&mut self) {
        let prepared = prepare(&self.experiment).unwrap();
        let decision = decide::let_go(&Situation {
            prepared: &prepared,
            node: None,
            observed: &self.observed(),
            records: &[],
            failures: &[],
            this: &Neighbour::of(&self.experiment),
            neighbours: &[],
            over_budget: None,
            now: self.now,
        });
        for change in &decision.changes {
            self.apply(&prepared, change, usize::MAX);
        }
    }

    fn apply(&mut self, prepared: &Prepared, change: &Change, last: usize) -> bool {
        match change {
            Change::CreateCohort {
                cohort,
                incarnation,
                node,
                assignment,
                upcoming,
            } => {
                let of_plan = prepared.cohorts.iter().find(|one| one.key == *cohort).unwrap();
                let objects = build::cohort(&CohortPlan {
                    owner: &prepared.owner,
                    spec: &prepared.spec,
                    pod_patch: &prepared.pod_patch,
                    defaults: &Defaults {
                        runner_image: "lem-runner".to_owned(),
                        runner_image_gpu: None,
                        node_agent: false,
                    },
                    key: cohort,
                    incarnation: *incarnation,
                    node: node.as_deref(),
                    gpu_sharing: None,
                    load: &of_plan.load,
                    trials: 1,
                    assignment,
                    upcoming,
                });
                for mut runner in objects.runners {
                    if self.runners.iter().any(|there| there.name_any() == runner.name_any()) {
                        continue;
                    }
                    if !self.may_write(last) {
                        return false;
                    }
                    runner.metadata.uid = Some(self.uid("runner"));
                    self.runners.push(runner);
                }
                if self.jobs.iter().all(|there| there.name_any() != objects.job.name_any()) {
                    if !self.may_write(last) {
                        return false;
                    }
                    let mut job = objects.job;
                    job.metadata.creation_timestamp = serde_json::from_value(json!(self.now)).unwrap();
                    self.jobs.push(job);
                }
            }
            Change::Grant { .. } | Change::Remember { .. } => panic!("only fleets do that: {change:?}"),
            Change::Tell { runner, letter } => {
                if !self.may_write(last) {
                    return false;
                }
                self.letters += 1;
                let runner = self
                    .runners
                    .iter_mut()
                    .find(|there| there.name_any() == *runner)
                    .unwrap();
                match letter {
                    Letter::Assignment { assignment, upcoming } => {
                        runner.spec.assignment = Some((**assignment).clone());
                        runner.spec.upcoming.clone_from(upcoming);
                    }
                    Letter::Finish => runner.spec.finish = true,
                }
            }
            Change::DeleteJob { name } => {
                if !self.may_write(last) {
                    return false;
                }
                self.jobs.retain(|job| job.name_any() != *name);
                for pod in self.pods.iter_mut().filter(|pod| pod.job == *name) {
                    pod.end.get_or_insert("Deleted");
                }
            }
            Change::SetTimeToLive { name, seconds } => {
                if !self.may_write(last) {
                    return false;
                }
                let job = self.jobs.iter_mut().find(|job| job.name_any() == *name).unwrap();
                job.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(seconds.cast_signed());
            }
        }
        true
    }

    fn uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}-{}", self.uids)
    }

    fn observed(&self) -> Observed {
        Observed {
            runners: self.runners.clone(),
            jobs: self.jobs.clone(),
            pods: self.pods.iter().map(|pod| self.as_pod(pod)).collect(),
            job_warning: None,
            pod_warnings: std::collections::BTreeMap::new(),
            api_refusal: None,
            namespace_ends: false,
        }
    }

    fn as_pod(&self, pod: &SimulatedPod) -> Pod {
        let phase = match pod.end {
            None => "Running",
            Some("Completed") => "Succeeded",
            Some(_) => "Failed",
        };
        let placed = self.unschedulable.is_none() && self.unplaced != Some(pod.process);
        let state = match pod.end {
            None if !placed => json!([]),
            None => json!([{"name": "runner", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": pod.created}}}]),
            Some(reason) => json!([{"name": "runner", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": 1, "reason": reason}}}]),
        };
        let conditions = self.unschedulable.map_or(json!([]), |message| {
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])
        });
        serde_json::from_value(json!({
            "metadata": {"name": pod.uid, "uid": pod.uid, "creationTimestamp": pod.created,
                "deletionTimestamp": pod.stranded_since, "labels": {
                "batch.kubernetes.io/job-name": pod.job,
                "batch.kubernetes.io/job-completion-index": pod.process.to_string()}},
            "spec": {"containers": [], "nodeName": placed.then(|| format!("node-{}", pod.process))},
            "status": {"phase": phase, "containerStatuses": state, "conditions": conditions},
        }))
        .unwrap()
    }

    /// What the Job controller, the kubelets and the processes do in one second.
    pub(super) fn pods_act(&mut self) {
        let running: Vec<(String, u32)> = self
            .jobs
            .iter()
            .filter(|job| ended(job).is_none())
            .map(|job| (job.name_any(), job.spec.as_ref().unwrap().completions.unwrap() as u32))
            .collect();
        self.most_running = self.most_running.max(running.len());
        for (job, processes) in running {
            if self.is_held_back(&job) {
                continue;
            }
            for process in 0..processes {
                self.process_acts(&job, process);
            }
            let of_job: Vec<&SimulatedPod> = self.pods.iter().filter(|pod| pod.job == job).collect();
            let completed = of_job.iter().filter(|pod| pod.end == Some("Completed")).count() as u32;
            let refused = of_job.iter().any(|pod| pod.end == Some("Refused"));
            let kind = match (completed == processes, refused) {
                (true, _) => "Complete",
                (false, true) => "Failed",
                (false, false) => continue,
            };
            let job = self.jobs.iter_mut().find(|one| one.name_any() == job).unwrap();
            job.status = serde_json::from_value(
                json!({"conditions": [{"type": kind, "status": "True", "reason": "Simulated"}]}),
            )
            .unwrap();
        }
    }

    /// What the Job controller does with a Job that is suspended or was; gives whether it may have no pods.
    fn is_held_back(&mut self, job: &str) -> bool {
        let now = self.now;
        let job = self.jobs.iter_mut().find(|one| one.name_any() == job).unwrap();
        let suspended = job.spec.as_ref().unwrap().suspend == Some(true);
        let condition = |status: &str| json!([{"type": "Suspended", "status": status, "reason": "Simulated"}]);
        if suspended {
            job.status = serde_json::from_value(json!({"conditions": condition("True")})).unwrap();
        } else if job.status.as_ref().is_some_and(|status| status.start_time.is_none()) {
            let resumed = json!({"startTime": now, "conditions": condition("False")});
            job.status = serde_json::from_value(resumed).unwrap();
        }
        suspended
    }

    /// What a queue does when there is room.
    pub(super) fn admit(&mut self) {
        for job in &mut self.jobs {
            job.spec.as_mut().unwrap().suspend = Some(false);
        }
    }

    fn process_acts(&mut self, job: &str, process: u32) {
        let newest = self.pods.iter().rfind(|pod| pod.job == job && pod.process == process);
        let alive = newest.is_some_and(|pod| pod.end.is_none());
        let done = self
            .pods
            .iter()
            .any(|pod| pod.job == job && pod.process == process && pod.end == Some("Completed"));
        if done {
            return;
        }
        if !alive {
            let uid = self.uid("pod");
            let hangs = std::mem::take(&mut self.hang_once);
            self.pods.push(SimulatedPod {
                job: job.to_owned(),
                process,
                uid,
                created: self.now,
                end: None,
                hangs,
                stranded_since: None,
            });
            return;
        }
        if self.unschedulable.is_some() || self.unplaced == Some(process) {
            return;
        }
        let name = build::runner_name(job, process);
        let now = self.now;
        let refuse = self.refuse;
        let pod = self
            .pods
            .iter_mut()
            .rfind(|pod| pod.job == job && pod.process == process)
            .unwrap();
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.name_any() == name) else {
            pod.end = Some("Fenced");
            return;
        };
        if !pod.hangs && pod.stranded_since.is_none() {
            pod.end = act(runner, &pod.uid, now, refuse);
        }
    }

    pub(super) fn kill_pod(&mut self, process: u32) {
        if let Some(pod) = self
            .pods
            .iter_mut()
            .rfind(|pod| pod.process == process && pod.end.is_none())
        {
            pod.end = Some("OOMKilled");
        }
    }

    pub(super) fn lose_node_of(&mut self, process: u32) {
        let mut pods = self.pods.iter_mut();
        let pod = pods.rfind(|pod| pod.process == process && pod.end.is_none());
        pod.unwrap().stranded_since = Some(self.now);
    }

    pub(super) fn common_start(&self) -> bool {
        self.runners.iter().any(|runner| {
            let assignment = runner.spec.assignment.as_ref();
            assignment.is_some_and(|assignment| assignment.start_at.is_some_and(|start| start > self.now))
        })
    }

    pub(super) fn incarnations(&self) -> usize {
        self.observed().incarnations().len()
    }

    /// Every finished window, by process and trial.
    pub(super) fn windows(&self) -> BTreeSet<(u32, TrialIdentity)> {
        self.all_windows().into_iter().collect()
    }

    fn all_windows(&self) -> Vec<(u32, TrialIdentity)> {
        let records = self.observed().records();
        records
            .iter()
            .flat_map(|record| {
                let windows = record.status.windows.iter();
                windows.map(move |window| (record.process, window.trial.clone()))
            })
            .collect()
    }

    pub(super) fn measured_twice(&self) -> Vec<(u32, TrialIdentity)> {
        let mut counts: HashMap<(u32, TrialIdentity), u32> = HashMap::new();
        for window in self.all_windows() {
            *counts.entry(window).or_default() += 1;
        }
        counts
            .into_iter()
            .filter(|(_, count)| *count > 1)
            .map(|(window, _)| window)
            .collect()
    }
}

fn ended(job: &Job) -> Option<String> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    let end = conditions.find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"));
    end.map(|condition| condition.type_.clone())
}

/// One step of a process, as `runner/src/protocol.rs` takes it; gives how its pod ended, if it did.
fn act(
    runner: &mut Runner,
    pod: &str,
    now: Timestamp,
    refuse: Option<(&'static str, &'static str)>,
) -> Option<&'static str> {
    let spec = runner.spec.clone();
    let status = runner.status.get_or_insert_default();
    if status.pod_uid != pod {
        *status = RunnerStatus {
            phase: RunnerPhase::Loading,
            ..std::mem::take(status).succeeded_by(pod)
        };
        return None;
    }
    status.heartbeat = Some(now);
    if let Some((category, message)) = refuse {
        status.phase = RunnerPhase::Failed;
        status.error = Some(RunnerError {
            category: category.to_owned(),
            message: message.to_owned(),
        });
        return Some("Refused");
    }
    let is_open =
        |held: &&Assignment| held.start_at.is_none() && !status.windows.iter().any(|window| window.trial == held.trial);
    let open = spec.held().find(is_open).cloned();
    if status.phase == RunnerPhase::Ready && !spec.finish {
        let waits_for = |held: &&Assignment| status.trial.as_ref() == Some(&held.trial);
        let Some(assigned) = spec.held().find(waits_for) else {
            status.phase = RunnerPhase::Idle;
            return None;
        };
        let start = match (assigned.window.barrier, assigned.start_at) {
            (Barrier::Trial, Some(start)) if start <= now => start,
            (Barrier::Trial, _) => return None,
            (Barrier::None, _) => now,
        };
        let offset = start.as_second() - 1_800_000_000;
        let measured = fixtures::process(spec.process, &assigned.trial, offset as f64, offset as f64 + 10.0);
        status.schema_version = SCHEMA_VERSION;
        status.environment = Some(measured.environment);
        status.baselines = measured.baselines;
        status.windows.extend(measured.window);
        // A load of 30 s, windows of 10 s, and as long again around each of them.
        let windows = status.windows.len() as f64;
        status.held = HeldSeconds {
            load: 30.0,
            measured: 10.0 * windows,
            total: 30.0 + 20.0 * windows,
            ..HeldSeconds::default()
        };
        status.phase = RunnerPhase::Idle;
        return None;
    }
    status.phase = RunnerPhase::Idle;
    if spec.finish {
        status.phase = RunnerPhase::Finished;
        return Some("Completed");
    }
    if let Some(assignment) = open {
        status.trial = Some(assignment.trial);
        status.phase = RunnerPhase::Ready;
    }
    None
}
