//! A node that runs pods as processes: with real sidecars, each pod in a network of its own.

mod container;
mod environment;
mod exposition;
mod held;
mod hosts;
mod image;
mod names;
mod network;
mod pod;
mod probe;
mod status;
mod tally;
mod targets;
mod volume;
mod workload;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub(crate) use exposition::PORT as EXPOSITION_PORT;
pub use image::Image;
pub use tally::{Load, Mark, Tally};
pub use workload::RealWorkload;

use crate::servers::Servers;
use crate::tools::Tools;
use crate::{Doing, Error, kwok};
use image::Images;
use names::Names;
use network::Network;
use pod::Ground;
use targets::Targets;

/// The node's name.
pub(crate) const NAME: &str = "node-real";

/// The user that it is to the apiserver, as a kubelet would be.
pub(crate) const USER: &str = "system:node:node-real";

const HEARTBEAT: Duration = Duration::from_secs(10);

/// A node that runs pods for real, which needs root.
#[derive(Clone, Debug, Default)]
pub struct DataPlane {
    /// Images beside `echo` and Istio's own.
    pub images: Vec<Image>,
}

impl DataPlane {
    /// With the image `load`, the client of [`RealWorkload::load`]: this harness' own program.
    pub fn with_load(program: PathBuf) -> Self {
        Self { images: vec![Image { name: "load".to_owned(), program }] }
    }

    /// Whether this process may make network namespaces and mounts.
    pub fn is_allowed() -> bool {
        Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
    }
}

/// The running node; with it go all pods that it runs.
pub(crate) struct RealNode {
    network: Arc<Network>,
    targets: Targets,
    folder: PathBuf,
    images: Option<Images>,
    end: Option<oneshot::Sender<()>>,
    // Locked by nobody but the last owner: so the cluster can be shared between threads.
    ended: Option<Mutex<Receiver<()>>>,
}

impl RealNode {
    /// Lays the network, so that istiod can listen where pods will reach it.
    pub(crate) async fn prepare(
        folder: &Path,
        block: u16,
        options: &DataPlane,
    ) -> Result<Self, Error> {
        if !DataPlane::is_allowed() {
            return Err(Error::new("a node that runs pods for real needs root"));
        }
        let images = Images::new(Tools::tier("data-plane").await?, options.images.clone());
        let folder = folder.join("pods");
        std::fs::create_dir_all(&folder).doing("making the pods' folder")?;
        let network = Arc::new(Network::create(&folder, block).await?);
        let targets = Targets::create(&folder)?;
        Ok(Self { network, targets, folder, images: Some(images), end: None, ended: None })
    }

    /// What Prometheus is to scrape.
    pub(crate) fn targets(&self) -> &Path {
        self.targets.file()
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Joins the cluster and runs what is bound to it, on the servers' runtime.
    pub(crate) async fn start(&mut self, servers: &Servers, config: Config) -> Result<(), Error> {
        let Some(images) = self.images.take() else { return Ok(()) };
        let (network, folder) = (Arc::clone(&self.network), self.folder.clone());
        let targets = self.targets.clone();
        let (end, told) = oneshot::channel();
        let (alive, ended) = mpsc::channel();
        let join = async move {
            // The client belongs to the runtime that it was made on.
            let client = Client::try_from(config).doing("making a client")?;
            join(&client).await?;
            let first = Names::read(&client).await.doing("reading where the Services are")?;
            let (names, received) = watch::channel(first);
            let ground = Ground { client, network, images, names: received, targets, folder };
            Ok::<_, Error>((ground, names))
        };
        let (ground, names) = servers.run(join).await??;
        servers.spawn(async move {
            let client = ground.client.clone();
            tokio::select! {
                _ = told => {}
                () = beat(&client) => {}
                () = follow_names(&client, names) => {}
                () = follow_pods(Arc::new(ground), &alive) => {}
            }
        });
        (self.end, self.ended) = (Some(end), Some(Mutex::new(ended)));
        Ok(())
    }

    /// What a container has written so far.
    pub(crate) fn log(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        let pod = self.folder.join(pod::folder_name(namespace, pod));
        container::folder(&pod, container).join(format!("{container}.log"))
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        // Whoever is told so drops all pods, and each of them holds a sender until it is gone.
        drop(self.end.take());
        if let Some(ended) = self.ended.take() {
            let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
            let limit = Duration::from_secs(10);
            while ended.recv_timeout(limit).is_ok() {}
        }
    }
}

async fn join(client: &Client) -> Result<(), Error> {
    let node: Node = serde_json::from_value(object()).doing("making the node")?;
    let nodes = Api::<Node>::all(client.clone());
    nodes.create(&PostParams::default(), &node).await.map(drop).doing("creating the real node")
}

/// Tainted, so that pods come here only when they ask to.
fn object() -> Value {
    let mut node = kwok::node(NAME, kwok::PROCESSES);
    node["spec"] = json!({"taints": [
        {"key": kwok::RUNS_AS, "value": kwok::PROCESSES, "effect": "NoSchedule"},
    ]});
    node["status"]["conditions"] = conditions();
    node
}

fn conditions() -> Value {
    json!([{"type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "pods run as processes", "lastHeartbeatTime": Timestamp::now()}])
}

/// Says again and again that the node is well; ready pods would be given up otherwise.
async fn beat(client: &Client) {
    let nodes = Api::<Node>::all(client.clone());
    loop {
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions()}}));
        // One that does not come through is followed by the next.
        let _ = nodes.patch_status(NAME, &PatchParams::default(), &patch).await;
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn follow_names(client: &Client, names: watch::Sender<Names>) {
    let mut changes = std::pin::pin!(names::changes(client));
    while changes.next().await.is_some() {
        if let Ok(now) = Names::read(client).await {
            names.send_if_modified(|before| {
                let differ = *before != now;
                *before = now;
                differ
            });
        }
    }
}

async fn follow_pods(ground: Arc<Ground>, alive: &Sender<()>) {
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={NAME}"));
    let pods = Api::<Pod>::all(ground.client.clone());
    let mut events = std::pin::pin!(watcher(pods, ours).default_backoff());
    // Dropping a sender ends the pod's life as well.
    let mut known = HashMap::<String, watch::Sender<bool>>::new();
    let mut lives = JoinSet::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            // Backed off and tried again inside.
            Err(_) => continue,
        };
        while lives.try_join_next().is_some() {}
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                let uid = pod.uid().unwrap_or_default();
                let ends = pod.metadata.deletion_timestamp.is_some();
                let end = known.entry(uid).or_insert_with(|| {
                    let (end, told) = watch::channel(false);
                    let (ground, alive) = (Arc::clone(&ground), alive.clone());
                    lives.spawn(async move {
                        pod::live(ground, pod, told).await;
                        drop(alive);
                    });
                    end
                });
                if ends {
                    end.send_replace(true);
                }
            }
            watcher::Event::Delete(pod) => drop(known.remove(&pod.uid().unwrap_or_default())),
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }
}
