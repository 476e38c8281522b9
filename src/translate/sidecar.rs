//! Sidecars and EnvoyFilters: what clients know, and what is patched into servers.

use super::{labels_of, namespace};
use crate::istio;
use meshrollout_core::egress::{Import, Scope};
use meshrollout_core::ident::{Host, Namespace};
use meshrollout_core::snapshot::InboundFilter;
use std::collections::BTreeSet;

/// What the clients of a Sidecar know. One that cannot be read narrows nothing that we can tell, and
/// istiod does not take it either.
pub fn scope(object: &istio::Sidecar) -> Option<Scope> {
    let meta = &object.metadata;
    let own = namespace(meta);
    let spec = object.spec.as_result().ok()?;
    let hosts = || spec.egress.iter().flat_map(|listener| &listener.hosts);
    let policy = spec.outbound_traffic_policy.as_ref();
    Some(Scope {
        name: meta.name.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        selector: labels_of(spec.workload_selector.as_ref()),
        imports: (!spec.egress.is_empty())
            .then(|| hosts().filter_map(|text| import(text, &own)).collect()),
        sends_to_known_only: policy.and_then(|policy| policy.mode.as_deref())
            == Some("REGISTRY_ONLY"),
        namespace: own,
    })
}

/// `NAMESPACE/HOST`: `.` is the Sidecar's own, `*` any, `~` none.
fn import(text: &str, own: &Namespace) -> Option<Import> {
    let (space, host) = text.split_once('/').unwrap_or(("*", text));
    let namespace = match space {
        "~" => return None,
        "*" => None,
        "." => Some(own.clone()),
        name => Some(Namespace::new(name)),
    };
    Some(Import { namespace, host: Host::new(host) })
}

/// What of inbound listeners an EnvoyFilter changes that STRICT changes as well: listeners and
/// filter chains as such, and whatever it looks for in one kind of filter chain alone
/// (`istio-semantics.md` F24). A filter that is put into every chain stays where it is.
pub fn inbound_filter(object: &istio::EnvoyFilter) -> Option<InboundFilter> {
    let meta = &object.metadata;
    let (selector, what) = match object.spec.as_result() {
        Ok(spec) => {
            let patched: BTreeSet<_> = spec.config_patches.iter().filter_map(patched).collect();
            (labels_of(spec.workload_selector.as_ref()), patched.into_iter().collect::<Vec<_>>())
        }
        Err(why) => (Default::default(), vec![format!("what cannot be understood ({why})")]),
    };
    (!what.is_empty()).then(|| InboundFilter {
        namespace: namespace(meta),
        name: meta.name.clone().unwrap_or_default(),
        selector: Some(selector).filter(|selector| !selector.is_empty()),
        what: what.join(", "),
    })
}

fn patched(patch: &istio::ConfigPatch) -> Option<String> {
    let matches = patch.matches.as_ref();
    let context = matches.and_then(|one| one.context.as_deref()).unwrap_or("ANY");
    if !matches!(context, "ANY" | "SIDECAR_INBOUND") {
        return None;
    }
    let part = patch.apply_to.as_deref().unwrap_or_default();
    if matches!(part, "LISTENER" | "LISTENER_FILTER" | "FILTER_CHAIN") && context != "ANY" {
        return Some(part.to_owned());
    }
    let chain = matches?.listener.as_ref()?.filter_chain.as_ref()?;
    let transport = chain.transport_protocol.iter().map(|it| format!("transport protocol {it}"));
    let offered = chain.application_protocols.iter().map(|it| format!("protocols {it}"));
    let name = chain.name.iter().map(|it| format!("name {it}"));
    let by: Vec<_> = transport.chain(offered).chain(name).collect();
    (!by.is_empty()).then(|| format!("{part} in filter chains by {}", by.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn imports(spec: Value) -> Option<Vec<String>> {
        let object = json!({"metadata": {"namespace": "web", "name": "x"}, "spec": spec});
        let scope = scope(&serde_json::from_value(object).unwrap()).unwrap();
        let text = |one: &Import| {
            let namespace = one.namespace.as_ref().map_or("any", Namespace::as_str);
            format!("{namespace} {}", one.host.as_str())
        };
        scope.imports.map(|all| all.iter().map(text).collect())
    }

    #[test]
    fn a_sidecar_imports_what_its_egress_says_and_without_one_everything() {
        let hosts = json!(["./*", "*/a.b.svc.cluster.local", "shop/*", "~/*"]);
        let expected = ["web *", "any a.b.svc.cluster.local", "shop *"];
        assert_eq!(imports(json!({"egress": [{"hosts": hosts}]})).unwrap(), expected);
        assert_eq!(imports(json!({"egress": [{"hosts": ["~/*"]}]})).unwrap(), [""; 0]);
        assert_eq!(imports(json!({})), None);
    }

    #[test]
    fn only_a_patch_of_what_strict_changes_counts() {
        let what = |patch: Value| {
            let object = json!({"metadata": {"namespace": "web", "name": "x"},
                "spec": {"configPatches": [patch]}});
            inbound_filter(&serde_json::from_value(object).unwrap()).map(|one| one.what)
        };
        let at = |part: &str, context: &str, chain: Value| {
            what(json!({"applyTo": part, "match": {"context": context,
                "listener": {"filterChain": chain}}}))
        };
        let plain = json!({"transportProtocol": "raw_buffer"});
        assert_eq!(
            at("NETWORK_FILTER", "SIDECAR_INBOUND", plain.clone()).unwrap(),
            "NETWORK_FILTER in filter chains by transport protocol raw_buffer"
        );
        assert!(at("HTTP_FILTER", "ANY", plain.clone()).is_some());
        assert!(at("FILTER_CHAIN", "SIDECAR_INBOUND", json!({})).is_some());
        for nothing in [
            at("HTTP_FILTER", "SIDECAR_INBOUND", json!({"filter": {"name": "router"}})),
            at("FILTER_CHAIN", "SIDECAR_OUTBOUND", plain.clone()),
            at("FILTER_CHAIN", "GATEWAY", plain),
            at("LISTENER", "ANY", json!({})),
            what(json!({"applyTo": "CLUSTER"})),
        ] {
            assert_eq!(nothing, None);
        }
    }
}
