use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::apply::{Applier, documents};
use crate::pki::text;
use crate::process::{Process, Program};
use crate::replace::replace;
use crate::tools::{Tools, cache_folder};
use crate::{Doing, Error, http_probe, until};

pub(crate) const ROOT_NAMESPACE: &str = "istio-system";

/// The port in the cached manifest, which every cluster replaces by its own.
const ANY_WEBHOOK: &str = "https://127.0.0.1:15017/";

/// Upstream Envoy has none of Istio's own filters and would reject every listener that has one.
const WITHOUT_OWN_FILTERS: [(&str, &str); 3] = [
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    ("PILOT_ENABLE_ALPN_FILTER", "false"),
    ("PILOT_DISABLE_MX_ALPN", "true"),
];

/// The port at which injected proxies look for istiod.
const PROXIES_PORT: u16 = 15012;

/// Istio's definitions and its other objects, as `istioctl manifest generate` prints them; for real
/// proxies without Istio's own metrics, which upstream Envoy cannot make.
pub(crate) fn manifest(
    tools: &Tools,
    webhook_port: u16,
    real_proxies: bool,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let making = "generating Istio's manifest";
    let mut args = vec![
        "manifest".to_owned(),
        "generate".to_owned(),
        "--set=profile=minimal".to_owned(),
        format!("--set=values.istiodRemote.injectionURL={ANY_WEBHOOK}inject"),
        format!("--set=values.base.validationURL={ANY_WEBHOOK}validate"),
    ];
    if real_proxies {
        args.push("--set=values.telemetry.enabled=false".to_owned());
    }
    let cached = cached_manifest(&tools.program("istioctl"), &args)?;
    let json = match std::fs::read_to_string(&cached) {
        Ok(json) => json,
        Err(_) => {
            let output =
                Command::new(tools.program("istioctl")).args(&args).output().doing(making)?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Error::new(format!("{making}: {error}")));
            }
            // Kept as JSON, which a debug build reads much faster than a megabyte of YAML.
            let mut objects = documents(&String::from_utf8_lossy(&output.stdout))?;
            // Most of a definition, which every apiserver would read, write and merge many times over.
            for object in objects.iter_mut().filter(|object| is_definition(object)) {
                without_descriptions(object);
            }
            let json = serde_json::to_string(&objects).doing(making)?;
            std::fs::create_dir_all(cache_folder()).doing(making)?;
            replace(&cached, &json).doing(making)?;
            json
        }
    };
    let own = json.replace(ANY_WEBHOOK, &format!("https://127.0.0.1:{webhook_port}/"));
    let objects: Vec<Value> = serde_json::from_str(&own).doing(making)?;
    Ok(objects.into_iter().partition(is_definition))
}

fn is_definition(object: &Value) -> bool {
    object["kind"] == "CustomResourceDefinition"
}

/// Texts alone: a field may be called so, too.
fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "description" || !value.is_string());
            fields.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

fn cached_manifest(istioctl: &Path, args: &[String]) -> Result<PathBuf, Error> {
    let metadata = std::fs::metadata(istioctl).doing("looking at istioctl")?;
    let mut hasher = DefaultHasher::new();
    ("no descriptions", args, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
    Ok(cache_folder().join(format!("istio-{:016x}.json", hasher.finish())))
}

/// Creates all but the definitions, with which every cluster begins.
pub(crate) async fn create_manifest(client: &Client, objects: &[Value]) -> Result<(), Error> {
    let mut applier = Applier::new(client.clone());
    applier
        .apply(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT_NAMESPACE}}),
        ])
        .await?;
    applier.create_together(objects).await
}

/// Where istiod listens.
#[derive(Clone, Copy)]
pub(crate) struct IstiodPorts {
    pub(crate) http: u16,
    pub(crate) monitoring: u16,
    pub(crate) grpc: u16,
    pub(crate) secure_grpc: u16,
    pub(crate) webhooks: u16,
}

/// The running istiod.
///
/// It is a process; the Deployment `istiod` in the cluster is its likeness. [`Istiod::stop`] and
/// [`Istiod::start`] keep the two alike.
pub struct Istiod {
    program: Program,
    ports: IstiodPorts,
    config: Config,
    process: Mutex<Option<Process>>,
}

