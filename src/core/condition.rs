//! From a decision to conditions: the table of `design.md` section 1, in one place.

use crate::decide::{Decision, State};
use crate::finding::Level;
use crate::plan::{Mission, Plan};
use jiff::Timestamp;

/// The status of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Its status.
    pub status: Status,
    /// A reason out of a closed set.
    pub reason: &'static str,
    /// A sentence for somebody who was just woken up.
    pub message: String,
    /// When the status last changed.
    pub since: Timestamp,
}

/// The six conditions, always all of them.
pub fn of(plan: &Plan, decision: &Decision, old: &[Condition], now: Timestamp) -> Vec<Condition> {
    use Status::{False, True, Unknown};
    let obstacles = decision.obstacles();
    let worst = obstacles.first();
    let states = || decision.namespaces.values().map(|standing| standing.state);
    let message = crate::explain::headline(plan, decision);
    let name = worst.map_or("Soaking", |one| one.code.name());
    let lowered = plan.gates.any_lowered()
        || decision.namespaces.values().any(|one| one.evaluation.acknowledged() > 0);
    let passed = if worst.is_none() { True } else { False };
    let gates = |status| match status {
        True if lowered => (True, "GatesLowered"),
        True => (True, "AllPassed"),
        False => (False, name),
        Unknown => (Unknown, name),
    };

    // accepted, gates, enforced, reconciling, stalled, ready, reason
    let row = if !decision.refused.is_empty() {
        (False, Unknown, Unknown, False, True, False, name)
    } else if plan.action == Mission::Observe {
        (True, passed, Unknown, False, False, True, "Observing")
    } else if decision.halted {
        let aborted = decision.progress.requests.standing().is_some();
        let reason = if aborted { "Aborted" } else { "RolledBack" };
        (True, False, False, False, True, False, reason)
    } else if decision.is_complete() {
        (True, True, True, False, False, True, "Enforced")
    } else if plan.paused {
        (True, passed, False, False, False, False, "Paused")
    } else if worst.is_some_and(|one| one.level == Level::Block) {
        (True, False, False, True, False, False, name)
    } else if decision.newcomer(plan).is_some() && !decision.is_threatened() {
        let gates = if worst.is_some() { Unknown } else { True };
        (True, gates, False, True, False, False, "NewNamespace")
    } else if worst.is_some() {
        (True, Unknown, False, True, False, False, name)
    } else if states().any(|state| state == State::AwaitingApproval) {
        (True, True, False, True, False, False, "AwaitingApproval")
    } else if states().any(|state| state == State::Watching) {
        (True, True, False, True, False, False, "Watching")
    } else if states().any(|state| state == State::Preparing) {
        (True, True, False, True, False, False, "Preparing")
    } else {
        (True, True, False, True, False, False, "Soaking")
    };
    let (accepted, gate, enforced, reconciling, stalled, ready, reason) = row;
    let (gate, gate_reason) = gates(gate);
    let make = |kind, status, reason, message: &str| Condition {
        kind,
        status,
        reason,
        message: message.into(),
        since: since(old, kind, status, now),
    };
    vec![
        match crate::explain::left_out(decision).filter(|_| accepted == True) {
            Some(left_out) => make("Accepted", True, "Accepted", &left_out),
            None if accepted == True => make("Accepted", True, "Accepted", &message),
            None => make("Accepted", accepted, reason, &message),
        },
        make("GatesPassed", gate, gate_reason, &message),
        make("Enforced", enforced, reason, &message),
        make("Reconciling", reconciling, reason, &message),
        make("Stalled", stalled, reason, &message),
        make("Ready", ready, reason, &message),
    ]
}

/// The conditions of a rollout that has no plan, because what was written cannot be used.
pub fn refused(
    reason: &'static str,
    message: &str,
    old: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    use Status::{False, True, Unknown};
    [
        ("Accepted", False),
        ("GatesPassed", Unknown),
        ("Enforced", Unknown),
        ("Reconciling", False),
        ("Stalled", True),
        ("Ready", False),
    ]
    .into_iter()
    .map(|(kind, status)| Condition {
        kind,
        status,
        reason,
        message: message.into(),
        since: since(old, kind, status, now),
    })
    .collect()
}

/// When the status last changed: kept from `old` while it stays the same.
fn since(old: &[Condition], kind: &str, status: Status, now: Timestamp) -> Timestamp {
    old.iter().find(|one| one.kind == kind && one.status == status).map_or(now, |one| one.since)
}
