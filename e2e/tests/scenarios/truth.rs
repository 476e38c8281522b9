//! Is what we say of a mesh what istiod makes of it?
//!
//! Meshes that follow from a seed are put into a real cluster. What the core says of each server's
//! mode and each client's TLS, on the snapshot that the operator's own watches make, is compared
//! with what the real istiod sends to the proxies: inbound filter chains, outbound clusters,
//! endpoints.
//!
//! MESHES=500      so many; each is a namespace's policies and rules with the whole mesh's
//! SEED=n          that batch alone

mod mesh;
mod sent;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, ResourceExt};
use meshrollout::observe::objects::Objects;
use meshrollout_core::call::{Bytes, Call};
use meshrollout_core::ident::{Labels, Namespace, Port};
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::traffic::Telemetry;
use meshrollout_core::workload;
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, Options, until};
use sent::Sent;
use serde_json::{Value, json};

const GROUPS: usize = 20;
const LIMIT: Duration = Duration::from_secs(150);
/// istiod watches each kind by itself, and a Service's endpoints follow its pods: what it sends may
/// be of a mesh that is not yet the whole one for so long.
const SETTLES: Duration = Duration::from_secs(20);

/// A meshed pod that asks as its proxy would.
struct Proxy {
    namespace: Namespace,
    labels: Labels,
}

struct World {
    cluster: Cluster,
    objects: Objects,
    proxies: Vec<Proxy>,
    asked: Value,
    /// Whether the pod at an address has a sidecar.
    meshed: BTreeMap<String, bool>,
}

/// What was compared, by what came out.
#[derive(Clone, Default)]
struct Tally {
    modes: BTreeMap<Mode, usize>,
    wires: BTreeMap<&'static str, usize>,
}

fn kinds() -> [ApiResource; 2] {
    let kind = |group, kind| ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    [
        kind("security.istio.io", "PeerAuthentication"),
        kind("networking.istio.io", "DestinationRule"),
    ]
}

impl World {
    async fn open() -> Self {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        for group in 0..GROUPS {
            let name = mesh::namespace(group);
            cluster.namespace(&name, Injection::Enabled, &[]).await.unwrap();
        }
        let all: Vec<_> = (0..GROUPS).flat_map(mesh::group).collect();
        cluster.apply(&all).await.unwrap();
        let pods = Api::<Pod>::all(cluster.client());
        let running = until("all pods to run", LIMIT, async || {
            let list = pods.list(&ListParams::default().labels("part=all")).await;
            let list = list.map_err(|error| error.to_string())?.items;
            let ready = |pod: &&Pod| {
                let status = pod.status.as_ref();
                let conditions = status.and_then(|status| status.conditions.as_ref());
                conditions.is_some_and(|all| {
                    all.iter().any(|one| one.type_ == "Ready" && one.status == "True")
                })
            };
            match list.iter().filter(ready).count() {
                count if count == 2 * GROUPS => Ok(list),
                count => Err(format!("{count} do")),
            }
        });
        let running = running.await.unwrap();
        let address = |pod: &Pod| pod.status.as_ref().and_then(|it| it.pod_ip.clone()).unwrap();
        let is_meshed = |pod: &&Pod| pod.labels()["app"] == "app";
        let ask = |pod: &Pod| {
            json!({"pod": pod.name_any(), "namespace": pod.namespace(), "ip": address(pod),
                "labels": pod.labels()})
        };
        let proxies = running.iter().filter(is_meshed).map(|pod| Proxy {
            namespace: Namespace::new(pod.namespace().unwrap()),
            labels: pod
                .labels()
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
        });
        let objects = Objects::watch(cluster.client(), SignedDuration::from_secs(90));
        objects.ready(LIMIT).await.unwrap();
        Self {
            proxies: proxies.collect(),
            asked: running.iter().filter(is_meshed).map(ask).collect(),
            meshed: running.iter().map(|pod| (address(pod), is_meshed(&pod))).collect(),
            cluster,
            objects,
        }
    }

