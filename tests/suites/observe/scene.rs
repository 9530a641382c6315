//! What the tests look at: a cluster with the operator from the chart, a Prometheus, and two finished experiments.

use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, EfficiencySchedule, runner::WindowRecord};
use lem_fake_nvml::{Board, Waveform};
use lem_test_cluster::{Cluster, NodeOptions, Options};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    experiment,
    helm::{chart, helm, objects, printed},
    prometheus::Prometheus,
    world::{SYSTEM, World, image_called, until_ready},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The node that wastes energy.
pub(crate) const WASTEFUL: &str = "node-4";
const NODES: usize = 5;
/// Cycles of each point.
pub(crate) const CYCLES: u32 = 2;

/// The scene of all tests.
pub(crate) struct Scene {
    pub(crate) cluster: &'static Cluster,
    pub(crate) prometheus: Prometheus,
    /// When Prometheus began.
    pub(crate) since: Timestamp,
    /// Name of the second experiment, which a schedule has created.
    pub(crate) experiment: String,
    /// Of the same.
    pub(crate) status: EfficiencyExperimentStatus,
    /// Of the same: what its processes reported.
    pub(crate) windows: Vec<WindowRecord>,
    /// Collects what there is if the scene cannot be set up.
    _world: World,
}

/// The scene, set up once.
pub(crate) async fn scene() -> &'static Scene {
    static SCENE: OnceCell<Scene> = OnceCell::const_new();
    SCENE.get_or_init(set_up).await
}

async fn set_up() -> Scene {
    let image = |program: &str| image_called(&format!("{program}:{VERSION}"), program);
    let options = Options {
        nodes: (0..NODES).map(node).collect(),
        images: vec![image("lem-operator"), image("lem-runner")],
        ..Options::default()
    };
    let name = format!("{}-observe", crate::world::shared_name());
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&name, options).await.unwrap()));
    install(cluster);
    until_ready(cluster).await;
    let since = Timestamp::now();
    let prometheus = Prometheus::start(cluster, &rendered()).await;
    // Also while there is nothing to do: the alert for a missing leader rests on it.
    let leader = "sum(lem_operator_leading) == 1";
    prometheus.until(leader, |found| !found.is_empty()).await;
    let world = World::on(cluster, "observe").await;
    world.apply(&measured("before")).await;
    world.ended("before").await;
    let experiment = scheduled_once(&world).await;
    let status = world.ended(&experiment).await;
    // Written once an experiment is over: with them everything else of the result has been scraped.
    for last in [
        format!(r#"lem_node_outlier_joules_per_token{{experiment="{experiment}"}}"#),
        "lem_schedule_worst_ratio".to_owned(),
    ] {
        prometheus.until(&last, |found| !found.is_empty()).await;
    }
    let runners = world.runners(&experiment).await;
    let reported = runners.into_iter().filter_map(|runner| runner.status);
    Scene {
        cluster,
        prometheus,
        since,
        experiment,
        status,
        windows: reported.flat_map(|status| status.windows).collect(),
        _world: world,
    }
}

/// The name of the one experiment of a schedule that is suspended as soon as it has begun.
async fn scheduled_once(world: &World) -> String {
    let comparison = json!({"comparison": {"baselineExperimentName": "before"}});
    let mut schedule = experiment::every_minute("nightly", &measured("of"), &comparison);
    let baseline = ("lem.dev/baseline-experiment".to_owned(), "before".to_owned());
    schedule.spec.experiment_template.metadata.annotations = [baseline].into();
    let schedules: Api<EfficiencySchedule> = world.api();
    schedules.create(&PostParams::default(), &schedule).await.unwrap();
    let began = "the experiment of the schedule";
    let name = world
        .eventually(began, || async {
            let found = schedules.get("nightly").await.map_err(|error| error.to_string())?;
            let active = found.status.iter().flat_map(|status| &status.active).next();
            active.cloned().ok_or_else(|| format!("{:#?}", found.status))
        })
        .await;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    schedules
        .patch("nightly", &PatchParams::default(), &suspend)
        .await
        .unwrap();
    name
}

fn node(index: usize) -> NodeOptions {
    let mut node = NodeOptions::with_index(index);
    // So that each process has a node to itself.
    node.boards.truncate(1);
    let watts = if node.name == WASTEFUL { 640.0 } else { 160.0 };
    for board in &mut node.boards {
        *board = Board {
            minor_number: board.minor_number,
            ..Board::new(&board.uuid, 20.0, Waveform::Constant { watts })
        };
    }
    node
}

/// Two points with everything that a dashboard shows: GPUs, latencies, prices.
fn measured(name: &str) -> EfficiencyExperiment {
    let spec = json!({
        "processes": {"gpusPerProcess": 1},
        "energy": {"gpu": "Required", "cpu": "Estimate"},
        "workload": {"requests": 24, "maxOutputTokens": 48},
        "sweep": [{"field": "workload.maxInputTokens", "values": [8, 16]}],
        "pricing": {"energyPricePerKilowattHour": "0.30", "gridIntensityGramsPerKilowattHour": "380"},
    });
    experiment::with(name, NODES as u32, CYCLES, &spec)
}

fn install(cluster: &Cluster) {
    let kubeconfig = cluster.kubeconfig().to_str().unwrap();
    let install = |release: &str, of: &str, more: &[&str]| {
        let path = chart(of);
        let fixed = ["--kubeconfig", kubeconfig, "install", release, path.to_str().unwrap()];
        let namespace = ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"];
        printed(&helm(fixed.iter().chain(&namespace).chain(more)));
    };
    install("lem-crds", "lem-crds", &[]);
    install("lem", "lem", &["--set", "images.registry=localhost"]);
}

/// What the chart renders where the monitoring kinds are there.
pub(crate) fn rendered() -> Vec<Value> {
    let path = chart("lem");
    let forced =
        ["serviceMonitor", "podMonitor", "rules", "dashboards"].map(|part| format!("monitoring.{part}.enabled=true"));
    let forced: Vec<&str> = forced.iter().flat_map(|value| ["--set", value]).collect();
    let fixed = [
        "template",
        "lem",
        path.to_str().unwrap(),
        "--namespace",
        SYSTEM,
        "--kube-version",
        "1.37",
    ];
    let text = printed(&helm(fixed.iter().chain(&forced)));
    let objects = objects(&text).into_iter();
    objects.map(|object| serde_json::to_value(object).unwrap()).collect()
}
