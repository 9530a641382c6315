//! Experiments and what belongs to them. Client, but for [`results`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, ResourceExt, api::ListParams};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentSpec, EfficiencyExperimentStatus, Runner, plan::Point};

use super::{
    connection::Connection,
    error::{ClusterError, Request, names_an_object},
    near,
};
use crate::{
    controller::{
        aggregate::is_over,
        build::{EXPERIMENT_UID_LABEL, PROCESS_LABEL, runner_name},
        view::JOB_NAME_LABEL,
    },
    experiment::{
        self, Failure, Record, find_window, node_trials,
        summary::{self, Summary},
    },
};

/// The resource of experiments, as access rules name it.
pub(super) const EXPERIMENTS: &str = "efficiencyexperiments.lem.dev";

/// One experiment.
pub(super) async fn get(
    connection: &Connection,
    namespace: &str,
    name: &str,
) -> Result<EfficiencyExperiment, ClusterError> {
    match connection.api::<EfficiencyExperiment>(namespace).get(name).await {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) if status.code == 404 && names_an_object(&status) => {
            Err(no_such_experiment(connection, namespace, name).await)
        }
        Err(error) => Err(connection.explain(Request::new("get", EXPERIMENTS, namespace), error)),
    }
}

/// Which experiment may have been meant. What may not be seen is not mentioned.
async fn no_such_experiment(connection: &Connection, namespace: &str, name: &str) -> ClusterError {
    let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
    let everywhere = Api::<EfficiencyExperiment>::all(connection.client.clone());
    let elsewhere = everywhere.list_metadata(&by_name).await;
    let elsewhere = elsewhere
        .ok()
        .and_then(|list| list.items.into_iter().find_map(|found| found.namespace()));
    let hint = if let Some(other) = elsewhere {
        format!(": there is one in namespace {other}, add -n {other}")
    } else {
        let here = connection.api::<EfficiencyExperiment>(namespace);
        let all = here.list_metadata(&ListParams::default()).await;
        all.map_or_else(
            |_| String::new(),
            |list| near::hint(name, &list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()),
        )
    };
    ClusterError::NoSuchExperiment {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        hint,
    }
}

/// Mailboxes that are asked for at once: those of a large fleet are hundreds of megabytes.
const PAGE: u32 = 250;

/// The mailboxes of an experiment.
pub(super) async fn runners(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
) -> Result<Vec<Runner>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let api = connection.api::<Runner>(&namespace);
    let mut page = children(experiment).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = api.list(&page).await;
        let list =
            list.map_err(|error| connection.explain(Request::new("list", "runners.lem.dev", &namespace), error))?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Some mailboxes of a fleet, those of the first `most` of its pods: all of a thousand nodes have 50 MB.
pub(super) async fn runners_of(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
    pods: &[Pod],
    most: usize,
) -> Result<Vec<Runner>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let names: BTreeSet<String> = pods.iter().filter_map(runner_of_pod).collect();
    let api = connection.api::<Runner>(&namespace);
    let found = futures::future::try_join_all(names.iter().take(most).map(|name| api.get_opt(name))).await;
    let found = found.map_err(|error| connection.explain(Request::new("get", "runners.lem.dev", &namespace), error))?;
    Ok(found.into_iter().flatten().collect())
}

/// The mailbox that a pod writes.
fn runner_of_pod(pod: &Pod) -> Option<String> {
    let process = pod.labels().get(PROCESS_LABEL)?.parse().ok()?;
    Some(runner_name(pod.labels().get(JOB_NAME_LABEL)?, process))
}

/// The pods of an experiment that have not ended.
pub(super) async fn living_pods(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
) -> Result<Vec<Pod>, ClusterError> {
    let living = children(experiment).fields("status.phase!=Succeeded,status.phase!=Failed");
    listed_pods(connection, experiment, &living).await
}

/// The pods of an experiment.
pub(super) async fn pods(connection: &Connection, experiment: &EfficiencyExperiment) -> Result<Vec<Pod>, ClusterError> {
    listed_pods(connection, experiment, &children(experiment)).await
}

async fn listed_pods(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
    of: &ListParams,
) -> Result<Vec<Pod>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let found = connection.api::<Pod>(&namespace).list(of).await;
    let found = found.map_err(|error| connection.explain(Request::new("list", "pods", &namespace), error))?;
    Ok(found.items)
}

fn children(experiment: &EfficiencyExperiment) -> ListParams {
    let uid = experiment.meta().uid.clone().unwrap_or_default();
    ListParams::default().labels(&format!("{EXPERIMENT_UID_LABEL}={uid}"))
}

/// The results of an experiment: the status as the operator wrote it, and the trials that its mailboxes hold. Pure.
///
/// # Errors
/// The sweep cannot be resolved, which the operator has refused then.
pub(super) fn results(
    experiment: &EfficiencyExperiment,
    runners: &[Runner],
) -> Result<(Summary, Vec<Record>), experiment::PlanError> {
    let status = experiment.status.clone().unwrap_or_default();
    let spec = &experiment.spec;
    let points = experiment::plan(spec)?;
    if status.fleet.is_some() {
        return Ok(of_fleet(status, spec, &points, runners));
    }
    let reported = runners.iter().filter_map(|runner| {
        let status = runner.status.as_ref()?;
        Some(Record::of_runner(runner.spec.process, status))
    });
    let mut records: Vec<Record> = reported.flatten().collect();
    let failures: Vec<Failure> = status.failures.iter().map(Failure::from).collect();
    if !is_over(status.phase) {
        drop_unfinished(&mut records, &failures, spec.processes.count);
    }
    let trials = summary::summarise(spec, &points, &records, &failures).trials;
    Ok((Summary { status, trials }, records))
}

