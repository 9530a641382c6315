//! Replicas of the operator that die: another one takes over, and goes on where the dead one was.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use lem_crds::Runner;

use super::{
    installed::{Installed, SUCCESSION, kill, process},
    invariants::{self, Asked},
    moment::{self, in_window, unhurried},
};

const ASKED: Asked = Asked {
    processes: 3,
    trials: 2,
};
/// A container's start, and a busy machine.
const MARGIN: Duration = Duration::from_secs(10);

/// Points of an experiment, in their order.
type Point = (&'static str, fn(&[Runner]) -> Option<()>);
const POINTS: [Point; 6] = [
    ("mailboxes that are there", |runners| {
        (!runners.is_empty()).then_some(())
    }),
    ("a process that has reported", |runners| {
        runners.iter().any(|runner| runner.status.is_some()).then_some(())
    }),
    ("a first window that has begun", |runners| begun(runners, 0)),
    ("a first window that is reported", |runners| reported(runners, 1)),
    ("a second window that has begun", |runners| begun(runners, 1)),
    ("a last letter", |runners| {
        runners.iter().any(|runner| runner.spec.finish).then_some(())
    }),
];

fn begun(runners: &[Runner], cycle: u32) -> Option<()> {
    let assignments = runners.iter().filter_map(|runner| runner.spec.assignment.as_ref());
    let mut of_cycle = assignments.filter(|assignment| assignment.trial.cycle >= cycle);
    of_cycle
        .any(|assignment| assignment.start_at.is_some_and(|start| start < Timestamp::now()))
        .then_some(())
}

fn reported(runners: &[Runner], windows: usize) -> Option<()> {
    let statuses = runners.iter().filter_map(|runner| runner.status.as_ref());
    let mut counts = statuses.map(|status| status.windows.len());
    counts.any(|count| count >= windows).then_some(())
}

/// Waits for the next leader, and asserts that leadership has moved as fast as the Lease allows.
async fn succeeded(installed: &Installed, what: &str, before: &Pod, killed: Timestamp) -> Pod {
    let after = installed.next_leader(killed).await;
    let took = Timestamp::now().duration_since(killed);
    let other = if after.uid() == before.uid() {
        "the same"
    } else {
        "the other"
    };
    eprintln!("killed at {what}: {other} replica wrote {took:.1?} later");
    let bound = SUCCESSION + MARGIN;
    assert!(
        Duration::try_from(took).is_ok_and(|took| took < bound),
        "killed at {what}: nobody wrote for {took:?}, and the Lease allows {bound:?}"
    );
    after
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn leaders_that_are_killed_one_after_the_other_lose_nothing() {
    let installed = Installed::of("leaders").await;
    let world = &installed.world;
    let mut leader = installed.next_leader(Timestamp::UNIX_EPOCH).await;
    world.apply(&unhurried("led", ASKED)).await;
    for (what, reached) in POINTS {
        let running = || async { process(&leader, "lem-operator") };
        let id = world.eventually("the leader's process", running).await;
        moment::until(world, "led", what, reached).await;
        let killed = kill(world, id).await;
        leader = succeeded(&installed, what, &leader, killed).await;
    }
    invariants::hold(world, "led", ASKED).await;
    invariants::a_second_look_changes_nothing(world, "led", &installed).await;
    renew(&installed).await;
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn replicas_that_are_removed_in_turn_and_then_together_lose_nothing() {
    let installed = Installed::of("replicas").await;
    let world = &installed.world;
    let mut leader = installed.next_leader(Timestamp::UNIX_EPOCH).await;
    world.apply(&unhurried("led", ASKED)).await;
    in_window(world, "led", ASKED, 0).await;
    for what in ["first", "second"] {
        let removed = Timestamp::now();
        installed.delete(&leader).await;
        let next = succeeded(&installed, what, &leader, removed).await;
        assert_ne!(next.uid(), leader.uid(), "a removed replica writes");
        leader = next;
    }
    in_window(world, "led", ASKED, 1).await;
    renew(&installed).await;
    invariants::hold(world, "led", ASKED).await;
    invariants::a_second_look_changes_nothing(world, "led", &installed).await;
    world.delete_namespace().await;
}

/// Both replicas at once; their successors have no restarts, and no pause before one.
async fn renew(installed: &Installed) {
    let removed = Timestamp::now();
    let pods = installed.pods().await.unwrap();
    for pod in &pods {
        installed.delete(pod).await;
    }
    installed.next_leader(removed).await;
    installed.whole().await;
}
