use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::tally::Load;
use crate::{Cluster, Error, kwok, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A Deployment or Job whose pods really run, with its ServiceAccount and, for a server, its
/// Service, all of one name.
#[derive(Clone, Debug)]
pub struct RealWorkload {
    namespace: String,
    name: String,
    image: &'static str,
    args: Vec<String>,
    port: Option<Port>,
    /// The Secret with its certificate.
    certificate: Option<String>,
    ends: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    /// From whose name Istio tells the protocol.
    name: &'static str,
}

/// Where a container finds its certificate.
const TLS: &str = "/etc/tls";

impl RealWorkload {
    fn new(namespace: &str, name: &str, image: &'static str, args: Vec<String>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            image,
            args,
            port: None,
            certificate: None,
            ends: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Istio's echo server, which answers any HTTP request on this port with 200.
    pub fn echo(namespace: &str, name: &str, port: u16) -> Self {
        let echo = Self::new(namespace, name, "example.com/echo", vec![format!("--port={port}")]);
        Self { port: Some(Port { number: port, name: "http" }), ..echo }
    }

    /// The same over TLS of its own, as a webhook has it, with a certificate of
    /// [`Cluster::certificate`].
    pub fn tls_echo(namespace: &str, name: &str, port: u16, certificate: &str) -> Self {
        let args = [
            format!("--port={port}"),
            format!("--tls={port}"),
            format!("--crt={TLS}/tls.crt"),
            format!("--key={TLS}/tls.key"),
        ];
        Self {
            port: Some(Port { number: port, name: "https" }),
            certificate: Some(certificate.to_owned()),
            ..Self::new(namespace, name, "example.com/echo", args.to_vec())
        }
    }

    /// A client that asks `url` so many times a second, on a new connection each time.
    ///
    /// Its image `load` is [`crate::load`] under that name.
    pub fn load(namespace: &str, name: &str, url: &str, per_second: u32) -> Self {
        let args = ["load".to_owned(), format!("--per-second={per_second}"), url.to_owned()];
        Self::new(namespace, name, "example.com/load", args.to_vec())
    }

    /// The same for an `https` URL, where the server's certificate is of that name.
    pub fn tls_load(
        namespace: &str,
        name: &str,
        url: &str,
        per_second: u32,
        certificate: &str,
    ) -> Self {
        let mut load = Self::load(namespace, name, url, per_second);
        load.args.push(format!("--trust={TLS}/ca.crt"));
        Self { certificate: Some(certificate.to_owned()), ..load }
    }

    /// A Job that asks so many times, and fails unless each answer is 200.
    pub fn job(namespace: &str, name: &str, url: &str, times: u32) -> Self {
        let mut load = Self::load(namespace, name, url, 10);
        load.args.push(format!("--times={times}"));
        Self { ends: true, ..load }
    }

    /// With a further label on its pods.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With an annotation on its pods.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With its sidecar told to export what it counts of refused connections, as the remedy of
    /// MR0308 has it. By itself it exports none of Envoy's listener statistics.
    #[must_use]
    pub fn counting_refusals(self) -> Self {
        let config = r#"{"proxyStatsMatcher":{"inclusionPrefixes":["listener."]}}"#;
        self.annotation("proxy.istio.io/config", config)
    }

    /// Where it lives.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of all its objects.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn objects(&self) -> Vec<Value> {
        let Self { namespace, name, .. } = self;
        let metadata = json!({"namespace": namespace, "name": name});
        let mut objects =
            vec![json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})];
        if let Some(port) = &self.port {
            let service = json!({"selector": {"app": name},
                "ports": [{"name": port.name, "port": port.number, "targetPort": port.number}]});
            objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": service}));
        }
        let template = self.template();
        objects.push(match self.ends {
            true => json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
                "spec": {"backoffLimit": 0, "template": template}}),
            false => json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
                "spec": {"selector": {"matchLabels": {"app": name}},
                    "template": template}}),
        });
        objects
    }

    fn template(&self) -> Value {
        let mut labels = self.labels.clone();
        labels.insert("app".to_owned(), self.name.clone());
        let mut container = json!({"name": "app", "image": self.image, "args": self.args});
        if let Some(Port { number, name }) = self.port {
            container["ports"] = json!([{"name": name, "containerPort": number}]);
            container["readinessProbe"] = match name {
                "http" => json!({"httpGet": {"path": "/", "port": number}, "periodSeconds": 1}),
                _ => json!({"tcpSocket": {"port": number}, "periodSeconds": 1}),
            };
            // Clients have learnt that it goes before it goes.
            container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 2}}});
        }
        let mut volumes = vec![];
        if let Some(secret) = &self.certificate {
            container["volumeMounts"] = json!([{"name": "tls", "mountPath": TLS}]);
            volumes.push(json!({"name": "tls", "secret": {"secretName": secret}}));
        }
        let restart = if self.ends { "Never" } else { "Always" };
        json!({
            "metadata": {"labels": labels, "annotations": self.annotations},
            "spec": {
                "serviceAccountName": self.name,
                "nodeSelector": {kwok::RUNS_AS: kwok::PROCESSES},
                "tolerations": [{"key": kwok::RUNS_AS, "operator": "Exists"}],
                "restartPolicy": restart,
                "containers": [container],
                "volumes": volumes,
            },
        })
    }
}

