//! Whether an operator runs, leads, and looks at the user's namespace. Pure.

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Container};
use kube::ResourceExt;

use super::{
    Finding,
    examine::{Facts, Operator, Seen},
};
use crate::command::cluster::error::INSTALL;

/// What the operators of a cluster come to.
pub(super) fn finding(facts: &Facts) -> Finding {
    let check = "operator";
    let operators = match &facts.operators {
        Seen::Yes(operators) => operators,
        Seen::Hidden(what) => {
            return Finding::warn(
                check,
                format!("whether one runs is hidden (no right to {what})"),
                "kubectl lem doctor, as somebody who may",
            );
        }
    };
    if operators.is_empty() {
        return Finding::fail(check, "there is none", INSTALL);
    }
    let looking: Vec<&Operator> = operators
        .iter()
        .filter(|operator| {
            let only = setting(&operator.deployment, "LEM_WATCH_NAMESPACE");
            only.is_none_or(|only| only == facts.namespace)
        })
        .collect();
    let Some(operator) = looking.first() else {
        return Finding::fail(
            check,
            format!(
                "none looks at namespace {}: each has a namespace of its own",
                facts.namespace
            ),
            format!(
                "helm install lem charts/lem -n {} --set watchNamespace={}",
                facts.namespace, facts.namespace
            ),
        );
    };
    if looking.len() > 1 {
        let names: Vec<String> = looking.iter().map(|operator| place(&operator.deployment)).collect();
        return Finding::fail(
            check,
            format!("several look at namespace {}: {}", facts.namespace, names.join(", ")),
            "helm uninstall, of all but one",
        );
    }
    one_operator(operator, facts.now)
}

fn one_operator(operator: &Operator, now: Timestamp) -> Finding {
    let check = "operator";
    let deployment = &operator.deployment;
    let (name, namespace) = (deployment.name_any(), deployment.namespace().unwrap_or_default());
    let place = place(deployment);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0);
    let look = format!("kubectl describe deployment {name} -n {namespace}");
    let replicas = format!("{place}: {ready} of {wanted} replicas ready");
    if ready == 0 {
        return Finding::fail(check, replicas, look);
    }
    let leading = match &operator.lease {
        Seen::Hidden(what) => {
            return Finding::warn(
                check,
                format!("{replicas}; whether one leads is hidden (no right to {what})"),
                "kubectl lem doctor, as somebody who may",
            );
        }
        Seen::Yes(lease) => lease.as_ref().and_then(|lease| lease.spec.clone()),
    };
    let holder = leading
        .as_ref()
        .and_then(|lease| lease.holder_identity.clone())
        .filter(|holder| !holder.is_empty());
    let logs = format!("kubectl logs deployment/{name} -n {namespace}");
    let (Some(lease), Some(holder)) = (leading, holder) else {
        return Finding::fail(check, format!("{replicas}, none leads"), logs);
    };
    let renewed = lease
        .renew_time
        .map_or(i64::MAX, |time| now.duration_since(time.0).as_secs());
    if renewed > i64::from(lease.lease_duration_seconds.unwrap_or(15)) {
        return Finding::fail(
            check,
            format!("{replicas}, none leads: the Lease of {holder} has run out {renewed} s after its renewal"),
            logs,
        );
    }
    if ready < wanted {
        return Finding::warn(check, format!("{replicas}, {holder} leads"), look);
    }
    let version = env!("CARGO_PKG_VERSION");
    match image_version(deployment).filter(|image| image != version) {
        Some(other) => Finding::warn(
            check,
            format!("{replicas}, {holder} leads; it is lem {other}, this is lem {version}"),
            INSTALL,
        ),
        None => Finding::ok(check, format!("{replicas}, {holder} leads")),
    }
}

fn place(deployment: &Deployment) -> String {
    format!(
        "{}/{}",
        deployment.namespace().unwrap_or_default(),
        deployment.name_any()
    )
}

fn containers(deployment: &Deployment) -> impl Iterator<Item = &Container> {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.into_iter().flat_map(|pod| &pod.containers)
}

/// The version in the tag of the operator's image, if it is one.
fn image_version(deployment: &Deployment) -> Option<String> {
    let image = containers(deployment)
        .find(|container| container.name == "operator")?
        .image
        .clone()?;
    let (_, tag) = image.rsplit_once('/').unwrap_or(("", &image)).1.split_once(':')?;
    let tag = tag.split('@').next()?.trim_start_matches('v');
    tag.starts_with(|first: char| first.is_ascii_digit())
        .then(|| tag.to_owned())
}

/// The value of a variable of an operator.
pub(super) fn setting(deployment: &Deployment, name: &str) -> Option<String> {
    containers(deployment)
        .filter_map(|container| container.env.as_ref())
        .flatten()
        .find(|variable| variable.name == name)
        .and_then(|variable| variable.value.clone())
        .filter(|value| !value.is_empty())
}

/// Whether an operator asks for what node agents offer, which nodes without one do not have.
pub(super) fn use_node_agent(facts: &Facts) -> bool {
    match &facts.operators {
        Seen::Yes(operators) => operators
            .iter()
            .any(|operator| setting(&operator.deployment, "LEM_NODE_AGENT").as_deref() == Some("true")),
        Seen::Hidden(_) => false,
    }
}
