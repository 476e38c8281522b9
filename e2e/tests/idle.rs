//! When nothing happens, nothing is written.

use std::time::{Duration, Instant};

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Client, Cluster, Edge, OPERATOR_USER, OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::json;

const NAMESPACES: usize = 50;
const LIMIT: Duration = Duration::from_secs(180);
/// Three evaluations without a word.
const QUIET: Duration = Duration::from_secs(15);
/// As long as the promise speaks of.
const IDLE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn fifty_namespaces_at_rest_cost_no_write_but_the_leases() {
    // Scraped at an everyday pace: a scrape that a busy machine misses is a gap in the evidence,
    // which would rightly be told.
    let scrape_interval = Duration::from_secs(5);
    let options = Options { scrape_interval, ..Options::default() };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.install().await.unwrap();
    cluster.namespace("front", Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new("front", "web")).await.unwrap();
    for number in 0..NAMESPACES {
        let name = format!("shop-{number}");
        cluster.namespace(&name, Injection::Enabled, &[("part-of", "shop")]).await.unwrap();
        // One of them stays blocked: a finding that does not change is not news either.
        let app = Workload::new(&name, "app");
        let app = if number == 7 { app.without_sidecar() } else { app };
        cluster.deploy(&app).await.unwrap();
        let edge = Edge::new(Client::workload("front", "web"), Server::workload(&name, "app"));
        cluster.exporter().edge(edge.rps(5.0));
    }
    let options = OperatorOptions {
        interval: Duration::from_secs(5),
        harm_window: Duration::from_secs(15),
        ..OperatorOptions::default()
    };
    let operator = cluster.operator(&options).await.unwrap();
    let all = Rollout::enforce("all", &[("all", &[])])
        .with("/action", json!("Observe"))
        .with("/gates/plaintext/lookback", json!("60s"))
        .with(
            "/stages/0",
            json!({"name": "all",
            "namespaceSelector": {"matchLabels": {"part-of": "shop"}}}),
        );
    cluster.apply_rollout(&all).await.unwrap();
    cluster.namespace("done", Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new("done", "app")).await.unwrap();
    let edge = Edge::new(Client::workload("front", "web"), Server::workload("done", "app"));
    cluster.exporter().edge(edge.rps(20.0));
    let one = Rollout::enforce("one", &[("only", &["done"])]);
    let one = one.with("/gates/plaintext/lookback", json!("30s"));
    cluster.apply_rollout(&one.with("/stages/0/bake", json!("15s"))).await.unwrap();
    cluster.until_ready_is("one", "Enforced", LIMIT).await.unwrap();
    let observing = cluster.until_ready_is("all", "Observing", LIMIT).await.unwrap();
    assert_eq!(observing.status, "True", "{observing:?}");
    // The look-back fills; until then what is said of it still changes.
    let mut last = cluster.audit_mark().unwrap();
    let mut quiet_since = Instant::now();
    until("the last word about all of them", LIMIT, async || {
        let said = written(&cluster, last);
        if said.is_empty() {
            let quiet = quiet_since.elapsed();
            return if quiet > QUIET { Ok(()) } else { Err(format!("quiet for {quiet:?}")) };
        }
        last = cluster.audit_mark().map_err(|error| error.to_string())?;
        quiet_since = Instant::now();
        Err(said.join("\n"))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));

    let (mark, begin) = (cluster.audit_mark().unwrap(), Instant::now());
    let (queries, evaluations) =
        (cluster.metrics_proxy().queries().len(), evaluated(&operator).await);
    tokio::time::sleep(IDLE).await;
    let said = written(&cluster, mark);
    assert_eq!(said, Vec::<String>::new(), "after {:?}", begin.elapsed());

    let audit = cluster.audit_since(mark).unwrap().by(OPERATOR_USER);
    assert!(audit.clone().of("leases").writes().count() > 10, "the Lease is not renewed");
    let reads = audit.filter(|event| event.verb == "get" || event.verb == "list").reads();
    let reads = reads.filter(|event| {
        event.object_ref.as_ref().is_some_and(|object| object.resource != "leases")
    });
    let evaluations = evaluated(&operator).await - evaluations;
    let queries = cluster.metrics_proxy().queries().len() - queries;
    println!(
        "idle on {NAMESPACES} namespaces for {IDLE:?}: 0 writes, {} reads beyond watches, {evaluations} evaluations, {} queries each, {} MiB resident",
        reads.count(),
        queries / evaluations.max(1),
        operator.memory().unwrap_or_default() / 1024
    );
    assert!(reads.count() <= 2, "{}", reads.summary());
    assert!(evaluations >= 20, "it did not look");
}

/// What the operator wrote since, its Lease left out.
fn written(cluster: &Cluster, mark: meshrollout_e2e::AuditMark) -> Vec<String> {
    let writes =
        cluster.audit_since(mark).unwrap().writes().by(OPERATOR_USER).filter(|event| {
            event.object_ref.as_ref().is_none_or(|object| object.resource != "leases")
        });
    let line = |event: &meshrollout_e2e::Event| {
        let resource = event.object_ref.as_ref().map_or("", |object| object.resource.as_str());
        let body = event.request_object.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} {resource} {} {body}", event.verb, event.object())
    };
    writes.events().iter().map(line).collect()
}

async fn evaluated(operator: &meshrollout_e2e::Operator) -> usize {
    let page = operator.page("/metrics").await.unwrap();
    let counts =
        page.lines().filter_map(|line| line.strip_prefix("meshrollout_evaluations_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
