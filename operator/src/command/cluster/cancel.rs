//! `lem cluster cancel`. Client.

use kube::api::{Patch, PatchParams};
use lem_crds::EfficiencyExperiment;
use serde_json::json;

use super::{
    connection::Connection,
    error::Request,
    experiments::{self, EXPERIMENTS},
    run::FIELD_MANAGER,
};
use crate::{
    command::{End, print},
    controller::aggregate::is_over,
};

/// Options of `lem cluster cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of the experiment.
    name: String,
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let (name, namespace) = (&arguments.name, &connection.namespace);
    let experiment = experiments::get(connection, namespace, name).await?;
    let phase = experiment
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    if is_over(phase) {
        print(&format!("{name} has ended already: {phase:?}\n"))?;
        return Ok(End::Valid);
    }
    // The UID makes sure that it is this one, and not another that was made under its name since.
    let patch = json!({"metadata": {"uid": experiment.metadata.uid}, "spec": {"cancel": true}});
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let api = connection.api::<EfficiencyExperiment>(namespace);
    api.patch(name, &parameters, &Patch::Merge(patch))
        .await
        .map_err(|error| connection.explain(Request::new("patch", EXPERIMENTS, namespace), error))?;
    print(&format!(
        "{name} ends after the trial under way, and keeps what it has measured: {}\n",
        connection.command(&format!("report {name}"), namespace)
    ))?;
    Ok(End::Valid)
}
