use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::runtime::{self, Handle};

use crate::apply::{Applier, documents};
use crate::audit::{Audit, AuditLog};
use crate::control_plane::{self, AUDIT_LOG, Addresses, Kubeconfigs};
use crate::exporter::Exporter;
use crate::fault_proxy::{FaultProxy, Schedule};
use crate::istio::{self, Istiod, IstiodPorts};
use crate::metrics_proxy::MetricsProxy;
use crate::node::{DataPlane, RealNode};
use crate::operator::OPERATOR_USER;
use crate::pki::Pki;
use crate::ports::Ports;
use crate::process::Process;
use crate::prometheus::{Prometheus, Targets};
use crate::run_folder::RunFolder;
use crate::servers::Servers;
use crate::tools::Tools;
use crate::{Doing, Error, beginning, install, istio_metrics, kwok, until};

/// What takes longer has no end: `kubectl delete` waits for finalizers by itself.
const LONGEST_COMMAND: Duration = Duration::from_secs(120);

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often Prometheus scrapes.
    pub scrape_interval: Duration,
    /// Leave the run folder when the cluster goes; `KEEP=1` does the same.
    pub keep: bool,
    /// Who makes an owner wait must be allowed to, as OpenShift has it. This plugin looks up what
    /// kinds there are as soon as the apiserver starts: where meshrollout's come later, the fence is
    /// not known for half a minute (decision 9).
    pub owners_are_asked: bool,
    /// Meshrollout's kinds are there from the beginning, as they are when [`Cluster::install`] is
    /// done with them; else they come when somebody installs them.
    pub kinds: bool,
    /// Further environment of istiod, such as `DEFAULT_WORKLOAD_CERT_TTL`.
    pub istiod_env: Vec<(String, String)>,
    /// One more node, which runs pods for real; without it all pods are kwok's likenesses.
    pub data_plane: Option<DataPlane>,
}

impl Default for Options {
    fn default() -> Self {
        let keep = std::env::var_os("KEEP").is_some_and(|keep| keep == "1");
        Self {
            scrape_interval: Duration::from_secs(1),
            keep,
            owners_are_asked: false,
            kinds: true,
            istiod_env: vec![],
            data_plane: None,
        }
    }
}

/// A running control plane. It goes when this value goes, or the process, in whatever way.
// Fields are dropped in this order: the programs before the folder that they write to.
pub struct Cluster {
    node: Option<RealNode>,
    processes: Vec<Process>,
    istiod: Istiod,
    prometheus: Prometheus,
    exporter: Exporter,
    metrics_proxy: MetricsProxy,
    config: Config,
    clients: Mutex<HashMap<runtime::Id, Client>>,
    audit_log: Mutex<AuditLog>,
    kubeconfigs: Kubeconfigs,
    pki: Pki,
    tools: Tools,
    server: String,
    start_up: Duration,
    servers: Servers,
    folder: RunFolder,
    ports: Mutex<Ports>,
    scrape_interval: Duration,
}

impl Cluster {
    /// Starts everything and waits until it works.
    ///
    /// Fails with the last log lines of the program that is to blame.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let tools = tokio::task::spawn_blocking(Tools::find).await.doing("finding the tools")??;
        let mut ports = Ports::reserve()?;
        let run = RunFolder::create(options.keep)?;
        let folder = run.path().to_owned();
        let at = Addresses::take(&mut ports)?;
        let istiod_ports = IstiodPorts {
            http: ports.take()?,
            monitoring: ports.take()?,
            grpc: ports.take()?,
            secure_grpc: ports.take()?,
            webhooks: ports.take()?,
        };
        let (kwok_port, prometheus_port) = (ports.take()?, ports.take()?);
        let (exporter_port, proxy_port) = (ports.take()?, ports.take()?);

