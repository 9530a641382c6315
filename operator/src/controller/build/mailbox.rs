//! The mailboxes of a cohort, one `Runner` per process, each with the first trial in it. Pure.

use lem_crds::{Runner, RunnerSpec};

use super::{CohortPlan, name::metadata, runner_name};

pub(super) fn runners(plan: &CohortPlan<'_>) -> Vec<Runner> {
    let name = plan.name();
    (0..plan.spec.processes.count)
        .map(|process| Runner {
            metadata: metadata(plan, runner_name(&name, process)),
            spec: RunnerSpec {
                experiment: plan.owner.name.clone(),
                cohort: plan.key.to_owned(),
                process,
                processes: plan.spec.processes.count,
                incarnation: plan.incarnation,
                node: plan.node.map(ToOwned::to_owned),
                service_account_name: plan.node.map(|_| plan.account()),
                load: plan.load.clone(),
                assignment: Some(plan.assignment.clone()),
                upcoming: plan.upcoming.to_vec(),
                finish: false,
                failures: Vec::new(),
            },
            status: None,
        })
        .collect()
}
