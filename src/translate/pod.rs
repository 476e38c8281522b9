//! Pods: how each takes part in the mesh, how it is doing, and who owns it.

use super::domain::{self, Said};
use super::inbound::{self, inbound};
use super::ours::is_plausible;
use super::process::{Process, process};
use super::{labels, namespace};
use crate::kubernetes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use meshrollout_core::ident::{Port, WorkloadRef};
use meshrollout_core::injection::{Template, in_place_of_a_sidecar};
use meshrollout_core::workload::{Identity, Phase, Pod, Proxy, Start};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that names the workload in place of its owner's name.
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";

/// A pod with its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedPod {
    /// The workload it belongs to.
    pub owner: Arc<WorkloadRef>,
    /// The pod.
    pub pod: Pod,
    /// Its containers' named ports: what a Service's named target port may mean.
    pub ports: Arc<BTreeMap<String, Port>>,
    /// What tells of itself in it.
    pub process: Option<Process>,
    /// Which domain it was started with.
    pub domain: Option<Said>,
}

impl OwnedPod {
    /// Holds in common with `other` what is the same in both: of the pods of one ReplicaSet, that
    /// is nearly everything.
    pub fn share(&mut self, other: &Self) {
        fn share<T: PartialEq>(own: &mut Arc<T>, other: &Arc<T>) {
            if own == other {
                *own = other.clone();
            }
        }
        share(&mut self.owner, &other.owner);
        share(&mut self.pod.labels, &other.pod.labels);
        share(&mut self.ports, &other.ports);
        share(&mut self.pod.inbound, &other.pod.inbound);
        share(&mut self.pod.start, &other.pod.start);
        share(&mut self.pod.identity, &other.pod.identity);
        if self.domain == other.domain {
            self.domain.clone_from(&other.domain);
        }
    }
}

/// A pod with its owner.
pub fn owned_pod(object: &kubernetes::Pod) -> OwnedPod {
    OwnedPod {
        owner: Arc::new(owner(&object.metadata)),
        pod: pod(object),
        ports: Arc::new(named_ports(object.spec.standing_containers())),
        process: process(object),
        domain: domain::said(&object.spec),
    }
}

