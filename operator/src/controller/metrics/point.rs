//! Results of points, straight from the status: a result is gone when its experiment is gone. Pure.

use std::fmt;

use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment,
    metrics::{Estimate, MetricSet},
    plan,
    status::{PointResult, Verdict},
};
use prometheus_client::{encoding::DescriptorEncoder, registry::Unit};

use super::family::{Description, Labels, gauges};

/// How a metric of METHODOLOGY is exposed: in base units, which are part of the name.
struct Published {
    /// Its name in METHODOLOGY.
    metric: &'static str,
    /// Its name here, without prefix and unit.
    name: &'static str,
    /// Base unit, where the name does not hold it.
    unit: Option<&'static str>,
    /// From METHODOLOGY's unit to the base unit.
    scale: f64,
}

const fn plain(metric: &'static str, name: &'static str) -> Published {
    Published {
        metric,
        name,
        unit: None,
        scale: 1.0,
    }
}

const fn in_unit(metric: &'static str, name: &'static str, unit: &'static str, scale: f64) -> Published {
    Published {
        metric,
        name,
        unit: Some(unit),
        scale,
    }
}

const MILLI: f64 = 1e-3;
const PER_CENT: f64 = 1e-2;

/// The headline metrics; the rest is in the status.
const PUBLISHED: &[Published] = &[
    plain("joules_per_token", "joules_per_token"),
    plain("joules_per_output_token", "joules_per_output_token"),
    plain("adjusted_joules_per_token", "adjusted_joules_per_token"),
    plain("tokens_per_joule", "tokens_per_joule"),
    plain("output_tokens_per_joule", "output_tokens_per_joule"),
    plain("effective_throughput", "throughput_tokens_per_second"),
    plain("effective_output_throughput", "output_throughput_tokens_per_second"),
    in_unit("total_energy_j", "total_energy", "joules", 1.0),
    in_unit("total_power_w", "total_power", "watts", 1.0),
    in_unit("idle_power_w", "idle_power", "watts", 1.0),
    plain("flops_per_second", "flop_per_second"),
    plain("flop_per_joule", "flop_per_joule"),
    plain("flop_per_token", "flop_per_token"),
    in_unit("ttft_ms", "ttft_mean", "seconds", MILLI),
    in_unit("ttft_p95_ms", "ttft_p95", "seconds", MILLI),
    in_unit("itl_ms", "itl_mean", "seconds", MILLI),
    in_unit("itl_p95_ms", "itl_p95", "seconds", MILLI),
    in_unit("tpot_ms", "tpot", "seconds", MILLI),
    in_unit("e2e_latency_median_ms", "e2e_latency_median", "seconds", MILLI),
    in_unit("e2e_latency_p95_ms", "e2e_latency_p95", "seconds", MILLI),
    in_unit("send_latency_mean_ms", "send_latency_mean", "seconds", MILLI),
    in_unit("send_latency_p95_ms", "send_latency_p95", "seconds", MILLI),
    plain("token_efficiency_index", "token_efficiency_index"),
    plain("watts_per_token_per_second", "watts_per_token_per_second"),
    plain("gco2e_per_1k_tokens", "gco2e_grams_per_1k_tokens"),
    plain("cost_per_1m_tokens", "cost_per_1m_tokens"),
    in_unit("start_skew_ms", "start_skew", "seconds", MILLI),
    in_unit("temporal_overlap", "temporal_overlap", "ratio", 1.0),
    in_unit("duty_cycle", "duty_cycle", "ratio", 1.0),
    plain("tokens_per_gb_vram", "tokens_per_gib_vram"),
    in_unit("sm_utilisation_mean", "sm_utilisation", "ratio", PER_CENT),
    in_unit("batch_utilisation", "batch_utilisation", "ratio", 1.0),
    in_unit("kv_cache_hit_rate", "kv_cache_hit", "ratio", 1.0),
    in_unit("mfu", "mfu", "ratio", 1.0),
    in_unit("mbu", "mbu", "ratio", 1.0),
];

/// A metric that there is once per domain.
struct ByDomain {
    name: &'static str,
    unit: &'static str,
    /// Label and metric of METHODOLOGY.
    domains: [(&'static str, &'static str); 3],
}

const BY_DOMAIN: [ByDomain; 2] = [
    ByDomain {
        name: "energy",
        unit: "joules",
        domains: [
            ("gpu", "gpu_energy_j"),
            ("cpu", "cpu_energy_j"),
            ("dram", "dram_energy_j"),
        ],
    },
    ByDomain {
        name: "power",
        unit: "watts",
        domains: [("gpu", "gpu_power_w"), ("cpu", "cpu_power_w"), ("dram", "dram_power_w")],
    },
];

/// Mean over cycles, and the bounds of its 95 % interval: suffix, words, value.
type Statistic = (&'static str, &'static str, fn(&Estimate) -> Option<f64>);
const STATISTICS: [Statistic; 3] = [
    ("", "Mean over cycles", |estimate| Some(estimate.mean)),
    ("_lower", "Lower bound of the 95 % interval of the mean", |estimate| {
        estimate.lower
    }),
    ("_upper", "Upper bound of the 95 % interval of the mean", |estimate| {
        estimate.upper
    }),
];

