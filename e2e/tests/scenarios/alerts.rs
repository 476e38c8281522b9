//! The chart's alerts and its dashboard: evaluated by the real Prometheus over a run in which a
//! rollout is taken back, another one drifts, evidence is missing, and in the end nobody leads.
//!
//! DASHBOARD=FILE.html    draw the dashboard as it looks then, to be looked at

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use meshrollout_e2e::{
    Client, Cluster, Edge, Fault, OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/meshrollout/files");

fn rules() -> String {
    std::fs::read_to_string(format!("{FILES}/alerts.yaml")).unwrap()
}

/// The same, without an hour's patience: how long each waits is `promtool`'s to test.
fn impatient() -> String {
    let patient = |line: &str| line.trim_start().starts_with("for: ");
    let line = |line: &str| if patient(line) { "    for: 1s".to_owned() } else { line.to_owned() };
    rules().replace("[15m]", "[10s]").lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The queries of the dashboard, for all rollouts and a scrape each second.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{FILES}/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        let filled = |target: Value| {
            let query = target["expr"].as_str().unwrap();
            query.replace("$rollout", ".*").replace("$__rate_interval", "10s")
        };
        targets.into_iter().map(move |target| (title.clone(), filled(target))).collect::<Vec<_>>()
    };
    panels.iter().flat_map(of).collect()
}

async fn firing(cluster: &Cluster) -> Result<BTreeSet<String>, String> {
    let alerts = cluster.prometheus().query(r#"ALERTS{alertstate="firing"}"#).await;
    let alerts = alerts.map_err(|error| error.to_string())?;
    Ok(alerts.iter().map(|it| it["metric"]["alertname"].as_str().unwrap().to_owned()).collect())
}

async fn until_firing(
    cluster: &Cluster,
    wanted: &[&str],
    enough: impl Fn(&BTreeSet<String>, &BTreeSet<String>) -> bool,
) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    until(&format!("{wanted:?} to fire"), LIMIT, async || match firing(cluster).await? {
        now if enough(&now, &wanted) => Ok(()),
        now => Err(format!("{now:?} do")),
    })
    .await
    .unwrap();
}

#[test]
fn each_alert_wakes_whom_it_should_and_nobody_else() {
    let promtool = Cluster::tool("promtool").unwrap();
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/alerts.yaml");
    let ran = Command::new(promtool).args(["test", "rules", tests]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    // And each has its page, with the same words.
    let manual = include_str!("../../../src/manual/alerts.md");
    for rule in rules().split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let expr = rule.lines().find_map(|line| line.trim().strip_prefix("expr: '")).unwrap();
        let expr = expr.trim_end_matches('\'');
        assert!(manual.contains(&format!("## {name}\n")), "{name}");
        assert!(manual.contains(expr), "{name} goes by {expr}");
    }
}

/// The dashboard over the time since the beginning.
fn draw(cluster: &Cluster, since: Duration, file: &Path) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/draw-dashboard");
    let seconds = since.as_secs().to_string();
    let asked = [cluster.prometheus_url(), seconds];
    let drawn = Command::new(program).args(asked).output().unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    std::fs::write(file, drawn.stdout).unwrap();
}

#[tokio::test]
async fn a_run_that_goes_wrong_fires_what_it_should_and_the_dashboard_shows_it() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let begin = Instant::now();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.prometheus().watch(operator.scraped_at(), &impatient()).await.unwrap();
    cluster.called(&["good", "taken", "drifts"]).await.unwrap();
    for name in ["good", "taken", "drifts"] {
        let rollout = Rollout::enforce(name, &[("only", &[name])]);
        let bake = if name == "taken" { "10m" } else { "4s" };
        cluster.apply_rollout(&rollout.with("/stages/0/bake", json!(bake))).await.unwrap();
    }
    for name in ["good", "drifts"] {
        cluster.until_ready_is(name, "Enforced", LIMIT).await.unwrap();
    }
    // Of a rollout that asks the sidecars nothing is known here: none can be scraped.
    let asks = Rollout::enforce("asks", &[("only", &["good"])]).asking_sidecars();
    cluster.apply_rollout(&asks.with("/action", json!("Observe"))).await.unwrap();
    cluster.until_state_is("taken", "taken", "Watching", LIMIT).await.unwrap();
    cluster.delete("meshrollout", "default", "asks").await.unwrap();
    operator.evaluated("good", 3, LIMIT).await.unwrap();

    // Harm.
    let refused = Edge::new(Client::workload("front", "web"), Server::workload("taken", "app"));
    cluster.exporter().edge(refused.rps(2.0).answered(503, "UC"));
    let ready = cluster.until_ready_is("taken", "RolledBack", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False");
    let told = ["MeshrolloutRolledBack", "MeshrolloutStalled"];
    until_firing(&cluster, &told, BTreeSet::is_superset).await;

    // Another hand, with the right to break the glass.
    cluster.peer_authentication("drifts", "default", "PERMISSIVE").await.unwrap();
    let told = ["MeshrolloutDrifted", "MeshrolloutBlocked"];
    until_firing(&cluster, &told, BTreeSet::is_superset).await;

    // Every metric is on a panel or in an alert, and none of theirs is of nobody's.
    let named = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let metrics = words.filter(|word| word.starts_with("meshrollout_"));
        let base = |word: &str| {
            let ends = ["_total", "_bucket", "_sum", "_count"];
            ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        };
        metrics.map(base).collect()
    };
    let page = operator.page("/metrics").await.unwrap();
    let help: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    let told: BTreeSet<String> =
        help.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let asked = queries();
    let mut used = named(&rules());
    used.extend(asked.iter().flat_map(|(_, query)| named(query)));
    assert_eq!(told, used);
    // Each panel has something to show.
    for (title, query) in &asked {
        let samples = cluster.prometheus().query(query).await.unwrap();
        println!("{title}: {} series", samples.len());
        assert!(!samples.is_empty(), "{title}: {query}\n{page}");
    }

    // No evidence, and then nobody.
    cluster.metrics_proxy().set(Fault::Refuse);
    until_firing(&cluster, &["MeshrolloutUnknownTooLong"], BTreeSet::is_superset).await;
    if let Some(file) = std::env::var_os("DASHBOARD") {
        draw(&cluster, begin.elapsed(), Path::new(&file));
    }
    operator.stop().await.unwrap();
    // What a replica that is gone has said is not held against the next one.
    let left = ["MeshrolloutNoLeader", "MeshrolloutUnknownTooLong"];
    until_firing(&cluster, &left, BTreeSet::eq).await;
}
