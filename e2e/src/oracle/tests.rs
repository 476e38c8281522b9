use super::*;
use serde_json::json;

const BEGIN: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> String {
    let begin: Timestamp = BEGIN.parse().unwrap();
    (begin + SignedDuration::from_secs(seconds)).to_string()
}

/// A write as the apiserver logs it.
fn write(seconds: i64, namespace: &str, mode: &str) -> Value {
    let mut notes = json!({"meshrollout.dev/rollout": "shop", "meshrollout.dev/rollout-uid": "r",
        "meshrollout.dev/holder": "a", "meshrollout.dev/epoch": "7"});
    if mode == "STRICT" {
        notes["meshrollout.dev/evidence"] = json!("e");
        notes["meshrollout.dev/evidence-time"] = json!(at(seconds - 1));
        notes["meshrollout.dev/strict-since"] = json!(at(seconds));
    }
    let resource = "peerauthentications";
    json!({
        "auditID": "1", "stage": "ResponseComplete", "verb": "patch",
        "requestURI": format!("/apis/security.istio.io/v1/namespaces/{namespace}/{resource}/default?fieldManager=m&timeout=2s"),
        "user": {"username": OPERATOR_USER},
        "objectRef": {"resource": resource, "namespace": namespace, "name": "default"},
        "responseStatus": {"code": 200}, "stageTimestamp": at(seconds),
        "requestObject": {"metadata": {"uid": "u", "resourceVersion": "7"}},
        "responseObject": {"metadata": {"name": "default", "annotations": notes},
            "spec": {"mtls": {"mode": mode}}},
    })
}

fn dry_run(seconds: i64, namespace: &str) -> Value {
    let mut event = write(seconds, namespace, "PERMISSIVE");
    let uri = event["requestURI"].as_str().unwrap().to_owned();
    event["requestURI"] = json!(format!("{uri}&dryRun=All"));
    event
}

/// A new reign, as the apiserver logs it.
fn fence(seconds: i64, holder: &str, epoch: i64) -> Value {
    json!({
        "auditID": "1", "stage": "ResponseComplete", "verb": "update", "requestURI": "/x",
        "user": {"username": OPERATOR_USER}, "objectRef": {"resource": "meshfences"},
        "responseStatus": {"code": 200}, "stageTimestamp": at(seconds),
        "responseObject": {"spec": {"holder": holder, "epoch": epoch}},
    })
}

/// Two stages, as they should be.
fn right() -> Vec<Value> {
    vec![
        write(0, "one", "PERMISSIVE"),
        dry_run(10, "one"),
        write(10, "one", "STRICT"),
        write(15, "two", "PERMISSIVE"),
        dry_run(20, "two"),
        write(20, "two", "STRICT"),
        fence(-1, "a", 7),
    ]
}

fn oracle() -> Oracle {
    let watched = Duration::from_secs(4);
    let stages = ["one", "two"].map(|name| Stage { namespace: name.to_owned(), watched });
    let [lookback, soak, age] = [6, 2, 3].map(Duration::from_secs);
    Oracle::new("shop", stages.to_vec(), lookback, soak, age)
}

fn judged(oracle: &Oracle, events: &[Value]) -> Judgement {
    let events = events.iter().map(|event| serde_json::from_value(event.clone()).unwrap());
    oracle.judge(&Audit::made_of(events.collect()))
}

/// The same writes with the versions that the apiserver gives.
fn versioned() -> Vec<Value> {
    let mut stands = BTreeMap::<String, usize>::new();
    let mut events = right();
    for (number, event) in events.iter_mut().enumerate() {
        let namespace = event["objectRef"]["namespace"].as_str().unwrap_or_default().to_owned();
        let dry_run = event["requestURI"].as_str().unwrap().contains("dryRun");
        let asked = stands.get(&namespace).map_or("0".to_owned(), ToString::to_string);
        event["requestObject"]["metadata"]["resourceVersion"] = json!(asked);
        if !dry_run {
            event["responseObject"]["metadata"]["resourceVersion"] =
                json!((number + 9).to_string());
            stands.insert(namespace, number + 9);
        }
    }
    events
}

#[test]
fn a_write_that_is_logged_late_is_judged_in_its_place() {
    let mut events = versioned();
    let pin = events.remove(0);
    events.insert(2, pin);
    assert_eq!(judged(&oracle(), &events).wrong, Vec::<String>::new());
    // And one that really came late is not put in front.
    events[2]["responseObject"]["metadata"]["resourceVersion"] = json!("900");
    assert!(!judged(&oracle(), &events).wrong.is_empty());
}

