//! Counts what the operator asks of the API server, as a layer of its client.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{Method, Request, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tower::{Layer, Service};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

/// Requests by verb and answer, and how long the answers took.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<VerbLabels, Histogram, fn() -> Histogram>,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
        }
    }
}

impl ApiMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "operator_api_requests",
            "Requests to the API server by verb and HTTP status, 0 where no answer came",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "operator_api_request_duration",
            "Time to the answer's head; of a watch to its beginning",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }
}

impl<S> Layer<S> for ApiMetrics {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            metrics: self.clone(),
        }
    }
}

/// A client's service whose requests are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: ApiMetrics,
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let verb = verb(request.method(), request.uri().path(), request.uri().query());
        let begin = Instant::now();
        let answer = self.inner.call(request);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
            let seconds = metrics.seconds.get_or_create(&VerbLabels { verb });
            seconds.observe(begin.elapsed().as_secs_f64());
            answer
        })
    }
}

/// The API server's word for a request, as in its audit log.
fn verb(method: &Method, path: &str, query: Option<&str>) -> &'static str {
    let watches = query.is_some_and(|query| query.split('&').any(|part| part == "watch=true" || part == "watch=1"));
    match *method {
        Method::GET if watches => "watch",
        Method::GET if names_an_object(path) => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if names_an_object(path) => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

/// `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `[namespaces/NAME/]KINDS[/NAME[/SUBRESOURCE]]`.
fn names_an_object(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let skipped = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return true, // such as /version
    };
    let rest: Vec<&str> = parts.skip(skipped).collect();
    match rest.as_slice() {
        ["namespaces", _, _kinds, rest @ ..] => !rest.is_empty(),
        [_kinds, rest @ ..] => !rest.is_empty(),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_called_by_the_verb_that_rbac_grants() {
        let runners = "/apis/lem.dev/v1alpha1/namespaces/a/runners";
        let cases = [
            (Method::GET, runners.to_owned(), None, "list"),
            (
                Method::GET,
                runners.to_owned(),
                Some("watch=true&resourceVersion=0"),
                "watch",
            ),
            (Method::GET, format!("{runners}/one"), None, "get"),
            (
                Method::PATCH,
                format!("{runners}/one/status"),
                Some("force=true"),
                "patch",
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a/serviceaccounts".to_owned(),
                None,
                "create",
            ),
            (Method::GET, "/api/v1/namespaces/a".to_owned(), None, "get"),
            (Method::GET, "/api/v1/pods".to_owned(), None, "list"),
            (
                Method::DELETE,
                "/apis/batch/v1/namespaces/a/jobs/one".to_owned(),
                None,
                "delete",
            ),
            (
                Method::DELETE,
                "/apis/batch/v1/namespaces/a/jobs".to_owned(),
                None,
                "deletecollection",
            ),
            (Method::GET, "/version".to_owned(), None, "get"),
        ];
        for (method, path, query, expected) in cases {
            assert_eq!(verb(&method, &path, query), expected, "{method} {path}");
        }
    }
}
