//! The only key to STRICT. It is cut by running every gate itself, it carries the time of its
//! evidence and expires, and an action spends it.

use crate::gate::{Evaluation, Verdict};
use crate::ident::{Namespace, Uid};
use crate::plan::Plan;
use crate::policy::{OUR_NAME, Policy};
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;
use jiff::Timestamp;

/// Permission to write STRICT in one namespace, once, until it expires.
#[derive(Debug, PartialEq)]
pub struct Clearance {
    namespace: Namespace,
    namespace_uid: Uid,
    policy_uid: Uid,
    resource_version: String,
    evidence_at: Timestamp,
    expires: Timestamp,
}

impl Clearance {
    /// Runs every gate on `snapshot`. No clearance without our own PERMISSIVE standing there: it
    /// is what a rollback returns to, and an update that meets it exactly is the fence.
    pub(crate) fn cut(plan: &Plan, snapshot: &Snapshot, facts: &NamespaceFacts) -> Option<Self> {
        if Evaluation::run(plan, snapshot, facts).verdict() != Verdict::Pass {
            return None;
        }
        let pin = our_policy(plan, snapshot, &facts.name)?;
        let telemetry = &snapshot.telemetry;
        let evidence_at = telemetry.at.min(snapshot.at);
        Some(Self {
            namespace: facts.name.clone(),
            namespace_uid: facts.uid.clone(),
            policy_uid: pin.uid.clone(),
            resource_version: pin.resource_version.clone(),
            evidence_at,
            expires: evidence_at + plan.timing.max_evidence_age(telemetry.scrape_interval),
        })
    }

    /// Where.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The namespace it was cut for.
    pub fn namespace_uid(&self) -> &Uid {
        &self.namespace_uid
    }

    /// The policy it was cut for: uid and version, both carried by the write.
    pub fn precondition(&self) -> (&Uid, &str) {
        (&self.policy_uid, &self.resource_version)
    }

    /// The age of the oldest evidence.
    pub fn evidence_at(&self) -> Timestamp {
        self.evidence_at
    }

    /// Asked at the moment of sending (S1): yesterday's permission opens nothing.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.evidence_at <= now && now <= self.expires
    }
}

/// Since when `namespace` is STRICT by this rollout, if it is.
pub fn strict_since(plan: &Plan, snapshot: &Snapshot, namespace: &Namespace) -> Option<Timestamp> {
    our_policy(plan, snapshot, namespace)?.ours.as_ref()?.strict_since
}

/// The policy this rollout wrote in `namespace`, if it stands there.
pub fn our_policy<'a>(
    plan: &Plan,
    snapshot: &'a Snapshot,
    namespace: &Namespace,
) -> Option<&'a Policy> {
    snapshot.policies.of(namespace).iter().find(|policy| {
        policy.name == OUR_NAME
            && policy.ours.as_ref().is_some_and(|ours| ours.rollout_uid == plan.uid)
    })
}
