//! The controller against a cluster in memory: pods that load, get ready, measure, die, and an operator that is killed
//! between any two of its writes.

mod world;

use lem_crds::status::ExperimentPhase;
use proptest::prelude::*;
use serde_json::json;

use self::world::World;
use crate::controller::{
    decide::{End, Stage},
    neighbour::Neighbour,
};

fn three_processes() -> World {
    World::new(&json!({"processes": {"count": 3}, "protocol": {"cycles": 2}}))
}

#[test]
fn three_processes_measure_every_trial_together_and_the_experiment_is_complete() {
    let mut world = three_processes();
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.conditions);
    assert_eq!((status.progress.finished, status.progress.retried), (2, 0));
    assert!(status.points[0].metrics.start_skew_ms.as_ref().unwrap().mean.abs() < 1e-6);
    assert_eq!(world.jobs.len(), 1, "one load for both cycles");
}

#[test]
fn a_second_look_at_the_same_state_changes_nothing() {
    let mut world = three_processes();
    for _ in 0..40 {
        world.reconcile(usize::MAX);
        let before = world.clone();
        world.reconcile(usize::MAX);
        assert_eq!(world.writes, before.writes, "{:?}", world.status().conditions);
        world.pods_act();
        world.now += std::time::Duration::from_secs(1);
    }
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
}

#[test]
fn an_operator_killed_after_any_write_leaves_nothing_that_the_next_one_cannot_finish() {
    let mut reference = three_processes();
    reference.run();
    let total = reference.writes;
    assert!(total > 10, "{total} writes");
    for k in 0..total {
        let mut world = three_processes();
        world.run_with_one_kill_after(k);
        let status = world.status();
        assert_eq!(status.phase, ExperimentPhase::Complete, "killed after write {k}");
        assert_eq!(status.progress.finished, 2, "killed after write {k}");
        assert!(world.measured_twice().is_empty(), "killed after write {k}");
    }
}

#[test]
fn a_pod_killed_before_the_start_is_replaced_and_costs_no_attempt() {
    let mut world = three_processes();
    world.turns(3);
    assert!(!world.common_start());
    world.kill_pod(1);
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
    assert_eq!(world.status().progress.retried, 0);
}

#[test]
fn a_pod_killed_in_the_window_costs_one_attempt_and_finished_windows_are_kept() {
    let mut world = three_processes();
    world.turns_until(|world| world.status().progress.finished == 1 && world.common_start());
    world.kill_pod(1);
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.failures);
    assert_eq!(status.progress.retried, 1);
    assert_eq!(status.failures[0].processes[0].process, 1);
    assert!(world.measured_twice().is_empty());
    assert_eq!(world.jobs.len(), 1, "the Job replaces its pod");
}

#[test]
fn a_further_window_costs_one_letter_per_process() {
    let mut world = World::new(&json!({"processes": {"count": 3}, "protocol": {"cycles": 6}}));
    world.turns_until(|world| world.status().progress.finished == 2);
    let before = world.letters;
    world.turns_until(|world| world.status().progress.finished == 5);
    assert_eq!(world.letters - before, 9, "the start of each carries what follows");
}

#[test]
fn a_node_lost_before_the_start_costs_no_attempt() {
    let mut world = three_processes();
    world.turns(3);
    assert!(!world.common_start());
    world.lose_node_of(1);
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.failures);
    assert_eq!((status.progress.retried, world.incarnations()), (0, 2));
}

#[test]
fn a_node_lost_in_the_window_costs_one_attempt() {
    let mut world = three_processes();
    world.turns_until(|world| world.status().progress.finished == 1 && world.common_start());
    world.lose_node_of(1);
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.failures);
    assert_eq!((status.progress.retried, world.incarnations()), (1, 2));
    assert!(world.measured_twice().is_empty());
}

#[test]
fn an_experiment_waits_while_another_is_partly_placed_and_says_for_which() {
    let mut world = three_processes();
    let mut other = world.experiment.clone();
    other.metadata.name = Some("other".to_owned());
    world.neighbours = vec![Neighbour::of(&other)];
    world.turns(5);
    let stalled = world.condition("Stalled");
    assert_eq!((world.jobs.len(), stalled.reason.as_str()), (0, "Queued"));
    assert!(stalled.message.contains("experiment other"), "{}", stalled.message);
    world.neighbours.clear();
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
}

