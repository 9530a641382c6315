//! The second lock: what RBAC lets through by mistake, the admission policy refuses.

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use lem_crds::Runner;
use serde_json::{Value, json};

use super::intruder::{as_account, as_process, ask, heartbeat, mailbox, measuring, path_of, pod};
use crate::{
    helm::chart,
    installation::{Machine, SYSTEM},
    world::{World, kubectl},
};

const BY_COHORT: &str = "is written by its own cohort only";
const BY_POD: &str = "is written by the pod of that process only";

/// Every `ServiceAccount` of the cluster may do everything with mailboxes: the mistake.
fn widen(machine: &Machine) {
    let role = [
        "create",
        "clusterrole",
        "widened",
        "--verb=*",
        "--resource=runners.lem.dev,runners.lem.dev/status",
    ];
    kubectl(machine.cluster, &role);
    let binding = [
        "create",
        "clusterrolebinding",
        "widened",
        "--clusterrole=widened",
        "--group=system:serviceaccounts",
    ];
    kubectl(machine.cluster, &binding);
}

/// A write of a record.
async fn write(world: &World, client: &Client, mailbox: &str, patch: &Value) -> Result<Value, (u16, String)> {
    let record = format!("{}/status", path_of(&world.namespace, mailbox));
    ask(client, "PATCH", &record, patch).await
}

async fn refused(world: &World, client: &Client, mailbox: &str, patch: &Value, words: &str) {
    let answer = write(world, client, mailbox, patch).await;
    let (code, message) = answer.expect_err(words);
    assert_eq!(code, 403, "{message}");
    assert!(
        message.contains("ValidatingAdmissionPolicy") && message.contains(words),
        "{message}"
    );
}

/// Everybody who is not the pod of the process.
async fn strangers_are_refused(machine: &Machine, world: &World, own: &str, mate: &str, other: &str) {
    let beat = heartbeat();
    let operator = operator(machine, world).await;
    let of_mate = as_process(machine, world, mate).await;
    let of_other = as_process(machine, world, other).await;
    let account = own.trim_end_matches("-0");
    let unbound = as_account(machine, world, account, None).await;
    refused(world, &of_other, own, &beat, BY_COHORT).await;
    refused(world, &of_mate, own, &beat, BY_POD).await;
    refused(world, &unbound, own, &beat, BY_POD).await;
    refused(world, &operator, own, &beat, BY_COHORT).await;
    // RBAC does not even ask about the administrator.
    refused(world, &world.client, own, &beat, BY_COHORT).await;
}

/// The operator with the token of one of its pods: it grants the right to write records, and may not use it.
async fn operator(machine: &Machine, world: &World) -> Client {
    let pods = Api::<Pod>::namespaced(world.client.clone(), SYSTEM);
    let found = pods.list(&kube::api::ListParams::default()).await.unwrap();
    as_account(machine, world, "lem-operator", Some(&found.items[0])).await
}

/// The pod itself, with what is not its own to say.
async fn lies_are_refused(world: &World, client: &Client, own: &str) {
    let of_another =
        json!([{"op": "replace", "path": "/status/podUid", "value": "11111111-2222-3333-4444-555555555555"}]);
    refused(
        world,
        client,
        own,
        &of_another,
        "must be the UID of the pod that writes",
    )
    .await;
    let without_windows = json!([{"op": "replace", "path": "/status/windows", "value": []}]);
    refused(world, client, own, &without_windows, "may not lose a measured window").await;
    let without_status = json!([{"op": "remove", "path": "/status/podUid"}]);
    refused(
        world,
        client,
        own,
        &without_status,
        "must be the UID of the pod that writes",
    )
    .await;
}

/// A pod that is lost has a successor, which keeps what it measured and must.
async fn a_successor_keeps_what_was_measured(machine: &Machine, world: &World, own: &str) {
    let first = pod(world, own).await;
    let at_once = DeleteParams::default().grace_period(0);
    world.api::<Pod>().delete(&first.name_any(), &at_once).await.unwrap();
    let runners = world.api::<Runner>();
    world
        .eventually("the record of a successor with that of the first pod in it", || async {
            let runner = runners.get(own).await.map_err(|error| error.to_string())?;
            let status = runner.status.unwrap_or_default();
            let kept = Some(&status.pod_uid) != first.uid().as_ref() && status.earlier.len() == 1;
            kept.then_some(())
                .ok_or_else(|| format!("{} {}", status.pod_uid, status.earlier.len()))
        })
        .await;
    let client = as_process(machine, world, own).await;
    write(world, &client, own, &heartbeat()).await.unwrap();
    let without_earlier = json!([{"op": "remove", "path": "/status/earlier"}]);
    refused(
        world,
        &client,
        own,
        &without_earlier,
        "may not lose what earlier pods measured",
    )
    .await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_record_is_written_by_the_pod_of_its_process_alone_whatever_rbac_says() {
    let (machine, world) = measuring("chart-admission", "chart_admission").await;
    widen(&machine);
    let own = mailbox(&world, "watched", 0).await;
    let mate = mailbox(&world, "watched", 1).await;
    let other = mailbox(&world, "other", 0).await;
    let client = as_process(&machine, &world, &own).await;
    write(&world, &client, &own, &heartbeat()).await.unwrap();

    strangers_are_refused(&machine, &world, &own, &mate, &other).await;
    // An account that is named like the mailbox of another cohort would be, in another namespace.
    let impostor =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": own.trim_end_matches("-0")}});
    let impostor: ServiceAccount = serde_json::from_value(impostor).unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), "default");
    accounts.create(&PostParams::default(), &impostor).await.unwrap();
    let mut elsewhere = machine.world("chart_admission").await;
    elsewhere.namespace = "default".to_owned();
    let of_impostor = as_account(&machine, &elsewhere, own.trim_end_matches("-0"), None).await;
    refused(&world, &of_impostor, &own, &heartbeat(), BY_COHORT).await;

    lies_are_refused(&world, &client, &own).await;
    a_successor_keeps_what_was_measured(&machine, &world, &own).await;

    // Whoever is exempt may: the refusals above were the policy's.
    machine.release(
        "upgrade",
        &chart("lem"),
        &["--set", "admissionPolicy.exemptGroups={system:masters}"],
    );
    world
        .eventually("the exemption", || async {
            let answer = write(&world, &world.client, &own, &heartbeat()).await;
            answer.map(drop).map_err(|(code, message)| format!("{code} {message}"))
        })
        .await;
    let of_mate = as_process(&machine, &world, &mate).await;
    refused(&world, &of_mate, &own, &heartbeat(), BY_POD).await;
}
