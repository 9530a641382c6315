//! Whom pods act as, and the little that they may do: read, watch and report on their own mailboxes. Pure.

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// An account of pods, and its rights.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// Whom the pods act as. The token is mounted by the pod's own wish, not here.
    pub service_account: ServiceAccount,
    /// What they may do: read, watch and report on their own mailboxes.
    pub role: Role,
    /// Joins the two.
    pub role_binding: RoleBinding,
}

/// An account that may use these mailboxes. All three objects have the given metadata.
pub(super) fn access(metadata: &ObjectMeta, runners: &[String]) -> Access {
    let name = metadata.name.clone().unwrap_or_default();
    Access {
        service_account: ServiceAccount {
            metadata: metadata.clone(),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        role: role(metadata, runners),
        role_binding: RoleBinding {
            metadata: metadata.clone(),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name,
                namespace: metadata.namespace.clone(),
                ..Subject::default()
            }]),
        },
    }
}

/// Rules by name: a watch is allowed too where it selects one object by `metadata.name`.
fn role(metadata: &ObjectMeta, runners: &[String]) -> Role {
    let rule = |resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![lem_crds::GROUP.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(runners.to_vec()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: metadata.clone(),
        rules: Some(vec![
            rule("runners", &["get", "watch"]),
            rule("runners/status", &["patch"]),
        ]),
    }
}
