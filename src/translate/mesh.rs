//! Mesh-wide configuration: what the control planes' ConfigMaps say together.

use super::{entrance, namespace};
use crate::kubernetes::ConfigMap;
use meshrollout_core::exposure::Entrance;
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::Namespace;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Mesh;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::{BTreeMap, BTreeSet};

/// The mesh configuration of one control plane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshConfig {
    /// The ConfigMap's namespace: where that control plane runs.
    pub namespace: Namespace,
    /// The ConfigMap's name.
    pub name: String,
    says: Result<Says, String>,
    calls: Vec<Entrance>,
}

impl MeshConfig {
    /// Whom it has proxies call by themselves, from their first moment on, and not as clients of the
    /// mesh.
    ///
    /// Its extension providers are not among them: those are called through the same clusters as
    /// any Service (`pilot/pkg/networking/util/extensionproviders`), over mutual TLS where the
    /// Service's pods take it.
    pub fn calls(&self) -> &[Entrance] {
        &self.calls
    }

    /// The networks that it names.
    pub fn networks(&self) -> &[String] {
        self.says.as_ref().map_or(&[], |says| &says.networks)
    }

    /// A mesh configuration by itself, not in its ConfigMap.
    pub fn written(namespace: &Namespace, text: &str) -> Result<Self, String> {
        let object: Object = or_default(text)?;
        if object.kind.is_some() {
            return Err("it is an object of Kubernetes, which belongs among the files".to_owned());
        }
        let config = Self::read(namespace.clone(), "istio", text, None);
        match config.says {
            Ok(_) => Ok(config),
            Err(why) => Err(why),
        }
    }

    fn read(namespace: Namespace, name: &str, mesh: &str, networks: Option<&str>) -> Self {
        let written = or_default::<Written>(mesh);
        let itself = Subject::new("ConfigMap", &namespace, name);
        let proxies = written.iter().filter_map(|written| written.default_config.as_ref());
        let calls = proxies.flat_map(ProxyConfig::called).filter_map(|(field, address)| {
            let at = address.parse::<http::uri::Authority>().ok()?;
            let detail = format!("defaultConfig.{field}: {address}");
            entrance::by_proxies(itself.clone(), &at, 80, detail)
        });
        let calls = calls.collect();
        let says = written.and_then(|all| read(all, networks, &namespace));
        Self { namespace, name: name.to_owned(), says, calls }
    }
}

/// What it says, defaults filled in.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Says {
    root: Namespace,
    auto_mtls: bool,
    trust_domain: String,
    /// With those that are taken for it.
    trust_domains: BTreeSet<String>,
    sends_to_known_only: bool,
    networks: Vec<String>,
}

/// What every object of Kubernetes says, and no mesh configuration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    kind: Option<IgnoredAny>,
}

/// `meshNetworks`, a text of its own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Networks {
    networks: Option<BTreeMap<String, IgnoredAny>>,
}

/// `meshConfig` as Istio reads it: protobuf's JSON takes both spellings of a name.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    #[serde(alias = "root_namespace")]
    root_namespace: Option<String>,
    #[serde(alias = "enable_auto_mtls")]
    enable_auto_mtls: Option<bool>,
    #[serde(alias = "trust_domain")]
    trust_domain: Option<String>,
    #[serde(alias = "trust_domain_aliases")]
    trust_domain_aliases: Option<Vec<String>>,
    #[serde(alias = "ca_certificates")]
    ca_certificates: Option<Vec<Authority>>,
    #[serde(alias = "outbound_traffic_policy")]
    outbound_traffic_policy: Option<Moded>,
    #[serde(alias = "default_config")]
    default_config: Option<ProxyConfig>,
}

/// A further authority, and whom it signs for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Authority {
    #[serde(alias = "trust_domains")]
    trust_domains: Option<Vec<String>>,
}

