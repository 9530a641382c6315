//! One cluster's folder, and who may use it.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::{binaries, error::Error, namespace::Namespace, pins::hex};

/// How long the end of an earlier cluster of the same name may take.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// The folder of one cluster: keys, logs, data of etcd and of the nodes.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    /// The folder of the cluster of this name.
    pub(crate) fn of(name: &str) -> Result<Self, Error> {
        let valid = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if name.is_empty() || name.len() > 20 || !name.chars().all(valid) || name.starts_with('-') {
            return Err(Error::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            path: runs()?.join(name),
        })
    }

    /// Folders of all clusters that are there, running or left behind.
    pub(crate) fn all() -> Result<Vec<Self>, Error> {
        let folders = fs::read_dir(runs()?).into_iter().flatten().flatten();
        Ok(folders
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| Self::of(entry.file_name().to_str()?).ok())
            .collect())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Name of the cluster's cgroups: other users of the machine, with another cache, may use the same names.
    pub(crate) fn cgroup(&self) -> String {
        let mut digest = hex(&Sha256::digest(self.path.as_os_str().as_encoded_bytes()));
        digest.truncate(8);
        format!("{}-{digest}", self.name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// For the user: by the loopback address, as administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.join("logs")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.join("logs/audit.log")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.join("keys")
    }

    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.join("nodes").join(node)
    }

    pub(crate) fn namespaces(&self) -> PathBuf {
        self.join("networks")
    }

    pub(crate) fn control_plane_namespace(&self) -> Namespace {
        Namespace::at(self.namespaces().join("control-plane"))
    }

    pub(crate) fn node_namespace(&self, node: &str) -> Namespace {
        Namespace::at(self.namespaces().join(node))
    }

    /// Says that the cluster outlives the process that started it.
    pub(crate) fn detached(&self) -> PathBuf {
        self.join("detached")
    }

    /// The right to make and end the cluster. The kernel takes it back when its holder dies, however it does.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let runs = runs()?;
        fs::create_dir_all(&runs).map_err(Error::file("create", &runs))?;
        let path = runs.join(format!("{}.lock", self.name));
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // The guard of a cluster that is going away, or a living one's owner.
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_LIMIT => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::InUse(self.name.clone())),
                Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path)(source)),
            }
        }
    }

    /// Whether nobody holds the right now.
    pub(crate) fn is_free(&self) -> Result<bool, Error> {
        let path = runs()?.join(format!("{}.lock", self.name));
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        Ok(file.try_lock().is_ok())
    }
}

fn runs() -> Result<PathBuf, Error> {
    Ok(binaries::cache()?.join("run"))
}

#[cfg(test)]
mod tests {
    use super::Folder;

    #[test]
    fn names_that_cannot_be_host_names_are_refused() {
        for name in ["", "A", "a_b", "-a", "../x", "a23456789012345678901"] {
            assert!(Folder::of(name).is_err(), "{name:?}");
        }
        assert!(Folder::of("barrier-2").is_ok());
    }
}
