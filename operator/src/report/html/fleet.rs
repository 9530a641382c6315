//! A map of the fleet: one cell per node, coloured by its joules per token against the median of its class.

use std::collections::BTreeMap;

use lem_crds::status::FleetClass;

use super::drawing::{Anchor, Drawing, WIDTH};
use crate::{
    experiment::{cycle_mean, summary::MeasuredTrial},
    report::{Report, number},
};

/// Cells of a row, unless they would be larger than this.
const LARGEST_CELL: f64 = 22.0;
const SMALLEST_CELL: f64 = 6.0;
/// Rows that a map has at most before its cells become smaller.
const ROWS: f64 = 14.0;
const LEGEND: f64 = 26.0;
/// Upper bounds of ratio to the median, with the class of the style sheet and the words of the legend.
const BANDS: [(f64, &str, &str); 5] = [
    (0.95, "h0", "< 0.95"),
    (0.99, "h1", "0.95"),
    (1.01, "h2", "0.99"),
    (1.05, "h3", "1.01"),
    (f64::INFINITY, "h4", "1.05 ×"),
];

/// Draws the nodes of one class at one point, in order of name; nothing without figures.
pub(super) fn draw(report: &Report<'_>, class: &FleetClass, title: &str) -> Option<Drawing> {
    let median = class.joules_per_token?.median;
    let nodes = figures(report, class);
    if nodes.is_empty() {
        return None;
    }
    let cell = (WIDTH * ROWS / nodes.len() as f64)
        .sqrt()
        .clamp(SMALLEST_CELL, LARGEST_CELL)
        .floor();
    let columns = (WIDTH / cell).floor() as usize;
    let rows = nodes.len().div_ceil(columns);
    let description = format!("{} nodes; a darker cell uses more energy per token", nodes.len());
    let mut drawing = Drawing::new(title, &description, rows as f64 * cell + LEGEND);
    for (position, (node, joules)) in nodes.iter().enumerate() {
        let at = ((position % columns) as f64 * cell, (position / columns) as f64 * cell);
        let ratio = joules / median;
        let words = format!(
            "{node}: {} J/token, {} × the median",
            number::plain(*joules),
            number::plain(ratio)
        );
        drawing.square(band(ratio), at, cell - 1.0, &words);
    }
    let below = rows as f64 * cell + 8.0;
    for (position, (_, style, words)) in BANDS.iter().enumerate() {
        let left = position as f64 * WIDTH / BANDS.len() as f64;
        drawing.square(style, (left, below), 12.0, words);
        drawing.text("tick", Anchor::Start, (left + 18.0, below + 11.0), words);
    }
    Some(drawing)
}

fn band(ratio: f64) -> &'static str {
    BANDS
        .iter()
        .find(|(bound, ..)| ratio < *bound)
        .map_or("h4", |(_, style, _)| style)
}

/// Joules per token of each node of the class.
fn figures<'a>(report: &Report<'a>, class: &FleetClass) -> Vec<(&'a str, f64)> {
    let mut by_node: BTreeMap<&str, Vec<&MeasuredTrial>> = BTreeMap::new();
    for trial in report.trials.iter().filter(|trial| trial.point == class.point) {
        if let Some(node) = trial.node.as_ref().filter(|node| node.class == class.node_class) {
            by_node.entry(&node.name).or_default().push(trial);
        }
    }
    let mean = |trials: Vec<&MeasuredTrial>| {
        let results: Vec<_> = trials.iter().map(|trial| trial.result.clone()).collect();
        cycle_mean(&results, "joules_per_token")
    };
    by_node
        .into_iter()
        .filter_map(|(node, trials)| Some((node, mean(trials)?)))
        .collect()
}
