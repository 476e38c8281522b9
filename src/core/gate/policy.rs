//! Would our policy be the effective one, and would no other workload change? The question is
//! put to the after-image: Istio's own merge on the current policies plus ours.

use super::{Context, injectors};
use crate::effective::{DecidedBy, Effective, Policies};
use crate::finding::{Code, Finding, Level, Subject};
use crate::ident::{Labels, Port, WorkloadRef};
use crate::mode::{Declared, Mode};
use crate::plan::Existing;
use crate::policy::{OUR_NAME, Policy};
use crate::reading::{Cause, Reading};
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Pod, Proxy, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    if let Reading::Unknown(cause) = &snapshot.mesh {
        return vec![
            Finding::new(
                Code::EffectiveModeUnknown,
                Subject::cluster("ConfigMap", "istio"),
                format!("the mesh's configuration is not known, so neither is its root namespace: {cause}"),
            )
            .remedy(match cause {
                Cause::Malformed(_) | Cause::Ambiguous(_) => "mend what is named there",
                Cause::SourceUnavailable(_)
                | Cause::PartialAnswer(_)
                | Cause::NotRead(_)
                | Cause::StaleWatch { .. } => {
                    "give the operator the right to read the mesh's ConfigMap"
                }
            }),
        ];
    }
    let mut findings = vec![];
    findings.extend(standing(context));
    let after = snapshot.policies.with(ours(snapshot, facts, Mode::Strict));
    let ports = facts.ports();
    let targets = with_ports(facts, &ports);
    findings.extend(targets.iter().filter_map(|target| judge(context, &after, target)));
    findings.extend(disabled_above_strict(snapshot, facts, &targets));
    for policy in snapshot.policies.of(&facts.name) {
        findings.extend(misses(facts, &ports, policy));
        findings.extend(of_ambient(context, policy));
        if let Some(revision) = &policy.revision {
            findings.push(
                Finding::new(
                    Code::RevisionBoundPolicy,
                    subject(policy),
                    format!(
                        "PeerAuthentication {}/{} is read by revision {revision:?} only",
                        policy.namespace, policy.name
                    ),
                )
                .remedy(format!(
                    "kubectl label peerauthentication {} -n {} istio.io/rev-",
                    policy.name, policy.namespace
                )),
            );
        }
    }
    findings
}

/// Container ports that Services lead to, by whose they are.
pub(super) type Ports<'a> = BTreeMap<&'a WorkloadRef, BTreeSet<Port>>;

/// What a policy says of single ports ztunnel reads otherwise (`istio-semantics.md` A9).
fn of_ambient(context: Context<'_>, policy: &Policy) -> Option<Finding> {
    let Context { snapshot, facts, .. } = context;
    if policy.ports.is_empty() {
        return None;
    }
    let is_ambient = |workload: &&Workload| {
        let to_come = workload.template.as_ref().is_some_and(|template| {
            policy.selector.select(&template.labels)
                && template.proxy(&facts.name, &facts.labels, injectors(snapshot)) == Proxy::Ambient
        });
        let is_so = |pod: &Pod| pod.proxy == Proxy::Ambient && policy.selector.select(&pod.labels);
        to_come || workload.pods.iter().any(is_so)
    };
    let workload = facts.workloads.values().find(is_ambient)?;
    Some(
        Finding::new(
            Code::AmbientPolicyShape,
            subject(policy),
            format!(
                "PeerAuthentication {}/{} is for single ports of {}, which ztunnel serves: it reads such a policy otherwise than a sidecar",
                policy.namespace, policy.name, workload.id
            ),
        )
        .remedy("take the ports out of it, or the workload out of ambient"),
    )
}