#[test]
fn a_partly_placed_experiment_gives_its_nodes_back_to_an_older_one_and_loses_nothing() {
    let mut world = three_processes();
    world.unplaced = Some(2);
    world.turns(3);
    assert_eq!((world.jobs.len(), world.incarnations()), (1, 1));
    let mut older = world.experiment.clone();
    older.metadata.name = Some("older".to_owned());
    older.metadata.uid = Some("a-uid-before-all".to_owned());
    world.neighbours = vec![Neighbour::of(&older), Neighbour::of(&world.experiment)];
    world.turns(5);
    assert!(world.jobs.is_empty(), "{:#?}", world.last);
    assert_eq!(world.condition("Stalled").reason, "Queued");
    (world.neighbours, world.unplaced) = (Vec::new(), None);
    world.run();
    let status = world.status();
    assert_eq!((status.phase, status.progress.retried), (ExperimentPhase::Complete, 0));
}

#[test]
fn a_namespace_that_is_deleted_takes_the_jobs_first() {
    let mut world = three_processes();
    world.turns(4);
    assert_eq!(world.jobs.len(), 1);
    world.namespace_ends();
    assert!(world.jobs.is_empty());
}

#[test]
fn a_runner_deleted_by_a_user_is_made_anew_and_only_its_own_windows_are_measured_again() {
    let mut world = three_processes();
    world.turns_until(|world| world.status().progress.finished == 1);
    world.runners.remove(1);
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete, "{:#?}", world.status());
}

#[test]
fn a_plan_that_every_process_refuses_fails_at_once_with_the_processes_own_words() {
    let mut world = three_processes();
    world.refuse = Some(("source_without_model", "/lem/model holds no model"));
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Failed);
    assert_eq!(world.jobs.len(), 1, "it is not tried again");
    let failed = status.conditions.iter().find(|one| one.type_ == "Failed").unwrap();
    assert!(
        failed.status == "True" && failed.message.contains("holds no model"),
        "{failed:?}"
    );
}

#[test]
fn pods_that_no_node_takes_stall_the_experiment_and_end_it_at_the_deadline() {
    let mut world = World::new(
        &json!({"processes": {"count": 2}, "protocol": {"cycles": 1, "retryBudget": 0},
        "placement": {"scheduleDeadline": "30s"}}),
    );
    world.unschedulable = Some("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.");
    world.turns(3);
    let stalled = world.condition("Stalled");
    assert_eq!(
        (stalled.status.as_str(), stalled.reason.as_str()),
        ("True", "GpuMissing")
    );
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Failed);
    assert!(
        world.status().failures[0].processes[0]
            .message
            .contains("spec.placement.scheduleDeadline")
    );
}

#[test]
fn a_job_that_its_queue_admits_after_the_deadline_has_the_whole_deadline_from_then_on() {
    let mut world = World::new(
        &json!({"processes": {"count": 2}, "protocol": {"cycles": 1, "retryBudget": 0},
        "placement": {"queueName": "team", "scheduleDeadline": "30s"}}),
    );
    world.turns(60);
    assert_eq!((world.jobs.len(), world.pods.len()), (1, 0));
    assert_eq!(world.condition("Stalled").reason, "Queued");
    world.admit();
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.failures);
    assert_eq!((status.failures.len(), world.incarnations()), (0, 1));
}

#[test]
fn pods_that_no_node_takes_after_the_admission_end_the_experiment_at_the_deadline() {
    let mut world = World::new(
        &json!({"processes": {"count": 2}, "protocol": {"cycles": 1, "retryBudget": 0},
        "placement": {"queueName": "team", "scheduleDeadline": "30s"}}),
    );
    world.turns(60);
    world.admit();
    world.unschedulable = Some("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.");
    world.turns(20);
    assert!(!world.is_over(), "{:#?}", world.status().failures);
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Failed);
}

