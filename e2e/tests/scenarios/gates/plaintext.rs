//! Plaintext within the look-back.

use jiff::{SignedDuration, Timestamp};
use meshrollout_core::finding::Code;
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Edge, Rollout, Server, until};
use serde_json::json;

use super::mesh::{LIMIT, mesh};

#[tokio::test]
async fn a_meshed_caller_in_plaintext_is_named_and_its_end_starts_the_soak_from_zero() {
    let mesh = mesh().await;
    mesh.serve("basket").await;
    mesh.namespace("cart", Injection::Enabled, &[]).await.unwrap();
    mesh.deploy(&Workload::new("cart", "cart")).await.unwrap();
    // Long enough for plaintext that begins during the soak to be seen before its end.
    let rollout = Rollout::enforce("basket", &[("only", &["basket"])]);
    mesh.apply_rollout(&rollout.with("/stages/0/soak", json!("12s"))).await.unwrap();
    until("the soak to begin", LIMIT, async || {
        let report = mesh.report("basket", "basket").await.map_err(|e| e.to_string())?;
        if report["status"]["soak"].is_object() { Ok(()) } else { Err(report.to_string()) }
    })
    .await
    .unwrap();

    let from = Client::workload("cart", "cart");
    let edge = Edge::new(from, Server::workload("basket", "app")).rps(40.0).plaintext();
    let edge = mesh.exporter().edge(edge);
    let held = mesh.held("basket", "basket", Code::PodIpTraffic).await;
    assert_eq!(held.text("subject"), "Deployment basket/app");
    let message = "cart/cart sends plaintext to basket/app (its proxy sends plaintext";
    assert!(held.ready.message.starts_with(message), "{held:?}");
    assert!(
        held.text("remedy").contains("let cart/cart call through the Service by its name"),
        "{held:?}"
    );
    let caller = &held.report["plaintextCallers"][0];
    assert_eq!(
        (&caller["source"], &caller["destination"]),
        (&json!("cart/cart"), &json!("basket/app"))
    );
    assert_eq!(held.report["soak"], json!(null), "the clock stands at zero");

    mesh.exporter().remove(edge);
    let last = Timestamp::now();
    let strict = mesh.until_strict("basket", "basket").await;
    let (lookback, soak) = (SignedDuration::from_secs(10), SignedDuration::from_secs(12));
    let waited = strict.duration_since(last);
    assert!(waited >= lookback + soak, "STRICT {waited:#} after the last plaintext");
    mesh.end("basket").await;
}

#[tokio::test]
async fn an_unmeshed_caller_is_suspected_by_name_until_it_has_a_sidecar() {
    let mesh = mesh().await;
    mesh.serve("ledger").await;
    mesh.namespace("batch", Injection::Absent, &[]).await.unwrap();
    mesh.deploy(&Workload::new("batch", "legacy")).await.unwrap();
    mesh.call(("batch", "legacy"), ("ledger", "app"));
    mesh.roll_out("ledger").await;

    let held = mesh.held("ledger", "ledger", Code::PlaintextSourceUnknown).await;
    assert_eq!(held.text("subject"), "Deployment ledger/app");
    assert!(held.ready.message.contains("sends plaintext to ledger/app"), "{held:?}");
    let evidence = held.finding["evidence"].to_string();
    assert!(evidence.contains("unmeshed pods that could be it"), "{evidence}");
    assert!(evidence.contains("batch/legacy"), "{evidence}");

    mesh.label_namespace("batch", "istio-injection", Some("enabled")).await.unwrap();
    mesh.rollout_restart("batch", "legacy").await.unwrap();
    mesh.until_strict("ledger", "ledger").await;
    mesh.end("ledger").await;
}
