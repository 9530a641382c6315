//! Looks at a cluster: each returns what it saw instead of what it was to see.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ComponentStatus, Node, ServiceAccount};
use kube::{Api, Client, api::ListParams};

use crate::error::with_causes;

/// Whether the API server is ready.
pub(super) async fn serving(client: &Client) -> Result<(), String> {
    answers(client, "/readyz").await
}

/// Whether a node's kubelet has come so far that it serves requests.
pub(super) async fn kubelet(client: &Client, node: &str) -> Result<(), String> {
    answers(client, &format!("/api/v1/nodes/{node}/proxy/healthz")).await
}

async fn answers(client: &Client, path: &str) -> Result<(), String> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    client
        .request_text(request)
        .await
        .map(drop)
        .map_err(|error| with_causes(&error))
}

/// The API server asks etcd, the controller manager and the scheduler.
pub(super) async fn controllers(client: &Client) -> Result<(), String> {
    let list = Api::<ComponentStatus>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| with_causes(&error))?;
    for part in &list.items {
        let mut conditions = part.conditions.iter().flatten();
        let unhealthy = conditions.find(|condition| condition.status != "True");
        if let Some(condition) = unhealthy {
            let name = part.metadata.name.as_deref().unwrap_or_default();
            let message = condition.error.as_deref().or(condition.message.as_deref());
            return Err(format!("{name}: {}", message.unwrap_or("unhealthy")));
        }
    }
    Ok(())
}

pub(super) async fn service_account(client: &Client) -> Result<(), String> {
    Api::<ServiceAccount>::namespaced(client.clone(), "default")
        .get("default")
        .await
        .map(drop)
        .map_err(|error| with_causes(&error))
}

/// Whether a node is ready with so many GPUs, and has said so after `since`.
pub(super) async fn node_ready(
    client: &Client,
    name: &str,
    gpus: usize,
    since: Option<Timestamp>,
) -> Result<(), String> {
    let node = Api::<Node>::all(client.clone())
        .get(name)
        .await
        .map_err(|error| with_causes(&error))?;
    let status = node.status.unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")
        .ok_or("no condition Ready")?;
    if ready.status != "True" {
        return Err(format!(
            "not ready: {}",
            ready.message.as_deref().unwrap_or("no message")
        ));
    }
    let heartbeat = ready.last_heartbeat_time.as_ref().map(|time| time.0);
    if since.is_some_and(|since| heartbeat.is_none_or(|heartbeat| heartbeat.as_second() < since.as_second())) {
        return Err("no word from its kubelet".to_owned());
    }
    let offered = status
        .allocatable
        .and_then(|resources| resources.get("nvidia.com/gpu").map(|quantity| quantity.0.clone()))
        .unwrap_or_else(|| "0".to_owned());
    if offered == gpus.to_string() {
        Ok(())
    } else {
        Err(format!("{offered} of {gpus} GPUs"))
    }
}
