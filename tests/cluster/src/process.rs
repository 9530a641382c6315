//! The long-lived programs of a cluster.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Signal, kill_process};

use crate::{command, error::Error, namespace};

/// As much of a log as an error message shows.
const SHOWN: usize = 3000;

/// A program of the cluster that can be killed and started again by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The store.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// Carries connections from this machine's loopback address to the API server.
    Forwarder,
    /// A whole node by name: all its programs and containers.
    Node(String),
    /// A node's containerd; its containers live on without it.
    Containerd(String),
    /// A node's kubelet; its containers live on without it.
    Kubelet(String),
    /// A node's kube-proxy.
    KubeProxy(String),
    /// A node's device plugin for fake GPUs.
    DevicePlugin(String),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => formatter.write_str("etcd"),
            Self::ApiServer => formatter.write_str("kube-apiserver"),
            Self::ControllerManager => formatter.write_str("kube-controller-manager"),
            Self::Scheduler => formatter.write_str("kube-scheduler"),
            Self::Forwarder => formatter.write_str("forwarder"),
            Self::Node(node) => formatter.write_str(node),
            Self::Containerd(node) => write!(formatter, "{node}-containerd"),
            Self::Kubelet(node) => write!(formatter, "{node}-kubelet"),
            Self::KubeProxy(node) => write!(formatter, "{node}-kube-proxy"),
            Self::DevicePlugin(node) => write!(formatter, "{node}-device-plugin"),
        }
    }
}

impl Part {
    /// The node it runs on, if it is one of a node's programs.
    pub(crate) fn node(&self) -> Option<&str> {
        match self {
            Self::Containerd(node) | Self::Kubelet(node) | Self::KubeProxy(node) | Self::DevicePlugin(node) => {
                Some(node)
            }
            Self::Etcd
            | Self::ApiServer
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Forwarder
            | Self::Node(_) => None,
        }
    }
}

/// What runs, as far as this process started it.
#[derive(Debug)]
pub(crate) struct Parts {
    logs: PathBuf,
    running: Mutex<BTreeMap<Part, Child>>,
}

impl Parts {
    pub(crate) fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            running: Mutex::default(),
        }
    }

    /// Starts a program that writes to the part's log. Ctrl-C in a terminal does not reach it.
    pub(crate) fn spawn(&self, part: Part, command: &mut Command) -> Result<u32, Error> {
        let path = self.log(&part);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        let errors = log.try_clone().map_err(Error::file("open", &path))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn {
                program: part.to_string(),
                source,
            })?;
        let id = child.id();
        self.running().insert(part, child);
        Ok(id)
    }

    /// An error if a part has ended that nobody ended.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut running = self.running();
        for (part, child) in running.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.ended(part, status));
            }
        }
        Ok(())
    }

    fn ended(&self, part: &Part, status: ExitStatus) -> Error {
        let log = self.log(part);
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Error::Ended {
            part: part.to_string(),
            status,
            tail: command::tail(text.trim_end(), SHOWN).to_owned(),
            log,
        }
    }

    /// Kills a part without warning and waits for its end.
    pub(crate) fn kill(&self, part: &Part) -> Result<(), Error> {
        let child = self.running().remove(part);
        let mut child = child.ok_or_else(|| Error::NotOurs(part.to_string()))?;
        // A program on a node is the child of the nsenter that brought it there.
        let inner = part.node().and_then(|_| namespace::child_of(child.id()));
        if let Some(inner) = inner {
            let _ = kill_process(inner, Signal::KILL);
        } else {
            let _ = child.kill();
        }
        let _ = child.wait();
        Ok(())
    }

    /// Forgets the parts of a node that was killed as a whole, and reaps what is left of them.
    pub(crate) fn reap(&self, ended: impl Fn(&Part) -> bool) {
        let mut running = self.running();
        let parts: Vec<Part> = running.keys().filter(|part| ended(part)).cloned().collect();
        for part in parts {
            if let Some(mut child) = running.remove(&part) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    pub(crate) fn log(&self, part: &Part) -> PathBuf {
        log_path(&self.logs, part)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Part, Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_path(logs: &Path, part: &Part) -> PathBuf {
    logs.join(format!("{part}.log"))
}
