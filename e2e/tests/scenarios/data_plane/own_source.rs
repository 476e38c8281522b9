//! The operator's own metrics source: it sees what Prometheus sees, and suffices without one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshrollout::config::Config;
use meshrollout::metrics::Metrics;
use meshrollout::observe::evidence::{self, Question};
use meshrollout::observe::objects::Objects;
use meshrollout::observe::prometheus::Prometheus;
use meshrollout::observe::sidecars::Sidecars;
use meshrollout_core::ident::PodRef;
use meshrollout_core::reading::Reading;
use meshrollout_core::traffic::{Caller, Telemetry, Timeline};
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, Load, Mark, OperatorOptions, RealWorkload, Rollout, until};
use serde_json::{Value, json};

use super::{PORT, client, options, served};

const LIMIT: Duration = Duration::from_secs(90);
/// Two scrapes of a second each, an evaluation every second, and five seconds.
const IN_TIME: Duration = Duration::from_secs(2 + 1 + 5);

/// The sidecars, once asked by the operator itself, once by Prometheus.
pub(super) async fn says_the_same(cluster: &Cluster) {
    let config = Config::parse(&format!(
        "metricsSources: [{{name: main, url: '{}', scrapeInterval: 1s}}]\n{}",
        cluster.prometheus_url(),
        cluster.sidecars_config(),
    ));
    let config = config.unwrap();
    let objects = Objects::watch(cluster.client(), SignedDuration::from_secs(60));
    objects.ready(LIMIT).await.unwrap();
    let ours = Sidecars::scrape(objects, &config, Metrics::new());
    let prometheus = Prometheus::new(config.metrics_source("main").unwrap().clone());
    let question = Question {
        lookback: SignedDuration::from_secs(20),
        harm_window: SignedDuration::from_secs(5),
        since: None,
    };
    // Longer than the look-back and all windows: from here on both have seen the same.
    tokio::time::sleep(Duration::from_secs(50)).await;
    until("both to know all, and the same", LIMIT, async || {
        let now = Timestamp::now();
        let ours = Seen::of(&ours.gather("test", &question, now))?;
        let theirs = Seen::of(&evidence::gather(&prometheus, &question, now).await)?;
        ours.is_like(&theirs)
    })
    .await
    .unwrap();
}

/// Traffic of each kind: over mutual TLS, in plaintext, over TLS of one's own, and in vain.
pub(super) async fn mixed(cluster: &Cluster) -> Vec<Load> {
    for (namespace, injection) in [
        ("server", Injection::Enabled),
        ("meshed", Injection::Enabled),
        ("plain", Injection::Absent),
    ] {
        cluster.namespace(namespace, injection, &[]).await.unwrap();
    }
    let echo = RealWorkload::echo("server", "echo", PORT).counting_refusals();
    cluster.run(&echo).await.unwrap();
    for namespace in ["server", "meshed"] {
        cluster.certificate(namespace, "tls", &["hook.server"]).await.unwrap();
    }
    let hook = RealWorkload::tls_echo("server", "hook", 8443, "tls").counting_refusals();
    cluster.run(&hook).await.unwrap();
    let tls = RealWorkload::tls_load("meshed", "tls", "https://hook.server:8443/", 10, "tls");
    let loads = vec![
        client(cluster, "meshed", "http://echo.server:8080/").await,
        client(cluster, "plain", "http://echo.server:8080/").await,
        served(cluster, &tls).await,
    ];
    // A client that a rule misleads to a server under STRICT.
    cluster.namespace("strict", Injection::Enabled, &[]).await.unwrap();
    cluster.run(&RealWorkload::echo("strict", "echo", PORT)).await.unwrap();
    let misled = RealWorkload::load("meshed", "misled", "http://echo.strict:8080/", 10);
    served(cluster, &misled).await;
    cluster
        .apply(&[json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"namespace": "strict", "name": "default"},
            "spec": {"mtls": {"mode": "STRICT"}}})])
        .await
        .unwrap();
    let host = "echo.strict.svc.cluster.local";
    cluster.destination_rule("meshed", "plain", host, "DISABLE").await.unwrap();
    loads
}

