//! From a real Prometheus to the core's evidence.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use meshrollout::config::Config;
use meshrollout::observe::evidence::{QUERIES, Question, gather};
use meshrollout::observe::prometheus::Prometheus;
use meshrollout_core::ident::PodRef;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::traffic::{
    Caller, Coverage, Edge as CoreEdge, Name, Observed, Presence, Telemetry, coverage,
};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Cluster, Edge, Fault, Options, Protocol, Server, until};
use tokio::sync::{OnceCell, RwLock};

const LOOKBACK: SignedDuration = SignedDuration::from_secs(30);
const SCRAPE: SignedDuration = SignedDuration::from_secs(1);
const SHORT: Duration = Duration::from_secs(15);
/// Three scrapes, and the time that a busy machine takes to ask.
const SOON: Duration = Duration::from_millis(4500);
const LONG: Duration = Duration::from_secs(150);

/// Whoever stops istiod does so while nobody deploys.
static ISTIOD: RwLock<()> = RwLock::const_new(());

async fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<OnceCell<Cluster>> = LazyLock::new(OnceCell::new);
    CLUSTER.get_or_init(async || Cluster::start(Options::default()).await.unwrap()).await
}

fn source(url: &str, more: &str) -> Prometheus {
    let yaml = format!(
        "metricsSources: [{{name: e2e, url: '{url}', scrapeInterval: 1s, timeout: 5s{more}}}]"
    );
    Prometheus::new(Config::parse(&yaml).unwrap().metrics_source("e2e").unwrap().clone())
}

fn question() -> Question {
    Question { lookback: LOOKBACK, harm_window: SignedDuration::from_secs(3), since: None }
}

async fn evidence(cluster: &Cluster) -> Telemetry {
    gather(&source(&cluster.prometheus_url(), ""), &question(), Timestamp::now()).await
}

/// Waits until the evidence shows something.
async fn shows<T>(
    cluster: &Cluster,
    what: &str,
    limit: Duration,
    look: impl Fn(&Telemetry) -> Option<T>,
) -> T {
    until(what, limit, async || {
        let telemetry = evidence(cluster).await;
        look(&telemetry).ok_or_else(|| format!("{telemetry:#?}"))
    })
    .await
    .unwrap()
}

fn known<T: Clone>(reading: &Reading<T>) -> T {
    match reading {
        Reading::Known(fact) => fact.clone(),
        Reading::Unknown(cause) => panic!("{cause}"),
    }
}

fn name(namespace: &str, workload: &str) -> Name {
    Name { namespace: namespace.into(), workload: workload.into() }
}

fn callers_of(telemetry: &Telemetry, namespace: &str) -> Vec<Caller> {
    let callers = known(&telemetry.callers);
    callers.into_iter().filter(|caller| caller.destination.namespace == namespace.into()).collect()
}

fn presence_in(telemetry: &Telemetry, namespace: &str) -> Vec<(PodRef, Presence)> {
    let presence = known(&telemetry.presence);
    presence.into_iter().filter(|(pod, _)| pod.namespace == namespace.into()).collect()
}

fn covered(telemetry: &Telemetry, reports: &[(PodRef, Presence)]) -> Coverage {
    let reports: Vec<_> = reports.iter().map(|(_, presence)| *presence).collect();
    coverage(&reports, telemetry.at, telemetry.lookback, SCRAPE)
}

fn edges_to(telemetry: &Telemetry, namespace: &str) -> Vec<CoreEdge> {
    let edges = known(&telemetry.edges);
    edges.into_iter().filter(|edge| edge.destination == Some(namespace.into())).collect()
}

fn pod_of(telemetry: &Telemetry, namespace: &str) -> PodRef {
    presence_in(telemetry, namespace)[0].0.clone()
}

/// A meshed namespace with a server of the same name.
async fn server(cluster: &Cluster, namespace: &str) {
    cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new(namespace, namespace)).await.unwrap();
}

