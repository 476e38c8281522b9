//! What a meshed client puts on the wire towards a host, with the DestinationRule that decided it.
//!
//! Source: Istio `pilot/pkg/model/push_context.go:destinationRule` (look-up),
//! `destination_rule.go:mergeDestinationRule` (merge), `networking/util/util.go` and
//! `xds/endpoints/mtls_checker.go` (port and subset); `istio-semantics.md` B2–B4.

mod in_force;

use crate::ident::{Host, Labels, Namespace, Port, by_namespace};
use crate::view::Views;
use in_force::Merged;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The client TLS a DestinationRule names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TlsMode {
    /// Plaintext. An empty `tls: {}` means this, too (`istio-semantics.md` H).
    Disable,
    /// TLS without a client certificate.
    Simple,
    /// Mutual TLS with the user's own certificates.
    Mutual,
    /// Mutual TLS of the mesh, to every endpoint, meshed or not.
    IstioMutual,
    /// A word we do not know.
    Unknown(String),
}

/// The TLS part of a traffic policy: top level and per Service port.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrafficPolicy {
    /// `tls.mode` at the top level.
    pub tls: Option<TlsMode>,
    /// `portLevelSettings` by Service port. An entry without `tls` still replaces the top level.
    pub ports: BTreeMap<Port, Option<TlsMode>>,
}

/// A named subset with a traffic policy of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Its policy, which overrides the rule's.
    pub policy: Option<TrafficPolicy>,
}

/// One DestinationRule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Creation time; one from a file has none and counts as newest.
    pub created: Option<Timestamp>,
    /// The host, already expanded with the rule's own namespace (B3).
    pub host: Host,
    /// `exportTo`; empty stands for the mesh's default.
    pub export_to: BTreeSet<String>,
    /// `workloadSelector`: only for clients of the same namespace that it selects.
    pub selector: Option<Labels>,
    /// `trafficPolicy`.
    pub policy: Option<TrafficPolicy>,
    /// `loadBalancer.simple: PASSTHROUGH`: clients choose mTLS for all endpoints or for none.
    pub passthrough: bool,
    /// The subsets.
    pub subsets: Vec<Subset>,
    /// The revision it is bound to: only that control plane reads it.
    pub revision: Option<String>,
    /// What could not be read of it; whatever it decides is unknown.
    pub malformed: Option<String>,
}

/// Every DestinationRule of the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    by_namespace: BTreeMap<Namespace, Arc<Vec<Rule>>>,
    views: Views,
}

/// The client TLS in force on one port and subset, and the rule that decided it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientTls<'a> {
    /// What goes on the wire.
    pub wire: Wire,
    /// Where the wire is automatic, what the rule makes of the endpoints: with `false` clients take
    /// each for one that accepts plaintext only, with `true` each with a sidecar for one that
    /// accepts mutual TLS, whatever its mode is. Where clients are not told of endpoints (a headless
    /// Service, or PASSTHROUGH) this has no effect.
    pub told: Option<bool>,
    /// The rule asks for PASSTHROUGH load balancing.
    pub passthrough: bool,
    /// The rule in force, if any.
    pub decided_by: Option<&'a Rule>,
    /// The subset, if not the whole host.
    pub subset: Option<&'a str>,
}

/// What a client puts on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wire {
    /// No rule speaks: mutual TLS to endpoints that announce it, plaintext to the others.
    Auto,
    /// Mutual TLS of the mesh to every endpoint.
    IstioMutual,
    /// Plaintext to every endpoint.
    Plaintext,
    /// TLS that is not the mesh's, as the mode names it.
    Foreign(&'static str),
    /// The rule cannot be understood.
    Unknown(String),
}

impl Rules {
    /// Sorts `rules` as istiod does: those with a selector first, then the oldest, then by name.
    /// `roots` are the root namespaces of all control planes.
    pub fn new(
        roots: impl IntoIterator<Item = Namespace>,
        rules: impl IntoIterator<Item = Rule>,
    ) -> Self {
        let order = |rule: &Rule| (rule.selector.is_none(), rule.created.is_none(), rule.created);
        let rules: Vec<_> = rules.into_iter().collect();
        let views = Views::new(roots, rules.iter().filter_map(|rule| rule.revision.as_ref()));
        let by_namespace = by_namespace(
            rules,
            |rule| &rule.namespace,
            |a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)),
        );
        Self { by_namespace, views }
    }

    /// The rules of one namespace, in Istio's order.
    pub fn of(&self, namespace: &Namespace) -> &[Rule] {
        self.by_namespace.get(namespace).map_or(&[], |rules| rules.as_slice())
    }

    /// Everything that clients of `client` with `labels` may put on the wire towards `port` of
    /// `host`, which is served in `server`: the whole host first, then each subset that has a
    /// policy of its own. Where there are several control planes, all this once more for each that
    /// tells its clients something else: which of them is theirs is not known.
    pub fn client_tls(
        &self,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
        port: Port,
    ) -> Vec<ClientTls<'_>> {
        let mut all = vec![];
        for merged in self.in_force(client, labels, server, host) {
            let tls = merged.map_or_else(|| vec![ClientTls::automatic(None)], |it| it.on(port));
            all.extend(tls);
        }
        all
    }
}

