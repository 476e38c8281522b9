//! What a deleted rollout gives back when it was asked to (`deletionPolicy: Restore`): what stood
//! there before it, and only where that is neither weaker than before nor STRICT by accident.

use crate::action::{Action, Restore};
use crate::clearance::our_policy;
use crate::decide::step_back;
use crate::effective::Policies;
use crate::finding::{Code, Finding, Level, Subject};
use crate::gate::policy::{Target, ours as as_ours, targets};
use crate::ident::Namespace;
use crate::mode::Mode;
use crate::plan::Plan;
use crate::policy::{OUR_NAME, Ours, Policy};
use crate::reading::Reading;
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
    if snapshot.mesh.known().is_some() && snapshot.is_forbidden(namespace, &plan.operator_namespace)
    {
        let why =
            format!("{namespace} has become a root of the mesh, so its policy stays as it is");
        return Restoration::Leave(
            Finding::new(Code::RootNamespaceInScope, subject(), why)
                .at(Level::Warn)
                .remedy(format!("kubectl get peerauthentication {OUR_NAME} -n {namespace}")),
        );
    }
    // STRICT goes first, and that needs nothing but the policy (S4). Our PERMISSIVE then keeps away
    // what would be in force without it, until that is known to be what was before.
    if policy.is_our_strict() || (ours.strict_since.is_some() && !policy.has_drifted()) {
        let why = "the rollout is deleted and gives back what was before it";
        let because = Finding::new(Code::HarmAfterStrict, subject(), why).at(Level::Inform);
        return step_back(namespace, policy, because).map_or(Restoration::Nothing, Restoration::Do);
    }
    if policy.has_drifted() {
        let why =
            format!("the policy in {namespace} was changed by another hand and stays as it is");
        return Restoration::Leave(
            Finding::new(Code::PolicyDrifted, subject(), why).at(Level::Warn),
        );
    }
    if let Some(cause) = snapshot.mesh.cause() {
        return wait(subject(), format!("the mesh's configuration is not known: {cause}"));
    }
    let action = Action::Restore(Restore {
        namespace: namespace.clone(),
        policy_uid: policy.uid.clone(),
        resource_version: policy.resource_version.clone(),
        ours: ours.clone(),
    });
    if ours.adopted.is_some() {
        return Restoration::Do(action);
    }
    match without(snapshot, facts, policy, ours) {
        After::AsBefore => Restoration::Do(action),
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
    let before = snapshot.policies.with(as_ours(snapshot, facts, ours.previous));
    let after = snapshot.policies.without(&policy.namespace, &policy.name);
    // A workload may have a policy of its own: what counts is what ours makes of it.
    let mode = |target: &Target<'_>, policies| target.mode(policies).map(|now| now.mode);
    let mut modes: Vec<_> = targets(facts)
        .iter()
        .map(|target| (target.workload.to_string(), mode(target, &before), mode(target, &after)))
        .collect();
    let rest = |policies: &Policies| policies.service_guess(name, None).map(|guess| guess.mode);
    modes.push((format!("namespace {name}"), rest(&before), rest(&after)));
    for (what, before, after) in modes {
        let (before, after) = match (&before, &after) {
            (Reading::Known(before), Reading::Known(after)) => (before, after),
            (_, Reading::Unknown(cause)) | (Reading::Unknown(cause), _) => {
                return After::Unknown(format!(
                    "what {what} would be without our policy is not known: {cause}"
                ));
            }
        };
        if after != before {
            let how =
                if *after == Mode::Strict { "STRICT by another policy" } else { after.as_str() };
            return After::Otherwise(format!(
                "our policy in {name} stays: without it {what} would be {how}, and it was {before} before us",
            ));
        }
    }
    After::AsBefore
}