/// A fleet's trials, node by node. In the records each process of each node has an index of its own.
fn of_fleet(
    status: EfficiencyExperimentStatus,
    spec: &EfficiencyExperimentSpec,
    points: &[Point],
    runners: &[Runner],
) -> (Summary, Vec<Record>) {
    let mut by_node: BTreeMap<&str, Vec<&Runner>> = BTreeMap::new();
    for runner in runners {
        if let Some(node) = &runner.spec.node {
            by_node.entry(node).or_default().push(runner);
        }
    }
    let (mut trials, mut all) = (Vec::new(), Vec::new());
    for (index, (node, runners)) in (0..).zip(by_node) {
        let failures = runners.iter().flat_map(|runner| &runner.spec.failures);
        let failures: Vec<Failure> = failures.map(Failure::from).collect();
        let reported = runners.iter().filter_map(|runner| {
            let status = runner.status.as_ref()?;
            Some(Record::of_runner(runner.spec.process, status))
        });
        let mut records: Vec<Record> = reported.flatten().collect();
        if !is_over(status.phase) {
            drop_unfinished(&mut records, &failures, spec.processes.count);
        }
        trials.extend(node_trials(spec, points, node, &records, &failures));
        for record in &mut records {
            record.process += index * spec.processes.count;
        }
        all.extend(records);
    }
    (Summary { status, trials }, all)
}

/// Half of the trial under way is no result, and no doubt about one either.
fn drop_unfinished(records: &mut [Record], failures: &[Failure], processes: u32) {
    let all = records.to_vec();
    for record in records {
        record.status.windows.retain(|window| {
            let failed = failures.iter().any(|failure| failure.trial == window.trial);
            failed || (0..processes).all(|process| find_window(&all, &window.trial, process).is_some())
        });
    }
}

#[cfg(test)]
mod tests {
    use lem_crds::{
        RunnerSpec, RunnerStatus, SCHEMA_VERSION,
        plan::TrialIdentity,
        status::{ExperimentPhase, FleetStatus},
    };
    use serde_json::json;

    use super::*;
    use crate::experiment::tests::fixtures;

    /// The mailbox of a process of a node that has measured the first trial.
    fn measured(node: &str, process: u32, point: &Point) -> Runner {
        let identity = TrialIdentity {
            plan_sha256: point.plan_sha256.clone(),
            point: point.index,
            cycle: 0,
            attempt: 0,
        };
        let of_fixture = fixtures::process(process, &identity, 0.0, 10.0);
        let spec: RunnerSpec = serde_json::from_value(json!({
            "experiment": "fleet", "cohort": "default", "process": process, "processes": 2, "node": node,
            "load": point.load,
        }))
        .unwrap();
        let mut runner = Runner::new(&format!("{node}-{process}"), spec);
        runner.status = Some(RunnerStatus {
            schema_version: SCHEMA_VERSION,
            pod_uid: format!("{node}-{process}"),
            environment: Some(of_fixture.environment),
            windows: of_fixture.window.into_iter().collect(),
            ..RunnerStatus::default()
        });
        runner
    }

    #[test]
    fn each_process_of_a_node_counts_under_its_own_index_whichever_mailboxes_are_there() {
        let spec = fixtures::spec(&json!({
            "placement": {"strategy": "EachNode"}, "processes": {"count": 2, "gpusPerProcess": 1},
            "protocol": {"cycles": 1},
        }));
        let points = experiment::plan(&spec).unwrap();
        let mut fleet = EfficiencyExperiment::new("fleet", spec);
        fleet.status = Some(EfficiencyExperimentStatus {
            phase: ExperimentPhase::Complete,
            fleet: Some(FleetStatus::default()),
            ..EfficiencyExperimentStatus::default()
        });
        // The mailbox of a's first process is gone, and the API server's order is none to rely on.
        let runners = [("b", 1), ("a", 1), ("b", 0)].map(|(node, process)| measured(node, process, &points[0]));
        let (summary, records) = results(&fleet, &runners).unwrap();
        let reported = |node: &str| {
            let mut trials = summary.trials.iter();
            let of_node = trials.find(|trial| trial.node.as_ref().is_some_and(|of| of.name == node));
            let reasons = of_node.map(|trial| trial.result.reasons.clone()).unwrap();
            let words = reasons.into_iter().map(|reason| reason.message);
            words
                .filter(|words| words.contains("did not report"))
                .collect::<Vec<_>>()
        };
        assert_eq!(reported("a"), ["process 0 of 2 did not report cycle 0"]);
        assert_eq!(reported("b"), [""; 0]);
        let mut indices: Vec<u32> = records.iter().map(|record| record.process).collect();
        indices.sort_unstable();
        assert_eq!(indices, [1, 2, 3]);
    }
}
