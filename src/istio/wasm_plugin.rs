//! WasmPlugin: a filter that proxies fetch from somewhere.

use super::kind;
use serde::{Deserialize, Serialize};

kind! {
    /// A filter that each proxy's agent fetches by itself.
    WasmPlugin, WasmPluginSpec, "extensions.istio.io", "v1alpha1", "wasmplugins"
}

/// Where it is fetched.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WasmPluginSpec {
    /// `oci://`, `http://`, `https://` or `file://`; without any it is an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
