//! What a Prometheus operator has scraped.

use super::{label_selector, namespace};
use crate::kubernetes::{MonitorSpec, PodMonitor, ScrapedEndpoint, ServiceMonitor};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::{Namespace, Port};
use meshrollout_core::scrape::{Monitor, Scraped};

/// Where the mesh's certificates are mounted for a scraper, by Istio's manual
/// (<https://istio.io/latest/docs/ops/integrations/prometheus/#tls-settings>).
const OF_THE_MESH: &str = "/etc/prom-certs/";

/// The ports of Services.
pub fn of_services(object: &ServiceMonitor) -> Option<Monitor> {
    monitor("ServiceMonitor", &object.metadata, &object.spec, false)
}

/// The ports of pods.
pub fn of_pods(object: &PodMonitor) -> Option<Monitor> {
    monitor("PodMonitor", &object.metadata, &object.spec, true)
}

/// Not scraped with a certificate of the mesh.
fn is_plain(one: &&ScrapedEndpoint) -> bool {
    let file = one.tls_config.as_ref().and_then(|tls| tls.cert_file.as_deref());
    let is_tls = one.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    !is_tls || !file.is_some_and(|file| file.starts_with(OF_THE_MESH))
}

fn port(one: &ScrapedEndpoint, of_pods: bool) -> Option<Scraped> {
    let number =
        |number: i32| u16::try_from(number).ok().map(|number| Scraped::Container(Port(number)));
    let name = one.port.as_ref().filter(|name| !name.is_empty());
    match (name, one.port_number, &one.target_port) {
        (Some(name), _, _) if of_pods => Some(Scraped::ContainerNamed(name.clone())),
        (Some(name), _, _) => Some(Scraped::OfService(name.clone())),
        (None, Some(port), _) => number(port),
        (None, None, Some(IntOrString::Int(port))) => number(*port),
        (None, None, Some(IntOrString::String(name))) => {
            Some(Scraped::ContainerNamed(name.clone()))
        }
        (None, None, None) => Some(Scraped::Declared),
    }
}

fn monitor(kind: &str, meta: &ObjectMeta, spec: &MonitorSpec, of_pods: bool) -> Option<Monitor> {
    let endpoints = if of_pods { &spec.pod_metrics_endpoints } else { &spec.endpoints };
    let plain = endpoints.iter().flatten().filter(is_plain);
    let ports: Vec<_> = plain.filter_map(|one| port(one, of_pods)).collect();
    if ports.is_empty() {
        return None;
    }
    let own = namespace(meta);
    let name = meta.name.as_deref().unwrap_or_default();
    let looks = spec.namespace_selector.clone().unwrap_or_default();
    let named: Vec<_> = looks.match_names.into_iter().flatten().map(Namespace::new).collect();
    let namespaces = match (looks.any, named.is_empty()) {
        (Some(true), _) => None,
        (_, true) => Some([own.clone()].into()),
        (_, false) => Some(named.into_iter().collect()),
    };
    Some(Monitor {
        declared_by: Subject::new(kind, &own, name),
        namespaces,
        selector: label_selector(spec.selector.as_ref()),
        ports,
        of_pods,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Option<Monitor> {
        let object = json!({"metadata": {"namespace": "ops", "name": "web"}, "spec": spec});
        of_services(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_monitor_looks_in_its_own_namespace_unless_it_says_where() {
        let looks = |selector: Value| {
            let spec = json!({"selector": {}, "endpoints": [{"port": "web"}],
                "namespaceSelector": selector});
            let found = service(spec).unwrap();
            ["ops", "shop", "other"].map(|name| found.looks_into(&name.into()))
        };
        assert_eq!(looks(Value::Null), [true, false, false]);
        assert_eq!(looks(json!({"matchNames": ["shop"]})), [false, true, false]);
        assert_eq!(looks(json!({"any": true})), [true, true, true]);
    }

    #[test]
    fn a_port_that_is_scraped_with_the_meshs_certificates_is_none() {
        let ports =
            |endpoint: Value| service(json!({"endpoints": [endpoint]})).map(|one| one.ports);
        let tls =
            |file: &str| json!({"port": "web", "scheme": "https", "tlsConfig": {"certFile": file}});
        assert_eq!(ports(json!({"port": "web"})), Some(vec![Scraped::OfService("web".into())]));
        assert_eq!(ports(json!({"targetPort": 9090})), Some(vec![Scraped::Container(Port(9090))]));
        assert_eq!(ports(tls("/etc/prom-certs/cert-chain.pem")), None);
        assert!(ports(tls("/etc/other/cert.pem")).is_some());
        let of = |endpoint: Value| ports(endpoint).unwrap();
        assert_eq!(
            of(json!({"port": "", "targetPort": "web"})),
            [Scraped::ContainerNamed("web".into())]
        );
        assert_eq!(of(json!({})), [Scraped::Declared]);
        let object = json!({"metadata": {"namespace": "ops", "name": "web"},
            "spec": {"podMetricsEndpoints": [{"port": "web"}, {"portNumber": 9091}]}});
        let found = of_pods(&serde_json::from_value(object).unwrap()).unwrap();
        let expected = [Scraped::ContainerNamed("web".into()), Scraped::Container(Port(9091))];
        assert_eq!((found.ports, found.of_pods), (expected.to_vec(), true));
        // What is no port takes no other with it.
        let object = json!({"metadata": {"namespace": "ops", "name": "web"},
            "spec": {"podMetricsEndpoints": [{"port": "web"}, {"portNumber": 70_000}]}});
        let found = of_pods(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(found.ports, [Scraped::ContainerNamed("web".into())]);
    }
}
