//! WorkloadEntry: a workload outside Kubernetes.

use super::kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

kind! {
    /// A workload outside Kubernetes, which no gate can see into yet.
    WorkloadEntry, WorkloadEntrySpec, "networking.istio.io", "v1", "workloadentries"
}

/// What tells whether clients call it with mutual TLS.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    /// Its labels, in place of a pod's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its identity; without it, and without the tlsMode label, clients send plaintext.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
}
