//! What the one writer promises about HTTP.

use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use meshrollout::apply::{Leave, Outcome, Writer};
use meshrollout::fence::Stamp;
use meshrollout_core::action::Action;
use meshrollout_core::decide::{State, step_back};
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::ident::Namespace;
use meshrollout_core::testing::{World, at};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const PATH: &str = "/apis/security.istio.io/v1/namespaces/catalog/peerauthentications/default";

/// A request as the apiserver saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    body: Value,
}

impl Seen {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Performs `action` against an apiserver that gives these answers, in order; `None` never answers.
async fn perform(
    action: &Action,
    leave: Leave,
    answers: Vec<Option<(u16, Value)>>,
) -> (Outcome, Vec<Seen>) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let seen = Arc::new(Mutex::new(vec![]));
    let server = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            let mut answers = answers.into_iter();
            let mut unanswered = vec![];
            while let Some((request, send)) = handle.next_request().await {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let query = head.uri.query().unwrap_or_default();
                seen.lock().unwrap().push(Seen {
                    method: head.method.to_string(),
                    path: head.uri.path().to_owned(),
                    query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
                    body: serde_json::from_slice(&body).unwrap(),
                });
                match answers.next().expect("no further request was promised") {
                    Some((code, body)) => {
                        let answer = Response::builder().status(code).header("retry-after", "1");
                        send.send_response(
                            answer.body(Body::from(body.to_string().into_bytes())).unwrap(),
                        );
                    }
                    None => unanswered.push(send),
                }
            }
        }
    });
    let writer = Writer::on(Client::new(service, "default"), SignedDuration::from_secs(1));
    let outcome = writer.perform(action, async || leave.clone()).await;
    drop(writer);
    server.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (outcome, seen)
}

fn granted() -> Leave {
    Leave::Granted(Stamp { holder: "one".into(), epoch: 3 })
}

/// The answer of a fence that is in force to a stamp of another reign.
fn fenced() -> Option<(u16, Value)> {
    saying(403, "ValidatingAdmissionPolicy 'meshrollout-fence' denied: deposed")
}

fn saying(code: u16, message: &str) -> Option<(u16, Value)> {
    let (code, mut status) = refused(code, None)?;
    status["message"] = json!(message);
    Some((code, status))
}

fn stored() -> Option<(u16, Value)> {
    Some((200, json!({"kind": "PeerAuthentication"})))
}

fn refused(code: u16, cause: Option<&str>) -> Option<(u16, Value)> {
    let causes: Vec<_> = cause.into_iter().map(|reason| json!({"reason": reason})).collect();
    let details = json!({"causes": causes});
    Some((
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": "no", "reason": "Any", "details": details}),
    ))
}

/// The shop's world, at this moment.
fn world() -> World {
    let mut world = World::shop();
    world.now = (Timestamp::now() - at(0)).get_seconds();
    world
}

fn pin() -> Action {
    let (_, mut decision) = world().look();
    decision.actions.pop().expect("a pin comes first")
}

/// STRICT for `catalog`, cleared on evidence of this age.
fn strict(age: i64) -> Action {
    let mut world = world();
    world.now -= 90 + age;
    world.visits(3);
    let (_, mut decision) = world.look();
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Enforcing);
    decision.actions.pop().expect("the soak is over")
}

fn back() -> Action {
    let mut world = world();
    world.now -= 120;
    world.visits(4);
    let catalog = Namespace::from("catalog");
    let policy = world.policy(&catalog).expect("it is STRICT").clone();
    let because = Finding::new(Code::HarmAfterStrict, Subject::namespace(&catalog), "it broke");
    step_back(&catalog, &policy, because).expect("it is ours")
}

#[tokio::test]
async fn a_pin_is_an_apply_that_meets_nothing() {
    let (outcome, seen) = perform(&pin(), granted(), vec![fenced(), stored()]).await;
    assert_eq!(outcome, Outcome::Done);
    let [_, only] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((only.method.as_str(), only.path.as_str()), ("PATCH", PATH));
    assert_eq!(only.query("fieldManager"), Some("meshrollout"));
    assert_eq!(only.query("fieldValidation"), Some("Strict"));
    assert_eq!(only.query("timeout"), Some("1s"));
    assert_eq!((only.query("force"), only.query("dryRun")), (None, None));
    assert_eq!(only.body["metadata"]["resourceVersion"], "1");
    assert_eq!(only.body["metadata"]["uid"], Value::Null);
    assert_eq!(only.body["spec"], json!({"mtls": {"mode": "PERMISSIVE"}}));
}

