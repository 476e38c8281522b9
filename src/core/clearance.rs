//! The only key to STRICT. It is cut by running every gate itself, it carries the time of its
//! evidence and expires, and an action spends it.

use crate::action::{Action, RollBack};
use crate::finding::{Code, Finding, Subject};
use crate::gate::{Evaluation, Gate, Verdict};
use crate::ident::{Namespace, Uid};
use crate::mode::Mode;
use crate::plan::{Plan, Stage};
use crate::policy::{OUR_NAME, Ours, Policy};
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Workload};
use jiff::{SignedDuration, Timestamp};

/// Permission to write STRICT in one namespace, once, until it expires.
#[derive(Debug, PartialEq)]
pub struct Clearance {
    namespace: Namespace,
    ours: Ours,
    bake: SignedDuration,
    policy_uid: Uid,
    resource_version: String,
    takes_over: bool,
    evidence: String,
    evidence_at: Timestamp,
    expires: Timestamp,
}

impl Clearance {
    /// Runs every gate on `snapshot`, and asks for a person's approval where the stage wants one. No
    /// clearance without our own PERMISSIVE standing there: it
    /// is what a rollback returns to, and an update that meets it exactly is the fence.
    pub(crate) fn cut(
        plan: &Plan,
        stage: &Stage,
        snapshot: &Snapshot,
        facts: &NamespaceFacts,
    ) -> Option<Self> {
        if Evaluation::run(plan, snapshot, facts).verdict() != Verdict::Pass
            || !plan.is_approved(stage)
        {
            return None;
        }
        let pin = our_policy(plan, snapshot, &facts.name)?;
        let ours = pin.ours.clone()?;
        let telemetry = &snapshot.telemetry;
        let evidence_at = telemetry.at.min(snapshot.at);
        Some(Self {
            namespace: facts.name.clone(),
            bake: stage.bake,
            policy_uid: pin.uid.clone(),
            resource_version: pin.resource_version.clone(),
            takes_over: pin.others().count() > 0
                && ours
                    .adopted
                    .as_ref()
                    .is_some_and(|from| pin.others().all(|it| from.contains(it))),
            evidence: evidence(snapshot, facts),
            evidence_at,
            expires: evidence_at + plan.timing.max_evidence_age(telemetry.scrape_interval),
            ours,
        })
    }

    /// Where.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What is noted on the policy so far.
    pub fn ours(&self) -> &Ours {
        &self.ours
    }

    /// The policy was adopted, and those it was adopted from still hold the mode with us.
    pub(crate) fn takes_over(&self) -> bool {
        self.takes_over
    }

    /// How long the namespace is watched at least, whatever the plan says later.
    pub fn bake(&self) -> SignedDuration {
        self.bake
    }

    /// What it stands on, in a line that can be read back later (S8).
    pub fn evidence(&self) -> &str {
        &self.evidence
    }

    /// The policy it was cut for: uid and version, both carried by the write.
    pub fn precondition(&self) -> (&Uid, &str) {
        (&self.policy_uid, &self.resource_version)
    }

    /// The write that would undo the switch, to be tried before it: an admission policy that
    /// refuses PERMISSIVE must be known before, not in the outage.
    pub fn way_back(&self) -> Action {
        Action::RollBack(RollBack {
            namespace: self.namespace.clone(),
            policy_uid: self.policy_uid.clone(),
            resource_version: self.resource_version.clone(),
            ours: self.ours.clone(),
            to: Mode::Permissive,
            because: Finding::new(
                Code::RollbackWouldBeRefused,
                Subject::namespace(&self.namespace),
                "the way back, tried before STRICT",
            ),
        })
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

fn evidence(snapshot: &Snapshot, facts: &NamespaceFacts) -> String {
    let telemetry = &snapshot.telemetry;
    let pods = facts.servers().flat_map(Workload::meshed).count();
    let mutual: f64 = telemetry
        .mutual
        .known()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.namespace == facts.name)
        .map(|(_, count)| count)
        .sum();
    let plaintext: f64 = telemetry
        .callers
        .known()
        .into_iter()
        .flatten()
        .filter(|caller| caller.destination.namespace == facts.name)
        .map(|caller| caller.count)
        .sum();
    format!(
        "{} gates passed; {} workloads, {pods} pods; {mutual:.0} calls in mutual TLS and \
         {plaintext:.0} in plaintext in the {} s before",
        Gate::ALL.len(),
        facts.servers().count(),
        telemetry.lookback.as_secs()
    )
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
    let facts = snapshot.namespace(namespace);
    snapshot.policies.of(namespace).iter().find(|policy| {
        policy.name == OUR_NAME
            && policy.ours.as_ref().is_some_and(|ours| {
                ours.rollout_uid == plan.uid && facts.is_none_or(|facts| ours.is_of(facts))
            })
    })
}
