//! From a decision to what is stored, and back: the only place that turns progress into status and
//! status into progress. Equal decisions give equal status, so that nothing is written when nothing
//! has happened.

mod progress;
mod report;

pub use progress::progress;
pub use report::report;

use crate::api::{
    Blocker, ConsumedRequest, LastRollback, MeshRolloutStatus, Requests, StageState, StageStatus,
    Summary,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use meshrollout_core::condition::{self, Status};
use meshrollout_core::decide::{Decision, State};
use meshrollout_core::finding::{Finding, Level};
use meshrollout_core::gate::policy::targets;
use meshrollout_core::ident::Namespace;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::Plan;
use meshrollout_core::progress::{Heard, whole_second};
use meshrollout_core::snapshot::Snapshot;

/// As many as `status.blockedBy` may list.
const MAX_BLOCKERS: usize = 10;

/// What is not in the decision itself.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The generation of the spec decided on.
    pub generation: Option<i64>,
    /// The operator runs with `--allow-short-times`.
    pub short_times: bool,
    /// Rollbacks just done: where, and why.
    pub rolled_back: &'a [(Namespace, Finding)],
}

/// The new status of a rollout.
pub fn status(
    plan: &Plan,
    decision: &Decision,
    snapshot: &Snapshot,
    facts: &Facts<'_>,
    old: &MeshRolloutStatus,
    now: Timestamp,
) -> MeshRolloutStatus {
    let now = whole_second(now);
    let obstacles = decision.obstacles();
    let blocked_by: Vec<_> =
        obstacles.iter().take(MAX_BLOCKERS).map(|found| blocker(found, old, now)).collect();
    let stage_name = |index: usize| plan.stages.get(index).map(|stage| stage.name.clone());
    let conditions = condition::of(plan, decision, &of_api(&old.conditions), now);
    MeshRolloutStatus {
        observed_generation: facts.generation,
        plan_hash: Some(decision.progress.plan_hash.clone()),
        current_stage: decision.current_stage.and_then(stage_name),
        short_times: facts.short_times,
        summary: Some(summary(decision, snapshot, &blocked_by, obstacles.len())),
        stages: stages(plan, decision, snapshot),
        blocked_by_more: count(obstacles.len().saturating_sub(MAX_BLOCKERS)),
        blocked_by,
        last_rollback: last_rollback(plan, decision, facts.rolled_back, old, now),
        requests: requests(decision),
        conditions: to_api(conditions, facts.generation),
    }
}

/// The last of those just done, else the one that was.
pub fn last_rollback(
    plan: &Plan,
    decision: &Decision,
    just_done: &[(Namespace, Finding)],
    old: &MeshRolloutStatus,
    now: Timestamp,
) -> Option<LastRollback> {
    let Some((namespace, because)) = just_done.last() else { return old.last_rollback.clone() };
    let stage = decision.namespaces.get(namespace).map(|standing| standing.stage);
    let stage = stage.and_then(|stage| plan.stages.get(stage));
    Some(LastRollback {
        stage: stage.map(|stage| stage.name.clone()).unwrap_or_default(),
        namespace: namespace.to_string(),
        code: (because.level > Level::Inform).then(|| because.code.id().to_owned()),
        reason: match because.level {
            Level::Inform => "Requested".to_owned(),
            Level::Warn | Level::Hold | Level::Block => because.code.name().to_owned(),
        },
        message: cut(&because.message, 1024),
        time: Time(whole_second(now)),
    })
}

/// The status of a rollout whose spec cannot be used. What was reached stays in it.
pub fn refused(
    reason: &'static str,
    message: &str,
    generation: Option<i64>,
    old: &MeshRolloutStatus,
    now: Timestamp,
) -> MeshRolloutStatus {
    let conditions = condition::refused(reason, message, &of_api(&old.conditions), now);
    MeshRolloutStatus {
        observed_generation: generation,
        conditions: to_api(conditions, generation),
        ..old.clone()
    }
}

