use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::{Doing, Error};

/// Requests that the apiserver answered, oldest first; each filter leaves fewer of them.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    events: Vec<Arc<Event>>,
}

/// One stage of one request, as the apiserver logged it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Equal for the stages of one request.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `ResponseComplete`, or `ResponseStarted` for a watch that goes on.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who asked.
    pub user: User,
    /// The client program.
    #[serde(default)]
    pub user_agent: String,
    /// Absent for paths that are no resource, such as `/readyz`.
    pub object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    /// The body sent, for writes.
    pub request_object: Option<Value>,
    /// The body answered, for writes.
    pub response_object: Option<Value>,
    /// When this stage was reached, RFC 3339.
    pub stage_timestamp: String,
}

/// Who sent a request.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The certificate's common name, or `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectRef {
    /// Plural, lower case.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty when the request named none, as a create does.
    pub name: String,
    /// Empty for the core group.
    pub api_group: String,
    /// Such as `status` or `scale`.
    pub subresource: String,
}

#[derive(Clone, Debug, Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// Users of Kubernetes' and the harness' own programs; the operator and tests have other names.
const SYSTEM: [&str; 6] = [
    "system:apiserver",
    "system:kube-",
    "system:serviceaccount:kube-system:",
    "system:node",
    "kwok",
    "istiod",
];

impl Event {
    /// The HTTP status of the answer.
    pub fn code(&self) -> u16 {
        self.response_status.as_ref().and_then(|status| status.code).unwrap_or(0)
    }

    /// True when it was done as asked.
    pub fn is_accepted(&self) -> bool {
        (200..300).contains(&self.code())
    }

    /// True for every verb that may change an object.
    pub fn is_write(&self) -> bool {
        WRITES.contains(&self.verb.as_str())
    }

    /// True when nothing was to be stored.
    pub fn is_dry_run(&self) -> bool {
        self.request_uri.contains("dryRun=")
    }

    /// True for what Kubernetes and the harness do on their own.
    pub fn is_by_system(&self) -> bool {
        SYSTEM.iter().any(|prefix| self.user.username.starts_with(prefix))
    }

    /// `NAMESPACE/NAME`; a create is named by its answer.
    pub fn object(&self) -> String {
        let Some(object) = &self.object_ref else { return String::new() };
        let answered = self.response_object.as_ref().and_then(|it| it["metadata"]["name"].as_str());
        let name = if object.name.is_empty() { answered.unwrap_or("") } else { &object.name };
        format!("{}/{name}", object.namespace)
    }
}

/// Reads a log as it grows: each line once, however often tests ask.
pub(crate) struct AuditLog {
    path: PathBuf,
    /// Bytes read so far, all of whole lines.
    end: u64,
    /// With the byte at which its line begins.
    events: Vec<(u64, Arc<Event>)>,
}

impl AuditLog {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, end: 0, events: vec![] }
    }

    /// The events whose lines begin at this byte or later: a line that was half written at the
    /// mark belongs to what was before.
    pub(crate) fn since(&mut self, mark: u64) -> Result<Audit, Error> {
        self.read_on()?;
        let from = self.events.partition_point(|(begin, _)| *begin < mark);
        Ok(Audit { events: self.events[from..].iter().map(|(_, event)| event.clone()).collect() })
    }

    fn read_on(&mut self) -> Result<(), Error> {
        let reading = "reading the audit log";
        let mut file = File::open(&self.path).doing(reading)?;
        file.seek(SeekFrom::Start(self.end)).doing(reading)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).doing(reading)?;
        // A last line without its end is still being written.
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|it| it.ends_with(b"\n")) {
            let event = serde_json::from_slice(line).doing(reading)?;
            self.events.push((self.end, Arc::new(event)));
            self.end += line.len() as u64;
        }
        Ok(())
    }
}

impl Audit {
    #[cfg(test)]
    pub(crate) fn made_of(events: Vec<Event>) -> Self {
        Self { events: events.into_iter().map(Arc::new).collect() }
    }

