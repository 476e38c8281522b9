//! What a meshed client puts on the wire towards a host, with the DestinationRule that decided it.
//!
//! Source: Istio `pilot/pkg/model/push_context.go:destinationRule` (look-up),
//! `destination_rule.go:mergeDestinationRule` (merge), `networking/util/util.go` and
//! `xds/endpoints/mtls_checker.go` (port and subset); `istio-semantics.md` B2–B4.

use crate::ident::{Host, Labels, Namespace, Port};
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
    /// What could not be read of it; whatever it decides is unknown.
    pub malformed: Option<String>,
}

/// Every DestinationRule of the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    by_namespace: BTreeMap<Namespace, Arc<Vec<Rule>>>,
    root: Option<Namespace>,
}

/// The client TLS in force on one port and subset, and the rule that decided it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientTls<'a> {
    /// What goes on the wire.
    pub wire: Wire,
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
    pub fn new(root: Option<Namespace>, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut by_namespace: BTreeMap<Namespace, Vec<Rule>> = BTreeMap::new();
        for rule in rules {
            by_namespace.entry(rule.namespace.clone()).or_default().push(rule);
        }
        for rules in by_namespace.values_mut() {
            rules.sort_by(|a, b| {
                let order =
                    |rule: &Rule| (rule.selector.is_none(), rule.created.is_none(), rule.created);
                order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name))
            });
        }
        let by_namespace =
            by_namespace.into_iter().map(|(name, rules)| (name, Arc::new(rules))).collect();
        Self { by_namespace, root }
    }

    /// The rules of one namespace, in Istio's order.
    pub fn of(&self, namespace: &Namespace) -> &[Rule] {
        self.by_namespace.get(namespace).map_or(&[], |rules| rules.as_slice())
    }

    /// Everything that clients of `client` (with `labels`, if one workload is meant) may put on the
    /// wire towards `port` of `host`, which is served in `server`: the whole host first, then each
    /// subset that differs.
    pub fn client_tls(
        &self,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
        port: Port,
    ) -> Vec<ClientTls<'_>> {
        let merged = self.in_force(client, labels, server, host);
        let Some(first) = merged.first().copied() else {
            return vec![ClientTls { wire: Wire::Auto, decided_by: None, subset: None }];
        };
        if let Some((rule, why)) =
            merged.iter().find_map(|rule| Some((*rule, rule.malformed.as_ref()?)))
        {
            let wire = Wire::Unknown(why.clone());
            return vec![ClientTls { wire, decided_by: Some(rule), subset: None }];
        }
        // `trafficPolicy` is taken whole from the first rule that has one, never field by field.
        let speaks = merged.iter().copied().find(|rule| rule.policy.is_some());
        let base = speaks.and_then(|rule| rule.policy.as_ref());
        let whole = ClientTls {
            wire: wire(base.and_then(|policy| policy.resolve(port))),
            decided_by: Some(speaks.unwrap_or(first)),
            subset: None,
        };
        let mut seen = BTreeSet::new();
        let mut all = vec![whole];
        for rule in &merged {
            // Subsets are united by name, the first rule to name one wins.
            for subset in rule.subsets.iter().filter(|subset| seen.insert(&subset.name)) {
                let Some(own) = subset.policy.as_ref() else { continue };
                let tls = match own.ports.get(&port) {
                    Some(on_port) => on_port.as_ref(),
                    None => match &own.tls {
                        Some(tls) => Some(tls),
                        None => base.and_then(|policy| policy.resolve(port)),
                    },
                };
                all.push(ClientTls {
                    wire: wire(tls),
                    decided_by: Some(rule),
                    subset: Some(&subset.name),
                });
            }
        }
        all
    }

    /// The rule in force asks for PASSTHROUGH load balancing.
    pub fn is_passthrough(
        &self,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
    ) -> bool {
        self.in_force(client, labels, server, host).iter().any(|rule| rule.passthrough)
    }

    /// The rules in force for a client, to be merged in this order. Never across namespaces: a
    /// wildcard in the client's namespace hides an exact rule beside the service (B3).
    fn in_force(
        &self,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
    ) -> Vec<&Rule> {
        let root = self.root.as_ref();
        let is_root_client = root == Some(client);
        if !is_root_client {
            let own = self.most_specific(client, host, |rule| {
                rule.selector.as_ref().is_none_or(|selector| selector.select(labels))
                    && rule.is_visible_in_its_own_namespace()
            });
            if !own.is_empty() {
                return own;
            }
        } else {
            let own = self.most_specific(client, host, Rule::is_private);
            if !own.is_empty() {
                return own;
            }
        }
        for namespace in [Some(server), root].into_iter().flatten() {
            // The most specific host is chosen before visibility is asked; a hidden one does not
            // fall back to a less specific one of the same namespace.
            let candidates = self.most_specific(namespace, host, |rule| {
                rule.selector.is_none() && !rule.is_private()
            });
            let visible: Vec<_> =
                candidates.into_iter().filter(|rule| rule.is_exported_to(client)).collect();
            if !visible.is_empty() {
                return visible;
            }
        }
        vec![]
    }

    /// The rules of `namespace` for the most specific host that covers `host`. Those with a
    /// selector beat the others.
    fn most_specific(
        &self,
        namespace: &Namespace,
        host: &Host,
        admit: impl Fn(&Rule) -> bool,
    ) -> Vec<&Rule> {
        let covering: Vec<_> = self
            .of(namespace)
            .iter()
            .filter(|rule| admit(rule) && covers(&rule.host, host))
            .collect();
        let best = |rules: &[&Rule]| rules.iter().map(|rule| specificity(&rule.host)).max();
        let selecting: Vec<_> =
            covering.iter().copied().filter(|rule| rule.selector.is_some()).collect();
        let pool = if selecting.is_empty() { covering } else { selecting };
        let Some(best) = best(&pool) else { return vec![] };
        pool.into_iter().filter(|rule| specificity(&rule.host) == best).collect()
    }
}

