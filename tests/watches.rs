//! Promises about the wire that no real apiserver can be made to test: an answer that cannot be
//! read.

use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use meshrollout::observe::objects::Objects;
use meshrollout_core::ident::Namespace;
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::Telemetry;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
