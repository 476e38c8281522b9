//! Other hands: whoever changes, deletes or makes a policy between our last read and our write, and
//! whoever puts its own value back again and again.

use std::time::Duration;

use crate::fence::fence;
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Class, Client, Cluster, Edge, FaultProxy, GUARD, Moment, OPERATOR_USER, Operator,
    OperatorOptions, Options, Recorded, Rollout, Schedule, Server, until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);
/// By the version or the place; by the fence where the operator had given it up meanwhile.
const REFUSED: [u16; 3] = [403, 404, 409];

async fn cluster() -> Cluster {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    // What happens where no guard keeps others out.
    cluster.install_without(&[GUARD]).await.unwrap();
    cluster.front().await.unwrap();
    cluster
}

/// Sets the mode of a policy as another field manager would.
async fn set(cluster: &Cluster, namespace: &str, mode: &str) -> Result<(), String> {
    let object = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"mtls": {"mode": mode}},
    });
    let file = cluster.folder().join(format!("set-{namespace}.json"));
    std::fs::write(&file, object.to_string()).unwrap();
    let file = file.display().to_string();
    let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=house-rules", "-f"];
    cluster.kubectl_text(&[&args[..], &[&file]].concat()).await.map(drop)
}

async fn operator(cluster: &Cluster) -> (Operator, FaultProxy) {
    let proxy = cluster.fault_proxy(Schedule::QUIET, vec![]).await.unwrap();
    let options = OperatorOptions { apiserver: Some(proxy.url()), ..OperatorOptions::default() };
    (cluster.operator(&options).await.unwrap(), proxy)
}

