//! Old truth: the operator's watches are held back while the cluster changes. What it believes is
//! as it was; what it reads again before STRICT is not.

use std::time::{Duration, Instant};

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Client, Cluster, Edge, FaultProxy, Operator, OperatorOptions, Options, Rollout, Schedule,
    Server, until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(300);
/// Each of these changes after the watches fell silent; nothing does in the last one.
const CHANGED: [&str; 5] = ["pods", "rules", "policies", "paused", "labelled"];
const UNCHANGED: &str = "unchanged";
/// Nobody calls this one at first: what it waits for is told by the metrics source, not by a watch.
const UNCALLED: &str = "uncalled";
/// Long enough for all the changes to be made in it, on a busy machine too.
const SOAK: Duration = Duration::from_secs(45);

/// A cluster with these namespaces, and an operator whose watches can be held back.
async fn started(namespaces: &[&str], stale_watch: &str) -> (Cluster, FaultProxy, Operator) {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    cluster.called(namespaces).await.unwrap();
    let proxy = cluster.fault_proxy(Schedule::QUIET, vec![]).await.unwrap();
    let options = OperatorOptions {
        apiserver: Some(proxy.url()),
        config: format!("drain: 1s\nproxyAcknowledgement: 1s\nstaleWatch: {stale_watch}\n"),
        ..OperatorOptions::default()
    };
    let operator = cluster.operator(&options).await.unwrap();
    (cluster, proxy, operator)
}

