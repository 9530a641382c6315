//! Charts on a real cluster.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use lem_test_cluster::{Cluster, Options};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    helm::{chart, helm, printed},
    world::{World, image_called},
};

/// The version of the charts in the repository.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A version before it: the same charts under another number, with images of their own.
pub(crate) const PREVIOUS: &str = "0.0.9";
/// Namespace of the release.
pub(crate) const SYSTEM: &str = "lem-system";

/// Each test boots a cluster; experiments of two of them at once would disturb each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// A cluster for one test.
pub(crate) struct Machine {
    pub(crate) cluster: &'static Cluster,
    /// Of packages and files; it goes with the test.
    pub(crate) folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    /// A cluster with the images of both versions, and the namespace of the release.
    pub(crate) async fn start(name: &str) -> Self {
        let turn = TURN.lock().await;
        let images = [VERSION, PREVIOUS].iter().flat_map(|version| {
            let of = |program: &str| image_called(&format!("{program}:{version}"), program);
            [of("lem-operator"), of("lem-runner")]
        });
        let options = Options {
            images: images.collect(),
            ..Options::default()
        };
        // It ends with the process, whose guard sees to that.
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(name, options).await.unwrap()));
        let machine = Self {
            cluster,
            folder: tempfile::tempdir().unwrap(),
            _turn: turn,
        };
        machine.namespace(SYSTEM).await;
        machine
    }

    /// A namespace of the strictest Pod Security.
    pub(crate) async fn namespace(&self, name: &str) {
        let namespaces = Api::<Namespace>::all(self.cluster.client().await.unwrap());
        let strict = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let parameters = PatchParams::apply("chart-suite");
        namespaces
            .patch(name, &parameters, &Patch::Apply(strict))
            .await
            .unwrap();
    }

    /// A namespace for experiments that goes with the test.
    pub(crate) async fn world(&self, test: &str) -> World {
        World::on(self.cluster, test).await
    }

    /// Helm against this cluster; gives what it did, whether or not it succeeded.
    pub(crate) fn attempt(&self, arguments: &[&str]) -> Output {
        let kubeconfig = self.cluster.kubeconfig().to_str().unwrap();
        helm(["--kubeconfig", kubeconfig].iter().chain(arguments))
    }

    /// Helm against this cluster in the namespace of the release.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--namespace", SYSTEM]).collect();
        printed(&self.attempt(&arguments))
    }

    /// Installs or updates the chart `lem` and waits until the operator is ready.
    pub(crate) fn release(&self, verb: &str, package: &Path, more: &[&str]) -> String {
        let package = package.to_str().unwrap();
        let fixed = [verb, "lem", package, "--wait", "--timeout", "3m", "--set"];
        let arguments: Vec<&str> = fixed
            .into_iter()
            .chain(["images.registry=localhost"])
            .chain(more.iter().copied())
            .collect();
        self.helm(&arguments)
    }

    /// A chart as an archive of another version, whose images have that version too.
    pub(crate) fn package(&self, name: &str, version: &str) -> PathBuf {
        let folder = self.folder.path();
        let chart = chart(name);
        printed(&helm([
            "package",
            chart.to_str().unwrap(),
            "--version",
            version,
            "--app-version",
            version,
            "--destination",
            folder.to_str().unwrap(),
        ]));
        folder.join(format!("{name}-{version}.tgz"))
    }
}
