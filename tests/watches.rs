//! Promises about the wire that no real apiserver can be made to test: an answer that cannot be
//! read, and definitions that come and go while nobody deletes what they define.

use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use meshrollout::observe::objects::Objects;
use meshrollout_core::ident::Namespace;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::Telemetry;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers every list with nothing and every watch with silence, save those of Services: the first
/// watch brings one event that cannot be read, and lists after that bring `web`.
fn apiserver(lists: Arc<AtomicUsize>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let lists = lists.clone();
        async move {
            let is_watch = request.uri().query().unwrap_or_default().contains("watch=true");
            let of_services = request.uri().path().ends_with("/services");
            let asked = match of_services && !is_watch {
                true => lists.fetch_add(1, Ordering::SeqCst) + 1,
                false => lists.load(Ordering::SeqCst),
            };
            let web = json!({"metadata": {"namespace": "shop", "name": "web", "uid": "1",
                "resourceVersion": "7"}});
            let answer = match (is_watch, of_services) {
                (false, true) if asked > 1 => list(&[web]),
                (false, _) => list(&[]),
                (true, true) if asked == 1 => {
                    let unreadable = json!({"metadata": {"name": "web", "resourceVersion": "7"},
                        "spec": {"ports": "80"}});
                    json!({"type": "ADDED", "object": unreadable}).to_string() + "\n"
                }
                // As an apiserver ends a quiet watch.
                (true, _) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    String::new()
                }
            };
            Ok::<_, Infallible>(Response::new(Body::from(answer.into_bytes())))
        }
    });
    Client::new(service, "default")
}

fn list(items: &[serde_json::Value]) -> String {
    json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string()
}

