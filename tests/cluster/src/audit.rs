//! What the API server was asked: its audit log, counted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use serde::Deserialize;

use crate::error::Error;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked, such as `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// API group of the kind; empty for the core group and for other paths.
    pub group: String,
    /// Plural of the kind, with the subresource after a slash; empty for other paths.
    pub resource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Object, or empty.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// Program that asked.
    pub user_agent: String,
    /// When it arrived, RFC 3339.
    pub received: String,
}

impl Request {
    /// Whether it asks for a change.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// Requests by user, verb and resource.
pub type Counts = BTreeMap<(String, String, String), usize>;

/// Counts requests by user, verb and resource.
pub fn count<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Counts {
    let mut counts = Counts::new();
    for request in requests {
        let key = (request.user.clone(), request.verb.clone(), request.resource.clone());
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// The audit log from some moment on.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
    start: u64,
}

impl AuditLog {
    /// All of it.
    pub(crate) fn whole(path: PathBuf) -> Self {
        Self { path, start: 0 }
    }

    /// Only what comes after this call.
    pub fn from_now(&self) -> Result<Self, Error> {
        let length = self.path.metadata().map_err(Error::file("read", &self.path))?.len();
        Ok(Self {
            path: self.path.clone(),
            start: length,
        })
    }

    /// Requests that have been answered so far, in the order of their answers. A watch is answered when it ends; see
    /// [`AuditLog::watches`].
    pub fn requests(&self) -> Result<Vec<Request>, Error> {
        self.read(Stage::Complete)
    }

    /// Watches that have begun so far, whether or not they have ended.
    pub fn watches(&self) -> Result<Vec<Request>, Error> {
        self.read(Stage::Started)
    }

    fn read(&self, wanted: Stage) -> Result<Vec<Request>, Error> {
        let mut file = File::open(&self.path).map_err(Error::file("open", &self.path))?;
        file.seek(SeekFrom::Start(self.start))
            .map_err(Error::file("read", &self.path))?;
        let mut reader = BufReader::new(file);
        let mut requests = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            reader.read_line(&mut line).map_err(Error::file("read", &self.path))?;
            // The end, or a line that is being written.
            if !line.ends_with('\n') {
                return Ok(requests);
            }
            let event: Event = serde_json::from_str(&line).map_err(Error::data("a line of the audit log"))?;
            if event.stage == wanted {
                requests.push(event.into());
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Stage {
    #[serde(rename = "ResponseComplete")]
    Complete,
    /// Of requests that last, which are watches.
    #[serde(rename = "ResponseStarted")]
    Started,
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: Stage,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
    request_received_timestamp: String,
}

#[derive(Debug, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

impl From<Event> for Request {
    fn from(event: Event) -> Self {
        let mut resource = event.object_ref.resource;
        if !event.object_ref.subresource.is_empty() {
            resource.push('/');
            resource.push_str(&event.object_ref.subresource);
        }
        Self {
            user: event.user.username,
            verb: event.verb,
            group: event.object_ref.api_group,
            resource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.code,
            user_agent: event.user_agent,
            received: event.request_received_timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn event(stage: &str, verb: &str) -> String {
        format!(
            r#"{{"stage":"{stage}","verb":"{verb}","user":{{"username":"a"}},"requestReceivedTimestamp":"t",
            "objectRef":{{"resource":"runners","subresource":"status","name":"x"}},"responseStatus":{{"code":200}}}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn each_request_is_counted_once_and_a_half_written_line_not_yet() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", event("ResponseStarted", "watch")).unwrap();
        writeln!(file, "{}", event("ResponseComplete", "patch")).unwrap();
        writeln!(file, "{}", event("ResponseComplete", "patch")).unwrap();
        write!(file, "{}", &event("ResponseComplete", "patch")[..20]).unwrap();
        let log = AuditLog::whole(file.path().to_owned());
        let counts = count(&log.requests().unwrap());
        let key = |verb: &str| ("a".to_owned(), verb.to_owned(), "runners/status".to_owned());
        assert_eq!(counts, Counts::from([(key("patch"), 2)]));
        assert_eq!(count(&log.watches().unwrap()), Counts::from([(key("watch"), 1)]));
    }

    #[test]
    fn what_came_before_is_left_out() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", event("ResponseComplete", "get")).unwrap();
        let log = AuditLog::whole(file.path().to_owned()).from_now().unwrap();
        writeln!(file, "{}", event("ResponseComplete", "delete")).unwrap();
        let requests = log.requests().unwrap();
        assert_eq!(requests.len(), 1);
        assert!(requests[0].is_write());
    }
}
