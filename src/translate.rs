//! Kubernetes and Istio objects into the core's words. Nothing is decided here.

pub mod domain;
pub mod entrance;
pub mod evidence;
pub mod facts;
pub mod gateway;
mod identity;
mod inbound;
pub mod mesh;
pub mod monitor;
pub mod ours;
pub mod pod;
pub mod process;
pub mod schedule;
mod sidecar;
mod telemetry;

pub use identity::{machine, roots};
pub use sidecar::{inbound_filter, scope};
pub use telemetry::telemetry;

use crate::{istio, kubernetes};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshrollout_core::client_tls::{Rule, Subset, TlsMode, TrafficPolicy};
use meshrollout_core::ident::{
    Host, Labels, Namespace, Operator, Port, Requirement, Selector, Uid,
};
use meshrollout_core::injection::Injector;
use meshrollout_core::mode::Declared;
use meshrollout_core::policy::Policy;
use meshrollout_core::workload::{Service, ServicePort};
use std::collections::BTreeSet;

/// A PeerAuthentication as facts. One that cannot be read decides an unknown mode.
pub fn policy(object: &istio::PeerAuthentication) -> Policy {
    let meta = &object.metadata;
    let mode = |mtls: Option<&istio::MutualTls>| {
        let mode = mtls.and_then(|mtls| mtls.mode.as_ref()).map(ToString::to_string);
        Declared::parse(mode.as_deref())
    };
    let mut policy = Policy {
        namespace: namespace(meta),
        name: meta.name.clone().unwrap_or_default(),
        uid: Uid::new(meta.uid.clone().unwrap_or_default()),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        selector: Labels::default(),
        mode: Declared::Unset,
        ports: Default::default(),
        revision: revision(meta),
        managers: managers(meta),
        owner: owner(meta),
        ours: ours::read(meta),
    };
    match object.spec.as_result() {
        Ok(spec) => {
            policy.selector = selector(spec.selector.as_ref());
            policy.mode = mode(spec.mtls.as_ref());
            for (port, mtls) in spec.port_level_mtls.iter().flatten() {
                match port.parse() {
                    Ok(port) => drop(policy.ports.insert(Port(port), mode(Some(mtls)))),
                    Err(_) => policy.mode = Declared::Unknown(format!("port {port}")),
                }
            }
        }
        Err(why) => policy.mode = Declared::Unknown(why.to_owned()),
    }
    policy
}

/// The revision that an object is bound to (`istio-semantics.md` A8).
fn revision(meta: &ObjectMeta) -> Option<String> {
    labels(meta).value("istio.io/rev").map(str::to_owned)
}

/// A DestinationRule whose host is as its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenRule(Rule);

impl WrittenRule {
    /// Its short host expanded with its own namespace (`istio-semantics.md` B3) and the domain of
    /// the cluster's Services. Dotted names and wildcards are whole.
    pub fn within(&self, domain: &str) -> Rule {
        let mut rule = self.0.clone();
        let host = rule.host.as_str();
        if !host.contains('.') && !host.starts_with('*') {
            rule.host = Host::new(format!("{host}.{}.svc.{domain}", rule.namespace));
        }
        rule
    }
}

/// A DestinationRule as facts.
pub fn rule(object: &istio::DestinationRule) -> WrittenRule {
    let meta = &object.metadata;
    let mut rule = Rule {
        namespace: namespace(meta),
        name: meta.name.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        host: Host::new("*"),
        export_to: Default::default(),
        selector: None,
        policy: None,
        passthrough: false,
        subsets: vec![],
        revision: revision(meta),
        malformed: None,
    };
    match object.spec.as_result() {
        Ok(spec) => {
            rule.host = Host::new(&spec.host);
            rule.export_to = spec.export_to.iter().cloned().collect();
            rule.selector = spec.workload_selector.as_ref().map(|one| selector(Some(one)));
            rule.passthrough = spec
                .traffic_policy
                .as_ref()
                .and_then(|policy| policy.load_balancer.as_ref()?.simple.as_deref())
                == Some("PASSTHROUGH");
            rule.policy = spec.traffic_policy.as_ref().map(traffic_policy);
            rule.subsets = spec
                .subsets
                .iter()
                .map(|subset| Subset {
                    name: subset.name.clone(),
                    policy: subset.traffic_policy.as_ref().map(traffic_policy),
                })
                .collect();
        }
        // Its host is not known either, so it may be in force for any.
        Err(why) => rule.malformed = Some(why.to_owned()),
    }
    WrittenRule(rule)
}

