//! The plan: what the user asked for, parsed once. After it exists nobody reads the raw spec.

use crate::finding::Level;
use crate::ident::{Labels, Namespace, Selector, Uid};
use crate::waiver::Waivers;
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// The label by which a namespace opts out of selectors.
pub const EXCLUDE_LABEL: &str = "meshrollout.dev/exclude";

/// Namespaces nothing is ever written to, besides the root namespace and the operator's own.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the rollout.
    pub name: String,
    /// Uid of the rollout: a namesake made anew owns nothing of the old one's.
    pub uid: Uid,
    /// Whether anything is written at all.
    pub action: Mission,
    /// No new step; still observes, still rolls back.
    pub paused: bool,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// The metrics source that evidence is asked of; the sidecars where there is none.
    pub source: Option<String>,
    /// The gates' settings.
    pub gates: Settings,
    /// What somebody answers for.
    pub waivers: Waivers,
    /// Whether harm is undone without asking.
    pub rollback: Trigger,
    /// What becomes of a policy that somebody else wrote in our place.
    pub existing: Existing,
    /// Requests by a person, by the values of their annotations.
    pub asked: Asked,
    /// Namespaces that another rollout has the better right to, by its name: the one that wrote
    /// there already, else the older.
    pub claimed: BTreeMap<Namespace, String>,
    /// What people have approved of this rollout, for whatever plan it had then.
    pub approvals: Vec<Approval>,
    /// The operator's own namespace: nothing is written there.
    pub operator_namespace: Namespace,
    /// The operator's times.
    pub timing: Timing,
}

/// Requests by a person: each is heard once, by its value.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    /// `meshrollout.dev/abort`: stop; roll the stage in flight back; keep what earlier ones reached.
    pub abort: Option<String>,
    /// `meshrollout.dev/retry`: try again what was rolled back or aborted.
    pub retry: Option<String>,
    /// `meshrollout.dev/rollback`: roll everything back.
    pub rollback: Option<String>,
}

/// A person's word that a stage may go STRICT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Approval {
    /// The stage.
    pub stage: String,
    /// The plan that was approved: its [`hash`](Plan::hash).
    pub plan_hash: String,
}

/// Whether a plan writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mission {
    /// Evaluate and report, never write a policy.
    Observe,
    /// Go.
    Enforce,
}

/// Whether harm is undone without asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// By itself.
    Automatic,
    /// A person does.
    Manual,
}

/// What becomes of a policy that somebody else wrote in our place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// A person must act.
    Refuse,
    /// It is taken over where it says what our own would say.
    Adopt,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Which namespaces it covers.
    pub targets: Targets,
    /// How long the gates must hold without a break before STRICT is written.
    pub soak: SignedDuration,
    /// How long it is watched, with evidence, before the next step.
    pub bake: SignedDuration,
    /// Namespaces between Enforcing and Enforced at one time.
    pub max_concurrent: usize,
    /// STRICT waits for a person who approves.
    pub needs_approval: bool,
}

/// Which namespaces a stage covers.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// These.
    Named(BTreeSet<Namespace>),
    /// Those whose labels match, now and later.
    Selected(Selector),
}

/// The gates' settings. No gate can be off.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Lowered to Warn or not.
    pub injection: Strictness,
    /// Lowered to Warn or not.
    pub plaintext: Strictness,
    /// Lowered to Warn or not.
    pub destination_rules: Strictness,
    /// How far back plaintext counts.
    pub lookback: SignedDuration,
    /// What a workload with no traffic at all means.
    pub on_idle: OnIdle,
    /// Percent of a certificate's lifetime that must be left.
    pub min_remaining_percent: u8,
}

/// Whether a gate's findings stop the rollout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strictness {
    /// They do.
    Enforce,
    /// They only warn; never hidden, the condition says GatesLowered.
    Warn,
}

/// What a workload with no traffic at all means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnIdle {
    /// Unverified: wait.
    Hold,
    /// Warn and go on.
    Allow,
}

/// The operator's times (`design.md` 2.3). From its configuration, never from the rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Between evaluations.
    pub interval: SignedDuration,
    /// A watch silent for longer is stale.
    pub stale_watch: SignedDuration,
    /// How long old connections live on after a listener change (45 s by default in Istio).
    pub drain: SignedDuration,
    /// How long we give the control plane to bring a change to the proxies when we cannot see it.
    pub acknowledgement: SignedDuration,
    /// The width of one window in which harm is counted.
    pub harm_window: SignedDuration,
    /// The furthest our clock and the source's may differ.
    pub max_skew: SignedDuration,
}

impl Strictness {
    /// `level`, or Warn where the gate is lowered.
    pub fn apply(self, level: Level) -> Level {
        match self {
            Self::Enforce => level,
            Self::Warn => level.min(Level::Warn),
        }
    }
}

impl Settings {
    /// Some gate is lowered.
    pub fn any_lowered(&self) -> bool {
        [self.injection, self.plaintext, self.destination_rules].contains(&Strictness::Warn)
            || self.on_idle == OnIdle::Allow
    }
}

impl Timing {
    /// The oldest that evidence may be when the write is sent: two intervals and a scrape.
    pub fn max_evidence_age(&self, scrape: SignedDuration) -> SignedDuration {
        self.interval * 2 + scrape
    }

    /// From a switch until its bake counts: the proxies must have taken it, and what was connected
    /// before must have gone.
    pub fn settles(&self) -> SignedDuration {
        self.acknowledgement + self.drain
    }

    /// A gap between evaluations longer than this restarts the soak.
    pub fn max_gap(&self) -> SignedDuration {
        self.interval * 3
    }
}

impl Targets {
    /// Covers a namespace of this name and these labels. A namespace opts out of selectors by
    /// label, not out of being named.
    pub fn cover(&self, namespace: &Namespace, labels: &Labels) -> bool {
        match self {
            Self::Named(names) => names.contains(namespace),
            Self::Selected(selector) => {
                labels.value(EXCLUDE_LABEL).is_none() && selector.matches(labels)
            }
        }
    }
}

impl Plan {
    /// Some stage covers a namespace of this name and these labels.
    pub fn covers(&self, namespace: &Namespace, labels: &Labels) -> bool {
        self.stages.iter().any(|stage| stage.targets.cover(namespace, labels))
    }

    /// Whether STRICT may be written in this stage, as far as people are concerned. An approval is
    /// of one plan: whatever was edited since, it counts for nothing.
    pub fn is_approved(&self, stage: &Stage) -> bool {
        let here = |one: &Approval| one.stage == stage.name && one.plan_hash == self.hash();
        !stage.needs_approval || self.approvals.iter().any(here)
    }

    /// What an approval is bound to and a status was made for: stages and gates, nothing that acts
    /// at once. Forty hexadecimal digits, equal for equal plans. A soak has narrower
    /// [`Terms`](crate::terms::Terms).
    pub fn hash(&self) -> String {
        crate::terms::plan_hash(self)
    }
}
