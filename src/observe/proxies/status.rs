//! The answer of `/debug/syncz`: `SyncStatus` in istio's `pilot/pkg/xds/debug.go`.

use jiff::Timestamp;
use meshrollout_core::ident::PodRef;
use meshrollout_core::proxies::{Answer, Listeners};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// It cannot be taken for an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("not the expected JSON: {0}")]
    Shape(String),
    #[error("it does not tell when it sent {0} its listeners: it is too old for that")]
    NoTime(PodRef),
}

#[derive(Deserialize)]
struct Proxy {
    proxy: String,
    listener_sent: Option<String>,
    #[serde(default)]
    resources: HashMap<String, Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    #[serde(default)]
    sent: String,
    #[serde(default)]
    acked: String,
    sent_time: Option<Timestamp>,
    #[serde(default)]
    last_error: String,
}

/// Of each proxy that asked for listeners, their last sending.
pub(super) fn listeners(text: &[u8]) -> Result<BTreeMap<PodRef, Listeners>, Malformed> {
    let proxies: Vec<Proxy> =
        serde_json::from_slice(text).map_err(|error| Malformed::Shape(error.to_string()))?;
    let mut all: BTreeMap<PodRef, Listeners> = BTreeMap::new();
    for mut proxy in proxies {
        let (name, namespace) = match proxy.proxy.rsplit_once('.') {
            Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => {
                (name, namespace)
            }
            // A person's tool, for one.
            _ => continue,
        };
        let pod = PodRef { namespace: namespace.into(), name: name.to_owned() };
        let resource = match proxy.resources.remove(LISTENER) {
            Some(resource) if !resource.sent.is_empty() => resource,
            // Connected, and nothing sent yet.
            _ if proxy.listener_sent.is_none_or(|sent| sent.is_empty()) => continue,
            _ => return Err(Malformed::NoTime(pod)),
        };
        let Some(sent) = resource.sent_time else { return Err(Malformed::NoTime(pod)) };
        let answer = match resource.last_error {
            words if !words.is_empty() => Answer::Rejected(words),
            _ if resource.sent == resource.acked => Answer::Acknowledged,
            _ => Answer::Awaited,
        };
        keep_the_later(&mut all, pod, Listeners { sent, answer });
    }
    Ok(all)
}

/// A connection that has not ended yet may stand beside the new one.
pub(super) fn keep_the_later(
    all: &mut BTreeMap<PodRef, Listeners>,
    pod: PodRef,
    listeners: Listeners,
) {
    if all.get(&pod).is_none_or(|other| other.sent < listeners.sent) {
        all.insert(pod, listeners);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(proxies: &Value) -> Result<Vec<(String, Listeners)>, Malformed> {
        let read = listeners(proxies.to_string().as_bytes())?;
        Ok(read.into_iter().map(|(pod, listeners)| (pod.to_string(), listeners)).collect())
    }

    fn proxy(sent: &str, acked: &str, at: &str, error: &str) -> Value {
        json!({"proxy": "echo-1.v2.pay", "proxy_type": "sidecar", "listener_sent": sent,
            "resources": {LISTENER:
                {"sent": sent, "acked": acked, "sentTime": at, "lastError": error}}})
    }

    const AT: &str = "2026-01-01T00:00:01.5Z";
    const LATER: &str = "2026-01-01T00:00:02+00:00";

    fn listeners_of(at: &str, answer: Answer) -> Vec<(String, Listeners)> {
        vec![("pay/echo-1.v2".into(), Listeners { sent: at.parse().unwrap(), answer })]
    }

    #[test]
    fn a_sending_is_acknowledged_when_its_own_nonce_is() {
        let read = |sent, acked, error| read(&json!([proxy(sent, acked, AT, error)])).unwrap();
        assert_eq!(read("a", "a", ""), listeners_of(AT, Answer::Acknowledged));
        assert_eq!(read("b", "a", ""), listeners_of(AT, Answer::Awaited));
        assert_eq!(read("b", "", ""), listeners_of(AT, Answer::Awaited));
        assert_eq!(
            read("b", "a", "bad port"),
            listeners_of(AT, Answer::Rejected("bad port".into()))
        );
    }

    #[test]
    fn of_two_connections_the_later_counts() {
        let (old, new) = (proxy("a", "a", AT, ""), proxy("b", "", LATER, ""));
        for both in [json!([old, new]), json!([new, old])] {
            assert_eq!(read(&both).unwrap(), listeners_of(LATER, Answer::Awaited));
        }
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let connected = json!([{"proxy": "a.pay", "proxy_type": "sidecar"}]);
        assert_eq!(read(&connected).unwrap(), []);
        let old = json!([{"proxy": "a.pay", "listener_sent": "x", "listener_acked": "x"}]);
        assert!(matches!(read(&old), Err(Malformed::NoTime(_))));
        assert_eq!(read(&json!([{"proxy": "istioctl"}])).unwrap(), [], "no pod");
        assert!(matches!(read(&json!({})), Err(Malformed::Shape(_))));
    }
}
