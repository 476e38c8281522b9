//! An operator killed at any of its writes, before sending, after commit or after the reply, and
//! started anew: what stands in the end is what an undisturbed rollout leaves, and no namespace was
//! made STRICT twice.
//!
//! A rollout serves many kills, one after the other, each followed by a new operator that waits for
//! the dead one's Lease. Some are killed at every write of a policy (dry runs included), each once;
//! some at every kind of write, Lease, status, reports and events included, that none was killed at
//! before; the others at every seventeenth of all their writes, beginning with a different one each
//! time. The sample has no kinds, and of the others one for each moment, at every forty-first write.
//!
//! WHOLE=1         every kind of write, every beginning and every moment; else a sample
//! ONLY=policies   only the former kind
//! CLUSTERS=3      so many side by side
//! LIMIT=240       seconds from the beginning or the last kill to the end

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Class, Client, Cluster, Edge, Error, FaultProxy, Moment, OperatorOptions, Options, Oracle,
    Recorded, Rollout, Schedule, Server, Stage,
};
use serde_json::{Value, json};

/// Within this the proxy says that a request is held, once it is.
const HELD_SOON: Duration = Duration::from_secs(1);
/// From the beginning of a rollout to its end, after the last kill.
static LIMIT: LazyLock<Duration> = LazyLock::new(|| {
    let given = std::env::var("LIMIT").ok().and_then(|limit| limit.parse().ok());
    Duration::from_secs(given.unwrap_or(240))
});
const LOOKBACK: Duration = Duration::from_secs(6);
const SOAK: Duration = Duration::from_secs(2);
const BAKE: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(2);
const EVIDENCE_AGE: Duration = Duration::from_secs(3);
const STEP: usize = 17;
/// The sample's: three or so of a rollout's writes.
const LONG_STEP: usize = 41;
/// A rollout whose operator dies too often does not end within the limit.
const KILLS_AT_MOST: usize = 10;

/// Where the operator of one rollout is killed.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Nowhere,
    AtPolicies(Moment),
    AtNew(Moment),
    Every { from: usize, step: usize, moment: Moment },
}

/// What one rollout left.
#[derive(Debug, Default)]
struct Left {
    /// Without what differs between any two rollouts.
    objects: BTreeMap<String, Value>,
    killed: Vec<Recorded>,
    writes: Vec<Recorded>,
    wrong: Vec<String>,
}

fn namespaces(name: &str) -> [String; 3] {
    ["one", "two", "three"].map(|stage| format!("{name}-{stage}"))
}

async fn rollout(
    cluster: &Cluster,
    name: &str,
    plan: Plan,
    killed_at: &KilledAt,
) -> Result<Left, Error> {
    // Each begins with nobody leading, as the first one does.
    let agreed = ["delete", "lease,meshfence", "meshrollout", "-n", "meshrollout-system"];
    let agreed = [&agreed[..], &["--ignore-not-found"]].concat();
    cluster.kubectl_text(&agreed).await.map_err(Error::new)?;
    let namespaces = namespaces(name);
    try_join_all(namespaces.iter().map(async |namespace| {
        cluster.namespace(namespace, Injection::Enabled, &[]).await?;
        cluster.deploy(&Workload::new(namespace, "app")).await
    }))
    .await?;
    let edges = namespaces.each_ref().map(|namespace| {
        let client = Client::workload("front", "web");
        cluster.exporter().edge(Edge::new(client, Server::workload(namespace, "app")).rps(40.0))
    });
    let proxy = cluster.fault_proxy(Schedule::QUIET, vec![]).await?;
    let mark = cluster.audit_mark()?;
    let [first, second, third] = namespaces.each_ref().map(String::as_str);
    let stages: [(&str, &[&str]); 3] =
        [("first", &[first]), ("second", &[second]), ("third", &[third])];
    let mut rollout = Rollout::enforce(name, &stages)
        .with("/gates/plaintext/lookback", json!(format!("{}s", LOOKBACK.as_secs())));
    for stage in 0..3 {
        rollout = rollout
            .with(&format!("/stages/{stage}/soak"), json!(format!("{}s", SOAK.as_secs())))
            .with(&format!("/stages/{stage}/bake"), json!(format!("{}s", BAKE.as_secs())));
    }
    cluster.apply_rollout(&rollout).await?;
    let killed = killed_until_enforced(cluster, name, &proxy, plan, killed_at).await?;

    let audit = cluster.audit_since(mark)?;
    let watched = BAKE + SETTLE;
    let stage = |namespace: &String| Stage { namespace: namespace.clone(), watched };
    let stages = namespaces.iter().map(stage).collect();
    let oracle = Oracle::new(name, stages, LOOKBACK, SOAK, EVIDENCE_AGE);
    let judgement = oracle.judge(&audit);
    let mut wrong = judgement.wrong;
    wrong.extend(Oracle::strays(&[oracle], &audit));
    if judgement.strict.values().copied().collect::<Vec<_>>() != [1; 3] {
        wrong.push(format!("made STRICT: {:?}", judgement.strict));
    }
    let objects = objects(cluster, name).await?;
    for edge in edges {
        cluster.exporter().remove(edge);
    }
    cluster.delete("meshrollout", "default", name).await?;
    cluster.kubectl(&["delete", "namespace", "--wait=false", first, second, third]).await?;
    Ok(Left { objects, killed, writes: proxy.recorded(), wrong })
}

