//! What the control planes say of the proxies: have they taken what was sent?
//!
//! istiod tells it on the port of its metrics, at `/debug/syncz`, to callers with a token of
//! audience `istio-ca` whose namespace it was told to trust
//! (`DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES`). Each knows the proxies connected to itself alone, so
//! one that does not answer leaves everything unknown.

mod status;

use super::clock::{self, Clock};
use super::objects::{Objects, Target};
use super::sidecars::Whose;
use crate::config::Config;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::{Namespace, PodRef};
use meshrollout_core::proxies::Listeners;
use meshrollout_core::reading::{Cause, Reading};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// An answer may be this large: about a thousand bytes for each proxy.
const MOST_BYTES: usize = 64 << 20;
/// An istiod that does not answer must not keep a rollback waiting.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks every control plane that the watches know.
pub struct Proxies {
    objects: Objects,
    token_file: Option<PathBuf>,
    namespaces: Vec<Namespace>,
    port: u16,
    max_skew: SignedDuration,
    /// A proxy that connects anew is with nobody for a moment: so long it counts as it was.
    patience: SignedDuration,
    client: Client<HttpConnector, Empty<&'static [u8]>>,
    seen: Mutex<Seen>,
}

/// What was told lately of each proxy, and when.
#[derive(Default)]
struct Seen(BTreeMap<PodRef, (Timestamp, Listeners)>);

/// Why a control plane told nothing.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Token(String),
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
    #[error(
        "HTTP status {0}: let it trust our namespace (DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES) and \
         the token's audience be istio-ca"
    )]
    Refused(StatusCode),
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {MOST_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Malformed(#[from] status::Malformed),
    #[error("its clock and ours differ by {0:#}")]
    Skewed(SignedDuration),
}

impl Proxies {
    /// Nothing is asked before [`Self::listeners`].
    pub fn new(objects: Objects, config: &Config) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(LIMIT));
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
        Self {
            objects,
            token_file: config.proxy_state.token_file.clone(),
            namespaces: config.proxy_state.namespaces.iter().map(|it| it.as_str().into()).collect(),
            port: config.sidecars.control_plane_port,
            max_skew: config.max_clock_skew,
            patience: config.proxy_acknowledgement,
            client,
            seen: Mutex::default(),
        }
    }

    /// The last sending of each connected proxy's listeners.
    pub async fn listeners(&self) -> Reading<BTreeMap<PodRef, Listeners>> {
        let unknown = |why: String| {
            Reading::Unknown(Cause::NotRead(format!("what the proxies have taken ({why})")))
        };
        let Some(token_file) = &self.token_file else {
            return unknown("proxyState.tokenFile is not set".into());
        };
        let mut targets = self.objects.targets();
        targets.retain(|target| target.whose == Whose::ControlPlane);
        if targets.is_empty() {
            return unknown("no pod of istiod is known".into());
        }
        // Whoever may make pods elsewhere must not get our token by calling one istiod.
        let stranger = targets.iter().find(|one| !self.namespaces.contains(&one.pod.namespace));
        if let Some(Target { pod, .. }) = stranger {
            return unknown(format!("{pod} is not in proxyState.namespaces"));
        }
        let asked = targets.iter().map(async |target| {
            let answer = tokio::time::timeout(LIMIT, self.ask(target, token_file)).await;
            answer.unwrap_or(Err(Error::TimedOut)).map_err(|error| (target, error))
        });
        match merged(futures::future::join_all(asked).await) {
            Ok(all) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(all, Timestamp::now(), self.patience);
                Reading::Known(seen.listeners())
            }
            Err((target, error)) => {
                tracing::debug!(pod = %target.pod, %error, "what the proxies have taken is not told");
                unknown(format!("{}: {error}", target.pod))
            }
        }
    }

    async fn ask(
        &self,
        target: &Target,
        token_file: &Path,
    ) -> Result<BTreeMap<PodRef, Listeners>, Error> {
        let address = SocketAddr::new(target.process.address, self.port);
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        let request = Request::get(format!("http://{address}/debug/syncz"))
            .header(header::AUTHORIZATION, bearer(token_file).await?)
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let asked = Timestamp::now();
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let received = Timestamp::now();
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(Error::Refused(status));
            }
            status => return Err(Error::Status(status)),
        }
        let date = clock::date(response.headers());
        let text = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let text = text.map_err(|error| match error.is::<LengthLimitError>() {
            true => Error::TooLarge,
            false => unreachable(&error),
        })?;
        let mut all = status::listeners(&text.to_bytes())?;
        // The times it tells are by its own clock.
        let mut clock = Clock::default();
        clock.hear(asked, received, date);
        if let Ok(skew) = clock.skew() {
            if skew.abs() > self.max_skew {
                return Err(Error::Skewed(skew));
            }
            for listeners in all.values_mut() {
                listeners.sent = listeners.sent.saturating_sub(skew).unwrap_or(listeners.sent);
            }
        }
        Ok(all)
    }
}

