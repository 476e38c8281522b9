//! The effective mode of a server, with the policy that decided it.
//!
//! Source: Istio `pilot/pkg/security/authn/policy_applier.go:ComposePeerAuthentication` and
//! `pilot/pkg/model/authentication.go:addPeerAuthentication` (`istio-semantics.md` A1–A3, A8).

use crate::ident::{Labels, Namespace, Port, by_namespace};
use crate::mode::{Declared, Mode};
use crate::policy::Policy;
use crate::reading::{Cause, Reading};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Every PeerAuthentication of the cluster, in Istio's order within each namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policies {
    root: Namespace,
    /// Of further control planes, whose pods cannot be told from those of the first.
    further_roots: Vec<Namespace>,
    by_namespace: BTreeMap<Namespace, Arc<Vec<Policy>>>,
}

/// A mode in force, and who decided it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Effective<'a> {
    /// The mode in force.
    pub mode: Mode,
    /// The policy that says so.
    pub decided_by: DecidedBy<'a>,
}

/// Where an effective mode comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecidedBy<'a> {
    /// No policy says anything: PERMISSIVE.
    Default,
    /// A selector-less policy of the root namespace.
    MeshWide(&'a Policy),
    /// A selector-less policy of the workload's namespace.
    NamespaceWide(&'a Policy),
    /// A policy that selects the workload.
    Workload(&'a Policy),
    /// `portLevelMtls` of a policy that selects the workload.
    PortLevel(&'a Policy),
}

impl Policies {
    /// Sorts `policies` as istiod does. `root` is `meshConfig.rootNamespace`.
    pub fn new(root: Namespace, policies: impl IntoIterator<Item = Policy>) -> Self {
        let by_namespace = by_namespace(
            policies,
            |policy| &policy.namespace,
            |a, b| istio_order(a).cmp(&istio_order(b)),
        );
        Self { root, further_roots: vec![], by_namespace }
    }

    /// The same cluster with these root namespaces beside the first. Where they say another mode
    /// for the mesh than it does, what inherits the mesh's is unknown.
    pub fn with_further_roots(self, roots: impl IntoIterator<Item = Namespace>) -> Self {
        Self { further_roots: roots.into_iter().collect(), ..self }
    }

    /// The root namespace: a selector-less policy there is the whole mesh's.
    pub fn root(&self) -> &Namespace {
        &self.root
    }

    /// The root namespaces of all control planes.
    pub fn roots(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.root).chain(&self.further_roots)
    }

    /// The root namespace of some control plane.
    pub fn is_root(&self, namespace: &Namespace) -> bool {
        self.roots().any(|root| root == namespace)
    }

    /// The policies of one namespace, oldest first.
    pub fn of(&self, namespace: &Namespace) -> &[Policy] {
        self.by_namespace.get(namespace).map_or(&[], |policies| policies.as_slice())
    }

    /// The same cluster with `policy` added, or put in the place of its namesake: the after-image
    /// of a write.
    pub fn with(&self, policy: Policy) -> Self {
        let mut after = self.clone();
        after.put(policy);
        after
    }

    fn put(&mut self, policy: Policy) {
        let policies = self.by_namespace.entry(policy.namespace.clone()).or_default();
        let policies = Arc::make_mut(policies);
        policies.retain(|one| one.name != policy.name);
        policies.push(policy);
        policies.sort_by(|a, b| istio_order(a).cmp(&istio_order(b)));
    }

    /// The same cluster without this policy: the after-image of a deletion.
    pub fn without(&self, namespace: &Namespace, name: &str) -> Self {
        let mut after = self.clone();
        if let Some(policies) = after.by_namespace.get_mut(namespace) {
            Arc::make_mut(policies).retain(|one| one.name != name);
        }
        after
    }

    /// Every policy.
    pub fn all(&self) -> impl Iterator<Item = &Policy> {
        self.by_namespace.values().flat_map(|policies| policies.iter())
    }

    /// The namespace-wide policy in force for proxies of `revision`. Only the oldest counts; the
    /// others are dropped by istiod with nothing but a log line (A2).
    pub fn namespace_wide(&self, namespace: &Namespace, revision: Option<&str>) -> Option<&Policy> {
        self.of(namespace)
            .iter()
            .find(|policy| policy.is_namespace_wide() && is_read_by(policy, revision))
    }

    /// The mode in force for pods of `namespace` with `labels`, on `port` (a container port) or,
    /// with `None`, on every port that no port-level entry names. `revision` is the control plane
    /// that serves the pod.
    pub fn effective(
        &self,
        namespace: &Namespace,
        labels: &Labels,
        port: Option<Port>,
        revision: Option<&str>,
    ) -> Reading<Effective<'_>> {
        let mesh = self.namespace_wide(&self.root, revision);
        let (wide, specific) = if *namespace == self.root {
            // A pod of the root namespace obeys the mesh-wide policy only; selectors there are dead.
            (None, None)
        } else {
            (self.namespace_wide(namespace, revision), self.workload(namespace, labels, revision))
        };

        let inherited = self.unless_roots_differ(
            revision,
            inherit([
                mesh.map(DecidedBy::MeshWide),
                wide.map(DecidedBy::NamespaceWide),
                specific.map(DecidedBy::Workload),
            ]),
        );

        // Port entries of mesh-wide and namespace-wide policies are not read; an UNSET port
        // inherits what the workload resolved to.
        let on_port = port.and_then(|port| Some((specific?, specific?.ports.get(&port)?)));
        match on_port {
            None | Some((_, Declared::Unset)) => inherited,
            Some((policy, Declared::Mode(mode))) => {
                Reading::Known(Effective { mode: *mode, decided_by: DecidedBy::PortLevel(policy) })
            }
            Some((policy, Declared::Unknown(word))) => {
                Reading::Unknown(not_understood(policy, word))
            }
        }
    }

    /// What clients believe of a service: namespace-wide and mesh-wide only, neither workload nor
    /// port (`BestEffortInferServiceMTLSMode`, B2 rule 4).
    pub fn service_guess(
        &self,
        namespace: &Namespace,
        revision: Option<&str>,
    ) -> Reading<Effective<'_>> {
        let mesh = self.namespace_wide(&self.root, revision);
        let wide =
            (*namespace != self.root).then(|| self.namespace_wide(namespace, revision)).flatten();
        self.unless_roots_differ(
            revision,
            inherit([mesh.map(DecidedBy::MeshWide), wide.map(DecidedBy::NamespaceWide)]),
        )
    }

    /// What is inherited from the first root, unless another says another mode.
    fn unless_roots_differ<'a>(
        &'a self,
        revision: Option<&str>,
        inherited: Reading<Effective<'a>>,
    ) -> Reading<Effective<'a>> {
        let Reading::Known(Effective {
            mode,
            decided_by: DecidedBy::Default | DecidedBy::MeshWide(_),
        }) = inherited
        else {
            return inherited;
        };
        let says = |root: &&Namespace| {
            let mesh = self.namespace_wide(root, revision).map(DecidedBy::MeshWide);
            inherit([mesh]).known().map(|other| other.mode)
        };
        match self.further_roots.iter().find(|root| says(root) != Some(mode)) {
            None => inherited,
            Some(other) => Reading::Unknown(Cause::Malformed(format!(
                "which of the root namespaces {} and {other} is this mesh's, of which one says {mode} and the other does not,",
                self.root
            ))),
        }
    }

    /// The policy with entries for ports that is in force for such pods, if there is one.
    pub fn port_level(
        &self,
        namespace: &Namespace,
        labels: &Labels,
        revision: Option<&str>,
    ) -> Option<&Policy> {
        let in_force = |policy: &&Policy| *namespace != self.root && !policy.ports.is_empty();
        self.workload(namespace, labels, revision).filter(in_force)
    }

    /// Puts STRICT in force on the whole of `namespace`, for proxies of each of `revisions`: its
    /// namespace-wide policy in force says so, or `added` stands beside the others.
    pub fn make_strict(
        &mut self,
        namespace: &Namespace,
        revisions: &BTreeSet<Option<&str>>,
        added: &Policy,
    ) {
        for revision in revisions {
            let wide = self.namespace_wide(namespace, *revision).cloned();
            let policy = wide.unwrap_or_else(|| added.clone());
            self.put(Policy { mode: Declared::Mode(Mode::Strict), ..policy });
        }
    }

    /// The one workload policy in force: the oldest that selects. Two are never merged, not even
    /// their ports (A2).
    pub fn workload(
        &self,
        namespace: &Namespace,
        labels: &Labels,
        revision: Option<&str>,
    ) -> Option<&Policy> {
        self.of(namespace).iter().find(|policy| {
            !policy.is_namespace_wide()
                && policy.selector.select(labels)
                && is_read_by(policy, revision)
        })
    }
}

