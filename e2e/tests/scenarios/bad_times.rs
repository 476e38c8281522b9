//! The way back when things are bad: the records are wiped, the whole mesh is made STRICT, admission
//! refuses PERMISSIVE, istiod is down.

use std::time::{Duration, Instant};

use meshrollout_e2e::{
    AuditMark, Client, Cluster, Edge, OPERATOR_USER, Operator, OperatorOptions, Options, Rollout,
    Server, until,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const LIMIT: Duration = Duration::from_secs(150);
/// From harm to PERMISSIVE: three scrapes, an evaluation and what a busy machine takes. The bake
/// would end long after.
const SECONDS: Duration = Duration::from_secs(30);
/// Those of an admission policy.
const WORDS: &str = "the house rules forbid it";

/// One operator acts in a cluster, and some of these times are bad for every namespace: the tests
/// share a cluster and take turns, each with an operator of its own.
async fn turn() -> (MutexGuard<'static, ()>, &'static Cluster, Operator) {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let cluster = CLUSTER.get_or_init(async || {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install().await.unwrap();
        cluster.front().await.unwrap();
        cluster
    });
    let cluster = cluster.await;
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    (turn, cluster, operator)
}

/// A rollout of the namespace of its name, whose bake is so long that bad times come first.
fn rollout(name: &str) -> Rollout {
    Rollout::enforce(name, &[("only", &[name])]).with("/stages/0/bake", json!("10m"))
}

/// Waits, and fails with the operator's log.
async fn wait<T>(
    operator: &Operator,
    what: &str,
    limit: Duration,
    attempt: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let waited = until(what, limit, attempt).await;
    waited.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()))
}

/// Begins such a rollout and waits until the bake is well under way.
async fn baking(cluster: &Cluster, operator: &Operator, name: &str) {
    cluster.called(&[name]).await.unwrap();
    cluster.apply_rollout(&rollout(name)).await.unwrap();
    until_baked(cluster, operator, name).await;
}

async fn until_baked(cluster: &Cluster, operator: &Operator, name: &str) {
    wait(operator, &format!("the bake of {name} to count"), LIMIT, async || {
        let report = cluster.report(name, name).await.map_err(|error| error.to_string())?;
        match report["status"]["bake"]["coveredSeconds"].as_i64() {
            Some(seconds) if seconds > 0 => Ok(()),
            _ => Err(report["status"]["findings"].to_string()),
        }
    })
    .await;
    assert_eq!(mode(cluster, name).await, "STRICT");
}

async fn mode(cluster: &Cluster, namespace: &str) -> String {
    cluster.policy_mode(namespace).await.unwrap().unwrap_or_else(|| "none".to_owned())
}

/// A client's sidecar cannot connect to this namespace any more.
fn harm(cluster: &Cluster, namespace: &str) -> Instant {
    let call = Edge::new(Client::workload("front", "web"), Server::workload(namespace, "app"));
    cluster.exporter().edge(call.rps(5.0).answered(503, "UC"));
    Instant::now()
}

