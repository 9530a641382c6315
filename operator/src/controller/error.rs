//! What can go wrong between the operator and the API server, by what to do about it.

/// What an error means for the next try. Bounded: also the label of metrics.
pub fn category(error: &kube::Error) -> &'static str {
    match error {
        // The API server calls its own refusal of an unknown field an internal error.
        kube::Error::Api(status) if status.message.contains("not declared in schema") => "outdated_definition",
        // And so it calls what its store does not take.
        kube::Error::Api(status) if is_too_large(&status.message) => "refused",
        kube::Error::Api(status) => match status.code {
            403 if status.message.contains("being terminated") => "terminating",
            403 => "forbidden",
            404 => "not_found",
            409 => "conflict",
            400 | 413 | 422 => "refused",
            429 => "throttled",
            _ => "api_server",
        },
        kube::Error::SerdeError(_) => "malformed",
        _ => "network",
    }
}

/// In the words of etcd, and of the API server's client of it.
fn is_too_large(message: &str) -> bool {
    message.contains("request is too large") || message.contains("trying to send message larger than max")
}

/// The API server's own words, without the wrapping, and what to do where they do not say it.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if category(error) == "outdated_definition" => format!(
            "{}: the definitions in the cluster are older than this operator; upgrade the chart lem-crds (or apply crds/*.yaml)",
            status.message
        ),
        kube::Error::Api(status) if is_too_large(&status.message) => format!(
            "{}: the object is larger than the store of the cluster takes; measure fewer nodes \
             (spec.placement.nodeSelector) or fewer points in one experiment",
            status.message
        ),
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A step of a reconciliation that failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Events of a Job could not be read.
    #[error("failed to observe")]
    Observe(#[source] kube::Error),
    /// A child could not be written.
    #[error("failed to apply {kind} {name}")]
    Apply {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("failed to update the status")]
    UpdateStatus(#[source] kube::Error),
}

impl ReconcileError {
    /// What the API server or the way to it said.
    pub fn cause(&self) -> &kube::Error {
        match self {
            Self::Observe(error) | Self::UpdateStatus(error) | Self::Apply { source: error, .. } => error,
        }
    }

    /// Bounded category.
    pub fn category(&self) -> &'static str {
        category(self.cause())
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_namespace_that_ends_is_told_from_a_missing_permission() {
        let forbidden =
            |message: &str| kube::Error::Api(Box::new(Status::failure(message, "Forbidden").with_code(403)));
        let ending = "unable to create new content in namespace lab because it is being terminated";
        assert_eq!(category(&forbidden(ending)), "terminating");
        assert_eq!(category(&forbidden("exceeded quota")), "forbidden");
    }

    #[test]
    fn an_object_that_the_store_does_not_take_is_refused_and_not_a_failure_of_the_api_server() {
        let large =
            |message: &str| kube::Error::Api(Box::new(Status::failure(message, "InternalError").with_code(500)));
        for message in [
            "etcdserver: request is too large",
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2200000 vs. 2097152)",
        ] {
            assert_eq!(category(&large(message)), "refused", "{message}");
            assert!(words(&large(message)).contains("spec.placement.nodeSelector"));
        }
        assert_eq!(category(&large("etcdserver: leader changed")), "api_server");
    }

    #[test]
    fn an_operator_that_is_newer_than_the_definitions_says_so() {
        let message = "failed to create typed patch object: .status.progress.verdicts: field not declared in schema";
        let error = kube::Error::Api(Box::new(Status::failure(message, "InternalError").with_code(500)));
        assert_eq!(category(&error), "outdated_definition");
        assert!(
            words(&error).contains("upgrade the chart lem-crds"),
            "{}",
            words(&error)
        );
    }
}
