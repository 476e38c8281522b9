//! What the team of one namespace reads.

use super::{count, cut, is_strict, to_api};
use crate::api::{
    Bake, FindingReport, MeshReportStatus, NamespaceState, ObservedRollout, PlaintextCaller, Soak,
    WorkloadReport,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meshrollout_core::clearance::our_policy;
use meshrollout_core::condition::{Condition, Status};
use meshrollout_core::decide::{Decision, Standing, State};
use meshrollout_core::explain::{length, where_it_stands};
use meshrollout_core::finding::{Finding, Level};
use meshrollout_core::gate::Verdict;
use meshrollout_core::gate::policy::{Target, targets};
use meshrollout_core::ident::Namespace;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::{Mission, Plan};
use meshrollout_core::progress::whole_second;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::{Caller, rounded};
use meshrollout_core::workload::Workload;

const MAX_WORKLOADS: usize = 200;
const MAX_CALLERS: usize = 50;
const MAX_FINDINGS: usize = 100;

/// The new status of the report of one namespace. `old` is what stands there: clocks that only
/// tick are kept from it until they have moved far enough to be worth a write.
pub fn report(
    plan: &Plan,
    decision: &Decision,
    snapshot: &Snapshot,
    (name, standing): (&Namespace, &Standing),
    generation: Option<i64>,
    old: &MeshReportStatus,
    now: Timestamp,
) -> MeshReportStatus {
    let now = whole_second(now);
    let memory = decision.progress.namespaces.get(name);
    let mut findings = standing.evaluation.findings();
    findings.extend(&standing.findings);
    findings.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
    let (callers, callers_more) = callers(plan, snapshot, name);
    let (workloads, workloads_more, strict) = workloads(snapshot, name);
    let mut new = MeshReportStatus {
        observed_rollout: Some(ObservedRollout {
            name: plan.name.clone(),
            uid: plan.uid.to_string(),
            generation: generation.unwrap_or_default(),
        }),
        namespace_uid: memory.map(|memory| memory.uid.to_string()),
        stage: plan.stages.get(standing.stage).map(|stage| stage.name.clone()),
        state: Some(state(standing.state)),
        // From the moment on in which ours is about to be written. One that is Blocked may have been so
        // before.
        guarded: plan.action == Mission::Enforce
            && (standing.state == State::Preparing || our_policy(plan, snapshot, name).is_some()),
        strict,
        soak: memory.and_then(|memory| memory.soak).map(|soak| Soak {
            since: Time(whole_second(soak.since)),
            last_evaluated: Time(whole_second(soak.last)),
            holds_until: plan
                .stages
                .get(standing.stage)
                .map(|stage| Time(whole_second(soak.since + stage.soak))),
            terms: Some(soak.terms.to_string()),
        }),
        baseline: memory
            .and_then(|memory| memory.bake)
            .map(|bake| Time(whole_second(bake.strict_since))),
        bake: memory.and_then(|memory| memory.bake).map(|bake| Bake {
            covered_seconds: bake.covered.as_secs(),
            since: Time(whole_second(bake.strict_since)),
            last_evaluated: Some(Time(whole_second(bake.last))),
        }),
        workloads,
        workloads_more,
        plaintext_callers: callers,
        plaintext_callers_more: callers_more,
        findings_total: count(findings.len()),
        findings: findings.into_iter().take(MAX_FINDINGS).map(finding).collect(),
        last_proven: match standing.evaluation.verdict() {
            Verdict::Pass => Some(Time(whole_second(snapshot.telemetry.at))),
            Verdict::Hold | Verdict::Block => old.last_proven.clone(),
        },
        conditions: vec![],
    };
    let kept = old.conditions.iter().find(|one| one.type_ == "Ready");
    let ready = ready(plan, decision, snapshot, (name, standing));
    let same = kept.filter(|one| (one.status == "True") == (ready.status == Status::True));
    let since = same.map_or(now, |one| one.last_transition_time.0);
    new.conditions = to_api(vec![Condition { since, ..ready }], generation);
    keep_ticking_clocks(&mut new, old, plan.timing.interval, now);
    new
}

/// A clock that ran on for less than this is not worth a write: a new leader goes on with a soak
/// up to three intervals old. Where nothing else has changed, `lastProven` is not either.
fn keep_ticking_clocks(
    new: &mut MeshReportStatus,
    old: &MeshReportStatus,
    interval: SignedDuration,
    now: Timestamp,
) {
    let recent = |at: &Time| now.duration_since(at.0) < interval * 2;
    if let (Some(new), Some(old)) = (&mut new.soak, &old.soak)
        && (&new.since, &new.terms) == (&old.since, &old.terms)
        && recent(&old.last_evaluated)
    {
        new.last_evaluated = old.last_evaluated.clone();
    }
    if let (Some(new), Some(old)) = (&mut new.bake, &old.bake)
        && new.since == old.since
        && old.last_evaluated.as_ref().is_some_and(recent)
    {
        *new = old.clone();
    }
    let last_proven = new.last_proven.clone();
    new.last_proven.clone_from(&old.last_proven);
    if new != old {
        new.last_proven = last_proven;
    }
}

fn ready(
    plan: &Plan,
    decision: &Decision,
    snapshot: &Snapshot,
    (name, standing): (&Namespace, &Standing),
) -> Condition {
    let gates = standing.evaluation.obstacles();
    let others = standing.findings.iter().filter(|found| found.level >= Level::Hold);
    let worst = gates.into_iter().chain(others).max_by_key(|found| found.level);
    let holds = standing.state.is_done() && is_strict(snapshot, name) == Some(true);
    let (status, reason, message) = match worst {
        Some(found) => (Status::False, found.code.name(), found.message.clone()),
        None => (
            if holds { Status::True } else { Status::False },
            standing.state.name(),
            where_it_stands(plan, decision, name, standing),
        ),
    };
    Condition { kind: "Ready", status, reason, message, since: Timestamp::UNIX_EPOCH }
}

fn workloads(snapshot: &Snapshot, name: &Namespace) -> (Vec<WorkloadReport>, i32, String) {
    let Some(facts) = snapshot.namespace(name) else { return (vec![], 0, "0/0".into()) };
    let targets = targets(facts);
    let mut all: Vec<_> =
        facts.servers().map(|workload| workload_report(snapshot, &targets, workload)).collect();
    let strict = all.iter().filter(|one| one.mode == Mode::Strict.as_str()).count();
    let total = all.len();
    all.sort_by(|a, b| {
        let done = |one: &WorkloadReport| one.mode == Mode::Strict.as_str();
        done(a).cmp(&done(b)).then_with(|| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)))
    });
    all.truncate(MAX_WORKLOADS);
    (all, count(total.saturating_sub(MAX_WORKLOADS)), format!("{strict}/{total}"))
}

