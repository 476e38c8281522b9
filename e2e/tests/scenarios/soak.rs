//! Fifty namespaces at rest and under churn: at rest nothing is written, under churn little, and
//! memory does not grow.
//!
//! SOAK=1          ten minutes of each, and memory is judged; else two minutes at rest, as long as
//!                 the promise speaks of, and less than a minute of churn

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Audit, AuditMark, Client, Cluster, Condition, Edge, Event, OPERATOR_USER, Operator,
    OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::json;

const NAMESPACES: usize = 50;
const LIMIT: Duration = Duration::from_secs(180);
const INTERVAL: Duration = Duration::from_secs(5);
/// Three evaluations without a word.
const QUIET: Duration = Duration::from_secs(15);
const SAMPLE: Duration = Duration::from_secs(3);
/// Between two pods that are replaced.
const PACE: Duration = Duration::from_secs(1);
/// What is told of one pod that goes and one that comes, each at another look: that there are two or
/// none, that the new one does not report yet, that it has not for a whole look-back, and that it
/// has.
const WRITES_A_POD: usize = 4;
/// The allocator's own ups and downs.
const GROWTH: f64 = 1.05;

/// A leader that renews less often than once in this time steps down.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Each replica's own bookkeeping of who leads, not the rollouts'.
const LEADING: [&str; 2] = ["leases", "meshfences"];

