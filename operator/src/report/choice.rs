//! Which point to take, and what finding it has cost, in words. Pure.

use lem_crds::status::{FrontPoint, Spent};

use super::{Report, facts::printable, fleet::Section, number};

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
            lines: status.pareto_front.iter().map(|point| front(report, point)).collect(),
        },
        Section {
            title: "Spent",
            lines: status.spent.iter().map(spent).collect(),
        },
    ]
}

fn front(report: &Report<'_>, of_front: &FrontPoint) -> String {
    let label = report.point(of_front.point);
    let label = label.map_or_else(String::new, |point| printable(&lem_crds::plan::label(&point.values)));
    format!(
        "point {} ({label}): {} tokens/s, {} J/token",
        of_front.point,
        number::plain(of_front.tokens_per_second),
        number::plain(of_front.joules_per_token)
    )
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
