//! Two results side by side (METHODOLOGY §11): a ratio with its interval and a conclusion, never a bare percentage.

use std::fmt::Write as _;

use serde::Serialize;

use super::{ReportError, facts, markdown::escaped, number, terminal::styled_table};

/// One metric of two results.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparisonRow {
    /// Name of the metric, or of metric and point, or of a point that only one of the results has.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Mean of the left result; null if it has none.
    pub left_mean: Option<f64>,
    /// Mean of the right result; null if it has none.
    pub right_mean: Option<f64>,
    /// Right over left, geometric; null where the comparison is refused.
    pub ratio: Option<f64>,
    /// Lower bound of the ratio's 95 % interval.
    pub lower: Option<f64>,
    /// Upper bound of the ratio's 95 % interval.
    pub upper: Option<f64>,
    /// What follows.
    pub conclusion: Conclusion,
}

/// What follows from a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "reason", rename_all = "camelCase")]
pub enum Conclusion {
    /// The right result is better than the left.
    Better,
    /// The right result is worse than the left.
    Worse,
    /// The interval of the ratio contains 1.
    NoDifferenceShown,
    /// The two must not be compared, and why.
    Refused(String),
}

impl Conclusion {
    fn text(&self) -> String {
        match self {
            Self::Better => "better".to_owned(),
            Self::Worse => "worse".to_owned(),
            Self::NoDifferenceShown => "no difference shown".to_owned(),
            Self::Refused(reason) => format!("refused: {}", facts::printable(reason)),
        }
    }

    const fn color(&self) -> comfy_table::Color {
        match self {
            Self::Better => comfy_table::Color::Green,
            Self::Worse => comfy_table::Color::Red,
            Self::NoDifferenceShown => comfy_table::Color::Reset,
            Self::Refused(_) => comfy_table::Color::Yellow,
        }
    }
}

const RATIO_HEADING: &str = "right / left (95 % interval)";

/// A comparison as a table of at most `width` columns; `left` and `right` name the two results.
pub fn comparison_terminal(left: &str, right: &str, rows: &[ComparisonRow], color: bool, width: Option<u16>) -> String {
    use comfy_table::{Cell, CellAlignment::Right};
    let mut table = styled_table(color, width);
    table.set_header(["metric", "unit", "left", "right", RATIO_HEADING, "right is"]);
    for row in rows {
        table.add_row([
            Cell::new(facts::printable(&row.metric)),
            Cell::new(facts::printable(&row.unit)),
            Cell::new(mean(row.left_mean)).set_alignment(Right),
            Cell::new(mean(row.right_mean)).set_alignment(Right),
            Cell::new(ratio(row)).set_alignment(Right),
            Cell::new(row.conclusion.text()).fg(row.conclusion.color()),
        ]);
    }
    format!(
        "left: {}\nright: {}\n\n{table}\n",
        facts::printable(left),
        facts::printable(right)
    )
}

/// A comparison as a Markdown table.
pub fn comparison_markdown(left: &str, right: &str, rows: &[ComparisonRow]) -> String {
    let mut text = format!(
        "left: {}, right: {}\n\n| metric | unit | left | right | {RATIO_HEADING} | right is |\n\
         |---|---|--:|--:|--:|---|\n",
        escaped(left),
        escaped(right)
    );
    for row in rows {
        let cells = [
            escaped(&row.metric),
            escaped(&row.unit),
            mean(row.left_mean),
            mean(row.right_mean),
            ratio(row),
            escaped(&row.conclusion.text()),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// A comparison as JSON: `{schemaVersion, left, right, rows}`.
pub fn comparison_json(left: &str, right: &str, rows: &[ComparisonRow]) -> Result<String, ReportError> {
    serde_json::to_string_pretty(&serde_json::json!({
        "schemaVersion": super::JSON_SCHEMA_VERSION,
        "left": left,
        "right": right,
        "rows": rows,
    }))
    .map_err(ReportError::Json)
}

fn mean(value: Option<f64>) -> String {
    value.map_or_else(|| number::NOTHING.to_owned(), number::plain)
}

fn ratio(row: &ComparisonRow) -> String {
    match (row.ratio, row.lower, row.upper) {
        (Some(ratio), Some(lower), Some(upper)) => {
            let decimals = if upper - lower < 0.02 { 4 } else { 3 };
            let fixed = |value| number::fixed(value, decimals);
            format!("{} ({} … {})", fixed(ratio), fixed(lower), fixed(upper))
        }
        (Some(ratio), ..) => format!("{} (no interval)", number::fixed(ratio, 3)),
        _ => number::NOTHING.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<ComparisonRow> {
        let row = |metric: &str, unit: &str, ratio: Option<(f64, f64, f64)>, conclusion| ComparisonRow {
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            left_mean: Some(0.413_26),
            right_mean: ratio.map(|r| 0.413_26 * r.0),
            ratio: ratio.map(|r| r.0),
            lower: ratio.map(|r| r.1),
            upper: ratio.map(|r| r.2),
            conclusion,
        };
        vec![
            row(
                "joules_per_token",
                "J/tok",
                Some((0.91, 0.88, 0.94)),
                Conclusion::Better,
            ),
            row("ttft_ms", "ms", Some((1.2, 1.1, 1.3)), Conclusion::Worse),
            row(
                "tokens_per_second",
                "tok/s",
                Some((1.001, 0.996, 1.006)),
                Conclusion::NoDifferenceShown,
            ),
            row(
                "total_energy_j",
                "J",
                None,
                Conclusion::Refused("energy scope differs: cpu against cpu + gpu".to_owned()),
            ),
        ]
    }

    #[test]
    fn a_comparison_shows_every_ratio_with_its_interval_and_every_refusal_with_its_reason() {
        insta::assert_snapshot!(comparison_terminal("baseline", "candidate", &rows(), false, Some(120)));
        let text = comparison_markdown("base|line", "candidate", &rows());
        assert!(
            text.contains("base\\|line") && text.contains("0.910 (0.880 … 0.940)"),
            "{text}"
        );
        assert!(text.contains("refused: energy scope differs"), "{text}");
    }

    #[test]
    fn a_refusal_keeps_its_reason_in_json() {
        let value: serde_json::Value = serde_json::from_str(&comparison_json("a", "b", &rows()).unwrap()).unwrap();
        assert_eq!(value["rows"][0]["conclusion"]["kind"], "better");
        assert_eq!(value["rows"][3]["conclusion"]["kind"], "refused");
        assert!(
            value["rows"][3]["conclusion"]["reason"]
                .as_str()
                .unwrap()
                .contains("scope")
        );
        assert!(value["rows"][3]["ratio"].is_null());
    }
}
