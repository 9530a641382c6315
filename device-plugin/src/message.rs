//! Messages of the API, as far as plugins of this repository speak it.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Options {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegisterRequest {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    /// Name of the plugin's socket.
    #[prost(string, tag = "2")]
    pub(crate) endpoint: String,
    #[prost(string, tag = "3")]
    pub(crate) resource_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeviceList {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<Device>,
}

/// One device of a resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// Name, unique within the resource.
    #[prost(string, tag = "1")]
    pub id: String,
    /// `Healthy` or `Unhealthy`; the kubelet gives no unhealthy one to a pod.
    #[prost(string, tag = "2")]
    pub health: String,
}

impl Device {
    /// A device that may be given to pods, or not now.
    pub fn new(id: impl Into<String>, is_healthy: bool) -> Self {
        Self {
            id: id.into(),
            health: if is_healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AllocateRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<ContainerRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ContainerRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) device_ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AllocateResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<ContainerResponse>,
}

/// What a container gets with its devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerResponse {
    /// Environment variables.
    #[prost(map = "string, string", tag = "1")]
    pub environment: HashMap<String, String>,
    /// Paths of the node.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
}

/// A path of the node in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Where the container sees it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the node has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether the container may not write there.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}
