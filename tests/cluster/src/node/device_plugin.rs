//! A device plugin for fake GPUs: each board of the node's machine file is one `nvidia.com/gpu`.
//!
//! As NVIDIA's runtime does, a container sees the boards that it was given and no others: it gets a machine file of its
//! own with just these, and the library that shows them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lem_device_plugin::{ContainerResponse, DEFAULT_FOLDER, Device, Devices, Mount, Resource, serve};
use lem_fake_nvml::{MACHINE_VARIABLE, Machine};

use super::dynamic_resources;
use crate::error::Error;

/// Of the node's folder: the boards.
pub(super) const MACHINE: &str = "gpus/machine.json";
/// Of the node's folder: the library that shows them.
pub(super) const LIBRARY: &str = "gpus/libnvidia-ml.so.1";
/// Of the node's folder: machine files of containers.
const ALLOCATIONS: &str = "gpus/allocations";
/// Of the node's folder: a file named like a board makes that board unhealthy.
pub(crate) const UNHEALTHY: &str = "gpus/unhealthy";

/// Variable that names the library to the runner.
const LIBRARY_VARIABLE: &str = "LEM_NVML_LIBRARY";
/// Where containers find the two.
const CONTAINER_LIBRARY: &str = "/usr/local/lem/libnvidia-ml.so.1";
const CONTAINER_MACHINE: &str = "/usr/local/lem/machine.json";

const OWN: &str = "lem-gpu.sock";
const RESOURCE: &str = "nvidia.com/gpu";

/// Time between two looks at the kubelet's sockets and at the boards' health.
const LOOK: Duration = Duration::from_millis(100);

/// Serves until it is killed, and registers again whenever the kubelet starts anew. The boards can be had by claim too.
pub(crate) async fn run(node: &str, folder: &Path, kubeconfig: &Path) -> Result<(), Error> {
    let path = folder.join(MACHINE);
    let text = fs::read(&path).map_err(Error::file("read", &path))?;
    let machine: Machine = serde_json::from_slice(&text).map_err(Error::data("the node's boards"))?;
    let boards = Arc::new(Boards {
        folder: folder.to_owned(),
        machine,
    });
    let resource = Resource {
        name: RESOURCE.to_owned(),
        folder: PathBuf::from(DEFAULT_FOLDER),
        socket: OWN.to_owned(),
        look: LOOK,
    };
    tokio::select! {
        ended = serve(&resource, Arc::clone(&boards)) => match ended {
            Ok(never) => match never {},
            Err(error) => Err(Error::DevicePlugin(error)),
        },
        ended = dynamic_resources::serve(node, folder, kubeconfig, Arc::clone(&boards)) => ended,
    }
}

/// The boards of a node.
pub(super) struct Boards {
    folder: PathBuf,
    machine: Machine,
}

impl Devices for Boards {
    fn list(&self) -> Vec<Device> {
        let is_healthy = |uuid: &str| !self.folder.join(UNHEALTHY).join(uuid).exists();
        let boards = self.machine.devices.iter();
        boards
            .map(|board| Device::new(&board.uuid, is_healthy(&board.uuid)))
            .collect()
    }

    fn container(&self, uuids: &[String]) -> Result<ContainerResponse, String> {
        let mut devices = self.machine.devices.clone();
        devices.retain(|board| uuids.contains(&board.uuid));
        let text = serde_json::to_vec_pretty(&Machine { devices }).map_err(|error| error.to_string())?;
        let mut name = uuids.to_vec();
        name.sort();
        let file = self.folder.join(ALLOCATIONS).join(format!("{}.json", name.join("+")));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mount = |container: &str, host: PathBuf| Mount {
            container_path: container.to_owned(),
            host_path: host.display().to_string(),
            read_only: true,
        };
        let environment = [
            ("NVIDIA_VISIBLE_DEVICES", uuids.join(",")),
            (LIBRARY_VARIABLE, CONTAINER_LIBRARY.to_owned()),
            (MACHINE_VARIABLE, CONTAINER_MACHINE.to_owned()),
        ];
        Ok(ContainerResponse {
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            mounts: vec![
                mount(CONTAINER_LIBRARY, self.folder.join(LIBRARY)),
                mount(CONTAINER_MACHINE, file),
            ],
        })
    }
}

impl Boards {
    /// Their UUIDs, in order of index.
    pub(super) fn uuids(&self) -> impl Iterator<Item = &str> {
        self.machine.devices.iter().map(|board| board.uuid.as_str())
    }
}