/// The parts of a ProxyConfig that name somebody whom Envoy's bootstrap calls
/// (`tools/packaging/common/envoy_bootstrap.json`).
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    tracing: Option<Tracing>,
    #[serde(alias = "zipkin_address")]
    zipkin_address: Option<String>,
    #[serde(alias = "envoy_access_log_service")]
    envoy_access_log_service: Option<Remote>,
    #[serde(alias = "envoy_metrics_service")]
    envoy_metrics_service: Option<Remote>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tracing {
    zipkin: Option<Remote>,
    lightstep: Option<Remote>,
    datadog: Option<Remote>,
    #[serde(alias = "tls_settings")]
    tls_settings: Option<Moded>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Remote {
    address: Option<String>,
    #[serde(alias = "tls_settings")]
    tls_settings: Option<Moded>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Moded {
    mode: Option<String>,
}

impl ProxyConfig {
    /// Each with the field that names it. With mutual TLS of the mesh nothing is to be said.
    fn called(&self) -> Vec<(&'static str, &str)> {
        let is_mutual = |tls: &Option<Moded>| {
            tls.as_ref().and_then(|tls| tls.mode.as_deref()) == Some("ISTIO_MUTUAL")
        };
        let tracing = self.tracing.as_ref().filter(|all| !is_mutual(&all.tls_settings));
        let tracers = tracing.into_iter().flat_map(|all| {
            [
                ("tracing.zipkin", &all.zipkin),
                ("tracing.lightstep", &all.lightstep),
                ("tracing.datadog", &all.datadog),
            ]
        });
        let services = [
            ("envoyAccessLogService", &self.envoy_access_log_service),
            ("envoyMetricsService", &self.envoy_metrics_service),
        ];
        let remotes = tracers.chain(services).filter_map(|(field, remote)| {
            let remote = remote.as_ref().filter(|one| !is_mutual(&one.tls_settings))?;
            Some((field, remote.address.as_deref()?))
        });
        remotes.chain(self.zipkin_address.as_deref().map(|at| ("zipkinAddress", at))).collect()
    }
}

/// The mesh configuration in a ConfigMap, if it is one: named `istio` or `istio-REVISION`, with a
/// key `mesh` (`pilot/pkg/bootstrap/mesh.go`). Others of such names are not.
pub fn config(object: &ConfigMap) -> Option<MeshConfig> {
    let name = object.metadata.name.as_deref()?;
    if name != "istio" && !name.starts_with("istio-") {
        return None;
    }
    let data = object.data.as_ref()?;
    let namespace = namespace(&object.metadata);
    Some(MeshConfig::read(namespace, name, data.mesh.as_deref()?, data.mesh_networks.as_deref()))
}

fn read(written: Written, networks: Option<&str>, namespace: &Namespace) -> Result<Says, String> {
    let networks: Networks = or_default(networks.unwrap_or_default())?;
    let set = |text: Option<String>| text.filter(|text| !text.is_empty());
    let trust_domain =
        set(written.trust_domain).unwrap_or_else(|| super::domain::DEFAULT.to_owned());
    let authorities = written.ca_certificates.into_iter().flatten();
    let aliases = authorities.flat_map(|one| one.trust_domains.unwrap_or_default());
    let aliases = aliases.chain(written.trust_domain_aliases.into_iter().flatten());
    let policy = written.outbound_traffic_policy.and_then(|policy| policy.mode);
    Ok(Says {
        root: set(written.root_namespace).map_or_else(|| namespace.clone(), Namespace::new),
        auto_mtls: written.enable_auto_mtls.unwrap_or(true),
        trust_domains: aliases.chain([trust_domain.clone()]).collect(),
        trust_domain,
        sends_to_known_only: policy.as_deref() == Some("REGISTRY_ONLY"),
        networks: networks.networks.into_iter().flatten().map(|(name, _)| name).collect(),
    })
}

fn or_default<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    let is_blank = text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'));
    match is_blank {
        true => Ok(T::default()),
        false => serde_saphyr::from_str(text).map_err(|error| error.to_string()),
    }
}

/// Those of `configs` that speak for the mesh.
///
/// `control_planes` are the namespaces that the injectors' webhooks lead to. Only a cluster's
/// administrator writes webhooks, while a ConfigMap called `istio` may stand in anybody's
/// namespace: where the webhooks name namespaces, only ConfigMaps there are believed.
pub fn believed<'a>(
    configs: impl IntoIterator<Item = &'a MeshConfig>,
    control_planes: &BTreeSet<Namespace>,
) -> impl Iterator<Item = &'a MeshConfig> {
    configs
        .into_iter()
        .filter(|config| control_planes.is_empty() || control_planes.contains(&config.namespace))
}

