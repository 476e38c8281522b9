//! Which hosts a client's proxy knows: what its Sidecar lets in of the whole registry.
//!
//! Source: Istio `pilot/pkg/model/push_context.go:getSidecarScope` (which one is in force),
//! `pilot/pkg/model/sidecar.go:convertToSidecarScope` and `selectServices` (what it imports).

use crate::ident::{Host, Labels, Namespace, Port, by_namespace};
use crate::view::Views;
use crate::workload::{NamespaceFacts, Workload};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One Sidecar, as far as it says what its clients know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scope {
    /// Where it stands.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Creation time; one from a file has none and counts as newest.
    pub created: Option<Timestamp>,
    /// The clients it is for; empty: all of its namespace, or from the root namespace of every
    /// namespace that has none of its own.
    pub selector: Labels,
    /// What it imports, as `egress.hosts` has it. `None`: everything, as where nothing is said.
    pub imports: Option<Vec<Import>>,
    /// What is not known is not sent at all (`outboundTrafficPolicy: REGISTRY_ONLY`). `None`: as
    /// the mesh's configuration has it.
    pub sends_to_known_only: Option<bool>,
    /// The revision it is bound to: only that control plane reads it.
    pub revision: Option<String>,
    /// It says itself on what its pods listen (`ingress`).
    pub listens: bool,
}

/// `NAMESPACE/HOST` of an `egress.hosts`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Import {
    /// Of whose Services.
    pub of: Whose,
    /// Those that this matches, with or without a wildcard.
    pub host: Host,
    /// Of these only this port, where the listener has one.
    pub port: Option<Port>,
}

/// The namespaces that an import speaks of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whose {
    /// Any.
    Any,
    /// The client's, wherever the Sidecar stands: one in the root namespace speaks for all.
    Clients,
    /// This one.
    Named(Namespace),
}

/// Every Sidecar of the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scopes {
    by_namespace: BTreeMap<Namespace, Arc<Vec<Scope>>>,
    views: Views,
}

impl Scopes {
    /// Sorts `scopes` as istiod does: those with a selector first, then the oldest, then by name.
    /// `roots` are the root namespaces of all control planes.
    pub fn new(
        roots: impl IntoIterator<Item = Namespace>,
        scopes: impl IntoIterator<Item = Scope>,
    ) -> Self {
        let order = |one: &Scope| (one.selector.is_empty(), one.created.is_none(), one.created);
        let scopes: Vec<_> = scopes.into_iter().collect();
        let views = Views::new(roots, scopes.iter().filter_map(|one| one.revision.as_ref()));
        let by_namespace = by_namespace(
            scopes,
            |one| &one.namespace,
            |a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)),
        );
        Self { by_namespace, views }
    }

    /// No client's view is narrowed.
    pub fn is_empty(&self) -> bool {
        self.by_namespace.is_empty()
    }

    /// What is in force for clients of `namespace` with `labels`; `None`: nothing, they know all that
    /// is exported to them. Several where several control planes would tell them different things:
    /// which of them is theirs is not known.
    pub fn in_force(&self, namespace: &Namespace, labels: &Labels) -> Vec<Option<&Scope>> {
        let of =
            |namespace| self.by_namespace.get(namespace).into_iter().flat_map(|all| all.iter());
        self.views.each(|view| {
            let read = |one: &&Scope| view.reads(one.revision.as_deref());
            let own = of(namespace).filter(read).find(|one| one.selector.select(labels));
            own.or_else(|| of(view.root?).filter(read).find(|one| one.selector.is_empty()))
        })
    }
}

impl Scopes {
    /// What is in force for the clients of a namespace, each once.
    pub fn in_force_in(&self, client: &NamespaceFacts) -> Vec<&Scope> {
        let own = self.by_namespace.get(&client.name);
        let tells_apart = own.is_some_and(|all| all.iter().any(|one| !one.selector.is_empty()));
        if !tells_apart {
            let all = self.in_force(&client.name, &Labels::default());
            return all.into_iter().flatten().collect();
        }
        let mut found: Vec<&Scope> = vec![];
        for pod in client.workloads.values().flat_map(Workload::meshed) {
            for scope in self.in_force(&client.name, &pod.labels).into_iter().flatten() {
                if !found.iter().any(|one| std::ptr::eq(*one, scope)) {
                    found.push(scope);
                }
            }
        }
        found
    }
}

impl Scope {
    /// Clients in `client` know `port` of `host`, which is a Service of `namespace`.
    pub fn imports(
        &self,
        client: &Namespace,
        namespace: &Namespace,
        host: &Host,
        port: Port,
    ) -> bool {
        let Some(imports) = &self.imports else { return true };
        imports.iter().any(|import| {
            let is_of = match &import.of {
                Whose::Any => true,
                Whose::Clients => client == namespace,
                Whose::Named(one) => one == namespace,
            };
            is_of
                && import.port.is_none_or(|one| one == port)
                && matches(import.host.as_str(), host.as_str())
        })
    }
}

