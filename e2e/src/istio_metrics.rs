//! Istio's metrics from upstream Envoys, which lack the extension that makes them.
//!
//! Two halves that belong together. [`filters`] has each proxy count with its own access loggers
//! what it can know; [`relabelling`] has Prometheus give that Istio's names. What upstream Envoy
//! cannot know at all is the peer's workload, which Istio's proxies exchange between themselves.
//! On the server's side it comes from the client's certificate: the tests' workloads have a
//! ServiceAccount each, of the workload's name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

const HTTP: &str = "envoy.filters.network.http_connection_manager";
const TCP: &str = "envoy.filters.network.tcp_proxy";

/// The EnvoyFilter of the root namespace.
pub(crate) fn filters(root_namespace: &str) -> Value {
    let secured = |loggers: fn(Security) -> Vec<Value>| {
        [Security::Mutual, Security::None].into_iter().flat_map(loggers).collect::<Vec<_>>()
    };
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"namespace": root_namespace, "name": "istio-metrics"},
        "spec": {"configPatches": [
            patch("SIDECAR_INBOUND", HTTP, secured(inbound_http)),
            patch("SIDECAR_INBOUND", TCP, secured(inbound_tcp)),
            patch("SIDECAR_OUTBOUND", HTTP, vec![requests(&outbound("http"), None)]),
            patch("SIDECAR_OUTBOUND", TCP, connections(&outbound("tcp"), None)),
        ]},
    })
}

/// What Prometheus does with each sample of a real proxy.
pub(crate) fn relabelling() -> Value {
    json!([
        // What every proxy says as long as it lives; Istio's has a metric for it.
        {"source_labels": ["__name__"], "regex": "envoy_server_live",
            "target_label": "component", "replacement": "proxy"},
        {"source_labels": ["__name__"], "regex": "envoy_server_live",
            "target_label": "__name__", "replacement": "istio_build"},
        {"source_labels": ["__name__"], "regex": "envoy_(istio_.+)",
            "target_label": "__name__", "replacement": "$1"},
        {"source_labels": ["peer"], "regex": "spiffe://[^/]+/ns/([^/]+)/sa/.+",
            "target_label": "source_workload_namespace", "replacement": "$1"},
        {"source_labels": ["peer"], "regex": "spiffe://[^/]+/ns/[^/]+/sa/(.+)",
            "target_label": "source_workload", "replacement": "$1"},
        // Istio ends the names of its clusters' statistics with a semicolon.
        {"source_labels": ["cluster"], "regex": r"outbound\|\d+\|[^|]*\|([^;]+);?",
            "target_label": "destination_service", "replacement": "$1"},
        {"source_labels": ["cluster"], "regex": r"outbound\|\d+\|[^|]*\|[^.]+\.([^.]+)\.svc\..+",
            "target_label": "destination_service_namespace", "replacement": "$1"},
        {"source_labels": ["cluster"], "regex": "((?:Passthrough|BlackHole)Cluster);?",
            "target_label": "destination_service", "replacement": "$1"},
        {"regex": "peer|cluster", "action": "labeldrop"},
    ])
}

/// The same done to an exposition, as Prometheus would do it to each sample.
pub(crate) fn renamed(text: &str) -> String {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| Rule::all(&relabelling()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(relabelled(line, &RULES)? + "\n")).collect()
}

/// A step of relabelling.
struct Rule {
    source: Option<String>,
    regex: Regex,
    target: Option<String>,
    replacement: String,
}

impl Rule {
    fn all(rules: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let rule = |rule: &Value| Self {
            source: text(&rule["source_labels"][0]),
            // As in Prometheus: it has to match the whole.
            regex: Regex::new(&format!("^(?:{})$", text(&rule["regex"]).unwrap_or_default()))
                .expect("our own rules are regular expressions"),
            target: text(&rule["target_label"]),
            replacement: text(&rule["replacement"]).unwrap_or_default(),
        };
        rules.as_array().into_iter().flatten().map(rule).collect()
    }
}

