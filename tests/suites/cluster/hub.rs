//! A model hub in a pod: gated, of one revision, with the real weights.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use lem_test_cluster::Image;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::{
    model,
    world::{World, binaries},
};

/// The only revision.
pub(crate) const REVISION: &str = "v1.0";
/// What the hub wants to be shown.
const TOKEN: &str = "hf_of_the_right_account";
const IMAGE: &str = "localhost/lem-test-hub:dev";
const PORT: u16 = 8080;

static LOADED: OnceCell<()> = OnceCell::const_new();

/// Starts the hub and gives the address of its pod.
pub(crate) async fn start(world: &World) -> String {
    start_with(world, &[]).await
}

/// The same with other variables of its environment.
pub(crate) async fn start_with(world: &World, other: &[(&str, String)]) -> String {
    model::load_image(world).await;
    LOADED
        .get_or_init(|| async {
            let archive = binaries().join("lem-test-hub-image.tar");
            let image = Image::new(IMAGE, env!("CARGO_BIN_EXE_lem-test-hub").as_ref()).unwrap();
            image.write(&archive).unwrap();
            world.cluster.load_image(&archive).unwrap();
        })
        .await;
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut environment = vec![
        variable("HUB_ADDRESS", &format!("0.0.0.0:{PORT}")),
        variable("HUB_REPOSITORY", model::NAME),
        variable("HUB_REVISION", REVISION),
        variable("HUB_TOKEN", TOKEN),
        variable("HUB_FOLDER", "/models"),
    ];
    environment.extend(other.iter().map(|(name, value)| variable(name, value)));
    let pod = json!({
        "metadata": {"name": "hub"},
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "dnsPolicy": "Default",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "models", "image": {"reference": model::IMAGE}}],
            "containers": [{
                "name": "hub",
                "image": IMAGE,
                "env": environment,
                "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": true}],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    world.create::<Pod>(&pod).await;
    let pods: Api<Pod> = world.api();
    let ready = || async {
        let pod = pods.get("hub").await.map_err(|error| error.to_string())?;
        let status = pod.status.unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        match status.pod_ip.clone().filter(|_| ready) {
            Some(address) => Ok(address),
            None => Err(format!("{status:?}")),
        }
    };
    world.eventually("a ready hub", ready).await
}

/// Where runners find the hub under its name.
pub(crate) fn endpoint(host: &str) -> String {
    format!("http://{host}:{PORT}")
}

/// The Secret `hub` with this token under `token`, the right one if none is given.
pub(crate) async fn secret(world: &World, token: Option<&str>) {
    let secret = json!({"metadata": {"name": "hub"}, "stringData": {"token": token.unwrap_or(TOKEN)}});
    world.create::<Secret>(&secret).await;
}
