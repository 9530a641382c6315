//! A fleet in words: how the nodes compare, who leaves the others and why that may be, and who has no result. Pure.

use lem_crds::status::{FleetClass, NodeFigure, NodesWithoutResult, OutlierNode, OutlierRule, Sign, Spread};

use super::{Report, facts::printable, number};

/// A paragraph of lines with its heading.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) lines: Vec<String>,
}

/// What is to be said of a fleet; nothing of another experiment.
pub(super) fn sections(report: &Report<'_>) -> Vec<Section> {
    let Some(fleet) = &report.status.fleet else {
        return Vec::new();
    };
    let nodes = fleet.nodes;
    let counts = format!(
        "{} nodes: {} measured, {} failed, {} not measured, {} under way, {} waiting",
        nodes.matching, nodes.measured, nodes.failed, nodes.not_measured, nodes.measuring, nodes.waiting
    );
    let left_out = (fleet.classes_left_out > 0)
        .then(|| format!("{} further classes are not in the status", fleet.classes_left_out));
    let classes = fleet.classes.iter().flat_map(class);
    vec![
        Section {
            title: "Fleet",
            lines: [counts].into_iter().chain(classes).chain(left_out).collect(),
        },
        Section {
            title: "Outliers",
            lines: fleet.classes.iter().flat_map(outliers).collect(),
        },
        Section {
            title: "Nodes without a result",
            lines: fleet.without_result.iter().map(without_result).collect(),
        },
    ]
}

fn named(class: &FleetClass) -> String {
    let class_name = printable(&class.node_class);
    if class.values.is_empty() {
        class_name
    } else {
        format!("{} on {class_name}", printable(&lem_crds::plan::label(&class.values)))
    }
}

fn class(class: &FleetClass) -> Vec<String> {
    let left_out = match class.left_out {
        0 => String::new(),
        count => format!(", {count} left out for other energy domains or sources"),
    };
    let mut lines = vec![format!(
        "{}: {}{left_out}, {} with doubts; J/token {}; tokens/s {}; W {}",
        named(class),
        number::counted(class.nodes as usize, "node", "nodes"),
        class.suspect,
        spread(class.joules_per_token),
        spread(class.tokens_per_second),
        spread(class.watts)
    )];
    if !class.best.is_empty() {
        lines.push(format!(
            "best {}; worst {}",
            figures(&class.best, |figure| figure.joules_per_token),
            figures(&class.worst, |figure| figure.joules_per_token)
        ));
    }
    if !class.slowest.is_empty() {
        let slowest = figures(&class.slowest, |figure| figure.tokens_per_second);
        lines.push(format!("slowest in tokens/s {slowest}"));
    }
    lines
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || number::NOTHING.to_owned(),
        |spread| {
            format!(
                "median {}, MAD {}, {} … {}",
                number::plain(spread.median),
                number::plain(spread.median_absolute_deviation),
                number::plain(spread.minimum),
                number::plain(spread.maximum)
            )
        },
    )
}

