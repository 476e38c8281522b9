//! Ways into the mesh that objects open to Services, for those who are not in it.

use super::namespace;
use super::schedule::hosts;
use crate::api::names::SCHEMA;
use crate::config::MetricsSource;
use crate::istio;
use crate::kubernetes::{self, APIService, CustomResourceDefinition, Ingress, ServiceReference};
use http::uri::Authority;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshrollout_core::exposure::{Caller, Dialled, Entrance, IngressController};
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::{Namespace, Port};
use std::collections::BTreeMap;

/// An Ingress, until it is known whose its class is.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    controller: IngressController,
    /// It says its class by the annotation, of which there need be no IngressClass.
    is_annotated: bool,
    /// Where it leads, each with the controller still to be said.
    entrances: Vec<Entrance>,
    /// Whom its controller calls by name before or besides that.
    asks: Vec<Entrance>,
}

/// Annotations by which ingress-nginx itself calls a Service, by its name.
const ASKS: [&str; 5] = [
    "nginx.ingress.kubernetes.io/auth-url",
    "nginx.ingress.kubernetes.io/configuration-snippet",
    "nginx.ingress.kubernetes.io/default-backend",
    "nginx.ingress.kubernetes.io/mirror-target",
    "nginx.ingress.kubernetes.io/server-snippet",
];

/// Where the apiserver calls for admission by this configuration.
pub fn mutating(object: &admission::MutatingWebhookConfiguration) -> Vec<Entrance> {
    let hooks = object.webhooks.iter().flatten();
    let called =
        hooks.map(|hook| (&*hook.name, hook.failure_policy.as_deref(), &hook.client_config));
    admits("MutatingWebhookConfiguration", &object.metadata, called)
}

/// Where the apiserver calls for admission by this configuration.
pub fn validating(object: &admission::ValidatingWebhookConfiguration) -> Vec<Entrance> {
    let hooks = object.webhooks.iter().flatten();
    let called =
        hooks.map(|hook| (&*hook.name, hook.failure_policy.as_deref(), &hook.client_config));
    admits("ValidatingWebhookConfiguration", &object.metadata, called)
}

/// The two kinds of webhooks are the same in what is looked at: name, failure policy and place.
fn admits<'a>(
    kind: &str,
    meta: &ObjectMeta,
    hooks: impl Iterator<Item = (&'a str, Option<&'a str>, &'a admission::WebhookClientConfig)>,
) -> Vec<Entrance> {
    let name = meta.name.as_deref().unwrap_or_default();
    let led =
        |(hook, failure, config): (&str, Option<&str>, &'a admission::WebhookClientConfig)| {
            let at = config.service.as_ref()?;
            let consequence = match failure {
                Some("Ignore") => "objects would go by unseen (failurePolicy Ignore)",
                _ => "the objects that it looks at could not be written (failurePolicy Fail)",
            };
            Some(Entrance {
                caller: Caller::Admission,
                declared_by: Subject::cluster(kind, name),
                detail: format!("webhook {hook}: {consequence}"),
                namespace: Namespace::new(&at.namespace),
                service: at.name.clone(),
                port: dialled(at.port),
            })
        };
    hooks.filter_map(led).collect()
}

/// Where the apiserver leads an API, unless it serves it itself.
pub fn aggregated(object: &APIService) -> Option<Entrance> {
    let at = object.spec.service.as_ref()?;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    Some(entrance(Caller::Aggregation, "APIService", name, at))
}

/// What a CustomResourceDefinition tells of its kind.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Defined {
    /// The versions of it that the apiserver answers for.
    pub served: Vec<String>,
    /// Where the apiserver has its objects converted, if it does.
    pub conversion: Option<Entrance>,
    /// The fingerprint on one of ours.
    pub schema: Option<String>,
}