/// A pod as facts (`istio-semantics.md` C3, D1).
pub fn pod(object: &kubernetes::Pod) -> Pod {
    let meta = &object.metadata;
    let status = &object.status;
    let ready = status.conditions.iter().flatten().find(|one| one.type_ == "Ready");
    Pod {
        name: meta.name.clone().unwrap_or_default(),
        labels: Arc::new(labels(meta)),
        proxy: proxy(object),
        phase: match status.phase.as_deref() {
            _ if meta.deletion_timestamp.is_some() => Phase::Terminating,
            Some("Succeeded" | "Failed") => Phase::Completed,
            Some("Pending") => Phase::Pending,
            // A pod from a file has no status: it stands for one that runs.
            _ => Phase::Running,
        },
        ready_since: ready
            .filter(|one| one.status == "True")
            .and_then(|one| one.last_transition_time.as_ref())
            // One that cannot be spares nobody from reporting.
            .map(|time| if is_plausible(time.0) { time.0 } else { Timestamp::UNIX_EPOCH }),
        host_network: object.spec.host_network == Some(true),
        // A native sidecar is an init container.
        restarts: [&status.container_statuses, &status.init_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .map(|one| u32::try_from(one.restart_count).unwrap_or(0))
            .sum(),
        inbound: Arc::new(inbound(meta, &object.spec, inbound::Of::Pod)),
        start: Arc::new(start(&object.spec)),
        identity: Arc::new(identity(&object.spec)),
    }
}

/// As whom it speaks. The injector writes the trust domain of its day into the proxy; a pod's own
/// account is `default` where it names none.
fn identity(spec: &kubernetes::PodSpec) -> Identity {
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    let mut proxies = spec.standing_containers().filter(|one| one.name == "istio-proxy");
    let trust_domain = proxies.next().and_then(|proxy| proxy.value("TRUST_DOMAIN"));
    Identity {
        account: account.unwrap_or("default").to_owned(),
        trust_domain: trust_domain.filter(|domain| !domain.is_empty()).map(str::to_owned),
    }
}

/// Who is up before the sidecar (`istio-semantics.md` C5): a native one comes after the init
/// containers that stand before it, any other after all of them and together with the application,
/// unless it was told to hold that back, which it does in its own first moment.
fn start(spec: &kubernetes::PodSpec) -> Start {
    let is_proxy = |one: &&kubernetes::Container| one.name == "istio-proxy";
    let init = || spec.init_containers.iter().flatten();
    let others =
        |one: &&kubernetes::Container| one.name != "istio-init" && one.name != "istio-validation";
    let names = |one: &kubernetes::Container| one.name.clone();
    if init().any(|one| is_proxy(&one)) {
        let early = init().take_while(|one| !is_proxy(one)).filter(others).map(names).collect();
        return Start { early, together: false };
    }
    let Some(proxy) = spec.containers.iter().flatten().find(is_proxy) else {
        return Start::default();
    };
    let holds = proxy.lifecycle.as_ref().is_some_and(|one| one.post_start.is_some());
    Start { early: init().filter(others).map(names).collect(), together: !holds }
}

fn proxy(object: &kubernetes::Pod) -> Proxy {
    let annotation = |name: &str| object.metadata.annotations.as_ref()?.get(name);
    let mut containers = object.spec.standing_containers();
    let Some(container) = containers.find(|one| one.name == "istio-proxy") else {
        let redirected = annotation("ambient.istio.io/redirection").map(String::as_str);
        return if redirected == Some("enabled") { Proxy::Ambient } else { Proxy::None };
    };
    let templates = annotation("inject.istio.io/templates");
    if let Some(other) = templates.and_then(|names| in_place_of_a_sidecar(names)) {
        return other;
    }
    if container.args.iter().flatten().any(|arg| arg == "router" || arg == "waypoint") {
        return Proxy::Gateway;
    }
    Proxy::Sidecar {
        revision: annotation("istio.io/rev").cloned(),
        announces_tls: labels(&object.metadata).value("security.istio.io/tlsMode") == Some("istio"),
    }
}

/// The controllers of Kubernetes itself.
const LIKE_PODS: [&str; 5] =
    ["ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"];

/// The workload a pod belongs to, by the very rule that names it in metrics
/// (`pkg/kube/util.go:GetWorkloadMetaFromPod`): from the pod's labels and its controller's name,
/// so that neither ReplicaSets nor Jobs have to be read.
pub fn owner(meta: &ObjectMeta) -> WorkloadRef {
    let label = |name: &str| meta.labels.as_ref()?.get(name).map(String::as_str);
    let own = meta.name.as_deref().unwrap_or_default();
    // A controller that gives each pod a name of its own stands for no set of like pods. Those of
    // Kubernetes itself never do; a file may leave out how it came to its name.
    let is_generated = meta.generate_name.as_deref().is_some_and(|name| !name.is_empty());
    let makes_like_pods =
        |owner: &OwnerReference| is_generated || LIKE_PODS.contains(&owner.kind.as_str());
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true) && makes_like_pods(owner));
    let (kind, name) = match controller {
        None => ("Pod", own),
        Some(owner) => match owner.kind.as_str() {
            "ReplicaSet" => {
                let without = |hash: &str| {
                    let hash = label(hash).filter(|hash| !hash.is_empty())?;
                    owner.name.strip_suffix(hash)?.strip_suffix('-')
                };
                without("pod-template-hash")
                    .map(|name| ("Deployment", name))
                    .or_else(|| Some(("Rollout", without("rollouts-pod-template-hash")?)))
                    .unwrap_or(("ReplicaSet", &owner.name))
            }
            "ReplicationController" => match label("deploymentconfig") {
                Some(name) if !name.is_empty() => ("DeploymentConfig", name),
                _ => ("ReplicationController", owner.name.as_str()),
            },
            "Job" => match scheduled(&owner.name) {
                Some(name) => ("CronJob", name),
                None => ("Job", owner.name.as_str()),
            },
            kind => (kind, owner.name.as_str()),
        },
    };
    WorkloadRef::new(namespace(meta), kind, label(WORKLOAD_NAME).unwrap_or(name))
}

/// The CronJob's name in that of its Job: `NAME-` and eight to ten digits, the time in minutes.
fn scheduled(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_time =
        (8..=10).contains(&minutes.len()) && minutes.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

/// Of two ports of one name Kubernetes takes the first (`pkg/api/v1/pod/util.go:FindPort`).
pub(super) fn named_ports<'a>(
    containers: impl Iterator<Item = &'a kubernetes::Container>,
) -> BTreeMap<String, Port> {
    let mut named = BTreeMap::new();
    for port in containers.flat_map(kubernetes::Container::tcp_ports) {
        if let (Some(name), Ok(number)) = (&port.name, u16::try_from(port.container_port)) {
            named.entry(name.clone()).or_insert(Port(number));
        }
    }
    named
}

/// A workload known by what its pods are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// Its name, as its pods' metrics have it.
    pub id: WorkloadRef,
    /// How many pods it wants.
    pub desired: Option<u32>,
    /// What injection looks at in them.
    pub template: Template,
    /// The named ports of their containers.
    pub ports: BTreeMap<String, Port>,
}

/// A Deployment as the owner of its pods.
pub fn deployment(object: &kubernetes::Deployment) -> Owner {
    let desired = object.spec.replicas.unwrap_or(1);
    of_template("Deployment", &object.metadata, &object.spec.template, Some(desired))
}

