//! Step "update status": one write where something has changed, none where nothing has. Client.

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, status::ExperimentPhase};
use serde_json::json;

use super::{apply::FIELD_MANAGER, error::ReconcileError};

/// Writes the status, unless it stands there already; gives what the API server made of it.
pub(super) async fn update(
    client: &Client,
    experiment: &EfficiencyExperiment,
    wanted: &EfficiencyExperimentStatus,
) -> Result<Option<EfficiencyExperiment>, ReconcileError> {
    if experiment.status.as_ref() == Some(wanted) {
        return Ok(None);
    }
    let before = experiment
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    let starts = before == ExperimentPhase::Pending && wanted.phase != ExperimentPhase::Pending;
    let mut metadata = json!({"uid": experiment.uid()});
    if starts {
        // From here on the spec is immutable. It must be the very one that was planned.
        metadata["resourceVersion"] = json!(experiment.resource_version());
    }
    let patch = json!({
        "apiVersion": format!("{}/{}", lem_crds::GROUP, lem_crds::VERSION),
        "kind": "EfficiencyExperiment",
        "metadata": metadata,
        "status": wanted,
    });
    let namespace = experiment.namespace().unwrap_or_default();
    let experiments: Api<EfficiencyExperiment> = Api::namespaced(client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = experiments
        .patch_status(&experiment.name_any(), &parameters, &Patch::Apply(patch))
        .await;
    match written {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(ReconcileError::UpdateStatus(error)),
    }
}
