//! One experiment for people. Pure.

use std::fmt::Write;

use jiff::Timestamp;

use super::{Condition, Said, Shown, processes};
use crate::{
    command::cluster::{
        follow,
        table::{self, one_line},
    },
    report::number::counted,
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
        format!("and {count} of earlier loads of the model\n")
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
    lines.extend(shown.partial.iter().map(|reason| ("Missing", reason.clone())));
    lines.extend(shown.not_visible.iter().map(|hidden| ("Hidden", hidden.clone())));
    lines
}

fn age(at: Timestamp, now: Timestamp) -> String {
    table::age(now.duration_since(at).as_secs())
}