#[test]
fn a_write_that_the_apiserver_gave_up_may_have_been_stored() {
    let mut events = versioned();
    events[0]["responseStatus"]["code"] = json!(504);
    let stored = events[0]["responseObject"].take();
    events[0]["requestObject"]["spec"] = stored["spec"].clone();
    events[0]["requestObject"]["metadata"]["annotations"] =
        stored["metadata"]["annotations"].clone();
    assert_eq!(judged(&oracle(), &events).wrong, Vec::<String>::new());
    events[0]["responseStatus"]["code"] = json!(409);
    assert!(!judged(&oracle(), &events).wrong.is_empty());
}

#[test]
fn a_right_rollout_is_found_right() {
    let told = judged(&oracle(), &right());
    assert_eq!((told.wrong, told.judged), (vec![], 4));
    assert_eq!(told.strict.into_values().collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn each_wrong_write_is_told() {
    let changed = |index: usize, change: &dyn Fn(&mut Value)| {
        let mut events = right();
        change(&mut events[index]);
        events
    };
    let without = |index: usize| {
        let mut events = right();
        events.remove(index);
        events
    };
    let note = |name: &str| format!("/responseObject/metadata/annotations/meshrollout.dev~1{name}");
    let set = |pointer: String, value: Value| {
        move |event: &mut Value| *event.pointer_mut(&pointer).unwrap() = value.clone()
    };
    let uri = |from: &'static str, to: &'static str| {
        move |event: &mut Value| {
            let changed = event["requestURI"].as_str().unwrap().replace(from, to);
            event["requestURI"] = json!(changed);
        }
    };
    let again = |event: Value| right().into_iter().chain([event]).collect::<Vec<_>>();
    for (why, events) in [
        ("S2: forced", changed(2, &uri("timeout", "force=true&timeout"))),
        ("S1: without a deadline", changed(2, &uri("timeout=2s", ""))),
        (
            "S2: whatever version",
            changed(2, &set("/requestObject/metadata/resourceVersion".into(), json!(null))),
        ),
        (
            "S2: whatever object",
            changed(2, &set("/requestObject/metadata/uid".into(), json!(null))),
        ),
        ("S2: not our own object", changed(0, &set(note("rollout-uid"), json!("other")))),
        ("S1: STRICT where no pin", without(0)),
        ("the way back was not tried", without(1)),
        ("S1: on evidence that is too old", changed(2, &set(note("evidence-time"), json!(at(1))))),
        ("S8: without evidence", changed(2, &set(note("evidence"), json!("")))),
        ("S6: before the stage before", changed(5, &set("/stageTimestamp".into(), json!(at(11))))),
        ("L3: written again", again(write(21, "two", "STRICT"))),
        ("S5: not by the replica", changed(6, &set("/responseObject/spec/epoch".into(), json!(8)))),
        ("S5: not by the replica", again(fence(12, "b", 8))),
        ("S3: neither", again(write(21, "two", "DISABLE"))),
        ("a rollback without harm", again(write(21, "two", "PERMISSIVE"))),
        ("S8: a rollback without its mark", again(write(21, "two", "PERMISSIVE"))),
    ] {
        let told = judged(&oracle(), &events).wrong;
        assert!(told.iter().any(|told| told.contains(why)), "{why}: {told:?}");
    }
}

#[test]
fn strict_while_plaintext_could_be_seen_is_told_and_long_after_is_not() {
    for (from, to, wrong) in
        [(-60, None, true), (-60, Some(5), true), (-60, Some(3), false), (6, None, false)]
    {
        let time = |seconds: i64| at(seconds).parse::<Timestamp>().unwrap();
        let (from, to) = (time(from), to.map(time));
        let mut oracle = oracle();
        oracle.broken.push(Broken { namespace: "one".to_owned(), from, to });
        let told = judged(&oracle, &right()).wrong;
        assert_eq!(told.iter().any(|told| told.contains("plaintext")), wrong, "{from} {to:?}");
    }
}

#[test]
fn after_a_rollback_strict_again_is_told() {
    let mut oracle = oracle();
    oracle.harmed.insert("two".to_owned(), at(21).parse().unwrap());
    let mut back = write(23, "two", "PERMISSIVE");
    back["responseObject"]["metadata"]["annotations"]["meshrollout.dev/rolled-back-at"] =
        json!(at(23));
    let mut events = right();
    events.push(back);
    let told = judged(&oracle, &events);
    assert_eq!((told.wrong, told.rollback), (vec![], Some(Duration::from_secs(2))));
    events.extend([dry_run(40, "two"), write(40, "two", "STRICT")]);
    let told = judged(&oracle, &events).wrong;
    assert!(told.iter().any(|told| told.contains("nobody asked")), "{told:?}");
}

#[test]
fn a_write_outside_every_plan_is_told() {
    let events = [write(0, "kube-system", "STRICT"), write(0, "one", "PERMISSIVE")];
    let events = events.map(|event| serde_json::from_value(event).unwrap());
    let told = Oracle::strays(&[oracle()], &Audit::made_of(events.into()));
    assert_eq!(told.len(), 1, "{told:?}");
}