fn blocker(found: &Finding, old: &MeshRolloutStatus, now: Timestamp) -> Blocker {
    let (code, subject) = (found.code.id(), cut(&found.subject.to_string(), 320));
    let known = old.blocked_by.iter().find(|one| one.code == code && one.subject == subject);
    Blocker {
        code: code.to_owned(),
        since: Some(known.and_then(|one| one.since.clone()).unwrap_or(Time(now))),
        subject,
        message: cut(&found.message, 512),
        value: found.value.as_deref().map(|value| cut(value, 128)),
        threshold: found.threshold.as_deref().map(|threshold| cut(threshold, 128)),
    }
}

/// Whether every server of a namespace is STRICT in effect; `None` when that is not known or
/// there is no server.
fn is_strict(snapshot: &Snapshot, namespace: &Namespace) -> Option<bool> {
    let facts = snapshot.namespace(namespace)?;
    let modes: Option<Vec<Mode>> = targets(facts)
        .iter()
        .map(|target| target.mode(&snapshot.policies).known().map(|effective| effective.mode))
        .collect();
    let modes = modes.filter(|modes| !modes.is_empty())?;
    Some(modes.iter().all(|mode| *mode == Mode::Strict))
}

fn summary(
    decision: &Decision,
    snapshot: &Snapshot,
    blocked_by: &[Blocker],
    obstacles: usize,
) -> Summary {
    let mut summary =
        Summary { namespaces: count(decision.namespaces.len()), ..Summary::default() };
    for (name, standing) in &decision.namespaces {
        match (standing.state, is_strict(snapshot, name)) {
            (State::Exempt, _) => summary.exempt += 1,
            (_, Some(true)) => summary.strict += 1,
            (_, Some(false)) => summary.permissive += 1,
            (_, None) => summary.unverified += 1,
        }
    }
    summary.progress = format!("{}/{}", summary.strict, summary.namespaces);
    summary.blocked_by = match blocked_by.first() {
        None => String::new(),
        Some(first) => {
            let name = first.subject.split_once(' ').map_or(first.subject.as_str(), |it| it.1);
            let more = match obstacles.saturating_sub(1) {
                0 => String::new(),
                more => format!(" +{more}"),
            };
            // The subject gives way, not the number.
            format!("{} {}{more}", first.code, cut(name, 100))
        }
    };
    summary
}

fn stages(plan: &Plan, decision: &Decision, snapshot: &Snapshot) -> Vec<StageStatus> {
    plan.stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let here: Vec<_> =
                decision.namespaces.iter().filter(|(_, one)| one.stage == index).collect();
            let state = if here.iter().any(|(_, one)| one.state == State::RolledBack) {
                StageState::RolledBack
            } else if !here.is_empty() && here.iter().all(|(_, one)| one.state.is_done()) {
                StageState::Enforced
            } else if decision.current_stage == Some(index) {
                StageState::Active
            } else {
                StageState::Pending
            };
            let strict = here.iter().filter(|(name, _)| is_strict(snapshot, name) == Some(true));
            StageStatus {
                name: stage.name.clone(),
                state,
                strict: count(strict.count()),
                namespaces: count(here.len()),
                finished: decision.progress.finished.contains(&stage.name),
            }
        })
        .collect()
}

fn requests(decision: &Decision) -> Option<Requests> {
    let heard = &decision.progress.requests;
    let consumed = |heard: &Option<Heard>| {
        heard.as_ref().map(|heard| ConsumedRequest {
            value: cut(&heard.value, 64),
            consumed_at: Time(whole_second(heard.at)),
            stage: heard.stage.clone(),
        })
    };
    let requests = Requests {
        abort: consumed(&heard.abort),
        retry: consumed(&heard.retry),
        rollback: consumed(&heard.rollback),
    };
    (requests != Requests::default()).then_some(requests)
}

/// The types of conditions, which the core knows by these very strings.
const KINDS: [&str; 6] = ["Accepted", "GatesPassed", "Enforced", "Reconciling", "Stalled", "Ready"];

