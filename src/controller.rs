//! The driver: observe → decide → apply → report, for each rollout, every interval.

mod restore;
mod visit;

use crate::api::parse::{self, Refusal};
use crate::api::{
    DeletionPolicy, MeshApproval, MeshReport, MeshRollout, MeshRolloutStatus, StoredRollout,
};
use crate::apply::Writer;
use crate::config::Config;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::observe::objects::{Objects, renewed};
use crate::observe::prometheus::Prometheus;
use crate::observe::proxies::Proxies;
use crate::observe::sidecars::Sidecars;
use crate::report::{Draft, Reporter};
use crate::status;
use crate::traces::SPANS;
use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::controller;
use kube::runtime::reflector::Store;
use kube::runtime::utils::predicates;
use kube::runtime::{Predicate, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use meshrollout_core::decide::State;
use meshrollout_core::finding::Level;
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::Plan;
use meshrollout_core::progress::Progress;
use meshrollout_core::reading::Cause;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use visit::{AFTER_NO_ANSWER, Visit};

/// A connection that hangs must not keep harm from being seen.
const REPORT_LIMIT: Duration = Duration::from_secs(20);

/// Everything one evaluation needs.
pub struct Operator {
    config: Config,
    client: Client,
    writer: Writer,
    objects: Objects,
    sources: BTreeMap<String, Prometheus>,
    proxies: Proxies,
    /// Set when a rollout first asks for it.
    sidecars: OnceLock<Sidecars>,
    /// Set when [`Operator::run`] begins.
    rollouts: OnceLock<Store<StoredRollout>>,
    reports: Store<MeshReport>,
    approvals: Store<MeshApproval>,
    /// Its connections wait as long as a watch may be silent.
    listening: Client,
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
    /// The last one whose stages could be read, or what can be read of it.
    plan: Plan,
    /// Whether there was such a one since we began.
    is_whole: bool,
    progress: Progress,
    states: BTreeMap<Namespace, State>,
    status: Option<MeshRolloutStatus>,
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
        listening: Client,
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
        let objects = Objects::watch(listening.clone(), config.stale_watch);
        Self {
            proxies: Proxies::new(objects.clone(), &config),
            objects,
            rollouts: OnceLock::new(),
            reports: stored(&listening, config.stale_watch.unsigned_abs()),
            approvals: stored(&listening, config.stale_watch.unsigned_abs()),
            listening,
            reporter: Reporter::new(client.clone(), identity),
            sources,
            sidecars: OnceLock::new(),
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
        let (reports, approvals) = tokio::join!(
            tokio::time::timeout(limit, self.reports.wait_until_ready()),
            tokio::time::timeout(limit, self.approvals.wait_until_ready()),
        );
        let late = [(reports, "MeshReport"), (approvals, "MeshApproval")].into_iter();
        let late = late.filter(|(ready, _)| !matches!(ready, Ok(Ok(()))));
        let late: Vec<_> =
            late.map(|(_, kind)| Cause::StaleWatch { kind: kind.into(), since: None }).collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    }

    /// Evaluates every rollout, again and again, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let rollouts = Api::<StoredRollout>::all(self.listening.clone());
        let (reader, writer) = reflector::store();
        let reader = self.rollouts.get_or_init(|| reader).clone();
        // Status is ours; only what a person changes asks for a look before its time.
        let changed = predicates::generation.combine(predicates::annotations);
        let stream = watcher(rollouts, renewed(self.config.stale_watch.unsigned_abs()))
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
            match ended {
                // One that is gone leaves nothing behind but what it wrote, S7.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    self.memory().remove(&gone.name);
                    self.metrics.forget(&gone.name);
                }
                Err(controller::Error::QueueError(error)) => {
                    tracing::warn!(%error, kind = "MeshRollout", "watching");
                }
                // Told by its own policy.
                Ok(_) | Err(_) => {}
            }
        })
        .await;
    }

    #[tracing::instrument(target = SPANS, name = "evaluation", skip_all, err, fields(
        rollout = stored.name_any(), generation = stored.rollout.metadata.generation,
    ))]
    async fn visit(&self, stored: &StoredRollout) -> Result<controller::Action, Error> {
        let StoredRollout { rollout, unreadable } = stored;
        let begin = Instant::now();
        let name = rollout.name_any();
        if rollout.metadata.deletion_timestamp.is_some() {
            self.metrics.forget(&name);
            return self.restore(rollout).await;
        }
        let put = match stored.has_whole("deletionPolicy") {
            true => {
                let restores = rollout.spec.deletion_policy == DeletionPolicy::Restore;
                self.reporter.finalizer(rollout, restores).await
            }
            false => Ok(()),
        };
        if let Err(error) = &put {
            tracing::warn!(%error, rollout = name, "no step before the finalizer is as asked");
        }
        // What is wrong with a spec may be what the apiserver has dropped of it.
        let foreign = self.objects.foreign_definitions();
        let plan = match (foreign.is_empty(), unreadable) {
            (false, _) => Err(Refusal::Definitions(foreign)),
            (true, Some(what)) => Err(what.refusal.clone()),
            (true, None) => parse::plan(rollout, &self.config),
        };
        let (plan, refusal, is_whole) = match plan {
            Ok(plan) => {
                let paused = plan.paused || put.is_err();
                let (claimed, approvals) = (self.claimed(rollout), self.approvals(rollout));
                (Plan { claimed, approvals, paused, ..plan }, None, true)
            }
            // What was reached before is still watched, and taken back on harm or on request.
            Err(refusal) => {
                let (plan, is_whole) = self.as_far_as_it_goes(stored);
                (plan, Some(refusal), is_whole)
            }
        };
        let before = self.remembered(&plan, is_whole, rollout);
        let visit = self.evaluate(rollout, &plan, &before.progress).await;
        let measured = visit.snapshot.telemetry.at;
        self.metrics.evaluated(&name, &visit.decision, measured, begin.elapsed());
        let report = async {
            match &refusal {
                Some(refusal) if !is_whole => {
                    self.report_in_part(rollout, &plan, &before, &visit, refusal).await
                }
                refusal => self.report(rollout, &plan, &before, &visit, refusal.as_ref()).await,
            }
        };
        // A rollback without an answer is tried again before much is told.
        let limit = if visit.no_answer { AFTER_NO_ANSWER } else { REPORT_LIMIT };
        let reported = tokio::time::timeout(limit, report).await;
        let status = match reported {
            Ok((status, told)) => {
                self.metrics.says(&name, &status.conditions);
                if let Err(error) = told {
                    tracing::warn!(%error, rollout = name, "not all of it could be told yet");
                }
                Some(status)
            }
            Err(_) => {
                tracing::warn!(rollout = name, "the report got no answer in time");
                before.status
            }
        };
        let states = visit.decision.namespaces.iter();
        let after = Remembered {
            uid: plan.uid.clone(),
            plan,
            is_whole,
            progress: visit.decision.progress.clone(),
            states: states.map(|(name, standing)| (name.clone(), standing.state)).collect(),
            status,
        };
        self.memory().insert(name, after);
        let interval = self.config.evaluation_interval.unsigned_abs();
        Ok(controller::Action::requeue(match visit.again {
            Some(soon) => soon.min(interval),
            None => interval.saturating_sub(begin.elapsed()).max(interval / 10),
        }))
    }

    /// Tells what was decided and done; yields the status, and whether all of it could be told.
    #[tracing::instrument(target = SPANS, skip_all)]
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
        // The summary last: whoever waits for a condition finds the reports saying the same.
        let told = self.reporter.status(rollout, &stored, new.clone()).await;
        (new, told.and(reports))
    }

    /// Tells what is wrong and what was taken back. Not all stages are known, and where one stands
    /// that is not, a report says more than we know.
    async fn report_in_part(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        before: &Remembered,
        visit: &Visit,
        refusal: &Refusal,
    ) -> (MeshRolloutStatus, Result<(), kube::Error>) {
        let (now, decision) = (Timestamp::now(), &visit.decision);
        self.reporter.transitions(rollout, plan, &before.states, decision).await;
        for (namespace, because) in &visit.rolled_back {
            self.reporter.rolled_back(rollout, namespace, because).await;
        }
        let stored = rollout.status.clone().unwrap_or_default();
        let old = before.status.as_ref().unwrap_or(&stored);
        let watched = decision.watching().filter_map(|name| decision.namespaces.get(name));
        let found = watched.flat_map(|one| &one.findings).max_by_key(|found| found.level);
        let found = found.filter(|found| found.level >= Level::Hold);
        let message = match found {
            Some(found) => format!("{refusal}; beside that, {}", found.message),
            None => refusal.to_string(),
        };
        let generation = rollout.metadata.generation;
        let new = MeshRolloutStatus {
            last_rollback: status::last_rollback(plan, decision, &visit.rolled_back, old, now),
            ..status::refused(refusal.reason(), &message, generation, old, now)
        };
        self.reporter.ready_changed(rollout, old, &new).await;
        let told = self.reporter.status(rollout, &stored, new.clone()).await;
        (new, told)
    }

    fn stored_reports(&self, rollout: &str) -> impl Iterator<Item = Arc<MeshReport>> {
        self.reports.state().into_iter().filter(move |report| report.name_any() == rollout)
    }

    fn report_of(&self, rollout: &str, namespace: &Namespace) -> Option<Arc<MeshReport>> {
        self.reports.get(&reflector::ObjectRef::new(rollout).within(namespace.as_str()))
    }

    /// The plan of a spec that is refused, and whether all its stages are in it. What measured it so
    /// far goes on measuring it. Where a stage cannot be read the last ones that could be stand in:
    /// what it has reached would be forgotten with it, and proven anew without a retry once it can
    /// be read again. Whoever does not know them remembers nothing of it beyond its own time.
    fn as_far_as_it_goes(&self, stored: &StoredRollout) -> (Plan, bool) {
        let rollout = &stored.rollout;
        let plan = parse::as_far_as_it_goes(rollout, &self.config);
        let is_whole = stored.has_whole("stages") && plan.stages.len() == rollout.spec.stages.len();
        let known = self.known(&plan).filter(|known| known.is_whole).map(|known| known.plan);
        let (plan, is_whole) = match known {
            Some(known) if is_whole => (Plan { source: known.source, ..plan }, true),
            Some(known) => (Plan { stages: known.stages, source: known.source, ..plan }, true),
            None => (plan, is_whole),
        };
        (Plan { claimed: self.claimed(rollout), ..plan }, is_whole)
    }

    fn known(&self, plan: &Plan) -> Option<Remembered> {
        self.memory().get(&plan.name).filter(|known| known.uid == plan.uid).cloned()
    }

    fn remembered(&self, plan: &Plan, is_whole: bool, rollout: &MeshRollout) -> Remembered {
        if let Some(known) = self.known(plan).filter(|known| known.is_whole || !is_whole) {
            return known;
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
            plan: plan.clone(),
            is_whole,
            progress: status::progress(plan, &old, reports),
            states: BTreeMap::new(),
            status: None,
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Remembered>> {
        self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// All objects of a kind of ours, as a watch tells them.
fn stored<K>(client: &Client, patience: Duration) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), renewed(patience))
        .default_backoff()
        .reflect(writer)
        .applied_objects();
    tokio::spawn(async move {
        stream
            .for_each(async |event| {
                if let Err(error) = event {
                    tracing::warn!(%error, kind = %K::kind(&()), "watching");
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
