//! Sidecars and EnvoyFilters: what clients know, and what is patched into servers.

use super::{labels_of, namespace, revision};
use crate::istio;
use meshrollout_core::egress::{Import, Scope, Whose};
use meshrollout_core::ident::{Host, Labels, Namespace, Port};
use meshrollout_core::snapshot::InboundFilter;
use std::collections::BTreeSet;

/// What the clients of a Sidecar know. One that cannot be read may hide everything.
pub fn scope(object: &istio::Sidecar) -> Scope {
    let meta = &object.metadata;
    let mut scope = Scope {
        namespace: namespace(meta),
        name: meta.name.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        selector: Labels::default(),
        imports: Some(vec![]),
        sends_to_known_only: None,
        revision: revision(meta),
        listens: false,
    };
    let Ok(spec) = object.spec.as_result() else { return scope };
    let imports = spec.egress.iter().flat_map(|listener| {
        // A proxy listener is one for all.
        let port = listener.port.as_ref().filter(|port| {
            port.protocol.as_deref().is_none_or(|protocol| protocol != "HTTP_PROXY")
        });
        let port = port.and_then(|port| port.number).and_then(|port| u16::try_from(port).ok());
        listener.hosts.iter().filter_map(move |text| import(text, port))
    });
    scope.imports = (!spec.egress.is_empty()).then(|| imports.collect());
    scope.selector = labels_of(spec.workload_selector.as_ref());
    scope.listens = !spec.ingress.is_empty();
    // REGISTRY_ONLY is what it means to say nothing within it.
    scope.sends_to_known_only = spec
        .outbound_traffic_policy
        .as_ref()
        .map(|policy| policy.mode.as_deref() != Some("ALLOW_ANY"));
    scope
}

/// `NAMESPACE/HOST`: `.` is the client's own, `*` any, `~` none.
fn import(text: &str, port: Option<u16>) -> Option<Import> {
    let (space, host) = text.split_once('/').unwrap_or(("*", text));
    let of = match space {
        "~" => return None,
        "*" => Whose::Any,
        "." => Whose::Clients,
        name => Whose::Named(Namespace::new(name)),
    };
    Some(Import { of, host: Host::new(host), port: port.map(Port) })
}

/// What of inbound listeners an EnvoyFilter changes that STRICT changes as well: filter chains as
/// such, and whatever it looks for in one kind of filter chain alone (`istio-semantics.md` F24). The
/// listener stays, and so does a filter that is put into every chain.
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
    if part == "FILTER_CHAIN" {
        return Some(part.to_owned());
    }
    let chain = matches?.listener.as_ref()?.filter_chain.as_ref()?;
    // Those that end mutual TLS stay.
    let transport = chain.transport_protocol.iter().filter(|it| *it != "tls");
    let transport = transport.map(|it| format!("transport protocol {it}"));
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
        let scope = scope(&serde_json::from_value(object).unwrap());
        let text = |one: &Import| {
            let of = match &one.of {
                Whose::Any => "any",
                Whose::Clients => "own",
                Whose::Named(name) => name.as_str(),
            };
            let port = one.port.map_or(String::new(), |port| format!(":{port}"));
            format!("{of} {}{port}", one.host.as_str())
        };
        scope.imports.map(|all| all.iter().map(text).collect())
    }

    #[test]
    fn a_sidecar_imports_what_its_egress_says_and_without_one_everything() {
        let hosts = json!(["./*", "*/a.b.svc.cluster.local", "shop/*", "~/*"]);
        let expected = ["own *", "any a.b.svc.cluster.local", "shop *"];
        assert_eq!(imports(json!({"egress": [{"hosts": hosts}]})).unwrap(), expected);
        assert_eq!(imports(json!({"egress": [{"hosts": ["~/*"]}]})).unwrap(), [""; 0]);
        assert_eq!(imports(json!({})), None);
        let at = |protocol: &str| {
            let port = json!({"number": 80, "protocol": protocol});
            imports(json!({"egress": [{"port": port, "hosts": ["*/*"]}]})).unwrap()
        };
        assert_eq!((at("HTTP"), at("HTTP_PROXY")), (vec!["any *:80".into()], vec!["any *".into()]));
        // What cannot be read may hide everything.
        assert_eq!(imports(json!({"egress": "all"})).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_not_known_is_not_sent_where_the_policy_does_not_say_otherwise() {
        let only = |spec: Value| {
            let object = json!({"metadata": {"namespace": "web", "name": "x"}, "spec": spec});
            scope(&serde_json::from_value(object).unwrap()).sends_to_known_only
        };
        assert_eq!(only(json!({})), None);
        for (policy, expected) in [
            (json!({}), true),
            (json!({"mode": "REGISTRY_ONLY"}), true),
            (json!({"mode": "ALLOW_ANY"}), false),
        ] {
            assert_eq!(only(json!({"outboundTrafficPolicy": policy})), Some(expected));
        }
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
        assert!(at("FILTER_CHAIN", "ANY", json!({})).is_some());
        for nothing in [
            at("HTTP_FILTER", "SIDECAR_INBOUND", json!({"filter": {"name": "router"}})),
            at("FILTER_CHAIN", "SIDECAR_OUTBOUND", plain.clone()),
            at("FILTER_CHAIN", "GATEWAY", plain),
            at("LISTENER", "SIDECAR_INBOUND", json!({})),
            at("HTTP_FILTER", "SIDECAR_INBOUND", json!({"transportProtocol": "tls"})),
            what(json!({"applyTo": "CLUSTER"})),
        ] {
            assert_eq!(nothing, None);
        }
    }
}
