//! Does a sidecar send what an ingress controller sends to a Service?
//!
//! Source: `istio-semantics.md` F4. Controllers dial the pods themselves, and what is dialled by
//! address a sidecar sends on as it is, the controller's own as well.

use super::led::Led;
use crate::exposure::{Dialled, IngressController};
use crate::ident::Namespace;
use crate::snapshot::Snapshot;
use crate::workload::{Pod, Proxy, Service, Workload};

/// How what the controller sends arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrival {
    /// As mutual TLS of its sidecar.
    MutualTls,
    /// Past its sidecar: it dials the pods.
    PastItsSidecar,
    /// It has a sidecar, and whom it dials is a matter of settings that are not read here; it was
    /// seen to call the Service.
    Calls,
    /// The same, and nobody has seen whom it calls.
    Unsaid,
    /// As plaintext: no sidecar is seen at it, or it is not seen itself.
    Plaintext,
}

/// The one controller whose Ingresses say whom it dials.
const NGINX: &str = "k8s.io/ingress-nginx";

/// What `app.kubernetes.io/name` says on a controller's pods, in the charts of their makers. A
/// class may be named as any application is, so that its name tells nobody from another.
const PODS: [(&str, &str); 5] = [
    (NGINX, "ingress-nginx"),
    ("haproxy.org/ingress-controller", "kubernetes-ingress"),
    ("ingress-controllers.konghq.com/kong", "kong"),
    ("nginx.org/ingress-controller", "nginx-ingress"),
    ("traefik.io/ingress-controller", "traefik"),
];

pub(super) fn arrival(
    snapshot: &Snapshot,
    controller: &IngressController,
    home: &Namespace,
    led: &Led<'_>,
    port: &Dialled,
) -> Arrival {
    let name = controller.name.as_deref();
    let Some((_, label)) = PODS.iter().find(|(known, _)| name == Some(known)) else {
        return Arrival::Plaintext;
    };
    let is_of_it = |pod: &Pod| {
        pod.labels.value("app.kubernetes.io/name") == Some(label)
            // What nginx's chart has beside it.
            && pod.labels.value("app.kubernetes.io/component") != Some("default-backend")
    };
    // What ztunnel sends to a sidecar may be plaintext (B5).
    let has_sidecar = |pod: &Pod| {
        matches!(pod.proxy, Proxy::Sidecar { .. } | Proxy::Gateway) && !pod.inbound.sends_past
    };
    let all = snapshot.namespaces.values().flat_map(|facts| facts.workloads.values());
    let its: Vec<_> = all.filter(|one| one.running().any(is_of_it)).collect();
    let mut pods = its.iter().flat_map(|one| one.running()).filter(|pod| is_of_it(pod)).peekable();
    if pods.peek().is_none() || !pods.all(has_sidecar) {
        return Arrival::Plaintext;
    }
    if name != Some(NGINX) {
        let is_seen = its.iter().any(|one| was_seen(snapshot, one, led.service));
        return if is_seen { Arrival::Calls } else { Arrival::Unsaid };
    }
    // By another name it is led elsewhere, or sent on as it is; without an address of the Service's
    // own there is none to dial but the pods'.
    let calls = controller.calls.as_ref();
    let is_called = calls.is_some_and(|name| is_name(name, led.service, home, port));
    match is_called && led.alias.is_none() && !led.service.headless {
        true => Arrival::MutualTls,
        false => Arrival::PastItsSidecar,
    }
}

/// The sidecar of `client` knew the Service that it called as this one.
fn was_seen(snapshot: &Snapshot, client: &Workload, service: &Service) -> bool {
    let edges = snapshot.telemetry.edges.known();
    edges.into_iter().flatten().any(|edge| {
        (&edge.source.namespace, &edge.source.workload) == (&client.id.namespace, &client.id.name)
            && edge.service == service.host.as_str()
            && edge.requests.0.iter().any(|(_, count)| *count > 0.0)
    })
}

/// A sidecar of any namespace knows `service` of `home` by this name, at this port; nginx puts its
/// own words for what the Ingress leads to in their place.
fn is_name(name: &str, service: &Service, home: &Namespace, port: &Dialled) -> bool {
    let (host, at) = match name.split_once(':') {
        Some((host, at)) => (host, Some(at)),
        None => (name, None),
    };
    let number = match port {
        Dialled::Number(number) => Some(*number),
        Dialled::Name(name) => {
            service.ports.iter().find(|port| port.name == *name).map(|port| port.port)
        }
        Dialled::Any => None,
    };
    let is_port =
        |at: &str| at == "$service_port" || number.is_some_and(|port| at == port.to_string());
    let domain = service.host.as_str().split_once(".svc.").map_or("", |(_, domain)| domain);
    let mut labels = host.splitn(4, '.');
    let (own, of, svc, rest) = (labels.next(), labels.next(), labels.next(), labels.next());
    at.is_none_or(is_port)
        && (own == Some(&service.name) || own == Some("$service_name"))
        && (of == Some(home.as_str()) || of == Some("$namespace"))
        && svc.is_none_or(|svc| svc == "svc")
        && rest.is_none_or(|rest| rest == domain)
}

/// What makes a sidecar send it, as a command or in words.
pub(super) fn remedy(controller: &IngressController, ingress: &str, service: &str) -> String {
    if controller.name.as_deref() != Some(NGINX) {
        return "give the controller a sidecar, and have it call the Service by its name instead of the pods".into();
    }
    format!(
        "give the controller a sidecar, and have it call the Service: kubectl annotate {ingress} \
         nginx.ingress.kubernetes.io/service-upstream=true \
         nginx.ingress.kubernetes.io/upstream-vhost={service}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_service_is_called_by_its_names_and_by_nobody_elses() {
        let world = World::shop();
        let service = &world.snapshot.namespaces[&"catalog".into()].services[0];
        let is = |name: &str| {
            is_name(name, service, &"catalog".into(), &Dialled::Number(crate::ident::Port(80)))
        };
        for name in [
            "catalog.catalog.svc.cluster.local",
            "catalog.catalog.svc",
            "catalog.catalog",
            "catalog.catalog.svc.cluster.local:80",
            "$service_name.$namespace.svc.cluster.local",
            "$service_name.$namespace.svc.cluster.local:$service_port",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "",
            "shop.example.com",
            // Known only to sidecars of its own namespace.
            "catalog",
            "front.catalog.svc.cluster.local",
            "catalog.front.svc.cluster.local",
            "catalog.catalog.svc.example.com",
            "catalog.catalog.pod.cluster.local",
            "catalog.catalog:8080",
        ] {
            assert!(!is(name), "{name}");
        }
    }
}
