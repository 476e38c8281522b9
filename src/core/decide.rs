//! The one function to read first: from what was asked, remembered and seen, to what is done.
//!
//! It reads no clock, no cluster and no environment. The operator, `preflight` and the tests run
//! this same function.

mod said;
mod watch;

use crate::action::{Action, Adopt, Pin, RollBack};
use crate::clearance::{Clearance, our_policy, strict_since};
use crate::finding::{Code, Finding, Level, Subject};
use crate::gate::{Evaluation, Verdict};
use crate::ident::Namespace;
use crate::members::{Members, members, strays};
use crate::mode::Mode;
use crate::plan::{Mission, Plan, Stage};
use crate::policy::{OUR_NAME, Ours, Policy};
use crate::progress::{Bake, Progress, Soak};
use crate::reading::{Cause, Reading};
use crate::snapshot::{Snapshot, Source};
use crate::standing::stand;
use crate::terms::Terms;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use watch::watch;

pub use crate::standing::{Standing, State};

/// What is to be done, remembered and said.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// The writes, at most one for each namespace.
    pub actions: Vec<Action>,
    /// What to remember.
    pub progress: Progress,
    /// Each namespace of the plan.
    pub namespaces: BTreeMap<Namespace, Standing>,
    /// What is wrong with the plan itself; no step is taken then, only rollbacks.
    pub refused: Vec<Finding>,
    /// Warnings: a selector matches these, and they are left alone.
    pub skipped: Vec<Finding>,
    /// The first stage that is not done.
    pub current_stage: Option<usize>,
    /// A rolled back namespace or a request by a person stands in the way of every new step.
    pub halted: bool,
}

/// Decides. STRICT is decided only on a snapshot from quorum reads; on any other, a proven
/// namespace comes out as [`State::Enforcing`] without an action, which asks the shell for one.
pub fn decide(plan: &Plan, progress: &Progress, snapshot: &Snapshot, now: Timestamp) -> Decision {
    let Members { mut members, refused, skipped } = members(plan, snapshot);
    members.extend(strays(plan, progress, snapshot, &members));
    let mut decision = Decision {
        actions: vec![],
        progress: Progress {
            plan_hash: plan.hash(),
            namespaces: BTreeMap::new(),
            finished: progress.finished.clone(),
            requests: progress.requests.clone(),
        },
        namespaces: BTreeMap::new(),
        refused,
        skipped,
        current_stage: None,
        halted: false,
    };
    // Stepping back needs nothing but the policy (S4).
    let may_step_back = plan.action == Mission::Enforce;
    // A policy in the root namespace is the whole mesh's: without knowing which it is, no step. Nor
    // does a plan that is wrong take one.
    let may_step = may_step_back && snapshot.mesh.known().is_some() && decision.refused.is_empty();

    for (name, stage) in &members {
        if let Some(facts) = snapshot.namespace(name) {
            let mut memory = progress.of(name, &facts.uid);
            // A bake belongs to a STRICT that stands. One that was rolled back stays remembered, so that
            // deleting the policy is no silent retry.
            let ours = our_policy(plan, snapshot, name).and_then(|policy| policy.ours.as_ref());
            let pinned = |ours: &Ours| ours.strict_since.is_none() && ours.rolled_back.is_none();
            if ours.is_some_and(pinned) {
                memory.bake = None;
            }
            let standing = stand(plan, snapshot, facts, *stage, &memory, &progress.requests);
            // Where memory was lost, the mark on the policy tells that there was one.
            if let (State::RolledBack, Some(Ours { rolled_back: Some(back), .. })) =
                (standing.state, ours)
            {
                memory.bake = memory.bake.or(Some(Bake::begun(back.at, back.at)));
            }
            decision.namespaces.insert(name.clone(), standing);
            decision.progress.namespaces.insert(name.clone(), memory);
        } else {
            let missing = Finding::new(
                Code::NamespaceMissing,
                Subject::namespace(name),
                format!("namespace {name} does not exist"),
            )
            .remedy(format!("create it, or take it out of stage {}", plan.stages[*stage].name));
            decision.namespaces.insert(
                name.clone(),
                Standing {
                    stage: *stage,
                    state: State::Pending,
                    evaluation: Evaluation::default(),
                    bake: None,
                    findings: vec![missing],
                },
            );
        }
    }
    decision.current_stage = decision.first_undone();
    let in_flight = decision.in_flight(plan);
    decision.progress.requests.hear(&plan.asked, in_flight, now);
    if decision.progress.requests.retry != progress.requests.retry {
        forgive(plan, snapshot, &mut decision.progress);
    }

    watch(plan, snapshot, &mut decision, may_step_back, now);
    let steps_back = !decision.actions.is_empty();
    if steps_back {
        decision.progress.requests.forgive_nothing_of(now, &progress.requests);
    }
    // A bake may just have ended.
    decision.current_stage = decision.first_undone();
    decision.progress.finished = finished(plan, &decision);
    let standing = decision.progress.requests.standing().is_some();
    decision.halted =
        standing || decision.namespaces.values().any(|one| one.state == State::RolledBack);
    advance(plan, snapshot, &mut decision, may_step && !steps_back, now);
    decision
}

