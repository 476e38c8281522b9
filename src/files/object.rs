//! One object of a file, read as far as a snapshot looks at it.

use super::pieces::{Piece, Text, Typed, top_level};
use crate::api::MeshRollout;
use crate::api::parse::waivers;
use crate::kubernetes;
use crate::kubernetes::GATEWAY_GROUP;
use crate::translate::entrance::{self, Class, Routed};
use crate::translate::facts::{Header, NamedService, header, named_service};
use crate::translate::gateway::{self, GatewayName, Route};
use crate::translate::mesh::{MeshConfig, config};
use crate::translate::monitor;
use crate::translate::pod::{
    OwnedPod, Owner, daemon_set, deployment, job, owned_pod, stateful_set,
};
use crate::translate::{self, WrittenRule, namespace, schedule};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Resource, ResourceExt};
use meshrollout_core::egress::Scope;
use meshrollout_core::exposure::Entrance;
use meshrollout_core::ident::Namespace;
use meshrollout_core::injection::Injector;
use meshrollout_core::policy::Policy;
use meshrollout_core::scheduled::Scheduled;
use meshrollout_core::scrape::Monitor;
use meshrollout_core::snapshot::{InboundFilter, TelemetryOverride};
use meshrollout_core::waiver::Waivers;
use meshrollout_core::workload::Machine;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What became of a piece of a file.
pub(super) enum Outcome {
    /// It is an object that says something to us.
    Read(Object),
    /// It is an object of a kind that is not looked at.
    Skipped,
    /// It is the source of a template: there is no object before it is rendered.
    Template,
    /// Line, and what is wrong there.
    Broken(usize, String),
}

/// An object, and where it says that it stands.
pub(super) struct Object {
    pub(super) kind: &'static str,
    /// `None` for a kind that is not in a namespace.
    pub(super) namespace: Option<Namespace>,
    pub(super) name: String,
    pub(super) fact: Fact,
}

/// What an object says.
pub(super) enum Fact {
    Namespace(Header),
    Pod(Box<OwnedPod>),
    Owner(Box<Owner>),
    Service(Box<NamedService>),
    Machine(Machine),
    Roots(BTreeSet<String>),
    Scope(Box<Scope>),
    InboundFilter(InboundFilter),
    Policy(Box<Policy>),
    Rule(Box<WrittenRule>),
    Override(TelemetryOverride),
    Webhooks {
        injectors: Vec<Injector>,
        control_planes: BTreeSet<Namespace>,
        entrances: Vec<Entrance>,
    },
    Entrances(Vec<Entrance>),
    Scheduled(Arc<Scheduled>),
    Ingress(Routed),
    IngressClass(Class),
    Route(Route),
    Gateway((GatewayName, String)),
    GatewayClass((String, String)),
    Monitor(Monitor),
    Mesh(Box<MeshConfig>),
    /// What the author of a rollout answers for.
    Waivers(Waivers),
}

/// What is read of an object before it is known what it is.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
}

pub(super) fn read(piece: &Piece<'_>) -> Outcome {
    let said = match &piece.text {
        Text::Json(text) => read_json(text, piece.of.as_deref()),
        Text::Yaml(text) => read_yaml(text, piece.of.as_deref()),
    };
    match said {
        Ok(Some(object)) => Outcome::Read(object),
        Ok(None) => Outcome::Skipped,
        Err(Wrong::Template) => Outcome::Template,
        Err(Wrong::At(within, why)) => Outcome::Broken(piece.line + within.saturating_sub(1), why),
    }
}

/// Why there is no object.
enum Wrong {
    /// The line within the text, from one, and what is wrong there.
    At(usize, String),
    /// What cannot be read is an action of a template.
    Template,
}

impl Head {
    /// What the list says that it is in, where it says nothing itself.
    fn or(self, of: Option<&Typed>) -> Self {
        match of {
            Some(of) if self.kind.is_none() && self.api_version.is_none() => {
                Self { api_version: Some(of.version.clone()), kind: Some(of.kind.clone()) }
            }
            _ => self,
        }
    }
}

fn read_json(text: &str, of: Option<&Typed>) -> Result<Option<Object>, Wrong> {
    let head: Head = Json(text).parse()?;
    object(&head.or(of), &Json(text))
}

fn read_yaml(text: &str, of: Option<&Typed>) -> Result<Option<Object>, Wrong> {
    let (version, kind) = (top_level(text, "apiVersion"), top_level(text, "kind"));
    let head = match (version, kind) {
        (Some(version), Some(kind)) => {
            Head { api_version: Some(version.to_owned()), kind: Some(kind.to_owned()) }
        }
        // Not written the way that people write: the parser finds it.
        _ => Yaml(text).parse()?,
    };
    object(&head.or(of), &Yaml(text))
}

