//! What comes into a pod past its Services, and what its sidecar takes of it.
//!
//! Source: Istio `pkg/kube/inject/app_probe.go` and `tools/istio-iptables/pkg/capture/run.go`
//! (`istio-semantics.md` C6, F1, F5).

use super::pod::named_ports;
use crate::kubernetes::{Container, Endpoint, Handler, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshrollout_core::exposure::{Check, Inbound, Opener, Opening, PassedBy};
use meshrollout_core::ident::Port;
use std::collections::{BTreeMap, BTreeSet};

/// Whose containers they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Of {
    /// A pod's: what the injector rewrites is rewritten.
    Pod,
    /// A template's: the injector will rewrite it, unless that is switched off.
    Template,
}

/// What is sent there, or from there, goes past the sidecar (C6).
const PAST: [&str; 3] = [
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeInterfaces",
];

/// Where Istio's CNI finds a pod in which it set up nothing (`cni/pkg/repair/repaircontroller.go`).
const UNINITIALISED: &str = "cni.istio.io/uninitialized";

pub(super) fn inbound(meta: &ObjectMeta, spec: &PodSpec, of: Of) -> Inbound {
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
    let rewrites = |switch: &str| of == Of::Template && annotation(switch) != Some("false");
    let is_off = annotation("sidecar.istio.io/interceptionMode") == Some("NONE");
    let mut inbound = Inbound {
        only: match annotation("traffic.sidecar.istio.io/includeInboundPorts") {
            None | Some("*") => None,
            Some(list) => Some(ports(list).collect()),
        },
        but: ["traffic.sidecar.istio.io/excludeInboundPorts", "status.sidecar.istio.io/port"]
            .into_iter()
            .filter_map(annotation)
            .flat_map(ports)
            .collect(),
        declared: BTreeSet::new(),
        named: named_ports(spec.standing_containers()),
        passed_by: if is_off {
            Some(PassedBy::Mode)
        } else if meta.labels.as_ref().is_some_and(|all| all.contains_key(UNINITIALISED)) {
            Some(PassedBy::Uninitialised)
        } else {
            None
        },
        sends_past: is_off
            || PAST.into_iter().filter_map(annotation).any(|list| !list.is_empty())
            || annotation("traffic.sidecar.istio.io/includeOutboundIPRanges")
                .is_some_and(|list| list != "*"),
        openings: vec![],
    };
    let own = spec.standing_containers().filter(|container| container.name != "istio-proxy");
    let own: Vec<_> = own.collect();
    let declared = own.iter().flat_map(|container| container.tcp_ports());
    inbound.declared =
        declared.filter_map(|port| u16::try_from(port.container_port).ok()).map(Port).collect();
    for container in &own {
        // The kubelet looks for a name among the container's own ports.
        let names = named_ports(std::iter::once(*container));
        let mut open = |by, port| {
            inbound.openings.push(Opening { by, container: container.name.clone(), port });
        };
        if !rewrites("sidecar.istio.io/rewriteAppHTTPProbers") {
            for (check, probe) in probes(container) {
                for (by, port) in called(probe, &names) {
                    open(
                        if by == Called::Connects {
                            Opener::Connect(check)
                        } else {
                            Opener::Probe(check)
                        },
                        port,
                    );
                }
            }
            let hooks = container.lifecycle.iter();
            let hooks = hooks.flat_map(|all| [&all.post_start, &all.pre_stop]).flatten();
            for (_, port) in hooks.flat_map(|hook| called(hook, &names)) {
                open(Opener::Hook, port);
            }
        }
        for port in container.tcp_ports() {
            let host = port.host_port.and_then(|host| u16::try_from(host).ok());
            let host = host.filter(|host| *host > 0);
            if let (Some(host), Ok(port)) = (host, u16::try_from(port.container_port)) {
                open(Opener::HostPort(Port(host)), Port(port));
            }
        }
    }
    if annotation("prometheus.io/scrape") == Some("true")
        && !rewrites("prometheus.istio.io/merge-metrics")
    {
        let scraped: BTreeSet<_> = annotation("prometheus.io/port")
            .map_or_else(|| inbound.declared.clone(), |list| ports(list).collect());
        inbound.openings.extend(scraped.into_iter().map(|port| Opening {
            by: Opener::Scraper,
            container: String::new(),
            port,
        }));
    }
    inbound
}

fn ports(list: &str) -> impl Iterator<Item = Port> {
    list.split(',').filter_map(|port| port.trim().parse().ok()).map(Port)
}

fn probes(container: &Container) -> impl Iterator<Item = (Check, &Handler)> {
    let all = [
        (Check::Liveness, &container.liveness_probe),
        (Check::Readiness, &container.readiness_probe),
        (Check::Startup, &container.startup_probe),
    ];
    all.into_iter().filter_map(|(check, probe)| Some((check, probe.as_ref()?)))
}