/// A retry that is heard now forgives the bakes whose STRICT is gone now, and none that goes later.
fn forgive(plan: &Plan, snapshot: &Snapshot, progress: &mut Progress) {
    let Progress { namespaces, requests, .. } = progress;
    let retried = requests.retry.as_ref().and_then(|it| it.forgives_until(plan.timing.max_skew));
    for (name, memory) in namespaces {
        let gone = strict_since(plan, snapshot, name).is_none();
        memory.bake = memory.bake.filter(|bake| !gone || retried.is_none_or(|it| it <= bake.last));
    }
}

/// Restores what stood immediately before STRICT. Needs nothing but the policy (S4); `None` for a
/// policy that is not ours.
pub fn step_back(namespace: &Namespace, policy: &Policy, because: Finding) -> Option<Action> {
    Some(Action::RollBack(RollBack {
        namespace: namespace.clone(),
        policy_uid: policy.uid.clone(),
        resource_version: policy.resource_version.clone(),
        ours: policy.ours.clone()?,
        // Our own pin stood there; it accepts both, and is never weaker than what was before us.
        to: Mode::Permissive,
        because,
    }))
}

/// Takes the next step of the current stage, if nothing stands in the way.
fn advance(
    plan: &Plan,
    snapshot: &Snapshot,
    decision: &mut Decision,
    may_step: bool,
    now: Timestamp,
) {
    let Some(current) = decision.current_stage else { return };
    let Some(stage) = plan.stages.get(current) else { return };
    let unfinished = decision.first_unfinished(plan);
    let watching = |here: bool| {
        let watching = decision.namespaces.values().filter(|one| one.state == State::Watching);
        watching.filter(|one| (one.stage == current) == here).count()
    };
    // The next one goes when the proxies have taken the one before; where that cannot be seen, when
    // its bake is over.
    let may_join = watching(true) == 0
        || (watching(true) < stage.max_concurrent && decision.have_taken_it(current));
    let mut free = usize::from(may_join);
    let may_step = may_step && !plan.paused && !decision.halted && watching(false) == 0;
    if let (Reading::Unknown(cause), 2..) = (&snapshot.telemetry.listeners, stage.max_concurrent) {
        let held = one_at_a_time(&stage.name, stage.max_concurrent, cause);
        let members = decision.namespaces.values_mut().filter(|one| one.stage == current);
        members.for_each(|one| one.findings.push(held.clone()));
    }

    for (name, standing) in &mut decision.namespaces {
        let Some(facts) = snapshot.namespace(name) else { continue };
        let Some(memory) = decision.progress.namespaces.get_mut(name) else { continue };
        if standing.stage != current {
            match (standing.state, plan.stages.get(standing.stage)) {
                // Whoever joins a finished stage goes first; the soaks of the others go on.
                (State::Proving, Some(stage)) if Some(standing.stage) == unfinished => {
                    memory.soak = soak(plan, stage, memory.soak, standing, now);
                }
                (State::Preparing | State::Proving, _) => {
                    memory.soak = None;
                    standing.state = State::Pending;
                }
                _ => memory.soak = None,
            }
            continue;
        }
        match standing.state {
            State::Preparing if may_step => {
                let ours = Ours {
                    rollout: plan.name.clone(),
                    rollout_uid: plan.uid.clone(),
                    namespace_uid: facts.uid.clone(),
                    // A pin changes no effective mode, so this is also what was before it.
                    previous: Mode::Permissive,
                    adopted: None,
                    strict_since: None,
                    bake: None,
                    rolled_back: None,
                };
                memory.soak = None;
                decision.actions.push(prepare(snapshot, name, ours));
            }
            State::Proving => {
                memory.soak = soak(plan, stage, memory.soak, standing, now);
                if standing.evaluation.verdict() == Verdict::Block {
                    standing.state = State::Blocked;
                }
                let over =
                    memory.soak.is_some_and(|soak| now.duration_since(soak.since) >= stage.soak);
                if over && !plan.is_approved(stage) {
                    standing.state = State::AwaitingApproval;
                } else if over && may_step && free > 0 {
                    free -= 1;
                    standing.state = State::Enforcing;
                    if snapshot.source == Source::Quorum
                        && let Some(clearance) = Clearance::cut(plan, stage, snapshot, facts)
                    {
                        decision.actions.push(Action::EnforceStrict(clearance));
                    }
                }
            }
            // A soak is of one stretch of proving.
            State::Pending
            | State::Preparing
            | State::AwaitingApproval
            | State::Enforcing
            | State::Watching
            | State::Enforced
            | State::RolledBack
            | State::Blocked
            | State::Exempt => memory.soak = None,
        }
    }
}

