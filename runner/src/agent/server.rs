//! The socket for runners: one line in, one line out, and the connection is over.
//!
//! Whoever has the socket may be slow or hostile. So a request is short, an exchange has a limit of time, and there are
//! never more than [`MOST_CONNECTIONS`]: one more ends the oldest, which is not the one of a reader that just asks.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use lem_crds::agent::{CounterRequest, LONGEST_REQUEST};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::reader::Shared;

/// Connections at a time. An answer has some 100 kB at most, so this bounds the memory that clients can take.
pub(super) const MOST_CONNECTIONS: usize = 64;

/// Longest exchange.
pub(super) const EXCHANGE_LIMIT: Duration = Duration::from_secs(2);

/// Pause after a connection that could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Server {
    shared: Arc<Shared>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves for ever.
    pub(super) async fn serve(&self, listener: UnixListener) {
        let mut connections: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            connections.retain(|connection| !connection.is_finished());
            if connections.len() >= MOST_CONNECTIONS
                && let Some(oldest) = connections.pop_front()
            {
                oldest.abort();
            }
            let shared = Arc::clone(&self.shared);
            let exchange = tokio::spawn(async move {
                match timeout(EXCHANGE_LIMIT, exchange(stream, &shared)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "an exchange failed"),
                    Err(_) => tracing::debug!("an exchange took too long"),
                }
            });
            connections.push_back(exchange.abort_handle());
        }
    }
}

async fn exchange(mut stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let (receive, mut send) = stream.split();
    let mut line = Vec::new();
    let longest = LONGEST_REQUEST as u64;
    BufReader::with_capacity(LONGEST_REQUEST, receive.take(longest))
        .read_until(b'\n', &mut line)
        .await?;
    let mut answer = match serde_json::from_slice::<CounterRequest>(&line) {
        Ok(request) => serde_json::to_vec(&shared.answer(request.after))?,
        Err(error) => serde_json::to_vec(&serde_json::json!({"error": format!("no request: {error}")}))?,
    };
    answer.push(b'\n');
    send.write_all(&answer).await?;
    send.shutdown().await
}
