//! The harness itself: what it starts works, and nothing of it is left.

use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::leftovers;
use http_body_util::BodyExt;
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Cluster, Edge, Fault, Options, Server, until};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

const SHORT: Duration = Duration::from_secs(60);

/// The cluster of the tests that do not care about its start and end.
async fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<OnceCell<Cluster>> = LazyLock::new(OnceCell::new);
    CLUSTER.get_or_init(async || Cluster::start(Options::default()).await.unwrap()).await
}

/// Held by whoever stops that cluster's Prometheus, and by whoever waits there for a series to go:
/// one that goes while Prometheus is down is not marked stale, and is answered for 5 more minutes.
static PROMETHEUS: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn two_clusters_start_side_by_side_and_leave_nothing() {
    let (one, other) =
        tokio::join!(Cluster::start(Options::default()), Cluster::start(Options::default()));
    let (one, other) = (one.unwrap(), other.unwrap());
    println!("ready after {:?} and {:?}", one.start_up(), other.start_up());
    assert!(one.start_up().max(other.start_up()) < Duration::from_secs(30));

    one.namespace("only-here", Injection::Absent, &[]).await.unwrap();
    let seen = other.kubectl(&["get", "namespace", "only-here"]).await.unwrap();
    assert!(!seen.status.success(), "the clusters are one");

    let (folder, other_folder) = (one.folder().to_owned(), other.folder().to_owned());
    assert!(leftovers::processes_of(&folder.to_string_lossy()) > 5);
    drop(one);
    nothing_left(&folder.to_string_lossy()).await;
    assert!(
        leftovers::processes_of(&other_folder.to_string_lossy()) > 5,
        "the other one is gone as well"
    );
}

