use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

/// Where the Services of the cluster are, as of one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Names(Vec<Entry>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    namespace: String,
    name: String,
    /// None for a headless Service.
    cluster_ip: Option<String>,
    /// The addresses of its ready endpoints.
    ready: BTreeSet<String>,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Port {
    number: i32,
    /// The ready endpoints behind this port, `ADDRESS:PORT` each.
    behind: BTreeSet<String>,
}

impl Names {
    pub(super) async fn read(client: &Client) -> kube::Result<Self> {
        let everything = ListParams::default();
        let services = Api::<Service>::all(client.clone()).list(&everything).await?;
        let slices = Api::<EndpointSlice>::all(client.clone()).list(&everything).await?;
        Ok(Self(services.iter().map(|service| Entry::of(service, &slices.items)).collect()))
    }

    /// The `/etc/hosts` of one pod: a name leads to the Service's ClusterIP, and that of a
    /// headless one to its pods.
    pub(super) fn hosts(&self, pod: &Pod, address: Ipv4Addr, istiod: Ipv4Addr) -> String {
        let (own, own_namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        let mut hosts = format!("127.0.0.1 localhost\n{address} {own}\n");
        for entry in &self.0 {
            let Entry { namespace, name, cluster_ip, ready, .. } = entry;
            let full = format!("{name}.{namespace}");
            let addresses: Vec<String> = match cluster_ip {
                // The one Service whose process runs on the machine itself.
                _ if full == "istiod.istio-system" => vec![istiod.to_string()],
                Some(ip) => vec![ip.clone()],
                None => ready.iter().cloned().collect(),
            };
            let short = if *namespace == own_namespace { name.as_str() } else { "" };
            for address in addresses {
                hosts += &format!("{address} {full}.svc.cluster.local {full}.svc {full} {short}\n");
            }
        }
        hosts
    }

    /// What kube-proxy would do with a pod's connections to ClusterIPs, for `iptables-restore`:
    /// each goes to one of the ready endpoints, or is refused where there is none.
    ///
    /// None for a pod with a sidecar, which knows ClusterIPs and has the table to itself.
    pub(super) fn rules(&self, pod: &Pod) -> Option<String> {
        if has_sidecar(pod) {
            return None;
        }
        let (mut translated, mut refused) = (String::new(), String::new());
        for entry in &self.0 {
            let Some(ip) = &entry.cluster_ip else { continue };
            for Port { number, behind } in &entry.ports {
                let to = format!("-A OUTPUT -d {ip}/32 -p tcp -m tcp --dport {number}");
                if behind.is_empty() {
                    refused += &format!("{to} -j REJECT\n");
                }
                for (index, endpoint) in behind.iter().enumerate() {
                    // Of those that come to the n-th from the end, one in n goes there.
                    let left = behind.len() - index;
                    let chance = match left {
                        1 => String::new(),
                        _ => format!(" -m statistic --mode nth --every {left} --packet 0"),
                    };
                    translated += &format!("{to}{chance} -j DNAT --to-destination {endpoint}\n");
                }
            }
        }
        Some(format!("*nat\n{translated}COMMIT\n*filter\n{refused}COMMIT\n"))
    }
}

impl Entry {
    fn of(service: &Service, slices: &[EndpointSlice]) -> Self {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        let ours: Vec<&EndpointSlice> = slices
            .iter()
            .filter(|slice| {
                slice.namespace().as_ref() == Some(&namespace)
                    && slice.labels().get("kubernetes.io/service-name") == Some(&name)
            })
            .collect();
        let spec = service.spec.clone().unwrap_or_default();
        let port = |port: ServicePort| {
            let behind = ours.iter().flat_map(|slice| endpoints(slice, port.name.as_deref()));
            Port { number: port.port, behind: behind.collect() }
        };
        Self {
            namespace,
            name,
            cluster_ip: spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None"),
            ready: ours.iter().flat_map(|slice| ready(slice)).cloned().collect(),
            ports: spec.ports.into_iter().flatten().map(port).collect(),
        }
    }
}

fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &String> {
    let endpoints = slice.endpoints.iter().flatten();
    let ready = |it: &&Endpoint| it.conditions.as_ref().is_none_or(|it| it.ready != Some(false));
    endpoints.filter(ready).flat_map(|endpoint| &endpoint.addresses)
}

/// The ready endpoints of one Service port; a slice names it as the Service does.
fn endpoints(slice: &EndpointSlice, name: Option<&str>) -> Vec<String> {
    let named =
        |port: &&EndpointPort| port.name.as_deref().unwrap_or_default() == name.unwrap_or_default();
    let number = slice.ports.iter().flatten().find(named).and_then(|port| port.port);
    let Some(number) = number else { return vec![] };
    ready(slice).map(|address| format!("{address}:{number}")).collect()
}

/// An item whenever the names may have changed.
pub(super) fn changes(client: &Client) -> impl Stream<Item = ()> + use<> {
    let services = Api::<Service>::all(client.clone());
    let slices = Api::<EndpointSlice>::all(client.clone());
    let config = watcher::Config::default();
    stream::select(
        watcher(services, config.clone()).default_backoff().map(drop),
        watcher(slices, config).default_backoff().map(drop),
    )
}

pub(super) fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.any(|container| container.name == "istio-proxy")
}