/// A text that can be read as something.
trait Source {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Wrong>;
}

struct Json<'a>(&'a str);
struct Yaml<'a>(&'a str);

impl Source for Json<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Wrong> {
        serde_json::from_str(self.0).map_err(|error| Wrong::At(error.line(), error.to_string()))
    }
}

impl Source for Yaml<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Wrong> {
        serde_saphyr::from_str(self.0).map_err(|error| {
            let line = error.location().map_or(1, |at| at.line() as usize);
            // Without the place, which is told by the file's own lines, and without the excerpt.
            let words = error.to_string();
            let words = words.lines().next().unwrap_or_default();
            let words = words.split_once("column").and_then(|(_, rest)| rest.split_once(": "));
            match is_of_template(self.0, line) {
                true => Wrong::Template,
                false => Wrong::At(
                    line,
                    words.map_or_else(|| error.to_string(), |(_, words)| words.to_owned()),
                ),
            }
        })
    }
}

/// There is an action of a template where the parser stopped, which may be one line late.
fn is_of_template(text: &str, line: usize) -> bool {
    let before = text.lines().skip(line.saturating_sub(2));
    before.take(2).any(has_action)
}

/// Within quotes and comments braces mean nothing.
fn has_action(line: &str) -> bool {
    let (mut quote, mut before) = (None, ' ');
    for letter in line.chars() {
        match quote {
            Some(open) if open == letter => quote = None,
            Some(_) => {}
            None if letter == '#' && before.is_whitespace() => return false,
            None if (before, letter) == ('{', '{') => return true,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None => {}
        }
        before = letter;
    }
    false
}

fn object(head: &Head, source: &impl Source) -> Result<Option<Object>, Wrong> {
    let (Some(version), Some(kind)) = (&head.api_version, &head.kind) else {
        return match head.kind {
            // A file of values, a chart's description: no object of Kubernetes.
            None => Ok(None),
            Some(_) => Err(Wrong::At(1, "it has a kind but no apiVersion".into())),
        };
    };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    read_kind(group, kind, source).map_err(|wrong| match wrong {
        Wrong::At(line, why) => Wrong::At(line, format!("this {kind} cannot be read: {why}")),
        Wrong::Template => Wrong::Template,
    })
}

/// What is left of a list where its items were not cut out of it.
#[derive(Deserialize)]
struct Uncut {
    items: Option<Vec<IgnoredAny>>,
}

