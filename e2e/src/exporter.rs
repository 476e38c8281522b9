mod edge;
mod page;
mod pod;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client as KubeClient};

pub use self::edge::{Client, Edge, Protocol, Security, Server};
use self::pod::{PodFacts, PodKey};
use self::traffic::Counters;
use crate::servers::Servers;
use crate::{Error, node};

/// Stands for the sidecars' metrics: kwok's pods run none.
///
/// It follows the pods of the cluster. Every running pod that holds a sidecar exports what
/// Istio's proxy and agent would; traffic is scripted as edges, which count up with time on the
/// ready pods at both ends, and a pod's counters go when the pod goes.
#[derive(Clone)]
pub struct Exporter {
    state: Arc<Mutex<State>>,
}

/// Names an edge, to change or remove it later.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct EdgeId(u64);

struct State {
    pods: BTreeMap<PodKey, PodFacts>,
    edges: BTreeMap<EdgeId, Edge>,
    next_edge: u64,
    refusals: BTreeMap<(String, String), f64>,
    counters: Counters,
    advanced_to: Instant,
    hidden: BTreeSet<Which>,
    certificates: BTreeMap<Which, f64>,
    agent_metrics: bool,
    refusal_counter: bool,
}

/// One pod, or all of a namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Which {
    Namespace(String),
    Pod(PodKey),
}

/// Seconds that a workload certificate is still valid for: within the healthy saw-tooth of
/// 43,200 to 86,400 (24 h, renewed at half).
const HEALTHY_CERTIFICATE: f64 = 80_000.0;

impl Exporter {
    pub(crate) async fn serve(
        servers: &Servers,
        port: u16,
        config: kube::Config,
    ) -> Result<Self, Error> {
        let exporter = Self { state: Arc::new(Mutex::new(State::new())) };
        let page = exporter.clone();
        let routes = Router::new().route(
            "/metrics",
            get(|| async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], page.page()) }),
        );
        servers.serve(port, routes).await?;
        let follower = exporter.clone();
        servers.spawn(async move {
            // The client belongs to the runtime that it was made on.
            if let Ok(client) = KubeClient::try_from(config) {
                follower.follow(Api::all(client)).await;
            }
        });
        Ok(exporter)
    }

    async fn follow(&self, pods: Api<Pod>) {
        // Those that run for real are scraped themselves.
        let likenesses = format!("spec.nodeName!={}", node::NAME);
        let likenesses = watcher::Config::default().fields(&likenesses);
        let events = watcher(pods, likenesses).default_backoff();
        // Backed off and tried again inside, so an error here is not an end.
        let mut events = std::pin::pin!(events);
        let mut seen = BTreeSet::new();
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Init)) => seen.clear(),
                Ok(Some(watcher::Event::InitApply(pod))) => {
                    let facts = PodFacts::of(&pod);
                    seen.insert(facts.key.clone());
                    self.state().put(facts);
                }
                Ok(Some(watcher::Event::InitDone)) => self.state().keep_only(&seen),
                Ok(Some(watcher::Event::Apply(pod))) => self.state().put(PodFacts::of(&pod)),
                Ok(Some(watcher::Event::Delete(pod))) => {
                    self.state().remove(&PodFacts::of(&pod).key);
                }
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    /// Starts traffic along an edge.
    pub fn edge(&self, edge: Edge) -> EdgeId {
        let mut state = self.state();
        let id = EdgeId(state.next_edge);
        state.next_edge += 1;
        state.edges.insert(id, edge);
        id
    }

    /// Changes an edge from now on; what it counted stays.
    pub fn change(&self, id: EdgeId, edge: Edge) {
        self.state().edges.insert(id, edge);
    }

    /// Ends the traffic along an edge; what it counted stays.
    pub fn remove(&self, id: EdgeId) {
        self.state().edges.remove(&id);
    }

    /// Ends all traffic.
    pub fn remove_all(&self) {
        self.state().edges.clear();
    }

    /// How many connections per second every ready pod of a workload refuses, in
    /// `envoy_listener_no_filter_chain_match`.
    pub fn refusals(&self, namespace: &str, workload: &str, per_second: f64) {
        self.state().refusals.insert((namespace.to_owned(), workload.to_owned()), per_second);
    }

    /// Whether `envoy_listener_no_filter_chain_match` is exported at all (at first it is).
    pub fn refusal_counter(&self, exported: bool) {
        self.state().refusal_counter = exported;
    }

    /// Whether `istio_agent_*` is exported, as with port 15020 (at first it is).
    pub fn agent_metrics(&self, exported: bool) {
        self.state().agent_metrics = exported;
    }

    /// Seconds left of the workload certificates in a namespace.
    pub fn certificates(&self, namespace: &str, seconds: f64) {
        self.state().certificates.insert(Which::Namespace(namespace.to_owned()), seconds);
    }

    /// Seconds left of one pod's workload certificate.
    pub fn certificate(&self, namespace: &str, pod: &str, seconds: f64) {
        self.state().certificates.insert(Which::Pod(PodKey::new(namespace, pod)), seconds);
    }

    /// All series of one pod are missing from now on.
    pub fn hide_pod(&self, namespace: &str, pod: &str) {
        self.state().hidden.insert(Which::Pod(PodKey::new(namespace, pod)));
    }

    /// All series of a namespace's pods are missing from now on.
    pub fn hide_namespace(&self, namespace: &str) {
        self.state().hidden.insert(Which::Namespace(namespace.to_owned()));
    }

    /// Nothing is hidden any more.
    pub fn show_all(&self) {
        self.state().hidden.clear();
    }

    fn page(&self) -> String {
        page::render(&self.state())
    }

    /// The state, with all counters brought up to this moment: a change never acts backwards.
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while it was held leaves plain numbers, still fit for use.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.advance(Instant::now());
        state
    }
}

