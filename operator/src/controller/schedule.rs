//! `EfficiencySchedule`: creates experiments by the clock, and holds each against a baseline.
//!
//! In order of use: [`clock`] (when) and [`decide`](mod@decide) (what) are pure; `reconcile` looks, writes and is called again
//! when one of its experiments begins or ends.

pub mod clock;
pub mod decide;
pub(super) mod reconcile;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, api::ObjectMeta, core::DeserializeGuard, runtime::reflector::ObjectRef};
use lem_crds::{EfficiencyExperiment, schedule::EfficiencySchedule};

use super::build::{MANAGED_BY, MANAGED_BY_LABEL};

/// A schedule as the controller takes it: readable or not.
pub type GuardedSchedule = DeserializeGuard<EfficiencySchedule>;

/// Label of an experiment: the schedule that has created it.
pub const SCHEDULE_LABEL: &str = "lem.dev/schedule";
/// Annotation of an experiment: the time that it was created for.
pub const SCHEDULED_AT_ANNOTATION: &str = "lem.dev/scheduled-at";

/// The experiment of a schedule for a time. Its name follows from both, so that it is created once, whoever creates it. Pure.
pub fn experiment(schedule: &EfficiencySchedule, at: Timestamp) -> EfficiencyExperiment {
    let template = &schedule.spec.experiment_template;
    let name = schedule.name_any();
    let mut labels = template.metadata.labels.clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(SCHEDULE_LABEL.to_owned(), name.clone());
    let mut annotations = template.metadata.annotations.clone();
    annotations.insert(SCHEDULED_AT_ANNOTATION.to_owned(), at.to_string());
    let mut experiment = EfficiencyExperiment::new(
        &format!("{name}-{}", at.as_second().div_euclid(60)),
        template.spec.clone(),
    );
    experiment.metadata = ObjectMeta {
        namespace: schedule.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: schedule.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..experiment.metadata
    };
    experiment
}

/// The schedule that has created an experiment. Pure.
pub fn schedule_of(experiment: &EfficiencyExperiment) -> Option<ObjectRef<GuardedSchedule>> {
    let owners = experiment.owner_references().iter();
    let mut schedules = owners.filter(|owner| owner.controller == Some(true) && owner.kind == "EfficiencySchedule");
    let name = &schedules.next()?.name;
    Some(ObjectRef::new(name).within(&experiment.namespace()?))
}
