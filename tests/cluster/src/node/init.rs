//! The first process of a node: makes the node's file system, then reaps orphans for ever.

use std::{fs, path::Path, thread, time::Duration};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{WaitOptions, wait},
};

use crate::error::Error;

/// Written when the file system is made.
pub(super) const READY: &str = "ready";

/// Folders of a node's folder.
pub(super) const FOLDERS: [&str; 8] = [
    "kubelet",
    "pod-logs",
    "container-logs",
    "containerd",
    "network",
    "gpus/allocations",
    "gpus/unhealthy",
    "cdi",
];

/// Paths that are each node's own, with what is bound there. The rest of them is empty and in memory, so that no mount
/// point has to be made in the machine's own file system.
const PRIVATE: [&str; 3] = ["/run", "/var/lib", "/var/log"];
const BOUND: [(&str, &str); 3] = [
    ("kubelet", "/var/lib/kubelet"),
    ("pod-logs", "/var/log/pods"),
    ("container-logs", "/var/log/containers"),
];

/// Nothing on a node ends in such a hurry that its zombie would be in the way.
const REAP: Duration = Duration::from_millis(500);

/// Runs as process 1 of the node's namespaces until it is killed.
pub(crate) fn run(name: &str, folder: &Path) -> Result<(), Error> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| Error::file("set the host name", name)(error.into()))?;
    for path in PRIVATE {
        mount("lem-node", path, "tmpfs", MountFlags::empty(), None)
            .map_err(|error| Error::file("mount", path)(error.into()))?;
    }
    // A group of this namespace alone: the kubelet's mounts reach containers, and nothing reaches the machine.
    share("/")?;
    for (source, target) in BOUND {
        fs::create_dir_all(target).map_err(Error::file("create", target))?;
        mount_bind(folder.join(source), target).map_err(|error| Error::file("mount", target)(error.into()))?;
        share(target)?;
    }
    let ready = folder.join(READY);
    fs::write(&ready, "").map_err(Error::file("write", &ready))?;
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        thread::sleep(REAP);
    }
}

fn share(path: &str) -> Result<(), Error> {
    mount_change(path, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(|error| Error::file("share", path)(error.into()))
}
