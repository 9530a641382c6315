//! What the template fills in.

use lem_crds::{plan, status::Verdict};
use serde::Serialize;

use super::{
    drawing::Drawing,
    fleet, intervals, latency, power,
    tables::{self, Fact, PointTable, SummaryRow},
    windows,
};
use crate::report::{
    Report, choice, facts,
    fleet::{Section, sections},
    headline,
};

/// Power drawings on one page at most; a larger sweep is plotted from the JSON report.
const MOST_POWER_PLOTS: usize = 48;

/// The whole page.
#[derive(Serialize)]
pub(super) struct Page {
    experiment: String,
    model: String,
    generated_by: String,
    progress: String,
    headline: String,
    verdict: String,
    verdict_counts: String,
    reasons: Vec<ReasonRow>,
    missing: Vec<String>,
    warnings: Vec<String>,
    partial: Vec<String>,
    scopes: Vec<String>,
    common_values: Option<String>,
    headings: Vec<&'static str>,
    summary: Vec<SummaryRow>,
    choice_sections: Vec<Paragraph>,
    fleet_sections: Vec<Paragraph>,
    fleet_maps: Vec<Plot>,
    over: &'static str,
    interval_plots: Vec<Plot>,
    power_plots: Vec<Plot>,
    power_plots_left_out: usize,
    latency_plots: Vec<Plot>,
    points: Vec<PointTable>,
    held: Vec<Fact>,
    provenance: Vec<Fact>,
}

/// Lines with their heading.
#[derive(Serialize)]
struct Paragraph {
    title: &'static str,
    lines: Vec<String>,
}

/// A drawing with its caption.
#[derive(Serialize)]
struct Plot {
    svg: String,
    title: String,
    note: String,
}

/// A reason for doubt.
#[derive(Serialize)]
struct ReasonRow {
    severity: String,
    doubt: String,
    message: String,
    points: String,
}

/// Gives each drawing its number.
#[derive(Default)]
struct Numbering(usize);

impl Numbering {
    fn plot(&mut self, drawing: Drawing, title: String, note: String) -> Plot {
        self.0 += 1;
        Plot {
            svg: drawing.finish(self.0),
            title,
            note,
        }
    }
}

/// Everything that the page shows of a report.
pub(super) fn page(report: &Report<'_>) -> Page {
    let status = report.status;
    let mut numbering = Numbering::default();
    let fleet_maps = fleet_maps(report, &mut numbering);
    let interval_plots = interval_plots(report, &mut numbering);
    let latency_plots = latency_plots(report, &mut numbering);
    let (power_plots, power_plots_left_out) = power_plots(report, &mut numbering);
    Page {
        experiment: facts::printable(report.experiment_name),
        model: facts::printable(report.model),
        generated_by: facts::printable(report.generated_by),
        progress: facts::printable(&status.progress.summary),
        headline: headline::sentence(report),
        verdict: facts::name(&headline::verdict(report)),
        verdict_counts: headline::verdict_counts(report),
        reasons: reasons(report),
        missing: facts::missing(report)
            .into_iter()
            .map(|missing| {
                let about = facts::about(&missing.points, report);
                format!("{}: {}{about}", missing.what, missing.reason)
            })
            .collect(),
        warnings: status.warnings.iter().map(|text| facts::printable(text)).collect(),
        partial: status.partial.iter().map(|text| facts::printable(text)).collect(),
        scopes: facts::scopes(report),
        common_values: facts::common_values(report),
        headings: facts::COLUMNS.iter().map(|column| column.heading).collect(),
        summary: tables::summary(report),
        choice_sections: choice::sections(report)
            .into_iter()
            .map(|Section { title, lines }| Paragraph { title, lines })
            .collect(),
        fleet_sections: sections(report)
            .into_iter()
            .map(|Section { title, lines }| Paragraph { title, lines })
            .collect(),
        fleet_maps,
        over: if status.fleet.is_some() { "nodes" } else { "cycles" },
        interval_plots,
        power_plots,
        power_plots_left_out,
        latency_plots,
        points: tables::points(report),
        held: tables::held(report),
        provenance: tables::provenance(report),
    }
}

fn reasons(report: &Report<'_>) -> Vec<ReasonRow> {
    facts::reasons(report)
        .into_iter()
        .map(|reason| ReasonRow {
            severity: facts::name(&reason.severity),
            doubt: facts::name(&reason.doubt),
            message: reason.message,
            points: reason.points.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        })
        .collect()
}

fn fleet_maps(report: &Report<'_>, numbering: &mut Numbering) -> Vec<Plot> {
    let classes = report.status.fleet.iter().flat_map(|fleet| &fleet.classes);
    classes
        .filter_map(|class| {
            let label = if class.values.is_empty() {
                String::new()
            } else {
                format!("{} · ", facts::printable(&plan::label(&class.values)))
            };
            let title = format!("{label}{}", facts::printable(&class.node_class));
            let drawing = fleet::draw(report, class, &format!("Joules per token of the nodes of {title}"))?;
            let note = "One cell per node, by name; joules per token over the median of the class.".to_owned();
            Some(numbering.plot(drawing, title, note))
        })
        .collect()
}

fn interval_plots(report: &Report<'_>, numbering: &mut Numbering) -> Vec<Plot> {
    [
        ("joules_per_token", "Energy per token"),
        ("effective_throughput", "Tokens per second"),
    ]
    .into_iter()
    .filter_map(|(name, title)| {
        let (drawing, leaves_out) = intervals::draw(report, name, &format!("{title} per point"))?;
        let scope = if name == "joules_per_token" {
            format!(" Energy: {}.", facts::scopes(report).join("; "))
        } else {
            String::new()
        };
        let left_out = if leaves_out {
            ", dashed where the mean leaves one out"
        } else {
            ""
        };
        let note = format!("Stroke: mean; bar: 95 % interval of the mean; dots: cycles{left_out}.{scope}");
        Some(numbering.plot(drawing, title.to_owned(), note))
    })
    .collect()
}

fn latency_plots(report: &Report<'_>, numbering: &mut Numbering) -> Vec<Plot> {
    report
        .status
        .points
        .iter()
        .filter_map(|point| {
            let windows = windows::usable(report, point);
            let distribution = latency::of_windows(&windows);
            let title = format!("{} · {}", point.index, facts::label(report, point));
            let drawing = latency::draw(&format!("Request latency of point {title}"), &distribution)?;
            let unreadable = match distribution.unreadable {
                0 => String::new(),
                count => format!(" {count} series could not be read and are left out."),
            };
            let invalid = if point.verdict == Verdict::Invalid {
                " The point is Invalid."
            } else {
                ""
            };
            let note = format!(
                "{} requests, pooled over processes and cycles.{unreadable}{invalid}",
                distribution.count
            );
            Some(numbering.plot(drawing, title, note))
        })
        .collect()
}

/// The plots that there is room for, and how many more there would be.
fn power_plots(report: &Report<'_>, numbering: &mut Numbering) -> (Vec<Plot>, usize) {
    let mut plots = Vec::new();
    let mut left_out = 0;
    for point in &report.status.points {
        for (counter, cycles) in windows::power(report, point) {
            if plots.len() == MOST_POWER_PLOTS {
                left_out += 1;
                continue;
            }
            let title = format!("{} · {}", point.index, facts::label(report, point));
            let source = facts::printable(&power::source(counter, &cycles));
            let drawing = power::draw(&format!("Power of {source} in point {title}"), &cycles);
            plots.push(numbering.plot(drawing, title, format!("{source}.")));
        }
    }
    (plots, left_out)
}
