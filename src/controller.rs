//! The driver: observe → decide → apply → report, for each rollout, every interval.

use crate::api::{MeshReport, MeshRollout, parse};
use crate::apply::{Outcome, Writer};
use crate::config::Config;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::observe::evidence::{self, Question};
use crate::observe::objects::Objects;
use crate::observe::prometheus::Prometheus;
use crate::report::{Draft, Reporter};
use crate::status;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller;
use kube::runtime::reflector::Store;
use kube::runtime::utils::predicates;
use kube::runtime::{Predicate, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use meshrollout_core::action::Action;
use meshrollout_core::decide::{Decision, State, decide};
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::ident::Namespace;
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
    /// By the rollout's uid. Losing it restarts clocks from what status and reports tell.
    remembered: Mutex<BTreeMap<String, Remembered>>,
}

/// What one evaluation leaves to the next.
#[derive(Clone, Debug, Default)]
struct Remembered {
    progress: Progress,
    states: BTreeMap<Namespace, State>,
}

/// One evaluation, carried out.
struct Visit {
    decision: Decision,
    snapshot: Snapshot,
    rolled_back: Vec<(Namespace, Finding)>,
    /// What reading again and writing found.
    found: Vec<(Namespace, Finding)>,
    wrote: bool,
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
        .for_each(async |_| ())
        .await;
    }

    async fn visit(&self, rollout: &MeshRollout) -> Result<controller::Action, Error> {
        let begin = Instant::now();
        let name = rollout.name_any();
        if rollout.metadata.deletion_timestamp.is_some() {
            self.metrics.forget(&name);
            return Ok(controller::Action::await_change());
        }
        let plan = match parse::plan(rollout, &self.config) {
            Ok(plan) => Plan { claimed: self.claimed(rollout), ..plan },
            Err(refusal) => {
                let reported = self.reporter.refused(rollout, &refusal).await;
                reported.map_err(failed("reporting the refusal", rollout))?;
                return Ok(controller::Action::await_change());
            }
        };
        let before = self.remembered(&plan, rollout);
        let visit = self.evaluate(rollout, &plan, &before.progress).await;
        let after = Remembered {
            progress: visit.decision.progress.clone(),
            states: visit
                .decision
                .namespaces
                .iter()
                .map(|(n, one)| (n.clone(), one.state))
                .collect(),
        };
        self.memory().insert(plan.uid.to_string(), after);
        self.metrics.evaluated(&name, &visit.decision, begin.elapsed());

        let reported = self.report(rollout, &plan, &before, &visit).await;
        reported.map_err(failed("reporting", rollout))?;
        let interval = self.config.evaluation_interval.unsigned_abs();
        Ok(controller::Action::requeue(match visit.wrote {
            true => AFTER_A_WRITE.min(interval),
            false => interval.saturating_sub(begin.elapsed()).max(interval / 10),
        }))
    }

    /// Looks, decides, and does what was decided.
    async fn evaluate(&self, rollout: &MeshRollout, plan: &Plan, progress: &Progress) -> Visit {
        let telemetry = Arc::new(self.evidence(rollout, plan, progress).await);
        let now = Timestamp::now();
        let snapshot = self.objects.snapshot(now, Arc::clone(&telemetry));
        let decision = decide(plan, progress, &snapshot, now);
        let mut visit =
            Visit { decision, snapshot, rolled_back: vec![], found: vec![], wrote: false };

        // Stepping back comes first and waits for nothing.
        let (back, forward): (Vec<_>, Vec<_>) = std::mem::take(&mut visit.decision.actions)
            .into_iter()
            .partition(|action| matches!(action, Action::RollBack(_)));
        for action in &back {
            self.perform(plan, &mut visit, action).await;
        }
        let forward: BTreeSet<_> = forward
            .iter()
            .map(|action| action.namespace().clone())
            .chain(visit.decision.enforcing().cloned())
            .collect();
        for namespace in forward {
            if !self.is_current(rollout).await {
                break;
            }
            self.step(plan, progress, &mut visit, &namespace, &telemetry).await;
        }
        for (namespace, found) in std::mem::take(&mut visit.found) {
            visit.decision.add(&namespace, found);
        }
        visit
    }

    /// One forward step: decided once more on what was just read by quorum, and only then done.
    async fn step(
        &self,
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
        if let Some(action) = here {
            self.perform(plan, visit, &action).await;
        }
    }

    async fn perform(&self, plan: &Plan, visit: &mut Visit, action: &Action) {
        let namespace = action.namespace();
        if let Some(broken) =
            invariant::broken_by(plan, &visit.snapshot, action, Timestamp::now()).first()
        {
            // The last guard: a decision that breaks a safety statement is a fault of ours.
            tracing::error!(%namespace, statement = broken.statement, what = broken.what, "refused to write");
            return;
        }
        let leadership = &self.leadership;
        let outcome = self.writer.perform(action, |_| leadership.holds()).await;
        self.metrics.wrote(action.name(), outcome.reason());
        tracing::info!(
            rollout = plan.name, %namespace, action = action.name(), mode = %action.mode(),
            outcome = outcome.reason(), "policy write"
        );
        match &outcome {
            Outcome::Done => {
                visit.wrote = true;
                if let Action::RollBack(back) = action {
                    visit.rolled_back.push((namespace.clone(), back.because.clone()));
                }
            }
            Outcome::Conflict(why) | Outcome::Unanswered(why) => {
                tracing::warn!(%namespace, why, "looking again at once");
                visit.wrote = true;
            }
            Outcome::NotSent(why) => tracing::warn!(%namespace, why, "not sent"),
            Outcome::NoWayBack(why) | Outcome::Refused(why) => {
                tracing::warn!(%namespace, why, "refused");
            }
        }
        if let Some(found) = outcome.finding(action) {
            visit.found.push((namespace.clone(), found));
        }
    }

    async fn evidence(&self, rollout: &MeshRollout, plan: &Plan, progress: &Progress) -> Telemetry {
        let now = Timestamp::now();
        let since = progress
            .namespaces
            .values()
            .filter_map(|memory| memory.bake)
            .filter(|bake| !bake.complete)
            .map(|bake| bake.strict_since)
            .min();
        let question =
            Question { lookback: plan.gates.lookback, harm_window: plan.timing.harm_window, since };
        let source = rollout.spec.metrics_source.as_ref().map(|source| source.name.as_str());
        let Some(source) = source.and_then(|name| self.sources.get(name)) else {
            // Parsing the plan has refused a source that is not registered.
            let cause = Cause::NotRead("a metrics source".into());
            return Telemetry::unknown(now, plan.gates.lookback, plan.timing.interval, &cause);
        };
        let telemetry = evidence::gather(source, &question, now).await;
        for part in telemetry.unknown_parts() {
            self.metrics.unknown(part);
        }
        telemetry
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
        match rollouts.get_opt(&rollout.name_any()).await {
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

    async fn report(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        before: &Remembered,
        visit: &Visit,
    ) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        let generation = rollout.metadata.generation;
        let mut drafts = vec![];
        for (name, standing) in &visit.decision.namespaces {
            if visit.snapshot.namespace(name).is_none_or(|facts| facts.terminating) {
                continue;
            }
            let stored = self.report_of(&plan.name, name);
            let old = stored.as_ref().and_then(|it| it.status.clone()).unwrap_or_default();
            let (decision, snapshot) = (&visit.decision, &visit.snapshot);
            let one = (name, standing);
            let status = status::report(plan, decision, snapshot, one, generation, &old, now);
            if stored.is_none() || status != old {
                let (namespace, exists) = (name.clone(), stored.is_some());
                drafts.push(Draft { namespace, exists, status });
            }
        }
        let uncovered = self.stored_reports(&plan.name).filter_map(|report| {
            let namespace = Namespace::new(report.namespace()?);
            let covered = visit.decision.namespaces.contains_key(&namespace);
            (!covered).then_some((namespace, report.uid()?))
        });
        self.reporter.reports(rollout, drafts, uncovered.collect()).await?;

        let old = rollout.status.clone().unwrap_or_default();
        let facts = status::Facts {
            generation,
            short_times: self.config.allow_short_times,
            rolled_back: &visit.rolled_back,
        };
        let new = status::status(plan, &visit.decision, &visit.snapshot, &facts, &old, now);
        self.reporter.transitions(rollout, plan, &before.states, &visit.decision).await;
        self.reporter.ready_changed(rollout, &old, &new).await;
        self.reporter.status(rollout, &old, new).await
    }

    fn stored_reports(&self, rollout: &str) -> impl Iterator<Item = Arc<MeshReport>> {
        self.reports.state().into_iter().filter(move |report| report.name_any() == rollout)
    }

    fn report_of(&self, rollout: &str, namespace: &Namespace) -> Option<Arc<MeshReport>> {
        self.reports.get(&reflector::ObjectRef::new(rollout).within(namespace.as_str()))
    }

    fn remembered(&self, plan: &Plan, rollout: &MeshRollout) -> Remembered {
        if let Some(known) = self.memory().get(plan.uid.as_str()) {
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
        Remembered { progress: status::progress(plan, &old, reports), states: BTreeMap::new() }
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