    /// Takes away what the batch before left, and puts this one there.
    async fn replace(&self, objects: &[Value]) {
        for resource in kinds() {
            let all = Api::<DynamicObject>::all_with(self.cluster.client(), &resource);
            let old = all.list_metadata(&ListParams::default()).await.unwrap();
            try_join_all(old.iter().map(async |one| {
                let namespace = one.namespace().unwrap_or_default();
                let client = self.cluster.client();
                let here = Api::<DynamicObject>::namespaced_with(client, &namespace, &resource);
                here.delete(&one.name_any(), &Default::default()).await.map(drop)
            }))
            .await
            .unwrap();
        }
        self.cluster.apply(objects).await.unwrap();
    }

    /// The snapshot that shows exactly these objects.
    async fn seen(&self, objects: &[Value]) -> Snapshot {
        let name = |one: &Value| one["metadata"]["name"].as_str().unwrap().to_owned();
        let wanted: BTreeSet<_> = objects.iter().map(name).collect();
        until("the watches to show the batch", LIMIT, async || {
            let now = Timestamp::now();
            let length = SignedDuration::from_secs(60);
            let cause = Cause::NotRead("a metrics source".into());
            let telemetry = Telemetry::unknown(now, length, length, &cause);
            let snapshot = self.objects.snapshot(now, Arc::new(telemetry));
            let policies = snapshot.policies.all().map(|one| one.name.clone());
            let namespaces = (0..GROUPS).map(|group| Namespace::new(mesh::namespace(group)));
            let namespaces: Vec<_> = namespaces.chain(["istio-system".into()]).collect();
            let rules = namespaces.iter().flat_map(|name| snapshot.rules.of(name));
            let shown: BTreeSet<_> = policies.chain(rules.map(|one| one.name.clone())).collect();
            if shown == wanted { Ok(snapshot) } else { Err(format!("{} shown", shown.len())) }
        })
        .await
        .unwrap()
    }

