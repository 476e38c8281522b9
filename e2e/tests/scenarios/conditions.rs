//! Every situation of a rollout as people and programs read it: conditions by `kubectl wait`,
//! the columns of `kubectl get`, events.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Client, Cluster, Edge, OPERATOR_USER, OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const LIMIT: Duration = Duration::from_secs(150);

/// One operator acts in a cluster, and one test needs another than the rest: they take turns.
async fn cluster() -> (&'static Cluster, MutexGuard<'static, ()>) {
    static CLUSTER: LazyLock<OnceCell<Cluster>> = LazyLock::new(OnceCell::new);
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let cluster = CLUSTER.get_or_init(async || {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install().await.unwrap();
        for (name, workload) in [("front", "web"), ("row", "app"), ("refused", "app")] {
            cluster.namespace(name, Injection::Enabled, &[]).await.unwrap();
            cluster.deploy(&Workload::new(name, workload)).await.unwrap();
        }
        cluster.exporter().edge(call("front", "web").rps(40.0));
        cluster
    });
    (cluster.await, turn)
}

fn call(namespace: &str, name: &str) -> Edge {
    Edge::new(Client::workload(namespace, name), Server::workload("row", "app"))
}

async fn patch(cluster: &Cluster, spec: Value) {
    let patch = json!({"spec": spec}).to_string();
    let args = ["patch", "meshrollout", "table", "--type=merge", "-p", &patch];
    cluster.kubectl_text(&args).await.unwrap();
}

/// A row of the table of conditions: Accepted, GatesPassed, Enforced, Reconciling, Stalled and
/// Ready, each read back by `kubectl wait`, and Ready's reason.
async fn row(cluster: &Cluster, rollout: &str, reason: &str, statuses: [&str; 6]) {
    let object = format!("meshrollout/{rollout}");
    let ready = r#"{.status.conditions[?(@.type=="Ready")].reason}"#;
    let kinds = ["Accepted", "GatesPassed", "Enforced", "Reconciling", "Stalled", "Ready"];
    let mut all = vec![format!("--for=jsonpath={ready}={reason}")];
    all.extend(kinds.iter().zip(statuses).map(|(kind, it)| format!("--for=condition={kind}={it}")));
    for condition in all {
        let waited = cluster.kubectl_text(&["wait", &object, &condition, "--timeout=60s"]).await;
        if let Err(error) = waited {
            let stored = cluster.rollout(rollout).await.unwrap();
            panic!("{reason}: {condition}: {error}\n{:#}", stored["status"]);
        }
    }
}

/// The words of the header and of the one line below it, by the header's own columns.
async fn columns(cluster: &Cluster, args: &[&str]) -> Vec<(String, String)> {
    let table = cluster.kubectl_text(args).await.unwrap();
    let mut lines = table.lines();
    let (header, line) = (lines.next().unwrap(), lines.next().unwrap());
    let line: Vec<char> = line.chars().collect();
    let (mut columns, mut end) = (vec![], line.len().max(header.len()));
    // From the last one back: AGE is in STAGE and in MESSAGE, too.
    for name in header.split_whitespace().rev() {
        let start = header[..end.min(header.len())].rfind(name).unwrap();
        let cell: String = line.iter().take(end).skip(start).collect();
        columns.push((name.to_owned(), cell.trim().to_owned()));
        end = start;
    }
    columns.reverse();
    columns
}

fn names(columns: &[(String, String)]) -> Vec<&str> {
    columns.iter().map(|(name, _)| name.as_str()).collect()
}

fn cell<'a>(columns: &'a [(String, String)], name: &str) -> &'a str {
    &columns.iter().find(|(column, _)| column == name).unwrap().1
}

/// The events about a rollout: type, reason, note, and the namespace each is about, if any.
async fn events(cluster: &Cluster, rollout: &str) -> Vec<Value> {
    let args = ["get", "events.v1.events.k8s.io", "-n", "default", "-o", "json"];
    let list: Value = serde_json::from_str(&cluster.kubectl_text(&args).await.unwrap()).unwrap();
    let about = |it: &&Value| {
        it["regarding"]["kind"] == "MeshRollout" && it["regarding"]["name"] == rollout
    };
    list["items"].as_array().unwrap().iter().filter(about).cloned().collect()
}

