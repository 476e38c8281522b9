//! Whom objects lead here from outside the mesh: the apiserver, ingress controllers, and work by a
//! schedule that names a Service.

use super::ingress::{self, Arrival};
use super::{After, Refusal, injectors, port_of, subject};
use crate::exposure::{Caller, Dialled, Entrance};
use crate::finding::{Code, Finding, Level, Subject};
use crate::ident::{Namespace, WorkloadRef};
use crate::reading::{Cause, Reading};
use crate::scheduled::{self, Ran, Scheduled};
use crate::workload::{Proxy, Service, ServicePort, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Service here, under one of the names by which it is reached.
pub(super) struct Led<'a> {
    pub(super) service: &'a Service,
    /// The ExternalName that leads to it.
    pub(super) alias: Option<&'a Service>,
}

/// By namespace and name, as objects say them.
type Names<'a> = BTreeMap<&'a Namespace, BTreeMap<&'a str, Led<'a>>>;

impl<'a> After<'a> {
    pub(super) fn led_in(&self) -> Vec<Finding> {
        let names = self.names();
        let mut findings = vec![];
        match &self.snapshot.entrances {
            Reading::Unknown(cause) => findings.push(self.unknown(cause)),
            Reading::Known(entrances) => {
                findings.extend(entrances.iter().flat_map(|one| self.entrance(one, &names)));
            }
        }
        match &self.snapshot.scheduled {
            Reading::Unknown(cause) => findings.push(self.unknown(cause)),
            Reading::Known(all) => {
                findings.extend(all.iter().flat_map(|work| self.scheduled(work, &names)));
            }
        }
        let asked_at = self.snapshot.telemetry.asked_at.iter();
        findings.extend(asked_at.flat_map(|one| self.entrance(one, &names)));
        findings
    }

    pub(super) fn unknown(&self, cause: &Cause) -> Finding {
        let name = &self.facts.name;
        Finding::new(
            Code::CallersUnknown,
            Subject::namespace(name),
            format!("who calls into {name} from outside the mesh is not known: {cause}"),
        )
        .remedy(match cause {
            Cause::Malformed(_) => "upgrade it to a release that serves v1, or delete it where nobody uses it",
            _ => "give the operator the right to list webhook configurations, APIServices, CustomResourceDefinitions, CronJobs and Ingresses, and where they are installed the Gateway API's routes, gateways and classes and the Prometheus operator's monitors",
        })
    }

