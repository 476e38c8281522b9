//! From a real cluster to a snapshot.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use meshrollout::observe::objects::Objects;
use meshrollout_core::exposure::Caller;
use meshrollout_core::ident::{Labels, Namespace, Port, WorkloadRef};
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::reading::Cause;
use meshrollout_core::snapshot::{Snapshot, Source};
use meshrollout_core::traffic::Telemetry;
use meshrollout_core::workload::{Phase, Proxy, Workload as Facts};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Cluster, Options, Shop, until};
use serde_json::json;
use tokio::sync::OnceCell;

const SHORT: Duration = Duration::from_secs(15);
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(90);

/// The cluster of the tests that leave it in order, with the shop open.
async fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<OnceCell<Cluster>> = LazyLock::new(OnceCell::new);
    CLUSTER
        .get_or_init(async || {
            let cluster = Cluster::start(Options::default()).await.unwrap();
            Shop::open(&cluster).await.unwrap();
            cluster
        })
        .await
}

async fn objects(cluster: &Cluster, stale_after: SignedDuration) -> Objects {
    let objects = Objects::watch(cluster.client(), stale_after);
    objects.ready(SHORT).await.unwrap();
    objects
}

fn unmeasured(now: Timestamp) -> Arc<Telemetry> {
    let cause = Cause::NotRead("a metrics source".into());
    let length = SignedDuration::from_secs(60);
    Arc::new(Telemetry::unknown(now, length, length, &cause))
}

fn look(objects: &Objects) -> Snapshot {
    let now = Timestamp::now();
    objects.snapshot(now, unmeasured(now))
}

