//! From a decision to the objects of one cohort, each a pure function of experiment and plan: no client, no clock.

mod access;
mod job;
mod mailbox;
mod name;
mod pod;
mod volume;

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::PodSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;
use lem_crds::{EfficiencyExperimentSpec, Runner, plan::LoadPlan, runner::Assignment};

pub use self::{
    access::Access,
    job::QUEUE_LABEL,
    name::{
        COHORT_LABEL, COMPONENT_LABEL, EXPERIMENT_LABEL, EXPERIMENT_UID_LABEL, INCARNATION_LABEL, MANAGED_BY,
        MANAGED_BY_LABEL, PROCESS_LABEL, RUNNER_COMPONENT, cohort_name, fleet_account_name, job_name, node_cohort_name,
        runner_name,
    },
    pod::GPU,
};

/// The experiment that owns what is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: an experiment of the same name is another one.
    pub uid: String,
}

impl Owner {
    fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{}/{}", lem_crds::GROUP, lem_crds::VERSION),
            kind: "EfficiencyExperiment".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// What the operator brings to every pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Image of the runner where the experiment names none.
    pub runner_image: String,
    /// The same for processes with GPUs, if it is another one.
    pub runner_image_gpu: Option<String>,
    /// Whether nodes have the node energy agent, so that pods ask for its resources.
    pub node_agent: bool,
}

impl Defaults {
    /// Image of a process with so many GPUs.
    fn image(&self, gpus: u32) -> &str {
        let with_gpus = self.runner_image_gpu.as_deref().filter(|_| gpus > 0);
        with_gpus.unwrap_or(&self.runner_image)
    }
}

/// Everything that the objects of one incarnation of a cohort follow from.
#[derive(Debug, Clone, Copy)]
pub struct CohortPlan<'a> {
    /// Who owns them.
    pub owner: &'a Owner,
    /// The experiment.
    pub spec: &'a EfficiencyExperimentSpec,
    /// What the experiment wants merged into the pods.
    pub pod_patch: &'a PodSpec,
    /// The operator's part.
    pub defaults: &'a Defaults,
    /// Key of the cohort among those of the experiment.
    pub key: &'a str,
    /// Which set of processes this is, from 0.
    pub incarnation: u32,
    /// The one node that it measures, where each node is measured by itself.
    pub node: Option<&'a str>,
    /// How that node offers one GPU to several pods, where it does.
    pub gpu_sharing: Option<&'a str>,
    /// What each process loads.
    pub load: &'a LoadPlan,
    /// Trials that may still come, retries and extensions included.
    pub trials: u32,
    /// The first trial; with it the runner goes from loading straight to its warm-up.
    pub assignment: &'a Assignment,
    /// Those after it, where a process goes on by itself.
    pub upcoming: &'a [Assignment],
}

impl CohortPlan<'_> {
    /// Name of the Job and of everything else that the cohort has one of.
    pub fn name(&self) -> String {
        job_name(self.owner, self.key, self.node, self.incarnation)
    }

    /// Whom its pods act as: a fleet of a thousand nodes has one account and not a thousand.
    fn account(&self) -> String {
        match self.node {
            None => self.name(),
            Some(_) => fleet_account_name(self.owner),
        }
    }
}

/// The objects of one cohort, in the order in which they are applied: a pod finds everything that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct CohortObjects {
    /// Whom the pods act as, unless they share the account of their fleet.
    pub access: Option<Access>,
    /// One mailbox per process.
    pub runners: Vec<Runner>,
    /// The processes.
    pub job: Job,
}

/// Builds a cohort.
pub fn cohort(plan: &CohortPlan<'_>) -> CohortObjects {
    let runners = mailbox::runners(plan);
    let own_account = || {
        let names: Vec<String> = runners.iter().map(ResourceExt::name_any).collect();
        access::access(&name::metadata(plan, plan.name()), &names)
    };
    CohortObjects {
        access: plan.node.is_none().then(own_account),
        job: job::job(plan),
        runners,
    }
}

/// Builds the account that all pods of a fleet share, with rights on these mailboxes.
pub fn fleet_access(owner: &Owner, runners: &[String]) -> Access {
    access::access(&name::fleet_metadata(owner), runners)
}

#[cfg(test)]
mod tests;
