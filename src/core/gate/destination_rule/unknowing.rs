//! Clients that send plaintext without a rule that says so: they do not know the Service, or how to
//! speak mutual TLS to what stands behind it.
//!
//! Whether such a client calls at all no object tells. Where everybody was listened to over the
//! look-back, the gate plaintext has named whoever did; where nobody listened, it is a warning.

use super::{Context, list};
use crate::finding::{Code, Finding, Subject};
use crate::ident::Port;
use crate::workload::{Pod, Proxy, Service, Workload};
use std::collections::BTreeSet;

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = machines(context).collect();
    if !context.snapshot.telemetry.was_heard() {
        findings.extend(unimported(context));
        findings.extend(without_hbone(context));
    }
    findings
}

/// Machines outside Kubernetes to which clients send plaintext.
fn machines(context: Context<'_>) -> impl Iterator<Item = Finding> {
    let facts = context.facts;
    facts.machines.iter().filter(|machine| !machine.takes_mutual_tls).map(|machine| {
        let name = &machine.name;
        Finding::new(
            Code::WorkloadEntryNoIdentity,
            Subject::new("WorkloadEntry", &facts.name, name),
            format!("WorkloadEntry {}/{name} has neither a service account nor the label security.istio.io/tlsMode=istio: clients send it plaintext, which its proxy refuses after STRICT, if it has one", facts.name),
        )
        .remedy(format!("where no proxy of the mesh runs on it: take the namespace out of the plan; where one does: kubectl patch workloadentry {name} -n {} --type merge -p '{{\"spec\":{{\"serviceAccount\":\"ACCOUNT\"}}}}', with the account under which its proxy runs", facts.name))
    })
}

/// Services here that the Sidecar of a client elsewhere does not import. A VirtualService that leads
/// to one imports it as well, and is not read.
fn unimported(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    if snapshot.egress.is_empty() {
        return None;
    }
    let takes =
        |service: &&Service| facts.endpoints(service).any(|(_, pod)| pod.takes_mutual_tls());
    let services: Vec<_> = facts.services.iter().filter(takes).collect();
    let mut hidden = BTreeSet::new();
    let mut by = BTreeSet::new();
    let clients = snapshot.namespaces.values().filter(|client| client.has_meshed_clients());
    for client in clients {
        for scope in snapshot.egress.in_force_in(client) {
            if snapshot.sends_to_known_only(scope) {
                continue;
            }
            let knows = |service: &Service, port: Port| {
                scope.imports(&client.name, &facts.name, &service.host, port)
            };
            let unknown = services
                .iter()
                .filter(|service| service.ports.iter().any(|port| !knows(service, port.port)));
            for service in unknown {
                hidden.insert(&service.name);
                by.insert((&scope.namespace, &scope.name, &client.name));
            }
        }
    }
    if hidden.is_empty() {
        return None;
    }
    let by = by
        .into_iter()
        .map(|(space, name, client)| format!("{space}/{name} for clients in {client}"));
    Some(
        Finding::new(
            Code::EgressScopeHidesHost,
            Subject::namespace(&facts.name),
            format!(
                "Sidecars keep Services of {} from their clients: what these send there goes out as plaintext, which is refused after STRICT",
                facts.name
            ),
        )
        .evidence(format!("not imported: Service {}", list(hidden.into_iter().cloned())))
        .evidence(format!("by Sidecar {}", list(by)))
        .remedy(format!("where they are called, add \"{}/*\" to spec.egress[].hosts of these Sidecars; a metrics source would tell who calls", facts.name)),
    )
}

/// Pods here to which ztunnel would speak plaintext.
fn without_hbone(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    let is_ambient = |pod: &Pod| pod.proxy == Proxy::Ambient;
    let mut clients = snapshot
        .namespaces
        .values()
        .filter(|other| other.workloads.values().flat_map(Workload::running).any(is_ambient))
        .map(|other| other.name.to_string())
        .peekable();
    clients.peek()?;
    // What a pod to come would offer its template does not say.
    let lacks = |pod: &Pod| !pod.is_to_be_made() && !pod.offers_tunnel();
    let servers = facts.servers().filter(|one| one.meshed().any(lacks));
    let mut servers = servers.map(|workload| workload.id.to_string()).peekable();
    servers.peek()?;
    Some(
        Finding::new(
            Code::AmbientClientNoHbone,
            Subject::namespace(&facts.name),
            format!(
                "the sidecars of {} offer no HBONE: an ambient client that calls them sends plaintext, which is refused after STRICT",
                list(servers)
            ),
        )
        .evidence(format!("ambient pods run in namespace {}", list(clients)))
        .remedy("set ISTIO_META_ENABLE_HBONE: \"true\" in meshConfig.defaultConfig.proxyMetadata (Istio's ambient profile does), then restart these workloads"),
    )
}
