//! Why nothing moves: one sentence with the cause, in the cluster's own words, and the next step. Pure.

use k8s_openapi::api::core::v1::Pod;
use lem_crds::agent::{ENERGY_METER, MEASUREMENT_SLOT};

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Bounded reason for the condition and for metrics.
    pub reason: &'static str,
    /// Cause and next step, in one sentence.
    pub message: String,
}

impl Cause {
    /// A cause in words of one's own.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Why a pod that should run does not.
pub(crate) fn obstacle(pod: &Pod) -> Option<Cause> {
    let status = pod.status.as_ref()?;
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unschedulable {
        let words = condition.message.clone().unwrap_or_default();
        let reason = condition.reason.clone().unwrap_or_default();
        if reason == "SchedulingGated" {
            return Some(Cause::new(
                "SchedulingGated",
                "a scheduling gate holds the pod: whoever set it must lift it",
            ));
        }
        return Some(unplaced(&words));
    }
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref());
    let waiting = waiting?;
    let words = waiting.message.clone().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            Some(Cause::new(
                "ImagePull",
                format!(
                    "the image cannot be pulled ({words}): check spec.runner.image and spec.runner.imagePullSecrets"
                ),
            ))
        }
        "CreateContainerConfigError" => Some(Cause::new(
            "ContainerConfiguration",
            format!("the container cannot be made ({words}): create what it names, or correct the reference"),
        )),
        "CreateContainerError" | "RunContainerError" => Some(Cause::new(
            "ContainerStart",
            format!("the container cannot be started ({words}): check spec.runner and the node"),
        )),
        _ => None,
    }
}

fn unplaced(words: &str) -> Cause {
    if words.contains("nvidia.com/gpu") {
        return Cause::new(
            "GpuMissing",
            format!(
                "no node has the GPUs free ({words}): lower processes.gpusPerProcess or processes.count, or wait for GPUs"
            ),
        );
    }
    if [
        "allocate all claims",
        "resourceclaim not available",
        "resourceclaim in use",
    ]
    .iter()
    .any(|taken| words.contains(taken))
    {
        return Cause::new(
            "DeviceMissing",
            format!(
                "no node has the devices free that the claims ask for ({words}): wait until others give them back (`kubectl get resourceclaims`), or check the ResourceClaimTemplates that spec.placement.resourceClaims names, their DeviceClasses, and `kubectl get resourceslices`"
            ),
        );
    }
    if words.contains("resourceclaim") || words.contains("device class") {
        return Cause::new(
            "ClaimNotAllocated",
            format!(
                "a claim cannot be allocated ({words}): check the ResourceClaimTemplates that spec.placement.resourceClaims names, their DeviceClasses, and `kubectl get resourceclaims`"
            ),
        );
    }
    // The scheduler looks at resources before it looks at neighbours, and does not say who has the slot.
    if words.contains(MEASUREMENT_SLOT) {
        return Cause::new(
            "MeasurementSlotTaken",
            format!(
                "no node has its measurement slot free ({words}): if other experiments measure there, this one starts when they have ended; if none does, the node energy agent does not run there or cannot read the counters, so look at the pods of its DaemonSet; and each process takes a slot, so processes.count may not exceed the nodes"
            ),
        );
    }
    if words.contains(ENERGY_METER) {
        return Cause::new(
            "NodeAgentMissing",
            format!(
                "no node with free GPUs has the node energy agent at work ({words}): look at the pods of its DaemonSet and at the nodes it selects, or set spec.energy.cpu to Estimate or Disabled"
            ),
        );
    }
    if words.contains("persistentvolumeclaim") {
        return Cause::new(
            "VolumeMissing",
            format!("the model's volume is not there ({words}): create the claim that spec.model.source names"),
        );
    }
    if words.contains("anti-affinity") {
        return Cause::new(
            "NodeBusy",
            format!("another experiment measures on the node ({words}): this one starts when it has ended"),
        );
    }
    Cause::new(
        "Unschedulable",
        format!("no node takes the pod ({words}): check spec.placement and spec.runner.resources"),
    )
}

/// Why a Job has no pods though nothing refuses them.
pub(super) fn queued(job: &str) -> Cause {
    Cause::new(
        "Queued",
        format!(
            "Job {job} is suspended: it starts when the queue of spec.placement.queueName admits it, and \
             `kubectl get workloads` shows what it waits for"
        ),
    )
}

