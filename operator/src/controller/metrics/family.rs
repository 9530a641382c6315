//! One family of series in an exposition: its description and its values. Pure.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

/// Labels of one series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Name, meaning and unit of a family of gauges.
#[derive(Debug, Clone)]
pub(super) struct Description<'a> {
    /// Without the prefix `lem_` and the unit.
    pub(super) name: &'a str,
    /// In one sentence without a full stop, which the encoder adds.
    pub(super) help: &'a str,
    /// Appended to the name.
    pub(super) unit: Option<Unit>,
}

impl<'a> Description<'a> {
    pub(super) const fn new(name: &'a str, help: &'a str) -> Self {
        Self { name, help, unit: None }
    }

    pub(super) fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }
}

/// Writes a family of gauges.
pub(super) fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    description: &Description<'_>,
    series: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let Description { name, help, unit } = description;
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
