//! Who comes in from outside the mesh and can never speak its mutual TLS, as the objects tell it:
//! the apiserver, the kubelet, ingress controllers, scrapers, whoever has a node's address.
//!
//! Source: `istio-semantics.md` C6 (which ports a sidecar captures) and F1–F6.

use crate::finding::Subject;
use crate::ident::{Namespace, Port};
use crate::scheduled::Scheduled;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A way in that an object opens to a Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entrance {
    /// Who comes in.
    pub caller: Caller,
    /// The object that leads them there.
    pub declared_by: Subject,
    /// What of that object does, and what depends on it; empty where there is nothing to add.
    pub detail: String,
    /// The Service's namespace.
    pub namespace: Namespace,
    /// The Service's name.
    pub service: String,
    /// The Service's port.
    pub port: Dialled,
}

/// A port of a Service, as objects name it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Dialled {
    /// By number.
    Number(Port),
    /// By name.
    Name(String),
    /// It is not said: any.
    Any,
}

/// Who comes in from outside the mesh to a Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Caller {
    /// kube-apiserver, at an admission webhook.
    Admission,
    /// kube-apiserver, at an aggregated API.
    Aggregation,
    /// kube-apiserver, at a conversion webhook.
    Conversion,
    /// An ingress controller.
    Ingress(IngressController),
    /// The pods of a CronJob.
    Scheduled(Arc<Scheduled>),
    /// This operator, which asks the metrics source there.
    Ourselves,
    /// Sidecars or their agents by themselves, past what they know of the mesh.
    Proxies,
}

/// The controller that serves an Ingress, as far as the Ingress and its class tell of it.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct IngressController {
    /// The name of the class; `None` for the default one.
    pub class: Option<String>,
    /// What the class says of its controller.
    pub name: Option<String>,
    /// The Ingress has it dial the Service, and call it so: what a sidecar knows how to send, if it
    /// is a name of the Service. Else controllers dial the pods, which no sidecar sends mutual TLS.
    pub calls: Option<String>,
}

/// What comes into a pod past its Services, and what its sidecar takes of it.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Inbound {
    /// Only these ports are captured; `None`: all of them.
    pub only: Option<BTreeSet<Port>>,
    /// All ports are captured but these.
    pub but: BTreeSet<Port>,
    /// The ports that the application's containers declare.
    pub declared: BTreeSet<Port>,
    /// Those of them that have names, the proxy's own as well.
    pub named: BTreeMap<String, Port>,
    /// Nothing comes to the sidecar at all, for this reason.
    pub passed_by: Option<PassedBy>,
    /// Some of what it sends goes past its sidecar.
    pub sends_past: bool,
    /// Ports that somebody dials who is not in the mesh.
    pub openings: Vec<Opening>,
}

/// Why what comes to a pod passes its sidecar by.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PassedBy {
    /// It was told to capture nothing: `sidecar.istio.io/interceptionMode: NONE`.
    Mode,
    /// Istio's CNI marks the pod `cni.istio.io/uninitialized`: nothing was set up in it.
    Uninitialised,
}

/// A port of a pod that is dialled past every Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Opening {
    /// By whom.
    pub by: Opener,
    /// The container that it leads to.
    pub container: String,
    /// The container port.
    pub port: Port,
}

/// Who dials a pod's port past every Service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Opener {
    /// The kubelet: a probe that says something and waits for an answer.
    Probe(Check),
    /// The kubelet: a probe that only connects, which a sidecar lets everybody do.
    Connect(Check),
    /// The kubelet: a lifecycle hook.
    Hook,
    /// Whoever reaches the node, by this port of it.
    HostPort(Port),
    /// A scraper that goes by the pod's annotations.
    Scraper,
}

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Check {
    /// Is it to be started again?
    Liveness,
    /// Is it to be called?
    Readiness,
    /// Has it started?
    Startup,
}

/// The ports at which the sidecar itself answers: never captured (C6).
const OF_THE_SIDECAR: [u16; 3] = [15020, 15021, 15090];

impl Inbound {
    /// What comes to `port` goes through the sidecar. Elsewhere a PeerAuthentication has no say.
    pub fn captures(&self, port: Port) -> bool {
        if self.passed_by.is_some() {
            return false;
        }
        // An explicit list is taken as it is, and what is excluded is not looked at.
        match &self.only {
            Some(only) => only.contains(&port),
            None => !self.but.contains(&port) && !OF_THE_SIDECAR.contains(&port.0),
        }
    }
}

impl fmt::Display for IngressController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.class, &self.name) {
            (Some(class), Some(name)) => write!(f, "class {class}, {name}"),
            (Some(class), None) => write!(f, "class {class}"),
            (None, _) => f.write_str("the default class"),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        })
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Any => f.write_str("any port"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ports_to_capture_beats_the_excluded_ones() {
        let ports = |all: &[u16]| all.iter().copied().map(Port).collect::<BTreeSet<_>>();
        let captured = |inbound: &Inbound| {
            [80, 8080, 15020, 15090]
                .into_iter()
                .filter(|port| inbound.captures(Port(*port)))
                .collect::<Vec<_>>()
        };
        let mut inbound = Inbound::default();
        assert_eq!(captured(&inbound), [80, 8080]);
        inbound.but = ports(&[80]);
        assert_eq!(captured(&inbound), [8080]);
        inbound.only = Some(ports(&[80]));
        assert_eq!(captured(&inbound), [80]);
        inbound.only = Some(ports(&[]));
        assert!(captured(&inbound).is_empty());
        let passed = Inbound { passed_by: Some(PassedBy::Mode), ..Inbound::default() };
        assert!(captured(&passed).is_empty());
    }
}
