//! A node whose clock is wrong. It cannot tell by itself: only against another clock does it show.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, api::ListParams};
use lem_crds::status::{Doubt, EfficiencyExperimentStatus};
use lem_test_cluster::Image;
use serde_json::json;

use super::{
    experiment,
    installed::Installed,
    world::{binaries, described},
};

const IMAGE: &str = "localhost/lem-runner:skewed";
const LIBRARY: &str = "/lib/liblem_skewed_clock.so";

/// An experiment on three nodes, one of which is so many seconds ahead.
async fn measured_with(offset: i64) -> EfficiencyExperimentStatus {
    let installed = Installed::of(&format!("clock_{offset}")).await;
    let world = &installed.world;
    let archive = binaries().join("lem-runner-skewed-test-image.tar");
    let library = std::fs::read(binaries().join("liblem_skewed_clock.so")).unwrap();
    let image = Image::new(IMAGE, &binaries().join("lem-runner")).unwrap();
    let image = image.with_certificates().unwrap().with_file(LIBRARY, 0o755, library);
    image.write(&archive).unwrap();
    world.cluster.load_image(&archive).unwrap();

    let nodes = Api::<Node>::all(world.client.clone())
        .list(&ListParams::default())
        .await;
    let skewed = nodes.unwrap().items[0].name_any();
    let variable = |name: &str, value: String| json!({"name": name, "value": value});
    let other = json!({"runner": {"image": IMAGE, "env": [
        variable("LD_PRELOAD", LIBRARY.to_owned()),
        variable("SKEWED_CLOCK_NODE", skewed.clone()),
        variable("SKEWED_CLOCK_SECONDS", offset.to_string()),
    ]}});
    world.apply(&experiment::with("skewed", 3, 2, &other)).await;
    let status = world.ended("skewed").await;
    if offset != 0 {
        let reasons = status.points.iter().flat_map(|point| &point.reasons);
        let mut clocks = reasons.filter(|reason| reason.doubt == Doubt::ClocksDiffer);
        assert!(
            clocks.any(|reason| reason.message.contains(&skewed) && reason.message.contains("s ahead of")),
            "{:?} {}",
            status.points,
            described(&status)
        );
    }
    installed.has_not_restarted().await;
    world.delete_namespace().await;
    status
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_clock_that_is_ahead_is_told_from_the_others() {
    measured_with(5).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_clock_that_is_behind_is_told_although_its_own_times_look_right() {
    let status = measured_with(-5).await;
    let skew = status.points[0].metrics.start_skew_ms.as_ref().unwrap().mean;
    assert!(skew < 100.0, "its own times show nothing: {skew}");
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn clocks_that_agree_raise_no_doubt() {
    let status = measured_with(0).await;
    let mut reasons = status.points.iter().flat_map(|point| &point.reasons);
    assert!(
        reasons.all(|reason| !reason.message.contains("ahead of")),
        "{}",
        described(&status)
    );
}
