//! How each schedule stands to its baseline: from its status. Pure but for the cache.

use std::fmt;

use kube::{ResourceExt, runtime::reflector::Store};
use lem_crds::{EfficiencySchedule, schedule::ScheduledChange};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::{
    super::schedule::GuardedSchedule,
    family::{Description, Labels, gauges},
};

/// Schedules, straight from the cache.
pub(super) struct Schedules(pub(super) Store<GuardedSchedule>);

impl fmt::Debug for Schedules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Schedules")
    }
}

impl Collector for Schedules {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.0.state();
        let mut schedules: Vec<&EfficiencySchedule> = state.iter().filter_map(|one| one.0.as_ref().ok()).collect();
        schedules.sort_by_key(|schedule| (schedule.namespace(), schedule.name_any()));
        encode(&mut encoder, &schedules)
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, schedules: &[&EfficiencySchedule]) -> fmt::Result {
    let regressed = schedules
        .iter()
        .filter_map(|schedule| Some((labels(schedule), regressed(schedule)?)));
    let description = Description::new(
        "schedule_regressed",
        "1 where the last experiment of a schedule is worse than its baseline",
    );
    gauges(encoder, &description, regressed)?;
    let ratios = schedules.iter().filter_map(|schedule| {
        let worst = worst(schedule)?;
        let mut labels = labels(schedule);
        labels.push(("metric", worst.metric.clone()));
        Some((labels, worst.ratio))
    });
    let description = Description::new(
        "schedule_worst_ratio",
        "The worst metric of a schedule's last experiment over the baseline",
    );
    gauges(encoder, &description, ratios)?;
    let times = schedules.iter().filter_map(|schedule| {
        let at = schedule.status.as_ref()?.last_schedule_time?;
        Some((labels(schedule), at.as_second() as f64))
    });
    let description = Description::new(
        "schedule_last_run_timestamp",
        "The time for which a schedule has created its last experiment, as a Unix time",
    );
    gauges(encoder, &description.in_unit(Unit::Seconds), times)
}

/// `None` where nothing is known: a zero would say that the last experiment is not worse.
fn regressed(schedule: &EfficiencySchedule) -> Option<f64> {
    let conditions = schedule.status.iter().flat_map(|status| &status.conditions);
    let mut found = conditions.filter(|condition| condition.type_ == "Regressed");
    match found.next()?.status.as_str() {
        "True" => Some(1.0),
        "False" => Some(0.0),
        _ => None,
    }
}

/// `None` where nothing is known: the worst of some points falls when the worst of all cannot be compared.
fn worst(schedule: &EfficiencySchedule) -> Option<&ScheduledChange> {
    regressed(schedule)?;
    schedule.status.as_ref()?.series.last()?.worst.as_ref()
}

fn labels(schedule: &EfficiencySchedule) -> Labels {
    vec![
        ("namespace", schedule.namespace().unwrap_or_default()),
        ("schedule", schedule.name_any()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A schedule whose last experiment has been compared at one of two points.
    fn with(status: &str) -> EfficiencySchedule {
        serde_json::from_value(json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencySchedule", "metadata": {"name": "nightly"},
            "spec": {"schedule": "0 3 * * *", "experimentTemplate": {
                "spec": {"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}}}}},
            "status": {
                "conditions": [{"type": "Regressed", "status": status, "reason": "Any", "message": "",
                    "lastTransitionTime": "2026-11-27T03:00:00Z"}],
                "series": [{"experiment": "nightly-1", "experimentUid": "uid", "phase": "Complete", "compared": 1,
                    "better": 0, "worse": 0, "refused": 0, "unmatched": 1, "message": "",
                    "worst": {"point": 0, "nodeClass": "any", "metric": "joulesPerToken", "ratio": 1.0,
                        "lower": 0.9, "upper": 1.1}}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_regression_that_is_unknown_is_not_published_as_none() {
        let published = ["True", "False", "Unknown"].map(|status| regressed(&with(status)));
        assert_eq!(published, [Some(1.0), Some(0.0), None]);
    }

    #[test]
    fn the_worst_ratio_of_a_part_of_the_points_is_not_published_as_that_of_all() {
        let published = ["True", "False", "Unknown"].map(|status| worst(&with(status)).is_some());
        assert_eq!(published, [true, true, false]);
    }
}
