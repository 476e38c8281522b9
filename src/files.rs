//! A cluster from files: manifests or `kubectl get … -o yaml|json` dumps become a snapshot.

use crate::observe::evidence::not_asked;
use crate::translate::facts::{Header, NamedService, Parts, header, named_service};
use crate::translate::mesh::{MeshConfig, config, mesh};
use crate::translate::pod::{OwnedPod, Owner, daemon_set, deployment, owned_pod, stateful_set};
use crate::translate::{DOMAIN, namespace};
use crate::{istio, kubernetes, translate};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use meshrollout_core::client_tls::{Rule, Rules};
use meshrollout_core::effective::Policies;
use meshrollout_core::ident::Namespace;
use meshrollout_core::injection::{self, Injection, Injector, chart_injectors};
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::Reading;
use meshrollout_core::snapshot::{Mesh, Snapshot, Source, TelemetryOverride};
use meshrollout_core::workload::{NamespaceFacts, Phase, Pod, Proxy};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root namespace where no file says which: Istio's default.
const ROOT: &str = "istio-system";

/// What was read, and what could not be.
#[derive(Debug, Default)]
pub struct Input {
    namespaces: BTreeMap<Namespace, Header>,
    pods: Vec<OwnedPod>,
    owners: Vec<Owner>,
    services: Vec<(Namespace, NamedService)>,
    workload_entries: Vec<(Namespace, String)>,
    policies: Vec<Policy>,
    rules: Vec<Rule>,
    overrides: Vec<TelemetryOverride>,
    injectors: Option<Vec<Injector>>,
    control_planes: BTreeSet<Namespace>,
    mesh: Vec<MeshConfig>,
    /// Objects of kinds that preflight does not look at.
    pub skipped: usize,
    /// Documents that could not be read, with file and line.
    pub broken: Vec<String>,
}

