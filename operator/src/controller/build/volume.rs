//! What a process finds on its disk: scratch space, the model, the prompts. Pure.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, ImageVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource,
    Volume, VolumeMount,
};
use lem_crds::{
    experiment::{ModelSource, Prompts},
    runner::{MODEL_DIRECTORY, PROMPTS_DIRECTORY},
};

use super::CohortPlan;

/// The only place that a process can write to.
pub(super) const SCRATCH: &str = "/tmp";

pub(super) fn volumes(plan: &CohortPlan<'_>) -> Vec<Volume> {
    let mut volumes = vec![Volume {
        name: "scratch".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }];
    volumes.extend(model(plan));
    if let Prompts::ConfigMapRef(reference) = &plan.spec.workload.prompts {
        volumes.push(Volume {
            name: "prompts".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: reference.name.clone(),
                items: Some(vec![KeyToPath {
                    key: reference.key.clone(),
                    path: reference.key.clone(),
                    mode: None,
                }]),
                optional: Some(false),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn model(plan: &CohortPlan<'_>) -> Option<Volume> {
    let volume = Volume {
        name: "model".to_owned(),
        ..Volume::default()
    };
    match &plan.load.model.source {
        ModelSource::PersistentVolumeClaim(claim) => Some(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim_name.clone(),
                read_only: Some(true),
            }),
            ..volume
        }),
        ModelSource::Image(image) => Some(Volume {
            image: Some(ImageVolumeSource {
                reference: Some(image.reference.clone()),
                ..ImageVolumeSource::default()
            }),
            ..volume
        }),
        ModelSource::Directory(_) | ModelSource::HuggingFace(_) | ModelSource::Synthetic(_) => None,
    }
}

pub(super) fn mounts(plan: &CohortPlan<'_>) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    volumes(plan)
        .iter()
        .map(|volume| match volume.name.as_str() {
            "model" => mount("model", MODEL_DIRECTORY, true),
            "prompts" => mount("prompts", PROMPTS_DIRECTORY, true),
            other => mount(other, SCRATCH, false),
        })
        .collect()
}
