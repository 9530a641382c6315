//! What the answers of a cluster mean for experiments, and how to cure what stands in their way. Pure.

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::ResourceExt;
use serde_json::Value;

use super::{
    Finding,
    examine::{Facts, Right, Seen},
    nodes, operators,
};

/// The oldest Kubernetes that has everything that the operator rests on.
const OLDEST_MINOR: u32 = 33;
/// Installs the definitions of this very program.
const DEFINE: &str = "lem crd | kubectl apply --server-side --force-conflicts -f -";

/// All findings, in the order in which one would cure them.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        version(facts),
        definitions(facts),
        operators::finding(facts),
        rights(facts),
        namespace(facts),
    ];
    findings.extend(nodes::findings(facts, operators::use_node_agent(facts)));
    findings.push(monitoring(facts));
    findings
}

fn version(facts: &Facts) -> Finding {
    let number = |text: &str| -> u32 {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    };
    let found = &facts.version.git_version;
    if (number(&facts.version.major), number(&facts.version.minor)) >= (1, OLDEST_MINOR) {
        return Finding::ok("API server", found);
    }
    Finding::fail(
        "API server",
        format!("{found} is older than v1.{OLDEST_MINOR}, whose Jobs the operator rests on"),
        "kubeadm upgrade plan, or the upgrade of your provider",
    )
}

fn definitions(facts: &Facts) -> Finding {
    let check = "definitions";
    let needed = ["efficiencyexperiments", "runners"];
    if !needed
        .iter()
        .all(|name| facts.served.iter().any(|served| served == name))
    {
        return Finding::fail(
            check,
            format!("{}/{} is not served", lem_crds::GROUP, lem_crds::VERSION),
            DEFINE,
        );
    }
    match &facts.definitions {
        Seen::Hidden(what) => Finding::warn(
            check,
            format!(
                "served; whether they are of lem {} is hidden (no right to {what})",
                env!("CARGO_PKG_VERSION")
            ),
            "kubectl lem doctor, as somebody who may",
        ),
        Seen::Yes(found) => {
            let ours = lem_crds::definitions();
            let differing: Vec<String> = ours
                .iter()
                .filter(|ours| {
                    !found
                        .iter()
                        .any(|found| found.name_any() == ours.name_any() && same(found, ours))
                })
                .map(ResourceExt::name_any)
                .collect();
            if differing.is_empty() {
                Finding::ok(
                    check,
                    format!(
                        "{}/{} of lem {}",
                        lem_crds::GROUP,
                        lem_crds::VERSION,
                        env!("CARGO_PKG_VERSION")
                    ),
                )
            } else {
                Finding::warn(
                    check,
                    format!(
                        "of another version of lem than {}: {}",
                        env!("CARGO_PKG_VERSION"),
                        differing.join(", ")
                    ),
                    DEFINE,
                )
            }
        }
    }
}

/// Whether two definitions describe the same objects. The API server writes a whole number without a point.
fn same(found: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> bool {
    let schema = |definition: &CustomResourceDefinition| {
        let version = definition
            .spec
            .versions
            .iter()
            .find(|version| version.name == lem_crds::VERSION);
        version
            .and_then(|version| serde_json::to_value(&version.schema).ok())
            .map(numbers_alike)
    };
    schema(found).is_some() && schema(found) == schema(ours)
}

fn numbers_alike(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.into_iter().map(numbers_alike).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, numbers_alike(value)))
            .collect(),
        other => other,
    }
}

fn rights(facts: &Facts) -> Finding {
    let check = "your rights";
    let namespace = &facts.namespace;
    let missing: Vec<&Right> = facts.rights.iter().filter(|right| !right.allowed).collect();
    if missing.is_empty() {
        return Finding::ok(check, format!("all that is needed in namespace {namespace}"));
    }
    let named: Vec<String> = missing.iter().map(|right| words(right)).collect();
    let found = format!("missing in namespace {namespace}: {}", named.join(", "));
    let fix = format!(
        "kubectl create rolebinding lem-experimenter --clusterrole=edit --user=\"$(kubectl auth whoami -o jsonpath='{{.status.userInfo.username}}')\" -n {namespace}, by an administrator"
    );
    if missing.iter().any(|right| right.verb == "create") {
        Finding::fail(check, found, fix)
    } else {
        Finding::warn(check, found, fix)
    }
}

fn words(right: &Right) -> String {
    let mut resource = right.resource.to_owned();
    if !right.subresource.is_empty() {
        resource = format!("{resource}/{}", right.subresource);
    }
    if right.group.is_empty() {
        format!("{} {resource}", right.verb)
    } else {
        format!("{} {resource}.{}", right.verb, right.group)
    }
}

fn namespace(facts: &Facts) -> Finding {
    let check = "namespace";
    let name = &facts.namespace;
    match &facts.namespace_object {
        Seen::Hidden(what) => Finding::warn(
            check,
            format!("whether {name} exists and what its Pod Security asks is hidden (no right to {what})"),
            format!("kubectl get namespace {name} --show-labels, as somebody who may"),
        ),
        Seen::Yes(None) => Finding::fail(
            check,
            format!("{name} does not exist"),
            format!("kubectl create namespace {name}"),
        ),
        Seen::Yes(Some(found)) if found.metadata.deletion_timestamp.is_some() => Finding::fail(
            check,
            format!("{name} is being deleted"),
            format!("kubectl wait --for=delete namespace/{name}, and create it anew"),
        ),
        Seen::Yes(Some(found)) => Finding::ok(check, format!("{name}, {}", pod_security(found))),
    }
}

/// The runner's pods pass the strictest level, so each is good; a podPatch may need to know.
fn pod_security(namespace: &Namespace) -> String {
    match namespace.labels().get("pod-security.kubernetes.io/enforce") {
        Some(level) => format!("Pod Security {level}, which runner pods pass"),
        None => "no Pod Security level of its own; runner pods pass the strictest".to_owned(),
    }
}

fn monitoring(facts: &Facts) -> Finding {
    let check = "monitoring";
    let needed = ["servicemonitors", "podmonitors", "prometheusrules"];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|name| !facts.monitoring.iter().any(|served| served == name))
        .collect();
    if missing.is_empty() {
        return Finding::ok(check, "ServiceMonitor, PodMonitor and PrometheusRule are served");
    }
    Finding::warn(
        check,
        format!(
            "monitoring.coreos.com/v1 does not serve {}: nothing scrapes lem by itself",
            missing.join(", ")
        ),
        "helm upgrade --install monitoring oci://ghcr.io/prometheus-community/charts/kube-prometheus-stack -n monitoring --create-namespace",
    )
}

#[cfg(test)]
mod tests;
