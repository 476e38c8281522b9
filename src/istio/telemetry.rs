//! Telemetry: which metrics the proxies report, and with which labels.

use super::{WorkloadSelector, kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

kind! {
    /// Which metrics the proxies report. It can take away the label that shows plaintext.
    Telemetry, TelemetrySpec, "telemetry.istio.io", "v1", "telemetries"
}

/// The parts of a Telemetry that change metrics.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetrySpec {
    /// The workloads it is for; absent: the namespace, or in the root namespace the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// What it says about metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricsSettings>,
}

/// Settings for the metrics of some providers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsSettings {
    /// Who receives them; none: the mesh's default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderRef>,
    /// Changes to single metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<MetricsOverride>,
}

/// A provider by name.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ProviderRef {
    /// As in the mesh config.
    pub name: String,
}

/// A change to some metrics.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// Which metrics; absent: all.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<MetricSelector>,
    /// True switches them off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Changes to labels, by label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Which metrics are meant.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSelector {
    /// One of Istio's own, as in REQUEST_COUNT; absent with no customMetric: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Any other, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_metric: Option<String>,
    /// CLIENT, SERVER or CLIENT_AND_SERVER; absent: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A change to one label.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TagOverride {
    /// UPSERT or REMOVE; absent is UPSERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The expression of an UPSERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