fn of_api(conditions: &[Condition]) -> Vec<condition::Condition> {
    conditions
        .iter()
        .filter_map(|one| {
            Some(condition::Condition {
                kind: KINDS.into_iter().find(|kind| *kind == one.type_)?,
                status: match one.status.as_str() {
                    "True" => Status::True,
                    "False" => Status::False,
                    _ => Status::Unknown,
                },
                // Only the time of the last change is carried over.
                reason: "",
                message: String::new(),
                since: one.last_transition_time.0,
            })
        })
        .collect()
}

fn to_api(conditions: Vec<condition::Condition>, generation: Option<i64>) -> Vec<Condition> {
    conditions
        .into_iter()
        .map(|one| Condition {
            type_: one.kind.to_owned(),
            status: match one.status {
                Status::True => "True",
                Status::False => "False",
                Status::Unknown => "Unknown",
            }
            .to_owned(),
            reason: one.reason.to_owned(),
            message: cut(&one.message, 4096),
            observed_generation: generation,
            last_transition_time: Time(whole_second(one.since)),
        })
        .collect()
}

/// At most `limit` characters, as the schema bounds them; what is cut ends in an ellipsis.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MeshReportStatus;
    use jiff::SignedDuration;
    use meshrollout_core::progress::Progress;
    use meshrollout_core::testing::World;

    /// What is kept in memory must be what comes back from the apiserver, or every visit writes.
    #[test]
    fn a_status_is_the_same_after_it_was_stored() {
        let mut world = World::shop();
        world.plan.asked.retry = Some("now".into());
        world.plaintext(None, "catalog");
        world.visits(3);
        let (snapshot, decision) = world.look();
        let now = snapshot.at + SignedDuration::from_millis(123);
        let nothing = MeshRolloutStatus::default();
        let because = decision.obstacles()[0].clone();
        let facts = Facts {
            generation: Some(1),
            short_times: false,
            rolled_back: &[(Namespace::new("catalog"), because)],
        };
        let new = status(&world.plan, &decision, &snapshot, &facts, &nothing, now);
        assert!(new.requests.is_some() && !new.blocked_by.is_empty());
        let stored = serde_json::from_value(serde_json::to_value(&new).unwrap()).unwrap();
        assert_eq!(new, stored);

        for one in &decision.namespaces {
            let nothing = MeshReportStatus::default();
            let new = report(&world.plan, &decision, &snapshot, one, Some(1), &nothing, now);
            let stored = serde_json::from_value(serde_json::to_value(&new).unwrap()).unwrap();
            assert_eq!(new, stored);
        }
    }

    /// What a new leader reads back; `change` is what another hand does to the reports meanwhile.
    fn handed_over(world: &World, change: impl Fn(&mut MeshReportStatus)) -> Progress {
        let (snapshot, decision) = world.look();
        let nothing = MeshRolloutStatus::default();
        let facts = Facts { generation: Some(1), short_times: false, rolled_back: &[] };
        let now = snapshot.at;
        let rollout = status(&world.plan, &decision, &snapshot, &facts, &nothing, now);
        let reports: Vec<_> = decision
            .namespaces
            .iter()
            .map(|one| {
                let nothing = MeshReportStatus::default();
                let mut report =
                    report(&world.plan, &decision, &snapshot, one, Some(1), &nothing, now);
                change(&mut report);
                (one.0.clone(), report)
            })
            .collect();
        progress(&world.plan, &rollout, reports.iter().map(|(name, one)| (name.clone(), one)))
    }

    #[test]
    fn a_new_leader_remembers_everything() {
        for visits in [1, 3, 5, 8, 12, 24] {
            let mut world = World::shop();
            world.visits(visits);
            let (_, decision) = world.look();
            assert_eq!(handed_over(&world, |_| ()), decision.progress, "after {visits} visits");
        }
    }

    #[test]
    fn a_soak_without_its_terms_does_not_count_for_a_new_leader() {
        let mut world = World::shop();
        world.visits(3);
        for terms in [None, Some("soon".to_owned())] {
            let told = handed_over(&world, |report| {
                if let Some(soak) = &mut report.soak {
                    soak.terms.clone_from(&terms);
                }
            });
            assert!(told.namespaces.values().all(|memory| memory.soak.is_none()), "{terms:?}");
        }
    }
}
