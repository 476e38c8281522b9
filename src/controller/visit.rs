//! One evaluation, carried out: look, decide, take back, step forward.

use super::Operator;
use crate::api::names::POLICY_NAME;
use crate::api::{MeshApproval, MeshRollout, parse};
use crate::apply::{Outcome, open_the_way_back};
use crate::istio::PeerAuthentication;
use crate::observe::evidence::{self, Question};
use crate::observe::sidecars::Sidecars;
use crate::traces::SPANS;
use crate::translate;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use meshrollout_core::action::{Action, RollBack};
use meshrollout_core::clearance::{our_policy, strict_since};
use meshrollout_core::decide::{Decision, State, decide, step_back};
use meshrollout_core::finding::{Code, Finding, Level, Subject};
use meshrollout_core::ident::Namespace;
use meshrollout_core::invariant::{self, Violation};
use meshrollout_core::plan::{Approval, Plan};
use meshrollout_core::policy::Policy;
use meshrollout_core::progress::Progress;
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::Telemetry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a write of ours the next look is due this soon: the watch has it by then.
const AFTER_A_WRITE: Duration = Duration::from_secs(1);
/// A rollback without an answer is looked after this soon.
pub(super) const AFTER_NO_ANSWER: Duration = Duration::from_secs(3);
/// A connection that hangs must not keep harm from being seen.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(5);

/// One evaluation, carried out.
pub(super) struct Visit {
    pub(super) decision: Decision,
    pub(super) snapshot: Snapshot,
    pub(super) rolled_back: Vec<(Namespace, Finding)>,
    /// What reading again and writing found.
    found: Vec<(Namespace, Finding)>,
    /// The next look is due earlier than usual.
    pub(super) again: Option<Duration>,
    /// A rollback got no answer.
    pub(super) no_answer: bool,
    /// A step forward was not let through by the fence; no other will be.
    is_fenced: bool,
}

impl Visit {
    /// The namespaces that are to take a step forward.
    fn forward(&mut self) -> BTreeSet<Namespace> {
        let steps = std::mem::take(&mut self.decision.actions);
        let steps = steps.iter().map(|action| action.namespace().clone());
        steps.chain(self.decision.enforcing().cloned()).collect()
    }

    /// With what was found while carrying it out added to the decision.
    fn ended(mut self) -> Self {
        for (namespace, found) in std::mem::take(&mut self.found) {
            self.decision.add(&namespace, found);
        }
        self
    }
}

/// The last guard: a decision that breaks a safety statement is a fault of ours. It is put to what
/// was decided on; that the evidence has grown too old since is no fault, and the writer's to see.
pub(super) fn refused_by_ourselves(
    plan: &Plan,
    snapshot: &Snapshot,
    action: &Action,
) -> Option<Finding> {
    let broken = invariant::broken_by(plan, snapshot, action, snapshot.at);
    let Violation { statement, what } = broken.first()?;
    let namespace = action.namespace();
    tracing::error!(%namespace, statement, what, "refused to write");
    let why = format!("a write was not sent because it would break {statement}: {what}");
    let found = Finding::new(Code::WriteRefused, Subject::namespace(namespace), why);
    Some(found.remedy("report this as a bug; nothing was changed"))
}

/// Not a block: what is STRICT goes on being watched.
fn no_way_back(plan: &Plan, namespace: &Namespace, why: &str) -> Finding {
    Finding::new(
        Code::RollbackWouldBeRefused,
        Subject::new("PeerAuthentication", namespace, POLICY_NAME),
        format!("{namespace} is STRICT and watched, but {why}"),
    )
    .at(Level::Hold)
    .remedy(format!(
        "{}; by hand, with rights that pass: kubectl meshrollout rollback {} -n {namespace}",
        open_the_way_back(namespace),
        plan.name
    ))
}