#[tokio::test]
async fn nothing_is_left_when_the_parent_dies() {
    for signal in ["KILL", "INT"] {
        let mut up = leftovers::Up::start(&[]);
        assert!(leftovers::processes_of(&up.folder) > 5);

        let kill = format!("kill -{signal} {}", up.parent.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        up.parent.wait().unwrap();
        nothing_left(&up.folder).await;
    }
}

#[tokio::test]
async fn a_panic_stops_the_programs_and_keeps_the_logs() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = cluster.folder().to_owned();
    let task = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("a test fails");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(leftovers::processes_of(&folder.to_string_lossy()), 0);
    assert!(folder.join("istiod.log").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn istiod_can_be_stopped_and_started_again() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.namespace("meshed", Injection::Enabled, &[]).await.unwrap();
    cluster.istiod().stop().await.unwrap();
    available_istiods(&cluster, "").await;
    let app = Workload::new("meshed", "app");
    let waited = tokio::time::timeout(Duration::from_secs(3), cluster.deploy(&app)).await;
    assert!(waited.is_err(), "a pod came up without the injector");

    cluster.istiod().start().await.unwrap();
    available_istiods(&cluster, "1").await;
    cluster.rollout_restart("meshed", "app").await.unwrap();
    assert!(is_injected(&cluster, "meshed", "app").await);
}

#[tokio::test]
async fn audit_tells_who_wrote_what() {
    let cluster = cluster().await;
    cluster.namespace("audited", Injection::Absent, &[]).await.unwrap();
    let mark = cluster.audit_mark().unwrap();
    cluster.peer_authentication("audited", "default", "PERMISSIVE").await.unwrap();

    let user = cluster.kubeconfig_for("meshrollout-operator", Some("system:masters")).unwrap();
    let output = Command::new(cluster.program("kubectl"))
        .arg(format!("--kubeconfig={}", user.display()))
        .args(["-n", "audited", "patch", "peerauthentication", "default", "--type=merge"])
        .arg(r#"-p={"spec":{"mtls":{"mode":"STRICT"}}}"#)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let writes = cluster.audit_since(mark).unwrap().writes().of("peerauthentications");
    let writes = writes.within("audited").accepted();
    let by_operator = writes.clone().by("meshrollout-operator").by_agent("kubectl");
    assert_eq!(by_operator.count(), 1, "{}", writes.summary());
    let event = &by_operator.events().next().unwrap();
    assert_eq!(event.object(), "audited/default");
    assert_eq!(event.request_object.as_ref().unwrap()["spec"]["mtls"]["mode"], "STRICT");
    assert_eq!(writes.clone().by("admin").count(), 1, "{}", writes.summary());
    assert_eq!(writes.not_by_system().count(), 2);
}

#[tokio::test]
async fn a_pods_series_come_and_go_in_prometheus_with_the_pod() {
    let cluster = cluster().await;
    let _undisturbed = PROMETHEUS.lock().await;
    cluster.namespace("measured", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("outside", Injection::Absent, &[]).await.unwrap();
    cluster.deploy(&Workload::new("measured", "server").replicas(2)).await.unwrap();
    cluster.deploy(&Workload::new("outside", "client")).await.unwrap();
    let begin = Instant::now();
    let exporter = cluster.exporter();
    let from = Client::workload("outside", "client");
    let edge = exporter.edge(Edge::new(from, Server::workload("measured", "server")).rps(50.0));
    let plaintext = r#"istio_requests_total{destination_workload_namespace="measured",connection_security_policy="none"}"#;
    samples(cluster, plaintext, 2).await;
    println!("series seen after {:?}, scraped every second", begin.elapsed());

    // The same client with a sidecar sends mutual TLS, and reports its own side.
    cluster.label_namespace("outside", "istio-injection", Some("enabled")).await.unwrap();
    cluster.rollout_restart("outside", "client").await.unwrap();
    let mutual = plaintext.replace("none", "mutual_tls");
    let rows = samples(cluster, &mutual, 2).await;
    let principal = &rows[0]["metric"]["source_principal"];
    assert_eq!(principal, "spiffe://cluster.local/ns/outside/sa/client");
    samples(cluster, r#"istio_requests_total{reporter="source",namespace="outside"}"#, 1).await;

    exporter.hide_namespace("measured");
    samples(cluster, r#"istio_build{namespace="measured"}"#, 0).await;
    exporter.show_all();
    samples(cluster, r#"istio_build{namespace="measured"}"#, 2).await;
    cluster.scale("measured", "server", 1).await.unwrap();
    samples(cluster, r#"istio_build{namespace="measured"}"#, 1).await;
    exporter.remove(edge);
}

#[tokio::test]
async fn the_metrics_source_fails_as_told() {
    let cluster = cluster().await;
    let _undisturbed = PROMETHEUS.lock().await;
    let proxy = cluster.metrics_proxy();
    let ask =
        async |promql: &str| curl(&proxy.url(), &format!("/api/v1/query?query={promql}")).await;
    let ups = |answer: &str| -> usize {
        let json: Value = serde_json::from_str(answer).unwrap();
        json["data"]["result"].as_array().unwrap().len()
    };
    let everything = ask("up").await;
    assert_eq!(ups(&everything), 2, "{everything}");

    proxy.set(Fault::Warnings("partial data".to_owned()));
    assert!(ask("up").await.contains(r#""warnings":["partial data"]"#));
    proxy.set(Fault::Empty);
    assert_eq!(ups(&ask("up").await), 0);
    proxy.set(Fault::Missing { namespace: "istio-system".to_owned(), pod: None });
    assert_eq!(ups(&ask("up").await), 1);
    proxy.set(Fault::Html);
    assert!(ask("up").await.starts_with("<!doctype html>"));
    proxy.set(Fault::Refuse);
    assert_eq!(ask("up").await, "no upstream");
    proxy.set(Fault::Hang);
    let hung = tokio::time::timeout(Duration::from_secs(1), ask("up")).await;
    assert!(hung.is_err());
    proxy.set(Fault::ClockSkew(600));
    let skewed: Value = serde_json::from_str(&ask("time()").await).unwrap();
    let seconds: f64 = skewed["data"]["result"][1].as_str().unwrap().parse().unwrap();
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((590.0..610.0).contains(&(seconds - now)), "{skewed}");
    proxy.set(Fault::Pass);
    assert_eq!(ups(&ask("up").await), 2);

    cluster.prometheus().stop().await;
    assert!(cluster.prometheus().query("up").await.is_err());
    cluster.prometheus().start().await.unwrap();
    samples(cluster, "up", 2).await;
}

/// Waits until a query yields this many samples.
async fn samples(cluster: &Cluster, promql: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} samples of {promql}"), SHORT, async || {
        let samples =
            cluster.prometheus().query(promql).await.map_err(|error| error.to_string())?;
        if samples.len() == count { Ok(samples) } else { Err(format!("{}", samples.len())) }
    })
    .await
    .unwrap()
}

async fn available_istiods(cluster: &Cluster, count: &str) {
    let path = "jsonpath={.status.availableReplicas}";
    until("istiod's Deployment to follow its process", SHORT, async || {
        let output = cluster
            .kubectl(&["get", "deployment", "istiod", "-n", "istio-system", "-o", path])
            .await
            .map_err(|error| error.to_string())?;
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        if seen == count { Ok(()) } else { Err(seen) }
    })
    .await
    .unwrap();
}

async fn is_injected(cluster: &Cluster, namespace: &str, name: &str) -> bool {
    let pods = cluster.pods(namespace, name).await.unwrap();
    pods.iter().all(|pod| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.into_iter().any(|container| container.name == "istio-proxy")
    })
}

async fn curl(server: &str, path: &str) -> String {
    let mut config = kube::Config::new(server.parse().unwrap());
    // A fault is to be seen at once.
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
    let answer = client.send(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

async fn nothing_left(folder: &str) {
    until("the programs and the folder to be gone", SHORT, async || {
        match (leftovers::processes_of(folder), std::path::Path::new(folder).exists()) {
            (0, false) => Ok(()),
            (processes, exists) => Err(format!("{processes} processes, folder: {exists}")),
        }
    })
    .await
    .unwrap();
}
