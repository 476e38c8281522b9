//! Does any client's rule turn mutual TLS off towards a server in scope? Source of the algorithm:
//! `istio-semantics.md` B5, B6.

mod unknowing;

use super::{Context, list};
use crate::client_tls::{ClientTls, Wire};
use crate::finding::{Code, Finding, Subject};
use crate::ident::{Host, Labels, Namespace};
use crate::reading::Reading;
use crate::workload::{NamespaceFacts, Pod, Service, ServicePort, Workload};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    let auto = match &snapshot.mesh {
        Reading::Known(mesh) => mesh.auto_mtls,
        // Without the mesh's configuration the policies gate blocks already.
        Reading::Unknown(_) => true,
    };
    let clients = clients(context);
    // What one rule does is one finding, whoever it does it to: many clients must not crowd out
    // other rules.
    let mut findings: BTreeMap<Finding, BTreeSet<&Namespace>> = BTreeMap::new();
    for service in &facts.services {
        let endpoints: Vec<_> = facts.endpoints(service).map(|(_, pod)| pod).collect();
        if !endpoints.iter().any(|pod| pod.takes_mutual_tls()) {
            continue;
        }
        let unmeshed = endpoints.iter().filter(|pod| !pod.takes_mutual_tls()).count();
        for (client, labels) in &clients {
            for port in &service.ports {
                let choices = snapshot.rules.client_tls(
                    client,
                    labels,
                    &facts.name,
                    &service.host,
                    port.port,
                );
                for tls in choices {
                    let call = Call { facts, service, port };
                    if let Some(found) = judge(&call, &tls, auto, unmeshed) {
                        findings.entry(found).or_default().insert(client);
                    }
                }
            }
        }
    }
    let told = findings.into_iter().map(|(found, clients)| {
        let clients = list(clients.into_iter().map(ToString::to_string));
        found.evidence(format!("in force for clients in namespace {clients}"))
    });
    told.chain(aliases(context))
        .chain(hidden(context))
        .chain(uncaptured(context))
        .chain(unknowing::examine(context))
        .collect()
}

/// Services that sidecars elsewhere do not know
/// (`pilot/pkg/serviceregistry/kube/conversion.go`, annotation `networking.istio.io/exportTo`).
fn hidden(context: Context<'_>) -> impl Iterator<Item = Finding> {
    let facts = context.facts;
    let is_taken =
        |service: &&Service| facts.endpoints(service).any(|(_, pod)| pod.takes_mutual_tls());
    facts.services.iter().filter(is_taken).filter_map(move |service| {
        let to = service.export_to.as_ref()?;
        Some(
            Finding::new(
                Code::HostHidden,
                Subject::new("Service", &facts.name, &service.name),
                format!(
                    "Service {}/{} is exported to {} alone: sidecars elsewhere do not know it, and send what is sent there as plaintext",
                    facts.name,
                    service.name,
                    list(to.iter().map(|one| if one == "." { facts.name.to_string() } else { one.clone() }))
                ),
            )
            .remedy(format!("export it to whoever calls it: kubectl annotate service {} -n {} networking.istio.io/exportTo='*' --overwrite", service.name, facts.name)),
        )
    })
}

/// Names elsewhere that stand for a Service in scope.
fn aliases(context: Context<'_>) -> impl Iterator<Item = Finding> {
    let Context { snapshot, facts, .. } = context;
    let names = snapshot.namespaces.values().flat_map(|from| {
        let external =
            |service: &'_ Service| Some((service.external.clone()?, service.name.clone()));
        from.services.iter().filter_map(external).map(|(host, name)| (&from.name, name, host))
    });
    let is_meshed =
        |service: &&Service| facts.endpoints(service).any(|(_, pod)| pod.takes_mutual_tls());
    let leads_here = move |host: &Host| {
        facts.services.iter().filter(is_meshed).find(|service| {
            let whole = service.host.as_str();
            let short = format!("{}.{}", service.name, facts.name);
            let host = host.as_str().trim_end_matches('.');
            host == whole || host == short || host == format!("{short}.svc")
        })
    };
    names.filter_map(move |(namespace, name, host)| {
        let service = leads_here(&host)?;
        Some(
            Finding::new(
                Code::ExternalNameAlias,
                Subject::new("Service", namespace, &name),
                format!(
                    "Service {namespace}/{name} is another name for {}: clients that call it so may send plaintext",
                    service.host
                ),
            )
            .remedy(format!("let clients call {} by its own name", service.host)),
        )
    })
}

/// Ports that Services lead to and sidecars do not capture.
fn uncaptured(context: Context<'_>) -> Vec<Finding> {
    let facts = context.facts;
    let mut found = vec![];
    for service in &facts.services {
        for port in &service.ports {
            let Some(target) = port.target else { continue };
            let raw = facts
                .endpoints(service)
                // Where nothing at all is captured the gate injection says so.
                .filter(|(_, pod)| pod.inbound.passed_by.is_none())
                .find(|(_, pod)| pod.takes_mutual_tls() && !pod.inbound.captures(target));
            let Some((workload, _)) = raw else { continue };
            found.push(
                Finding::new(
                    Code::PortExcluded,
                    Subject::new("Service", &facts.name, &service.name).on(port.port),
                    format!(
                        "Service {}/{}:{} leads to port {target} of {}, which its sidecar does not capture: STRICT is not in force there, and meshed clients send it mutual TLS that nobody ends",
                        facts.name, service.name, port.port, workload.id
                    ),
                )
                .remedy("take the port out of traffic.sidecar.istio.io/excludeInboundPorts and except it by a PeerAuthentication, if plaintext must pass"),
            );
        }
    }
    found
}