impl<'a> DecidedBy<'a> {
    /// The deciding policy, if any.
    pub fn policy(&self) -> Option<&'a Policy> {
        match *self {
            Self::Default => None,
            Self::MeshWide(policy)
            | Self::NamespaceWide(policy)
            | Self::Workload(policy)
            | Self::PortLevel(policy) => Some(policy),
        }
    }
}

impl fmt::Display for DecidedBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, policy) = match self {
            Self::Default => return f.write_str("no policy (Istio's default)"),
            Self::MeshWide(policy) => ("mesh-wide", policy),
            Self::NamespaceWide(policy) => ("namespace-wide", policy),
            Self::Workload(policy) => ("workload-specific", policy),
            Self::PortLevel(policy) => ("port-level", policy),
        };
        write!(f, "{level} PeerAuthentication {}/{}", policy.namespace, policy.name)
    }
}

/// Walks from the widest level to the narrowest; a level that says nothing inherits (A3).
fn inherit<'a, const N: usize>(levels: [Option<DecidedBy<'a>>; N]) -> Reading<Effective<'a>> {
    let mut effective = Effective { mode: Mode::Permissive, decided_by: DecidedBy::Default };
    for decided_by in levels.into_iter().flatten() {
        let Some(policy) = decided_by.policy() else { continue };
        match &policy.mode {
            Declared::Unset => {}
            Declared::Mode(mode) => effective = Effective { mode: *mode, decided_by },
            Declared::Unknown(word) => return Reading::Unknown(not_understood(policy, word)),
        }
    }
    Reading::Known(effective)
}