impl Rule {
    fn is_visible_in_its_own_namespace(&self) -> bool {
        self.export_to.is_empty()
            || ["*", ".", self.namespace.as_str()].iter().any(|to| self.export_to.contains(*to))
    }

    /// Exported to its own namespace only.
    fn is_private(&self) -> bool {
        !self.export_to.is_empty()
            && self.export_to.iter().all(|to| to == "." || to == self.namespace.as_str())
    }

    fn is_exported_to(&self, client: &Namespace) -> bool {
        self.export_to.is_empty()
            || self.export_to.contains("*")
            || self.export_to.contains(client.as_str())
            || (self.export_to.contains(".") && self.namespace == *client)
    }
}

impl TrafficPolicy {
    /// The TLS to a Service port (B4). The cluster takes the port entry whole, so an entry without
    /// `tls` leaves it unset; but the endpoint checker still falls back to the top level, and a
    /// top-level DISABLE or SIMPLE then comes out as plaintext.
    fn resolve(&self, port: Port) -> Option<&TlsMode> {
        match self.ports.get(&port) {
            None => self.tls.as_ref(),
            Some(Some(tls)) => Some(tls),
            Some(None) => match &self.tls {
                Some(TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual) => {
                    Some(&TlsMode::Disable)
                }
                Some(TlsMode::IstioMutual) | None => None,
                Some(unknown @ TlsMode::Unknown(_)) => Some(unknown),
            },
        }
    }
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

/// `*` covers everything, `*.suffix` covers what ends in `.suffix`, anything else only itself.
fn covers(rule: &Host, host: &Host) -> bool {
    match rule.as_str().strip_prefix('*') {
        Some(suffix) => host.as_str().ends_with(suffix),
        None => rule == host,
    }
}

/// Exact beats wildcard, among wildcards the longest wins.
fn specificity(host: &Host) -> (bool, usize) {
    (!host.as_str().starts_with('*'), host.as_str().len())
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

    /// The port table of `istio-semantics.md` B4.
    #[test]
    fn port_settings_replace_the_top_level() {
        let with_port = |top: Option<TlsMode>, port: Option<TlsMode>| {
            let mut rule = rule("shop", HOST, None);
            rule.policy =
                Some(TrafficPolicy { tls: top, ports: BTreeMap::from([(Port(80), port)]) });
            wires("front", vec![rule])
        };
        assert_eq!(with_port(Some(Disable), None), [Wire::Plaintext]);
        assert_eq!(with_port(Some(Simple), None), [Wire::Plaintext]);
        assert_eq!(with_port(Some(IstioMutual), None), [Wire::Auto]);
        assert_eq!(with_port(None, Some(Disable)), [Wire::Plaintext]);
        assert_eq!(with_port(Some(Disable), Some(IstioMutual)), [Wire::IstioMutual]);
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
