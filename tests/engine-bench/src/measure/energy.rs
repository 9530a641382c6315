//! Energy while something is computed: the project's estimate from the processors' load, the same for all engines.

use std::time::Duration;

use anyhow::{Context, Result};
use lem_runner::energy::{CounterDomain, EstimateMeter, EstimateOptions, Meter};

use super::cell::Energy;

/// Between two looks at the load; the kernel counts in hundredths of a second.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// A started meter.
pub(super) struct EnergyMeter {
    meter: EstimateMeter,
}

impl EnergyMeter {
    /// Starts.
    pub(super) fn start() -> Result<Self> {
        let mut meter = EstimateMeter::open(EstimateOptions {
            tdp_watts: None,
            sample_interval: SAMPLE_INTERVAL,
            proc_root: "/proc".into(),
            node: String::new(),
        });
        meter.start().context("the estimate of energy cannot be started")?;
        Ok(Self { meter })
    }

    /// The energy since the start.
    pub(super) fn stop(mut self) -> Energy {
        let details: Vec<String> = self
            .meter
            .describe()
            .into_iter()
            .map(|counter| counter.detail)
            .collect();
        Energy {
            joules: self.meter.stop().joules(CounterDomain::Cpu),
            source: format!(
                "estimated, not measured, for all processors of the machine: {}",
                details.join(", ")
            ),
        }
    }
}
