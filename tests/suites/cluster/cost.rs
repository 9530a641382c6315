//! What an experiment costs the API server: counted from its audit log, per process and window.

use kube::ResourceExt;
use lem_crds::{Runner, runner::RunnerPhase, status::ExperimentPhase};
use lem_test_cluster::Request;

use crate::{
    experiment::tiny,
    world::{World, described},
};

const PROCESSES: u32 = 3;

/// Letters and reports of the processes that measured, until the last one has finished. A set that gave its nodes back to
/// another experiment before it began is not theirs.
async fn writes(world: &World, name: &str, cycles: u32) -> Vec<Request> {
    let before = world.cluster.audit().unwrap().from_now().unwrap();
    world.apply(&tiny(name, PROCESSES, cycles)).await;
    let status = world.ended(name).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert!(status.failures.is_empty(), "{}", described(&status));
    let names = world
        .eventually("the last report of each process", || async {
            let mut runners = world.runners(name).await;
            let state = |runner: &Runner| {
                let status = runner.status.as_ref()?;
                Some((status.phase, status.windows.len()))
            };
            let seen: Vec<_> = runners.iter().map(state).collect();
            // One of the set that stepped back may have finished too, without a window.
            let measured = |runner: &Runner| state(runner).is_some_and(|(_, windows)| windows > 0);
            runners.retain(|runner| {
                measured(runner) && state(runner).map(|(phase, _)| phase) == Some(RunnerPhase::Finished)
            });
            let finished: Vec<String> = runners.iter().map(ResourceExt::name_any).collect();
            (finished.len() == PROCESSES as usize)
                .then_some(finished)
                .ok_or_else(|| format!("{seen:?}"))
        })
        .await;
    let mut requests = before.requests().unwrap();
    requests.retain(|request| {
        let ours = request.resource.starts_with("runners") && names.contains(&request.name);
        ours && request.verb == "patch"
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
    // The mailbox is created before anything is patched into it or its status.
    let first = 1 + per_process(&one);
    assert!(!one.is_empty() && first <= 6, "{one:#?}");
    let further = (four.len() - one.len()) as u32 / PROCESSES;
    assert!(
        further <= 3 * 3,
        "{further} writes per process for three further windows: {four:#?}"
    );
}
