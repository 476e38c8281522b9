//! Can every server in scope speak mutual TLS, now and after a restart?

use super::{Context, list, restart};
use crate::exposure::PassedBy;
use crate::finding::{Code, Finding, Level, Subject};
use crate::injection::{self, Injection, NotInjected};
use crate::reading::Reading;
use crate::workload::{Machine, Phase, Pod, Proxy, Workload};
use std::collections::BTreeSet;

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    let mut findings = vec![];

    for workload in facts.servers() {
        live(workload, &mut findings);
        findings.extend(passed_by(context, workload));
        starts(workload, &mut findings);
    }

    let is_there = |pod: &Pod| matches!(pod.phase, Phase::Running | Phase::Pending);
    match &snapshot.injectors {
        Reading::Unknown(cause) => findings.push(
            Finding::new(
                Code::InjectionUnknown,
                Subject::namespace(&facts.name),
                format!("whether new pods get a sidecar is not known: {cause}"),
            )
            .remedy("give the operator the right to list MutatingWebhookConfigurations"),
        ),
        Reading::Known(injectors) => {
            for workload in facts.workloads.values().filter(|workload| !workload.is_gateway()) {
                let Some(template) = &workload.template else { continue };
                let injection = injection::decide(&facts.name, &facts.labels, template, injectors);
                match injection {
                    Injection::None(NotInjected::Ambient) => {
                        findings.extend(to_ztunnel(context, workload));
                    }
                    // Where nobody is up, nor on the way, nobody is unprotected and nobody calls.
                    Injection::None(why) if workload.pods.iter().any(is_there) => {
                        findings.push(not_injected(context, workload, &why));
                    }
                    Injection::None(_) => {}
                    Injection::Sidecar { revision } => {
                        findings.extend(outdated(workload, &revision));
                    }
                }
            }
        }
    }

    if facts.labels.value("istio-injection").is_some()
        && facts.labels.value("istio.io/rev").is_some()
    {
        findings.push(
            Finding::new(
                Code::InjectionLabelConflict,
                Subject::namespace(&facts.name),
                format!(
                    "namespace {} has both istio-injection and istio.io/rev; the first wins",
                    facts.name
                ),
            )
            .remedy(format!("kubectl label namespace {} istio.io/rev-", facts.name)),
        );
    }
    let asks_for_sidecars = facts.labels.value("istio-injection") == Some("enabled")
        || facts.labels.value("istio.io/rev").is_some();
    if asks_for_sidecars && facts.labels.value("istio.io/dataplane-mode") == Some("ambient") {
        findings.push(
            Finding::new(
                Code::DataplaneContradiction,
                Subject::namespace(&facts.name),
                format!(
                    "namespace {} asks for sidecars and for ambient; pods get a sidecar",
                    facts.name
                ),
            )
            .remedy(format!("kubectl label namespace {} istio.io/dataplane-mode-", facts.name)),
        );
    }
    for Machine { name, .. } in &facts.machines {
        findings.push(not_covered(
            Subject::new("WorkloadEntry", &facts.name, name),
            format!("WorkloadEntry {}/{name} is a machine outside Kubernetes", facts.name),
        ));
    }
    findings
}

