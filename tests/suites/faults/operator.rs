//! An operator inside the test process: its own client with faults, one namespace, and a new life after each death.

use std::sync::{Arc, Mutex, PoisonError};

use kube::{
    Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use lem_operator::controller::{
    self, Settings,
    build::Defaults,
    leader::Leadership,
    metrics::{ApiMetrics, exposition},
    server::Health,
};
use lem_test_cluster::Cluster;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::{
    fault::Script,
    injection::Injection,
    invariants::{Watched, reconciliations},
};

/// Runs until it is dropped.
pub(crate) struct Operator {
    pub(crate) script: Arc<Script>,
    config: Config,
    namespace: String,
    life: Mutex<Life>,
}

/// One process, so to speak: nothing of it is known to the next.
struct Life {
    registry: Arc<Mutex<Option<Registry>>>,
    task: JoinHandle<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    /// Starts one for a namespace.
    pub(crate) async fn start(cluster: &Cluster, namespace: &str, script: Script) -> Self {
        let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .unwrap();
        let script = Arc::new(script);
        let life = Mutex::new(live(&config, namespace, &script));
        Self {
            script,
            config,
            namespace: namespace.to_owned(),
            life,
        }
    }

    /// Resolves each time the script kills the operator.
    pub(crate) async fn killed(&self) {
        self.script.deadly.notified().await;
    }

    /// Ends it as SIGKILL would, in the middle of whatever it does, and starts another one without any memory.
    pub(crate) fn restart(&self) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.task.abort();
        *life = live(&self.config, &self.namespace, &self.script);
    }
}

impl Watched for Operator {
    async fn reconciliations(&self) -> Result<u64, String> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.task.is_finished() {
            return Err("the operator has ended by itself".to_owned());
        }
        let registry = life.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = registry.as_ref().ok_or("the operator is starting")?;
        reconciliations(&exposition(registry).map_err(|error| error.to_string())?)
    }

    fn writes(&self) -> Vec<String> {
        self.script.writes().iter().map(ToString::to_string).collect()
    }
}

fn live(config: &Config, namespace: &str, script: &Arc<Script>) -> Life {
    let builder = ClientBuilder::try_from(config.clone()).unwrap();
    let client = builder.with_layer(&Injection(Arc::clone(script))).build();
    let settings = Settings {
        defaults: Defaults {
            runner_image: "localhost/lem-runner:dev".to_owned(),
            runner_image_gpu: None,
            node_agent: false,
        },
        instance: namespace.to_owned(),
        watch_namespace: Some(namespace.to_owned()),
    };
    let registry = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&registry);
    let task = tokio::spawn(controller::run(
        client,
        settings,
        Leadership::always(),
        Health::default(),
        std::future::pending(),
        ApiMetrics::default(),
        move |made| *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(made),
    ));
    Life { registry, task }
}