fn traffic_policy(policy: &istio::TrafficPolicy) -> TrafficPolicy {
    TrafficPolicy {
        tls: policy.tls.as_ref().map(tls),
        ports: policy
            .port_level_settings
            .iter()
            .filter_map(|settings| {
                let port = u16::try_from(settings.port.as_ref()?.number?).ok()?;
                Some((Port(port), settings.tls.as_ref().map(tls)))
            })
            .collect(),
    }
}

/// An empty `tls` block means DISABLE, the zero value (`istio-semantics.md` H).
fn tls(tls: &istio::ClientTls) -> TlsMode {
    match &tls.mode {
        None | Some(istio::ClientTlsMode::Disable) => TlsMode::Disable,
        Some(istio::ClientTlsMode::Simple) => TlsMode::Simple,
        Some(istio::ClientTlsMode::Mutual) => TlsMode::Mutual,
        Some(istio::ClientTlsMode::IstioMutual) => TlsMode::IstioMutual,
        Some(istio::ClientTlsMode::Unknown(other)) => TlsMode::Unknown(other.clone()),
    }
}

/// A Service as facts, as far as it is TCP; its host ends before the domain, and a port whose target
/// is a name has none here.
fn service(object: &kubernetes::Service) -> Service {
    let (meta, spec) = (&object.metadata, &object.spec);
    let name = meta.name.clone().unwrap_or_default();
    let port = |port: &kubernetes::ServicePort| ServicePort {
        // The apiserver admits no other numbers.
        port: Port(u16::try_from(port.port).unwrap_or_default()),
        target: match &port.target_port {
            None => u16::try_from(port.port).ok(),
            Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
            Some(IntOrString::String(target)) => target.parse().ok(),
        }
        .map(Port),
        name: port.name.clone().unwrap_or_default(),
        app_protocol: port.app_protocol.clone(),
    };
    let published = match spec.type_.as_deref() {
        Some("NodePort") => Some("NodePort"),
        Some("LoadBalancer") => Some("LoadBalancer"),
        _ => spec.external_ips.iter().flatten().next().map(|_| "Service with external addresses"),
    };
    let export_to =
        meta.annotations.as_ref().and_then(|all| all.get("networking.istio.io/exportTo"));
    let export_to = export_to
        .map(|text| text.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>())
        .filter(|to| !to.iter().any(|one| one == "*"));
    Service {
        export_to,
        host: Host::new(format!("{name}.{}.svc", namespace(meta))),
        name,
        labels: labels(meta),
        ports: spec.tcp_ports().map(port).collect(),
        selector: spec.selector.iter().flatten().collect(),
        headless: spec.cluster_ip.as_deref() == Some("None"),
        external: (spec.type_.as_deref() == Some("ExternalName"))
            .then(|| Host::new(spec.external_name.as_deref().unwrap_or_default())),
        published,
    }
}

/// The namespaces that the injector's webhooks lead to; none where they lead to an address.
pub fn control_planes(object: &MutatingWebhookConfiguration) -> BTreeSet<Namespace> {
    injector_webhooks(object)
        .filter_map(|webhook| webhook.client_config.service.as_ref())
        .map(|service| Namespace::new(service.namespace.clone()))
        .collect()
}

