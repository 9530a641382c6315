//! CPU energy where there is no counter: a model of the whole machine's CPUs from `/proc/stat`. Never a measurement.

mod model;

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use self::model::{RELATIVE_UNCERTAINTY, ThermalDesignPower, cpu_ticks, thermal_design_power, watts};
use super::{
    Meter, MeterError,
    clock::Mark,
    cumulative::{CumulativeEnergy, Read},
    edge::EdgeEnergy,
    integrate::{Power, thin},
    live::LivePower,
    reading::{
        CounterDescription, CounterDomain, CounterIdentity, EnergyReading, EnergySource, MeterReport, Unavailable,
        UnavailableReason,
    },
    sampler::SampledWindow,
};

/// How to estimate.
#[derive(Debug, Clone)]
pub struct EstimateOptions {
    /// Thermal design power of all sockets together, W; else looked up by model name.
    pub tdp_watts: Option<f64>,
    /// Time between two samples.
    pub sample_interval: Duration,
    /// Folder with `stat` and `cpuinfo`; `/proc`.
    pub proc_root: PathBuf,
    /// Node name.
    pub node: String,
}

/// Estimates the energy of the machine's CPUs.
#[derive(Debug)]
pub struct EstimateMeter {
    options: EstimateOptions,
    tdp: ThermalDesignPower,
    window: Option<SampledWindow<Track>>,
    live: LivePower,
}

#[derive(Debug)]
struct Track {
    stat: PathBuf,
    tdp_watts: f64,
    last: Option<(f64, (u64, u64))>,
    joules: f64,
    power: Vec<Power>,
    failure: Option<Unavailable>,
}

impl Track {
    /// The estimate between the edges; as far as the model is right, it is exact at every sample.
    fn within(&self, start: Mark, end: Mark) -> CumulativeEnergy {
        let (mut before, mut joules) = (start.monotonic_seconds, 0.0);
        let reads = self.power.iter().map(|power| {
            joules += power.watts * (power.at - before);
            before = power.at;
            Read {
                from: power.at,
                to: power.at,
                joules,
            }
        });
        CumulativeEnergy::new(
            (start.monotonic_seconds, EdgeEnergy::exact(0.0)),
            reads,
            (end.monotonic_seconds, EdgeEnergy::exact(self.joules)),
            0.0,
            self.power.iter().map(|power| power.watts),
        )
    }

    /// Takes one sample; the time since the one before ran at the load between the two.
    fn sample(&mut self, is_edge: bool) {
        let at = Mark::now().monotonic_seconds;
        let Some(ticks) = fs::read_to_string(&self.stat).ok().as_deref().and_then(cpu_ticks) else {
            let message = format!("{} cannot be read", self.stat.display());
            self.failure
                .get_or_insert(Unavailable::new(UnavailableReason::Vanished, message));
            return;
        };
        let Some((before, (busy, total))) = self.last else {
            self.last = Some((at, ticks));
            return;
        };
        let elapsed = ticks.1.saturating_sub(total);
        if elapsed == 0 && !is_edge {
            // Within one kernel tick: the next sample covers this time too.
            return;
        }
        let load = if elapsed == 0 {
            0.0
        } else {
            ticks.0.saturating_sub(busy) as f64 / elapsed as f64
        };
        let watts = match self.power.last() {
            Some(power) if elapsed == 0 => power.watts,
            _ => watts(self.tdp_watts, load),
        };
        self.joules += watts * (at - before);
        self.power.push(Power { at, watts });
        self.last = Some((at, ticks));
    }
}

impl EstimateMeter {
    /// Looks up the processor.
    pub fn open(options: EstimateOptions) -> Self {
        let info = fs::read_to_string(options.proc_root.join("cpuinfo")).unwrap_or_default();
        let value = |key: &str| {
            let lines = info.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
                .collect::<BTreeSet<_>>()
        };
        let sockets = value("physical id").len().max(1);
        let model = value("model name").into_iter().next();
        let tdp = thermal_design_power(options.tdp_watts, model.as_deref(), sockets);
        Self {
            options,
            tdp,
            window: None,
            live: LivePower::default(),
        }
    }

    fn identity(&self) -> CounterIdentity {
        CounterIdentity {
            domain: CounterDomain::Cpu,
            id: "machine".to_owned(),
            node: self.options.node.clone(),
        }
    }
}

impl Meter for EstimateMeter {
    fn describe(&self) -> Vec<CounterDescription> {
        vec![CounterDescription {
            counter: self.identity(),
            source: EnergySource::Estimate,
            detail: format!("TDP × (0.1 + 0.9·load³) ± 50 %, TDP {}", self.tdp.source),
        }]
    }

    fn show(&mut self, live: &LivePower) {
        self.live = live.clone();
    }

    fn start(&mut self) -> Result<Mark, MeterError> {
        self.window = None;
        let start = Mark::now();
        let mut track = Track {
            stat: self.options.proc_root.join("stat"),
            tdp_watts: self.tdp.watts,
            last: None,
            joules: 0.0,
            power: Vec::new(),
            failure: None,
        };
        track.sample(true);
        let interval = self.options.sample_interval;
        let (live, counter) = (self.live.clone(), self.identity());
        let window = SampledWindow::follow("cpu-estimate", interval, start, track, move |track| {
            track.sample(false);
            if let Some(last) = track.power.last() {
                live.set(&counter, last.watts);
            }
        })?;
        self.window = Some(window);
        Ok(start)
    }

    fn mark_end(&mut self) -> Mark {
        match &mut self.window {
            Some(window) => window.mark_end(|track| track.sample(true)),
            None => Mark::now(),
        }
    }

    fn stop(&mut self) -> MeterReport {
        let end = self.mark_end();
        let Some(window) = self.window.take() else {
            return MeterReport::not_started(CounterDomain::Cpu);
        };
        self.live.forget([&self.identity()]);
        let track = window.seen();
        let joules = track.failure.is_none().then_some(track.joules);
        let reading = EnergyReading {
            counter: self.identity(),
            source: EnergySource::Estimate,
            joules,
            unavailable: track.failure.clone(),
            uncertainty_joules: joules.map(|joules| joules * RELATIVE_UNCERTAINTY),
            duration_seconds: end.monotonic_seconds - window.start.monotonic_seconds,
            start: window.start,
            end,
            start_raw: None,
            end_raw: None,
            update_period_seconds: None,
            integral_joules: None,
            integral_disagreement: None,
            range_joules: None,
            power_is_averaged: false,
            power: thin(&track.power, window.start.monotonic_seconds, end.monotonic_seconds),
            cumulative: joules.map_or_else(CumulativeEnergy::default, |_| track.within(window.start, end)),
        };
        MeterReport {
            readings: vec![reading],
            ..MeterReport::default()
        }
    }
}
