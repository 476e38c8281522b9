//! The operator's own metrics source: the sidecars themselves, scraped one by one.
//!
//! For whoever has no Prometheus, or none that may be asked. It answers the same questions with the
//! same rows, so what evidence means is decided in one place for both.

mod exposition;
mod fetch;
mod growth;
mod memory;
mod told;

pub(crate) use told::Whose;

use super::evidence::Question;
use super::objects::{Objects, Target};
use crate::config::Sidecars as Config;
use crate::metrics::Metrics;
use crate::translate::evidence::PodLabels;
use fetch::Fetch;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use memory::Memory;
use meshrollout_core::ident::{Namespace, PodRef};
use meshrollout_core::traffic::Telemetry;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Scrapes at one time, whatever the number of pods.
const AT_ONCE: usize = 16;
/// Beside them, of those that failed last time: they must not keep the others waiting.
const FAILING_AT_ONCE: usize = 4;
/// A scrape ends within this time, and within the interval.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);

/// Scrapes all sidecars and control planes that the watches know, until it is dropped.
pub struct Sidecars {
    config: Config,
    memory: Arc<Mutex<Memory>>,
    _rounds: JoinSet<()>,
}

struct Scraper {
    config: Config,
    /// Its pods' sidecars would count our own scrapes that fail as harm.
    own_namespace: Namespace,
    objects: Objects,
    memory: Arc<Mutex<Memory>>,
    metrics: Metrics,
    fetch: Fetch,
    failing: Mutex<BTreeSet<PodRef>>,
}

impl Sidecars {
    /// Begins to scrape; to be called within a tokio runtime.
    pub fn scrape(objects: Objects, config: &crate::config::Config, metrics: Metrics) -> Self {
        let own_namespace = Namespace::new(config.operator_namespace.as_str());
        let config = config.sidecars.clone();
        let memory = Memory::new(Timestamp::now(), config.scrape_interval);
        let memory = Arc::new(Mutex::new(memory));
        let scraper = Scraper {
            config: config.clone(),
            own_namespace,
            objects,
            memory: Arc::clone(&memory),
            metrics,
            fetch: Fetch::new(),
            failing: Mutex::default(),
        };
        let mut rounds = JoinSet::new();
        rounds.spawn(async move { scraper.rounds().await });
        Self { config, memory, _rounds: rounds }
    }

    /// All that is known now, for `asker`: what it looks back to is kept as long as it asks.
    pub fn gather(&self, asker: &str, question: &Question, now: Timestamp) -> Telemetry {
        let labels = PodLabels { namespace: memory::NAMESPACE, pod: memory::POD };
        let lifetime = self.config.workload_cert_lifetime;
        let answers = locked(&self.memory).answers(asker, question, now, lifetime);
        answers.telemetry(labels, question.lookback)
    }
}

impl Scraper {
    async fn rounds(&self) {
        let interval = self.config.scrape_interval.unsigned_abs();
        // The first at once: without it nothing is known at all.
        let mut spread = Duration::ZERO;
        let mut turn = 0;
        let mut clock = (Timestamp::now(), Instant::now());
        loop {
            let begin = Instant::now();
            let now = Timestamp::now();
            let leap = now.duration_since(clock.0)
                - SignedDuration::try_from(begin - clock.1).unwrap_or_default();
            if leap.abs() > self.config.scrape_interval {
                tracing::warn!(leap = %format!("{leap:#}"), "our clock was set: what the sidecars counted when is asked anew");
                locked(&self.memory).begin_anew(now);
            }
            clock = (now, begin);
            self.round(begin, spread, turn).await;
            tokio::time::sleep_until(begin + interval).await;
            (spread, turn) = (interval, turn + 1);
        }
    }

    /// Scrapes everyone once, each at its own moment within `spread`; of those that failed last
    /// time as many as there is time for.
    async fn round(&self, begin: Instant, spread: Duration, turn: usize) {
        let mut targets = self.objects.targets();
        targets.retain(|target| target.pod.namespace != self.own_namespace);
        locked(&self.memory).there_are(&targets, Timestamp::now());
        let (mut failing, others): (Vec<_>, Vec<_>) = {
            let mut failing = locked(&self.failing);
            failing.retain(|pod| targets.iter().any(|target| target.pod == *pod));
            targets.into_iter().partition(|target| failing.contains(&target.pod))
        };
        let mut others: Vec<_> =
            others.into_iter().map(|target| (moment(&target.pod, spread), target)).collect();
        others.sort_by_key(|(moment, _)| *moment);
        let scrape_others = self.scrape_each(others, AT_ONCE, begin);
        // Another of them is the first in each round.
        let first = (turn * FAILING_AT_ONCE).checked_rem(failing.len()).unwrap_or(0);
        failing.rotate_left(first);
        let failing = failing.into_iter().map(|target| (Duration::ZERO, target)).collect();
        let end = begin + self.config.scrape_interval.unsigned_abs();
        // Those that there is no time for have their turn in another round.
        let scrape_failing =
            tokio::time::timeout_at(end, self.scrape_each(failing, FAILING_AT_ONCE, begin));
        let _ = tokio::join!(scrape_others, scrape_failing);
        locked(&self.memory).round_is_whole();
    }

    /// Each at its own moment after `begin`, in this order.
    async fn scrape_each(&self, timed: Vec<(Duration, Target)>, at_once: usize, begin: Instant) {
        futures::stream::iter(timed)
            .for_each_concurrent(at_once, async |(moment, target)| {
                tokio::time::sleep_until(begin + moment).await;
                self.scrape(&target).await;
            })
            .await;
    }

    async fn scrape(&self, target: &Target) {
        let port = match target.whose {
            Whose::Proxy => self.config.port,
            Whose::ControlPlane => self.config.control_plane_port,
        };
        let address = SocketAddr::new(target.process.address, port);
        let limit = SCRAPE_LIMIT.min(self.config.scrape_interval.unsigned_abs());
        let text = self.fetch.fetch(address, target.whose, limit).await;
        // Gone meanwhile: whoever answered may be another.
        if !self.objects.is_there(target) {
            locked(&self.failing).remove(&target.pod);
            return;
        }
        let scraped = text
            .and_then(|text| Ok(locked(&self.memory).heard(target, Timestamp::now(), &text)?));
        match scraped {
            Ok(()) => {
                locked(&self.failing).remove(&target.pod);
                self.metrics.scraped("ok");
            }
            Err(error) => {
                if locked(&self.failing).insert(target.pod.clone()) {
                    tracing::warn!(pod = %target.pod, %address, %error, "scrape failed");
                }
                self.metrics.scraped(error.reason());
            }
        }
    }
}

/// The same in each round, so that scrapes of one pod are as far apart as told; apart from others,
/// so that not all are scraped at once.
fn moment(pod: &PodRef, spread: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    pod.hash(&mut hasher);
    spread.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a scrape is taken in leaves it half counted; the rounds end with it, and what
    // is known is too old soon.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