/// Keeps an operator running, kills it where the plan says, and ends when all is Enforced.
async fn killed_until_enforced(
    cluster: &Cluster,
    name: &str,
    proxy: &FaultProxy,
    plan: Plan,
    killed_at: &KilledAt,
) -> Result<Vec<Recorded>, Error> {
    let options = OperatorOptions {
        apiserver: Some(proxy.url()),
        config: "drain: 1s\nproxyAcknowledgement: 1s\nleaseDuration: 4s\nrenewDeadline: 2s\n\
                 retryPeriod: 1s\nwriteDeadline: 1s\n"
            .to_owned(),
        ..OperatorOptions::default()
    };
    let mut killed: Vec<Recorded> = vec![];
    let mut begin = Instant::now();
    loop {
        let done: BTreeSet<_> = killed.iter().map(|one| which(one, name)).collect();
        let before: BTreeSet<_> = killed_at.lock().unwrap().clone();
        let own = name.to_owned();
        let held =
            match plan {
                Plan::Nowhere => None,
                _ if killed.len() >= KILLS_AT_MOST => None,
                Plan::AtPolicies(moment) => Some(proxy.hold(moment, move |one| {
                    let is_policy = matches!(one.class, Class::Policy | Class::DryRun);
                    is_policy && !done.contains(&which(one, &own))
                })),
                Plan::AtNew(moment) => Some(proxy.hold(moment, move |one| {
                    !before.contains(&(moment as usize, which(one, &own)))
                })),
                Plan::Every { from, step, moment } => {
                    Some(proxy.hold(moment, move |one| one.number % step == from))
                }
            };
        let held = async {
            match held {
                Some(held) => held.await,
                None => std::future::pending().await,
            }
        };
        // It ends by SIGKILL when this future goes, however far it has come.
        let life = async {
            let mut operator = cluster.operator(&options).await?;
            while operator.check().is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, Error>(())
        };
        let mut held = std::pin::pin!(held);
        let left = LIMIT.saturating_sub(begin.elapsed());
        let at = tokio::select! {
            biased;
            at = &mut held => Some(at),
            // One that met the killed one's Lease may end by itself; a kubelet starts it again. It
            // may have ended where it was to be killed: that write is not made again.
            _ = life => tokio::time::timeout(HELD_SOON, held).await.ok(),
            end = until_all_is_told(cluster, name, left) => {
                end.map_err(|error| Error::new(format!("{error}\nafter {killed:?}")))?;
                return Ok(killed);
            }
        };
        if let Some(at) = at {
            let at = at.map_err(|error| Error::new(error.to_string()))?;
            if let Plan::AtNew(moment) = plan {
                killed_at.lock().unwrap().insert((moment as usize, which(&at, name)));
            }
            killed.push(at);
            begin = Instant::now();
        }
        proxy.go_on();
    }
}

