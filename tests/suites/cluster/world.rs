//! The one cluster that the tests share, with the operator in it, and what they ask of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
    runtime::{conditions::is_crd_established, wait::Condition as _},
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, Runner, status::ExperimentPhase};
use lem_test_cluster::{Cluster, FailureGuard, Image, Options};
use tokio::sync::OnceCell;

/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "lem-system";

/// From one state to the next; the machine may be busy with other tests, and experiments wait for each other's nodes.
pub(crate) const LIMIT: Duration = Duration::from_mins(4);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// What one test works with: the cluster, a client of the test's own runtime, and a namespace that goes with the test.
pub(crate) struct World {
    pub(crate) cluster: &'static Cluster,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    _on_failure: FailureGuard<'static>,
}

impl World {
    /// The shared cluster, and a namespace with the strictest Pod Security there is.
    pub(crate) async fn of(test: &str) -> Self {
        let cluster = CLUSTER.get_or_init(|| async { start(&shared_name()).await }).await;
        Self::on(cluster, test).await
    }

    /// The same on a cluster of the test's own.
    pub(crate) async fn on(cluster: &'static Cluster, test: &str) -> Self {
        let client = cluster.client().await.unwrap();
        let namespace = namespace(&client).await;
        Self {
            cluster,
            client,
            namespace,
            _on_failure: cluster.on_failure(test),
        }
    }

    /// Creates an object that is written as JSON in the test's namespace.
    pub(crate) async fn create<K>(&self, object: &serde_json::Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object.clone()).unwrap();
        let created = self.api::<K>().create(&PostParams::default(), &object).await;
        created.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Objects of a kind in the test's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply` of an experiment.
    pub(crate) async fn apply(&self, experiment: &EfficiencyExperiment) -> EfficiencyExperiment {
        let created = self.api().create(&PostParams::default(), experiment).await;
        created.unwrap_or_else(|error| panic!("{error}"))
    }

    /// An experiment's status, empty before the operator has seen it.
    pub(crate) async fn status(&self, name: &str) -> Result<EfficiencyExperimentStatus, String> {
        let found = self.api::<EfficiencyExperiment>().get(name).await;
        Ok(found.map_err(|error| error.to_string())?.status.unwrap_or_default())
    }

