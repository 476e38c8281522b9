//! DestinationRules that turn mutual TLS off, wherever Istio looks for them.

use meshrollout_core::finding::Code;
use meshrollout_e2e::Rollout;
use serde_json::{Value, json};

use super::mesh::mesh;

fn rule(namespace: &str, name: &str, host: &str, rest: Value) -> Value {
    let mut spec = rest;
    spec["host"] = json!(host);
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

#[tokio::test]
async fn a_rule_that_disables_tls_is_found_wherever_it_stands_and_mutual_tls_is_not_accused() {
    let mesh = mesh().await;
    let off = || json!({"tls": {"mode": "DISABLE"}});
    let policy = |policy: Value| json!({"trafficPolicy": policy});
    let on_port =
        json!({"portLevelSettings": [{"port": {"number": 8080}, "tls": {"mode": "DISABLE"}}]});
    let on_subset = json!({"subsets": [
        {"name": "v1", "labels": {"app": "app"}, "trafficPolicy": {"tls": {"mode": "DISABLE"}}},
    ]});
    // The namespace of the server, where its rule stands, for which host, and what it says.
    let host = |namespace: &str| format!("app.{namespace}.svc.cluster.local");
    let disabling = [
        ("by-client", "front", host("by-client"), policy(off())),
        ("by-server", "by-server", host("by-server"), policy(off())),
        ("by-root", "istio-system", host("by-root"), policy(off())),
        ("by-wildcard", "front", "*.by-wildcard.svc.cluster.local".to_owned(), policy(off())),
        ("by-port", "by-port", host("by-port"), policy(on_port)),
        ("by-subset", "by-subset", host("by-subset"), on_subset),
    ];
    let mut objects = vec![];
    for (server, namespace, host, spec) in &disabling {
        mesh.serve(server).await;
        objects.push(rule(namespace, &format!("rule-{server}"), host, spec.clone()));
    }
    mesh.serve("by-nobody").await;
    let mutual = policy(json!({"tls": {"mode": "ISTIO_MUTUAL"}}));
    objects.push(rule("front", "rule-by-nobody", &host("by-nobody"), mutual));
    mesh.apply(&objects).await.unwrap();
    let mut stage: Vec<&str> = disabling.iter().map(|(server, ..)| *server).collect();
    stage.push("by-nobody");
    mesh.apply_rollout(&Rollout::enforce("rules", &[("only", &stage)])).await.unwrap();

    for (server, namespace, host, _) in &disabling {
        let (found, _) = mesh.until_found("rules", server, Code::ClientTlsDisabled).await;
        let subject = format!("DestinationRule {namespace}/rule-{server}:8080");
        assert_eq!(found["subject"], subject, "{found}");
        let message = found["message"].as_str().unwrap();
        let named = format!("DestinationRule {namespace}/rule-{server} (host {host})");
        assert!(message.starts_with(&named) && message.contains(":8080"), "{message}");
        assert_eq!(message.contains("subset v1"), *server == "by-subset", "{message}");
        let remedy = found["remedy"].as_str().unwrap();
        let edit = format!("kubectl edit destinationrule rule-{server} -n {namespace}");
        assert!(remedy.starts_with(&edit), "{remedy}");
        let evidence = found["evidence"].to_string();
        assert!(evidence.contains("in force for clients in namespace"), "{evidence}");
    }
    mesh.until_strict("rules", "by-nobody").await;
    for (server, ..) in &disabling {
        mesh.held("rules", server, Code::ClientTlsDisabled).await;
    }
    let blocked = mesh.rollout("rules").await.unwrap()["status"]["blockedBy"].clone();
    assert_eq!(blocked.as_array().unwrap().len(), disabling.len(), "{blocked}");

    mesh.delete("destinationrule", "istio-system", "rule-by-root").await.unwrap();
    mesh.until_strict("rules", "by-root").await;
    mesh.end("rules").await;
}
