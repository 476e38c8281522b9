//! What a deleted rollout gives back when it was asked to (`deletionPolicy: Restore`): what stood
//! there before it, and only where that is neither weaker than before nor STRICT by accident.

use crate::action::{Action, Restore};
use crate::clearance::our_policy;
use crate::decide::step_back;
use crate::finding::{Code, Finding, Level, Subject};
use crate::gate::policy::targets;
use crate::ident::Namespace;
use crate::mode::Mode;
use crate::plan::Plan;
use crate::policy::{OUR_NAME, Ours, Policy};
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;

/// What is to be done in one namespace.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one is made for a namespace, and spent at once")]
pub enum Restoration {
    /// Nothing of ours stands there.
    Nothing,
    /// This; then look again.
    Do(Action),
    /// Our policy stays, and why.
    Leave(Finding),
    /// It cannot be told yet.
    Wait(Finding),
}

/// Decides for one namespace, on what was read by quorum.
pub fn restore(plan: &Plan, snapshot: &Snapshot, namespace: &Namespace) -> Restoration {
    let (Some(policy), Some(facts)) =
        (our_policy(plan, snapshot, namespace), snapshot.namespace(namespace))
    else {
        return Restoration::Nothing;
    };
    let Some(ours) = policy.ours.as_ref().filter(|_| !facts.terminating) else {
        return Restoration::Nothing;
    };
    let subject = || Subject::new("PeerAuthentication", namespace, OUR_NAME);
    if policy.has_drifted() {
        let why =
            format!("the policy in {namespace} was changed by another hand and stays as it is");
        return Restoration::Leave(
            Finding::new(Code::PolicyDrifted, subject(), why).at(Level::Warn),
        );
    }
    let action = Action::Restore(Restore {
        namespace: namespace.clone(),
        policy_uid: policy.uid.clone(),
        resource_version: policy.resource_version.clone(),
        ours: ours.clone(),
    });
    if let Some(cause) = snapshot.mesh.cause() {
        return wait(subject(), format!("the mesh's configuration is not known: {cause}"));
    }
    if snapshot.is_forbidden(namespace, &plan.operator_namespace) {
        let why =
            format!("{namespace} has become a root of the mesh, so its policy stays as it is");
        return Restoration::Leave(
            Finding::new(Code::RootNamespaceInScope, subject(), why)
                .at(Level::Warn)
                .remedy(format!("kubectl get peerauthentication {OUR_NAME} -n {namespace}")),
        );
    }
    if ours.adopted.is_some() {
        return Restoration::Do(action);
    }
    match without(snapshot, facts, policy, ours) {
        After::AsBefore => Restoration::Do(action),
        // STRICT goes in any case; our PERMISSIVE keeps away what it would become by itself.
        After::Otherwise(why) if ours.strict_since.is_some() => {
            let because = Finding::new(Code::PolicyShadowed, subject(), why).at(Level::Inform);
            step_back(namespace, policy, because).map_or(Restoration::Nothing, Restoration::Do)
        }
        After::Otherwise(why) => Restoration::Leave(
            Finding::new(Code::PolicyShadowed, subject(), why)
                .at(Level::Warn)
                .remedy(format!("kubectl delete peerauthentication {OUR_NAME} -n {namespace}")),
        ),
        After::Unknown(why) => wait(subject(), why),
    }
}

fn wait(subject: Subject, why: String) -> Restoration {
    Restoration::Wait(
        Finding::new(Code::EffectiveModeUnknown, subject, why)
            .at(Level::Hold)
            .remedy("correct it, or take the finalizer off the rollout to leave all as it is"),
    )
}

/// What would be in force without our policy.
enum After {
    AsBefore,
    Otherwise(String),
    Unknown(String),
}

fn without(snapshot: &Snapshot, facts: &NamespaceFacts, policy: &Policy, ours: &Ours) -> After {
    let name = &facts.name;
    let after = snapshot.policies.without(&policy.namespace, &policy.name);
    let mut modes: Vec<_> = targets(facts)
        .iter()
        .map(|target| (target.workload.to_string(), target.mode(&after).map(|then| then.mode)))
        .collect();
    let rest = after.service_guess(name, None).map(|guess| guess.mode);
    modes.push((format!("namespace {name}"), rest));
    for (what, mode) in modes {
        let Some(mode) = mode.known().copied() else {
            return After::Unknown(format!("what {what} would be without our policy is not known"));
        };
        if mode != ours.previous {
            let how = if mode == Mode::Strict { "STRICT by another policy" } else { mode.as_str() };
            return After::Otherwise(format!(
                "our policy in {name} stays: without it {what} would be {how}, and it was {} before us",
                ours.previous
            ));
        }
    }
    After::AsBefore
}