/// A file or folder that could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {0}")]
pub struct Error(PathBuf, #[source] std::io::Error);

impl Input {
    /// Reads files and folders (all `.yaml`, `.yml` and `.json` below); `-` is standard input.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut input = Self::default();
        for path in paths {
            input.read_path(path)?;
        }
        Ok(input)
    }

    fn read_path(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |error| Error(path.to_owned(), error);
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(failed)?;
            self.read_text("standard input", &text);
        } else if path.is_dir() {
            let mut below: Vec<_> = std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .map_err(failed)?;
            below.sort();
            for one in below {
                let known = one.extension().and_then(|extension| extension.to_str());
                if one.is_dir() || matches!(known, Some("yaml" | "yml" | "json")) {
                    self.read_path(&one)?;
                }
            }
        } else {
            let text = std::fs::read_to_string(path).map_err(failed)?;
            self.read_text(&path.display().to_string(), &text);
        }
        Ok(())
    }

    /// One broken document is named by file and line, and does not hide the others.
    pub fn read_text(&mut self, file: &str, text: &str) {
        if text.trim_start().starts_with('{') {
            match serde_json::from_str(text) {
                Ok(object) => self.take(file, 1, object),
                Err(error) => self.broken.push(format!("{file}:{}: {error}", error.line())),
            }
            return;
        }
        let (mut begin, mut document) = (1, String::new());
        for (index, line) in text.lines().chain(["---"]).enumerate() {
            if line.trim_end() != "---" {
                document.push_str(line);
                document.push('\n');
                continue;
            }
            let says_nothing =
                document.lines().all(|line| line.trim().is_empty() || line.starts_with('#'));
            if !says_nothing {
                match serde_saphyr::from_str::<Value>(&document) {
                    Ok(object) => self.take(file, begin, object),
                    Err(error) => {
                        let within = error.location().map_or(0, |at| at.line() as usize);
                        let line = begin + within.saturating_sub(1);
                        self.broken.push(format!("{file}:{line}: {error}"));
                    }
                }
            }
            document.clear();
            begin = index + 2;
        }
    }

    fn take(&mut self, file: &str, line: usize, mut object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if kind.ends_with("List") && object["items"].is_array() {
            let items = object["items"].take();
            for item in items.as_array().cloned().unwrap_or_default() {
                self.take(file, line, item);
            }
            return;
        }
        if let Err(error) = self.take_kind(&kind, object) {
            self.broken.push(format!("{file}:{line}: this {kind} cannot be read: {error}"));
        }
    }

    fn take_kind(&mut self, kind: &str, object: Value) -> Result<(), serde_json::Error> {
        match kind {
            "Namespace" => {
                let object: kubernetes::Namespace = parse(object)?;
                let name = object.metadata.name.clone().unwrap_or_default();
                self.namespaces.insert(Namespace::new(name), header(&object));
            }
            "Pod" => self.pods.push(owned_pod(&parse(object)?)),
            "Deployment" => self.owners.push(deployment(&parse(object)?)),
            "StatefulSet" => self.owners.push(stateful_set(&parse(object)?)),
            "DaemonSet" => self.owners.push(daemon_set(&parse(object)?)),
            "Service" => {
                let object: kubernetes::Service = parse(object)?;
                let service = named_service(&object, DOMAIN);
                self.services.push((namespace(&object.metadata), service));
            }
            "WorkloadEntry" => {
                let object: istio::WorkloadEntry = parse(object)?;
                let name = object.metadata.name.clone().unwrap_or_default();
                self.workload_entries.push((namespace(&object.metadata), name));
            }
            "PeerAuthentication" => self.policies.push(translate::policy(&parse(object)?)),
            "DestinationRule" => self.rules.push(translate::rule(&parse(object)?, DOMAIN)),
            "Telemetry" => self.overrides.extend(translate::telemetry(&parse(object)?)),
            "MutatingWebhookConfiguration" => {
                let object: MutatingWebhookConfiguration = parse(object)?;
                let found = translate::injectors(&object);
                if !found.is_empty() {
                    self.injectors.get_or_insert_default().extend(found);
                }
                self.control_planes.extend(translate::control_planes(&object));
            }
            "ConfigMap" => match config(&parse(object)?) {
                Some(config) => self.mesh.push(config),
                None => self.skipped += 1,
            },
            _ => self.skipped += 1,
        }
        Ok(())
    }

    /// The snapshot that these files describe. What files cannot tell is Unknown.
    pub fn snapshot(&self, at: jiff::Timestamp) -> Snapshot {
        let injectors = self.injectors.clone().unwrap_or_else(|| chart_injectors("default", true));
        let mut parts: BTreeMap<Namespace, Parts<'_>> = BTreeMap::new();
        for (name, header) in &self.namespaces {
            parts.entry(name.clone()).or_default().header = Some(header);
        }
        for owner in &self.owners {
            parts.entry(owner.id.namespace.clone()).or_default().owners.push(owner);
        }
        for pod in &self.pods {
            parts.entry(pod.owner.namespace.clone()).or_default().pods.push(pod);
        }
        for (namespace, service) in &self.services {
            parts.entry(namespace.clone()).or_default().services.push(service);
        }
        for (namespace, name) in &self.workload_entries {
            parts.entry(namespace.clone()).or_default().workload_entries.push(name);
        }
        let facts = |(name, parts): (Namespace, Parts<'_>)| {
            let mut facts = parts.facts(&name);
            expect_pods(&mut facts, &injectors);
            (name, Arc::new(facts))
        };
        let namespaces = parts.into_iter().map(facts).collect();
        let mesh = self.mesh();
        let root = mesh.known().and_then(|mesh| mesh.roots.first().cloned());
        let root = root.unwrap_or_else(|| Namespace::new(ROOT));
        Snapshot {
            at,
            source: Source::Files,
            mesh,
            namespaces,
            policies: Policies::new(root.clone(), self.policies.iter().cloned()),
            rules: Rules::new(Some(root), self.rules.iter().cloned()),
            injectors: Reading::Known(injectors),
            overrides: self.overrides.clone(),
            telemetry: Arc::new(not_asked(at)),
            stale: vec![],
        }
    }

    /// Files need not show the mesh configuration; then it is Istio's default.
    fn mesh(&self) -> Reading<Mesh> {
        if !self.mesh.is_empty() {
            return mesh(&self.mesh, &self.control_planes);
        }
        Reading::Known(Mesh {
            roots: vec![Namespace::new(ROOT)],
            auto_mtls: true,
            trust_domain: DOMAIN.into(),
        })
    }
}

/// A workload known by its template only stands for the pod that would come of it.
fn expect_pods(facts: &mut NamespaceFacts, injectors: &[Injector]) {
    let (name, labels) = (facts.name.clone(), facts.labels.clone());
    for workload in facts.workloads.values_mut().filter(|workload| workload.pods.is_empty()) {
        let Some(template) = &workload.template else { continue };
        let proxy = match injection::decide(&name, &labels, template, injectors) {
            Injection::Sidecar { revision } => {
                let mode = template.labels.value("security.istio.io/tlsMode");
                let announces_tls = mode.is_none_or(|mode| mode == "istio");
                Proxy::Sidecar { revision: Some(revision), announces_tls }
            }
            Injection::None(_) => Proxy::None,
        };
        workload.pods.push(Pod {
            name: format!("{} (to be made)", workload.id.name),
            labels: Arc::new(template.labels.clone()),
            proxy,
            phase: Phase::Running,
            ready_since: None,
            host_network: template.host_network,
            restarts: 0,
        });
    }
}

fn parse<T: DeserializeOwned>(object: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(object)
}
