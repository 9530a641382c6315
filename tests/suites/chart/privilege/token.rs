//! What the token of a running runner pod opens.

use std::collections::BTreeSet;

use futures::StreamExt;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams, discovery::Discovery};
use serde_json::{Value, json};

use super::intruder::{as_account, as_process, ask, heartbeat, mailbox, measuring, path_of};
use crate::world::World;

const VERBS: [&str; 12] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "use",
];
/// Reviews in flight at once.
const CONCURRENCY: usize = 16;

/// What is asked of the API server's authorizer.
fn attributes(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> ResourceAttributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ResourceAttributes {
        verb: some(verb),
        group: some(group),
        resource: some(resource),
        subresource: some(subresource),
        namespace: some(namespace),
        name: some(name),
        ..ResourceAttributes::default()
    }
}

fn described(attributes: &ResourceAttributes) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let words = [
        text(&attributes.verb),
        [
            text(&attributes.group),
            text(&attributes.resource),
            text(&attributes.subresource),
        ]
        .join("/"),
        text(&attributes.namespace),
        text(&attributes.name),
    ];
    words.join(" ").trim_end().to_owned()
}

/// Those of the attributes that the client's user has.
async fn allowed(client: &Client, asked: Vec<ResourceAttributes>) -> BTreeSet<String> {
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let reviews = &reviews;
    let answers = futures::stream::iter(asked).map(|attributes| async move {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes.clone()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        answer.status.unwrap().allowed.then(|| described(&attributes))
    });
    answers
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// Every resource and subresource that the API server has, with its group.
async fn resources(client: &Client) -> Vec<(String, String)> {
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let mut found = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.resources_by_stability() {
            found.push((resource.group.clone(), resource.plural.clone()));
            for (sub, _) in &capabilities.subresources {
                found.push((resource.group.clone(), format!("{}/{}", resource.plural, sub.plural)));
            }
        }
    }
    found
}

/// Every verb on every resource: in the own namespace, in another one and without any. Kubernetes lets every account ask
/// about itself and read public certificates; a runner's may not do more than one that nobody gave anything.
async fn nothing_but_what_everybody_has(world: &World, client: &Client, stranger: &Client) {
    let resources = resources(&world.client).await;
    assert!(
        resources.iter().any(|(_, resource)| resource == "runners"),
        "{resources:?}"
    );
    let mut asked = Vec::new();
    for (group, resource) in &resources {
        for verb in VERBS {
            for namespace in [world.namespace.as_str(), "kube-system", ""] {
                asked.push(attributes(verb, group, resource, namespace, ""));
            }
        }
    }
    eprintln!("{} reviews of {} resources", asked.len(), resources.len());
    let everybody = allowed(stranger, asked.clone()).await;
    assert!(
        everybody.iter().any(|right| right.contains("selfsubjectaccessreviews")),
        "{everybody:?}"
    );
    assert_eq!(allowed(client, asked).await, everybody);
}

/// By name, the mailboxes of its own cohort and no others.
async fn by_name_its_own_cohort_only(world: &World, client: &Client, own: &[String], other: &str) {
    let mut asked = Vec::new();
    for name in own.iter().map(String::as_str).chain([other]) {
        for resource in ["runners", "runners/status"] {
            for verb in VERBS {
                asked.push(attributes(verb, "lem.dev", resource, &world.namespace, name));
            }
        }
    }
    let mut expected = BTreeSet::new();
    for name in own {
        for (verb, resource) in [("get", "runners"), ("watch", "runners"), ("patch", "runners/status")] {
            expected.insert(described(&attributes(
                verb,
                "lem.dev",
                resource,
                &world.namespace,
                name,
            )));
        }
    }
    assert_eq!(allowed(client, asked).await, expected);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_token_of_a_runner_opens_its_own_mailbox_and_nothing_else() {
    let (machine, world) = measuring("chart-token", "chart_token").await;
    let own = [mailbox(&world, "watched", 0).await, mailbox(&world, "watched", 1).await];
    let other = mailbox(&world, "other", 0).await;
    let client = as_process(&machine, &world, &own[0]).await;
    let namespace = world.namespace.as_str();

    // What it is for works, so the refusals below are not those of a broken token.
    let mine = path_of(namespace, &own[0]);
    ask(&client, "GET", &mine, &Value::Null).await.unwrap();
    ask(&client, "PATCH", &format!("{mine}/status"), &heartbeat())
        .await
        .unwrap();

    let nobody: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "nobody"}})).unwrap();
    let accounts = world.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &nobody).await.unwrap();
    let stranger = as_account(&machine, &world, "nobody", None).await;
    nothing_but_what_everybody_has(&world, &client, &stranger).await;
    by_name_its_own_cohort_only(&world, &client, &own, &other).await;

    let experiments = format!("/apis/lem.dev/v1alpha1/namespaces/{namespace}/efficiencyexperiments");
    let core = format!("/api/v1/namespaces/{namespace}");
    let account = own[0].trim_end_matches("-0");
    let phase = json!([{"op": "add", "path": "/status/phase", "value": "Complete"}]);
    let finish = json!([{"op": "add", "path": "/spec/finish", "value": true}]);
    let nothing = Value::Null;
    let requests = [
        ("GET", path_of(namespace, &other), &nothing),
        ("PATCH", format!("{}/status", path_of(namespace, &other)), &heartbeat()),
        ("PATCH", format!("{}/status", path_of(namespace, &own[1])), &heartbeat()),
        ("PATCH", mine.clone(), &finish),
        ("DELETE", mine.clone(), &nothing),
        ("GET", path_of(namespace, ""), &nothing),
        ("GET", format!("{experiments}/watched"), &nothing),
        ("GET", experiments.clone(), &nothing),
        ("PATCH", format!("{experiments}/watched/status"), &phase),
        ("DELETE", format!("{experiments}/watched"), &nothing),
        ("GET", format!("{core}/secrets"), &nothing),
        ("GET", format!("{core}/configmaps/kube-root-ca.crt"), &nothing),
        ("GET", format!("{core}/pods"), &nothing),
        ("GET", format!("{core}/serviceaccounts"), &nothing),
        (
            "POST",
            format!("{core}/serviceaccounts/{account}/token"),
            &json!({"spec": {}}),
        ),
        ("GET", "/api/v1/nodes".to_owned(), &nothing),
        ("GET", "/api/v1/namespaces".to_owned(), &nothing),
        ("GET", "/apis/batch/v1/jobs".to_owned(), &nothing),
        ("GET", "/api/v1/namespaces/lem-system/secrets".to_owned(), &nothing),
    ];
    for (method, path, body) in requests {
        let path = path.trim_end_matches('/');
        let refused = ask(&client, method, path, body).await;
        assert!(matches!(refused, Err((403, _))), "{method} {path}: {refused:?}");
    }
}
