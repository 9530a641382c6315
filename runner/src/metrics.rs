//! Live raw counters in the `OpenMetrics` format. Written once per request and phase, never per token; served from a thread
//! of its own, so that a scrape costs the measuring thread nothing but shared counters.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

/// What a runner shows while it runs. Ratios are the reader's business.
#[derive(Debug, Clone, Default)]
pub struct LiveMetrics {
    /// Prompt tokens processed, measured windows and warm-up alike.
    pub input_tokens: Counter,
    /// Tokens generated, measured windows and warm-up alike.
    pub output_tokens: Counter,
    /// Requests completed.
    pub requests: Counter,
    /// Windows finished.
    pub windows: Counter,
    /// Joules metered in finished windows.
    pub energy: Counter<f64, AtomicU64>,
    /// Seconds of finished windows.
    pub measured: Counter<f64, AtomicU64>,
    /// 1 while a window is being measured.
    pub measuring: Gauge,
}

/// Why the metrics could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not allowed.
    #[error("failed to listen on {address} for /metrics")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl LiveMetrics {
    /// A registry that holds these counters.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("lem_runner");
        registry.register("input_tokens", "Prompt tokens processed", self.input_tokens.clone());
        registry.register("output_tokens", "Tokens generated", self.output_tokens.clone());
        registry.register("requests_completed", "Requests completed", self.requests.clone());
        registry.register("windows_finished", "Measured windows finished", self.windows.clone());
        registry.register_with_unit(
            "energy",
            "Energy of finished windows, all domains",
            Unit::Joules,
            self.energy.clone(),
        );
        registry.register_with_unit(
            "measured",
            "Time in finished windows",
            Unit::Seconds,
            self.measured.clone(),
        );
        registry.register(
            "measuring",
            "1 while a window is being measured",
            self.measuring.clone(),
        );
        registry
    }

    /// Serves `/metrics` on a thread of its own until the process ends; gives the bound address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn serve(&self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let server = tiny_http::Server::http(address).map_err(|error| failed(io::Error::other(error)))?;
        let bound = server.server_addr().to_ip().unwrap_or(address);
        let registry = Arc::new(self.registry());
        let answer = move || {
            for request in server.incoming_requests() {
                let mut body = String::new();
                let status = if request.url() == "/metrics" && encode(&mut body, &registry).is_ok() {
                    200
                } else {
                    404
                };
                let mut response = tiny_http::Response::from_string(body).with_status_code(status);
                if let Ok(header) = tiny_http::Header::from_bytes(
                    "Content-Type",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ) {
                    response.add_header(header);
                }
                // A scraper that hung up is not this process's concern.
                drop(request.respond(response));
            }
        };
        thread::Builder::new()
            .name("metrics".into())
            .spawn(answer)
            .map_err(failed)?;
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_scrape_shows_the_counters_with_their_units() {
        let metrics = LiveMetrics::default();
        metrics.output_tokens.inc_by(42);
        metrics.energy.inc_by(1.5);
        let address = metrics.serve("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("lem_runner_output_tokens_total 42"), "{text}");
        assert!(text.contains("lem_runner_energy_joules_total 1.5"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
