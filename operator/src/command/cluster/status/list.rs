//! Experiments, one a row. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment,
    status::{ExperimentPhase, Headline},
};
use serde::Serialize;

use super::waiting::{Waiting, waiting};
use crate::command::cluster::table;

/// One experiment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    namespace: String,
    name: String,
    created: Option<Timestamp>,
    phase: ExperimentPhase,
    planned: u32,
    finished: u32,
    headline: Option<Headline>,
    waiting: Option<Waiting>,
}

impl Row {
    pub(super) fn of(experiment: &EfficiencyExperiment) -> Self {
        let status = experiment.status.clone().unwrap_or_default();
        Self {
            namespace: experiment.namespace().unwrap_or_default(),
            name: experiment.name_any(),
            created: experiment.creation_timestamp().map(|time| time.0),
            phase: status.phase,
            planned: status.progress.planned,
            finished: status.progress.finished,
            headline: status.headline,
            waiting: waiting(experiment),
        }
    }
}

/// The rows as a table, with the namespace where there may be several.
pub(super) fn text(rows: &[Row], with_namespace: bool, now: Timestamp, width: Option<u16>) -> String {
    let headings = [
        "NAMESPACE",
        "NAME",
        "PHASE",
        "TRIALS",
        "J/TOKEN",
        "TOKENS/S",
        "VERDICT",
        "AGE",
        "WAITING",
    ];
    let first = usize::from(!with_namespace);
    let cells = |row: &Row| {
        let headline = row.headline.clone().unwrap_or_default();
        let waiting = row.waiting.as_ref().filter(|waiting| waiting.is_stalled);
        let cells = [
            row.namespace.clone(),
            row.name.clone(),
            format!("{:?}", row.phase),
            format!("{}/{}", row.finished, row.planned),
            headline.joules_per_token,
            headline.tokens_per_second,
            headline.verdict,
            row.created
                .map_or(String::new(), |at| table::age(now.duration_since(at).as_secs())),
            waiting.map_or(String::new(), |waiting| waiting.reason.clone()),
        ];
        cells[first..].to_vec()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::columns(&headings[first..], &rows, width)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_says_how_far_each_is_what_it_found_and_what_it_waits_for() {
        let of = |name: &str, created: &str, status: serde_json::Value| {
            let object = json!({
                "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment",
                "metadata": {"name": name, "namespace": "lab", "creationTimestamp": created},
                "spec": {"model": {"name": "m", "source": {"synthetic": {"preset": "tiny-test"}}}},
                "status": status,
            });
            Row::of(&serde_json::from_value(object).unwrap())
        };
        let rows = [
            of(
                "done",
                "2026-01-01T00:00:00Z",
                json!({"phase": "Complete", "observedGeneration": 1,
                "progress": {"planned": 6, "finished": 6, "retried": 0, "summary": "6/6"},
                "headline": {"joulesPerToken": "0.41 (nvml)", "tokensPerSecond": "812", "verdict": "Valid"}}),
            ),
            of(
                "held",
                "2026-01-01T00:09:00Z",
                json!({"phase": "Starting", "observedGeneration": 1,
                "progress": {"planned": 3, "finished": 0, "retried": 0, "summary": "0/3"},
                "conditions": [{"type": "Stalled", "status": "True", "reason": "NodeBusy", "message": "",
                    "lastTransitionTime": "2026-01-01T00:09:00Z"}]}),
            ),
        ];
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        insta::assert_snapshot!(text(&rows, false, now, None));
        assert!(text(&rows, true, now, None).starts_with("NAMESPACE  NAME"));
    }
}
