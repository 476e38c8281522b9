//! Did anybody send plaintext in the look-back? Clients send the same bytes before and after
//! STRICT, so whoever did would be refused.

use super::{Context, list, policy, unknown_metrics};
use crate::client_tls::{Rule, Wire};
use crate::finding::{Code, Finding, Subject};
use crate::mode::Mode;
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::traffic::{Caller, Name, Observed, rounded};
use crate::waiver::Exception;
use crate::workload::{NamespaceFacts, Service, ServicePort, Workload};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    let callers = match &snapshot.telemetry.callers {
        Reading::Known(callers) => callers,
        Reading::Unknown(cause) => {
            return vec![unknown_metrics(cause, &facts.name, "who sends plaintext")];
        }
    };

    // One finding per caller and destination, however many series speak of it.
    let mut seen: BTreeMap<_, Vec<&Caller>> = BTreeMap::new();
    let excepted = excepted(context);
    let is_let_in = |caller: &Caller| {
        let at = |one: &Exception| {
            one.ports.is_empty() || caller.port.is_some_and(|port| one.ports.contains(&port))
        };
        let mut covering = excepted.iter().filter(|one| covers(one, &caller.destination));
        caller.observed == Observed::Plaintext && covering.any(|one| at(one))
    };
    let here = callers.iter().filter(|caller| caller.destination.namespace == facts.name);
    for caller in here.filter(|caller| !is_let_in(caller)) {
        seen.entry((&caller.destination, caller.port, &caller.source, caller.observed))
            .or_default()
            .push(caller);
    }
    seen.into_values().map(|callers| finding(context, &callers, &excepted)).collect()
}

/// The exceptions that are in force: somebody answers for them, and a policy would keep plaintext
/// passing once the namespace is STRICT. A declaration alone lets nobody in.
fn excepted(context: Context<'_>) -> Vec<&Exception> {
    let Context { snapshot, facts, plan } = context;
    let holding = plan
        .waivers
        .exceptions
        .iter()
        .filter(|one| one.workload.namespace == facts.name && one.answer.holds(snapshot.at));
    let holding: Vec<_> = holding.collect();
    if holding.is_empty() {
        return holding;
    }
    let after = snapshot.policies.with(policy::ours(snapshot, facts, Mode::Strict));
    let everywhere = policy::targets(facts);
    let passes = |one: &&Exception| {
        // Metrics name a workload without its kind: a namesake's callers are let in as well.
        let namesakes = facts.workloads.keys().filter(|it| it.name == one.workload.name);
        // Every port that it names, whether a Service leads there or not: each is let in.
        let ports = namesakes.map(|it| (it, one.ports.iter().copied().collect())).collect();
        let named = policy::with_ports(facts, &ports);
        let targets = if one.ports.is_empty() { &everywhere } else { &named };
        let let_in: Vec<_> = targets
            .iter()
            .filter(|target| target.workload.name == one.workload.name)
            .filter(|target| one.ports.is_empty() || target.port.is_some())
            .collect();
        let_in.iter().any(|target| *target.workload == one.workload)
            && let_in.iter().all(|target| {
                target.mode(&after).known().is_some_and(|mode| mode.mode != Mode::Strict)
            })
    };
    holding.into_iter().filter(passes).collect()
}

fn covers(exception: &Exception, called: &Name) -> bool {
    exception.workload.namespace == called.namespace && exception.workload.name == called.workload
}

/// What makes servers say to which port each call came; the tag is Istio's documentation's own.
fn say_ports(facts: &NamespaceFacts) -> String {
    format!(
        "have its sidecars say to which port each call comes: kubectl apply -f - <<'END'\n\
         apiVersion: telemetry.istio.io/v1\n\
         kind: Telemetry\n\
         metadata: {{name: destination-port, namespace: {}}}\n\
         spec:\n  \
         metrics:\n  \
         - providers: [{{name: prometheus}}]\n    \
         overrides:\n    \
         - match: {{mode: SERVER}}\n      \
         tagOverrides: {{destination_port: {{value: string(destination.port)}}}}\n\
         END\n",
        facts.name
    )
}

