//! The cluster's objects: watched for looking, read again for writing.

mod kind;
mod pulse;
mod read;
mod store;
mod table;
mod watch;

pub use read::ReadError;
pub(crate) use watch::renewed;

use crate::api;
use crate::observe::sidecars::Whose;
use crate::translate::process::Process;
use jiff::{SignedDuration, Timestamp};
use kind::{Kind, Visitor};
use kube::{Client, Resource};
use meshrollout_core::ident::Namespace;
use meshrollout_core::ident::PodRef;
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::{Snapshot, Source};
use meshrollout_core::traffic::Telemetry;
use pulse::Pulse;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

/// A process that exposes metrics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    /// Its pod.
    pub(crate) pod: PodRef,
    /// What it is.
    pub(crate) whose: Whose,
    /// Where it is, and since when.
    pub(crate) process: Process,
}

/// Everything that is watched. A clone is another handle on the same watches; they end with the
/// last.
#[derive(Clone)]
pub struct Objects {
    shared: Arc<Shared>,
    pulses: Arc<[Arc<Pulse>]>,
    stale_after: SignedDuration,
    _tasks: Arc<JoinSet<()>>,
}

struct Shared {
    store: Mutex<Store>,
    changed: channel::Sender<u64>,
}

/// The watches while they are begun.
struct Beginning {
    client: Client,
    shared: Arc<Shared>,
    patience: Duration,
    pulses: Vec<Arc<Pulse>>,
    tasks: JoinSet<()>,
}

impl Objects {
    /// Begins all watches; to be called within a tokio runtime. A watch without a sign of life for
    /// `stale_after` is stale. It is reconnected three times within that, so it has to be 3 s at
    /// least.
    pub fn watch(client: Client, stale_after: SignedDuration) -> Self {
        let shared = Shared { store: Mutex::default(), changed: channel::Sender::new(0) };
        let mut watches = Beginning {
            client,
            shared: Arc::new(shared),
            patience: Duration::try_from(stale_after).unwrap_or_default(),
            pulses: vec![],
            tasks: JoinSet::new(),
        };
        kind::each(&mut watches);
        Self {
            shared: watches.shared,
            pulses: watches.pulses.into(),
            stale_after,
            _tasks: Arc::new(watches.tasks),
        }
    }

    /// Waits until every first list has arrived, but no longer than `limit`; then the kinds that
    /// are missing are named.
    pub async fn ready(&self, limit: Duration) -> Result<(), Vec<Cause>> {
        let mut changed = self.changed();
        let all_listed = changed.wait_for(|_| self.pulses.iter().all(|pulse| pulse.is_answered()));
        match tokio::time::timeout(limit, all_listed).await {
            // The sender is ours and lives as long as we do.
            Ok(_) => Ok(()),
            Err(_) => {
                let missing = self.pulses.iter().filter(|pulse| !pulse.is_answered());
                let now = Timestamp::now();
                Err(missing.filter_map(|pulse| pulse.stale(now, self.stale_after)).collect())
            }
        }
    }

    /// Counts the changes that a snapshot would show.
    pub fn changed(&self) -> channel::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The cluster as the watches have told it: good for looking.
    pub fn snapshot(&self, now: Timestamp, telemetry: Arc<Telemetry>) -> Snapshot {
        let stale =
            self.pulses.iter().filter_map(|pulse| pulse.stale(now, self.stale_after)).collect();
        self.shared.store().snapshot(now, telemetry, stale)
    }

    /// Every proxy of the mesh and every control plane, as far as it can be reached.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.shared.store().targets()
    }

    /// Whether it is still there: its address may be another's by now.
    pub(crate) fn is_there(&self, target: &Target) -> bool {
        self.shared.store().process(&target.pod) == Some(&target.process)
    }

    /// Which definitions of our own kinds, by name, are not this operator's; none before they have
    /// come, and without them everything holds.
    pub fn foreign_definitions(&self) -> Vec<String> {
        self.shared.store().differing(api::fingerprints())
    }

    /// A policy that was read by itself: it counts until the watch has told as much.
    pub fn has_read(&self, policy: Policy) {
        self.shared.store().has_read(policy);
    }

    /// The same with all that a write in `namespace` stands on just read from the apiserver: the
    /// namespace with its pods, workloads, Services and WorkloadEntries, all PeerAuthentications,
    /// DestinationRules and Telemetries, the mesh configuration, the injectors, and what leads
    /// callers from outside the mesh into it.
    ///
    /// `now` is the time before the first read: nothing in the snapshot is older, save for what
    /// the watches say of other namespaces. Without any one answer there is no snapshot.
    pub async fn quorum(
        &self,
        client: &Client,
        namespace: &Namespace,
        now: Timestamp,
        telemetry: Arc<Telemetry>,
    ) -> Result<Snapshot, ReadError> {
        let mut fresh = read::read(client, namespace).await?;
        let foreign = fresh.differing(api::fingerprints());
        if !foreign.is_empty() {
            return Err(ReadError::Foreign(foreign.join(", ")));
        }
        let watched = self.snapshot(now, telemetry);
        fresh.is_told_domain(self.shared.store().domain());
        let mut snapshot = fresh.mesh_wide(Snapshot { source: Source::Quorum, ..watched });
        match fresh.namespace(namespace) {
            Some(facts) => drop(snapshot.namespaces.insert(namespace.clone(), facts)),
            None => drop(snapshot.namespaces.remove(namespace)),
        }
        let watches = self.pulses.iter().filter(|pulse| !read::WHOLE.contains(&pulse.kind()));
        snapshot.stale = watches.filter_map(|pulse| pulse.stale(now, self.stale_after)).collect();
        Ok(snapshot)
    }
}

impl Visitor for Beginning {
    fn visit<K, T>(&mut self, kind: Kind<K, T>)
    where
        K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()> + Send + Sync + 'static,
        T: PartialEq + Send + 'static,
    {
        let pulse = Arc::new(Pulse::new(kind.name, kind.is_optional));
        self.pulses.push(pulse.clone());
        let shared = self.shared.clone();
        let watch = watch::Watch { kind, pulse, shared, patience: self.patience };
        self.tasks.spawn(watch.follow(self.client.clone()));
    }
}

/// API groups, and of each the resources that are looked at: everything that is listed and watched.
pub fn looked_at() -> BTreeMap<String, BTreeSet<String>> {
    struct Resources(BTreeMap<String, BTreeSet<String>>);
    impl Visitor for Resources {
        fn visit<K, T>(&mut self, _: Kind<K, T>)
        where
            K: Resource<DynamicType = ()>,
        {
            let of_group = self.0.entry(K::group(&()).into_owned()).or_default();
            of_group.insert(K::plural(&()).into_owned());
        }
    }
    let mut all = Resources(BTreeMap::new());
    kind::each(&mut all);
    all.0
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while an object is filed may leave a table short of it; but its watch ends with
        // the panic and is stale soon.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
