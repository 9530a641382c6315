//! From a file to a result, and what is done with results.

use k8s_openapi::api::core::v1::ConfigMap;
use lem_crds::{EfficiencyExperimentStatus, status::Verdict};
use serde_json::{Value, json};

use super::{Ended, Plugin, contains};
use crate::{
    experiment::{tiny, with},
    world::World,
};

/// The exit code that belongs to a status.
fn code(status: &EfficiencyExperimentStatus) -> i32 {
    if status.points.iter().all(|point| point.verdict == Verdict::Valid) {
        0
    } else {
        3
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn run_applies_a_file_follows_it_to_its_end_and_results_are_shown_in_every_form() {
    let world = World::of("kubectl_run").await;
    let plugin = Plugin::of(&world);
    let beside = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata: {why: test}";
    let longer = with("longer", 1, 2, &json!({"workload": {"maxOutputTokens": 24}}));
    let file = plugin.file("two.yaml", &[&tiny("short", 1, 9), &longer], beside);
    let ended = plugin.lem(&["run", &file, "--set", "protocol.cycles=2"]);
    let status = world.status("short").await.unwrap();
    assert_eq!(status.progress.planned, 2);
    let both = code(&status).max(code(&world.status("longer").await.unwrap()));
    contains(
        &ended.errors,
        &[
            "ConfigMap notes applied",
            "EfficiencyExperiment short applied",
            "default cycle 2 attempt 1",
            "2/2] Complete",
        ],
    );
    contains(
        &ended.out,
        &["short  tiny-test  2/2", "longer  tiny-test  2/2", "J/token"],
    );
    assert_eq!(ended.code, Some(both), "{ended:?}");
    assert_eq!(
        world.api::<ConfigMap>().get("notes").await.unwrap().data.unwrap()["why"],
        "test"
    );

    plugin
        .kubectl(&[
            "wait",
            "--for=condition=Complete",
            "effexp/short",
            "-n",
            &world.namespace,
            "--timeout=1s",
        ])
        .output()
        .map(|output| assert!(output.status.success(), "{output:?}"))
        .unwrap();

    // A second run of the same file measures nothing again: the result is there.
    let again = plugin.lem(&["run", &file, "--set", "protocol.cycles=2", "-o", "json", "--quiet"]);
    assert_eq!(again.code, Some(both), "{again:?}");
    assert_eq!(world.status("short").await.unwrap(), status);

    forms_of_a_report(&plugin, &status);
    comparison(&plugin);
    let row = plugin.lem(&["status"]).good();
    contains(
        &row,
        &[
            "NAME",
            "short",
            "Complete",
            "2/2",
            &status.headline.unwrap().joules_per_token,
        ],
    );
    assert_eq!(
        plugin.lem(&["cancel", "short"]).good(),
        "short has ended already: Complete\n"
    );
    let complete = ["__complete", "lem", "-n", &world.namespace, "report", "sho"];
    let completed = Ended::of(&plugin.kubectl(&complete).output().unwrap()).good();
    assert_eq!(completed, "short\n:4\n");
    world.delete_namespace().await;
}

fn forms_of_a_report(plugin: &Plugin<'_>, status: &EfficiencyExperimentStatus) {
    let report = |form: &str| {
        let ended = plugin.lem(&["report", "short", "-o", form]);
        assert_eq!(ended.code, Some(code(status)), "{ended:?}");
        ended.out
    };
    contains(&report("table"), &["short  tiny-test  2/2", "J/token", "Energy scope"]);
    contains(&report("markdown"), &["# ", "| J/token"]);
    let json: Value = serde_json::from_str(&report("json")).unwrap();
    let told: EfficiencyExperimentStatus = serde_json::from_value(json["status"].clone()).unwrap();
    assert_eq!(&told, status);
    assert_eq!(json["trials"].as_array().unwrap().len(), 2);
    let csv = report("csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(lines[1].starts_with("short,tiny-test,"), "{csv}");
    contains(&report("html"), &["<html", "short", "</svg>"]);
}

fn comparison(plugin: &Plugin<'_>) {
    let here = format!("{}/longer", plugin.world.namespace);
    let table = plugin.lem(&["compare", "short", &here]).good();
    contains(&table, &["short", &here, "joules_per_token", "effective_throughput"]);
    let json = plugin
        .lem(&["compare", "short", "longer", "--metric", "total_power_w", "-o", "json"])
        .good();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json.to_string().contains("total_power_w"), "{json}");
    let errors = plugin
        .lem(&["compare", "short", "longer", "--metric", "nonsense"])
        .bad(2);
    contains(&errors, &["--metric nonsense: no such metric"]);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_that_refuses_ends_the_run_with_its_own_words_in_result_log_and_status() {
    let world = World::of("kubectl_logs").await;
    let plugin = Plugin::of(&world);
    let absent = json!({"model": {"source": {"synthetic": null, "directory": {"path": "/nowhere"}}}});
    let file = plugin.file("absent.yaml", &[&with("absent", 1, 1, &absent)], "");
    let ended = plugin.lem(&["run", &file]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    contains(
        &ended.errors,
        &["warning: point 0 cycle 1 attempt 1: process 0:", "/nowhere", "failed: "],
    );

    let log = plugin.lem(&["logs", "absent"]).good();
    contains(&log, &["[0] ", "/nowhere"]);
    let alone = plugin.lem(&["logs", "absent", "--process", "0", "--follow"]).good();
    assert!(alone.contains("/nowhere") && !alone.contains("[0] "), "{alone}");
    let errors = plugin.lem(&["logs", "absent", "--process", "7"]).bad(1);
    contains(&errors, &["no pod of process 7", "those of 0"]);
    let errors = plugin.lem(&["logs", "absent", "--previous"]).bad(1);
    contains(&errors, &["no pods before the present ones"]);

    let status = plugin.lem(&["status", "absent"]).good();
    contains(&status, &["Failed, 0/1 trials", "FAILED TRIAL", "/nowhere", "PROCESS"]);
    world.delete_namespace().await;
}
