//! What can go wrong with a cluster.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// A step that failed; the message says what was tried, the source why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("failed to {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("failed to start {program}")]
    Spawn {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// As one would type it.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// A part of the cluster that should run has ended.
    #[error("{part} ended by itself ({status}); the end of {}:\n{tail}", log.display())]
    Ended {
        /// Which.
        part: String,
        /// Its exit status.
        status: ExitStatus,
        /// Where it logs.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// A condition did not come true.
    #[error("{condition} took longer than {} s; last seen: {last}", limit.as_secs())]
    Timeout {
        /// What was waited for.
        condition: String,
        /// For how long.
        limit: Duration,
        /// What was there instead.
        last: String,
    },
    /// The machine lacks something that this crate does not install.
    #[error("{missing} is missing: {remedy}")]
    Missing {
        /// What.
        missing: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A cluster name that cannot be part of file, host and interface names.
    #[error("{0:?} is no name for a cluster: use 1 to 20 lower-case letters, digits and hyphens")]
    Name(String),
    /// A cluster of this name runs.
    #[error("a cluster named {0} is in use: take another name, or end it with `lem-test-cluster down --name {0}`")]
    InUse(String),
    /// No cluster of this name runs.
    #[error("no cluster named {0} is up: start it with `lem-test-cluster up --name {0}`")]
    NotUp(String),
    /// No such node.
    #[error("the cluster has no node {0}")]
    NoNode(String),
    /// A part is stopped or started that the harness did not start.
    #[error("{0} is not a part of this cluster that can be stopped or started from here")]
    NotOurs(String),
    /// Data that this crate reads or writes.
    #[error("failed to read or write {what}")]
    Data {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("failed to make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The kubeconfig could not be used.
    #[error("failed to make a client from {}", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request to the API server.
    #[error("failed to {action}")]
    Api {
        /// Verb and object.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The device plugin's server.
    #[error("the device plugin cannot serve")]
    DevicePlugin(#[source] lem_device_plugin::ServeError),
    /// The server of the driver of dynamic resources.
    #[error("the driver of dynamic resources cannot serve")]
    DynamicResources(#[source] tonic::transport::Error),
}

impl Error {
    /// For `map_err` on something that touches a path.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err` on serialisation.
    pub(crate) fn data<E: std::error::Error + Send + Sync + 'static>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Data {
            what,
            source: Box::new(source),
        }
    }
}

/// The message with all its causes, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