#[tokio::test]
async fn strict_tries_the_way_back_first_and_meets_the_version_it_was_cleared_for() {
    let answers = vec![stored(), fenced(), stored()];
    let (outcome, seen) = perform(&strict(0), granted(), answers).await;
    assert_eq!(outcome, Outcome::Done);
    let [tried, _, sent] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((tried.query("dryRun"), sent.query("dryRun")), (Some("All"), None));
    assert_eq!((tried.query("force"), sent.query("force")), (None, None));
    assert_eq!(tried.body["spec"]["mtls"]["mode"], "PERMISSIVE");
    assert_eq!(sent.body["spec"]["mtls"]["mode"], "STRICT");
    for one in &seen {
        assert_eq!(one.body["metadata"]["uid"], "catalog-default");
        assert!(one.body["metadata"]["resourceVersion"].is_string(), "{one:?}");
    }
    let notes = &sent.body["metadata"]["annotations"];
    for note in [
        "rollout-uid",
        "namespace-uid",
        "previous-mode",
        "strict-since",
        "evidence",
        "evidence-time",
    ] {
        assert!(notes[format!("meshrollout.dev/{note}")].is_string(), "{note}: {notes}");
    }
}

#[tokio::test]
async fn strict_is_not_sent_when_going_back_would_be_refused() {
    let (outcome, seen) = perform(&strict(0), granted(), vec![refused(403, None)]).await;
    assert_eq!(outcome, Outcome::NoWayBack("no".into()));
    assert_eq!(seen.len(), 1, "{seen:?}");
}

/// What was only tried cannot be stored later: no reign is spent to keep it out.
#[tokio::test]
async fn a_trial_without_an_answer_is_no_write_without_one() {
    let (outcome, seen) = perform(&strict(0), granted(), vec![refused(503, None)]).await;
    assert_eq!((&outcome, seen.len()), (&Outcome::Untried("no".into()), 1));
    assert_eq!(outcome.finding(&strict(0)).unwrap().code, Code::WriteRefused);
    let answers = vec![stored(), fenced(), refused(503, None)];
    let (outcome, seen) = perform(&strict(0), granted(), answers).await;
    assert_eq!((&outcome, seen.len()), (&Outcome::Unanswered("no".into()), 3));
    assert!(outcome.may_arrive_late());
    // What a webhook did not let through is nowhere on its way.
    let webhook = saying(500, "Internal error occurred: failed calling webhook \"validation\"");
    let answers = vec![stored(), fenced(), webhook];
    let (outcome, _) = perform(&strict(0), granted(), answers).await;
    assert!(matches!(outcome, Outcome::Unanswered(_)), "{outcome:?}");
    assert!(!outcome.may_arrive_late());
}

#[tokio::test]
async fn strict_is_not_sent_on_evidence_that_grew_old() {
    let (outcome, seen) = perform(&strict(3600), granted(), vec![stored(), fenced()]).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
    assert!(seen.iter().all(|one| one.query("dryRun").is_some()), "{seen:?}");
}

