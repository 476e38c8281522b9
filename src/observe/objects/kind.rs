//! The kinds that are watched: what is read of each object and where it is filed.

use super::store::{Store, Webhooks};
use super::table::{Place, Table};
use crate::translate::entrance::{self, Class, Defined, Routed};
use crate::translate::facts::{Header, NamedService, header, named_service};
use crate::translate::gateway::{self, GatewayName, Route};
use crate::translate::mesh::{MeshConfig, config};
use crate::translate::monitor;
use crate::translate::pod::{OwnedPod, Owner, daemon_set, deployment, owned_pod, stateful_set};
use crate::translate::{self, WrittenRule, schedule};
use crate::{istio, kubernetes};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use meshrollout_core::egress::Scope;
use meshrollout_core::exposure::Entrance;
use meshrollout_core::ident::Namespace;
use meshrollout_core::policy::Policy;
use meshrollout_core::scheduled::Scheduled;
use meshrollout_core::scrape::Monitor;
use meshrollout_core::snapshot::{InboundFilter, TelemetryOverride};
use meshrollout_core::workload::Machine;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

/// How objects `K` become facts `T`.
pub(super) struct Kind<K, T> {
    /// As it is called in messages.
    pub(super) name: &'static str,
    /// Reads what an object says; `None` when it says nothing to us.
    pub(super) read: fn(&K) -> Option<T>,
    /// Where the facts are filed.
    pub(super) table: fn(&mut Store) -> &mut Table<T>,
    /// Lets a fact hold in common with its neighbour by name what is the same in both.
    pub(super) share: fn(&mut T, &T),
    /// Its facts are part of their namespace's.
    pub(super) makes_namespace: bool,
    /// It is there only where somebody has installed its CustomResourceDefinition.
    pub(super) is_optional: bool,
    /// Selects by fields.
    pub(super) fields: Option<&'static str>,
    /// Selects by labels.
    pub(super) labels: Option<&'static str>,
}

impl<K, T> Clone for Kind<K, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, T> Copy for Kind<K, T> {}

impl<K, T> Kind<K, T> {
    const fn new(
        name: &'static str,
        read: fn(&K) -> Option<T>,
        table: fn(&mut Store) -> &mut Table<T>,
    ) -> Self {
        Self {
            name,
            read,
            table,
            share: |_, _| {},
            makes_namespace: false,
            is_optional: false,
            fields: None,
            labels: None,
        }
    }

    const fn of_namespace(mut self) -> Self {
        self.makes_namespace = true;
        self
    }

    const fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    const fn sharing(mut self, share: fn(&mut T, &T)) -> Self {
        self.share = share;
        self
    }

    const fn fields(mut self, fields: &'static str) -> Self {
        self.fields = Some(fields);
        self
    }

    const fn labels(mut self, labels: &'static str) -> Self {
        self.labels = Some(labels);
        self
    }
}

/// Whoever has something to do with every kind.
pub(super) trait Visitor {
    fn visit<K, T>(&mut self, kind: Kind<K, T>)
    where
        K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + Send + Sync + 'static,
        T: PartialEq + Send + 'static;
}

/// All kinds, one after the other.
pub(super) fn each(visitor: &mut impl Visitor) {
    visitor.visit(NAMESPACES);
    visitor.visit(PODS);
    visitor.visit(DEPLOYMENTS);
    visitor.visit(STATEFUL_SETS);
    visitor.visit(DAEMON_SETS);
    visitor.visit(SERVICES);
    visitor.visit(WORKLOAD_ENTRIES);
    visitor.visit(ROOTS);
    visitor.visit(POLICIES);
    visitor.visit(RULES);
    visitor.visit(SIDECARS);
    visitor.visit(ENVOY_FILTERS);
    visitor.visit(WASM_PLUGINS);
    visitor.visit(OVERRIDES);
    visitor.visit(INJECTORS);
    visitor.visit(VALIDATORS);
    visitor.visit(API_SERVICES);
    visitor.visit(DEFINITIONS);
    visitor.visit(CRON_JOBS);
    visitor.visit(INGRESSES);
    visitor.visit(INGRESS_CLASSES);
    visitor.visit(HTTP_ROUTES);
    visitor.visit(GRPC_ROUTES);
    visitor.visit(GATEWAYS);
    visitor.visit(GATEWAY_CLASSES);
    visitor.visit(SERVICE_MONITORS);
    visitor.visit(POD_MONITORS);
    visitor.visit(NAMED_MESH);
    visitor.visit(LABELLED_MESH);
}

