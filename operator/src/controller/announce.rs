//! Events: what changed in the conditions, said once. Client, but for [`news`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource,
    runtime::events::{Event, EventType, Recorder},
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus};

/// Longest note of an event.
const NOTE_LENGTH: usize = 1000;

/// The events that lead from one status to the next. Pure.
pub(super) fn news(before: &EfficiencyExperimentStatus, after: &EfficiencyExperimentStatus) -> Vec<Event> {
    let mut events: Vec<Event> = after
        .failures
        .iter()
        .skip(before.failures.len())
        .map(|failure| {
            let words: Vec<String> = failure
                .processes
                .iter()
                .map(|process| format!("process {}: {}", process.process, process.message))
                .collect();
            let note = format!(
                "point {} cycle {} attempt {}: {}",
                failure.trial.point,
                failure.trial.cycle + 1,
                failure.trial.attempt + 1,
                words.join("; ")
            );
            event(EventType::Warning, "TrialFailed", &note)
        })
        .collect();
    let changed = after.conditions.iter().filter(|condition| {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        match old {
            None => condition.status == "True" || condition.type_ == "Validated",
            Some(old) => {
                old.status != condition.status || (condition.status == "True" && old.reason != condition.reason)
            }
        }
    });
    events.extend(changed.filter_map(said));
    events
}

fn said(condition: &Condition) -> Option<Event> {
    let holds = condition.status == "True";
    let (kind, reason) = match (condition.type_.as_str(), holds) {
        ("Validated", true) => (EventType::Normal, "Validated"),
        ("Validated", false) => (EventType::Warning, "Refused"),
        ("Scheduled", true) => (EventType::Normal, "Scheduled"),
        ("Measuring", true) => (EventType::Normal, "Measuring"),
        ("Complete", true) => (EventType::Normal, "Complete"),
        ("Failed", true) => (EventType::Warning, "Failed"),
        ("Suspended", true) => (EventType::Normal, "Suspended"),
        ("Suspended", false) => (EventType::Normal, "Resumed"),
        ("Stalled", true) => (EventType::Warning, "Stalled"),
        _ => return None,
    };
    Some(event(kind, reason, &condition.message))
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note.chars().take(NOTE_LENGTH).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

/// Publishes; an event that is lost costs nothing but itself.
pub(super) async fn announce(recorder: &Recorder, experiment: &EfficiencyExperiment, events: &[Event]) {
    let reference = experiment.object_ref(&());
    for event in events {
        if let Err(error) = recorder.publish(event, &reference).await {
            tracing::warn!(%error, reason = event.reason, "an event is lost");
        }
    }
}
