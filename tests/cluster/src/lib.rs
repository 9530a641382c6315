//! A real Kubernetes cluster on the development machine, for tests.
//!
//! etcd, the control plane with TLS, RBAC and audit log, and nodes with kubelet, containerd and runc run in network
//! namespaces without a way out. Nodes offer fake GPUs: a device plugin gives containers the boards of [`lem_fake_nvml`].
//! What a cluster makes on the machine (namespaces, cgroups, a folder in the cache) goes away with it.

mod audit;
mod binaries;
mod cgroup;
mod cluster;
mod command;
mod control_plane;
mod error;
mod failures;
mod folder;
mod forward;
mod image;
mod kubeconfig;
mod namespace;
mod network;
mod node;
mod pins;
mod pki;
mod process;
pub mod program;
mod teardown;
mod wait;

pub use audit::{AuditLog, Counts, Request, count};
pub use binaries::{Binaries, CACHE_VARIABLE};
pub use cluster::{Cluster, KUBECONFIG_VARIABLE, Options};
pub use error::{Error, with_causes};
pub use failures::FailureGuard;
pub use image::{Image, ImageSize, USER};
pub use node::NodeOptions;
pub use process::Part;