/// What evidence says, without the numbers that differ from one moment to the next.
#[derive(Debug)]
struct Seen {
    /// Who called, was not seen to speak mutual TLS, and how often.
    callers: BTreeMap<String, f64>,
    mutual: BTreeMap<String, f64>,
    /// Edges with requests, failures and errors in whole windows.
    edges: BTreeMap<String, [f64; 3]>,
    present: BTreeSet<PodRef>,
    /// Seconds left.
    certificates: BTreeMap<PodRef, f64>,
    exporters: BTreeSet<PodRef>,
    instances: u32,
    rejects: f64,
    unsigned: f64,
    root: Option<f64>,
}

impl Seen {
    fn of(telemetry: &Telemetry) -> Result<Self, String> {
        fn known<'a, T>(name: &str, reading: &'a Reading<T>) -> Result<&'a T, String> {
            reading.known().ok_or_else(|| format!("{name}: {:?}", reading.cause()))
        }
        let plane = known("control plane", &telemetry.control_plane)?;
        let edges = known("edges", &telemetry.edges)?.iter().map(|edge| {
            let sum = |timeline: &Timeline| timeline.0.iter().map(|(_, count)| count).sum::<f64>();
            let key = format!("{} {:?} {}", edge.source, edge.destination, edge.service);
            (key, [sum(&edge.requests), sum(&edge.failures), sum(&edge.errors)])
        });
        let callers = known("callers", &telemetry.callers)?.iter().map(|one| {
            let Caller { source, destination, service, port, observed, protocol, count } =
                one.clone();
            (
                format!("{source:?} {destination} {service:?} {port:?} {observed:?} {protocol}"),
                count,
            )
        });
        let mutual = known("mutual", &telemetry.mutual)?.iter();
        let certificates = known("certificates", &telemetry.certificates)?.iter();
        Ok(Self {
            callers: callers.collect(),
            mutual: mutual.map(|(name, count)| (name.to_string(), *count)).collect(),
            edges: edges.collect(),
            present: known("presence", &telemetry.presence)?.keys().cloned().collect(),
            certificates: certificates
                .map(|(pod, one)| (pod.clone(), one.remaining.as_secs_f64()))
                .collect(),
            exporters: known("refusals", &telemetry.refusals)?.keys().cloned().collect(),
            instances: plane.instances,
            rejects: plane.rejects,
            unsigned: plane.unsigned,
            root: plane.root_remaining.map(|left| left.as_secs_f64()),
        })
    }

    /// Names are the same, and counts as near as scrapes at other moments allow.
    fn is_like(&self, other: &Self) -> Result<(), String> {
        let near = |one: f64, other: f64| (one - other).abs() <= 5.0 + 0.2 * one.max(other);
        let like = |one: &BTreeMap<String, f64>, other: &BTreeMap<String, f64>| {
            one.keys().eq(other.keys())
                && one.values().zip(other.values()).all(|(a, b)| near(*a, *b))
        };
        let edges = |part: usize, seen: &Self| -> BTreeMap<String, f64> {
            seen.edges.iter().map(|(key, parts)| (key.clone(), parts[part])).collect()
        };
        let close = |one: f64, other: f64| (one - other).abs() <= 3.0;
        let certificates = self.certificates.keys().eq(other.certificates.keys())
            && self
                .certificates
                .values()
                .zip(other.certificates.values())
                .all(|(a, b)| close(*a, *b));
        let root = match (self.root, other.root) {
            (Some(one), Some(other)) => close(one, other),
            (one, other) => one == other,
        };
        let alike = [
            ("callers", like(&self.callers, &other.callers) && !self.callers.is_empty()),
            ("mutual", like(&self.mutual, &other.mutual) && !self.mutual.is_empty()),
            ("requests", like(&edges(0, self), &edges(0, other))),
            ("failures", like(&edges(1, self), &edges(1, other))),
            ("errors", like(&edges(2, self), &edges(2, other))),
            ("some failures", edges(1, self).values().any(|count| *count > 0.0)),
            ("present", self.present == other.present && !self.present.is_empty()),
            ("certificates", certificates && !self.certificates.is_empty()),
            ("exporters", self.exporters == other.exporters && !self.exporters.is_empty()),
            ("instances", self.instances == other.instances && self.instances > 0),
            ("rejects", self.rejects == other.rejects),
            ("unsigned", self.unsigned == other.unsigned),
            ("root", root && self.root.is_some()),
        ];
        let differ: Vec<_> =
            alike.iter().filter(|(_, alike)| !alike).map(|(name, _)| *name).collect();
        if differ.is_empty() { Ok(()) } else { Err(format!("{differ:?}: {self:#?} {other:#?}")) }
    }
}

