//! Network namespaces, held by files of the cluster's own folder instead of by names in /run/netns.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{command, error::Error};

/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// A network namespace with no way out, and everything that runs in it.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    path: PathBuf,
}

impl Namespace {
    /// The namespace that this file holds or is to hold.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn create(&self) -> Result<(), Error> {
        fs::write(&self.path, "").map_err(Error::file("create", &self.path))?;
        let flag = format!("--net={}", self.path.display());
        command::run(Command::new("unshare").args([&flag, "ip", "link", "set", "lo", "up"]))?;
        // Pods are routed through their node, nodes through the control plane's bridge.
        command::run(command::in_network(&self.path, "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        Ok(())
    }

    /// Runs a batch of `ip` commands inside.
    pub(crate) fn configure(&self, batch: &str) -> Result<(), Error> {
        command::run_with_input(command::in_network(&self.path, "ip").args(["-batch", "-"]), batch)?;
        Ok(())
    }

    /// Kills everything inside and waits until it is gone. A node's first process takes the whole node with it.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let Some(identity) = identity(&self.path) else {
            return Ok(());
        };
        let start = Instant::now();
        loop {
            let inside = processes(identity);
            if inside.is_empty() {
                return Ok(());
            }
            for process in &inside {
                // Gone already is what is wanted.
                let _ = kill_process(*process, Signal::KILL);
            }
            if start.elapsed() > KILL_LIMIT {
                return Err(Error::Timeout {
                    condition: format!("end of the processes in {}", self.path.display()),
                    limit: KILL_LIMIT,
                    last: format!("{inside:?}"),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills everything inside and removes the namespace.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        // Not mounted: a start that failed half-way.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        fs::remove_file(&self.path).map_err(Error::file("remove", &self.path))
    }
}

/// Device and inode: what tells namespaces apart.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Processes in a network namespace, but for this one.
fn processes(namespace: (u64, u64)) -> Vec<Pid> {
    all_processes()
        .filter(|&process| process as u32 != std::process::id())
        .filter(|process| identity(Path::new(&format!("/proc/{process}/ns/net"))) == Some(namespace))
        .filter_map(Pid::from_raw)
        .collect()
}

fn all_processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The first child of a process.
pub(crate) fn child_of(parent: u32) -> Option<Pid> {
    all_processes()
        .find(|process| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // "pid (name) state parent …", and a name may hold anything.
            let parent_field = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
            parent_field.and_then(|text| text.parse().ok()) == Some(parent)
        })
        .and_then(Pid::from_raw)
}
