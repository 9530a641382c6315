//! Step "observe": what the caches hold of one experiment. Client only where something is stuck or deleted, for what no
//! cache shows.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Namespace, Node, Pod},
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams, core::DeserializeGuard, runtime::reflector::Store};
use lem_crds::Runner;

use super::{
    build::EXPERIMENT_UID_LABEL,
    expectation,
    neighbour::{self, Neighbour},
    view::{self, Incarnation, JOB_NAME_LABEL, Observed, PodView, Unexplained, UnexplainedKind},
    watch::Guarded,
};

/// A Job has its pods after some 0.1 s; one without them for so long is asked for its events.
const PODS_EXPECTED_AFTER: SignedDuration = SignedDuration::from_secs(3);
/// A kubelet mounts volumes and starts a container within some 0.5 s unless it pulls an image.
const CONTAINER_EXPECTED_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// Caches of everything that experiments own.
#[derive(Debug, Clone)]
pub struct Caches {
    /// Mailboxes.
    pub runners: Store<DeserializeGuard<Runner>>,
    /// Jobs.
    pub jobs: Store<DeserializeGuard<Job>>,
    /// Pods.
    pub pods: Store<DeserializeGuard<Pod>>,
    /// Nodes; an operator of one namespace may not read them.
    pub nodes: Option<Store<Node>>,
}

/// An object of a cache, without a copy.
type Shared<K> = Arc<DeserializeGuard<K>>;

/// What the caches hold of one node of a fleet, by reference.
#[derive(Debug, Clone, Default)]
pub(super) struct OfNode {
    pub(super) runners: Vec<Shared<Runner>>,
    pub(super) jobs: Vec<Shared<Job>>,
    pub(super) pods: Vec<Shared<Pod>>,
}

impl OfNode {
    /// A copy of all of it.
    pub(super) fn observed(&self) -> Observed {
        fn copies<K: Clone>(objects: &[Shared<K>]) -> Vec<K> {
            objects
                .iter()
                .filter_map(|object| object.0.as_ref().ok().cloned())
                .collect()
        }
        Observed {
            runners: copies(&self.runners),
            jobs: copies(&self.jobs),
            pods: copies(&self.pods),
            ..Observed::default()
        }
    }

    /// The version of everything that own writes are waited for in, by UID.
    pub(super) fn versions(&self) -> impl Iterator<Item = (String, u64)> {
        fn pairs<K>(objects: &[Shared<K>]) -> impl Iterator<Item = (String, u64)>
        where
            K: Resource<DynamicType = ()>,
        {
            objects
                .iter()
                .filter_map(|object| object.uid().zip(expectation::version(object.as_ref())))
        }
        pairs(&self.runners).chain(pairs(&self.jobs))
    }

    /// Changes whenever a mailbox or the end of a Job does.
    pub(super) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for runner in &self.runners {
            // Writing to a string cannot fail.
            let _ = write!(text, "{} ", runner.resource_version().unwrap_or_default());
        }
        for job in &self.jobs {
            let live = job.0.as_ref().is_ok_and(view::is_live);
            let _ = write!(text, "{} {live} ", job.uid().unwrap_or_default());
        }
        text
    }

    /// What of it does not start, if nothing here says why.
    pub(super) fn unexplained(&self) -> Option<Unexplained> {
        let pods = self.pods.iter().filter_map(|pod| pod.0.as_ref().ok());
        let pods: Vec<&Pod> = pods.collect();
        let jobs = self.jobs.iter().filter_map(|job| job.0.as_ref().ok());
        jobs.filter(|job| self.is_open(&job.name_any()))
            .find_map(|job| view::unexplained(job, &pods))
    }

    /// Windows may still come from a Job.
    fn is_open(&self, job: &str) -> bool {
        let runners = self.runners.iter().filter_map(|runner| runner.0.as_ref().ok());
        let mut of_job = runners.filter(|runner| view::job_of_runner(runner).as_deref() == Some(job));
        of_job.any(|runner| !runner.spec.finish)
    }

    /// Somebody deletes pods of it that have not ended.
    pub(super) fn deletes_pods(&self) -> bool {
        self.pods.iter().any(|pod| pod.meta().deletion_timestamp.is_some())
    }
}

