//! Everything that users delete while it runs.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use lem_crds::{EfficiencyExperiment, Runner, status::ExperimentPhase};

use crate::{
    experiment::tiny,
    world::{World, described},
};

async fn measuring(world: &World, name: &str) {
    world
        .until(name, "a finished trial", |status| status.progress.finished >= 1)
        .await;
}

/// What the operator made for an experiment, and its pods.
async fn children(world: &World, experiment: &str) -> Result<Vec<String>, String> {
    async fn of<K>(world: &World, experiment: &str) -> Result<Vec<String>, String>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let labelled = ListParams::default().labels(&format!("lem.dev/experiment={experiment}"));
        let found = world.api::<K>().list(&labelled).await;
        let found = found.map_err(|error| error.to_string())?;
        let name = |object: K| format!("{} {}", K::kind(&()), object.name_any());
        Ok(found.into_iter().map(name).collect())
    }
    let mut all = of::<Pod>(world, experiment).await?;
    all.extend(of::<Job>(world, experiment).await?);
    all.extend(of::<Runner>(world, experiment).await?);
    all.extend(of::<ServiceAccount>(world, experiment).await?);
    all.extend(of::<Role>(world, experiment).await?);
    all.extend(of::<RoleBinding>(world, experiment).await?);
    Ok(all)
}

async fn until_nothing_is_left(world: &World, experiment: &str) {
    world
        .eventually("the end of all children", || async {
            let left = children(world, experiment).await?;
            left.is_empty().then_some(()).ok_or_else(|| left.join(", "))
        })
        .await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_deleted_namespace_goes_with_the_experiment_that_runs_in_it() {
    let world = World::of("namespace_deleted").await;
    world.apply(&tiny("doomed", 2, 50)).await;
    measuring(&world, "doomed").await;
    world.delete_namespace().await;
    world.until_namespace_is_gone().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_experiment_deleted_half_way_leaves_nothing() {
    let world = World::of("experiment_deleted").await;
    world.apply(&tiny("unwanted", 2, 50)).await;
    measuring(&world, "unwanted").await;
    assert!(children(&world, "unwanted").await.unwrap().len() >= 8);
    let experiments = world.api::<EfficiencyExperiment>();
    experiments.delete("unwanted", &DeleteParams::default()).await.unwrap();
    until_nothing_is_left(&world, "unwanted").await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_experiment_made_anew_at_once_takes_no_result_from_the_one_before() {
    let world = World::of("made_anew").await;
    world.apply(&tiny("again", 2, 50)).await;
    measuring(&world, "again").await;
    let first = world.runners("again").await;
    let experiments = world.api::<EfficiencyExperiment>();
    experiments.delete("again", &DeleteParams::default()).await.unwrap();
    let second = world.apply(&tiny("again", 2, 2)).await;
    let status = world.ended("again").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!((status.progress.finished, status.points[0].cycles), (2, 2));
    let of_second: Vec<Runner> = world
        .runners("again")
        .await
        .into_iter()
        .filter(|runner| {
            let mut owners = runner.owner_references().iter();
            owners.any(|owner| Some(&owner.uid) == second.metadata.uid.as_ref())
        })
        .collect();
    assert_eq!(of_second.len(), 2);
    for runner in &of_second {
        assert!(!first.iter().any(|one| one.name_any() == runner.name_any()));
        assert_eq!(runner.status.as_ref().unwrap().windows.len(), 2);
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_mailbox_that_a_user_deletes_is_made_anew_and_the_experiment_ends() {
    let world = World::of("mailbox_deleted").await;
    world.apply(&tiny("robbed", 2, 6)).await;
    measuring(&world, "robbed").await;
    let victim = world.runners("robbed").await[1].name_any();
    world
        .api::<Runner>()
        .delete(&victim, &DeleteParams::default())
        .await
        .unwrap();
    let status = world.ended("robbed").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(status.progress.finished, 6, "{}", described(&status));
}
