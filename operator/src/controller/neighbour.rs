//! Other experiments on the same nodes. One measurement has a node to itself, so two sets of processes could each hold a
//! part of the nodes that both need, and wait for each other. The rule: while one set is partly placed, no other one
//! that may need the same nodes begins; of two that are partly placed, the younger experiment steps back. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use lem_crds::EfficiencyExperiment;

use super::{
    build::EXPERIMENT_UID_LABEL,
    stall::Cause,
    view::{JOB_NAME_LABEL, is_live},
};

/// What is compared of two experiments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    namespace: String,
    name: String,
    /// Age, and UID for two of the same second.
    seniority: (Timestamp, String),
    node_selector: BTreeMap<String, String>,
}

impl Neighbour {
    /// How an experiment looks to the others.
    pub fn of(experiment: &EfficiencyExperiment) -> Self {
        let made = experiment.creation_timestamp().map(|time| time.0).unwrap_or_default();
        let placement = experiment.spec.placement.clone().unwrap_or_default();
        Self {
            namespace: experiment.namespace().unwrap_or_default(),
            name: experiment.name_any(),
            seniority: (made, experiment.uid().unwrap_or_default()),
            node_selector: placement.node_selector,
        }
    }

    /// Both may need the same node: no label is asked for with two values.
    fn meets(&self, other: &Self) -> bool {
        let contradicts = |(label, value): (&String, &String)| {
            let asked = other.node_selector.get(label);
            asked.is_some_and(|asked| asked != value)
        };
        !self.node_selector.iter().any(contradicts)
    }
}

/// Experiments of which some processes hold nodes while others still wait for one.
pub fn partly_placed<'a>(
    experiments: impl IntoIterator<Item = &'a EfficiencyExperiment>,
    jobs: impl IntoIterator<Item = &'a Job>,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Vec<Neighbour> {
    let mut placed: HashMap<(&str, &str), i32> = HashMap::new();
    for pod in pods {
        let on_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if let (true, Some(job), Some(namespace)) = (on_node, pod.labels().get(JOB_NAME_LABEL), &pod.metadata.namespace)
        {
            *placed.entry((namespace, job)).or_default() += 1;
        }
    }
    let mut owners = Vec::new();
    for job in jobs.into_iter().filter(|job| is_live(job)) {
        let key = (
            job.metadata.namespace.as_deref().unwrap_or_default(),
            job.metadata.name.as_deref().unwrap_or_default(),
        );
        let wanted = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
        let partly = placed.get(&key).is_some_and(|placed| *placed < wanted);
        owners.extend(job.labels().get(EXPERIMENT_UID_LABEL).filter(|_| partly));
    }
    experiments
        .into_iter()
        .filter(|experiment| {
            owners
                .iter()
                .any(|owner| Some(*owner) == experiment.metadata.uid.as_ref())
        })
        .map(Neighbour::of)
        .collect()
}

/// The experiment that is to be placed before this one begins.
pub(super) fn before_start<'a>(this: &Neighbour, others: &'a [Neighbour]) -> Option<&'a Neighbour> {
    others.iter().find(|other| *other != this && other.meets(this))
}

/// The experiment for which this one, partly placed, gives its nodes back.
pub(super) fn before_all<'a>(this: &Neighbour, others: &'a [Neighbour]) -> Option<&'a Neighbour> {
    let mut others = others.iter();
    others.find(|other| *other != this && other.meets(this) && other.seniority < this.seniority)
}

/// Why an experiment waits, without names from another namespace.
pub(super) fn waiting(this: &Neighbour, other: &Neighbour) -> Cause {
    let who = if this.namespace == other.namespace {
        format!("experiment {}", other.name)
    } else {
        "an experiment in another namespace".to_owned()
    };
    Cause::new(
        "Queued",
        format!(
            "{who} is being placed on nodes that this one may need: this one starts when that one has all of its nodes \
             or has given up; keep the two apart with spec.placement.nodeSelector if it must not wait"
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn neighbour(name: &str, second: i64, selector: &[(&str, &str)]) -> Neighbour {
        Neighbour {
            namespace: "lab".to_owned(),
            name: name.to_owned(),
            seniority: (Timestamp::from_second(second).unwrap(), name.to_owned()),
            node_selector: selector
                .iter()
                .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn job(name: &str, completions: i32) -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "lab", "labels": {EXPERIMENT_UID_LABEL: format!("uid-{name}")}},
            "spec": {"completions": completions, "template": {}},
        }))
        .unwrap()
    }

    fn pod(job: &str, node: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "lab", "labels": {JOB_NAME_LABEL: job}},
            "spec": {"containers": [], "nodeName": node},
        }))
        .unwrap()
    }

    fn experiment(name: &str) -> EfficiencyExperiment {
        let mut experiment = EfficiencyExperiment::new(name, crate::experiment::tests::fixtures::spec(&json!({})));
        experiment.metadata.namespace = Some("lab".to_owned());
        experiment.metadata.uid = Some(format!("uid-{name}"));
        experiment
    }

    #[test]
    fn only_who_holds_some_nodes_and_waits_for_others_is_in_the_way() {
        let experiments = ["none", "some", "all"].map(experiment);
        let jobs = ["none", "some", "all"].map(|name| job(name, 2));
        let pods = [
            pod("none", None),
            pod("none", None),
            pod("some", Some("a")),
            pod("some", None),
            pod("all", Some("b")),
            pod("all", Some("c")),
        ];
        let found = partly_placed(&experiments, &jobs, &pods);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["some"]);
    }

    #[test]
    fn of_two_that_hold_each_others_nodes_exactly_one_steps_back() {
        let (older, younger) = (neighbour("older", 1, &[]), neighbour("younger", 2, &[]));
        let both = [older.clone(), younger.clone()];
        assert_eq!(before_all(&older, &both), None);
        assert_eq!(before_all(&younger, &both), Some(&older));
        assert_eq!(
            before_start(&older, &both),
            Some(&younger),
            "a new set of the older one waits too"
        );
    }

    #[test]
    fn experiments_on_different_nodes_do_not_wait_for_each_other() {
        let one = neighbour("one", 1, &[("pool", "a"), ("zone", "x")]);
        let other = neighbour("other", 2, &[("pool", "b")]);
        let anywhere = neighbour("anywhere", 3, &[]);
        assert_eq!(before_start(&other, std::slice::from_ref(&one)), None);
        assert_eq!(before_start(&anywhere, std::slice::from_ref(&one)), Some(&one));
    }

    #[test]
    fn a_name_from_another_namespace_is_not_told() {
        let this = neighbour("this", 1, &[]);
        let mut other = neighbour("secret-project", 2, &[]);
        assert!(waiting(&this, &other).message.contains("secret-project"));
        other.namespace = "elsewhere".to_owned();
        assert!(!waiting(&this, &other).message.contains("secret-project"));
    }
}