/// Holds the next write of this mode on its way, does `meanwhile`, lets it go on, and yields what
/// the apiserver answered.
async fn meanwhile(
    proxy: &FaultProxy,
    begin: impl AsyncFnOnce(),
    mode: &'static str,
    meanwhile: impl AsyncFnOnce(),
) -> u16 {
    let held = proxy.hold(Moment::InFlight, move |one: &Recorded| {
        one.class == Class::Policy && one.mode.as_deref() == Some(mode)
    });
    begin().await;
    let held = tokio::time::timeout(LIMIT, held).await.expect("such a write").unwrap();
    meanwhile().await;
    proxy.go_on();
    until("the write to be answered", LIMIT, async || {
        proxy.recorded()[held.number].status.ok_or_else(|| "not yet".to_owned())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_policy_that_changed_between_read_and_write_is_proved_again() {
    let cluster = &cluster().await;
    cluster.called(&["edited", "deleted", "created", "harmless"]).await.unwrap();
    let (operator, proxy) = operator(cluster).await;
    let rollout = |name: &str| Rollout::enforce(name, &[("only", &[name])]);

    // Created: somebody was first; ours is not made, and theirs is left alone.
    let apply = async || cluster.apply_rollout(&rollout("created")).await.unwrap();
    let theirs = async || set(cluster, "created", "PERMISSIVE").await.unwrap();
    assert!(REFUSED.contains(&meanwhile(&proxy, apply, "PERMISSIVE", theirs).await));
    let ready = cluster.until_ready_is("created", "PolicyOwnedByOther", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.contains("house-rules"), "{ready:?}");

    // Edited: drift is named, and nobody fights.
    let apply = async || cluster.apply_rollout(&rollout("edited")).await.unwrap();
    let theirs = async || set(cluster, "edited", "STRICT").await.unwrap();
    assert!(REFUSED.contains(&meanwhile(&proxy, apply, "STRICT", theirs).await));
    let ready = cluster.until_ready_is("edited", "PolicyDrifted", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(ready.message.contains("house-rules"), "{ready:?}");
    assert_eq!(cluster.policy_mode("edited").await.unwrap().as_deref(), Some("STRICT"));

    // Deleted: the write does not make it anew as STRICT; a pin comes first, and a soak.
    let mark = cluster.audit_mark().unwrap();
    let apply = async || cluster.apply_rollout(&rollout("deleted")).await.unwrap();
    let gone = async || cluster.delete("peerauthentication", "deleted", "default").await.unwrap();
    let answer = meanwhile(&proxy, apply, "STRICT", gone).await;
    assert!(REFUSED.contains(&answer), "{answer}");
    let ready = cluster.until_ready_is("deleted", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let policies = cluster.audit_since(mark).unwrap().of("peerauthentications").within("deleted");
    let stored = policies.writes().by(OPERATOR_USER).accepted().modes_written();
    let [pin, again, strict] =
        ["PERMISSIVE", "PERMISSIVE", "STRICT"].map(|mode| format!("deleted/default {mode}"));
    assert_eq!(stored, [pin, again, strict]);

    // A label that somebody put on it changes nothing of what was proven, but the version: the
    // write meets another version, is proved again, and then goes through.
    let apply = async || cluster.apply_rollout(&rollout("harmless")).await.unwrap();
    let label = async || {
        let args = ["label", "peerauthentication", "default", "-n", "harmless", "team=pay"];
        cluster.kubectl_text(&args).await.unwrap();
    };
    assert!(REFUSED.contains(&meanwhile(&proxy, apply, "STRICT", label).await));
    let ready = cluster.until_ready_is("harmless", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    operator.stop().await.unwrap();
}

#[tokio::test]
async fn what_arrives_long_after_it_was_given_up_is_refused() {
    let cluster = &cluster().await;
    cluster.called(&["late", "pinned"]).await.unwrap();
    cluster.namespace("legacy", Injection::Absent, &[]).await.unwrap();
    cluster.deploy(&Workload::new("legacy", "batch")).await.unwrap();
    let (operator, proxy) = operator(cluster).await;
    let detained = detain(&proxy, "STRICT");
    // Long enough for plaintext that begins meanwhile to be seen before STRICT is tried again.
    let rollout = Rollout::enforce("late", &[("only", &["late"])]);
    cluster.apply_rollout(&rollout.with("/stages/0/soak", json!("12s"))).await.unwrap();
    let number = detained.await;
    // The operator gives it up and goes on looking; then somebody calls in plaintext.
    let batch = Client::workload("legacy", "batch");
    let plaintext = Edge::new(batch, Server::workload("late", "app")).rps(40.0).plaintext();
    cluster.exporter().edge(plaintext);
    let blocked = cluster.until_state_is("late", "late", "Blocked", LIMIT).await;
    blocked.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(arrived(&proxy, number).await, 403, "{}", operator.log());
    assert_eq!(cluster.policy_mode("late").await.unwrap().as_deref(), Some("PERMISSIVE"));

    // A pin that nothing stands in the way of, in a mesh that somebody makes STRICT meanwhile.
    let before = fence(cluster).await;
    let detained = detain(&proxy, "PERMISSIVE");
    cluster.apply_rollout(&Rollout::enforce("pinned", &[("only", &["pinned"])])).await.unwrap();
    let number = detained.await;
    cluster.peer_authentication("istio-system", "default", "STRICT").await.unwrap();
    until("a new reign", LIMIT, async || match fence(cluster).await {
        now if now > before => Ok(()),
        now => Err(format!("{now:?}\n{}", operator.log())),
    })
    .await
    .unwrap();
    assert_eq!(arrived(&proxy, number).await, 403, "{}", operator.log());
    assert_eq!(cluster.policy_mode("pinned").await.unwrap(), None);
    operator.stop().await.unwrap();
}

/// Detains the next write of this mode: its sender hears nothing more of it. Yields its number.
fn detain(proxy: &FaultProxy, mode: &'static str) -> impl Future<Output = usize> {
    let detained = proxy.hold(Moment::Detained, move |one: &Recorded| {
        one.class == Class::Policy && one.mode.as_deref() == Some(mode)
    });
    async { tokio::time::timeout(LIMIT, detained).await.expect("such a write").unwrap().number }
}

/// Lets it go on, and yields what the apiserver answered.
async fn arrived(proxy: &FaultProxy, number: usize) -> u16 {
    proxy.arrive();
    until("the late write to be answered", LIMIT, async || {
        proxy.recorded()[number].status.ok_or_else(|| "not yet".to_owned())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn another_writer_that_puts_its_value_back_every_second_is_named_and_not_fought() {
    let cluster = &cluster().await;
    cluster.called(&["contested"]).await.unwrap();
    let (operator, _proxy) = operator(cluster).await;
    let rollout = Rollout::enforce("contested", &[("only", &["contested"])])
        .with("/stages/0/bake", json!("10m"));
    cluster.apply_rollout(&rollout).await.unwrap();
    until("STRICT", LIMIT, async || match cluster.policy_mode("contested").await.unwrap() {
        Some(mode) if mode == "STRICT" => Ok(()),
        other => Err(format!("{other:?}\n{}", operator.log())),
    })
    .await
    .unwrap();
    let mark = cluster.audit_mark().unwrap();
    // Alternating values, so that each is a write.
    let mut fights = 0;
    let watching = async {
        let ready = cluster.until_ready_is("contested", "PolicyDrifted", LIMIT).await;
        let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
        assert!(ready.message.contains("house-rules"), "{ready:?}");
        operator.evaluated("contested", 15, LIMIT).await.unwrap();
    };
    // Ten fights at least, and fifteen evaluations.
    let (ten, enough) = tokio::sync::oneshot::channel();
    let mut ten = Some(ten);
    let fighting = async {
        let mut turn = tokio::time::interval(Duration::from_secs(1));
        loop {
            turn.tick().await;
            let mode = if fights % 2 == 0 { "PERMISSIVE" } else { "DISABLE" };
            set(cluster, "contested", mode).await.unwrap();
            fights += 1;
            if fights >= 10
                && let Some(ten) = ten.take()
            {
                let _ = ten.send(());
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(watching, enough) } => {}
        () = fighting => {}
    }
    let audit = cluster.audit_since(mark).unwrap().by(OPERATOR_USER).writes();
    let policies = audit.clone().of("peerauthentications").accepted();
    println!("{fights} writes of the other hand, {} policies of ours", policies.count());
    assert_eq!(policies.count(), 0, "{}", policies.summary());
    // Status and report may tell each new value, and no more than that.
    let told = audit.of("meshrollouts").count();
    assert!(told <= 2 * fights + 2, "{told} for {fights}");
    let shown: Value = cluster.rollout("contested").await.unwrap();
    assert!(shown["status"].to_string().contains("house-rules"), "{shown:#}");
    operator.stop().await.unwrap();
}