/// What a CustomResourceDefinition tells of its kind.
pub fn defined(object: &CustomResourceDefinition) -> Defined {
    let conditions = object.status.iter().flat_map(|status| &status.conditions).flatten();
    let is_established =
        conditions.into_iter().any(|one| one.r#type == "Established" && one.status == "True");
    let versions = object.spec.versions.iter().flatten().filter(|_| is_established);
    let served = versions.filter(|version| version.served).map(|version| version.name.clone());
    let notes = object.metadata.annotations.as_ref();
    Defined {
        served: served.collect(),
        conversion: conversion(object),
        schema: notes.and_then(|notes| notes.get(SCHEMA)).cloned(),
    }
}

/// Where the apiserver has objects converted, if it does.
pub fn conversion(object: &CustomResourceDefinition) -> Option<Entrance> {
    let webhook = object.spec.conversion.as_ref()?.webhook.as_ref()?;
    let at = webhook.client_config.as_ref()?.service.as_ref()?;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    Some(entrance(Caller::Conversion, "CustomResourceDefinition", name, at))
}

/// Where the source is asked, if that is at a Service by its name: `prometheus.monitoring`, with
/// `.svc` and a domain or without. The pod of a headless Service has a name before it.
pub fn asked_at(source: &MetricsSource) -> Option<Entrance> {
    let at = source.url.authority()?;
    let usual = port_of(source.url.scheme_str());
    let itself = Subject::cluster("metrics source", &source.name);
    at_service(Caller::Ourselves, itself, at, usual, String::new())
}

/// Where proxies call by themselves, if it is at a Service by its name.
pub(super) fn by_proxies(
    declared_by: Subject,
    at: &Authority,
    usual: u16,
    detail: String,
) -> Option<Entrance> {
    at_service(Caller::Proxies, declared_by, at, usual, detail)
}

/// Where each proxy's agent fetches a plugin; it does so before there is a proxy to go through.
pub fn fetched(object: &istio::WasmPlugin) -> Option<Entrance> {
    let meta = &object.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let url = object.spec.read()?.url.as_deref()?;
    // Without a scheme it is an image.
    let (scheme, rest) = url.split_once("://").unwrap_or(("oci", url));
    let at = rest.split('/').next()?.parse().ok()?;
    let itself = Subject::new("WasmPlugin", &namespace(meta), name);
    by_proxies(itself, &at, port_of(Some(scheme)), format!("url: {url}"))
}

fn port_of(scheme: Option<&str>) -> u16 {
    match scheme {
        Some("https" | "oci") => 443,
        _ => 80,
    }
}

fn at_service(
    caller: Caller,
    declared_by: Subject,
    at: &Authority,
    usual: u16,
    detail: String,
) -> Option<Entrance> {
    let host = at.host().trim_end_matches('.');
    // Whatever the cluster's domain is.
    let within = host.strip_suffix(".svc").or_else(|| host.split_once(".svc.").map(|(it, _)| it));
    let (host, said) = within.map_or((host, false), |host| (host, true));
    let mut labels = host.rsplit('.');
    let (namespace, service) = (labels.next()?, labels.next()?);
    let of_a_pod = labels.next().is_some();
    // Three names without `.svc` are somebody's on the internet, and four numbers an address.
    if (of_a_pod && !said) || labels.next().is_some() {
        return None;
    }
    Some(Entrance {
        caller,
        declared_by,
        detail,
        namespace: Namespace::new(namespace),
        service: service.to_owned(),
        port: Dialled::Number(Port(at.port_u16().unwrap_or(usual))),
    })
}

fn entrance(caller: Caller, kind: &str, name: &str, at: &ServiceReference) -> Entrance {
    Entrance {
        caller,
        declared_by: Subject::cluster(kind, name),
        detail: String::new(),
        namespace: Namespace::new(&at.namespace),
        service: at.name.clone(),
        port: dialled(at.port),
    }
}

/// 443 where no port is named.
fn dialled(port: Option<i32>) -> Dialled {
    Dialled::Number(Port(port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443)))
}

