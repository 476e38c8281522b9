//! Would client and server believe each other? As whom they speak, and whom they trust.

use super::{Context, list};
use crate::finding::{Code, Finding, Level, Subject};
use crate::gate::restart;
use crate::workload::{Pod, Workload};

/// The account of a pod that names none.
const DEFAULT: &str = "default";

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = foreign(context).collect();
    findings.extend(roots(context));
    findings.extend(shared(context));
    findings
}

/// Pods that were made for another trust domain than the mesh's configuration knows. istiod signs
/// for the one of its own day, so that they speak as of the old one until their next renewal: half
/// of a lifetime, unless renewal fails.
fn foreign(context: Context<'_>) -> impl Iterator<Item = Finding> {
    let Context { snapshot, facts, .. } = context;
    let known = snapshot.mesh.known().and_then(|mesh| mesh.trust_domains.as_ref());
    facts.workloads.values().filter_map(move |workload| {
        let known = known?;
        let domain = |pod: &Pod| {
            pod.identity.trust_domain.clone().filter(|domain| !known.contains(domain))
        };
        let pods = workload.running().filter_map(|pod| Some((domain(pod)?, pod.name.clone())));
        let pods: Vec<_> = pods.collect();
        let (domain, _) = pods.first()?;
        Some(
            Finding::new(
                Code::TrustDomainMismatch,
                &workload.id,
                format!(
                    "{} pods of {} were made for trust domain {domain}, which the mesh's configuration knows no more: until their certificates are renewed servers may refuse them, and they others",
                    pods.len(),
                    workload.id
                ),
            )
            .evidence(format!("the mesh knows {}", list(known.iter().cloned())))
            .evidence(format!("made before: {}", list(pods.iter().map(|(_, name)| name.clone()))))
            .remedy(format!(
                "add {domain} to meshConfig.trustDomainAliases, or: {}",
                restart(&workload.id)
            )),
        )
    })
}

/// Proxies here trust no root that a control plane's own namespace trusts, whichever of them is
/// theirs: then nobody can call them. Where they trust one's and not another's, the two cannot call
/// each other, before STRICT as after it. Only an administrator writes there, so that nobody can stop
/// another's namespace.
fn roots(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    let own = facts.roots.as_ref()?;
    let trusting = |home| Some((home, snapshot.namespace(home)?.roots.as_ref()?));
    let homes: Vec<_> = snapshot.policies.roots().filter_map(trusting).collect();
    let strange = homes.iter().filter(|(_, theirs)| own.is_disjoint(theirs));
    let strange: Vec<_> = strange.map(|(home, _)| home.to_string()).collect();
    let level = match strange.len() {
        0 => return None,
        all if all == homes.len() => Level::Block,
        _ => Level::Warn,
    };
    let strange = list(strange);
    Some(
        Finding::new(
            Code::RootMismatch,
            Subject::new("ConfigMap", &facts.name, "istio-ca-root-cert"),
            format!(
                "proxies in {} trust none of the root certificates of {strange}: under mutual TLS they and those who do cannot call each other",
                facts.name
            ),
        )
        .at(level)
        .remedy(format!(
            "compare, there and in {strange}: kubectl get configmap istio-ca-root-cert -n {} -o jsonpath='{{.data.root-cert\\.pem}}' | openssl x509 -noout -subject -fingerprint",
            facts.name
        )),
    )
}

/// Workloads that no policy can tell apart.
fn shared(context: Context<'_>) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    let is_alike =
        |workload: &&Workload| workload.meshed().any(|pod| pod.identity.account == DEFAULT);
    let alike: Vec<_> =
        facts.servers().filter(is_alike).map(|workload| workload.id.to_string()).collect();
    let mesh = snapshot.mesh.known()?;
    (alike.len() > 1).then(|| {
        Finding::new(
            Code::SharedIdentity,
            Subject::namespace(&facts.name),
            format!(
                "{} workloads in {} have one identity, spiffe://{}/ns/{}/sa/{DEFAULT}: no AuthorizationPolicy can tell them apart",
                alike.len(),
                facts.name,
                mesh.trust_domain,
                facts.name
            ),
        )
        .evidence(format!("run as {DEFAULT}: {}", list(alike)))
        .remedy("give each workload a service account of its own (spec.serviceAccountName)")
    })
}
