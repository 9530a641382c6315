//! The result in a terminal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use lem_crds::status::{PointResult, Verdict};

use super::{Report, choice, facts, fleet};

/// Below this many columns a table would break inside numbers, so each point becomes a block of lines.
const NARROW: u16 = 110;

/// The result per point as a table of at most `width` columns, followed by the reasons for every doubt and gap.
pub fn terminal(report: &Report<'_>, color: bool, width: Option<u16>) -> String {
    let mut text = format!(
        "{}  {}  {}\n\n",
        facts::printable(report.experiment_name),
        facts::printable(report.model),
        report.status.progress.summary
    );
    if report.status.points.is_empty() {
        text.push_str("No point has a result.\n");
    } else if width.is_some_and(|width| width < NARROW) {
        for point in &report.status.points {
            block(&mut text, report, point, color);
        }
    } else {
        let _ = writeln!(text, "{}", table(report, color, width));
    }
    remarks(&mut text, report, color);
    text
}

fn table(report: &Report<'_>, color: bool, width: Option<u16>) -> Table {
    let mut table = styled_table(color, width);
    let headings = ["#", "point"]
        .into_iter()
        .chain(facts::COLUMNS.iter().map(|c| c.heading));
    table.set_header(
        headings
            .chain(["verdict"])
            .map(|h| Cell::new(h).add_attribute(Attribute::Bold)),
    );
    for point in &report.status.points {
        let mut row = vec![Cell::new(point.index), Cell::new(facts::label(report, point))];
        for column in &facts::COLUMNS {
            row.push(Cell::new(value(point, column.name)).set_alignment(CellAlignment::Right));
        }
        row.push(Cell::new(facts::name(&point.verdict)).fg(cell_color(point.verdict)));
        table.add_row(row);
    }
    table
}

/// An empty table of the look that all tables of `lem` share.
pub(super) fn styled_table(color: bool, width: Option<u16>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if let Some(width) = width {
        table.set_width(width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

fn block(text: &mut String, report: &Report<'_>, point: &PointResult, color: bool) {
    let _ = writeln!(
        text,
        "{}  {}  {}",
        point.index,
        facts::label(report, point),
        painted(&facts::name(&point.verdict), point.verdict, color)
    );
    for column in &facts::COLUMNS {
        let _ = writeln!(text, "   {:<15} {}", column.heading, value(point, column.name));
    }
    text.push('\n');
}

/// A value as shown; energy per token always with its source.
fn value(point: &PointResult, name: &str) -> String {
    let shown = facts::shown(point, name);
    if name == "joules_per_token" && point.metrics.get(name).is_some() {
        format!(
            "{shown} ({})",
            facts::energy_source(&point.energy_scope, &point.energy_sources)
        )
    } else {
        shown
    }
}

fn remarks(text: &mut String, report: &Report<'_>, color: bool) {
    section(text, "In all points", facts::common_values(report).into_iter());
    let reasons = facts::reasons(report).into_iter().map(|reason| {
        let about = facts::about(&reason.points, report);
        let severity = painted(&facts::name(&reason.severity), reason.severity, color);
        format!("{severity} {:?}: {}{about}", reason.doubt, reason.message)
    });
    section(text, "Reasons", reasons);
    let missing = facts::missing(report).into_iter().map(|missing| {
        let about = facts::about(&missing.points, report);
        format!("— {}: {}{about}", missing.what, missing.reason)
    });
    section(text, "Not available", missing);
    section(
        text,
        "Warnings",
        report.status.warnings.iter().map(|w| facts::printable(w)),
    );
    section(
        text,
        "Partial",
        report.status.partial.iter().map(|p| facts::printable(p)),
    );
    section(text, "Energy scope", facts::scopes(report).into_iter());
    for further in choice::sections(report).into_iter().chain(fleet::sections(report)) {
        section(text, further.title, further.lines.into_iter());
    }
    let over = if report.status.fleet.is_some() {
        "nodes"
    } else {
        "cycles"
    };
    let _ = writeln!(
        text,
        "\nvalue ± half-width of the 95 % interval of the mean over {over}"
    );
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            let gap = if text.ends_with("\n\n") { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{title}");
        }
        let _ = writeln!(text, "  {line}");
    }
}

fn painted(text: &str, verdict: Verdict, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let style = Style::new().fg_color(Some(
        match verdict {
            Verdict::Valid => AnsiColor::Green,
            Verdict::Suspect => AnsiColor::Yellow,
            Verdict::Invalid => AnsiColor::Red,
        }
        .into(),
    ));
    format!("{style}{text}{style:#}")
}

const fn cell_color(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Valid => Color::Green,
        Verdict::Suspect => Color::Yellow,
        Verdict::Invalid => Color::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn the_terminal_report_shows_every_point_with_interval_source_and_reasons() {
        let fixture = Fixture::new();
        insta::assert_snapshot!(terminal(&fixture.report(), false, Some(160)));
    }

    #[test]
    fn a_narrow_terminal_gets_blocks_instead_of_broken_numbers() {
        let fixture = Fixture::new();
        let text = terminal(&fixture.report(), false, Some(80));
        assert!(!text.contains('─'), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn colour_is_written_only_when_asked_for() {
        let fixture = Fixture::new();
        assert!(!terminal(&fixture.report(), false, Some(160)).contains('\u{1b}'));
        assert!(terminal(&fixture.report(), true, Some(160)).contains("\u{1b}["));
        assert!(terminal(&fixture.report(), true, Some(80)).contains("\u{1b}["));
    }

    #[test]
    fn a_name_with_escape_sequences_does_not_drive_the_terminal() {
        let fixture = Fixture::new();
        let mut report = fixture.report();
        report.experiment_name = "evil\u{1b}[2J\nname";
        report.model = "\u{7}model";
        let text = terminal(&report, false, Some(160));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    }

    #[test]
    fn an_experiment_without_a_result_says_so() {
        let status = lem_crds::EfficiencyExperimentStatus::default();
        let report = Report {
            experiment_name: "empty",
            model: "none",
            points: &[],
            status: &status,
            trials: &[],
            records: &[],
            generated_by: "lem",
        };
        assert!(terminal(&report, false, None).contains("No point has a result."));
    }
}