fn read_kind(group: &str, kind: &str, source: &impl Source) -> Result<Option<Object>, Wrong> {
    match (group, kind) {
        ("", "Namespace") => of(source, "Namespace", |object: &kubernetes::Namespace| {
            Some(Fact::Namespace(header(object)))
        }),
        ("", "Pod") => of(source, "Pod", |object| Some(Fact::Pod(Box::new(owned_pod(object))))),
        ("apps", "Deployment") => {
            of(source, "Deployment", |object| Some(Fact::Owner(Box::new(deployment(object)))))
        }
        ("apps", "StatefulSet") => {
            of(source, "StatefulSet", |object| Some(Fact::Owner(Box::new(stateful_set(object)))))
        }
        ("apps", "DaemonSet") => {
            of(source, "DaemonSet", |object| Some(Fact::Owner(Box::new(daemon_set(object)))))
        }
        ("batch", "Job") => of(source, "Job", |object| Some(Fact::Owner(Box::new(job(object)?)))),
        ("", "Service") => {
            of(source, "Service", |object| Some(Fact::Service(Box::new(named_service(object)))))
        }
        ("networking.istio.io", "WorkloadEntry") => {
            of(source, "WorkloadEntry", |object| Some(Fact::Machine(translate::machine(object))))
        }
        ("security.istio.io", "PeerAuthentication") => of(source, "PeerAuthentication", |object| {
            Some(Fact::Policy(Box::new(translate::policy(object))))
        }),
        ("networking.istio.io", "DestinationRule") => of(source, "DestinationRule", |object| {
            Some(Fact::Rule(Box::new(translate::rule(object))))
        }),
        ("telemetry.istio.io", "Telemetry") => {
            of(source, "Telemetry", |object| translate::telemetry(object).map(Fact::Override))
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => {
            of(source, "MutatingWebhookConfiguration", |object: &MutatingWebhookConfiguration| {
                Some(Fact::Webhooks {
                    injectors: translate::injectors(object),
                    control_planes: translate::control_planes(object),
                    entrances: entrance::mutating(object),
                })
            })
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => of(
            source,
            "ValidatingWebhookConfiguration",
            |object: &ValidatingWebhookConfiguration| {
                Some(Fact::Entrances(entrance::validating(object)))
            },
        ),
        ("apiregistration.k8s.io", "APIService") => of(source, "APIService", |object| {
            Some(Fact::Entrances(entrance::aggregated(object).into_iter().collect()))
        }),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            of(source, "CustomResourceDefinition", |object| {
                Some(Fact::Entrances(entrance::conversion(object).into_iter().collect()))
            })
        }
        ("batch", "CronJob") => of(source, "CronJob", |object| {
            schedule::scheduled(object).map(|work| Fact::Scheduled(Arc::new(work)))
        }),
        ("networking.k8s.io", "Ingress") => {
            of(source, "Ingress", |object| Some(Fact::Ingress(entrance::routed(object))))
        }
        ("networking.k8s.io", "IngressClass") => {
            of(source, "IngressClass", |object| Some(Fact::IngressClass(entrance::class(object))))
        }
        (GATEWAY_GROUP, "HTTPRoute") => {
            of(source, "HTTPRoute", |object| Some(Fact::Route(gateway::http(object))))
        }
        (GATEWAY_GROUP, "GRPCRoute") => {
            of(source, "GRPCRoute", |object| Some(Fact::Route(gateway::grpc(object))))
        }
        (GATEWAY_GROUP, "Gateway") => {
            of(source, "Gateway", |object| Some(Fact::Gateway(gateway::gateway(object))))
        }
        (GATEWAY_GROUP, "GatewayClass") => of(source, "GatewayClass", |object| {
            Some(Fact::GatewayClass(gateway::controller(object)))
        }),
        ("monitoring.coreos.com", "ServiceMonitor") => {
            of(source, "ServiceMonitor", |object| monitor::of_services(object).map(Fact::Monitor))
        }
        ("monitoring.coreos.com", "PodMonitor") => {
            of(source, "PodMonitor", |object| monitor::of_pods(object).map(Fact::Monitor))
        }
        ("networking.istio.io", "Sidecar") => {
            of(source, "Sidecar", |object| Some(Fact::Scope(Box::new(translate::scope(object)))))
        }
        ("networking.istio.io", "EnvoyFilter") => of(source, "EnvoyFilter", |object| {
            translate::inbound_filter(object).map(Fact::InboundFilter)
        }),
        ("extensions.istio.io", "WasmPlugin") => of(source, "WasmPlugin", |object| {
            entrance::fetched(object).map(|one| Fact::Entrances(vec![one]))
        }),
        ("", "ConfigMap") => of(source, "ConfigMap", |object| {
            let roots = || translate::roots(object).map(Fact::Roots);
            config(object).map(|mesh| Fact::Mesh(Box::new(mesh))).or_else(roots)
        }),
        ("meshrollout.dev", "MeshRollout") => {
            let rollout: MeshRollout = source.parse()?;
            let waivers =
                waivers(&rollout.spec).map_err(|refusal| Wrong::At(1, refusal.to_string()))?;
            Ok(Some(Object {
                kind: "MeshRollout",
                namespace: None,
                name: rollout.name_any(),
                fact: Fact::Waivers(waivers),
            }))
        }
        (_, list) if list.ends_with("List") => match source.parse::<Uncut>()?.items {
            Some(_) => Err(Wrong::At(1, "it is a list within a list; write its items out".into())),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

fn of<K>(
    source: &impl Source,
    kind: &'static str,
    fact: impl FnOnce(&K) -> Option<Fact>,
) -> Result<Option<Object>, Wrong>
where
    K: DeserializeOwned + Resource<DynamicType = (), Scope: Placed>,
{
    let object: K = source.parse()?;
    let Some(fact) = fact(&object) else { return Ok(None) };
    let meta = object.meta();
    Ok(Some(Object {
        kind,
        namespace: K::Scope::IN_A_NAMESPACE.then(|| namespace(meta)),
        name: meta.name.clone().unwrap_or_default(),
        fact,
    }))
}

/// Whether objects of a kind are in namespaces.
trait Placed {
    const IN_A_NAMESPACE: bool;
}

impl Placed for NamespaceResourceScope {
    const IN_A_NAMESPACE: bool = true;
}

impl Placed for ClusterResourceScope {
    const IN_A_NAMESPACE: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_of_a_template_is_none_within_quotes_and_comments() {
        for line in ["{{- if .x }}", "a: {{ .x }}", "a: \"b\" {{ \"c\" }}", "- {{ .x }} # y"] {
            assert!(has_action(line), "{line}");
        }
        for line in
            ["a: \"{{ .x }}\"", "a: '{{ x }}'", "# {{ .x }}", "a: b # {{ .x }}", "a: {b: c}"]
        {
            assert!(!has_action(line), "{line}");
        }
    }
}
