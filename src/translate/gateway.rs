//! The Gateway API: where routes lead requests from outside the cluster, and whose the gateways are.

use super::entrance::led_by;
use super::namespace;
use crate::kubernetes::{GRPCRoute, Gateway, GatewayClass, HTTPRoute, Reference, RouteSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshrollout_core::exposure::{Caller, Dialled, Entrance, IngressController};
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::{Namespace, Port};

/// A gateway, by namespace and name.
pub type GatewayName = (Namespace, String);

/// What Istio's own classes are called, where no object says whose they are
/// (`pilot/pkg/config/kube/gateway/gatewayclass.go`).
const OF_ISTIO: [&str; 3] = ["istio", "istio-remote", "istio-waypoint"];

/// Where a route leads, until it is known whose its gateways are.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    gateways: Vec<GatewayName>,
    /// Each with the controller still to be said.
    entrances: Vec<Entrance>,
}

/// Where an HTTPRoute leads.
pub fn http(object: &HTTPRoute) -> Route {
    route("HTTPRoute", &object.metadata, &object.spec)
}

/// Where a GRPCRoute leads.
pub fn grpc(object: &GRPCRoute) -> Route {
    route("GRPCRoute", &object.metadata, &object.spec)
}

fn route(kind: &str, meta: &ObjectMeta, spec: &RouteSpec) -> Route {
    let own = namespace(meta);
    let name = meta.name.as_deref().unwrap_or_default();
    let place = |reference: &Reference| {
        let namespace = reference.namespace.as_deref().map_or_else(|| own.clone(), Namespace::new);
        (namespace, reference.name.clone())
    };
    // A Service or a ServiceEntry as a parent is within the mesh: its callers are sidecars. Whatever
    // else is one stands before a gateway, or will.
    let is_gateway = |one: &&Reference| {
        let kind = one.kind.as_deref().unwrap_or("Gateway");
        kind != "Service" && kind != "ServiceEntry"
    };
    // Of several clusters one is this.
    let is_service =
        |one: &&Reference| matches!(one.kind.as_deref(), None | Some("Service" | "ServiceImport"));
    let rules = spec.rules.iter().flatten();
    let backends = rules.flat_map(|rule| {
        let backends = rule.backend_refs.iter().flatten();
        let filters = backends.clone().flat_map(|backend| &backend.filters).chain(&rule.filters);
        let mirrors = filters.flatten().filter_map(|one| one.request_mirror.as_ref());
        backends.map(|one| &one.to).chain(mirrors.map(|mirror| &mirror.backend_ref))
    });
    let entrance = |backend: &Reference| {
        let (namespace, service) = place(backend);
        let port = backend.port.and_then(|port| u16::try_from(port).ok());
        Entrance {
            caller: Caller::Ingress(IngressController::default()),
            declared_by: Subject::new(kind, &own, name),
            detail: String::new(),
            namespace,
            service,
            port: port.map_or(Dialled::Any, |port| Dialled::Number(Port(port))),
        }
    };
    let mut entrances: Vec<_> = backends.filter(is_service).map(entrance).collect();
    entrances.sort();
    entrances.dedup();
    let parents = spec.parent_refs.iter().flatten();
    Route { gateways: parents.filter(is_gateway).map(place).collect(), entrances }
}

/// The class of a gateway.
pub fn gateway(object: &Gateway) -> (GatewayName, String) {
    let name = object.metadata.name.clone().unwrap_or_default();
    ((namespace(&object.metadata), name), object.spec.gateway_class_name.clone())
}

/// Whose the gateways of a class are.
pub fn controller(object: &GatewayClass) -> (String, String) {
    let name = object.metadata.name.clone().unwrap_or_default();
    (name, object.spec.controller_name.clone())
}

