//! How far back the evidence reaches, and churn that must not hold for ever.

use jiff::{SignedDuration, Timestamp};
use meshrollout_core::finding::Code;
use meshrollout_e2e::Rollout;
use serde_json::json;

use super::mesh::mesh;

#[tokio::test]
async fn a_workload_injected_moments_ago_waits_until_its_look_back_is_covered() {
    let mesh = mesh().await;
    let begin = Timestamp::now();
    mesh.serve("newborn").await;
    let rollout = Rollout::enforce("newborn", &[("only", &["newborn"])]);
    let rollout = rollout.with("/gates/plaintext/lookback", json!("30s"));
    mesh.apply_rollout(&rollout).await.unwrap();

    let held = mesh.held("newborn", "newborn", Code::WindowNotCovered).await;
    assert_eq!(held.text("subject"), "Deployment newborn/app");
    // A moment earlier it had not reported at all, and there was no time to be told.
    let promised = mesh.wait("the time when it is covered", async || {
        let (found, _) = mesh.until_found("newborn", "newborn", Code::WindowNotCovered).await;
        let message = found["message"].as_str().unwrap().to_owned();
        message.split_once("it will at ").map(|(_, time)| time.to_owned()).ok_or(message)
    });
    let promised: Timestamp = promised.await.parse().unwrap();
    let lookback = SignedDuration::from_secs(30);
    // It is told to the second.
    let second = SignedDuration::from_secs(1);
    assert!(promised + second > begin + lookback, "{promised} is too early for {begin}");

    let strict = mesh.until_strict("newborn", "newborn").await;
    // Three scrapes are the tolerance of every window.
    let least = promised - SignedDuration::from_secs(3);
    assert!(strict >= least, "STRICT at {strict}, the look-back is covered at {promised}");
    mesh.end("newborn").await;
}

#[tokio::test]
async fn an_autoscaler_that_never_rests_does_not_hold_for_ever() {
    let mesh = mesh().await;
    mesh.serve("elastic").await;
    mesh.roll_out("elastic").await;
    let mut changes = 0;
    let scaling = async {
        loop {
            for replicas in [3, 1, 4, 2] {
                mesh.scale("elastic", "app", replicas).await.unwrap();
                changes += 1;
            }
        }
    };
    tokio::select! {
        () = scaling => {}
        _ = mesh.until_strict("elastic", "elastic") => {}
    }
    assert!(changes > 4, "{changes} changes are no churn");
    mesh.end("elastic").await;
}

#[tokio::test]
async fn rolling_restarts_one_after_the_other_do_not_hold_for_ever() {
    let mesh = mesh().await;
    mesh.serve("restless").await;
    mesh.scale("restless", "app", 2).await.unwrap();
    mesh.roll_out("restless").await;
    let mut restarts = 0;
    let restarting = async {
        loop {
            mesh.rollout_restart("restless", "app").await.unwrap();
            restarts += 1;
        }
    };
    tokio::select! {
        () = restarting => {}
        _ = mesh.until_strict("restless", "restless") => {}
    }
    assert!(restarts > 1, "{restarts} restarts");
    mesh.end("restless").await;
}
