//! As whom machines speak, and whom proxies believe.

use crate::{istio, kubernetes};
use meshrollout_core::workload::Machine;
use std::collections::BTreeSet;

/// The ConfigMap in each namespace into which istiod writes what its proxies have to trust.
const ROOTS: &str = "istio-ca-root-cert";

/// A WorkloadEntry as facts: clients go by the label, and where there is none by whether an account
/// is named (`pilot/pkg/serviceregistry/serviceentry/conversion.go:getTLSModeFromWorkloadEntry`).
pub fn machine(object: &istio::WorkloadEntry) -> Machine {
    let says = object.spec.read();
    let label = says.and_then(|spec| spec.labels.get("security.istio.io/tlsMode"));
    let has_account = || says.is_some_and(|spec| !spec.service_account.is_empty());
    Machine {
        name: object.metadata.name.clone().unwrap_or_default(),
        takes_mutual_tls: label.map_or_else(has_account, |mode| mode == "istio"),
    }
}

/// The roots that proxies of a namespace trust, in the ConfigMap that istiod keeps there.
pub fn roots(object: &kubernetes::ConfigMap) -> Option<BTreeSet<String>> {
    const END: &str = "-----END CERTIFICATE-----";
    let name = object.metadata.name.as_deref();
    let text = object.data.as_ref()?.root_cert.as_deref().filter(|_| name == Some(ROOTS))?;
    // However the lines are broken, it is the same certificate.
    let of_one = |one: &str| one.split_whitespace().collect::<String>();
    let all = text.split_inclusive(END).map(of_one);
    let roots: BTreeSet<_> = all.filter(|one| one.ends_with("CERTIFICATE-----")).collect();
    (!roots.is_empty()).then_some(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_machine_takes_mutual_tls_by_its_label_and_without_one_by_its_account() {
        let takes = |spec: Value| {
            let object = json!({"metadata": {"namespace": "shop", "name": "vm"}, "spec": spec});
            machine(&serde_json::from_value(object).unwrap()).takes_mutual_tls
        };
        let label = |mode: &str| json!({"security.istio.io/tlsMode": mode});
        assert!(takes(json!({"serviceAccount": "web"})));
        assert!(takes(json!({"labels": label("istio")})));
        assert!(!takes(json!({"serviceAccount": "web", "labels": label("disabled")})));
        assert!(!takes(json!({"labels": {"app": "web"}})));
        assert!(!takes(json!({"labels": "what cannot be read"})));
    }

    #[test]
    fn a_root_is_the_same_however_its_lines_are_broken() {
        let roots = |name: &str, text: &str| {
            let object = json!({"metadata": {"namespace": "shop", "name": name},
                "data": {"root-cert.pem": text}});
            roots(&serde_json::from_value(object).unwrap())
        };
        let one = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let both = roots(ROOTS, &format!("{}{}", one("AA\nBB"), one("CC"))).unwrap();
        assert_eq!(both.len(), 2);
        assert!(!both.is_disjoint(&roots(ROOTS, &one("AABB")).unwrap()));
        assert!(both.is_disjoint(&roots(ROOTS, &one("DD")).unwrap()));
        // Nothing is no root, and not none of ours.
        for nothing in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAA\n"] {
            assert_eq!(roots(ROOTS, nothing), None, "{nothing}");
        }
        assert_eq!(roots("kube-root-ca.crt", &one("AA")), None);
    }
}
