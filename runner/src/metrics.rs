//! Live raw counters in the `OpenMetrics` format, served from a thread of their own, so that a scrape costs the measuring
//! thread nothing. Labels are bounded: no pod, no UUID. Ratios are the reader's business.

mod power;
mod scrapes;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use lem_crds::runner::{Domain, EnergyReading, RunnerPhase};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use strum::IntoEnumIterator;

use self::{
    power::{Devices, Power},
    scrapes::Scrapes,
};
use crate::energy::{DeviceProvenance, LivePower};

/// Which counter some energy comes from. Several processes of a node read the same package: readers take the maximum over
/// the processes of one counter before they sum over counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CounterLabels {
    /// gpu, cpu or dram.
    domain: &'static str,
    /// Number of the board on its node, or name of the powercap zone.
    device: String,
    /// How the energy was obtained.
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

/// What the labels of every series say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Namespace of the experiment; none for a local run.
    pub namespace: Option<String>,
    /// Name of the experiment.
    pub experiment: String,
    /// Name of the model.
    pub model: String,
    /// Name of the engine.
    pub engine: String,
}

/// What requests do, step by step. Each update is one relaxed atomic operation.
#[derive(Debug, Clone, Default)]
pub struct LiveRequests {
    /// Prompt tokens whose first output token is there.
    pub input_tokens: Counter,
    /// Tokens generated.
    pub output_tokens: Counter,
    /// Requests completed.
    pub requests: Counter,
    /// Sequences in the engine.
    pub batch_rows: Gauge<u64, AtomicU64>,
    /// Tokens of those sequences in the key-value cache.
    pub kv_cache_tokens: Gauge<u64, AtomicU64>,
}

/// What a runner shows while it runs. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct LiveMetrics {
    /// Of measured windows.
    pub requests: LiveRequests,
    /// Last sample of each counter, while windows and baselines are measured.
    pub power: LivePower,
    windows: Counter,
    measured: Counter<f64, AtomicU64>,
    energy: Family<CounterLabels, Counter<f64, AtomicU64>>,
    phase: Family<PhaseLabels, Gauge>,
    devices: Devices,
    registry: Arc<OnceLock<Registry>>,
    scrapes: Arc<Scrapes>,
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
    /// From here on a scrape shows the series, with these labels. Only the first call counts.
    pub fn introduce(&self, introduction: Introduction) {
        let namespace = introduction.namespace.map(|namespace| ("namespace", namespace));
        let others = [
            ("experiment", introduction.experiment),
            ("model", introduction.model),
            ("engine", introduction.engine),
        ];
        let labels = namespace.into_iter().chain(others);
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        let registry = Registry::with_prefix_and_labels("lem_runner", labels);
        // A second registry would have the same content.
        drop(self.registry.set(self.filled(registry)));
    }

    fn filled(&self, mut registry: Registry) -> Registry {
        let requests = &self.requests;
        registry.register(
            "input_tokens",
            "Prompt tokens processed in measured windows",
            requests.input_tokens.clone(),
        );
        registry.register(
            "output_tokens",
            "Tokens generated in measured windows",
            requests.output_tokens.clone(),
        );
        registry.register(
            "requests",
            "Requests completed in measured windows",
            requests.requests.clone(),
        );
        registry.register(
            "batch_rows",
            "Sequences in the engine during a measured window",
            requests.batch_rows.clone(),
        );
        registry.register(
            "kv_cache_tokens",
            "Tokens in the key-value cache during a measured window",
            requests.kv_cache_tokens.clone(),
        );
        registry.register("windows", "Measured windows finished", self.windows.clone());
        registry.register_with_unit(
            "measured",
            "Time in finished windows",
            Unit::Seconds,
            self.measured.clone(),
        );
        registry.register_with_unit(
            "energy",
            "Energy of finished windows, per counter; a counter that several processes read is in each of them",
            Unit::Joules,
            self.energy.clone(),
        );
        registry.register_collector(Box::new(Power {
            live: self.power.clone(),
            devices: self.devices.clone(),
        }));
        registry.register(
            "phase",
            "1 for what the process is doing, 0 for all else",
            self.phase.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs here", build);
        registry
    }

    /// The labels of boards, by the number that the driver gives them.
    pub fn name_devices<'a>(&self, devices: impl IntoIterator<Item = &'a DeviceProvenance>) {
        for device in devices {
            if let Some(number) = device.minor_number {
                self.devices.add(&device.uuid, number);
            }
        }
    }

    /// The process does something else now.
    pub fn enter(&self, present: RunnerPhase) {
        for phase in RunnerPhase::iter() {
            let labels = PhaseLabels { phase: phase.into() };
            self.phase.get_or_create(&labels).set(i64::from(phase == present));
        }
    }

    /// A window has ended, with a record of so many seconds and these readings, or without one.
    pub fn window_ended(&self, record: Option<(f64, &[EnergyReading])>) {
        self.requests.batch_rows.set(0);
        self.requests.kv_cache_tokens.set(0);
        let Some((seconds, readings)) = record else { return };
        self.windows.inc();
        self.measured.inc_by(seconds);
        for reading in readings {
            self.add_energy(reading);
        }
    }

    /// A reading without energy adds nothing.
    fn add_energy(&self, reading: &EnergyReading) {
        let Some(joules) = reading.joules.filter(|joules| *joules >= 0.0) else {
            return;
        };
        let (domain, id) = (reading.counter.domain, &reading.counter.id);
        let labels = CounterLabels {
            domain: domain.name(),
            device: self.devices.label(domain == Domain::Gpu, id),
            source: reading.source.name(),
        };
        self.energy.get_or_create(&labels).inc_by(joules);
    }

    /// Waits until whoever scrapes this process has seen its last figures: two more scrapes, or as long as those may take,
    /// and at most a minute. Nobody scrapes, no wait: a runner does not idle on a device for nothing.
    pub fn linger(&self) {
        self.scrapes.linger(Instant::now());
    }

    /// Serves `/metrics` on a thread of its own until the process ends; gives the bound address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn serve(&self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let server = tiny_http::Server::http(address).map_err(|error| failed(io::Error::other(error)))?;
        let bound = server.server_addr().to_ip().unwrap_or(address);
        let (registry, scrapes) = (Arc::clone(&self.registry), Arc::clone(&self.scrapes));
        let answer = move || {
            for request in server.incoming_requests() {
                let (status, body) = match request.url() {
                    "/metrics" => exposition(registry.get()),
                    _ => (404, "there is /metrics\n".to_owned()),
                };
                let complete = status == 200;
                let mut response = tiny_http::Response::from_string(body).with_status_code(status);
                if let Ok(header) = tiny_http::Header::from_bytes(
                    "Content-Type",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ) {
                    response.add_header(header);
                }
                // A scraper that hung up is not this process's concern.
                if request.respond(response).is_ok() && complete {
                    scrapes.answered(Instant::now());
                }
            }
        };
        thread::Builder::new()
            .name("metrics".into())
            .spawn(answer)
            .map_err(failed)?;
        Ok(bound)
    }
}