impl Istiod {
    /// `proxies` is the address at which real proxies reach it, if there are to be any.
    pub(crate) fn launch(
        tools: &Tools,
        folder: &Path,
        kubeconfig: &Path,
        ports: IstiodPorts,
        extra_env: &[(String, String)],
        proxies: Option<Ipv4Addr>,
        config: Config,
    ) -> Result<Self, Error> {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let for_proxies = match proxies {
            Some(address) => format!("{address}:{PROXIES_PORT}"),
            None => local(ports.secure_grpc),
        };
        // Where real proxies are, its metrics are read from its pod, too.
        let monitoring = proxies.unwrap_or(Ipv4Addr::LOCALHOST);
        let mut program = Program::new("istiod", tools.program("pilot-discovery"), folder)
            .args([
                "discovery".to_owned(),
                format!("--kubeconfig={}", text(kubeconfig)),
                format!("--httpAddr={}", local(ports.http)),
                format!("--monitoringAddr={monitoring}:{}", ports.monitoring),
                format!("--grpcAddr={}", local(ports.grpc)),
                format!("--secureGRPCAddr={for_proxies}"),
                format!("--httpsAddr={}", local(ports.webhooks)),
                "--ctrlz_port=0".to_owned(),
            ])
            .env("KUBECONFIG", text(kubeconfig))
            .env("POD_NAMESPACE", ROOT_NAMESPACE)
            .env("POD_NAME", "istiod")
            .env("CLUSTER_ID", "Kubernetes")
            // As the charts label their webhooks: istiod fills in the CA of its own revision only.
            .env("REVISION", "default")
            .env("PILOT_CERT_PROVIDER", "istiod")
            .env("INJECTION_WEBHOOK_CONFIG_NAME", "istio-sidecar-injector")
            .env("VALIDATION_WEBHOOK_CONFIG_NAME", "istio-validator-istio-system")
            // Becomes an IP SAN, without which the apiserver refuses the webhooks' certificate.
            .env("ISTIOD_CUSTOM_HOST", "127.0.0.1");
        if proxies.is_some() {
            for (name, value) in WITHOUT_OWN_FILTERS {
                program = program.env(name, value);
            }
        }
        for (name, value) in extra_env {
            program = program.env(name, value);
        }
        let process = Mutex::new(Some(program.start()?));
        Ok(Self { program, ports, config, process })
    }

    /// The port of `/ready` and `/debug/…`.
    pub fn http_port(&self) -> u16 {
        self.ports.http
    }

    /// The port of its metrics: on the address of its likeness' pod, where there is a data plane.
    pub fn monitoring_port(&self) -> u16 {
        self.ports.monitoring
    }

    /// Gives the likeness the address at which the process really listens.
    pub(crate) async fn mark_address(&self, address: Ipv4Addr) -> Result<(), Error> {
        let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        self.patch_pods(&Patch::Merge(&status)).await
    }

    /// The port on which proxies ask in plaintext.
    pub(crate) fn xds_port(&self) -> u16 {
        self.ports.grpc
    }

    /// Kills the process and takes its pods out of service.
    pub async fn stop(&self) -> Result<(), Error> {
        drop(self.process.lock().await.take());
        self.mark_pods("False").await
    }

    /// Starts the process again, waits until it serves, and puts its pods back into service.
    pub async fn start(&self) -> Result<(), Error> {
        {
            let mut process = self.process.lock().await;
            if process.is_none() {
                *process = Some(self.program.start()?);
            }
        }
        self.ready().await?;
        self.mark_pods("True").await
    }

    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let ready = until("istiod to be ready", Duration::from_secs(180), async || {
            self.check().await.map_err(|error| error.to_string())?;
            http_probe::ready(self.ports.http, "/ready").await
        });
        match ready.await {
            Ok(()) => self.check().await,
            Err(error) => Err(self.blame(&error.to_string()).await),
        }
    }

    async fn check(&self) -> Result<(), Error> {
        match self.process.lock().await.as_mut() {
            Some(process) => process.check(),
            None => Err(Error::new("istiod is stopped")),
        }
    }

    async fn blame(&self, what: &str) -> Error {
        match self.process.lock().await.as_ref() {
            Some(process) => process.blame(what),
            None => Error::new(what),
        }
    }

    pub(crate) async fn process_id(&self) -> Option<u32> {
        self.process.lock().await.as_ref().map(Process::id)
    }

    /// Ready as the process is: what the operator reads of the control plane's health.
    async fn mark_pods(&self, ready: &str) -> Result<(), Error> {
        let condition = |kind: &str| json!({"type": kind, "status": ready});
        let status = json!({"status": {
            "conditions": [condition("Ready"), condition("ContainersReady")],
        }});
        self.patch_pods(&Patch::Strategic(&status)).await
    }

    async fn patch_pods(&self, patch: &Patch<&Value>) -> Result<(), Error> {
        // Made anew: a client lives as long as the runtime that it was made on, a test's.
        let client = Client::try_from(self.config.clone()).doing("making a client")?;
        let pods = Api::<Pod>::namespaced(client, ROOT_NAMESPACE);
        let list = pods.list(&ListParams::default().labels("app=istiod")).await;
        for pod in list.doing("listing istiod's pods")? {
            pods.patch_status(&pod.name_any(), &PatchParams::default(), patch)
                .await
                .doing("marking istiod's pods")?;
        }
        Ok(())
    }
}
