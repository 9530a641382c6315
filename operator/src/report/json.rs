//! The result for programs.

use lem_crds::{EfficiencyExperimentStatus, status::TrialResult};
use serde::Serialize;

use super::{Report, ReportError};

/// Version of the JSON report; raised when a field changes its meaning or goes away.
pub const JSON_SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u32,
    generated_by: &'a str,
    experiment: &'a str,
    model: &'a str,
    status: &'a EfficiencyExperimentStatus,
    trials: Vec<TrialOfPoint<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialOfPoint<'a> {
    point: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_class: Option<&'a str>,
    #[serde(flatten)]
    trial: &'a TrialResult,
}

/// The whole result as one JSON document: `{schemaVersion, generatedBy, experiment, model, status, trials}`.
pub fn json(report: &Report<'_>) -> Result<String, ReportError> {
    let document = Document {
        schema_version: JSON_SCHEMA_VERSION,
        generated_by: report.generated_by,
        experiment: report.experiment_name,
        model: report.model,
        status: report.status,
        trials: report
            .trials
            .iter()
            .map(|trial| TrialOfPoint {
                point: trial.point,
                node: trial.node.as_ref().map(|node| node.name.as_str()),
                node_class: trial.node.as_ref().map(|node| node.class.as_str()),
                trial: &trial.result,
            })
            .collect(),
    };
    serde_json::to_string_pretty(&document).map_err(ReportError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn the_json_report_gives_status_and_trials_back_unchanged() {
        let fixture = Fixture::new();
        let report = fixture.report();
        let value: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(value["schemaVersion"], 1);
        let status: EfficiencyExperimentStatus = serde_json::from_value(value["status"].clone()).unwrap();
        assert_eq!(&status, report.status);
        for (trial, row) in report.trials.iter().zip(value["trials"].as_array().unwrap()) {
            assert_eq!(row["point"], trial.point);
            assert_eq!(
                serde_json::from_value::<TrialResult>(row.clone()).unwrap(),
                trial.result
            );
        }
    }
}