async fn until_mode(cluster: &Cluster, operator: &Operator, namespace: &str, mode: &str) {
    until(&format!("{namespace} to be {mode}"), LIMIT, async || {
        match cluster.policy_mode(namespace).await.unwrap().as_deref() {
            Some(now) if now == mode => Ok(()),
            other => Err(format!("{other:?}\n{}", operator.log())),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_strict_on_old_truth() {
    let namespaces: Vec<_> = CHANGED.into_iter().chain([UNCHANGED]).collect();
    // The limit on a watch's age is another guard; here it must not help.
    let (cluster, proxy, operator) = started(&namespaces, "1h").await;
    let cluster = &cluster;
    cluster.label_namespace("labelled", "wave", Some("labelled")).await.unwrap();
    cluster.namespace(UNCALLED, Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new(UNCALLED, "app")).await.unwrap();
    let uncalled =
        Rollout::enforce(UNCALLED, &[("only", &[UNCALLED])]).with("/stages/0/bake", json!("10m"));
    cluster.apply_rollout(&uncalled).await.unwrap();
    for name in CHANGED.iter().chain([&UNCHANGED]) {
        let rollout = Rollout::enforce(name, &[("only", &[name])])
            .with("/stages/0/soak", json!(format!("{}s", SOAK.as_secs())))
            .with("/stages/0/bake", json!("10m"));
        let rollout = match *name {
            // Leaves a selector by its label.
            "labelled" => rollout.with(
                "/stages/0",
                json!({
                    "name": "only", "soak": format!("{}s", SOAK.as_secs()), "bake": "10m",
                    "namespaceSelector": {"matchLabels": {"wave": name}},
                }),
            ),
            _ => rollout,
        };
        cluster.apply_rollout(&rollout).await.unwrap();
    }
    for name in CHANGED.iter().chain([&UNCHANGED]) {
        let ready = cluster.until_ready_is(name, "Soaking", LIMIT).await;
        ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    }
    cluster.until_state_is(UNCALLED, UNCALLED, "Proving", LIMIT).await.unwrap();
    proxy.silence_watches(true);
    let silent = Instant::now();
    let mark = cluster.audit_mark().unwrap();
    let bare = Workload::new("pods", "bare").without_sidecar();
    let pause = r#"{"spec":{"paused":true}}"#;
    let pause = ["patch", "meshrollout", "paused", "--type=merge", "-p", pause];
    let all = tokio::join!(
        cluster.deploy(&bare),
        cluster.destination_rule("rules", "off", "app.rules.svc.cluster.local", "DISABLE"),
        cluster.peer_authentication("policies", "house-rules", "PERMISSIVE"),
        cluster.kubectl_text(&pause),
        cluster.label_namespace("labelled", "wave", Some("another")),
    );
    assert!(
        all.0.is_ok() && all.1.is_ok() && all.2.is_ok() && all.3.is_ok() && all.4.is_ok(),
        "{all:?}"
    );

    // What did not change goes on: the re-read lets it through.
    until_mode(cluster, &operator, UNCHANGED, "STRICT").await;
    // Every soak that had begun before the silence is over, and everybody was looked at again.
    tokio::time::sleep(SOAK.saturating_sub(silent.elapsed())).await;
    for name in CHANGED {
        operator.evaluated(name, 5, LIMIT).await.unwrap();
    }
    let strict: Vec<_> = cluster
        .audit_since(mark)
        .unwrap()
        .of("peerauthentications")
        .writes()
        .accepted()
        .modes_written()
        .into_iter()
        .filter(|written| written.ends_with("STRICT"))
        .collect();
    assert_eq!(strict, [format!("{UNCHANGED}/default STRICT")]);

    // Nor has a watch told that our own definitions are another version's now.
    let reports = "meshreports.meshrollout.dev";
    let ours = cluster.mark_definition(reports, "0123456789abcdef").await.unwrap();
    let call = Edge::new(Client::workload("front", "web"), Server::workload(UNCALLED, "app"));
    cluster.exporter().edge(call.rps(40.0));
    until("the definitions to be read again", LIMIT, async || {
        let mode = cluster.policy_mode(UNCALLED).await.unwrap();
        assert_ne!(mode.as_deref(), Some("STRICT"), "under definitions of another version");
        let report = cluster.report(UNCALLED, UNCALLED).await.map_err(|error| error.to_string())?;
        let findings = report["status"]["findings"].to_string();
        match findings.contains("is of another version than this operator") {
            true => Ok(()),
            false => Err(format!("{findings}\n{}", operator.log())),
        }
    })
    .await
    .unwrap();
    operator.evaluated(UNCALLED, 3, LIMIT).await.unwrap();
    assert_eq!(cluster.policy_mode(UNCALLED).await.unwrap().as_deref(), Some("PERMISSIVE"));
    cluster.mark_definition(reports, &ours).await.unwrap();
    until_mode(cluster, &operator, UNCALLED, "STRICT").await;

    // No watch has told of that STRICT yet, and harm is undone all the same.
    let call = Edge::new(Client::workload("front", "web"), Server::workload(UNCHANGED, "app"));
    cluster.exporter().edge(call.rps(5.0).answered(503, "UC"));
    until_mode(cluster, &operator, UNCHANGED, "PERMISSIVE").await;

    // Told what happened meanwhile, each says its own reason.
    proxy.silence_watches(false);
    for (name, reason) in [("rules", "ClientTlsDisabled"), ("paused", "Paused")] {
        let ready = cluster.until_ready_is(name, reason, LIMIT).await;
        ready.unwrap_or_else(|error| panic!("{name}: {error}\n{}", operator.log()));
    }
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn watches_that_fall_silent_hold_and_are_named() {
    let (cluster, proxy, operator) = started(&[UNCHANGED], "15s").await;
    // Longer than it takes to find the silence.
    let rollout =
        Rollout::enforce("silent", &[("only", &[UNCHANGED])]).with("/stages/0/soak", json!("5m"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_ready_is("silent", "Soaking", LIMIT).await.unwrap();
    proxy.silence_watches(true);
    // Only what happens can be held back, and a list taken anew breaks the silence: something
    // happens all the time.
    let happening = async {
        for number in 0.. {
            let value = number.to_string();
            cluster.label_namespace("front", "number", Some(&value)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let ready = tokio::select! {
        ready = cluster.until_ready_is("silent", "StaleWatch", LIMIT) => ready,
        () = happening => unreachable!("it goes on for ever"),
    };
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.contains("watch"), "{ready:?}");
    proxy.silence_watches(false);
    cluster.until_ready_is("silent", "Soaking", LIMIT).await.unwrap();
    operator.stop().await.unwrap();
}