struct Call<'a> {
    facts: &'a NamespaceFacts,
    service: &'a Service,
    port: &'a ServicePort,
}

fn judge(call: &Call<'_>, tls: &ClientTls<'_>, auto: bool, unmeshed: usize) -> Option<Finding> {
    let Call { facts, service, port } = call;
    let host = &service.host;
    let here = || Subject::new("Service", &facts.name, &service.name).on(port.port);
    let rule = || {
        tls.decided_by.map_or_else(here, |rule| {
            Subject::new("DestinationRule", &rule.namespace, &rule.name).on(port.port)
        })
    };
    let by = tls.decided_by.map_or_else(String::new, |rule| {
        format!("DestinationRule {}/{} (host {})", rule.namespace, rule.name, rule.host)
    });
    let subset = tls.subset.map_or_else(String::new, |subset| format!(", subset {subset}"));
    let edit = tls.decided_by.map_or_else(String::new, |rule| {
        format!("kubectl edit destinationrule {} -n {}", rule.name, rule.namespace)
    });
    // Whose endpoints are not told: mutual TLS to all of them, or to none.
    let passthrough = service.headless || tls.passthrough;
    let wire = match (&tls.wire, tls.told) {
        (Wire::Auto, Some(false)) if !passthrough => &Wire::Plaintext,
        (wire, _) => wire,
    };
    let finding = match wire {
        Wire::Plaintext => Finding::new(
            Code::ClientTlsDisabled,
            rule(),
            format!("{by} makes clients of {host}:{}{subset} send plaintext: 503 after STRICT", port.port),
        )
        .remedy(format!("{edit}: remove trafficPolicy.tls, or set mode ISTIO_MUTUAL")),
        Wire::Foreign(mode) => Finding::new(
            Code::ClientTlsForeign,
            rule(),
            format!(
                "{by} makes clients of {host}:{}{subset} speak {mode} TLS, which is not the mesh's: refused after STRICT",
                port.port
            ),
        )
        .remedy(format!("{edit}: remove trafficPolicy.tls, or set mode ISTIO_MUTUAL")),
        Wire::IstioMutual if unmeshed > 0 => Finding::new(
            Code::MutualToUnmeshed,
            rule(),
            format!(
                "{by} demands mutual TLS of {host}:{}{subset}, but {unmeshed} of its pods cannot end it: calls to them fail today",
                port.port
            ),
        )
        .remedy("give every pod of the Service a sidecar"),
        Wire::IstioMutual => return None,
        Wire::Unknown(why) => Finding::new(
            Code::ClientTlsUnknown,
            rule(),
            format!("{by} cannot be understood ({why}), so what clients of {host} send is unknown"),
        )
        .remedy(edit),
        Wire::Auto if !auto => Finding::new(
            Code::AutoMtlsOff,
            here(),
            format!("meshConfig.enableAutoMtls is false and no rule turns mutual TLS on for {host}: clients send plaintext"),
        )
        .remedy("set meshConfig.enableAutoMtls to true"),
        Wire::Auto if passthrough && unmeshed > 0 => Finding::new(
            Code::HeadlessMixed,
            here(),
            format!(
                "{host} is headless or passthrough and {unmeshed} of its pods have no sidecar: clients send plaintext to all of them"
            ),
        )
        // Seen on a real istiod: an endpoint that joins the mesh changes no cluster of type
        // ORIGINAL_DST that a proxy has already.
        .remedy("give every pod of the Service a sidecar, then restart its clients: their proxies learn of it with the next full push only"),
        Wire::Auto => return None,
    };
    Some(finding)
}

/// The clients whose rules may differ: every namespace with meshed clients; where rules select
/// workloads, every label set they tell apart. Namespaces without rules of their own that no
/// `exportTo` names all see the same, so that one of them stands for all.
fn clients(context: Context<'_>) -> Vec<(Namespace, Labels)> {
    let Context { snapshot, facts, .. } = context;
    let named: BTreeSet<&str> = std::iter::once(&facts.name)
        .chain(snapshot.policies.roots())
        .flat_map(|namespace| snapshot.rules.of(namespace))
        .flat_map(|rule| rule.export_to.iter().map(String::as_str))
        .collect();
    let mut clients = vec![];
    let mut ordinary_seen = false;
    for client in snapshot.namespaces.values().filter(|client| client.has_meshed_clients()) {
        let rules = snapshot.rules.of(&client.name);
        let ordinary = rules.is_empty()
            && client.name != facts.name
            && !snapshot.policies.is_root(&client.name)
            && !named.contains(client.name.as_str());
        if ordinary {
            if !ordinary_seen {
                clients.push((client.name.clone(), Labels::default()));
            }
            ordinary_seen = true;
        } else if rules.iter().any(|rule| rule.selector.is_some()) {
            let labels: BTreeSet<_> = client
                .workloads
                .values()
                .flat_map(Workload::running)
                .filter(|pod| Pod::is_meshed_client(pod))
                .map(|pod| pod.labels.as_ref().clone())
                .collect();
            clients.extend(labels.into_iter().map(|labels| (client.name.clone(), labels)));
        } else {
            clients.push((client.name.clone(), Labels::default()));
        }
    }
    clients
}