    /// What istiod sends, once it has heard of a thing that was made after all others.
    async fn sent(&self, marker: &str) -> Vec<Sent> {
        let host = format!("{marker}.marker.test");
        let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"namespace": "istio-system", "name": "marker"},
            "spec": {"hosts": [host], "location": "MESH_EXTERNAL", "resolution": "NONE",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}});
        self.cluster.apply(&[entry]).await.unwrap();
        let name = format!("outbound|80||{host}");
        until("istiod to have heard of everything", LIMIT, async || {
            let all = self.cluster.xds(&self.asked).await.map_err(|error| error.to_string())?;
            let all: Vec<_> = all.into_iter().map(Sent).collect();
            let heard = all.iter().all(|one| one.clusters().contains_key(name.as_str()));
            if heard { Ok(all) } else { Err("no marker yet".to_owned()) }
        })
        .await
        .unwrap()
    }

    /// Where what we say and what istiod sends still differ once it has settled.
    async fn lasting(&self, snapshot: &Snapshot, marker: &str, tally: &mut Tally) -> Vec<String> {
        let until = Instant::now() + SETTLES;
        loop {
            let mut counted = tally.clone();
            let all = self.differences(snapshot, &self.sent(marker).await, &mut counted);
            if all.is_empty() || Instant::now() > until {
                *tally = counted;
                return all;
            }
            println!("{marker}: not yet, {}", all.join("\n"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn differences(&self, snapshot: &Snapshot, sent: &[Sent], tally: &mut Tally) -> Vec<String> {
        let mut all = vec![];
        for (index, (proxy, sent)) in self.proxies.iter().zip(sent).enumerate() {
            self.servers(snapshot, proxy, sent, tally, &mut all);
            for group in [index, index + 1] {
                let server = Namespace::new(mesh::namespace(group % GROUPS));
                self.clients(snapshot, proxy, &server, sent, tally, &mut all);
            }
        }
        all
    }

    fn servers(
        &self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        sent: &Sent,
        tally: &mut Tally,
        all: &mut Vec<String>,
    ) {
        let Proxy { namespace, labels } = proxy;
        for port in mesh::PORTS.into_iter().map(Some).chain([None]) {
            let ours =
                snapshot.policies.effective(namespace, labels, port.map(Port), Some("default"));
            let ours = ours.known().map(|one| (one.mode, one.decided_by.to_string()));
            let theirs = sent.mode(port);
            if ours.as_ref().map(|(mode, _)| Ok(*mode)) == Some(theirs.clone()) {
                *tally.modes.entry(theirs.unwrap()).or_default() += 1;
            } else {
                all.push(format!("{namespace} port {port:?}: we say {ours:?}, istiod {theirs:?}"));
            }
        }
    }

    fn clients(
        &self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        server: &Namespace,
        sent: &Sent,
        tally: &mut Tally,
        all: &mut Vec<String>,
    ) {
        let client = &proxy.namespace;
        let facts = snapshot.namespace(server).expect("each group is there");
        let clusters = sent.clusters();
        for service in &facts.services {
            // Of each group's two workloads one has sidecars.
            let behind: BTreeMap<bool, &workload::Pod> = facts
                .endpoints(service)
                .map(|(workload, pod)| (workload.id.name == "app", pod))
                .collect();
            for port in &service.ports {
                let call = Call {
                    snapshot,
                    policies: &snapshot.policies,
                    client,
                    pod: pod(snapshot, client),
                    facts,
                    service,
                    port,
                };
                for tls in call.rules() {
                    let subset = tls.subset.unwrap_or_default();
                    let name = format!("outbound|{}|{subset}|{}", port.port, service.host);
                    let Some(cluster) = clusters.get(name.as_str()) else {
                        all.push(format!("{client} has no cluster {name}"));
                        continue;
                    };
                    let wire = sent::wire(cluster);
                    // Where endpoints are not told, it is mutual TLS to all of them, or to none.
                    let theirs: Vec<(&workload::Pod, Bytes)> = match service.headless
                        || tls.passthrough
                    {
                        true => {
                            behind.values().map(|pod| (*pod, sent::bytes(&wire, false))).collect()
                        }
                        false => {
                            let told = sent.endpoints(&name).into_iter();
                            let pod = |address| behind[&self.meshed[address]];
                            told.map(|(address, announces)| {
                                (pod(address), sent::bytes(&wire, announces))
                            })
                            .collect()
                        }
                    };
                    for (endpoint, theirs) in theirs {
                        let ours = call.sent(&tls, endpoint);
                        if ours.bytes == theirs {
                            *tally.wires.entry(theirs.name()).or_default() += 1;
                        } else {
                            all.push(format!(
                                "{client} to {name} at {}: we say {ours:?}, istiod {theirs:?}; {tls:?}",
                                endpoint.name
                            ));
                        }
                    }
                }
            }
        }
    }
}

/// The meshed pod of a group.
fn pod<'a>(snapshot: &'a Snapshot, namespace: &Namespace) -> &'a workload::Pod {
    let facts = snapshot.namespace(namespace).expect("each group is there");
    let app = facts.workloads.values().find(|workload| workload.id.name == "app");
    app.and_then(|app| app.running().next()).expect("each group has one")
}

fn number(variable: &str) -> Option<u64> {
    Some(
        std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is no number")),
    )
}

#[tokio::test]
async fn what_we_say_of_a_mesh_is_what_istiod_sends() {
    let begin = Instant::now();
    let meshes = number("MESHES").unwrap_or(500);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..meshes.div_ceil(GROUPS as u64)).collect(),
    };
    let world = World::open().await;
    let (mut tally, mut wrong) = (Tally::default(), vec![]);
    for seed in &seeds {
        let objects = mesh::batch(*seed, GROUPS);
        world.replace(&objects).await;
        let snapshot = world.seen(&objects).await;
        let all = world.lasting(&snapshot, &format!("b{seed}"), &mut tally).await;
        wrong.extend(all.into_iter().map(|one| format!("SEED={seed} {one}")));
        if wrong.len() > 20 {
            break;
        }
    }
    println!(
        "{} meshes in {} s: server modes {:?}, client TLS {:?}",
        seeds.len() * GROUPS,
        begin.elapsed().as_secs(),
        tally.modes,
        tally.wires
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tally.modes.len(), 3, "not every mode came up");
    assert_eq!(tally.wires.len(), 4, "not every kind of client TLS came up");
}
