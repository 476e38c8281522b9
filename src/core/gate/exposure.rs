//! Does anybody come in who can never speak the mesh's mutual TLS? Where STRICT would be in force
//! they are refused, whether they were seen in the look-back or not: a webhook is called when
//! somebody happens to write, a probe that was added today tomorrow.
//!
//! Source: `istio-semantics.md` F1–F6. Whether STRICT would be in force is asked of the after-image,
//! port by port, so that an exception for exactly that port is all that it takes.

mod elsewhere;
mod ingress;
mod led;
mod scraped;
mod sidecars;

use super::{Context, injectors, list, policy, restart};
use crate::effective::Policies;
use crate::exposure::{Opener, Opening};
use crate::finding::{Code, Finding, Level, Subject};
use crate::ident::{Labels, Namespace, Port, WorkloadRef};
use crate::mode::Mode;
use crate::plan::Plan;
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Pod, Proxy, Service, ServicePort, Workload};
use jiff::SignedDuration;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

/// Labels that tell pods of one workload apart, or that the injector adds.
const OF_ONE_POD: [&str; 9] = [
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-generation",
    "pod-template-hash",
    "security.istio.io/tlsMode",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "statefulset.kubernetes.io/pod-name",
    "topology.istio.io/network",
];

/// The label of the pods that answer an ACME HTTP-01 challenge for cert-manager.
const SOLVER: &str = "acme.cert-manager.io/http01-solver";

/// Ports of protocols in which the server speaks first, unless the Service says what they are.
const SERVER_FIRST: [u16; 6] = [25, 110, 143, 587, 3306, 27017];

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, plan } = context;
    // Whoever is called when nobody is up is refused when somebody is.
    let mut expected = Cow::Borrowed(facts);
    if facts.workloads.values().any(Workload::is_to_come) {
        expected.to_mut().expect_pods(injectors(snapshot));
    }
    let after = After::new(snapshot, &expected, plan);
    let facts = after.facts;
    let mut findings: BTreeSet<Finding> = BTreeSet::new();
    findings.extend(elsewhere::examine(snapshot, facts));
    findings.extend(after.led_in());
    findings.extend(after.scraped());
    findings.extend(after.of_sidecars());
    // Whoever is known to come in says more of a port than its name does.
    let is_sure = |found: &&Finding| found.level == Level::Block;
    let known: BTreeSet<_> =
        findings.iter().filter(is_sure).map(|found| found.subject.clone()).collect();
    for service in &facts.services {
        findings.extend(after.published(service));
        let speaks = service.ports.iter().flat_map(|port| after.speaks(service, port));
        findings.extend(speaks.filter(|found| !known.contains(&found.subject)));
    }
    for workload in facts.servers() {
        for pod in workload.running() {
            let openings = pod.inbound.openings.iter();
            findings.extend(openings.filter_map(|opening| after.opening(workload, pod, opening)));
        }
        findings.extend(after.solver(workload));
        findings.extend(after.undeclared(workload));
    }
    findings.into_iter().collect()
}

/// The namespace as it would be with STRICT in force.
struct After<'a> {
    policies: Policies,
    snapshot: &'a Snapshot,
    facts: &'a NamespaceFacts,
    /// Container ports that Services lead to, by whose they are; made when they are asked for.
    ports: OnceCell<BTreeMap<&'a WorkloadRef, BTreeSet<Port>>>,
    /// For how long what was sent would have been seen.
    lookback: SignedDuration,
    /// Where we are ourselves.
    operator: &'a Namespace,
}

/// Where plaintext would be refused.
struct Refusal<'a> {
    workload: &'a Workload,
    pod: &'a Pod,
    /// The container port; `None` where the Service names it and the pods do not agree.
    port: Option<Port>,
}

impl<'a> After<'a> {
    /// Whether our policy would be the one in force is asked by the gate `policies`; here it is,
    /// so that what stands in the way of it hides nobody.
    fn new(snapshot: &'a Snapshot, facts: &'a NamespaceFacts, plan: &'a Plan) -> Self {
        let pods = facts.workloads.values().flat_map(|workload| &workload.pods);
        let revisions = pods.map(Pod::revision).chain([None]).collect();
        let ours = policy::ours(snapshot, facts, Mode::Strict);
        let mut policies = snapshot.policies.clone();
        policies.make_strict(&facts.name, &revisions, &ours);
        let (lookback, operator) = (plan.gates.lookback, &plan.operator_namespace);
        Self { policies, snapshot, facts, ports: OnceCell::new(), lookback, operator }
    }

    /// Plaintext to `port` of `pod` would be refused.
    fn refuses(&self, pod: &Pod, port: Option<Port>) -> bool {
        let Proxy::Sidecar { revision, .. } = &pod.proxy else { return false };
        if port.is_some_and(|port| !pod.inbound.captures(port)) {
            return false;
        }
        let revision = revision.as_deref();
        let effective = self.policies.effective(&self.facts.name, &pod.labels, port, revision);
        // Where a policy cannot be understood the gate policies says so.
        effective.known().is_some_and(|effective| effective.mode == Mode::Strict)
    }