impl Caches {
    /// Everything of one experiment.
    pub fn observe(&self, experiment_uid: &str) -> Observed {
        Observed {
            runners: of(&self.runners, experiment_uid),
            jobs: of(&self.jobs, experiment_uid),
            pods: of(&self.pods, experiment_uid),
            job_warning: None,
            pod_warnings: BTreeMap::new(),
            api_refusal: None,
            namespace_ends: false,
        }
    }

    /// Everything of one fleet, node by node.
    pub(super) fn observe_nodes(&self, experiment_uid: &str) -> BTreeMap<String, OfNode> {
        let mut by_node: BTreeMap<String, OfNode> = BTreeMap::new();
        let mut node_of_job: HashMap<String, String> = HashMap::new();
        for runner in self.runners.state() {
            let Some(Ok(readable)) = ours(&runner, experiment_uid).then_some(&runner.0) else {
                continue;
            };
            let Some(node) = readable.spec.node.clone() else {
                continue;
            };
            if let Some(job) = view::job_of_runner(readable) {
                node_of_job.insert(job, node.clone());
            }
            by_node.entry(node).or_default().runners.push(runner);
        }
        for job in self.jobs.state() {
            let node = node_of_job.get(&job.name_any()).filter(|_| ours(&job, experiment_uid));
            if let Some(of_node) = node.and_then(|node| by_node.get_mut(node)) {
                of_node.jobs.push(job);
            }
        }
        for pod in self.pods.state() {
            let job = pod.labels().get(JOB_NAME_LABEL).filter(|_| ours(&pod, experiment_uid));
            let node = job.and_then(|job| node_of_job.get(job)).cloned();
            if let Some(of_node) = node.and_then(|node| by_node.get_mut(&node)) {
                of_node.pods.push(pod);
            }
        }
        // The caches have no order.
        for of_node in by_node.values_mut() {
            of_node.runners.sort_by_key(|runner| runner.name_any());
            of_node.jobs.sort_by_key(|job| job.name_any());
        }
        by_node
    }

    /// Experiments that are partly placed, of all that there are.
    pub(super) fn partly_placed(&self, experiments: &Store<Guarded>) -> Vec<Neighbour> {
        let experiments = experiments.state();
        let (jobs, pods) = (self.jobs.state(), self.pods.state());
        neighbour::partly_placed(
            experiments.iter().filter_map(|one| one.0.as_ref().ok()),
            jobs.iter().filter_map(|job| job.0.as_ref().ok()),
            pods.iter().filter_map(|pod| pod.0.as_ref().ok()),
        )
    }

    /// Resolves once every cache has been filled for the first time.
    pub async fn filled(&self) {
        // A store whose writer is gone belongs to a controller that ends.
        drop(self.runners.wait_until_ready().await);
        drop(self.jobs.wait_until_ready().await);
        drop(self.pods.wait_until_ready().await);
    }
}

fn of<K>(store: &Store<DeserializeGuard<K>>, experiment_uid: &str) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found = store.state().into_iter().filter(|object| ours(object, experiment_uid));
    found.filter_map(|object| object.0.as_ref().ok().cloned()).collect()
}

fn ours<K: Resource<DynamicType = ()>>(object: &DeserializeGuard<K>, experiment_uid: &str) -> bool {
    let uid = object.labels().get(EXPERIMENT_UID_LABEL);
    uid.is_some_and(|uid| uid == experiment_uid)
}

/// The version of everything that was seen, by UID.
pub(super) fn versions(observed: &Observed) -> HashMap<String, u64> {
    fn pairs<K: Resource<DynamicType = ()>>(objects: &[K]) -> impl Iterator<Item = (String, u64)> {
        objects
            .iter()
            .filter_map(|object| object.uid().zip(expectation::version(object)))
    }
    pairs(&observed.runners).chain(pairs(&observed.jobs)).collect()
}

/// A Job that has not made all its pods, and since when it may.
fn without_pods(observed: &Observed) -> Option<(Incarnation, Timestamp)> {
    observed.incarnations().into_iter().find_map(|incarnation| {
        let job = incarnation.job.as_ref().filter(|job| job.end.is_none())?;
        let since = job.admitted?;
        let waits = !incarnation.closed() && incarnation.seats.iter().any(|seat| seat.pod.is_none());
        waits.then_some((incarnation, since))
    })
}

