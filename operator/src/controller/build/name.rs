//! Names and labels of children. Pure.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::{CohortPlan, Owner};

/// Label of everything that the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "lem-operator";
/// Label of the part that an object plays.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`] of what measures.
pub const RUNNER_COMPONENT: &str = "lem-runner";
/// Label with the experiment's name, for people.
pub const EXPERIMENT_LABEL: &str = "lem.dev/experiment";
/// Label with the experiment's UID, for the operator.
pub const EXPERIMENT_UID_LABEL: &str = "lem.dev/experiment-uid";
/// Label with the cohort's key.
pub const COHORT_LABEL: &str = "lem.dev/cohort";
/// Label with the number of the incarnation.
pub const INCARNATION_LABEL: &str = "lem.dev/incarnation";
/// Label that the Job controller puts on each pod: the process.
pub const PROCESS_LABEL: &str = "batch.kubernetes.io/job-completion-index";

/// Characters of the experiment's name in the names of its children.
const PREFIX_LENGTH: usize = 36;
/// Hexadecimal digits that tell cohorts apart.
const DIGITS: usize = 10;

/// Name of a cohort's Job: readable, short enough for its pods' names, and another one for each experiment, also one
/// that is made anew under the same name.
pub fn cohort_name(owner: &Owner, key: &str, incarnation: u32) -> String {
    let digest = Sha256::digest(format!("{}/{key}/{incarnation}", owner.uid));
    let mut hexadecimal = String::new();
    for byte in &digest[..DIGITS / 2] {
        // Writing to a string cannot fail.
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    let readable: String = owner.name.chars().take(PREFIX_LENGTH).collect();
    // A dot may stand in the name of an experiment, not in a label or host name.
    let readable = readable.replace('.', "-");
    format!("{}-{hexadecimal}", readable.trim_end_matches('-'))
}

/// Name of the Job of one node of a fleet, as [`cohort_name`].
pub fn node_cohort_name(owner: &Owner, key: &str, node: &str, incarnation: u32) -> String {
    cohort_name(owner, &format!("{key}/{node}"), incarnation)
}

/// Name of the Job of a set of processes, of a node of a fleet or of a whole experiment.
pub fn job_name(owner: &Owner, key: &str, node: Option<&str>, incarnation: u32) -> String {
    match node {
        None => cohort_name(owner, key, incarnation),
        Some(node) => node_cohort_name(owner, key, node, incarnation),
    }
}

/// Name of the account that all pods of a fleet share.
pub fn fleet_account_name(owner: &Owner) -> String {
    cohort_name(owner, "fleet", 0)
}

/// Name of a process's mailbox. The pod makes the same name from its index.
pub fn runner_name(cohort: &str, process: u32) -> String {
    format!("{cohort}-{process}")
}

/// Labels of every child of an experiment.
fn owner_labels(owner: &Owner) -> BTreeMap<String, String> {
    [
        (MANAGED_BY_LABEL, MANAGED_BY.to_owned()),
        (COMPONENT_LABEL, RUNNER_COMPONENT.to_owned()),
        (EXPERIMENT_LABEL, owner.name.clone()),
        (EXPERIMENT_UID_LABEL, owner.uid.clone()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Labels of every child of a cohort.
pub(super) fn labels(plan: &CohortPlan<'_>) -> BTreeMap<String, String> {
    let mut labels = owner_labels(plan.owner);
    labels.insert(COHORT_LABEL.to_owned(), plan.key.to_owned());
    labels.insert(INCARNATION_LABEL.to_owned(), plan.incarnation.to_string());
    labels
}

/// Metadata of every child of a cohort.
pub(super) fn metadata(plan: &CohortPlan<'_>, name: String) -> ObjectMeta {
    of_owner(plan.owner, name, labels(plan))
}

/// Metadata of what the nodes of a fleet share.
pub(super) fn fleet_metadata(owner: &Owner) -> ObjectMeta {
    of_owner(owner, fleet_account_name(owner), owner_labels(owner))
}

fn of_owner(owner: &Owner, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(owner.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner.reference()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str, uid: &str) -> Owner {
        Owner {
            name: name.to_owned(),
            namespace: "lab".to_owned(),
            uid: uid.to_owned(),
        }
    }

    #[test]
    fn an_experiment_made_anew_has_children_of_other_names() {
        let first = cohort_name(&owner("quick", "a"), "0123456789", 0);
        assert_ne!(first, cohort_name(&owner("quick", "b"), "0123456789", 0));
        assert_ne!(first, cohort_name(&owner("quick", "a"), "0123456789", 1));
        assert!(first.starts_with("quick-"), "{first}");
    }

    #[test]
    fn the_longest_name_leaves_room_for_the_pods_own_suffix() {
        let name = cohort_name(&owner(&"a.b".repeat(21), "uid"), "0123456789", 0);
        assert!(name.len() <= 63 - "-9999".len() && !name.contains('.'), "{name}");
    }
}
