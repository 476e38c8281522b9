//! A cluster from files: manifests or `kubectl get … -o yaml|json` dumps become a snapshot.

mod object;
mod pieces;

use crate::observe::evidence::not_asked;
use crate::translate::WrittenRule;
use crate::translate::domain::{self, domain};
use crate::translate::entrance::{self, Class, Routed};
use crate::translate::facts::{Header, NamedService, Parts};
use crate::translate::gateway::{self, GatewayName, Route};
use crate::translate::mesh::{MeshConfig, believed, mesh};
use crate::translate::pod::{OwnedPod, Owner};
use meshrollout_core::client_tls::Rules;
use meshrollout_core::effective::Policies;
use meshrollout_core::egress::{Scope, Scopes};
use meshrollout_core::exposure::Entrance;
use meshrollout_core::finding::Subject;
use meshrollout_core::ident::Namespace;
use meshrollout_core::injection::{Injector, chart_injectors};
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::Reading;
use meshrollout_core::scheduled::Scheduled;
use meshrollout_core::scrape::Monitor;
use meshrollout_core::snapshot::{InboundFilter, Mesh, Snapshot, Source, TelemetryOverride};
use meshrollout_core::waiver::Waivers;
use meshrollout_core::workload::Machine;
use object::{Fact, Object, Outcome};
use pieces::{Piece, pieces};
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
    machines: Vec<(Namespace, Machine)>,
    roots: Vec<(Namespace, BTreeSet<String>)>,
    policies: Vec<Policy>,
    rules: Vec<WrittenRule>,
    egress: Vec<Scope>,
    inbound_filters: Vec<InboundFilter>,
    overrides: Vec<TelemetryOverride>,
    injectors: Option<Vec<Injector>>,
    entrances: Vec<Entrance>,
    scheduled: Vec<Arc<Scheduled>>,
    ingresses: Vec<Routed>,
    ingress_classes: Vec<Class>,
    routes: Vec<Route>,
    gateways: Vec<(GatewayName, String)>,
    gateway_classes: Vec<(String, String)>,
    monitors: Vec<Monitor>,
    control_planes: BTreeSet<Namespace>,
    mesh: Vec<MeshConfig>,
    /// Given besides the files, in place of what they hold.
    given_mesh: Option<MeshConfig>,
    given_domain: Option<String>,
    served: Vec<Injector>,
    /// What the authors of rollouts answer for.
    pub waivers: Waivers,
    places: BTreeMap<(String, Option<Namespace>, String), Place>,
    /// Objects of kinds that are not looked at.
    pub skipped: usize,
    /// Sources of templates, which are no objects before they are rendered.
    pub templates: usize,
    /// Documents that could not be read, with file and line.
    pub broken: Vec<String>,
}

/// Where an object stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line where it begins, from one.
    pub line: usize,
}

/// What keeps everything from being read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read at all.
    #[error("failed to read {0}")]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// What was given for the mesh configuration is none.
    #[error("{0} is no mesh configuration: {1}")]
    NoMeshConfig(PathBuf, String),
}

