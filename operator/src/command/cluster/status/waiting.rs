//! Why an experiment is not measuring. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use serde::Serialize;

use crate::controller::aggregate::is_over;

/// Why nothing is measured at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::command::cluster) struct Waiting {
    /// In a word.
    pub(in crate::command::cluster) reason: String,
    /// In a sentence, with the next step if the user has to take one.
    pub(in crate::command::cluster) message: String,
    /// Since when.
    pub(in crate::command::cluster) since: Option<Timestamp>,
    /// Nothing happens until somebody acts or something else ends.
    pub(in crate::command::cluster) is_stalled: bool,
}

/// Why an experiment is not measuring; nothing for one that is, or that is over.
pub(in crate::command::cluster) fn waiting(experiment: &EfficiencyExperiment) -> Option<Waiting> {
    let created = experiment.creation_timestamp().map(|time| time.0);
    let seen = experiment
        .status
        .as_ref()
        .filter(|status| status.observed_generation.is_some());
    let Some(status) = seen else {
        return Some(Waiting {
            reason: "NotSeen".to_owned(),
            message: "no operator has looked at it yet".to_owned(),
            since: created,
            is_stalled: false,
        });
    };
    if is_over(status.phase) {
        return None;
    }
    let found = |kind: &str, wanted: &str, is_stalled: bool| {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == wanted)?;
        Some(Waiting {
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: Some(condition.last_transition_time.0),
            is_stalled,
        })
    };
    let loading = || {
        (status.phase == ExperimentPhase::Starting)
            .then(|| found("Measuring", "False", false))
            .flatten()
    };
    found("Validated", "False", true)
        .or_else(|| found("Stalled", "True", true))
        .or_else(|| found("Suspended", "True", true))
        .or_else(|| found("Scheduled", "False", false))
        .or_else(loading)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn why(status: &Value) -> Option<String> {
        let object = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment", "metadata": {"name": "quick"},
            "spec": {"model": {"name": "m", "source": {"synthetic": {"preset": "tiny-test"}}}},
            "status": status,
        });
        waiting(&serde_json::from_value(object).unwrap()).map(|waiting| waiting.reason)
    }

    fn status(phase: &str, conditions: &[(&str, &str, &str)]) -> Value {
        let condition = |(kind, status, reason): &(&str, &str, &str)| {
            json!({"type": kind, "status": status, "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        json!({"phase": phase, "observedGeneration": 1, "conditions": conditions})
    }

    #[test]
    fn an_experiment_that_nobody_has_looked_at_waits_for_an_operator() {
        assert_eq!(why(&json!({})).as_deref(), Some("NotSeen"));
    }

    #[test]
    fn what_stands_in_the_way_goes_before_what_is_merely_being_done() {
        let placing = ("Scheduled", "False", "Placing");
        let stalled = ("Stalled", "True", "GpuMissing");
        assert_eq!(why(&status("Starting", &[placing])).as_deref(), Some("Placing"));
        assert_eq!(
            why(&status("Starting", &[placing, stalled])).as_deref(),
            Some("GpuMissing")
        );
        let refused = ("Validated", "False", "Refused");
        assert_eq!(why(&status("Pending", &[refused])).as_deref(), Some("Refused"));
        let asked = [("Scheduled", "False", "Suspended"), ("Suspended", "True", "Asked")];
        assert_eq!(why(&status("Suspended", &asked)).as_deref(), Some("Asked"));
    }

    #[test]
    fn one_that_measures_or_is_over_does_not_wait() {
        let measuring = [
            ("Scheduled", "True", "Placed"),
            ("Measuring", "True", "Trial"),
            ("Stalled", "False", "Progressing"),
        ];
        assert_eq!(why(&status("Measuring", &measuring)), None);
        // Between two trials nothing is measured for a moment, but nothing is waited for.
        let between = [("Scheduled", "True", "Placed"), ("Measuring", "False", "Loading")];
        assert_eq!(why(&status("Measuring", &between)), None);
        assert_eq!(why(&status("Failed", &[("Scheduled", "False", "Over")])), None);
    }
}