    /// The events left.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> + Clone {
        self.events.iter().map(|event| &**event)
    }

    /// Keeps those for which `keep` holds.
    #[must_use]
    pub fn filter(mut self, mut keep: impl FnMut(&Event) -> bool) -> Self {
        self.events.retain(|event| keep(event));
        self
    }

    /// Keeps writes, once each, dry runs left out.
    #[must_use]
    pub fn writes(self) -> Self {
        self.filter(|event| {
            event.is_write() && !event.is_dry_run() && event.stage == "ResponseComplete"
        })
    }

    /// Keeps what was asked for `dryRun`.
    #[must_use]
    pub fn dry_runs(self) -> Self {
        self.filter(|event| event.is_dry_run() && event.stage == "ResponseComplete")
    }

    /// Keeps reads, watches that are open included.
    #[must_use]
    pub fn reads(self) -> Self {
        let mut seen = BTreeSet::new();
        self.filter(|event| !event.is_write() && seen.insert(event.audit_id.clone()))
    }

    /// Keeps requests answered with success.
    #[must_use]
    pub fn accepted(self) -> Self {
        self.filter(Event::is_accepted)
    }

    /// Keeps requests by the user of this name.
    #[must_use]
    pub fn by(self, user: &str) -> Self {
        self.filter(|event| event.user.username == user)
    }

    /// Keeps requests by programs whose user agent starts so.
    #[must_use]
    pub fn by_agent(self, prefix: &str) -> Self {
        self.filter(|event| event.user_agent.starts_with(prefix))
    }

    /// Leaves out what Kubernetes and the harness do on their own.
    #[must_use]
    pub fn not_by_system(self) -> Self {
        self.filter(|event| !event.is_by_system())
    }

    /// Keeps requests about one resource, by its plural: `peerauthentications`.
    #[must_use]
    pub fn of(self, resource: &str) -> Self {
        self.filter(|event| {
            event.object_ref.as_ref().is_some_and(|object| object.resource == resource)
        })
    }

    /// Keeps requests about objects of one namespace.
    #[must_use]
    pub fn within(self, namespace: &str) -> Self {
        self.filter(|event| {
            event.object_ref.as_ref().is_some_and(|object| object.namespace == namespace)
        })
    }

    /// Keeps what was stored of PeerAuthentications, and tells each as `NAMESPACE/NAME MODE`.
    pub fn modes_written(self) -> Vec<String> {
        let stored = self.of("peerauthentications").writes().accepted();
        let mode = |event: &Event| {
            let object = event.response_object.as_ref();
            let mode = object.and_then(|it| it["spec"]["mtls"]["mode"].as_str()).unwrap_or("none");
            format!("{} {mode}", event.object())
        };
        stored.events().map(mode).collect()
    }

    /// How many are left.
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// One line each, for a test's message.
    pub fn summary(&self) -> String {
        let line = |event: &Event| {
            let resource = event.object_ref.as_ref().map_or("", |object| object.resource.as_str());
            let (who, verb, code) = (&event.user.username, &event.verb, event.code());
            format!("{} {who} {verb} {resource} {} {code}\n", event.stage_timestamp, event.object())
        };
        self.events().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"auditID":"1","stage":"ResponseComplete","verb":"create","requestURI":"/apis/security.istio.io/v1/namespaces/pay/peerauthentications?fieldManager=x","user":{"username":"meshrollout-operator"},"userAgent":"meshrollout/0.1","objectRef":{"resource":"peerauthentications","namespace":"pay","apiGroup":"security.istio.io"},"responseStatus":{"metadata":{},"code":201},"responseObject":{"metadata":{"name":"default"}},"stageTimestamp":"2026-01-01T00:00:00Z"}
{"auditID":"2","stage":"ResponseStarted","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"meshrollout-operator"},"objectRef":{"resource":"pods"},"stageTimestamp":"2026-01-01T00:00:00Z"}
{"auditID":"2","stage":"ResponseComplete","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"meshrollout-operator"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200},"stageTimestamp":"2026-01-01T00:00:01Z"}
{"auditID":"3","stage":"ResponseComplete","verb":"patch","requestURI":"/x?dryRun=All","user":{"username":"kwok"},"stageTimestamp":"2026-01-01T00:00:01Z"}
{"auditID":"4","stage":"Resp"#;

    fn audit() -> Audit {
        let log = std::env::temp_dir().join(format!("audit-{}.log", std::process::id()));
        std::fs::write(&log, LOG).unwrap();
        let audit = AuditLog::at(log.clone()).since(0).unwrap();
        std::fs::remove_file(log).unwrap();
        audit
    }

    #[test]
    fn a_mark_within_a_line_that_was_being_written_begins_after_it() {
        let log = std::env::temp_dir().join(format!("audit-mark-{}.log", std::process::id()));
        std::fs::write(&log, LOG).unwrap();
        let first = LOG.find('\n').unwrap() as u64 + 1;
        let mut audit = AuditLog::at(log.clone());
        for (mark, count) in [(0, 4), (1, 3), (first - 1, 3), (first, 3), (first + 1, 2)] {
            assert_eq!(audit.since(mark).unwrap().count(), count, "{mark}");
        }
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_line_is_read_when_its_end_is_there_and_then_once() {
        let log = std::env::temp_dir().join(format!("audit-grows-{}.log", std::process::id()));
        let rest = r#"onseComplete","verb":"get","requestURI":"/x","user":{},"stageTimestamp":""}"#;
        let mut audit = AuditLog::at(log.clone());
        for (text, count) in [(LOG.to_owned(), 4), (format!("{LOG}{rest}\n"), 5)] {
            std::fs::write(&log, text).unwrap();
            assert_eq!(audit.since(0).unwrap().count(), count);
            assert_eq!(audit.since(0).unwrap().count(), count);
        }
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn writes_are_told_from_reads_and_dry_runs_and_the_unfinished_line() {
        let audit = audit();
        assert_eq!(audit.count(), 4);
        assert_eq!(audit.clone().reads().count(), 1);
        assert_eq!(audit.clone().dry_runs().not_by_system().count(), 0);
        let writes = audit.writes().of("peerauthentications").by("meshrollout-operator").accepted();
        assert_eq!(writes.count(), 1);
        assert_eq!(writes.events().next().unwrap().object(), "pay/default");
    }
}
