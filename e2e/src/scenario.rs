//! What a test puts into the cluster, in the words of a person who runs a mesh.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::{Client, Cluster, Doing, Edge, EdgeId, Error, Server, until};

/// Whether a namespace's new pods get a sidecar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Injection {
    /// Labelled `istio-injection=enabled`.
    Enabled,
    /// Without that label.
    Absent,
}

/// A Deployment with its Service and ServiceAccount, all of one name.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it lives.
    pub namespace: String,
    /// The name of all three.
    pub name: String,
    /// How many pods.
    pub replicas: u32,
    /// The Service's ports, each with a name such as `http`.
    pub ports: Vec<(String, u16)>,
    /// Further labels of the pods.
    pub labels: Vec<(String, String)>,
    /// Annotations of the pods.
    pub annotations: Vec<(String, String)>,
}

impl Workload {
    /// One pod that serves HTTP on port 8080.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            replicas: 1,
            ports: vec![("http".to_owned(), 8080)],
            labels: vec![],
            annotations: vec![],
        }
    }

    /// With this many pods.
    #[must_use]
    pub fn replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// With a further label on its pods.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With an annotation on its pods.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With one more port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), number));
        self
    }

    /// Whose pods ask for no sidecar.
    #[must_use]
    pub fn without_sidecar(self) -> Self {
        self.label("sidecar.istio.io/inject", "false")
    }

    fn objects(&self) -> Vec<Value> {
        let Self { namespace, name, replicas, .. } = self;
        let metadata = json!({"namespace": namespace, "name": name});
        let mut labels = json!({"app": name});
        for (name, value) in &self.labels {
            labels[name] = json!(value);
        }
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let container_ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, port)| json!({"name": name, "containerPort": port}))
            .collect();
        let service_ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port, "targetPort": port}))
            .collect();
        vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"selector": {"app": name}, "ports": service_ports}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": {
                        "serviceAccountName": name,
                        "containers": [{"name": "app", "image": "example.com/app",
                            "ports": container_ports}],
                    },
                },
            }}),
        ]
    }
}

const LIMIT: Duration = Duration::from_secs(150);