/// Read again each time: the kubelet renews it.
async fn bearer(file: &Path) -> Result<HeaderValue, Error> {
    let told = |what: String| Error::Token(format!("{}: {what}", file.display()));
    let token = tokio::fs::read_to_string(file).await.map_err(|error| told(error.to_string()))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| told("it holds what no header can".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What all told together; the first that told nothing leaves nothing.
fn merged<T>(
    answers: Vec<Result<BTreeMap<PodRef, Listeners>, (T, Error)>>,
) -> Result<BTreeMap<PodRef, Listeners>, (T, Error)> {
    let mut all = BTreeMap::new();
    for answer in answers {
        for (pod, listeners) in answer? {
            status::keep_the_later(&mut all, pod, listeners);
        }
    }
    Ok(all)
}

impl Seen {
    fn extend(
        &mut self,
        all: BTreeMap<PodRef, Listeners>,
        now: Timestamp,
        patience: SignedDuration,
    ) {
        self.0.retain(|_, (at, _)| now.duration_since(*at) <= patience);
        self.0.extend(all.into_iter().map(|(pod, listeners)| (pod, (now, listeners))));
    }

    fn listeners(&self) -> BTreeMap<PodRef, Listeners> {
        self.0.iter().map(|(pod, (_, listeners))| (pod.clone(), listeners.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshrollout_core::proxies::Answer;

    fn told(name: &str, second: i64) -> BTreeMap<PodRef, Listeners> {
        let sent = Timestamp::from_second(second).unwrap();
        let pod = PodRef { namespace: "pay".into(), name: name.into() };
        BTreeMap::from([(pod, Listeners { sent, answer: Answer::Acknowledged })])
    }

    fn seconds(all: &BTreeMap<PodRef, Listeners>) -> Vec<(&str, i64)> {
        all.iter().map(|(pod, told)| (pod.name.as_str(), told.sent.as_second())).collect()
    }

    #[test]
    fn one_control_plane_that_does_not_answer_leaves_nothing() {
        let all = merged::<()>(vec![Ok(told("a", 2)), Ok(told("a", 1)), Ok(told("b", 1))]);
        assert_eq!(seconds(&all.unwrap()), [("a", 2), ("b", 1)], "the later connection counts");
        let failed = merged(vec![Ok(told("a", 2)), Err(("istiod-1", Error::TimedOut))]);
        assert_eq!(failed.unwrap_err().0, "istiod-1");
    }

    #[test]
    fn a_proxy_that_connects_anew_counts_as_it_was_for_a_while() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let patience = SignedDuration::from_secs(60);
        let mut seen = Seen::default();
        seen.extend(told("a", 1), at(10), patience);
        seen.extend(told("b", 2), at(70), patience);
        assert_eq!(seconds(&seen.listeners()), [("a", 1), ("b", 2)]);
        seen.extend(told("b", 3), at(71), patience);
        assert_eq!(seconds(&seen.listeners()), [("b", 3)]);
    }
}
