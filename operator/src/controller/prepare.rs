//! Steps "validate" and "plan": from an admitted experiment to everything that it means, or the mistake in it. Pure.
//!
//! After this nobody reads the raw resource again.

use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentSpec,
    experiment::{ModelSource, PlacementStrategy, Prompts},
    plan::Point,
    validate::{self, Violation},
};

use super::build::Owner;
use crate::experiment::{self, Cohort, PlanError, TrialSlot};

/// Why an experiment cannot run on a cluster. Each waits for an edit.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The object has no name, namespace or UID, which the API server excludes.
    #[error("the experiment lacks {0}")]
    Metadata(&'static str),
    /// A field that only `lem run` can honour, or a value that only a cluster cannot.
    #[error("{field}: {message}")]
    Field {
        /// The field.
        field: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// The patch asks for what no pod has, or for what is the operator's own.
    #[error("{}", validate::listed(.0))]
    PodPatch(Vec<Violation>),
    /// The sweep cannot be resolved.
    #[error("{0}")]
    Plan(#[source] PlanError),
}

/// An experiment that can run, with its whole plan.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Who owns what is made for it.
    pub owner: Owner,
    /// What was asked for.
    pub spec: EfficiencyExperimentSpec,
    /// What is merged into the pods of its processes.
    pub pod_patch: PodSpec,
    /// Its points.
    pub points: Vec<Point>,
    /// Every planned trial, in order.
    pub slots: Vec<TrialSlot>,
    /// Which of them share a load, in order of first use.
    pub cohorts: Vec<Cohort>,
}

impl Prepared {
    /// Each node is measured by itself.
    pub fn each_node(&self) -> bool {
        let placement = self.spec.placement.as_ref();
        placement.is_some_and(|placement| placement.strategy == PlacementStrategy::EachNode)
    }
}

/// Checks what neither schema nor CEL can see, and resolves the plan.
///
/// # Errors
/// The user's mistake, with the field and the remedy.
pub fn prepare(experiment: &EfficiencyExperiment) -> Result<Prepared, PrepareError> {
    let owner = Owner {
        name: experiment.name_any(),
        namespace: experiment.namespace().ok_or(PrepareError::Metadata("a namespace"))?,
        uid: experiment.uid().ok_or(PrepareError::Metadata("a UID"))?,
    };
    let spec = experiment.spec.clone();
    for_pods(&spec)?;
    let pod_patch = pod_patch(&spec)?;
    let points = experiment::plan(&spec).map_err(PrepareError::Plan)?;
    let slots = experiment::order_trials(&points, spec.protocol.cycles, &spec.protocol.order);
    let cohorts = experiment::group_cohorts(&points, &slots, spec.processes.restart).map_err(PrepareError::Plan)?;
    Ok(Prepared {
        owner,
        spec,
        pod_patch,
        points,
        slots,
        cohorts,
    })
}

/// What is to be merged into the pods of the processes.
///
/// # Errors
/// What no pod has, and what is the operator's own, each with its path and a way out.
pub fn pod_patch(spec: &EfficiencyExperimentSpec) -> Result<PodSpec, PrepareError> {
    let Some(runner) = &spec.runner else {
        return Ok(PodSpec::default());
    };
    validate::pod_patch(&runner.pod_patch).map_err(PrepareError::PodPatch)
}

/// Checks whether pods can honour every field.
///
/// # Errors
/// The field that only `lem run` can honour, and the remedy.
pub fn for_pods(spec: &EfficiencyExperimentSpec) -> Result<(), PrepareError> {
    if let ModelSource::Directory(directory) = &spec.model.source
        && !directory.path.starts_with('/')
    {
        return Err(PrepareError::Field {
            field: "spec.model.source.directory.path",
            message: format!(
                "{:?} is relative; in a pod it must be an absolute path inside the runner's image. Use \
                 persistentVolumeClaim, image or huggingFace for a model outside of it",
                directory.path
            ),
        });
    }
    if let Prompts::JsonLines(_) = &spec.workload.prompts {
        return Err(PrepareError::Field {
            field: "spec.workload.prompts.jsonLines",
            message: "files exist for `lem run` only; put the lines into a ConfigMap and use configMapRef".to_owned(),
        });
    }
    Ok(())
}
