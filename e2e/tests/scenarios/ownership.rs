//! Whose policy it is, on the real apiserver: what is taken over, what is given back, and what a
//! deleted rollout or a removed operator leaves.

use std::time::Duration;

use meshrollout_e2e::{Cluster, OPERATOR_USER, OperatorOptions, Options, Rollout, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);

async fn policy(cluster: &Cluster, namespace: &str) -> Option<Value> {
    let args = ["get", "peerauthentication", "default", "-n", namespace, "-o", "json"];
    cluster.kubectl_text(&args).await.ok().map(|text| serde_json::from_str(&text).unwrap())
}

/// A policy as a person applies it, with these labels.
async fn apply_by_hand(cluster: &Cluster, namespace: &str, name: &str, labels: Value, mode: &str) {
    let object = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"mtls": {"mode": mode}},
    });
    let file = cluster.folder().join(format!("by-hand-{namespace}.json"));
    std::fs::write(&file, object.to_string()).unwrap();
    cluster.kubectl_text(&["apply", "-f", &file.display().to_string()]).await.unwrap();
}

async fn gone(cluster: &Cluster, rollout: &str, log: impl Fn() -> String) {
    until("the rollout to be gone", LIMIT, async || {
        match cluster.kubectl_text(&["get", "meshrollout", rollout]).await {
            Err(why) if why.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}\n{}", log())),
        }
    })
    .await
    .unwrap();
}

fn rollout(name: &str, namespaces: &[&str]) -> Rollout {
    Rollout::enforce(name, &[("only", namespaces)])
        .with("/existingPolicies", json!("Adopt"))
        .with("/deletionPolicy", json!("Restore"))
}