/// Why a pod has no container, from the kubelet's own event, or from that of the controller of claims.
pub(super) fn not_started(words: &str) -> Cause {
    if words.contains("PodResourceClaim") || words.contains("dynamic resources") {
        return Cause::new(
            "ClaimNotAllocated",
            format!(
                "the devices of a claim cannot be had ({words}): create the ResourceClaimTemplate that spec.placement.resourceClaims names, or look at the driver of the devices on the node"
            ),
        );
    }
    if words.contains("not found") || words.contains("non-existent") {
        return Cause::new(
            "VolumeMissing",
            format!(
                "a volume cannot be mounted ({words}): create the object that it names, or correct spec.workload.prompts and spec.model.source"
            ),
        );
    }
    Cause::new(
        "ContainerPending",
        format!("the kubelet cannot start the container ({words}): check the volumes of the experiment and the node"),
    )
}

/// Why the Job controller cannot make pods, from its own event.
pub(super) fn pods_refused(words: &str) -> Cause {
    if words.contains("exceeded quota") || words.contains("failed quota") {
        return Cause::new(
            "QuotaExceeded",
            format!(
                "a ResourceQuota refuses the pods ({words}): raise it, or lower processes.count or spec.runner.resources"
            ),
        );
    }
    Cause::new(
        "AdmissionRefused",
        format!("admission refuses the pods ({words}): change the policy or the fields of spec.runner that it names"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn an_unschedulable_pod_is_explained_in_the_schedulers_own_words() {
        let words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        let status = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": words}]});
        let cause = obstacle(&pod(&status)).unwrap();
        assert_eq!(cause.reason, "GpuMissing");
        assert!(cause.message.contains(words) && cause.message.contains("processes.gpusPerProcess"));
    }

    #[test]
    fn claims_that_get_no_device_are_told_from_volumes() {
        for (words, reason, step) in [
            (
                "0/3 nodes are available: 3 cannot allocate all claims. still not schedulable, preemption: 0/3 nodes are available",
                "DeviceMissing",
                "resourceslices",
            ),
            (
                "0/1 nodes are available: 1 resourceclaim not available on the node.",
                "DeviceMissing",
                "resourceslices",
            ),
            (
                "request gpu: device class gpus does not exist",
                "ClaimNotAllocated",
                "DeviceClasses",
            ),
            (
                "waiting for resource claim controller: resourceclaim \"x\" not found",
                "ClaimNotAllocated",
                "spec.placement.resourceClaims",
            ),
        ] {
            let cause = unplaced(words);
            assert_eq!(cause.reason, reason, "{words}");
            assert!(cause.message.contains(words) && cause.message.contains(step));
        }
    }

    #[test]
    fn a_slot_that_is_not_free_is_explained_by_both_of_its_causes() {
        let cause = unplaced(
            "0/3 nodes are available: 1 node(s) didn't match pod anti-affinity rules, 2 Insufficient lem.dev/measurement-slot.",
        );
        assert_eq!(cause.reason, "MeasurementSlotTaken");
        for words in [
            "2 Insufficient",
            "when they have ended",
            "node energy agent does not run",
        ] {
            assert!(cause.message.contains(words), "{}", cause.message);
        }
        let cause = unplaced("0/3 nodes are available: 3 Insufficient lem.dev/energy-meter.");
        assert_eq!(cause.reason, "NodeAgentMissing");
        assert!(cause.message.contains("spec.energy.cpu"), "{}", cause.message);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_and_a_secret_that_is_missing_are_told_apart() {
        let waiting = |reason: &str| {
            pod(
                &json!({"containerStatuses": [{"name": "runner", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "words"}}}]}),
            )
        };
        assert_eq!(obstacle(&waiting("ImagePullBackOff")).unwrap().reason, "ImagePull");
        let missing = obstacle(&waiting("CreateContainerConfigError")).unwrap();
        assert_eq!(missing.reason, "ContainerConfiguration");
        assert_eq!(obstacle(&waiting("ContainerCreating")), None);
    }

    #[test]
    fn a_template_that_is_absent_and_a_driver_that_is_gone_are_told_as_claims() {
        for words in [
            "PodResourceClaim gpu: resource claim template \"absent\": resourceclaimtemplate.resource.k8s.io \"absent\" not found",
            "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver gpu.nvidia.com is not registered",
        ] {
            assert_eq!(not_started(words).reason, "ClaimNotAllocated", "{words}");
        }
    }

    #[test]
    fn an_absent_config_map_is_told_from_trouble_of_the_node() {
        let missing =
            not_started("MountVolume.SetUp failed for volume \"prompts\" : configmap \"questions\" not found");
        assert_eq!(missing.reason, "VolumeMissing");
        assert!(missing.message.contains("configmap \"questions\" not found"));
        assert_eq!(not_started("failed to set up sandbox").reason, "ContainerPending");
    }

    #[test]
    fn quota_and_admission_are_told_apart() {
        let quota = pods_refused("pods \"x\" is forbidden: exceeded quota: small, requested: pods=1");
        assert_eq!(quota.reason, "QuotaExceeded");
        let policy = pods_refused("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"");
        assert_eq!(policy.reason, "AdmissionRefused");
    }
}
