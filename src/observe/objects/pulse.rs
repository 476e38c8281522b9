//! Is a watch alive? A quiet cluster and a dead connection look the same to whoever waits for
//! events.
//!
//! kube's `watcher` keeps bookmarks and reconnections to itself: on a quiet cluster it says nothing
//! for hours. So we listen one layer below it, where the answers come in. The apiserver ends each
//! watch after a third of the time after which we would call it stale (`timeoutSeconds`), and an
//! orderly end proves that all it had to tell until then has come through. So does each event and
//! each bookmark, but when they come is up to the apiserver. That a watch was granted proves
//! nothing: what it has to tell may be held up on the way.

use futures::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use meshrollout_core::reading::Cause;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The signs of life of one watch.
pub(super) struct Pulse {
    kind: &'static str,
    is_optional: bool,
    signs: Mutex<Signs>,
}

struct Signs {
    /// When the watch was last known to have told us everything. By both clocks: one may be set
    /// back, the other stands still while the machine sleeps.
    current: Option<(Timestamp, Instant)>,
    /// When anything at all came in, lists included.
    heard: Instant,
    /// What went wrong since then.
    trouble: Option<String>,
    has_lost: bool,
    watched: Watched,
}

/// Whether there is a watch.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Watched {
    Yes,
    /// It is not known whether there is anything to watch.
    NotYet,
    /// There is nothing to watch.
    No,
}

impl Pulse {
    /// Of a kind that need not be there, if it `is_optional`.
    pub(super) fn new(kind: &'static str, is_optional: bool) -> Self {
        let watched = if is_optional { Watched::NotYet } else { Watched::Yes };
        Self { kind, is_optional, signs: Mutex::new(Signs::new(watched)) }
    }

    /// What is watched.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// The apiserver has told us everything up to now.
    pub(super) fn is_current(&self) {
        let mut signs = self.signs();
        signs.heard = Instant::now();
        signs.current = Some((Timestamp::now(), signs.heard));
        signs.has_lost = false;
        if signs.trouble.take().is_some() {
            tracing::info!(kind = self.kind, "the watch works again");
        }
    }

    /// There is nothing to watch.
    pub(super) fn rests(&self) {
        *self.signs() = Signs::new(Watched::No);
    }

    /// There is something to watch, and nothing is known of it yet.
    pub(super) fn begins(&self) {
        *self.signs() = Signs::new(Watched::Yes);
    }

    /// Something went wrong. What we know may still be true until it is too old. True when it is
    /// news.
    pub(super) fn is_troubled(&self, trouble: String) -> bool {
        let mut signs = self.signs();
        let is_news = signs.trouble.as_ref() != Some(&trouble);
        if is_news {
            tracing::warn!(kind = self.kind, trouble, "the watch fails");
            signs.trouble = Some(trouble);
        }
        is_news
    }

    /// An event was lost: what we know is not the truth, however young it is.
    pub(super) fn has_lost(&self) {
        self.signs().has_lost = true;
    }

    /// Nothing has come in for this long, not even a part of a list.
    pub(super) fn is_silent_for(&self, limit: Duration) -> bool {
        self.signs().heard.elapsed() >= limit
    }

    /// The first list has arrived.
    pub(super) fn is_listed(&self) -> bool {
        self.signs().current.is_some()
    }

    /// There is nothing to wait for. A kind that need not be there keeps nobody from starting, also
    /// where it cannot be read: it is stale, and says why.
    pub(super) fn is_answered(&self) -> bool {
        let signs = self.signs();
        match signs.watched {
            Watched::Yes => {
                signs.current.is_some() || (self.is_optional && signs.trouble.is_some())
            }
            Watched::NotYet => false,
            Watched::No => true,
        }
    }

    /// Why what it told us may not be true any more, if its last sign is older than `limit`.
    pub(super) fn stale(&self, now: Timestamp, limit: SignedDuration) -> Option<Cause> {
        let signs = self.signs();
        let is_fresh = signs.current.is_some_and(|(time, instant)| {
            !signs.has_lost
                && now.duration_since(time) <= limit
                && instant.elapsed() <= Duration::try_from(limit).unwrap_or_default()
        });
        if is_fresh || signs.watched != Watched::Yes {
            return None;
        }
        let kind = match &signs.trouble {
            Some(trouble) => format!("{} ({trouble})", self.kind),
            None => self.kind.to_owned(),
        };
        Some(Cause::StaleWatch { kind, since: signs.current.map(|(time, _)| time) })
    }

