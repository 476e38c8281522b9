//! The Prometheus operator's monitors. Its definitions need not be installed.

use super::meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

kind! {
    /// Which Services are scraped.
    ServiceMonitor, NamespaceResourceScope, "monitoring.coreos.com", "servicemonitors", {
        /// What it says.
        spec: MonitorSpec,
    }
}

kind! {
    /// Which pods are scraped.
    PodMonitor, NamespaceResourceScope, "monitoring.coreos.com", "podmonitors", {
        /// What it says.
        spec: MonitorSpec,
    }
}

/// Where is looked, for what, and which ports are scraped.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorSpec {
    /// Services or pods with these labels.
    pub selector: Option<LabelSelector>,
    /// In these namespaces; absent: in the monitor's own.
    pub namespace_selector: Option<NamespaceSelector>,
    /// Of a ServiceMonitor.
    pub endpoints: Option<Vec<ScrapedEndpoint>>,
    /// Of a PodMonitor.
    pub pod_metrics_endpoints: Option<Vec<ScrapedEndpoint>>,
}

/// Where a monitor looks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceSelector {
    /// Everywhere.
    pub any: Option<bool>,
    /// Here.
    pub match_names: Option<Vec<String>>,
}

/// A port that is scraped.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapedEndpoint {
    /// The Service's or the container's, by its name.
    pub port: Option<String>,
    /// The container's, by its number.
    pub port_number: Option<i32>,
    /// The container's, by number or name.
    pub target_port: Option<IntOrString>,
    /// `https`: over TLS.
    pub scheme: Option<String>,
    /// Of which kind.
    pub tls_config: Option<ScrapedTls>,
}

/// With which certificates.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapedTls {
    /// The scraper's own.
    pub cert_file: Option<String>,
}