    /// The Services of this namespace, and the ExternalNames anywhere that lead to them, by however
    /// many steps.
    fn names(&self) -> Names<'a> {
        let mut names = Names::new();
        let own = self.facts.services.iter().filter(|service| service.external.is_none());
        let mut known: BTreeMap<&str, &Service> =
            own.map(|service| (service.host.as_str(), service)).collect();
        for service in known.values().copied() {
            let here = names.entry(&self.facts.name).or_default();
            here.insert(&service.name, Led { service, alias: None });
        }
        let mut aliases: Vec<_> = self
            .snapshot
            .namespaces
            .values()
            .flat_map(|other| other.services.iter().map(move |alias| (&other.name, alias)))
            .filter_map(|(space, alias)| Some((space, alias, alias.external.as_ref()?.as_str())))
            .collect();
        loop {
            let before = aliases.len();
            aliases.retain(|(space, alias, host)| {
                let host = host.trim_end_matches('.');
                // A pod of a headless Service has a name of its own before it.
                let of_a_pod = host.split_once('.').and_then(|(_, rest)| known.get(rest));
                let Some(&service) = known.get(host).or(of_a_pod.filter(|one| one.headless)) else {
                    return true;
                };
                known.insert(alias.host.as_str(), service);
                let there = names.entry(space).or_default();
                there.insert(&alias.name, Led { service, alias: Some(alias) });
                false
            });
            if aliases.len() == before {
                return names;
            }
        }
    }

    /// Where a CronJob would call that has not been there to be seen.
    fn scheduled(&self, work: &Arc<Scheduled>, names: &Names<'a>) -> Vec<Finding> {
        let of = |all: &'_ scheduled::Names| {
            let mut found = vec![];
            for (space, services) in names {
                let here = all.of(space).filter(|(service, _)| services.contains_key(service));
                found.extend(here.map(|(service, port)| Entrance {
                    caller: Caller::Scheduled(work.clone()),
                    declared_by: work.job.clone(),
                    detail: String::new(),
                    namespace: (*space).clone(),
                    service: service.to_owned(),
                    port,
                }));
            }
            found
        };
        let (named, early) = (of(&work.names), of(&work.early));
        // Seldom is anybody here named, and then it is looked at more closely.
        if named.is_empty() && early.is_empty() {
            return vec![];
        }
        let is_meshed = self.is_meshed(work);
        if self.was_seen(work, is_meshed) {
            return vec![];
        }
        let named = if is_meshed { vec![] } else { named };
        named.iter().chain(&early).flat_map(|one| self.entrance(one, names)).collect()
    }

    /// What its pods send would go out as mutual TLS, once they have a sidecar.
    fn is_meshed(&self, work: &Scheduled) -> bool {
        let Some(home) = &work.job.namespace else { return false };
        let labels = self.snapshot.namespace(home).map(|facts| facts.labels.clone());
        let injectors = injectors(self.snapshot);
        let made = work.template.proxy(home, &labels.unwrap_or_default(), injectors);
        // What ztunnel sends to a sidecar may be plaintext (B5).
        matches!(made, Proxy::Sidecar { .. } | Proxy::Gateway) && !work.template.inbound.sends_past
    }

    /// What we ask goes out as mutual TLS: by sidecars of our own, which know the Service by this
    /// name and port.
    fn is_asked_by_sidecar(&self, led: &Led<'_>, port: &Dialled) -> bool {
        let service = led.service;
        let is_declared = service.ports.iter().any(|one| Dialled::Number(one.port) == *port);
        // One endpoint without a sidecar, and what is sent to all of them is plaintext (B2).
        let mut endpoints = self.facts.endpoints(service);
        let is_whole = !service.headless || endpoints.all(|(_, pod)| pod.takes_mutual_tls());
        let home = self.snapshot.namespace(self.operator);
        let pods = home.into_iter().flat_map(|facts| facts.workloads.values());
        let ours = pods.flat_map(Workload::running).filter(|pod| {
            pod.labels.value("app.kubernetes.io/name") == Some(crate::policy::FIELD_MANAGER)
        });
        let mut ours = ours.peekable();
        let are_we_meshed = ours.peek().is_some()
            && ours.all(|pod| {
                // What ztunnel sends to a sidecar may be plaintext (B5).
                matches!(pod.proxy, Proxy::Sidecar { .. }) && !pod.inbound.sends_past
            });
        led.alias.is_none() && is_declared && is_whole && are_we_meshed
    }

    /// What its pods send was seen as they would send it today: those of its runs that are still
    /// there had no sidecar either.
    fn was_seen(&self, work: &Scheduled, is_meshed: bool) -> bool {
        let Some(home) = &work.job.namespace else { return false };
        let id = WorkloadRef::new(home.clone(), "CronJob", &work.job.name);
        let runs = self.snapshot.namespace(home).and_then(|facts| facts.workloads.get(&id));
        let mut pods = runs.into_iter().flat_map(|runs| &runs.pods);
        work.was_there(self.snapshot.at, self.lookback)
            && (is_meshed || pods.all(|pod| !pod.is_meshed_client()))
    }

    fn entrance(&self, entrance: &Entrance, names: &Names<'a>) -> Vec<Finding> {
        let Some(led) =
            names.get(&entrance.namespace).and_then(|all| all.get(entrance.service.as_str()))
        else {
            return vec![];
        };
        let service = led.service;
        let port = match (&entrance.port, led.alias) {
            // An ExternalName's ports have names for its own numbers.
            (Dialled::Name(name), Some(alias)) => {
                let port = alias.ports.iter().find(|port| port.name == *name);
                port.map_or(Dialled::Any, |port| Dialled::Number(port.port))
            }
            (port, _) => port.clone(),
        };
        let arrival = match &entrance.caller {
            Caller::Ingress(controller) => {
                ingress::arrival(self.snapshot, controller, &entrance.namespace, led, &port)
            }
            Caller::Ourselves if self.is_asked_by_sidecar(led, &port) => Arrival::MutualTls,
            Caller::Admission
            | Caller::Aggregation
            | Caller::Conversion
            | Caller::Scheduled(_)
            | Caller::Proxies
            | Caller::Ourselves => Arrival::Plaintext,
        };
        if arrival == Arrival::MutualTls {
            return vec![];
        }
        if service.selector.is_empty() {
            // The apiserver itself, which has no sidecar.
            if (self.facts.name.as_str(), &*service.name) == ("default", "kubernetes") {
                return vec![];
            }
            return vec![unselected(&self.facts.name, service, entrance)];
        }
        self.reached(service, &port, &entrance.caller, led.alias.is_some())
            .iter()
            .map(|refusal| self.let_in(entrance, arrival, service, refusal))
            .collect()
    }

    /// Where plaintext that is sent to `port` of `service` would be refused.
    fn reached(
        &self,
        service: &'a Service,
        port: &Dialled,
        by: &Caller,
        is_alias: bool,
    ) -> Vec<Refusal<'a>> {
        let is_word = matches!(by, Caller::Scheduled(_));
        // Its name leads to the pods themselves.
        let are_we = matches!(by, Caller::Ourselves);
        let by_name = service.headless && (is_word || are_we || is_alias);
        match port {
            Dialled::Number(number) if by_name => return self.refusals(service, Some(*number)),
            // It need not have ports at all.
            Dialled::Any if by_name => return self.refusals(service, None),
            Dialled::Number(_) | Dialled::Name(_) | Dialled::Any => {}
        }
        let is_at = |number| service.ports.iter().any(|port| port.port == number);
        let is_dialled = |one: &&ServicePort| match port {
            Dialled::Number(number) => one.port == *number || (is_word && !is_at(*number)),
            Dialled::Name(name) => one.name == *name,
            Dialled::Any => true,
        };
        let ports = service.ports.iter().filter(is_dialled);
        ports.flat_map(|port| self.refusals(service, port.target)).collect()
    }

    fn let_in(
        &self,
        entrance: &Entrance,
        arrival: Arrival,
        service: &Service,
        refusal: &Refusal<'_>,
    ) -> Finding {
        let Entrance { declared_by, detail, .. } = entrance;
        let at = port_of(&refusal.workload.id, refusal.port);
        let (code, led) = match &entrance.caller {
            Caller::Admission => (
                Code::WebhookBackend,
                format!("kube-apiserver calls {at} by {declared_by}, and it is never in the mesh"),
            ),
            Caller::Aggregation => (
                Code::ApiServiceBackend,
                format!("kube-apiserver leads {declared_by} to {at}, and it is never in the mesh"),
            ),
            Caller::Conversion => (
                Code::ConversionBackend,
                format!(
                    "kube-apiserver has objects of {declared_by} converted at {at}, and it is never in the mesh"
                ),
            ),
            Caller::Scheduled(work) => {
                let unseen = self.unseen(work);
                let led = format!(
                    "{declared_by} names {} and has no sidecar; {unseen}. What it sends to {at} is plaintext",
                    service.name
                );
                (Code::RareCaller, led)
            }
            Caller::Ourselves => (
                Code::ScrapeBreaksUnderStrict,
                format!(
                    "this operator asks the {declared_by} at {at}, and is not in the mesh: it would be blind to all harm"
                ),
            ),
            Caller::Proxies => (
                Code::ProxyOwnCalls,
                format!(
                    "by {declared_by} sidecars call {at} themselves, and not as clients of the mesh"
                ),
            ),
            Caller::Ingress(controller) => {
                let how = match arrival {
                    Arrival::Plaintext => "no sidecar is seen at its controller",
                    Arrival::PastItsSidecar => "its controller dials the pods, past its sidecar",
                    Arrival::MutualTls | Arrival::Calls => {
                        "its controller may dial the pods, past its sidecar"
                    }
                    Arrival::Unsaid => {
                        "its controller, which may dial the pods past its sidecar, was not seen to call the Service"
                    }
                };
                let led = format!("{declared_by} leads to {at}, and {how} ({controller})");
                (Code::IngressWithoutProxy, led)
            }
        };
        let let_in = self.exception(&service.selector, refusal);
        let about = match &entrance.caller {
            Caller::Scheduled(_) => declared_by.clone(),
            Caller::Admission
            | Caller::Aggregation
            | Caller::Conversion
            | Caller::Ingress(_)
            | Caller::Proxies
            | Caller::Ourselves => subject(refusal),
        };
        let found = Finding::new(code, about, format!("{led}: refused after STRICT"))
            .evidence(match &entrance.port {
                Dialled::Any => format!("through Service {}/{}", self.facts.name, service.name),
                port => format!("through Service {}/{}:{port}", self.facts.name, service.name),
            })
            .remedy(match &entrance.caller {
                Caller::Admission | Caller::Aggregation | Caller::Conversion => let_in,
                Caller::Proxies => format!(
                    "name it by an extension provider, which sidecars call as they call any Service; or let them in: {let_in}"
                ),
                Caller::Ourselves => format!(
                    "let it in: {let_in}; or give the operator a sidecar and ask at the Service's own name and port"
                ),
                Caller::Scheduled(_) => format!(
                    "give its pods a sidecar; or have it seen: kubectl create job {name}-now --from=cronjob/{name}{within}; or let it in: {let_in}",
                    name = declared_by.name,
                    within = declared_by.namespace.as_ref().map_or_else(String::new, |one| format!(" -n {one}")),
                ),
                Caller::Ingress(controller) => {
                    let home = declared_by.namespace.as_ref().unwrap_or(&self.facts.name);
                    let name = format!("ingress {} -n {home}", declared_by.name);
                    let mesh_it = ingress::remedy(controller, &name, service.host.as_str());
                    format!("{mesh_it}; or let it in: {let_in}")
                }
            });
        let found = match arrival {
            Arrival::Calls => found.at(self.unless_heard()),
            // Somebody may have to visit it once.
            Arrival::Unsaid if self.unless_heard() == Level::Warn => found.at(Level::Hold),
            Arrival::Unsaid | Arrival::MutualTls | Arrival::PastItsSidecar | Arrival::Plaintext => {
                found
            }
        };
        match detail.as_str() {
            "" => found,
            detail => found.evidence(detail),
        }
    }

    /// Why what it sends need not have been seen.
    fn unseen(&self, work: &Scheduled) -> String {
        let lookback = self.lookback;
        match (work.ran, work.rests) {
            (Ran::At(at), _) => {
                format!(
                    "it last ended well at {at}, too long ago for the look-back of {lookback:#}"
                )
            }
            (Ran::Never, _) => "it has not ended well since it was made or changed".to_owned(),
            (Ran::Unsaid, Some(rests)) => format!(
                "it rests for {rests:#} at the longest, so that the look-back of {lookback:#} need not have seen it"
            ),
            (Ran::Unsaid, None) => {
                "it begins at no time that can be told, so that nobody need have seen it".to_owned()
            }
        }
    }
}

/// Its endpoints are somebody's to write, and may be pods of the mesh.
fn unselected(namespace: &Namespace, service: &Service, entrance: &Entrance) -> Finding {
    let (declared_by, service) = (&entrance.declared_by, &service.name);
    Finding::new(
        Code::CallersUnknown,
        Subject::new("Service", namespace, service),
        format!("{declared_by} leads to Service {namespace}/{service}, which has no selector: whether it is to pods in scope is not known"),
    )
    .remedy(format!(
        "kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={service}; where they are not in scope, or their port is excepted: acknowledge this finding in the rollout's spec.acknowledgements"
    ))
}