fn look(objects: &Objects) -> Snapshot {
    let now = Timestamp::now();
    let length = SignedDuration::from_secs(60);
    let cause = Cause::NotRead("a metrics source".into());
    objects.snapshot(now, Arc::new(Telemetry::unknown(now, length, length, &cause)))
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_never_lost_in_silence() {
    let lists = Arc::new(AtomicUsize::new(0));
    let objects = Objects::watch(apiserver(lists.clone()), SignedDuration::from_secs(60));
    let mut changed = objects.changed();
    objects.ready(Duration::from_secs(5)).await.unwrap();
    let shop = Namespace::from("shop");
    let mut was_stale = false;
    let relisted = async {
        loop {
            let snapshot = look(&objects);
            if snapshot.namespace(&shop).is_some() {
                return;
            }
            // Until it is listed again, the watch says that it does not know.
            was_stale |= snapshot.stale.iter().any(|cause| cause.to_string().contains("Service"));
            let _ = tokio::time::timeout(Duration::from_millis(20), changed.changed()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), relisted).await.expect("Services listed again");
    assert!(was_stale);
    assert_eq!(look(&objects).stale, []);
    assert_eq!(lists.load(Ordering::SeqCst), 2);
}

/// Serves no kinds that need not be there but HTTPRoutes, of which there is always one, as soon as
/// an event says that they are defined.
#[derive(Clone, Default)]
struct Defining {
    events: Arc<Mutex<VecDeque<serde_json::Value>>>,
    lists_of_routes: Arc<AtomicUsize>,
    /// Routes are defined from the beginning, and whoever lists them is refused.
    refuses_routes: bool,
}

const DEFINITION: &str = "httproutes.gateway.networking.k8s.io";

impl Defining {
    fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            let asked = request.uri().clone();
            async move { Ok::<_, Infallible>(this.answer(asked).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, asked: http::Uri) -> Response<Body> {
        let is_watch = asked.query().unwrap_or_default().contains("watch=true");
        let of_routes = asked.path().ends_with("/httproutes");
        let of_definitions = asked.path().ends_with("/customresourcedefinitions");
        if of_routes && !is_watch {
            self.lists_of_routes.fetch_add(1, Ordering::SeqCst);
            if self.refuses_routes {
                let refused = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "code": 403, "reason": "Forbidden", "message": "not you"});
                let body = Body::from(refused.to_string().into_bytes());
                return Response::builder().status(403).body(body).unwrap();
            }
        }
        let answer = match (is_watch, of_routes) {
            (false, true) => list(&[json!({
                "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"},
                "spec": {"parentRefs": [{"name": "edge"}],
                    "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})]),
            (false, false) if of_definitions && self.refuses_routes => list(&[definition(&["v1"])]),
            (false, false) => list(&[]),
            (true, _) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let next =
                    of_definitions.then(|| self.events.lock().unwrap().pop_front()).flatten();
                next.map_or_else(String::new, |event| event.to_string() + "\n")
            }
        };
        Response::new(Body::from(answer.into_bytes()))
    }

    /// The definition is of these versions now, or with `DELETED` of none.
    fn tell(&self, what: &str, versions: &[&str]) {
        let event = json!({"type": what, "object": definition(versions)});
        self.events.lock().unwrap().push_back(event);
    }
}

fn definition(versions: &[&str]) -> serde_json::Value {
    let versions: Vec<_> =
        versions.iter().map(|name| json!({"name": name, "served": true})).collect();
    json!({
        "metadata": {"name": DEFINITION, "resourceVersion": "8"},
        "spec": {"versions": versions},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

/// Waits until this is known of who comes in: so many, or why it is not known.
async fn until_known(objects: &Objects, expected: Result<usize, &str>) {
    let mut changed = objects.changed();
    let known = async {
        loop {
            let now = match look(objects).entrances {
                Reading::Known(all) => Ok(all.len()),
                Reading::Unknown(cause) => Err(cause.to_string()),
            };
            if now.as_ref().map(|count| *count).map_err(String::as_str) == expected {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), changed.changed()).await;
        }
    };
    let known = tokio::time::timeout(Duration::from_secs(10), known).await;
    known.unwrap_or_else(|_| panic!("{expected:?}: {:?}", look(objects).entrances));
}

#[tokio::test]
async fn a_kind_is_followed_for_as_long_as_its_definition_serves_it() {
    let apiserver = Defining::default();
    let objects = Objects::watch(apiserver.client(), SignedDuration::from_secs(60));
    objects.ready(Duration::from_secs(5)).await.unwrap();
    until_known(&objects, Ok(0)).await;
    assert_eq!(apiserver.lists_of_routes.load(Ordering::SeqCst), 0);

    apiserver.tell("ADDED", &["v1beta1", "v1"]);
    until_known(&objects, Ok(1)).await;
    apiserver.tell("MODIFIED", &["v1beta1"]);
    let unread = format!(
        "CustomResourceDefinition {DEFINITION}, which does not serve v1, cannot be understood"
    );
    until_known(&objects, Err(&unread)).await;
    apiserver.tell("MODIFIED", &["v1"]);
    until_known(&objects, Ok(1)).await;
    apiserver.tell("DELETED", &["v1"]);
    until_known(&objects, Ok(0)).await;
    assert_eq!(apiserver.lists_of_routes.load(Ordering::SeqCst), 2, "one of each time");
    assert_eq!(look(&objects).stale, []);
}

#[tokio::test]
async fn a_kind_that_is_refused_holds_and_keeps_nobody_from_starting() {
    let apiserver = Defining { refuses_routes: true, ..Defining::default() };
    let objects = Objects::watch(apiserver.client(), SignedDuration::from_secs(60));
    objects.ready(Duration::from_secs(10)).await.expect("it keeps nobody from starting");
    until_known(&objects, Err("HTTPRoute has not been read")).await;
    let stale: Vec<_> = look(&objects).stale.iter().map(ToString::to_string).collect();
    assert_eq!(stale, ["the watch of HTTPRoute (not you) has not delivered its first list"]);
}