    fn heard(&self) {
        self.signs().heard = Instant::now();
    }

    fn signs(&self) -> std::sync::MutexGuard<'_, Signs> {
        // Each change is one assignment: a panic elsewhere leaves nothing half-changed.
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signs {
    fn new(watched: Watched) -> Self {
        Self { current: None, heard: Instant::now(), trouble: None, has_lost: false, watched }
    }
}

/// A client whose answers are signs of life.
///
/// Only what comes through a watch proves that we are current. `watcher` begins it after a whole
/// list, and goes on from the last event that we have been given. A list proves it only when it is
/// whole, which whoever reads the events knows.
pub(super) fn listening(client: Client, pulse: Arc<Pulse>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, pulse) = (client.clone(), pulse.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            let is_watch = query.split('&').any(|pair| pair == "watch=true");
            let answer = client.send(request).await?;
            let proves = is_watch && answer.status().is_success();
            pulse.heard();
            let sign = move || match proves {
                true => pulse.is_current(),
                false => pulse.heard(),
            };
            Ok::<_, kube::Error>(answer.map(|body| signed(body, sign)))
        }
    });
    Client::new(service, namespace)
}

/// The same body, with a sign at each part and at an orderly end.
fn signed(
    body: Body,
    sign: impl Fn() + Send + 'static,
) -> impl http_body::Body<Data = <Body as http_body::Body>::Data, Error = kube::Error> + Send {
    let parts = stream::unfold(Some((body.into_data_stream(), sign)), |left| async {
        let (mut parts, sign) = left?;
        match parts.next().await {
            Some(Ok(part)) => {
                sign();
                Some((Ok(Frame::data(part)), Some((parts, sign))))
            }
            // Broken off: what was on its way is lost.
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                sign();
                None
            }
        }
    });
    StreamBody::new(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: SignedDuration = SignedDuration::from_secs(60);

    fn cause(pulse: &Pulse, after: i64) -> Option<String> {
        let now = Timestamp::now() + SignedDuration::from_secs(after);
        pulse.stale(now, LIMIT).map(|cause| cause.to_string())
    }

    #[test]
    fn a_watch_that_has_not_listed_is_stale_and_says_why() {
        let pulse = Pulse::new("Pod", false);
        assert_eq!(cause(&pulse, 0).unwrap(), "the watch of Pod has not delivered its first list");
        pulse.is_troubled("forbidden".into());
        pulse.heard();
        let said = cause(&pulse, 0).unwrap();
        assert_eq!(said, "the watch of Pod (forbidden) has not delivered its first list");
    }

    #[test]
    fn it_is_fresh_for_as_long_as_the_limit() {
        let pulse = Pulse::new("Pod", false);
        pulse.is_current();
        assert_eq!(cause(&pulse, 59), None);
        assert!(cause(&pulse, 61).unwrap().contains("silent since"));
        // Trouble alone makes nothing untrue.
        pulse.is_troubled("refused".into());
        assert_eq!(cause(&pulse, 59), None);
    }

    #[test]
    fn a_kind_that_need_not_be_there_is_waited_for_until_it_is_known_whether_it_is() {
        let pulse = Pulse::new("HTTPRoute", true);
        assert_eq!((pulse.is_answered(), cause(&pulse, 0)), (false, None));
        pulse.rests();
        assert_eq!((pulse.is_answered(), cause(&pulse, 3600)), (true, None));
        pulse.begins();
        assert!(!pulse.is_answered());
        assert!(cause(&pulse, 0).unwrap().contains("has not delivered its first list"));
        pulse.is_troubled("forbidden".into());
        assert!(pulse.is_answered() && !pulse.is_listed());
        assert!(cause(&pulse, 0).unwrap().contains("HTTPRoute (forbidden)"));
        // The others are waited for, whatever the trouble.
        let pulse = Pulse::new("Pod", false);
        pulse.is_troubled("forbidden".into());
        assert!(!pulse.is_answered());
    }

    #[test]
    fn a_lost_event_makes_it_stale_until_the_next_list() {
        let pulse = Pulse::new("Pod", false);
        pulse.is_current();
        pulse.has_lost();
        pulse.heard();
        assert!(cause(&pulse, 0).is_some());
        pulse.is_current();
        assert_eq!(cause(&pulse, 0), None);
    }
}