/// Where an object is filed.
pub(super) fn place(meta: &ObjectMeta) -> Place {
    let name = meta.name.clone().unwrap_or_default();
    (Namespace::new(meta.namespace.clone().unwrap_or_else(|| name.clone())), name)
}

pub(super) const NAMESPACES: Kind<kubernetes::Namespace, Header> =
    Kind::new("Namespace", |object| Some(header(object)), |store| &mut store.namespaces)
        .of_namespace();

pub(super) const PODS: Kind<kubernetes::Pod, OwnedPod> =
    Kind::new("Pod", |object| Some(owned_pod(object)), |store| &mut store.pods)
        .of_namespace()
        .sharing(OwnedPod::share);

pub(super) const DEPLOYMENTS: Kind<kubernetes::Deployment, Owner> =
    Kind::new("Deployment", |object| Some(deployment(object)), |store| &mut store.deployments)
        .of_namespace();

pub(super) const STATEFUL_SETS: Kind<kubernetes::StatefulSet, Owner> =
    Kind::new("StatefulSet", |object| Some(stateful_set(object)), |store| &mut store.stateful_sets)
        .of_namespace();

pub(super) const DAEMON_SETS: Kind<kubernetes::DaemonSet, Owner> =
    Kind::new("DaemonSet", |object| Some(daemon_set(object)), |store| &mut store.daemon_sets)
        .of_namespace();

pub(super) const SERVICES: Kind<kubernetes::Service, NamedService> =
    Kind::new("Service", |object| Some(named_service(object)), |store| &mut store.services)
        .of_namespace();

pub(super) const WORKLOAD_ENTRIES: Kind<istio::WorkloadEntry, Machine> = Kind::new(
    "WorkloadEntry",
    |object| Some(translate::machine(object)),
    |store| &mut store.machines,
)
.of_namespace();

/// One in each namespace, by its name alone.
pub(super) const ROOTS: Kind<kubernetes::ConfigMap, BTreeSet<String>> =
    Kind::new("ConfigMap istio-ca-root-cert", translate::roots, |store| &mut store.roots)
        .of_namespace()
        .fields("metadata.name=istio-ca-root-cert");

pub(super) const POLICIES: Kind<istio::PeerAuthentication, Policy> = Kind::new(
    "PeerAuthentication",
    |object| Some(translate::policy(object)),
    |store| &mut store.policies,
);

pub(super) const RULES: Kind<istio::DestinationRule, WrittenRule> =
    Kind::new("DestinationRule", |object| Some(translate::rule(object)), |store| &mut store.rules);

pub(super) const OVERRIDES: Kind<istio::Telemetry, TelemetryOverride> =
    Kind::new("Telemetry", translate::telemetry, |store| &mut store.overrides);

pub(super) const SIDECARS: Kind<istio::Sidecar, Scope> =
    Kind::new("Sidecar", |object| Some(translate::scope(object)), |store| &mut store.egress);

pub(super) const ENVOY_FILTERS: Kind<istio::EnvoyFilter, InboundFilter> =
    Kind::new("EnvoyFilter", translate::inbound_filter, |store| &mut store.inbound_filters);

pub(super) const WASM_PLUGINS: Kind<istio::WasmPlugin, Entrance> =
    Kind::new("WasmPlugin", entrance::fetched, |store| &mut store.wasm_plugins);

