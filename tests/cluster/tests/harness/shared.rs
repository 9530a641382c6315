//! The one cluster that most tests share, and what they ask it.

use std::{path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt, api::PostParams};
use lem_test_cluster::{Cluster, Image, Options};
use tokio::sync::OnceCell;

/// Name of the runner's image on the nodes.
pub(crate) const RUNNER_IMAGE: &str = "localhost/lem-runner:test";

/// Anything that a healthy cluster does takes a few seconds; the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Started by the first test that needs it. It ends with the process: a static is not dropped, the guard sees to it.
pub(crate) async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| async {
            let options = Options {
                images: vec![runner_image()],
                ..Options::default()
            };
            Cluster::start("suite", options).await.unwrap()
        })
        .await
}

/// A namespace of a test's own, with the strictest Pod Security there is.
pub(crate) async fn namespace(client: &Client) -> String {
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("test-".to_owned());
    namespace.metadata.labels =
        Some([("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())].into());
    let created = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    created.name_any()
}

fn runner_image() -> PathBuf {
    let folder = binaries();
    let archive = folder.join("lem-runner-test-image.tar");
    let image = Image::new(RUNNER_IMAGE, &folder.join("lem-runner")).unwrap();
    image.write(&archive).unwrap();
    archive
}

/// The folder of the built binaries.
pub(crate) fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}
