//! Leaders that change in the middle of writes: whoever was deposed writes nothing any more.
//!
//! Several replicas, each behind a proxy of its own that stops it at its next write of a policy:
//! on its way to the apiserver, between commit and reply, or after the reply. Then the process is
//! stopped, another replica takes over, the write goes on, and the process too. The audit log says
//! whose writes were accepted, in the order in which they were stored.
//!
//! SWAPS=12      so many changes of the leader with the fence on
//! CLUSTERS=2    so many side by side

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{
    Audit, Class, Cluster, FaultProxy, Moment, OPERATOR_USER, Operator, OperatorOptions, Options,
    Recorded, Reigns, Rollout, Schedule, until,
};
use serde_json::json;
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(120);
/// How often those that have ended are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// As a Lease counts: whole seconds.
const TIMES: &str = "drain: 1s\nproxyAcknowledgement: 1s\nleaseDuration: 4s\nrenewDeadline: 2s\n\
                     retryPeriod: 1s\nwriteDeadline: 1s\n";

/// One replica, and the hold that waits for its next write.
struct Replica {
    operator: Operator,
    proxy: FaultProxy,
    held: oneshot::Receiver<Recorded>,
}

impl Replica {
    async fn start(cluster: &Cluster, moment: Moment, fence: bool) -> Self {
        let proxy = cluster.fault_proxy(Schedule::QUIET, vec![]).await.unwrap();
        let held = hold(&proxy, moment);
        let options = OperatorOptions {
            apiserver: Some(proxy.url()),
            config: format!("{TIMES}fence: {fence}\n"),
            ..OperatorOptions::default()
        };
        let operator = cluster.operator(&options).await.unwrap();
        Self { operator, proxy, held }
    }

    /// SIGSTOP or SIGCONT.
    async fn signal(&self, signal: &str) {
        let process = self.operator.process_id().to_string();
        let status = tokio::process::Command::new("kill").args([signal, &process]).status().await;
        assert!(status.unwrap().success());
    }
}

/// One that missed a renewal ends by itself, and a kubelet starts it anew.
async fn start_the_ended(cluster: &Cluster, fleet: &mut Vec<Replica>, fence: bool) {
    for replica in fleet {
        if replica.operator.check().is_err() {
            *replica = Replica::start(cluster, Moment::InFlight, fence).await;
        }
    }
}

fn hold(proxy: &FaultProxy, moment: Moment) -> oneshot::Receiver<Recorded> {
    proxy.hold(moment, |one| one.class == Class::Policy)
}

/// The operator's accepted writes, and of those the ones by a replica that the fence named no more
/// when they were stored.
fn deposed(audit: &Audit) -> (usize, Vec<String>) {
    let reigns = Reigns::of(audit);
    let writes = audit.clone().of("peerauthentications").writes().by(OPERATOR_USER).accepted();
    let wrong = writes.events().filter_map(|event| {
        let why = reigns.deposed(event.response_object.as_ref().expect("what was stored"))?;
        Some(format!("{} {why}", event.object()))
    });
    let wrong = wrong.collect();
    (writes.count(), wrong)
}

async fn leader(cluster: &Cluster) -> Result<String, String> {
    let args = ["get", "meshfence", "meshrollout", "-n", "meshrollout-system"];
    let holder = [&args[..], &["-o", "jsonpath={.spec.holder}"]].concat();
    cluster.kubectl_text(&holder).await
}

