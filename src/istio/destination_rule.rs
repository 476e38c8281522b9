//! DestinationRule: how clients call a host.

use super::{WorkloadSelector, kind, spelling};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

kind! {
    /// How clients call a host.
    DestinationRule, DestinationRuleSpec, "networking.istio.io", "v1", "destinationrules"
}

/// The parts of a DestinationRule that decide whether a client starts mutual TLS.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The host as written: short, full or with a wildcard.
    pub host: String,
    /// For all ports and subsets that say nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// The namespaces that see it; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// The clients it is for; absent: all that see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,
}

/// How a host, or a subset of it, is called.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// TLS for ports that say nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// PASSTHROUGH changes how TLS is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// By Service port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_level_settings: Vec<PortTrafficPolicy>,
}

/// How one port is called. Replaces the whole policy above it, TLS included.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The Service port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortSelector>,
    /// TLS on it; absent is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// PASSTHROUGH changes how TLS is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
}

/// A port by number.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct PortSelector {
    /// The number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
}

/// What a client does about TLS.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Absent is DISABLE, Istio's default of the enum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ClientTlsMode>,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// The simple kind, as Istio spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simple: Option<String>,
}

/// A named part of a host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// The endpoints it covers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

spelling! {
    /// What a client does about TLS.
    ClientTlsMode {
        /// Plaintext.
        Disable = "DISABLE",
        /// TLS of its own, without a client certificate.
        Simple = "SIMPLE",
        /// TLS of its own, with a client certificate from files.
        Mutual = "MUTUAL",
        /// The mesh's mutual TLS.
        IstioMutual = "ISTIO_MUTUAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_every_place_where_tls_can_stand() {
        let rule: DestinationRule = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "host": "web",
                "exportTo": ["."],
                "trafficPolicy": {
                    "tls": {"mode": "ISTIO_MUTUAL", "sni": "ignored"},
                    "connectionPool": {"tcp": {"maxConnections": 3}},
                    "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}],
                },
                "subsets": [{"name": "v1", "labels": {"version": "v1"},
                    "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}],
            },
        }))
        .unwrap();
        let tls = |mode| Some(ClientTls { mode: Some(mode) });
        assert_eq!(
            rule.spec.as_result(),
            Ok(&DestinationRuleSpec {
                host: "web".into(),
                export_to: vec![".".into()],
                traffic_policy: Some(TrafficPolicy {
                    tls: tls(ClientTlsMode::IstioMutual),
                    port_level_settings: vec![PortTrafficPolicy {
                        port: Some(PortSelector { number: Some(80) }),
                        tls: tls(ClientTlsMode::Disable),
                        ..PortTrafficPolicy::default()
                    }],
                    ..TrafficPolicy::default()
                }),
                subsets: vec![Subset {
                    name: "v1".into(),
                    labels: [("version".into(), "v1".into())].into(),
                    traffic_policy: Some(TrafficPolicy {
                        tls: tls(ClientTlsMode::Simple),
                        ..TrafficPolicy::default()
                    }),
                }],
                workload_selector: None,
            })
        );
    }

    #[test]
    fn a_wrong_type_deep_inside_is_malformed() {
        let rule: DestinationRule = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"host": "web", "trafficPolicy": {"portLevelSettings": {"80": "DISABLE"}}},
        }))
        .unwrap();
        assert_eq!(rule.spec.read(), None);
    }
}
