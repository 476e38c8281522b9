//! What cannot be seen holds the rollout back, each with its own reason, and nothing passes on
//! missing evidence; when it is mended, the rollout goes on by itself.

use std::time::Duration;

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Client, Cluster, Edge, Fault, OPERATOR_USER, Operator, OperatorOptions, Options, Rollout,
    Server, until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);

/// One thing that cannot be seen: how it is told, by which code, and in which words.
struct Blindness {
    fault: Fault,
    reason: &'static str,
    code: &'static str,
    words: &'static str,
}

#[tokio::test]
async fn whatever_cannot_be_seen_before_strict_holds_with_its_own_reason() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    for (namespace, name, replicas) in [("front", "web", 1), ("dark", "app", 2)] {
        cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
        cluster.deploy(&Workload::new(namespace, name).replicas(replicas)).await.unwrap();
    }
    let edge = Edge::new(Client::workload("front", "web"), Server::workload("dark", "app"));
    cluster.exporter().edge(edge.rps(40.0));
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    // Proven again and again, and never long enough while something is wrong.
    let rollout = |soak: &str| {
        let stages: [(&str, &[&str]); 1] = [("only", &["dark"])];
        Rollout::enforce("blind", &stages).with("/stages/0/soak", json!(soak))
    };
    cluster.apply_rollout(&rollout("1h")).await.unwrap();
    soaking(&cluster, &operator).await;
    let pod = cluster.pods("dark", "app").await.unwrap()[0].metadata.name.clone();

    let faults = [
        Blindness {
            fault: Fault::Refuse,
            reason: "SourceUnavailable",
            code: "MR0303",
            words: "HTTP status 503",
        },
        Blindness {
            fault: Fault::Hang,
            reason: "SourceUnavailable",
            code: "MR0303",
            words: "no answer within 5s",
        },
        Blindness {
            fault: Fault::Html,
            reason: "SourceUnavailable",
            code: "MR0303",
            words: "not JSON",
        },
        Blindness {
            fault: Fault::Warnings("a store is down".into()),
            reason: "PartialAnswer",
            code: "MR0304",
            words: "a store is down",
        },
        Blindness {
            fault: Fault::Empty,
            reason: "SeriesMissing",
            code: "MR0301",
            words: "2 pods of dark/app do not report",
        },
        Blindness {
            fault: Fault::Missing { namespace: "dark".into(), pod },
            reason: "SeriesMissing",
            code: "MR0301",
            words: "1 pods of dark/app do not report",
        },
        Blindness {
            fault: Fault::ClockSkew(600),
            reason: "ClockSkew",
            code: "MR0311",
            words: "clock and the metrics source's differ",
        },
    ];
    for Blindness { fault, reason, code, words } in faults {
        let what = format!("{fault:?}");
        cluster.metrics_proxy().set(fault);
        holds(&cluster, &operator, &what, reason, code, words).await;
        cluster.metrics_proxy().set(Fault::Pass);
        soaking(&cluster, &operator).await;
    }

    // Without a control plane neither the switch nor the way back would take effect.
    cluster.istiod().stop().await.unwrap();
    let (reason, code, words) = ("ControlPlaneUnhealthy", "MR0802", "no istiod answers");
    holds(&cluster, &operator, "istiod is down", reason, code, words).await;
    // Long enough by now, were it not for this.
    cluster.apply_rollout(&rollout("1s")).await.unwrap();
    holds(&cluster, &operator, "istiod is down", reason, code, words).await;

    cluster.istiod().start().await.unwrap();
    let ready = cluster.until_ready_is("blind", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(cluster.policy_mode("dark").await.unwrap().as_deref(), Some("STRICT"));
    let written = cluster.audit().unwrap().by(OPERATOR_USER).modes_written();
    assert_eq!(written, ["dark/default PERMISSIVE", "dark/default STRICT"]);
}

/// The gates pass and the soak runs.
async fn soaking(cluster: &Cluster, operator: &Operator) {
    let ready = cluster.until_ready_is("blind", "Soaking", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    until("the soak to run", LIMIT, async || match soak(cluster).await {
        Value::Null => Err("no clock".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
}

async fn soak(cluster: &Cluster) -> Value {
    cluster.report("dark", "blind").await.unwrap()["status"]["soak"].clone()
}

/// It is held back for this reason, in these words, and writes nothing; the soak is gone.
async fn holds(
    cluster: &Cluster,
    operator: &Operator,
    what: &str,
    reason: &str,
    code: &str,
    words: &str,
) {
    let mark = cluster.audit_mark().unwrap();
    let blockers = until(&format!("{what} to be told as {code}"), LIMIT, async || {
        let stored = cluster.rollout("blind").await.map_err(|error| error.to_string())?;
        let all = stored["status"]["blockedBy"].as_array().cloned().unwrap_or_default();
        let told = |one: &Value| {
            one["code"] == code && one["message"].as_str().is_some_and(|it| it.contains(words))
        };
        if all.iter().any(told) { Ok(all) } else { Err(format!("{all:?}")) }
    })
    .await
    .unwrap();
    operator.evaluated("blind", 2, LIMIT).await.unwrap();
    let ready = cluster.until_ready_is("blind", reason, LIMIT).await.unwrap();
    assert_eq!(ready.status, "False", "{blockers:?}");
    assert_ne!(cluster.condition("blind", "GatesPassed").await.unwrap().status, "True");
    assert_eq!(soak(cluster).await, Value::Null, "{what}");
    assert_eq!(cluster.policy_mode("dark").await.unwrap().as_deref(), Some("PERMISSIVE"));
    let written = cluster.audit_since(mark).unwrap().by(OPERATOR_USER).modes_written();
    assert_eq!(written, [""; 0], "{what}");
}
