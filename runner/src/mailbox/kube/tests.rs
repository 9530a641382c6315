//! Conversations with an API server in memory.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;
use lem_crds::runner::RunnerPhase;
use serde_json::{Value, json};

use super::*;

/// As long as a test waits for something that must come.
const BOUND: Duration = Duration::from_secs(20);

/// What the API server keeps, and how it behaves.
struct Server {
    runner: Option<Value>,
    /// So many writes fail first.
    failures: usize,
    /// So many writes succeed, and their answer is lost.
    lost_answers: usize,
    writes: usize,
}

type Shared = Arc<Mutex<Server>>;

fn runner(status: &Value) -> Value {
    json!({
        "apiVersion": "lem.dev/v1alpha1", "kind": "Runner",
        "metadata": {"name": "cohort-0", "namespace": "lab", "uid": "runner-uid", "resourceVersion": "1"},
        "spec": {"experiment": "quick", "cohort": "c", "process": 0, "processes": 1, "finish": false, "load": {
            "model": {"name": "m", "source": {"synthetic": {"preset": "tiny-test"}}},
            "engine": {"candle": {}}, "energy": {}, "baseline": {}, "gpusPerProcess": 0}},
        "status": status,
    })
}

fn server(runner: Option<Value>) -> Shared {
    Arc::new(Mutex::new(Server {
        runner,
        failures: 0,
        lost_answers: 0,
        writes: 0,
    }))
}

fn failure(code: u16) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Test", "message": "test",
        "code": code});
    (code, status)
}

fn write(server: &mut Server, body: &[u8]) -> (u16, Value) {
    if server.failures > 0 {
        server.failures -= 1;
        return failure(500);
    }
    let Some(runner) = &mut server.runner else {
        return failure(404);
    };
    let patch: json_patch::Patch = serde_json::from_slice(body).unwrap();
    if json_patch::patch(runner, &patch).is_err() {
        return failure(422);
    }
    server.writes += 1;
    let version = runner["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        + 1;
    runner["metadata"]["resourceVersion"] = json!(version.to_string());
    if server.lost_answers > 0 {
        server.lost_answers -= 1;
        return failure(500);
    }
    (200, runner.clone())
}

async fn answer(server: &Shared, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let watch = parts.uri.query().is_some_and(|query| query.contains("watch"));
    let body = body.collect_bytes().await.unwrap();
    let mut server = server.lock().unwrap();
    let (code, value) = match (parts.method, watch) {
        (Method::PATCH, _) => write(&mut server, &body),
        (_, true) => match &server.runner {
            Some(runner) => (200, json!({"type": "MODIFIED", "object": runner})),
            None => (200, json!({"type": "DELETED", "object": runner(&json!({}))})),
        },
        (_, false) => match &server.runner {
            Some(runner) => (200, runner.clone()),
            None => failure(404),
        },
    };
    let text = format!("{value}\n");
    Response::builder()
        .status(code)
        .body(Body::from(text.into_bytes()))
        .unwrap()
}

fn open(server: &Shared) -> KubernetesMailbox {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let client = Mutex::new(Some(service));
    let server = Arc::clone(server);
    let identity = Identity {
        namespace: "lab".to_owned(),
        name: "cohort-0".to_owned(),
        pod_uid: "pod-b".to_owned(),
    };
    let (started, start) = std::sync::mpsc::channel::<()>();
    let mailbox = KubernetesMailbox::with_client(identity, async move || {
        started.send(()).unwrap();
        Ok(Client::new(client.lock().unwrap().take().unwrap(), "lab"))
    })
    .unwrap();
    start.recv().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            while let Some((request, send)) = handle.next_request().await {
                send.send_response(answer(&server, request).await);
            }
        });
    });
    mailbox
}

fn status(phase: RunnerPhase) -> RunnerStatus {
    RunnerStatus {
        schema_version: 1,
        phase,
        ..RunnerStatus::default()
    }
}

#[test]
fn a_pod_reads_its_mailbox_takes_it_over_and_reports() {
    let server = server(Some(runner(
        &json!({"podUid": "pod-a", "schemaVersion": 1, "phase": "Ready"}),
    )));
    let mut mailbox = open(&server);
    let Received::Spec(spec) = mailbox.receive(BOUND).unwrap() else {
        panic!("no spec");
    };
    assert_eq!(spec.experiment, "quick");
    mailbox.report(&status(RunnerPhase::Ready)).unwrap();
    assert!(mailbox.flush(BOUND));
    let kept = server.lock().unwrap().runner.clone().unwrap();
    assert_eq!(kept["status"]["podUid"], "pod-b");
    assert_eq!(kept["status"]["phase"], "Ready");
}

#[test]
fn reports_outlast_an_api_server_that_is_away_and_the_newest_one_counts() {
    let server = server(Some(runner(&json!(null))));
    server.lock().unwrap().failures = 3;
    let mut mailbox = open(&server);
    mailbox.report(&status(RunnerPhase::Ready)).unwrap();
    mailbox.report(&status(RunnerPhase::Finished)).unwrap();
    assert!(mailbox.flush(BOUND));
    let kept = server.lock().unwrap();
    assert_eq!(kept.runner.as_ref().unwrap()["status"]["phase"], "Finished");
    assert!(kept.writes <= 2, "{} writes", kept.writes);
}

