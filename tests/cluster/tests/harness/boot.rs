//! What a started cluster is.

use std::{collections::BTreeSet, path::Path};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use lem_test_cluster::count;

use crate::shared::{LIMIT, cluster, namespace};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn three_nodes_are_ready_with_two_labelled_gpus_each() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("three_nodes");
    let client = cluster.client().await.unwrap();
    let nodes = Api::<Node>::all(client).list(&ListParams::default()).await.unwrap();
    let names: BTreeSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"].map(str::to_owned).into());
    for node in &nodes {
        let status = node.status.as_ref().unwrap();
        let conditions = status.conditions.as_ref().unwrap();
        assert!(
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        );
        assert_eq!(status.allocatable.as_ref().unwrap()["nvidia.com/gpu"].0, "2");
        let labels = node.labels();
        assert_eq!(labels["nvidia.com/gpu.product"], "Fake-H100");
        assert_eq!(labels["nvidia.com/gpu.count"], "2");
        assert_eq!(labels["nvidia.com/mig.strategy"], "none");
        assert!(labels.contains_key("nvidia.com/cuda.driver-version.full"));
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_api_server_accepts_our_definitions_and_serves_them() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("definitions");
    let api = Api::<CustomResourceDefinition>::all(cluster.client().await.unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    for file in [
        "efficiencyexperiments.lem.dev",
        "efficiencyschedules.lem.dev",
        "runners.lem.dev",
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.yaml"))).unwrap();
        let definition: CustomResourceDefinition = serde_yaml::from_str(&text).unwrap();
        let parameters = PatchParams::apply("suite").force();
        api.patch(file, &parameters, &Patch::Apply(&definition)).await.unwrap();
        let established = || async {
            let status = api
                .get(file)
                .await
                .map_err(|error| error.to_string())?
                .status
                .unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let seen: Vec<_> = conditions
                .iter()
                .map(|it| format!("{}={} {:?}", it.type_, it.status, it.message))
                .collect();
            // Validation rules that the server does not like show here.
            let refused = conditions
                .iter()
                .any(|it| it.type_ == "NonStructuralSchema" && it.status == "True");
            assert!(!refused, "{seen:?}");
            let holds = conditions
                .iter()
                .any(|it| it.type_ == "Established" && it.status == "True");
            holds.then_some(()).ok_or_else(|| seen.join(", "))
        };
        cluster.until(file, LIMIT, established).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn requests_are_counted_by_user_verb_and_resource() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("audit");
    let client = cluster.client().await.unwrap();
    let namespace = namespace(&client).await;
    let before = cluster.audit().unwrap().from_now().unwrap();
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let mut object = ConfigMap::default();
    object.metadata.name = Some("counted".to_owned());
    api.create(&PostParams::default(), &object).await.unwrap();
    for _ in 0..3 {
        api.get("counted").await.unwrap();
    }
    assert_eq!(api.get_opt("absent").await.unwrap(), None);
    let requests = before.requests().unwrap();
    let ours: Vec<_> = requests
        .iter()
        .filter(|request| request.namespace == namespace && request.user == "admin")
        .collect();
    let counts = count(ours.iter().copied());
    let key = |verb: &str| ("admin".to_owned(), verb.to_owned(), "configmaps".to_owned());
    assert_eq!(counts, [(key("create"), 1), (key("get"), 4)].into());
    assert_eq!(ours.iter().filter(|request| request.code == 404).count(), 1);
    assert_eq!(ours.iter().filter(|request| request.is_write()).count(), 1);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_program_on_this_machine_can_be_a_service_account_with_its_rights_alone() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("service_account");
    let client = cluster.client().await.unwrap();
    let namespace = namespace(&client).await;
    let mut account = ServiceAccount::default();
    account.metadata.name = Some("weak".to_owned());
    let accounts = Api::namespaced(client, &namespace);
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let kubeconfig = cluster.kubeconfig_as(&namespace, "weak").await.unwrap();
    let before = cluster.audit().unwrap().from_now().unwrap();
    let answer = cluster
        .kubectl()
        .args(["get", "secrets", "--namespace", &namespace])
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .output();
    let message = String::from_utf8(answer.unwrap().stderr).unwrap();
    assert!(message.contains("Forbidden"), "{message}");
    let user = format!("system:serviceaccount:{namespace}:weak");
    let requests = before.requests().unwrap();
    assert!(
        requests
            .iter()
            .any(|request| request.user == user && request.code == 403),
        "{requests:#?}"
    );
}
