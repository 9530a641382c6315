//! One row per trial, for spreadsheets and data frames.

use std::collections::BTreeSet;

use lem_crds::metrics::DEFINITIONS;

use super::{Report, ReportError, facts};
use crate::experiment::summary::MeasuredTrial;

/// One row per trial: identity, the node where each is measured by itself, swept values (`value.<field>`), verdict, scope, every metric under its METHODOLOGY name
/// (empty for null), and the reasons of the nulls in `not_available`.
pub fn csv(report: &Report<'_>) -> Result<String, ReportError> {
    let fields: BTreeSet<&str> = report
        .status
        .points
        .iter()
        .flat_map(|point| point.values.keys().map(String::as_str))
        .collect();
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(header(&fields)).map_err(ReportError::Csv)?;
    for trial in report.trials {
        writer
            .write_record(row(report, &fields, trial))
            .map_err(ReportError::Csv)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| ReportError::CsvIncomplete(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| ReportError::CsvIncomplete(error.to_string()))
}

fn header(fields: &BTreeSet<&str>) -> Vec<String> {
    let mut header: Vec<String> = ["experiment", "model", "point"].map(str::to_owned).into();
    header.extend(fields.iter().map(|field| format!("value.{field}")));
    header.extend(
        [
            "node",
            "node_class",
            "plan_sha256",
            "cycle",
            "attempt",
            "verdict",
            "reasons",
            "processes",
            "energy_scope",
            "energy_sources",
            "flops_method",
            "flops_confidence",
        ]
        .map(str::to_owned),
    );
    header.extend(DEFINITIONS.iter().map(|definition| definition.name.to_owned()));
    header.push("not_available".to_owned());
    header
}

fn row(report: &Report<'_>, fields: &BTreeSet<&str>, measured: &MeasuredTrial) -> Vec<String> {
    let MeasuredTrial {
        point: index,
        node,
        result: trial,
    } = measured;
    let point = report.point(*index);
    let class = node.as_ref().map(|node| &node.class).or(point.map(|p| &p.node_class));
    let of_point = |value: Option<&String>| value.map(|text| harmless(text)).unwrap_or_default();
    let mut row = vec![
        harmless(report.experiment_name),
        harmless(report.model),
        index.to_string(),
    ];
    row.extend(
        fields
            .iter()
            .map(|field| of_point(point.and_then(|p| p.values.get(*field)))),
    );
    let reasons: Vec<String> = trial
        .reasons
        .iter()
        .map(|reason| format!("{:?}: {}", reason.doubt, reason.message))
        .collect();
    row.extend([
        of_point(node.as_ref().map(|node| &node.name)),
        of_point(class),
        of_point(point.map(|p| &p.plan_sha256)),
        trial.cycle.to_string(),
        trial.attempt.to_string(),
        facts::name(&trial.verdict),
        harmless(&reasons.join("; ")),
        trial.processes.to_string(),
        trial.energy_scope.join("+"),
        trial.energy_sources.join("+"),
        trial
            .flops_method
            .map(|m| facts::name(&m).to_lowercase())
            .unwrap_or_default(),
        trial
            .flops_confidence
            .map(|c| facts::name(&c).to_lowercase())
            .unwrap_or_default(),
    ]);
    row.extend(
        trial
            .metrics
            .iter()
            .map(|(_, value)| value.map(f64::to_string).unwrap_or_default()),
    );
    let nulls: Vec<String> = trial
        .metrics
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(definition, _)| {
            let reason = facts::reason_for_null(&trial.not_available, definition);
            format!("{}={}", definition.name, facts::reason_text(reason))
        })
        .collect();
    row.push(nulls.join("; "));
    row
}

/// Text that no spreadsheet takes for a formula.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err() {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::Fixture;

    fn parsed(text: &str) -> (::csv::StringRecord, Vec<::csv::StringRecord>) {
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        (header, reader.records().map(Result::unwrap).collect())
    }

    #[test]
    fn every_trial_is_a_row_with_every_metric_to_the_last_bit() {
        let fixture = Fixture::new();
        let report = fixture.report();
        let (header, rows) = parsed(&csv(&report).unwrap());
        assert_eq!(rows.len(), report.trials.len());
        for (trial, row) in report.trials.iter().zip(&rows) {
            for (definition, value) in trial.result.metrics.iter() {
                let column = header.iter().position(|name| name == definition.name).unwrap();
                assert_eq!(row[column].parse().ok().as_ref(), value, "{}", definition.name);
            }
        }
    }

    #[test]
    fn every_empty_metric_has_its_reason_in_the_row() {
        let fixture = Fixture::new();
        let (header, rows) = parsed(&csv(&fixture.report()).unwrap());
        let column = header.iter().position(|name| name == "not_available").unwrap();
        assert!(
            rows[0][column].contains("gpu_energy_j=NoDevice"),
            "{}",
            &rows[0][column]
        );
        assert!(!rows.iter().any(|row| row[column].contains("no reason given")));
    }

    #[test]
    fn swept_values_have_a_column_each() {
        let fixture = Fixture::new();
        let (header, rows) = parsed(&csv(&fixture.report()).unwrap());
        let column = header
            .iter()
            .position(|name| name == "value.workload.batchSize")
            .unwrap();
        assert_eq!(&rows[0][column], "1");
    }

    #[test]
    fn a_name_is_not_a_spreadsheet_formula() {
        let fixture = Fixture::new();
        let mut report = fixture.report();
        report.model = "=HYPERLINK(\"http://x\")";
        let (_, rows) = parsed(&csv(&report).unwrap());
        assert_eq!(&rows[0][1], "'=HYPERLINK(\"http://x\")");
        assert_eq!(harmless("-1.5"), "-1.5");
    }
}
