//! One metric over the points: the 95 % interval as a bar, the mean as a stroke, each cycle as a dot, a
//! dashed one where the mean leaves it out.

use std::collections::BTreeMap;

use lem_crds::status::{PointResult, TrialResult, Verdict};

use super::{
    axis::Axis,
    drawing::{Anchor, Drawing, WIDTH, width},
};
use crate::{
    experiment::averaged_trials,
    report::{Report, facts, number},
};

const LEFT: f64 = 10.0;
const RIGHT: f64 = WIDTH - 14.0;
/// Height of one point: its label above, its interval below.
const ROW: f64 = 42.0;

/// The drawing of one metric, or nothing if no point has it, and whether it has cycles that a mean leaves out.
pub(super) fn draw(report: &Report<'_>, name: &str, title: &str) -> Option<(Drawing, bool)> {
    let points = &report.status.points;
    let estimates = || points.iter().filter_map(|point| point.metrics.get(name));
    estimates().next()?;
    let bounds = estimates().flat_map(|e| [Some(e.mean), e.lower, e.upper]).flatten();
    let dots: Vec<Vec<Dot>> = points.iter().map(|point| dots(report, point, name)).collect();
    let cycles = || dots.iter().flatten();
    let values = cycles().map(|dot| dot.value);
    let axis = Axis::around(bounds.chain(values), false, 5, LEFT + 6.0, RIGHT - 10.0);

    let bottom = ROW * points.len() as f64 + 6.0;
    let description = points
        .iter()
        .map(|point| format!("point {}: {}", point.index, facts::shown(point, name)))
        .collect::<Vec<_>>()
        .join("; ");
    let unit = facts::unit(name);
    let mut drawing = Drawing::new(title, &description, bottom + 40.0);
    for (x, label) in axis.ticks() {
        drawing.line("grid", (x, 4.0), (x, bottom));
        drawing.text("tick", Anchor::Middle, (x, bottom + 15.0), &label);
    }
    drawing.line("axis", (LEFT, bottom), (RIGHT, bottom));
    drawing.text("name", Anchor::Middle, (WIDTH / 2.0, bottom + 34.0), unit);
    for (row, (point, dots)) in points.iter().zip(&dots).enumerate() {
        let top = ROW * row as f64;
        draw_label(&mut drawing, report, point, name, top);
        draw_interval(&mut drawing, &axis, point, dots, name, top + 30.0);
    }
    Some((drawing, cycles().any(|dot| !dot.in_mean)))
}

fn draw_label(drawing: &mut Drawing, report: &Report<'_>, point: &PointResult, name: &str, top: f64) {
    let mut value = facts::shown(point, name);
    if point.verdict != Verdict::Valid {
        value = format!("{value} · {:?}", point.verdict);
    }
    let room = RIGHT - LEFT - width(&value) - 14.0;
    let label = format!("{} · {}", point.index, facts::label(report, point));
    drawing.cut_text("label", (LEFT, top + 16.0), room, &label);
    drawing.text("label", Anchor::End, (RIGHT, top + 16.0), &value);
}

fn draw_interval(drawing: &mut Drawing, axis: &Axis, point: &PointResult, dots: &[Dot], name: &str, y: f64) {
    let Some(estimate) = point.metrics.get(name) else {
        return;
    };
    let class = match point.verdict {
        Verdict::Valid => "valid",
        Verdict::Suspect => "suspect",
        Verdict::Invalid => "invalid",
    };
    if let (Some(lower), Some(upper)) = (estimate.lower, estimate.upper) {
        let (from, to) = (axis.pixel(lower), axis.pixel(upper));
        drawing.line(&format!("interval {class}"), (from, y), (to, y));
        for x in [from, to] {
            drawing.line(&format!("cap {class}"), (x, y - 4.0), (x, y + 4.0));
        }
    }
    let x = axis.pixel(estimate.mean);
    drawing.line(&format!("mean {class}"), (x, y - 7.0), (x, y + 7.0));
    for dot in dots {
        let (left_out, why) = if dot.in_mean {
            ("", "")
        } else {
            (" left-out", ", not in the mean")
        };
        let title = format!("cycle {}: {}{why}", dot.cycle, number::plain(dot.value));
        let at = (axis.pixel(dot.value), y);
        drawing.circle(&format!("dot {class}{left_out}"), at, 3.0, &title);
    }
}

/// A cycle of a point that has the metric.
struct Dot {
    cycle: u32,
    value: f64,
    in_mean: bool,
}

/// The cycles of a point that have the metric: the attempt that the mean contains, else the last. None without a mean: of such
/// a point only the label is drawn.
fn dots(report: &Report<'_>, point: &PointResult, name: &str) -> Vec<Dot> {
    if point.metrics.get(name).is_none() {
        return Vec::new();
    }
    // The cycles of a fleet are in its map.
    let of_point = report
        .trials
        .iter()
        .filter(|trial| trial.point == point.index && trial.node.is_none());
    let trials: Vec<&TrialResult> = of_point.map(|trial| &trial.result).collect();
    let mut by_cycle: BTreeMap<u32, (bool, &TrialResult)> = BTreeMap::new();
    for trial in trials.iter().copied() {
        let known = by_cycle.entry(trial.cycle).or_insert((false, trial));
        if known.1.attempt < trial.attempt {
            known.1 = trial;
        }
    }
    for trial in averaged_trials(trials) {
        by_cycle.insert(trial.cycle, (true, trial));
    }
    by_cycle
        .into_iter()
        .filter_map(|(cycle, (in_mean, trial))| {
            Some(Dot {
                cycle,
                value: *trial.metrics.get(name)?,
                in_mean,
            })
        })
        .collect()
}