/// A policy for workloads that are not there, or for ports by their numbers in the Service.
fn misses(facts: &NamespaceFacts, ports: &Ports<'_>, policy: &Policy) -> Vec<Finding> {
    if policy.is_namespace_wide() {
        return vec![];
    }
    let selected: Vec<_> = facts
        .workloads
        .values()
        .filter(|workload| {
            let mut pods = workload.pods.iter();
            let template = workload.template.as_ref();
            pods.any(|pod| policy.selector.select(&pod.labels))
                || template.is_some_and(|template| policy.selector.select(&template.labels))
        })
        .collect();
    let named = format!("PeerAuthentication {}/{}", policy.namespace, policy.name);
    if selected.is_empty() {
        return vec![
            Finding::new(
                Code::PolicySelectsNothing,
                subject(policy),
                format!("{named} selects no workload"),
            )
            .remedy(format!(
                "correct its selector, or: kubectl delete peerauthentication {} -n {}",
                policy.name, policy.namespace
            )),
        ];
    }
    let translated = |port: Port| {
        let is_known = selected.iter().any(|workload| {
            ports.get(&workload.id).is_some_and(|ports| ports.contains(&port))
                || workload.pods.iter().any(|pod| pod.inbound.declared.contains(&port))
        });
        let services = facts.services.iter().filter(|service| {
            facts
                .endpoints(service)
                .any(|(behind, _)| selected.iter().any(|one| one.id == behind.id))
        });
        let mut targets = services
            .flat_map(|service| &service.ports)
            .filter(|of_service| of_service.port == port)
            .filter_map(|of_service| of_service.target);
        if is_known { None } else { targets.next() }
    };
    let wrong = policy.ports.keys().filter_map(|port| Some((*port, translated(*port)?)));
    wrong
        .map(|(port, target)| {
            Finding::new(
                Code::PortRuleMissesPort,
                subject(policy).on(port),
                format!("{named} has a mode for port {port}, which is the Service's; the container's is {target}, and the mode is in force nowhere"),
            )
            .remedy(format!(
                "kubectl edit peerauthentication {} -n {}: portLevelMtls: {{\"{target}\": …}} instead of \"{port}\"",
                policy.name, policy.namespace
            ))
        })
        .collect()
}

/// Every server whose mode counts: a set of like pods, their revision, and a port or all ports.
pub struct Target<'a> {
    /// Whose pods.
    pub workload: &'a WorkloadRef,
    /// Their labels.
    pub labels: Arc<Labels>,
    /// The control plane that serves them.
    pub revision: Option<&'a str>,
    /// A container port; `None` for all ports that no policy names.
    pub port: Option<Port>,
}

/// The targets of a namespace: every workload as a whole, and every port that a Service leads to.
pub fn targets(facts: &NamespaceFacts) -> Vec<Target<'_>> {
    with_ports(facts, &facts.ports())
}

/// The same for these ports, whether a Service leads there or not.
pub(super) fn with_ports<'a>(facts: &'a NamespaceFacts, ports: &Ports<'_>) -> Vec<Target<'a>> {
    let mut targets = vec![];
    for workload in facts.servers() {
        let ports = ports.get(&workload.id);
        let kinds: BTreeSet<_> =
            workload.meshed().map(|pod| (Arc::clone(&pod.labels), pod.revision())).collect();
        for (labels, revision) in kinds {
            let each = ports.into_iter().flatten().copied().map(Some);
            for port in std::iter::once(None).chain(each) {
                let labels = Arc::clone(&labels);
                targets.push(Target { workload: &workload.id, labels, revision, port });
            }
        }
    }
    targets
}

/// There are servers, and every one is STRICT under `policies`.
pub fn is_strict(policies: &Policies, facts: &NamespaceFacts) -> bool {
    let mut modes =
        targets(facts).into_iter().map(|target| target.mode(policies).known().map(|now| now.mode));
    let strict = |mode: Option<Mode>| mode == Some(Mode::Strict);
    modes.next().is_some_and(strict) && modes.all(strict)
}

impl Target<'_> {
    /// The mode in force for it under `policies`.
    pub fn mode<'p>(&self, policies: &'p Policies) -> Reading<Effective<'p>> {
        policies.effective(&self.workload.namespace, &self.labels, self.port, self.revision)
    }
}

