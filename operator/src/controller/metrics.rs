//! What Prometheus sees: how the controller fares, how far each experiment is, and the finished results, read from the
//! caches at each scrape. Labels are bounded: no pod, no UID, no words of an error. Names end with their base unit.

mod api;
mod controller;
mod experiment;
mod family;
mod node;
mod point;
mod schedule;

use std::{fmt, sync::Arc};

use kube::{ResourceExt, core::DeserializeGuard, runtime::reflector::Store};
use lem_crds::{EfficiencyExperiment, Runner};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text::encode},
    registry::Registry,
};

pub use self::{
    api::{ApiMetrics, Counted},
    controller::ControllerMetrics,
    experiment::BASELINE_ANNOTATION,
};
use super::{schedule::GuardedSchedule, watch::Guarded};

/// Everything that is exposed.
pub fn registry(
    controller: &ControllerMetrics,
    api: &ApiMetrics,
    experiments: Store<Guarded>,
    runners: Store<DeserializeGuard<Runner>>,
    schedules: Store<GuardedSchedule>,
) -> Registry {
    let mut registry = Registry::with_prefix("lem");
    controller.register(&mut registry);
    api.register(&mut registry);
    registry.register_collector(Box::new(Results {
        experiments,
        runners,
        outliers: node::Outliers::default(),
    }));
    registry.register_collector(Box::new(schedule::Schedules(schedules)));
    registry
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

/// Experiments and their processes, straight from the caches.
struct Results {
    experiments: Store<Guarded>,
    runners: Store<DeserializeGuard<Runner>>,
    outliers: node::Outliers,
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
        let state = self.runners.state();
        let runners: Vec<&Runner> = state.iter().filter_map(|guarded| guarded.0.as_ref().ok()).collect();
        encode_results(&mut encoder, &experiments, &runners, &self.outliers)
    }
}

fn encode_results(
    encoder: &mut DescriptorEncoder<'_>,
    experiments: &[&EfficiencyExperiment],
    runners: &[&Runner],
    outliers: &node::Outliers,
) -> fmt::Result {
    point::encode(encoder, experiments)?;
    experiment::encode(encoder, experiments, runners)?;
    outliers.encode(encoder, experiments, runners)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{experiment::tests::fixtures, report::fixture::Fixture};

    /// Finished results without a cluster.
    #[derive(Debug)]
    struct Fixed(EfficiencyExperiment);

    impl Collector for Fixed {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
            encode_results(&mut encoder, &[&self.0], &[], &node::Outliers::default())
        }
    }

    fn exposed() -> String {
        let spec = fixtures::spec(&serde_json::json!({}));
        let mut experiment = EfficiencyExperiment::new("sweep", spec);
        experiment.metadata.namespace = Some("team".to_owned());
        let baseline = (BASELINE_ANNOTATION.to_owned(), "before".to_owned());
        experiment.metadata.annotations = Some([baseline].into());
        experiment.status = Some(Fixture::new().status);
        let mut registry = Registry::with_prefix("lem");
        registry.register_collector(Box::new(Fixed(experiment)));
        exposition(&registry).unwrap()
    }

    /// The series of one family: labels and value.
    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let of = |line: &'a str| line.strip_prefix(name).filter(|rest| rest.starts_with('{'));
        text.lines().filter_map(of).collect()
    }

    #[test]
    fn a_result_is_shown_with_its_interval_its_doubts_and_bounded_labels() {
        let text = exposed();
        for suffix in ["", "_lower", "_upper"] {
            let name = format!("lem_point_joules_per_token{suffix}");
            assert_eq!(series(&text, &name).len(), 4, "{name} in {text}");
        }
        assert!(!series(&text, "lem_point_doubt").is_empty(), "{text}");
        let names = text.lines().filter(|line| !line.starts_with('#'));
        let labels = names.flat_map(|line| line.split(['{', ',']).skip(1));
        let keys: BTreeSet<&str> = labels
            .filter_map(|label| label.split_once("=\"").map(|(key, _)| key))
            .collect();
        let bounded = [
            "namespace",
            "experiment",
            "model",
            "engine",
            "point",
            "node_class",
            "domain",
            "doubt",
            "verdict",
            "phase",
            "baseline",
        ];
        let others: Vec<_> = keys.iter().filter(|key| !bounded.contains(*key)).collect();
        assert!(others.is_empty(), "{others:?}");
    }

    #[test]
    fn a_family_says_what_it_is_and_ends_with_its_unit() {
        let text = exposed();
        let names: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let helped = |name: &&&str| !text.contains(&format!("# HELP {name} "));
        let without: Vec<_> = names.iter().filter(helped).collect();
        assert!(without.is_empty(), "{without:?}");
        let units = text
            .lines()
            .filter_map(|line| line.strip_prefix("# UNIT ")?.split_once(' '));
        for (name, unit) in units {
            assert!(name.ends_with(unit), "{name} is in {unit}");
        }
    }

    #[test]
    fn milliseconds_of_the_status_are_seconds_here() {
        let status = Fixture::new().status;
        let milliseconds = status.points[0].metrics.e2e_latency_p95_ms.as_ref().unwrap().mean;
        let text = exposed();
        let value = series(&text, "lem_point_e2e_latency_p95_seconds")[0]
            .rsplit(' ')
            .next()
            .unwrap();
        let seconds: f64 = value.parse().unwrap();
        assert!(
            (seconds * 1e3 - milliseconds).abs() < 1e-6,
            "{seconds} s, {milliseconds} ms"
        );
    }
}