#[tokio::test]
async fn without_any_prometheus_a_rollout_is_held_taken_and_taken_back() {
    let Some((options, _place)) = options().await else { return };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.install().await.unwrap();
    cluster.prometheus().stop().await;
    let own = OperatorOptions { prometheus: false, ..OperatorOptions::default() };
    let operator = cluster.operator(&own).await.unwrap();
    for (namespace, injection) in
        [("pay", Injection::Enabled), ("web", Injection::Enabled), ("plain", Injection::Absent)]
    {
        cluster.namespace(namespace, injection, &[]).await.unwrap();
    }
    cluster.run(&RealWorkload::echo("pay", "echo", PORT).counting_refusals()).await.unwrap();
    let good = client(&cluster, "web", "http://echo.pay:8080/").await;
    let plain = client(&cluster, "plain", "http://echo.pay:8080/").await;
    let from = good.mark().unwrap();

    let rollout = Rollout::enforce("pay", &[("only", &["pay"])])
        .asking_sidecars()
        .with("/stages/0/bake", json!("10m"));
    cluster.apply_rollout(&rollout).await.unwrap();
    let held = finding(&cluster, "MR0202", "Block").await;
    println!("held: {}", held["message"]);
    operator.evaluated("pay", 5, LIMIT).await.unwrap();
    assert_ne!(cluster.policy_mode("pay").await.unwrap().as_deref(), Some("STRICT"));
    assert!(plain.since(Mark::default()).unwrap().served_since_failing() > 0);

    cluster.delete("deployment", "plain", "client").await.unwrap();
    let watched = cluster.until_state_is("pay", "pay", "Watching", LIMIT).await;
    if watched.is_err() {
        println!("{}", cluster.report("pay", "pay").await.unwrap()["status"]["findings"]);
        println!("{}", operator.page("/metrics").await.unwrap());
    }
    watched.unwrap();
    operator.evaluated("pay", 3, LIMIT).await.unwrap();
    let tally = good.since(from).unwrap();
    println!("STRICT and watched; the meshed client: {tally}");
    assert_eq!(tally.failed(), 0);

    let mark = good.mark().unwrap();
    let host = "echo.pay.svc.cluster.local";
    cluster.destination_rule("web", "plain", host, "DISABLE").await.unwrap();
    let tally = until("the misled client to be served again", LIMIT, async || {
        let tally = good.since(mark).map_err(|error| error.to_string())?;
        let over = tally.failed() > 0 && tally.served_since_failing() >= 20;
        if over { Ok(tally) } else { Err(tally.to_string()) }
    });
    let tally = tally.await.unwrap();
    let (first, last) = tally.failing().unwrap();
    let took = last.duration_since(first).unsigned_abs();
    println!("a misled client: {tally}; from the first failure to the last {took:.1?}");
    assert!(took <= IN_TIME, "{took:?}");
    let ready = cluster.until_ready_is("pay", "RolledBack", LIMIT).await.unwrap();
    println!("    {}", ready.message);
}

async fn finding(cluster: &Cluster, code: &str, level: &str) -> Value {
    until(&format!("{code} at {level}"), LIMIT, async || {
        let report = cluster.report("pay", "pay").await.map_err(|error| error.to_string())?;
        let findings = report["status"]["findings"].as_array().cloned().unwrap_or_default();
        let about = |it: &&Value| it["code"] == code && it["level"] == level;
        findings.iter().find(about).cloned().ok_or_else(|| format!("{findings:#?}"))
    })
    .await
    .unwrap()
}
