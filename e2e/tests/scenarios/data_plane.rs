//! Real sidecars, real clients, every request counted: what STRICT does, without us and with us.

mod certificates;
mod metrics;
mod own_source;
mod proxy_state;
mod seven;
mod taken_back;
mod with_us;
mod without_us;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::leftovers;
use meshrollout_e2e::{Cluster, DataPlane, Load, Mark, Options, RealWorkload, Tally, until};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const LIMIT: Duration = Duration::from_secs(60);
/// So many requests are a claim's evidence.
const ENOUGH: usize = 50;
const PORT: u16 = 8080;

/// Held by each test while it runs: those that compare what is on the machine run alone.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// None, and said so, for a user who may not make networks.
async fn options() -> Option<(Options, RwLockReadGuard<'static, ()>)> {
    Some((allowed()?, MACHINE.read().await))
}

/// The same for a test that no other may run beside.
async fn options_alone() -> Option<(Options, RwLockWriteGuard<'static, ()>)> {
    Some((allowed()?, MACHINE.write().await))
}

fn allowed() -> Option<Options> {
    if !DataPlane::is_allowed() {
        println!("skipped: the data plane needs root");
        return None;
    }
    let data_plane = Some(DataPlane::with_load(env!("CARGO_BIN_EXE_meshrollout-e2e").into()));
    Some(Options { data_plane, ..Options::default() })
}

/// A client in a namespace, from the moment on at which it is served.
async fn client(cluster: &Cluster, namespace: &str, url: &str) -> Load {
    served(cluster, &RealWorkload::load(namespace, "client", url, 10)).await
}

async fn served(cluster: &Cluster, client: &RealWorkload) -> Load {
    cluster.run(client).await.unwrap();
    let load = cluster.load(client.namespace(), client.name()).await.unwrap();
    changed(&load, "a first 200", |tally| tally.failed() < tally.sent()).await;
    load
}

/// What it sees from the mark on, once that is enough to judge.
async fn enough(load: &Load, mark: Mark) -> Tally {
    until(&format!("{ENOUGH} requests"), LIMIT, async || {
        let tally = load.since(mark).map_err(|error| error.to_string())?;
        if tally.sent() >= ENOUGH { Ok(tally) } else { Err(tally.to_string()) }
    })
    .await
    .unwrap()
}

/// Waits until what it sees from now on is as told.
async fn changed(load: &Load, what: &str, is: impl Fn(&Tally) -> bool) {
    let mark = load.mark().unwrap();
    until(what, LIMIT, async || {
        let tally = load.since(mark).map_err(|error| error.to_string())?;
        if is(&tally) { Ok(()) } else { Err(tally.to_string()) }
    })
    .await
    .unwrap();
}

/// What a data plane leaves on a machine as long as it lives.
#[derive(Debug)]
struct Traces {
    /// Network interfaces in our own namespace.
    cables: BTreeSet<String>,
    /// Network namespaces that some process is in.
    networks: BTreeSet<String>,
}

impl Traces {
    fn of_machine() -> Self {
        let names = |folder: &str| {
            let entries = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        let network = |process: String| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        Self {
            cables: names("/sys/class/net").filter(|name| name.starts_with("mesh")).collect(),
            networks: names("/proc")
                .filter_map(network)
                .map(|link| link.to_string_lossy().into_owned())
                .collect(),
        }
    }

    fn without(&self, others: &Self) -> Self {
        Self { cables: &self.cables - &others.cables, networks: &self.networks - &others.networks }
    }
}

/// Of what was made nothing is there, and no program that names the folder.
async fn nothing_left(made: &Traces, folder: &Path) {
    until("the data plane to be gone", LIMIT, async || {
        let now = Traces::of_machine();
        let cables: Vec<_> = made.cables.intersection(&now.cables).collect();
        let networks: Vec<_> = made.networks.intersection(&now.networks).collect();
        let processes = leftovers::processes_of(&folder.to_string_lossy());
        match cables.is_empty() && networks.is_empty() && processes == 0 && !folder.exists() {
            true => Ok(()),
            false => Err(format!("{cables:?}, {networks:?}, {processes} processes, {folder:?}")),
        }
    })
    .await
    .unwrap();
}
