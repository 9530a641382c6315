//! A map of the fleet: one cell per node, coloured by its joules per token against the median of its class.

use std::collections::BTreeMap;

use lem_crds::status::FleetClass;

use super::drawing::{Anchor, Drawing, WIDTH};
use crate::{
    experiment::node_means,
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

/// Joules per token of each node that the class is made of.
fn figures<'a>(report: &Report<'a>, class: &FleetClass) -> BTreeMap<&'a str, f64> {
    let mut points = report.status.points.iter();
    let point = points.find(|point| point.index == class.point && point.node_class == class.node_class);
    point.map_or_else(BTreeMap::new, |point| {
        node_means(report.trials, point, "joules_per_token")
    })
}

#[cfg(test)]
mod tests {
    use lem_crds::status::{OutlierRule, Spread};

    use super::*;
    use crate::{experiment::summary::TrialNode, report::fixture::Fixture};

    #[test]
    fn the_map_shows_no_node_whose_energy_is_not_that_of_the_class() {
        let mut fixture = Fixture::new();
        let point = fixture.status.points[0].clone();
        fixture.trials.truncate(3);
        for (trial, node) in fixture.trials.iter_mut().zip(["a", "b", "estimated"]) {
            trial.node = Some(TrialNode {
                name: node.to_owned(),
                class: point.node_class.clone(),
            });
        }
        fixture.trials[2].result.energy_sources = vec!["estimate".to_owned()];
        let class = FleetClass {
            point: point.index,
            values: point.values,
            node_class: point.node_class,
            energy_scope: point.energy_scope,
            energy_sources: point.energy_sources,
            nodes: 2,
            suspect: 0,
            left_out: 1,
            joules_per_token: None,
            tokens_per_second: None,
            watts: None,
            best: Vec::new(),
            worst: Vec::new(),
            slowest: Vec::new(),
            outlier_rule: OutlierRule::None,
            outliers: 0,
            outlier_nodes: Vec::new(),
        };
        let figures = figures(&fixture.report(), &class);
        assert_eq!(figures.into_keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(draw(&fixture.report(), &class, "a map").is_none(), "without a median");
        fixture.trials[0].result.metrics.joules_per_token = Some(0.9);
        fixture.trials[1].result.metrics.joules_per_token = Some(1.2);
        let class = FleetClass {
            joules_per_token: Some(Spread {
                median: 1.0,
                median_absolute_deviation: 0.1,
                minimum: 0.9,
                maximum: 1.2,
            }),
            ..class
        };
        let map = draw(&fixture.report(), &class, "a map").unwrap().finish(1);
        for (node, style) in [("a: 0.9000 J/token", "h0"), ("b: 1.200 J/token", "h4")] {
            let cell = map.split("<rect ").find(|cell| cell.contains(node)).unwrap_or_default();
            assert!(cell.contains(style), "{node}: {map}");
        }
    }
}
