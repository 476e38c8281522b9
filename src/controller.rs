//! The driver: observe → decide → apply → report, for each rollout, every interval.

use crate::api::names::POLICY_NAME;
use crate::api::parse::{self, Refusal};
use crate::api::{MeshReport, MeshRollout, MeshRolloutStatus};
use crate::apply::{Outcome, Writer};
use crate::config::Config;
use crate::istio::PeerAuthentication;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::observe::evidence::{self, Question};
use crate::observe::objects::Objects;
use crate::observe::prometheus::Prometheus;
use crate::report::{Draft, Reporter};
use crate::{status, translate};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller;
use kube::runtime::reflector::Store;
use kube::runtime::utils::predicates;
use kube::runtime::{Predicate, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use meshrollout_core::action::{Action, RollBack};
use meshrollout_core::clearance::strict_since;
use meshrollout_core::decide::{Decision, State, decide, step_back};
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::invariant;
use meshrollout_core::plan::Plan;
use meshrollout_core::progress::Progress;
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::Telemetry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// After a write of ours the next look is due this soon: the watch has it by then.
const AFTER_A_WRITE: Duration = Duration::from_secs(1);
/// A rollback without an answer is looked after this soon.
const AFTER_NO_ANSWER: Duration = Duration::from_secs(3);
/// A connection that hangs must not keep harm from being seen.
const READ_LIMIT: Duration = Duration::from_secs(5);
const REPORT_LIMIT: Duration = Duration::from_secs(20);

/// Everything one evaluation needs.
pub struct Operator {
    config: Config,
    client: Client,
    writer: Writer,
    objects: Objects,
    sources: BTreeMap<String, Prometheus>,
    /// Set when [`Operator::run`] begins.
    rollouts: OnceLock<Store<MeshRollout>>,
    reports: Store<MeshReport>,
    reporter: Reporter,
    leadership: Leadership,
    metrics: Metrics,
    /// By the rollout's name. Losing it restarts clocks from what status and reports tell.
    remembered: Mutex<BTreeMap<String, Remembered>>,
}

/// What one evaluation leaves to the next.
#[derive(Clone, Debug)]
struct Remembered {
    uid: Uid,
    progress: Progress,
    states: BTreeMap<Namespace, State>,
    status: Option<MeshRolloutStatus>,
}

/// One evaluation, carried out.
struct Visit {
    decision: Decision,
    snapshot: Snapshot,
    rolled_back: Vec<(Namespace, Finding)>,
    /// What reading again and writing found.
    found: Vec<(Namespace, Finding)>,
    /// The next look is due earlier than usual.
    again: Option<Duration>,
}

impl Visit {
    /// With what was found while carrying it out added to the decision.
    fn ended(mut self) -> Self {
        for (namespace, found) in std::mem::take(&mut self.found) {
            self.decision.add(&namespace, found);
        }
        self
    }
}

/// An evaluation that could not be reported.
#[derive(Debug, thiserror::Error)]
#[error("{step} of MeshRollout {rollout} failed")]
pub struct Error {
    step: &'static str,
    rollout: String,
    #[source]
    source: kube::Error,
}

impl Operator {
    /// An operator that acts as long as `leadership` holds. Its watches begin at once.
    pub fn new(
        config: Config,
        client: Client,
        writer: Writer,
        leadership: Leadership,
        metrics: Metrics,
        identity: &str,
    ) -> Self {
        let sources = config
            .metrics_sources
            .iter()
            .map(|source| (source.name.clone(), Prometheus::new(source.clone())))
            .collect();
        Self {
            objects: Objects::watch(client.clone(), config.stale_watch),
            rollouts: OnceLock::new(),
            reports: reports(&client),
            reporter: Reporter::new(client.clone(), identity),
            sources,
            config,
            client,
            writer,
            leadership,
            metrics,
            remembered: Mutex::default(),
        }
    }

    /// Waits until every first list has arrived, or says which have not within `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), Vec<Cause>> {
        self.objects.ready(limit).await?;
        let reports = tokio::time::timeout(limit, self.reports.wait_until_ready()).await;
        match reports {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(vec![Cause::StaleWatch { kind: "MeshReport".into(), since: None }])
            }
        }
    }

    /// Evaluates every rollout, again and again, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let rollouts = Api::<MeshRollout>::all(self.client.clone());
        let (reader, writer) = reflector::store();
        let reader = self.rollouts.get_or_init(|| reader).clone();
        // Status is ours; only what a person changes asks for a look before its time.
        let changed = predicates::generation.combine(predicates::annotations);
        let stream = watcher(rollouts, watcher::Config::default())
            .default_backoff()
            .reflect(writer)
            .applied_objects()
            .predicate_filter(changed, Default::default());
        // When the queue ends, what is under way is finished and nothing new is begun.
        let queue = controller::trigger_self(stream, ()).take_until(stop.cancelled_owned());
        controller::applier(
            |rollout, operator: Arc<Self>| Box::pin(async move { operator.visit(&rollout).await }),
            |_, error, operator| {
                tracing::warn!(error = error as &dyn std::error::Error, "will try again");
                controller::Action::requeue(operator.config.evaluation_interval.unsigned_abs())
            },
            Arc::clone(&self),
            reader,
            queue,
            controller::Config::default(),
        )
        .for_each(async |ended| {
            // Deleted rollouts vanish: there is nothing to finalize, S7.
            if let Err(controller::Error::ObjectNotFound(gone)) = ended {
                self.memory().remove(&gone.name);
                self.metrics.forget(&gone.name);
            }
        })
        .await;
    }

    async fn visit(&self, rollout: &MeshRollout) -> Result<controller::Action, Error> {
        let begin = Instant::now();
        let name = rollout.name_any();
        if rollout.metadata.deletion_timestamp.is_some() {
            self.metrics.forget(&name);
            return Ok(controller::Action::await_change());
        }
        let (plan, refusal) = match parse::plan(rollout, &self.config) {
            Ok(plan) => (Plan { claimed: self.claimed(rollout), ..plan }, None),
            Err(refusal) => match parse::as_far_as_it_goes(rollout, &self.config) {
                // What was reached before is still watched, and taken back on harm or on request.
                Some(plan) => (Plan { paused: true, ..plan }, Some(refusal)),
                None => {
                    let reported = self.reporter.refused(rollout, &refusal).await;
                    reported.map_err(failed("reporting the refusal", rollout))?;
                    return Ok(controller::Action::await_change());
                }
            },
        };
        let before = self.remembered(&plan, rollout);
        let visit = self.evaluate(rollout, &plan, &before.progress).await;
        self.metrics.evaluated(&name, &visit.decision, begin.elapsed());
        let report = self.report(rollout, &plan, &before, &visit, refusal.as_ref());
        let reported = tokio::time::timeout(REPORT_LIMIT, report).await;
        let (status, reported) = match reported {
            Ok((status, reported)) => (Some(status), reported),
            Err(_) => {
                tracing::warn!(rollout = name, "the report got no answer in time");
                (before.status, Ok(()))
            }
        };
        let states = visit.decision.namespaces.iter();
        let after = Remembered {
            uid: plan.uid.clone(),
            progress: visit.decision.progress.clone(),
            states: states.map(|(name, standing)| (name.clone(), standing.state)).collect(),
            status,
        };
        self.memory().insert(name, after);
        reported.map_err(failed("reporting", rollout))?;
        let interval = self.config.evaluation_interval.unsigned_abs();
        Ok(controller::Action::requeue(match visit.again {
            Some(soon) => soon.min(interval),
            None => interval.saturating_sub(begin.elapsed()).max(interval / 10),
        }))
    }

    /// Looks, decides, and does what was decided.
    async fn evaluate(&self, rollout: &MeshRollout, plan: &Plan, progress: &Progress) -> Visit {
        // What a person asked to take back does not wait for a metrics source that hangs.
        let asked = self.look(plan, progress, &Arc::new(self.nothing_measured(plan)));
        if asked.decision.actions.iter().any(|action| matches!(action, Action::RollBack(_))) {
            let mut visit = asked;
            self.take_back(plan, &mut visit).await;
            return visit.ended();
        }
        let telemetry = Arc::new(self.evidence(rollout, plan, &asked).await);
        let mut visit = self.look(plan, progress, &telemetry);
        // Stepping back comes before stepping forward.
        let forward = self.take_back(plan, &mut visit).await;
        for namespace in forward {
            self.step(rollout, plan, progress, &mut visit, &namespace, &telemetry).await;
        }
        visit.ended()
    }

    fn look(&self, plan: &Plan, progress: &Progress, telemetry: &Arc<Telemetry>) -> Visit {
        let now = Timestamp::now();
        let snapshot = self.objects.snapshot(now, Arc::clone(telemetry));
        let decision = decide(plan, progress, &snapshot, now);
        Visit { decision, snapshot, rolled_back: vec![], found: vec![], again: None }
    }

    /// Performs the rollbacks, and yields the namespaces that are to take a step forward.
    async fn take_back(&self, plan: &Plan, visit: &mut Visit) -> BTreeSet<Namespace> {
        let (back, forward): (Vec<_>, Vec<_>) = std::mem::take(&mut visit.decision.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::RollBack(_)));
        for action in &back {
            self.perform(plan, visit, action).await;
        }
        let forward = forward.iter().map(|action| action.namespace().clone());
        forward.chain(visit.decision.enforcing().cloned()).collect()
    }

    /// One forward step: decided once more on what was just read by quorum, and only then done.
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
        let read = self.objects.quorum(&self.client, namespace, now, Arc::clone(telemetry)).await;
        let snapshot = match read {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let why = format!("{namespace} could not be read again before the write: {error}");
                let found = Finding::new(Code::StaleWatch, Subject::namespace(namespace), why)
                    .remedy("check the operator's connection to the apiserver and its rights");
                visit.found.push((namespace.clone(), found));
                return;
            }
        };
        let mut decision = decide(plan, progress, &snapshot, now);
        let actions = std::mem::take(&mut decision.actions);
        let here = actions.into_iter().find(|action| action.namespace() == namespace);
        // What is reported is what was decided last.
        visit.decision = decision;
        visit.snapshot = snapshot;
        // Asked last: whoever paused it meanwhile is heard.
        if let Some(action) = here
            && self.is_current(rollout).await
        {
            self.perform(plan, visit, &action).await;
        }
    }

    async fn perform(&self, plan: &Plan, visit: &mut Visit, action: &Action) {
        let namespace = action.namespace();
        let broken = invariant::broken_by(plan, &visit.snapshot, action, Timestamp::now());
        if let Some(broken) = broken.first() {
            // The last guard: a decision that breaks a safety statement is a fault of ours.
            let (statement, what) = (broken.statement, &broken.what);
            tracing::error!(%namespace, statement, what, "refused to write");
            let why = format!("a write was not sent because it would break {statement}: {what}");
            let found = Finding::new(Code::WriteRefused, Subject::namespace(namespace), why)
                .remedy("report this as a bug; nothing was changed");
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
        visit.again = match (&outcome, action) {
            (Outcome::Done | Outcome::Conflict(_), _) => Some(AFTER_A_WRITE),
            (Outcome::Unanswered(_), Action::RollBack(_)) => Some(AFTER_NO_ANSWER),
            (
                Outcome::Unanswered(_)
                | Outcome::NotSent(_)
                | Outcome::NoWayBack(_)
                | Outcome::Refused(_),
                _,
            ) => visit.again,
        };
        if let (Outcome::Done, Action::RollBack(back)) = (&outcome, action) {
            visit.rolled_back.push((namespace.clone(), back.because.clone()));
        }
        if let Some(found) = outcome.finding(action) {
            visit.found.push((namespace.clone(), found));
        }
    }

    async fn write(&self, plan: &Plan, action: &Action) -> Outcome {
        let outcome = self.writer.perform(action, |_| self.leadership.holds()).await;
        self.metrics.wrote(action.name(), outcome.reason());
        tracing::info!(
            rollout = plan.name, namespace = %action.namespace(), action = action.name(),
            mode = %action.mode(), outcome = outcome.reason(), why = outcome.why(), "policy write"
        );
        outcome
    }

    /// The same rollback for the policy as it stands now, if it is still ours and STRICT.
    async fn take_back_what_stands(&self, back: &RollBack) -> Option<Action> {
        let policies =
            Api::<PeerAuthentication>::namespaced(self.client.clone(), back.namespace.as_str());
        let read = tokio::time::timeout(READ_LIMIT, policies.get_opt(POLICY_NAME)).await;
        let policy = translate::policy(&read.ok()?.ok()??);
        let ours = policy.ours.as_ref()?;
        (ours.rollout_uid == back.ours.rollout_uid && ours.strict_since.is_some())
            .then(|| step_back(&back.namespace, &policy, back.because.clone()))?
    }

    async fn evidence(&self, rollout: &MeshRollout, plan: &Plan, seen: &Visit) -> Telemetry {
        let watched = seen.decision.namespaces.iter();
        let since = watched
            .filter(|(_, standing)| standing.state == State::Watching)
            .filter_map(|(name, _)| strict_since(plan, &seen.snapshot, name))
            .min();
        let question =
            Question { lookback: plan.gates.lookback, harm_window: plan.timing.harm_window, since };
        let source = rollout.spec.metrics_source.as_ref().map(|source| source.name.as_str());
        let Some(source) = source.and_then(|name| self.sources.get(name)) else {
            // Said already: such a rollout is not accepted.
            return self.nothing_measured(plan);
        };
        let telemetry = evidence::gather(source, &question, Timestamp::now()).await;
        for part in telemetry.unknown_parts() {
            self.metrics.unknown(part);
        }
        telemetry
    }

    fn nothing_measured(&self, plan: &Plan) -> Telemetry {
        let cause = Cause::NotRead("a metrics source".into());
        let scrape = self.config.evaluation_interval;
        Telemetry::unknown(Timestamp::now(), plan.gates.lookback, scrape, &cause)
    }

    /// What older rollouts cover. One whose spec cannot be used covers nothing.
    fn claimed(&self, rollout: &MeshRollout) -> BTreeMap<Namespace, String> {
        let age = |one: &MeshRollout| {
            (one.metadata.creation_timestamp.as_ref().map(|at| at.0), one.name_any())
        };
        let all = self.rollouts.get().map(Store::state).unwrap_or_default();
        let mut older: Vec<_> = all.into_iter().filter(|other| age(other) < age(rollout)).collect();
        older.sort_by_key(|other| age(other));
        if older.is_empty() {
            return BTreeMap::new();
        }
        let now = Timestamp::now();
        let nothing = Telemetry::unknown(
            now,
            SignedDuration::ZERO,
            SignedDuration::ZERO,
            &Cause::NotRead("what was measured".into()),
        );
        let namespaces = self.objects.snapshot(now, Arc::new(nothing)).namespaces;
        let mut claimed = BTreeMap::new();
        for other in older {
            let Ok(plan) = parse::plan(&other, &self.config) else { continue };
            for facts in namespaces.values() {
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

    /// Tells what was decided and done; yields the status, and whether all of it could be told.
    async fn report(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        before: &Remembered,
        visit: &Visit,
        refusal: Option<&Refusal>,
    ) -> (MeshRolloutStatus, Result<(), kube::Error>) {
        let now = Timestamp::now();
        let generation = rollout.metadata.generation;
        let (decision, snapshot) = (&visit.decision, &visit.snapshot);
        let stored = rollout.status.clone().unwrap_or_default();
        // What we said last, even if the watch has not brought it back yet.
        let old = before.status.as_ref().unwrap_or(&stored);
        let facts = status::Facts {
            generation,
            short_times: self.config.allow_short_times,
            rolled_back: &visit.rolled_back,
        };
        let mut new = status::status(plan, decision, snapshot, &facts, old, now);
        if let Some(refusal) = refusal {
            let (reason, message) = (refusal.reason(), refusal.to_string());
            new.conditions = status::refused(reason, &message, generation, old, now).conditions;
        }
        self.reporter.transitions(rollout, plan, &before.states, decision).await;
        self.reporter.ready_changed(rollout, old, &new).await;
        let told = self.reporter.status(rollout, &stored, new.clone()).await;

        let mut drafts = vec![];
        for (name, standing) in &decision.namespaces {
            if snapshot.namespace(name).is_none_or(|facts| facts.terminating) {
                continue;
            }
            let stored = self.report_of(&plan.name, name);
            let old = stored.as_ref().and_then(|it| it.status.clone()).unwrap_or_default();
            let one = (name, standing);
            let status = status::report(plan, decision, snapshot, one, generation, &old, now);
            if stored.is_none() || status != old {
                let (namespace, exists) = (name.clone(), stored.is_some());
                drafts.push(Draft { namespace, exists, status });
            }
        }
        let uncovered = self.stored_reports(&plan.name).filter_map(|report| {
            let namespace = Namespace::new(report.namespace()?);
            let covered = decision.namespaces.contains_key(&namespace);
            (!covered).then_some((namespace, report.uid()?))
        });
        let reports = self.reporter.reports(rollout, drafts, uncovered.collect()).await;
        (new, told.and(reports))
    }

    fn stored_reports(&self, rollout: &str) -> impl Iterator<Item = Arc<MeshReport>> {
        self.reports.state().into_iter().filter(move |report| report.name_any() == rollout)
    }

    fn report_of(&self, rollout: &str, namespace: &Namespace) -> Option<Arc<MeshReport>> {
        self.reports.get(&reflector::ObjectRef::new(rollout).within(namespace.as_str()))
    }

    fn remembered(&self, plan: &Plan, rollout: &MeshRollout) -> Remembered {
        if let Some(known) = self.memory().get(&plan.name).filter(|known| known.uid == plan.uid) {
            return known.clone();
        }
        let stored: Vec<_> = self
            .stored_reports(&plan.name)
            .filter_map(|report| {
                Some((Namespace::new(report.namespace()?), report.status.clone()?))
            })
            .collect();
        let old = rollout.status.clone().unwrap_or_default();
        let reports = stored.iter().map(|(name, status)| (name.clone(), status));
        Remembered {
            uid: plan.uid.clone(),
            progress: status::progress(plan, &old, reports),
            states: BTreeMap::new(),
            status: None,
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Remembered>> {
        self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn reports(client: &Client) -> Store<MeshReport> {
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<MeshReport>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects();
    tokio::spawn(async move {
        stream
            .for_each(async |event| {
                if let Err(error) = event {
                    tracing::warn!(%error, "watching MeshReports");
                }
            })
            .await;
    });
    reader
}

fn failed(step: &'static str, rollout: &MeshRollout) -> impl FnOnce(kube::Error) -> Error {
    let rollout = rollout.name_any();
    move |source| Error { step, rollout, source }
}
