//! Real installations: what a platform team does with a release, while experiments run.

use std::{collections::BTreeSet, fs};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use lem_crds::{EfficiencyExperimentStatus, Runner, status::ExperimentPhase};

use crate::{
    experiment::tiny,
    helm::{chart, printed},
    installation::{Machine, PREVIOUS, SYSTEM, VERSION},
    world::{World, described, kubectl},
};

/// Names of the mailboxes of an experiment: the same as before if no process was started again.
async fn mailboxes(world: &World, experiment: &str) -> BTreeSet<String> {
    let runners = world.runners(experiment).await;
    runners.iter().map(Runner::name_any).collect()
}

/// Waits until an experiment of 3 processes has finished a trial.
async fn measuring(world: &World, name: &str) -> BTreeSet<String> {
    world
        .until(name, "a finished trial", |status| status.progress.finished >= 1)
        .await;
    mailboxes(world, name).await
}

/// The experiment ended as if nothing had happened: every trial once, by the processes that began it.
async fn undisturbed(world: &World, name: &str, trials: u32, before: &BTreeSet<String>) -> EfficiencyExperimentStatus {
    let status = world.ended(name).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(status.progress.finished, trials, "{}", described(&status));
    assert!(status.failures.is_empty(), "{}", described(&status));
    assert_eq!(mailboxes(world, name).await, *before);
    status
}

/// Versions of the operator that run.
async fn operators(world: &World) -> Result<Vec<String>, String> {
    let pods = Api::<Pod>::namespaced(world.client.clone(), SYSTEM);
    let ours = ListParams::default().labels("app.kubernetes.io/name=lem,app.kubernetes.io/component=operator");
    let found = pods.list(&ours).await.map_err(|error| error.to_string())?;
    let images = found
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone());
    let mut images: Vec<String> = images.collect();
    images.sort();
    Ok(images)
}

