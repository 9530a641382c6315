//! Messages of the kubelet's APIs `pluginregistration.v1` and `dra.v1`, as far as the driver speaks them.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// Where the driver listens; the registration has a socket of its own.
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub(crate) registered: bool,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// Claims that a pod needs, or needs no more.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Claims {
    #[prost(message, repeated, tag = "1")]
    pub(crate) claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Claim {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PrepareResponse {
    /// By UID of the claim.
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, Prepared>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Prepared {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<Device>,
    /// Why the claim cannot be had, if it cannot.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Device {
    #[prost(string, repeated, tag = "1")]
    pub(crate) requests: Vec<String>,
    #[prost(string, tag = "2")]
    pub(crate) pool: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    /// What containerd adds to the container.
    #[prost(string, repeated, tag = "4")]
    pub(crate) cdi_devices: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UnprepareResponse {
    /// By UID of the claim.
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, Unprepared>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Unprepared {
    #[prost(string, tag = "1")]
    pub(crate) error: String,
}
