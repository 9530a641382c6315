//! A layer around kube's client in which a script's faults happen.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use kube::client::{Body, DynBody};
use serde_json::json;
use tower::{BoxError, Layer, Service};

use super::fault::{DELAY, Fault, Script};

/// Puts the faults of a script around a service.
#[derive(Debug, Clone)]
pub(crate) struct Injection(pub(crate) Arc<Script>);

impl<S> Layer<S> for Injection {
    type Service = Injected<S>;

    fn layer(&self, inner: S) -> Injected<S> {
        Injected {
            inner,
            script: Arc::clone(&self.0),
        }
    }
}

/// A service with faults.
#[derive(Debug)]
pub(crate) struct Injected<S> {
    inner: S,
    script: Arc<Script>,
}

impl<S> Service<Request<Body>> for Injected<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sort = sort(&request);
        let script = Arc::clone(&self.script);
        let fault = script.begins(&sort);
        match fault {
            Some(Fault::NotSent) => return Box::pin(async { Err(broken()) }),
            Some(Fault::Answered(code)) => return Box::pin(async move { Ok(refusal(code)) }),
            Some(Fault::KilledBefore) => {
                script.deadly.notify_one();
                return Box::pin(std::future::pending());
            }
            Some(Fault::AnswerLost | Fault::Duplicated | Fault::Delayed | Fault::KilledAfter) | None => {}
        }
        let copy = (fault == Some(Fault::Duplicated)).then(|| copy(&request));
        let first = self.inner.call(request);
        let second = copy.map(|copy| self.inner.call(copy));
        Box::pin(async move {
            if fault == Some(Fault::Delayed) {
                tokio::time::sleep(DELAY).await;
            }
            let mut answer = first.await?;
            if let Some(second) = second {
                answer = second.await?;
            }
            match fault {
                Some(Fault::KilledAfter) => {
                    script.deadly.notify_one();
                    std::future::pending().await
                }
                Some(Fault::AnswerLost) if sort.starts_with("WATCH") => Ok(answer.map(|body| Answer::cut(body, 1))),
                Some(Fault::AnswerLost) => Err(broken()),
                _ => {
                    if answer.status().is_success() {
                        script.succeeded(&sort);
                    }
                    Ok(answer.map(Answer::whole))
                }
            }
        })
    }
}

fn broken() -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection was cut by the test").into()
}

/// What the API server says when it refuses.
fn refusal(code: u16) -> Response<Answer> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by the test", "reason": reason, "code": code,
    });
    let body: Box<DynBody> = Box::new(Text(Some(status.to_string().into())));
    let mut response = Response::new(Answer::whole(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn copy(request: &Request<Body>) -> Request<Body> {
    let body = request.body().try_clone().unwrap();
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    copy
}

/// Method, resource and subresource.
fn sort(request: &Request<Body>) -> String {
    let watch = request.uri().query().is_some_and(|query| query.contains("watch="));
    let method = if watch { "WATCH" } else { request.method().as_str() };
    let path: Vec<&str> = request.uri().path().split('/').collect();
    let at = path
        .iter()
        .position(|part| *part == "namespaces")
        .map_or(0, |at| at + 2);
    let resource = path.get(at).copied().unwrap_or_default();
    match path.get(at + 2) {
        Some(subresource) => format!("{method} {resource}/{subresource}"),
        None => format!("{method} {resource}"),
    }
}

/// The body of an answer, whole or cut off.
pub(crate) struct Answer {
    body: Box<DynBody>,
    /// Pieces until the connection breaks.
    pieces: Option<usize>,
}

impl Answer {
    fn whole(body: Box<DynBody>) -> Self {
        Self { body, pieces: None }
    }

    fn cut(body: Box<DynBody>, pieces: usize) -> Self {
        Self {
            body,
            pieces: Some(pieces),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.pieces == Some(0) {
            return Poll::Ready(Some(Err(broken())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(pieces) = &mut self.pieces {
            *pieces -= 1;
        }
        Poll::Ready(frame)
    }
}

/// A body in one piece.
struct Text(Option<Bytes>);

impl http_body::Body for Text {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }
}