/// What the pods that run now say.
fn live(workload: &Workload, findings: &mut Vec<Finding>) {
    let running = workload.running().count();
    let named = |wanted: &dyn Fn(&Pod) -> bool| {
        workload.running().filter(|pod| wanted(pod)).map(|pod| pod.name.clone()).collect::<Vec<_>>()
    };

    let bare = named(&|pod| pod.proxy == Proxy::None && !pod.host_network);
    if !bare.is_empty() {
        findings.push(
            Finding::new(
                Code::PodWithoutProxy,
                &workload.id,
                format!("{} of {running} pods of {} have no sidecar", bare.len(), workload.id),
            )
            .evidence(format!("without a sidecar: {}", list(bare.iter().cloned())))
            .measured(format!("{}/{running} meshed", running - bare.len()), "all meshed")
            .remedy(format!("enable injection, then: {}", restart(&workload.id))),
        );
    }

    let silent = named(&|pod| matches!(pod.proxy, Proxy::Sidecar { announces_tls: false, .. }));
    if !silent.is_empty() {
        findings.push(
            Finding::new(
                Code::TlsModeLabelMissing,
                &workload.id,
                format!(
                    "{} pods of {} have a sidecar but not the label security.istio.io/tlsMode=istio: clients send them plaintext",
                    silent.len(),
                    workload.id
                ),
            )
            .evidence(format!("without the label: {}", list(silent)))
            .remedy("remove security.istio.io/tlsMode from the pod template and restart; injection sets it"),
        );
    }

    if workload.running().any(|pod| pod.host_network) {
        findings.push(
            Finding::new(
                Code::HostNetworkPod,
                &workload.id,
                format!("{} runs on its node's network: STRICT does not protect it", workload.id),
            )
            .remedy("move it off the host network if it should be protected"),
        );
    }

    let is = |proxy: Proxy| workload.running().any(|pod| pod.proxy == proxy);
    if is(Proxy::Ambient) {
        let what = format!("{} is served by ztunnel (ambient)", workload.id);
        findings.push(not_covered(Subject::from(&workload.id), what));
    }
    if is(Proxy::Proxyless) {
        let what = format!("{} uses proxyless gRPC, which captures no traffic", workload.id);
        let found = not_covered(Subject::from(&workload.id), what);
        findings.push(Finding { code: Code::ProxylessGrpc, ..found });
    }
}

/// Pods with a sidecar to which nothing is redirected.
fn passed_by(context: Context<'_>, workload: &Workload) -> Option<Finding> {
    let why = |pod: &Pod| pod.inbound.passed_by;
    let first = workload.meshed().find(|pod| why(pod).is_some())?;
    let passed = workload.meshed().filter(|pod| why(pod).is_some());
    let passed: Vec<_> = passed.map(|pod| pod.name.clone()).collect();
    let (count, id, restart) = (passed.len(), &workload.id, restart(&workload.id));
    let scopes = context.snapshot.egress.in_force(&id.namespace, &first.labels);
    let found = |level, message, remedy: String| {
        let found = Finding::new(Code::RedirectionMissing, id, message).at(level);
        found.evidence(format!("passed by: {}", list(passed))).remedy(remedy)
    };
    // Whichever of them is in force.
    let listen = scopes.iter().all(|scope| scope.is_some_and(|scope| scope.listens));
    let listening = scopes.into_iter().flatten().next().filter(|_| listen);
    Some(match (why(first)?, listening) {
        (PassedBy::Mode, Some(scope)) => found(
            Level::Hold,
            format!(
                "nothing is redirected to the sidecars of {count} pods of {id}, which listen where Sidecar {}/{} says (ingress): whether STRICT would be in force there is not judged",
                scope.namespace, scope.name
            ),
            "make sure that the application itself listens on the loopback alone, then acknowledge this finding in the rollout's spec.acknowledgements".to_owned(),
        ),
        (PassedBy::Mode, None) => found(
            Level::Block,
            format!("{count} pods of {id} have a sidecar, and what comes to them passes it by (sidecar.istio.io/interceptionMode is NONE): STRICT is not in force there, and meshed clients send mutual TLS that nobody ends"),
            format!("remove sidecar.istio.io/interceptionMode from the pod template, then: {restart}"),
        ),
        (PassedBy::Uninitialised, _) => found(
            Level::Block,
            format!("{count} pods of {id} have a sidecar, and what comes to them passes it by (Istio's CNI marks them as uninitialised): STRICT is not in force there, and meshed clients send mutual TLS that nobody ends"),
            format!("see that Istio's CNI runs on their nodes (kubectl get pods -A -l k8s-app=istio-cni-node -o wide), then: {restart}"),
        ),
    })
}

/// Pods of another control plane than the one that new pods would come to.
fn outdated(workload: &Workload, revision: &str) -> Option<Finding> {
    let is_other = |pod: &&Pod| pod.revision().is_some_and(|one| one != revision);
    let others: Vec<_> = workload.meshed().filter(is_other).collect();
    let first = others.first()?;
    Some(
        Finding::new(
            Code::ProxyOutdated,
            &workload.id,
            format!(
                "{} of {} pods of {} have a sidecar of revision {}; new ones would have one of {revision}",
                others.len(),
                workload.meshed().count(),
                workload.id,
                first.revision().unwrap_or_default()
            ),
        )
        .evidence(format!("of another revision: {}", list(others.iter().map(|pod| pod.name.clone()))))
        .remedy(restart(&workload.id)),
    )
}

