use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::container::{self, Shared};
use super::environment::Addresses;
use super::exposition::Exposition;
use super::held::{End, Held};
use super::hosts::Hosts;
use super::image::Images;
use super::names::{Names, has_sidecar};
use super::network::{Network, PodNetwork};
use super::status::{Conditions, ContainerStatus, PodStatus, Stage};
use super::targets::{Target, Targets};
use super::volume;
use crate::{Doing, Error};

/// How often a pod is looked at.
pub(super) const BEAT: Duration = Duration::from_millis(200);
/// Before something that failed is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// What the pods of one node share.
pub(super) struct Ground {
    pub(super) client: Client,
    pub(super) network: Arc<Network>,
    pub(super) images: Images,
    pub(super) names: watch::Receiver<Names>,
    pub(super) targets: Targets,
    /// With a folder for each pod.
    pub(super) folder: PathBuf,
}

/// Runs a pod until `end` says true, and then ends and deletes it; or until nobody can say so any
/// more.
pub(super) async fn live(ground: Arc<Ground>, pod: Pod, mut end: watch::Receiver<bool>) {
    let mut life = None;
    let told = tokio::select! {
        told = end.wait_for(|end| *end) => told.is_ok(),
        never = run(&ground, &pod, &mut life) => match never {},
    };
    if told && let Some(life) = &mut life {
        let limit = Duration::from_secs(grace(&pod));
        tokio::select! {
            _ = tokio::time::timeout(limit, life.end()) => {}
            // The whole node goes.
            _ = end.wait_for(|end| !end) => {}
        }
    }
    // What still runs is killed, and the network and the mounts go.
    drop(life);
    // Its logs stay: a test counts every request, also of clients that are gone. An error means
    // that the whole cluster's folder is about to go.
    let _ = tokio::fs::remove_dir_all(folder(&ground, &pod).join("volumes")).await;
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    // A pod that is gone by now was deleted by force.
    while told && pods(&ground, &pod).delete(&pod.name_any(), &now).await.is_err_and(is_passing) {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Seconds that a pod may take to end.
fn grace(pod: &Pod) -> u64 {
    let asked = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    asked.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30)
}

fn is_passing(error: kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// The folder of a pod on this node; its containers' logs are in there.
pub(super) fn folder(ground: &Ground, pod: &Pod) -> PathBuf {
    ground.folder.join(folder_name(&pod.namespace().unwrap_or_default(), &pod.name_any()))
}

pub(super) fn folder_name(namespace: &str, pod: &str) -> String {
    format!("{namespace}_{pod}")
}

fn pods(ground: &Ground, pod: &Pod) -> Api<Pod> {
    Api::namespaced(ground.client.clone(), &pod.namespace().unwrap_or_default())
}

/// Never ends: also a pod whose work is done stays until it is deleted.
async fn run(ground: &Ground, pod: &Pod, life: &mut Option<Life>) -> std::convert::Infallible {
    let since = Timestamp::now();
    let (mut said, mut conditions) = (Value::Null, Conditions::default());
    loop {
        let status = match life {
            Some(life) => step(ground, pod, life, since).await,
            None => match Life::begin(ground, pod).await {
                Ok(begun) => {
                    *life = Some(begun);
                    continue;
                }
                Err(error) => Ok(unborn(ground, pod, since, &error)),
            },
        };
        let status = match status {
            Ok(status) => status,
            Err(error) => unborn(ground, pod, since, &error),
        };
        report(ground, pod, status.json(&mut conditions), &mut said).await;
        if status.is_over() {
            drop(life.take());
            return std::future::pending().await;
        }
        tokio::time::sleep(if life.is_some() { BEAT } else { AGAIN }).await;
    }
}

async fn report(ground: &Ground, pod: &Pod, status: Value, said: &mut Value) {
    if *said == status {
        return;
    }
    let patch = Patch::Strategic(json!({"status": status}));
    let params = PatchParams::default();
    // Said again at the next beat when the apiserver did not take it.
    if pods(ground, pod).patch_status(&pod.name_any(), &params, &patch).await.is_ok() {
        *said = status;
    }
}

async fn step(
    ground: &Ground,
    pod: &Pod,
    life: &mut Life,
    since: Timestamp,
) -> Result<PodStatus, Error> {
    life.learn_names(ground, pod).await?;
    let trouble = life.step().await.err().map(|error| error.to_string());
    let said = |held: &[Held]| held.iter().map(Held::status).collect();
    Ok(PodStatus {
        address: Some(life.network.address()),
        host: ground.network.gateway(),
        init: said(&life.init),
        main: said(&life.main),
        is_job: life.is_job,
        trouble,
        since,
    })
}

/// A pod that could not be begun yet.
fn unborn(ground: &Ground, pod: &Pod, since: Timestamp, why: &Error) -> PodStatus {
    let why = why.to_string();
    let waiting = |container: &Container, ends_first: bool| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        stage: Stage::Waiting(why.clone()),
        ready: false,
        started: false,
        restarts: 0,
        ends_first,
    };
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.iter().flatten();
    PodStatus {
        address: None,
        host: ground.network.gateway(),
        init: init.map(|it| waiting(it, !is_sidecar(it))).collect(),
        main: spec.containers.iter().map(|it| waiting(it, false)).collect(),
        is_job: false,
        trouble: Some(why.clone()),
        since,
    }
}

/// A pod with its network, files and processes; all of it goes when this value goes.
struct Life {
    _target: Option<Target>,
    _exposition: Option<Exposition>,
    // The containers before the network that they are in.
    init: Vec<Held>,
    main: Vec<Held>,
    network: PodNetwork,
    hosts: Hosts,
    names: watch::Receiver<Names>,
    is_job: bool,
}

impl Life {
    async fn begin(ground: &Ground, pod: &Pod) -> Result<Self, Error> {
        let folder = folder(ground, pod);
        std::fs::create_dir_all(&folder).doing("making the pod's folder")?;
        let volumes = volume::make(&ground.client, pod, &folder.join("volumes")).await?;
        let network = ground.network.connect(&folder).await?;
        let hosts = Hosts::create(&folder)?;
        let mut names = ground.names.clone();
        let now = names.borrow_and_update().clone();
        teach(&now, ground, pod, &network, &hosts).await?;
        let addresses = Addresses {
            pod: network.address().to_string(),
            host: ground.network.gateway().to_string(),
        };
        let shared = Shared {
            pod,
            folder: &folder,
            volumes: &volumes,
            hosts: &hosts,
            network: network.holder(),
            addresses: &addresses,
        };
        let spec = pod.spec.clone().unwrap_or_default();
        let is_job = spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always");
        let hold = |container: &Container, end: End| {
            Held::new(
                container,
                network.address(),
                end,
                container::program(&shared, container, &ground.images)?,
            )
        };
        let init = spec.init_containers.iter().flatten();
        let init = init.map(|it| hold(it, if is_sidecar(it) { End::Never } else { End::First }));
        let end = if is_job { End::Once } else { End::Never };
        let target = || {
            let namespace = pod.namespace().unwrap_or_default();
            ground.targets.add(namespace, pod.name_any(), network.address())
        };
        let exposition = match has_sidecar(pod) {
            true => Some(Exposition::serve(&network).await?),
            false => None,
        };
        Ok(Self {
            _target: has_sidecar(pod).then(target).transpose()?,
            _exposition: exposition,
            init: init.collect::<Result<_, _>>()?,
            main: spec.containers.iter().map(|it| hold(it, end)).collect::<Result<_, _>>()?,
            network,
            hosts,
            names,
            is_job,
        })
    }

    async fn learn_names(&mut self, ground: &Ground, pod: &Pod) -> Result<(), Error> {
        // An error means that the node is about to go.
        if !self.names.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let now = self.names.borrow_and_update().clone();
        teach(&now, ground, pod, &self.network, &self.hosts).await
    }

    /// Ends the containers as a kubelet does: the main ones first, and then the sidecars, of which
    /// the last begun ends first.
    async fn end(&mut self) {
        futures::future::join_all(self.main.iter_mut().map(Held::end)).await;
        for sidecar in self.init.iter_mut().rev() {
            sidecar.end().await;
        }
    }

    /// One look at each container whose turn has come.
    async fn step(&mut self) -> Result<(), Error> {
        for held in &mut self.init {
            held.step().await?;
            if !held.lets_next_begin() {
                return Ok(());
            }
        }
        for held in &mut self.main {
            held.step().await?;
        }
        Ok(())
    }
}

/// Lets a pod know where the Services are now.
async fn teach(
    names: &Names,
    ground: &Ground,
    pod: &Pod,
    network: &PodNetwork,
    hosts: &Hosts,
) -> Result<(), Error> {
    hosts.write(&names.hosts(pod, network.address(), ground.network.gateway()))?;
    match names.rules(pod) {
        Some(rules) => network.rules(&rules).await,
        None => Ok(()),
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
