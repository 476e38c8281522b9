//! Policies of others in our place, and certificates that are not renewed.

use meshrollout_core::finding::Code;

use super::mesh::{find, mesh};

#[tokio::test]
async fn a_namespace_wide_policy_of_someone_else_is_refused_and_nothing_written_beside_it() {
    let mesh = mesh().await;
    mesh.serve("governed").await;
    mesh.peer_authentication("governed", "legacy", "PERMISSIVE").await.unwrap();
    mesh.roll_out("governed").await;

    let held = mesh.held("governed", "governed", Code::PolicyShadowed).await;
    assert_eq!(held.text("subject"), "Deployment governed/app");
    assert!(held.ready.message.contains("governed/legacy wins because it is older"), "{held:?}");
    let findings = &held.report["findings"];
    let owned = find(findings, Code::PolicyOwnedByOther).expect("it stands in our place");
    assert_eq!(owned["subject"], "PeerAuthentication governed/legacy");
    let remedy = owned["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("kubectl delete peerauthentication legacy -n governed"), "{owned}");
    assert_eq!(held.report["state"], "Blocked");
    let written = mesh.policy_writes().within("governed");
    assert_eq!(written.count(), 0, "not even PERMISSIVE: {}", written.summary());

    mesh.delete("peerauthentication", "governed", "legacy").await.unwrap();
    mesh.until_strict("governed", "governed").await;
    mesh.end("governed").await;
}

#[tokio::test]
async fn a_certificate_near_its_end_holds_until_it_is_renewed() {
    let mesh = mesh().await;
    mesh.serve("expiring").await;
    // An hour of a day.
    mesh.exporter().certificates("expiring", 3600.0);
    mesh.roll_out("expiring").await;

    let held = mesh.held("expiring", "expiring", Code::CertificateExpiring).await;
    let pod = mesh.pods("expiring", "app").await.unwrap().remove(0).metadata.name.unwrap();
    assert_eq!(held.text("subject"), format!("Pod expiring/{pod}"));
    assert!(held.ready.message.contains("4 % of its lifetime left"), "{held:?}");
    assert!(held.text("remedy").contains(&pod), "{held:?}");

    mesh.exporter().certificates("expiring", 80_000.0);
    mesh.until_strict("expiring", "expiring").await;
    mesh.end("expiring").await;
}
