//! What a schedule asks for, from first run to regression.

use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client,
    client::Body,
    runtime::{
        events::{Recorder, Reporter},
        reflector,
    },
};
use lem_crds::{
    EfficiencyExperiment,
    schedule::{EfficiencySchedule, EfficiencyScheduleStatus, ScheduleComparison},
    status::{ExperimentPhase, FleetNodes, FleetStatus, PointResult},
};
use serde_json::{Value, json};
use tower_test::mock::Handle;

use super::{
    super::{
        condition::{self, ConditionType, Wanted},
        leader::Leadership,
        metrics::ControllerMetrics,
        observe::Caches,
    },
    decide::{Decision, Measured, View, decide, to_pin},
    experiment,
    reconcile::{Context, begin, carry_out, news},
    schedule_of,
};
use crate::{experiment::MeasuredPoint, report::fixture::Fixture};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(spec: &Value) -> EfficiencySchedule {
    let mut whole = json!({
        "schedule": "0 3 * * *",
        "experimentTemplate": {"metadata": {"labels": {"team": "a"}},
            "spec": {"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let mut schedule = EfficiencySchedule::new("nightly", serde_json::from_value(whole).unwrap());
    schedule.metadata.namespace = Some("lab".to_owned());
    schedule.metadata.uid = Some("schedule-uid".to_owned());
    schedule
}

/// A schedule with its experiments, and a clock.
struct World {
    schedule: EfficiencySchedule,
    /// With joules per token of each cycle.
    experiments: Vec<(EfficiencyExperiment, Vec<f64>)>,
    now: Timestamp,
}

impl World {
    fn new(spec: &Value) -> Self {
        Self {
            schedule: schedule(spec),
            experiments: Vec::new(),
            now: at("2026-11-01T12:00:00Z"),
        }
    }

    fn status(&self) -> EfficiencyScheduleStatus {
        self.schedule.status.clone().unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> Option<(String, String)> {
        let conditions = self.status().conditions;
        let found = conditions.into_iter().find(|one| one.type_ == kind)?;
        Some((found.status, found.message))
    }

    fn decision(&self) -> Decision {
        let before = self.status();
        let measured: Vec<Measured<'_>> = self
            .experiments
            .iter()
            .map(|(experiment, joules)| Measured {
                experiment,
                points: points(experiment, joules),
            })
            .collect();
        decide(&View {
            generation: Some(1),
            created: at("2026-11-01T00:00:00Z"),
            spec: &self.schedule.spec,
            refused: None,
            before: &before,
            experiments: &measured,
            named_baseline: None,
            now: self.now,
        })
    }

    /// What is done before the status is written.
    fn begin(&mut self, decision: &Decision) {
        for (experiment, _) in &mut self.experiments {
            experiment.spec.cancel |= decision.cancel.contains(experiment.metadata.name.as_ref().unwrap());
        }
        let Some(at) = decision.create else {
            return;
        };
        let mut made = experiment(&self.schedule, at);
        made.metadata.uid = made.metadata.name.clone();
        let name = &made.metadata.name;
        if !self.experiments.iter().any(|(one, _)| one.metadata.name == *name) {
            self.experiments.push((made, Vec::new()));
        }
    }

    fn look(&mut self) -> Decision {
        let decision = self.decision();
        self.begin(&decision);
        self.schedule.status = Some(decision.status.clone());
        let deleted = |one: &EfficiencyExperiment| decision.delete.contains(one.metadata.name.as_ref().unwrap());
        self.experiments.retain(|(one, _)| !deleted(one));
        decision
    }

    /// A night passes, and the experiment comes to these joules per token.
    fn night(&mut self, joules: &[f64]) {
        self.now = self.now.checked_add(SignedDuration::from_hours(24)).unwrap();
        self.look();
        self.finish(joules, ExperimentPhase::Complete);
        self.look();
    }

    /// A night passes, and the experiment has a point for each of these classes of nodes, with the energy of this domain.
    fn night_of_classes(&mut self, classes: &[(&str, &str)], joules: &[f64]) {
        self.now = self.now.checked_add(SignedDuration::from_hours(24)).unwrap();
        self.look();
        self.finish(joules, ExperimentPhase::Complete);
        let status = self.experiments.last_mut().unwrap().0.status.as_mut().unwrap();
        let point = status.points.remove(0);
        let of_class = |(class, domain): &(&str, &str)| PointResult {
            node_class: (*class).to_owned(),
            energy_scope: vec![(*domain).to_owned()],
            ..point.clone()
        };
        status.points = classes.iter().map(of_class).collect();
        self.look();
    }

    fn finish(&mut self, joules: &[f64], phase: ExperimentPhase) {
        self.finish_at(self.experiments.len() - 1, joules, phase);
    }

    fn finish_at(&mut self, position: usize, joules: &[f64], phase: ExperimentPhase) {
        let (experiment, values) = &mut self.experiments[position];
        let mut status = Fixture::new().status;
        status.points.retain(usable);
        status.points.truncate(1);
        status.phase = phase;
        experiment.status = Some(status);
        joules.clone_into(values);
    }

    /// A night passes, and the fleet has measured all nodes but some.
    fn night_of_fleet(&mut self, joules: &[f64], nodes: FleetNodes, reason: &'static str) {
        self.now = self.now.checked_add(SignedDuration::from_hours(24)).unwrap();
        self.look();
        self.finish(joules, ExperimentPhase::Partial);
        let now = self.now;
        let status = self.experiments.last_mut().unwrap().0.status.as_mut().unwrap();
        status.fleet = Some(FleetStatus {
            nodes,
            ..FleetStatus::default()
        });
        let complete = Wanted {
            kind: ConditionType::Complete,
            holds: Some(true),
            reason,
            message: String::new(),
        };
        status.conditions = condition::merge(&[], vec![complete], None, now);
        self.look();
    }
}

fn usable(point: &PointResult) -> bool {
    point.verdict != lem_crds::status::Verdict::Invalid
}

/// Each point of an experiment's status, with these joules per token.
fn points(experiment: &EfficiencyExperiment, joules: &[f64]) -> Vec<MeasuredPoint> {
    let values = [("joulesPerToken".to_owned(), joules.to_vec())].into();
    let results = experiment.status.iter().flat_map(|status| &status.points);
    results.map(|result| MeasuredPoint::new(result, &values)).collect()
}

/// A fleet of three nodes.
fn fleet(placement: &Value) -> World {
    let mut spec = json!({"experimentTemplate": {
        "spec": {"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}},
            "placement": {"strategy": "EachNode"}}}});
    for (key, value) in placement.as_object().unwrap() {
        spec["experimentTemplate"]["spec"]["placement"][key] = value.clone();
    }
    World::new(&spec)
}

#[test]
fn an_experiment_is_named_after_its_time_and_belongs_to_its_schedule() {
    let schedule = schedule(&json!({}));
    let made = experiment(&schedule, at("2026-11-27T03:00:00Z"));
    assert_eq!(made.metadata.name.as_deref(), Some("nightly-29929140"));
    assert_eq!(made.metadata.labels.as_ref().unwrap()["team"], "a");
    let owner = schedule_of(&made).unwrap();
    assert_eq!(
        (owner.name.as_str(), owner.namespace.as_deref()),
        ("nightly", Some("lab"))
    );
}

#[test]
fn the_first_experiment_is_the_baseline_and_a_worse_one_is_a_regression_until_one_is_as_good_again() {
    let mut world = World::new(&json!({}));
    world.night(&[1.00, 1.01, 0.99]);
    assert_eq!(
        world.status().baseline.unwrap().experiment,
        world.status().series[0].experiment
    );
    assert_eq!(world.condition("Regressed"), None, "nothing was compared yet");
    world.night(&[1.00, 1.01, 1.00]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    world.night(&[1.20, 1.21, 1.19]);
    let (status, message) = world.condition("Regressed").unwrap();
    assert_eq!(status, "True");
    assert!(message.contains("1.2000 × the baseline"), "{message}");
    world.night(&[1.00, 1.00, 1.01]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    assert_eq!(world.status().series.len(), 4);
}

#[test]
fn worse_by_less_than_the_tolerance_is_no_regression() {
    let mut world = World::new(&json!({"comparison": {"tolerancePercent": 5}}));
    world.night(&[1.000, 1.001, 0.999]);
    world.night(&[1.030, 1.031, 1.029]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
}

fn reason(world: &World, kind: &str) -> String {
    let mut conditions = world.status().conditions.into_iter();
    conditions.find(|one| one.type_ == kind).unwrap().reason
}

#[test]
fn an_experiment_whose_every_comparison_is_refused_makes_it_unknown() {
    for before in [[1.0, 1.01, 0.99], [1.3, 1.31, 1.29]] {
        let mut world = World::new(&json!({}));
        world.night(&[1.0, 1.01, 0.99]);
        world.night(&before);
        world.night(&[1.0]);
        let (status, message) = world.condition("Regressed").unwrap();
        assert_eq!(
            (status.as_str(), reason(&world, "Regressed").as_str()),
            ("Unknown", "NotComparable")
        );
        assert!(message.contains("needs at least 2 cycles"), "{message}");
        assert_eq!(world.status().series[2].refused, 1);
    }
}

#[test]
fn an_experiment_of_which_nothing_fits_the_baseline_is_not_called_as_good() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    world.night(&[1.0, 1.01, 1.0]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    world.now = world.now.checked_add(SignedDuration::from_hours(24)).unwrap();
    world.look();
    world.finish(&[1.3, 1.31, 1.29], ExperimentPhase::Complete);
    let status = world.experiments.last_mut().unwrap().0.status.as_mut().unwrap();
    "another driver".clone_into(&mut status.points[0].node_class);
    world.look();
    let (status, message) = world.condition("Regressed").unwrap();
    assert_eq!(
        (status.as_str(), reason(&world, "Regressed").as_str()),
        ("Unknown", "NoCounterpart")
    );
    assert!(message.contains("spec.comparison.baselineExperimentName"), "{message}");
    assert_eq!(world.status().series[2].unmatched, 1);
}

#[test]
fn an_unknown_comparison_is_no_recovery_and_a_regression_after_it_is_news() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    world.night(&[1.3, 1.31, 1.29]);
    let worse = world.status();
    world.night(&[1.0]);
    let unknown = world.status();
    world.night(&[1.3, 1.31, 1.29]);
    assert!(news(&worse, &unknown).is_empty());
    let events = news(&unknown, &world.status());
    assert_eq!((events.len(), events[0].reason.as_str()), (1, "Regressed"));
}

#[test]
fn a_worse_point_that_is_missing_or_refused_the_next_time_has_not_recovered_until_it_is_compared_again() {
    let (worse_before, other, refused) = (("a", "gpu"), ("b", "gpu"), ("a", "cpu"));
    for partly in [vec![other], vec![refused, other]] {
        let mut world = World::new(&json!({}));
        world.night_of_classes(&[worse_before, other], &[1.0, 1.01, 0.99]);
        world.night_of_classes(&[worse_before, other], &[1.3, 1.31, 1.29]);
        let regressed = world.status();
        world.night_of_classes(&partly, &[1.0, 1.01, 1.0]);
        let unknown = world.status();
        let (status, message) = world.condition("Regressed").unwrap();
        assert_eq!(
            (status.as_str(), reason(&world, "Regressed").as_str()),
            ("Unknown", "PartlyCompared"),
            "{message}"
        );
        assert!(news(&regressed, &unknown).is_empty());
        world.night_of_classes(&[worse_before, other], &[1.0, 1.01, 1.0]);
        assert_eq!(world.condition("Regressed").unwrap().0, "False");
        let events = news(&unknown, &world.status());
        assert_eq!((events.len(), events[0].reason.as_str()), (1, "Recovered"));
    }
}

#[test]
fn what_was_never_worse_does_not_recover_after_an_unknown_comparison() {
    let mut world = World::new(&json!({}));
    let (one, other) = (("a", "gpu"), ("b", "gpu"));
    world.night_of_classes(&[one, other], &[1.0, 1.01, 0.99]);
    world.night_of_classes(&[one, other], &[1.0, 1.01, 1.0]);
    world.night_of_classes(&[one], &[1.0, 1.01, 1.0]);
    let unknown = world.status();
    world.night_of_classes(&[one, other], &[1.0, 1.01, 1.0]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    assert!(news(&unknown, &world.status()).is_empty());
}

#[test]
fn a_worse_point_is_a_regression_although_another_could_not_be_compared() {
    let mut world = World::new(&json!({}));
    world.night_of_classes(&[("a", "gpu"), ("b", "gpu")], &[1.0, 1.01, 0.99]);
    world.night_of_classes(&[("a", "gpu")], &[1.3, 1.31, 1.29]);
    assert_eq!(world.condition("Regressed").unwrap().0, "True");
    assert_eq!(world.status().series[1].unmatched, 1);
}

#[test]
fn a_fleet_with_a_cordoned_node_is_the_baseline_and_the_next_one_is_held_against_it() {
    let mut world = fleet(&json!({"maxFailedNodes": 0}));
    let without_one = FleetNodes {
        matching: 3,
        measured: 2,
        not_measured: 1,
        ..FleetNodes::default()
    };
    world.night_of_fleet(&[1.0, 1.01, 0.99], without_one, "Partial");
    assert_eq!(
        world.status().baseline.unwrap().experiment,
        world.status().series[0].experiment
    );
    world.night_of_fleet(&[1.3, 1.31, 1.29], without_one, "Partial");
    assert_eq!(world.condition("Regressed").unwrap().0, "True");
}

#[test]
fn a_fleet_that_was_cut_short_is_no_baseline() {
    let nodes = |failed: u32| FleetNodes {
        matching: 3,
        measured: 3 - failed,
        failed,
        ..FleetNodes::default()
    };
    for (nodes, reason, taken) in [
        (nodes(1), "Cancelled", false),
        (nodes(1), "BudgetSpent", false),
        (nodes(2), "Partial", false),
        (nodes(1), "Partial", true),
    ] {
        let mut world = fleet(&json!({"maxFailedNodes": 1}));
        world.night_of_fleet(&[1.0, 1.01, 0.99], nodes, reason);
        assert_eq!(world.status().baseline.is_some(), taken, "{nodes:?} {reason}");
    }
}

#[test]
fn a_fleet_that_has_measured_less_than_half_of_its_nodes_is_no_baseline() {
    let mut world = fleet(&json!({}));
    for (measured, taken) in [(2, false), (499, false), (500, true)] {
        let nodes = FleetNodes {
            matching: 1000,
            measured,
            not_measured: 1000 - measured,
            ..FleetNodes::default()
        };
        world.night_of_fleet(&[1.0, 1.01, 0.99], nodes, "Partial");
        assert_eq!(world.status().baseline.is_some(), taken, "{measured}");
    }
    let first = world.status().series.remove(0);
    assert!(first.message.contains("has not measured enough"), "{}", first.message);
}

#[test]
fn an_experiment_that_nothing_can_be_compared_with_is_no_baseline() {
    let taken = |joules: &[f64]| {
        let mut world = World::new(&json!({}));
        world.night(joules);
        world.status().baseline.is_some()
    };
    assert!(!taken(&[1.0]), "one value has no spread");
    assert!(!taken(&[1.0, 0.0]), "zero has no logarithm");
    assert!(taken(&[1.0, 1.01]));
}

#[test]
fn a_partial_experiment_that_is_no_fleet_is_no_baseline() {
    let mut world = World::new(&json!({}));
    world.night_of_fleet(&[1.0, 1.01, 0.99], FleetNodes::default(), "Partial");
    assert_eq!(world.status().baseline, None);
}

#[test]
fn a_baseline_of_many_classes_is_bounded_and_says_what_it_leaves_out() {
    let mut world = World::new(&json!({}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.finish(&[1.0, 1.01, 0.99], ExperimentPhase::Complete);
    let status = world.experiments[0].0.status.as_mut().unwrap();
    let point = status.points.remove(0);
    status.points = (0..130)
        .map(|class| PointResult {
            node_class: class.to_string(),
            ..point.clone()
        })
        .collect();
    world.look();
    let baseline = world.status().baseline.unwrap();
    assert_eq!((baseline.points.len(), baseline.points_left_out), (100, 30));
}

#[test]
fn a_time_at_which_one_still_runs_waits_for_it() {
    let mut world = World::new(&json!({}));
    world.now = at("2026-11-02T03:00:01Z");
    assert!(world.look().create.is_some());
    assert_eq!(world.look().create, None, "once for each time");
    world.now = at("2026-11-03T03:00:01Z");
    assert_eq!(world.look().create, None, "the one of yesterday runs");
    world.finish(&[1.0, 1.0], ExperimentPhase::Complete);
    assert_eq!(world.look().create, Some(at("2026-11-03T03:00:00Z")));
}

#[test]
fn a_time_that_was_missed_for_too_long_is_left_out() {
    let mut world = World::new(&json!({"startingDeadlineSeconds": 3600}));
    world.now = at("2026-11-02T05:00:00Z");
    let decision = world.look();
    assert_eq!(decision.create, None);
    assert_eq!(decision.wake_at, Some(at("2026-11-03T03:00:00Z")));
}

#[test]
fn replace_cancels_what_runs() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Replace"}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.now = at("2026-11-03T03:00:01Z");
    let decision = world.look();
    assert_eq!((decision.create.is_some(), decision.cancel.len()), (true, 1));
    assert!(world.experiments[0].0.spec.cancel);
}

#[test]
fn a_crash_before_the_status_is_written_neither_loses_the_time_nor_cancels_what_was_created_for_it() {
    for policy in ["Replace", "Forbid", "Allow"] {
        let mut world = World::new(&json!({"concurrencyPolicy": policy}));
        world.now = at("2026-11-02T03:00:01Z");
        let decision = world.decision();
        world.begin(&decision);
        let again = world.look();
        assert_eq!(again.create, Some(at("2026-11-02T03:00:00Z")), "{policy}");
        assert_eq!(again.cancel, [""; 0], "{policy}");
        assert_eq!(world.experiments.len(), 1, "{policy}");
        assert_eq!(world.status().last_schedule_time, again.create, "{policy}");
    }
}

#[test]
fn a_crash_after_the_old_one_is_cancelled_still_creates_the_new_one() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Replace"}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.now = at("2026-11-03T03:00:01Z");
    world.experiments[0].0.spec.cancel = true;
    let decision = world.look();
    assert_eq!(decision.create, Some(at("2026-11-03T03:00:00Z")));
    assert_eq!(decision.cancel, [""; 0]);
}

/// An API server that gives these answers; what it was asked, with the body.
async fn answers(
    mut server: Handle<Request<Body>, Response<Body>>,
    schedule: &EfficiencySchedule,
    codes: &[u16],
) -> Vec<(String, Value)> {
    let mut seen = Vec::new();
    for code in codes {
        let (request, send) = server.next_request().await.unwrap();
        let body = if *code >= 300 {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "",
                "reason": "", "code": code})
        } else if request.uri().path().contains("efficiencyschedules") {
            serde_json::to_value(schedule).unwrap()
        } else {
            serde_json::to_value(experiment(schedule, Timestamp::UNIX_EPOCH)).unwrap()
        };
        let method = request.method().to_string();
        let asked = request.into_body().collect_bytes().await.unwrap();
        seen.push((method, serde_json::from_slice(&asked).unwrap_or_default()));
        let answer = Response::builder().status(*code);
        send.send_response(answer.body(Body::from(body.to_string().into_bytes())).unwrap());
    }
    seen
}

/// What is asked of an API server that gives these answers, and whether all went well.
async fn requests(decision: &Decision, codes: &[u16]) -> (bool, Vec<String>) {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let experiments: Api<EfficiencyExperiment> = Api::namespaced(Client::new(service, "lab"), "lab");
    let schedule = schedule(&json!({}));
    let (done, seen) = tokio::join!(
        begin(&experiments, &schedule, decision),
        answers(server, &schedule, codes)
    );
    (done.is_ok(), seen.into_iter().map(|(method, _)| method).collect())
}

/// A controller of schedules whose caches are empty.
fn context(client: Client) -> Context {
    let reporter = Reporter {
        controller: "lem-operator".to_owned(),
        instance: None,
    };
    Context {
        client: client.clone(),
        leadership: Leadership::always(),
        recorder: Recorder::new(client, reporter),
        caches: Caches {
            runners: reflector::store().0,
            jobs: reflector::store().0,
            pods: reflector::store().0,
            nodes: None,
        },
        experiments: reflector::store().0,
        metrics: ControllerMetrics::default(),
    }
}

#[tokio::test]
async fn an_experiment_that_cannot_be_created_keeps_neither_results_nor_deletions_back_and_stays_due() {
    for (policy, refused) in [("Allow", "POST"), ("Replace", "PATCH")] {
        let mut world = World::new(&json!({"concurrencyPolicy": policy}));
        world.night(&[1.0, 1.01, 0.99]);
        for _ in 0..2 {
            world.now = world.now.checked_add(SignedDuration::from_hours(24)).unwrap();
            world.look();
        }
        world.finish_at(1, &[1.0, 1.01, 1.0], ExperimentPhase::Complete);
        world.schedule.spec.successful_experiments_history_limit = 0;
        world.now = world.now.checked_add(SignedDuration::from_hours(24)).unwrap();
        let (before, decision) = (world.status(), world.decision());
        assert_eq!(decision.delete.len(), 1, "{policy}");
        let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let context = context(Client::new(service, "lab"));
        let (done, seen) = tokio::join!(
            carry_out(&world.schedule, &before, &decision, &context),
            answers(server, &world.schedule, &[403, 200, 200])
        );
        assert_eq!(done.unwrap_err().category(), "forbidden", "{policy}");
        let methods: Vec<&str> = seen.iter().map(|(method, _)| method.as_str()).collect();
        assert_eq!(methods, [refused, "PATCH", "DELETE"]);
        let written: EfficiencyScheduleStatus = serde_json::from_value(seen[1].1["status"].clone()).unwrap();
        assert_eq!(written.series.len(), 2, "{policy}");
        assert_eq!(written.last_schedule_time, before.last_schedule_time, "{policy}");
        world.schedule.status = Some(written);
        assert_eq!(world.decision().create, decision.create, "{policy}");
    }
}

#[tokio::test]
async fn what_is_replaced_is_cancelled_first_and_nothing_is_created_where_that_fails() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Replace"}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.now = at("2026-11-03T03:00:01Z");
    let decision = world.decision();
    let of = |methods: &[&str]| methods.iter().map(|method| (*method).to_owned()).collect::<Vec<_>>();
    assert_eq!(requests(&decision, &[200, 201]).await, (true, of(&["PATCH", "POST"])));
    assert_eq!(requests(&decision, &[404, 409]).await, (true, of(&["PATCH", "POST"])));
    assert_eq!(requests(&decision, &[409]).await, (false, of(&["PATCH"])));
    assert_eq!(requests(&decision, &[500]).await, (false, of(&["PATCH"])));
}

#[test]
fn an_older_experiment_that_ends_late_stands_before_the_newer_one_and_does_not_speak_for_it() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Allow"}));
    world.night(&[1.0, 1.01, 0.99]);
    for day in ["2026-11-03T03:00:01Z", "2026-11-04T03:00:01Z"] {
        world.now = at(day);
        world.look();
    }
    world.finish_at(2, &[1.3, 1.31, 1.29], ExperimentPhase::Complete);
    world.look();
    assert_eq!(world.condition("Regressed").unwrap().0, "True");
    world.finish_at(1, &[1.0, 1.01, 1.0], ExperimentPhase::Partial);
    world.look();
    let series = world.status().series;
    assert!(
        series.is_sorted_by_key(|entry| entry.scheduled_at),
        "the newest is the last"
    );
    assert_eq!((series[1].worse, series[2].worse), (0, 1));
    assert_eq!(world.condition("Regressed").unwrap().0, "True");
}

#[test]
fn a_retained_experiment_that_has_left_the_series_does_not_come_back_as_its_newest() {
    let mut world = World::new(&json!({"successfulExperimentsHistoryLimit": 1}));
    world.night(&[1.0, 1.01, 0.99]);
    world.now = world.now.checked_add(SignedDuration::from_hours(24)).unwrap();
    world.look();
    world.finish(&[1.3, 1.31, 1.29], ExperimentPhase::Partial);
    world.look();
    let partial = world.experiments.last().unwrap().0.metadata.name.clone();
    for _ in 0..105 {
        world.night(&[1.0, 1.01, 1.02]);
    }
    let series = world.status().series;
    assert_eq!(series.len(), 100);
    assert!(series.iter().all(|entry| entry.phase == ExperimentPhase::Complete));
    assert!(series.is_sorted_by_key(|entry| entry.scheduled_at));
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    let is_there = |world: &World| world.experiments.iter().any(|(one, _)| one.metadata.name == partial);
    assert!(is_there(&world), "it is retained");
    world.schedule.spec.failed_experiments_history_limit = 0;
    world.look();
    assert!(!is_there(&world), "its entry is settled, so it may go");
    assert_eq!(world.status().series, series);
}

#[test]
fn a_suspended_schedule_creates_nothing_and_keeps_judging() {
    let mut world = World::new(&json!({}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.schedule.spec.suspend = true;
    world.now = at("2026-11-03T03:00:01Z");
    world.finish(&[1.0, 1.0], ExperimentPhase::Complete);
    let decision = world.look();
    assert_eq!((decision.create, decision.wake_at), (None, None));
    assert_eq!(world.status().series.len(), 1);
}

#[test]
fn history_is_deleted_after_its_entry_is_kept_and_the_series_stays() {
    let mut world = World::new(&json!({"successfulExperimentsHistoryLimit": 2}));
    for _ in 0..5 {
        world.night(&[1.0, 1.01, 1.02]);
    }
    world.look();
    assert_eq!((world.experiments.len(), world.status().series.len()), (2, 5));
    let newest = world.status().series[4].experiment.clone();
    assert!(
        world
            .experiments
            .iter()
            .any(|(one, _)| one.metadata.name.as_ref() == Some(&newest))
    );
}

#[test]
fn the_series_is_bounded() {
    let mut world = World::new(&json!({"successfulExperimentsHistoryLimit": 1}));
    for _ in 0..110 {
        world.night(&[1.0, 1.01, 1.02]);
    }
    assert_eq!(world.status().series.len(), 100);
}

#[test]
fn a_schedule_that_cannot_be_read_is_refused_with_the_field() {
    let mut world = World::new(&json!({"schedule": "61 3 * * *"}));
    let decision = world.look();
    assert_eq!((decision.create, decision.wake_at), (None, None));
    let (status, message) = world.condition("Accepted").unwrap();
    assert_eq!(status, "False");
    assert!(message.starts_with("spec.schedule: "), "{message}");
}

#[test]
fn a_named_baseline_that_is_missing_is_said() {
    let mut world = World::new(&json!({"comparison": {"baselineExperimentName": "golden"}}));
    world.night(&[1.0, 1.0, 1.0]);
    assert_eq!(world.status().baseline, None, "the first one is not taken instead");
    let (_, message) = world.condition("Accepted").unwrap();
    assert!(message.contains("no experiment golden"), "{message}");
}

#[test]
fn a_named_baseline_is_worked_out_until_it_is_pinned_and_again_for_another_name_or_metric() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    let status = world.status();
    let pinned = status.baseline.as_ref().unwrap().experiment.as_str();
    let named = |name: &str, metrics: &[&str]| ScheduleComparison {
        baseline_experiment_name: Some(name.to_owned()),
        metrics: metrics.iter().map(|metric| (*metric).to_owned()).collect(),
        ..ScheduleComparison::default()
    };
    assert_eq!(to_pin(&named(pinned, &["joulesPerToken"]), &status), None);
    assert_eq!(
        to_pin(&named(pinned, &["joulesPerToken", "tokensPerSecond"]), &status),
        Some(pinned)
    );
    assert_eq!(to_pin(&named("golden", &["joulesPerToken"]), &status), Some("golden"));
    assert_eq!(to_pin(&ScheduleComparison::default(), &status), None);
}

#[test]
fn an_unchanged_world_gives_an_unchanged_status() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    let first = world.look();
    let second = world.look();
    assert_eq!(first.status, second.status);
}
