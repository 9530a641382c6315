//! The mailbox of a local child process: one JSON object per line on the standard streams.

use std::{
    io::{self, BufRead, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use lem_crds::{RunnerSpec, RunnerStatus};

use super::{Mailbox, MailboxError, Received};

/// Specs on standard input, statuses on standard output.
#[derive(Debug)]
pub struct StandardStreams {
    incoming: Receiver<Result<Box<RunnerSpec>, MailboxError>>,
}

impl StandardStreams {
    /// Starts reading standard input on a thread of its own.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn open() -> Result<Self, MailboxError> {
        let (sender, incoming) = mpsc::channel();
        let read = move || {
            for (index, line) in io::stdin().lock().lines().enumerate() {
                let parsed = line.map_err(MailboxError::Read).and_then(|line| {
                    serde_json::from_str(&line)
                        .map(Box::new)
                        .map_err(|source| MailboxError::Malformed {
                            line: index + 1,
                            source,
                        })
                });
                if sender.send(parsed).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("mailbox".into())
            .spawn(read)
            .map_err(MailboxError::Read)?;
        Ok(Self { incoming })
    }
}

impl Mailbox for StandardStreams {
    fn receive(&mut self, timeout: Duration) -> Result<Received, MailboxError> {
        let mut newest = match self.incoming.recv_timeout(timeout) {
            Ok(spec) => spec?,
            Err(RecvTimeoutError::Timeout) => return Ok(Received::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Ok(Received::Closed),
        };
        while let Ok(spec) = self.incoming.try_recv() {
            newest = spec?;
        }
        Ok(Received::Spec(newest))
    }

    fn report(&mut self, status: &RunnerStatus) -> Result<(), MailboxError> {
        let mut line = serde_json::to_vec(status).map_err(|error| MailboxError::Write(error.into()))?;
        line.push(b'\n');
        let mut output = io::stdout().lock();
        output
            .write_all(&line)
            .and_then(|()| output.flush())
            .map_err(MailboxError::Write)
    }
}
