//! What we know of a workload: its pods, whether each can speak mutual TLS, and its Services.

use crate::exposure::Inbound;
use crate::ident::{Host, Labels, Namespace, PodRef, Port, Uid, WorkloadRef};
use crate::injection::{Injector, Template};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Everything known of one namespace, rebuilt when one of its objects changes and shared between
/// snapshots otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: Namespace,
    /// Tells a recreated namespace from the one we knew.
    pub uid: Uid,
    /// Its labels: injection, dataplane mode, and what plans select by.
    pub labels: Labels,
    /// Being deleted: nothing is begun here.
    pub terminating: bool,
    /// The workloads, each with its pods.
    pub workloads: BTreeMap<WorkloadRef, Workload>,
    /// The Services.
    pub services: Vec<Service>,
    /// WorkloadEntries: machines outside Kubernetes.
    pub machines: Vec<Machine>,
    /// The roots that its proxies trust, each by its own text: what istiod has put into the
    /// ConfigMap `istio-ca-root-cert` here. `None`: it has not.
    pub roots: Option<BTreeSet<String>>,
}

/// A WorkloadEntry.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// It says so, or whose identity it has: clients send it mutual TLS.
    pub takes_mutual_tls: bool,
}

/// A set of like pods with one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Who owns the pods.
    pub id: WorkloadRef,
    /// Replicas asked for, where the owner says so; a fall in ready pods without a change here is
    /// a sign of harm.
    pub desired: Option<u32>,
    /// What the pods are made from, as far as injection looks at it. Absent when only pods are
    /// known.
    pub template: Option<Template>,
    /// Its pods, running or not.
    pub pods: Vec<Pod>,
}

/// One pod, as much of it as decisions look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its labels, the proxy's own as well.
    pub labels: Arc<Labels>,
    /// How it takes part in the mesh.
    pub proxy: Proxy,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// Uses its node's network: cannot be injected.
    pub host_network: bool,
    /// Restarts of all its containers.
    pub restarts: u32,
    /// What its sidecar captures, and who comes in past its Services.
    pub inbound: Arc<Inbound>,
    /// How it starts.
    pub start: Arc<Start>,
    /// As whom it speaks.
    pub identity: Arc<Identity>,
}

/// As whom a pod speaks: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Identity {
    /// Its service account.
    pub account: String,
    /// The trust domain that the injector wrote into its proxy, if it wrote one.
    pub trust_domain: Option<String>,
}

/// Who of a pod is up before its sidecar is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Start {
    /// Init containers, by name.
    pub early: Vec<String>,
    /// The application starts together with the sidecar, and does not wait for it.
    pub together: bool,
}

/// How a pod takes part in the mesh (`istio-semantics.md` C3, D1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Proxy {
    /// Not at all: what it sends is plaintext, and STRICT does not protect it.
    None,
    /// A sidecar that captures inbound traffic, served by the control plane of this revision.
    Sidecar {
        /// The annotation `istio.io/rev`, written by the injector: the revision, never a tag.
        revision: Option<String>,
        /// The label `security.istio.io/tlsMode: istio`, without which clients send it plaintext.
        announces_tls: bool,
    },
    /// A gateway: a client of others; PeerAuthentication does not apply to its listeners (A4).
    Gateway,
    /// Redirected to ztunnel.
    Ambient,
    /// Proxyless gRPC: no capture, PeerAuthentication is up to the library.
    Proxyless,
}

/// After the name of a workload: a pod that stands for those to come. No pod's name has a space.
pub(crate) const TO_BE_MADE: &str = " (to be made)";

/// A pod's phase, as far as it matters here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Not running yet.
    Pending,
    /// Running, Ready or not.
    Running,
    /// Done: neither server nor client any more.
    Completed,
    /// Being deleted.
    Terminating,
}

/// A Kubernetes Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its full host name.
    pub host: Host,
    /// Its labels, by which monitors look for it.
    pub labels: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The pods behind it; empty for a Service without selector.
    pub selector: Labels,
    /// `clusterIP: None`: clients choose mTLS for all endpoints or for none (B2 rule 6).
    pub headless: bool,
    /// `type: ExternalName`: no server here, but at this name.
    pub external: Option<Host>,
    /// `networking.istio.io/exportTo`: only sidecars there know it. `None`: all do.
    pub export_to: Option<Vec<String>>,
    /// How it is reached from outside the cluster, if it is: `NodePort`, `LoadBalancer`.
    pub published: Option<&'static str>,
}

/// One port of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// The number clients dial; DestinationRule speaks of this one.
    pub port: Port,
    /// The container port, if it is a number; PeerAuthentication speaks of this one.
    pub target: Option<Port>,
    /// Its name.
    pub name: String,
    /// `appProtocol`, which beats what the name says.
    pub app_protocol: Option<String>,
}

/// What a port's name may begin with to say what it speaks
/// (`pkg/config/protocol/instance.go:Parse`).
const PROTOCOLS: [&str; 13] = [
    "tcp",
    "udp",
    "grpc",
    "grpc-web",
    "http",
    "http_proxy",
    "http2",
    "https",
    "tls",
    "mongo",
    "mysql",
    "redis",
    "hbone",
];

