//! Live raw counters in the `OpenMetrics` format. Written once per window, never inside one; served from a thread of its
//! own, so that a scrape costs the measuring thread nothing.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use lem_crds::runner::EnergyReading;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Which counter some energy comes from. Several processes of a node read the same package: readers take the maximum over
/// the processes of one counter before they sum over counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CounterLabels {
    /// gpu, cpu or dram.
    pub domain: &'static str,
    /// UUID of the board, or name of the powercap zone.
    pub counter: String,
    /// How the energy was obtained.
    pub source: &'static str,
}

/// What a runner shows while it runs. Ratios are the reader's business.
#[derive(Debug, Clone, Default)]
pub struct LiveMetrics {
    /// Prompt tokens of finished windows.
    pub input_tokens: Counter,
    /// Tokens generated in finished windows.
    pub output_tokens: Counter,
    /// Requests completed in finished windows.
    pub requests: Counter,
    /// Windows finished.
    pub windows: Counter,
    /// Joules metered in finished windows, per counter.
    pub energy: Family<CounterLabels, Counter<f64, AtomicU64>>,
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
        registry.register(
            "input_tokens",
            "Prompt tokens of finished windows",
            self.input_tokens.clone(),
        );
        registry.register(
            "output_tokens",
            "Tokens generated in finished windows",
            self.output_tokens.clone(),
        );
        registry.register(
            "requests_completed",
            "Requests completed in finished windows",
            self.requests.clone(),
        );
        registry.register("windows_finished", "Measured windows finished", self.windows.clone());
        registry.register_with_unit(
            "energy",
            "Energy of finished windows, per counter; a counter that several processes read is in each of them",
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

    /// Adds the energy of a finished window; a reading without energy adds nothing.
    pub fn add_energy(&self, reading: &EnergyReading) {
        let Some(joules) = reading.joules.filter(|joules| *joules >= 0.0) else {
            return;
        };
        let labels = CounterLabels {
            domain: reading.counter.domain.name(),
            counter: reading.counter.id.clone(),
            source: reading.source.name(),
        };
        self.energy.get_or_create(&labels).inc_by(joules);
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
        let labels = CounterLabels {
            domain: "gpu",
            counter: "GPU-1".to_owned(),
            source: "nvml_counter",
        };
        metrics.energy.get_or_create(&labels).inc_by(1.5);
        let address = metrics.serve("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("lem_runner_output_tokens_total 42"), "{text}");
        let energy = r#"lem_runner_energy_joules_total{domain="gpu",counter="GPU-1",source="nvml_counter"} 1.5"#;
        assert!(text.contains(energy), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
