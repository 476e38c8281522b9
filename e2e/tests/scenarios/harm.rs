//! Harm after STRICT is taken back by itself, only where it was seen, and without the metrics
//! source if need be; evidence lost for all stops the clock and nothing else.

use std::sync::LazyLock;
use std::time::Duration;

use meshrollout_e2e::{
    Audit, AuditMark, Client, Cluster, Edge, EdgeId, Event, Fault, OPERATOR_USER, Operator,
    OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, RwLock};

const LIMIT: Duration = Duration::from_secs(150);

/// All tests share a control plane and an operator; each has namespaces and a rollout of its own.
async fn shared() -> &'static (Cluster, Operator) {
    static SHARED: LazyLock<OnceCell<(Cluster, Operator)>> = LazyLock::new(OnceCell::new);
    SHARED
        .get_or_init(async || {
            let cluster = Cluster::start(Options::default()).await.unwrap();
            cluster.install().await.unwrap();
            cluster.front().await.unwrap();
            let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
            (cluster, operator)
        })
        .await
}

/// The metrics source is everybody's: whoever makes it fail is alone meanwhile.
static SOURCE: RwLock<()> = RwLock::const_new(());

/// Makes the metrics source fail until this goes, also when a test fails meanwhile.
struct Failing<'a>(&'a Cluster);

impl<'a> Failing<'a> {
    fn so(cluster: &'a Cluster, fault: Fault) -> Self {
        cluster.metrics_proxy().set(fault);
        Self(cluster)
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.metrics_proxy().set(Fault::Pass);
    }
}

fn call(namespace: &str) -> Edge {
    Edge::new(Client::workload("front", "web"), Server::workload(namespace, "app"))
}

/// Three stages of one namespace each: the first becomes Enforced soon, the second bakes for so
/// long that harm comes first, and the third waits. The first leaves room for a whole baseline.
fn three_stages(name: &str, [one, two, three]: [&str; 3]) -> Rollout {
    Rollout::enforce(name, &[("first", &[one]), ("second", &[two]), ("third", &[three])])
        .with("/stages/1/bake", json!("10m"))
}

async fn told(cluster: &Cluster, rollout: &str) -> Value {
    cluster.rollout(rollout).await.unwrap()["status"].clone()
}

/// What the operator stored of policies since the mark.
fn written(cluster: &Cluster, mark: AuditMark) -> Vec<String> {
    cluster.audit_since(mark).unwrap().by(OPERATOR_USER).modes_written()
}

/// The evaluations, by what was reported of them, that saw harm and waited for another look.
fn suspicions(audit: &Audit, code: &str) -> usize {
    let resource = |event: &&Event| event.object_ref.as_ref().map(|it| it.resource.clone());
    let suspicious = |event: &&Event| {
        let status = event.request_object.as_ref().map(|object| &object["status"]);
        let findings = status.and_then(|status| status["findings"].as_array());
        let held = |one: &Value| one["level"] == "Hold" && one["code"] == code;
        findings.is_some_and(|findings| findings.iter().any(held))
    };
    let before = |event: &&Event| resource(event).as_deref() != Some("peerauthentications");
    audit.events().take_while(before).filter(suspicious).count()
}