/// Writes the results of every point of every experiment.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, experiments: &[&EfficiencyExperiment]) -> fmt::Result {
    let points: Vec<Row<'_>> = experiments.iter().copied().flat_map(rows).collect();
    for published in PUBLISHED {
        let definition = lem_crds::metrics::definition(published.metric);
        let description = definition.map_or("", |definition| definition.description);
        for (suffix, statistic, of) in STATISTICS {
            let series = points.iter().filter_map(|row| {
                let value = of(row.metrics.get(published.metric)?)?;
                Some((row.labels.clone(), value * published.scale))
            });
            let (name, help) = (published.name, format!("{statistic}: {}", unstopped(description)));
            family(encoder, name, published.unit, suffix, &help, series)?;
        }
    }
    for ByDomain { name, unit, domains } in BY_DOMAIN {
        for (suffix, statistic, of) in STATISTICS {
            let series = points.iter().flat_map(|row| {
                domains.iter().filter_map(move |(domain, metric)| {
                    let value = of(row.metrics.get(metric)?)?;
                    let mut labels = row.labels.clone();
                    labels.push(("domain", (*domain).to_owned()));
                    Some((labels, value))
                })
            });
            let help = format!("{statistic}: {name} of the distinct devices of a domain in one trial");
            family(encoder, name, Some(unit), suffix, &help, series)?;
        }
    }
    encode_doubts(encoder, &points)
}

/// A unit may be declared only where the name ends with it.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Option<&str>,
    suffix: &str,
    help: &str,
    series: impl Iterator<Item = (Labels, f64)>,
) -> fmt::Result {
    match (unit, suffix) {
        (Some(unit), "") => {
            let name = format!("point_{name}");
            let description = Description::new(&name, help).in_unit(Unit::Other(unit.to_owned()));
            gauges(encoder, &description, series)
        }
        (unit, suffix) => {
            let unit = unit.map_or_else(String::new, |unit| format!("_{unit}"));
            let name = format!("point_{name}{unit}{suffix}");
            gauges(encoder, &Description::new(&name, help), series)
        }
    }
}

fn encode_doubts(encoder: &mut DescriptorEncoder<'_>, points: &[Row<'_>]) -> fmt::Result {
    let of_each = |value: fn(&PointResult) -> Option<f64>| {
        points
            .iter()
            .filter_map(move |row| Some((row.labels.clone(), value(row.point)?)))
    };
    let verdict = Description::new(
        "point_verdict",
        "Whether the figures can be acted on: 0 valid, 1 suspect, 2 invalid",
    );
    gauges(encoder, &verdict, of_each(|point| Some(verdict_number(point.verdict))))?;
    let cycles = Description::new("point_cycles", "Cycles with a usable result");
    gauges(encoder, &cycles, of_each(|point| Some(f64::from(point.cycles))))?;
    let measured = Description::new(
        "point_measured_timestamp",
        "When the last trial of the point ended, as a Unix time",
    );
    let measured_at = of_each(|point| Some(point.measured_at?.as_duration().as_secs_f64()));
    gauges(encoder, &measured.in_unit(Unit::Seconds), measured_at)?;
    let doubts = points.iter().flat_map(|row| {
        row.point.reasons.iter().map(|reason| {
            let mut labels = row.labels.clone();
            labels.push(("doubt", <&str>::from(reason.doubt).to_owned()));
            (labels, 1.0)
        })
    });
    let doubt = Description::new("point_doubt", "1 for each reason of a verdict");
    gauges(encoder, &doubt, doubts)
}

fn verdict_number(verdict: Verdict) -> f64 {
    match verdict {
        Verdict::Valid => 0.0,
        Verdict::Suspect => 1.0,
        Verdict::Invalid => 2.0,
    }
}

struct Row<'a> {
    point: &'a PointResult,
    metrics: &'a MetricSet<Estimate>,
    labels: Labels,
}

fn rows(experiment: &EfficiencyExperiment) -> impl Iterator<Item = Row<'_>> {
    let points = experiment.status.iter().flat_map(|status| &status.points);
    points.map(|point| Row {
        point,
        metrics: &point.metrics,
        labels: labels(experiment, &plan::label(&point.values), &point.node_class),
    })
}

/// The labels of a point: bounded, no pod and no UID.
pub(super) fn labels(experiment: &EfficiencyExperiment, point: &str, node_class: &str) -> Labels {
    vec![
        ("namespace", experiment.namespace().unwrap_or_default()),
        ("experiment", experiment.name_any()),
        ("model", experiment.spec.model.name.clone()),
        ("engine", experiment.spec.engine.name().to_owned()),
        ("point", point.to_owned()),
        ("node_class", node_class.to_owned()),
    ]
}

fn unstopped(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::PUBLISHED;

    #[test]
    fn every_published_metric_is_one_of_the_methodology_in_a_base_unit() {
        for published in PUBLISHED {
            let definition = lem_crds::metrics::definition(published.metric);
            let definition = definition.unwrap_or_else(|| unreachable!("{} is not defined", published.metric));
            let expected = match definition.unit {
                "ms" => 1e-3,
                "%" => 1e-2,
                _ => 1.0,
            };
            assert!((published.scale - expected).abs() < 1e-12, "{}", published.metric);
            let whole = format!("{}_{}", published.name, published.unit.unwrap_or_default());
            for small in ["_ms", "_percent", "_mj", "_j_", "_w_"] {
                assert!(!whole.contains(small), "{whole} is not in a base unit");
            }
        }
    }
}
