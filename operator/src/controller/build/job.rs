//! The Job of a cohort: one indexed pod per process. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use lem_crds::runner::{CONTAINER, EXIT_REFUSED};

use super::{
    CohortPlan,
    name::{labels, metadata},
    pod,
};

/// By which Kueue knows the Jobs that are its own.
pub const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// Pods that may fail one after the other in one process's place, whatever the budget of trials is.
const MOST_REPLACEMENTS: u32 = 3;
/// Added to the sum of all deadlines: the Job's own end is for what the operator did not see.
const SLACK_SECONDS: i64 = 600;

pub(super) fn job(plan: &CohortPlan<'_>) -> Job {
    let processes = plan.spec.processes.count.cast_signed();
    Job {
        metadata: ObjectMeta {
            labels: Some(labels_of_job(plan)),
            ..metadata(plan, plan.name())
        },
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(processes),
            parallelism: Some(processes),
            backoff_limit_per_index: Some(replacements(plan).cast_signed()),
            // A trial needs every process: one that cannot be had ends the Job at once.
            max_failed_indexes: Some(0),
            pod_failure_policy: Some(failure_policy()),
            // Admission demands it beside a podFailurePolicy; it also keeps two pods of one process apart.
            pod_replacement_policy: Some("Failed".to_owned()),
            // A queue lets it go when there is room for it.
            suspend: Some(queue(plan).is_some()),
            // A Job of its own for every node: setting this when it has ended would be one write more for each.
            ttl_seconds_after_finished: plan.node.map(|_| {
                let lives = plan.spec.ttl_seconds_after_finished.unwrap_or_default();
                lives.success.cast_signed()
            }),
            active_deadline_seconds: Some(active_deadline_seconds(plan)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(plan)),
                    annotations: Some(undisturbed()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::spec(plan)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The queue that the experiment names.
fn queue<'a>(plan: &CohortPlan<'a>) -> Option<&'a String> {
    plan.spec.placement.as_ref()?.queue_name.as_ref()
}

fn labels_of_job(plan: &CohortPlan<'_>) -> BTreeMap<String, String> {
    let queue = queue(plan).map(|queue| (QUEUE_LABEL.to_owned(), queue.clone()));
    labels(plan).into_iter().chain(queue).collect()
}

/// A window must not end because its node is half empty: Cluster Autoscaler and Karpenter leave such pods alone. They live
/// as long as there is something to measure.
fn undisturbed() -> BTreeMap<String, String> {
    [
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ("karpenter.sh/do-not-disrupt", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn replacements(plan: &CohortPlan<'_>) -> u32 {
    plan.spec.protocol.retry_budget.min(MOST_REPLACEMENTS)
}

/// A disruption costs nothing; a process that says the experiment cannot run as written ends the Job.
fn failure_policy() -> PodFailurePolicy {
    let rule = |action: &str| PodFailurePolicyRule {
        action: action.to_owned(),
        ..PodFailurePolicyRule::default()
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: Some(CONTAINER.to_owned()),
                    operator: "In".to_owned(),
                    values: vec![EXIT_REFUSED],
                }),
                ..rule("FailJob")
            },
            PodFailurePolicyRule {
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                }]),
                ..rule("Ignore")
            },
        ],
    }
}

/// The sum of every deadline that the operator itself watches, for the case that no operator is there.
fn active_deadline_seconds(plan: &CohortPlan<'_>) -> i64 {
    let seconds = |duration: lem_crds::quantity::Duration| duration.seconds().ceil() as i64;
    let protocol = &plan.spec.protocol;
    let placement = plan.spec.placement.clone().unwrap_or_default();
    let start = seconds(placement.schedule_deadline) + seconds(protocol.deadlines.load);
    let trial =
        seconds(protocol.deadlines.ready) + seconds(protocol.deadlines.window) + seconds(protocol.cooldown.duration);
    let starts = start.saturating_mul(i64::from(replacements(plan)) + 1);
    let trials = trial.saturating_mul(i64::from(plan.trials));
    let last_baseline = seconds(protocol.baseline.duration);
    starts
        .saturating_add(trials)
        .saturating_add(last_baseline)
        .saturating_add(SLACK_SECONDS)
}