/// Until the rollout and each report say so: whichever is written last, its writer lives until then.
async fn until_all_is_told(cluster: &Cluster, name: &str, limit: Duration) -> Result<(), Error> {
    cluster.until_ready_is(name, "Enforced", limit).await?;
    for namespace in namespaces(name) {
        cluster.until_state_is(name, &namespace, "Enforced", limit).await?;
    }
    Ok(())
}

/// What tells one kind of write of a rollout from another, whatever the rollout's name.
type Kind = (Class, String, String, Option<String>);

/// The kinds of write at which an operator was killed, and in which moment of it.
type KilledAt = Mutex<BTreeSet<(usize, Kind)>>;

fn which(one: &Recorded, rollout: &str) -> Kind {
    let path = match one.class {
        // Their names are made up.
        Class::Event => one.path.split("/events/").next().unwrap_or_default(),
        _ => one.path.as_str(),
    };
    (one.class, one.method.clone(), path.replace(rollout, "…"), one.mode.clone())
}

/// The policies and the reports' states, without times, versions, identities and counts.
async fn objects(cluster: &Cluster, name: &str) -> Result<BTreeMap<String, Value>, Error> {
    const DIFFER: [&str; 9] = [
        "rollout-uid",
        "namespace-uid",
        "epoch",
        "holder",
        "evidence",
        "evidence-time",
        "strict-since",
        "rolled-back-at",
        "rollout",
    ];
    let mut found = BTreeMap::new();
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
    for (namespace, stage) in namespaces(name).iter().zip(["one", "two", "three"]) {
        let resource = ApiResource::from_gvk(&kind);
        let policies: Api<DynamicObject> =
            Api::namespaced_with(cluster.client(), namespace, &resource);
        let all = policies.list(&Default::default()).await;
        let all = all.map_err(|error| Error::new(error.to_string()))?;
        for policy in all.items {
            let annotations: BTreeMap<_, _> = policy
                .annotations()
                .iter()
                .map(|(key, value)| {
                    let differs = DIFFER.iter().any(|name| key.ends_with(&format!("/{name}")));
                    (key.clone(), if differs { "…".to_owned() } else { value.clone() })
                })
                .collect();
            let labels: Vec<_> = policy.labels().keys().collect();
            let told = json!({"spec": policy.data["spec"], "labels": labels,
                "annotations": annotations, "owners": policy.owner_references().len()});
            found.insert(format!("policy {stage}/{}", policy.name_any()), told);
        }
        let report = cluster.report(namespace, name).await?;
        found.insert(format!("report {stage}"), report["status"]["state"].clone());
    }
    Ok(found)
}

struct Turn {
    name: String,
    plan: Plan,
}

async fn lane(
    queue: &Mutex<VecDeque<Turn>>,
    left: &Mutex<Vec<(Turn, Left)>>,
    killed_at: &KilledAt,
) {
    let mut cluster = None;
    loop {
        let Some(turn) = queue.lock().unwrap().pop_front() else { return };
        if cluster.is_none() {
            let new = Cluster::start(Options::default()).await.unwrap();
            new.install().await.unwrap();
            new.namespace("front", Injection::Enabled, &[]).await.unwrap();
            new.deploy(&Workload::new("front", "web")).await.unwrap();
            cluster = Some(new);
        }
        let begin = Instant::now();
        let got = rollout(cluster.as_ref().unwrap(), &turn.name, turn.plan, killed_at).await;
        let got = got.unwrap_or_else(|error| Left {
            wrong: vec![format!("the end was not reached: {error}")],
            ..Left::default()
        });
        println!(
            "{} {:?}: {} kills, {} writes, {} s{}",
            turn.name,
            turn.plan,
            got.killed.len(),
            got.writes.len(),
            begin.elapsed().as_secs(),
            got.wrong.iter().map(|wrong| format!("\n  {wrong}")).collect::<String>()
        );
        if !got.wrong.is_empty() {
            // One tells enough.
            queue.lock().unwrap().clear();
        } else if let (Plan::AtNew(_), false) = (turn.plan, got.killed.is_empty()) {
            // Until it meets nothing new.
            let turn = Turn { name: format!("{}x", turn.name), plan: turn.plan };
            queue.lock().unwrap().push_front(turn);
        }
        left.lock().unwrap().push((turn, got));
    }
}

