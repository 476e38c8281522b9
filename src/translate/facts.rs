//! One namespace, put together from its objects.

use super::pod::{OwnedPod, Owner};
use super::{labels, service};
use crate::kubernetes;
use meshrollout_core::ident::{Host, Labels, Namespace, Port, Uid, WorkloadRef};
use meshrollout_core::workload::{Machine, NamespaceFacts, Service, Workload};
use std::collections::{BTreeMap, BTreeSet};

/// What a Namespace object itself says. One of whom nobody has told us has neither uid nor labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Its uid.
    pub uid: Uid,
    /// Its labels.
    pub labels: Labels,
    /// On its way out.
    pub terminating: bool,
}

/// A Service, and the ports of its pods that it knows by name only.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedService {
    /// The Service; its host ends before the domain, and the target of a port known by name is
    /// absent.
    pub service: Service,
    /// The names of such targets, by the port's place.
    pub targets: BTreeMap<usize, String>,
}

/// The objects of one namespace.
#[derive(Default)]
pub struct Parts<'a> {
    /// The Namespace object.
    pub header: Option<&'a Header>,
    /// Deployments, StatefulSets, DaemonSets.
    pub owners: Vec<&'a Owner>,
    /// Pods.
    pub pods: Vec<&'a OwnedPod>,
    /// Services.
    pub services: Vec<&'a NamedService>,
    /// WorkloadEntries.
    pub machines: Vec<&'a Machine>,
    /// The roots that are trusted there.
    pub roots: Option<&'a BTreeSet<String>>,
}

/// What a Namespace object says.
pub fn header(object: &kubernetes::Namespace) -> Header {
    let meta = &object.metadata;
    Header {
        uid: Uid::new(meta.uid.clone().unwrap_or_default()),
        labels: labels(meta),
        terminating: meta.deletion_timestamp.is_some(),
    }
}

/// A Service and what of it is still to be found out.
pub fn named_service(object: &kubernetes::Service) -> NamedService {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String as Name;
    let ports = object.spec.tcp_ports();
    let targets = ports.enumerate().filter_map(|(place, port)| match &port.target_port {
        Some(Name(name)) if name.parse::<u16>().is_err() => Some((place, name.clone())),
        _ => None,
    });
    NamedService { targets: targets.collect(), service: service(object) }
}

impl Parts<'_> {
    /// The namespace they make in a cluster whose Services are in this domain.
    pub fn facts(&self, name: &Namespace, domain: &str) -> NamespaceFacts {
        let mut workloads = BTreeMap::new();
        for owner in &self.owners {
            let workload = workload(&mut workloads, &owner.id);
            workload.desired = owner.desired;
            workload.template = Some(owner.template.clone());
        }
        for pod in &self.pods {
            workload(&mut workloads, &pod.owner).pods.push(pod.pod.clone());
        }
        NamespaceFacts {
            name: name.clone(),
            uid: self.header.map_or_else(|| Uid::new(""), |header| header.uid.clone()),
            labels: self.header.map(|header| header.labels.clone()).unwrap_or_default(),
            terminating: self.header.is_some_and(|header| header.terminating),
            workloads,
            services: self.services.iter().map(|service| self.resolve(service, domain)).collect(),
            machines: self.machines.iter().copied().cloned().collect(),
            roots: self.roots.cloned(),
        }
    }

    /// The Service by its full name, with those named targets that all its pods agree on, and those
    /// that would be made where none is up yet.
    fn resolve(&self, NamedService { service, targets }: &NamedService, domain: &str) -> Service {
        let mut service = service.clone();
        service.host = Host::new(format!("{}.{domain}", service.host));
        if service.selector.is_empty() {
            return service;
        }
        for (place, name) in targets {
            let behind = self.pods.iter().filter(|pod| service.selector.select(&pod.pod.labels));
            let is_up = |id: &WorkloadRef| {
                self.pods.iter().any(|pod| *pod.owner == *id && pod.pod.is_running())
            };
            let to_come = self.owners.iter().filter(|owner| {
                service.selector.select(&owner.template.labels) && !is_up(&owner.id)
            });
            let ports = behind.map(|pod| &*pod.ports).chain(to_come.map(|owner| &owner.ports));
            let numbers: BTreeSet<Port> =
                ports.filter_map(|ports| ports.get(name).copied()).collect();
            let mut numbers = numbers.into_iter();
            if let (Some(number), None) = (numbers.next(), numbers.next())
                && let Some(port) = service.ports.get_mut(*place)
            {
                port.target = Some(number);
            }
        }
        service
    }
}

