//! A real Kubernetes cluster on the development machine, for tests.
//!
//! etcd, the control plane with TLS, RBAC and audit log, and nodes with kubelet, containerd and runc run in network
//! namespaces without a way out. Nodes offer fake GPUs: a device plugin gives containers the boards of [`lem_fake_nvml`], and
//! a driver of dynamic resources ([`RESOURCE_DRIVER`]) gives the same boards to claims.
//! What a cluster makes on the machine (namespaces, cgroups, a folder in the cache) goes away with it, also when the
//! process that started it is killed. Root is needed, and Go for the first start, which builds the pinned programs.
//!
//! ```no_run
//! # async fn test() -> Result<(), lem_test_cluster::Error> {
//! use lem_test_cluster::{Cluster, Image, Options, Part};
//!
//! let archive = std::path::PathBuf::from("target/runner.tar");
//! Image::new("localhost/lem-runner:test", "target/debug/lem-runner".as_ref())?.write(&archive)?;
//! let options = Options {
//!     images: vec![archive],
//!     ..Options::default()
//! };
//! let cluster = Cluster::start("my-test", options).await?;
//! let client = cluster.client().await?;
//! let before = cluster.audit()?.from_now()?;
//! cluster.restart(&Part::ApiServer).await?;
//! cluster.kill(&Part::Node("node-2".to_owned()))?;
//! println!("{:#?}", lem_test_cluster::count(&before.requests()?));
//! # Ok(())
//! # }
//! ```
//!
//! A panic while the cluster is held leaves its state in `target/cluster-failures/<test>`. With `LEM_TEST_KUBECONFIG` a
//! test uses the cluster of that file; [`Cluster::is_own`] says whether its parts can be killed.

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
mod limits;
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
pub use node::{NodeOptions, dynamic_resources::DRIVER as RESOURCE_DRIVER};
pub use process::Part;
