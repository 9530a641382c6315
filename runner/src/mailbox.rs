//! Where assignments come from and reports go.

mod kube;
mod stdio;

use std::time::Duration;

use lem_crds::{RunnerSpec, RunnerStatus};

pub use self::{
    kube::{Identity, KubernetesMailbox, write_digest},
    stdio::StandardStreams,
};

/// What a mailbox held.
#[derive(Debug)]
pub enum Received {
    /// The newest state of the mailbox; older ones that were never read are superseded.
    Spec(Box<RunnerSpec>),
    /// Nothing new within the bound.
    TimedOut,
    /// The other side is gone; nothing will come any more.
    Closed,
}

/// Why a mailbox could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// An assignment was not understood.
    #[error("line {line} of the mailbox is not a Runner spec")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The mailbox could not be read.
    #[error("failed to read the mailbox")]
    Read(#[source] std::io::Error),
    /// The record could not be written.
    #[error("failed to write the report")]
    Write(#[source] std::io::Error),
}

/// The two directions of one process's communication.
pub trait Mailbox {
    /// Waits at most `timeout` for a new state of the mailbox.
    ///
    /// # Errors
    /// The mailbox is unreadable, or what it holds is malformed.
    fn receive(&mut self, timeout: Duration) -> Result<Received, MailboxError>;

    /// Publishes the whole record.
    ///
    /// # Errors
    /// The record could not be written.
    fn report(&mut self, status: &RunnerStatus) -> Result<(), MailboxError>;

    /// How far this machine's clock is ahead of the other side's, in seconds; none where both are one machine.
    fn clock_offset_seconds(&self) -> Option<f64> {
        None
    }
}
