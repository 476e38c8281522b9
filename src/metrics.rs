//! What the operator says of itself, for Prometheus. Every label comes from a closed set, or names
//! a rollout.

use meshrollout_core::decide::Decision;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// All metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    leader: Gauge,
    namespaces: Family<State, Gauge>,
    obstacles: Family<Obstacle, Gauge>,
    writes: Family<Write, Counter>,
    evaluations: Family<Rollout, Counter>,
    evaluation_seconds: Histogram,
    unknown: Family<Evidence, Counter>,
    scrapes: Family<Scrape, Counter>,
    shown: Arc<Mutex<BTreeMap<String, Shown>>>,
}

/// The series a rollout had after its last evaluation.
#[derive(Default)]
struct Shown {
    namespaces: Vec<State>,
    obstacles: Vec<Obstacle>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Rollout {
    rollout: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct State {
    rollout: String,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Obstacle {
    rollout: String,
    code: &'static str,
    level: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Write {
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Evidence {
    evidence: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Scrape {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("meshrollout");
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version that runs.", build);
        let evaluation_seconds = Histogram::new(exponential_buckets(0.01, 2.0, 12));
        let metrics = Self {
            registry: Arc::default(),
            leader: Gauge::default(),
            namespaces: Family::default(),
            obstacles: Family::default(),
            writes: Family::default(),
            evaluations: Family::default(),
            evaluation_seconds,
            unknown: Family::default(),
            scrapes: Family::default(),
            shown: Arc::default(),
        };
        let m = &metrics;
        registry.register("leader", "1 on the replica that acts.", m.leader.clone());
        registry.register(
            "namespaces",
            "Namespaces of a rollout by where they stand.",
            m.namespaces.clone(),
        );
        registry.register(
            "obstacles",
            "Findings that hold a rollout back, by code.",
            m.obstacles.clone(),
        );
        registry.register("writes", "Writes of policies by how they ended.", m.writes.clone());
        registry.register("evaluations", "Evaluations of a rollout.", m.evaluations.clone());
        registry.register(
            "evaluation_duration_seconds",
            "How long an evaluation took, its queries and writes included.",
            m.evaluation_seconds.clone(),
        );
        registry.register(
            "evidence_unknown",
            "Evaluations in which a kind of evidence was not known.",
            m.unknown.clone(),
        );
        registry.register(
            "scrapes",
            "Scrapes of sidecars and control planes by how they ended.",
            m.scrapes.clone(),
        );
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// The page that Prometheus scrapes.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }

    /// This replica leads, or not.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A write ended.
    pub fn wrote(&self, action: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write { action, result }).inc();
    }

    /// A kind of evidence was not known.
    pub fn unknown(&self, evidence: &'static str) {
        self.unknown.get_or_create(&Evidence { evidence }).inc();
    }

    /// A scrape of a sidecar or a control plane ended.
    pub fn scraped(&self, result: &'static str) {
        self.scrapes.get_or_create(&Scrape { result }).inc();
    }

    /// An evaluation ended.
    pub fn evaluated(&self, rollout: &str, decision: &Decision, took: Duration) {
        self.evaluation_seconds.observe(took.as_secs_f64());
        self.evaluations.get_or_create(&Rollout { rollout: rollout.into() }).inc();
        self.forget(rollout);
        let mut shown = Shown::default();
        for standing in decision.namespaces.values() {
            let state = standing.state.name();
            let labels = State { rollout: rollout.into(), state };
            self.namespaces.get_or_create(&labels).inc();
            shown.namespaces.push(labels);
        }
        for found in decision.obstacles() {
            let level = found.level.name();
            let labels = Obstacle { rollout: rollout.into(), code: found.code.id(), level };
            self.obstacles.get_or_create(&labels).inc();
            shown.obstacles.push(labels);
        }
        self.shown().insert(rollout.into(), shown);
    }

    /// A rollout is gone, or is about to be counted anew.
    pub fn forget(&self, rollout: &str) {
        let Some(shown) = self.shown().remove(rollout) else { return };
        for labels in shown.namespaces {
            self.namespaces.remove(&labels);
        }
        for labels in shown.obstacles {
            self.obstacles.remove(&labels);
        }
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Shown>> {
        self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
