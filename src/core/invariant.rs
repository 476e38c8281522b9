//! The safety statements, once. Tests, the model and the writer use these same functions.
//!
//! S4 is a matter of types: [`step_back`](crate::decide::step_back) takes nothing but the policy.
//! S5 and S7 are promises of the shell, judged by the apiserver's audit log.

use crate::action::Action;
use crate::clearance::our_policy;
use crate::decide::{Decision, Standing, State};
use crate::gate::policy::{ours, targets};
use crate::gate::{Evaluation, Verdict};
use crate::mode::Mode;
use crate::plan::{Existing, Mission, Plan};
use crate::policy::{OUR_NAME, Policy};
use crate::reading::Reading;
use crate::snapshot::{Snapshot, Source};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// A statement that a decision breaks, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// `S1` to `S9`.
    pub statement: &'static str,
    /// What is wrong.
    pub what: String,
}

/// Every statement, put to one decision.
pub fn violations(
    plan: &Plan,
    snapshot: &Snapshot,
    decision: &Decision,
    now: Timestamp,
) -> Vec<Violation> {
    let mut found: Vec<_> =
        decision.actions.iter().flat_map(|action| broken_by(plan, snapshot, action, now)).collect();
    if !one_stage_in_flight(decision) {
        found.push(Violation {
            statement: "S6",
            what: "a step while another stage is on its way".into(),
        });
    }
    if plan.action == Mission::Observe && !decision.actions.is_empty() {
        found.push(Violation { statement: "S2", what: "an observer writes".into() });
    }
    found
}

/// Every statement about a single write. The shell asks this once more just before it sends.
pub fn broken_by(
    plan: &Plan,
    snapshot: &Snapshot,
    action: &Action,
    now: Timestamp,
) -> Vec<Violation> {
    [
        ("S1", strict_is_proven(plan, snapshot, action, now)),
        ("S2", owns_what_it_writes(plan, snapshot, action)),
        ("S3", weakens_nothing(snapshot, action)),
        ("S9", spares_the_roots(plan, snapshot, action)),
    ]
    .into_iter()
    .filter(|(_, holds)| !holds)
    .map(|(statement, _)| Violation {
        statement,
        what: format!("{}: {action:?}", action.namespace()),
    })
    .collect()
}

/// S1: STRICT only where every gate passes, on fresh evidence from quorum reads, and a person has
/// approved wherever one is to be asked.
pub fn strict_is_proven(plan: &Plan, snapshot: &Snapshot, action: &Action, now: Timestamp) -> bool {
    let Action::EnforceStrict(clearance) = action else { return true };
    snapshot.source == Source::Quorum
        && clearance.is_current(now)
        && snapshot.namespace(clearance.namespace()).is_some_and(|facts| {
            let mut stages =
                plan.stages.iter().filter(|stage| stage.targets.cover(&facts.name, &facts.labels));
            stages.all(|stage| plan.is_approved(stage))
                && Evaluation::run(plan, snapshot, facts).verdict() == Verdict::Pass
        })
}

/// S2: an update meets our own policy, at the version read; a creation meets an empty place.
pub fn owns_what_it_writes(plan: &Plan, snapshot: &Snapshot, action: &Action) -> bool {
    let meets = |policy: &Policy| {
        action.precondition() == Some((&policy.uid, policy.resource_version.as_str()))
    };
    match action {
        Action::PinPermissive(pin) => {
            snapshot.policies.of(&pin.namespace).iter().all(|policy| !policy.is_namespace_wide())
        }
        // Somebody else's, and that is what it says.
        Action::Adopt(adopt) => snapshot.policies.of(&adopt.namespace).iter().any(|policy| {
            plan.existing == Existing::Adopt
                && policy.ours.is_none()
                && policy.not_adoptable().is_none()
                && meets(policy)
        }),
        Action::EnforceStrict(_) | Action::RollBack(_) | Action::Restore(_) => {
            our_policy(plan, snapshot, action.namespace()).is_some_and(meets)
        }
    }
}

/// S3: no write makes any server's effective mode DISABLE, or weaker than it was before us.
pub fn weakens_nothing(snapshot: &Snapshot, action: &Action) -> bool {
    let Some(facts) = snapshot.namespace(action.namespace()) else { return false };
    let after = match action {
        Action::Restore(restore) if restore.deletes() => {
            snapshot.policies.without(&restore.namespace, OUR_NAME)
        }
        _ => snapshot.policies.with(ours(snapshot, facts, action.mode())),
    };
    targets(facts).iter().all(|target| {
        let mode = |policies| target.mode(policies).known().map(|now| now.mode);
        match (mode(&snapshot.policies), mode(&after), action) {
            // Only a rollback may go below what is now: what is now is our own STRICT. What other
            // policies hold at DISABLE stays as it is.
            (now, Some(then), Action::RollBack(_)) => then >= Mode::Permissive || now == Some(then),
            // What it gives back is what was before us, and never STRICT by accident. A workload
            // may have a policy of its own, and keeps it.
            (_, Some(then), Action::Restore(restore)) => {
                let previous = ours(snapshot, facts, restore.ours.previous);
                Some(then) == mode(&snapshot.policies.with(previous))
            }
            (Some(now), Some(then), _) => then >= now,
            (None, _, _) | (_, None, _) => matches!(action, Action::RollBack(_)),
        }
    })
}

/// S6: no step to STRICT while another stage is on its way. Watching alone is no step: where memory
/// was lost, what was finished long ago is watched once more.
pub fn one_stage_in_flight(decision: &Decision) -> bool {
    let stage = |name| decision.namespaces.get(name).map(|standing| standing.stage);
    let steps = decision.actions.iter().filter(|action| matches!(action, Action::EnforceStrict(_)));
    let stepping: BTreeSet<_> = steps.map(|action| stage(action.namespace())).collect();
    let watching = |standing: &&Standing| standing.state == State::Watching;
    let watched = decision.namespaces.values().filter(watching).map(|one| Some(one.stage));
    stepping.is_empty()
        || stepping.iter().copied().chain(watched).collect::<BTreeSet<_>>().len() == 1
}

/// S9: nothing in a root namespace, Kubernetes' own, or ours.
pub fn spares_the_roots(plan: &Plan, snapshot: &Snapshot, action: &Action) -> bool {
    match (action, &snapshot.mesh) {
        // It meets a policy of ours, which no root namespace holds; not knowing the mesh's
        // configuration must not keep an outage up (S4).
        (Action::RollBack(back), Reading::Known(mesh)) => !mesh.roots.contains(&back.namespace),
        (Action::RollBack(_), Reading::Unknown(_)) => true,
        (
            Action::PinPermissive(_)
            | Action::Adopt(_)
            | Action::EnforceStrict(_)
            | Action::Restore(_),
            _,
        ) => !snapshot.is_forbidden(action.namespace(), &plan.operator_namespace),
    }
}
