//! Pods that talk to the API server, as the runner and the operator do.

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{
    Api, Client,
    api::{LogParams, PostParams},
};
use lem_test_cluster::{Cluster, Image};
use serde_json::{Value, json};

use crate::shared::{LIMIT, binaries, cluster, namespace};

const KUBECTL_IMAGE: &str = "localhost/kubectl:test";

async fn create<K>(client: &Client, namespace: &str, object: Value)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + serde::Serialize
        + Clone
        + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// A pod that asks for these objects with its own token; returns its phase and what it printed.
async fn asked(cluster: &Cluster, client: &Client, namespace: &str, objects: &str) -> (String, String) {
    let name = format!("asks-for-{objects}");
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": "reader",
            "restartPolicy": "Never",
            "dnsPolicy": "Default",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "kubectl",
                "image": KUBECTL_IMAGE,
                "args": ["get", objects, "--output=name"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    create::<Pod>(client, namespace, pod).await;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let ended = || async {
        let pod = pods.get(&name).await.map_err(|error| error.to_string())?;
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        let ended = phase == "Succeeded" || phase == "Failed";
        ended.then_some(phase).ok_or_else(|| format!("{:?}", pod.status))
    };
    let phase = cluster.until("end of the pod", LIMIT, ended).await.unwrap();
    (phase, pods.logs(&name, &LogParams::default()).await.unwrap())
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_pod_reaches_the_api_server_by_its_service_with_the_rights_of_its_account() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("pod_token");
    let client = cluster.client().await.unwrap();
    let namespace = namespace(&client).await;
    let archive = binaries().join("kubectl-test-image.tar");
    let kubectl = cluster.kubectl();
    let image = Image::new(KUBECTL_IMAGE, kubectl.get_program().as_ref()).unwrap();
    image.write(&archive).unwrap();
    cluster.load_image(&archive).unwrap();

    create::<ServiceAccount>(&client, &namespace, json!({"metadata": {"name": "reader"}})).await;
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    });
    create::<Role>(&client, &namespace, role).await;
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader"}],
    });
    create::<RoleBinding>(&client, &namespace, binding).await;

    let (phase, output) = asked(cluster, &client, &namespace, "pods").await;
    assert_eq!((phase.as_str(), output.as_str()), ("Succeeded", "pod/asks-for-pods\n"));
    let (phase, output) = asked(cluster, &client, &namespace, "secrets").await;
    assert_eq!(phase, "Failed");
    assert!(output.contains("Forbidden"), "{output}");
}
