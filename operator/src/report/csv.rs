//! The table of trials as CSV.

use super::{
    Report, ReportError,
    trials::{Cells, TrialColumn, columns},
};

/// One row per trial: identity, the node where each is measured by itself, swept values (`value.<field>`), verdict, scope, every metric under its METHODOLOGY name
/// (empty for null), and the reasons of the nulls in `not_available`.
pub fn csv(report: &Report<'_>) -> Result<String, ReportError> {
    let columns = columns(report);
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer
        .write_record(columns.iter().map(|column| &column.name))
        .map_err(ReportError::Csv)?;
    for row in 0..report.trials.len() {
        writer
            .write_record(columns.iter().map(|column| cell(column, row)))
            .map_err(ReportError::Csv)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| ReportError::CsvIncomplete(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| ReportError::CsvIncomplete(error.to_string()))
}

fn cell(column: &TrialColumn, row: usize) -> String {
    let text = match &column.cells {
        Cells::Text(texts) => texts[row].as_deref().map(harmless),
        Cells::Integer(numbers) => numbers[row].map(|number| number.to_string()),
        Cells::Number(numbers) => numbers[row].map(|number| number.to_string()),
    };
    text.unwrap_or_default()
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
    use crate::{
        experiment::{plan, tests::fixtures::spec},
        report::fixture::Fixture,
    };

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
    fn a_trial_whose_point_is_not_in_the_status_has_its_values_and_its_plan_from_the_plan() {
        let spec = spec(&serde_json::json!({
            "sweep": [{"field": "workload.maxOutputTokens", "values": [16, 32, 48, 64]}],
        }));
        let points = plan(&spec).unwrap();
        let mut fixture = Fixture::new();
        fixture.status.points.clear();
        let report = Report {
            points: &points,
            ..fixture.report()
        };
        let (header, rows) = parsed(&csv(&report).unwrap());
        let column = |name: &str| header.iter().position(|known| known == name).unwrap();
        let (value, hash) = (column("value.workload.maxOutputTokens"), column("plan_sha256"));
        for (trial, row) in report.trials.iter().zip(&rows) {
            let point = &points[trial.point as usize];
            assert_eq!(&row[value], point.values["workload.maxOutputTokens"]);
            assert_eq!(&row[hash], point.plan_sha256);
        }
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