impl Operator {
    /// Looks, decides, and does what was decided.
    pub(super) async fn evaluate(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        progress: &Progress,
    ) -> Visit {
        self.leadership.begin_anew(self.config.write_deadline.unsigned_abs()).await;
        // What a person asked to take back does not wait for a metrics source that hangs.
        let mut asked =
            self.look(plan, progress, &Arc::new(self.nothing_measured(plan.gates.lookback)));
        let mut tried = self.take_back(plan, &mut asked, &BTreeSet::new()).await;
        if !asked.rolled_back.is_empty() {
            return asked.ended();
        }
        // One that is refused must not keep the harm of the others from being seen; nor must
        // looking for that long keep one without an answer from being tried again.
        let limit = if asked.no_answer { AFTER_NO_ANSWER } else { Duration::MAX };
        let evidence = tokio::time::timeout(limit, self.evidence(plan, &asked)).await;
        let Ok(telemetry) = evidence.map(Arc::new) else { return asked.ended() };
        let Visit { found, again, no_answer, .. } = asked;
        let mut visit = Visit { found, again, no_answer, ..self.look(plan, progress, &telemetry) };
        // Stepping back comes before stepping forward.
        tried.extend(self.take_back(plan, &mut visit, &tried).await);
        let forward = visit.forward();
        let (begin, interval) = (Instant::now(), self.config.evaluation_interval.unsigned_abs());
        for namespace in forward {
            // Many steps that each take long must not keep what is watched from being looked at.
            if begin.elapsed() >= interval {
                visit.again = Some(AFTER_A_WRITE);
                break;
            }
            if visit.is_fenced {
                break;
            }
            self.step(rollout, plan, progress, &mut visit, &namespace, &telemetry).await;
        }
        self.try_the_way_back(plan, &mut visit, &tried).await;
        visit.ended()
    }

    /// Somebody may close the way back while a namespace is watched: that must be known before it is
    /// needed.
    #[tracing::instrument(target = SPANS, name = "way back", skip_all)]
    async fn try_the_way_back(&self, plan: &Plan, visit: &mut Visit, tried: &BTreeSet<Namespace>) {
        let (begin, limit) = (Instant::now(), self.config.write_deadline.unsigned_abs());
        // Of those that were tried in earnest it is known.
        for namespace in visit.decision.watching().filter(|one| !tried.contains(one)) {
            let policy = our_policy(plan, &visit.snapshot, namespace);
            let because = Finding::new(
                Code::RollbackWouldBeRefused,
                Subject::namespace(namespace),
                "the way back, tried while watching",
            );
            let Some(back) = policy.and_then(|policy| step_back(namespace, policy, because)) else {
                continue;
            };
            let stamp = self.leadership.stamp();
            let why = match self.writer.only_try(&back, stamp.as_ref()).await {
                Err(Outcome::Refused(why)) => format!("going back would be refused: {why}"),
                Err(Outcome::Untried(why)) => format!("going back could not be tried: {why}"),
                // The fence judges replicas, and a version the watch's delay.
                _ => continue,
            };
            visit.found.push((namespace.clone(), no_way_back(plan, namespace, &why)));
            // Whoever does not answer would keep us from looking at the others for as long as there
            // are any.
            if begin.elapsed() >= limit {
                break;
            }
        }
    }

    fn look(&self, plan: &Plan, progress: &Progress, telemetry: &Arc<Telemetry>) -> Visit {
        let now = Timestamp::now();
        let snapshot = self.objects.snapshot(now, Arc::clone(telemetry));
        let decision = decide(plan, progress, &snapshot, now);
        Visit {
            decision,
            snapshot,
            rolled_back: vec![],
            found: vec![],
            again: None,
            no_answer: false,
            is_fenced: false,
        }
    }

    /// Performs the rollbacks, but for those that were `tried` in this visit, and yields where.
    async fn take_back(
        &self,
        plan: &Plan,
        visit: &mut Visit,
        tried: &BTreeSet<Namespace>,
    ) -> BTreeSet<Namespace> {
        let back: Vec<_> = visit
            .decision
            .actions
            .extract_if(.., |action| matches!(action, Action::RollBack(_)))
            .filter(|action| !tried.contains(action.namespace()))
            .collect();
        for action in &back {
            self.perform(plan, visit, action).await;
        }
        back.iter().map(|action| action.namespace().clone()).collect()
    }

