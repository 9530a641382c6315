//! `/healthz`, `/readyz` and `/metrics` on a thread of their own: a controller that is busy must still answer its
//! kubelet.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use prometheus_client::registry::Registry;

use super::metrics::exposition;

/// What the probes ask for.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Every cache is filled.
    pub ready: Arc<AtomicBool>,
}

/// Why the address could not be served.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct ServeError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Serves until the process ends; gives the bound address.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(address: SocketAddr, registry: Registry, health: Health) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError { address, source };
    let server = tiny_http::Server::http(address).map_err(|error| failed(io::Error::other(error)))?;
    let bound = server.server_addr().to_ip().unwrap_or(address);
    let answer = move || {
        for request in server.incoming_requests() {
            let (status, body) = match request.url() {
                "/healthz" => (200, "ok\n".to_owned()),
                "/readyz" if health.ready.load(Ordering::Relaxed) => (200, "ready\n".to_owned()),
                "/readyz" => (503, "the caches are not filled yet\n".to_owned()),
                "/metrics" => match exposition(&registry) {
                    Ok(text) => (200, text),
                    Err(error) => (500, error.to_string()),
                },
                _ => (404, "there are /healthz, /readyz and /metrics\n".to_owned()),
            };
            let mut response = tiny_http::Response::from_string(body).with_status_code(status);
            if request.url() == "/metrics"
                && let Ok(header) = tiny_http::Header::from_bytes(
                    "Content-Type",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )
            {
                response.add_header(header);
            }
            // A prober that hung up is not this process's concern.
            drop(request.respond(response));
        }
    };
    thread::Builder::new()
        .name("health".into())
        .spawn(answer)
        .map_err(failed)?;
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_controller_is_alive_before_it_is_ready() {
        let health = Health::default();
        let address = serve("127.0.0.1:0".parse().unwrap(), Registry::default(), health.clone()).unwrap();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503"));
        health.ready.store(true, Ordering::Relaxed);
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").ends_with("# EOF\n"));
    }
}