/// Our PERMISSIVE: noted on what stands in our place (the gates have let only an adoptable policy
/// through), or made where nothing does.
fn prepare(snapshot: &Snapshot, namespace: &Namespace, ours: Ours) -> Action {
    let namespace = namespace.clone();
    let standing = snapshot.policies.of(&namespace).iter().find(|one| one.name == OUR_NAME);
    match standing {
        Some(policy) => Action::Adopt(Adopt {
            policy_uid: policy.uid.clone(),
            resource_version: policy.resource_version.clone(),
            ours: Ours { adopted: Some(policy.others().map(str::to_owned).collect()), ..ours },
            namespace,
        }),
        None => Action::PinPermissive(Pin { namespace, ours }),
    }
}

/// The stages that were finished once. One that nothing matches is, when those before it are.
/// After a rollback of everything the rollout begins anew.
fn finished(plan: &Plan, decision: &Decision) -> BTreeSet<String> {
    let Progress { finished: known, requests, .. } = &decision.progress;
    if requests.rolls_everything_back() {
        return BTreeSet::new();
    }
    let mut finished = BTreeSet::new();
    let mut before = true;
    for (index, stage) in plan.stages.iter().enumerate() {
        let mut here = decision.namespaces.values().filter(|one| one.stage == index).peekable();
        let done = (before || here.peek().is_some()) && here.all(|one| one.state.is_done());
        before = done || known.contains(&stage.name);
        if before {
            finished.insert(stage.name.clone());
        }
    }
    finished
}

fn one_at_a_time(stage: &str, wanted: usize, cause: &Cause) -> Finding {
    Finding::new(
        Code::ProxyNotSynced,
        Subject::cluster("Stage", stage),
        format!("stage {stage} goes one namespace at a time, not {wanted}: {cause}"),
    )
    .at(Level::Warn)
    .remedy(
        "set proxyState.tokenFile in the operator's configuration; without, it is slower, not less safe",
    )
}

/// Any verdict but Pass restarts it, and so do an edit of its terms and a gap between evaluations:
/// a new leader goes on only with a soak that is younger than that.
fn soak(
    plan: &Plan,
    stage: &Stage,
    soak: Option<Soak>,
    standing: &Standing,
    now: Timestamp,
) -> Option<Soak> {
    let terms = Terms::of(plan, stage);
    match standing.evaluation.verdict() {
        Verdict::Hold | Verdict::Block => None,
        Verdict::Pass => {
            let since = soak
                .filter(|soak| {
                    let gap = now.duration_since(soak.last);
                    let unbroken = gap >= SignedDuration::ZERO && gap <= plan.timing.max_gap();
                    unbroken && soak.terms == terms
                })
                .map_or(now, |soak| soak.since);
            Some(Soak { since, last: now, terms })
        }
    }
}

impl Decision {
    /// The first stage in which something is left to do.
    fn first_undone(&self) -> Option<usize> {
        self.namespaces.values().filter(|one| !one.state.is_done()).map(|one| one.stage).min()
    }

    /// The first stage in which something is left to do and which was never finished.
    fn first_unfinished(&self, plan: &Plan) -> Option<usize> {
        let finished = |index: usize| {
            let stage = plan.stages.get(index);
            stage.is_some_and(|stage| self.progress.finished.contains(&stage.name))
        };
        let undone = self.namespaces.values().filter(|one| !one.state.is_done());
        undone.map(|one| one.stage).filter(|index| !finished(*index)).min()
    }

    /// Every namespace of this stage that is watched has had its switch taken by all its proxies.
    fn have_taken_it(&self, stage: usize) -> bool {
        let here = self.namespaces.iter().filter(|(_, one)| one.stage == stage);
        let mut watched = here.filter(|(_, one)| one.state == State::Watching);
        watched.all(|(name, _)| {
            let memory = self.progress.namespaces.get(name);
            memory.and_then(|memory| memory.bake).is_some_and(|bake| bake.taken.is_some())
        })
    }

    /// The stage that an abort would take back: the one that is watched, else the one that is next.
    fn in_flight<'a>(&self, plan: &'a Plan) -> Option<&'a str> {
        let mut watched = self.namespaces.values().filter(|one| one.state == State::Watching);
        let Some(last) = plan.stages.len().checked_sub(1) else {
            // Of a plan of which no stage can be read.
            return watched.next().map(|_| "");
        };
        // Where memory was lost, what was finished long ago is watched once more; it is not meant.
        let watched = watched.map(|one| one.stage).filter(|stage| *stage <= last).max();
        // One that left the plan has no stage, and is in flight all the same.
        let stage = watched.or_else(|| self.first_undone()).map(|stage| stage.min(last))?;
        plan.stages.get(stage).map(|stage| stage.name.as_str())
    }

    /// Adds what only carrying it out could find.
    pub fn add(&mut self, namespace: &Namespace, found: Finding) {
        if let Some(standing) = self.namespaces.get_mut(namespace) {
            if found.level == Level::Block {
                standing.state = State::Blocked;
            }
            standing.findings.push(found);
        }
    }
}