/// Before the first assignment there is nothing to show.
fn exposition(registry: Option<&Registry>) -> (u16, String) {
    let mut body = String::new();
    match registry.map(|registry| encode(&mut body, registry)) {
        None => (200, "# EOF\n".to_owned()),
        Some(Ok(())) => (200, body),
        Some(Err(error)) => (500, format!("{error}\n")),
    }
}

/// Longest wait for scrapes.
const LONGEST_LINGER: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn scrape(address: SocketAddr) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn introduced() -> LiveMetrics {
        let metrics = LiveMetrics::default();
        metrics.introduce(Introduction {
            namespace: Some("team".to_owned()),
            experiment: "one".to_owned(),
            model: "m".to_owned(),
            engine: "candle".to_owned(),
        });
        metrics
    }

    #[test]
    fn a_scrape_shows_the_counters_with_their_labels_and_units() {
        let metrics = introduced();
        metrics.requests.output_tokens.inc_by(42);
        metrics.enter(RunnerPhase::Measuring);
        let address = metrics.serve("127.0.0.1:0".parse().unwrap()).unwrap();
        let text = scrape(address);
        let labels = r#"namespace="team",experiment="one",model="m",engine="candle""#;
        for line in [
            format!("lem_runner_output_tokens_total{{{labels}}} 42"),
            format!("lem_runner_measured_seconds_total{{{labels}}} 0.0"),
            format!(r#"lem_runner_phase{{{labels},phase="Measuring"}} 1"#),
            format!(r#"lem_runner_phase{{{labels},phase="Idle"}} 0"#),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_board_is_shown_by_its_number_on_the_node_and_not_by_its_uuid() {
        let metrics = introduced();
        let board = DeviceProvenance {
            uuid: "GPU-b".to_owned(),
            minor_number: Some(3),
            ..DeviceProvenance::default()
        };
        metrics.name_devices([&board]);
        for (device, uuid) in [("3", "GPU-b"), ("unnumbered-1", "GPU-a"), ("3", "GPU-b")] {
            assert_eq!(metrics.devices.label(true, uuid), device);
        }
        assert_eq!(metrics.devices.label(false, "package-0"), "package-0");
    }

    #[test]
    fn a_process_that_is_not_introduced_shows_nothing() {
        let address = LiveMetrics::default().serve("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(scrape(address).ends_with("\r\n\r\n# EOF\n"));
    }

    #[test]
    fn a_process_that_nobody_scrapes_does_not_linger_and_one_that_is_scraped_ends_after_two_more() {
        introduced().linger();
        let metrics = introduced();
        let address = metrics.serve("127.0.0.1:0".parse().unwrap()).unwrap();
        scrape(address);
        let waiting = metrics.clone();
        let lingers = thread::spawn(move || waiting.linger());
        while !lingers.is_finished() {
            scrape(address);
        }
        lingers.join().unwrap();
    }
}
