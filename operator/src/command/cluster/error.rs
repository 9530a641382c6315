//! What went wrong between the user and the cluster: what, where, and what to do. Pure.

use kube::core::Status;

/// How lem gets into a cluster.
pub(super) const INSTALL: &str = "helm upgrade --install lem-crds charts/lem-crds && helm upgrade --install lem charts/lem -n lem-system --create-namespace";

/// What was asked of the API server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// Verb of its access rules, such as `list`.
    pub(super) verb: &'a str,
    /// Resource with its group, such as `efficiencyexperiments.lem.dev`.
    pub(super) resource: &'a str,
    /// Namespace; none for all of them or a resource without.
    pub(super) namespace: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// A request in a namespace.
    pub(super) fn new(verb: &'a str, resource: &'a str, namespace: &'a str) -> Self {
        Self {
            verb,
            resource,
            namespace: Some(namespace),
        }
    }

    /// A request over all namespaces.
    pub(super) fn everywhere(verb: &'a str, resource: &'a str) -> Self {
        Self {
            verb,
            resource,
            namespace: None,
        }
    }

    fn place(self) -> String {
        self.namespace
            .map_or("in all namespaces".to_owned(), |name| format!("in namespace {name}"))
    }

    fn options(self) -> String {
        self.namespace
            .map_or("-A".to_owned(), |namespace| format!("-n {namespace}"))
    }
}

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    /// There is no usable kubeconfig, or it names something that it does not hold.
    #[error(
        "no cluster to talk to: name a kubeconfig with --kubeconfig or KUBECONFIG, and a context that `kubectl config get-contexts` lists ({0})"
    )]
    // kube's own messages hold their causes already.
    Kubeconfig(String),
    /// No answer.
    #[error("failed to reach the API server {server}: see whether `kubectl version` does")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The credentials are not taken.
    #[error(
        "the API server {server} does not accept these credentials ({message}): log in again, or choose another --context"
    )]
    Unauthenticated {
        /// Its address.
        server: String,
        /// Its words.
        message: String,
    },
    /// The user may not do this.
    #[error(
        "not allowed to {verb} {resource} {place} (see `kubectl auth can-i {verb} {resource} {options}`): ask for the ClusterRole `edit` there, or `view` to look only"
    )]
    Forbidden {
        /// Verb.
        verb: String,
        /// Resource.
        resource: String,
        /// Where.
        place: String,
        /// The same as options of kubectl.
        options: String,
    },
    /// The custom resources are not defined.
    #[error("this cluster does not know {resource} of version {version}: install lem with `{INSTALL}`", version = lem_crds::VERSION)]
    NoDefinition {
        /// Resource.
        resource: String,
    },
    /// No experiment of this name.
    #[error("no experiment {name} in namespace {namespace}{hint}")]
    NoSuchExperiment {
        /// The name.
        name: String,
        /// Where.
        namespace: String,
        /// What there is instead.
        hint: String,
    },
    /// The API server refuses an object.
    #[error("the cluster refuses {object}: {message}")]
    Refused {
        /// Kind and name.
        object: String,
        /// Its words, and the next step.
        message: String,
    },
    /// Another answer.
    #[error("failed to {verb} {resource} {place}: {message}")]
    Answer {
        /// Verb.
        verb: String,
        /// Resource.
        resource: String,
        /// Where.
        place: String,
        /// The API server's words.
        message: String,
    },
    /// An answer that could not be understood.
    #[error("failed to {verb} {resource} {place}")]
    Unreadable {
        /// Verb.
        verb: String,
        /// Resource.
        resource: String,
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ClusterError {
    /// What a failed request means.
    pub(super) fn of(server: &str, request: Request<'_>, error: kube::Error) -> Self {
        let verb = request.verb.to_owned();
        let resource = request.resource.to_owned();
        let place = request.place();
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Self::Unauthenticated {
                    server: server.to_owned(),
                    message: status.message,
                },
                403 if is_denied(&status) => Self::Forbidden {
                    verb,
                    resource,
                    place,
                    options: request.options(),
                },
                404 if !names_an_object(&status) && resource.ends_with(lem_crds::GROUP) => {
                    Self::NoDefinition { resource }
                }
                _ => Self::Answer {
                    verb,
                    resource,
                    place,
                    message: status.message,
                },
            },
            source @ (kube::Error::HyperError(_) | kube::Error::Service(_)) => Self::Unreachable {
                server: server.to_owned(),
                source: Box::new(source),
            },
            source => Self::Unreadable {
                verb,
                resource,
                place,
                source: Box::new(source),
            },
        }
    }
}

/// Refused for lack of rights, and not by a quota or a policy, which answer with the same code.
fn is_denied(status: &Status) -> bool {
    status.message.contains("cannot ")
}

/// A 404 that is about one object; where the resource itself is unknown there is no name.
pub(super) fn names_an_object(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(code: u16, message: &str, name: &str) -> kube::Error {
        let status = json!({"status": "Failure", "code": code, "message": message, "details": {"name": name}});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    fn explained(error: kube::Error) -> String {
        let request = Request::new("list", "efficiencyexperiments.lem.dev", "lab");
        format!(
            "{:#}",
            anyhow::Error::new(ClusterError::of("https://here", request, error))
        )
    }

    #[test]
    fn a_forbidden_request_says_which_verb_is_missing_where() {
        let words = "efficiencyexperiments.lem.dev is forbidden: User \"ann\" cannot list resource";
        let text = explained(answer(403, words, ""));
        assert!(
            text.contains("not allowed to list efficiencyexperiments.lem.dev in namespace lab"),
            "{text}"
        );
        assert!(
            text.contains("kubectl auth can-i list efficiencyexperiments.lem.dev -n lab"),
            "{text}"
        );
    }

    #[test]
    fn a_quota_that_forbids_is_not_taken_for_missing_rights() {
        let text = explained(answer(403, "forbidden: exceeded quota: small", "x"));
        assert!(
            text.contains("exceeded quota: small") && !text.contains("can-i"),
            "{text}"
        );
    }

    #[test]
    fn a_cluster_without_the_definitions_is_told_how_to_install_them() {
        let text = explained(answer(404, "404 page not found", ""));
        assert!(text.contains("helm upgrade --install"), "{text}");
        let text = explained(answer(404, "efficiencyexperiments.lem.dev \"x\" not found", "x"));
        assert!(!text.contains("helm"), "{text}");
    }

    #[test]
    fn expired_credentials_ask_for_a_login() {
        assert!(explained(answer(401, "Unauthorized", "")).contains("log in again"));
    }
}
