//! The caches of children and nodes: one watch per kind, each event a call to look at its experiment again. Client.
//!
//! Every watch is guarded: an object that cannot be read is skipped and said so, it never stops the controller.

use std::{collections::HashMap, fmt::Debug, future};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use lem_crds::{EfficiencyExperiment, experiment::PlacementStrategy};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    aggregate,
    build::{EXPERIMENT_LABEL, GPU, MANAGED_BY, MANAGED_BY_LABEL},
    fleet,
};

/// Objects of one answer while a cache is filled. A record may have 50 KB, and answers are held whole.
const PAGE: u32 = 100;

/// An experiment as the controller takes it: readable or not.
pub type Guarded = DeserializeGuard<EfficiencyExperiment>;

/// Objects of a kind in one namespace, or in all of them: an operator of one namespace gets along with a Role.
pub fn scope<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Starts to watch the operator's own objects of one kind; gives the cache and the work of filling it.
pub fn children<K>(
    api: Api<DeserializeGuard<K>>,
    calls: UnboundedSender<ObjectRef<Guarded>>,
) -> (Store<DeserializeGuard<K>>, impl Future<Output = ()>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let ours = watcher::Config::default()
        .labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"))
        .page_size(PAGE);
    let events = watcher(api, ours)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects();
    let follow = events.for_each(move |event| {
        match event {
            Ok(object) => {
                if let Err(error) = &object.0 {
                    tracing::warn!(kind = %K::kind(&()), name = object.name_any(), %error, "an object cannot be read");
                }
                if let Some(experiment) = owner(&object) {
                    // The receiver is gone only when the controller ends.
                    drop(calls.send(experiment));
                }
            }
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "the watch is interrupted"),
        }
        future::ready(())
    });
    (reader, follow)
}

/// Watches the nodes, for the fleets. A node speaks every few minutes; only what decides whether it is measured calls for
/// another look.
pub(super) async fn nodes(
    client: Client,
    writer: Writer<Node>,
    experiments: Store<Guarded>,
    calls: UnboundedSender<ObjectRef<Guarded>>,
) {
    let mut digests: HashMap<String, u64> = HashMap::new();
    let events = watcher(Api::<Node>::all(client), watcher::Config::default())
        .default_backoff()
        .modify(forget_details)
        .reflect(writer);
    events
        .for_each(|event| {
            let changed = match &event {
                Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                    let digest = fleet::nodes::digest(node);
                    digests.insert(node.name_any(), digest) != Some(digest)
                }
                Ok(watcher::Event::Delete(node)) => digests.remove(&node.name_any()).is_some(),
                // Nodes that went unnoticed while the watch was interrupted.
                Ok(watcher::Event::InitDone) => true,
                Ok(watcher::Event::Init) => false,
                Err(error) => {
                    tracing::warn!(kind = "Node", %error, "the watch is interrupted");
                    false
                }
            };
            if changed {
                for fleet in fleets(&experiments) {
                    drop(calls.send(fleet));
                }
            }
            future::ready(())
        })
        .await;
}

/// Images and addresses are most of a node, and a cluster has thousands of them.
fn forget_details(node: &mut Node) {
    node.managed_fields_mut().clear();
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.addresses = None;
        if let Some(capacity) = &mut status.capacity {
            capacity.retain(|resource, _| resource == GPU);
        }
        status.node_info = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| condition.type_ == "Ready");
        }
    }
}

/// Experiments that measure each node and are not over.
fn fleets(experiments: &Store<Guarded>) -> Vec<ObjectRef<Guarded>> {
    let each_node = |experiment: &EfficiencyExperiment| {
        let placement = experiment.spec.placement.as_ref();
        let over = experiment
            .status
            .as_ref()
            .is_some_and(|status| aggregate::is_over(status.phase));
        !over && placement.is_some_and(|placement| placement.strategy == PlacementStrategy::EachNode)
    };
    let all = experiments.state();
    let fleets = all.iter().filter(|one| one.0.as_ref().is_ok_and(each_node));
    fleets
        .filter_map(|one| Some(ObjectRef::new(&one.name_any()).within(&one.namespace()?)))
        .collect()
}

fn owner<K: Resource<DynamicType = ()>>(object: &DeserializeGuard<K>) -> Option<ObjectRef<Guarded>> {
    let name = object.labels().get(EXPERIMENT_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}
