//! How many series experiments cost.

use kube::api::{Patch, PatchParams};
use lem_crds::EfficiencyExperiment;
use serde_json::json;

use crate::{
    experiment,
    scene::{Scene, scene},
    world::World,
};

/// Series of the namespace's experiments in one replica.
fn series(scene: &Scene, world: &World) -> f64 {
    let expression = format!(
        r#"max(count by (instance) ({{__name__=~"lem_(point|experiment|node)_.+",namespace="{}"}}))"#,
        world.namespace
    );
    scene
        .prometheus
        .query(&expression)
        .first()
        .map_or(0.0, super::prometheus::Series::value)
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn a_hundred_finished_experiments_cost_a_hundred_times_the_series_of_one_and_no_more() {
    let scene = scene().await;
    let world = World::on(scene.cluster, "cardinality").await;
    let experiments = world.api::<EfficiencyExperiment>();
    let mut counted = Vec::new();
    for number in 0..100_u32 {
        let name = format!("finished-{number}");
        world.apply(&suspended(&name)).await;
        let status = json!({"status": scene.status});
        experiments
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
        let so_far = number + 1;
        if [1, 10, 100].contains(&so_far) {
            let expression = format!(
                r#"count(max by (experiment) (lem_point_cycles{{namespace="{}"}}))"#,
                world.namespace
            );
            let all = f64::from(so_far);
            scene
                .prometheus
                .until(&expression, |found| {
                    found.first().is_some_and(|series| series.value() >= all)
                })
                .await;
            counted.push((so_far, series(scene, &world)));
        }
    }
    eprintln!("series of finished experiments with two points in one replica: {counted:?}");
    let one = counted[0].1;
    assert!(one < 400.0, "{one} series of one experiment with two points");
    for (experiments, series) in counted {
        assert!(
            series <= one * f64::from(experiments),
            "{series} series of {experiments} experiments"
        );
    }
}

/// One that nobody measures, so that its status stays as it is written.
fn suspended(name: &str) -> EfficiencyExperiment {
    experiment::with(name, 1, 1, &json!({"suspend": true}))
}