/// Brings the second stage to its bake, does harm, and sees it taken back.
///
/// Returns how many evaluations were suspicious before it was.
async fn harmed(name: &str, code: &str, harm: impl FnOnce(&Cluster, &str, EdgeId)) -> usize {
    let (cluster, operator) = shared().await;
    let namespaces = ["one", "two", "three"].map(|number| format!("{name}-{number}"));
    let [one, two, three] = namespaces.each_ref().map(String::as_str);
    let edges = cluster.called(&[one, two, three]).await.unwrap();
    cluster.apply_rollout(&three_stages(name, [one, two, three])).await.unwrap();
    cluster.until_state_is(name, two, "Watching", LIMIT).await.unwrap();
    // What harms counts from now on only; the bake is well under way.
    until("the bake to count", LIMIT, async || {
        let report = cluster.report(two, name).await.map_err(|error| error.to_string())?;
        match report["status"]["bake"]["coveredSeconds"].as_i64() {
            Some(seconds) if seconds > 0 => Ok(()),
            _ => Err(report["status"]["findings"].to_string()),
        }
    })
    .await
    .unwrap();
    assert_eq!(cluster.policy_mode(two).await.unwrap().as_deref(), Some("STRICT"));

    let mark = cluster.audit_mark().unwrap();
    harm(cluster, two, edges[1]);
    let ready = cluster.until_ready_is(name, "RolledBack", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False");
    assert!(ready.message.contains(two) && ready.message.contains("retry"), "{ready:?}");
    let stalled = cluster.condition(name, "Stalled").await.unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "RolledBack"));

    // Explicit, not absent; and every server there accepts both again in effect.
    assert_eq!(cluster.policy_mode(two).await.unwrap().as_deref(), Some("PERMISSIVE"));
    let report = cluster.until_state_is(name, two, "RolledBack", LIMIT).await.unwrap();
    let workloads = report["status"]["workloads"].as_array().unwrap();
    assert!(!workloads.is_empty());
    for workload in workloads {
        assert_eq!(workload["mode"], "PERMISSIVE", "{workload}");
        assert_eq!(workload["decidedBy"], format!("{two}/default"), "{workload}");
    }
    let last = &told(cluster, name).await["lastRollback"];
    assert_eq!((&last["namespace"], &last["code"]), (&json!(two), &json!(code)), "{last}");
    assert_eq!(last["stage"], "second");

    // The harm goes on, the stage before stays, the stage after does not begin.
    operator.evaluated(name, 5, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark).iter().filter(|it| it.starts_with(name)).count(), 1);
    let by_operator = cluster.audit_since(mark).unwrap().by(OPERATOR_USER);
    assert_eq!(
        by_operator.clone().within(two).modes_written(),
        [format!("{two}/default PERMISSIVE")]
    );
    assert_eq!(cluster.policy_mode(one).await.unwrap().as_deref(), Some("STRICT"));
    assert_eq!(cluster.policy_mode(three).await.unwrap(), None);
    cluster.delete("meshrollout", "default", name).await.unwrap();
    suspicions(&by_operator.within(two).writes(), code)
}

#[tokio::test]
async fn refused_connections_since_strict_are_rolled_back_at_first_sight() {
    let _source = SOURCE.read().await;
    let by_the_client = harmed("failing", "MR0901", |cluster, namespace, _| {
        cluster.exporter().edge(call(namespace).rps(2.0).answered(503, "UC"));
    });
    let by_the_server = harmed("refusing", "MR0901", |cluster, namespace, _| {
        cluster.exporter().refusals(namespace, "app", 3.0);
    });
    assert_eq!(tokio::join!(by_the_client, by_the_server), (0, 0));
}

#[tokio::test]
async fn signs_of_harm_since_strict_are_rolled_back_at_second_sight() {
    let _source = SOURCE.read().await;
    let silence = harmed("silent", "MR0901", |cluster, _, edge| cluster.exporter().remove(edge));
    let errors = harmed("errors", "MR0901", |cluster, namespace, _| {
        cluster.exporter().edge(call(namespace).rps(40.0).answered(500, "-"));
    });
    let lost_here_alone = harmed("unseen", "MR0902", |cluster, namespace, _| {
        cluster.exporter().hide_namespace(namespace);
    });
    let (silence, errors, unseen) = tokio::join!(silence, errors, lost_here_alone);
    // Once at least: an evaluation that sees the same scrape once more says so once more.
    assert!(silence > 0 && errors > 0 && unseen > 0, "{silence} {errors} {unseen}");
}

