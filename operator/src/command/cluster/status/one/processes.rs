//! What each process does, from its mailbox and its pod. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use lem_crds::{Runner, plan::TrialIdentity, runner::RunnerPhase};
use serde::Serialize;

use crate::{
    command::cluster::table,
    controller::{
        build::{PROCESS_LABEL, runner_name},
        stall,
        view::JOB_NAME_LABEL,
    },
};

/// Headings of [`Process::cells`].
pub(super) const HEADINGS: [&str; 7] = ["PROCESS", "PHASE", "TRIAL", "WINDOWS", "NODE", "HEARD", "POD"];

/// One process.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(rename = "process")]
    index: u32,
    cohort: String,
    phase: Option<RunnerPhase>,
    /// Why its pod does not start.
    obstacle: Option<String>,
    trial: Option<TrialIdentity>,
    windows: usize,
    node: Option<String>,
    heartbeat: Option<Timestamp>,
    pod: Option<String>,
    pod_phase: Option<String>,
    error: Option<String>,
}

/// The Job of a pod.
pub(in crate::command::cluster::status) fn job(pod: &Pod) -> Option<&str> {
    pod.labels().get(JOB_NAME_LABEL).map(String::as_str)
}

/// Processes of a fleet that are shown.
pub(in crate::command::cluster::status) const MOST_OF_FLEET: usize = 20;

/// The processes of the load of the model that came last, and how many there were before. Of a fleet some of those that
/// are under way, and how many others of the `planned` there are.
pub(super) fn present(runners: &[Runner], pods: &[Pod], planned: Option<usize>) -> (Vec<Process>, usize) {
    if runners.iter().any(|runner| runner.spec.node.is_some()) {
        let mut under_way: Vec<&Runner> = runners.iter().filter(|runner| !runner.spec.finish).collect();
        under_way.sort_by_key(|runner| (&runner.spec.node, runner.spec.incarnation));
        under_way.truncate(MOST_OF_FLEET);
        let others = planned.unwrap_or(runners.len()).saturating_sub(under_way.len());
        return (
            under_way.into_iter().map(|runner| process(runner, pods)).collect(),
            others,
        );
    }
    // Mailboxes of one set of processes are made together.
    let mut sets: BTreeMap<(Timestamp, &str, u32), Vec<&Runner>> = BTreeMap::new();
    let mut made: BTreeMap<(&str, u32), Timestamp> = BTreeMap::new();
    for runner in runners {
        let key = (runner.spec.cohort.as_str(), runner.spec.incarnation);
        let created = runner.creation_timestamp().map(|time| time.0).unwrap_or_default();
        let first = made.entry(key).or_insert(created);
        *first = created.min(*first);
    }
    for runner in runners {
        let key = (runner.spec.cohort.as_str(), runner.spec.incarnation);
        sets.entry((made[&key], key.0, key.1)).or_default().push(runner);
    }
    let Some((_, mut last)) = sets.pop_last() else {
        return (Vec::new(), 0);
    };
    last.sort_by_key(|runner| runner.spec.process);
    let earlier = sets.values().map(Vec::len).sum();
    (last.into_iter().map(|runner| process(runner, pods)).collect(), earlier)
}

fn process(runner: &Runner, pods: &[Pod]) -> Process {
    let index = runner.spec.process;
    let name = runner.name_any();
    let job_name = name.strip_suffix(&runner_name("", index)).unwrap_or_default();
    let own = pods.iter().filter(|pod| {
        job(pod) == Some(job_name)
            && pod
                .labels()
                .get(PROCESS_LABEL)
                .is_some_and(|label| *label == index.to_string())
    });
    let pod = own.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let status = runner.status.as_ref();
    let environment = status.and_then(|status| status.environment.as_ref());
    let placed = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    Process {
        index,
        cohort: runner.spec.cohort.clone(),
        phase: status.map(|status| status.phase),
        obstacle: pod.and_then(stall::obstacle).map(|cause| cause.reason.to_owned()),
        trial: status.and_then(|status| status.trial.clone()),
        windows: status.map_or(0, |status| status.windows.len()),
        node: placed
            .or_else(|| environment.map(|environment| environment.node.clone()))
            .or_else(|| runner.spec.node.clone()),
        heartbeat: status.and_then(|status| status.heartbeat),
        pod: pod.map(ResourceExt::name_any),
        pod_phase: pod.and_then(|pod| pod.status.as_ref()?.phase.clone()),
        error: status
            .and_then(|status| status.error.as_ref())
            .map(|error| error.message.clone()),
    }
}

