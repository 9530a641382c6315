//! Which point to take, and what finding it has cost, in words. Pure.

use std::collections::BTreeSet;

use lem_crds::status::{FrontPoint, Spent};

use super::{
    Report,
    facts::{energy_source, printable},
    fleet::Section,
    number,
};

/// The answer to the objective, the Pareto front of a sweep, and the cost; sections without lines where there is none.
pub(super) fn sections(report: &Report<'_>) -> Vec<Section> {
    let status = report.status;
    let classes = status.objective.iter().flat_map(|objective| &objective.classes);
    let several = status.objective.iter().any(|objective| objective.classes.len() > 1);
    let answers = classes.map(|class| {
        let of_class = if several {
            format!("{}: ", printable(&class.node_class))
        } else {
            String::new()
        };
        let beyond = match class.beyond_limits {
            0 => String::new(),
            count => format!(
                "; {} beyond the limits",
                number::counted(count as usize, "point", "points")
            ),
        };
        let left_out = match class.left_out {
            0 => String::new(),
            count => format!(
                "; {} not comparable",
                number::counted(count as usize, "point", "points")
            ),
        };
        format!("{of_class}{}{beyond}{left_out}", printable(&class.message))
    });
    vec![
        Section {
            title: "Objective",
            lines: answers.collect(),
        },
        Section {
            title: "Pareto front of tokens/s against J/token",
            lines: front(report),
        },
        Section {
            title: "Spent",
            lines: status.spent.iter().map(spent).collect(),
        },
    ]
}

/// The points of the front; where there is one for each class of nodes or kind of energy, each with its own.
fn front(report: &Report<'_>) -> Vec<String> {
    let found = |of_front: &FrontPoint| {
        let mut points = report.status.points.iter();
        points.find(|point| point.index == of_front.point && point.node_class == of_front.node_class)
    };
    let kind = |of_front: &FrontPoint| {
        let energy = found(of_front).map(|point| energy_source(&point.energy_scope, &point.energy_sources));
        let class = printable(&of_front.node_class);
        energy.map_or_else(|| class.clone(), |energy| format!("{class}, {energy}"))
    };
    let kinds: BTreeSet<String> = report.status.pareto_front.iter().map(kind).collect();
    let line = |of_front: &FrontPoint| {
        let values = found(of_front).or_else(|| report.point(of_front.point));
        let label = values.map_or_else(String::new, |point| printable(&lem_crds::plan::label(&point.values)));
        let kind = if kinds.len() > 1 {
            format!(" on {}", kind(of_front))
        } else {
            String::new()
        };
        format!(
            "point {} ({label}){kind}: {} tokens/s, {} J/token",
            of_front.point,
            number::plain(of_front.tokens_per_second),
            number::plain(of_front.joules_per_token)
        )
    };
    report.status.pareto_front.iter().map(line).collect()
}

fn spent(spent: &Spent) -> String {
    let joules = spent.energy_joules.map_or_else(
        || "no energy was metered".to_owned(),
        |joules| format!("about {} J, of which windows are metered", number::plain(joules)),
    );
    format!(
        "{} s of processes, {} s of GPUs; {joules}",
        number::plain(spent.process_seconds.round()),
        number::plain(spent.gpu_seconds.round())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{experiment::pareto_front, report::fixture::Fixture};

    #[test]
    fn points_of_fronts_that_are_not_comparable_are_told_apart() {
        let mut fixture = Fixture::new();
        for point in &mut fixture.status.points {
            point.verdict = lem_crds::status::Verdict::Suspect;
        }
        fixture.status.pareto_front = pareto_front(&fixture.status.points);
        let lines = front(&fixture.report());
        let of = |source: &str| lines.iter().filter(|line| line.contains(source)).count();
        assert!(of("cpu: rapl") > 0 && of("cpu: estimate") > 0, "{lines:?}");
        assert_eq!(of("cpu: rapl") + of("cpu: estimate"), lines.len());
        fixture.status.points.truncate(2);
        fixture.status.pareto_front = pareto_front(&fixture.status.points);
        assert!(front(&fixture.report()).iter().all(|line| !line.contains("rapl")));
    }
}