#[tokio::test]
async fn a_rollback_works_without_the_metrics_source() {
    let _source = SOURCE.write().await;
    let (cluster, operator) = shared().await;
    cluster.called(&["down-one", "down-two"]).await.unwrap();
    let stages: [(&str, &[&str]); 2] = [("first", &["down-one"]), ("second", &["down-two"])];
    let rollout = Rollout::enforce("down", &stages).with("/stages/1/bake", json!("10m"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("down", "down-two", "Watching", LIMIT).await.unwrap();

    // One namespace, by a person's own hand.
    let failing = Failing::so(cluster, Fault::Refuse);
    operator.evaluated("down", 2, LIMIT).await.unwrap();
    let mark = cluster.audit_mark().unwrap();
    let output = cluster.meshrollout(&["rollback", "down", "-n", "down-two"]).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cluster.policy_mode("down-two").await.unwrap().as_deref(), Some("PERMISSIVE"));
    cluster.until_ready_is("down", "RolledBack", LIMIT).await.unwrap();
    let audit = cluster.audit_since(mark).unwrap();
    assert_eq!(audit.clone().by("admin").modes_written(), ["down-two/default PERMISSIVE"]);
    assert_eq!(audit.by(OPERATOR_USER).modes_written(), [""; 0]);
    assert_eq!(cluster.policy_mode("down-one").await.unwrap().as_deref(), Some("STRICT"));

    // Everything, by the operator, as the annotation asks.
    let mark = cluster.audit_mark().unwrap();
    let ask = ["annotate", "meshrollout", "down", "meshrollout.dev/rollback=2026-01-01T00:00:00Z"];
    assert!(cluster.kubectl(&ask).await.unwrap().status.success());
    until("down-one to be PERMISSIVE", LIMIT, async || {
        match cluster.policy_mode("down-one").await.map_err(|error| error.to_string())?.as_deref() {
            Some("PERMISSIVE") => Ok(()),
            mode => Err(format!("{mode:?}")),
        }
    })
    .await
    .unwrap();
    cluster.until_ready_is("down", "Aborted", LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark), ["down-one/default PERMISSIVE"]);
    let last = &told(cluster, "down").await["lastRollback"];
    assert_eq!((&last["namespace"], &last["reason"]), (&json!("down-one"), &json!("Requested")));
    drop(failing);
    cluster.delete("meshrollout", "default", "down").await.unwrap();
}

#[tokio::test]
async fn the_bake_stands_still_while_the_metrics_source_is_lost_for_all() {
    let _source = SOURCE.write().await;
    let (cluster, operator) = shared().await;
    cluster.called(&["still-one", "still-two"]).await.unwrap();
    let stages: [(&str, &[&str]); 2] = [("first", &["still-one"]), ("second", &["still-two"])];
    let rollout = Rollout::enforce("still", &stages).with("/stages/0/bake", json!("12s"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_state_is("still", "still-one", "Watching", LIMIT).await.unwrap();
    let covered = async || {
        let report = cluster.report("still-one", "still").await.unwrap();
        report["status"]["bake"]["coveredSeconds"].as_i64().unwrap_or(0)
    };
    until("the bake to count", LIMIT, async || match covered().await {
        0 => Err("0".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();

    for fault in [Fault::Refuse, Fault::Hang] {
        let _failing = Failing::so(cluster, fault);
        operator.evaluated("still", 3, LIMIT).await.unwrap();
        let (mark, before) = (cluster.audit_mark().unwrap(), covered().await);
        operator.evaluated("still", 3, LIMIT).await.unwrap();
        let ready = cluster.condition("still", "Ready").await.unwrap();
        assert_eq!(ready.reason, "SourceUnavailable", "{ready:?}");
        assert_eq!(covered().await, before);
        assert_eq!(written(cluster, mark), [""; 0]);
        let report = cluster.report("still-one", "still").await.unwrap();
        assert_eq!(report["status"]["state"], "Watching");
        let findings = report["status"]["findings"].to_string();
        assert!(findings.contains("the bake stands still"), "{findings}");
        assert_eq!(cluster.condition("still", "Stalled").await.unwrap().status, "False");
    }

    let ready = cluster.until_ready_is("still", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(covered().await >= 12);
    let told = told(cluster, "still").await;
    assert_eq!(told["lastRollback"], Value::Null);
    cluster.delete("meshrollout", "default", "still").await.unwrap();
}
