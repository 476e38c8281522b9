//! Sidecar: what clients know of the mesh.

use super::kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

kind! {
    /// Narrows what the proxies of some clients know. What they do not know they send as it is.
    Sidecar, SidecarSpec, "networking.istio.io", "v1", "sidecars"
}

/// The parts of a Sidecar that narrow what goes out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    /// The clients it is for; absent: all of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<LabelledWorkloads>,
    /// Listeners of its pods' own, in place of those by their Services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<serde_json::Value>,
    /// What they know; none: everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressListener>,
    /// What becomes of what they do not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// The selector of Sidecar and EnvoyFilter, which spell it `labels`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct LabelledWorkloads {
    /// The labels; none selects everything.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One egress listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct EgressListener {
    /// What clients dial; with one, only this port of its hosts is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<ListenerPort>,
    /// `NAMESPACE/HOST`, either of which may be a pattern.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// A listener's port.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ListenerPort {
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// What is spoken there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What becomes of calls to whom a client does not know.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct OutboundTrafficPolicy {
    /// `ALLOW_ANY` or `REGISTRY_ONLY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}