fn relabelled(line: &str, rules: &[Rule]) -> Option<String> {
    static LABEL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"(\w+)="((?:[^"\\]|\\.)*)""#).expect("it is one"));
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = LABEL.captures_iter(labels).map(|it| (it[1].to_owned(), it[2].to_owned()));
    let mut labels: BTreeMap<_, _> = labels.collect();
    labels.insert("__name__".to_owned(), name.to_owned());
    for rule in rules {
        let Some(target) = &rule.target else {
            labels.retain(|label, _| !rule.regex.is_match(label));
            continue;
        };
        let source = rule.source.as_ref().and_then(|source| labels.get(source));
        let matched = rule.regex.captures(source.map_or("", String::as_str));
        let mut replaced = String::new();
        if let Some(matched) = matched {
            matched.expand(&rule.replacement, &mut replaced);
            labels.insert(target.clone(), replaced);
        }
    }
    let name = labels.remove("__name__")?;
    let labels: Vec<_> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    Some(format!("{name}{{{}}} {value}", labels.join(",")))
}

#[derive(Clone, Copy)]
enum Security {
    Mutual,
    None,
}

/// Labels, each with a format of Envoy's access logs.
type Labels = Vec<(&'static str, &'static str)>;

fn inbound(security: Security, protocol: &'static str) -> Labels {
    let mut labels = vec![
        ("reporter", "destination"),
        ("request_protocol", protocol),
        ("destination_workload", "%ENVIRONMENT(ISTIO_META_WORKLOAD_NAME)%"),
        ("destination_workload_namespace", "%ENVIRONMENT(POD_NAMESPACE)%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
    ];
    labels.extend(match security {
        Security::Mutual => {
            vec![
                ("connection_security_policy", "mutual_tls"),
                ("peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            ]
        }
        Security::None => vec![
            ("connection_security_policy", "none"),
            ("source_workload", "unknown"),
            ("source_workload_namespace", "unknown"),
        ],
    });
    labels
}

fn outbound(protocol: &'static str) -> Labels {
    vec![
        ("reporter", "source"),
        ("request_protocol", protocol),
        // A client's proxy never computes it.
        ("connection_security_policy", "unknown"),
        ("source_workload", "%ENVIRONMENT(ISTIO_META_WORKLOAD_NAME)%"),
        ("source_workload_namespace", "%ENVIRONMENT(POD_NAMESPACE)%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
    ]
}

fn inbound_http(security: Security) -> Vec<Value> {
    vec![requests(&inbound(security, "http"), Some(security))]
}

fn inbound_tcp(security: Security) -> Vec<Value> {
    connections(&inbound(security, "tcp"), Some(security))
}

fn requests(labels: &Labels, of: Option<Security>) -> Value {
    let mut labels = labels.clone();
    labels.push(("response_code", "%RESPONSE_CODE%"));
    logger(&[("requests_total", None)], &labels, of.map(condition))
}

/// A connection is logged when it has reached the server, and again when it ends.
fn connections(labels: &Labels, of: Option<Security>) -> Vec<Value> {
    let at = |moment: &str| {
        let moment = json!({"log_type_filter": {"types": [moment]}});
        Some(match of.map(condition) {
            Some(security) => json!({"and_filter": {"filters": [moment, security]}}),
            None => moment,
        })
    };
    let ended = [
        ("tcp_connections_closed_total", None),
        ("tcp_sent_bytes_total", Some("%BYTES_SENT%")),
        ("tcp_received_bytes_total", Some("%BYTES_RECEIVED%")),
    ];
    vec![
        logger(&[("tcp_connections_opened_total", None)], labels, at("TcpUpstreamConnected")),
        logger(&ended, labels, at("TcpConnectionEnd")),
    ]
}

fn condition(security: Security) -> Value {
    let expression = match security {
        Security::Mutual => "connection.mtls",
        Security::None => "!connection.mtls",
    };
    json!({"extension_filter": {"name": "cel", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        "expression": expression,
    }}})
}

/// Counts, by one each time or by what the format says, what the filter lets through.
fn logger(counters: &[(&str, Option<&str>)], labels: &Labels, filter: Option<Value>) -> Value {
    let tags: Vec<Value> =
        labels.iter().map(|(name, format)| json!({"name": name, "value_format": format})).collect();
    let counter = |(name, by): &(&str, Option<&str>)| {
        let mut counter = json!({"stat": {"name": name, "tags": tags}});
        match by {
            Some(format) => counter["value_format"] = json!(format),
            None => counter["value_fixed"] = json!(1),
        }
        counter
    };
    let mut logger = json!({"name": "envoy.access_loggers.stats", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
        "stat_prefix": "istio",
        "counters": counters.iter().map(counter).collect::<Vec<_>>(),
    }});
    if let Some(filter) = filter {
        logger["filter"] = filter;
    }
    logger
}

fn patch(context: &str, filter: &str, loggers: Vec<Value>) -> Value {
    let kind = match filter {
        HTTP => "http_connection_manager.v3.HttpConnectionManager",
        _ => "tcp_proxy.v3.TcpProxy",
    };
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.filters.network.{kind}"),
        "access_log": loggers,
    });
    if filter == TCP {
        config["access_log_options"] = json!({"flush_access_log_on_connected": true});
    }
    json!({
        "applyTo": "NETWORK_FILTER",
        "match": {"context": context, "listener": {"filterChain": {"filter": {"name": filter}}}},
        "patch": {"operation": "MERGE", "value": {"typed_config": config}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_renamed_as_prometheus_would() {
        let text = "# TYPE envoy_istio_requests_total counter\n\
            envoy_istio_requests_total{reporter=\"source\",cluster=\"outbound|80||web.shop.svc.cluster.local;\"} 3\n\
            envoy_istio_requests_total{reporter=\"destination\",peer=\"spiffe://cluster.local/ns/shop/sa/web\"} 4\n\
            envoy_server_live{} 1\nenvoy_server_uptime{} 5\n";
        let expected = "istio_requests_total{destination_service=\"web.shop.svc.cluster.local\",destination_service_namespace=\"shop\",reporter=\"source\"} 3\n\
            istio_requests_total{reporter=\"destination\",source_workload=\"web\",source_workload_namespace=\"shop\"} 4\n\
            istio_build{component=\"proxy\"} 1\nenvoy_server_uptime{} 5\n";
        assert_eq!(renamed(text), expected);
    }
}
