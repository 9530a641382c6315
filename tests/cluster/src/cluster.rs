//! A cluster as a test sees it.

mod boot;
mod identity;
mod parts;
mod probe;

use std::{
    env,
    ffi::OsStr,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    audit::AuditLog,
    binaries::{Binaries, progress},
    command,
    error::{Error, with_causes},
    failures::{self, FailureGuard},
    folder::Folder,
    node::{Node, NodeOptions},
    process::Parts,
    teardown, wait,
};

/// Names a kubeconfig: tests then use that cluster instead of one of their own.
pub const KUBECONFIG_VARIABLE: &str = "LEM_TEST_KUBECONFIG";

/// What a cluster is to have.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its nodes.
    pub nodes: Vec<NodeOptions>,
    /// Image archives that every node has from the start; see [`crate::Image`].
    pub images: Vec<PathBuf>,
    /// How long a node may be silent before it counts as lost.
    pub node_grace_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: (0..3).map(NodeOptions::with_index).collect(),
            images: Vec::new(),
            node_grace_period: Duration::from_secs(16),
        }
    }
}

/// A running cluster. One that was started here ends when this is dropped, and also when the process dies.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    own: Option<Own>,
}

/// A cluster whose programs are this process's.
#[derive(Debug)]
struct Own {
    folder: Folder,
    binaries: Binaries,
    options: Options,
    parts: Parts,
    /// Ends the cluster if this process cannot.
    guard: Option<Child>,
    detached: bool,
    /// Held as long as the cluster lives.
    _lock: File,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes are ready, some 6 s; it blocks its thread for part of that. The name
    /// tells clusters side by side apart. With `LEM_TEST_KUBECONFIG` it is the cluster of that file, whatever the options.
    pub async fn start(name: &str, options: Options) -> Result<Self, Error> {
        if let Some(path) = env::var_os(KUBECONFIG_VARIABLE) {
            return Ok(Self {
                kubeconfig: path.into(),
                own: None,
            });
        }
        let own = Own::boot(name, options).await?;
        Ok(Self {
            kubeconfig: own.folder.kubeconfig(),
            own: Some(own),
        })
    }

    /// Whether the cluster was started here, so that its parts can be killed and its audit log read.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with all rights.
    pub async fn client(&self) -> Result<Client, Error> {
        client(&self.kubeconfig).await
    }

    /// `kubectl` for this cluster.
    pub fn kubectl(&self) -> Command {
        failures::kubectl(&self.kubeconfig, self.own.as_ref().map(|own| &own.binaries))
    }

    /// Nodes as they were asked for.
    pub fn nodes(&self) -> &[NodeOptions] {
        self.own.as_ref().map_or(&[], |own| &own.options.nodes)
    }

    /// What the API server was asked so far.
    pub fn audit(&self) -> Result<AuditLog, Error> {
        Ok(AuditLog::whole(self.own("the audit log")?.folder.audit_log()))
    }

    /// A program in the control plane's network, from where pods can be reached by their addresses.
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let own = self.own("the control plane's network")?;
        Ok(command::in_network(
            own.folder.control_plane_namespace().path(),
            program,
        ))
    }

    /// Hands an image archive to all nodes.
    pub fn load_image(&self, archive: &Path) -> Result<(), Error> {
        self.own("the nodes' container runtimes")?
            .on_all_nodes(|node| node.import(archive))
    }

    /// Waits until a condition holds, and fails early when a part of the cluster has ended by itself. `look` returns
    /// `Err` with what it saw instead.
    pub async fn until<T, F>(&self, condition: &str, limit: Duration, look: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, String>>,
    {
        let alive = || self.own.as_ref().map_or(Ok(()), |own| own.parts.check());
        wait::until(condition, limit, alive, look).await
    }

    /// Writes everything that helps to understand a failure into a folder: every object of `lem.dev`, pods with their
    /// logs, events, the audit log and the logs of the cluster's programs.
    pub fn collect_failures(&self, output: &Path) -> Result<(), Error> {
        let own = self.own.as_ref();
        failures::collect(&self.kubectl(), own.map(|own| &own.folder), output)
    }

    /// For a test that shares the cluster with others: if it panics, the state is collected in
    /// `target/cluster-failures/<test>`.
    pub fn on_failure(&self, test: &str) -> FailureGuard<'_> {
        FailureGuard::new(self, test)
    }

    /// Lets the cluster outlive this process; `lem-test-cluster down` ends it.
    pub fn detach(mut self) -> Result<(), Error> {
        let own = self
            .own
            .as_mut()
            .ok_or_else(|| Error::NotOurs("this cluster".to_owned()))?;
        let path = own.folder.detached();
        std::fs::write(&path, "").map_err(Error::file("write", &path))?;
        if let Some(mut guard) = own.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        own.detached = true;
        Ok(())
    }

    fn own(&self, what: &str) -> Result<&Own, Error> {
        self.own.as_ref().ok_or_else(|| Error::NotOurs(what.to_owned()))
    }
}

/// A client by a kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kubeconfig {
        path: kubeconfig.to_owned(),
        source,
    };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.into()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(error.into()))?;
    Client::try_from(config).map_err(|error| failed(error.into()))
}

impl Own {
    fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.options.nodes.iter().enumerate().map(|(index, options)| Node {
            folder: &self.folder,
            binaries: &self.binaries,
            parts: &self.parts,
            options,
            index,
        })
    }

    fn node(&self, name: &str) -> Result<Node<'_>, Error> {
        self.nodes()
            .find(|node| node.options.name == name)
            .ok_or_else(|| Error::NoNode(name.to_owned()))
    }

    /// Does the same on all nodes at once.
    fn on_all_nodes(&self, action: impl Fn(Node<'_>) -> Result<(), Error> + Sync) -> Result<(), Error> {
        let action = &action;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.nodes().map(|node| scope.spawn(move || action(node))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The harness names a test's thread like the test.
        let thread = std::thread::current();
        drop(self.on_failure(thread.name().unwrap_or("unnamed")));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        if let Err(error) = teardown::remove(&self.folder) {
            progress(&format!(
                "failed to end the cluster {}: {}",
                self.folder.name(),
                with_causes(&error)
            ));
        }
        self.parts.reap(|_| true);
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}
