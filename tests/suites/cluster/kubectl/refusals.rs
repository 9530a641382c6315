//! Mistakes: each is named with what to do, and with the exit code that belongs to it.

use kube::api::ListParams;
use lem_crds::EfficiencyExperiment;
use serde_json::json;

use super::{Ended, Plugin, contains};
use crate::{
    experiment::{tiny, with},
    world::World,
};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_invalid_file_is_refused_whole_before_anything_is_applied() {
    let world = World::of("kubectl_invalid").await;
    let plugin = Plugin::of(&world);
    let relative = json!({"model": {"source": {"synthetic": null, "directory": {"path": "models"}}}});
    let file = plugin.file("two.yaml", &[&tiny("good", 1, 1), &with("bad", 1, 1, &relative)], "");
    let errors = plugin.lem(&["run", &file]).bad(2);
    contains(
        &errors,
        &[
            "two.yaml, document 2: bad: spec.model.source.directory.path",
            "is relative",
        ],
    );
    let errors = plugin.lem(&["run", &file, "--set", "workload.requests=0"]).bad(2);
    contains(&errors, &["spec.workload.requests"]);
    let all = world
        .api::<EfficiencyExperiment>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(all.items.len(), 0);

    let unknown = "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}";
    let file = plugin.file("unknown.yaml", &[&tiny("good", 1, 1)], unknown);
    let errors = plugin.lem(&["run", &file]).bad(2);
    contains(&errors, &["Widget w", "does not know Widget of example.org/v1"]);
    let elsewhere = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: w, namespace: default}";
    let file = plugin.file("elsewhere.yaml", &[&tiny("good", 1, 1)], elsewhere);
    contains(&plugin.lem(&["run", &file]).bad(2), &["metadata.namespace is default"]);
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_change_of_a_started_experiment_and_a_name_that_is_not_there_are_answered_with_a_way_out() {
    let world = World::of("kubectl_names").await;
    let plugin = Plugin::of(&world);
    let file = plugin.file("quick.yaml", &[&tiny("quick-look", 1, 1)], "");
    let first = plugin.lem(&["run", &file, "-q"]);
    assert!(matches!(first.code, Some(0 | 3)), "{first:?}");
    let errors = plugin.lem(&["run", &file, "--set", "workload.requests=9"]).bad(2);
    contains(&errors, &["immutable", "Create another experiment"]);

    let near = plugin.lem(&["status", "quik-look"]).bad(1);
    contains(&near, &["no experiment quik-look", "did you mean quick-look?"]);
    let elsewhere = plugin
        .kubectl(&["lem", "report", "quick-look", "-n", "default"])
        .output()
        .unwrap();
    contains(
        &Ended::of(&elsewhere).bad(1),
        &[&format!("there is one in namespace {0}, add -n {0}", world.namespace)],
    );
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn who_may_not_is_told_which_verb_is_missing_and_a_context_that_is_not_there_is_named() {
    let world = World::of("kubectl_rights").await;
    let plugin = Plugin::of(&world).into_powerless();
    let errors = plugin.lem(&["status"]).bad(1);
    contains(
        &errors,
        &[
            "not allowed to list efficiencyexperiments.lem.dev",
            &world.namespace,
            "can-i",
        ],
    );
    let file = plugin.file("quick.yaml", &[&tiny("quick", 1, 1)], "");
    contains(
        &plugin.lem(&["run", &file]).bad(1),
        &["not allowed to patch efficiencyexperiments.lem.dev"],
    );
    let errors = plugin.lem(&["status", "--context", "nowhere"]).bad(1);
    contains(&errors, &["nowhere", "kubectl config get-contexts"]);
    let errors = plugin.lem(&["status", "--kubeconfig", "/nowhere"]).bad(1);
    contains(&errors, &["/nowhere", "--kubeconfig or KUBECONFIG"]);
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn kubectl_explains_fields_with_their_defaults_and_choices() {
    let world = World::of("kubectl_explain").await;
    let plugin = Plugin::of(&world);
    let explain = |path: &str| {
        let output = Ended::of(&plugin.kubectl(&["explain", path]).output().unwrap()).good();
        // kubectl breaks lines where it likes.
        output.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    contains(
        &explain("effexp.spec.workload"),
        &[
            "Requests that each process executes in one window",
            "Default: 8.",
            "Exactly one of synthetic, inline, jsonLines, configMapRef. Default: synthetic.",
        ],
    );
    contains(
        &explain("effexp.spec.energy"),
        &[
            "enum: Auto, Required, Disabled",
            "`Required`: an error",
            "Default: Auto.",
        ],
    );
}