impl Cluster {
    /// Makes a workload that really runs, and waits until its pods are ready; for a Job, until it
    /// has ended, well or not.
    pub async fn run(&self, workload: &RealWorkload) -> Result<(), Error> {
        self.apply(&workload.objects()).await?;
        let (namespace, name) = (&workload.namespace, &workload.name);
        let done = match workload.ends {
            true => self.job_ended(namespace, name).await,
            false => self.rolled_out(namespace, name).await,
        };
        let Err(error) = done else { return Ok(()) };
        // What the node says of the pods is why.
        let said = self.pods(namespace, name).await?.into_iter().map(|pod| {
            let status = pod.status.clone().unwrap_or_default();
            let message = status.message.unwrap_or_else(|| "nothing".to_owned());
            format!("{}: {message}", pod.name_any())
        });
        let said: Vec<String> = said.collect();
        Err(Error::new(format!("{error}; the node says of the pods: {}", said.join("; "))))
    }

    async fn job_ended(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let jobs = Api::<Job>::namespaced(self.client(), namespace);
        until(&format!("the Job {namespace}/{name} to end"), LIMIT, async || {
            let job = jobs.get(name).await.map_err(|error| error.to_string())?;
            let status = job.status.unwrap_or_default();
            match (status.succeeded, status.failed) {
                (None | Some(0), None | Some(0)) => Err("it runs".to_owned()),
                _ => Ok(()),
            }
        })
        .await
    }

    /// A certificate of the cluster's own authority for these DNS names, as a Secret.
    pub async fn certificate(
        &self,
        namespace: &str,
        name: &str,
        hosts: &[&str],
    ) -> Result<(), Error> {
        let [ca, certificate, key] = self.pki().server(&format!("{namespace}-{name}"), hosts)?;
        self.apply(&[json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": namespace, "name": name},
            "stringData": {"ca.crt": ca, "tls.crt": certificate, "tls.key": key}})])
            .await
    }

    /// What the client of [`RealWorkload::load`] sees.
    pub async fn load(&self, namespace: &str, name: &str) -> Result<Load, Error> {
        let pods = self.pods(namespace, name).await?;
        let [pod] = pods.as_slice() else {
            return Err(Error::new(format!("{namespace}/{name} has {} pods, not one", pods.len())));
        };
        Ok(Load::logged_to(self.container_log(namespace, &pod.name_any(), "app")?))
    }

    /// The file with all that a container of the real node has written.
    pub fn container_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<PathBuf, Error> {
        let node = self.node().ok_or_else(|| Error::new("the cluster has no data plane"))?;
        Ok(node.log(namespace, pod, container))
    }
}