/// Waits until both replicas, and no others, have a version.
async fn until_version(world: &World, version: &str) {
    let wanted = vec![format!("localhost/lem-operator:{version}"); 2];
    world
        .eventually("both operators of one version", || async {
            let found = operators(world).await?;
            (found == wanted).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
}

/// Objects of the release, wherever they are.
fn of_release(machine: &Machine) -> Vec<String> {
    let kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,\
        networkpolicies,poddisruptionbudgets,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let found = kubectl(
        machine.cluster,
        &["get", kinds, "-A", "-l", "app.kubernetes.io/name=lem", "-o", "name"],
    );
    found.lines().map(ToOwned::to_owned).collect()
}

/// The Service leads to the metrics, and one of the two replicas may go at a time.
async fn served(machine: &Machine, world: &World) {
    let path = format!("/api/v1/namespaces/{SYSTEM}/services/lem-operator:http/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let metrics = world.client.request_text(request).await.unwrap();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let budget = [
        "get",
        "pdb",
        "lem-operator",
        "-n",
        SYSTEM,
        "-o",
        "jsonpath={.status.disruptionsAllowed}",
    ];
    world
        .eventually("a budget that allows one disruption", || async {
            let found = kubectl(machine.cluster, &budget);
            (found == "1").then_some(()).ok_or(found)
        })
        .await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_release_lives_through_upgrade_rollback_and_removal_and_its_results_outlive_it() {
    let machine = Machine::start("chart-lifecycle").await;
    let world = machine.world("chart_lifecycle").await;
    let previous = [machine.package("lem-crds", PREVIOUS), machine.package("lem", PREVIOUS)];
    let crds = chart("lem-crds");

    // Install.
    machine.helm(&["install", "lem-crds", previous[0].to_str().unwrap()]);
    let notes = machine.release("install", &previous[1], &[]);
    assert!(
        notes.contains("--namespace lem-system rollout status deployment/lem-operator"),
        "{notes}"
    );
    until_version(&world, PREVIOUS).await;
    served(&machine, &world).await;

    // Upgrade in the middle of an experiment.
    world.apply(&tiny("upgraded", 3, 12)).await;
    let before = measuring(&world, "upgraded").await;
    machine.helm(&["upgrade", "lem-crds", crds.to_str().unwrap()]);
    machine.release("upgrade", &chart("lem"), &[]);
    until_version(&world, VERSION).await;
    let status = world.status("upgraded").await.unwrap();
    assert!(
        status.progress.finished < 12,
        "it ended before the upgrade: {}",
        described(&status)
    );
    let upgraded = undisturbed(&world, "upgraded", 12, &before).await;

    // Back in the middle of an experiment.
    world.apply(&tiny("rolled-back", 3, 12)).await;
    let before = measuring(&world, "rolled-back").await;
    machine.helm(&["rollback", "lem", "--wait", "--timeout", "3m"]);
    until_version(&world, PREVIOUS).await;
    undisturbed(&world, "rolled-back", 12, &before).await;

    // Away: nothing of the releases is left, but for the definitions with everything in them.
    machine.helm(&["uninstall", "lem", "--wait"]);
    machine.helm(&["uninstall", "lem-crds", "--wait"]);
    world
        .eventually("the end of all objects of the release", || async {
            let left = of_release(&machine);
            left.is_empty().then_some(()).ok_or_else(|| left.join(", "))
        })
        .await;
    let kept = world.status("upgraded").await.unwrap();
    assert_eq!(kept.points, upgraded.points);
    assert_eq!(mailboxes(&world, "upgraded").await.len(), 3);

    // Anew: old results stay as they are, new ones come.
    machine.helm(&["install", "lem-crds", crds.to_str().unwrap()]);
    machine.release("install", &chart("lem"), &[]);
    world.apply(&tiny("reinstalled", 3, 2)).await;
    let status = world.ended("reinstalled").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(world.status("upgraded").await.unwrap().points, upgraded.points);
}

/// A user who may do everything in some namespaces and nothing elsewhere.
fn owner_of(machine: &Machine, user: &str, namespaces: &[&str]) {
    for namespace in namespaces {
        let account = format!("--user={user}");
        kubectl(
            machine.cluster,
            &[
                "create",
                "rolebinding",
                user,
                "--clusterrole=cluster-admin",
                &account,
                "--namespace",
                namespace,
            ],
        );
    }
}

/// Those who have Kubernetes' own roles in a namespace have ours in them.
async fn users_have_what_their_roles_say(machine: &Machine, world: &World) {
    for (role, verb, resource, expected) in [
        ("view", "list", "efficiencyexperiments.lem.dev", "yes"),
        ("view", "watch", "runners.lem.dev", "yes"),
        ("view", "create", "efficiencyexperiments.lem.dev", "no"),
        ("edit", "create", "efficiencyexperiments.lem.dev", "yes"),
        ("edit", "deletecollection", "efficiencyexperiments.lem.dev", "yes"),
        ("view", "list", "efficiencyschedules.lem.dev", "yes"),
        ("edit", "create", "efficiencyschedules.lem.dev", "yes"),
        ("edit", "list", "runners.lem.dev", "yes"),
        ("edit", "patch", "runners.lem.dev", "no"),
        ("edit", "patch", "efficiencyexperiments.lem.dev/status", "no"),
        ("admin", "patch", "efficiencyexperiments.lem.dev", "yes"),
        ("admin", "patch", "runners.lem.dev/status", "no"),
    ] {
        let user = format!("user-with-{role}");
        let binding = kubectl(
            machine.cluster,
            &[
                "create",
                "rolebinding",
                &user,
                "--clusterrole",
                role,
                "--user",
                &user,
                "-n",
                &world.namespace,
                "--dry-run=client",
                "-o",
                "json",
            ],
        );
        let path = machine.folder.path().join(format!("{user}.json"));
        fs::write(&path, binding).unwrap();
        kubectl(machine.cluster, &["apply", "-f", path.to_str().unwrap()]);
        // Aggregation is a controller's work, and the authorizer's cache follows it.
        world
            .eventually("the rights of a user", || async {
                let mut ask = machine.cluster.kubectl();
                // After a slash kubectl expects a name.
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                ask.args(["auth", "can-i", verb, resource, "--subresource", subresource]);
                ask.args(["-n", &world.namespace, "--as", &user]);
                let answer = String::from_utf8(ask.output().unwrap().stdout).unwrap();
                let as_expected = answer.trim() == expected;
                as_expected
                    .then_some(())
                    .ok_or_else(|| format!("{role} {verb} {resource}: {answer}"))
            })
            .await;
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn two_teams_install_for_their_own_namespace_without_rights_on_the_cluster() {
    let machine = Machine::start("chart-namespaced").await;
    let outside = machine.world("chart_namespaced").await;
    machine.helm(&["install", "lem-crds", chart("lem-crds").to_str().unwrap()]);
    users_have_what_their_roles_say(&machine, &outside).await;
    for team in ["a", "b"] {
        let (system, watched) = (format!("system-{team}"), format!("team-{team}"));
        machine.namespace(&system).await;
        machine.namespace(&watched).await;
        let user = format!("owner-{team}");
        owner_of(&machine, &user, &[&system, &watched]);
        let watch = format!("watchNamespace={watched},images.registry=localhost,replicas=1");
        // The same name for both: they share nothing that has one.
        let path = chart("lem");
        let arguments = [
            "install",
            "lem",
            path.to_str().unwrap(),
            "--kube-as-user",
            &user,
            "--namespace",
            &system,
            "--wait",
            "--set",
            &watch,
        ];
        let notes = printed(&machine.attempt(&arguments));
        assert!(notes.contains(&format!("--namespace {watched} wait")), "{notes}");
    }
    outside.apply(&tiny("unseen", 1, 1)).await;
    for team in ["a", "b"] {
        let mut inside = machine.world("chart_namespaced").await;
        inside.namespace = format!("team-{team}");
        inside.apply(&tiny("seen", 2, 2)).await;
        let status = inside.ended("seen").await;
        assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
        let account = format!("--as=system:serviceaccount:system-{team}:lem-operator");
        let refused = machine
            .cluster
            .kubectl()
            .args(["auth", "can-i", "list", "pods", "--all-namespaces", &account])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&refused.stdout).trim(), "no");
        let audit = machine.cluster.audit().unwrap().requests().unwrap();
        let user = format!("system:serviceaccount:system-{team}:lem-operator");
        let forbidden: Vec<_> = audit
            .iter()
            .filter(|request| request.user == user && request.code == 403)
            .collect();
        assert!(forbidden.is_empty(), "{forbidden:?}");
    }
    let unseen = outside.status("unseen").await.unwrap();
    assert!(unseen.conditions.is_empty(), "{}", described(&unseen));
}