impl Input {
    /// Reads files and folders (all `.yaml`, `.yml` and `.json` below); `-` is standard input.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut input = Self::default();
        for path in paths {
            input.read_path(path)?;
        }
        Ok(input)
    }

    /// This mesh configuration counts, whatever the files hold.
    pub fn take_mesh_config(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |error| Error::Unreadable(path.to_owned(), error);
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let refused = |why: String| Error::NoMeshConfig(path.to_owned(), why);
        let config = MeshConfig::written(&Namespace::new(ROOT), &text).map_err(refused)?;
        self.given_mesh = Some(config);
        Ok(())
    }

    /// The cluster's Services are in this domain, whatever the files hold.
    pub fn take_domain(&mut self, domain: &str) {
        self.given_domain = Some(domain.to_owned());
    }

    /// An injector serves this revision, under this tag; a revision is its own tag.
    pub fn serve(&mut self, tag: &str, revision: &str) {
        let of_it = chart_injectors(tag, tag == "default").into_iter();
        self.served.extend(of_it.map(|one| Injector { revision: revision.to_owned(), ..one }));
    }

    fn read_path(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |error| Error::Unreadable(path.to_owned(), error);
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
            let text = std::fs::read(path).map_err(failed)?;
            match String::from_utf8(text) {
                Ok(text) => self.read_text(&path.display().to_string(), &text),
                Err(error) => {
                    let valid = error.utf8_error().valid_up_to();
                    let before = error.as_bytes().iter().take(valid);
                    let line = 1 + before.filter(|byte| **byte == b'\n').count();
                    self.broken.push(format!("{}:{line}: it is not UTF-8", path.display()));
                }
            }
        }
        Ok(())
    }

    /// One broken document is named by file and line, and does not hide the others.
    pub fn read_text(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let (pieces, broken) = pieces(text);
        self.broken.extend(broken.into_iter().map(|(line, why)| format!("{file}:{line}: {why}")));
        for (line, outcome) in read_all(&pieces) {
            match outcome {
                Outcome::Read(object) => self.take(object, Place { file: file.clone(), line }),
                Outcome::Skipped => self.skipped += 1,
                Outcome::Template => self.templates += 1,
                Outcome::Broken(line, why) => self.broken.push(format!("{file}:{line}: {why}")),
            }
        }
    }

    fn take(&mut self, object: Object, place: Place) {
        let Object { kind, namespace, name, fact } = object;
        let of = || namespace.clone().unwrap_or_else(|| Namespace::new("default"));
        let mut subject = (kind.to_owned(), namespace.clone(), name.clone());
        match fact {
            Fact::Namespace(header) => {
                // What is said of a namespace is said of what is in it.
                let itself = Namespace::new(name);
                subject.1 = Some(itself.clone());
                self.namespaces.insert(itself, header);
            }
            Fact::Pod(mut pod) => {
                // Findings speak of its owner, which need not be in the files.
                let owner = &pod.owner;
                subject = (owner.kind.clone(), Some(owner.namespace.clone()), owner.name.clone());
                if let Some(neighbour) = self.pods.last() {
                    pod.share(neighbour);
                }
                self.pods.push(*pod);
                self.places.entry(subject).or_insert(place);
                return;
            }
            Fact::Owner(owner) => self.owners.push(*owner),
            Fact::Service(service) => self.services.push((of(), *service)),
            Fact::Machine(machine) => self.machines.push((of(), machine)),
            Fact::Roots(roots) => self.roots.push((of(), roots)),
            Fact::Scope(scope) => self.egress.push(*scope),
            Fact::InboundFilter(filter) => self.inbound_filters.push(filter),
            Fact::Policy(policy) => self.policies.push(*policy),
            Fact::Rule(rule) => self.rules.push(*rule),
            Fact::Override(taken) => self.overrides.push(taken),
            Fact::Webhooks { injectors, control_planes, entrances } => {
                if !injectors.is_empty() {
                    self.injectors.get_or_insert_default().extend(injectors);
                }
                self.control_planes.extend(control_planes);
                self.entrances.extend(entrances);
            }
            Fact::Entrances(entrances) => self.entrances.extend(entrances),
            Fact::Scheduled(work) => self.scheduled.push(work),
            Fact::Ingress(ingress) => self.ingresses.push(ingress),
            Fact::IngressClass(class) => self.ingress_classes.push(class),
            Fact::Route(route) => self.routes.push(route),
            Fact::Gateway(gateway) => self.gateways.push(gateway),
            Fact::GatewayClass(class) => self.gateway_classes.push(class),
            Fact::Monitor(monitor) => self.monitors.push(monitor),
            Fact::Mesh(config) => self.mesh.push(*config),
            Fact::Waivers(waivers) => self.waivers.add(waivers),
        }
        self.places.insert(subject, place);
    }

    /// Where the object that a finding is about stands, if it is in the files.
    pub fn place(&self, subject: &Subject) -> Option<&Place> {
        let Subject { kind, namespace, name, port: _ } = subject;
        self.places.get(&(kind.clone(), namespace.clone(), name.clone()))
    }

    /// The snapshot that these files describe. What files cannot tell is Unknown.
    pub fn snapshot(&self, at: jiff::Timestamp) -> Snapshot {
        // A revision that is given for the default one takes its place.
        let mut injectors = self.served.clone();
        injectors
            .extend(self.injectors.clone().unwrap_or_else(|| chart_injectors("default", true)));
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
        for (namespace, machine) in &self.machines {
            parts.entry(namespace.clone()).or_default().machines.push(machine);
        }
        for (namespace, roots) in &self.roots {
            parts.entry(namespace.clone()).or_default().roots = Some(roots);
        }
        let said = self.domain();
        let domain = said.known().map_or(domain::DEFAULT, |domain| domain);
        let facts = |(name, parts): (Namespace, Parts<'_>)| {
            let mut facts = parts.facts(&name, domain);
            facts.expect_pods(&injectors);
            (name, Arc::new(facts))
        };
        let namespaces = parts.into_iter().map(facts).collect();
        let mesh = match said.cause() {
            Some(why) => Reading::Unknown(why.clone()),
            None => self.mesh(),
        };
        let mut further =
            mesh.known().map(|mesh| mesh.roots.clone()).unwrap_or_default().into_iter();
        let root = further.next().unwrap_or_else(|| Namespace::new(ROOT));
        let roots = std::iter::once(root.clone()).chain(further.clone());
        let mut entrances = entrance::by_class(&self.ingresses, &self.ingress_classes);
        entrances.extend(gateway::by_gateway(&self.routes, &self.gateways, &self.gateway_classes));
        entrances.extend(self.entrances.iter().cloned());
        entrances.extend(self.meshes().flat_map(MeshConfig::calls).cloned());
        Snapshot {
            at,
            source: Source::Files,
            mesh,
            namespaces,
            policies: Policies::new(root, self.policies.iter().cloned())
                .with_further_roots(further),
            rules: Rules::new(roots.clone(), self.rules.iter().map(|rule| rule.within(domain))),
            egress: Scopes::new(roots, self.egress.iter().cloned()),
            inbound_filters: self.inbound_filters.clone(),
            injectors: Reading::Known(injectors),
            entrances: Reading::Known(Arc::new(entrances)),
            scheduled: Reading::Known(Arc::new(self.scheduled.clone())),
            monitors: Reading::Known(Arc::new(self.monitors.clone())),
            overrides: self.overrides.clone(),
            telemetry: Arc::new(not_asked(at)),
            stale: vec![],
        }
    }

    fn meshes(&self) -> impl Iterator<Item = &MeshConfig> {
        let read = believed(&self.mesh, &self.control_planes);
        let read = read.filter(|_| self.given_mesh.is_none());
        self.given_mesh.iter().chain(read)
    }

    fn domain(&self) -> Reading<Arc<str>> {
        if let Some(given) = &self.given_domain {
            return Reading::Known(given.as_str().into());
        }
        let said = self.pods.iter().filter_map(|pod| {
            Some((&pod.owner.namespace, pod.pod.name.as_str(), pod.says_of_domain()?))
        });
        domain(said, &self.control_planes)
    }

    /// Files need not show the mesh configuration; then it is Istio's default.
    fn mesh(&self) -> Reading<Mesh> {
        if let Some(given) = &self.given_mesh {
            let mut said = mesh([given], &BTreeSet::new());
            // Which networks there are is said beside it, and no less true.
            let said_there = believed(&self.mesh, &self.control_planes);
            let networks = said_there.flat_map(MeshConfig::networks).cloned();
            if let Reading::Known(mesh) = &mut said {
                mesh.networks = networks.collect();
            }
            return said;
        }
        if !self.mesh.is_empty() {
            return mesh(&self.mesh, &self.control_planes);
        }
        Reading::Known(Mesh {
            roots: vec![Namespace::new(ROOT)],
            auto_mtls: true,
            trust_domain: domain::DEFAULT.into(),
            trust_domains: None,
            sends_to_known_only: false,
            networks: vec![],
        })
    }
}

