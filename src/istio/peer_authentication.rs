//! PeerAuthentication: which traffic a server accepts.

use super::{WorkloadSelector, kind, spelling};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

kind! {
    /// Which traffic the servers of a mesh, a namespace or a workload accept.
    PeerAuthentication, PeerAuthenticationSpec, "security.istio.io", "v1", "peerauthentications"
}

/// The spec of a PeerAuthentication. Fields we do not know are kept: a rollback writes back all
/// that stood there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    /// The workloads it is for; absent or without labels: the whole namespace, or in the root
    /// namespace the whole mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The mode; absent inherits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Modes by container port, not by Service port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_level_mtls: Option<BTreeMap<String, MutualTls>>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A mode in its wrapper.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// The mode; absent is UNSET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
}

spelling! {
    /// What a server accepts.
    MtlsMode {
        /// Inherits from the wider scope.
        Unset = "UNSET",
        /// Plaintext only.
        Disable = "DISABLE",
        /// Both.
        Permissive = "PERMISSIVE",
        /// Mutual TLS only.
        Strict = "STRICT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::Lenient;
    use serde_json::json;

    fn read(spec: Value) -> Lenient<PeerAuthenticationSpec> {
        let object = json!({"metadata": {"name": "default"}, "spec": spec});
        serde_json::from_value::<PeerAuthentication>(object).unwrap().spec
    }

    #[test]
    fn a_mode_of_a_newer_istio_is_kept_and_not_taken_for_another() {
        let spec = read(json!({"mtls": {"mode": "PARANOID"}}));
        let mtls = spec.read().unwrap().mtls.clone();
        assert_eq!(mtls, Some(MutualTls { mode: Some(MtlsMode::Unknown("PARANOID".into())) }));
    }

    #[test]
    fn a_field_of_the_wrong_type_is_malformed_and_does_not_fail_the_object() {
        for spec in [json!({"mtls": "STRICT"}), json!([]), json!({"mtls": {"mode": 3}})] {
            let read = read(spec.clone());
            assert!(
                matches!(&read, Lenient::Malformed { value, .. } if *value == spec),
                "{read:?}"
            );
        }
    }

    #[test]
    fn no_spec_at_all_is_an_empty_one() {
        let object = json!({"metadata": {"name": "default"}});
        let policy: PeerAuthentication = serde_json::from_value(object).unwrap();
        assert_eq!(policy.spec, Lenient::Read(PeerAuthenticationSpec::default()));
    }

    #[test]
    fn what_we_do_not_know_survives_reading_and_writing() {
        let spec = json!({
            "mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}},
            "selector": {"matchLabels": {"app": "web"}}, "novelty": {"depth": [1, 2]},
        });
        assert_eq!(serde_json::to_value(read(spec.clone())).unwrap(), spec);
    }
}
