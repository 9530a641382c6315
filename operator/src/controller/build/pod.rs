//! The pod of a process. Passes Pod Security `restricted`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    DeepMerge,
    api::core::v1::{
        Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, LocalObjectReference,
        NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity,
        PodResourceClaim, PodSecurityContext, PodSpec, ResourceClaim, ResourceRequirements, SeccompProfile,
        SecretKeySelector, SecurityContext, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
    },
};
use lem_crds::{
    agent::{ENERGY_METER, MEASUREMENT_SLOT},
    experiment::{CpuEnergy, ImagePullPolicy, ModelSource, ProcessResourceClaim, RunnerTemplate, SharedGpus},
    quantity::Amount,
    runner::{CONTAINER, GPU_SHARING_VARIABLE, UNKNOWN_GPU_SHARING},
};

use super::{
    super::fleet::devices::{SHARING_STRATEGIES, SHARING_STRATEGY},
    COMPONENT_LABEL, CohortPlan, EXPERIMENT_UID_LABEL, MANAGED_BY, MANAGED_BY_LABEL, PROCESS_LABEL, RUNNER_COMPONENT,
    volume,
};

/// Nobody's user and group in distroless images.
const USER: i64 = 65532;
/// The resource that NVIDIA's device plugin advertises.
pub const GPU: &str = "nvidia.com/gpu";
/// Where a process serves its live metrics.
const METRICS_PORT: i32 = 9464;
/// A node that is silent for so long is given up.
const LOST_NODE_SECONDS: i64 = 30;
/// Names the folder of downloaded models.
const CACHE_VARIABLE: &str = "HF_HOME";
/// SIGTERM to SIGKILL: the last report may take 20 s.
const GRACE_SECONDS: i64 = 30;

pub(super) fn spec(plan: &CohortPlan<'_>) -> PodSpec {
    let template = plan.spec.runner.clone().unwrap_or_default();
    let placement = plan.spec.placement.clone().unwrap_or_default();
    let secrets = template
        .image_pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() });
    let mut pod = PodSpec {
        service_account_name: Some(plan.account()),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        image_pull_secrets: non_empty(secrets.collect()),
        runtime_class_name: placement.runtime_class_name,
        node_selector: (!placement.node_selector.is_empty()).then_some(placement.node_selector),
        tolerations: Some(tolerations(placement.tolerations.into_iter().map(Into::into).collect())),
        resource_claims: non_empty(placement.resource_claims.into_iter().map(of_template).collect()),
        affinity: Some(affinity(plan)),
        topology_spread_constraints: plan.node.is_none().then(|| vec![over_nodes(plan)]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(plan, &template)],
        volumes: Some(volume::volumes(plan)),
        ..PodSpec::default()
    };
    // As server-side apply merges. What the operator relies on cannot be in the patch.
    pod.merge_from(plan.pod_patch.clone());
    keep_to_nodes(&mut pod, plan);
    pod
}

fn of_template(claim: ProcessResourceClaim) -> PodResourceClaim {
    PodResourceClaim {
        name: claim.name,
        resource_claim_template_name: Some(claim.resource_claim_template_name),
        ..PodResourceClaim::default()
    }
}

