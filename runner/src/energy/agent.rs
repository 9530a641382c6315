//! CPU and memory energy through the node's energy agent, for processes that may not read the powercap tree.
//!
//! The agent reads at its own pace, so a window's edge lies between two readings: `edge` says what is known there. At
//! the start edge nothing is asked, because the agent keeps what it has read.

mod client;
mod edge;
mod recording;

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lem_crds::agent::{NodeCounter, SOCKET_VARIABLE};

use self::{client::Client, recording::Recording};
use super::{
    Meter, MeterError,
    clock::{Mark, monotonic_seconds},
    live::LivePower,
    reading::{
        CounterDescription, CounterDomain, CounterIdentity, EnergySource, MeterReport, Unavailable, UnavailableReason,
    },
    sampler::SampledWindow,
};

/// Time between two questions within a window; the agent keeps readings for much longer.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a window the agent is waited for beyond the readings that are due: a restart takes that long.
const PATIENCE_SECONDS: f64 = 3.0;

/// Readings wanted on the far side of each edge.
const OUTSIDE: f64 = 2.0;

/// Meters CPU packages and their memory through the agent.
#[derive(Debug)]
pub struct AgentMeter {
    client: Client,
    node: String,
    counters: Vec<NodeCounter>,
    interval_seconds: f64,
    window: Option<SampledWindow<Recording>>,
    live: LivePower,
}

impl AgentMeter {
    /// Asks the agent what there is.
    pub fn open(socket: &Path, node: &str) -> Result<Self, Unavailable> {
        let client = Client::new(socket);
        let answer = client.ask(u64::MAX)?;
        if let Some(why) = answer.unavailable {
            return Err(recording::unavailable(&why));
        }
        Ok(Self {
            client,
            node: node.to_owned(),
            counters: answer.counters,
            interval_seconds: answer.interval as f64 * 1e-9,
            window: None,
            live: LivePower::default(),
        })
    }

    /// The domains that have a counter.
    pub fn domains(&self) -> Vec<CounterDomain> {
        self.counters.iter().map(domain).collect()
    }

    fn identities(&self) -> Vec<(NodeCounter, CounterIdentity)> {
        let identified = |counter: &NodeCounter| (counter.clone(), self.identity(counter));
        self.counters.iter().map(identified).collect()
    }

    fn identity(&self, counter: &NodeCounter) -> CounterIdentity {
        CounterIdentity {
            domain: domain(counter),
            id: counter.id.clone(),
            node: self.node.clone(),
        }
    }
}

fn domain(counter: &NodeCounter) -> CounterDomain {
    match counter.domain {
        lem_crds::runner::Domain::Gpu => CounterDomain::Gpu,
        lem_crds::runner::Domain::Cpu => CounterDomain::Cpu,
        lem_crds::runner::Domain::Dram => CounterDomain::Dram,
    }
}

impl Meter for AgentMeter {
    fn describe(&self) -> Vec<CounterDescription> {
        let describe = |counter: &NodeCounter| CounterDescription {
            counter: self.identity(counter),
            source: EnergySource::Rapl,
            detail: format!(
                "read by the node's energy agent every {:.0} ms",
                self.interval_seconds * 1e3
            ),
        };
        self.counters.iter().map(describe).collect()
    }

    fn show(&mut self, live: &LivePower) {
        self.live = live.clone();
    }

    fn start(&mut self) -> Result<Mark, MeterError> {
        self.window = None;
        let start = Mark::now();
        // Readings before the window are wanted too.
        let lookback = (2.0 * OUTSIDE + 1.0) * self.interval_seconds;
        let recording = Recording::new(start.monotonic_seconds - lookback);
        let (client, live, counters) = (self.client.clone(), self.live.clone(), self.identities());
        let window = SampledWindow::follow("cpu-energy", ASK_INTERVAL, start, recording, move |recording| {
            recording.add(client.ask(recording.after()));
            for (counter, identity) in &counters {
                if let Some(watts) = recording.last_power(counter) {
                    live.set(identity, watts);
                }
            }
        })?;
        self.window = Some(window);
        Ok(start)
    }

    fn mark_end(&mut self) -> Mark {
        match &mut self.window {
            // Nothing is asked at the edge: what lies around it is asked for later.
            Some(window) => window.mark_end(|_| {}),
            None => Mark::now(),
        }
    }

    fn stop(&mut self) -> MeterReport {
        let end = self.mark_end();
        let Some(window) = self.window.take() else {
            return MeterReport::not_started(CounterDomain::Cpu);
        };
        self.live.forget(self.identities().iter().map(|(_, identity)| identity));
        let mut recording = window.seen();
        let due = end.monotonic_seconds + OUTSIDE * self.interval_seconds;
        loop {
            // One that is not due yet need not be asked for.
            let pause = (due - monotonic_seconds()).max(self.interval_seconds / 4.0);
            thread::sleep(Duration::from_secs_f64(pause));
            let answer = self.client.ask(recording.after());
            recording.add(answer);
            if recording.is_over(end.monotonic_seconds, OUTSIDE as usize)
                || monotonic_seconds() > due + PATIENCE_SECONDS
            {
                break;
            }
        }
        let edges = (window.start, end);
        let readings = self
            .counters
            .iter()
            .map(|counter| recording.reading(counter, self.identity(counter), edges, self.interval_seconds));
        MeterReport {
            readings: readings.collect(),
            ..MeterReport::default()
        }
    }
}

/// The agent's socket, where this process has one: `LEM_ENERGY_SOCKET`.
pub fn socket_from_environment() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// An agent that does not answer as it should.
fn failed(message: String) -> Unavailable {
    Unavailable::new(UnavailableReason::DeviceFailed, message)
}