/// Waits until a snapshot shows something, looking again after each change only.
async fn seen<T>(objects: &Objects, what: &str, find: impl Fn(&Snapshot) -> Option<T>) -> T {
    let mut changed = objects.changed();
    let search = async {
        loop {
            changed.borrow_and_update();
            if let Some(found) = find(&look(objects)) {
                return found;
            }
            changed.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(SHORT, search).await {
        Ok(found) => found,
        Err(_) => panic!("{what} was not seen; the snapshot: {:#?}", look(objects)),
    }
}

fn workload<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Option<&'a Facts> {
    let facts = snapshot.namespace(&namespace.into())?;
    facts.workloads.get(&WorkloadRef::new(namespace, kind, name))
}

#[tokio::test]
async fn the_shop_is_seen_as_it_is() {
    let cluster = cluster().await;
    let objects = objects(cluster, STALE_AFTER).await;
    let snapshot = look(&objects);

    assert_eq!(snapshot.source, Source::Watches);
    assert_eq!(snapshot.stale, []);
    let mesh = snapshot.mesh.known().unwrap();
    assert_eq!(mesh.roots, ["istio-system".into()]);
    assert!(mesh.auto_mtls);
    assert_eq!(mesh.trust_domain, "cluster.local");
    let injectors = snapshot.injectors.known().unwrap();
    assert!(injectors.iter().any(|one| one.revision == "default"), "{injectors:?}");

    for (namespace, name) in [
        ("frontend", "web"),
        ("orders", "orders"),
        ("catalog", "catalog"),
        ("payments", "payments"),
    ] {
        let found = workload(&snapshot, namespace, "Deployment", name).unwrap();
        let running = cluster.pods(namespace, name).await.unwrap().len();
        assert!(running > 0);
        assert_eq!(found.desired, u32::try_from(running).ok(), "{name}");
        assert_eq!(found.pods.len(), running, "{name}");
        assert!(found.template.is_some());
        for pod in &found.pods {
            let sidecar = Proxy::Sidecar { revision: Some("default".into()), announces_tls: true };
            assert_eq!(pod.proxy, sidecar, "{}", pod.name);
            assert_eq!(pod.phase, Phase::Running);
            assert!(pod.is_ready(), "{}", pod.name);
            assert_eq!(pod.labels.value("app"), Some(name));
            // By the injector's own hand.
            assert_eq!(pod.identity.trust_domain.as_deref(), Some("cluster.local"), "{}", pod.name);
            assert_eq!(pod.inbound.passed_by, None);
        }
        let facts = snapshot.namespace(&namespace.into()).unwrap();
        assert_eq!(facts.labels.value("istio-injection"), Some("enabled"));
        assert!(!facts.uid.as_str().is_empty());
        // By istiod's own hand.
        assert_eq!(facts.roots.as_ref().map(BTreeSet::len), Some(1), "{namespace}");
        let service = facts.services.iter().find(|service| service.name == name).unwrap();
        assert_eq!(service.host.as_str(), format!("{name}.{namespace}.svc.cluster.local"));
        assert_eq!(facts.endpoints(service).count(), running);
    }
    let batch = workload(&snapshot, "legacy", "Deployment", "batch").unwrap();
    assert!(batch.pods.iter().all(|pod| pod.proxy == Proxy::None) && !batch.pods.is_empty());
}

#[tokio::test]
async fn what_is_deployed_and_deleted_is_seen() {
    let cluster = cluster().await;
    let objects = objects(cluster, STALE_AFTER).await;
    cluster.namespace("comes", Injection::Enabled, &[]).await.unwrap();
    let bare = Workload::new("comes", "bare").without_sidecar().replicas(2);
    cluster.deploy(&bare).await.unwrap();
    let proxies = seen(&objects, "the workload without sidecar", |snapshot| {
        let found = workload(snapshot, "comes", "Deployment", "bare")?;
        let ready = found.pods.iter().filter(|pod| pod.is_ready());
        let proxies: Vec<_> = ready.map(|pod| pod.proxy.clone()).collect();
        (proxies.len() == 2).then_some(proxies)
    })
    .await;
    assert_eq!(proxies, [Proxy::None, Proxy::None]);

    // A named target is found by the pods' ports; a Job of a schedule is its CronJob's.
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "comes", "name": "named"},
        "spec": {"selector": {"app": "bare"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.apply(&[service]).await.unwrap();
    let target = seen(&objects, "the Service", |snapshot| {
        let facts = snapshot.namespace(&"comes".into())?;
        facts.services.iter().find(|service| service.name == "named")?.ports[0].target
    })
    .await;
    assert_eq!(target.0, 8080);
    cluster.cron_job("comes", "nightly").await.unwrap();
    cluster.run_job_of("comes", "nightly").await.unwrap();
    let pods = seen(&objects, "the CronJob's pod", |snapshot| {
        Some(workload(snapshot, "comes", "CronJob", "nightly")?.pods.len())
    })
    .await;
    assert_eq!(pods, 1);

    cluster.scale("comes", "bare", 1).await.unwrap();
    seen(&objects, "one pod less", |snapshot| {
        let found = workload(snapshot, "comes", "Deployment", "bare")?;
        (found.desired == Some(1) && found.pods.len() == 1).then_some(())
    })
    .await;
    cluster.kubectl(&["delete", "namespace", "comes", "--wait=false"]).await.unwrap();
    seen(&objects, "the end of the namespace", |snapshot| {
        snapshot.namespace(&"comes".into()).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn istio_objects_are_seen_when_they_come_and_when_they_go() {
    let cluster = cluster().await;
    let objects = objects(cluster, STALE_AFTER).await;
    cluster.namespace("rules", Injection::Absent, &[]).await.unwrap();
    let namespace = Namespace::from("rules");
    cluster.destination_rule("rules", "plain", "web", "DISABLE").await.unwrap();
    let host = seen(&objects, "the DestinationRule", |snapshot| {
        Some(snapshot.rules.of(&namespace).first()?.host.clone())
    })
    .await;
    assert_eq!(host.as_str(), "web.rules.svc.cluster.local");
    cluster.peer_authentication("rules", "default", "STRICT").await.unwrap();
    let mode = seen(&objects, "the PeerAuthentication", |snapshot| {
        Some(snapshot.policies.of(&namespace).first()?.mode.clone())
    })
    .await;
    assert_eq!(mode, Declared::Mode(Mode::Strict));
    cluster
        .apply(&[
            json!({"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry",
                "metadata": {"namespace": "rules", "name": "quiet"},
                "spec": {"metrics": [{"overrides": [{"tagOverrides": {
                    "connection_security_policy": {"operation": "REMOVE"}}}]}]}}),
            json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
                "metadata": {"namespace": "rules", "name": "machine"},
                "spec": {"address": "10.0.0.1", "labels": {"app": "machine"}}}),
            json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
                "metadata": {"namespace": "rules", "name": "narrow"},
                "spec": {"egress": [{"hosts": ["./*"]}]}}),
            json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
                "metadata": {"namespace": "rules", "name": "patch"},
                "spec": {"configPatches": [{"applyTo": "NETWORK_FILTER",
                    "match": {"context": "SIDECAR_INBOUND",
                        "listener": {"filterChain": {"transportProtocol": "raw_buffer"}}},
                    "patch": {"operation": "REMOVE"}}]}}),
            json!({"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
                "metadata": {"namespace": "rules", "name": "fetched"},
                "spec": {"url": "http://modules.rules:8080/a.wasm"}}),
        ])
        .await
        .unwrap();
    let what = seen(&objects, "each of them", |snapshot| {
        let facts = snapshot.namespace(&namespace)?;
        (facts.machines.len() == 1 && facts.machines[0].name == "machine").then_some(())?;
        let scope = snapshot.egress.in_force(&namespace, &Labels::default()).pop()??;
        (scope.name == "narrow"
            && !scope.imports(&namespace, &"orders".into(), &"a".into(), Port(80)))
        .then_some(())?;
        let mut filters = snapshot.inbound_filters.iter();
        filters.find(|filter| filter.namespace == namespace && filter.name == "patch")?;
        let mut calls = snapshot.entrances.known()?.iter();
        calls.find(|call| call.caller == Caller::Proxies && call.service == "modules")?;
        let over = snapshot.overrides.iter().find(|over| over.namespace == namespace)?;
        Some(over.what.clone())
    })
    .await;
    assert!(what.contains("connection_security_policy of REQUEST_COUNT"), "{what}");

    cluster.delete("destinationrule", "rules", "plain").await.unwrap();
    cluster.delete("telemetry", "rules", "quiet").await.unwrap();
    cluster.delete("sidecars.networking.istio.io", "rules", "narrow").await.unwrap();
    cluster.delete("envoyfilter", "rules", "patch").await.unwrap();
    cluster.delete("wasmplugin", "rules", "fetched").await.unwrap();
    seen(&objects, "that they are gone", |snapshot| {
        let no_override = snapshot.overrides.iter().all(|over| over.namespace != namespace);
        let calls = snapshot.entrances.known()?.iter();
        let are_gone = snapshot.egress.is_empty()
            && snapshot.inbound_filters.is_empty()
            && calls.filter(|call| call.caller == Caller::Proxies).count() == 0;
        (snapshot.rules.of(&namespace).is_empty() && no_override && are_gone).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_quorum_read_sees_what_was_made_the_moment_before() {
    let cluster = cluster().await;
    let objects = objects(cluster, STALE_AFTER).await;
    let client = cluster.client();
    cluster.namespace("fresh", Injection::Absent, &[]).await.unwrap();
    let namespace = Namespace::from("fresh");
    for round in 0..5 {
        let name = format!("p{round}");
        cluster.peer_authentication("fresh", &name, "PERMISSIVE").await.unwrap();
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "fresh", "name": name},
            "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
        cluster.apply(&[service]).await.unwrap();
        let now = Timestamp::now();
        let begin = Instant::now();
        let read = objects.quorum(&client, &namespace, now, unmeasured(now)).await;
        let snapshot = read.unwrap();
        println!("quorum read in {:?}", begin.elapsed());
        assert_eq!((snapshot.source, snapshot.at), (Source::Quorum, now));
        assert_eq!(snapshot.stale, []);
        assert_eq!(snapshot.policies.of(&namespace).len(), round + 1);
        let facts = snapshot.namespace(&namespace).unwrap();
        assert!(facts.services.iter().any(|service| service.name == name));
        assert!(!facts.uid.as_str().is_empty());
        // The others are there as the watches know them, the mesh as just read.
        assert!(workload(&snapshot, "orders", "Deployment", "orders").is_some());
        assert!(snapshot.mesh.known().is_some() && snapshot.injectors.known().is_some());
    }
    let gone = Namespace::from("never-was");
    let now = Timestamp::now();
    let snapshot = objects.quorum(&client, &gone, now, unmeasured(now)).await.unwrap();
    assert_eq!(snapshot.namespace(&gone), None);
}

#[tokio::test]
async fn a_quorum_read_needs_rights_and_leans_on_no_watch() {
    let cluster = cluster().await;
    let objects = objects(cluster, STALE_AFTER).await;
    let nobody = client_of(cluster, "nobody").await;
    let now = Timestamp::now();
    let read = objects.quorum(&nobody, &"orders".into(), now, unmeasured(now)).await;
    let error = read.unwrap_err().to_string();
    assert!(error.starts_with("failed to read "), "{error}");

    // Nor do watches without rights get ready, and they say what is missing.
    let blind = Objects::watch(nobody, STALE_AFTER);
    let missing = blind.ready(Duration::from_secs(3)).await.unwrap_err();
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing.len(), 23, "{missing:?}");
    assert!(missing.iter().all(|cause| cause.contains("forbidden")), "{missing:?}");

    // A quorum read leans on them for nothing but the other namespaces, and for what shows
    // afterwards that a policy of ours is STRICT.
    cluster.namespace("seen", Injection::Absent, &[]).await.unwrap();
    cluster.peer_authentication("seen", "default", "PERMISSIVE").await.unwrap();
    cluster.destination_rule("seen", "web", "web", "DISABLE").await.unwrap();
    let (seen, now) = (Namespace::from("seen"), Timestamp::now());
    let read = blind.quorum(&cluster.client(), &seen, now, unmeasured(now)).await;
    let snapshot = read.unwrap();
    assert_eq!(snapshot.namespaces.keys().collect::<Vec<_>>(), [&seen]);
    assert_eq!(snapshot.policies.of(&seen).len(), 1);
    assert_eq!(snapshot.rules.of(&seen).len(), 1);
    assert!(snapshot.mesh.known().is_some() && snapshot.injectors.known().is_some());
    assert_eq!(snapshot.stale.len(), 12, "{:?}", snapshot.stale);
    let policies = snapshot.stale.iter().any(|it| it.to_string().contains("PeerAuthentication"));
    assert!(policies, "{:?}", snapshot.stale);
}

