//! What a cluster says about itself. Client. What the user may not see is an answer too; only a cluster that does not
//! answer is an error.

use http::{Method, Request as HttpRequest, header};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
    client::Body,
};

use super::super::{
    connection::Connection,
    error::{ClusterError, Request},
};

/// An answer, or that the user may not have it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen<T> {
    /// The answer.
    Yes(T),
    /// What the user would have to be allowed.
    Hidden(String),
}

/// A right that work with experiments takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Right {
    pub(super) verb: &'static str,
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
    pub(super) allowed: bool,
}

/// A Deployment of the operator with the Lease by which its replicas choose the one that writes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operator {
    pub(super) deployment: Deployment,
    pub(super) lease: Seen<Option<Lease>>,
}

/// Everything that was asked.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) version: Info,
    /// The API server's time.
    pub(super) now: Timestamp,
    pub(super) namespace: String,
    /// Definitions, where the user may read them.
    pub(super) definitions: Seen<Vec<CustomResourceDefinition>>,
    /// Resources of our version that the API server serves, which everybody may see.
    pub(super) served: Vec<String>,
    pub(super) operators: Seen<Vec<Operator>>,
    pub(super) rights: Vec<Right>,
    pub(super) nodes: Seen<Vec<Node>>,
    pub(super) namespace_object: Seen<Option<Namespace>>,
    /// Resources of the Prometheus operator that the API server serves.
    pub(super) monitoring: Vec<String>,
}

/// What `lem cluster` does for its user. The first are needed to run an experiment at all.
const RIGHTS: [(&str, &str, &str, &str); 8] = [
    ("create", lem_crds::GROUP, "efficiencyexperiments", ""),
    ("patch", lem_crds::GROUP, "efficiencyexperiments", ""),
    ("get", lem_crds::GROUP, "efficiencyexperiments", ""),
    ("list", lem_crds::GROUP, "efficiencyexperiments", ""),
    ("watch", lem_crds::GROUP, "efficiencyexperiments", ""),
    ("list", lem_crds::GROUP, "runners", ""),
    ("list", "", "pods", ""),
    ("get", "", "pods", "log"),
];

/// Labels of the operator's Deployment: those of the chart, and those of `examples/cluster/operator.yaml`.
const OPERATOR_LABELS: [&str; 2] = [
    "app.kubernetes.io/part-of=lem,app.kubernetes.io/component=operator",
    "app.kubernetes.io/name=lem-operator",
];

/// Asks everything.
///
/// # Errors
/// The API server does not answer, or not to this user.
pub(super) async fn examine(connection: &Connection) -> Result<Facts, ClusterError> {
    let client = &connection.client;
    let explain = |resource: &'static str| move |error| connection.explain(Request::everywhere("get", resource), error);
    let version = client.apiserver_version().await.map_err(explain("version"))?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let mut known = Seen::Yes(Vec::new());
    for name in [
        "efficiencyexperiments.lem.dev",
        "efficiencyschedules.lem.dev",
        "runners.lem.dev",
    ] {
        let found = seen(definitions.get_opt(name).await, "get customresourcedefinitions")
            .map_err(explain("customresourcedefinitions"))?;
        match (&mut known, found) {
            (Seen::Yes(known), Seen::Yes(found)) => known.extend(found),
            (known, Seen::Hidden(what)) => *known = Seen::Hidden(what),
            (Seen::Hidden(_), Seen::Yes(_)) => {}
        }
    }
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let namespaces = Api::<Namespace>::all(client.clone());
    Ok(Facts {
        version,
        now: server_time(connection).await?,
        namespace: connection.namespace.clone(),
        definitions: known,
        served: served(connection, &format!("{}/{}", lem_crds::GROUP, lem_crds::VERSION)).await?,
        operators: operators(connection).await?,
        rights: rights(connection).await?,
        nodes: seen(nodes.map(|list| list.items), "list nodes").map_err(explain("nodes"))?,
        namespace_object: seen(namespaces.get_opt(&connection.namespace).await, "get namespaces")
            .map_err(explain("namespaces"))?,
        monitoring: served(connection, "monitoring.coreos.com/v1").await?,
    })
}

/// An answer; a refusal is one too.
fn seen<T>(answer: Result<T, kube::Error>, what: &str) -> Result<Seen<T>, kube::Error> {
    match answer {
        Ok(found) => Ok(Seen::Yes(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Seen::Hidden(what.to_owned())),
        Err(error) => Err(error),
    }
}

/// The API server's clock, by which Leases are renewed: the user's own may differ.
async fn server_time(connection: &Connection) -> Result<Timestamp, ClusterError> {
    let asked = HttpRequest::builder()
        .method(Method::GET)
        .uri("/version")
        .body(Body::empty());
    let explain = |error| connection.explain(Request::everywhere("get", "version"), error);
    let asked = asked.map_err(|error| explain(kube::Error::HttpError(error)))?;
    let answer = connection.client.send(asked).await.map_err(explain)?;
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let parsed = date.and_then(|date| rfc2822::parse(date).ok());
    // A proxy that leaves the date out leaves us our own.
    Ok(parsed.map_or_else(Timestamp::now, |time| time.timestamp()))
}

/// Resources of a group's version; none where the group is not there.
async fn served(connection: &Connection, api_version: &str) -> Result<Vec<String>, ClusterError> {
    match connection.client.list_api_group_resources(api_version).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(connection.explain(Request::everywhere("discover", api_version), error)),
    }
}

async fn rights(connection: &Connection) -> Result<Vec<Right>, ClusterError> {
    let reviews = Api::<SelfSubjectAccessReview>::all(connection.client.clone());
    let mut rights = Vec::new();
    for (verb, group, resource, subresource) in RIGHTS {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(connection.namespace.clone()),
                    verb: Some(verb.to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: (!subresource.is_empty()).then(|| subresource.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| {
            connection.explain(
                Request::everywhere("create", "selfsubjectaccessreviews.authorization.k8s.io"),
                error,
            )
        })?;
        rights.push(Right {
            verb,
            group,
            resource,
            subresource,
            allowed: answer.status.is_some_and(|status| status.allowed),
        });
    }
    Ok(rights)
}

async fn operators(connection: &Connection) -> Result<Seen<Vec<Operator>>, ClusterError> {
    let deployments = Api::<Deployment>::all(connection.client.clone());
    let mut operators: Vec<Operator> = Vec::new();
    for labels in OPERATOR_LABELS {
        let found = deployments.list(&ListParams::default().labels(labels)).await;
        let found = seen(found, "list deployments.apps")
            .map_err(|error| connection.explain(Request::everywhere("list", "deployments.apps"), error))?;
        let found = match found {
            Seen::Yes(found) => found.items,
            Seen::Hidden(what) => return Ok(Seen::Hidden(what)),
        };
        for deployment in found {
            if operators.iter().any(|known| known.deployment.uid() == deployment.uid()) {
                continue;
            }
            let namespace = deployment.namespace().unwrap_or_default();
            let name = super::operators::setting(&deployment, "LEM_LEASE_NAME").unwrap_or("lem-operator".to_owned());
            let lease = connection.api::<Lease>(&namespace).get_opt(&name).await;
            let lease = seen(lease, "get leases.coordination.k8s.io").map_err(|error| {
                connection.explain(Request::new("get", "leases.coordination.k8s.io", &namespace), error)
            })?;
            operators.push(Operator { deployment, lease });
        }
    }
    Ok(Seen::Yes(operators))
}