/// The policy we would write in this namespace: the one that stands there with another mode, or a
/// new one.
pub fn ours(snapshot: &Snapshot, facts: &NamespaceFacts, mode: Mode) -> Policy {
    let standing = snapshot
        .policies
        .of(&facts.name)
        .iter()
        .find(|policy| policy.name == OUR_NAME && policy.is_namespace_wide());
    match standing {
        Some(policy) => Policy { mode: Declared::Mode(mode), ..policy.clone() },
        None => Policy::for_all_of(&facts.name, OUR_NAME, mode),
    }
}

/// What stands in the place of our policy, or beside it.
fn standing(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, plan } = context;
    let mut findings = vec![];
    for policy in snapshot.policies.of(&facts.name) {
        let in_our_place = policy.name == OUR_NAME || policy.is_namespace_wide();
        match &policy.ours {
            _ if !in_our_place => {}
            Some(ours) if !ours.is_of(facts) => findings.push(
                Finding::new(
                    Code::PolicyOwnedByOther,
                    subject(policy),
                    format!(
                        "PeerAuthentication {}/{} was written for an earlier namespace of this name; its notes do not count",
                        policy.namespace, policy.name
                    ),
                )
                .remedy(format!(
                    "kubectl delete peerauthentication {} -n {}",
                    policy.name, policy.namespace
                )),
            ),
            Some(ours) if ours.rollout_uid == plan.uid => {
                if policy.has_drifted() {
                    findings.push(drifted(policy));
                }
            }
            Some(ours) => findings.push(
                Finding::new(
                    Code::AnotherRolloutOwns,
                    subject(policy),
                    format!(
                        "MeshRollout {} wrote PeerAuthentication {}/{} and keeps it",
                        ours.rollout, policy.namespace, policy.name
                    ),
                )
                .remedy(format!("take namespace {} out of one of the two rollouts", facts.name)),
            ),
            None if plan.existing == Existing::Adopt && policy.not_adoptable().is_none() => {}
            None => {
                let adoption = match plan.existing {
                    Existing::Refuse => String::new(),
                    Existing::Adopt => policy
                        .not_adoptable()
                        .map(|why| format!("; it is not adopted: {why}"))
                        .unwrap_or_default(),
                };
                let who = match policy.managers.as_slice() {
                    [] => "someone else".to_owned(),
                    managers => managers.join(", "),
                };
                findings.push(
                    Finding::new(
                        Code::PolicyOwnedByOther,
                        subject(policy),
                        format!(
                            "PeerAuthentication {}/{} stands in our place and belongs to {who}{adoption}",
                            policy.namespace, policy.name
                        ),
                    )
                    .remedy(format!(
                        "kubectl delete peerauthentication {} -n {} (if it says PERMISSIVE, nothing changes), or take the namespace out of the plan",
                        policy.name, policy.namespace
                    )),
                );
            }
        }
    }
    findings
}

/// Someone changed our policy.
pub fn drifted(policy: &Policy) -> Finding {
    let who = policy.others().collect::<Vec<_>>().join(", ");
    let wrote = policy.mode_we_wrote().map_or("nothing", Mode::as_str);
    let who = if who.is_empty() { "someone".into() } else { who };
    let found = match &policy.mode {
        Declared::Unset => "no mode".to_owned(),
        Declared::Mode(mode) if policy.mode_we_wrote() == Some(*mode) => {
            format!("{mode} with a selector, ports or a revision of its own")
        }
        Declared::Mode(mode) => mode.to_string(),
        Declared::Unknown(word) => word.clone(),
    };
    Finding::new(
        Code::PolicyDrifted,
        subject(policy),
        format!(
            "{who} changed PeerAuthentication {}/{}: we wrote {wrote}, it says {found}; we do not fight",
            policy.namespace, policy.name
        ),
    )
    .measured(found, wrote)
    .remedy(match &policy.ours {
        Some(ours) => format!(
            "agree with its writer; to start again: kubectl delete peerauthentication {} -n {}, then: kubectl meshrollout retry {}",
            policy.name, policy.namespace, ours.rollout
        ),
        None => "agree with its writer".to_owned(),
    })
}

