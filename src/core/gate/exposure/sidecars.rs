//! What the switch does to the sidecars themselves.

use super::{After, list};
use crate::finding::{Code, Finding, Subject};
use crate::traffic::{Name, rounded};
use crate::workload::Workload;

impl<'a> After<'a> {
    pub(super) fn of_sidecars(&self) -> Vec<Finding> {
        self.patched().chain(self.drained()).collect()
    }

    /// The servers whose listeners the switch changes.
    fn changed(&self) -> impl Iterator<Item = &'a Workload> {
        let is_changed = |one: &&Workload| one.running().any(|pod| self.refuses(pod, None));
        self.facts.servers().filter(is_changed)
    }

    /// Filters that look for a shape which STRICT takes away (`istio-semantics.md` F24).
    fn patched(&self) -> impl Iterator<Item = Finding> {
        let root = self.snapshot.policies.root();
        self.snapshot.inbound_filters.iter().filter_map(move |filter| {
            let is_here = filter.namespace == self.facts.name || filter.namespace == *root;
            let selects = |workload: &&Workload| {
                let mut pods = workload.meshed();
                pods.any(|pod| filter.selector.as_ref().is_none_or(|all| all.select(&pod.labels)))
            };
            let mut patched = self.changed().filter(selects).filter(|_| is_here).peekable();
            patched.peek()?;
            let patched = list(patched.map(|workload| workload.id.to_string()));
            Some(
                Finding::new(
                    Code::InboundEnvoyFilter,
                    Subject::new("EnvoyFilter", &filter.namespace, &filter.name),
                    format!(
                        "EnvoyFilter {}/{} changes {} of inbound listeners, which STRICT changes too: it may not match any more, or match something else",
                        filter.namespace, filter.name, filter.what
                    ),
                )
                .evidence(format!("for {patched}"))
                .remedy("compare istioctl proxy-config listeners POD --port 15006 -o json of a test namespace before and after STRICT"),
            )
        })
    }

    /// Connections that were opened and not closed.
    fn drained(&self) -> impl Iterator<Item = Finding> {
        let open = self.snapshot.telemetry.open.known();
        self.changed().filter_map(move |workload| {
            let name = Name {
                namespace: workload.id.namespace.clone(),
                workload: workload.id.name.clone(),
            };
            let count = rounded(*open?.get(&name)?);
            (count > 0).then(|| {
                Finding::new(
                    Code::LongLivedConnections,
                    &workload.id,
                    format!("about {count} TCP connections to {} stay open: the switch changes its listeners, and after the drain time (45 s by default) they are closed", workload.id),
                )
                .measured(count.to_string(), "0")
                .remedy("make sure that its clients connect again by themselves")
            })
        })
    }
}