    /// One forward step: decided once more on what was just read by quorum, and only then done.
    #[tracing::instrument(target = SPANS, skip_all, fields(%namespace, otel.status_code))]
    async fn step(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        progress: &Progress,
        visit: &mut Visit,
        namespace: &Namespace,
        telemetry: &Arc<Telemetry>,
    ) {
        let now = Timestamp::now();
        let read = async {
            let read = self.objects.quorum(&self.client, namespace, now, Arc::clone(telemetry));
            let snapshot = read.await;
            let snapshot = snapshot
                .map_err(|error| format!("{namespace} could not be read again: {error}"))?;
            let plan = self.approved_now(rollout, plan).await;
            let plan = plan.map_err(|why| format!("approvals could not be read again: {why}"))?;
            Ok::<_, String>((snapshot, plan))
        };
        let (snapshot, plan) = match read.await {
            Ok(both) => both,
            Err(why) => {
                tracing::Span::current().record("otel.status_code", "error");
                let why = format!("before the write {why}");
                let found = Finding::new(Code::StaleWatch, Subject::namespace(namespace), why)
                    .remedy("check the operator's connection to the apiserver and its rights");
                visit.found.push((namespace.clone(), found));
                return;
            }
        };
        let mut decision = decide(&plan, progress, &snapshot, now);
        let actions = std::mem::take(&mut decision.actions);
        let here = actions.into_iter().find(|action| action.namespace() == namespace);
        // What is reported is what was decided last.
        visit.decision = decision;
        visit.snapshot = snapshot;
        // Asked last: whoever paused it meanwhile is heard.
        if let Some(action) = here
            && self.is_current(rollout).await
        {
            self.perform(&plan, visit, &action).await;
        }
    }

    pub(super) fn approvals(&self, rollout: &MeshRollout) -> Vec<Approval> {
        let all = self.approvals.state();
        parse::approvals(rollout, all.iter().map(AsRef::as_ref))
    }

