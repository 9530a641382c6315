//! One real node: containerd, kubelet, kube-proxy and a device plugin in namespaces of their own.
//!
//! Several kubelets on one machine would share constant paths (the socket folder of device plugins, the folders of
//! container logs, CNI's state). So each node has private mount, PID and host name namespaces, and killing its first
//! process ends everything on it at once, as pulling a plug does.

mod configuration;
pub(crate) mod device_plugin;
pub(crate) mod dynamic_resources;
pub(crate) mod init;
mod labels;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lem_fake_nvml::{Board, Machine, Waveform};

use crate::{
    binaries::{self, Binaries},
    cgroup, command,
    error::Error,
    folder::Folder,
    namespace,
    network::node_address,
    process::{Part, Parts},
    wait,
};

/// How long a node's first process and its containerd may take.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// Of a node's folder: names the process whose namespaces are the node's, as this machine numbers it.
pub(crate) const FIRST_PROCESS: &str = "first-process";

/// Boards of a node unless a test says otherwise.
const BOARDS: usize = 2;

/// A node to be made.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Name, also its host name.
    pub name: String,
    /// Its fake GPUs; each becomes one `nvidia.com/gpu`.
    pub boards: Vec<Board>,
    /// Labels beside those that GPU Feature Discovery sets.
    pub labels: BTreeMap<String, String>,
}

impl NodeOptions {
    /// The node `node-<index>` with two fake boards of its own: `GPU-node-<index>-0` and `-1`.
    pub fn with_index(index: usize) -> Self {
        let name = format!("node-{index}");
        let boards = (0..BOARDS)
            .map(|board| {
                let waveform = Waveform::Bursty {
                    seed: (index * BOARDS + board) as u64,
                    low: 90.0,
                    high: 690.0,
                    slot_milliseconds: 13.0,
                };
                Board {
                    minor_number: Some(board as u32),
                    ..Board::new(&format!("GPU-{name}-{board}"), 100.0, waveform)
                }
            })
            .collect();
        Self {
            name,
            boards,
            labels: BTreeMap::new(),
        }
    }
}

/// A node of a running cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) binaries: &'a Binaries,
    pub(crate) parts: &'a Parts,
    pub(crate) options: &'a NodeOptions,
    pub(crate) index: usize,
}

