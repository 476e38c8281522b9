//! What the watches have told us, kept as facts, and the snapshot that it makes.

use super::Target;
use super::table::Table;
use crate::kubernetes;
use crate::observe::sidecars::Whose;
use crate::translate::WrittenRule;
use crate::translate::domain::{self, Said, domain};
use crate::translate::entrance::{self, Class, Defined, Routed};
use crate::translate::facts::{Header, NamedService, Parts};
use crate::translate::gateway::{self, GatewayName, Route};
use crate::translate::mesh::{self, MeshConfig};
use crate::translate::pod::{OwnedPod, Owner};
use crate::translate::process::Process;
use jiff::Timestamp;
use kube::Resource;
use meshrollout_core::client_tls::Rules;
use meshrollout_core::effective::Policies;
use meshrollout_core::egress::{Scope, Scopes};
use meshrollout_core::exposure::Entrance;
use meshrollout_core::ident::{Namespace, PodRef};
use meshrollout_core::injection::Injector;
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::scheduled::Scheduled;
use meshrollout_core::scrape::Monitor;
use meshrollout_core::snapshot::{InboundFilter, Mesh, Snapshot, Source, TelemetryOverride};
use meshrollout_core::traffic::Telemetry;
use meshrollout_core::workload::{Machine, NamespaceFacts, Pod, Proxy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether the apiserver serves a kind that need not be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Served {
    /// In the version that we read.
    Here,
    /// In other versions alone: what there is of it we cannot tell.
    Otherwise,
    /// Not at all: there is none.
    Nowhere,
}

/// All facts, and what was made of them.
#[derive(Default)]
pub(super) struct Store {
    pub(super) namespaces: Table<Header>,
    pub(super) pods: Table<OwnedPod>,
    pub(super) deployments: Table<Owner>,
    pub(super) stateful_sets: Table<Owner>,
    pub(super) daemon_sets: Table<Owner>,
    pub(super) services: Table<NamedService>,
    pub(super) machines: Table<Machine>,
    pub(super) roots: Table<BTreeSet<String>>,
    pub(super) policies: Table<Policy>,
    pub(super) rules: Table<WrittenRule>,
    pub(super) egress: Table<Scope>,
    pub(super) inbound_filters: Table<InboundFilter>,
    pub(super) wasm_plugins: Table<Entrance>,
    pub(super) overrides: Table<TelemetryOverride>,
    pub(super) injectors: Table<Webhooks>,
    pub(super) validators: Table<Vec<Entrance>>,
    pub(super) api_services: Table<Entrance>,
    pub(super) definitions: Table<Defined>,
    pub(super) cron_jobs: Table<Arc<Scheduled>>,
    pub(super) ingresses: Table<Routed>,
    pub(super) ingress_classes: Table<Class>,
    pub(super) http_routes: Table<Route>,
    pub(super) grpc_routes: Table<Route>,
    pub(super) gateways: Table<(GatewayName, String)>,
    pub(super) gateway_classes: Table<(String, String)>,
    pub(super) service_monitors: Table<Monitor>,
    pub(super) pod_monitors: Table<Monitor>,
    pub(super) named_mesh: Table<MeshConfig>,
    pub(super) labelled_mesh: Table<MeshConfig>,
    /// By namespace: what was read by itself after a write, and the watch may not have told yet.
    policies_read: BTreeMap<Namespace, Policy>,
    /// What pods say of the domain, and one of each namespace that says so.
    said: BTreeMap<Namespace, BTreeMap<Said, String>>,
    /// The domain of the cluster's Services, with which the next two were made.
    domain: Option<Reading<Arc<str>>>,
    /// The same, by whoever sees more pods than are here.
    told_domain: Option<Reading<Arc<str>>>,
    facts: BTreeMap<Namespace, Arc<NamespaceFacts>>,
    outdated: BTreeSet<Namespace>,
    wide: Option<MeshWide>,
}

/// What speaks for the whole mesh; a copy shares the rest.
#[derive(Clone)]
struct MeshWide {
    mesh: Reading<Mesh>,
    policies: Policies,
    rules: Rules,
    egress: Scopes,
    inbound_filters: Vec<InboundFilter>,
    injectors: Reading<Vec<Injector>>,
    entrances: Reading<Arc<Vec<Entrance>>>,
    scheduled: Reading<Arc<Vec<Arc<Scheduled>>>>,
    monitors: Reading<Arc<Vec<Monitor>>>,
    overrides: Vec<TelemetryOverride>,
}

/// What a webhook configuration says: the injector's part, and where the apiserver calls.
#[derive(Debug, PartialEq)]
pub(super) struct Webhooks {
    pub(super) injectors: Vec<Injector>,
    pub(super) control_planes: BTreeSet<Namespace>,
    pub(super) entrances: Vec<Entrance>,
}

impl Store {
    /// The facts of these namespaces are to be made anew when they are next asked for.
    pub(super) fn outdate(&mut self, namespaces: impl IntoIterator<Item = Namespace>) {
        self.outdated.extend(namespaces);
    }

    /// What speaks for the whole mesh is to be made anew when it is next asked for.
    pub(super) fn outdate_mesh_wide(&mut self) {
        self.wide = None;
    }

    /// A policy that was read by itself.
    pub(super) fn has_read(&mut self, policy: Policy) {
        self.policies_read.insert(policy.namespace.clone(), policy);
        self.outdate_mesh_wide();
    }

    /// What was read by itself, where it is a later version of the same object.
    fn newest(&self, watched: &Policy) -> Policy {
        let version = |policy: &Policy| policy.resource_version.parse::<u64>().ok();
        let read = self.policies_read.get(&watched.namespace).filter(|read| {
            (&read.name, &read.uid) == (&watched.name, &watched.uid)
                && version(read) > version(watched)
        });
        read.unwrap_or(watched).clone()
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        let mut homes = self.control_planes();
        if homes.is_empty() {
            // Webhooks by address lead to no namespace: as for the mesh configuration, where it
            // stands is believed.
            let configs = self.named_mesh.places().chain(self.labelled_mesh.places());
            homes.extend(configs.map(|((namespace, _), _)| namespace.clone()));
        }
        let whose = |namespace: &Namespace, pod: &Pod| match pod.proxy {
            Proxy::Sidecar { .. } | Proxy::Gateway => Some(Whose::Proxy),
            // Elsewhere anybody may give a pod this label.
            _ if homes.contains(namespace) && pod.labels.value("app") == Some("istiod") => {
                Some(Whose::ControlPlane)
            }
            Proxy::None | Proxy::Ambient | Proxy::Proxyless => None,
        };
        self.pods
            .places()
            .filter_map(|((namespace, name), owned)| {
                Some(Target {
                    pod: PodRef { namespace: namespace.clone(), name: name.to_owned() },
                    whose: whose(namespace, &owned.pod)?,
                    process: owned.process.clone()?,
                })
            })
            .collect()
    }

    /// The cluster as these facts describe it.
    pub(super) fn snapshot(
        &mut self,
        at: Timestamp,
        telemetry: Arc<Telemetry>,
        stale: Vec<Cause>,
    ) -> Snapshot {
        self.find_domain();
        for name in std::mem::take(&mut self.outdated) {
            match self.namespace(&name) {
                Some(facts) => drop(self.facts.insert(name, facts)),
                None => drop(self.facts.remove(&name)),
            }
        }
        let wide = self.wide();
        Snapshot {
            at,
            source: Source::Watches,
            mesh: wide.mesh,
            namespaces: self.facts.clone(),
            policies: wide.policies,
            rules: wide.rules,
            egress: wide.egress,
            inbound_filters: wide.inbound_filters,
            injectors: wide.injectors,
            entrances: wide.entrances,
            scheduled: wide.scheduled,
            monitors: wide.monitors,
            overrides: wide.overrides,
            telemetry,
            stale,
        }
    }

    /// `snapshot` with all that speaks for the whole mesh and may stop a write taken from here.
    pub(super) fn mesh_wide(&mut self, snapshot: Snapshot) -> Snapshot {
        let Snapshot { at, source, namespaces, telemetry, stale, egress, inbound_filters, .. } =
            snapshot;
        let own = self.snapshot(at, telemetry, stale);
        Snapshot { source, namespaces, egress, inbound_filters, ..own }
    }

    /// The domain of the cluster's Services, as of the last snapshot.
    pub(super) fn domain(&self) -> Option<Reading<Arc<str>>> {
        self.domain.clone()
    }

    /// It is this, whatever the pods that are here say.
    pub(super) fn is_told_domain(&mut self, domain: Option<Reading<Arc<str>>>) {
        self.told_domain = domain;
    }

    /// In another domain everything has another name.
    fn find_domain(&mut self) {
        if self.outdated.is_empty() && self.wide.is_some() {
            return;
        }
        for name in &self.outdated {
            let mut here = BTreeMap::new();
            for pod in self.pods.facts_of(name) {
                if let Some(said) = pod.says_of_domain() {
                    here.entry(said.clone()).or_insert_with(|| pod.pod.name.clone());
                }
            }
            self.said.remove(name);
            if !here.is_empty() {
                self.said.insert(name.clone(), here);
            }
        }
        let found = self.told_domain.clone().unwrap_or_else(|| {
            let said = self.said.iter().flat_map(|(namespace, here)| {
                here.iter().map(move |(said, pod)| (namespace, pod.as_str(), said))
            });
            domain(said, &self.control_planes())
        });
        if self.domain.as_ref() == Some(&found) {
            return;
        }
        let before = self.domain_or_default().to_owned();
        self.domain = Some(found);
        self.wide = None;
        if self.domain_or_default() != before {
            self.outdated.extend(self.facts.keys().cloned());
        }
    }

    fn domain_or_default(&self) -> &str {
        let known = self.domain.as_ref().and_then(Reading::known);
        known.map_or(domain::DEFAULT, |domain| domain)
    }

    fn wide(&mut self) -> MeshWide {
        if let Some(wide) = &self.wide {
            return wide.clone();
        }
        let mesh = self.mesh();
        // Without it nothing is written anywhere. No namespace has this name, so no policy is taken
        // for the whole mesh's.
        let roots = mesh.known().map(|mesh| mesh.roots.clone()).unwrap_or_default();
        let wide = MeshWide {
            policies: Policies::new(
                roots.first().cloned().unwrap_or_else(|| Namespace::new("")),
                self.policies.all().map(|policy| self.newest(policy)),
            )
            .with_further_roots(roots.iter().skip(1).cloned()),
            rules: Rules::new(
                roots.clone(),
                self.rules.all().map(|rule| rule.within(self.domain_or_default())),
            ),
            egress: Scopes::new(roots, self.egress.all().cloned()),
            inbound_filters: self.inbound_filters.all().cloned().collect(),
            injectors: match self.injectors.listed {
                // In the order of the configurations' names, in which the apiserver calls them.
                true => Reading::Known(
                    self.injectors.all().flat_map(|one| one.injectors.iter().cloned()).collect(),
                ),
                false => Reading::Unknown(Cause::NotRead("the injectors' webhooks".into())),
            },
            entrances: self.entrances(),
            scheduled: match self.cron_jobs.listed {
                true => Reading::Known(Arc::new(self.cron_jobs.all().cloned().collect())),
                false => Reading::Unknown(Cause::NotRead("CronJobs".into())),
            },
            monitors: self.monitors(),
            overrides: self.overrides.all().cloned().collect(),
            mesh,
        };
        self.wide = Some(wide.clone());
        wide
    }

    fn entrances(&self) -> Reading<Arc<Vec<Entrance>>> {
        let known = [
            ("webhook configurations", self.injectors.listed && self.validators.listed),
            ("APIServices", self.api_services.listed),
            ("CustomResourceDefinitions", self.definitions.listed),
            ("Ingresses", self.ingresses.listed && self.ingress_classes.listed),
        ];
        if let Some((missing, _)) = known.iter().find(|(_, is_listed)| !is_listed) {
            return Reading::Unknown(Cause::NotRead((*missing).into()));
        }
        let unread = self
            .unread::<kubernetes::HTTPRoute, _>(&self.http_routes)
            .or_else(|| self.unread::<kubernetes::GRPCRoute, _>(&self.grpc_routes))
            .or_else(|| self.unread::<kubernetes::Gateway, _>(&self.gateways))
            .or_else(|| self.unread::<kubernetes::GatewayClass, _>(&self.gateway_classes));
        if let Some(cause) = unread {
            return Reading::Unknown(cause);
        }
        let classes: Vec<_> = self.ingress_classes.all().cloned().collect();
        let mut all = entrance::by_class(self.ingresses.all(), &classes);
        all.extend(self.injectors.all().flat_map(|one| one.entrances.iter().cloned()));
        all.extend(self.validators.all().flatten().cloned());
        all.extend(self.api_services.all().cloned());
        all.extend(self.wasm_plugins.all().cloned());
        let configs = self.named_mesh.all().chain(self.labelled_mesh.all());
        let control_planes = self.control_planes();
        let configs = mesh::believed(configs, &control_planes);
        all.extend(configs.flat_map(MeshConfig::calls).cloned());
        all.extend(self.definitions.all().filter_map(|one| one.conversion.clone()));
        let gateways: Vec<_> = self.gateways.all().cloned().collect();
        let classes: Vec<_> = self.gateway_classes.all().cloned().collect();
        let routes = self.http_routes.all().chain(self.grpc_routes.all());
        all.extend(gateway::by_gateway(routes, &gateways, &classes));
        Reading::Known(Arc::new(all))
    }

    fn monitors(&self) -> Reading<Arc<Vec<Monitor>>> {
        let unread = self
            .unread::<kubernetes::ServiceMonitor, _>(&self.service_monitors)
            .or_else(|| self.unread::<kubernetes::PodMonitor, _>(&self.pod_monitors));
        if let Some(cause) = unread {
            return Reading::Unknown(cause);
        }
        let all = self.service_monitors.all().chain(self.pod_monitors.all());
        Reading::Known(Arc::new(all.cloned().collect()))
    }

    /// Whether the apiserver serves a kind that need not be there; `None` before the definitions
    /// have come.
    pub(super) fn served<K: Resource<DynamicType = ()>>(&self) -> Option<Served> {
        if !self.definitions.listed {
            return None;
        }
        // A definition is cluster-wide, and filed under its own name.
        let name = Namespace::new(format!("{}.{}", K::plural(&()), K::group(&())));
        let defined = self.definitions.facts_of(&name).next();
        let versions = defined.map_or(&[][..], |defined| &defined.served);
        Some(match versions.iter().any(|version| *version == K::version(&())) {
            true => Served::Here,
            false if versions.is_empty() => Served::Nowhere,
            false => Served::Otherwise,
        })
    }

    /// Which of these definitions, by name, is there and does not carry this fingerprint.
    pub(super) fn differing(&self, definitions: &[(String, String)]) -> Vec<String> {
        let differs = |(name, fingerprint): &&(String, String)| {
            let filed_under = Namespace::new(name.clone());
            let mut defined = self.definitions.facts_of(&filed_under);
            defined.any(|it| it.schema.as_ref() != Some(fingerprint))
        };
        definitions.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    /// Why it is not known what there is of a kind that need not be there.
    fn unread<K: Resource<DynamicType = ()>, T>(&self, table: &Table<T>) -> Option<Cause> {
        match self.served::<K>() {
            Some(Served::Nowhere) => None,
            Some(Served::Here) if table.listed => None,
            Some(Served::Otherwise) => Some(Cause::Malformed(format!(
                "CustomResourceDefinition {}.{}, which does not serve {},",
                K::plural(&()),
                K::group(&()),
                K::version(&())
            ))),
            Some(Served::Here) | None => Some(Cause::NotRead(K::kind(&()).into_owned())),
        }
    }

    /// The facts of one namespace, if there is anything of it.
    pub(super) fn namespace(&self, name: &Namespace) -> Option<Arc<NamespaceFacts>> {
        let owners = [&self.deployments, &self.stateful_sets, &self.daemon_sets];
        let parts = Parts {
            header: self.namespaces.facts_of(name).next(),
            owners: owners.iter().flat_map(|table| table.facts_of(name)).collect(),
            pods: self.pods.facts_of(name).collect(),
            services: self.services.facts_of(name).collect(),
            machines: self.machines.facts_of(name).collect(),
            roots: self.roots.facts_of(name).next(),
        };
        // Pods whose Namespace object has not come yet are there all the same.
        let is_there = parts.header.is_some()
            || !parts.owners.is_empty()
            || !parts.pods.is_empty()
            || !parts.services.is_empty()
            || !parts.machines.is_empty();
        is_there.then(|| Arc::new(parts.facts(name, self.domain_or_default())))
    }

    fn mesh(&self) -> Reading<Mesh> {
        if let Some(Reading::Unknown(why)) = &self.domain {
            return Reading::Unknown(why.clone());
        }
        if !(self.named_mesh.listed && self.labelled_mesh.listed && self.injectors.listed) {
            return Reading::Unknown(Cause::NotRead("the mesh configuration".into()));
        }
        // One may be in both.
        let configs: BTreeMap<_, _> =
            self.named_mesh.places().chain(self.labelled_mesh.places()).collect();
        mesh::mesh(configs.into_values(), &self.control_planes())
    }

    pub(super) fn process(&self, pod: &PodRef) -> Option<&Process> {
        self.pods.get(&pod.namespace, &pod.name)?.process.as_ref()
    }

    /// The namespaces that the injectors' webhooks lead to.
    fn control_planes(&self) -> BTreeSet<Namespace> {
        self.injectors.all().flat_map(|one| one.control_planes.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::objects::table::Place;
    use crate::translate;
    use crate::translate::facts::named_service;
    use crate::translate::pod::owned_pod;
    use meshrollout_core::ident::{Labels, Port};
    use serde_json::json;

    fn place(namespace: &str, name: &str) -> Place {
        (namespace.into(), name.into())
    }

    #[test]
    fn a_kind_without_a_definition_is_known_not_to_be_there_and_one_with_has_to_be_read() {
        let name = "httproutes.gateway.networking.k8s.io";
        let known = |versions: Option<&[&str]>, is_listed: bool| {
            let mut store = Store::default();
            assert_eq!(store.served::<kubernetes::HTTPRoute>(), None);
            store.definitions.begin();
            if let Some(versions) = versions {
                let served = versions.iter().map(|version| (*version).to_owned()).collect();
                let defined = Defined { served, conversion: None, schema: None };
                store.definitions.arrive(place(name, name), Some(defined), |_, _| {});
            }
            store.definitions.finish();
            if is_listed {
                store.http_routes.begin();
                store.http_routes.finish();
            }
            let unread = store.unread::<kubernetes::HTTPRoute, _>(&store.http_routes);
            unread.map_or_else(|| "known".to_owned(), |cause| cause.to_string())
        };
        assert_eq!(known(None, false), "known");
        assert_eq!(known(Some(&[]), false), "known", "not established");
        assert_eq!(known(Some(&["v1beta1", "v1"]), false), "HTTPRoute has not been read");
        assert_eq!(known(Some(&["v1"]), true), "known");
        let other = format!(
            "CustomResourceDefinition {name}, which does not serve v1, cannot be understood"
        );
        assert_eq!(known(Some(&["v1beta1"]), false), other);
        assert_eq!(known(Some(&["v1beta1"]), true), other);
    }

    fn snapshot(store: &mut Store) -> Snapshot {
        let now = Timestamp::UNIX_EPOCH;
        let length = jiff::SignedDuration::from_secs(60);
        let cause = Cause::NotRead("a metrics source".into());
        store.snapshot(now, Arc::new(Telemetry::unknown(now, length, length, &cause)), vec![])
    }

    #[test]
    fn before_the_lists_have_come_the_mesh_is_unknown() {
        let snapshot = snapshot(&mut Store::default());
        assert!(matches!(snapshot.mesh, Reading::Unknown(_)));
        assert!(matches!(snapshot.injectors, Reading::Unknown(_)));
    }

    /// Their names were made before it was told which domain they are in.
    #[test]
    fn in_another_domain_everything_has_another_name() {
        let read = |domains: &[&str], told: Option<&str>| {
            let mut store = Store::default();
            let service = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {}});
            let service = named_service(&serde_json::from_value(service).unwrap());
            store.services.set(place("shop", "web"), Some(service), |_, _| {});
            let rule = json!({"metadata": {"namespace": "shop", "name": "web"},
                "spec": {"host": "web", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}});
            let rule = translate::rule(&serde_json::from_value(rule).unwrap());
            store.rules.set(place("shop", "web"), Some(rule), |_, _| {});
            for listed in [
                &mut store.named_mesh.listed,
                &mut store.labelled_mesh.listed,
                &mut store.injectors.listed,
            ] {
                *listed = true;
            }
            store.named_mesh.set(
                place("istio-system", "istio"),
                Some(MeshConfig::written(&"istio-system".into(), "").unwrap()),
                |_, _| {},
            );
            store.outdate(["shop".into()]);
            snapshot(&mut store);
            for (index, domain) in domains.iter().enumerate() {
                let pod = json!({"metadata": {"namespace": "other", "name": "a"},
                    "spec": {"containers": [{"name": "istio-proxy",
                        "args": ["--domain", format!("$(POD_NAMESPACE).svc.{domain}")]}]}});
                let pod = owned_pod(&serde_json::from_value(pod).unwrap());
                store.pods.set(place("other", &index.to_string()), Some(pod), |_, _| {});
            }
            store.outdate(["other".into()]);
            store.is_told_domain(told.map(|domain| Reading::Known(domain.into())));
            let snapshot = snapshot(&mut store);
            let facts = &snapshot.namespaces[&Namespace::from("shop")];
            let host = facts.services[0].host.clone();
            let (shop, labels) = (Namespace::from("shop"), Labels::default());
            let tls = snapshot.rules.client_tls(&shop, &labels, &shop, &host, Port(80));
            let is_for_it = tls.iter().all(|one| one.decided_by.is_some());
            (host.to_string(), is_for_it, snapshot.mesh.cause().map(ToString::to_string))
        };
        let by = |domain: &str| (format!("web.shop.svc.{domain}"), true, None);
        assert_eq!(read(&[], None), by("cluster.local"));
        assert_eq!(read(&["corp.example"], None), by("corp.example"));
        assert_eq!(read(&["corp.example"], Some("told.example")), by("told.example"));
        let (.., why) = read(&["corp.example", "old.example"], None);
        assert!(why.is_some_and(|why| why.contains("corp.example, and other/a with old.example")));
    }

    #[test]
    fn the_sidecar_of_each_root_namespace_counts() {
        let mut store = Store::default();
        store.named_mesh.begin();
        store.egress.begin();
        for root in ["usergroup-1", "usergroup-2"] {
            let config = MeshConfig::written(&root.into(), "").unwrap();
            store.named_mesh.arrive(place(root, "istio"), Some(config), |_, _| {});
            let sidecar = json!({"metadata": {"namespace": root, "name": "default"}, "spec": {}});
            let scope = translate::scope(&serde_json::from_value(sidecar).unwrap());
            store.egress.arrive(place(root, "default"), Some(scope), |_, _| {});
        }
        store.named_mesh.finish();
        store.egress.finish();
        store.labelled_mesh.listed = true;
        store.injectors.listed = true;
        let snapshot = snapshot(&mut store);
        assert!(snapshot.policies.roots().eq(&["usergroup-1".into(), "usergroup-2".into()]));
        let in_force = snapshot.egress.in_force(&"shop".into(), &Labels::default());
        assert_eq!(in_force.iter().flatten().count(), 2, "{in_force:?}");
    }
}
