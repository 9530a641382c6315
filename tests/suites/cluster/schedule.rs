//! A schedule on a real cluster: experiments by the clock, their series, and what goes beyond the history.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use lem_crds::{EfficiencyExperiment, EfficiencySchedule, EfficiencyScheduleStatus, status::ExperimentPhase};
use serde_json::json;

use crate::{experiment, world::World};

async fn until(
    world: &World,
    name: &str,
    what: &str,
    holds: impl Fn(&EfficiencyScheduleStatus) -> bool,
) -> EfficiencyScheduleStatus {
    let schedules: Api<EfficiencySchedule> = world.api();
    world
        .eventually(what, || async {
            let found = schedules.get(name).await.map_err(|error| error.to_string())?;
            let status = found.status.unwrap_or_default();
            if holds(&status) {
                Ok(status)
            } else {
                Err(format!("{status:#?}"))
            }
        })
        .await
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_schedule_measures_again_and_holds_the_second_result_against_the_first() {
    let world = World::of("schedule_again").await;
    let schedules: Api<EfficiencySchedule> = world.api();
    let history = json!({"successfulExperimentsHistoryLimit": 0, "comparison": {"metrics": ["joulesPerToken"]}});
    let schedule = experiment::every_minute("again", &experiment::tiny("of", 1, 2), &history);
    schedules.create(&PostParams::default(), &schedule).await.unwrap();

    let first = until(&world, "again", "the first result", |status| status.series.len() == 1).await;
    let baseline = first.baseline.clone().unwrap();
    assert_eq!(first.series[0].phase, ExperimentPhase::Complete, "{first:#?}");
    assert_eq!(baseline.experiment, first.series[0].experiment);
    assert_eq!(
        baseline.points[0].metrics["joulesPerToken"].count, 2,
        "one value for each cycle"
    );

    let second = until(&world, "again", "the second result", |status| status.series.len() == 2).await;
    let entry = &second.series[1];
    assert_eq!((entry.compared, entry.refused), (1, 0), "{entry:#?}");
    assert!(entry.worst.as_ref().unwrap().ratio > 0.0, "{entry:#?}");
    assert!(
        second.conditions.iter().any(|one| one.type_ == "Regressed"),
        "{second:#?}"
    );
    // Nothing more is to begin while the rest is looked at.
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    schedules
        .patch("again", &PatchParams::default(), &suspend)
        .await
        .unwrap();

    let experiments: Api<EfficiencyExperiment> = world.api();
    world
        .eventually("the end of what is beyond the history", || async {
            let left = experiments.list(&kube::api::ListParams::default()).await.unwrap();
            let over = left.items.iter().filter(|one| {
                let status = one.status.as_ref();
                status.is_some_and(|status| status.phase == ExperimentPhase::Complete)
            });
            let names: Vec<String> = over.map(ResourceExt::name_any).collect();
            if names.is_empty() {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        })
        .await;
}
