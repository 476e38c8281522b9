//! Kinds of evidence that a whole mesh lacks. The switches act on every namespace, so these tests
//! have a cluster of their own and take turns.

use meshrollout_core::finding::Code;
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Edge, Server};
use tokio::sync::Mutex;

use crate::gates::mesh::{find, mesh};

static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn agent_metrics_that_are_not_scraped_hold_until_they_are() {
    let _turn = TURN.lock().await;
    let mesh = mesh().await;
    mesh.serve("undated").await;
    mesh.exporter().agent_metrics(false);
    mesh.roll_out("undated").await;

    let held = mesh.held("undated", "undated", Code::CertificateUnknown).await;
    assert_eq!(held.text("subject"), "Deployment undated/app");
    assert!(held.ready.message.contains("agent metrics are not scraped"), "{held:?}");
    assert!(held.text("remedy").contains("port 15020"), "{held:?}");

    mesh.exporter().agent_metrics(true);
    mesh.until_strict("undated", "undated").await;
    mesh.end("undated").await;
}

#[tokio::test]
async fn where_nothing_would_show_harm_strict_waits_and_one_kind_of_signal_is_enough() {
    let _turn = TURN.lock().await;
    let mesh = mesh().await;
    mesh.exporter().refusal_counter(false);
    // Called over mutual TLS by somebody whose own proxy nobody scrapes.
    mesh.namespace("blind", Injection::Enabled, &[]).await.unwrap();
    mesh.deploy(&Workload::new("blind", "app")).await.unwrap();
    let unseen = Edge::new(Client::Unknown, Server::workload("blind", "app")).rps(40.0);
    mesh.exporter().edge(unseen.mutual_tls());
    mesh.serve("reported").await;
    mesh.roll_out("blind").await;
    mesh.roll_out("reported").await;

    // Until its proxy has reported for the first time, a signal is only waited for.
    mesh.wait("the missing signal to be a person's task", async || {
        let report = mesh.report("blind", "blind").await.map_err(|error| error.to_string())?;
        let findings = &report["status"]["findings"];
        match find(findings, Code::NoRefusalSignal).filter(|found| found["level"] == "Block") {
            Some(_) => Ok(()),
            None => Err(findings.to_string()),
        }
    })
    .await;
    let held = mesh.held("blind", "blind", Code::NoRefusalSignal).await;
    assert_eq!(held.text("level"), "Block");
    assert_eq!(held.text("subject"), "Namespace blind");
    assert!(held.ready.message.starts_with("nothing would show harm in blind"), "{held:?}");
    assert!(held.text("remedy").contains("proxyStatsMatcher"), "{held:?}");

    // With clients that report, only one kind of harm stays unseen: a warning that names it.
    mesh.until_strict("reported", "reported").await;
    let report = mesh.report("reported", "reported").await.unwrap();
    let warning = find(&report["status"]["findings"], Code::NoRefusalSignal).expect("is told");
    assert_eq!(warning["level"], "Warn");
    assert!(warning["message"].as_str().unwrap().contains("would stay unseen"), "{warning}");

    let strict = mesh.strict_writes("blind");
    assert_eq!(strict.count(), 0, "{}", strict.summary());
    mesh.exporter().refusal_counter(true);
    mesh.until_strict("blind", "blind").await;
    mesh.end("blind").await;
    mesh.end("reported").await;
}
