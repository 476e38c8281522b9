//! Would client and server believe each other? As whom they speak, and whom they trust.

use super::{Context, list};
use crate::finding::{Code, Finding, Subject};
use crate::gate::restart;
use std::collections::BTreeMap;

/// The account of a pod that names none.
const DEFAULT: &str = "default";

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = foreign(context).collect();
    findings.extend(roots(context));
    findings.extend(shared(context));
    findings
}

/// Proxies of another trust domain than the mesh's configuration knows. Whoever they call checks
/// theirs against it (`pilot/pkg/networking/core/cluster_tls.go`, `security/pkg/util/spiffe`), and
/// a proxy has it from the day on which its pod was made.
fn foreign(context: Context<'_>) -> impl Iterator<Item = Finding> {
    let Context { snapshot, facts, .. } = context;
    let mesh = snapshot.mesh.known();
    facts.workloads.values().filter_map(move |workload| {
        let mesh = mesh?;
        let domain = |pod: &crate::workload::Pod| {
            let domain = pod.identity.trust_domain.clone()?;
            let is_known = domain == mesh.trust_domain || mesh.trust_domain_aliases.contains(&domain);
            (!is_known).then_some(domain)
        };
        let pods = workload.meshed().filter_map(|pod| Some((domain(pod)?, pod.name.clone())));
        let pods: Vec<_> = pods.collect();
        let (domain, _) = pods.first()?;
        Some(
            Finding::new(
                Code::TrustDomainMismatch,
                &workload.id,
                format!(
                    "{} pods of {} speak as of trust domain {domain}, and the mesh is {}: under mutual TLS they and the others do not believe each other",
                    pods.len(),
                    workload.id,
                    mesh.trust_domain
                ),
            )
            .evidence(format!("of another trust domain: {}", list(pods.iter().map(|(_, name)| name.clone()))))
            .remedy(format!(
                "{}; or add {domain} to meshConfig.trustDomainAliases",
                restart(&workload.id)
            )),
        )
    })
}

/// Namespaces whose proxies trust no root that those here trust.
fn roots(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    let own = facts.roots.as_ref()?;
    let others = snapshot.namespaces.values().filter(|other| other.has_meshed_clients());
    let strangers =
        others.filter(|other| other.roots.as_ref().is_some_and(|roots| roots.is_disjoint(own)));
    let mut strangers = strangers.map(|other| other.name.to_string()).peekable();
    strangers.peek()?;
    Some(
        Finding::new(
            Code::RootMismatch,
            Subject::new("ConfigMap", &facts.name, "istio-ca-root-cert"),
            format!(
                "proxies in {} and in other namespaces trust no root certificate in common: under mutual TLS they cannot call each other",
                facts.name
            ),
        )
        .evidence(format!("other roots are trusted in {}", list(strangers)))
        .remedy("let all control planes sign with one root, or with intermediates of one; during a rotation both roots have to be trusted everywhere: compare kubectl get configmaps -A --field-selector metadata.name=istio-ca-root-cert -o yaml"),
    )
}

/// Workloads that no policy can tell apart.
fn shared(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    let mut by_account: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for workload in facts.servers() {
        if let Some(pod) = workload.meshed().next() {
            by_account.entry(&pod.identity.account).or_default().push(workload.id.to_string());
        }
    }
    let alike = by_account.remove(DEFAULT).filter(|alike| alike.len() > 1)?;
    let domain = snapshot.mesh.known().map_or("cluster.local", |mesh| &mesh.trust_domain);
    Some(
        Finding::new(
            Code::SharedIdentity,
            Subject::namespace(&facts.name),
            format!(
                "{} workloads in {} have one identity, spiffe://{domain}/ns/{}/sa/{DEFAULT}: no AuthorizationPolicy can tell them apart",
                alike.len(),
                facts.name,
                facts.name
            ),
        )
        .evidence(format!("run as {DEFAULT}: {}", list(alike)))
        .remedy("give each workload a service account of its own (spec.serviceAccountName)"),
    )
}
