//! The real weights of SmolLM2-135M, as pods come by them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, api::PostParams};
use lem_crds::EfficiencyExperiment;
use lem_test_cluster::Image;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    experiment::with,
    world::{World, binaries, repository},
};

/// The file of the weights.
pub(crate) const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Its digest, which the runner must arrive at.
pub(crate) const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// The repository on the hub.
pub(crate) const NAME: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// An image with this file alone.
pub(crate) const IMAGE: &str = "localhost/smollm2-135m:dev";

static LOADED: OnceCell<()> = OnceCell::const_new();

/// The weights on this machine, not the link to them.
pub(crate) fn file() -> PathBuf {
    let folder = std::env::var_os("LEM_MODEL_DIRECTORY").map_or_else(|| repository().join("models"), PathBuf::from);
    fs::canonicalize(folder.join(FILE)).expect("the weights: make model")
}

/// Gives [`IMAGE`] to the nodes, once.
pub(crate) async fn load_image(world: &World) {
    LOADED
        .get_or_init(|| async {
            let archive = binaries().join("smollm2-test-image.tar");
            Image::without_program(IMAGE)
                .with_file(FILE, 0o644, fs::read(file()).unwrap())
                .write(&archive)
                .unwrap();
            world.cluster.load_image(&archive).unwrap();
        })
        .await;
}

/// A claim named `models` on the folder with the weights, which every node sees under the same path.
pub(crate) async fn claim(world: &World) {
    let namespace = &world.namespace;
    let access = json!(["ReadOnlyMany"]);
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": format!("models-{namespace}")},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": access,
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": "models"},
            "hostPath": {"path": file().parent().unwrap(), "type": "Directory"},
        },
    }))
    .unwrap();
    Api::all(world.client.clone())
        .create(&PostParams::default(), &volume)
        .await
        .unwrap();
    let claim = json!({
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": access,
            "storageClassName": "",
            "volumeName": volume.metadata.name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    world.create::<PersistentVolumeClaim>(&claim).await;
}

/// One process, one cycle and a few tokens of SmolLM2 from this source.
pub(crate) fn smollm2(name: &str, source: &Value, other: &Value) -> EfficiencyExperiment {
    let mut spec = json!({
        "model": {"name": NAME, "source": {"synthetic": null}},
        "workload": {"requests": 2, "maxInputTokens": 16, "maxOutputTokens": 8},
        "protocol": {"warmup": {"fixed": {"iterations": 1}}},
    });
    for (key, value) in source.as_object().unwrap() {
        spec["model"]["source"][key] = value.clone();
    }
    for (key, value) in other.as_object().unwrap() {
        spec[key] = value.clone();
    }
    // Without a request a pod gets what all others leave, which on a busy machine is nearly nothing.
    spec["runner"]["resources"] = json!({"requests": {"cpu": "1"}});
    with(name, 1, 1, &spec)
}

/// Path of a model below where pods find it.
pub(crate) fn in_pod(path: &str) -> String {
    Path::new(lem_crds::runner::MODEL_DIRECTORY)
        .join(path)
        .display()
        .to_string()
}