async fn client(cluster: &Cluster, namespace: &str, injection: Injection) -> Client {
    cluster.namespace(namespace, injection, &[]).await.unwrap();
    cluster.deploy(&Workload::new(namespace, namespace)).await.unwrap();
    Client::workload(namespace, namespace)
}

#[tokio::test]
async fn callers_are_named_and_counted_through_a_restart() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "ledger").await;
    let meshed = client(cluster, "billing", Injection::Enabled).await;
    let to = || Server::workload("ledger", "ledger");
    let exporter = cluster.exporter();
    // A meshed client is named even in plaintext, by its metadata headers.
    exporter.edge(Edge::new(meshed.clone(), to()).rps(10.0).plaintext());
    exporter.edge(Edge::new(Client::Unknown, to()).rps(5.0).protocol(Protocol::TcpLongLived));
    exporter.edge(Edge::new(Client::Unknown, to()).rps(5.0).protocol(Protocol::Grpc));
    exporter.edge(Edge::new(meshed, to().behind("other")).rps(3.0));
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Twice the pods while one rolls: their counters begin at zero, the old ones' end.
    cluster.rollout_restart("ledger", "ledger").await.unwrap();
    tokio::time::sleep(Duration::from_secs(16)).await;

    let telemetry = evidence(cluster).await;
    let callers = callers_of(&telemetry, "ledger");
    let of = |source: Option<Name>, protocol: &str| {
        let mut of = callers.iter().filter(|it| it.source == source && it.protocol == protocol);
        let caller = of.next().unwrap_or_else(|| panic!("no {source:?} {protocol}: {callers:#?}"));
        assert!(of.next().is_none(), "{callers:#?}");
        assert_eq!(caller.observed, Observed::Plaintext);
        assert_eq!(caller.destination, name("ledger", "ledger"));
        assert_eq!(caller.service.as_deref(), Some("ledger.ledger.svc.cluster.local"));
        caller.count
    };
    let within = |count: f64, of: f64| (of * 0.8..of * 1.2).contains(&count);
    let requests = of(Some(name("billing", "billing")), "http");
    let unnamed = of(None, "grpc");
    println!("300 requests counted as {requests}, 150 as {unnamed}");
    assert!(within(requests, 300.0) && within(unnamed, 150.0), "{callers:#?}");
    // Shown by bytes only: 2500 for each of its units in either direction.
    assert!(within(of(None, "tcp"), 30.0 * 5.0 * 2500.0), "{callers:#?}");
    assert_eq!(callers.len(), 3, "{callers:#?}");

    let mutual = known(&telemetry.mutual)[&name("ledger", "ledger")];
    assert!(within(mutual, 90.0), "{mutual}");
}

#[tokio::test]
async fn connections_that_stay_open_and_clusters_elsewhere_are_told() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "store").await;
    let meshed = client(cluster, "writer", Injection::Enabled).await;
    let call = || Edge::new(meshed.clone(), Server::workload("store", "store"));
    let exporter = cluster.exporter();
    // Opened and closed again, which leaves none open; and from a cluster that is not ours.
    exporter.edge(call().rps(10.0).protocol(Protocol::Tcp).from_cluster("far"));
    shows(cluster, "calls from elsewhere", SHORT, |telemetry| {
        (!known(&telemetry.clusters).is_empty()).then_some(())
    })
    .await;
    let telemetry = evidence(cluster).await;
    let far = [("store".into(), ["far".to_owned()].into())];
    assert_eq!(known(&telemetry.clusters), far.into());
    assert_eq!(known(&telemetry.open).get(&name("store", "store")), None);
    let kept = exporter.edge(call().rps(10.0).protocol(Protocol::TcpKept));
    let open = shows(cluster, "open connections", SHORT, |telemetry| {
        known(&telemetry.open).get(&name("store", "store")).copied()
    })
    .await;
    assert!(open >= 1.0, "{open}");
    exporter.remove(kept);
}