/// Asks for what no cache shows: whether the namespace is being deleted, and the events that say why a Job has no pods or
/// a pod no container. Gives when to ask again.
pub(super) async fn ask(
    client: &Client,
    namespace: &str,
    observed: &mut Observed,
    now: Timestamp,
) -> Result<Option<Duration>, kube::Error> {
    if !observed.namespace_ends && deletes_pods(observed) {
        observed.namespace_ends = namespace_ends(client, namespace).await?;
    }
    let mut again = None;
    if let Some((incarnation, since)) = without_pods(observed) {
        again = Some(Duration::from_secs(4));
        if now.duration_since(since) > PODS_EXPECTED_AFTER {
            observed.job_warning = job_warning(client, namespace, &incarnation.name).await?;
            again = Some(Duration::from_secs(10));
        }
    }
    if let Some(pod) = unexplained(observed) {
        if now.duration_since(pod.created) > CONTAINER_EXPECTED_AFTER {
            let words = pod_warning(client, namespace, &pod.name).await?;
            observed.pod_warnings.extend(words.map(|words| (pod.name, words)));
        }
        again = Some(Duration::from_secs(6));
    }
    Ok(again)
}

/// Somebody else deletes pods that have not ended: an eviction, or the end of the whole namespace.
fn deletes_pods(observed: &Observed) -> bool {
    let mut pods = observed.pods.iter();
    pods.any(|pod| pod.metadata.deletion_timestamp.is_some())
}

/// Whether a namespace is being deleted, or gone. An operator that may not look acts as if it were not.
pub(super) async fn namespace_ends(client: &Client, namespace: &str) -> Result<bool, kube::Error> {
    match Api::<Namespace>::all(client.clone()).get_metadata_opt(namespace).await {
        Ok(found) => Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some())),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::debug!(namespace, "not allowed to see whether the namespace is being deleted");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The pod that has been there for longest without a container, and without a word in its status why. What keeps a
/// kubelet from mounting a volume, or the scheduler from looking at a pod whose claim is not there, is in an event only.
fn unexplained(observed: &Observed) -> Option<PodView> {
    let incarnations = observed.incarnations();
    let pods = incarnations.iter().filter(|incarnation| !incarnation.closed());
    let pods = pods
        .flat_map(|incarnation| &incarnation.seats)
        .filter_map(|seat| seat.pod.as_ref());
    let waiting = pods.filter(|pod| pod.waits_without_a_word());
    waiting.min_by_key(|pod| pod.created).cloned()
}

/// What the events say of what does not start.
pub(super) async fn explain(
    client: &Client,
    namespace: &str,
    what: &Unexplained,
) -> Result<Option<String>, kube::Error> {
    match what.kind {
        UnexplainedKind::Job => job_warning(client, namespace, &what.name).await,
        UnexplainedKind::Pod => pod_warning(client, namespace, &what.name).await,
    }
}

/// The Job controller's last warning about a Job.
async fn job_warning(client: &Client, namespace: &str, job: &str) -> Result<Option<String>, kube::Error> {
    last_warning(client, namespace, "Job", job, &["FailedCreate"]).await
}

/// The last warning about what a pod must have before its container starts.
async fn pod_warning(client: &Client, namespace: &str, pod: &str) -> Result<Option<String>, kube::Error> {
    let reasons = [
        "FailedMount",
        "FailedAttachVolume",
        "FailedCreatePodSandBox",
        "FailedPrepareDynamicResources",
        "FailedResourceClaimCreation",
    ];
    last_warning(client, namespace, "Pod", pod, &reasons).await
}

async fn last_warning(
    client: &Client,
    namespace: &str,
    kind: &str,
    name: &str,
    reasons: &[&str],
) -> Result<Option<String>, kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_object = ListParams::default()
        .fields(&format!(
            "involvedObject.kind={kind},involvedObject.name={name},type=Warning"
        ))
        .limit(20);
    let found = events.list(&of_object).await?;
    let last = found
        .items
        .into_iter()
        .filter(|event| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason)))
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    Ok(last.and_then(|event| event.message))
}
