//! PeerAuthentication as facts.

use crate::ident::{Labels, Namespace, Port, Uid};
use crate::mode::{Declared, Mode};
use crate::workload::NamespaceFacts;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The name of the one policy we write in a namespace. It is `default` so that a person's reflex
/// `kubectl apply` at night hits our object, not a second one that Istio would ignore.
pub const OUR_NAME: &str = "default";

/// The field manager of every write of ours: it tells our hand from another's.
pub const FIELD_MANAGER: &str = "meshrollout";

/// One PeerAuthentication.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Where it stands. In the root namespace it speaks for the whole mesh.
    pub namespace: Namespace,
    /// Its name. Istio does not care which (`istio-semantics.md` A1).
    pub name: String,
    /// Tells a recreated policy from the one we knew.
    pub uid: Uid,
    /// The version just read: a write carries it, so that it meets exactly this object.
    pub resource_version: String,
    /// Creation time, whole seconds. A policy from a file has none and counts as newest.
    pub created: Option<Timestamp>,
    /// `spec.selector.matchLabels`; empty is a namespace-wide (or mesh-wide) policy.
    pub selector: Labels,
    /// `spec.mtls.mode`.
    pub mode: Declared,
    /// `spec.portLevelMtls`, by container port.
    pub ports: BTreeMap<Port, Declared>,
    /// The label `istio.io/rev`: only the control plane of exactly this revision reads it (A8).
    pub revision: Option<String>,
    /// Field managers that hold `spec.mtls`, in the apiserver's order.
    pub managers: Vec<String>,
    /// A tool that owns the object and would write it again: `Argo CD`, `Flux` or `Helm`.
    pub owner: Option<&'static str>,
    /// What we noted on it when we wrote it; absent on everybody else's policies.
    pub ours: Option<Ours>,
}

/// All that a rollback needs, carried by the policy itself: it survives us, the metrics, the
/// status and the report.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Ours {
    /// Name of the rollout that wrote it.
    pub rollout: String,
    /// Uid of the rollout that wrote it.
    pub rollout_uid: Uid,
    /// Uid of the namespace it was written in.
    pub namespace_uid: Uid,
    /// The mode in effect before our first write; rolling back never goes below it.
    pub previous: Mode,
    /// The managers that held `spec.mtls` when we took the policy over; `None` if we made it.
    pub adopted: Option<BTreeSet<String>>,
    /// When we wrote STRICT, if we did and have not rolled back since.
    pub strict_since: Option<Timestamp>,
    /// The bake of its stage when we wrote STRICT: an edit does not shorten it. Absent on what
    /// was written before it was noted, and when we have not written STRICT.
    pub bake: Option<SignedDuration>,
    /// When and why STRICT was taken back.
    pub rolled_back: Option<RolledBack>,
}

/// The mark of a rollback on the policy.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RolledBack {
    /// When the restoring write was made.
    pub at: Timestamp,
    /// Why, in words for a person.
    pub because: String,
}

impl Ours {
    /// It was noted in this very namespace, and not in a namesake that was deleted: a backup may
    /// bring a policy back with all its notes.
    pub fn is_of(&self, facts: &NamespaceFacts) -> bool {
        // A namespace that nobody has told us about has no uid yet.
        facts.uid.as_str().is_empty() || facts.uid == self.namespace_uid
    }
}

impl Policy {
    /// One that says `mode` for all of `namespace`, and has not been written yet.
    pub fn for_all_of(namespace: &Namespace, name: &str, mode: Mode) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.into(),
            uid: Uid::new(""),
            resource_version: String::new(),
            created: None,
            selector: Labels::default(),
            mode: Declared::Mode(mode),
            ports: BTreeMap::new(),
            revision: None,
            managers: vec![],
            owner: None,
            ours: None,
        }
    }

    /// Why it cannot be taken over, if it cannot: what is taken over must say exactly what our own
    /// pin would say, and have no other master.
    pub fn not_adoptable(&self) -> Option<String> {
        if let Some(owner) = self.owner {
            return Some(format!("{owner} owns it and would write it again: change it there"));
        }
        if self.name != OUR_NAME {
            return Some(format!("only a policy named {OUR_NAME} is taken over"));
        }
        if self.mode != Declared::Mode(Mode::Permissive) {
            return Some("only one that says PERMISSIVE is taken over".into());
        }
        let plain = self.is_namespace_wide() && self.ports.is_empty() && self.revision.is_none();
        (!plain).then(|| "it has a selector, ports or a revision of its own".into())
    }

    /// The managers besides us that hold `spec.mtls`.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.managers.iter().map(String::as_str).filter(|manager| *manager != FIELD_MANAGER)
    }

    /// Speaks for its whole namespace: no selector, or an empty one (A1).
    pub fn is_namespace_wide(&self) -> bool {
        self.selector.is_empty()
    }

    /// The mode we last wrote, by our own notes; `None` if the policy is not ours.
    pub fn mode_we_wrote(&self) -> Option<Mode> {
        let ours = self.ours.as_ref()?;
        Some(match ours.strict_since {
            Some(_) => Mode::Strict,
            None => ours.previous,
        })
    }

    /// The STRICT that stands here is ours alone, whatever else another hand put around it: it is
    /// ours to take back.
    pub fn is_our_strict(&self) -> bool {
        let wrote = self.ours.as_ref().is_some_and(|ours| ours.strict_since.is_some());
        wrote && self.mode == Declared::Mode(Mode::Strict) && self.others().next().is_none()
    }

    /// Someone changed our policy after we wrote it.
    pub fn has_drifted(&self) -> bool {
        self.mode_we_wrote().is_some_and(|wrote| {
            self.mode != Declared::Mode(wrote)
                || !self.is_namespace_wide()
                || !self.ports.is_empty()
                || self.revision.is_some()
        })
    }
}