/// Oldest first, then by name (A2; `pilot/pkg/model/config.go:configCompareByCreationTime`). A
/// policy without a time comes from a file or is about to be made: it is the newest.
fn istio_order(policy: &Policy) -> (bool, Option<jiff::Timestamp>, &str) {
    (policy.created.is_none(), policy.created, &policy.name)
}

/// Exact match, tags are not resolved; an unlabelled policy is everybody's (A8).
fn is_read_by(policy: &Policy, revision: Option<&str>) -> bool {
    match (&policy.revision, revision) {
        (None, _) => true,
        (Some(bound), Some(revision)) => bound == revision,
        (Some(_), None) => false,
    }
}

fn not_understood(policy: &Policy, word: &str) -> Cause {
    Cause::Malformed(format!(
        "mode {word:?} of PeerAuthentication {}/{}",
        policy.namespace, policy.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Uid;
    use jiff::Timestamp;

    const ROOT: &str = "istio-system";

    fn policy(namespace: &str, name: &str, age: i64, mode: Option<Mode>) -> Policy {
        Policy {
            namespace: namespace.into(),
            name: name.into(),
            uid: Uid::new(name),
            resource_version: "1".into(),
            created: Some(Timestamp::from_second(1_000 - age).expect("in range")),
            selector: Labels::default(),
            mode: mode.map_or(Declared::Unset, Declared::Mode),
            ports: BTreeMap::new(),
            revision: None,
            managers: vec![],
            owner: None,
            ours: None,
        }
    }

    fn on_app(mut policy: Policy, ports: &[(u16, Option<Mode>)]) -> Policy {
        policy.selector = Labels::from_iter([("app", "a")]);
        policy.ports = ports
            .iter()
            .map(|(port, mode)| (Port(*port), mode.map_or(Declared::Unset, Declared::Mode)))
            .collect();
        policy
    }

    /// The mode on the whole workload and on port 9090.
    fn modes(policies: Vec<Policy>) -> (Mode, Mode) {
        let policies = Policies::new(ROOT.into(), policies);
        let labels = Labels::from_iter([("app", "a"), ("version", "1")]);
        let mode = |port| {
            let namespace = "shop".into();
            policies.effective(&namespace, &labels, port, None).known().expect("known").mode
        };
        (mode(None), mode(Some(Port(9090))))
    }

    use Mode::{Disable, Permissive, Strict};

    /// The worked examples of `istio-semantics.md` A3, row by row.
    #[test]
    fn worked_examples_of_istio_hold() {
        let mesh = |mode| policy(ROOT, "mesh", 9, mode);
        let wide = |mode| policy("shop", "wide", 8, mode);
        let work = |mode, ports: &[_]| on_app(policy("shop", "work", 7, mode), ports);
        let rows = [
            (vec![], (Permissive, Permissive)),
            (vec![mesh(Some(Strict))], (Strict, Strict)),
            (vec![mesh(Some(Strict)), wide(None)], (Strict, Strict)),
            (vec![mesh(Some(Strict)), wide(Some(Permissive))], (Permissive, Permissive)),
            (vec![wide(Some(Strict)), work(None, &[(9090, Some(Disable))])], (Strict, Disable)),
            (vec![mesh(Some(Strict)), work(None, &[(9090, None)])], (Strict, Strict)),
            (
                vec![mesh(Some(Strict)), work(Some(Permissive), &[(9090, Some(Strict))])],
                (Permissive, Strict),
            ),
            (
                vec![mesh(Some(Strict)), wide(Some(Permissive)), work(None, &[(9090, None)])],
                (Permissive, Permissive),
            ),
            (vec![wide(Some(Disable)), work(Some(Strict), &[])], (Strict, Strict)),
            (vec![mesh(None)], (Permissive, Permissive)),
        ];
        for (policies, expected) in rows {
            assert_eq!(modes(policies.clone()), expected, "{policies:#?}");
        }
    }

    #[test]
    fn oldest_policy_wins_within_a_scope_and_the_lower_name_breaks_ties() {
        let older = policy("shop", "z", 9, Some(Permissive));
        let newer = policy("shop", "a", 1, Some(Strict));
        assert_eq!(modes(vec![newer.clone(), older]).0, Permissive);
        let twin = policy("shop", "b", 1, Some(Disable));
        assert_eq!(modes(vec![twin, newer]).0, Strict);
    }

    #[test]
    fn two_workload_policies_are_never_merged() {
        let older = on_app(policy("shop", "older", 9, None), &[(8080, Some(Strict))]);
        let newer = on_app(policy("shop", "newer", 1, None), &[(9090, Some(Strict))]);
        assert_eq!(modes(vec![newer, older]), (Permissive, Permissive));
    }

    #[test]
    fn a_selector_in_the_root_namespace_does_nothing() {
        let dead = on_app(policy(ROOT, "dead", 9, Some(Strict)), &[]);
        assert_eq!(modes(vec![dead]).0, Permissive);
    }

    #[test]
    fn a_pod_of_the_root_namespace_obeys_the_mesh_wide_policy_only() {
        let policies = Policies::new(ROOT.into(), [policy(ROOT, "mesh", 9, Some(Strict))]);
        let effective = policies.effective(&ROOT.into(), &Labels::default(), None, None);
        assert_eq!(effective.known().expect("known").mode, Strict);
    }

    #[test]
    fn where_two_roots_differ_what_inherits_from_them_is_unknown() {
        let other = policy("usergroup-2", "mesh", 9, Some(Strict));
        let own = policy("shop", "own", 9, Some(Permissive));
        let first = policy(ROOT, "mesh", 9, Some(Strict));
        let mode = |policies: &[&Policy]| {
            let policies = Policies::new(ROOT.into(), policies.iter().copied().cloned())
                .with_further_roots(["usergroup-2".into()]);
            let labels = Labels::default();
            let effective = policies.effective(&"shop".into(), &labels, None, None);
            let guess = policies.service_guess(&"shop".into(), None);
            let [effective, guess] = [effective, guess].map(|it| it.known().map(|it| it.mode));
            assert_eq!(effective, guess);
            effective
        };
        assert_eq!(mode(&[]), Some(Permissive));
        assert_eq!(mode(&[&other]), None);
        assert_eq!(mode(&[&first]), None);
        assert_eq!(mode(&[&first, &other]), Some(Strict));
        assert_eq!(mode(&[&other, &own]), Some(Permissive));
    }

    #[test]
    fn a_policy_bound_to_a_revision_counts_for_that_revision_only() {
        let mut bound = policy("shop", "bound", 9, Some(Strict));
        bound.revision = Some("canary".into());
        let policies = Policies::new(ROOT.into(), [bound]);
        let mode = |revision| {
            let namespace = "shop".into();
            let effective = policies.effective(&namespace, &Labels::default(), None, revision);
            effective.known().expect("known").mode
        };
        assert_eq!(mode(Some("canary")), Strict);
        assert_eq!(mode(Some("default")), Permissive);
        assert_eq!(mode(None), Permissive);
    }

    #[test]
    fn an_unknown_mode_makes_the_effective_mode_unknown() {
        let mut odd = policy("shop", "odd", 9, None);
        odd.mode = Declared::Unknown("STRICTER".into());
        let policies = Policies::new(ROOT.into(), [odd]);
        let effective = policies.effective(&"shop".into(), &Labels::default(), None, None);
        assert!(effective.known().is_none());
    }
}