    /// The first pod of each workload behind `service` that would refuse plaintext to its `port`.
    fn refusals(&self, service: &'a Service, port: Option<Port>) -> Vec<Refusal<'a>> {
        self.first_of(self.facts.endpoints(service).map(|(workload, pod)| (workload, pod, port)))
    }

    /// Of like pods the first that would refuse plaintext to that port.
    fn first_of(
        &self,
        dialled: impl Iterator<Item = (&'a Workload, &'a Pod, Option<Port>)>,
    ) -> Vec<Refusal<'a>> {
        let mut found: Vec<Refusal<'a>> = vec![];
        for (workload, pod, port) in dialled {
            let is_like = |one: &Refusal<'_>| one.workload.id == workload.id && one.port == port;
            if !found.iter().any(is_like) && self.refuses(pod, port) {
                found.push(Refusal { workload, pod, port });
            }
        }
        found
    }

    /// NodePorts, load balancers and external addresses lead here.
    fn published(&self, service: &'a Service) -> Vec<Finding> {
        let Some(how) = service.published else { return vec![] };
        let ports =
            service.ports.iter().filter(|port| !self.refusals(service, port.target).is_empty());
        let ports: Vec<_> = ports.map(|port| port.port.to_string()).collect();
        if ports.is_empty() {
            return vec![];
        }
        vec![Finding::new(
            Code::NodePortOrLoadBalancer,
            Subject::new("Service", &self.facts.name, &service.name),
            format!(
                "Service {}/{} is a {how}: whoever reaches port {} from outside the mesh is refused after STRICT",
                self.facts.name,
                service.name,
                ports.join(", ")
            ),
        )
        .remedy("let an ingress gateway of the mesh stand before it, or make sure that nobody comes in there")]
    }

