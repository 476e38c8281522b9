//! Whom a scraper is sent to, past the sidecar's own metrics.

use super::{After, Refusal, port_of, subject};
use crate::finding::{Code, Finding};
use crate::ident::{Labels, Port};
use crate::reading::Reading;
use crate::scrape::{Monitor, Scraped};
use crate::workload::{Pod, Service, Workload};
use std::collections::BTreeMap;

impl<'a> After<'a> {
    pub(super) fn scraped(&self) -> Vec<Finding> {
        let monitors = match &self.snapshot.monitors {
            Reading::Known(monitors) => monitors,
            Reading::Unknown(cause) => return vec![self.unknown(cause)],
        };
        // Several monitors of one port are one finding.
        let mut found: BTreeMap<_, Finding> = BTreeMap::new();
        for monitor in monitors.iter().filter(|one| one.looks_into(&self.facts.name)) {
            for (refusal, selector) in self.scraped_by(monitor) {
                let about = subject(&refusal);
                let of = || self.of_a_monitor(monitor, &refusal, selector);
                found.entry(about).or_insert_with(of);
            }
        }
        found.into_values().collect()
    }

    /// Where a scraper that goes by `monitor` would be refused, and by which labels the pods are
    /// found.
    fn scraped_by(&self, monitor: &Monitor) -> Vec<(Refusal<'a>, Option<&'a Labels>)> {
        if monitor.of_pods {
            return monitor.ports.iter().flat_map(|port| self.of_pods(monitor, port)).collect();
        }
        let services = self.facts.services.iter();
        let services = services.filter(|service| monitor.selector.matches(&service.labels));
        services
            .flat_map(|service| {
                let of = move |port| self.of_service(service, port);
                let refusals = monitor.ports.iter().flat_map(of);
                refusals.map(move |refusal| (refusal, Some(&service.selector)))
            })
            .collect()
    }

    fn of_service(&self, service: &'a Service, port: &Scraped) -> Vec<Refusal<'a>> {
        if let Scraped::OfService(name) = port {
            let ports = service.ports.iter().filter(|port| port.name == *name);
            return ports.flat_map(|port| self.refusals(service, port.target)).collect();
        }
        let behind = self.facts.endpoints(service);
        self.first_of(behind.flat_map(|(workload, pod)| scraped_of(workload, pod, port)))
    }

    fn of_pods(&self, monitor: &Monitor, port: &Scraped) -> Vec<(Refusal<'a>, Option<&'a Labels>)> {
        let pods = self.facts.servers().flat_map(|workload| {
            let is_scraped = |pod: &&Pod| monitor.selector.matches(&pod.labels);
            workload.running().filter(is_scraped).map(move |pod| (workload, pod))
        });
        let refused =
            self.first_of(pods.flat_map(|(workload, pod)| scraped_of(workload, pod, port)));
        refused.into_iter().map(|refusal| (refusal, None)).collect()
    }

    fn of_a_monitor(
        &self,
        monitor: &Monitor,
        refusal: &Refusal<'_>,
        selector: Option<&Labels>,
    ) -> Finding {
        let at = port_of(&refusal.workload.id, refusal.port);
        let own = self.selector(refusal);
        let exception = self.exception(selector.unwrap_or(&own), refusal);
        Finding::new(
            Code::ScrapedAppPort,
            subject(refusal),
            format!(
                "{} sends a scraper to {at}, past the sidecar's own metrics: refused after STRICT",
                monitor.declared_by
            ),
        )
        // A scraper comes every minute: where everybody was heard, somebody would have been named.
        .at(self.unless_heard())
        .remedy(format!(
            "have the sidecar's merged metrics scraped (port 15020, /stats/prometheus), or give the scraper the mesh's certificates; or let it in: {exception}"
        ))
    }
}

/// The ports of `pod` that are scraped.
fn scraped_of<'a>(
    workload: &'a Workload,
    pod: &'a Pod,
    port: &Scraped,
) -> impl Iterator<Item = (&'a Workload, &'a Pod, Option<Port>)> + use<'a> {
    let ports: Vec<Port> = match port {
        Scraped::Container(number) => vec![*number],
        Scraped::ContainerNamed(name) => pod.inbound.named.get(name).copied().into_iter().collect(),
        Scraped::Declared => pod.inbound.declared.iter().copied().collect(),
        Scraped::OfService(_) => vec![],
    };
    ports.into_iter().map(move |port| (workload, pod, Some(port)))
}