fn counted(writes: &[Recorded]) -> BTreeMap<Class, usize> {
    let mut counts = BTreeMap::new();
    for one in writes {
        *counts.entry(one.class).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn an_operator_killed_at_any_write_leaves_what_an_undisturbed_one_leaves() {
    let whole = std::env::var("WHOLE").is_ok_and(|whole| whole == "1");
    let mut plans = vec![Plan::Nowhere];
    plans.extend(Moment::ALL.map(Plan::AtPolicies));
    let policies_only = std::env::var("ONLY").is_ok_and(|only| only == "policies");
    if whole {
        plans.extend(Moment::ALL.map(Plan::AtNew));
    }
    for (index, moment) in Moment::ALL.into_iter().enumerate().filter(|_| !policies_only) {
        if whole {
            plans.extend((0..STEP).map(|from| Plan::Every { from, step: STEP, moment }));
        } else {
            // Each moment once, at different beginnings.
            plans.push(Plan::Every { from: 1 + 13 * index, step: LONG_STEP, moment });
        }
    }
    let turns = plans.into_iter().enumerate();
    let queue: VecDeque<_> =
        turns.map(|(number, plan)| Turn { name: format!("k{number}"), plan }).collect();
    let (queue, left) = (Mutex::new(queue), Mutex::new(vec![]));
    let killed_at = Mutex::default();
    let clusters = std::env::var("CLUSTERS").ok().and_then(|count| count.parse().ok()).unwrap_or(3);
    join_all((0..clusters).map(|_| lane(&queue, &left, &killed_at))).await;

    let left = left.into_inner().unwrap();
    let undisturbed = left.iter().find(|(turn, _)| matches!(turn.plan, Plan::Nowhere)).unwrap();
    let wanted = &undisturbed.1.objects;
    println!("an undisturbed rollout's writes: {:?}", counted(&undisturbed.1.writes));
    let all: Vec<_> = left.iter().flat_map(|(_, left)| left.killed.clone()).collect();
    println!("{} kills: {:?}", all.len(), counted(&all));
    assert_eq!(wanted.len(), 6, "{wanted:?}");
    let mut failures = vec![];
    for (turn, got) in &left {
        let told = format!("{} {:?}, killed at {:?}", turn.name, turn.plan, got.killed);
        failures.extend(got.wrong.iter().map(|wrong| format!("{told}: {wrong}")));
        if got.objects != *wanted {
            failures.push(format!("{told}: left {:#?}\ninstead of {wanted:#?}", got.objects));
        }
        if let Plan::AtPolicies(_) = turn.plan {
            // A pin, a trial of the way back and STRICT, in three namespaces.
            if got.killed.len() != 9 {
                failures.push(format!("{told}: not nine kills"));
            }
        }
    }
    if whole {
        let killed_at = killed_at.into_inner().unwrap();
        let undisturbed = &undisturbed.1.writes;
        let kinds: BTreeSet<_> = undisturbed.iter().map(|one| which(one, "k0")).collect();
        println!("{} kinds of write, each at {} moments", kinds.len(), Moment::ALL.len());
        let all = kinds.iter().flat_map(|kind| Moment::ALL.map(|at| (at as usize, kind.clone())));
        let spared = all.filter(|one| !killed_at.contains(one));
        failures.extend(spared.map(|one| format!("nobody was killed at {one:?}")));
    }
    for (turn, got) in &left {
        if let (Plan::Every { .. }, true) = (turn.plan, got.killed.is_empty()) {
            failures.push(format!("{} {:?}: nobody was killed", turn.name, turn.plan));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
