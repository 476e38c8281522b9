//! Monitors of the Prometheus operator: which ports a scraper is sent to.
//!
//! Source: `istio-semantics.md` F5. A scraper dials pods by their addresses, so that a sidecar of its
//! own sends what it sends on as it is.

use crate::finding::Subject;
use crate::ident::{Namespace, Port, Selector};
use std::collections::BTreeSet;

/// A ServiceMonitor or a PodMonitor.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitor {
    /// The object.
    pub declared_by: Subject,
    /// Where it looks; `None`: everywhere.
    pub namespaces: Option<BTreeSet<Namespace>>,
    /// What it looks for there: Services or pods.
    pub selector: Selector,
    /// Of these ports.
    pub ports: Vec<Scraped>,
    /// It looks for pods, past every Service.
    pub of_pods: bool,
}

/// A port that is scraped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scraped {
    /// That of the Service which has this name.
    OfService(String),
    /// That of the container.
    Container(Port),
    /// That of the container which has this name.
    ContainerNamed(String),
    /// Whatever the containers declare.
    Declared,
}

impl Monitor {
    /// It looks in `namespace`.
    pub fn looks_into(&self, namespace: &Namespace) -> bool {
        self.namespaces.as_ref().is_none_or(|all| all.contains(namespace))
    }
}