/// `*` and `*.suffix` are patterns, anything else is the name itself (`pkg/config/host/name.go`).
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scopes: &[Option<&Scope>]) -> Vec<String> {
        scopes.iter().map(|one| one.map_or("nothing", |one| &one.name).to_owned()).collect()
    }

    fn scope(namespace: &str, name: &str, created: Option<i64>, app: Option<&str>) -> Scope {
        Scope {
            namespace: namespace.into(),
            name: name.into(),
            created: created.map(|at| Timestamp::from_second(at).unwrap()),
            selector: app.map(|app| ("app", app)).into_iter().collect(),
            imports: Some(vec![]),
            sends_to_known_only: None,
            revision: None,
            listens: false,
        }
    }

    #[test]
    fn a_sidecar_of_one_revision_is_in_force_for_its_clients_alone() {
        let canary = Scope { revision: Some("canary".into()), ..scope("shop", "own", None, None) };
        let scopes = Scopes::new(Some("root".into()), [canary, scope("root", "all", None, None)]);
        assert_eq!(names(&scopes.in_force(&"shop".into(), &Labels::default())), ["all", "own"]);
    }

    #[test]
    fn the_oldest_that_selects_comes_first_and_then_the_oldest_for_all_and_then_the_roots() {
        let scopes = Scopes::new(
            Some("root".into()),
            [
                scope("shop", "b-all", Some(2), None),
                scope("shop", "a-all", None, None),
                scope("shop", "web-new", Some(9), Some("web")),
                scope("shop", "web-old", Some(8), Some("web")),
                scope("root", "all", Some(5), None),
                scope("root", "some", Some(1), Some("web")),
            ],
        );
        let name = |namespace: &str, app: &str| {
            let labels = [("app", app)].into_iter().collect();
            names(&scopes.in_force(&namespace.into(), &labels))
        };
        assert_eq!(name("shop", "web"), ["web-old"]);
        assert_eq!(name("shop", "other"), ["b-all"]);
        assert_eq!(name("elsewhere", "web"), ["all"]);
        let without_root = Scopes::new(None, [scope("shop", "web", None, Some("web"))]);
        assert_eq!(without_root.in_force(&"shop".into(), &Labels::default()), [None]);
    }

    #[test]
    fn each_of_several_roots_may_be_the_clients() {
        let roots = ["root", "second", "third"].map(Namespace::new);
        let own = scope("shop", "own", None, Some("web"));
        let scopes = Scopes::new(
            roots,
            [own, scope("root", "all", None, None), scope("third", "other", None, None)],
        );
        let of = |labels: Labels| names(&scopes.in_force(&"shop".into(), &labels));
        assert_eq!(of(Labels::default()), ["all", "nothing", "other"]);
        assert_eq!(of([("app", "web")].into_iter().collect()), ["own"]);
    }

    #[test]
    fn what_is_imported_is_said_by_namespace_and_name_or_pattern_and_port() {
        let host: Host = "cart.shop.svc.cluster.local".into();
        let imports_for = |client: &str, of: Whose, pattern: &str, port: Option<u16>| {
            let import = Import { of, host: pattern.into(), port: port.map(Port) };
            let scope = Scope { imports: Some(vec![import]), ..scope("web", "x", None, None) };
            scope.imports(&client.into(), &"shop".into(), &host, Port(80))
        };
        let imports = |of, pattern, port| imports_for("web", of, pattern, port);
        let shop = || Whose::Named("shop".into());
        assert!(imports(Whose::Any, "*", None));
        assert!(imports(shop(), "*", None));
        assert!(imports(shop(), "*.shop.svc.cluster.local", None));
        assert!(imports(shop(), "cart.shop.svc.cluster.local", None));
        assert!(!imports(Whose::Named("web".into()), "*", None));
        assert!(!imports(shop(), "cart", None));
        assert!(!imports(shop(), "*.web.svc.cluster.local", None));
        assert!(imports(shop(), "*", Some(80)));
        assert!(!imports(shop(), "*", Some(81)));
        // The client's own, not the Sidecar's.
        assert!(!imports(Whose::Clients, "*", None));
        assert!(imports_for("shop", Whose::Clients, "*", None));
        let of = |imports| Scope { imports, ..scope("web", "x", None, None) };
        let any = |scope: &Scope| scope.imports(&"web".into(), &"shop".into(), &host, Port(80));
        assert!(!any(&of(Some(vec![]))));
        assert!(any(&of(None)));
    }
}