/// How the kubelet calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Called {
    /// It says something and waits for the answer.
    Speaks,
    /// It only connects.
    Connects,
}

fn called(handler: &Handler, names: &BTreeMap<String, Port>) -> Vec<(Called, Port)> {
    let port = |endpoint: &Endpoint| {
        if endpoint.host.as_deref().is_some_and(|host| !host.is_empty()) {
            return None;
        }
        match endpoint.port.as_ref()? {
            IntOrString::Int(number) => u16::try_from(*number).ok().map(Port),
            IntOrString::String(name) => {
                names.get(name).copied().or_else(|| name.parse().ok().map(Port))
            }
        }
    };
    let all = [
        (Called::Speaks, &handler.http_get),
        (Called::Connects, &handler.tcp_socket),
        (Called::Speaks, &handler.grpc),
    ];
    all.into_iter().filter_map(|(how, endpoint)| Some((how, port(endpoint.as_ref()?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(annotations: Value, of: Of) -> Vec<(Opener, u16)> {
        let meta = serde_json::from_value(json!({"annotations": annotations})).unwrap();
        let spec = serde_json::from_value(json!({"containers": [
            {"name": "istio-proxy", "readinessProbe": {"httpGet": {"port": 15021}}},
            {"name": "other", "ports": [{"name": "http", "containerPort": 8081}]},
            {"name": "web",
                "ports": [{"name": "http", "containerPort": 8080, "hostPort": 80},
                    {"name": "dns", "containerPort": 53, "hostPort": 53, "protocol": "UDP"}],
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"tcpSocket": {"port": 9000}},
                "startupProbe": {"grpc": {"port": 9001}},
                "lifecycle": {"preStop": {"httpGet": {"port": "8081"}},
                    "postStart": {"httpGet": {"port": 80, "host": "example.com"}}}},
        ]}))
        .unwrap();
        let inbound = inbound(&meta, &spec, of);
        inbound.openings.iter().map(|opening| (opening.by, opening.port.0)).collect()
    }

    #[test]
    fn what_the_injector_rewrites_is_no_opening_unless_that_is_off() {
        let rest = [(Opener::HostPort(Port(80)), 8080)];
        let all = [
            (Opener::Probe(Check::Liveness), 8080),
            (Opener::Connect(Check::Readiness), 9000),
            (Opener::Probe(Check::Startup), 9001),
            (Opener::Hook, 8081),
            rest[0],
        ];
        let off = json!({"sidecar.istio.io/rewriteAppHTTPProbers": "false"});
        assert_eq!(read(json!({}), Of::Template), rest);
        assert_eq!(read(off, Of::Template), all);
        // What stands in a pod was not rewritten, whatever was asked for.
        assert_eq!(read(json!({}), Of::Pod), all);
    }

    #[test]
    fn a_scraper_goes_to_the_application_where_metrics_are_not_merged() {
        let scraped = |annotations: Value, of: Of| {
            let all = read(annotations, of).into_iter();
            all.filter(|(by, _)| *by == Opener::Scraper).map(|(_, port)| port).collect::<Vec<_>>()
        };
        let merged = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9100"});
        assert!(scraped(merged.clone(), Of::Template).is_empty());
        assert_eq!(scraped(merged, Of::Pod), [9100]);
        let own = json!({"prometheus.io/scrape": "true",
            "prometheus.istio.io/merge-metrics": "false"});
        assert_eq!(scraped(own, Of::Template), [8080, 8081], "every port that is declared");
    }

    #[test]
    fn the_annotations_say_what_is_captured() {
        let captured = |annotations: Value| {
            let meta = serde_json::from_value(json!({"annotations": annotations})).unwrap();
            let inbound = inbound(&meta, &PodSpec::default(), Of::Pod);
            [80, 8080, 9090]
                .into_iter()
                .filter(|port| inbound.captures(Port(*port)))
                .collect::<Vec<_>>()
        };
        let (only, but) = (
            "traffic.sidecar.istio.io/includeInboundPorts",
            "traffic.sidecar.istio.io/excludeInboundPorts",
        );
        assert_eq!(captured(json!({})), [80, 8080, 9090]);
        assert_eq!(captured(json!({only: "*", but: "80, 9090"})), [8080]);
        assert_eq!(captured(json!({only: "80"})), [80]);
        assert_eq!(captured(json!({only: ""})), [0_u16; 0]);
        assert_eq!(captured(json!({"sidecar.istio.io/interceptionMode": "NONE"})), [0_u16; 0]);
        assert_eq!(captured(json!({"status.sidecar.istio.io/port": "9090"})), [80, 8080]);
    }
}