fn finding(context: Context<'_>, callers: &[&Caller], excepted: &[&Exception]) -> Finding {
    let Context { snapshot, facts, plan } = context;
    let [first, ..] = callers else {
        return Finding::new(Code::AmbiguousSeries, Subject::namespace(&facts.name), "no caller");
    };
    let destination = &first.destination;
    let subject =
        facts.workloads.keys().find(|workload| workload.name == destination.workload).map_or_else(
            || Subject::new("Workload", &destination.namespace, &destination.workload),
            Subject::from,
        );
    let (subject, to) = match first.port {
        Some(port) => (subject.on(port), format!("{destination}:{port}")),
        None => (subject, destination.to_string()),
    };
    let lookback = plan.gates.lookback;
    let counts = list(callers.iter().map(|caller| match caller.protocol.as_str() {
        "tcp" => format!("about {} TCP connections or bytes", rounded(caller.count)),
        protocol => format!("about {} {protocol} requests", rounded(caller.count)),
    }));
    let evidence = format!("{counts} in the last {lookback:#}, not over mutual TLS");
    let window = format!("0 in {lookback:#}");
    let count: f64 = callers.iter().map(|caller| caller.count).sum();
    if first.observed == Observed::Plaintext
        && first.port.is_none()
        && let Some(exception) = excepted.iter().find(|one| covers(one, destination))
    {
        let ports = list(exception.ports.iter().map(ToString::to_string));
        return Finding::new(
            Code::PortUnknown,
            subject,
            format!("plaintext came to {to}, of which port {ports} is excepted, and it is not known to which port"),
        )
        .evidence(evidence)
        .measured(rounded(count).to_string(), window)
        .remedy(format!("{}; then wait for the look-back to pass", say_ports(facts)));
    }

    match (first.observed, &first.source) {
        (Observed::Undetermined | Observed::MutualTls, _) => Finding::new(
            Code::SecurityLabelRemoved,
            subject,
            format!("calls to {to} do not say whether they were encrypted: connection_security_policy is missing"),
        )
        .evidence(counts)
        .remedy("remove the Telemetry override that drops connection_security_policy"),
        (Observed::Plaintext, Some(source)) => {
            let from = format!("{}/{}", source.namespace, source.workload);
            let (code, why, remedy) = match cause(snapshot, facts, source, destination) {
                Cause::NoSidecar => (
                    Code::PlaintextSeen,
                    "it has no sidecar".to_owned(),
                    format!(
                        "kubectl label namespace {} istio-injection=enabled, then restart {from}",
                        source.namespace
                    ),
                ),
                Cause::Rule(rule) => (
                    Code::PlaintextSeen,
                    format!("its proxy is told to by DestinationRule {}/{}", rule.namespace, rule.name),
                    format!("kubectl edit destinationrule {} -n {}: remove tls, or set mode ISTIO_MUTUAL", rule.name, rule.namespace),
                ),
                Cause::Past => (
                    Code::PodIpTraffic,
                    "its proxy sends plaintext, and no DestinationRule makes it: to a pod's address, past the Service, or on a port that it does not capture".to_owned(),
                    format!("let {from} call through the Service by its name, and take {to} out of what its proxy excludes"),
                ),
            };
            Finding::new(
                code,
                subject,
                format!("{from} sends plaintext to {to} ({why}); STRICT would refuse it"),
            )
            .evidence(evidence)
            .measured(rounded(count).to_string(), window)
            .remedy(remedy)
        }
        (Observed::Plaintext, None) => {
            let candidates = candidates(context);
            let perhaps = match candidates.as_slice() {
                [only] => format!(" ({only}?)"),
                [] | [_, ..] => String::new(),
            };
            Finding::new(
                Code::PlaintextSourceUnknown,
                subject,
                format!(
                    "a client that the proxy cannot name{perhaps} sends plaintext to {to}; STRICT would refuse it"
                ),
            )
            .evidence(evidence)
            .evidence(if candidates.is_empty() {
                "no unmeshed pod is running: the caller is outside the cluster, or gone".into()
            } else {
                format!("unmeshed pods that could be it: {}", list(candidates))
            })
            .measured(rounded(count).to_string(), window)
            .remedy(format!("bring the caller into the mesh; to find it, read the access log of {to}'s istio-proxy"))
        }
    }
}

/// Why a client that is known sends plaintext.
enum Cause<'a> {
    NoSidecar,
    Rule(&'a Rule),
    /// Past the Service, or past its sidecar.
    Past,
}

fn cause<'a>(
    snapshot: &'a Snapshot,
    facts: &NamespaceFacts,
    source: &Name,
    called: &Name,
) -> Cause<'a> {
    let client = snapshot.namespace(&source.namespace).into_iter();
    let pods: Vec<_> = client
        .flat_map(|client| client.workloads.values())
        .filter(|workload| workload.id.name == source.workload)
        .flat_map(Workload::running)
        .filter(|pod| pod.is_meshed_client())
        .collect();
    if pods.is_empty() {
        return Cause::NoSidecar;
    }
    // Of the Services that lead to whom it called.
    let leads = |service: &&Service| {
        facts.endpoints(service).any(|(workload, _)| workload.id.name == called.workload)
    };
    let labels: BTreeSet<_> = pods.iter().map(|pod| pod.labels.as_ref()).collect();
    let choices = facts.services.iter().filter(leads).flat_map(|service| {
        let of_port = |port: &ServicePort| {
            let (client, host) = (&source.namespace, &service.host);
            let of =
                |labels| snapshot.rules.client_tls(client, labels, &facts.name, host, port.port);
            labels.iter().copied().flat_map(of).collect::<Vec<_>>()
        };
        service.ports.iter().flat_map(of_port)
    });
    let mut plaintext = choices
        .filter(|tls| tls.wire == Wire::Plaintext || tls.told == Some(false))
        .filter_map(|tls| tls.decided_by);
    plaintext.next().map_or(Cause::Past, Cause::Rule)
}

/// Workloads outside the mesh, in any namespace: the proxy cannot name such callers.
fn candidates(context: Context<'_>) -> Vec<String> {
    let Context { snapshot, plan, .. } = context;
    let system = |namespace: &crate::ident::Namespace| {
        snapshot.is_forbidden(namespace, &plan.operator_namespace)
    };
    snapshot
        .namespaces
        .values()
        .filter(|facts| !system(&facts.name))
        .flat_map(|facts| facts.workloads.values())
        .filter(|workload| workload.running().any(|pod| !pod.is_meshed_client()))
        .map(|workload| workload.id.to_string())
        .collect()
}
