//! A pod's process that tells of itself: its proxy, or the control plane.

use crate::api::Duration;
use crate::kubernetes::Pod;
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::Uid;
use std::net::IpAddr;

const PROXY: &str = "istio-proxy";
/// By it a proxy forgets what has not changed for so long; it begins at zero then.
const EVICTION: &str = "sidecar.istio.io/statsEvictionInterval";

/// Where a pod's metrics are read, and how far they can be trusted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Of the pod: another of the same name is another process.
    pub uid: Uid,
    /// Where it listens.
    pub address: IpAddr,
    /// Since when it runs; of one that was started again, since when it may have counted what is
    /// lost.
    pub since: Timestamp,
    /// How soon an idle counter is forgotten; `None` where never.
    pub evicts: Option<SignedDuration>,
}

/// The process of a pod with a network of its own, while it runs.
pub fn process(object: &Pod) -> Option<Process> {
    let (meta, status) = (&object.metadata, &object.status);
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if over || object.spec.host_network == Some(true) {
        return None;
    }
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let all = || statuses.into_iter().flatten().flatten();
    let proxy = all().find(|one| one.name == PROXY);
    // Before its proxy runs nobody reaches a pod through it, and afterwards nobody does any more.
    let started = match proxy.or_else(|| all().next()) {
        Some(status) => status.state.running.as_ref()?.started_at.as_ref().map(|time| time.0),
        None => None,
    };
    let again = proxy.is_some_and(|proxy| proxy.restart_count > 0);
    let since = started.filter(|_| !again).or(created);
    let evicts = meta.annotations.as_ref().and_then(|all| all.get(EVICTION)).map(|text| {
        // One that cannot be read may be any.
        Duration::new(text.as_str()).parse().unwrap_or(SignedDuration::ZERO)
    });
    Some(Process {
        uid: Uid::new(meta.uid.clone()?),
        address: status.pod_ip.as_ref()?.parse().ok()?,
        since: since?,
        evicts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CREATED: &str = "2026-01-01T00:00:00Z";
    const STARTED: &str = "2026-01-01T00:01:00Z";

    fn read(change: impl FnOnce(&mut Value)) -> Option<Process> {
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "pay", "uid": "1",
                "creationTimestamp": CREATED},
            "status": {"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": [
                {"name": "app", "state": {"waiting": {}}},
                {"name": "istio-proxy", "restartCount": 0,
                    "state": {"running": {"startedAt": STARTED}}},
            ]},
        });
        change(&mut object);
        process(&serde_json::from_value(object).unwrap())
    }

    fn since(change: impl FnOnce(&mut Value)) -> Option<String> {
        read(change).map(|process| process.since.to_string())
    }

    #[test]
    fn a_proxy_counts_from_its_start_and_one_started_again_may_have_lost_all_before() {
        assert_eq!(since(|_| ()).as_deref(), Some(STARTED));
        let again = |pod: &mut Value| {
            pod["status"]["containerStatuses"][1]["restartCount"] = json!(1);
        };
        assert_eq!(since(again).as_deref(), Some(CREATED));
        let native = |pod: &mut Value| {
            let statuses = pod["status"]["containerStatuses"].take();
            pod["status"]["initContainerStatuses"] = statuses;
        };
        assert_eq!(since(native).as_deref(), Some(STARTED));
        let unsaid = |pod: &mut Value| pod["status"]["containerStatuses"] = json!(null);
        assert_eq!(since(unsaid).as_deref(), Some(CREATED));
    }

    #[test]
    fn what_does_not_run_in_a_network_of_its_own_is_not_asked() {
        for (pointer, value) in [
            ("/status/containerStatuses/1/state", json!({"terminated": {"exitCode": 0}})),
            (
                "/status/containerStatuses/1/state",
                json!({"waiting": {"reason": "PodInitializing"}}),
            ),
            ("/status/phase", json!("Succeeded")),
            ("/status/podIP", json!(null)),
            ("/spec", json!({"hostNetwork": true})),
        ] {
            let change = |pod: &mut Value| {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                pod.pointer_mut(parent).unwrap()[field] = value.clone();
            };
            assert_eq!(read(change), None, "{pointer} {value}");
        }
    }

    #[test]
    fn a_proxy_that_forgets_says_how_soon() {
        let evicts = |interval: &str| {
            let annotations = json!({EVICTION: interval});
            read(|pod| pod["metadata"]["annotations"] = annotations).unwrap().evicts
        };
        assert_eq!(evicts("30m"), Some(SignedDuration::from_mins(30)));
        assert_eq!(evicts("1.5h"), Some(SignedDuration::ZERO));
        assert_eq!(read(|_| ()).unwrap().evicts, None);
    }
}
