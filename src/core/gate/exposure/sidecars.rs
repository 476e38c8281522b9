//! What the switch does to the sidecars themselves.

use super::{After, list};
use crate::finding::{Code, Finding, Subject};
use crate::snapshot::InboundFilter;
use crate::traffic::{Name, rounded};
use crate::workload::Workload;

impl<'a> After<'a> {
    pub(super) fn of_sidecars(&self) -> Vec<Finding> {
        let changes = |one: &&Workload| one.running().any(|pod| self.refuses(pod, None));
        let changed: Vec<_> = self.facts.servers().filter(changes).collect();
        self.patched(&changed).chain(self.drained(&changed)).collect()
    }

    /// Filters that look for a shape which STRICT takes away (`istio-semantics.md` F24).
    fn patched(&self, changed: &[&'a Workload]) -> impl Iterator<Item = Finding> {
        let is_here = |filter: &&InboundFilter| {
            filter.namespace == self.facts.name || self.snapshot.policies.is_root(&filter.namespace)
        };
        self.snapshot.inbound_filters.iter().filter(is_here).filter_map(move |filter| {
            let selects = |workload: &&&Workload| {
                let mut pods = workload.meshed();
                pods.any(|pod| filter.selector.as_ref().is_none_or(|all| all.select(&pod.labels)))
            };
            let mut patched = changed.iter().filter(selects).peekable();
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
    fn drained(&self, changed: &[&'a Workload]) -> impl Iterator<Item = Finding> {
        let open = self.snapshot.telemetry.open.known();
        changed.iter().filter_map(move |workload| {
            let name = Name::from(&workload.id);
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