#[tokio::test]
async fn a_spec_that_cannot_be_used_is_not_accepted_and_says_why() {
    let (cluster, _turn) = cluster().await;
    let options = OperatorOptions { allow_short_times: false, ..OperatorOptions::default() };
    let operator = cluster.operator(&options).await.unwrap();
    let stages: [(&str, &[&str]); 1] = [("only", &["refused"])];
    let refused = ["False", "Unknown", "Unknown", "False", "True", "False"];

    let unknown = Rollout::enforce("unknown", &stages).with("/metricsSource/name", json!("maim"));
    cluster.apply_rollout(&unknown).await.unwrap();
    row(cluster, "unknown", "MetricsSourceUnknown", refused).await;
    let accepted = cluster.condition("unknown", "Accepted").await.unwrap();
    assert_eq!(accepted.reason, "MetricsSourceUnknown");
    assert!(accepted.message.contains("\"maim\"") && accepted.message.contains("main"));

    cluster.apply_rollout(&Rollout::enforce("short", &stages)).await.unwrap();
    row(cluster, "short", "InvalidSpec", refused).await;
    let accepted = cluster.condition("short", "Accepted").await.unwrap();
    assert!(accepted.message.starts_with("spec.stages[0].bake: 4s is too short"), "{accepted:?}");

    let root = Rollout::enforce("root", &[("only", &["istio-system"])])
        .with("/stages/0/bake", json!("5m"));
    cluster.apply_rollout(&root).await.unwrap();
    row(cluster, "root", "RootNamespaceInScope", refused).await;

    let shown = columns(cluster, &["get", "meshrollout", "short"]).await;
    assert_eq!((cell(&shown, "READY"), cell(&shown, "REASON")), ("False", "InvalidSpec"));
    let told = events(cluster, "short").await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((&told[0]["type"], &told[0]["reason"]), (&json!("Warning"), &json!("InvalidSpec")));
    assert_eq!(cluster.policy_mode("refused").await.unwrap(), None);
    assert_eq!(cluster.policy_mode("istio-system").await.unwrap(), None);

    // Mended, it is accepted without a restart.
    let mended = Rollout::enforce("short", &stages)
        .with("/stages/0/bake", json!("5m"))
        .with("/action", json!("Observe"));
    cluster.apply_rollout(&mended).await.unwrap();
    let wait = ["wait", "meshrollout/short", "--for=condition=Accepted", "--timeout=60s"];
    cluster.kubectl_text(&wait).await.unwrap();
    for name in ["unknown", "short", "root"] {
        cluster.delete("meshrollout", "default", name).await.unwrap();
    }
    // Their reports go with them, a moment later; the other test counts those that are there.
    until("the reports to be gone", LIMIT, async || {
        let reports = cluster.report_names().await.map_err(|error| error.to_string())?;
        if reports.is_empty() { Ok(()) } else { Err(format!("{reports:?}")) }
    })
    .await
    .unwrap();
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn every_situation_of_an_accepted_rollout_reads_as_documented() {
    let (cluster, _turn) = cluster().await;
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let exporter = cluster.exporter();

    // Observing: a verdict, and never a write.
    let plaintext = exporter.edge(call("front", "web").rps(5.0).plaintext());
    let rollout = Rollout::enforce("table", &[("only", &["row"])])
        .with("/stages/0/soak", json!("8s"))
        .with("/stages/0/bake", json!("10m"))
        .with("/action", json!("Observe"));
    cluster.apply_rollout(&rollout).await.unwrap();
    row(cluster, "table", "Observing", ["True", "False", "Unknown", "False", "False", "True"])
        .await;
    exporter.remove(plaintext);
    row(cluster, "table", "Observing", ["True", "True", "Unknown", "False", "False", "True"]).await;
    assert_eq!(cluster.policy_mode("row").await.unwrap(), None);

    // A person must act.
    let plaintext = exporter.edge(call("front", "web").rps(5.0).plaintext());
    patch(cluster, json!({"action": "Enforce"})).await;
    row(cluster, "table", "PodIpTraffic", ["True", "False", "False", "True", "False", "False"])
        .await;
    let shown = columns(cluster, &["get", "meshrollouts"]).await;
    let documented = ["NAME", "READY", "REASON", "STAGE", "STRICT", "BLOCKED-BY", "MESSAGE", "AGE"];
    assert_eq!(names(&shown), documented);
    assert_eq!(cell(&shown, "NAME"), "table");
    assert_eq!((cell(&shown, "READY"), cell(&shown, "REASON")), ("False", "PodIpTraffic"));
    assert_eq!((cell(&shown, "STAGE"), cell(&shown, "STRICT")), ("only", "0/1"));
    assert!(cell(&shown, "BLOCKED-BY").starts_with("MR0203 row/app"), "{shown:?}");
    assert!(cell(&shown, "MESSAGE").contains("front/web"), "{shown:?}");
    let shown = columns(cluster, &["get", "meshreports", "-A"]).await;
    let documented = ["NAMESPACE", "NAME", "STATE", "STRICT", "FINDINGS", "MESSAGE", "AGE"];
    assert_eq!(names(&shown), documented);
    assert_eq!((cell(&shown, "NAMESPACE"), cell(&shown, "NAME")), ("row", "table"));
    assert_eq!((cell(&shown, "STATE"), cell(&shown, "STRICT")), ("Blocked", "0/1"));
    assert!(cell(&shown, "MESSAGE").contains("front/web"), "{shown:?}");
    exporter.remove(plaintext);

    // Proving, paused, watching.
    row(cluster, "table", "Soaking", ["True", "True", "False", "True", "False", "False"]).await;
    patch(cluster, json!({"paused": true})).await;
    row(cluster, "table", "Paused", ["True", "True", "False", "False", "False", "False"]).await;
    patch(cluster, json!({"paused": false})).await;
    row(cluster, "table", "Watching", ["True", "True", "False", "True", "False", "False"]).await;

    // Stopped by a person, and by harm.
    let stopped = ["True", "False", "False", "False", "True", "False"];
    let asked = "meshrollout.dev/abort=2026-01-01T00:00:00Z";
    cluster.kubectl_text(&["annotate", "meshrollout", "table", asked]).await.unwrap();
    row(cluster, "table", "Aborted", stopped).await;
    assert!(cluster.meshrollout(&["retry", "table"]).await.unwrap().status.success());
    row(cluster, "table", "Watching", ["True", "True", "False", "True", "False", "False"]).await;
    let failing = exporter.edge(call("front", "web").rps(5.0).answered(503, "UC"));
    row(cluster, "table", "RolledBack", stopped).await;
    exporter.remove(failing);
    patch(
        cluster,
        json!({"stages": [
            {"name": "only", "namespaces": ["row"], "soak": "3s", "bake": "4s"},
        ]}),
    )
    .await;
    assert!(cluster.meshrollout(&["retry", "table"]).await.unwrap().status.success());

    // All enforced; paused then, too.
    let enforced = ["True", "True", "True", "False", "False", "True"];
    row(cluster, "table", "Enforced", enforced).await;
    patch(cluster, json!({"paused": true})).await;
    operator.evaluated("table", 2, LIMIT).await.unwrap();
    row(cluster, "table", "Enforced", enforced).await;
    let shown = columns(cluster, &["get", "meshrollouts"]).await;
    assert_eq!((cell(&shown, "READY"), cell(&shown, "STRICT")), ("True", "1/1"));
    assert_eq!((cell(&shown, "STAGE"), cell(&shown, "BLOCKED-BY")), ("", ""));
    let shown = columns(cluster, &["get", "meshreports", "-n", "row"]).await;
    assert_eq!((cell(&shown, "STATE"), cell(&shown, "STRICT")), ("Enforced", "1/1"));
    patch(cluster, json!({"paused": false})).await;

    // Guarded from now on: told, and never weakened nor fought over.
    let mark = cluster.audit_mark().unwrap();
    let broken = ["True", "False", "False", "True", "False", "False"];
    let plaintext = exporter.edge(call("front", "web").rps(5.0).plaintext());
    row(cluster, "table", "PodIpTraffic", broken).await;
    assert_eq!(cluster.policy_mode("row").await.unwrap().as_deref(), Some("STRICT"));
    exporter.remove(plaintext);
    row(cluster, "table", "Enforced", enforced).await;
    let edit = r#"{"spec":{"mtls":{"mode":"PERMISSIVE"}}}"#;
    let args = ["patch", "peerauthentication", "default", "-n", "row", "--type=merge", "-p", edit];
    cluster.kubectl_text(&args).await.unwrap();
    row(cluster, "table", "PolicyDrifted", broken).await;
    operator.evaluated("table", 3, LIMIT).await.unwrap();
    assert_eq!(cluster.policy_mode("row").await.unwrap().as_deref(), Some("PERMISSIVE"));
    let since = cluster.audit_since(mark).unwrap().by(OPERATOR_USER).modes_written();
    assert_eq!(since, [""; 0]);

    // One event for each turn, none for standing still.
    let told = events(cluster, "table").await;
    let of = |kind: &str| -> BTreeSet<String> {
        let those = told.iter().filter(|event| event["type"] == kind);
        those.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    };
    for reason in ["Soaking", "Paused", "Watching", "Enforced"] {
        assert!(of("Normal").contains(reason), "{reason}: {:?}", of("Normal"));
    }
    for reason in ["PodIpTraffic", "RolledBack", "Aborted", "PolicyDrifted"] {
        assert!(of("Warning").contains(reason), "{reason}: {:?}", of("Warning"));
    }
    assert!(told.iter().all(|event| event["reportingController"] == "meshrollout"), "{told:#?}");
    let moved = told.iter().find(|event| event["related"]["name"] == "row");
    assert!(moved.is_some_and(|event| event["related"]["kind"] == "Namespace"), "{told:#?}");
    operator.evaluated("table", 3, LIMIT).await.unwrap();
    assert_eq!(events(cluster, "table").await, told);
    cluster.delete("meshrollout", "default", "table").await.unwrap();
    operator.stop().await.unwrap();
}