/// Where an Ingress leads.
pub fn routed(object: &Ingress) -> Routed {
    let meta = &object.metadata;
    let own = namespace(meta);
    let name = meta.name.as_deref().unwrap_or_default();
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name);
    let annotated = annotation("kubernetes.io/ingress.class");
    let paths = object.spec.rules.iter().flatten();
    let paths =
        paths.flat_map(|rule| rule.http.iter().flat_map(|http| http.paths.iter().flatten()));
    let backends = object.spec.default_backend.iter().chain(paths.map(|path| &path.backend));
    let mut entrances: Vec<_> = backends
        .filter_map(|backend| backend.service.as_ref())
        .map(|service| Entrance {
            caller: Caller::Ingress(IngressController::default()),
            declared_by: Subject::new("Ingress", &own, name),
            detail: String::new(),
            namespace: own.clone(),
            service: service.name.clone(),
            port: match (&service.port.name, service.port.number) {
                (Some(name), _) if !name.is_empty() => Dialled::Name(name.clone()),
                (_, number) => Dialled::Number(Port(
                    number.and_then(|one| u16::try_from(one).ok()).unwrap_or(0),
                )),
            },
        })
        .collect();
    entrances.sort();
    entrances.dedup();
    // With the address alone the request keeps the host that the browser asked for, which the
    // sidecar does not know: it sends that on as it is.
    let calls = annotation("nginx.ingress.kubernetes.io/upstream-vhost").filter(|_| {
        annotation("nginx.ingress.kubernetes.io/service-upstream")
            .is_some_and(|answer| answer == "true")
    });
    // The annotation comes first with everybody who knows both.
    let class = annotated.or(object.spec.ingress_class_name.as_ref()).cloned();
    let controller = IngressController { class, name: None, calls: calls.cloned() };
    let texts: Vec<_> =
        ASKS.into_iter().filter_map(annotation).map(|text| text.to_ascii_lowercase()).collect();
    let named = texts.iter().flat_map(|text| hosts(text, &[own.as_str()]));
    let asks = named.map(|(space, service, port)| Entrance {
        caller: Caller::Ingress(IngressController::default()),
        declared_by: Subject::new("Ingress", &own, name),
        detail: "by an annotation".into(),
        namespace: Namespace::new(space),
        service,
        port: port.map_or(Dialled::Any, Dialled::Number),
    });
    Routed { controller, is_annotated: annotated.is_some(), entrances, asks: asks.collect() }
}

/// A class of Ingresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    name: String,
    controller: String,
    /// That of Ingresses which name none.
    is_default: bool,
}

/// Whose Ingresses of a class are.
pub fn class(object: &kubernetes::IngressClass) -> Class {
    let meta = &object.metadata;
    let is_default = |all: &BTreeMap<String, String>| {
        all.get("ingressclass.kubernetes.io/is-default-class").is_some_and(|says| says == "true")
    };
    Class {
        name: meta.name.clone().unwrap_or_default(),
        controller: object.spec.controller.clone().unwrap_or_default(),
        is_default: meta.annotations.as_ref().is_some_and(is_default),
    }
}

/// The entrances of Ingresses whose classes are `classes`. Those of Istio's
/// own gateways come over mutual TLS: the annotation `istio`, or a class with Istio's controller
/// (`pilot/pkg/config/kube/ingress/conversion.go:shouldProcessIngressWithClass`).
pub fn by_class<'a>(
    routed: impl IntoIterator<Item = &'a Routed>,
    classes: &[Class],
) -> Vec<Entrance> {
    let mut entrances = vec![];
    for Routed { controller, is_annotated, entrances: leads, asks } in routed {
        let class = controller.class.as_ref();
        // The apiserver writes the default one into those that it makes; in files it may be missing.
        let known = match class {
            Some(class) => classes.iter().find(|one| one.name == *class),
            None => classes.iter().find(|one| one.is_default),
        };
        let name = known.map(|class| class.controller.clone());
        let is_istio = match name.as_deref() {
            _ if *is_annotated => class.is_some_and(|class| class == "istio"),
            Some(name) => name == "istio.io/ingress-controller",
            // Nobody serves it; in files the class may be left out.
            None => class.is_some_and(|class| class == "istio"),
        };
        if is_istio {
            continue;
        }
        let controller = IngressController { name, ..controller.clone() };
        for one in asks {
            let calls = Some(format!("{}.{}", one.service, one.namespace));
            let controller = IngressController { calls, ..controller.clone() };
            entrances.extend(led_by(controller, std::slice::from_ref(one)));
        }
        entrances.extend(led_by(controller, leads));
    }
    entrances
}

