//! What an experiment costs the API server: counted from its audit log, per process and window.

use lem_crds::{runner::RunnerPhase, status::ExperimentPhase};
use lem_test_cluster::Request;

use crate::{
    experiment::tiny,
    world::{World, described},
};

const PROCESSES: u32 = 3;

/// Writes to the mailboxes and records of an experiment, by whomever, until its last process has finished.
async fn writes(world: &World, name: &str, cycles: u32) -> Vec<Request> {
    let before = world.cluster.audit().unwrap().from_now().unwrap();
    world.apply(&tiny(name, PROCESSES, cycles)).await;
    let status = world.ended(name).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert!(status.failures.is_empty(), "{}", described(&status));
    world
        .eventually("the last report of each process", || async {
            let runners = world.runners(name).await;
            let phases = runners
                .iter()
                .map(|runner| runner.status.as_ref().map(|status| status.phase));
            let phases: Vec<_> = phases.collect();
            let finished = |phase: &Option<_>| *phase == Some(RunnerPhase::Finished);
            phases
                .iter()
                .all(finished)
                .then_some(())
                .ok_or_else(|| format!("{phases:?}"))
        })
        .await;
    let mut requests = before.requests().unwrap();
    requests.retain(|request| {
        let ours = request.namespace == world.namespace && request.resource.starts_with("runners");
        ours && request.is_write()
    });
    requests
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_window_costs_six_writes_per_process_and_each_further_one_three() {
    let world = World::of("cost").await;
    if !world.cluster.is_own() {
        return;
    }
    let one = writes(&world, "one", 1).await;
    let four = writes(&world, "four", 4).await;
    let per_process = |requests: &[Request]| requests.len() as u32 / PROCESSES;
    assert!(per_process(&one) <= 6, "{one:#?}");
    let further = (four.len() - one.len()) as u32 / PROCESSES;
    assert!(
        further <= 3 * 3,
        "{further} writes per process for three further windows: {four:#?}"
    );
}
