//! The end of a cluster: everything it made is found by its folder and its namespaces, so this also works for what an
//! earlier process left behind.

use std::{
    fs,
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

use crate::{cgroup, error::Error, folder::Folder, namespace::Namespace};

/// How long the kernel may hold on to mounts of killed containers.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// Kills all processes of a cluster and removes its namespaces, cgroups and folder.
pub(crate) fn remove(folder: &Folder) -> Result<(), Error> {
    let namespaces: Vec<Namespace> = fs::read_dir(folder.namespaces())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Namespace::at(entry.path()))
        .collect();
    // All processes before the first namespace: a node that loses its network does a lot of work about it.
    for namespace in &namespaces {
        namespace.kill()?;
    }
    for namespace in &namespaces {
        namespace.remove()?;
    }
    cgroup::remove(&folder.cgroup())?;
    let start = Instant::now();
    while folder.path().exists() {
        match fs::remove_dir_all(folder.path()) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(source) if start.elapsed() > REMOVE_LIMIT => {
                return Err(Error::file("remove", folder.path())(source));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    Ok(())
}

/// The guard: waits until its standard input ends, which it does when the process that started it is no more, and then
/// ends the cluster. So a cluster survives no test, however the test ends.
pub(crate) fn guard(name: &str) -> Result<(), Error> {
    // Nobody writes; the end is all there is to read.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let folder = Folder::of(name)?;
    if !folder.path().exists() {
        return Ok(());
    }
    let _lock = folder.lock()?;
    remove(&folder)
}
