//! Many experiments at once: all come to their end, and what that costs.

use std::{fmt::Write, fs, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use lem_test_cluster::{Request, count};
use serde_json::json;

use super::{
    experiment,
    installed::{Installed, by_operator, process},
    invariants::{self, Asked, Watched},
    world::World,
};

const ASKED: Asked = Asked {
    processes: 1,
    trials: 1,
};
/// Experiments take turns on three nodes.
const LIMIT: Duration = Duration::from_mins(10);
/// Renewals of the Lease during which an operator without work is watched: one each 5 s.
const RENEWALS: usize = 13;
/// The kernel counts time in hundredths of a second.
const TICKS: f64 = 100.0;

/// What the operator's process has used so far.
struct Used {
    resident_mebibytes: f64,
    peak_mebibytes: f64,
    cpu_seconds: f64,
}

fn used(pod: &Pod) -> Used {
    let id = process(pod, "lem-operator").unwrap();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let mebibytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes / 1024.0
    };
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // After the name, which may hold spaces: state is the first field, times in user and kernel mode the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    Used {
        resident_mebibytes: mebibytes("VmRSS:"),
        peak_mebibytes: mebibytes("VmHWM:"),
        cpu_seconds: ticks / TICKS,
    }
}

fn name(batch: usize, index: usize) -> String {
    format!("batch-{batch}-{index:02}")
}

/// Applies so many experiments at once, and waits until all are complete.
async fn all_complete(world: &World, batch: usize) {
    let asked = json!({"protocol": {"baseline": {"duration": "0s"}, "cooldown": {"duration": "0s"}}});
    for index in 0..batch {
        let name = name(batch, index);
        world
            .apply(&experiment::with(&name, ASKED.processes, ASKED.trials, &asked))
            .await;
    }
    let api = world.api::<EfficiencyExperiment>();
    let api = &api;
    let prefix = format!("batch-{batch}-");
    let prefix = &prefix;
    let over = || async move {
        let all = api.list(&kube::api::ListParams::default()).await;
        let mut left = Vec::new();
        for experiment in all.map_err(|error| error.to_string())? {
            let name = experiment.metadata.name.unwrap_or_default();
            let phase = experiment.status.unwrap_or_default().phase;
            if name.starts_with(prefix) && phase != ExperimentPhase::Complete {
                left.push(format!("{name} {phase:?}"));
            }
        }
        left.is_empty().then_some(()).ok_or_else(|| left.join(", "))
    };
    let waited = world.cluster.until("the end of all experiments", LIMIT, over).await;
    waited.unwrap_or_else(|error| panic!("{error}"));
    for index in 0..batch {
        invariants::hold(world, &name(batch, index), ASKED).await;
    }
}

/// From the last report of each experiment's process to its final status, in milliseconds, ascending.
fn report_to_status(requests: &[Request], batch: usize) -> Vec<f64> {
    let at = |request: &Request| request.received.parse::<Timestamp>().unwrap();
    let mut delays: Vec<f64> = (0..batch)
        .map(|index| {
            let name = name(batch, index);
            let of = |resource: &'static str, wanted: String| {
                requests.iter().filter(move |request| {
                    request.resource == resource && request.verb == "patch" && request.name.starts_with(&wanted)
                })
            };
            let last = of("efficiencyexperiments/status", name.clone()).map(at).max().unwrap();
            let reports = of("runners/status", format!("{name}-")).map(at);
            let report = reports.filter(|report| *report < last).max().unwrap();
            last.duration_since(report).as_secs_f64() * 1000.0
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    delays
}

fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.saturating_sub(1)]
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn fifty_experiments_at_once_all_come_to_their_end() {
    let installed = Installed::of("many").await;
    let world = &installed.world;
    let leader = installed.next_leader(Timestamp::UNIX_EPOCH).await;
    let mut report = String::new();
    for batch in [1, 10, 50] {
        let audit = world.cluster.audit().unwrap().from_now().unwrap();
        let before = used(&leader);
        let begin = Timestamp::now();
        all_complete(world, batch).await;
        let took = Timestamp::now().duration_since(begin).as_secs_f64();
        let after = used(&leader);
        let delays = report_to_status(&audit.requests().unwrap(), batch);
        let (half, most) = (quantile(&delays, 0.5), quantile(&delays, 0.95));
        let Used {
            resident_mebibytes,
            peak_mebibytes,
            cpu_seconds,
        } = after;
        let cpu = cpu_seconds - before.cpu_seconds;
        writeln!(
            report,
            "{batch} experiments in {took:.0} s: resident {resident_mebibytes:.0} MiB (peak {peak_mebibytes:.0}), CPU \
             {cpu:.2} s, last report to final status p50 {half:.0} ms, p95 {most:.0} ms; requests per experiment:"
        )
        .unwrap();
        for ((_, verb, resource), number) in count(&by_operator(&audit)) {
            let each = number as f64 / batch as f64;
            writeln!(report, "  {verb} {resource}: {each:.2}").unwrap();
        }
    }
    report.push_str(&idle(&installed).await);
    eprintln!("{report}");
    invariants::a_second_look_changes_nothing(world, &name(50, 49), &installed).await;
    assert_eq!(
        installed.leader(Timestamp::UNIX_EPOCH).await.unwrap().metadata.uid,
        leader.metadata.uid
    );
    installed.has_not_restarted().await;
    world.delete_namespace().await;
}

/// Nothing is to be done: what the operator asks for then.
async fn idle(installed: &Installed) -> String {
    let world = &installed.world;
    let audit = world.cluster.audit().unwrap().from_now().unwrap();
    let begin = Timestamp::now();
    let looked = installed.reconciliations().await.unwrap();
    world
        .eventually("renewals of the Lease", || async {
            let requests = by_operator(&audit);
            let renewals = requests.iter().filter(|request| request.is_write());
            let renewals = renewals.filter(|request| request.resource == "leases").count();
            (renewals >= RENEWALS).then_some(()).ok_or_else(|| renewals.to_string())
        })
        .await;
    let minutes = Timestamp::now().duration_since(begin).as_secs_f64() / 60.0;
    let requests = by_operator(&audit);
    let others: Vec<&Request> = requests
        .iter()
        .filter(|request| request.resource != "leases" && request.verb != "watch")
        .collect();
    assert!(
        others.is_empty(),
        "an operator without work asks for more than its Lease: {others:?}"
    );
    let looked = installed.reconciliations().await.unwrap() - looked;
    let mut report = format!("idle, {looked} reconciliations; requests per minute of both replicas:\n");
    for ((_, verb, resource), number) in count(&requests) {
        writeln!(report, "  {verb} {resource}: {:.1}", number as f64 / minutes).unwrap();
    }
    report
}