fn judge(context: Context<'_>, after: &Policies, target: &Target<'_>) -> Option<Finding> {
    let before = &context.snapshot.policies;
    let on = target.port.map_or_else(String::new, |port| format!(" port {port}"));
    let workload = target.workload;
    let (now, then) = match (target.mode(before), target.mode(after)) {
        (Reading::Known(now), Reading::Known(then)) => (now, then),
        (Reading::Unknown(cause), _) | (_, Reading::Unknown(cause)) => {
            return Some(
                Finding::new(
                    Code::EffectiveModeUnknown,
                    workload,
                    format!("the mode in force on {workload}{on} is not known: {cause}"),
                )
                .remedy("correct or delete that policy"),
            );
        }
    };
    let at = |subject: Subject| match target.port {
        Some(port) => subject.on(port),
        None => subject,
    };
    match (then.mode, then.decided_by) {
        (Mode::Strict, _) => match (now.mode, now.decided_by) {
            (Mode::Disable, by) => Some(
                Finding::new(
                    Code::StartsAtDisable,
                    at(workload.into()),
                    format!("{workload}{on} is at DISABLE by {by}: it must become PERMISSIVE and prove mutual TLS first"),
                )
                .remedy("set that policy to PERMISSIVE"),
            ),
            (Mode::Permissive | Mode::Strict, _) => None,
        },
        (_, by @ (DecidedBy::Workload(policy) | DecidedBy::PortLevel(policy))) => {
            let stays = format!("{workload}{on} would stay {} after STRICT by {by}", then.mode);
            let about = at(subject(policy));
            let delete =
                format!("kubectl delete peerauthentication {} -n {}", policy.name, policy.namespace);
            let found = match context.plan.waivers.exception(target).map(|one| &one.answer) {
                Some(answer) if answer.holds(context.snapshot.at) => {
                    Finding::new(Code::LooserPolicyRemains, about, stays)
                        .at(Level::Inform)
                        .evidence(format!("excepted by {}", answer.words()))
                }
                Some(answer) => Finding::new(
                    Code::ExceptionExpired,
                    about,
                    format!("{stays}, and its exception ended at {:.0}", answer.expires),
                )
                .evidence(format!("it was excepted by {}", answer.words()))
                .remedy(format!("{delete}; or extend the exception in the rollout's spec.exceptions")),
                None => Finding::new(Code::LooserPolicyRemains, about, stays).remedy(format!(
                    "{delete}; or declare it in the rollout's spec.exceptions"
                )),
            };
            Some(found.measured(then.mode.as_str(), "STRICT"))
        }
        (_, by @ (DecidedBy::Default | DecidedBy::MeshWide(_) | DecidedBy::NamespaceWide(_))) => {
            Some(
                Finding::new(
                    Code::PolicyShadowed,
                    at(workload.into()),
                    format!("our STRICT would not be in force on {workload}{on}: {by} wins because it is older"),
                )
                .measured(then.mode.as_str(), "STRICT")
                .remedy(by.policy().map_or_else(String::new, |policy| {
                    format!("kubectl delete peerauthentication {} -n {}", policy.name, policy.namespace)
                })),
            )
        }
    }
}

/// Clients look at the wide levels only: DISABLE there and STRICT on a workload is an outage.
fn disabled_above_strict(
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    targets: &[Target<'_>],
) -> Option<Finding> {
    let revision = targets.first().and_then(|target| target.revision);
    let guess = snapshot.policies.service_guess(&facts.name, revision);
    let Reading::Known(Effective { mode: Mode::Disable, decided_by }) = guess else { return None };
    let strict = targets.iter().find(|target| {
        target.mode(&snapshot.policies).known().is_some_and(|now| now.mode == Mode::Strict)
    })?;
    Some(
        Finding::new(
            Code::DisabledAboveStrict,
            strict.workload,
            format!(
                "{decided_by} says DISABLE above a STRICT policy on {}: its clients send plaintext and fail today",
                strict.workload
            ),
        )
        .remedy("set the wider policy to PERMISSIVE"),
    )
}

fn subject(policy: &Policy) -> Subject {
    Subject::new("PeerAuthentication", &policy.namespace, &policy.name)
}