#[tokio::test]
async fn idle_is_fresh_silence_is_stale_and_both_end() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let objects = objects(&cluster, SignedDuration::from_secs(5)).await;
    let begin = Instant::now();
    let before = *objects.changed().borrow();
    // Nothing but the looking goes on here, for four times the limit.
    while begin.elapsed() < Duration::from_secs(20) {
        assert_eq!(look(&objects).stale, [], "after {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} changes while idle", *objects.changed().borrow() - before);

    let apiserver = process_of(&cluster, "kube-apiserver").await;
    signal(apiserver, "STOP");
    let silent = Instant::now();
    let all = until("all watches to be stale", SHORT, async || match look(&objects).stale {
        stale if stale.len() == 23 => Ok(stale),
        stale => Err(format!("{stale:?}")),
    })
    .await
    .unwrap();
    println!("stale after {:?}", silent.elapsed());
    assert!(silent.elapsed() > Duration::from_secs(3), "too early");
    let quorum = {
        let now = Timestamp::now();
        let namespace = Namespace::from("default");
        let client = cluster.client();
        objects.quorum(&client, &namespace, now, unmeasured(now)).await
    };
    signal(apiserver, "CONT");
    println!("{}", all[0]);
    assert!(quorum.unwrap_err().to_string().contains("took longer"));
    until("all watches to be fresh", Duration::from_secs(60), async || {
        let stale = look(&objects).stale;
        if stale.is_empty() { Ok(()) } else { Err(format!("{stale:?}")) }
    })
    .await
    .unwrap();
    // And they see what happens then.
    cluster.namespace("afterwards", Injection::Absent, &[]).await.unwrap();
    seen(&objects, "a namespace", |snapshot| snapshot.namespace(&"afterwards".into()).map(|_| ()))
        .await;
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_said_to_be_stale() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let gone = ["delete", "crd", "telemetries.telemetry.istio.io"];
    assert!(cluster.kubectl(&gone).await.unwrap().status.success());
    let mark = cluster.audit_mark().unwrap();
    let objects = Objects::watch(cluster.client(), STALE_AFTER);
    let missing = objects.ready(Duration::from_secs(6)).await.unwrap_err();
    let said: Vec<_> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("Telemetry (the apiserver does not serve this kind"), "{said:?}");
    assert_eq!(look(&objects).stale, missing);
    // It asks now and then, and not in a hot loop.
    let asked = cluster.audit_since(mark).unwrap().of("telemetries").by("admin").count();
    println!("asked {asked} times in 6 s");
    assert!(asked < 10);
}

