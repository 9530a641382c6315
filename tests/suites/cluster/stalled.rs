//! Nothing waits for ever, and nobody waits without being told why: what stands in the way is the condition `Stalled`, in
//! the cluster's own words and with the next step; curing it lets the experiment go on, and a deadline ends it.

mod deadline;
mod definitions;
mod objects;
mod placement;
mod refusal;

use lem_crds::{EfficiencyExperimentStatus, status::ExperimentPhase};

use crate::world::{World, condition, described};

/// Waits until an experiment is stalled for a reason; gives the message.
async fn stalled(world: &World, name: &str, reason: &str) -> String {
    let for_reason = |status: &EfficiencyExperimentStatus| {
        condition(status, "Stalled").is_some_and(|stalled| stalled.status == "True" && stalled.reason == reason)
    };
    let what = format!("Stalled with reason {reason}");
    let status = world.until(name, &what, for_reason).await;
    condition(&status, "Stalled").unwrap().message.clone()
}

/// Asserts that a message is one sentence with all of these words in it.
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
    assert!(!message.contains('\n') && message.len() < 900, "{message}");
}

/// Waits until the experiment has a result, and asserts that nothing stands in its way any more.
async fn goes_on(world: &World, name: &str) {
    let status = world.ended(name).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(
        condition(&status, "Stalled").unwrap().status,
        "False",
        "{}",
        described(&status)
    );
}

/// Waits until the experiment has failed; gives what the condition `Failed` says.
async fn fails(world: &World, name: &str) -> String {
    let status = world.ended(name).await;
    assert_eq!(status.phase, ExperimentPhase::Failed, "{}", described(&status));
    assert_eq!(
        condition(&status, "Stalled").unwrap().status,
        "False",
        "{}",
        described(&status)
    );
    let failed = condition(&status, "Failed").unwrap();
    assert_eq!(failed.status, "True", "{}", described(&status));
    failed.message.clone()
}