/// Reads the pieces on all processors; what came of them is in their order.
fn read_all(pieces: &[Piece<'_>]) -> Vec<(usize, Outcome)> {
    /// With fewer a thread takes longer to begin than to read.
    const WORTH_A_THREAD: usize = 64;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = pieces.len().div_ceil(threads).max(WORTH_A_THREAD);
    if share >= pieces.len() {
        return read_share(pieces);
    }
    std::thread::scope(|scope| {
        let shares = pieces.chunks(share);
        let readers: Vec<_> = shares.map(|share| scope.spawn(move || read_share(share))).collect();
        let read = readers.into_iter().flat_map(|reader| match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        read.collect()
    })
}

/// Neighbours are likely to be of the same workload: what pods have in common is held once, before
/// the next one is read.
fn read_share(pieces: &[Piece<'_>]) -> Vec<(usize, Outcome)> {
    let mut read: Vec<(usize, Outcome)> = Vec::with_capacity(pieces.len());
    let mut neighbour = None;
    for (index, piece) in pieces.iter().enumerate() {
        let mut outcome = object::read(piece);
        if let Outcome::Read(Object { fact: Fact::Pod(pod), .. }) = &mut outcome {
            let before = neighbour.and_then(|at: usize| read.get(at));
            if let Some((_, Outcome::Read(Object { fact: Fact::Pod(before), .. }))) = before {
                pod.share(before);
            }
            neighbour = Some(index);
        }
        read.push((piece.line, outcome));
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshrollout_core::client_tls::Wire;
    use meshrollout_core::ident::{Labels, Port};

    fn read(text: &str) -> Input {
        let mut files = Input::default();
        files.read_text("input", text);
        files
    }

    fn deployments(files: &Input) -> Vec<&str> {
        files.owners.iter().map(|owner| owner.id.name.as_str()).collect()
    }

    /// The same two objects, as one may come by them.
    #[test]
    fn nothing_is_lost_however_a_list_is_written() {
        let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "b"}}]}"#;
        let typed = r#"{"apiVersion": "apps/v1", "kind": "DeploymentList",
            "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}"#;
        let flow = "{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: a}}, {metadata: {name: b}}]}";
        let items_in_flow = "apiVersion: apps/v1\nkind: DeploymentList\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]\n";
        let block = "apiVersion: apps/v1\nkind: DeploymentList\nitems:\n-\n  metadata: {name: a}\n- metadata: {name: b}\n";
        for text in [json, typed, flow, items_in_flow, block] {
            for text in [text.to_owned(), format!("# dumped\n---\n{text}")] {
                let files = read(&text);
                assert_eq!(deployments(&files), ["a", "b"], "{text} {:?}", files.broken);
                assert!(files.skipped == 0 && files.broken.is_empty(), "{text}");
            }
        }
        let nested = read(
            "kind: List\napiVersion: v1\nitems:\n- kind: PodList\n  apiVersion: v1\n  items: []\n",
        );
        assert!(nested.broken[0].contains("a list within a list"), "{:?}", nested.broken);
    }

    #[test]
    fn the_rules_of_each_root_namespace_count() {
        let of = |root: &str| {
            format!(
                "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {root}}}\n\
                 data: {{mesh: 'rootNamespace: {root}'}}\n---\n\
                 apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                 metadata: {{name: default, namespace: {root}}}\nspec: {{}}\n"
            )
        };
        let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                    metadata: {name: off, namespace: usergroup-2}\n\
                    spec: {host: '*.local', trafficPolicy: {tls: {mode: DISABLE}}}\n";
        let files = read(&[of("usergroup-1"), of("usergroup-2"), rule.to_owned()].concat());
        let snapshot = files.snapshot(jiff::Timestamp::UNIX_EPOCH);
        let (shop, nobody) = ("shop".into(), Labels::default());
        let host = "orders.shop.svc.cluster.local".into();
        let tls = snapshot.rules.client_tls(&"front".into(), &nobody, &shop, &host, Port(80));
        let wires: Vec<_> = tls.into_iter().map(|tls| tls.wire).collect();
        assert_eq!(wires, [Wire::Auto, Wire::Plaintext], "{:?}", files.broken);
        let in_force = snapshot.egress.in_force(&shop, &nobody);
        assert_eq!(in_force.into_iter().flatten().count(), 2);
    }

    #[test]
    fn a_rule_and_a_sidecar_are_bound_to_the_revision_of_their_label() {
        let of = |kind: &str, spec: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: {kind}\n\
                 metadata: {{name: own, namespace: shop, labels: {{istio.io/rev: canary}}}}\n\
                 spec: {spec}\n"
            )
        };
        let files = read(&[of("DestinationRule", "{host: a}"), of("Sidecar", "{}")].concat());
        let bound = [&files.rules[0].within("x").revision, &files.egress[0].revision];
        assert_eq!(bound.map(Option::as_deref), [Some("canary"); 2]);
    }

    #[test]
    fn a_template_is_told_from_what_is_broken() {
        let head = "apiVersion: apps/v1\nkind: Deployment\n";
        for template in [
            "{{- if .Values.on }}\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n{{- end }}\n".to_owned(),
            format!("{head}metadata:\n  name: {{{{ .Values.name }}}}\n"),
            format!("{head}metadata:\n  name: a\n  {{{{- with .Values.labels }}}}\n  labels: {{{{ . }}}}\n"),
            format!("{head}spec:\n  replicas: {{{{ .Values.replicas }}}}\n"),
        ] {
            let files = read(&template);
            assert_eq!((files.templates, files.broken.len()), (1, 0), "{template} {:?}", files.broken);
        }
        // What an application is to be told is no action of ours.
        let told = "metadata:\n  annotations:\n    text: 'pod {{ .Pod }}'\n";
        let broken = read(&format!("{head}{told}spec:\n  template: {{}}\n  replicas: many\n"));
        assert_eq!((broken.templates, broken.broken.len()), (0, 1));
        assert!(broken.broken[0].starts_with("input:8: "), "{:?}", broken.broken);
        let json = read("{\"kind\": \"Deployment\", \"text\": \"{{ .Pod }}\", ");
        assert_eq!((json.templates, json.broken.len()), (0, 1));
    }
}
