//! An experiment that waits: said while it is followed, in its status, and left alone by Ctrl-C.

use std::{fs::File, process::Command};

use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use serde_json::{Value, json};

use super::{Ended, Plugin, contains, so_far};
use crate::{experiment::with, world::World};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn ctrl_c_leaves_the_experiment_running_and_says_how_to_come_back_and_cancel_ends_it() {
    let world = World::of("kubectl_waits").await;
    let plugin = Plugin::of(&world);
    let nowhere = json!({"placement": {"nodeSelector": {"lem.test/kc-nowhere": "yes"}}});
    let file = plugin.file("nowhere.yaml", &[&with("nowhere", 1, 1, &nowhere)], "");
    let said = plugin.folder.path().join("errors");
    let mut child = plugin
        .command(&["run", &file])
        .stderr(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    world
        .eventually("the reason why the run waits", || async {
            let text = so_far(&said);
            let told = text.contains("warning: waiting (Unschedulable)") && text.contains("spec.placement");
            told.then_some(()).ok_or(text)
        })
        .await;

    let status = plugin.lem(&["status", "nowhere"]).good();
    contains(
        &status,
        &[
            "Starting, 0/1 trials",
            "Waiting    Unschedulable for ",
            "didn't match Pod's node affinity/selector",
            "FailedScheduling",
        ],
    );
    let json: Value = serde_json::from_str(&plugin.lem(&["status", "nowhere", "-o", "json"]).good()).unwrap();
    assert_eq!(json["waiting"]["reason"], "Unschedulable");
    assert_eq!(json["waiting"]["isStalled"], true);
    assert_eq!(json["processes"][0]["obstacle"], "Unschedulable");
    contains(
        &plugin.lem(&["status"]).good(),
        &["nowhere", "Starting", "Unschedulable"],
    );
    let everywhere = plugin.kubectl(&["lem", "status", "-A", "-o", "json"]).output().unwrap();
    let rows: Value = serde_json::from_str(&Ended::of(&everywhere).good()).unwrap();
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["namespace"] == world.namespace.as_str());
    assert_eq!(row.unwrap()["waiting"]["reason"], "Unschedulable");
    let errors = plugin.lem(&["logs", "nowhere"]).bad(1);
    contains(&errors, &["has not started yet", "kubectl lem status nowhere -n"]);

    // kubectl becomes its plugin, so this is its process.
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    assert_eq!(child.wait().unwrap().code(), Some(4), "{}", so_far(&said));
    contains(
        &so_far(&said),
        &[
            "left: nowhere goes on in the cluster",
            "kubectl lem status nowhere -n",
            "kubectl lem cancel nowhere -n",
        ],
    );
    let left = world.api::<EfficiencyExperiment>().get("nowhere").await.unwrap();
    assert!(!left.spec.cancel);
    assert_eq!(left.status.unwrap().phase, ExperimentPhase::Starting);

    contains(
        &plugin.lem(&["cancel", "nowhere"]).good(),
        &["nowhere ends", "kubectl lem report nowhere -n"],
    );
    let ended = world.ended("nowhere").await;
    assert_eq!(ended.phase, ExperimentPhase::Failed);
    // To follow it again is to be told how it ended.
    let again = plugin.lem(&["run", &file]);
    assert_eq!(again.code, Some(4), "{again:?}");
    contains(&again.errors, &["failed: cancelled by spec.cancel"]);
    let revived = plugin.lem(&["run", &file, "--set", "cancel=false"]).bad(2);
    contains(&revived, &["a cancelled experiment stays cancelled"]);
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_detached_run_returns_at_once_and_its_experiment_measures() {
    let world = World::of("kubectl_detach").await;
    let plugin = Plugin::of(&world);
    let file = plugin.file("alone.yaml", &[&with("alone", 1, 1, &json!({}))], "");
    let ended = plugin.lem(&["run", &file, "--detach"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    contains(&ended.errors, &["kubectl lem status alone -n"]);
    assert_eq!(world.ended("alone").await.phase, ExperimentPhase::Complete);
    world.delete_namespace().await;
}
