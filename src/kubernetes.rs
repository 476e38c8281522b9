//! The Kubernetes kinds we read: only the fields that a snapshot stands on.
//!
//! A full Pod is some ten kilobytes in memory and a cluster has many thousands of them. What is
//! not named here is skipped while the answer is parsed and never becomes a value, the managed
//! fields first of all. Lists may be null, as Go writes them; so they are options.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// Defines a kind with the fields we read of it.
macro_rules! kind {
    ($(#[$doc:meta])* $kind:ident, $scope:ident, $group:literal, $plural:literal, { $($fields:tt)* }) => {
        kind! { $(#[$doc])* $kind, $scope, $group, $plural, "meta", { $($fields)* } }
    };
    ($(#[$doc:meta])* $kind:ident, $scope:ident, $group:literal, $plural:literal, $meta:literal,
        { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, PartialEq)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $kind {
            /// Name, namespace, versions, labels, annotations, owners.
            #[serde(deserialize_with = $meta)]
            pub metadata: ObjectMeta,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = kube::core::$scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                "v1".into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

mod batch;
mod entrance;
mod gateway;
mod monitor;

pub use batch::*;
pub use entrance::*;
pub use gateway::*;
pub use monitor::*;

kind! {
    /// A namespace: its labels and whether it is on its way out.
    Namespace, ClusterResourceScope, "", "namespaces", {}
}

kind! {
    /// A pod: who owns it, whether it has a proxy, how it is doing.
    Pod, NamespaceResourceScope, "", "pods", {
        /// What runs in it.
        spec: PodSpec,
        /// How it is doing.
        status: PodStatus,
    }
}

kind! {
    /// A Service: which pods, by which ports.
    Service, NamespaceResourceScope, "", "services", {
        /// What it says.
        spec: ServiceSpec,
    }
}

kind! {
    /// A ConfigMap, of which `mesh`, `meshNetworks` and `root-cert.pem` are read.
    ConfigMap, NamespaceResourceScope, "", "configmaps", {
        /// Its entries.
        data: Option<MeshData>,
    }
}

kind! {
    /// A Deployment: what its pods are made from, and how many.
    Deployment, NamespaceResourceScope, "apps", "deployments", {
        /// What it says.
        spec: WorkloadSpec,
    }
}

kind! {
    /// A StatefulSet: what its pods are made from, and how many.
    StatefulSet, NamespaceResourceScope, "apps", "statefulsets", {
        /// What it says.
        spec: WorkloadSpec,
    }
}

kind! {
    /// A DaemonSet: what its pods are made from; how many is in its status.
    DaemonSet, NamespaceResourceScope, "apps", "daemonsets", {
        /// What it says.
        spec: WorkloadSpec,
        /// How many there should be.
        status: DaemonSetStatus,
    }
}

/// What runs in a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The containers.
    pub containers: Option<Vec<Container>>,
    /// Those that start before; a native sidecar is one that is restarted always.
    pub init_containers: Option<Vec<Container>>,
    /// Uses its node's network.
    pub host_network: Option<bool>,
    /// As whom it runs.
    pub service_account_name: Option<String>,
}

/// One container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What its program is called with: tells a gateway from a sidecar.
    pub args: Option<Vec<String>>,
    /// Its environment.
    pub env: Option<Vec<Variable>>,
    /// Of an init container.
    pub restart_policy: Option<String>,
    /// What a named target port may mean.
    pub ports: Option<Vec<ContainerPort>>,
    /// Does it have to be started again?
    pub liveness_probe: Option<Handler>,
    /// May it be called?
    pub readiness_probe: Option<Handler>,
    /// Has it started?
    pub startup_probe: Option<Handler>,
    /// What is done around its life.
    pub lifecycle: Option<Lifecycle>,
}

/// A variable of a container's environment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, where it stands there and is not somebody else's.
    pub value: Option<String>,
}

/// What the kubelet calls for a probe or a hook; what it runs inside is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    /// A request.
    pub http_get: Option<Endpoint>,
    /// A connection.
    pub tcp_socket: Option<Endpoint>,
    /// A health check of gRPC.
    pub grpc: Option<Endpoint>,
}

/// What the kubelet does around a container's life.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// After it has started.
    pub post_start: Option<Handler>,
    /// Before it is ended.
    pub pre_stop: Option<Handler>,
}

/// Where the kubelet calls.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Endpoint {
    /// Somewhere else than the pod, where it is set.
    pub host: Option<String>,
    /// The container's port, by number or name.
    pub port: Option<IntOrString>,
}

/// One port of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub container_port: i32,
    /// The node's port that leads to it.
    pub host_port: Option<i32>,
    /// TCP where it is not said.
    pub protocol: Option<String>,
}

