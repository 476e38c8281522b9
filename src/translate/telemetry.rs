//! Telemetry objects that take away what the evidence stands on (`istio-semantics.md` E6).

use super::{namespace, selector};
use crate::istio;
use meshrollout_core::snapshot::TelemetryOverride;
use std::collections::BTreeSet;

/// The metrics that show plaintext, as Telemetry names them and as they are called.
const METRICS: [(&str, &str); 4] = [
    ("REQUEST_COUNT", "requests_total"),
    ("TCP_OPENED_CONNECTIONS", "tcp_connections_opened_total"),
    ("TCP_SENT_BYTES", "tcp_sent_bytes_total"),
    ("TCP_RECEIVED_BYTES", "tcp_received_bytes_total"),
];

/// The words for metrics that are not evidence; any other word may be one that is.
const OTHER_METRICS: [&str; 6] = [
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_CLOSED_CONNECTIONS",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];

/// The labels without which a series does not say who called whom, how.
const LABELS: [&str; 6] = [
    "connection_security_policy",
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "destination_workload",
    "destination_workload_namespace",
];

/// Prometheus by the name that Istio gives its provider.
const PROVIDER: &str = "prometheus";

/// What the object takes away from the servers' metrics, if anything.
///
/// Each object is looked at alone. What a wider one takes away and a narrower one gives back counts
/// as taken away: better to ask a person than to believe in series that are not there.
pub fn telemetry(object: &istio::Telemetry) -> Option<TelemetryOverride> {
    let (selector, taken) = match object.spec.as_result() {
        Ok(spec) => (spec.selector.as_ref().map(|one| selector(Some(one))), taken(spec)),
        Err(why) => (None, BTreeSet::from([format!("what cannot be understood ({why})")])),
    };
    if taken.is_empty() {
        return None;
    }
    Some(TelemetryOverride {
        namespace: namespace(&object.metadata),
        name: object.metadata.name.clone().unwrap_or_default(),
        selector: selector.filter(|selector| !selector.is_empty()),
        what: taken.into_iter().collect::<Vec<_>>().join(", "),
    })
}

fn taken(spec: &istio::TelemetrySpec) -> BTreeSet<String> {
    let mut taken = BTreeSet::new();
    // The last list of providers replaces all before it (`telemetry.go:mergeMetrics`).
    let providers = spec.metrics.iter().map(|settings| &settings.providers);
    if let Some(providers) = providers.rev().find(|providers| !providers.is_empty())
        && !providers.iter().any(|provider| provider.name == PROVIDER)
    {
        taken.insert(format!("every metric (its providers do not name {PROVIDER})"));
    }
    for change in spec.metrics.iter().flat_map(|settings| &settings.overrides) {
        let matches = change.matches.clone().unwrap_or_default();
        if matches.mode.as_deref() == Some("CLIENT") {
            continue;
        }
        for metric in evidence(&matches) {
            match change.disabled {
                Some(true) => drop(taken.insert(metric.clone())),
                Some(false) => drop(taken.remove(&metric)),
                None => {}
            }
            for label in LABELS.iter().filter(|label| change.tag_overrides.contains_key(**label)) {
                taken.insert(format!("the label {label} of {metric}"));
            }
        }
    }
    taken
}

/// The metrics meant that are evidence; a word we do not know may mean any.
fn evidence(matches: &istio::MetricSelector) -> Vec<String> {
    let all = || METRICS.iter().map(|(word, _)| (*word).to_owned()).collect();
    if !matches!(matches.mode.as_deref(), None | Some("" | "SERVER" | "CLIENT_AND_SERVER")) {
        return all();
    }
    if let Some(custom) = matches.custom_metric.as_deref().filter(|custom| !custom.is_empty()) {
        let custom = custom.strip_prefix("istio_").unwrap_or(custom);
        let meant = METRICS.iter().filter(|(word, name)| custom == *name || custom == *word);
        return meant.map(|(word, _)| (*word).to_owned()).collect();
    }
    match matches.metric.as_deref() {
        None | Some("" | "ALL_METRICS") => all(),
        Some(metric) if METRICS.iter().any(|(word, _)| *word == metric) => vec![metric.to_owned()],
        Some(metric) if OTHER_METRICS.contains(&metric) => vec![],
        Some(_) => all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn what(spec: Value) -> Option<String> {
        let object = json!({"metadata": {"namespace": "shop", "name": "t"}, "spec": spec});
        telemetry(&serde_json::from_value(object).unwrap()).map(|over| over.what)
    }

    fn overriding(change: Value) -> Option<String> {
        what(json!({"metrics": [{"overrides": [change]}]}))
    }

    #[test]
    fn a_metric_that_is_evidence_and_switched_off_is_taken_away() {
        let off = |matches: Value| overriding(json!({"match": matches, "disabled": true}));
        for metric in ["REQUEST_COUNT", "TCP_OPENED_CONNECTIONS", "TCP_SENT_BYTES"] {
            assert_eq!(off(json!({"metric": metric})).as_deref(), Some(metric));
            assert_eq!(off(json!({"metric": metric, "mode": "SERVER"})).as_deref(), Some(metric));
            assert_eq!(off(json!({"metric": metric, "mode": "CLIENT"})), None);
        }
        assert_eq!(off(json!({"customMetric": "istio_requests_total"})).unwrap(), "REQUEST_COUNT");
        assert_eq!(off(json!({"customMetric": "my_metric"})), None);
        assert_eq!(off(json!({"metric": "REQUEST_DURATION"})), None);
        let all = "REQUEST_COUNT, TCP_OPENED_CONNECTIONS, TCP_RECEIVED_BYTES, TCP_SENT_BYTES";
        for matches in [
            json!(null),
            json!({"metric": "ALL_METRICS", "mode": "CLIENT_AND_SERVER"}),
            json!({"metric": "REQUESTS_OF_TOMORROW"}),
            json!({"metric": "REQUEST_DURATION", "mode": "WAYPOINT"}),
        ] {
            assert_eq!(off(matches.clone()).as_deref(), Some(all), "{matches}");
        }
    }

    #[test]
    fn a_label_removed_or_rewritten_is_taken_away() {
        for (label, change) in [
            ("connection_security_policy", json!({"operation": "REMOVE"})),
            ("source_workload", json!({"value": "'x'"})),
        ] {
            let change =
                json!({"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {label: change}});
            let expected = format!("the label {label} of REQUEST_COUNT");
            assert_eq!(overriding(change), Some(expected));
        }
        let harmless = json!({"tagOverrides": {"request_host": {"value": "request.host"}}});
        assert_eq!(overriding(harmless), None);
    }

    #[test]
    fn the_later_override_wins() {
        let spec = json!({"metrics": [{"overrides": [
            {"match": {"metric": "ALL_METRICS"}, "disabled": true},
            {"match": {"metric": "ALL_METRICS"}, "disabled": false},
        ]}]});
        assert_eq!(what(spec), None);
    }

    #[test]
    fn providers_without_prometheus_leave_nothing() {
        let providers = |name: &str| what(json!({"metrics": [{"providers": [{"name": name}]}]}));
        assert!(providers("otel").unwrap().starts_with("every metric"));
        assert_eq!(providers("prometheus"), None);
        assert_eq!(what(json!({"accessLogging": [{"providers": [{"name": "otel"}]}]})), None);
    }

    #[test]
    fn one_that_cannot_be_read_may_take_anything() {
        assert!(what(json!({"metrics": "none"})).unwrap().contains("cannot be understood"));
    }

    #[test]
    fn it_covers_whom_it_selects() {
        let off = json!({"overrides": [{"disabled": true}]});
        let object = json!({"metadata": {"namespace": "shop", "name": "t"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "metrics": [off],
        }});
        let over = telemetry(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(over.selector, Some([("app", "web")].into_iter().collect()));
        assert_eq!(over.namespace, "shop".into());
    }
}
