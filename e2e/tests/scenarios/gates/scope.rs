//! Namespaces that are never written to.

use meshrollout_core::finding::Code;
use meshrollout_e2e::Rollout;
use serde_json::json;

use super::mesh::{LIMIT, mesh};

const SYSTEM: [&str; 3] = ["istio-system", "kube-system", "meshrollout-system"];

#[tokio::test]
async fn a_selector_that_matches_the_root_namespace_leaves_it_alone() {
    let mesh = mesh().await;
    mesh.serve("everyone").await;
    for namespace in SYSTEM.iter().chain(&["everyone"]) {
        mesh.label_namespace(namespace, "sweep", Some("all")).await.unwrap();
    }
    let selecting = json!([{"name": "all", "soak": "3s", "bake": "4s",
        "namespaceSelector": {"matchLabels": {"sweep": "all"}}}]);
    let rollout = Rollout::enforce("sweep", &[]).with("/stages", selecting);
    mesh.apply_rollout(&rollout).await.unwrap();

    mesh.until_strict("sweep", "everyone").await;
    let ready = mesh.until_ready_is("sweep", "Enforced", LIMIT).await.unwrap();
    assert!(ready.message.contains("all 1 namespaces are STRICT"), "{ready:?}");
    let accepted = mesh.condition("sweep", "Accepted").await.unwrap();
    assert_eq!(accepted.status, "True", "{accepted:?}");
    assert!(accepted.message.contains("istio-system, which is left alone"), "{accepted:?}");
    assert!(accepted.message.contains("(and 2 more)"), "the other two: {accepted:?}");
    let everything = mesh.policy_writes().filter(|event| {
        event.object_ref.as_ref().is_some_and(|it| SYSTEM.contains(&it.namespace.as_str()))
    });
    assert_eq!(everything.count(), 0, "{}", everything.summary());
    let mut reports = mesh.report_names().await.unwrap();
    reports.retain(|name| name.ends_with("/sweep"));
    assert_eq!(reports, ["everyone/sweep"]);
    mesh.end("sweep").await;
}

#[tokio::test]
async fn a_stage_that_names_the_root_namespace_is_refused_as_a_whole() {
    let mesh = mesh().await;
    mesh.serve("bystander").await;
    let stages: [(&str, &[&str]); 2] = [("good", &["bystander"]), ("bad", &["istio-system"])];
    mesh.apply_rollout(&Rollout::enforce("root", &stages)).await.unwrap();

    let code = Code::RootNamespaceInScope;
    let ready = mesh.until_ready_is("root", code.name(), LIMIT).await.unwrap();
    assert!(ready.message.contains("stage bad names istio-system"), "{ready:?}");
    for (kind, status) in [("Accepted", "False"), ("Stalled", "True"), ("Ready", "False")] {
        let condition = mesh.condition("root", kind).await.unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), (status, code.name()));
    }
    let blocked = mesh.rollout("root").await.unwrap()["status"]["blockedBy"].clone();
    assert_eq!(blocked[0]["code"], code.id(), "{blocked}");
    mesh.evaluated("root").await;
    for namespace in ["istio-system", "bystander"] {
        let written = mesh.policy_writes().within(namespace);
        assert_eq!(written.count(), 0, "{}", written.summary());
        assert_eq!(mesh.policy_mode(namespace).await.unwrap(), None);
    }
    mesh.end("root").await;

    // Kubernetes' own have the same names everywhere, so that the schema itself refuses them.
    let refused = mesh.apply_rollout(&Rollout::enforce("kube", &[("bad", &["kube-system"])])).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("spec.stages[0].namespaces"), "{refused}");
}
