//! EnvoyFilter: patches to what istiod tells proxies.

use super::{LabelledWorkloads, kind};
use serde::{Deserialize, Serialize};

kind! {
    /// Patches to the configuration of proxies.
    EnvoyFilter, EnvoyFilterSpec, "networking.istio.io", "v1alpha3", "envoyfilters"
}

/// The parts of an EnvoyFilter that tell where it patches.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvoyFilterSpec {
    /// Whose; absent: all of the namespace, or in the root namespace of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<LabelledWorkloads>,
    /// Each of its patches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config_patches: Vec<ConfigPatch>,
}

/// Where one patch goes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigPatch {
    /// To which part of the configuration, as in `FILTER_CHAIN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_to: Option<String>,
    /// Where that part has to be.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<ConfigMatch>,
}

/// Where a part of the configuration has to be.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ConfigMatch {
    /// `ANY`, `SIDECAR_INBOUND`, `SIDECAR_OUTBOUND`, `GATEWAY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// In which listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<ListenerMatch>,
}

/// Which listener.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerMatch {
    /// Which of its filter chains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_chain: Option<FilterChainMatch>,
}

/// Which filter chain, by what of it STRICT may change.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterChainMatch {
    /// By its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `raw_buffer` or `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_protocol: Option<String>,
    /// The protocols that clients offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_protocols: Option<String>,
}
