//! What becomes of a watch's events on their way.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::StreamExt;
use futures::channel::mpsc;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::schedule::Fault;

/// Events are held back only this long after the watch began.
const HELD_BACK_FOR: Duration = Duration::from_secs(10);

/// Passes a watch's answer on, whole events at a time, while `silent` does not hold.
pub(super) fn watched(
    answer: kube::client::Body,
    fault: Option<Fault>,
    mut silent: watch::Receiver<bool>,
) -> Body {
    let (events, passed_on) = mpsc::unbounded();
    tokio::spawn(async move {
        let begin = Instant::now();
        let (end, expires, held) = match fault {
            Some(Fault::Ends(after)) => (Some(begin + after), false, Duration::ZERO),
            Some(Fault::Expires(after)) => (Some(begin + after), true, Duration::ZERO),
            Some(Fault::HeldBack(by)) => (None, false, by),
            _ => (None, false, Duration::ZERO),
        };
        let mut data = answer.into_data_stream();
        let mut pending: Vec<u8> = vec![];
        loop {
            let ended = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                chunk = data.next() => chunk,
                () = ended => {
                    if expires {
                        let _ = events.unbounded_send(Ok(too_old()));
                    }
                    return;
                }
            };
            let Some(Ok(chunk)) = chunk else { return };
            pending.extend_from_slice(&chunk);
            let Some(last) = pending.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = pending.split_off(last + 1);
            let whole = Bytes::from(std::mem::replace(&mut pending, rest));
            // The sender goes with the proxy, and the connection with it.
            let _ = silent.wait_for(|silent| !silent).await;
            if begin.elapsed() < HELD_BACK_FOR {
                // Later ones queue up behind: their order stays.
                tokio::time::sleep(held).await;
            }
            if events.unbounded_send(Ok::<_, std::io::Error>(whole)).is_err() {
                return;
            }
        }
    });
    Body::from_stream(passed_on)
}

fn too_old() -> Bytes {
    let event = json!({"type": "ERROR", "object": super::status(410, "Expired")});
    Bytes::from(format!("{event}\n"))
}

/// The first half, and then the end of the connection.
pub(super) fn torn(whole: Bytes) -> Body {
    let half = whole.slice(..whole.len() / 2);
    let parts = [Ok(half), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
    Body::from_stream(futures::stream::iter(parts))
}