impl Node<'_> {
    /// Writes what the node's programs read.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        let folder = self.folder.node(&self.options.name);
        for name in init::FOLDERS {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        configuration::write(self, &folder)?;
        if self.options.boards.is_empty() {
            return Ok(());
        }
        let machine = Machine {
            devices: self.options.boards.clone(),
        };
        let text = serde_json::to_vec_pretty(&machine).map_err(Error::data("the node's boards"))?;
        let path = folder.join(device_plugin::MACHINE);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        let library = lem_fake_nvml::environment::library().map_err(|_| Error::Missing {
            missing: "liblem_fake_nvml.so".to_owned(),
            remedy: "build it with `cargo build -p lem-fake-nvml`",
        })?;
        let path = folder.join(device_plugin::LIBRARY);
        fs::copy(library, &path).map_err(Error::file("write", &path))?;
        Ok(())
    }

    /// Starts the node's first process and all its programs.
    pub(crate) fn start(&self, images: &[impl AsRef<Path>]) -> Result<(), Error> {
        let name = &self.options.name;
        let folder = self.folder.node(name);
        cgroup::create(&self.folder.cgroup(), name)?;
        let ready = folder.join(init::READY);
        let _ = fs::remove_file(&ready);
        let mut first = command::in_network(self.folder.node_namespace(name).path(), "unshare");
        first
            .args([
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation=private",
            ])
            .arg(binaries::own_program()?)
            .args(["node-init", "--name", name, "--folder"])
            .arg(&folder);
        let unshare = self.parts.spawn(Part::Node(name.clone()), &mut first)?;
        let alive = || self.parts.check();
        wait::until_blocking(&format!("start of {name}"), BOOT_LIMIT, alive, || {
            ready.exists().then_some(())
        })?;
        let id = namespace::child_of(unshare).ok_or_else(|| Error::NotOurs(name.clone()))?;
        let path = folder.join(FIRST_PROCESS);
        fs::write(&path, id.as_raw_nonzero().to_string()).map_err(Error::file("write", &path))?;

        self.start_program(&Part::Containerd(name.clone()))?;
        for image in images {
            self.import(image.as_ref())?;
        }
        self.start_program(&Part::Kubelet(name.clone()))?;
        self.start_program(&Part::KubeProxy(name.clone()))?;
        if !self.options.boards.is_empty() {
            self.start_program(&Part::DevicePlugin(name.clone()))?;
        }
        Ok(())
    }

    /// Starts one of the node's programs.
    pub(crate) fn start_program(&self, part: &Part) -> Result<(), Error> {
        let folder = self.folder.node(&self.options.name);
        let argument = |flag: &str, file: &str| format!("--{flag}={}", folder.join(file).display());
        let mut command = match part {
            Part::Containerd(_) => self.inside("containerd")?,
            Part::Kubelet(_) => self.inside("kubelet")?,
            Part::KubeProxy(_) => self.inside("kube-proxy")?,
            Part::DevicePlugin(_) => self.inside(binaries::own_program()?)?,
            other => return Err(Error::NotOurs(other.to_string())),
        };
        match part {
            Part::Containerd(_) => command.arg(argument("config", configuration::CONTAINERD)),
            Part::Kubelet(_) => command
                .arg(argument("config", configuration::KUBELET))
                .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
                .arg(format!("--hostname-override={}", self.options.name))
                .arg(format!("--node-ip={}", node_address(self.index)))
                .arg(format!("--node-labels={}", labels::of(self.options))),
            Part::KubeProxy(_) => command.arg(argument("config", configuration::KUBE_PROXY)),
            _ => command
                .args(["device-plugin", "--name", &self.options.name])
                .arg("--folder")
                .arg(&folder)
                .arg("--kubeconfig")
                .arg(self.kubeconfig()),
        };
        let Part::Containerd(_) = part else {
            return self.parts.spawn(part.clone(), &mut command).map(drop);
        };
        let root = format!("/proc/{}/root", first_process(&folder)?);
        let socket = PathBuf::from(root + configuration::SOCKET);
        // Of one that was killed.
        let _ = fs::remove_file(&socket);
        self.parts.spawn(part.clone(), &mut command)?;
        let alive = || self.parts.check();
        wait::until_blocking("start of containerd", BOOT_LIMIT, alive, || {
            socket.exists().then_some(())
        })
    }

    /// Hands an image archive to the node's containerd.
    pub(crate) fn import(&self, archive: &Path) -> Result<(), Error> {
        import(&self.folder.node(&self.options.name), self.binaries, archive)
    }

    /// The kubelet's own.
    fn kubeconfig(&self) -> PathBuf {
        self.folder.keys().join(format!("{}.kubeconfig", self.options.name))
    }

    /// A program in the node's namespaces.
    fn inside(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        inside(&self.folder.node(&self.options.name), self.binaries, program)
    }
}

/// Hands an image archive to every node of a cluster, whoever started it.
pub(crate) fn import_everywhere(cluster: &Folder, binaries: &Binaries, archive: &Path) -> Result<(), Error> {
    let nodes = cluster.join("nodes");
    for node in fs::read_dir(&nodes).map_err(Error::file("read", &nodes))?.flatten() {
        import(&node.path(), binaries, archive)?;
    }
    Ok(())
}

fn import(node: &Path, binaries: &Binaries, archive: &Path) -> Result<(), Error> {
    command::run(
        inside(node, binaries, "ctr")?
            .args(["--namespace=k8s.io", "images", "import"])
            .arg(archive),
    )?;
    Ok(())
}

/// A program in the namespaces of the node with this folder.
fn inside(node: &Path, binaries: &Binaries, program: impl AsRef<OsStr>) -> Result<Command, Error> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={}", first_process(node)?))
        .args(["--mount", "--uts", "--net", "--pid", "--"])
        .arg(program)
        .env("PATH", binaries.search_path());
    Ok(command)
}

fn first_process(node: &Path) -> Result<String, Error> {
    let path = node.join(FIRST_PROCESS);
    fs::read_to_string(&path).map_err(Error::file("read", path))
}