    /// What the Service says that its port speaks.
    fn speaks(&self, service: &'a Service, port: &ServicePort) -> Vec<Finding> {
        let protocol = port.protocol();
        let is_tls = matches!(protocol, Some("https" | "tls"));
        let undeclared = protocol.is_none() && SERVER_FIRST.contains(&port.port.0);
        if !is_tls && !undeclared {
            return vec![];
        }
        let refusals = self.refusals(service, port.target);
        let of = |refusal: &Refusal<'_>| {
            let at = port_of(&refusal.workload.id, refusal.port);
            if undeclared {
                return Finding::new(
                    Code::ServerFirstProtocol,
                    Subject::new("Service", &self.facts.name, &service.name).on(port.port),
                    format!(
                        "port {} of Service {}/{} is known for a protocol in which the server speaks first, and does not say what it speaks: sidecars wait for the client",
                        port.port, self.facts.name, service.name
                    ),
                )
                .remedy(format!("name the port tcp-…, or set its appProtocol: kubectl edit service {} -n {}", service.name, self.facts.name));
            }
            Finding::new(
                Code::AppOwnTls,
                subject(refusal),
                format!(
                    "{at} ends TLS of its own: a client outside the mesh that speaks it passes a PERMISSIVE sidecar, and is refused after STRICT"
                ),
            )
            .at(self.unless_heard())
            .evidence(format!("Service {}/{}:{} says {}", self.facts.name, service.name, port.port, protocol.unwrap_or_default()))
            .remedy(self.exception(&service.selector, refusal))
        };
        refusals.iter().map(of).collect()
    }

    /// What comes in past the mesh is counted as plaintext, TLS of a client's own as well. Where
    /// every pod was heard over the whole look-back the gate plaintext has named it, or there is
    /// none.
    fn unless_heard(&self) -> Level {
        match self.snapshot.telemetry.was_heard() {
            true => Level::Warn,
            false => Level::Block,
        }
    }

    fn opening(&self, workload: &'a Workload, pod: &'a Pod, opening: &Opening) -> Option<Finding> {
        let Opening { by, container, port } = opening;
        if !self.refuses(pod, Some(*port)) {
            return None;
        }
        let refusal = Refusal { workload, pod, port: Some(*port) };
        let at = port_of(&workload.id, Some(*port));
        let restart = restart(&workload.id);
        let (code, level, message, remedy) = match by {
            Opener::Probe(check) => (
                Code::ProbeNotRewritten,
                Level::Block,
                format!("the kubelet's {check} probe of container {container} goes to {at} itself: refused after STRICT, and the pod counts as broken"),
                format!("remove sidecar.istio.io/rewriteAppHTTPProbers: \"false\" from the pod template, then: {restart}"),
            ),
            Opener::Connect(check) => (
                Code::ProbeNotRewritten,
                Level::Warn,
                format!("the kubelet's {check} probe of container {container} only connects to {at}: the sidecar answers it whether the application lives or not"),
                format!("remove sidecar.istio.io/rewriteAppHTTPProbers: \"false\" from the pod template, then: {restart}"),
            ),
            Opener::Hook => (
                Code::LifecycleHookNotRewritten,
                Level::Block,
                format!("the kubelet calls a lifecycle hook of container {container} at {at} itself: refused after STRICT"),
                format!("remove sidecar.istio.io/rewriteAppHTTPProbers: \"false\" from the pod template, then: {restart}"),
            ),
            Opener::HostPort(host) => (
                Code::HostPort,
                Level::Warn,
                format!("port {host} of the node leads to {at}: whoever comes in there from outside the mesh is refused after STRICT"),
                "let a gateway of the mesh stand before it, or make sure that nobody comes in there".to_owned(),
            ),
            Opener::Scraper => (
                Code::ScrapedAppPort,
                Level::Block,
                format!("the pod's annotations send a scraper to {at}, past the sidecar's own metrics: refused after STRICT"),
                format!("remove prometheus.istio.io/merge-metrics: \"false\" from the pod template, then: {restart}; or let the scraper in: {}", self.exception(&self.selector(&refusal), &refusal)),
            ),
        };
        Some(Finding::new(code, subject(&refusal), message).at(level).remedy(remedy))
    }

    fn solver(&self, workload: &'a Workload) -> Option<Finding> {
        let pod = workload
            .running()
            .find(|pod| pod.labels.value(SOLVER) == Some("true") && self.refuses(pod, None))?;
        Some(
            Finding::new(
                Code::AcmeSolver,
                &workload.id,
                format!("{} answers ACME challenges (cert-manager, HTTP-01), and its caller is not in the mesh: refused after STRICT", workload.id),
            )
            .evidence(format!("pod {}", pod.name))
            .remedy("let cert-manager make its solvers with the label sidecar.istio.io/inject: \"false\" (solvers.http01.ingress.podTemplate)"),
        )
    }

    /// Peers call each other by address; a port that no Service declares is nobody's that a sidecar
    /// knows, and what is sent there goes out as it is.
    fn undeclared(&self, workload: &'a Workload) -> Option<Finding> {
        let pod = workload.running().next().filter(|_| workload.id.kind == "StatefulSet")?;
        let known = self.ports.get_or_init(|| self.facts.ports()).get(&workload.id);
        let unknown = pod
            .inbound
            .declared
            .iter()
            .filter(|port| !known.is_some_and(|known| known.contains(port)))
            .filter(|port| self.refuses(pod, Some(**port)));
        let unknown: Vec<_> = unknown.map(ToString::to_string).collect();
        (!unknown.is_empty()).then(|| {
            Finding::new(
                Code::UndeclaredPeerPort,
                &workload.id,
                format!(
                    "pods of {} have port {}, which no Service declares: what its peers send there is plaintext, and refused after STRICT",
                    workload.id,
                    unknown.join(", ")
                ),
            )
            .remedy("declare the port in the headless Service of the StatefulSet")
        })
    }

    /// Labels that stand for the pods of a workload.
    fn selector(&self, refusal: &Refusal<'_>) -> Labels {
        let mut labels = refusal.pod.labels.as_ref().clone();
        for label in OF_ONE_POD {
            labels = labels.without(label);
        }
        labels
    }

    /// The exception for exactly this port, or where it has to be put: of two policies that select
    /// a pod the older one counts alone.
    fn exception(&self, selector: &Labels, refusal: &Refusal<'_>) -> String {
        let Refusal { pod, port, .. } = refusal;
        let namespace = &self.facts.name;
        let Some(port) = port else {
            return "name the port's number in the Service (targetPort), then look again".into();
        };
        let standing = self.snapshot.policies.workload(namespace, &pod.labels, pod.revision());
        if let Some(policy) = standing {
            return format!(
                "kubectl patch peerauthentication {} -n {namespace} --type merge -p '{{\"spec\":{{\"portLevelMtls\":{{\"{port}\":{{\"mode\":\"PERMISSIVE\"}}}}}}}}'",
                policy.name
            );
        }
        let selector = match selector.is_empty() {
            true => self.selector(refusal),
            false => selector.clone(),
        };
        let labels: Vec<_> =
            selector.iter().map(|(key, value)| format!("{key}: \"{value}\"")).collect();
        let name = format!("{}-{port}", refusal.workload.id.name);
        format!(
            "kubectl apply -f - <<'END'\n\
             apiVersion: security.istio.io/v1\n\
             kind: PeerAuthentication\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec:\n  \
             selector: {{matchLabels: {{{}}}}}\n  \
             portLevelMtls: {{\"{port}\": {{mode: PERMISSIVE}}}}\n\
             END",
            labels.join(", ")
        )
    }
}

fn subject(refusal: &Refusal<'_>) -> Subject {
    let subject = Subject::from(&refusal.workload.id);
    match refusal.port {
        Some(port) => subject.on(port),
        None => subject,
    }
}

fn port_of(workload: &WorkloadRef, port: Option<Port>) -> String {
    match port {
        Some(port) => format!("container port {port} of {workload}"),
        None => format!("a port of {workload}"),
    }
}
