use std::collections::BTreeMap;

use super::edge::{Client, Edge, HERE, Protocol, Security};
use super::pod::{PodFacts, PodKey, serving};

/// What each pod's proxy has counted.
#[derive(Default)]
pub(super) struct Counters {
    traffic: BTreeMap<PodKey, BTreeMap<Series, f64>>,
    refused: BTreeMap<PodKey, f64>,
}

/// A metric's name and its labels, those of the scrape target left out.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Series {
    pub(super) metric: &'static str,
    pub(super) labels: String,
}

impl Counters {
    pub(super) fn of<'a>(
        &'a self,
        pod: &'a PodKey,
    ) -> impl Iterator<Item = (&'a Series, f64)> + 'a {
        self.traffic.get(pod).into_iter().flatten().map(|(series, count)| (series, *count))
    }

    pub(super) fn refused_by(&self, pod: &PodKey) -> f64 {
        self.refused.get(pod).copied().unwrap_or(0.0)
    }

    pub(super) fn refused(&mut self, pod: &PodKey, more: f64) {
        *self.refused.entry(pod.clone()).or_default() += more;
    }

    pub(super) fn forget(&mut self, pod: &PodKey) {
        self.traffic.remove(pod);
        self.refused.remove(pod);
    }

    fn add(&mut self, pod: &PodKey, protocol: Protocol, labels: &str, count: f64) {
        let counters = self.traffic.entry(pod.clone()).or_default();
        for (metric, of_each) in metrics(protocol) {
            let series = Series { metric, labels: labels.to_owned() };
            *counters.entry(series).or_default() += count * of_each;
        }
    }
}

/// What one request or connection adds to which metrics.
fn metrics(protocol: Protocol) -> &'static [(&'static str, f64)] {
    const SENT: (&str, f64) = ("istio_tcp_sent_bytes_total", 2000.0);
    const RECEIVED: (&str, f64) = ("istio_tcp_received_bytes_total", 500.0);
    match protocol {
        Protocol::Http | Protocol::Grpc => &[("istio_requests_total", 1.0)],
        Protocol::Tcp => &[
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            SENT,
            RECEIVED,
        ],
        Protocol::TcpLongLived => &[SENT, RECEIVED],
        Protocol::TcpKept => &[("istio_tcp_connections_opened_total", 1.0), SENT, RECEIVED],
    }
}

/// Counts what flowed along an edge in some seconds, at both ends.
pub(super) fn flow(
    edge: &Edge,
    seconds: f64,
    pods: &BTreeMap<PodKey, PodFacts>,
    counters: &mut Counters,
) {
    let clients: Vec<Option<&PodFacts>> = match &edge.from {
        Client::Workload { namespace, name } => serving(pods, namespace, name).map(Some).collect(),
        Client::Unknown => vec![None],
    };
    let servers: Vec<&PodFacts> = serving(pods, &edge.to.namespace, &edge.to.workload).collect();
    #[expect(clippy::cast_precision_loss, reason = "pods are few")]
    let (of_client, of_server) = (1.0 / clients.len() as f64, 1.0 / servers.len() as f64);
    let total = edge.rps * seconds;
    for client in clients {
        let meshed = client.filter(|pod| pod.injected);
        if edge.reaches_the_server() {
            for server in servers.iter().filter(|pod| pod.injected) {
                let labels = labels(edge, Reporter::Destination, meshed, Some(server));
                counters.add(&server.key, edge.protocol, &labels, total * of_client * of_server);
            }
        }
        if let Some(client) = meshed {
            let labels = labels(edge, Reporter::Source, Some(client), servers.first().copied());
            counters.add(&client.key, edge.protocol, &labels, total * of_client);
        }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Reporter {
    Source,
    Destination,
}

/// The labels that Istio's proxy gives a request, by who reports it.
fn labels(
    edge: &Edge,
    reporter: Reporter,
    client: Option<&PodFacts>,
    server: Option<&PodFacts>,
) -> String {
    const UNKNOWN: &str = "unknown";
    let mutual = match edge.security {
        Security::Auto => client.is_some(),
        Security::MutualTls => true,
        Security::Plaintext => false,
    };
    let http = matches!(edge.protocol, Protocol::Http | Protocol::Grpc);
    // A server learns of its peer by the certificate, or over HTTP by headers that a sidecar
    // adds; of plaintext TCP it knows nothing.
    let client_known = reporter == Reporter::Source || mutual || http;
    let client = client.filter(|_| client_known);
    let principal = |pod: Option<&PodFacts>| match pod {
        Some(pod) if mutual => pod.principal(),
        _ => UNKNOWN.to_owned(),
    };
    let security = match reporter {
        // The client's side never computes it.
        Reporter::Source => UNKNOWN,
        Reporter::Destination if mutual => "mutual_tls",
        Reporter::Destination => "none",
    };
    let mut labels = Labels::default();
    labels.add("reporter", if reporter == Reporter::Source { "source" } else { "destination" });
    labels.add_peer("source", client, &edge.cluster);
    labels.add("source_principal", &principal(client));
    labels.add_peer("destination", server, HERE);
    labels.add("destination_principal", &principal(server));
    let (service, namespace) = (&edge.to.service, &edge.to.namespace);
    labels.add("destination_service", &format!("{service}.{namespace}.svc.cluster.local"));
    labels.add("destination_service_name", service);
    labels.add("destination_service_namespace", namespace);
    let protocol = match edge.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp | Protocol::TcpLongLived | Protocol::TcpKept => "tcp",
    };
    labels.add("request_protocol", protocol);
    if http {
        labels.add("response_code", &edge.code.to_string());
        let grpc = if edge.protocol == Protocol::Grpc { "0" } else { "" };
        labels.add("grpc_response_status", grpc);
    }
    labels.add("response_flags", &edge.flags);
    labels.add("connection_security_policy", security);
    labels.0
}

/// Labels in the form of the exposition format, with a comma after each.
#[derive(Default)]
struct Labels(String);

impl Labels {
    fn add(&mut self, name: &str, value: &str) {
        // No name of a Kubernetes object and no constant here needs an escape.
        self.0.push_str(name);
        self.0.push_str("=\"");
        self.0.push_str(value);
        self.0.push_str("\",");
    }

    fn add_peer(&mut self, side: &str, pod: Option<&PodFacts>, cluster: &str) {
        let unknown = "unknown";
        let of = |field: fn(&PodFacts) -> &str| pod.map_or(unknown, field);
        let version = of(|pod| &pod.version);
        let cluster = if pod.is_some() { cluster } else { unknown };
        let revision = if version == unknown { "latest" } else { version };
        for (name, value) in [
            ("workload", of(|pod| &pod.workload)),
            ("workload_namespace", of(|pod| &pod.key.namespace)),
            ("app", of(|pod| &pod.app)),
            ("version", version),
            ("canonical_service", of(|pod| &pod.workload)),
            ("canonical_revision", revision),
            ("cluster", cluster),
        ] {
            self.add(&format!("{side}_{name}"), value);
        }
    }
}