/// The entrances of routes, once for each of their gateways that is not Istio's: those speak mutual
/// TLS.
pub fn by_gateway<'a>(
    routes: impl IntoIterator<Item = &'a Route>,
    gateways: &[(GatewayName, String)],
    classes: &[(String, String)],
) -> Vec<Entrance> {
    let mut entrances = vec![];
    for Route { gateways: parents, entrances: leads } in routes {
        for parent in parents {
            let class = gateways.iter().find(|(name, _)| name == parent).map(|(_, class)| class);
            let known = class.and_then(|class| classes.iter().find(|(name, _)| name == class));
            let name = known.map(|(_, controller)| controller.clone());
            let is_istio = match (&name, class) {
                (Some(name), _) => name.starts_with("istio.io/"),
                (None, Some(class)) => OF_ISTIO.contains(&class.as_str()),
                (None, None) => false,
            };
            if is_istio {
                continue;
            }
            let (space, gateway) = parent;
            let class = class
                .cloned()
                .unwrap_or_else(|| format!("of Gateway {space}/{gateway}, which is not there"));
            let controller = IngressController { class: Some(class), name, calls: None };
            entrances.extend(led_by(controller, leads));
        }
    }
    entrances
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn leads(parents: Value, rule: Value) -> Vec<String> {
        let object = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"parentRefs": parents, "rules": [rule]}});
        let route = http(&serde_json::from_value(object).unwrap());
        let name = |name: &str| (Namespace::from("infra"), name.to_owned());
        let gateways = [("mesh", "istio"), ("own", "mine"), ("edge", "edge"), ("lost", "lost")];
        let gateways = gateways.map(|(gateway, class)| (name(gateway), class.to_owned()));
        let classes = [("mine", "istio.io/gateway-controller"), ("edge", "example.com/edge")];
        let classes = classes.map(|(class, of)| (class.to_owned(), of.to_owned()));
        let say = |one: &Entrance| {
            let Caller::Ingress(controller) = &one.caller else { panic!("{one:?}") };
            format!("{}/{}:{} by {controller}", one.namespace, one.service, one.port)
        };
        by_gateway([&route], &gateways, &classes).iter().map(say).collect()
    }

    #[test]
    fn a_route_leads_where_its_rules_say_by_each_gateway_that_is_not_istios() {
        let to = json!({"backendRefs": [{"name": "cart", "port": 80},
            {"name": "far", "namespace": "other", "port": 81}, {"kind": "Bucket", "name": "files"}],
            "filters": [{"type": "RequestMirror",
                "requestMirror": {"backendRef": {"name": "copy", "port": 82}}}]});
        let by = |gateway: &str| json!([{"namespace": "infra", "name": gateway}]);
        let all = |by: &str| {
            ["other/far:81", "shop/cart:80", "shop/copy:82"].map(|to| format!("{to} by {by}"))
        };
        assert_eq!(leads(by("edge"), to.clone()), all("class edge, example.com/edge"));
        assert_eq!(leads(by("lost"), to.clone()), all("class lost"));
        assert_eq!(
            leads(by("gone"), to.clone()),
            all("class of Gateway infra/gone, which is not there")
        );
        assert!(leads(by("mesh"), to.clone()).is_empty());
        assert!(leads(by("own"), to.clone()).is_empty());
        let service = json!([{"group": "", "kind": "Service", "name": "cart"}]);
        assert!(leads(service, to.clone()).is_empty());
        // Whatever it is, it leads to a gateway.
        let set =
            json!([{"group": "gateway.networking.x-k8s.io", "kind": "XListenerSet", "name": "x"}]);
        assert_eq!(leads(set, to), all("class of Gateway shop/x, which is not there"));
        let mirrored = json!({"backendRefs": [{"kind": "Bucket", "name": "files", "filters": [
            {"requestMirror": {"backendRef": {"kind": "ServiceImport", "name": "copy", "port": 82}}}]}]});
        assert_eq!(leads(by("lost"), mirrored), ["shop/copy:82 by class lost"]);
    }
}