fn figures(nodes: &[NodeFigure], of: fn(&NodeFigure) -> Option<f64>) -> String {
    let one = |figure: &NodeFigure| {
        let value = of(figure).map_or_else(|| number::NOTHING.to_owned(), number::plain);
        format!("{} ({value})", printable(&figure.node))
    };
    nodes.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn outliers(class: &FleetClass) -> Vec<String> {
    let rule = match class.outlier_rule {
        OutlierRule::MedianAbsoluteDeviation => "outside median ± 3.5 × MAD",
        OutlierRule::PairwiseRatio => "apart from every other node in J/token or watts",
        OutlierRule::None => {
            return vec![format!(
                "{}: too few nodes or cycles to look for outliers",
                named(class)
            )];
        }
    };
    if class.outliers == 0 {
        return vec![format!("{}: none {rule}", named(class))];
    }
    let mut lines = vec![format!(
        "{}: {} of {} {rule}",
        named(class),
        class.outliers,
        number::counted(class.nodes as usize, "node", "nodes")
    )];
    lines.extend(class.outlier_nodes.iter().map(outlier));
    lines
}

fn outlier(one: &OutlierNode) -> String {
    let joules = one
        .figure
        .joules_per_token
        .map_or_else(|| number::NOTHING.to_owned(), number::plain);
    let cost = match (one.excess_kilowatt_hours_per_day, one.excess_cost_per_day) {
        (Some(energy), Some(cost)) => format!(
            "; beyond the median {} kWh and {} a day at its own speed",
            number::plain(energy),
            number::plain(cost)
        ),
        (Some(energy), None) => format!(
            "; beyond the median {} kWh a day at its own speed",
            number::plain(energy)
        ),
        _ => String::new(),
    };
    let signs: Vec<String> = one
        .signs
        .iter()
        .filter(|sign| sign.conspicuous)
        .map(|sign| {
            format!(
                "{} {} (class {})",
                sign_words(sign.sign),
                number::plain(sign.node),
                number::plain(sign.class)
            )
        })
        .collect();
    let signs = if signs.is_empty() {
        "; nothing else about it is conspicuous".to_owned()
    } else {
        format!("; look at {}", signs.join(", "))
    };
    let figure = format!("{joules} J/token, {} × the median", number::plain(one.ratio));
    format!("{}: {figure}{cost}{signs}", printable(&one.figure.node))
}

fn sign_words(sign: Sign) -> &'static str {
    match sign {
        Sign::Watts => "watts",
        Sign::TokensPerSecond => "tokens/s",
        Sign::TemperatureCelsius => "highest temperature in °C",
        Sign::SmClockMegahertz => "SM clock in MHz",
        Sign::PowerLimitWatts => "power limit in W",
        Sign::PowerLimitOverDefault => "power limit over the default",
        Sign::ThrottledSeconds => "seconds throttled",
        Sign::ForeignProcesses => "foreign processes",
        Sign::ErrorCorrection => "share of GPUs with ECC on",
    }
}

fn without_result(entry: &NodesWithoutResult) -> String {
    let more = (entry.count as usize).saturating_sub(entry.nodes.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "{} ({}): {}{more}: {}",
        printable(&entry.reason),
        entry.count,
        printable(&entry.nodes.join(", ")),
        printable(&entry.message)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn a_fleet_is_told_by_class_with_its_extremes_its_outliers_and_who_has_no_result() {
        let figure = |node: &str, joules: f64, tokens: f64| json!({"node": node, "joulesPerToken": joules, "tokensPerSecond": tokens, "watts": 300.0, "verdict": "Valid"});
        let mut outlier = figure("node-7", 0.7, 90.0);
        outlier["ratio"] = json!(1.4);
        outlier["excessKilowattHoursPerDay"] = json!(0.5);
        outlier["excessCostPerDay"] = json!(0.15);
        outlier["signs"] = json!([
            {"sign": "SmClockMegahertz", "node": 900.0, "class": 1700.0, "conspicuous": true},
            {"sign": "TemperatureCelsius", "node": 60.0, "class": 61.0, "conspicuous": false},
        ]);
        let class = json!({"point": 0, "values": {"workload.maxOutputTokens": "32"},
            "nodeClass": "NVIDIA L4|24 GiB|580|MIG off", "energyScope": ["gpu"], "energySources": ["nvml_counter"],
            "nodes": 98, "suspect": 3, "leftOut": 2,
            "joulesPerToken": {"median": 0.5, "medianAbsoluteDeviation": 0.01, "minimum": 0.4, "maximum": 0.7},
            "best": [figure("node-1", 0.4, 110.0)], "worst": [figure("node-7", 0.7, 90.0)],
            "slowest": [figure("node-9", 0.5, 60.0)],
            "outlierRule": "MedianAbsoluteDeviation", "outliers": 1, "outlierNodes": [outlier]});
        let mut fixture = Fixture::new();
        fixture.status.fleet = Some(
            serde_json::from_value(json!({
                "nodes": {"matching": 106, "waiting": 0, "measuring": 0, "measured": 98, "failed": 2, "notMeasured": 6},
                "withoutResult": [{"reason": "SharedGpu", "failed": false, "count": 6, "nodes": ["node-2", "node-3"],
                    "message": "node-2 shares its GPUs"}],
                "classes": [class], "classesLeftOut": 4}))
            .unwrap(),
        );
        let mut text = String::new();
        for section in sections(&fixture.report()) {
            text.push_str(section.title);
            for line in section.lines {
                text.push_str("\n  ");
                text.push_str(&line);
            }
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }
}