#[test]
fn a_process_that_hangs_is_replaced_with_its_whole_set_after_the_deadline() {
    let mut world = World::new(&json!({"processes": {"count": 2}, "protocol": {"cycles": 1,
        "deadlines": {"load": "20s", "ready": "20s", "window": "20s"}}}));
    world.hang_once = true;
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{:#?}", status.failures);
    assert_eq!(
        (
            status.progress.retried,
            status.failures[0].processes[0].category.as_str()
        ),
        (1, "deadline")
    );
    assert_eq!(world.incarnations(), 2);
}

#[test]
fn suspend_gives_the_nodes_back_at_the_end_of_the_trial_and_resume_goes_on() {
    let mut world = three_processes();
    world.turns_until(World::common_start);
    world.experiment.spec.suspend = true;
    world.turns(20);
    assert_eq!(world.status().phase, ExperimentPhase::Suspended);
    assert_eq!(world.status().progress.finished, 1, "the trial under way was not lost");
    assert!(world.pods.iter().all(|pod| pod.end.is_some()));
    world.experiment.spec.suspend = false;
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
    assert_eq!((world.incarnations(), world.status().progress.retried), (2, 0));
}

#[test]
fn cancel_ends_the_experiment_with_what_was_measured() {
    let mut world = three_processes();
    world.turns_until(|world| world.status().progress.finished == 1);
    world.experiment.spec.cancel = true;
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Partial);
    assert_eq!(status.partial[0], "cancelled by spec.cancel");
    assert!(!status.points.is_empty());
}

#[test]
fn a_budget_ends_the_experiment_before_the_trial_that_would_exceed_it() {
    let unlimited = json!({"processes": {"count": 3}, "protocol": {"cycles": 5}});
    let mut world = World::new(&unlimited);
    world.run();
    let spent = world.status().spent.unwrap();
    assert_eq!(world.status().progress.finished, 5);
    let mut limited = unlimited.clone();
    limited["budget"] = json!({"maxGpuSeconds": (spent.gpu_seconds * 0.5) as u64});
    let mut world = World::new(&limited);
    world.run();
    let status = world.status();
    assert_eq!(status.phase, ExperimentPhase::Partial);
    // 3 × (30 + 5 × 20) s without a budget; of the half, 195 s, two trials take 210 s.
    assert_eq!((spent.gpu_seconds, status.progress.finished), (390.0, 1));
    assert!(
        status.partial[0].starts_with("spec.budget.maxGpuSeconds: "),
        "{:?}",
        status.partial
    );
    assert_eq!(world.condition("Complete").reason, "BudgetSpent");
    assert_eq!(status.failures, [], "what was begun has come to its end");
}

#[test]
fn a_budget_that_suffices_changes_nothing() {
    let mut world = World::new(&json!({"protocol": {"cycles": 3}, "budget": {"maxEnergyJoules": 1_000_000_000}}));
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
    assert_eq!(world.status().partial, Vec::<String>::new());
}

#[test]
fn a_process_that_waits_for_nobody_is_told_its_windows_ahead_unless_a_budget_is_judged_before_each() {
    let letters = |cycles: u32, budget: &serde_json::Value| {
        let mut world = World::new(&json!({"processes": {"count": 1}, "budget": budget,
            "protocol": {"barrier": "None", "cycles": cycles}}));
        world.run();
        assert_eq!(world.status().phase, ExperimentPhase::Complete);
        assert_eq!(world.status().progress.finished, cycles);
        world.letters
    };
    let none = json!(null);
    assert_eq!(
        letters(5, &none),
        1,
        "its mailbox begins with five, and is told the end"
    );
    assert_eq!(letters(10, &none), 2);
    assert_eq!(letters(5, &json!({"maxGpuSeconds": 1_000_000})), 5);
}

#[test]
fn what_a_plan_costs_is_known_before_it_begins_and_better_after_its_first_trial() {
    let mut world = World::new(&json!({"suspend": true, "protocol": {"cycles": 4},
        "sweep": [{"field": "workload.maxOutputTokens", "values": [32, 64]}]}));
    world.turns(3);
    let plan = world.status().plan.unwrap();
    assert_eq!((plan.points, plan.trials, plan.windows, plan.loads), (2, 8, 8, 1));
    assert_eq!(plan.forecast, None, "nothing was measured");
    world.experiment.spec.suspend = false;
    world.turns_until(|world| world.status().progress.finished == 4);
    let forecast = world.status().plan.unwrap().forecast.unwrap();
    world.run();
    let spent = world.status().spent.unwrap();
    // Every trial costs the same here.
    let difference = forecast.process_seconds - spent.process_seconds;
    assert!(difference.abs() < 1e-9, "{forecast:?} {spent:?}");
}

