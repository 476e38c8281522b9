//! Everything a decision may look at: one immutable value, as of one time.

use crate::client_tls::Rules;
use crate::effective::Policies;
use crate::egress::{Scope, Scopes};
use crate::exposure::Entrance;
use crate::ident::Namespace;
use crate::injection::Injector;
use crate::reading::{Cause, Reading};
use crate::scheduled::Scheduled;
use crate::scrape::Monitor;
use crate::traffic::Telemetry;
use crate::workload::NamespaceFacts;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The observed cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When it was taken, by our clock.
    pub at: Timestamp,
    /// How the objects were read.
    pub source: Source,
    /// Mesh-wide configuration. Unknown: nothing is written anywhere.
    pub mesh: Reading<Mesh>,
    /// All namespaces.
    pub namespaces: BTreeMap<Namespace, Arc<NamespaceFacts>>,
    /// All PeerAuthentications.
    pub policies: Policies,
    /// All DestinationRules.
    pub rules: Rules,
    /// All Sidecars.
    pub egress: Scopes,
    /// EnvoyFilters that change what STRICT changes, too.
    pub inbound_filters: Vec<InboundFilter>,
    /// The injectors' webhooks.
    pub injectors: Reading<Vec<Injector>>,
    /// Ways into the mesh for those who are not in it, that objects open to Services.
    pub entrances: Reading<Arc<Vec<Entrance>>>,
    /// CronJobs that name somebody.
    pub scheduled: Reading<Arc<Vec<Arc<Scheduled>>>>,
    /// What a Prometheus operator has scraped.
    pub monitors: Reading<Arc<Vec<Monitor>>>,
    /// Telemetry objects that take away what the evidence stands on.
    pub overrides: Vec<TelemetryOverride>,
    /// What the metrics source said.
    pub telemetry: Arc<Telemetry>,
    /// Watches older than their limit, with their kinds.
    pub stale: Vec<Cause>,
}

/// How the objects of a snapshot were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// From our watches: good for looking, not for writing STRICT.
    Watches,
    /// The objects the write stands on were just read from the apiserver with a quorum read.
    Quorum,
    /// From files: good for preflight.
    Files,
}

/// Mesh-wide configuration (`meshConfig`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mesh {
    /// A selector-less policy there is the whole mesh's. Every revision's, if they differ.
    pub roots: Vec<Namespace>,
    /// `enableAutoMtls`.
    pub auto_mtls: bool,
    /// `trustDomain`.
    pub trust_domain: String,
    /// All that are taken for the mesh's own: that one, its aliases, and those of further
    /// authorities (`caCertificates`). `None`: nobody said.
    pub trust_domains: Option<BTreeSet<String>>,
    /// What proxies do not know they do not send (`outboundTrafficPolicy: REGISTRY_ONLY`).
    pub sends_to_known_only: bool,
    /// `meshNetworks`, by their names: there is more of the mesh than this cluster.
    pub networks: Vec<String>,
}

/// An EnvoyFilter that patches inbound listeners or filter chains by a shape that STRICT changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InboundFilter {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Whom it covers; `None` is its namespace, or the mesh in the root namespace.
    pub selector: Option<crate::ident::Labels>,
    /// What it changes.
    pub what: String,
}

/// A Telemetry object that disables a metric or a label the evidence stands on
/// (`istio-semantics.md` E6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TelemetryOverride {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Whom it covers; `None` is its namespace, or the mesh in the root namespace.
    pub selector: Option<crate::ident::Labels>,
    /// What it takes away.
    pub what: String,
}

impl Snapshot {
    /// The facts of one namespace, if it exists.
    pub fn namespace(&self, namespace: &Namespace) -> Option<&NamespaceFacts> {
        self.namespaces.get(namespace).map(Arc::as_ref)
    }

    /// Whether the clients of `scope` send nothing to whom they do not know: by its own word, else by
    /// the mesh's.
    pub fn sends_to_known_only(&self, scope: &Scope) -> bool {
        let by_default = || self.mesh.known().is_some_and(|mesh| mesh.sends_to_known_only);
        scope.sends_to_known_only.unwrap_or_else(by_default)
    }

    /// Nothing is ever written here: the root namespace of any revision, Kubernetes' own, ours.
    pub fn is_forbidden(&self, namespace: &Namespace, operator: &Namespace) -> bool {
        let is_root = match &self.mesh {
            Reading::Known(mesh) => mesh.roots.contains(namespace),
            // Any namespace could be the root.
            Reading::Unknown(_) => true,
        };
        is_root
            || self.policies.root() == namespace
            || crate::plan::SYSTEM_NAMESPACES.contains(&namespace.as_str())
            || namespace == operator
    }
}