/// A StatefulSet as the owner of its pods.
pub fn stateful_set(object: &kubernetes::StatefulSet) -> Owner {
    let desired = object.spec.replicas.unwrap_or(1);
    of_template("StatefulSet", &object.metadata, &object.spec.template, Some(desired))
}

/// A DaemonSet as the owner of its pods; how many it wants is up to the nodes.
pub fn daemon_set(object: &kubernetes::DaemonSet) -> Owner {
    let desired = object.status.desired_number_scheduled;
    of_template("DaemonSet", &object.metadata, &object.spec.template, desired)
}

/// A Job as the owner of its pods, unless it is over or a CronJob's.
pub fn job(object: &kubernetes::Job) -> Option<Owner> {
    let ended = |one: &kubernetes::PodCondition| {
        one.status == "True" && (one.type_ == "Complete" || one.type_ == "Failed")
    };
    let is_over = object.status.conditions.iter().flatten().any(ended);
    let is_owned = object.metadata.owner_references.iter().flatten().next().is_some();
    (!is_over && !is_owned)
        .then(|| of_template("Job", &object.metadata, &object.spec.template, None))
}

fn of_template(
    kind: &str,
    meta: &ObjectMeta,
    template: &kubernetes::PodTemplate,
    desired: Option<i32>,
) -> Owner {
    let ports = named_ports(template.spec.standing_containers());
    let template = self::template(template);
    let name = template.labels.value(WORKLOAD_NAME).or(meta.name.as_deref()).unwrap_or_default();
    Owner {
        id: WorkloadRef::new(namespace(meta), kind, name),
        desired: desired.and_then(|desired| u32::try_from(desired).ok()),
        template,
        ports,
    }
}