/// Waits until the namespace is PERMISSIVE again, and that within seconds.
async fn undone(cluster: &Cluster, operator: &Operator, namespace: &str, since: Instant) {
    wait(operator, &format!("{namespace} to be PERMISSIVE"), SECONDS, async || {
        match mode(cluster, namespace).await.as_str() {
            "PERMISSIVE" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    println!("{namespace} was PERMISSIVE again after {:?}", since.elapsed());
}

/// What the operator stored of policies in the namespace since the mark: that alone, and explicit.
fn written(cluster: &Cluster, mark: AuditMark, namespace: &str) -> Vec<String> {
    cluster.audit_since(mark).unwrap().by(OPERATOR_USER).within(namespace).modes_written()
}

/// The findings in the report that are of this code.
async fn findings(cluster: &Cluster, name: &str, code: &str) -> Result<Vec<Value>, String> {
    let report = cluster.report(name, name).await.map_err(|error| error.to_string())?;
    let all = report["status"]["findings"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|found| found["code"] == code).collect())
}

/// The finding of this code and level, as soon as the report tells it.
async fn found(
    cluster: &Cluster,
    operator: &Operator,
    name: &str,
    (code, level): (&str, &str),
) -> Value {
    wait(operator, &format!("{code} at {level} in {name}"), LIMIT, async || {
        let found = findings(cluster, name, code).await?;
        let one = found.iter().find(|found| found["level"] == level).cloned();
        one.ok_or_else(|| format!("{found:?}"))
    })
    .await
}

async fn gone(cluster: &Cluster, operator: &Operator, name: &str, code: &str) {
    wait(operator, &format!("{code} to be gone from {name}"), LIMIT, async || {
        let found = findings(cluster, name, code).await?;
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn text<'a>(found: &'a Value, field: &str) -> &'a str {
    found[field].as_str().unwrap_or_default()
}

async fn end(cluster: &Cluster, operator: Operator, rollouts: &[&str]) {
    for name in rollouts {
        cluster.delete("meshrollout", "default", name).await.unwrap();
    }
    operator.stop().await.unwrap();
}

/// A tenant deletes the report, and somebody clears the rollout's status.
async fn wipe(cluster: &Cluster, name: &str) {
    // Not until it is seen to be gone: the operator tells the next one at once.
    let report = ["delete", "meshreport", name, "-n", name, "--ignore-not-found", "--wait=false"];
    let clear = r#"{"status":null}"#;
    let status =
        ["patch", "meshrollout", name, "--subresource=status", "--type=merge", "-p", clear];
    let (report, status) =
        tokio::join!(cluster.kubectl_text(&report), cluster.kubectl_text(&status));
    report.and(status).unwrap();
}

/// Both say again what happened.
async fn told(cluster: &Cluster, operator: &Operator, name: &str, before: &Value) {
    let ready = cluster.until_ready_is(name, "RolledBack", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.contains("retry") && ready.message.contains("since STRICT"), "{ready:?}");
    let report = cluster.until_state_is(name, name, "RolledBack", LIMIT).await.unwrap();
    assert_ne!(report["metadata"]["uid"], *before, "it was never gone");
    let found = found(cluster, operator, name, ("MR0901", "Block")).await;
    assert!(text(&found, "message").starts_with("rolled back at"), "{found}");
    assert!(text(&found, "message").contains("since STRICT"), "{found}");
}

#[tokio::test]
async fn harm_is_undone_although_reports_and_status_are_wiped() {
    let (_turn, cluster, operator) = turn().await;
    baking(cluster, &operator, "wiped").await;
    baking(cluster, &operator, "forgotten").await;
    let report = cluster.report("wiped", "wiped").await.unwrap()["metadata"]["uid"].clone();

    // Again and again while harm shows, so that no look finds what the one before has told.
    let mark = cluster.audit_mark().unwrap();
    let since = harm(cluster, "wiped");
    while mode(cluster, "wiped").await == "STRICT" && since.elapsed() < SECONDS {
        wipe(cluster, "wiped").await;
    }
    undone(cluster, &operator, "wiped", since).await;
    wipe(cluster, "wiped").await;
    told(cluster, &operator, "wiped", &report).await;
    assert_eq!(written(cluster, mark, "wiped"), ["wiped/default PERMISSIVE"]);
    let last = cluster.rollout("wiped").await.unwrap()["status"]["lastRollback"].clone();
    assert_eq!((&last["namespace"], &last["code"]), (&json!("wiped"), &json!("MR0901")), "{last}");

    // Nor does an operator need them that has seen nothing of it: the policy says it all.
    let report = cluster.report("forgotten", "forgotten").await.unwrap()["metadata"]["uid"].clone();
    operator.stop().await.unwrap();
    wipe(cluster, "forgotten").await;
    wipe(cluster, "wiped").await;
    let left = cluster.rollout("forgotten").await.unwrap()["status"].clone();
    assert_eq!(left["conditions"][0]["reason"], "NotLookedAt", "{left}");
    assert_eq!(left["planHash"], Value::Null, "{left}");
    harm(cluster, "forgotten");
    let mark = cluster.audit_mark().unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    undone(cluster, &operator, "forgotten", Instant::now()).await;
    // What is stored can be read a moment before the audit log has it; what is told comes later.
    told(cluster, &operator, "forgotten", &report).await;
    assert_eq!(written(cluster, mark, "forgotten"), ["forgotten/default PERMISSIVE"]);
    // What was taken back stays so, although nothing but the policy remembers it.
    cluster.until_state_is("wiped", "wiped", "RolledBack", LIMIT).await.unwrap();
    operator.evaluated("wiped", 10, LIMIT).await.unwrap();
    assert_eq!(written(cluster, mark, "wiped"), [""; 0]);
    end(cluster, operator, &["wiped", "forgotten"]).await;
}

/// The effective mode of each workload in the report, and the policy that decides it.
async fn decided(cluster: &Cluster, name: &str) -> Vec<String> {
    let report = cluster.report(name, name).await.unwrap();
    let workloads = report["status"]["workloads"].as_array().cloned().unwrap_or_default();
    let one = |it: &Value| format!("{} by {}", text(it, "mode"), text(it, "decidedBy"));
    workloads.iter().map(one).collect()
}

#[tokio::test]
async fn a_mesh_made_strict_during_the_bake_does_not_reach_what_is_taken_back() {
    let (_turn, cluster, operator) = turn().await;
    baking(cluster, &operator, "exempted").await;
    cluster.peer_authentication("istio-system", "default", "STRICT").await.unwrap();
    // Where nothing of its own stands, it is in force.
    cluster.called(&["swept"]).await.unwrap();
    let observed = rollout("swept").with("/action", json!("Observe"));
    cluster.apply_rollout(&observed).await.unwrap();
    cluster.until_state_is("swept", "swept", "Exempt", LIMIT).await.unwrap();
    assert_eq!(decided(cluster, "swept").await, ["STRICT by istio-system/default"]);
    let report = cluster.report("exempted", "exempted").await.unwrap();
    assert_eq!(report["status"]["state"], "Watching", "{report:#}");

    let mark = cluster.audit_mark().unwrap();
    let since = harm(cluster, "exempted");
    undone(cluster, &operator, "exempted", since).await;
    cluster.until_state_is("exempted", "exempted", "RolledBack", LIMIT).await.unwrap();
    assert_eq!(decided(cluster, "exempted").await, ["PERMISSIVE by exempted/default"]);
    assert_eq!(findings(cluster, "exempted", "MR0908").await.unwrap(), [Value::Null; 0]);

    // It stays written down: with nothing there, the mesh-wide STRICT would come back.
    operator.evaluated("exempted", 5, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "exempted").await, "PERMISSIVE");
    assert_eq!(written(cluster, mark, "exempted"), ["exempted/default PERMISSIVE"]);
    let policies = cluster.audit_since(mark).unwrap().of("peerauthentications").by(OPERATOR_USER);
    let deleted = policies.writes().filter(|event| event.verb.starts_with("delete"));
    assert_eq!(deleted.count(), 0, "{}", deleted.summary());
    cluster.delete("peerauthentication", "istio-system", "default").await.unwrap();
    end(cluster, operator, &["exempted", "swept"]).await;
}

/// The writes of STRICT that the operator sent since the mark, whatever was answered.
fn strict_sent(cluster: &Cluster, mark: AuditMark, namespace: &str) -> usize {
    let sent = cluster.audit_since(mark).unwrap().of("peerauthentications").by(OPERATOR_USER);
    let strict = sent.within(namespace).filter(|event| {
        let asked = event.request_object.as_ref();
        asked.is_some_and(|asked| asked["spec"]["mtls"]["mode"] == "STRICT")
    });
    strict.count()
}

#[tokio::test]
async fn a_way_back_that_admission_closes_is_known_before_it_is_needed() {
    let (_turn, cluster, operator) = turn().await;
    cluster.called(&["shut", "closing"]).await.unwrap();
    let mark = cluster.audit_mark().unwrap();

    // From the beginning: not even the pin is let through.
    cluster.forbid("shut", "PERMISSIVE", WORDS).await.unwrap();
    cluster.apply_rollout(&rollout("shut")).await.unwrap();
    cluster.apply_rollout(&rollout("closing").with("/stages/0/soak", json!("20s"))).await.unwrap();
    let refused = found(cluster, &operator, "shut", ("MR0907", "Hold")).await;
    assert!(text(&refused, "message").contains(WORDS), "{refused}");
    assert!(text(&refused, "remedy").contains("admission policies"), "{refused}");
    cluster.until_ready_is("shut", "WriteRefused", LIMIT).await.unwrap();

    // Between the pin and the switch.
    cluster.until_ready_is("closing", "Soaking", LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "closing").await, "PERMISSIVE");
    cluster.forbid("closing", "PERMISSIVE", WORDS).await.unwrap();
    let closed = found(cluster, &operator, "closing", ("MR0804", "Block")).await;
    assert!(text(&closed, "message").starts_with("closing stays PERMISSIVE"), "{closed}");
    assert!(text(&closed, "message").contains(WORDS), "{closed}");
    assert!(text(&closed, "remedy").contains("peerauthentication/default in closing"), "{closed}");
    let ready = cluster.until_ready_is("closing", "RollbackWouldBeRefused", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False", "{ready:?}");
    for name in ["shut", "closing"] {
        operator.evaluated(name, 5, LIMIT).await.unwrap();
        assert_eq!(strict_sent(cluster, mark, name), 0, "{name}");
    }
    assert_eq!(mode(cluster, "shut").await, "none");
    assert_eq!(mode(cluster, "closing").await, "PERMISSIVE");

    // Opened, both go on by themselves.
    cluster.allow("closing", "PERMISSIVE").await.unwrap();
    cluster.allow("shut", "PERMISSIVE").await.unwrap();
    until_baked(cluster, &operator, "closing").await;
    gone(cluster, &operator, "closing", "MR0804").await;
    until_baked(cluster, &operator, "shut").await;

    // While it is watched: an alarm with the command, and no end of the watch.
    cluster.forbid("closing", "PERMISSIVE", WORDS).await.unwrap();
    let closed = found(cluster, &operator, "closing", ("MR0804", "Hold")).await;
    assert!(text(&closed, "message").contains(WORDS), "{closed}");
    let by_hand = "kubectl meshrollout rollback closing -n closing";
    assert!(text(&closed, "remedy").contains(by_hand), "{closed}");
    let ready = cluster.until_ready_is("closing", "RollbackWouldBeRefused", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False", "{ready:?}");
    let report = cluster.report("closing", "closing").await.unwrap();
    assert_eq!(report["status"]["state"], "Watching");
    assert_eq!(mode(cluster, "closing").await, "STRICT");
    cluster.allow("closing", "PERMISSIVE").await.unwrap();
    gone(cluster, &operator, "closing", "MR0804").await;
    cluster.until_ready_is("closing", "Watching", LIMIT).await.unwrap();

    // Harm behind a closed way back: said with the command, and undone as soon as it opens.
    cluster.forbid("closing", "PERMISSIVE", WORDS).await.unwrap();
    harm(cluster, "closing");
    let refused = found(cluster, &operator, "closing", ("MR0907", "Hold")).await;
    assert!(text(&refused, "message").contains(WORDS), "{refused}");
    assert_eq!(refused["remedy"], by_hand);
    let ready = cluster.until_ready_is("closing", "HarmAfterStrict", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False", "{ready:?}");
    assert_eq!(mode(cluster, "closing").await, "STRICT");
    cluster.allow("closing", "PERMISSIVE").await.unwrap();
    undone(cluster, &operator, "closing", Instant::now()).await;
    cluster.until_ready_is("closing", "RolledBack", LIMIT).await.unwrap();

    // What a person asked for and admission refuses keeps nobody's harm from being seen.
    cluster.delete("meshrollout", "default", "closing").await.unwrap();
    cluster.forbid("shut", "PERMISSIVE", WORDS).await.unwrap();
    let asked = ["annotate", "meshrollout", "shut", "meshrollout.dev/rollback=now"];
    cluster.kubectl_text(&asked).await.unwrap();
    found(cluster, &operator, "shut", ("MR0907", "Hold")).await;
    cluster.metrics_proxy().clear_queries();
    operator.evaluated("shut", 3, LIMIT).await.unwrap();
    assert!(!cluster.metrics_proxy().queries().is_empty(), "nobody looks any more");
    cluster.allow("shut", "PERMISSIVE").await.unwrap();
    undone(cluster, &operator, "shut", Instant::now()).await;
    end(cluster, operator, &["shut"]).await;
}

/// From now on istiod's validator must have looked at every policy, as where Istio is installed: by
/// itself the manifest makes it look at those of its revision, and lets them through unseen.
async fn validate_all(cluster: &Cluster) {
    let patch = json!([
        {"op": "remove", "path": "/webhooks/0/objectSelector"},
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
    ]);
    let (kind, name) = ("validatingwebhookconfiguration", "istio-validator-istio-system");
    let args = ["patch", kind, name, "--type=json", "-p", &patch.to_string()];
    cluster.kubectl_text(&args).await.unwrap();
}

#[tokio::test]
async fn a_rollback_that_istiod_does_not_hear_or_admit_is_said_and_comes_true_with_it() {
    let (_turn, cluster, operator) = turn().await;
    validate_all(cluster).await;
    baking(cluster, &operator, "unheard").await;
    baking(cluster, &operator, "unadmitted").await;
    let since = harm(cluster, "unheard");
    undone(cluster, &operator, "unheard", since).await;
    cluster.until_ready_is("unheard", "RolledBack", LIMIT).await.unwrap();
    assert_eq!(findings(cluster, "unheard", "MR0908").await.unwrap(), [Value::Null; 0]);

    cluster.istiod().stop().await.unwrap();
    let unheard = found(cluster, &operator, "unheard", ("MR0908", "Block")).await;
    assert_eq!(unheard["remedy"], "kubectl rollout restart deployment istiod -n istio-system");
    assert!(text(&unheard, "message").contains("istiod is down"), "{unheard}");
    until("the rollout to say so", LIMIT, async || {
        let ready = cluster.condition("unheard", "Ready").await.map_err(|it| it.to_string())?;
        let status = cluster.rollout("unheard").await.unwrap()["status"].clone();
        let blockers = status["blockedBy"].as_array().cloned().unwrap_or_default();
        let listed = blockers.iter().any(|one| one["code"] == "MR0908");
        let said = ready.reason == "RolledBack" && ready.message.contains("istiod is down");
        if said && listed { Ok(()) } else { Err(format!("{ready:?} {blockers:?}")) }
    })
    .await
    .unwrap();

    // Nothing is admitted meanwhile, a rollback neither: that is known before it is needed.
    let closed = found(cluster, &operator, "unadmitted", ("MR0804", "Hold")).await;
    assert!(text(&closed, "message").contains("could not be tried"), "{closed}");
    harm(cluster, "unadmitted");
    let refused = found(cluster, &operator, "unadmitted", ("MR0907", "Hold")).await;
    assert!(text(&refused, "message").contains("webhook"), "{refused}");
    assert!(text(&refused, "remedy").contains("istiod"), "{refused}");
    let ready = cluster.until_ready_is("unadmitted", "HarmAfterStrict", LIMIT).await.unwrap();
    assert_eq!(ready.status, "False", "{ready:?}");
    assert_eq!(mode(cluster, "unadmitted").await, "STRICT");

    cluster.istiod().start().await.unwrap();
    undone(cluster, &operator, "unadmitted", Instant::now()).await;
    gone(cluster, &operator, "unheard", "MR0908").await;
    assert_eq!(mode(cluster, "unheard").await, "PERMISSIVE");
    end(cluster, operator, &["unheard", "unadmitted"]).await;
}

/// As an older operator finds it, or one for whom the year 10000 is too far.
#[tokio::test]
async fn what_cannot_be_read_any_more_is_watched_and_taken_back_and_the_others_go_on() {
    let (_turn, cluster, operator) = turn().await;
    baking(cluster, &operator, "unread").await;
    // Nobody remembers what it was.
    operator.stop().await.unwrap();
    let never = json!({"code": "MR0310", "subject": {"kind": "Namespace", "name": "unread"},
        "reason": "known", "owner": "platform", "expires": "9999-12-31T23:59:59Z"});
    let mut unheard_of = never.clone();
    unheard_of["code"] = json!("MR0999");
    unheard_of["expires"] = json!("2040-01-01T00:00:00Z");
    let unread = rollout("unread").with("/acknowledgements", json!([unheard_of, never]));
    cluster.apply_rollout(&unread).await.unwrap();

    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let ready = cluster.until_ready_is("unread", "InvalidSpec", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.starts_with("spec.acknowledgements[1]: "), "{ready:?}");
    baking(cluster, &operator, "beside").await;
    let mark = cluster.audit_mark().unwrap();
    let since = harm(cluster, "unread");
    undone(cluster, &operator, "unread", since).await;
    assert_eq!(written(cluster, mark, "unread"), ["unread/default PERMISSIVE"]);
    assert_eq!(mode(cluster, "beside").await, "STRICT");
    end(cluster, operator, &["unread", "beside"]).await;
}

/// A word that a newer version knows, in a stage: the plan that was read last stands in for it, and
/// after a start what the policies say.
#[tokio::test]
async fn what_a_stage_has_reached_that_cannot_be_read_any_more_is_watched_and_taken_back() {
    let (_turn, cluster, operator) = turn().await;
    baking(cluster, &operator, "newer").await;
    baking(cluster, &operator, "newest").await;
    let definition = "meshrollouts.meshrollout.dev";
    let words = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/stages/items\
                 /properties/approval/enum";
    let more = json!([{"op": "add", "path": format!("{words}/-"), "value": "Twice"}]).to_string();
    cluster.kubectl_text(&["patch", "crd", definition, "--type=json", "-p", &more]).await.unwrap();
    let unheard_of = |name: &str| rollout(name).with("/stages/0/approval", json!("Twice"));
    wait(&operator, "the new word to be admitted", LIMIT, async || {
        let applied = cluster.apply_rollout(&unheard_of("newer")).await;
        applied.map_err(|error| error.to_string())
    })
    .await;
    let ready = cluster.until_ready_is("newer", "InvalidSpec", LIMIT).await.unwrap();
    assert!(ready.message.starts_with("spec.stages[0]: "), "{ready:?}");

    // What else it says counts from now on.
    let report = |name: &'static str| async move {
        cluster.report(name, name).await.unwrap()["metadata"]["uid"].clone()
    };
    let known = report("newer").await;
    let observing = unheard_of("newer").with("/action", json!("Observe"));
    cluster.apply_rollout(&observing).await.unwrap();
    operator.evaluated("newer", 2, LIMIT).await.unwrap();
    harm(cluster, "newer");
    operator.evaluated("newer", 3, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "newer").await, "STRICT", "it observes");
    cluster.apply_rollout(&unheard_of("newer")).await.unwrap();
    undone(cluster, &operator, "newer", Instant::now()).await;
    assert_eq!(report("newer").await, known);

    // Nobody remembers what it was.
    operator.stop().await.unwrap();
    cluster.apply_rollout(&unheard_of("newest")).await.unwrap();
    let known = report("newest").await;
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.until_ready_is("newest", "InvalidSpec", LIMIT).await.unwrap();
    operator.evaluated("newest", 2, LIMIT).await.unwrap();
    assert_eq!(mode(cluster, "newest").await, "STRICT");
    let since = harm(cluster, "newest");
    undone(cluster, &operator, "newest", since).await;
    operator.evaluated("newest", 2, LIMIT).await.unwrap();
    assert_eq!(report("newest").await, known, "it may be told of again");
    let told = cluster.rollout("newest").await.unwrap()["status"]["lastRollback"].clone();
    assert_eq!(told["namespace"], "newest", "{told}");

    let less = json!([{"op": "remove", "path": format!("{words}/2")}]).to_string();
    cluster.kubectl_text(&["patch", "crd", definition, "--type=json", "-p", &less]).await.unwrap();
    end(cluster, operator, &["newer", "newest"]).await;
}

/// Whoever applies the same STRICT by server-side apply owns the field beside us.
#[tokio::test]
async fn a_person_steps_back_although_another_manager_says_the_same_strict() {
    let (_turn, cluster, operator) = turn().await;
    baking(cluster, &operator, "codified").await;
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "codified"},
        "spec": {"mtls": {"mode": "STRICT"}}});
    let file = cluster.folder().join("codified.json");
    std::fs::write(&file, policy.to_string()).unwrap();
    let file = file.display().to_string();
    let apply = ["apply", "--server-side", "--field-manager=gitops", "-f", &file];
    cluster.kubectl_text(&apply).await.unwrap();
    let back = cluster.meshrollout(&["rollback", "codified"]).await.unwrap();
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    assert_eq!(mode(cluster, "codified").await, "PERMISSIVE");
    end(cluster, operator, &["codified"]).await;
}