        let (mut definitions, mut manifest) = tokio::task::spawn_blocking({
            let (tools, webhooks) = (tools.clone(), istiod_ports.webhooks);
            let real_proxies = options.data_plane.is_some();
            move || istio::manifest(&tools, webhooks, real_proxies)
        })
        .await
        .doing("generating Istio's manifest")??;
        if options.kinds {
            definitions.extend(install::kinds()?);
        }
        beginning::lay(&tools, &definitions, &folder.join(control_plane::ETCD)).await?;
        let begin = Instant::now();
        let mut node = match &options.data_plane {
            Some(wanted) => Some(RealNode::prepare(&folder, ports.number(), wanted).await?),
            None => None,
        };
        let gateway = node.as_ref().map(|node| node.network().gateway());
        // Nothing of these needs the apiserver to be up.
        let pki = Pki::create(folder.join("pki"))?;
        let etcd = control_plane::etcd(&tools, &folder, &at).start()?;
        let apiserver = control_plane::apiserver(&tools, &folder, &pki, &at)?;
        let plugins = options.owners_are_asked.then_some(control_plane::OWNERS_ARE_ASKED);
        let apiserver = apiserver.args(plugins).start()?;
        let prometheus = Prometheus::launch(
            &tools,
            &folder,
            prometheus_port,
            options.scrape_interval,
            &Targets {
                istiod: (gateway.unwrap_or(Ipv4Addr::LOCALHOST), istiod_ports.monitoring).into(),
                exporter: exporter_port,
                sidecars: node.as_ref().map(RealNode::targets),
            },
        )?;
        let server = at.server();
        let kubeconfigs = Kubeconfigs::write(&pki, &server)?;
        let config = client_config(&kubeconfigs.admin).await?;
        let client = Client::try_from(config.clone()).doing("making a client")?;
        let mut processes = vec![etcd, apiserver];
        apiserver_ready(&client, &mut processes).await?;
        keep_audit_log(&folder)?;