impl Process {
    /// Its row.
    pub(super) fn cells(&self, now: Timestamp) -> Vec<String> {
        let phase = match (&self.obstacle, self.phase) {
            (Some(obstacle), _) => obstacle.clone(),
            (None, Some(phase)) => format!("{phase:?}"),
            // It has not reported yet.
            (None, None) => self.pod_phase.clone().unwrap_or("—".to_owned()),
        };
        let phase = match &self.error {
            Some(error) => format!("{phase}: {error}"),
            None => phase,
        };
        let trial = self.trial.as_ref().map(|trial| {
            format!(
                "point {} cycle {} attempt {}",
                trial.point,
                trial.cycle + 1,
                trial.attempt + 1
            )
        });
        let dash = || "—".to_owned();
        let pod = match (&self.pod, &self.pod_phase) {
            (Some(pod), Some(phase)) => format!("{pod} ({phase})"),
            (Some(pod), None) => pod.clone(),
            (None, _) => dash(),
        };
        let heard = self
            .heartbeat
            .map(|at| format!("{} ago", table::age(now.duration_since(at).as_secs())));
        vec![
            self.index.to_string(),
            phase,
            trial.unwrap_or_else(dash),
            self.windows.to_string(),
            self.node.clone().unwrap_or_else(dash),
            heard.unwrap_or_else(dash),
            pod,
        ]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn runner(incarnation: u32, process: u32, created: &str, status: &Value) -> Runner {
        let spec = json!({"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}}});
        let spec = serde_json::from_value(spec).unwrap();
        let load = &crate::experiment::plan(&spec).unwrap()[0].load;
        let object = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "Runner",
            "metadata": {"name": format!("quick-{incarnation}-{process}"), "creationTimestamp": created},
            "spec": {"experiment": "quick", "cohort": "c", "process": process, "processes": 2,
                "incarnation": incarnation, "load": load},
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    /// One process that warms up, one whose pod has no node, and the two of a load before.
    pub(in crate::command::cluster::status::one) fn runners() -> Vec<Runner> {
        let trial = json!({"planSha256": "p", "point": 0, "cycle": 1, "attempt": 0});
        let warming =
            json!({"schemaVersion": 1, "phase": "WarmingUp", "trial": trial, "heartbeat": "2026-01-01T00:00:58Z"});
        let done = json!({"schemaVersion": 1, "phase": "Finished"});
        vec![
            runner(1, 1, "2026-01-01T00:00:21Z", &Value::Null),
            runner(1, 0, "2026-01-01T00:00:20Z", &warming),
            runner(0, 0, "2026-01-01T00:00:01Z", &done),
            runner(0, 1, "2026-01-01T00:00:02Z", &done),
        ]
    }

    /// Their pods.
    pub(in crate::command::cluster::status::one) fn pods() -> Vec<Pod> {
        let pod = |process: u32, node: Option<&str>, status: Value| {
            let labels = json!({JOB_NAME_LABEL: "quick-1", PROCESS_LABEL: process.to_string()});
            let object = json!({"metadata": {"name": format!("quick-1-{process}-abc"), "labels": labels,
                "creationTimestamp": "2026-01-01T00:00:20Z"}, "spec": {"containers": [], "nodeName": node}, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let unplaced = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]});
        vec![
            pod(0, Some("node-1"), json!({"phase": "Running"})),
            pod(1, None, unplaced),
        ]
    }

    #[test]
    fn the_processes_of_the_last_load_are_shown_in_order_and_those_before_are_counted() {
        let (processes, earlier) = present(&runners(), &pods(), None);
        let seen: Vec<(u32, Option<&str>)> = processes.iter().map(|one| (one.index, one.node.as_deref())).collect();
        assert_eq!(seen, [(0, Some("node-1")), (1, None)]);
        assert_eq!(earlier, 2);
    }

    #[test]
    fn a_process_whose_pod_cannot_start_says_so_instead_of_a_phase() {
        let (processes, _) = present(&runners(), &pods(), None);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(
            processes[0].cells(now)[1..3],
            ["WarmingUp", "point 0 cycle 2 attempt 1"]
        );
        assert_eq!(processes[1].cells(now)[1], "GpuMissing");
    }

    #[test]
    fn an_experiment_without_mailboxes_has_no_processes_yet() {
        assert_eq!(present(&[], &pods(), None).0.len(), 0);
    }
}
