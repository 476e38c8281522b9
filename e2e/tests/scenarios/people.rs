//! What people ask for, and what becomes of a rollout when its operator goes: each request is
//! heard once, each write is made once.

use std::time::Duration;

use meshrollout_e2e::{
    AuditMark, Client, Cluster, Condition, Edge, OPERATOR_USER, OperatorOptions, Options, Rollout,
    Server, until,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const LIMIT: Duration = Duration::from_secs(150);

/// One operator acts in a cluster, and each test starts its own: so they take turns, in two
/// clusters to be done in half the time.
async fn cluster(number: usize) -> (&'static Cluster, MutexGuard<'static, ()>) {
    static CLUSTERS: [OnceCell<Cluster>; 2] = [const { OnceCell::const_new() }; 2];
    static TURNS: [Mutex<()>; 2] = [const { Mutex::const_new(()) }; 2];
    let turn = TURNS[number].lock().await;
    let cluster = CLUSTERS[number].get_or_init(async || {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install().await.unwrap();
        cluster.front().await.unwrap();
        cluster
    });
    (cluster.await, turn)
}

fn call(namespace: &str) -> Edge {
    Edge::new(Client::workload("front", "web"), Server::workload(namespace, "app"))
}

/// Two stages, the second of which bakes for so long that people come first.
fn two_stages(name: &str, one: &str, two: &str) -> Rollout {
    Rollout::enforce(name, &[("first", &[one]), ("second", &[two])])
        .with("/stages/1/bake", json!("10m"))
}

/// A person at the command line.
async fn says(cluster: &Cluster, args: &[&str]) {
    let output = cluster.meshrollout(args).await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn mode(cluster: &Cluster, namespace: &str) -> String {
    cluster.policy_mode(namespace).await.unwrap().unwrap_or_else(|| "none".to_owned())
}

fn written(cluster: &Cluster, mark: AuditMark, user: &str) -> Vec<String> {
    cluster.audit_since(mark).unwrap().by(user).modes_written()
}

async fn report(cluster: &Cluster, rollout: &str, namespace: &str) -> Value {
    cluster.report(namespace, rollout).await.unwrap()["status"].clone()
}

async fn ready(cluster: &Cluster, rollout: &str) -> Condition {
    cluster.condition(rollout, "Ready").await.unwrap()
}

#[tokio::test]
async fn a_paused_rollout_takes_no_step_forward_and_still_steps_back() {
    let (cluster, _turn) = cluster(1).await;
    cluster.called(&["halt-one", "halt-two"]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let rollout = two_stages("halt", "halt-one", "halt-two").with("/stages/0/bake", json!("6s"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("halt", "halt-one", "Watching", LIMIT).await.unwrap();

    // What is STRICT is watched to its end; the next stage is not begun.
    says(cluster, &["pause", "halt"]).await;
    let mark = cluster.audit_mark().unwrap();
    let paused = cluster.until_ready_is("halt", "Paused", LIMIT).await.unwrap();
    assert_eq!(paused.status, "False");
    cluster.until_state_is("halt", "halt-one", "Enforced", LIMIT).await.unwrap();
    operator.evaluated("halt", 5, LIMIT).await.unwrap();
    assert_eq!(ready(cluster, "halt").await.reason, "Paused");
    assert_eq!(written(cluster, mark, OPERATOR_USER), [""; 0]);

    says(cluster, &["resume", "halt"]).await;
    cluster.until_state_is("halt", "halt-two", "Watching", LIMIT).await.unwrap();
    says(cluster, &["pause", "halt"]).await;
    cluster.until_ready_is("halt", "Paused", LIMIT).await.unwrap();
    let mark = cluster.audit_mark().unwrap();
    let failing = cluster.exporter().edge(call("halt-two").rps(5.0).answered(503, "UC"));
    cluster.until_ready_is("halt", "RolledBack", LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, OPERATOR_USER), ["halt-two/default PERMISSIVE"]);
    cluster.exporter().remove(failing);

    // A retry is heard, and waits until somebody lets it go on.
    says(cluster, &["retry", "halt"]).await;
    cluster.until_ready_is("halt", "Paused", LIMIT).await.unwrap();
    operator.evaluated("halt", 5, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "halt-two").await, "PERMISSIVE");
    says(cluster, &["resume", "halt"]).await;
    cluster.until_state_is("halt", "halt-two", "Watching", LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "halt-two").await, "STRICT");
    cluster.delete("meshrollout", "default", "halt").await.unwrap();
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn an_abort_takes_back_the_stage_in_flight_and_is_heard_once() {
    let (cluster, _turn) = cluster(1).await;
    cluster.called(&["stop-one", "stop-two"]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let rollout = two_stages("stop", "stop-one", "stop-two");
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("stop", "stop-two", "Watching", LIMIT).await.unwrap();

    let mark = cluster.audit_mark().unwrap();
    let asked = "meshrollout.dev/abort=2026-01-01T00:00:00Z";
    cluster.kubectl_text(&["annotate", "meshrollout", "stop", asked]).await.unwrap();
    let ready = cluster.until_ready_is("stop", "Aborted", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False");
    assert_eq!(cluster.condition("stop", "Stalled").await.unwrap().status, "True");
    cluster.until_state_is("stop", "stop-two", "RolledBack", LIMIT).await.unwrap();
    operator.evaluated("stop", 3, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, OPERATOR_USER), ["stop-two/default PERMISSIVE"]);
    assert_eq!(mode(cluster, "stop-one").await, "STRICT");
    let consumed = cluster.rollout("stop").await.unwrap()["status"]["requests"]["abort"].clone();
    assert_eq!(consumed["value"], "2026-01-01T00:00:00Z");
    assert_eq!(consumed["stage"], "second");

    says(cluster, &["retry", "stop"]).await;
    cluster.until_state_is("stop", "stop-two", "Watching", LIMIT).await.unwrap();

    // A controller that keeps the cluster as its repository says takes the annotation away and
    // brings it back, time and again; a new operator hears it no second time either.
    let mark = cluster.audit_mark().unwrap();
    cluster
        .kubectl_text(&["annotate", "meshrollout", "stop", "meshrollout.dev/abort-"])
        .await
        .unwrap();
    cluster.apply_rollout(&rollout).await.unwrap();
    operator.evaluated("stop", 2, LIMIT).await.unwrap();
    cluster.kubectl_text(&["annotate", "meshrollout", "stop", asked]).await.unwrap();
    operator.evaluated("stop", 3, LIMIT).await.unwrap();
    operator.stop().await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    operator.evaluated("stop", 3, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, OPERATOR_USER), [""; 0]);
    assert_eq!(report(cluster, "stop", "stop-two").await["state"], "Watching");
    cluster.delete("meshrollout", "default", "stop").await.unwrap();
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn a_rollback_by_hand_while_no_operator_runs_is_accepted_by_the_next_one() {
    let (cluster, _turn) = cluster(0).await;
    cluster.called(&["night-one", "night-two"]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let rollout = two_stages("night", "night-one", "night-two");
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("night", "night-two", "Watching", LIMIT).await.unwrap();
    operator.stop().await.unwrap();

    let mark = cluster.audit_mark().unwrap();
    says(cluster, &["rollback", "night", "-n", "night-two"]).await;
    assert_eq!(mode(cluster, "night-two").await, "PERMISSIVE");
    assert_eq!(written(cluster, mark, "admin"), ["night-two/default PERMISSIVE"]);

    let mark = cluster.audit_mark().unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let ready = cluster.until_ready_is("night", "RolledBack", LIMIT).await.unwrap();
    assert!(ready.message.contains("a person asked"), "{ready:?}");
    operator.evaluated("night", 5, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, OPERATOR_USER), [""; 0]);
    assert_eq!(report(cluster, "night", "night-two").await["state"], "RolledBack");
    assert_eq!(mode(cluster, "night-one").await, "STRICT");

    // Everything, again by hand and with nobody there: the next operator goes on with nothing.
    operator.stop().await.unwrap();
    says(cluster, &["rollback", "night"]).await;
    assert_eq!(mode(cluster, "night-one").await, "PERMISSIVE");
    let mark = cluster.audit_mark().unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.until_ready_is("night", "Aborted", LIMIT).await.unwrap();
    operator.evaluated("night", 5, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, OPERATOR_USER), [""; 0]);
    cluster.delete("meshrollout", "default", "night").await.unwrap();
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_operator_goes_on_with_the_soak_and_the_bake_and_repeats_no_write() {
    let (cluster, _turn) = cluster(0).await;
    cluster.called(&["again-one"]).await.unwrap();
    // A soak goes on over a gap of three intervals: enough for a process to go and another to come.
    let options =
        OperatorOptions { interval: Duration::from_secs(7), ..OperatorOptions::default() };
    let operator = cluster.operator(&options).await.unwrap();
    let mark = cluster.audit_mark().unwrap();
    let rollout = Rollout::enforce("again", &[("only", &["again-one"])])
        .with("/stages/0/soak", json!("25s"))
        .with("/stages/0/bake", json!("25s"));
    cluster.apply_rollout(&rollout).await.unwrap();
    let soak = until("the soak to run", LIMIT, async || {
        let report =
            cluster.report("again-one", "again").await.map_err(|error| error.to_string())?;
        match &report["status"]["soak"]["since"] {
            Value::Null => Err(report["status"]["findings"].to_string()),
            since => Ok(since.clone()),
        }
    })
    .await
    .unwrap();
    operator.evaluated("again", 2, LIMIT).await.unwrap();
    operator.stop().await.unwrap();
    let operator = cluster.operator(&options).await.unwrap();
    operator.evaluated("again", 1, LIMIT).await.unwrap();
    assert_eq!(report(cluster, "again", "again-one").await["soak"]["since"], soak);

    cluster.until_state_is("again", "again-one", "Watching", LIMIT).await.unwrap();
    let covered = async || {
        let report = report(cluster, "again", "again-one").await;
        report["bake"]["coveredSeconds"].as_i64().unwrap_or(0)
    };
    until("the bake to count", LIMIT, async || match covered().await {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
    operator.stop().await.unwrap();
    let before = covered().await;
    let since = report(cluster, "again", "again-one").await["bake"]["since"].clone();
    let operator = cluster.operator(&options).await.unwrap();
    operator.evaluated("again", 1, LIMIT).await.unwrap();
    let after = report(cluster, "again", "again-one").await;
    assert_eq!((&after["state"], &after["bake"]["since"]), (&json!("Watching"), &since));
    assert!(covered().await >= before && before > 0, "{before}: {after}");
    cluster.until_ready_is("again", "Enforced", LIMIT).await.unwrap();

    // Nor does one that finds all enforced.
    operator.stop().await.unwrap();
    let operator = cluster.operator(&options).await.unwrap();
    operator.evaluated("again", 2, LIMIT).await.unwrap();
    assert_eq!(ready(cluster, "again").await.reason, "Enforced");
    let all = written(cluster, mark, OPERATOR_USER);
    assert_eq!(all, ["again-one/default PERMISSIVE", "again-one/default STRICT"]);
    cluster.delete("meshrollout", "default", "again").await.unwrap();
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn of_two_operators_one_writes_and_the_other_takes_over() {
    let (cluster, _turn) = cluster(1).await;
    cluster.called(&["pair-one", "pair-two"]).await.unwrap();
    let mut options = OperatorOptions::default();
    options
        .config
        .push_str("leaseDuration: 6s\nrenewDeadline: 3s\nretryPeriod: 1s\nwriteDeadline: 2s\n");
    let leader = cluster.operator(&options).await.unwrap();
    let other = cluster.operator(&options).await.unwrap();
    let mark = cluster.audit_mark().unwrap();
    let rollout = Rollout::enforce("pair", &[("first", &["pair-one"]), ("second", &["pair-two"])])
        .with("/stages/0/bake", json!("15s"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("pair", "pair-one", "Watching", LIMIT).await.unwrap();
    leader.evaluated("pair", 2, LIMIT).await.unwrap();
    assert_eq!(other.evaluations("pair").await.unwrap(), 0);
    let before = written(cluster, mark, OPERATOR_USER);
    assert_eq!(before, ["pair-one/default PERMISSIVE", "pair-one/default STRICT"]);

    // Killed, so the Lease is not handed back.
    drop(leader);
    cluster.until_ready_is("pair", "Enforced", LIMIT).await.unwrap();
    assert!(other.evaluations("pair").await.unwrap() > 0);
    let all = written(cluster, mark, OPERATOR_USER);
    assert_eq!(all[2..], ["pair-two/default PERMISSIVE", "pair-two/default STRICT"], "{all:?}");
    cluster.delete("meshrollout", "default", "pair").await.unwrap();
    other.stop().await.unwrap();
}

#[tokio::test]
async fn a_stage_waits_for_a_person_who_approves_this_very_plan() {
    let (cluster, _turn) = cluster(1).await;
    cluster.called(&["asks-one", "asks-two"]).await.unwrap();
    let rollout = Rollout::enforce("asks", &[("first", &["asks-one"]), ("second", &["asks-two"])])
        .with("/stages/1/approval", json!("Required"));
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.apply_rollout(&rollout).await.unwrap();
    let waits = cluster.until_ready_is("asks", "AwaitingApproval", LIMIT).await.unwrap();
    assert_eq!(waits.status, "False");
    let command = "kubectl meshrollout approve asks --stage second";
    assert!(waits.message.contains(command), "{waits:?}");
    assert_eq!(mode(cluster, "asks-one").await, "STRICT");
    assert_eq!(report(cluster, "asks", "asks-two").await["state"], "AwaitingApproval");
    let explained = cluster.meshrollout(&["explain", "asks"]).await.unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains(command), "{explained}");

    let uid = cluster.rollout("asks").await.unwrap()["metadata"]["uid"].clone();
    // An approval of another plan; of a stage that asks nobody; of one that is not there.
    let stale = json!({"apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshApproval",
        "metadata": {"name": "stale"},
        "spec": {"rollout": "asks", "rolloutUid": uid, "stage": "second",
        "planHash": "0123456789abcdef0123456789abcdef01234567"}});
    cluster.apply(&[stale]).await.unwrap();
    for (option, value, words) in [
        ("--stage", "first", "waits for no approval"),
        ("--stage", "third", "has no stage"),
        ("--plan", "0123456789abcdef", "look at it again"),
    ] {
        let refused = cluster.meshrollout(&["approve", "asks", option, value]).await.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(words), "{said}");
    }
    operator.evaluated("asks", 5, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "asks-two").await, "PERMISSIVE");

    // The plan is edited after it was approved: nothing goes that nobody has seen.
    says(cluster, &["pause", "asks"]).await;
    operator.evaluated("asks", 3, LIMIT).await.unwrap();
    says(cluster, &["approve", "asks"]).await;
    let edit = r#"{"spec":{"paused":false,"gates":{"plaintext":{"lookback":"11s"}}}}"#;
    let args = ["patch", "meshrollout", "asks", "--type=merge", "-p", edit];
    cluster.kubectl_text(&args).await.unwrap();
    operator.evaluated("asks", 3, LIMIT).await.unwrap();
    cluster.until_ready_is("asks", "AwaitingApproval", LIMIT).await.unwrap();
    operator.evaluated("asks", 3, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "asks-two").await, "PERMISSIVE");

    says(cluster, &["approve", "asks"]).await;
    let ready = cluster.until_ready_is("asks", "Enforced", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(ready.status, "True", "{ready:?}");
    // What was approved stays what was approved.
    let forged = r#"{"spec":{"stage":"first"}}"#;
    let args = ["patch", "meshapproval", "stale", "--type=merge", "-p", forged];
    let refused = cluster.kubectl_text(&args).await.unwrap_err();
    assert!(refused.contains("delete it, and approve again"), "{refused}");
}