#[test]
fn a_claim_whose_answer_was_lost_is_recognised_as_ones_own() {
    let server = server(Some(runner(&json!(null))));
    server.lock().unwrap().lost_answers = 1;
    let mut mailbox = open(&server);
    mailbox.report(&status(RunnerPhase::Finished)).unwrap();
    assert!(mailbox.flush(BOUND));
}

#[test]
fn a_pod_whose_runner_is_gone_or_taken_writes_no_more() {
    let gone = server(None);
    let mut mailbox = open(&gone);
    assert!(matches!(mailbox.receive(BOUND).unwrap(), Received::Closed));
    mailbox.report(&status(RunnerPhase::Finished)).unwrap();
    assert!(!mailbox.flush(BOUND));

    let taken = server(Some(runner(&json!(null))));
    let mut mailbox = open(&taken);
    mailbox.report(&status(RunnerPhase::Ready)).unwrap();
    assert!(mailbox.flush(BOUND));
    taken.lock().unwrap().runner.as_mut().unwrap()["status"]["podUid"] = json!("pod-c");
    mailbox.report(&status(RunnerPhase::Finished)).unwrap();
    assert!(!mailbox.flush(BOUND));
    let kept = taken.lock().unwrap().runner.clone().unwrap();
    assert_eq!(
        (kept["status"]["podUid"].as_str(), kept["status"]["phase"].as_str()),
        (Some("pod-c"), Some("Ready"))
    );
}

fn assign(server: &Shared, cycle: u32, start_at: Option<&str>) {
    assign_with(server, "Trial", cycle, start_at);
}

fn assign_with(server: &Shared, barrier: &str, cycle: u32, start_at: Option<&str>) {
    let mut server = server.lock().unwrap();
    let runner = server.runner.as_mut().unwrap();
    runner["spec"]["assignment"] = json!({
        "trial": {"planSha256": "", "point": 0, "cycle": cycle, "attempt": 0},
        "window": {"workload": {}, "decoder": {}, "warmup": {"converged": {}}, "cooldown": {}, "barrier": barrier, "deadlines": {}},
        "startAt": start_at,
    });
}

fn heard(mailbox: &mut KubernetesMailbox) -> Assignment {
    match mailbox.receive(BOUND).unwrap() {
        Received::Spec(spec) => spec.assignment.unwrap(),
        other => panic!("no assignment but {other:?}"),
    }
}

#[test]
fn a_start_that_is_written_again_after_its_window_silences_nobody() {
    let server = server(Some(runner(&json!(null))));
    assign(&server, 0, None);
    let mut mailbox = open(&server);
    let trial = heard(&mut mailbox).trial;
    let report = |phase| RunnerStatus {
        trial: Some(trial.clone()),
        ..status(phase)
    };
    mailbox.report(&report(RunnerPhase::Ready)).unwrap();
    assign(&server, 0, Some("2026-01-01T00:00:00Z"));
    assert!(heard(&mut mailbox).start_at.is_some());
    mailbox.report(&report(RunnerPhase::Idle)).unwrap();
    assign(&server, 0, Some("2026-01-01T00:00:01Z"));
    assert_eq!(heard(&mut mailbox).trial.cycle, 0);
    assign(&server, 1, None);
    assert_eq!(heard(&mut mailbox).trial.cycle, 1);
}

#[test]
fn a_process_that_waits_for_nobody_writes_when_it_has_loaded_and_after_each_window_and_not_before_it() {
    let server = server(Some(runner(&json!(null))));
    assign_with(&server, "None", 0, None);
    let mut mailbox = open(&server);
    let trial = heard(&mut mailbox).trial;
    let loaded = RunnerStatus {
        environment: Some(lem_crds::runner::Environment::default()),
        ..status(RunnerPhase::Idle)
    };
    let report = |phase| RunnerStatus {
        trial: Some(trial.clone()),
        phase,
        ..loaded.clone()
    };
    mailbox.report(&status(RunnerPhase::Loading)).unwrap();
    mailbox.report(&loaded).unwrap();
    mailbox.report(&report(RunnerPhase::WarmingUp)).unwrap();
    mailbox.report(&report(RunnerPhase::Ready)).unwrap();
    // From here on the window runs.
    let before = server.lock().unwrap();
    assert_eq!(before.runner.as_ref().unwrap()["status"]["phase"], "Idle");
    let writes = before.writes;
    assert!((1..=2).contains(&writes), "{writes} writes");
    drop(before);
    mailbox.report(&report(RunnerPhase::Finished)).unwrap();
    assert!(mailbox.flush(BOUND));
    assert_eq!(server.lock().unwrap().writes, writes + 1);
}

#[test]
fn nothing_is_left_of_a_mailbox_whose_process_goes_on_without_it() {
    let fenced = || server(None);
    let written = || server(Some(runner(&json!(null))));
    for (server, is_fenced) in [(written(), false), (fenced(), true)] {
        let mut mailbox = open(&server);
        mailbox.report(&status(RunnerPhase::Finished)).unwrap();
        assert_eq!(mailbox.flush(BOUND), !is_fenced);
        drop(mailbox);
        // The other end of its connection holds the server until the connection is closed.
        let begin = std::time::Instant::now();
        while Arc::strong_count(&server) > 1 {
            assert!(begin.elapsed() < BOUND, "its thread still runs; fenced: {is_fenced}");
            thread::yield_now();
        }
    }
}