#[tokio::test]
async fn a_malformed_policy_is_unknown_and_stops_nothing() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let objects = objects(&cluster, STALE_AFTER).await;
    cluster.namespace("odd", Injection::Absent, &[]).await.unwrap();
    // As a cluster is while Istio is half removed: nobody validates, the schema admits anything.
    let webhooks = ["delete", "validatingwebhookconfigurations", "--all"];
    assert!(cluster.kubectl(&webhooks).await.unwrap().status.success());
    let anything = r#"[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]"#;
    let crd = "peerauthentications.security.istio.io";
    let patched =
        cluster.kubectl(&["patch", "crd", crd, "--type=json", "-p", anything]).await.unwrap();
    assert!(patched.status.success(), "{}", String::from_utf8_lossy(&patched.stderr));
    let malformed = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"namespace": "odd", "name": "a-malformed"}, "spec": {"mtls": "STRICT"},
    });
    until("the apiserver to take anything", SHORT, async || {
        cluster.apply(std::slice::from_ref(&malformed)).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    cluster.peer_authentication("odd", "b-good", "STRICT").await.unwrap();
    let odd = Namespace::from("odd");
    let modes = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.policies.of(&odd).iter().map(|policy| policy.mode.clone()).collect()
    };
    let seen = seen(&objects, "both policies", |snapshot| {
        let modes = modes(snapshot);
        (modes.len() == 2).then_some(modes)
    })
    .await;
    assert!(matches!(seen[0], Declared::Unknown(_)), "{seen:?}");
    assert_eq!(seen[1], Declared::Mode(Mode::Strict));
    assert_eq!(look(&objects).stale, []);
    let now = Timestamp::now();
    let quorum = objects.quorum(&cluster.client(), &odd, now, unmeasured(now)).await.unwrap();
    assert_eq!(modes(&quorum), seen);
}

#[tokio::test]
async fn the_watches_end_with_the_last_handle() {
    let cluster = cluster().await;
    let client = client_of(cluster, "watcher").await;
    let objects = Objects::watch(client, STALE_AFTER);
    let other = objects.clone();
    let mut changed = objects.changed();
    drop(objects);
    assert!(changed.has_changed().is_ok(), "they ended with the first handle");
    drop(other);
    let ended = async { while changed.changed().await.is_ok() {} };
    tokio::time::timeout(SHORT, ended).await.expect("the tasks keep their state alive");
}

async fn client_of(cluster: &Cluster, user: &str) -> kube::Client {
    let kubeconfig = cluster.kubeconfig_for(user, None).unwrap();
    let file = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// The process id of one of this cluster's own programs.
async fn process_of(cluster: &Cluster, program: &str) -> u32 {
    let is_it = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(first).ends_with(program)
    };
    cluster.process_ids().await.into_iter().find(is_it).unwrap()
}

fn signal(process: u32, signal: &str) {
    let kill = ["-s", signal, &process.to_string()];
    assert!(std::process::Command::new("kill").args(kill).status().unwrap().success());
}