/// What injection looks at in a pod template.
pub fn template(object: &kubernetes::PodTemplate) -> Template {
    let meta = &object.metadata;
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name).cloned();
    Template {
        inject_annotation: annotation("sidecar.istio.io/inject"),
        templates: annotation("inject.istio.io/templates"),
        labels: labels(meta),
        host_network: object.spec.host_network == Some(true),
        inbound: Arc::new(inbound(meta, &object.spec, inbound::Of::Template)),
        identity: Arc::new(identity(&object.spec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(object: Value) -> kubernetes::Pod {
        serde_json::from_value(object).unwrap()
    }

    fn owned_by(kind: &str, name: &str, labels: Value) -> WorkloadRef {
        owner(
            &read(json!({"metadata": {
                "namespace": "shop", "name": "web-1-x", "generateName": "web-1-", "labels": labels,
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Other", "name": "other", "uid": "1"},
                    {"apiVersion": "v1", "kind": kind, "name": name, "uid": "2", "controller": true},
                ],
            }}))
            .metadata,
        )
    }

    #[test]
    fn a_time_that_cannot_be_spares_no_pod_from_reporting() {
        let since = |time: &str| {
            let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
            pod(&read(json!({"spec": {}, "status": {"conditions": ready}}))).ready_since
        };
        let now = "2026-11-28T12:00:00Z";
        assert_eq!(since(now), Some(now.parse().unwrap()));
        assert_eq!(since("9999-12-30T22:00:00Z"), Some(Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn a_sidecar_comes_after_whoever_stands_before_it() {
        let start = |init: &[&str], native: bool, hold: bool| {
            let one = |name: &&str| json!({"name": name});
            let mut proxy = json!({"name": "istio-proxy"});
            if hold {
                proxy["lifecycle"] = json!({"postStart": {"exec": {"command": ["wait"]}}});
            }
            let mut init: Vec<_> = init.iter().map(one).collect();
            let mut containers = vec![json!({"name": "app"})];
            match native {
                true => init.insert(1, proxy),
                false => containers.push(proxy),
            }
            start(&read(json!({"spec": {"initContainers": init, "containers": containers}})).spec)
        };
        let early = |names: &[&str], together: bool| Start {
            early: names.iter().map(ToString::to_string).collect(),
            together,
        };
        assert_eq!(start(&["istio-init", "migrate"], true, false), early(&[], false));
        assert_eq!(start(&["migrate", "istio-init"], true, false), early(&["migrate"], false));
        assert_eq!(start(&["istio-init", "migrate"], false, false), early(&["migrate"], true));
        assert_eq!(start(&["istio-validation"], false, true), early(&[], false));
        let bare = read(json!({"spec": {"initContainers": [{"name": "migrate"}]}}));
        assert_eq!(super::start(&bare.spec), Start::default());
    }

    /// The cases of `pkg/kube/util_test.go:TestDeploymentMeta` and of the label.
    #[test]
    fn workloads_are_named_as_istio_names_them_in_metrics() {
        let hash = json!({"pod-template-hash": "6b5f"});
        for (kind, name, labels, expected_kind, expected_name) in [
            ("ReplicaSet", "web-6b5f", hash.clone(), "Deployment", "web"),
            ("ReplicaSet", "web-6b5f", json!({}), "ReplicaSet", "web-6b5f"),
            ("ReplicaSet", "web-99", json!({"rollouts-pod-template-hash": "99"}), "Rollout", "web"),
            (
                "ReplicationController",
                "web-3",
                json!({"deploymentconfig": "web"}),
                "DeploymentConfig",
                "web",
            ),
            ("Job", "report-28500000", json!({}), "CronJob", "report"),
            ("Job", "report-2850", json!({}), "Job", "report-2850"),
            ("StatefulSet", "db", json!({}), "StatefulSet", "db"),
            (
                "ReplicaSet",
                "web-6b5f",
                json!({"pod-template-hash": "6b5f", WORKLOAD_NAME: "shop"}),
                "Deployment",
                "shop",
            ),
        ] {
            let expected = WorkloadRef::new("shop", expected_kind, expected_name);
            assert_eq!(owned_by(kind, name, labels), expected, "{kind} {name}");
        }
    }

    #[test]
    fn a_pod_of_a_given_name_is_its_own_workload() {
        let owners = json!([{"apiVersion": "v1", "kind": "Cluster", "name": "db", "uid": "1",
            "controller": true}]);
        for meta in [
            json!({"namespace": "shop", "name": "db-1", "ownerReferences": owners}),
            json!({"namespace": "shop", "name": "db-1", "generateName": "db-"}),
        ] {
            let pod = read(json!({"metadata": meta}));
            assert_eq!(owner(&pod.metadata), WorkloadRef::new("shop", "Pod", "db-1"));
        }
    }

    #[test]
    fn a_sidecar_is_found_in_both_places_and_an_init_container_is_none() {
        let proxy_of = |spec: Value| {
            let labels = json!({"security.istio.io/tlsMode": "istio"});
            let annotations = json!({"istio.io/rev": "default"});
            proxy(&read(json!({
                "metadata": {"labels": labels, "annotations": annotations}, "spec": spec,
            })))
        };
        let sidecar = Proxy::Sidecar { revision: Some("default".into()), announces_tls: true };
        let named = |policy: Value| json!([{"name": "istio-proxy", "restartPolicy": policy}]);
        assert_eq!(proxy_of(json!({"containers": named(json!(null))})), sidecar);
        assert_eq!(proxy_of(json!({"initContainers": named(json!("Always"))})), sidecar);
        assert_eq!(proxy_of(json!({"initContainers": named(json!(null))})), Proxy::None);
        let router = json!([{"name": "istio-proxy", "args": ["proxy", "router"]}]);
        assert_eq!(proxy_of(json!({"containers": router})), Proxy::Gateway);
    }

    #[test]
    fn a_name_stands_for_the_first_port_of_it_that_a_sidecar_can_take() {
        let spec: kubernetes::PodSpec = serde_json::from_value(json!({
            "containers": [
                {"name": "a", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                {"name": "b", "ports": [{"name": "dns", "containerPort": 5353, "protocol": "TCP"},
                    {"name": "http", "containerPort": 80}]},
                {"name": "c", "ports": [{"name": "http", "containerPort": 81}]},
            ],
            "initContainers": [
                {"name": "d", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "e", "restartPolicy": "Always",
                    "ports": [{"name": "http", "containerPort": 82}, {"name": "side", "containerPort": 2}]},
            ],
        }))
        .unwrap();
        let named = named_ports(spec.standing_containers());
        let expected = [("dns", 5353), ("http", 80), ("side", 2)];
        assert_eq!(named, expected.map(|(name, port)| (name.to_owned(), Port(port))).into());
    }

    #[test]
    fn restarts_of_a_native_sidecar_count() {
        let status = json!({"containerStatuses": [{"restartCount": 1}],
            "initContainerStatuses": [{"restartCount": 2}]});
        assert_eq!(pod(&read(json!({"status": status}))).restarts, 3);
    }

    #[test]
    fn pods_of_one_workload_hold_in_common_what_is_the_same() {
        let owned = |name: &str, version: &str| {
            owned_pod(&read(json!({"metadata": {"namespace": "shop", "name": name,
                "generateName": "web-", "labels": {"version": version},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web",
                    "uid": "1", "controller": true}]}})))
        };
        let (first, mut second, mut other) =
            (owned("web-a", "1"), owned("web-b", "1"), owned("web-c", "2"));
        let before = second.clone();
        second.share(&first);
        assert!(Arc::ptr_eq(&first.pod.labels, &second.pod.labels));
        assert!(Arc::ptr_eq(&first.owner, &second.owner));
        assert_eq!(second, before);
        other.share(&first);
        assert_eq!(other, owned("web-c", "2"));
    }
}