impl Cluster {
    /// Makes a namespace, with labels such as `("tier", "core")`.
    pub async fn namespace(
        &self,
        name: &str,
        injection: Injection,
        labels: &[(&str, &str)],
    ) -> Result<(), Error> {
        let mut all = json!({});
        if injection == Injection::Enabled {
            all["istio-injection"] = json!("enabled");
        }
        for (label, value) in labels {
            all[*label] = json!(value);
        }
        let metadata = json!({"name": name, "labels": all});
        self.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]).await
    }

    /// Makes the meshed caller `front/web` of [`Self::called`].
    pub async fn front(&self) -> Result<(), Error> {
        self.namespace("front", Injection::Enabled, &[]).await?;
        self.deploy(&Workload::new("front", "web")).await
    }

    /// Makes meshed namespaces of one workload `app` each, which `front/web` calls over mutual TLS.
    pub async fn called(&self, namespaces: &[&str]) -> Result<Vec<EdgeId>, Error> {
        let one = async |name: &&str| {
            self.namespace(name, Injection::Enabled, &[]).await?;
            self.deploy(&Workload::new(name, "app")).await?;
            let edge = Edge::new(Client::workload("front", "web"), Server::workload(name, "app"));
            Ok(self.exporter().edge(edge.rps(40.0)))
        };
        try_join_all(namespaces.iter().map(one)).await
    }

    /// Makes or changes a workload, and waits until all its pods are the wanted ones and ready.
    pub async fn deploy(&self, workload: &Workload) -> Result<(), Error> {
        self.apply(&workload.objects()).await?;
        self.rolled_out(&workload.namespace, &workload.name).await
    }

    /// Waits until a Deployment's pods are all of its newest template, ready, and no others left.
    pub async fn rolled_out(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let deployments = Api::<Deployment>::namespaced(self.client(), namespace);
        until(&format!("{namespace}/{name} to be rolled out"), LIMIT, async || {
            let found = deployments.get(name).await.map_err(|error| error.to_string())?;
            let wanted = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let generation = found.metadata.generation;
            let status = found.status.unwrap_or_default();
            let counts = [
                status.replicas,
                status.updated_replicas,
                status.ready_replicas,
                status.available_replicas,
            ]
            .map(|count| count.unwrap_or(0));
            if status.observed_generation != generation || counts != [wanted; 4] {
                return Err(format!(
                    "{counts:?} of {wanted} pods are there, new, ready, available"
                ));
            }
            // The Deployment counts no pods that are on their way out; traffic and gates may.
            let pods = self.pods(namespace, name).await.map_err(|error| error.to_string())?;
            match i32::try_from(pods.len()) == Ok(wanted) {
                true => Ok(()),
                false => Err(format!("{} pods instead of {wanted}", pods.len())),
            }
        })
        .await
    }

    /// The pods labelled `app=NAME`.
    pub async fn pods(&self, namespace: &str, name: &str) -> Result<Vec<Pod>, Error> {
        let pods = Api::<Pod>::namespaced(self.client(), namespace);
        let list = pods.list(&ListParams::default().labels(&format!("app={name}"))).await;
        Ok(list.doing(format!("listing the pods of {namespace}/{name}"))?.items)
    }

    /// Replaces all pods of a Deployment and waits for the new ones.
    pub async fn rollout_restart(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let deployments = Api::<Deployment>::namespaced(self.client(), namespace);
        deployments.restart(name).await.doing(format!("restarting {namespace}/{name}"))?;
        self.rolled_out(namespace, name).await
    }

    /// Sets how many pods a Deployment has and waits for them.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: u32) -> Result<(), Error> {
        let deployments = Api::<Deployment>::namespaced(self.client(), namespace);
        let patch = json!({"spec": {"replicas": replicas}});
        deployments
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .doing(format!("scaling {namespace}/{name}"))?;
        self.rolled_out(namespace, name).await
    }

    /// Changes the labels of a Deployment's pods, where `None` takes one away, and waits.
    pub async fn label_pods(
        &self,
        namespace: &str,
        name: &str,
        label: &str,
        value: Option<&str>,
    ) -> Result<(), Error> {
        let deployments = Api::<Deployment>::namespaced(self.client(), namespace);
        let patch = json!({"spec": {"template": {"metadata": {"labels": {label: value}}}}});
        deployments
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .doing(format!("labelling the pods of {namespace}/{name}"))?;
        self.rolled_out(namespace, name).await
    }

    /// Sets a label of a namespace, or takes it away.
    pub async fn label_namespace(
        &self,
        name: &str,
        label: &str,
        value: Option<&str>,
    ) -> Result<(), Error> {
        let patch = json!({"metadata": {"labels": {label: value}}});
        Api::<Namespace>::all(self.client())
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
            .doing(format!("labelling the namespace {name}"))
    }

    /// Makes a CronJob that a test starts by [`Cluster::run_job_of`]; its own schedule never comes.
    pub async fn cron_job(&self, namespace: &str, name: &str) -> Result<(), Error> {
        self.apply(&[json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"namespace": namespace, "name": name},
            // The 31st of February.
            "spec": {"schedule": "0 0 31 2 *", "jobTemplate": {"spec": {"template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"restartPolicy": "Never",
                    "containers": [{"name": "app", "image": "example.com/app"}]},
            }}}},
        })])
        .await
    }

    /// Runs a CronJob once now, as its schedule would.
    pub async fn run_job_of(&self, namespace: &str, name: &str) -> Result<String, Error> {
        let running = || format!("running the CronJob {namespace}/{name}");
        let cron_jobs = Api::<CronJob>::namespaced(self.client(), namespace);
        let cron_job = cron_jobs.get(name).await.doing(running())?;
        let spec = serde_json::to_value(&cron_job.spec).doing(running())?;
        let minutes = jiff::Timestamp::now().as_second() / 60;
        let job_name = format!("{name}-{minutes}");
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"namespace": namespace, "name": job_name, "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "CronJob", "name": name, "controller": true,
                "uid": cron_job.uid(),
            }]},
            "spec": spec["jobTemplate"]["spec"],
        });
        let job = serde_json::from_value(job).doing(running())?;
        let jobs = Api::<k8s_openapi::api::batch::v1::Job>::namespaced(self.client(), namespace);
        jobs.create(&PostParams::default(), &job).await.doing(running())?;
        Ok(job_name)
    }

    /// Makes a namespace-wide PeerAuthentication of this mode.
    pub async fn peer_authentication(
        &self,
        namespace: &str,
        name: &str,
        mode: &str,
    ) -> Result<(), Error> {
        self.apply(&[json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"mtls": {"mode": mode}},
        })])
        .await
    }

    /// Makes an admission policy that refuses PeerAuthentications of this mode in one namespace, in
    /// these words, and waits until it does.
    pub async fn forbid(&self, namespace: &str, mode: &str, words: &str) -> Result<(), Error> {
        let api = "admissionregistration.k8s.io/v1";
        let name = admission_policy(namespace, mode);
        let policy = json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["security.istio.io"], "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"], "resources": ["peerauthentications"],
                }]},
                "validations": [{
                    "expression": format!("object.spec.mtls.mode != '{mode}'"), "message": words,
                }],
            },
        });
        let binding = json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": namespace},
                }}},
        });
        self.apply(&[policy, binding]).await?;
        until(&format!("{mode} to be refused in {namespace}"), LIMIT, async || {
            match self.admits(namespace, mode).await {
                Err(why) if why.contains(words) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Takes the policy of [`Self::forbid`] away, and waits until the mode is accepted.
    pub async fn allow(&self, namespace: &str, mode: &str) -> Result<(), Error> {
        let name = admission_policy(namespace, mode);
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            self.delete(kind, "default", &name).await?;
        }
        until(&format!("{mode} to be accepted in {namespace}"), LIMIT, async || {
            self.admits(namespace, mode).await
        })
        .await
    }

    /// Whether a PeerAuthentication of this mode would be stored, and else why not.
    async fn admits(&self, namespace: &str, mode: &str) -> Result<(), String> {
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "tried"}, "spec": {"mtls": {"mode": mode}},
        });
        let policy = serde_json::from_value(policy).map_err(|error| error.to_string())?;
        let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
        let policies: Api<DynamicObject> =
            Api::namespaced_with(self.client(), namespace, &ApiResource::from_gvk(&kind));
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let tried = policies.create(&dry_run, &policy).await;
        tried.map(drop).map_err(|error| error.to_string())
    }

    /// Makes a DestinationRule that sets client TLS of this mode for a host.
    pub async fn destination_rule(
        &self,
        namespace: &str,
        name: &str,
        host: &str,
        tls_mode: &str,
    ) -> Result<(), Error> {
        self.apply(&[json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"host": host, "trafficPolicy": {"tls": {"mode": tls_mode}}},
        })])
        .await
    }

    /// Deletes one object, by kubectl's words: `delete("destinationrule", "orders", "plain")`.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Error> {
        let output = self.kubectl(&["delete", kind, name, "-n", namespace]).await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::new(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }
}

fn admission_policy(namespace: &str, mode: &str) -> String {
    format!("no-{}-{namespace}", mode.to_lowercase())
}