impl<'a> Merged<'a> {
    /// The whole host first, then each subset that has a policy of its own.
    fn on(&self, port: Port) -> Vec<ClientTls<'a>> {
        let Merged { parts, .. } = self;
        if let Some((rule, why)) =
            parts.iter().find_map(|rule| Some((*rule, rule.malformed.as_ref()?)))
        {
            let wire = Wire::Unknown(why.clone());
            return vec![ClientTls { wire, ..ClientTls::automatic(Some(rule)) }];
        }
        let speaks = self.speaks();
        let base = speaks.and_then(|rule| rule.policy.as_ref());
        let whole = ClientTls {
            wire: wire(base.and_then(|policy| policy.on(port).0)),
            told: told(base.and_then(|policy| policy.told_on(port))),
            // An entry for the port is taken whole here, too.
            passthrough: speaks.is_some_and(|rule| {
                rule.passthrough && base.is_none_or(|policy| !policy.ports.contains_key(&port))
            }),
            decided_by: speaks.or(parts.first().copied()),
            subset: None,
        };
        let mut seen = BTreeSet::new();
        let mut subsets = vec![];
        for rule in parts {
            // Subsets are united by name, the first rule to name one wins.
            for subset in rule.subsets.iter().filter(|subset| seen.insert(&subset.name)) {
                let Some(own) = subset.policy.as_ref() else { continue };
                let (on_port, is_whole) = own.on(port);
                let inherited = || base.and_then(|policy| policy.on(port).0);
                let tls = if is_whole { on_port } else { on_port.or_else(inherited) };
                let on_endpoints =
                    own.told_on(port).or_else(|| base.and_then(|policy| policy.told_on(port)));
                subsets.push(ClientTls {
                    wire: wire(tls),
                    told: told(on_endpoints),
                    decided_by: Some(rule),
                    subset: Some(&subset.name),
                    ..whole
                });
            }
        }
        std::iter::once(whole).chain(subsets).collect()
    }
}

impl<'a> ClientTls<'a> {
    /// No rule says anything of TLS.
    fn automatic(decided_by: Option<&'a Rule>) -> Self {
        Self { wire: Wire::Auto, told: None, passthrough: false, decided_by, subset: None }
    }
}

impl TrafficPolicy {
    /// The TLS of the cluster for a Service port, and whether an entry for the port says so. Such an
    /// entry is taken whole: one without `tls` leaves it unset (B4).
    fn on(&self, port: Port) -> (Option<&TlsMode>, bool) {
        match self.ports.get(&port) {
            Some(on_port) => (on_port.as_ref(), true),
            None => (self.tls.as_ref(), false),
        }
    }

    /// What the endpoints are told: here an entry without `tls` falls back to the top level
    /// (`mtls_checker.go:trafficPolicyTLSModeForPort`).
    fn told_on(&self, port: Port) -> Option<&TlsMode> {
        self.ports.get(&port).and_then(Option::as_ref).or(self.tls.as_ref())
    }
}

fn told(tls: Option<&TlsMode>) -> Option<bool> {
    tls.map(|tls| *tls == TlsMode::IstioMutual)
}

