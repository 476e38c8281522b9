//! Servers that could not speak mutual TLS, now or after a restart.

use meshrollout_core::finding::Code;
use meshrollout_e2e::scenario::Workload;

use super::mesh::{find, mesh};

#[tokio::test]
async fn a_pod_without_a_sidecar_holds_until_it_is_restarted_with_one() {
    let mesh = mesh().await;
    mesh.serve("bare").await;
    mesh.deploy(&Workload::new("bare", "store").without_sidecar()).await.unwrap();
    mesh.call(("front", "web"), ("bare", "store"));
    mesh.roll_out("bare").await;

    let held = mesh.held("bare", "bare", Code::PodWithoutProxy).await;
    assert_eq!(held.text("subject"), "Deployment bare/store");
    assert!(held.ready.message.contains("1 of 1 pods of bare/store have no sidecar"));
    assert!(held.text("remedy").contains("kubectl rollout restart deployment/store -n bare"));
    let opted_out = find(&held.report["findings"], Code::TemplateOptsOut).unwrap();
    assert_eq!(opted_out["subject"], "Deployment bare/store");
    assert_eq!(mesh.policy_mode("bare").await.unwrap().as_deref(), Some("PERMISSIVE"));

    mesh.label_pods("bare", "store", "sidecar.istio.io/inject", None).await.unwrap();
    mesh.until_strict("bare", "bare").await;
    mesh.end("bare").await;
}

#[tokio::test]
async fn a_namespace_whose_next_pods_would_have_no_sidecar_is_held_though_all_have_one_now() {
    let mesh = mesh().await;
    mesh.serve("unlabelled").await;
    mesh.label_namespace("unlabelled", "istio-injection", None).await.unwrap();
    mesh.roll_out("unlabelled").await;

    let held = mesh.held("unlabelled", "unlabelled", Code::NamespaceNotInjected).await;
    assert_eq!(held.text("subject"), "Namespace unlabelled");
    assert_eq!(
        held.text("remedy"),
        "kubectl label namespace unlabelled istio-injection=enabled --overwrite"
    );
    assert!(find(&held.report["findings"], Code::PodWithoutProxy).is_none(), "all are meshed");

    mesh.label_namespace("unlabelled", "istio.io/rev", Some("ghost")).await.unwrap();
    let held = mesh.held("unlabelled", "unlabelled", Code::RevisionUnserved).await;
    assert!(held.ready.message.contains("ghost"), "{held:?}");

    mesh.label_namespace("unlabelled", "istio.io/rev", None).await.unwrap();
    mesh.label_namespace("unlabelled", "istio-injection", Some("enabled")).await.unwrap();
    mesh.until_strict("unlabelled", "unlabelled").await;
    mesh.end("unlabelled").await;
}
