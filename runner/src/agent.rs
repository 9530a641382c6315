//! The node energy agent: reads a node's RAPL counters for runners that may not, one process per node.
//!
//! The counters are readable by root only since CVE-2020-8694 (PLATYPUS): whoever reads them often enough can tell what
//! other processes compute. So the agent reads at its own fixed pace, ten times a second, for everybody; asking more
//! often gives nothing more, and pods see the socket only if they hold one of the agent's resources. What remains is the
//! mean power over a tenth of a second, which says when the node is busy and too little about instructions and data.
//!
//! `counters` is the pure part: cumulative values that never go back. `reader` reads, `server` answers on a Unix
//! socket what [`lem_crds::agent`] describes, and `plugin` has the kubelet give that socket to pods.

mod counters;
mod plugin;
mod reader;
mod server;

use std::{
    fs,
    future::pending,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lem_crds::agent::SOCKET;
use lem_device_plugin::ServeError;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

use self::{reader::Shared, server::Server};

/// Time between two readings. RAPL itself is updated every millisecond; PLATYPUS needs such rates.
pub const READ_INTERVAL: Duration = Duration::from_millis(100);

/// Why the agent ends.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The thread or the runtime could not be started.
    #[error("failed to start the {part}")]
    Start {
        /// Which one.
        part: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket for runners cannot be made.
    #[error("failed to listen on {}: it has to be in a folder of the node that this user may write to", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kubelet cannot be served.
    #[error("failed to offer the node's resources to the kubelet")]
    DevicePlugin(#[source] ServeError),
}

/// What the agent works with.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The powercap tree, flat or nested.
    pub powercap_root: PathBuf,
    /// Folder of the socket for runners. The kubelet mounts it by this path, so it is the same on the node and here.
    pub socket_folder: PathBuf,
    /// The kubelet's folder of device plugins; without it pods are not offered anything.
    pub device_plugin_folder: Option<PathBuf>,
    /// Name of the node.
    pub node: String,
    /// Time between two readings; [`READ_INTERVAL`].
    pub read_interval: Duration,
}

/// Reads and serves until told to end.
pub fn run(options: &AgentOptions, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    let start = |part| move |source| AgentError::Start { part, source };
    let shared = Shared::new(&options.node, options.read_interval);
    reader::spawn(options.powercap_root.clone(), Arc::clone(&shared)).map_err(start("reading thread"))?;
    // One thread: there is little to do, and it is done beside measurements.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(start("runtime"))?;
    runtime.block_on(async {
        let listener = listen(&options.socket_folder.join(SOCKET))?;
        let server = Server::new(Arc::clone(&shared));
        tokio::select! {
            () = server.serve(listener) => Ok(()),
            outcome = plugin::serve(options, &shared) => outcome.map_err(AgentError::DevicePlugin),
            () = shutdown => Ok(()),
        }
    })
}

/// Replaces the socket of an agent that is gone. Any user may connect: the folder is mounted only where it is allocated.
fn listen(path: &Path) -> Result<UnixListener, AgentError> {
    let failed = |source| AgentError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Resolves on SIGTERM or Ctrl-C; never where signals cannot be had.
pub async fn told_to_end() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        tracing::warn!("SIGTERM is not waited for");
        return pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
