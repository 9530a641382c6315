//! One experiment for people. Pure.

use std::fmt::Write;

use jiff::Timestamp;
use lem_crds::status::FleetStatus;

use super::{Condition, Said, Shown, processes};
use crate::{
    command::cluster::{
        follow,
        table::{self, one_line},
    },
    report::number::{counted, plain},
};

/// Everything as text.
pub(in crate::command::cluster::status) fn text(shown: &Shown, now: Timestamp, width: Option<u16>) -> String {
    let mut text = String::new();
    for (name, value) in summary(shown, now) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<11}{}", one_line(&value));
    }
    let condition = |condition: &Condition| {
        vec![
            condition.kind.clone(),
            condition.status.clone(),
            age(condition.since, now),
            condition.reason.clone(),
            condition.message.clone(),
        ]
    };
    let mut section = |headings: &[&str], rows: Vec<Vec<String>>, below: Option<String>| {
        if !rows.is_empty() {
            let _ = write!(text, "\n{}", table::columns(headings, &rows, width));
            text.extend(below);
        }
    };
    section(
        &["CONDITION", "STATUS", "FOR", "REASON", "MESSAGE"],
        shown.conditions.iter().map(condition).collect(),
        None,
    );
    let earlier = (shown.earlier_processes > 0).then(|| {
        let count = counted(shown.earlier_processes, "process", "processes");
        let which = if shown.fleet.is_some() {
            "that are over or of other nodes"
        } else {
            "of earlier loads of the model"
        };
        format!("and {count} {which}\n")
    });
    section(
        &processes::HEADINGS,
        shown.processes.iter().map(|process| process.cells(now)).collect(),
        earlier,
    );
    section(
        &["FAILED TRIAL", "WHY"],
        shown
            .failures
            .iter()
            .map(|failure| follow::failed(failure).to_vec())
            .collect(),
        None,
    );
    let said = |event: &Said| {
        vec![
            event.at.map_or(String::new(), |at| age(at, now)),
            event.kind.clone(),
            event.reason.clone(),
            event.about(),
            event.message.clone(),
        ]
    };
    section(
        &["EVENT AGE", "TYPE", "REASON", "ABOUT", "MESSAGE"],
        shown.events.iter().map(said).collect(),
        None,
    );
    text
}

/// What stands above the tables.
fn summary(shown: &Shown, now: Timestamp) -> Vec<(&'static str, String)> {
    let made = shown
        .created
        .map_or(String::new(), |at| format!(", made {} ago", age(at, now)));
    let progress = &shown.progress;
    let retried = match progress.retried {
        0 => String::new(),
        retried => format!(", {retried} repeated"),
    };
    let mut lines = vec![
        (
            "Experiment",
            format!("{} in namespace {}{made}", shown.name, shown.namespace),
        ),
        ("Model", shown.model.clone()),
        (
            "Phase",
            format!(
                "{:?}, {}/{} trials{retried}",
                shown.phase, progress.finished, progress.planned
            ),
        ),
    ];
    lines.extend(shown.waiting.iter().map(|waiting| {
        let since = waiting
            .since
            .map_or(String::new(), |at| format!(" for {}", age(at, now)));
        ("Waiting", format!("{}{since}: {}", waiting.reason, waiting.message))
    }));
    lines.extend(shown.headline.iter().map(|headline| {
        let figures = format!(
            "J/token {}, tokens/s {}",
            headline.joules_per_token, headline.tokens_per_second
        );
        ("Result", format!("{figures}, {}", headline.verdict))
    }));
    lines.extend(shown.objective.iter().map(|answer| ("Objective", answer.clone())));
    lines.extend(shown.fleet.iter().flat_map(fleet));
    lines.extend(cost(shown));
    lines.extend(shown.partial.iter().map(|reason| ("Missing", reason.clone())));
    lines.extend(shown.not_visible.iter().map(|hidden| ("Hidden", hidden.clone())));
    lines
}

/// How far the nodes are, which of them leave their class, and which have no result.
fn fleet(fleet: &FleetStatus) -> Vec<(&'static str, String)> {
    let nodes = &fleet.nodes;
    let parts = [
        (nodes.measured, "measured"),
        (nodes.measuring, "being measured"),
        (nodes.waiting, "waiting"),
        (nodes.failed, "failed"),
        (nodes.not_measured, "not measured"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, what)| format!("{count} {what}")).collect();
    let mut lines = vec![("Nodes", format!("{} match: {}", nodes.matching, parts.join(", ")))];
    lines.extend(fleet.classes.iter().filter(|class| class.outliers > 0).map(|class| {
        let named = class.outlier_nodes.iter().map(|one| one.figure.node.as_str());
        let named = some_of(class.outliers, named);
        let of = format!(
            "of {} of {}",
            counted(class.nodes as usize, "node", "nodes"),
            class.node_class
        );
        ("Outliers", format!("{named}, {of}"))
    }));
    lines.extend(fleet.without_result.iter().map(|group| {
        let nodes = some_of(group.count, group.nodes.iter().map(String::as_str));
        ("No result", format!("{} ({nodes}): {}", group.reason, group.message))
    }));
    lines
}

/// The names that are given, and how many more there are.
fn some_of<'a>(count: u32, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match (count as usize).saturating_sub(names.len()) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// What the plan costs as far as that is known, or what it has cost.
fn cost(shown: &Shown) -> Option<(&'static str, String)> {
    if let Some(spent) = &shown.spent
        && shown.progress.finished > 0
    {
        let joules = spent.energy_joules;
        let energy = joules.map_or(String::new(), |joules| format!(", about {} J", plain(joules.round())));
        let words = format!(
            "{} s of processes, {} s of GPUs{energy}",
            plain(spent.process_seconds.round()),
            plain(spent.gpu_seconds.round())
        );
        return Some(("Spent", words));
    }
    let plan = shown.plan.as_ref()?;
    let count = |number: u32, one: &str, many: &str| counted(number as usize, one, many);
    Some((
        "Plan",
        format!(
            "{}, {}, {}: at least {} s of GPUs",
            count(plan.points, "point", "points"),
            count(plan.windows, "window", "windows"),
            count(plan.loads, "load", "loads"),
            plain(plan.least_gpu_seconds.round())
        ),
    ))
}

fn age(at: Timestamp, now: Timestamp) -> String {
    table::age(now.duration_since(at).as_secs())
}