        processes.extend([
            control_plane::controller_manager(
                &tools,
                &folder,
                &pki,
                &kubeconfigs.controller_manager,
                &at,
            )
            .start()?,
            control_plane::scheduler(&tools, &folder, &kubeconfigs.scheduler, &at).start()?,
        ]);
        create_nodes(&client).await?;
        processes.push(kwok::kwok(&tools, &folder, &kubeconfigs.kwok, kwok_port)?.start()?);
        if node.is_some() {
            manifest.push(istio_metrics::filters(istio::ROOT_NAMESPACE));
        }
        istio::create_manifest(&client, &manifest).await?;
        let istiod = Istiod::launch(
            &tools,
            &folder,
            &kubeconfigs.istiod,
            istiod_ports,
            &options.istiod_env,
            gateway,
            config.clone(),
        )?;
        let servers = Servers::start()?;
        if let Some(node) = &mut node {
            node.start(&servers, client_config(&kubeconfigs.node).await?).await?;
        }
        let exporter = Exporter::serve(&servers, exporter_port, config.clone()).await?;
        let metrics_proxy = MetricsProxy::serve(&servers, proxy_port, prometheus.port()).await?;
        let mut cluster = Self {
            node,
            processes,
            istiod,
            prometheus,
            exporter,
            metrics_proxy,
            config,
            clients: Mutex::default(),
            audit_log: Mutex::new(AuditLog::at(folder.join(AUDIT_LOG))),
            kubeconfigs,
            pki,
            tools,
            server,
            start_up: Duration::ZERO,
            servers,
            folder: run,
            ports: Mutex::new(ports),
            scrape_interval: options.scrape_interval,
        };
        cluster.ready(&client).await?;
        cluster.start_up = begin.elapsed();
        Ok(cluster)
    }

    async fn ready(&mut self, client: &Client) -> Result<(), Error> {
        self.istiod.ready().await?;
        self.prometheus.ready().await?;
        let limit = Duration::from_secs(30);
        let works = async {
            until("the injector to inject", limit, async || injects(client).await).await?;
            until("the validator to refuse", limit, async || refuses_typo(client).await).await
        };
        let works = works.await;
        for process in &mut self.processes {
            process.check()?;
        }
        works?;
        match &self.node {
            Some(node) => self.istiod.mark_address(node.network().gateway()).await,
            None => Ok(()),
        }
    }

    /// How long it took from the first program to the last check.
    pub fn start_up(&self) -> Duration {
        self.start_up
    }

    /// A client as the user `admin`; to be called within a tokio runtime, which it then needs.
    pub fn client(&self) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let made = clients.entry(Handle::current().id()).or_insert_with(|| {
            let mut config = self.config.clone();
            config.read_timeout = Some(LONGEST_COMMAND);
            // The same configuration made a client when the cluster started.
            Client::try_from(config).expect("the cluster's configuration is valid")
        });
        made.clone()
    }

    /// The kubeconfig of the user `admin`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfigs.admin
    }

    /// A kubeconfig for a user of this name, in a group if one is given.
    ///
    /// The audit log then tells that user's requests from the tests', which are `admin`'s.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> Result<PathBuf, Error> {
        self.pki.kubeconfig(&self.server, user, group)
    }

    /// Runs kubectl as `admin`.
    pub async fn kubectl(&self, args: &[&str]) -> Result<Output, Error> {
        self.command(&self.tools.program("kubectl"), args).await
    }

    /// Runs a program as `admin`. One that waits for what never comes is ended and an error.
    pub(crate) async fn command(&self, program: &Path, args: &[&str]) -> Result<Output, Error> {
        self.command_by(self.kubeconfig(), program, args).await
    }

    /// The same by whoever this kubeconfig is of.
    pub(crate) async fn command_by(
        &self,
        kubeconfig: &Path,
        program: &Path,
        args: &[&str],
    ) -> Result<Output, Error> {
        let running = || format!("running {} {}", program.display(), args.join(" "));
        let output = tokio::process::Command::new(program)
            .env("KUBECONFIG", kubeconfig)
            .args(args)
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(LONGEST_COMMAND, output).await {
            Ok(output) => output.doing(running()),
            Err(_) => Err(Error::new(format!("{}: no end in {LONGEST_COMMAND:?}", running()))),
        }
    }

    /// What kubectl prints as `admin`, or what it complains of.
    pub async fn kubectl_text(&self, args: &[&str]) -> Result<String, String> {
        let output = self.kubectl(args).await.map_err(|error| error.to_string())?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// The path of a program that needs no cluster.
    pub fn tool(name: &str) -> Result<PathBuf, Error> {
        Ok(Tools::find()?.program(name))
    }

    /// The path of one of the cluster's programs: kubectl, istioctl and so on.
    pub fn program(&self, name: &str) -> PathBuf {
        self.tools.program(name)
    }

    /// Server-side apply of all documents, in their order.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<(), Error> {
        self.apply(&documents(yaml)?).await
    }

    /// Server-side apply of all objects, in their order.
    pub async fn apply(&self, objects: &[Value]) -> Result<(), Error> {
        Applier::new(self.client()).apply(objects).await
    }

    /// The node that runs pods for real, if there is one.
    pub(crate) fn node(&self) -> Option<&RealNode> {
        self.node.as_ref()
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The running istiod.
    pub fn istiod(&self) -> &Istiod {
        &self.istiod
    }

    /// The running Prometheus.
    pub fn prometheus(&self) -> &Prometheus {
        &self.prometheus
    }

    /// Prometheus' own address; [`MetricsProxy::url`] is the one that can be made to fail.
    pub fn prometheus_url(&self) -> String {
        self.prometheus.url()
    }

    /// What the sidecars measure.
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// What stands between the operator and Prometheus.
    pub fn metrics_proxy(&self) -> &MetricsProxy {
        &self.metrics_proxy
    }

    /// A way to the apiserver for one operator that fails as `schedule` says; where a path holds a
    /// part named in `apart`, as that schedule says.
    pub async fn fault_proxy(
        &self,
        schedule: Schedule,
        apart: Vec<(String, Schedule)>,
    ) -> Result<FaultProxy, Error> {
        let kubeconfig = self.kubeconfig_for(OPERATOR_USER, None)?;
        FaultProxy::serve(&self.servers, &kubeconfig, schedule, apart).await
    }

    /// All requests so far.
    pub fn audit(&self) -> Result<Audit, Error> {
        self.audit_since(AuditMark(0))
    }

    /// All requests answered after the mark.
    pub fn audit_since(&self, mark: AuditMark) -> Result<Audit, Error> {
        self.audit_log.lock().unwrap_or_else(PoisonError::into_inner).since(mark.0)
    }

    /// This moment in the audit log.
    pub fn audit_mark(&self) -> Result<AuditMark, Error> {
        let log = self.folder.path().join(AUDIT_LOG);
        Ok(AuditMark(std::fs::metadata(log).doing("looking at the audit log")?.len()))
    }

    /// How often Prometheus scrapes.
    pub fn scrape_interval(&self) -> Duration {
        self.scrape_interval
    }

    /// A port for one more program.
    pub(crate) fn free_port(&self) -> Result<u16, Error> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The folder with the logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process ids of all programs that run.
    pub async fn process_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.processes.iter().map(Process::id).collect();
        ids.extend(self.node.iter().map(|node| node.network().holder()));
        ids.extend(self.istiod.process_id().await);
        ids.extend(self.prometheus.process_id().await);
        ids
    }
}

