//! All about one experiment: how far it is, why it waits, what its processes do, what has happened. Pure.

mod processes;
pub(super) mod text;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, Runner,
    status::{ExperimentPhase, FleetStatus, Headline, PlanStatus, Progress, Spent, TrialFailure},
};
use serde::Serialize;

use self::processes::Process;
pub(super) use self::processes::{MOST_OF_FLEET, job};
use super::waiting::{Waiting, waiting};
use crate::report::number::counted;

/// Events that are shown, the last ones.
const EVENTS: usize = 8;

/// What was seen of an experiment.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) experiment: EfficiencyExperiment,
    pub(super) runners: Vec<Runner>,
    pub(super) pods: Vec<Pod>,
    pub(super) events: Vec<Event>,
    /// What the user may not see.
    pub(super) hidden: Vec<String>,
}

/// What is shown of an experiment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    namespace: String,
    name: String,
    model: String,
    created: Option<Timestamp>,
    phase: ExperimentPhase,
    progress: Progress,
    waiting: Option<Waiting>,
    headline: Option<Headline>,
    plan: Option<PlanStatus>,
    spent: Option<Spent>,
    /// The answer to the objective, class by class.
    objective: Vec<String>,
    fleet: Option<FleetStatus>,
    conditions: Vec<Condition>,
    failures: Vec<TrialFailure>,
    partial: Vec<String>,
    processes: Vec<Process>,
    /// Processes of earlier loads of the model; of a fleet those that are not shown.
    earlier_processes: usize,
    events: Vec<Said>,
    not_visible: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    since: Timestamp,
    reason: String,
    message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    at: Option<Timestamp>,
    #[serde(rename = "type")]
    kind: String,
    /// Kind of the objects.
    about: String,
    objects: Vec<String>,
    reason: String,
    message: String,
}

impl Said {
    fn about(&self) -> String {
        match self.objects.as_slice() {
            [one] => format!("{}/{one}", self.about),
            many => counted(many.len(), &self.about, &format!("{}s", self.about)),
        }
    }
}

impl Shown {
    pub(super) fn of(observed: &Observed) -> Self {
        let Observed {
            experiment,
            runners,
            pods,
            events,
            hidden,
        } = observed;
        let status = experiment.status.clone().unwrap_or_default();
        let objective = status.objective.iter().flat_map(|objective| &objective.classes);
        let (processes, earlier_processes) =
            processes::present(runners, pods, status.plan.as_ref().map(|plan| plan.processes as usize));
        let conditions = status.conditions.into_iter().map(|condition| Condition {
            kind: condition.type_,
            status: condition.status,
            since: condition.last_transition_time.0,
            reason: condition.reason,
            message: condition.message,
        });
        Self {
            namespace: experiment.namespace().unwrap_or_default(),
            name: experiment.name_any(),
            model: experiment.spec.model.name.clone(),
            created: experiment.creation_timestamp().map(|time| time.0),
            phase: status.phase,
            progress: status.progress,
            waiting: waiting(experiment),
            headline: status.headline,
            plan: status.plan,
            spent: status.spent,
            objective: objective.map(|class| class.message.clone()).collect(),
            fleet: status.fleet,
            conditions: conditions.collect(),
            failures: status.failures,
            partial: status.partial,
            processes,
            earlier_processes,
            events: last(events),
            not_visible: hidden.clone(),
        }
    }
}

/// The last events, in order of time. What befalls each pod alike is said once.
fn last(events: &[Event]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    let all = events.iter().map(|event| {
        let object = &event.involved_object;
        Said {
            at: time(event),
            kind: event.type_.clone().unwrap_or_default(),
            about: object.kind.clone().unwrap_or_default(),
            objects: vec![object.name.clone().unwrap_or_default()],
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
        }
    });
    let mut all: Vec<Said> = all.collect();
    all.sort_by_key(|event| event.at);
    for event in all {
        let alike =
            |known: &&mut Said| known.about == "Pod" && (&known.about, &known.reason) == (&event.about, &event.reason);
        if let Some(known) = said.iter_mut().find(alike) {
            let mut objects = std::mem::take(&mut known.objects);
            objects.extend(
                event
                    .objects
                    .into_iter()
                    .filter(|name| !objects.contains(name))
                    .collect::<Vec<_>>(),
            );
            *known = Said { objects, ..event };
        } else {
            said.push(event);
        }
    }
    said.sort_by_key(|event| event.at);
    said.split_off(said.len().saturating_sub(EVENTS))
}

