//! The result as Markdown, for pull requests and notebooks.

use std::fmt::Write as _;

use super::{Report, choice, facts, fleet, headline};

/// The result per point as a table, with headline, reasons, gaps and scope.
pub fn markdown(report: &Report<'_>) -> String {
    let mut text = format!(
        "# {}\n\n{}\n\n**Verdict: {:?}** ({})\n\n",
        escaped(report.experiment_name),
        escaped(&headline::sentence(report)),
        headline::verdict(report),
        headline::verdict_counts(report)
    );
    table(&mut text, report);
    if let Some(common) = facts::common_values(report) {
        let _ = writeln!(text, "\nIn all points: {}", escaped(&common));
    }
    section(
        &mut text,
        "Reasons",
        facts::reasons(report).into_iter().map(|reason| {
            let about = facts::about(&reason.points, report);
            let message = escaped(&reason.message);
            format!("**{:?}** {:?}: {message}{about}", reason.severity, reason.doubt)
        }),
    );
    section(
        &mut text,
        "Not available",
        facts::missing(report).into_iter().map(|missing| {
            let about = facts::about(&missing.points, report);
            format!("{}: {}{about}", missing.what, missing.reason)
        }),
    );
    section(&mut text, "Warnings", report.status.warnings.iter().map(|w| escaped(w)));
    section(&mut text, "Partial", report.status.partial.iter().map(|p| escaped(p)));
    section(
        &mut text,
        "Energy scope",
        facts::scopes(report).iter().map(|s| escaped(s)),
    );
    for further in choice::sections(report).into_iter().chain(fleet::sections(report)) {
        section(&mut text, further.title, further.lines.iter().map(|line| escaped(line)));
    }
    let over = if report.status.fleet.is_some() {
        "nodes"
    } else {
        "cycles"
    };
    let _ = writeln!(
        text,
        "\nvalue ± half-width of the 95 % interval of the mean over {over}; made by {}",
        escaped(report.generated_by)
    );
    text
}

fn table(text: &mut String, report: &Report<'_>) {
    let headings = facts::COLUMNS.map(|column| column.heading).join(" | ");
    let _ = writeln!(text, "| # | point | {headings} | energy source | verdict |");
    let _ = writeln!(text, "|--:|---|{}---|---|", "--:|".repeat(facts::COLUMNS.len()));
    for point in &report.status.points {
        let values = facts::COLUMNS
            .map(|column| facts::shown(point, column.name))
            .join(" | ");
        let _ = writeln!(
            text,
            "| {} | {} | {values} | {} | {:?} |",
            point.index,
            escaped(&facts::label(report, point)),
            escaped(&facts::energy_source(&point.energy_scope, &point.energy_sources)),
            point.verdict
        );
    }
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            let _ = writeln!(text, "\n## {title}\n");
        }
        let _ = writeln!(text, "- {line}");
    }
}

/// Text that Markdown shows as it is.
pub(super) fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in facts::printable(text).chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => {
                result.push('\\');
                result.push(character);
            }
            _ => result.push(character),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn the_markdown_report_shows_every_point_and_reason() {
        let fixture = Fixture::new();
        insta::assert_snapshot!(markdown(&fixture.report()));
    }

    #[test]
    fn a_name_opens_neither_a_tag_nor_a_column() {
        let fixture = Fixture::new();
        let mut report = fixture.report();
        report.experiment_name = "<script>alert(1)</script>|x";
        report.model = "[click](http://x)\n# heading";
        let text = markdown(&report);
        assert!(
            !text.contains("<script>") && !text.contains("[click](") && text.contains("\\|x"),
            "{text}"
        );
    }
}
