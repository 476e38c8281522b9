//! A cluster from files: manifests or `kubectl get … -o yaml|json` dumps become a snapshot.

use crate::translate::namespace;
use crate::{istio, translate};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshrollout_core::client_tls::Rules;
use meshrollout_core::effective::Policies;
use meshrollout_core::ident::{Namespace, Uid, WorkloadRef};
use meshrollout_core::injection::{self, Injection, Injector, Template, chart_injectors};
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::{Mesh, Snapshot, Source};
use meshrollout_core::traffic::Telemetry;
use meshrollout_core::workload::{NamespaceFacts, Phase, Pod, Proxy, Service, Workload};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DOMAIN: &str = "cluster.local";
const ROOT: &str = "istio-system";

/// What was read, and what could not be.
#[derive(Debug, Default)]
pub struct Input {
    namespaces: BTreeMap<String, ObjectMeta>,
    pods: Vec<core::Pod>,
    templates: Vec<(WorkloadRef, Template)>,
    replica_sets: BTreeMap<(Namespace, String), String>,
    services: Vec<core::Service>,
    policies: Vec<istio::PeerAuthentication>,
    rules: Vec<istio::DestinationRule>,
    injectors: Option<Vec<Injector>>,
    auto_mtls: Option<bool>,
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
                let meta: ObjectMeta = parse(object["metadata"].clone())?;
                self.namespaces.insert(meta.name.clone().unwrap_or_default(), meta);
            }
            "Pod" => self.pods.push(parse(object)?),
            "Service" => self.services.push(parse(object)?),
            "PeerAuthentication" => self.policies.push(parse(object)?),
            "DestinationRule" => self.rules.push(parse(object)?),
            "ReplicaSet" => {
                let meta: ObjectMeta = parse(object["metadata"].clone())?;
                if let Some(owner) = meta.owner_references.iter().flatten().next() {
                    let key = (namespace(&meta), meta.name.clone().unwrap_or_default());
                    self.replica_sets.insert(key, owner.name.clone());
                }
            }
            "Deployment" | "StatefulSet" | "DaemonSet" => {
                let meta: ObjectMeta = parse(object["metadata"].clone())?;
                let spec: core::PodTemplateSpec = parse(object["spec"]["template"].clone())?;
                let name = meta.name.clone().unwrap_or_default();
                let id = WorkloadRef { namespace: namespace(&meta), kind: kind.into(), name };
                self.templates.push((id, translate::template(&spec)));
            }
            "MutatingWebhookConfiguration" => {
                let object: MutatingWebhookConfiguration = parse(object)?;
                let found = translate::injectors(&object);
                if !found.is_empty() {
                    self.injectors.get_or_insert_default().extend(found);
                }
            }
            "ConfigMap" if object["metadata"]["name"] == "istio" => {
                let text = object["data"]["mesh"].as_str().unwrap_or_default();
                if let Ok(mesh) = serde_saphyr::from_str::<Value>(text) {
                    self.auto_mtls = mesh["enableAutoMtls"].as_bool();
                }
            }
            _ => self.skipped += 1,
        }
        Ok(())
    }

    /// The snapshot that these files describe. What files cannot tell is Unknown.
    pub fn snapshot(&self, at: jiff::Timestamp) -> Snapshot {
        let injectors = self.injectors.clone().unwrap_or_else(|| chart_injectors("default", true));
        let mut namespaces: BTreeMap<Namespace, NamespaceFacts> = BTreeMap::new();
        for (name, meta) in &self.namespaces {
            namespaces.insert(Namespace::new(name), facts(name, meta));
        }
        fn in_namespace<'a>(
            all: &'a mut BTreeMap<Namespace, NamespaceFacts>,
            name: &Namespace,
        ) -> &'a mut NamespaceFacts {
            all.entry(name.clone()).or_insert_with(|| facts(name.as_str(), &ObjectMeta::default()))
        }
        for object in &self.services {
            let service: Service = translate::service(object, DOMAIN);
            in_namespace(&mut namespaces, &namespace(&object.metadata)).services.push(service);
        }
        for (id, template) in &self.templates {
            let facts = in_namespace(&mut namespaces, &id.namespace);
            let workload = workload(facts, id);
            workload.template = Some(template.clone());
        }
        for object in &self.pods {
            let id = self.owner(object);
            let facts = in_namespace(&mut namespaces, &id.namespace);
            workload(facts, &id).pods.push(translate::pod(object));
        }
        for facts in namespaces.values_mut() {
            expect_pods(facts, &injectors);
        }
        let root = Namespace::new(ROOT);
        Snapshot {
            at,
            source: Source::Files,
            mesh: Reading::Known(Mesh {
                roots: vec![root.clone()],
                auto_mtls: self.auto_mtls.unwrap_or(true),
                trust_domain: DOMAIN.into(),
            }),
            namespaces: namespaces
                .into_iter()
                .map(|(name, facts)| (name, Arc::new(facts)))
                .collect(),
            policies: Policies::new(root.clone(), self.policies.iter().map(translate::policy)),
            rules: Rules::new(
                Some(root),
                self.rules.iter().map(|rule| translate::rule(rule, DOMAIN)),
            ),
            injectors: Reading::Known(injectors),
            overrides: vec![],
            telemetry: Arc::new(nothing_measured(at)),
            stale: vec![],
        }
    }

    /// A Deployment's pods are the Deployment's, by their ReplicaSet or by its name without hash.
    fn owner(&self, pod: &core::Pod) -> WorkloadRef {
        let namespace = namespace(&pod.metadata);
        let own = pod.metadata.name.clone().unwrap_or_default();
        let (kind, name) = match pod.metadata.owner_references.iter().flatten().next() {
            Some(owner) if owner.kind == "ReplicaSet" => {
                let key = (namespace.clone(), owner.name.clone());
                let without_hash = owner.name.rsplit_once('-').map(|(name, _)| name.to_owned());
                let name = self.replica_sets.get(&key).cloned().or(without_hash);
                ("Deployment".to_owned(), name.unwrap_or_else(|| owner.name.clone()))
            }
            Some(owner) => (owner.kind.clone(), owner.name.clone()),
            None => ("Pod".to_owned(), own),
        };
        WorkloadRef { namespace, kind, name }
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

fn workload<'a>(facts: &'a mut NamespaceFacts, id: &WorkloadRef) -> &'a mut Workload {
    facts.workloads.entry(id.clone()).or_insert_with(|| Workload {
        id: id.clone(),
        desired: None,
        template: None,
        pods: vec![],
    })
}

fn facts(name: &str, meta: &ObjectMeta) -> NamespaceFacts {
    NamespaceFacts {
        name: Namespace::new(name),
        uid: Uid::new(meta.uid.clone().unwrap_or_default()),
        labels: translate::labels(meta),
        terminating: meta.deletion_timestamp.is_some(),
        workloads: BTreeMap::new(),
        services: vec![],
        workload_entries: vec![],
    }
}

fn nothing_measured(at: jiff::Timestamp) -> Telemetry {
    fn unknown<T>() -> Reading<T> {
        Reading::Unknown(Cause::NotRead("a metrics source".into()))
    }
    Telemetry {
        at,
        lookback: jiff::SignedDuration::from_hours(24),
        scrape_interval: jiff::SignedDuration::from_secs(15),
        skew: unknown(),
        callers: unknown(),
        mutual: unknown(),
        presence: unknown(),
        certificates: unknown(),
        control_plane: unknown(),
        refusals: unknown(),
        edges: unknown(),
    }
}

fn parse<T: DeserializeOwned>(object: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(object)
}
