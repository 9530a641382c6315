//! Experiments and what belongs to them. Client, but for [`results`].

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, ResourceExt, api::ListParams};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, Runner};

use super::{
    connection::Connection,
    error::{ClusterError, Request, names_an_object},
    near,
};
use crate::{
    controller::{aggregate::is_over, build::EXPERIMENT_UID_LABEL},
    experiment::{
        self, Failure, Record, find_window,
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

/// The mailboxes of an experiment.
pub(super) async fn runners(
    connection: &Connection,
    experiment: &EfficiencyExperiment,
) -> Result<Vec<Runner>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let found = connection.api::<Runner>(&namespace).list(&children(experiment)).await;
    let found =
        found.map_err(|error| connection.explain(Request::new("list", "runners.lem.dev", &namespace), error))?;
    Ok(found.items)
}

/// The pods of an experiment.
pub(super) async fn pods(connection: &Connection, experiment: &EfficiencyExperiment) -> Result<Vec<Pod>, ClusterError> {
    let namespace = experiment.namespace().unwrap_or_default();
    let found = connection.api::<Pod>(&namespace).list(&children(experiment)).await;
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
    let reported = runners.iter().filter_map(|runner| {
        let status = runner.status.as_ref()?;
        Some(Record::of_runner(runner.spec.process, status))
    });
    let mut records: Vec<Record> = reported.flatten().collect();
    if !is_over(status.phase) {
        drop_unfinished(&mut records, &status, spec.processes.count);
    }
    let failures: Vec<Failure> = status.failures.iter().map(Failure::from).collect();
    let trials = summary::summarise(spec, &points, &records, &failures).trials;
    Ok((Summary { status, trials }, records))
}

/// Half of the trial under way is no result, and no doubt about one either.
fn drop_unfinished(records: &mut [Record], status: &EfficiencyExperimentStatus, processes: u32) {
    let all = records.to_vec();
    for record in records {
        record.status.windows.retain(|window| {
            let failed = status.failures.iter().any(|failure| failure.trial == window.trial);
            failed || (0..processes).all(|process| find_window(&all, &window.trial, process).is_some())
        });
    }
}