pub(super) const INJECTORS: Kind<MutatingWebhookConfiguration, Webhooks> = Kind::new(
    "MutatingWebhookConfiguration",
    |object| {
        let injectors = translate::injectors(object);
        let control_planes = translate::control_planes(object);
        let entrances = entrance::mutating(object);
        let says_nothing = injectors.is_empty() && entrances.is_empty();
        (!says_nothing).then_some(Webhooks { injectors, control_planes, entrances })
    },
    |store| &mut store.injectors,
);

pub(super) const VALIDATORS: Kind<ValidatingWebhookConfiguration, Vec<Entrance>> = Kind::new(
    "ValidatingWebhookConfiguration",
    |object| Some(entrance::validating(object)),
    |store| &mut store.validators,
);

pub(super) const API_SERVICES: Kind<kubernetes::APIService, Entrance> =
    Kind::new("APIService", entrance::aggregated, |store| &mut store.api_services);

/// Their schemas are large and never become values; what is kept is which versions are served and
/// where objects are converted.
pub(super) const DEFINITIONS: Kind<kubernetes::CustomResourceDefinition, Defined> = Kind::new(
    "CustomResourceDefinition",
    |object| Some(entrance::defined(object)),
    |store| &mut store.definitions,
);

pub(super) const CRON_JOBS: Kind<kubernetes::CronJob, Arc<Scheduled>> = Kind::new(
    "CronJob",
    |object| schedule::scheduled(object).map(Arc::new),
    |store| &mut store.cron_jobs,
);

pub(super) const INGRESSES: Kind<kubernetes::Ingress, Routed> =
    Kind::new("Ingress", |object| Some(entrance::routed(object)), |store| &mut store.ingresses);

pub(super) const INGRESS_CLASSES: Kind<kubernetes::IngressClass, Class> = Kind::new(
    "IngressClass",
    |object| Some(entrance::class(object)),
    |store| &mut store.ingress_classes,
);

pub(super) const HTTP_ROUTES: Kind<kubernetes::HTTPRoute, Route> =
    Kind::new("HTTPRoute", |object| Some(gateway::http(object)), |store| &mut store.http_routes)
        .optional();

pub(super) const GRPC_ROUTES: Kind<kubernetes::GRPCRoute, Route> =
    Kind::new("GRPCRoute", |object| Some(gateway::grpc(object)), |store| &mut store.grpc_routes)
        .optional();

pub(super) const GATEWAYS: Kind<kubernetes::Gateway, (GatewayName, String)> =
    Kind::new("Gateway", |object| Some(gateway::gateway(object)), |store| &mut store.gateways)
        .optional();

pub(super) const GATEWAY_CLASSES: Kind<kubernetes::GatewayClass, (String, String)> = Kind::new(
    "GatewayClass",
    |object| Some(gateway::controller(object)),
    |store| &mut store.gateway_classes,
)
.optional();

pub(super) const SERVICE_MONITORS: Kind<kubernetes::ServiceMonitor, Monitor> =
    Kind::new("ServiceMonitor", monitor::of_services, |store| &mut store.service_monitors)
        .optional();

pub(super) const POD_MONITORS: Kind<kubernetes::PodMonitor, Monitor> =
    Kind::new("PodMonitor", monitor::of_pods, |store| &mut store.pod_monitors).optional();

/// The default control plane's mesh configuration. A selector keeps the watch narrow: a cluster's
/// ConfigMaps are many and large.
pub(super) const NAMED_MESH: Kind<kubernetes::ConfigMap, MeshConfig> =
    Kind::new("ConfigMap istio", config, |store| &mut store.named_mesh)
        .fields("metadata.name=istio");

/// Those of the revisions, which Istio's chart labels so.
pub(super) const LABELLED_MESH: Kind<kubernetes::ConfigMap, MeshConfig> =
    Kind::new("ConfigMap of a revision", config, |store| &mut store.labelled_mesh)
        .labels("istio.io/rev");