#[tokio::test]
async fn fifty_namespaces_cost_no_write_at_rest_few_under_churn_and_no_more_memory() {
    let whole = std::env::var("SOAK").as_deref() == Ok("1");
    let [rest, length] = if whole { [600, 600] } else { [120, 45] }.map(Duration::from_secs);
    let (cluster, operator) = started().await;
    let before = stands(&cluster).await;
    quiet(&cluster).await;

    let idle = Cost::of(&cluster, &operator, rest, std::future::pending()).await;
    let churned = std::cell::Cell::new(0);
    let busy = Cost::of(&cluster, &operator, length, churn(&cluster, &churned)).await;
    let churned = churned.get();
    println!("{NAMESPACES} namespaces, {churned} pods replaced under churn");
    table(&[("at rest", &idle), ("under churn", &busy)]);

    assert_eq!(idle.writes(), 0, "{:?}", idle.said);
    assert!(idle.reads <= 2, "{:?}", idle.said);
    assert!(busy.writes() > 0, "the churn is not seen");
    assert!(busy.writes() <= WRITES_A_POD * churned, "{:?}", busy.wrote);
    assert!(busy.reads <= 1 + minutes(length), "{:?}", busy.said);
    for (cost, length) in [(&idle, rest), (&busy, length)] {
        let renewed = cost.leading.get("update leases").or(cost.leading.get("patch leases"));
        let least = length.as_secs() / RENEW_DEADLINE.as_secs();
        assert!(renewed.is_some_and(|count| *count as u64 >= least), "{:?}", cost.leading);
        assert!(cost.leading.keys().all(|one| !one.contains("create")), "{:?}", cost.leading);
        assert!(cost.evaluations >= length.as_secs() / INTERVAL.as_secs(), "it did not look");
        // Status, reports and events, and no policy.
        let policies = cost.wrote.keys().filter(|one| one.contains("peerauthentications"));
        assert_eq!(policies.count(), 0, "{:?}", cost.wrote);
    }
    // What was said meanwhile is over with it, as soon as the look-back is.
    until("all to stand as before", LIMIT, async || match stands(&cluster).await {
        now if now == before => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await
    .unwrap();
    if whole {
        for cost in [&idle, &busy] {
            let [first, _, last] = cost.thirds();
            assert!(last <= first * GROWTH, "{first:.1} MiB became {last:.1} MiB");
        }
    }
    operator.stop().await.unwrap();
}

/// All of them looked after: one is Enforced, fifty are observed, each by its own gates.
async fn started() -> (Cluster, Operator) {
    // Scraped at an everyday pace: a scrape that a busy machine misses is a gap in the evidence,
    // which would rightly be told.
    let scrape_interval = Duration::from_secs(5);
    let options = Options { scrape_interval, ..Options::default() };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
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
        interval: INTERVAL,
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
    cluster.called(&["done"]).await.unwrap();
    let one = Rollout::enforce("one", &[("only", &["done"])]);
    let one = one.with("/gates/plaintext/lookback", json!("30s"));
    cluster.apply_rollout(&one.with("/stages/0/bake", json!("15s"))).await.unwrap();
    cluster.until_ready_is("one", "Enforced", LIMIT).await.unwrap();
    cluster.until_ready_is("all", "Observing", LIMIT).await.unwrap();
    // The look-back fills; until then what is said of it still changes.
    quiet(&cluster).await;
    (cluster, operator)
}

async fn stands(cluster: &Cluster) -> [Condition; 2] {
    let observing = cluster.until_ready_is("all", "Observing", LIMIT).await.unwrap();
    let enforced = cluster.until_ready_is("one", "Enforced", LIMIT).await.unwrap();
    assert_eq!([observing.status.as_str(), enforced.status.as_str()], ["True"; 2]);
    [observing, enforced]
}

/// Waits until the last word about all of them is said.
async fn quiet(cluster: &Cluster) {
    let mut last = cluster.audit_mark().unwrap();
    let mut quiet_since = Instant::now();
    until("the last word about all of them", LIMIT, async || {
        let audit = cluster.audit_since(last).map_err(|error| error.to_string())?;
        let said: Vec<_> = audit.writes().by(OPERATOR_USER).events().filter_map(said).collect();
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
}

/// What a request of the operator's changed, if it is not about who leads.
fn said(event: &Event) -> Option<String> {
    let about = about(event);
    (!LEADING.contains(&about)).then(|| {
        let body = event.request_object.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} {about} {} {body}", event.verb, event.object())
    })
}

fn about(event: &Event) -> &str {
    event.object_ref.as_ref().map_or("", |object| object.resource.as_str())
}

/// Replaces one pod after the other, of each namespace in turn, for ever.
async fn churn(cluster: &Cluster, churned: &std::cell::Cell<usize>) {
    let mut turn = tokio::time::interval(PACE);
    for number in (0..NAMESPACES).cycle() {
        turn.tick().await;
        let namespace = format!("shop-{number}");
        let pods = Api::<Pod>::namespaced(cluster.client(), &namespace);
        for pod in cluster.pods(&namespace, "app").await.unwrap() {
            if pod.metadata.deletion_timestamp.is_none() {
                pods.delete(&pod.name_any(), &Default::default()).await.unwrap();
                churned.set(churned.get() + 1);
            }
        }
    }
}

/// What the operator did for a while.
#[derive(Debug, Default)]
struct Cost {
    lasted: Duration,
    evaluations: u64,
    queries: usize,
    requests: usize,
    /// Gets and lists.
    reads: usize,
    watches: usize,
    /// Reads and writes by which replicas agree who leads, by verb and resource.
    leading: BTreeMap<String, usize>,
    /// Everything else that was sent to change something, by verb and resource; dry runs included.
    wrote: BTreeMap<String, usize>,
    /// The first of these and of the reads in full.
    said: Vec<String>,
    /// Resident, in KiB.
    memory: Vec<u64>,
}

impl Cost {
    /// Looks on for `length` while something goes on that has no end of its own.
    async fn of(
        cluster: &Cluster,
        operator: &Operator,
        length: Duration,
        meanwhile: impl Future<Output = ()>,
    ) -> Self {
        let (mark, begin) = (cluster.audit_mark().unwrap(), Instant::now());
        let before = (cluster.metrics_proxy().queries().len(), evaluated(operator).await);
        let mut memory = vec![];
        let look_on = async {
            let mut turn = tokio::time::interval(SAMPLE);
            while begin.elapsed() < length {
                turn.tick().await;
                memory.push(operator.memory().unwrap_or_else(|| {
                    let log = operator.log();
                    let lines: Vec<_> = log.lines().collect();
                    panic!("it ended:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
                }));
            }
        };
        tokio::select! {
            () = look_on => {}
            () = meanwhile => panic!("it ended"),
        }
        let mut cost = Self { lasted: begin.elapsed(), ..Self::default() };
        cost.count(cluster, mark);
        cost.queries = cluster.metrics_proxy().queries().len() - before.0;
        cost.evaluations = evaluated(operator).await - before.1;
        cost.memory = memory;
        cost
    }

    fn count(&mut self, cluster: &Cluster, mark: AuditMark) {
        let audit: Audit = cluster.audit_since(mark).unwrap().by(OPERATOR_USER);
        let mut seen = BTreeSet::new();
        for event in audit.events().filter(|event| seen.insert(&event.audit_id)) {
            if event.verb == "watch" && event.stage == "ResponseComplete" {
                // Begun before, and ended now.
                continue;
            }
            self.requests += 1;
            let name = format!("{} {}", event.verb, about(event));
            if LEADING.contains(&about(event)) {
                *self.leading.entry(name).or_default() += 1;
                continue;
            }
            match event.is_write() {
                true => *self.wrote.entry(name).or_default() += 1,
                false if event.verb == "watch" => self.watches += 1,
                false => self.reads += 1,
            }
            if event.verb != "watch" && self.said.len() < 10 {
                self.said.extend(said(event));
            }
        }
    }

    fn writes(&self) -> usize {
        self.wrote.values().sum()
    }

    /// The median of each third of what is left after a fifth of the time, in MiB.
    fn thirds(&self) -> [f64; 3] {
        let warm = &self.memory[self.memory.len() / 5..];
        let third = warm.len() / 3;
        [0, third, warm.len() - third].map(|from| {
            let mut part = warm[from..][..third].to_vec();
            part.sort_unstable();
            #[expect(clippy::cast_precision_loss, reason = "no operator is that large")]
            let median = part[part.len() / 2] as f64;
            median / 1024.0
        })
    }
}

fn minutes(length: Duration) -> usize {
    usize::try_from(length.as_secs() / 60).unwrap()
}

async fn evaluated(operator: &Operator) -> u64 {
    let page = operator.page("/metrics").await.unwrap();
    let counts =
        page.lines().filter_map(|line| line.strip_prefix("meshrollout_evaluations_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn table(costs: &[(&str, &Cost)]) {
    let row = |name: &str, cell: &dyn Fn(&Cost) -> String| {
        let cells = costs.iter().map(|(_, cost)| format!("{:>14}", cell(cost)));
        println!("{name:<34}{}", cells.collect::<String>());
    };
    println!(
        "{:<34}{}",
        "",
        costs.iter().map(|(name, _)| format!("{name:>14}")).collect::<String>()
    );
    let per_minute = |count: usize, cost: &Cost| {
        let count = f64::from(u32::try_from(count).unwrap());
        format!("{:.1}", count * 60.0 / cost.lasted.as_secs_f64())
    };
    row("seconds", &|cost| cost.lasted.as_secs().to_string());
    row("evaluations", &|cost| cost.evaluations.to_string());
    row("queries to the metrics source each", &|cost| {
        (cost.queries as u64 / cost.evaluations.max(1)).to_string()
    });
    row("requests to the apiserver a minute", &|cost| per_minute(cost.requests, cost));
    row("  for the Lease and the MeshFence", &|cost| per_minute(cost.leading.values().sum(), cost));
    row("  watches", &|cost| per_minute(cost.watches, cost));
    row("  other reads", &|cost| per_minute(cost.reads, cost));
    row("  writes", &|cost| per_minute(cost.writes(), cost));
    row("writes in all", &|cost| cost.writes().to_string());
    for (part, name) in ["first", "second", "last"].iter().enumerate() {
        row(&format!("MiB resident, {name} third"), &|cost| format!("{:.1}", cost.thirds()[part]));
    }
    for (name, cost) in costs {
        println!("{name}: who leads: {:?}; written: {:?}", cost.leading, cost.wrote);
    }
}

#[test]
fn memory_that_grows_shows_in_its_thirds_and_a_warm_up_does_not() {
    let of = |memory: Vec<u64>| {
        let [first, _, last] = Cost { memory, ..Cost::default() }.thirds();
        last <= first * GROWTH
    };
    assert!(!of((0..200).map(|number| 40_000 + 40 * number).collect()));
    assert!(of((0..200).map(|number| 40_000 + 40 * number.min(40)).collect()));
}