/// A moment in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct AuditMark(u64);

pub(crate) async fn client_config(kubeconfig: &Path) -> Result<Config, Error> {
    let reading = "reading the kubeconfig";
    let file = kube::config::Kubeconfig::read_from(kubeconfig).doing(reading)?;
    Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .doing(reading)
}

/// A second name for the log, when somebody wants to read the logs of all clusters in the end.
fn keep_audit_log(folder: &Path) -> Result<(), Error> {
    let Some(audits) = std::env::var_os("AUDITS").map(PathBuf::from) else { return Ok(()) };
    let kept = audits.join(folder.file_name().unwrap_or_default());
    std::fs::hard_link(folder.join(AUDIT_LOG), kept).doing("keeping the audit log")
}

pub(crate) async fn apiserver_ready(
    client: &Client,
    processes: &mut [Process],
) -> Result<(), Error> {
    // Alone it takes three; a busy machine gives it what it has left.
    let ready = until("the apiserver to be ready", Duration::from_secs(180), async || {
        for process in &mut *processes {
            if let Err(error) = process.check() {
                return Ok(Err(error));
            }
        }
        let request = http::Request::get("/readyz").body(vec![]);
        let request = request.map_err(|error| error.to_string())?;
        client.request_text(request).await.map(|_| Ok(())).map_err(|error| error.to_string())
    });
    match ready.await {
        Ok(result) => result,
        Err(error) => Err(processes[1].blame(&error.to_string())),
    }
}

async fn create_nodes(client: &Client) -> Result<(), Error> {
    let nodes = Api::<Node>::all(client.clone());
    for node in kwok::nodes() {
        let node = serde_json::from_value(node).doing("making a node")?;
        nodes.create(&PostParams::default(), &node).await.doing("creating a node")?;
    }
    Ok(())
}

/// A pod that asks for a sidecar gets one: webhook, certificate and template are in place.
async fn injects(client: &Client) -> Result<(), String> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "probe", "labels": {"sidecar.istio.io/inject": "true"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let pod: Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let pod = pods.create(&dry_run, &pod).await.map_err(|error| error.to_string())?;
    let spec = pod.spec.unwrap_or_default();
    let mut containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
    match containers.any(|container| container.name == "istio-proxy") {
        true => Ok(()),
        false => Err("a pod without a sidecar".to_owned()),
    }
}

/// A policy with a mode that does not exist is refused, and a good one is not.
async fn refuses_typo(client: &Client) -> Result<(), String> {
    let policy = |mode: &str| {
        let object = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "probe"}, "spec": {"mtls": {"mode": mode}},
        });
        http::Request::post(
            "/apis/security.istio.io/v1/namespaces/default/peerauthentications?dryRun=All",
        )
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
    };
    let good = policy("STRICT").map_err(|error| error.to_string())?;
    client.request_text(good).await.map_err(|error| error.to_string())?;
    let bad = policy("STRICTT").map_err(|error| error.to_string())?;
    match client.request_text(bad).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("the mode STRICTT was accepted".to_owned()),
    }
}
