//! Quota and policy refuse pods or the whole Job.

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    batch::v1::Job,
    core::v1::{Pod, ResourceQuota},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{fails, goes_on, says, stalled};
use crate::{
    experiment::{tiny, with},
    world::World,
};

/// A deadline that a refused experiment cannot keep.
fn impatient() -> Value {
    json!({"protocol": {"retryBudget": 0}, "placement": {"scheduleDeadline": "20s"}})
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_quota_without_room_is_named_and_raising_it_lets_the_pods_in() {
    let world = World::of("quota").await;
    let none = json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}});
    world.create::<ResourceQuota>(&none).await;
    world.apply(&tiny("patient", 1, 1)).await;
    world.apply(&with("impatient", 1, 1, &impatient())).await;
    let message = stalled(&world, "patient", "QuotaExceeded").await;
    says(&message, &["exceeded quota: small", "raise it", "processes.count"]);
    let message = fails(&world, "impatient").await;
    says(
        &message,
        &["exceeded quota: small", "within spec.placement.scheduleDeadline"],
    );
    let room = json!({"spec": {"hard": {"pods": "10"}}});
    let quotas: Api<ResourceQuota> = world.api();
    quotas
        .patch("small", &PatchParams::default(), &Patch::Merge(&room))
        .await
        .unwrap();
    goes_on(&world, "patient").await;
}

/// A policy that refuses every object of a resource in the test's namespace.
struct Ban<'a> {
    world: &'a World,
    name: String,
}

impl<'a> Ban<'a> {
    async fn of(world: &'a World, group: &str, resource: &str) -> Self {
        let name = format!("no-{resource}-in-{}", world.namespace);
        let policy = json!({
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": [resource]}]},
                "validations": [{"expression": "false", "message": format!("no {resource} on Fridays")}],
            },
        });
        let binding = json!({
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector":
                    {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}},
            },
        });
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(policy).unwrap();
        let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(binding).unwrap();
        let client = &world.client;
        Api::all(client.clone())
            .create(&PostParams::default(), &policy)
            .await
            .unwrap();
        Api::all(client.clone())
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
        Self { world, name }
    }

    /// Waits until the API server refuses such an object: it learns of a policy with a delay.
    async fn until_effective<K>(&self, probe: &Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let probe: &K = &serde_json::from_value(probe.clone()).unwrap();
        let dry_run = &PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let refused = || async move {
            match self.world.api::<K>().create(dry_run, probe).await {
                Err(error) if error.to_string().contains("on Fridays") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        self.world.eventually("the policy's effect", refused).await;
    }

    async fn lift(self) {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.world.client.clone());
        bindings.delete(&self.name, &DeleteParams::default()).await.unwrap();
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.world.client.clone());
        policies.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_policy_that_refuses_the_pods_is_quoted_and_lifting_it_lets_them_in() {
    let world = World::of("policy_on_pods").await;
    let ban = Ban::of(&world, "", "pods").await;
    let container = json!({"name": "probe", "image": "localhost/pause:1",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let pod = json!({"metadata": {"name": "probe"}, "spec": {"containers": [container],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}});
    ban.until_effective::<Pod>(&pod).await;
    world.apply(&tiny("banned", 1, 1)).await;
    let message = stalled(&world, "banned", "AdmissionRefused").await;
    says(&message, &["no pods on Fridays", "change the policy", "spec.runner"]);
    ban.lift().await;
    goes_on(&world, "banned").await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_policy_that_refuses_the_job_is_quoted_and_does_not_keep_an_experiment_for_ever() {
    let world = World::of("policy_on_jobs").await;
    let ban = Ban::of(&world, "batch", "jobs").await;
    let job = json!({"metadata": {"name": "probe"}, "spec": {"template": {"spec":
        {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "localhost/pause:1"}]}}}});
    ban.until_effective::<Job>(&job).await;
    world.apply(&tiny("patient", 1, 1)).await;
    world.apply(&with("impatient", 1, 1, &impatient())).await;
    let message = stalled(&world, "patient", "ApiRefused").await;
    says(&message, &["failed to apply Job", "no jobs on Fridays"]);
    let message = fails(&world, "impatient").await;
    says(
        &message,
        &["no jobs on Fridays", "within spec.placement.scheduleDeadline"],
    );
    ban.lift().await;
    goes_on(&world, "patient").await;
}
