//! The last sample of each counter, read when somebody scrapes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use crate::energy::{CounterDomain, LivePower};

/// Labels of boards by UUID: the number that the driver gives a board on its node, the same in every container. A UUID is no
/// label, as every machine would bring new series.
#[derive(Debug, Clone, Default)]
pub(super) struct Devices {
    labels: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Devices {
    /// The driver calls this board by that number.
    pub(super) fn add(&self, uuid: &str, minor_number: u32) {
        self.lock().insert(uuid.to_owned(), minor_number.to_string());
    }

    /// The label of a counter; a board whose number is not told has its place among those of this process.
    pub(super) fn label(&self, is_gpu: bool, id: &str) -> String {
        if !is_gpu {
            return id.to_owned();
        }
        let mut labels = self.lock();
        let place = labels.len();
        labels
            .entry(id.to_owned())
            .or_insert_with(|| format!("unnumbered-{place}"))
            .clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `lem_runner_power_watts`, there only while a window or a baseline is measured.
#[derive(Debug)]
pub(super) struct Power {
    pub(super) live: LivePower,
    pub(super) devices: Devices,
}

impl Collector for Power {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let unit = Unit::Other("watts".to_owned());
        let help = "Power as last sampled, while a window or a baseline is measured";
        let mut metric = encoder.encode_descriptor("power", help, Some(&unit), MetricType::Gauge)?;
        for (counter, watts) in self.live.watts() {
            let domain = match counter.domain {
                CounterDomain::Gpu => "gpu",
                CounterDomain::Cpu => "cpu",
                CounterDomain::Dram => "dram",
            };
            let device = self.devices.label(counter.domain == CounterDomain::Gpu, &counter.id);
            let labels = [("domain", domain.to_owned()), ("device", device)];
            ConstGauge::new(watts).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