fn workload<'a>(
    workloads: &'a mut BTreeMap<WorkloadRef, Workload>,
    id: &WorkloadRef,
) -> &'a mut Workload {
    workloads.entry(id.clone()).or_insert_with(|| Workload {
        id: id.clone(),
        desired: None,
        template: None,
        pods: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::domain::DEFAULT;
    use crate::translate::pod::{deployment, owned_pod};
    use serde_json::{Value, json};

    fn pod(name: &str, port: u16) -> OwnedPod {
        let pod: kubernetes::Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "generateName": "web-1-",
                "labels": {"app": "web", "pod-template-hash": "1"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
                    "uid": "1", "controller": true}]},
            "spec": {"containers": [{"name": "web",
                "ports": [{"name": "http", "containerPort": port}]}]},
        }))
        .unwrap();
        owned_pod(&pod)
    }

    fn web(target: Value) -> NamedService {
        let service = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": target}]},
        });
        named_service(&serde_json::from_value(service).unwrap())
    }

    #[test]
    fn pods_and_their_owner_are_one_workload() {
        let owner = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "web"}}}}});
        let owner = deployment(&serde_json::from_value(owner).unwrap());
        let pods = [pod("web-1-a", 80), pod("web-1-b", 80)];
        let parts = Parts { owners: vec![&owner], pods: pods.iter().collect(), ..Parts::default() };
        let facts = parts.facts(&"shop".into(), DEFAULT);
        let id = WorkloadRef::new("shop", "Deployment", "web");
        assert_eq!(facts.workloads.keys().collect::<Vec<_>>(), [&id]);
        assert_eq!(facts.workloads[&id].desired, Some(3));
        assert_eq!(facts.workloads[&id].pods.len(), 2);
        assert!(facts.workloads[&id].template.is_some());
    }

    #[test]
    fn a_named_target_is_what_the_pods_agree_on() {
        let target = |service: &NamedService, pods: &[OwnedPod]| {
            let parts =
                Parts { services: vec![service], pods: pods.iter().collect(), ..Parts::default() };
            parts.facts(&"shop".into(), DEFAULT).services[0].ports[0].target
        };
        let named = web(json!("http"));
        assert_eq!(target(&named, &[pod("a", 8080), pod("b", 8080)]), Some(Port(8080)));
        assert_eq!(target(&named, &[pod("a", 8080), pod("b", 9090)]), None);
        assert_eq!(target(&named, &[]), None);
        assert_eq!(target(&web(json!("8443")), &[]), Some(Port(8443)));
        assert_eq!(target(&web(json!(8443)), &[pod("a", 8080)]), Some(Port(8443)));
    }

    /// Whoever is scaled to nothing has ports as well, once it is not.
    #[test]
    fn a_named_target_is_what_those_to_come_agree_on_as_well() {
        let other = |port: u16, replicas: u32| {
            let owner = json!({"metadata": {"namespace": "shop", "name": "other"},
                "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web",
                        "ports": [{"name": "http", "containerPort": port}]}]}}}});
            deployment(&serde_json::from_value(owner).unwrap())
        };
        let (named, pods) = (web(json!("http")), [pod("a", 8080)]);
        for (port, expected) in [(8080, Some(Port(8080))), (9090, None)] {
            let owner = other(port, 0);
            let parts = Parts {
                services: vec![&named],
                owners: vec![&owner],
                pods: pods.iter().collect(),
                ..Parts::default()
            };
            assert_eq!(parts.facts(&"shop".into(), DEFAULT).services[0].ports[0].target, expected);
        }
    }

    /// What a sidecar never takes is neither a port of a Service nor in the way of its others.
    #[test]
    fn ports_of_other_protocols_are_left_out() {
        let service = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
                {"name": "sctp", "port": 36412, "protocol": "SCTP"},
                {"name": "web", "port": 80, "protocol": "TCP", "targetPort": "http"},
            ]},
        });
        let named = named_service(&serde_json::from_value(service).unwrap());
        let pods = [pod("a", 8080)];
        let parts =
            Parts { services: vec![&named], pods: pods.iter().collect(), ..Parts::default() };
        let facts = parts.facts(&"shop".into(), DEFAULT);
        let [only] = facts.services[0].ports.as_slice() else { panic!("{:?}", facts.services) };
        assert_eq!((only.port, only.target), (Port(80), Some(Port(8080))));
    }
}