/// Waits until the admission plugin, which hears of a reign by a watch of its own, refuses all
/// stamps but this leader's: until then it may let the reign before pass.
async fn until_heard(cluster: &Cluster, leader: &str) {
    let probe = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "probe", "namespace": "n000",
            "annotations": {"meshrollout.dev/holder": "nobody", "meshrollout.dev/epoch": "0"}},
        "spec": {"mtls": {"mode": "PERMISSIVE"}},
    });
    let file = cluster.folder().join("probe.json");
    std::fs::write(&file, probe.to_string()).unwrap();
    let (file, as_operator) = (file, cluster.kubeconfig_for(OPERATOR_USER, None).unwrap());
    let (file, as_operator) = (file.display().to_string(), as_operator.display().to_string());
    let args = ["create", "--dry-run=server", "-f", &file, "--kubeconfig", &as_operator];
    let leads = format!("{leader} leads");
    until("the new reign to be heard", LIMIT, async || match cluster.kubectl_text(&args).await {
        Err(why) if why.contains(&leads) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

/// What a run of swaps showed.
#[derive(Debug, Default)]
struct Run {
    swaps: usize,
    accepted: usize,
    /// Writes of a deposed leader, by what the apiserver answered.
    late: BTreeMap<u16, usize>,
    deposed: Vec<String>,
    longest: Duration,
}

async fn run(swaps: usize, replicas: usize, fence: bool) -> Run {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    if !fence {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            cluster.delete(kind, "default", "meshrollout-fence").await.unwrap();
        }
    }
    // Whether a late write meets the fence, or first an object that has changed, is chance: up to
    // twice as many swaps until one has.
    let most = if fence { 2 * swaps } else { swaps };
    // A pin each: as many writes as swaps.
    let names: Vec<_> = (0..most + 2).map(|number| format!("n{number:03}")).collect();
    for chunk in names.chunks(16) {
        join_all(chunk.iter().map(async |name| {
            cluster.namespace(name, Injection::Enabled, &[]).await.unwrap();
        }))
        .await;
    }
    let mark = cluster.audit_mark().unwrap();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    cluster.apply_rollout(&Rollout::enforce("swaps", &[("only", &names)])).await.unwrap();

    // Most are caught on their way: those are the writes that only the fence can stop.
    let moments = [
        Moment::InFlight,
        Moment::AfterCommit,
        Moment::InFlight,
        Moment::InFlight,
        Moment::AfterReply,
    ];
    let mut moments = moments.into_iter().cycle();
    let mut fleet = vec![];
    for _ in 0..replicas {
        fleet.push(Replica::start(&cluster, moments.next().unwrap(), fence).await);
    }
    let mut told = Run::default();
    for swap in 0..most {
        if swap >= swaps && told.late.contains_key(&403) {
            break;
        }
        let waiting = Instant::now();
        let old = loop {
            let caught = fleet.iter_mut().enumerate().map(|(index, replica)| {
                Box::pin(async move { (&mut replica.held).await.map(|_| index) })
            });
            let caught = futures::future::select_all(caught);
            if let Ok((caught, ..)) = tokio::time::timeout(LOOK, caught).await {
                break fleet.remove(caught.unwrap());
            }
            if waiting.elapsed() > LIMIT {
                let logs: Vec<_> = fleet.iter().map(|replica| replica.operator.log()).collect();
                panic!("swap {swap}: no replica writes\n{}", logs.join("\n---\n"));
            }
            start_the_ended(&cluster, &mut fleet, fence).await;
        };
        let begin = Instant::now();
        let before = leader(&cluster).await.unwrap();
        old.signal("-STOP").await;
        let now = loop {
            match leader(&cluster).await {
                Ok(now) if now != before => break now,
                other => assert!(begin.elapsed() < LIMIT, "{before} leads still: {other:?}"),
            }
            start_the_ended(&cluster, &mut fleet, fence).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        told.longest = told.longest.max(begin.elapsed());
        if fence {
            until_heard(&cluster, &now).await;
        }
        // First the write that was on its way, then the process, which must find out by itself.
        old.proxy.go_on();
        let late = until("the late write to be answered", LIMIT, async || {
            let all = old.proxy.recorded();
            let write = all.iter().find(|one| one.class == Class::Policy).and_then(|it| it.status);
            write.ok_or_else(|| "not yet".to_owned())
        })
        .await
        .unwrap();
        *told.late.entry(late).or_default() += 1;
        old.signal("-CONT").await;
        told.swaps += 1;
        fleet.push(Replica::start(&cluster, moments.next().unwrap(), fence).await);
        // Whoever was deposed writes nothing more, and ends: a kubelet starts it anew.
        let mut old = old;
        until("the deposed replica to end", LIMIT, async || match old.operator.check() {
            Ok(()) => Err(old.operator.log()),
            Err(_) => Ok(()),
        })
        .await
        .unwrap();
    }
    let audit = cluster.audit_since(mark).unwrap();
    (told.accepted, told.deposed) = deposed(&audit);
    told
}

#[tokio::test]
async fn a_deposed_leader_writes_nothing() {
    let number = |name: &str, otherwise: usize| {
        std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(otherwise)
    };
    let (swaps, clusters) = (number("SWAPS", 12), number("CLUSTERS", 2));
    let runs = (0..clusters).map(|index| run(swaps.div_ceil(clusters), 2 + index % 2, true));
    let mut wrong = vec![];
    for told in join_all(runs).await {
        println!("{told:?}");
        assert!(told.accepted > 0 && told.late.contains_key(&403), "{told:?}");
        wrong.extend(told.deposed);
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The same without the fence: what it is there for.
#[tokio::test]
async fn without_the_fence_a_deposed_leader_does_write() {
    let told = run(5, 2, false).await;
    println!("{told:?}");
    assert!(!told.deposed.is_empty(), "then the test above proves nothing: {told:?}");
}