    /// Waits until the status of an experiment is as wanted.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&EfficiencyExperimentStatus) -> bool,
    ) -> EfficiencyExperimentStatus {
        let wanted = &wanted;
        let look = || async move {
            let status = self.status(name).await?;
            if wanted(&status) {
                Ok(status)
            } else {
                Err(described(&status))
            }
        };
        let found = self.cluster.until(what, LIMIT, look).await;
        found.unwrap_or_else(|error| panic!("experiment {name}: {error}"))
    }

    /// Waits until an experiment has ended, however.
    pub(crate) async fn ended(&self, name: &str) -> EfficiencyExperimentStatus {
        self.until(name, "the end of the experiment", |status| {
            matches!(
                status.phase,
                ExperimentPhase::Complete | ExperimentPhase::Partial | ExperimentPhase::Failed
            )
        })
        .await
    }

    /// Mailboxes of an experiment.
    pub(crate) async fn runners(&self, experiment: &str) -> Vec<Runner> {
        let all = self
            .api::<Runner>()
            .list(&kube::api::ListParams::default())
            .await
            .unwrap();
        all.into_iter()
            .filter(|runner| runner.spec.experiment == experiment)
            .collect()
    }

    /// Waits until something else holds.
    pub(crate) async fn eventually<T, F>(&self, what: &str, look: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, String>>,
    {
        let found = self.cluster.until(what, LIMIT, look).await;
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks for the deletion of the test's namespace, which frees the nodes for others.
    pub(crate) async fn delete_namespace(&self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits until nothing of the test's namespace is left.
    pub(crate) async fn until_namespace_is_gone(&self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        self.eventually("the end of the namespace", || async {
            let found = namespaces.get_opt(&self.namespace).await;
            let found = found.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |namespace| Err(format!("{:?}", namespace.status)))
        })
        .await;
    }
}

/// A condition of a status.
pub(crate) fn condition<'a>(status: &'a EfficiencyExperimentStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Conditions and failures, for a test's message.
pub(crate) fn described(status: &EfficiencyExperimentStatus) -> String {
    let conditions = status.conditions.iter().map(|condition| {
        let words = [
            &condition.type_,
            &condition.status,
            &condition.reason,
            &condition.message,
        ];
        words.map(String::as_str).join(" ")
    });
    let conditions: Vec<String> = conditions.collect();
    format!(
        "{:?} {:?} {} failures: {:?}",
        status.phase,
        status.progress,
        conditions.join("; "),
        status.failures
    )
}

/// Name of the shared cluster; `LEM_TEST_CLUSTER_NAME` gives another one to a run beside another.
pub(crate) fn shared_name() -> String {
    std::env::var("LEM_TEST_CLUSTER_NAME").unwrap_or_else(|_| "operator".to_owned())
}

/// A cluster with our definitions, our images and the operator.
pub(crate) async fn start(name: &str) -> Cluster {
    let options = Options {
        images: vec![image("lem-operator"), image("lem-runner")],
        ..Options::default()
    };
    let cluster = Cluster::start(name, options).await.unwrap();
    define(&cluster).await;
    deploy(&cluster);
    until_ready(&cluster).await;
    cluster
}

/// First step of the README: our definitions, once they are served.
pub(crate) async fn define(cluster: &Cluster) {
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client().await.unwrap());
    for name in [
        "efficiencyexperiments.lem.dev",
        "efficiencyschedules.lem.dev",
        "runners.lem.dev",
    ] {
        let file = repository().join("crds").join(format!("{name}.yaml"));
        kubectl(cluster, &["apply", "--server-side=true", "-f", file.to_str().unwrap()]);
        // `kubectl wait` fails on a definition that has no conditions yet.
        let served = || async {
            let found = definitions.get(name).await.map_err(|error| error.to_string())?;
            let established = is_crd_established().matches_object(Some(&found));
            established.then_some(()).ok_or_else(|| format!("{:?}", found.status))
        };
        cluster
            .until("a definition that is served", LIMIT, served)
            .await
            .unwrap();
    }
}

/// Second step of the README: the operator.
pub(crate) fn deploy(cluster: &Cluster) {
    let path = repository().join("examples/cluster/operator.yaml");
    kubectl(cluster, &["apply", "-f", path.to_str().unwrap()]);
}

/// Waits for both replicas of the operator.
pub(crate) async fn until_ready(cluster: &Cluster) {
    let client = cluster.client().await.unwrap();
    let deployments = Api::<Deployment>::namespaced(client, SYSTEM);
    let ready = || async {
        let found = deployments
            .get("lem-operator")
            .await
            .map_err(|error| error.to_string())?;
        let status = found.status.unwrap_or_default();
        (status.ready_replicas == Some(2))
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    };
    cluster
        .until("two ready replicas of the operator", LIMIT, ready)
        .await
        .unwrap();
}

/// Runs `kubectl` and gives what it printed.
pub(crate) fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.kubectl().args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The top of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The image of a built program, under the name that the example installs.
pub(crate) fn image(program: &str) -> PathBuf {
    image_called(&format!("{program}:dev"), program)
}

/// The image of a built program under a name and tag, written once: another cluster may be reading it.
pub(crate) fn image_called(name: &str, program: &str) -> PathBuf {
    static WRITTEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let folder = binaries();
    let archive = folder.join(format!("{}-test-image.tar", name.replace(':', "-")));
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if written.contains(&archive) {
        return archive;
    }
    let image = Image::new(&format!("localhost/{name}"), &folder.join(program)).unwrap();
    // As `make images` does: a client of the hub does not start without.
    let image = image.with_certificates().unwrap();
    image.write(&archive).unwrap();
    written.insert(archive.clone());
    archive
}

/// The folder of the built binaries.
pub(crate) fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

async fn namespace(client: &Client) -> String {
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("test-".to_owned());
    let strict = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    namespace.metadata.labels = Some([strict].into());
    let created = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await;
    created.unwrap().name_any()
}