impl ServicePort {
    /// What it is declared to speak: by `appProtocol`, else by the word before the first dash of
    /// its name. Without either sidecars look at what is sent.
    pub fn protocol(&self) -> Option<&str> {
        if let Some(protocol) = &self.app_protocol {
            // Kubernetes' own names for what Istio calls http2 and so on.
            return Some(protocol.strip_prefix("kubernetes.io/").unwrap_or(protocol));
        }
        let is_word = |name: &&str| PROTOCOLS.contains(name);
        let word = self.name.split('-').next();
        Some(self.name.as_str()).filter(is_word).or(word.filter(is_word))
    }
}

impl Pod {
    /// Up and running: counts as a server and as a client.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Running and Ready.
    pub fn is_ready(&self) -> bool {
        self.is_running() && self.ready_since.is_some()
    }

    /// It is none yet: one from its owner's template would be so.
    pub fn is_to_be_made(&self) -> bool {
        self.name.ends_with(TO_BE_MADE)
    }

    /// What it sends through a Service is mutual TLS, unless a DestinationRule says otherwise.
    pub fn is_meshed_client(&self) -> bool {
        match self.proxy {
            Proxy::Sidecar { .. } | Proxy::Gateway | Proxy::Ambient => true,
            Proxy::None | Proxy::Proxyless => false,
        }
    }

    /// Clients will send it mutual TLS and its proxy will end it (C3).
    pub fn takes_mutual_tls(&self) -> bool {
        matches!(self.proxy, Proxy::Sidecar { announces_tls: true, .. })
    }

    /// What ztunnel sends it goes through a tunnel of the mesh (HBONE), which is mutual TLS
    /// (`pilot/pkg/serviceregistry/ambient/workloads.go:setTunnelProtocol`).
    pub fn offers_tunnel(&self) -> bool {
        let offered = self.labels.value("networking.istio.io/tunnel");
        self.proxy == Proxy::Ambient
            || offered.is_some_and(|all| all.split(',').any(|one| one == "http"))
    }

    /// The control plane that serves it.
    pub fn revision(&self) -> Option<&str> {
        match &self.proxy {
            Proxy::Sidecar { revision, .. } => revision.as_deref(),
            Proxy::None | Proxy::Gateway | Proxy::Ambient | Proxy::Proxyless => None,
        }
    }
}

impl Workload {
    /// The pods that are up.
    pub fn running(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.is_running())
    }

    /// The pods that are up and have a sidecar.
    pub fn meshed(&self) -> impl Iterator<Item = &Pod> {
        self.running().filter(|pod| matches!(pod.proxy, Proxy::Sidecar { .. }))
    }

    /// No pod is up, and there may be some.
    pub fn is_to_come(&self) -> bool {
        let is_coming = |pod: &Pod| pod.phase == Phase::Pending;
        self.running().next().is_none()
            && (self.template.is_some() || self.pods.iter().any(is_coming))
    }

    /// Gateways are clients, never targets.
    pub fn is_gateway(&self) -> bool {
        self.running().next().is_some() && self.running().all(|pod| pod.proxy == Proxy::Gateway)
    }

    /// `pod` of this workload, fully named.
    pub fn pod_ref(&self, pod: &Pod) -> PodRef {
        PodRef { namespace: self.id.namespace.clone(), name: pod.name.clone() }
    }
}

impl NamespaceFacts {
    /// The workloads STRICT would act on: those with running pods that are no gateways.
    pub fn servers(&self) -> impl Iterator<Item = &Workload> {
        self.workloads
            .values()
            .filter(|workload| workload.running().next().is_some() && !workload.is_gateway())
    }

    /// Some pod here sends mutual TLS.
    pub fn has_meshed_clients(&self) -> bool {
        self.workloads.values().any(|workload| workload.running().any(Pod::is_meshed_client))
    }

    /// The running pods behind `service`, with their workloads.
    pub fn endpoints<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a Workload, &'a Pod)> {
        let selects_pods = service.external.is_none() && !service.selector.is_empty();
        self.workloads
            .values()
            .flat_map(|workload| workload.running().map(move |pod| (workload, pod)))
            .filter(move |(_, pod)| selects_pods && service.selector.select(&pod.labels))
    }

    /// Container ports that some Service of this namespace leads to, by whose they are.
    pub fn ports(&self) -> BTreeMap<&WorkloadRef, BTreeSet<Port>> {
        let mut ports: BTreeMap<&WorkloadRef, BTreeSet<Port>> = BTreeMap::new();
        for service in &self.services {
            let behind: BTreeSet<_> =
                self.endpoints(service).map(|(workload, _)| &workload.id).collect();
            let targets = || service.ports.iter().filter_map(|port| port.target);
            for workload in behind {
                ports.entry(workload).or_default().extend(targets());
            }
        }
        ports
    }

    /// Workloads of which no pod is up stand for what will come of them: their pods on the way, or
    /// one from their template.
    pub fn expect_pods(&mut self, injectors: &[Injector]) {
        for workload in self.workloads.values_mut().filter(|workload| workload.is_to_come()) {
            let mut coming: Vec<_> =
                workload.pods.iter_mut().filter(|pod| pod.phase == Phase::Pending).collect();
            for pod in &mut coming {
                pod.phase = Phase::Running;
            }
            if coming.is_empty()
                && let Some(template) = &workload.template
            {
                let made = template.pod(&workload.id, &self.labels, injectors);
                workload.pods.push(made);
            }
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no proxy",
            Self::Sidecar { .. } => "sidecar",
            Self::Gateway => "gateway",
            Self::Ambient => "ambient",
            Self::Proxyless => "proxyless gRPC",
        })
    }
}