#[tokio::test]
async fn a_replica_that_does_not_lead_sends_nothing() {
    let (outcome, seen) = perform(&back(), Leave::Denied("another replica leads"), vec![]).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
    assert!(seen.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn every_write_carries_the_stamp_of_its_reign() {
    for (action, answers, epochs) in [
        (pin(), vec![fenced(), stored()], &["0", "3"][..]),
        (strict(0), vec![stored(), fenced(), stored()], &["3", "0", "3"]),
        (back(), vec![stored()], &["3"]),
    ] {
        let (outcome, seen) = perform(&action, granted(), answers).await;
        assert_eq!(outcome, Outcome::Done);
        let notes = seen.iter().map(|one| &one.body["metadata"]["annotations"]);
        let epochs_seen: Vec<_> =
            notes.map(|notes| notes["meshrollout.dev/epoch"].as_str().unwrap()).collect();
        assert_eq!(epochs_seen, epochs);
    }
}

#[tokio::test]
async fn where_the_stamp_of_another_reign_would_pass_nothing_goes_forward() {
    let strict = strict(0);
    for (action, answers) in [(&pin(), 1), (&strict, 2)] {
        let (outcome, seen) = perform(action, granted(), vec![stored(); answers]).await;
        assert_eq!((&outcome, seen.len()), (&Outcome::NoFence, answers));
        assert!(seen.iter().all(|one| one.query("dryRun").is_some()), "{seen:?}");
        assert!(seen.iter().all(|one| one.body["spec"]["mtls"]["mode"] == "PERMISSIVE"));
        let found = outcome.finding(action).unwrap();
        assert!(found.remedy.contains("meshrollout-fence"), "{found:?}");
    }
    // Neither does what another plugin says, or nobody, pass for the fence's refusal.
    let (outcome, _) = perform(&strict, granted(), vec![stored(), refused(403, None)]).await;
    assert_eq!(outcome, Outcome::Refused("no".into()));
    let (outcome, _) = perform(&strict, granted(), vec![stored(), refused(503, None)]).await;
    assert_eq!(outcome, Outcome::Untried("no".into()));
}

#[tokio::test]
async fn without_word_of_the_fence_only_a_rollback_is_sent() {
    let stamp = Some(Stamp { holder: "one".into(), epoch: 3 });
    let unsure = || Leave::Unsure(stamp.clone(), "no answer".into());
    for action in [pin(), strict(0)] {
        let (outcome, seen) = perform(&action, unsure(), vec![]).await;
        assert_eq!((outcome, seen.len()), (Outcome::Fenced("no answer".into()), 0));
    }
    let (outcome, seen) = perform(&back(), unsure(), vec![stored()]).await;
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(seen[0].body["metadata"]["annotations"]["meshrollout.dev/epoch"], "3");
}

#[tokio::test]
async fn a_refusal_by_the_fence_is_told_from_others() {
    let (outcome, _) = perform(&back(), granted(), vec![fenced()]).await;
    assert!(matches!(outcome, Outcome::Fenced(_)), "{outcome:?}");
    assert!(outcome.finding(&back()).is_some());
}

#[tokio::test]
async fn a_rollback_says_permissive_and_why_and_forgets_strict() {
    let (outcome, seen) = perform(&back(), granted(), vec![stored()]).await;
    assert_eq!(outcome, Outcome::Done);
    let notes = &seen[0].body["metadata"]["annotations"];
    assert_eq!(notes["meshrollout.dev/rolled-back-because"], "MR0901: it broke");
    assert_eq!(notes["meshrollout.dev/strict-since"], Value::Null);
    assert_eq!(seen[0].body["spec"]["mtls"]["mode"], "PERMISSIVE");
}

#[tokio::test]
async fn a_moved_version_is_a_conflict_and_anothers_field_a_refusal_and_neither_is_repeated() {
    let (outcome, seen) = perform(&back(), granted(), vec![refused(409, None)]).await;
    assert_eq!((outcome, seen.len()), (Outcome::Conflict("no".into()), 1));
    let owned = refused(409, Some("FieldManagerConflict"));
    let (outcome, seen) = perform(&back(), granted(), vec![owned]).await;
    assert_eq!((outcome, seen.len()), (Outcome::Refused("no".into()), 1));
}

#[tokio::test]
async fn an_overloaded_apiserver_is_not_asked_twice() {
    for code in [429, 500, 503, 504] {
        let (outcome, seen) = perform(&back(), granted(), vec![refused(code, None)]).await;
        assert_eq!((outcome, seen.len()), (Outcome::Unanswered("no".into()), 1), "{code}");
    }
}

#[tokio::test]
async fn a_write_ends_with_its_deadline() {
    let begin = std::time::Instant::now();
    let (outcome, _) = perform(&back(), granted(), vec![None]).await;
    assert!(matches!(outcome, Outcome::Unanswered(_)), "{outcome:?}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
}