#[tokio::test]
async fn what_was_taken_over_is_given_back_and_what_was_made_is_deleted() {
    let cluster = &Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    cluster.called(&["empty", "theirs", "late", "argo"]).await.unwrap();
    apply_by_hand(cluster, "theirs", "default", json!({"team": "pay"}), "PERMISSIVE").await;
    let mark = json!({"argocd.argoproj.io/instance": "mesh"});
    apply_by_hand(cluster, "argo", "default", mark, "PERMISSIVE").await;
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();

    // What Argo CD would write again is left to it, and named.
    cluster.apply_rollout(&rollout("owned", &["argo"])).await.unwrap();
    let ready = cluster.until_ready_is("owned", "PolicyOwnedByOther", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.contains("Argo CD"), "{ready:?}");
    cluster.delete("meshrollout", "default", "owned").await.unwrap();

    let mark = cluster.audit_mark().unwrap();
    cluster.apply_rollout(&rollout("all", &["empty", "late", "theirs"])).await.unwrap();
    let ready = cluster.until_ready_is("all", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let theirs = policy(cluster, "theirs").await.unwrap();
    assert_eq!(theirs["spec"], json!({"mtls": {"mode": "STRICT"}}));
    assert_eq!(theirs["metadata"]["labels"]["team"], "pay", "nothing else of it is touched");
    // One forced write, and that the switch of what was adopted.
    let audit = cluster.audit_since(mark).unwrap().of("peerauthentications").by(OPERATOR_USER);
    let forced = audit.writes().filter(|event| event.request_uri.contains("force=true"));
    assert_eq!(forced.clone().modes_written(), ["theirs/default STRICT"], "{}", forced.summary());

    // Meanwhile somebody makes the whole mesh STRICT: without ours, `late` would follow.
    let workload_only = json!({"stays": "mesh-wide"});
    let mark = cluster.audit_mark().unwrap();
    apply_by_hand(cluster, "istio-system", "default", workload_only, "STRICT").await;
    cluster.kubectl_text(&["delete", "meshrollout", "all", "--wait=false"]).await.unwrap();
    gone(cluster, "all", || operator.log()).await;
    for name in ["empty", "late"] {
        let kept = policy(cluster, name).await.expect("it keeps the mesh-wide STRICT away");
        assert_eq!(kept["spec"], json!({"mtls": {"mode": "PERMISSIVE"}}), "{name}");
    }
    let args = ["get", "events.v1.events.k8s.io", "-n", "default", "-o", "json"];
    let events = cluster.kubectl_text(&args).await.unwrap();
    assert!(events.contains("NotRestored") && events.contains("STRICT by another policy"));
    let given_back = policy(cluster, "theirs").await.expect("it is theirs");
    assert_eq!(given_back["spec"], json!({"mtls": {"mode": "PERMISSIVE"}}));
    let notes = given_back["metadata"]["annotations"].as_object().unwrap();
    let ours = |name: &&String| name.starts_with("meshrollout.dev/");
    let left: Vec<_> = notes.keys().filter(ours).collect();
    assert_eq!(left, ["meshrollout.dev/epoch", "meshrollout.dev/holder"]);
    assert_eq!(given_back["metadata"]["labels"], json!({"team": "pay"}));
    let audit = cluster.audit_since(mark).unwrap().of("peerauthentications").by(OPERATOR_USER);
    let written = audit.writes().modes_written();
    assert!(!written.is_empty() && !written.iter().any(|it| it.contains("STRICT")), "{written:?}");

    // Without such a policy, what we made goes, and only the very object that was read.
    cluster.delete("peerauthentication", "istio-system", "default").await.unwrap();
    for name in ["empty", "late"] {
        cluster.delete("peerauthentication", name, "default").await.unwrap();
    }
    let mark = cluster.audit_mark().unwrap();
    cluster.apply_rollout(&rollout("again", &["empty"])).await.unwrap();
    let ready = cluster.until_ready_is("again", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    cluster.kubectl_text(&["delete", "meshrollout", "again", "--wait=false"]).await.unwrap();
    gone(cluster, "again", || operator.log()).await;
    assert_eq!(policy(cluster, "empty").await, None);
    let audit = cluster.audit_since(mark).unwrap().of("peerauthentications").by(OPERATOR_USER);
    let deleted = audit.writes().filter(|event| event.verb == "delete");
    let ours: Vec<_> = deleted.events().collect();
    let [one] = ours[..] else { panic!("{}", deleted.summary()) };
    let required = &one.request_object.as_ref().unwrap()["preconditions"];
    assert!(required["uid"].is_string() && required["resourceVersion"].is_string(), "{required}");
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn deleting_the_rollout_and_removing_the_operator_change_no_policy() {
    let cluster = &Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    cluster.called(&["one", "two"]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    for name in ["one", "two"] {
        cluster.apply_rollout(&Rollout::enforce(name, &[("only", &[name])])).await.unwrap();
        let ready = cluster.until_ready_is(name, "Enforced", LIMIT).await;
        ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    }
    let stored = cluster.rollout("one").await.unwrap();
    assert_eq!(stored["metadata"]["finalizers"], Value::Null, "a finalizer only where asked for");
    let before = [policy(cluster, "one").await.unwrap(), policy(cluster, "two").await.unwrap()];

    cluster.kubectl_text(&["delete", "meshrollout", "one"]).await.unwrap();
    operator.evaluated("two", 3, LIMIT).await.unwrap();
    operator.stop().await.unwrap();
    // As `kubectl delete -f crds -f charts/install.yaml` would.
    let crds =
        ["meshrollouts", "meshreports", "meshfences"].map(|it| format!("{it}.meshrollout.dev"));
    for args in [
        vec!["delete", "crd", &crds[0], &crds[1], &crds[2]],
        vec!["delete", "namespace", "meshrollout-system"],
        vec!["delete", "clusterrole,clusterrolebinding", "meshrollout"],
    ] {
        cluster.kubectl_text(&args).await.unwrap();
    }
    let after = [policy(cluster, "one").await.unwrap(), policy(cluster, "two").await.unwrap()];
    assert_eq!(after, before);
    // What the fence leaves behind keeps nobody from their policies.
    apply_by_hand(cluster, "one", "default", json!({}), "PERMISSIVE").await;
}
