//! Whether the proxies have taken what was written.
//!
//! Each control plane tells, of the proxies connected to it, when their listeners were last sent
//! and what came of it (`/debug/syncz`, `Syncz` in istio's `pilot/pkg/xds/debug.go`). A
//! PeerAuthentication changes the listeners of its whole namespace, so they are sent to every
//! sidecar there once it was written.

use crate::finding::{Code, Finding};
use crate::ident::PodRef;
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Pod};
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// The last sending of one proxy's listeners.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listeners {
    /// When, by the control plane's clock.
    pub sent: Timestamp,
    /// What came of it.
    pub answer: Answer,
}

/// What a proxy answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// In force.
    Acknowledged,
    /// Nothing yet.
    Awaited,
    /// Refused, with these words: what was in force before still is.
    Rejected(String),
}

/// A sidecar that has not taken what was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Late {
    /// Its pod.
    pub pod: PodRef,
    /// What is wrong with it.
    pub why: Why,
}

/// Why a sidecar has not taken what was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Why {
    /// No control plane knows it.
    NotConnected,
    /// Nothing was sent since it was written.
    NotSent,
    /// Sent then, and not answered.
    NotAnswered(Timestamp),
    /// Refused, with these words.
    Rejected(String),
}

/// The Ready sidecars of a namespace that have not taken what was written there at `since`.
///
/// What was sent in the very second of the write may not hold it yet, for a policy's note of its
/// time is that coarse; the drain that follows is longer by far.
pub fn late(snapshot: &Snapshot, facts: &NamespaceFacts, since: Timestamp) -> Reading<Vec<Late>> {
    each(snapshot, facts, |listeners| match listeners {
        None => Some(Why::NotConnected),
        Some(Listeners { answer: Answer::Rejected(words), .. }) => {
            Some(Why::Rejected(words.clone()))
        }
        Some(Listeners { sent, .. }) if *sent < since => Some(Why::NotSent),
        Some(Listeners { sent, answer: Answer::Awaited }) => Some(Why::NotAnswered(*sent)),
        Some(Listeners { answer: Answer::Acknowledged, .. }) => None,
    })
}

/// The Ready sidecars of a namespace that a write would not reach: not connected, or with what was
/// sent last refused, or not answered for longer than `limit`.
pub fn beyond_reach(
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    limit: SignedDuration,
) -> Reading<Vec<Late>> {
    each(snapshot, facts, |listeners| match listeners {
        None => Some(Why::NotConnected),
        Some(Listeners { answer: Answer::Rejected(words), .. }) => {
            Some(Why::Rejected(words.clone()))
        }
        Some(Listeners { sent, answer: Answer::Awaited }) => {
            (snapshot.at.duration_since(*sent) > limit).then_some(Why::NotAnswered(*sent))
        }
        Some(Listeners { answer: Answer::Acknowledged, .. }) => None,
    })
}

fn each(
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    why: impl Fn(Option<&Listeners>) -> Option<Why>,
) -> Reading<Vec<Late>> {
    let listeners = match &snapshot.telemetry.listeners {
        Reading::Known(listeners) => listeners,
        Reading::Unknown(cause) => return Reading::Unknown(cause.clone()),
    };
    let pods = facts.servers().flat_map(|workload| {
        let ready = workload.meshed().filter(|pod| Pod::is_ready(pod));
        ready.map(move |pod| workload.pod_ref(pod))
    });
    let late = pods.filter_map(|pod| Some(Late { why: why(listeners.get(&pod))?, pod }));
    Reading::Known(late.collect())
}

/// One finding for all of them; `None` where there is none.
pub(crate) fn finding(facts: &NamespaceFacts, late: &[Late], what: &str) -> Option<Finding> {
    let Late { pod, why } = late.first()?;
    let (count, name) = (late.len(), &facts.name);
    let plural = if count == 1 { "sidecar" } else { "sidecars" };
    Some(
        Finding::new(
            Code::ProxyNotSynced,
            crate::finding::Subject::namespace(name),
            format!("{what} by {count} {plural} of {name}: {pod} {why}"),
        )
        .remedy(format!(
            "istioctl proxy-status {0}.{1}; kubectl logs -n {1} {0} -c istio-proxy",
            pod.name, pod.namespace
        )),
    )
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("is connected to no control plane"),
            Self::NotSent => f.write_str("was not sent it"),
            Self::NotAnswered(sent) => {
                write!(
                    f,
                    "has not answered what was sent at {}",
                    crate::progress::whole_second(*sent)
                )
            }
            Self::Rejected(words) => write!(f, "rejects it: {words}"),
        }
    }
}