fn wire(tls: Option<&TlsMode>) -> Wire {
    match tls {
        None => Wire::Auto,
        Some(TlsMode::Disable) => Wire::Plaintext,
        Some(TlsMode::Simple) => Wire::Foreign("SIMPLE"),
        Some(TlsMode::Mutual) => Wire::Foreign("MUTUAL"),
        Some(TlsMode::IstioMutual) => Wire::IstioMutual,
        Some(TlsMode::Unknown(word)) => Wire::Unknown(format!("tls.mode {word:?}")),
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("automatic"),
            Self::IstioMutual => f.write_str("ISTIO_MUTUAL"),
            Self::Plaintext => f.write_str("plaintext"),
            Self::Foreign(mode) => f.write_str(mode),
            Self::Unknown(why) => write!(f, "not understood ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "istio-system";
    const HOST: &str = "orders.shop.svc.cluster.local";

    fn rule(namespace: &str, host: &str, tls: Option<TlsMode>) -> Rule {
        Rule {
            namespace: namespace.into(),
            name: format!("{namespace}-{host}"),
            created: None,
            host: host.into(),
            export_to: BTreeSet::new(),
            selector: None,
            policy: tls.map(|tls| TrafficPolicy { tls: Some(tls), ports: BTreeMap::new() }),
            passthrough: false,
            subsets: vec![],
            revision: None,
            malformed: None,
        }
    }

    fn to(mut rule: Rule, export_to: &[&str]) -> Rule {
        rule.export_to = export_to.iter().map(|to| (*to).to_owned()).collect();
        rule
    }

    fn wires(client: &str, rules: Vec<Rule>) -> Vec<Wire> {
        let rules = Rules::new(Some(ROOT.into()), rules);
        let labels = Labels::from_iter([("app", "web")]);
        rules
            .client_tls(&client.into(), &labels, &"shop".into(), &HOST.into(), Port(80))
            .into_iter()
            .map(|tls| tls.wire)
            .collect()
    }

    use TlsMode::{Disable, IstioMutual, Simple};

    #[test]
    fn without_a_rule_the_choice_is_automatic() {
        assert_eq!(wires("front", vec![]), [Wire::Auto]);
    }

    #[test]
    fn the_clients_namespace_wins_even_with_a_wildcard() {
        let rules =
            vec![rule("shop", HOST, Some(IstioMutual)), rule("front", "*.local", Some(Disable))];
        assert_eq!(wires("front", rules.clone()), [Wire::Plaintext]);
        assert_eq!(wires("other", rules), [Wire::IstioMutual]);
    }

    #[test]
    fn the_services_namespace_comes_before_the_root() {
        let rules = vec![rule(ROOT, HOST, Some(Simple)), rule("shop", "*", Some(Disable))];
        assert_eq!(wires("front", rules), [Wire::Plaintext]);
        assert_eq!(wires("front", vec![rule(ROOT, "*.local", Some(Disable))]), [Wire::Plaintext]);
    }

    #[test]
    fn what_any_of_several_roots_says_may_be_in_force() {
        let roots = [ROOT, "usergroup-2", "usergroup-3"].map(Namespace::new);
        let of = |client: &str, rules: Vec<Rule>| {
            let labels = Labels::default();
            let rules = Rules::new(roots.clone(), rules);
            let all =
                rules.client_tls(&client.into(), &labels, &"shop".into(), &HOST.into(), Port(80));
            all.into_iter().map(|tls| tls.wire).collect::<Vec<_>>()
        };
        let off = || rule("usergroup-2", "*.local", Some(Disable));
        assert_eq!(of("front", vec![off()]), [Wire::Auto, Wire::Plaintext]);
        // Who finds a rule before the roots are asked obeys that one alone.
        let own = rule("front", HOST, Some(IstioMutual));
        assert_eq!(of("front", vec![off(), own]), [Wire::IstioMutual]);
    }

    #[test]
    fn a_rule_of_one_revision_hides_nothing_from_the_clients_of_another() {
        let own =
            Rule { revision: Some("canary".into()), ..rule("front", "*.local", Some(IstioMutual)) };
        let roots = rule(ROOT, "*.local", Some(Disable));
        assert_eq!(wires("front", vec![own, roots]), [Wire::Plaintext, Wire::IstioMutual]);
    }

    #[test]
    fn the_longest_wildcard_wins_and_an_exact_host_beats_it() {
        let wide = rule("shop", "*.local", Some(Disable));
        let narrow = rule("shop", "*.shop.svc.cluster.local", Some(Simple));
        let exact = rule("shop", HOST, Some(IstioMutual));
        assert_eq!(wires("front", vec![wide.clone(), narrow.clone()]), [Wire::Foreign("SIMPLE")]);
        assert_eq!(wires("front", vec![wide, exact, narrow]), [Wire::IstioMutual]);
    }

    #[test]
    fn a_hidden_exact_rule_does_not_fall_back_within_its_namespace() {
        let hidden = to(rule("shop", HOST, Some(IstioMutual)), &["elsewhere"]);
        let wide = rule("shop", "*.local", Some(Disable));
        let root = rule(ROOT, "*", Some(Simple));
        assert_eq!(wires("front", vec![hidden, wide, root]), [Wire::Foreign("SIMPLE")]);
    }

    #[test]
    fn a_private_rule_binds_its_own_namespace_only() {
        let private = to(rule("shop", HOST, Some(Disable)), &["."]);
        assert_eq!(wires("front", vec![private.clone()]), [Wire::Auto]);
        assert_eq!(wires("shop", vec![private]), [Wire::Plaintext]);
    }

    #[test]
    fn a_workload_selector_beats_a_rule_without_one_and_binds_whom_it_selects() {
        let mut selecting = rule("front", HOST, Some(Disable));
        selecting.selector = Some(Labels::from_iter([("app", "web")]));
        let plain = rule("front", HOST, Some(IstioMutual));
        assert_eq!(wires("front", vec![plain.clone(), selecting.clone()]), [Wire::Plaintext]);
        selecting.selector = Some(Labels::from_iter([("app", "other")]));
        assert_eq!(wires("front", vec![plain, selecting]), [Wire::IstioMutual]);
    }

    /// Seen on a real istiod: what stands for the most specific host is all that counts, also where
    /// none of it is for this client.
    #[test]
    fn a_selector_that_selects_others_hides_what_is_less_specific() {
        let mut selecting = to(rule("front", HOST, Some(IstioMutual)), &["elsewhere"]);
        selecting.selector = Some(Labels::from_iter([("app", "other")]));
        let wide = rule("front", "*.local", Some(Disable));
        let beside = rule("shop", HOST, Some(Simple));
        assert_eq!(wires("front", vec![selecting, wide, beside]), [Wire::Auto]);
    }

    /// Seen on a real istiod, whatever its documentation says of the first.
    #[test]
    fn of_rules_that_are_exported_differently_the_last_one_counts() {
        let first = to(rule("shop", HOST, Some(Disable)), &["."]);
        let mut second = to(rule("shop", HOST, Some(IstioMutual)), &["shop", "front"]);
        second.name = "z".into();
        assert_eq!(wires("shop", vec![first.clone(), second.clone()]), [Wire::IstioMutual]);
        second.export_to = first.export_to.clone();
        assert_eq!(wires("shop", vec![first, second]), [Wire::Plaintext]);
    }

    /// The port table of `istio-semantics.md` B4.
    #[test]
    fn port_settings_replace_the_top_level() {
        let with_port = |top: Option<TlsMode>, port: Option<TlsMode>| {
            let mut rule = rule("shop", HOST, None);
            rule.policy =
                Some(TrafficPolicy { tls: top, ports: BTreeMap::from([(Port(80), port)]) });
            let rules = Rules::new(Some(ROOT.into()), vec![rule]);
            let all = rules.client_tls(
                &"front".into(),
                &Labels::default(),
                &"shop".into(),
                &HOST.into(),
                Port(80),
            );
            (all[0].wire.clone(), all[0].told)
        };
        // Taken whole, it leaves TLS unset; the endpoints still go by the top level.
        assert_eq!(with_port(Some(Disable), None), (Wire::Auto, Some(false)));
        assert_eq!(with_port(Some(Simple), None), (Wire::Auto, Some(false)));
        assert_eq!(with_port(Some(IstioMutual), None), (Wire::Auto, Some(true)));
        assert_eq!(with_port(None, None), (Wire::Auto, None));
        assert_eq!(with_port(None, Some(Disable)), (Wire::Plaintext, Some(false)));
        assert_eq!(with_port(Some(Disable), Some(IstioMutual)), (Wire::IstioMutual, Some(true)));
    }

    #[test]
    fn a_subset_overrides_and_is_reported_by_name() {
        let mut rule = rule("shop", HOST, Some(IstioMutual));
        let policy = TrafficPolicy { tls: Some(Disable), ports: BTreeMap::new() };
        rule.subsets = vec![Subset { name: "v2".into(), policy: Some(policy) }];
        assert_eq!(wires("front", vec![rule]), [Wire::IstioMutual, Wire::Plaintext]);
    }

    #[test]
    fn of_two_rules_for_one_host_the_first_with_a_policy_is_taken_whole() {
        let mut older = rule("shop", HOST, Some(Disable));
        older.created = Some(Timestamp::from_second(1).expect("in range"));
        let mut newer = rule("shop", HOST, Some(IstioMutual));
        newer.created = Some(Timestamp::from_second(2).expect("in range"));
        assert_eq!(wires("front", vec![newer.clone(), older.clone()]), [Wire::Plaintext]);
        older.policy = None;
        assert_eq!(wires("front", vec![newer, older]), [Wire::IstioMutual]);
    }
}