#[test]
fn a_fresh_process_for_each_trial_means_a_job_for_each_trial() {
    let mut world = World::new(&json!({"processes": {"count": 2, "restart": "PerTrial"}, "protocol": {"cycles": 3}}));
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
    assert_eq!(world.jobs.len(), 3);
}

#[test]
fn cohorts_of_different_loads_run_one_after_the_other() {
    let mut world = World::new(&json!({"protocol": {"cycles": 2},
        "sweep": [{"field": "model.source.synthetic.preset", "values": ["tiny-test", "smollm2-135m"]}]}));
    world.run();
    assert_eq!(world.status().phase, ExperimentPhase::Complete);
    assert_eq!((world.jobs.len(), world.most_running), (2, 1));
}

#[test]
fn a_mailbox_that_is_full_has_a_successor() {
    let mut world = World::new(&json!({"protocol": {"cycles": 70, "baseline": {"duration": "0s"}}}));
    world.run();
    let status = world.status();
    assert_eq!(
        (status.phase, status.progress.finished),
        (ExperimentPhase::Complete, 70)
    );
    assert_eq!(world.incarnations(), 2);
}

#[test]
fn without_a_barrier_nobody_waits_for_a_common_start() {
    let mut world = World::new(&json!({"processes": {"count": 2}, "protocol": {"cycles": 1, "barrier": "None"}}));
    world.run();
    assert_eq!(world.status().progress.finished, 1);
    assert!(!world.common_start());
}

#[test]
fn the_status_of_the_largest_sweep_fits_into_the_store_of_a_cluster() {
    let mut world = World::new(&json!({"processes": {"count": 3}, "protocol": {"cycles": 3}, "sweep": [
        {"field": "workload.maxOutputTokens", "values": [32]},
        {"field": "workload.maxInputTokens", "values": [64]},
    ]}));
    world.run();
    let mut status = world.status();
    let point = status.points[0].clone();
    assert_eq!((point.cycles, status.points.len()), (3, 1));
    // The most points that a sweep may have.
    status.points = vec![point; 100];
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(
        bytes < 1024 * 1024,
        "{bytes} bytes, and etcd takes 1.5 MiB with all that is around it"
    );
    println!("{bytes} bytes");
}

#[test]
fn an_experiment_that_is_over_is_left_alone() {
    let mut world = three_processes();
    world.run();
    let writes = world.writes;
    world.turns(5);
    assert_eq!(world.writes, writes);
    assert_eq!(world.last.as_ref().unwrap().stage, Stage::Over(End::Done));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever dies, and whenever the operator is killed: it ends, no finished window is lost, none is measured twice.
    #[test]
    fn it_always_ends_and_finished_windows_are_neither_lost_nor_measured_twice(
        deaths in prop::collection::vec((0..60_u32, 0..3_u32), 0..5),
        kills in prop::collection::btree_set(0..60_usize, 0..6),
    ) {
        // All deaths may hit one trial: with fewer retries than deaths it would rightly be given up.
        let mut world = World::new(&json!({"processes": {"count": 3}, "protocol": {"cycles": 2, "retryBudget": 5}}));
        for turn in 0..600 {
            if world.is_over() {
                break;
            }
            for (_, process) in deaths.iter().filter(|(at, _)| *at == turn) {
                world.kill_pod(*process);
            }
            let before = world.windows();
            world.turn_with_kills(&kills);
            prop_assert!(before.is_subset(&world.windows()));
        }
        prop_assert!(world.is_over(), "{:#?}", world.last);
        prop_assert!(world.measured_twice().is_empty());
        prop_assert!(world.status().phase == ExperimentPhase::Complete, "{:#?}", world.status().failures);
    }
}