/// The weakest mode of its ports and pods: the one that says whether plaintext still gets in.
fn workload_report(
    snapshot: &Snapshot,
    targets: &[Target<'_>],
    workload: &Workload,
) -> WorkloadReport {
    let modes: Option<Vec<_>> = targets
        .iter()
        .filter(|target| *target.workload == workload.id)
        .map(|target| target.mode(&snapshot.policies).known().cloned())
        .collect();
    let weakest = modes.and_then(|modes| modes.into_iter().min_by_key(|it| it.mode));
    WorkloadReport {
        kind: cut(&workload.id.kind, 63),
        name: workload.id.name.clone(),
        mode: weakest.as_ref().map_or("Unknown", |it| it.mode.as_str()).to_owned(),
        decided_by: weakest
            .and_then(|it| it.decided_by.policy().cloned())
            .map(|policy| format!("{}/{}", policy.namespace, policy.name)),
        pods: count(workload.running().count()),
        meshed: count(workload.meshed().count()),
    }
}

fn callers(plan: &Plan, snapshot: &Snapshot, name: &Namespace) -> (Vec<PlaintextCaller>, i32) {
    let all = snapshot.telemetry.callers.known().into_iter().flatten();
    let mut here: Vec<&Caller> =
        all.filter(|caller| caller.destination.namespace == *name).collect();
    here.sort_by(|a, b| b.count.total_cmp(&a.count));
    let more = count(here.len().saturating_sub(MAX_CALLERS));
    let listed = here.into_iter().take(MAX_CALLERS).map(|caller| PlaintextCaller {
        source: caller
            .source
            .as_ref()
            .map_or("unknown".to_owned(), |name| cut(&name.to_string(), 320)),
        destination: cut(&caller.destination.to_string(), 320),
        service: caller.service.as_deref().map(|service| cut(service, 320)),
        count: rounded(caller.count),
        window: length(plan.gates.lookback),
    });
    (listed.collect(), more)
}

fn finding(found: &Finding) -> FindingReport {
    FindingReport {
        code: found.code.id().to_owned(),
        level: format!("{:?}", found.level),
        subject: cut(&found.subject.to_string(), 320),
        message: cut(&found.message, 512),
        evidence: found.evidence.iter().take(8).map(|fact| cut(fact, 256)).collect(),
        remedy: Some(cut(&found.remedy, 512)).filter(|remedy| !remedy.is_empty()),
    }
}

fn state(state: State) -> NamespaceState {
    match state {
        State::Pending => NamespaceState::Pending,
        State::Preparing => NamespaceState::Preparing,
        State::Proving => NamespaceState::Proving,
        State::AwaitingApproval => NamespaceState::AwaitingApproval,
        State::Enforcing => NamespaceState::Enforcing,
        State::Watching => NamespaceState::Watching,
        State::Enforced => NamespaceState::Enforced,
        State::RolledBack => NamespaceState::RolledBack,
        State::Blocked => NamespaceState::Blocked,
        State::Exempt => NamespaceState::Exempt,
    }
}
