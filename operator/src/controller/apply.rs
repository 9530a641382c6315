//! Step "apply": changes of the cluster. Client.
//!
//! Accounts, Roles, bindings and Jobs are applied by the server under one field manager. Mailboxes are created once and
//! then written letter by letter: what they hold is not a wish that may be repeated, so a copy that is already there is
//! left alone, and each letter is fenced by the UID of the mailbox that it was written for.

use std::fmt::Debug;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
    runtime::reflector::{ObjectRef, Store},
};
use lem_crds::Runner;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    build::{self, Access, CohortObjects, CohortPlan, Defaults},
    decide::{Change, Letter},
    error::ReconcileError,
    expectation::Expectations,
    fleet::devices,
    prepare::Prepared,
    view::Observed,
};

/// The one field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "lem-operator";

/// What every object that is written here can do.
trait Namespaced:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Namespaced for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned
{
}

/// What applying needs.
pub(super) struct Applier<'a> {
    pub(super) client: &'a Client,
    pub(super) prepared: &'a Prepared,
    pub(super) observed: &'a Observed,
    pub(super) defaults: &'a Defaults,
    pub(super) expectations: &'a Expectations,
    /// Where the operator may read them.
    pub(super) nodes: Option<&'a Store<Node>>,
}

impl Applier<'_> {
    /// How the GPUs of a node are shared.
    fn gpu_sharing(&self, node: Option<&str>) -> Option<String> {
        let node = self.nodes?.get(&ObjectRef::new(node?))?;
        devices::sharing(&node)
    }

    /// Makes one change.
    pub(super) async fn apply(&self, change: &Change) -> Result<(), ReconcileError> {
        match change {
            Change::CreateCohort {
                cohort,
                incarnation,
                node,
                assignment,
                upcoming,
            } => {
                let Some(of_plan) = self.prepared.cohorts.iter().find(|one| one.key == *cohort) else {
                    return Ok(());
                };
                let spec = &self.prepared.spec;
                let most_cycles = spec.protocol.stop_rule.as_ref().map_or(0, |rule| rule.maximum_cycles);
                let per_point = spec.protocol.cycles.max(most_cycles);
                let points = of_plan.trials.iter().map(|slot| slot.point);
                let points = points.collect::<std::collections::BTreeSet<_>>().len() as u32;
                self.create(&build::cohort(&CohortPlan {
                    owner: &self.prepared.owner,
                    spec,
                    pod_patch: &self.prepared.pod_patch,
                    defaults: self.defaults,
                    key: cohort,
                    incarnation: *incarnation,
                    node: node.as_deref(),
                    gpu_sharing: self.gpu_sharing(node.as_deref()).as_deref(),
                    load: &of_plan.load,
                    trials: points * per_point + spec.protocol.retry_budget,
                    assignment,
                    upcoming,
                }))
                .await
            }
            Change::Grant { runners } => self.grant(&build::fleet_access(&self.prepared.owner, runners)).await,
            Change::Tell { runner, letter } => self.tell(runner, letter).await,
            Change::Remember { runner, failures } => {
                let written = json!({"op": "add", "path": "/spec/failures", "value": failures});
                self.write_fenced(runner, vec![written]).await
            }
            Change::DeleteJob { name } => {
                let deleted = self.api::<Job>().delete(name, &DeleteParams::background()).await;
                match deleted {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    other => other.map(drop).map_err(failed::<Job>(name)),
                }
            }
            Change::SetTimeToLive { name, seconds } => {
                let patch = json!({"spec": {"ttlSecondsAfterFinished": seconds}});
                self.patch::<Job>(name, &Patch::Merge(patch)).await
            }
        }
    }

    /// In this order, so that a pod finds everything that it needs.
    async fn create(&self, objects: &CohortObjects) -> Result<(), ReconcileError> {
        let CohortObjects { access, runners, job } = objects;
        if let Some(access) = access {
            self.grant(access).await?;
        }
        for runner in runners {
            let name = runner.name_any();
            if self.observed.runners.iter().any(|there| there.name_any() == name) {
                continue;
            }
            self.create_once(runner).await?;
        }
        if self
            .observed
            .jobs
            .iter()
            .any(|there| there.name_any() == job.name_any())
        {
            return Ok(());
        }
        self.create_once(job).await
    }

    async fn grant(&self, access: &Access) -> Result<(), ReconcileError> {
        self.server_side_apply::<ServiceAccount>(&access.service_account)
            .await?;
        self.server_side_apply::<Role>(&access.role).await?;
        self.server_side_apply::<RoleBinding>(&access.role_binding).await
    }

    async fn tell(&self, runner: &str, letter: &Letter) -> Result<(), ReconcileError> {
        let written = match letter {
            Letter::Assignment { assignment, upcoming } => vec![
                json!({"op": "add", "path": "/spec/assignment", "value": assignment}),
                json!({"op": "add", "path": "/spec/upcoming", "value": upcoming}),
            ],
            Letter::Finish => vec![json!({"op": "add", "path": "/spec/finish", "value": true})],
        };
        self.write_fenced(runner, written).await
    }

    /// Writes into the mailbox that was seen, not into one that has been made anew under its name.
    async fn write_fenced(&self, runner: &str, mut operations: Vec<serde_json::Value>) -> Result<(), ReconcileError> {
        let there = self.observed.runners.iter().find(|there| there.name_any() == runner);
        let Some(uid) = there.and_then(ResourceExt::uid) else {
            return Ok(());
        };
        let fence = json!({"op": "test", "path": "/metadata/uid", "value": uid});
        operations.insert(0, fence);
        let patch: json_patch::Patch = serde_json::from_value(operations.into())
            .map_err(|error| failed::<Runner>(runner)(kube::Error::SerdeError(error)))?;
        self.patch::<Runner>(runner, &Patch::Json::<()>(patch)).await
    }

    fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.prepared.owner.namespace)
    }

    async fn server_side_apply<K: Namespaced>(&self, object: &K) -> Result<(), ReconcileError> {
        let name = object.name_any();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api::<K>().patch(&name, &parameters, &Patch::Apply(object)).await;
        applied.map(drop).map_err(failed::<K>(&name))
    }

    async fn create_once<K: Namespaced>(&self, object: &K) -> Result<(), ReconcileError> {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.api::<K>().create(&parameters, object).await {
            Ok(created) => {
                self.expectations.expect(&self.prepared.owner.uid, &created);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(failed::<K>(&object.name_any())(error)),
        }
    }

    async fn patch<K: Namespaced>(
        &self,
        name: &str,
        patch: &Patch<impl Serialize + Debug>,
    ) -> Result<(), ReconcileError> {
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self.api::<K>().patch(name, &parameters, patch).await {
            Ok(patched) => {
                self.expectations.expect(&self.prepared.owner.uid, &patched);
                Ok(())
            }
            // It has gone in the meantime; the watch will say so.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(failed::<K>(name)(error)),
        }
    }
}

fn failed<K: Resource<DynamicType = ()>>(name: &str) -> impl FnOnce(kube::Error) -> ReconcileError {
    let name = name.to_owned();
    let kind = match K::kind(&()).as_ref() {
        "ServiceAccount" => "ServiceAccount",
        "Role" => "Role",
        "RoleBinding" => "RoleBinding",
        "Runner" => "Runner",
        "Job" => "Job",
        _ => "object",
    };
    move |source| ReconcileError::Apply { kind, name, source }
}
