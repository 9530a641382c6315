//! Whom a cohort's pods act as, and the little that they may do: read, watch and report on their own mailboxes. Pure.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use super::{CohortPlan, name::metadata, runner_name};

/// The pods' identity. The token is mounted by the pod's own wish, not here.
pub(super) fn service_account(plan: &CohortPlan<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(plan, plan.name()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Rules by name: a watch is allowed too where it selects one object by `metadata.name`.
pub(super) fn role(plan: &CohortPlan<'_>) -> Role {
    let name = plan.name();
    let runners: Vec<String> = (0..plan.spec.processes.count)
        .map(|process| runner_name(&name, process))
        .collect();
    let rule = |resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![lem_crds::GROUP.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(runners.clone()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: metadata(plan, name.clone()),
        rules: Some(vec![
            rule("runners", &["get", "watch"]),
            rule("runners/status", &["patch"]),
        ]),
    }
}

pub(super) fn role_binding(plan: &CohortPlan<'_>) -> RoleBinding {
    let name = plan.name();
    RoleBinding {
        metadata: metadata(plan, name.clone()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(plan.owner.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
