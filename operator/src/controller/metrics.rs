//! What Prometheus sees: how the controller fares, and the finished results, read from the cache of experiments at each
//! scrape. A result is gone when its experiment is gone. Labels are bounded: no pod, no UID.

use std::{fmt, sync::Arc, time::Duration};

use kube::{ResourceExt, runtime::reflector::Store};
use lem_crds::{
    EfficiencyExperiment,
    status::{PointResult, Verdict},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use super::watch::Guarded;

/// Metrics of every point that are worth a series each; the rest is in the status.
const PUBLISHED: &[&str] = &[
    "joules_per_token",
    "joules_per_output_token",
    "tokens_per_joule",
    "output_tokens_per_joule",
    "effective_throughput",
    "effective_output_throughput",
    "total_energy_j",
    "gpu_energy_j",
    "cpu_energy_j",
    "total_power_w",
    "flops_per_second",
    "flop_per_joule",
    "ttft_p95_ms",
    "itl_p95_ms",
    "e2e_latency_p95_ms",
    "token_efficiency_index",
    "gco2e_per_1k_tokens",
    "cost_per_1m_tokens",
    "start_skew_ms",
    "temporal_overlap",
    "duty_cycle",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    category: &'static str,
}

/// How the controller fares.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    reconciliations: Counter,
    errors: Family<ErrorLabels, Counter>,
    seconds: Histogram,
    /// 1 while this replica may write.
    pub leading: Gauge,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        Self {
            reconciliations: Counter::default(),
            errors: Family::default(),
            seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            leading: Gauge::default(),
        }
    }
}

impl ControllerMetrics {
    /// One reconciliation is over.
    pub(super) fn reconciled(&self, took: Duration) {
        self.reconciliations.inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// One has failed.
    pub(super) fn failed(&self, category: &'static str) {
        self.errors.get_or_create(&ErrorLabels { category }).inc();
    }

    /// Everything that is exposed.
    pub fn registry(&self, experiments: Store<Guarded>) -> Registry {
        let mut registry = Registry::with_prefix("lem");
        registry.register(
            "operator_reconciliations",
            "Reconciliations",
            self.reconciliations.clone(),
        );
        registry.register(
            "operator_reconcile_errors",
            "Reconciliations that failed",
            self.errors.clone(),
        );
        registry.register(
            "operator_reconcile_seconds",
            "Length of a reconciliation",
            self.seconds.clone(),
        );
        registry.register(
            "operator_leading",
            "1 while this replica may write",
            self.leading.clone(),
        );
        registry.register_collector(Box::new(Results { experiments }));
        registry
    }
}

/// The whole exposition as text.
///
/// # Errors
/// A metric that cannot be written as text.
pub fn exposition(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Finished results, straight from the cache.
struct Results {
    experiments: Store<Guarded>,
}

impl fmt::Debug for Results {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Results")
    }
}

impl Collector for Results {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.experiments.state();
        let mut experiments: Vec<&EfficiencyExperiment> = state
            .iter()
            .filter_map(|guarded: &Arc<Guarded>| guarded.0.as_ref().ok())
            .collect();
        experiments.sort_by_key(|experiment| (experiment.namespace(), experiment.name_any()));
        encode_results(&mut encoder, &experiments)
    }
}

fn encode_results(encoder: &mut DescriptorEncoder<'_>, experiments: &[&EfficiencyExperiment]) -> fmt::Result {
    for name in PUBLISHED {
        let Some(definition) = lem_crds::metrics::definition(name) else {
            continue;
        };
        let help = format!("{} Mean over cycles", definition.description);
        let full_name = format!("point_{name}");
        let mut metric = encoder.encode_descriptor(&full_name, &help, None, MetricType::Gauge)?;
        for experiment in experiments {
            for point in points(experiment) {
                if let Some(estimate) = point.metrics.get(name) {
                    let labels = labels(experiment, point);
                    let family = metric.encode_family(&labels)?;
                    ConstGauge::new(estimate.mean).encode(family)?;
                }
            }
        }
    }
    let help = "0 valid, 1 suspect, 2 invalid";
    let mut metric = encoder.encode_descriptor("point_verdict", help, None, MetricType::Gauge)?;
    for experiment in experiments {
        for point in points(experiment) {
            let value: i64 = match point.verdict {
                Verdict::Valid => 0,
                Verdict::Suspect => 1,
                Verdict::Invalid => 2,
            };
            ConstGauge::new(value).encode(metric.encode_family(&labels(experiment, point))?)?;
        }
    }
    for (name, help, of) in PROGRESS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for experiment in experiments {
            let value = experiment.status.as_ref().map_or(0, |status| of(&status.progress));
            let labels = [
                ("namespace", experiment.namespace().unwrap_or_default()),
                ("experiment", experiment.name_any()),
            ];
            ConstGauge::new(i64::from(value)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

type Count = fn(&lem_crds::status::Progress) -> u32;
const PROGRESS: [(&str, &str, Count); 3] = [
    ("experiment_trials_planned", "Trials planned", |progress| {
        progress.planned
    }),
    ("experiment_trials_finished", "Trials with a result", |progress| {
        progress.finished
    }),
    ("experiment_trials_retried", "Trials repeated", |progress| {
        progress.retried
    }),
];

fn points(experiment: &EfficiencyExperiment) -> impl Iterator<Item = &PointResult> {
    experiment.status.iter().flat_map(|status| &status.points)
}

fn labels(experiment: &EfficiencyExperiment, point: &PointResult) -> [(&'static str, String); 5] {
    [
        ("namespace", experiment.namespace().unwrap_or_default()),
        ("experiment", experiment.name_any()),
        ("model", experiment.spec.model.name.clone()),
        ("point", point.index.to_string()),
        ("node_class", point.node_class.clone()),
    ]
}