/// When an event happened last: components of different age write different fields.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    series
        .map(|time| time.0)
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.creation_timestamp().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn experiment() -> EfficiencyExperiment {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:05Z"})
        };
        let object = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment",
            "metadata": {"name": "quick", "namespace": "lab", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}}},
            "status": {"phase": "Starting", "observedGeneration": 1,
                "progress": {"planned": 3, "finished": 0, "retried": 0, "summary": "0/3"},
                "conditions": [
                    condition("Scheduled", "False", "Placing", "2 processes are being placed"),
                    condition("Stalled", "True", "GpuMissing", "no node has the GPUs free (0/3 nodes are available)"),
                ]},
        });
        serde_json::from_value(object).unwrap()
    }

    fn event(at: &str, reason: &str) -> Event {
        let event: Value = json!({"metadata": {"name": reason}, "type": "Warning", "reason": reason, "lastTimestamp": at,
            "message": "words", "involvedObject": {"kind": "Pod", "name": "quick-1-0-abc"}});
        serde_json::from_value(event).unwrap()
    }

    fn observed() -> Observed {
        Observed {
            experiment: experiment(),
            runners: processes::tests::runners(),
            pods: processes::tests::pods(),
            events: vec![
                event("2026-01-01T00:00:30Z", "FailedScheduling"),
                event("2026-01-01T00:00:10Z", "Earlier"),
            ],
            hidden: Vec::new(),
        }
    }

    #[test]
    fn one_experiment_is_shown_with_the_reason_why_it_waits_and_what_each_process_does() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        insta::assert_snapshot!(text::text(&Shown::of(&observed()), now, None));
    }

    #[test]
    fn a_fleet_is_shown_by_its_counts_the_nodes_that_leave_their_class_and_a_few_processes() {
        let mut observed = observed();
        let spread = json!({"median": 0.5, "medianAbsoluteDeviation": 0.01, "minimum": 0.4, "maximum": 0.7});
        let outlier = json!({"node": "node-7", "joulesPerToken": 0.7, "tokensPerSecond": 90.0, "watts": 300.0,
            "verdict": "Valid", "ratio": 1.4});
        let status: Value = json!({"phase": "Measuring", "observedGeneration": 1,
            "progress": {"planned": 3000, "finished": 1500, "retried": 2, "summary": "1500/3000"},
            "spent": {"processSeconds": 7000.4, "gpuSeconds": 7000.4, "energyJoules": 123_456.7},
            "fleet": {"nodes": {"matching": 1000, "waiting": 300, "measuring": 200, "measured": 490, "failed": 4,
                "notMeasured": 6},
            "withoutResult": [{"reason": "Cordoned", "failed": false, "count": 6, "nodes": ["node-1", "node-2"],
                "message": "node-1 is cordoned"}],
            "classes": [{"point": 0, "nodeClass": "NVIDIA L4|24 GiB|580|MIG off", "energyScope": ["gpu"],
                "energySources": ["nvml_counter"], "nodes": 98, "suspect": 0, "joulesPerToken": spread,
                "outlierRule": "MedianAbsoluteDeviation", "outliers": 1,
                "outlierNodes": [outlier]}]}});
        observed.experiment.status = Some(serde_json::from_value(status).unwrap());
        let one = observed.runners[0].clone();
        observed.runners = (0..50)
            .map(|index| {
                let mut runner = one.clone();
                runner.spec.node = Some(format!("node-{index:02}"));
                runner.spec.finish = index < 10;
                runner
            })
            .collect();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        insta::assert_snapshot!(text::text(&Shown::of(&observed), now, None));
        // Of a large fleet only some mailboxes are asked for, and the plan says how many there are.
        let plan = json!({"points": 1, "processes": 1000, "loads": 1, "trials": 3, "windows": 3000,
            "requestsPerProcess": 8, "tokensPerProcess": 64, "fixedSeconds": 1.0, "leastGpuSeconds": 1000.0});
        observed.experiment.status.as_mut().unwrap().plan = Some(serde_json::from_value(plan).unwrap());
        assert_eq!(Shown::of(&observed).earlier_processes, 980);
    }

    #[test]
    fn programs_get_the_same_in_json() {
        let json = serde_json::to_value(Shown::of(&observed())).unwrap();
        assert_eq!(json["waiting"]["reason"], "GpuMissing");
        assert_eq!(json["processes"][0]["node"], "node-1");
        assert_eq!(json["events"][1]["reason"], "FailedScheduling");
        assert_eq!(json["conditions"][1]["type"], "Stalled");
    }

    #[test]
    fn what_befalls_each_pod_alike_is_said_once() {
        let mut events = vec![
            event("2026-01-01T00:00:01Z", "FailedMount"),
            event("2026-01-01T00:00:02Z", "FailedMount"),
        ];
        events[1].involved_object.name = Some("quick-1-abc".to_owned());
        let said = last(&events);
        assert_eq!((said.len(), said[0].about().as_str()), (1, "2 Pods"));
        assert_eq!(said[0].at, Some("2026-01-01T00:00:02Z".parse().unwrap()));
    }

    #[test]
    fn only_the_last_events_are_shown() {
        let many: Vec<Event> = (0..20)
            .map(|at| event(&format!("2026-01-01T00:00:{at:02}Z"), &at.to_string()))
            .collect();
        let last = last(&many);
        assert_eq!((last.len(), last[EVENTS - 1].reason.as_str()), (EVENTS, "19"));
    }
}