/// The mesh that those of `configs` describe that are believed.
pub fn mesh<'a>(
    configs: impl IntoIterator<Item = &'a MeshConfig>,
    control_planes: &BTreeSet<Namespace>,
) -> Reading<Mesh> {
    let mut configs: Vec<_> = believed(configs, control_planes).collect();
    // The default control plane first: its root namespace is the one that messages name.
    configs.sort_by_key(|config| (config.name != "istio", &config.namespace, &config.name));
    let mut mesh: Option<Mesh> = None;
    for MeshConfig { namespace, name, says, .. } in configs {
        let says = match says {
            Ok(says) => says,
            Err(why) => {
                let what = format!("the mesh configuration {namespace}/{name} ({why})");
                return Reading::Unknown(Cause::Malformed(what));
            }
        };
        let Some(mesh) = &mut mesh else {
            mesh = Some(Mesh {
                roots: vec![says.root.clone()],
                auto_mtls: says.auto_mtls,
                trust_domain: says.trust_domain.clone(),
                trust_domains: Some(says.trust_domains.clone()),
                sends_to_known_only: says.sends_to_known_only,
                networks: says.networks.clone(),
            });
            continue;
        };
        mesh.networks.extend(says.networks.iter().cloned());
        // What one of them does not know its proxies do not believe.
        if let Some(domains) = &mut mesh.trust_domains {
            domains.retain(|domain| says.trust_domains.contains(domain));
        }
        // A client of any revision may send on what it does not know.
        mesh.sends_to_known_only &= says.sends_to_known_only;
        if !mesh.roots.contains(&says.root) {
            mesh.roots.push(says.root.clone());
        }
        // A client of any revision may be without it.
        mesh.auto_mtls &= says.auto_mtls;
        if mesh.trust_domain != says.trust_domain {
            let what = format!(
                "the trust domain, {} by one mesh configuration and {} by {namespace}/{name},",
                mesh.trust_domain, says.trust_domain
            );
            return Reading::Unknown(Cause::Malformed(what));
        }
    }
    match mesh {
        Some(mesh) => Reading::Known(mesh),
        None => Reading::Unknown(Cause::NotRead(
            "the mesh configuration (a ConfigMap istio or istio-REVISION with the key mesh)".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(namespace: &str, name: &str, mesh: &str) -> Option<MeshConfig> {
        config(
            &serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name}, "data": {"mesh": mesh},
            }))
            .unwrap(),
        )
    }

    fn read(maps: &[(&str, &str, &str)]) -> Reading<Mesh> {
        let configs: Vec<_> =
            maps.iter().filter_map(|(namespace, name, mesh)| map(namespace, name, mesh)).collect();
        mesh(&configs, &BTreeSet::new())
    }

    #[test]
    fn what_is_not_said_has_istios_defaults() {
        for text in ["", "# nothing\n", "accessLogFile: /dev/stdout", "trustDomain: ''"] {
            let expected = Mesh {
                roots: vec!["istio-system".into()],
                auto_mtls: true,
                trust_domain: "cluster.local".into(),
                trust_domains: Some(["cluster.local".to_owned()].into()),
                sends_to_known_only: false,
                networks: vec![],
            };
            assert_eq!(
                read(&[("istio-system", "istio", text)]),
                Reading::Known(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_said_is_read_in_both_spellings() {
        let camel = "rootNamespace: mesh\nenableAutoMtls: false\ntrustDomain: corp.example\ntrustDomainAliases: [old.example]\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}";
        let snake = "root_namespace: mesh\nenable_auto_mtls: false\ntrust_domain: corp.example\nca_certificates: [{trust_domains: [old.example]}]\noutbound_traffic_policy: {mode: REGISTRY_ONLY}";
        for text in [camel, snake] {
            let expected = Mesh {
                roots: vec!["mesh".into()],
                auto_mtls: false,
                trust_domain: "corp.example".into(),
                trust_domains: Some(["corp.example", "old.example"].map(str::to_owned).into()),
                sends_to_known_only: true,
                networks: vec![],
            };
            assert_eq!(read(&[("istio-system", "istio", text)]), Reading::Known(expected));
        }
    }

    #[test]
    fn revisions_are_taken_together() {
        let several = read(&[
            ("mesh", "istio-canary", "enableAutoMtls: false"),
            ("istio-system", "istio", "enableAutoMtls: true"),
        ]);
        let mesh = several.known().unwrap();
        assert_eq!(mesh.roots, ["istio-system".into(), "mesh".into()]);
        assert!(!mesh.auto_mtls);
        let differ = read(&[
            ("istio-system", "istio", ""),
            ("istio-system", "istio-canary", "trustDomain: other"),
        ]);
        assert!(differ.known().is_none());
    }

    #[test]
    fn what_one_revision_does_not_know_the_mesh_does_not() {
        let first = "trustDomainAliases: [a, b]\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}";
        let known = |second: &str| {
            let both =
                read(&[("istio-system", "istio", first), ("istio-system", "istio-canary", second)]);
            let mesh = both.known().unwrap();
            let domains = mesh.trust_domains.as_ref().unwrap().iter().cloned();
            (domains.collect::<Vec<_>>().join(" "), mesh.sends_to_known_only)
        };
        assert_eq!(known("trustDomainAliases: [b]"), ("b cluster.local".into(), false));
        assert_eq!(known(first), ("a b cluster.local".into(), true));
    }

    #[test]
    fn one_that_cannot_be_read_leaves_the_mesh_unknown() {
        for text in ["rootNamespace: [", "enableAutoMtls: maybe", "rootNamespace: {a: b}"] {
            let reading = read(&[("istio-system", "istio", text), ("b", "istio-b", "")]);
            assert!(matches!(reading.cause(), Some(Cause::Malformed(_))), "{text}: {reading:?}");
        }
        assert!(matches!(read(&[]).cause(), Some(Cause::NotRead(_))));
    }

    #[test]
    fn a_config_map_beside_no_control_plane_is_not_believed() {
        let configs = [
            map("attacker", "istio", "rootNamespace: attacker").unwrap(),
            map("istio-system", "istio", "").unwrap(),
        ];
        let mesh = mesh(&configs, &["istio-system".into()].into());
        assert_eq!(mesh.known().unwrap().roots, ["istio-system".into()]);
    }

    #[test]
    fn other_config_maps_are_not_mesh_configuration() {
        assert_eq!(map("a", "istiod", ""), None);
        let no_mesh = json!({"metadata": {"name": "istio-ca-root-cert"}, "data": {"root": "x"}});
        assert_eq!(config(&serde_json::from_value(no_mesh).unwrap()), None);
    }

    #[test]
    fn the_networks_of_all_control_planes_are_the_meshs() {
        let object = |name: &str, networks: &str| {
            let object = json!({"metadata": {"namespace": "istio-system", "name": name},
                "data": {"mesh": "", "meshNetworks": networks}});
            config(&serde_json::from_value(object).unwrap()).unwrap()
        };
        let networks = |second: &str| {
            let configs = [object("istio", "networks: {}"), object("istio-canary", second)];
            mesh(&configs, &BTreeSet::new()).known().map(|mesh| mesh.networks.clone())
        };
        assert_eq!(networks(""), Some(vec![]));
        assert_eq!(networks("networks: {far: {}}"), Some(vec!["far".to_owned()]));
        assert_eq!(networks("networks: ["), None);
    }

    #[test]
    fn whom_envoys_bootstrap_calls_is_called_outside_the_mesh_unless_it_is_told_otherwise() {
        let calls = |text: &str| {
            let config = map("istio-system", "istio", text).unwrap();
            let told = config.calls().iter().map(|one| {
                format!("{}/{}:{} {}", one.namespace, one.service, one.port, one.detail)
            });
            told.collect::<Vec<_>>()
        };
        let zipkin = "defaultConfig: {tracing: {zipkin: {address: 'zipkin.tracing:9411'}}}";
        assert_eq!(
            calls(zipkin),
            ["tracing/zipkin:9411 defaultConfig.tracing.zipkin: zipkin.tracing:9411"]
        );
        let logs = "default_config: {envoyAccessLogService: {address: 'als.logs.svc.cluster.local:15010', tlsSettings: {mode: MODE}}}";
        assert_eq!(calls(&logs.replace("MODE", "DISABLE")).len(), 1);
        assert_eq!(calls(&logs.replace("MODE", "ISTIO_MUTUAL")), [""; 0]);
        assert_eq!(
            calls("defaultConfig: {tracing: {zipkin: {address: '10.0.0.9:9411'}}}"),
            [""; 0]
        );
        let provider = "extensionProviders: [{name: a, zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}}]";
        assert_eq!(calls(provider), [""; 0]);
    }
}