/// How a pod is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed.
    pub phase: Option<String>,
    /// Ready among them.
    pub conditions: Option<Vec<PodCondition>>,
    /// Where it is reached.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Restarts of the containers.
    pub container_statuses: Option<Vec<ContainerStatus>>,
    /// Restarts of native sidecars and init containers.
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
}

/// One condition of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False, Unknown.
    pub status: String,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

/// How one container is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Which.
    pub name: String,
    /// How often it was started again.
    pub restart_count: i32,
    /// Whether it runs.
    pub state: ContainerState,
}

/// What a container is doing: running, or not.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerState {
    /// It is.
    pub running: Option<Running>,
}

/// A container that runs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since when.
    pub started_at: Option<Time>,
}

/// Which pods, by which ports.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The pods; none: the endpoints come from elsewhere.
    pub selector: Option<BTreeMap<String, String>>,
    /// The ports.
    pub ports: Option<Vec<ServicePort>>,
    /// `None` as a word: headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// ExternalName among others.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Of an ExternalName: the name that it stands for.
    pub external_name: Option<String>,
    /// Addresses outside the cluster that lead to it.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name.
    pub name: Option<String>,
    /// The number clients dial.
    pub port: i32,
    /// The container's port, by number or name; absent: the same number.
    pub target_port: Option<IntOrString>,
    /// TCP where it is not said.
    pub protocol: Option<String>,
    /// What it speaks.
    pub app_protocol: Option<String>,
}

impl PodSpec {
    /// What runs as long as the pod does, in the order in which Kubernetes looks for named ports.
    /// Any other init container is done before there is anybody to call.
    pub fn standing_containers(&self) -> impl Iterator<Item = &Container> {
        let native = self.init_containers.iter().flatten();
        let native = native.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        self.containers.iter().flatten().chain(native)
    }
}

impl Container {
    /// A variable of its environment; of two of one name the last counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut all = self.env.iter().flatten().rev();
        all.find(|variable| variable.name == name)?.value.as_deref()
    }

    /// The ports that a sidecar can take: it captures nothing but TCP.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()))
    }
}

impl ServiceSpec {
    /// The ports that a sidecar can take: it captures nothing but TCP.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()))
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// The entries of a ConfigMap that we read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshData {
    /// Istio's mesh configuration, as YAML.
    pub mesh: Option<String>,
    /// The networks that the mesh spans, as YAML.
    pub mesh_networks: Option<String>,
    /// The certificates that proxies of its namespace trust, as PEM.
    #[serde(rename = "root-cert.pem")]
    pub root_cert: Option<String>,
}

/// What a workload's pods are made from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSpec {
    /// How many; absent is one, save for a DaemonSet.
    pub replicas: Option<i32>,
    /// The pods to be made.
    pub template: PodTemplate,
}

/// A pod to be made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Its labels and annotations.
    #[serde(deserialize_with = "meta")]
    pub metadata: ObjectMeta,
    /// What will run in it.
    pub spec: PodSpec,
}

/// How many pods a DaemonSet should have.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// One for each node that fits.
    pub desired_number_scheduled: Option<i32>,
}

/// The metadata with the managed fields, for kinds of which there are few.
fn whole_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The metadata without the managed fields, which are half of an object and more.
fn meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Meta {
        name: Option<String>,
        generate_name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
    }
    let meta = Option::<Meta>::deserialize(deserializer)?.unwrap_or_default();
    Ok(ObjectMeta {
        name: meta.name,
        generate_name: meta.generate_name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        annotations: meta.annotations,
        owner_references: meta.owner_references,
        creation_timestamp: meta.creation_timestamp,
        deletion_timestamp: meta.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_and_absent_parts_do_not_fail_an_object() {
        for object in [
            json!({}),
            json!({"metadata": null}),
            json!({"metadata": {"labels": null, "ownerReferences": null},
                "spec": {"containers": null, "initContainers": null},
                "status": {"conditions": null, "containerStatuses": null}}),
        ] {
            assert_eq!(serde_json::from_value::<Pod>(object).unwrap(), Pod::default());
        }
        let deployment = json!({"spec": {"template": {"metadata": {"creationTimestamp": null}}}});
        assert_eq!(
            serde_json::from_value::<Deployment>(deployment).unwrap(),
            Deployment::default()
        );
    }

    #[test]
    fn managed_fields_are_not_kept() {
        let pod = json!({"metadata": {"name": "web", "managedFields": [{"manager": "kubelet"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let meta = ObjectMeta { name: Some("web".into()), ..ObjectMeta::default() };
        assert_eq!(pod.metadata, meta);
    }
}
