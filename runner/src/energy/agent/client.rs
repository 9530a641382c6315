//! One question to the agent, over a connection of its own: an agent that was started again is simply another listener.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use lem_crds::agent::{CounterAnswer, CounterRequest, LONGEST_ANSWER, PROTOCOL};

use super::failed;
use crate::energy::reading::Unavailable;

/// Longest wait for one read or write.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The readings that began after an instant, ns on `CLOCK_MONOTONIC`.
    pub(super) fn ask(&self, after: u64) -> Result<CounterAnswer, Unavailable> {
        let socket = self.socket.display();
        let line = self.exchange(after).map_err(|error| {
            failed(format!(
                "the node's energy agent does not answer at {socket}: {error}; look at the pods of its DaemonSet"
            ))
        })?;
        let answer: CounterAnswer = serde_json::from_slice(&line).map_err(|error| {
            failed(format!(
                "the node's energy agent at {socket} does not speak as expected: {error}"
            ))
        })?;
        if answer.protocol == PROTOCOL {
            Ok(answer)
        } else {
            Err(failed(format!(
                "the node's energy agent speaks protocol {}, and this runner {PROTOCOL}: use images of one version",
                answer.protocol
            )))
        }
    }

    fn exchange(&self, after: u64) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(EXCHANGE_LIMIT))?;
        stream.set_write_timeout(Some(EXCHANGE_LIMIT))?;
        let mut request = serde_json::to_vec(&CounterRequest { after })?;
        request.push(b'\n');
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }
}