/// Who sends something before the sidecar is there.
fn starts(workload: &Workload, findings: &mut Vec<Finding>) {
    let early: BTreeSet<_> = workload.meshed().flat_map(|pod| &pod.start.early).collect();
    if !early.is_empty() {
        findings.push(
            Finding::new(
                Code::InitContainerCallsEarly,
                &workload.id,
                format!(
                    "init containers of {} run before its sidecar ({}): what gets out of the pod then is plaintext, and a STRICT server refuses it",
                    workload.id,
                    list(early.into_iter().cloned())
                ),
            )
            .remedy("use native sidecars (Kubernetes 1.29 and ENABLE_NATIVE_SIDECARS at istiod), and let what they call wait for the application"),
        );
    }
    if workload.meshed().any(|pod| pod.start.together) {
        findings.push(
            Finding::new(
                Code::AppStartsBeforeProxy,
                &workload.id,
                format!("the application of {} may start before its sidecar: what it sends first may fail", workload.id),
            )
            .remedy("use native sidecars, or set holdApplicationUntilProxyStarts in the mesh configuration; then restart"),
        );
    }
}

/// Its next pods are served by ztunnel, which STRICT binds as well; those that run say it themselves.
fn to_ztunnel(context: Context<'_>, workload: &Workload) -> Option<Finding> {
    let is_said = workload.running().any(|pod| pod.proxy == Proxy::Ambient);
    (!is_said).then(|| not_injected(context, workload, &NotInjected::Ambient))
}

/// What a pod made from the template now would come out as.
fn not_injected(context: Context<'_>, workload: &Workload, why: &NotInjected) -> Finding {
    let namespace = &context.facts.name;
    let label = format!("kubectl label namespace {namespace} istio-injection=enabled --overwrite");
    match why {
        NotInjected::Ambient => not_covered(
            Subject::from(&workload.id),
            format!("new pods of {} are served by ztunnel (ambient)", workload.id),
        ),
        NotInjected::NotSelected => Finding::new(
            Code::NamespaceNotInjected,
            Subject::namespace(namespace),
            format!("new pods in {namespace} come without a sidecar: neither the namespace nor its pods ask for injection"),
        )
        .remedy(label),
        NotInjected::NamespaceDisabled => Finding::new(
            Code::NamespaceNotInjected,
            Subject::namespace(namespace),
            format!("namespace {namespace} has injection switched off, which beats every label on a pod"),
        )
        .remedy(label),
        NotInjected::IgnoredNamespace => Finding::new(
            Code::NamespaceNotInjected,
            Subject::namespace(namespace),
            format!("istiod never injects into {namespace}"),
        )
        .remedy("take the namespace out of the plan"),
        NotInjected::TemplateOptsOut => Finding::new(
            Code::TemplateOptsOut,
            &workload.id,
            format!("the pod template of {} says sidecar.istio.io/inject=false", workload.id),
        )
        .remedy(format!(
            "remove sidecar.istio.io/inject from the pod template of {}/{} in {namespace}",
            workload.id.kind.to_lowercase(),
            workload.id.name
        )),
        NotInjected::HostNetwork => Finding::new(
            Code::HostNetworkPod,
            &workload.id,
            format!("{} runs on its node's network: it cannot be injected", workload.id),
        ),
        NotInjected::RevisionUnserved(revision) => Finding::new(
            Code::RevisionUnserved,
            Subject::namespace(namespace),
            format!("a label asks for revision {revision:?}, which no injector serves"),
        )
        .remedy("kubectl get mutatingwebhookconfigurations -l istio.io/rev; then correct the label"),
    }
}

fn not_covered(subject: Subject, what: String) -> Finding {
    Finding::new(
        Code::DataplaneNotCovered,
        subject,
        format!("{what}: this version has no gate for it and does not guess"),
    )
    .remedy("take the namespace out of the plan")
}