fn injector_webhooks(
    object: &MutatingWebhookConfiguration,
) -> impl Iterator<Item = &MutatingWebhook> {
    object
        .webhooks
        .iter()
        .flatten()
        .filter(|webhook| webhook.name.ends_with("sidecar-injector.istio.io"))
}

/// The entries of an injector's webhook configuration.
pub fn injectors(object: &MutatingWebhookConfiguration) -> Vec<Injector> {
    let revision = labels(&object.metadata).value("istio.io/rev").unwrap_or("default").to_owned();
    let name = object.metadata.name.clone().unwrap_or_default();
    injector_webhooks(object)
        .map(|webhook| Injector {
            name: format!("{name}/{}", webhook.name),
            revision: revision.clone(),
            namespaces: label_selector(webhook.namespace_selector.as_ref()),
            pods: label_selector(webhook.object_selector.as_ref()),
        })
        .collect()
}

/// A Kubernetes label selector; an absent one selects everything.
pub fn label_selector(selector: Option<&LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::default() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In(vec![value.clone()]),
    });
    let expressions = selector.match_expressions.iter().flatten().map(|one| Requirement {
        key: one.key.clone(),
        operator: {
            let values = one.values.clone().unwrap_or_default();
            match one.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => Operator::Unknown(other.to_owned()),
            }
        },
    });
    Selector::new(labels.chain(expressions).collect())
}

/// The labels of an object.
pub fn labels(meta: &ObjectMeta) -> Labels {
    meta.labels.iter().flatten().collect()
}

fn labels_of(selector: Option<&istio::LabelledWorkloads>) -> Labels {
    selector.map(|selector| selector.labels.iter().collect()).unwrap_or_default()
}

fn selector(selector: Option<&istio::WorkloadSelector>) -> Labels {
    selector.map(|selector| selector.match_labels.iter().collect()).unwrap_or_default()
}

/// The namespace of an object; one that names none is in `default`, as kubectl puts it there.
pub fn namespace(meta: &ObjectMeta) -> Namespace {
    Namespace::new(meta.namespace.clone().unwrap_or_else(|| "default".into()))
}

/// The tool whose mark the object carries: it would write the object again.
fn owner(meta: &ObjectMeta) -> Option<&'static str> {
    const MARKS: [(&str, &str); 6] = [
        ("argocd.argoproj.io/", "Argo CD"),
        ("kustomize.toolkit.fluxcd.io/", "Flux"),
        ("helm.toolkit.fluxcd.io/", "Flux"),
        ("meta.helm.sh/", "Helm"),
        ("helm.sh/", "Helm"),
        ("app.kubernetes.io/instance", "Argo CD or Helm"),
    ];
    const MANAGERS: [(&str, &str); 5] = [
        ("argocd", "Argo CD"),
        ("kustomize-controller", "Flux"),
        ("helm-controller", "Flux"),
        ("flux", "Flux"),
        ("helm", "Helm"),
    ];
    let labels = meta.labels.iter().flatten();
    let marks: Vec<_> = labels.chain(meta.annotations.iter().flatten()).collect();
    if marks.iter().any(|(name, value)| {
        *name == "app.kubernetes.io/managed-by" && value.eq_ignore_ascii_case("helm")
    }) {
        return Some("Helm");
    }
    let marked =
        MARKS.iter().find(|(mark, _)| marks.iter().any(|(name, _)| name.starts_with(mark)));
    let manages = |name: &str| {
        let entries = meta.managed_fields.iter().flatten();
        entries
            .filter_map(|entry| entry.manager.as_deref())
            .any(|manager| manager.starts_with(name))
    };
    marked.or_else(|| MANAGERS.iter().find(|(name, _)| manages(name))).map(|(_, tool)| *tool)
}

/// The field managers that hold `spec.mtls`.
fn managers(meta: &ObjectMeta) -> Vec<String> {
    let holds = |fields: &serde_json::Value| fields.pointer("/f:spec/f:mtls").is_some();
    meta.managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| holds(&fields.0)))
        .filter_map(|entry| entry.manager.clone())
        .collect()
}
