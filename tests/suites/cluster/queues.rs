//! Neighbours that have the say: a queue that admits Jobs and takes that back, and pods of a higher priority.

mod kueue;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use lem_crds::{
    EfficiencyExperimentStatus, RunnerStatus,
    plan::TrialIdentity,
    status::{ExperimentPhase, Verdict},
};
use serde_json::{Value, json};

use crate::{
    experiment::with,
    world::{World, condition, described},
};

const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";

/// It waits for its queue, and not for another experiment.
fn is_queued(status: &EfficiencyExperimentStatus) -> bool {
    condition(status, "Stalled").is_some_and(|stalled| {
        stalled.status == "True" && stalled.reason == "Queued" && stalled.message.contains("placement.queueName")
    })
}

/// Trials that a record holds.
async fn recorded(world: &World, experiment: &str) -> Vec<TrialIdentity> {
    let runners = world.runners(experiment).await;
    let statuses = runners.iter().filter_map(|runner| runner.status.as_ref());
    let windows = statuses.flat_map(RunnerStatus::all_windows);
    windows.map(|window| window.trial.clone()).collect()
}

/// Complete, with a usable result of each of three cycles, and no trial measured twice.
async fn measured_three_times(world: &World, experiment: &str) {
    let status = world.ended(experiment).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(status.progress.finished, 3, "{}", described(&status));
    assert!(status.points.iter().all(|point| point.verdict != Verdict::Invalid));
    let mut trials = recorded(world, experiment).await;
    let count = trials.len();
    trials.sort();
    trials.dedup();
    assert_eq!(trials.len(), count, "a trial was measured twice");
}

/// What Kueue does to a Job that it admits, or whose admission it takes back.
async fn suspend(jobs: &Api<Job>, suspended: bool) {
    for job in jobs.list(&ListParams::default()).await.unwrap() {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspended}}));
        jobs.patch(&job.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_job_waits_for_its_queue_and_goes_on_where_it_was_when_its_admission_was_taken_back() {
    let world = World::of("queue").await;
    let jobs: Api<Job> = world.api();
    world
        .apply(&with("queued", 1, 3, &json!({"placement": {"queueName": "team"}})))
        .await;
    world.until("queued", "the wait for the queue", is_queued).await;
    let all = jobs.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all[0].labels().get(QUEUE_LABEL).map(String::as_str), Some("team"));
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap();
    assert_eq!(pods.items.len(), 0, "a suspended Job has no pods");

    suspend(&jobs, false).await;
    world
        .until("queued", "the first result", |status| status.progress.finished == 1)
        .await;
    suspend(&jobs, true).await;
    world.until("queued", "the wait for the queue again", is_queued).await;
    suspend(&jobs, false).await;
    measured_three_times(&world, "queued").await;
}

/// Less than that of every other test's pods, so that none of them is in danger.
async fn priority(world: &World, name: &str, value: i32) -> String {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": format!("{}-{name}", world.namespace)}, "value": value});
    let class: PriorityClass = serde_json::from_value(class).unwrap();
    let classes: Api<PriorityClass> = Api::all(world.client.clone());
    let made = classes.create(&PostParams::default(), &class).await;
    made.unwrap().name_any()
}

/// A pod that wants all GPUs of a node and does nothing with them.
fn greedy(node: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"},
        "spec": {
            "priorityClassName": class,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "pause", "image": "localhost/pause:1", "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"limits": {"nvidia.com/gpu": "2"}},
            }],
        },
    })
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_preempted_trial_is_repeated_and_finished_ones_are_kept() {
    let world = World::of("preempted").await;
    let (low, high) = (priority(&world, "low", -10).await, priority(&world, "high", -5).await);
    let node = "node-2";
    let spec = json!({
        "processes": {"gpusPerProcess": 1},
        "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
        "protocol": {"retryBudget": 10},
        "runner": {"podPatch": {"priorityClassName": low}},
    });
    world.apply(&with("preempted", 1, 3, &spec)).await;
    world
        .until("preempted", "the first result", |status| status.progress.finished >= 1)
        .await;
    let kept = recorded(&world, "preempted").await;
    world.create::<Pod>(&greedy(node, &high)).await;
    world
        .eventually("the preemption", || async {
            let events: Api<Event> = world.api();
            let found = events.list(&ListParams::default().fields("reason=Preempted")).await;
            let found = found.map_err(|error| error.to_string())?.items;
            (!found.is_empty()).then_some(()).ok_or_else(|| "none".to_owned())
        })
        .await;
    world
        .api::<Pod>()
        .delete("greedy", &DeleteParams::default())
        .await
        .unwrap();
    measured_three_times(&world, "preempted").await;
    let all = recorded(&world, "preempted").await;
    assert!(kept.iter().all(|trial| all.contains(trial)), "{kept:?} {all:?}");
}
