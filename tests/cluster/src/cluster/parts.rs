//! Killing and starting single parts, for tests of what a cluster does to software.

use std::{fs, path::PathBuf};

use jiff::Timestamp;

use super::{Cluster, Own, boot::LIMIT, client, probe};
use crate::{
    binaries, control_plane,
    error::Error,
    network::{API_PORT, CONTROL_PLANE},
    node::{FIRST_PROCESS, device_plugin::UNHEALTHY},
    process::Part,
    wait,
};

impl Cluster {
    /// Kills a part without warning, and returns when it is gone. A node takes all its containers with it.
    pub fn kill(&self, part: &Part) -> Result<(), Error> {
        let own = self.own(&part.to_string())?;
        let Part::Node(name) = part else {
            return own.parts.kill(part);
        };
        own.node(name)?;
        own.folder.node_namespace(name).kill()?;
        let _ = fs::remove_file(own.folder.node(name).join(FIRST_PROCESS));
        own.parts.reap(|other| other == part || other.node() == Some(name));
        Ok(())
    }

    /// Starts a part that was killed, and waits until it does its work again.
    pub async fn start_part(&self, part: &Part) -> Result<(), Error> {
        let own = self.own(&part.to_string())?;
        let since = Timestamp::now();
        match part {
            Part::Node(name) => own.node(name)?.start(&[] as &[PathBuf])?,
            _ => own.spawn(part)?,
        }
        let client = client(&self.kubeconfig).await?;
        own.until_serving(&client).await?;
        let alive = || own.parts.check();
        if let Some(name) = part.node().or(match part {
            Part::Node(name) => Some(name),
            _ => None,
        }) {
            let boards = own.node(name)?.options.boards.len();
            // Until it is heard of, the API server shows what the kubelet said that was killed.
            let condition = format!("answer of the kubelet of {name}");
            wait::until(&condition, LIMIT, alive, || probe::kubelet(&client, name)).await?;
            let since = matches!(part, Part::Node(_) | Part::Kubelet(_)).then_some(since);
            let condition = format!("readiness of {name}");
            return wait::until(&condition, LIMIT, alive, || {
                probe::node_ready(&client, name, boards, since)
            })
            .await;
        }
        wait::until("health of the controllers", LIMIT, alive, || {
            probe::controllers(&client)
        })
        .await
    }

    /// Kills a part and starts it again.
    pub async fn restart(&self, part: &Part) -> Result<(), Error> {
        self.kill(part)?;
        self.start_part(part).await
    }

    /// Makes a board of a node sick or well; the kubelet learns of it within a second.
    pub fn set_board_health(&self, node: &str, uuid: &str, healthy: bool) -> Result<(), Error> {
        let own = self.own("a node's boards")?;
        own.node(node)?;
        let path = own.folder.node(node).join(UNHEALTHY).join(uuid);
        match healthy {
            true if !path.exists() => Ok(()),
            true => fs::remove_file(&path).map_err(Error::file("remove", &path)),
            false => fs::write(&path, "").map_err(Error::file("write", &path)),
        }
    }
}

impl Own {
    /// Starts any part but a whole node.
    pub(super) fn spawn(&self, part: &Part) -> Result<(), Error> {
        let mut command = match part {
            Part::Etcd => control_plane::etcd(&self.folder, &self.binaries),
            Part::ApiServer => control_plane::api_server(&self.folder, &self.binaries),
            Part::ControllerManager => {
                control_plane::controller_manager(&self.folder, &self.binaries, self.options.node_grace_period)
            }
            Part::Scheduler => control_plane::scheduler(&self.folder, &self.binaries),
            Part::Forwarder => {
                let mut command = std::process::Command::new(binaries::own_program()?);
                command
                    .arg("forward")
                    .arg("--namespace")
                    .arg(self.folder.control_plane_namespace().path())
                    .args(["--to", &format!("{CONTROL_PLANE}:{API_PORT}"), "--port-file"])
                    .arg(self.port_file());
                command
            }
            Part::Containerd(node) | Part::Kubelet(node) | Part::KubeProxy(node) | Part::DevicePlugin(node) => {
                return self.node(node)?.start_program(part);
            }
            Part::Node(_) => return Err(Error::NotOurs(part.to_string())),
        };
        self.parts.spawn(part.clone(), &mut command)?;
        Ok(())
    }

    /// Where the forwarder says on which port it listens.
    pub(super) fn port_file(&self) -> PathBuf {
        self.folder.join("port")
    }
}