/// What leads to these Services, now that it is known by whom.
pub(super) fn led_by(
    controller: IngressController,
    leads: &[Entrance],
) -> impl Iterator<Item = Entrance> {
    let caller = Caller::Ingress(controller);
    leads.iter().map(move |one| Entrance { caller: caller.clone(), ..one.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn leads(entrance: &Entrance) -> String {
        let Entrance { declared_by, namespace, service, port, .. } = entrance;
        format!("{declared_by} to {namespace}/{service}:{port}")
    }

    #[test]
    fn a_plugin_is_fetched_by_agents_where_its_url_says() {
        let fetched = |url: &str| {
            let object = json!({"metadata": {"namespace": "shop", "name": "auth"},
                "spec": {"url": url}});
            let found = fetched(&serde_json::from_value(object).unwrap())?;
            assert_eq!(found.caller, Caller::Proxies);
            Some(leads(&found))
        };
        let at = |place: &str| Some(format!("WasmPlugin shop/auth to {place}"));
        assert_eq!(fetched("http://modules.ops/a.wasm"), at("ops/modules:80"));
        assert_eq!(fetched("https://modules.ops.svc/a.wasm"), at("ops/modules:443"));
        assert_eq!(fetched("oci://registry.ops:5000/auth:1"), at("ops/registry:5000"));
        assert_eq!(fetched("registry.ops/auth:1"), at("ops/registry:443"));
        for elsewhere in ["oci://ghcr.io.example.com/a:1", "file:///opt/a.wasm", "auth:1", ""] {
            assert_eq!(fetched(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_source_is_asked_at_a_service_where_its_host_is_the_name_of_one() {
        let asked = |url: &str| {
            let config = format!("metricsSources: [{{name: main, url: '{url}'}}]");
            let config = crate::config::Config::parse(&config).unwrap();
            let found = asked_at(config.metrics_source("main").unwrap())?;
            Some(format!("{}/{}:{}", found.namespace, found.service, found.port))
        };
        let at = |place: &str| Some(place.to_owned());
        assert_eq!(asked("http://prometheus.monitoring:9090"), at("monitoring/prometheus:9090"));
        assert_eq!(asked("https://prometheus.monitoring.svc/x"), at("monitoring/prometheus:443"));
        assert_eq!(asked("http://thanos.ops.svc.cluster.local."), at("ops/thanos:80"));
        assert_eq!(asked("http://thanos.ops.svc.corp.example"), at("ops/thanos:80"));
        assert_eq!(asked("http://p-0.p.monitoring.svc:9090"), at("monitoring/p:9090"));
        for elsewhere in [
            "http://prometheus",
            "http://10.0.0.9:9090",
            "http://p.example.com",
            "http://localhost:9090",
            "http://a.b.c.d.svc",
        ] {
            assert_eq!(asked(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_definition_serves_what_it_says_once_it_is_established() {
        let served = |established: &str| {
            let object = json!({"metadata": {"name": "x"}, "spec": {"versions": [
                {"name": "v1", "served": true}, {"name": "v1beta1", "served": false}]},
                "status": {"conditions": [{"type": "NamesAccepted", "status": "True"},
                    {"type": "Established", "status": established}]}});
            defined(&serde_json::from_value(object).unwrap()).served
        };
        assert_eq!(served("True"), ["v1"]);
        assert!(served("False").is_empty());
    }

    #[test]
    fn webhooks_by_address_open_nothing_and_a_port_that_is_not_named_is_443() {
        let object = json!({"metadata": {"name": "checks"}, "webhooks": [
            {"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://example.com"}},
            {"name": "b.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore",
                "clientConfig": {"service": {"namespace": "core", "name": "admission"}}},
        ]});
        let found = validating(&serde_json::from_value(object.clone()).unwrap());
        let [only] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(leads(only), "ValidatingWebhookConfiguration checks to core/admission:443");
        assert!(only.detail.contains("b.example.com") && only.detail.contains("unseen"));
        assert_eq!(mutating(&serde_json::from_value(object).unwrap()).len(), 1);
    }

    #[test]
    fn apis_and_conversions_that_the_apiserver_does_itself_open_nothing() {
        let at = json!({"namespace": "core", "name": "metrics", "port": 8443});
        let api = |spec: Value| {
            let object = json!({"metadata": {"name": "v1.example.com"}, "spec": spec});
            aggregated(&serde_json::from_value(object).unwrap()).map(|one| leads(&one))
        };
        assert_eq!(api(json!({"service": null})), None);
        assert_eq!(
            api(json!({"service": at})).unwrap(),
            "APIService v1.example.com to core/metrics:8443"
        );
        let converted = |spec: Value| {
            let object = json!({"metadata": {"name": "jobs.example.com"}, "spec": spec});
            conversion(&serde_json::from_value(object).unwrap()).map(|one| leads(&one))
        };
        assert_eq!(converted(json!({"conversion": {"strategy": "None"}})), None);
        assert_eq!(converted(json!({"versions": []})), None);
        let webhook = json!({"conversion": {"strategy": "Webhook",
            "webhook": {"clientConfig": {"service": at}}}});
        assert_eq!(
            converted(webhook).unwrap(),
            "CustomResourceDefinition jobs.example.com to core/metrics:8443"
        );
    }

    #[test]
    fn a_controller_goes_by_the_service_where_both_address_and_name_are_the_services() {
        let calls = |annotations: Value| {
            let meta = json!({"name": "web", "annotations": annotations});
            let object = json!({"metadata": meta, "spec": {}});
            routed(&serde_json::from_value(object).unwrap()).controller.calls
        };
        let (address, name) = (
            "nginx.ingress.kubernetes.io/service-upstream",
            "nginx.ingress.kubernetes.io/upstream-vhost",
        );
        let web = "web.shop.svc.cluster.local";
        assert_eq!(calls(json!({address: "true", name: web})).as_deref(), Some(web));
        assert_eq!(calls(json!({address: "true"})), None);
        assert_eq!(calls(json!({address: "false", name: web})), None);
        assert_eq!(calls(json!(null)), None);
    }

    #[test]
    fn an_ingress_leads_to_each_of_its_services_unless_a_gateway_of_istio_takes_it() {
        let ingress = |class: &str, of_istio: &str| {
            let object = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {
                "ingressClassName": class,
                "defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}},
                "rules": [{"http": {"paths": [
                    {"backend": {"service": {"name": "cart", "port": {"number": 80}}}},
                    {"backend": {"service": {"name": "cart", "port": {"number": 80}}}},
                ]}}, {}],
            }});
            let classes = [("mesh", "istio.io/ingress-controller"), ("istio", of_istio)];
            let classes = classes.map(|(name, of)| Class {
                name: name.into(),
                controller: of.into(),
                is_default: false,
            });
            let all = by_class([&routed(&serde_json::from_value(object).unwrap())], &classes);
            all.iter().map(leads).collect::<Vec<_>>()
        };
        assert_eq!(
            ingress("nginx", ""),
            ["Ingress shop/web to shop/cart:80", "Ingress shop/web to shop/web:http"]
        );
        assert!(ingress("mesh", "").is_empty());
        assert!(ingress("istio", "istio.io/ingress-controller").is_empty());
        // Anybody may call a class so.
        assert_eq!(ingress("istio", "k8s.io/ingress-nginx").len(), 2);
    }

    #[test]
    fn an_ingress_without_a_class_is_of_the_default_one() {
        let ingress = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}});
        let ingress = routed(&serde_json::from_value(ingress).unwrap());
        let controller = |is_default: &str| {
            let class = json!({"metadata": {"name": "nginx", "annotations":
                {"ingressclass.kubernetes.io/is-default-class": is_default}},
                "spec": {"controller": "k8s.io/ingress-nginx"}});
            let class = class_of(class);
            match &by_class([&ingress], &[class])[0].caller {
                Caller::Ingress(controller) => controller.name.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(controller("true").as_deref(), Some("k8s.io/ingress-nginx"));
        assert_eq!(controller("false"), None);
    }

    fn class_of(object: Value) -> Class {
        class(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_controller_asks_whomever_an_annotation_names() {
        let object = json!({"metadata": {"namespace": "shop", "name": "web", "annotations": {
            "nginx.ingress.kubernetes.io/auth-url": "http://proxy.auth.svc.cluster.local:4180/auth",
            "nginx.ingress.kubernetes.io/default-backend": "errors",
            "nginx.ingress.kubernetes.io/upstream-vhost": "web.shop"}}, "spec": {}});
        let all = by_class([&routed(&serde_json::from_value(object).unwrap())], &[]);
        let all: Vec<_> = all.iter().map(leads).collect();
        for expected in ["auth/proxy:4180", "shop/errors:any port"] {
            let expected = format!("Ingress shop/web to {expected}");
            assert!(all.contains(&expected), "{expected}: {all:?}");
        }
        assert!(all.iter().all(|one| !one.contains("shop/web:")), "{all:?}");
    }
}
