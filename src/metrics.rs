//! What the operator says of itself, for Prometheus. Every label comes from a closed set, or names
//! a rollout.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use meshrollout_core::decide::Decision;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// All metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    leader: Gauge,
    conditions: Family<Says, Gauge>,
    namespaces: Family<State, Gauge>,
    obstacles: Family<Obstacle, Gauge>,
    evidence: Family<Rollout, Gauge<f64, AtomicU64>>,
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
    conditions: Vec<Says>,
    namespaces: Vec<State>,
    obstacles: Vec<Obstacle>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Rollout {
    rollout: String,
}

/// A condition and its status, as the API has them.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Says {
    rollout: String,
    condition: String,
    status: String,
    reason: String,
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
            conditions: Family::default(),
            namespaces: Family::default(),
            obstacles: Family::default(),
            evidence: Family::default(),
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
            "conditions",
            "1 for the status that each condition of a rollout has now.",
            m.conditions.clone(),
        );
        registry.register(
            "evidence_timestamp_seconds",
            "When the evidence of a rollout's last evaluation was measured, in seconds since 1970.",
            m.evidence.clone(),
        );
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

    /// An evaluation ended that went by evidence of this time.
    pub fn evaluated(
        &self,
        rollout: &str,
        decision: &Decision,
        evidence: Timestamp,
        took: Duration,
    ) {
        self.evaluation_seconds.observe(took.as_secs_f64());
        let named = Rollout { rollout: rollout.into() };
        self.evaluations.get_or_create(&named).inc();
        let mut shown = self.shown().remove(rollout).unwrap_or_default();
        self.unshow_namespaces(&mut shown);
        self.evidence
            .get_or_create(&named)
            .set(Duration::try_from(evidence.as_duration()).unwrap_or_default().as_secs_f64());
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

    /// What a rollout's conditions say from now on.
    pub fn says(&self, rollout: &str, conditions: &[Condition]) {
        let mut all = self.shown();
        let shown = all.entry(rollout.into()).or_default();
        for labels in shown.conditions.drain(..) {
            self.conditions.remove(&labels);
        }
        for said in conditions {
            let labels = Says {
                rollout: rollout.into(),
                condition: said.type_.clone(),
                status: said.status.clone(),
                reason: said.reason.clone(),
            };
            self.conditions.get_or_create(&labels).set(1);
            shown.conditions.push(labels);
        }
    }

    /// A rollout is gone.
    pub fn forget(&self, rollout: &str) {
        let Some(mut shown) = self.shown().remove(rollout) else { return };
        self.unshow_namespaces(&mut shown);
        for labels in shown.conditions {
            self.conditions.remove(&labels);
        }
        self.evidence.remove(&Rollout { rollout: rollout.into() });
    }

    fn unshow_namespaces(&self, shown: &mut Shown) {
        for labels in shown.namespaces.drain(..) {
            self.namespaces.remove(&labels);
        }
        for labels in shown.obstacles.drain(..) {
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