fn container(plan: &CohortPlan<'_>, template: &RunnerTemplate) -> Container {
    let default = plan.defaults.image(plan.load.gpus_per_process);
    Container {
        name: CONTAINER.to_owned(),
        image: Some(template.image.clone().unwrap_or_else(|| default.to_owned())),
        image_pull_policy: template
            .image_pull_policy
            .map(ImagePullPolicy::name)
            .map(ToOwned::to_owned),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment(plan, template)),
        resources: Some(resources(plan, template)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(volume::mounts(plan)),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: METRICS_PORT,
            ..ContainerPort::default()
        }]),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn environment(plan: &CohortPlan<'_>, template: &RunnerTemplate) -> Vec<EnvVar> {
    let value = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        ..EnvVar::default()
    };
    let field = |name: &str, path: String| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path,
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let own = template
        .env
        .iter()
        .map(|variable| value(&variable.name, variable.value.clone()));
    let mut variables: Vec<EnvVar> = own.collect();
    let deadlines = &plan.spec.protocol.deadlines;
    let idle_bound = (deadlines.load.seconds() + deadlines.ready.seconds()).ceil();
    variables.extend([
        value("LEM_MAILBOX", "kubernetes".to_owned()),
        field("LEM_PROCESS", format!("metadata.labels['{PROCESS_LABEL}']")),
        value("LEM_RUNNER_NAME", format!("{}-$(LEM_PROCESS)", plan.name())),
        field("LEM_RUNNER_NAMESPACE", "metadata.namespace".to_owned()),
        field("LEM_POD_UID", "metadata.uid".to_owned()),
        field("NODE_NAME", "spec.nodeName".to_owned()),
        value("LEM_METRICS_ADDRESS", format!("0.0.0.0:{METRICS_PORT}")),
        value("LEM_IDLE_BOUND_SECONDS", format!("{idle_bound}")),
    ]);
    if plan.load.gpus_per_process > 0
        && let Some(how) = gpu_sharing(plan)
    {
        variables.push(value(GPU_SHARING_VARIABLE, how.to_owned()));
    }
    // A name may be there once: a user's cache is preferred to the scratch space.
    if !template.env.iter().any(|variable| variable.name == CACHE_VARIABLE) {
        variables.push(value(CACHE_VARIABLE, format!("{}/huggingface", volume::SCRATCH)));
    }
    if let ModelSource::HuggingFace(hub) = &plan.load.model.source
        && let Some(secret) = &hub.token_secret_ref
    {
        variables.push(EnvVar {
            name: "HF_TOKEN".to_owned(),
            // Resolved by the kubelet: the operator reads no Secret.
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.name.clone(),
                    key: secret.key.clone(),
                    optional: Some(false),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
    variables
}

fn resources(plan: &CohortPlan<'_>, template: &RunnerTemplate) -> ResourceRequirements {
    let given = template.resources.clone().unwrap_or_default();
    let quantities = |from: BTreeMap<String, Amount>| -> BTreeMap<String, Quantity> {
        from.into_iter()
            .map(|(resource, amount)| (resource, Quantity(amount.to_string())))
            .collect()
    };
    let requests = quantities(given.requests);
    let mut limits = quantities(given.limits);
    let gpus = plan.load.gpus_per_process;
    let placement = plan.spec.placement.iter();
    let claims: Vec<ResourceClaim> = placement
        .flat_map(|placement| &placement.resource_claims)
        .map(|claim| ResourceClaim {
            name: claim.name.clone(),
            request: None,
        })
        .collect();
    if gpus > 0 && claims.is_empty() {
        limits.insert(GPU.to_owned(), Quantity(gpus.to_string()));
    }
    if let Some(resource) = of_node_agent(plan) {
        limits.insert(resource.to_owned(), Quantity("1".to_owned()));
    }
    ResourceRequirements {
        requests: (!requests.is_empty()).then_some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        claims: non_empty(claims),
    }
}

/// What is asked of the node energy agent. A process on CPUs takes the one slot of its node, so that the scheduler itself
/// keeps all others off it; processes with GPUs may share a node, and need the agent only for energy that it reads.
fn of_node_agent(plan: &CohortPlan<'_>) -> Option<&'static str> {
    if !plan.defaults.node_agent {
        return None;
    }
    if plan.load.gpus_per_process == 0 {
        return Some(MEASUREMENT_SLOT);
    }
    matches!(plan.load.energy.cpu, CpuEnergy::Auto | CpuEnergy::Rapl).then_some(ENERGY_METER)
}

/// How the node shares its GPUs, as far as that is known before there is one.
fn gpu_sharing<'a>(plan: &CohortPlan<'a>) -> Option<&'a str> {
    match (plan.node, shared_gpus(plan)) {
        (Some(_), _) => plan.gpu_sharing,
        (None, SharedGpus::Mark) => Some(UNKNOWN_GPU_SHARING),
        (None, SharedGpus::Refuse) => None,
    }
}

fn shared_gpus(plan: &CohortPlan<'_>) -> SharedGpus {
    let placement = plan.spec.placement.as_ref();
    placement.map_or_else(SharedGpus::default, |placement| placement.shared_gpus)
}

fn affinity(plan: &CohortPlan<'_>) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![other_experiments(plan)]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Keeps the pod to its node, or off nodes that share their GPUs, beside what a patch asks of nodes: it has to hold with
/// each of the patch's terms, for any one of them is enough for the scheduler.
fn keep_to_nodes(pod: &mut PodSpec, plan: &CohortPlan<'_>) {
    let on_the_node = plan
        .node
        .map(|node| of_nodes("metadata.name", "In", vec![node.to_owned()]));
    let refuses = plan.load.gpus_per_process > 0 && shared_gpus(plan) == SharedGpus::Refuse;
    // As far as its labels say: a node without the label will do.
    let with_whole_gpus = (plan.node.is_none() && refuses).then(|| {
        of_nodes(
            SHARING_STRATEGY,
            "NotIn",
            SHARING_STRATEGIES.map(ToOwned::to_owned).to_vec(),
        )
    });
    if on_the_node.is_none() && with_whole_gpus.is_none() {
        return;
    }
    let affinity = pod
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    let selector = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        if let Some(field) = &on_the_node {
            term.match_fields.get_or_insert_default().push(field.clone());
        }
        if let Some(expression) = &with_whole_gpus {
            term.match_expressions.get_or_insert_default().push(expression.clone());
        }
    }
}

fn of_nodes(key: &str, operator: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values),
    }
}

