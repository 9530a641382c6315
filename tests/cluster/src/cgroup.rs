//! The cgroups of a node's pods: one folder for each node in every hierarchy, made before and removed after.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::error::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// Folder of all clusters, below each hierarchy's root.
const PARENT: &str = "lem-test";
/// A cgroup cannot be removed before the kernel has let go of its last process.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// The kubelet's `cgroupRoot` for a node.
pub(crate) fn root(cluster: &str, node: &str) -> String {
    format!("/{PARENT}/{cluster}/{node}")
}

/// Creates a node's cgroups.
pub(crate) fn create(cluster: &str, node: &str) -> Result<(), Error> {
    for hierarchy in hierarchies() {
        let mut folder = hierarchy.clone();
        for name in [PARENT, cluster, node] {
            if hierarchy == Path::new(ROOT) {
                delegate(&folder);
            }
            folder.push(name);
            fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
            // Of version 1: empty sets are inherited by nobody and accept no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let path = folder.join(file);
                if path.exists() && hierarchy.ends_with("cpuset") {
                    let inherited = hierarchy.join(file);
                    let value = fs::read(&inherited).map_err(Error::file("read", &inherited))?;
                    fs::write(&path, value).map_err(Error::file("write", &path))?;
                }
            }
        }
        if hierarchy == Path::new(ROOT) {
            delegate(&folder);
        }
    }
    Ok(())
}

/// Of version 2: hands all controllers down to the children of a folder. One that cannot be is the kubelet's to report.
fn delegate(folder: &Path) {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes the cgroups of all nodes of a cluster, whose processes have been killed.
pub(crate) fn remove(cluster: &str) -> Result<(), Error> {
    let start = Instant::now();
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(PARENT).join(cluster);
        while folder.exists() {
            remove_tree(&folder);
            if start.elapsed() > REMOVE_LIMIT {
                return Err(Error::Timeout {
                    condition: format!("removal of {}", folder.display()),
                    limit: REMOVE_LIMIT,
                    last: "processes in it".to_owned(),
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        // The last cluster's removal takes the common parent along.
        let _ = fs::remove_dir(hierarchy.join(PARENT));
    }
    Ok(())
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// The root itself with version 2, else one folder for each controller.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect()
}
