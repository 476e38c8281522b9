//! The command line against a real cluster: what it says, and how it ends.

use std::process::Output;
use std::time::Duration;

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Cluster, Edge, OperatorOptions, Options, Rollout, Server, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[tokio::test]
async fn preflight_and_explain_tell_what_stands_in_the_way() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.namespace("front", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("good", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("bad", Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new("front", "web")).await.unwrap();
    cluster.deploy(&Workload::new("good", "app")).await.unwrap();
    cluster.deploy(&Workload::new("bad", "app").without_sidecar()).await.unwrap();
    let edge = Edge::new(Client::workload("front", "web"), Server::workload("good", "app"));
    cluster.exporter().edge(edge.rps(40.0));

    // Before anything is installed: objects alone prove nothing, and nothing is written.
    let mark = cluster.audit_mark().unwrap();
    let objects = cluster.meshrollout(&["preflight", "-n", "good"]).await.unwrap();
    assert_eq!(objects.status.code(), Some(2), "{}", said(&objects));
    assert!(said(&objects).contains("Undecided"), "{}", said(&objects));
    let bad = cluster.meshrollout(&["preflight", "-n", "bad"]).await.unwrap();
    assert_eq!(bad.status.code(), Some(1), "{}", said(&bad));
    for word in ["Blocked", "MR0101", "bad/app", "do:"] {
        assert!(said(&bad).contains(word), "{word}: {}", said(&bad));
    }

    // What files say in the fixtures, on a live cluster.
    let speaks = ["tls-check", "--client", "front/web", "--host", "app", "-o", "json"];
    let speaks = cluster.meshrollout(&speaks).await.unwrap();
    assert_eq!(speaks.status.code(), Some(0), "{}", said(&speaks));
    let speaks: Value = serde_json::from_slice(&speaks.stdout).unwrap();
    let rows = speaks["rows"].as_array().unwrap().iter().map(|row| {
        ["serverMode", "wire", "today", "afterStrict"].map(|name| row[name].as_str().unwrap())
    });
    let bad = ["None", "Plaintext", "Plaintext", "Plaintext"];
    let good = ["PERMISSIVE", "ISTIO_MUTUAL", "mTLS", "mTLS"];
    assert_eq!(rows.collect::<Vec<_>>(), [bad, good], "{speaks:#}");

    // With a metrics source, and once the look-back is covered. A day is the default: too long.
    let config = cluster.folder().join("preflight.yaml");
    let text = format!(
        "metricsSources: [{{name: main, url: \"{}\", scrapeInterval: 1s}}]",
        cluster.prometheus_url()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let measured = ["preflight", "-n", "good", "--config", &config, "--metrics-source", "main"];
    let held = until("the source to be asked", LIMIT, async || {
        let output = cluster.meshrollout(&measured).await.map_err(|error| error.to_string())?;
        // Before the first scrape it says MR0306 too, for another reason.
        match said(&output).contains("does not reach back 24h yet") {
            true => Ok(output),
            false => Err(said(&output)),
        }
    });
    let held = held.await.unwrap();
    assert_eq!(held.status.code(), Some(1), "{}", said(&held));
    assert!(said(&held).contains("MR0306"), "{}", said(&held));
    let unknown = ["preflight", "--config", &config, "--metrics-source", "x"];
    let wrong = cluster.meshrollout(&unknown).await.unwrap();
    assert_eq!(wrong.status.code(), Some(65), "{}", said(&wrong));
    let writes = cluster.audit_since(mark).unwrap().writes().by_agent("meshrollout");
    assert_eq!(writes.count(), 0, "{}", writes.summary());

    cluster.install().await.unwrap();
    let none = cluster.meshrollout(&["explain", "shop"]).await.unwrap();
    assert_eq!(none.status.code(), Some(65), "{}", said(&none));
    assert!(said(&none).contains("no MeshRollout shop"), "{}", said(&none));
    let _operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.apply_rollout(&Rollout::enforce("shop", &[("only", &["bad"])])).await.unwrap();
    cluster.until_ready_is("shop", "PodWithoutProxy", LIMIT).await.unwrap();
    cluster.until_state_is("shop", "bad", "Blocked", LIMIT).await.unwrap();
    let explained = cluster.meshrollout(&["explain", "shop"]).await.unwrap();
    for word in ["Ready=False PodWithoutProxy", "Deployment bad/app", "kubectl rollout restart"] {
        assert!(said(&explained).contains(word), "{word}: {}", said(&explained));
    }
    let status = cluster.meshrollout(&["status"]).await.unwrap();
    for word in ["shop", "PodWithoutProxy", "strict 0/1", "Blocked"] {
        assert!(said(&status).contains(word), "{word}: {}", said(&status));
    }
}