    /// The plan with the approvals that stand now: one may have been taken back.
    async fn approved_now(&self, rollout: &MeshRollout, plan: &Plan) -> Result<Plan, String> {
        if !plan.stages.iter().any(|stage| stage.needs_approval) {
            return Ok(plan.clone());
        }
        let approvals = Api::<MeshApproval>::all(self.client.clone());
        let all = ListParams::default();
        match tokio::time::timeout(READ_LIMIT, approvals.list(&all)).await {
            Ok(Ok(all)) => {
                Ok(Plan { approvals: parse::approvals(rollout, &all.items), ..plan.clone() })
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the apiserver does not answer".to_owned()),
        }
    }

    async fn perform(&self, plan: &Plan, visit: &mut Visit, action: &Action) {
        let namespace = action.namespace();
        if let Some(found) = refused_by_ourselves(plan, &visit.snapshot, action) {
            visit.found.push((namespace.clone(), found));
            return;
        }
        let mut outcome = self.write(plan, action).await;
        if let (Outcome::Conflict(_), Action::RollBack(back)) = (&outcome, action) {
            // The watch may be behind: harm does not wait for it.
            if let Some(again) = self.take_back_what_stands(back).await {
                outcome = self.write(plan, &again).await;
            }
        }
        if action.goes_forward() && outcome.may_arrive_late() {
            self.leadership.spend_reign();
            self.leadership.begin_anew(self.config.write_deadline.unsigned_abs()).await;
        }
        if matches!(action, Action::EnforceStrict(_))
            && matches!(outcome, Outcome::Done | Outcome::Unanswered(_))
            && let Some(policy) = self.read_policy(namespace).await
        {
            // What is STRICT is watched from its first moment on, whether the watch has told it or
            // not.
            self.objects.has_read(policy);
        }
        let again = match (&outcome, action) {
            (Outcome::Done | Outcome::Conflict(_), _)
            | (Outcome::Fenced(_), Action::RollBack(_)) => Some(AFTER_A_WRITE),
            (Outcome::Unanswered(_), Action::RollBack(_)) => Some(AFTER_NO_ANSWER),
            (
                Outcome::Unanswered(_)
                | Outcome::Fenced(_)
                | Outcome::NotSent(_)
                | Outcome::NoWayBack(_)
                | Outcome::Untried(_)
                | Outcome::NoFence
                | Outcome::Refused(_),
                _,
            ) => None,
        };
        visit.again = visit.again.into_iter().chain(again).min();
        visit.no_answer |= again == Some(AFTER_NO_ANSWER);
        visit.is_fenced |= action.goes_forward() && matches!(outcome, Outcome::Fenced(_));
        if let (Outcome::Done, Action::RollBack(back)) = (&outcome, action) {
            visit.rolled_back.push((namespace.clone(), back.because.clone()));
        }
        if let Some(found) = outcome.finding(action) {
            visit.found.push((namespace.clone(), found));
        }
    }

    /// Our policy's place as it stands now, if there is an answer and a policy.
    async fn read_policy(&self, namespace: &Namespace) -> Option<Policy> {
        let policies =
            Api::<PeerAuthentication>::namespaced(self.client.clone(), namespace.as_str());
        let read = tokio::time::timeout(READ_LIMIT, policies.get_opt(POLICY_NAME)).await;
        Some(translate::policy(&read.ok()?.ok()??))
    }

    #[tracing::instrument(target = SPANS, name = "policy write", skip_all, fields(
        otel.kind = "client", otel.status_code, namespace = %action.namespace(),
        action = action.name(), mode = %action.mode(), outcome,
    ))]
    pub(super) async fn write(&self, plan: &Plan, action: &Action) -> Outcome {
        let limit = self.config.write_deadline.unsigned_abs();
        let leave = async || self.leadership.confirm(limit).await;
        let outcome = self.writer.perform(action, leave).await;
        self.metrics.wrote(action.name(), outcome.reason());
        let span = tracing::Span::current();
        span.record("outcome", outcome.reason());
        if !matches!(outcome, Outcome::Done) {
            span.record("otel.status_code", "error");
        }
        tracing::info!(
            rollout = plan.name, namespace = %action.namespace(), action = action.name(),
            mode = %action.mode(), outcome = outcome.reason(), why = outcome.why(), "policy write"
        );
        outcome
    }

    /// The same rollback for the policy as it stands now, if it is still ours and STRICT.
    async fn take_back_what_stands(&self, back: &RollBack) -> Option<Action> {
        let policy = self.read_policy(&back.namespace).await?;
        let ours = policy.ours.as_ref()?;
        let same = (&ours.rollout_uid, &ours.namespace_uid)
            == (&back.ours.rollout_uid, &back.ours.namespace_uid);
        (same && ours.strict_since.is_some())
            .then(|| step_back(&back.namespace, &policy, back.because.clone()))?
    }

    #[tracing::instrument(target = SPANS, skip_all)]
    async fn evidence(&self, plan: &Plan, seen: &Visit) -> Telemetry {
        let watched = seen.decision.watching();
        let since = watched.filter_map(|name| strict_since(plan, &seen.snapshot, name)).min();
        let question =
            Question { lookback: plan.gates.lookback, harm_window: plan.timing.harm_window, since };
        let telemetry = async {
            match &plan.source {
                Some(name) => match self.sources.get(name) {
                    Some(source) => evidence::gather(source, &question, Timestamp::now()).await,
                    // Said already: such a rollout is not accepted.
                    None => self.nothing_measured(plan.gates.lookback),
                },
                None => self.sidecars().gather(&plan.name, &question, Timestamp::now()),
            }
        };
        // What is done, or has not begun, waits for no proxy.
        let awaited = seen.decision.namespaces.values().any(|one| match one.state {
            State::Preparing
            | State::Proving
            | State::AwaitingApproval
            | State::Enforcing
            | State::Watching
            | State::RolledBack
            | State::Blocked => true,
            State::Pending | State::Enforced | State::Exempt => false,
        });
        let listeners = async {
            match awaited {
                true => Some(self.proxies.listeners().await),
                false => None,
            }
        };
        let (mut telemetry, listeners) = tokio::join!(telemetry, listeners);
        if let Some(listeners) = listeners {
            telemetry.listeners = listeners;
        }
        for part in telemetry.unknown_parts() {
            self.metrics.unknown(part);
        }
        telemetry
    }

    fn sidecars(&self) -> &Sidecars {
        self.sidecars.get_or_init(|| {
            Sidecars::scrape(self.objects.clone(), &self.config, self.metrics.clone())
        })
    }

    pub(super) fn nothing_measured(&self, lookback: SignedDuration) -> Telemetry {
        let cause = Cause::NotRead("a metrics source".into());
        let scrape = self.config.evaluation_interval;
        Telemetry::unknown(Timestamp::now(), lookback, scrape, &cause)
    }

    /// Where another rollout has the better right: where it wrote already, and what older ones
    /// cover. One whose spec cannot be used covers nothing, and keeps what it wrote.
    pub(super) fn claimed(&self, rollout: &MeshRollout) -> BTreeMap<Namespace, String> {
        let age = |one: &MeshRollout| {
            (one.metadata.creation_timestamp.as_ref().map(|at| at.0), one.name_any())
        };
        let all = self.rollouts.get().map(Store::state).unwrap_or_default();
        let mut others: Vec<_> =
            all.into_iter().filter(|other| other.uid() != rollout.uid()).collect();
        others.sort_by_key(|other| age(&other.rollout));
        if others.is_empty() {
            return BTreeMap::new();
        }
        let nothing = Arc::new(self.nothing_measured(SignedDuration::ZERO));
        let snapshot = self.objects.snapshot(Timestamp::now(), nothing);
        let mut claimed = BTreeMap::new();
        for facts in snapshot.namespaces.values() {
            let notes =
                snapshot.policies.of(&facts.name).iter().filter_map(|one| one.ours.as_ref());
            let writer = notes.filter(|ours| ours.is_of(facts)).find_map(|ours| {
                others
                    .iter()
                    .find(|other| other.uid().as_deref() == Some(ours.rollout_uid.as_str()))
            });
            if let Some(writer) = writer {
                claimed.insert(facts.name.clone(), writer.name_any());
            }
        }
        let readable = others.iter().filter(|other| other.unreadable.is_none());
        for other in readable.map(|other| &other.rollout).filter(|other| age(other) < age(rollout))
        {
            let Ok(plan) = parse::plan(other, &self.config) else { continue };
            for facts in snapshot.namespaces.values() {
                if plan.covers(&facts.name, &facts.labels) {
                    claimed.entry(facts.name.clone()).or_insert_with(|| plan.name.clone());
                }
            }
        }
        claimed
    }

    /// The rollout is still the one that was decided on: paused, edited or deleted since, it is not.
    async fn is_current(&self, rollout: &MeshRollout) -> bool {
        let rollouts = Api::<MeshRollout>::all(self.client.clone());
        let read = tokio::time::timeout(READ_LIMIT, rollouts.get_opt(&rollout.name_any())).await;
        let Ok(read) = read else { return false };
        match read {
            Ok(Some(now)) => {
                now.uid() == rollout.uid()
                    && now.metadata.generation == rollout.metadata.generation
                    && now.annotations() == rollout.annotations()
                    && now.metadata.deletion_timestamp.is_none()
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, rollout = rollout.name_any(), "cannot be read again");
                false
            }
        }
    }
}