impl State {
    fn new() -> Self {
        Self {
            pods: BTreeMap::new(),
            edges: BTreeMap::new(),
            next_edge: 0,
            refusals: BTreeMap::new(),
            counters: Counters::default(),
            advanced_to: Instant::now(),
            hidden: BTreeSet::new(),
            certificates: BTreeMap::new(),
            agent_metrics: true,
            refusal_counter: true,
        }
    }

    fn put(&mut self, pod: PodFacts) {
        // The same name with another uid, as a StatefulSet makes it, starts from zero.
        if self.pods.get(&pod.key).is_some_and(|old| old.uid != pod.uid) {
            self.counters.forget(&pod.key);
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    fn remove(&mut self, pod: &PodKey) {
        self.pods.remove(pod);
        self.counters.forget(pod);
    }

    fn keep_only(&mut self, seen: &BTreeSet<PodKey>) {
        let gone: Vec<PodKey> =
            self.pods.keys().filter(|key| !seen.contains(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.advanced_to).as_secs_f64();
        self.advanced_to = now;
        for edge in self.edges.values() {
            traffic::flow(edge, seconds, &self.pods, &mut self.counters);
        }
        for ((namespace, workload), per_second) in &self.refusals {
            for pod in pod::serving(&self.pods, namespace, workload).filter(|pod| pod.injected) {
                self.counters.refused(&pod.key, per_second * seconds);
            }
        }
    }

    fn is_hidden(&self, pod: &PodKey) -> bool {
        self.hidden.contains(&Which::Namespace(pod.namespace.clone()))
            || self.hidden.contains(&Which::Pod(pod.clone()))
    }

    fn certificate_seconds(&self, pod: &PodKey) -> f64 {
        let of = |key: &Which| self.certificates.get(key).copied();
        of(&Which::Pod(pod.clone()))
            .or_else(|| of(&Which::Namespace(pod.namespace.clone())))
            .unwrap_or(HEALTHY_CERTIFICATE)
    }
}
