//! The node's resources: who holds one gets the socket.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use lem_crds::agent::{CONTAINER_FOLDER, ENERGY_METER, MEASUREMENT_SLOT, SOCKET, SOCKET_VARIABLE};
use lem_device_plugin::{ContainerResponse, Device, Devices, Mount, Resource, ServeError, serve as serve_resource};

use super::{
    AgentOptions,
    reader::{Health, Shared},
};

/// One measurement per node at a time, across all namespaces: the scheduler itself sees to it.
const SLOTS: usize = 1;
/// Processes of one experiment, each on GPUs of its own, that may share a node.
const METERS: usize = 64;

/// Time between two looks at the kubelet and at the counters: rare, because measurements run beside it.
const LOOK: Duration = Duration::from_secs(1);

/// Offers both resources until the kubelet cannot be served.
pub(super) async fn serve(options: &AgentOptions, shared: &Arc<Shared>) -> Result<(), ServeError> {
    let Some(folder) = &options.device_plugin_folder else {
        return pending().await;
    };
    let offer = |name: &str, socket: &str, count| {
        let resource = Resource {
            name: name.to_owned(),
            folder: folder.clone(),
            socket: socket.to_owned(),
            look: LOOK,
        };
        let devices = Seats {
            count,
            socket_folder: options.socket_folder.clone(),
            shared: Arc::clone(shared),
        };
        async move { serve_resource(&resource, Arc::new(devices)).await }
    };
    let slots = offer(MEASUREMENT_SLOT, "lem-measurement-slot.sock", SLOTS);
    let meters = offer(ENERGY_METER, "lem-energy-meter.sock", METERS);
    tokio::try_join!(slots, meters).map(drop)
}

/// Interchangeable devices, each of which brings the socket.
struct Seats {
    count: usize,
    socket_folder: PathBuf,
    shared: Arc<Shared>,
}

impl Devices for Seats {
    /// Unhealthy where counters are and cannot be read: a measurement would wait for nothing. A node without any counter
    /// is healthy, since a measurement there is an estimate, or is told why it has none.
    fn list(&self) -> Vec<Device> {
        let is_healthy = self.shared.health() != Health::Unreadable;
        (0..self.count)
            .map(|number| Device::new(number.to_string(), is_healthy))
            .collect()
    }

    fn container(&self, _identities: &[String]) -> Result<ContainerResponse, String> {
        let variable = (SOCKET_VARIABLE.to_owned(), format!("{CONTAINER_FOLDER}/{SOCKET}"));
        Ok(ContainerResponse {
            environment: [variable].into(),
            // The folder, not the socket: an agent that starts again makes a new one in it.
            mounts: vec![Mount {
                container_path: CONTAINER_FOLDER.to_owned(),
                host_path: self.socket_folder.display().to_string(),
                read_only: true,
            }],
        })
    }
}