#[tokio::test]
async fn one_burst_of_a_caller_never_seen_before_is_seen() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "vault").await;
    let batch = client(cluster, "nightly", Injection::Absent).await;
    shows(cluster, "the server's first reports", SHORT, |telemetry| {
        presence_in(telemetry, "vault").first().cloned()
    })
    .await;
    let telemetry = evidence(cluster).await;
    assert_eq!(callers_of(&telemetry, "vault"), []);

    // Over before the first scrape sees it: one value, which never grows.
    let edge =
        cluster.exporter().edge(Edge::new(batch, Server::workload("vault", "vault")).rps(200.0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.exporter().remove(edge);
    shows(cluster, "the burst", SOON, |telemetry| callers_of(telemetry, "vault").first().cloned())
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let telemetry = evidence(cluster).await;
    let callers = callers_of(&telemetry, "vault");
    assert_eq!(callers.len(), 1, "{callers:#?}");
    assert_eq!(callers[0].source, None, "an unmeshed client has no name");
    assert!((10.0..60.0).contains(&callers[0].count), "{callers:#?}");
    assert!(!known(&telemetry.mutual).contains_key(&name("vault", "vault")));
    // It is forgotten when it leaves the look-back.
    shows(cluster, "silence", LONG, |telemetry| {
        callers_of(telemetry, "vault").is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn presence_covers_through_a_restart_and_shows_gaps() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "stock").await;
    let telemetry = shows(cluster, "the first reports", SHORT, |telemetry| {
        (!presence_in(telemetry, "stock").is_empty()).then(|| telemetry.clone())
    })
    .await;
    let reports = presence_in(&telemetry, "stock");
    let Coverage::Until(time) = covered(&telemetry, &reports) else {
        panic!("a new pod covers {:?}", covered(&telemetry, &reports))
    };
    let (old, first) = (reports[0].0.clone(), reports[0].1.first);
    assert_eq!(time, first + LOOKBACK);
    let whole = |telemetry: &Telemetry| {
        let reports = presence_in(telemetry, "stock");
        (covered(telemetry, &reports) == Coverage::Whole).then(|| telemetry.clone())
    };
    let telemetry = shows(cluster, "whole coverage", LONG, whole).await;
    assert!(telemetry.at >= time - SCRAPE * 3, "covered before its time");

    cluster.rollout_restart("stock", "stock").await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let telemetry = evidence(cluster).await;
    let reports = presence_in(&telemetry, "stock");
    assert_eq!(covered(&telemetry, &reports), Coverage::Whole, "{reports:#?}");
    assert_eq!(reports.len(), 2, "the dead pod is part of it: {reports:#?}");
    let dead = reports.iter().find(|(pod, _)| *pod == old).unwrap().1;
    assert!(dead.last < telemetry.at - SCRAPE * 3, "{dead:?}");
    let living = reports.iter().find(|(pod, _)| *pod != old).unwrap().clone();
    assert!(living.1.last >= telemetry.at - SCRAPE * 3, "{living:?}");

    cluster.exporter().hide_pod("stock", &living.0.name);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let telemetry = evidence(cluster).await;
    let reports = presence_in(&telemetry, "stock");
    assert!(matches!(covered(&telemetry, &reports), Coverage::Gap { .. }), "{reports:#?}");
}

#[tokio::test]
async fn harm_shows_within_three_scrapes_on_both_sides() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "cart").await;
    let web = client(cluster, "web", Injection::Enabled).await;
    let exporter = cluster.exporter();
    let to = || Server::workload("cart", "cart");
    exporter.edge(Edge::new(web.clone(), to()).rps(10.0));
    shows(cluster, "requests in whole windows", SHORT, |telemetry| {
        let requests = edges_to(telemetry, "cart").first()?.requests.clone();
        let last = requests.0.last()?.1;
        (24.0..36.0).contains(&last).then_some(())
    })
    .await;
    let telemetry = evidence(cluster).await;
    let [edge] = &edges_to(&telemetry, "cart")[..] else { panic!("{:#?}", telemetry.edges) };
    assert_eq!(
        (&edge.source, &*edge.service),
        (&name("web", "web"), "cart.cart.svc.cluster.local")
    );
    let sum = |timeline: &meshrollout_core::traffic::Timeline| -> f64 {
        timeline.0.iter().map(|(_, count)| count).sum()
    };
    assert_eq!((sum(&edge.failures), sum(&edge.errors)), (0.0, 0.0));
    assert_eq!(edge.failures.0.len(), 7, "a baseline and the window of the switch");
    assert_eq!(edge.requests.0.last().unwrap().0, telemetry.at);
    let refusals = &known(&telemetry.refusals)[&pod_of(&telemetry, "cart")];
    assert_eq!((refusals.0.len(), sum(refusals)), (7, 0.0), "exported, and none");

    let since = Timestamp::now();
    let begin = Instant::now();
    // One failure is one sample of a series that is born with it.
    let failing = exporter.edge(Edge::new(web, to()).rps(20.0).answered(503, "UF,URX"));
    exporter.refusals("cart", "cart", 5.0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    exporter.remove(failing);
    exporter.refusals("cart", "cart", 0.0);
    exporter.refusals("cart", "cart", 20.0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    exporter.refusals("cart", "cart", 0.0);
    let asked = Question { since: Some(since), ..question() };
    let metrics = source(&cluster.prometheus_url(), "");
    let telemetry = until("failures and refusals", SOON, async || {
        let telemetry = gather(&metrics, &asked, Timestamp::now()).await;
        let edges = edges_to(&telemetry, "cart");
        let failed = edges[0].failures.after(since).sum::<f64>() > 0.0;
        let refusals = &known(&telemetry.refusals)[&pod_of(&telemetry, "cart")];
        let refused = refusals.after(since).sum::<f64>() > 0.0;
        if failed && refused { Ok(telemetry) } else { Err(format!("{edges:#?} {refusals:#?}")) }
    })
    .await
    .unwrap();
    println!("harm seen after {:?}", begin.elapsed());
    let edge = &edges_to(&telemetry, "cart")[0];
    assert_eq!(edge.failures.until(since).sum::<f64>(), 0.0, "{edge:#?}");
    assert!(edge.failures.until(since).count() >= 6, "{edge:#?}");
    assert!((1.0..4.0).contains(&edge.failures.after(since).sum::<f64>()), "{edge:#?}");
    assert_eq!(edge.errors, edge.failures, "a 503 is an error as well");
}

#[tokio::test]
async fn certificates_tell_what_is_left() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    server(cluster, "wallet").await;
    cluster.exporter().certificates("wallet", 1800.0);
    let left = shows(cluster, "the certificate", SHORT, |telemetry| {
        let certificates = known(&telemetry.certificates);
        let pod = presence_in(telemetry, "wallet").first()?.0.clone();
        let left = *certificates.get(&pod)?;
        (left.remaining < SignedDuration::from_secs(2000)).then_some(left)
    })
    .await;
    assert!(left.remaining > SignedDuration::from_secs(1790), "{left:?}");
    assert_eq!(left.lifetime, SignedDuration::from_hours(24));

    let without = source(&cluster.prometheus_url(), ", agentMetrics: false");
    let telemetry = gather(&without, &question(), Timestamp::now()).await;
    let cause = telemetry.certificates.cause().expect("known without the agent's metrics");
    assert!(cause.to_string().contains("agentMetrics"), "{cause}");
    assert!(telemetry.presence.known().is_some());
}

#[tokio::test]
async fn a_control_plane_that_stops_is_missed() {
    let cluster = cluster().await;
    let _alone = ISTIOD.write().await;
    let healthy = |telemetry: &Telemetry| {
        Some(known(&telemetry.control_plane)).filter(|plane| plane.instances == 1)
    };
    let plane = shows(cluster, "a healthy control plane", SHORT, healthy).await;
    println!("{plane:?}");
    assert_eq!((plane.rejects, plane.unsigned), (0.0, 0.0));
    assert!(plane.root_remaining.unwrap() > SignedDuration::from_hours(24 * 300));

    cluster.istiod().stop().await.unwrap();
    shows(cluster, "no instance", SOON, |telemetry| {
        (known(&telemetry.control_plane).instances == 0).then_some(())
    })
    .await;
    cluster.istiod().start().await.unwrap();
    shows(cluster, "the instance again", SHORT, healthy).await;
}

#[tokio::test]
async fn every_fault_of_the_source_is_a_cause_of_its_own() {
    let _istiod = ISTIOD.read().await;
    let cluster = cluster().await;
    let proxy = cluster.metrics_proxy();
    let metrics = source(&proxy.url(), "");
    let ask = async || gather(&metrics, &question(), Timestamp::now()).await;

    // The same number of questions for one namespace and for more.
    for namespace in ["one", "two", "three"] {
        server(cluster, namespace).await;
        shows(cluster, "its reports", SHORT, |telemetry| {
            (!presence_in(telemetry, namespace).is_empty()).then_some(())
        })
        .await;
        proxy.clear_queries();
        let begin = Instant::now();
        let telemetry = ask().await;
        println!("{QUERIES} questions took {:?}", begin.elapsed());
        assert_eq!(causes(&telemetry), [const { None }; 8]);
        assert_eq!(proxy.queries().len(), QUERIES);
    }
    let telemetry = ask().await;
    assert_eq!(known(&telemetry.skew), SignedDuration::ZERO);

    let unavailable: fn(&Cause) -> bool = |cause| matches!(cause, Cause::SourceUnavailable(_));
    let partial: fn(&Cause) -> bool =
        |cause| *cause == Cause::PartialAnswer("incomplete: a store is down".into());
    let faults = [
        (Fault::Refuse, unavailable),
        (Fault::Html, unavailable),
        (Fault::Hang, unavailable),
        (Fault::Warnings("a store is down".into()), partial),
    ];
    for (fault, expected) in faults {
        proxy.set(fault.clone());
        let telemetry = ask().await;
        for cause in causes(&telemetry) {
            let cause = cause.unwrap_or_else(|| panic!("{fault:?}: {telemetry:#?}"));
            assert!(expected(&cause), "{fault:?}: {cause:?}");
        }
    }
    for seconds in [600, -600] {
        proxy.set(Fault::ClockSkew(seconds));
        let skew = known(&ask().await.skew);
        let off = (skew - SignedDuration::from_secs(seconds)).abs();
        assert!(off <= SignedDuration::from_secs(1), "{skew:#}");
    }
    // Success without a sample: nobody is known to report, and no control plane answers.
    proxy.set(Fault::Empty);
    let telemetry = ask().await;
    assert!(known(&telemetry.presence).is_empty() && known(&telemetry.certificates).is_empty());
    assert_eq!(known(&telemetry.control_plane).instances, 0);

    proxy.set(Fault::Missing { namespace: "two".into(), pod: None });
    let telemetry = ask().await;
    assert!(
        presence_in(&telemetry, "two").is_empty() && !presence_in(&telemetry, "one").is_empty()
    );
    proxy.set(Fault::Pass);
    assert_eq!(causes(&ask().await), [const { None }; 8]);
}

fn causes(telemetry: &Telemetry) -> [Option<Cause>; 8] {
    [
        telemetry.skew.cause().cloned(),
        telemetry.callers.cause().cloned(),
        telemetry.mutual.cause().cloned(),
        telemetry.presence.cause().cloned(),
        telemetry.certificates.cause().cloned(),
        telemetry.control_plane.cause().cloned(),
        telemetry.refusals.cause().cloned(),
        telemetry.edges.cause().cloned(),
    ]
}
