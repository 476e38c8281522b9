//! The operator's own metrics source: the sidecars themselves, scraped one by one.
//!
//! For whoever has no Prometheus, or none that may be asked. It answers the same questions with the
//! same rows, so what evidence means is decided in one place for both.

mod exposition;
mod fetch;
mod growth;
mod memory;

pub(crate) use memory::Whose;

use super::evidence::Question;
use super::objects::{Objects, Target};
use crate::config::Sidecars as Config;
use crate::metrics::Metrics;
use crate::translate::evidence::PodLabels;
use fetch::Fetch;
use futures::StreamExt;
use jiff::Timestamp;
use memory::Memory;
use meshrollout_core::ident::PodRef;
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
    objects: Objects,
    memory: Arc<Mutex<Memory>>,
    metrics: Metrics,
    fetch: Fetch,
}

impl Sidecars {
    /// Begins to scrape; to be called within a tokio runtime.
    pub fn scrape(objects: Objects, config: Config, metrics: Metrics) -> Self {
        let memory = Memory::new(Timestamp::now(), config.scrape_interval);
        let memory = Arc::new(Mutex::new(memory));
        let (fetch, of_rounds) = (Fetch::new(), Arc::clone(&memory));
        let scraper =
            Scraper { config: config.clone(), objects, memory: of_rounds, metrics, fetch };
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
        loop {
            let begin = Instant::now();
            self.round(begin, spread).await;
            tokio::time::sleep_until(begin + interval).await;
            spread = interval;
        }
    }

    /// Scrapes everyone once, each at its own moment within `spread`.
    async fn round(&self, begin: Instant, spread: Duration) {
        let targets = self.objects.targets();
        let of = |whose| {
            let of = targets.iter().filter(move |target| target.whose == whose);
            of.map(|target| target.pod.clone()).collect::<BTreeSet<_>>()
        };
        let (proxies, control_planes) = (of(Whose::Proxy), of(Whose::ControlPlane));
        locked(&self.memory).there_are(&proxies, &control_planes, Timestamp::now());
        let mut timed: Vec<_> =
            targets.into_iter().map(|target| (moment(&target.pod, spread), target)).collect();
        timed.sort_by_key(|(moment, _)| *moment);
        futures::stream::iter(timed)
            .for_each_concurrent(AT_ONCE, async |(moment, target)| {
                tokio::time::sleep_until(begin + moment).await;
                self.scrape(&target).await;
            })
            .await;
        locked(&self.memory).round_is_whole();
    }

    async fn scrape(&self, target: &Target) {
        let port = match target.whose {
            Whose::Proxy => self.config.port,
            Whose::ControlPlane => self.config.control_plane_port,
        };
        let address = SocketAddr::new(target.address, port);
        let limit = SCRAPE_LIMIT.min(self.config.scrape_interval.unsigned_abs());
        let scraped = self.fetch.fetch(address, target.whose, limit).await.and_then(|text| {
            let mut memory = locked(&self.memory);
            Ok(memory.heard(&target.pod, target.whose, Timestamp::now(), &text)?)
        });
        match scraped {
            Ok(()) => self.metrics.scraped("ok"),
            Err(error) => {
                self.metrics.scraped(error.reason());
                tracing::debug!(pod = %target.pod, %address, %error, "scrape failed");
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

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    // A panic while a scrape is taken in leaves it half counted; the rounds end with it, and what
    // is known is too old soon.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