/// One measurement per node at a time, in all namespaces: a neighbour's load would be in the counters.
fn other_experiments(plan: &CohortPlan<'_>) -> PodAffinityTerm {
    let requirement = |key: &str, operator: &str, value: &str| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".to_owned(),
        // Empty means all.
        namespace_selector: Some(LabelSelector::default()),
        label_selector: Some(LabelSelector {
            match_expressions: Some(vec![
                requirement(MANAGED_BY_LABEL, "In", MANAGED_BY),
                requirement(COMPONENT_LABEL, "In", RUNNER_COMPONENT),
                requirement(EXPERIMENT_UID_LABEL, "NotIn", &plan.owner.uid),
            ]),
            match_labels: None,
        }),
        ..PodAffinityTerm::default()
    }
}

/// The user's, and a short patience with a node that is lost: Kubernetes' own is five minutes, in which an experiment
/// would hold all its other nodes.
fn tolerations(given: Vec<Toleration>) -> Vec<Toleration> {
    let lost = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let speaks_of = |toleration: &Toleration, taint: &str| toleration.key.as_deref().is_none_or(|key| key == taint);
    let ours = lost
        .iter()
        .filter(|taint| !given.iter().any(|one| speaks_of(one, taint)));
    let ours: Vec<Toleration> = ours
        .map(|taint| Toleration {
            key: Some((*taint).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(LOST_NODE_SECONDS),
            ..Toleration::default()
        })
        .collect();
    given.into_iter().chain(ours).collect()
}

/// Evenly over nodes. Processes on CPUs would share what they measure, so they wait for a node that is busy; those on
/// GPUs have theirs to themselves, and a node whose GPUs others hold for good must not keep them waiting.
fn over_nodes(plan: &CohortPlan<'_>) -> TopologySpreadConstraint {
    let ours = [
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (EXPERIMENT_UID_LABEL.to_owned(), plan.owner.uid.clone()),
    ];
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: if plan.load.gpus_per_process == 0 {
            "DoNotSchedule".to_owned()
        } else {
            "ScheduleAnyway".to_owned()
        },
        node_taints_policy: Some("Honor".to_owned()),
        label_selector: Some(LabelSelector {
            match_labels: Some(ours.into()),
            match_expressions: None,
        }),
        ..TopologySpreadConstraint::default()
    }
}

fn non_empty<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}
