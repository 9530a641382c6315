//! The caches of children: one watch per kind, each event a call to look at its experiment again. Client.
//!
//! Every watch is guarded: an object that cannot be read is skipped and said so, it never stops the controller.

use std::{fmt::Debug, future};

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use lem_crds::EfficiencyExperiment;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use super::build::{EXPERIMENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL};

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
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
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

fn owner<K: Resource<DynamicType = ()>>(object: &DeserializeGuard<K>) -> Option<ObjectRef<Guarded>> {
    let name = object.labels().get(EXPERIMENT_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}
