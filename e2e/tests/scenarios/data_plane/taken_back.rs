//! Real harm after STRICT: seen, taken back, and how soon; and what nobody can see, said before.

use std::time::Duration;

use jiff::Timestamp;
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{
    Cluster, Load, Mark, Operator, OperatorOptions, RealWorkload, Rollout, Tally, until,
};
use serde_json::{Value, json};

use super::{PORT, changed, enough, options, served};

const LIMIT: Duration = Duration::from_secs(90);
/// Two scrapes of a second each, an evaluation every second, and five seconds.
const IN_TIME: Duration = Duration::from_secs(2 + 1 + 5);

/// Silence is soft harm: two whole windows of two seconds, and a second evaluation that agrees.
const SILENCE: Duration = Duration::from_secs(2 * 2 + 2 + 2 + 5);

/// Beyond doubt more than the twenty in each window of two seconds that make a silence harm, also
/// where a scrape is late; and for twenty seconds, more than the seven windows that are asked for.
const OFTEN: u32 = 40;
const BUSY: usize = OFTEN as usize * 20;

const TLS_PORT: u16 = 8443;
const SEALED: &str = "https://echo.sealed:8443/";

#[tokio::test]
async fn real_harm_is_taken_back_and_what_nobody_sees_was_said_before() {
    let Some((options, _place)) = options().await else { return };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.install().await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let scene = Scene { cluster: &cluster, operator: &operator };
    for namespace in ["web", "late"] {
        let injection = if namespace == "web" { Injection::Enabled } else { Injection::Absent };
        cluster.namespace(namespace, injection, &[]).await.unwrap();
    }

    // (i) A meshed client that a rule misleads, added while the namespace is watched.
    let misled = scene.watching("misled", true).await;
    let mark = misled.mark().unwrap();
    let host = "echo.misled.svc.cluster.local";
    cluster.destination_rule("web", "plain", host, "DISABLE").await.unwrap();
    scene.taken_back("a misled client with a sidecar", "misled", &misled, mark).await;
    cluster.delete("destinationrule", "web", "plain").await.unwrap();

    // (ii) A plaintext client that begins only while the namespace is watched.
    let good = scene.watching("counted", true).await;
    let (from, late) = (good.mark().unwrap(), scene.latecomer("counted").await);
    scene.taken_back("a late client in plaintext", "counted", &late, Mark::default()).await;
    assert_eq!(good.since(from).unwrap().failed(), 0, "the meshed client saw nothing of it");

    // (iii) The same, where its refusals are counted by nobody.
    let good = scene.watching("unseen", false).await;
    let said = scene.findings("unseen").await;
    assert!(said.contains("refused plaintext clients of unseen would stay unseen"), "{said}");
    let (from, late) = (good.mark().unwrap(), scene.latecomer("unseen").await);
    changed(&late, "the late client to be refused", |tally| tally.failed() > 0).await;
    operator.evaluated("unseen", 15, LIMIT).await.unwrap();
    let tally = enough(&late, Mark::default()).await;
    println!("a late client in plaintext, its refusals not counted: {tally}; not seen, as told");
    assert_eq!(tally.failed(), tally.sent());
    assert_eq!(cluster.policy_mode("unseen").await.unwrap().as_deref(), Some("STRICT"));
    assert_eq!(good.since(from).unwrap().failed(), 0);

    // The same with TLS of its own, as whoever calls a webhook: refused in the handshake.
    let sealed = scene.sealed().await;
    let (from, late) = (sealed.mark().unwrap(), scene.late_with_tls().await);
    scene.taken_back("a late client with TLS of its own", "sealed", &late, Mark::default()).await;
    assert_eq!(sealed.since(from).unwrap().failed(), 0, "the meshed client saw nothing of it");

    // A meshed client that begins to go past its own sidecar: its plaintext is refused and counted
    // by nobody, and all that shows is that a busy edge has fallen silent.
    let (bypass, client) = scene.beside_its_sidecar().await;
    let busy = served(&cluster, &client).await;
    changed(&busy, "an edge that was busy before", |tally| tally.sent() >= BUSY).await;
    scene.rolled_out("silent", &client).await;
    cluster.run(&bypass).await.unwrap();
    let load = cluster.load("web", bypass.name()).await.unwrap();
    let what = "a client that goes past its sidecar";
    let tally = scene.served_again(what, "silent", &load, Mark::default(), SILENCE).await;
    assert_eq!(tally.failed() + tally.served_since_failing(), tally.sent(), "refused at once");
    let ready = cluster.condition("silent", "Ready").await.unwrap();
    assert!(ready.message.contains("has fallen silent"), "{}", ready.message);

    // (iv) Neither counted nor called from within the mesh: nothing would ever show.
    cluster.namespace("mute", Injection::Enabled, &[]).await.unwrap();
    cluster.run(&RealWorkload::echo("mute", "echo", PORT)).await.unwrap();
    cluster.apply_rollout(&Rollout::enforce("mute", &[("only", &["mute"])])).await.unwrap();
    let held = until("the silence to be named", LIMIT, async || {
        let report = cluster.report("mute", "mute").await.map_err(|error| error.to_string())?;
        let findings = report["status"]["findings"].as_array().cloned().unwrap_or_default();
        let about = |it: &&Value| it["code"] == "MR0308" && it["level"] == "Block";
        findings.iter().find(about).cloned().ok_or_else(|| format!("{findings:#?}"))
    });
    println!("nothing would show harm: {}", held.await.unwrap()["message"]);
    // Longer than the look-back and the soak: it is not for want of time.
    operator.evaluated("mute", 25, LIMIT).await.unwrap();
    assert_ne!(cluster.policy_mode("mute").await.unwrap().as_deref(), Some("STRICT"));
}

struct Scene<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
}

impl Scene<'_> {
    /// A server under STRICT and watched by a rollout of its namespace's name, with a meshed
    /// client that has been served all the time.
    async fn watching(&self, namespace: &str, counts_refusals: bool) -> Load {
        self.cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
        let mut server = RealWorkload::echo(namespace, "echo", PORT);
        if counts_refusals {
            server = server.counting_refusals();
        }
        self.cluster.run(&server).await.unwrap();
        let url = format!("http://echo.{namespace}:{PORT}/");
        let web = RealWorkload::load("web", &format!("to-{namespace}"), &url, 10);
        self.rolled_out(namespace, &web).await
    }

    /// The same for a server with TLS of its own.
    async fn sealed(&self) -> Load {
        self.cluster.namespace("sealed", Injection::Enabled, &[]).await.unwrap();
        for namespace in ["sealed", "web", "late"] {
            self.cluster.certificate(namespace, "tls", &["echo.sealed"]).await.unwrap();
        }
        let server = RealWorkload::tls_echo("sealed", "echo", TLS_PORT, "tls");
        self.cluster.run(&server.counting_refusals()).await.unwrap();
        let web = RealWorkload::tls_load("web", "to-sealed", SEALED, 10, "tls");
        self.rolled_out("sealed", &web).await
    }

    /// A client of a headless Service, whose pods it calls by their own addresses, with and without
    /// the annotation by which its calls leave its sidecar out.
    async fn beside_its_sidecar(&self) -> (RealWorkload, RealWorkload) {
        self.cluster.namespace("silent", Injection::Enabled, &[]).await.unwrap();
        let server = RealWorkload::echo("silent", "echo", PORT).label("group", "all");
        self.cluster.run(&server).await.unwrap();
        let all = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "silent", "name": "all"},
            "spec": {"clusterIP": "None", "selector": {"group": "all"},
                "ports": [{"name": "http", "port": PORT}]}});
        self.cluster.apply(&[all]).await.unwrap();
        let url = format!("http://all.silent:{PORT}/");
        let client = || RealWorkload::load("web", "to-silent", &url, OFTEN);
        let excluded = "traffic.sidecar.istio.io/excludeOutboundPorts";
        (client().annotation(excluded, &PORT.to_string()), client())
    }

    async fn late_with_tls(&self) -> Load {
        let late = RealWorkload::tls_load("late", "to-sealed", SEALED, 10, "tls");
        self.cluster.run(&late).await.unwrap();
        self.cluster.load("late", late.name()).await.unwrap()
    }

    /// Brings a namespace to STRICT and watches it, under the eyes of this client.
    async fn rolled_out(&self, namespace: &str, client: &RealWorkload) -> Load {
        let web = served(self.cluster, client).await;
        let mark = web.mark().unwrap();
        let rollout = Rollout::enforce(namespace, &[("only", &[namespace])])
            .with("/stages/0/bake", json!("10m"));
        self.cluster.apply_rollout(&rollout).await.unwrap();
        let watched = self.cluster.until_state_is(namespace, namespace, "Watching", LIMIT).await;
        if watched.is_err() {
            println!("{}", self.findings(namespace).await);
        }
        watched.unwrap();
        until("the bake to count", LIMIT, async || {
            let report = self.cluster.report(namespace, namespace).await;
            let report = report.map_err(|error| error.to_string())?;
            match report["status"]["bake"]["coveredSeconds"].as_i64() {
                Some(seconds) if seconds > 0 => Ok(()),
                _ => Err(report["status"]["findings"].to_string()),
            }
        })
        .await
        .unwrap();
        let tally = web.since(mark).unwrap();
        println!("{namespace} is STRICT and watched; its client: {tally}");
        assert_eq!(tally.failed(), 0);
        web
    }

    async fn latecomer(&self, namespace: &str) -> Load {
        let url = format!("http://echo.{namespace}:{PORT}/");
        let late = RealWorkload::load("late", &format!("to-{namespace}"), &url, 10);
        self.cluster.run(&late).await.unwrap();
        self.cluster.load("late", late.name()).await.unwrap()
    }

    async fn taken_back(&self, what: &str, namespace: &str, load: &Load, mark: Mark) {
        self.served_again(what, namespace, load, mark, IN_TIME).await;
    }

    /// Waits until the client is served again, which is when PERMISSIVE is in force at the proxy.
    async fn served_again(
        &self,
        what: &str,
        namespace: &str,
        load: &Load,
        mark: Mark,
        in_time: Duration,
    ) -> Tally {
        let tally = until(&format!("{what} to be served again"), LIMIT, async || {
            let tally = load.since(mark).map_err(|error| error.to_string())?;
            let over = tally.failed() > 0 && tally.served_since_failing() >= 20;
            if over { Ok(tally) } else { Err(tally.to_string()) }
        })
        .await;
        if tally.is_err() {
            println!("{}\n{}", self.findings(namespace).await, self.operator.log());
        }
        let tally = tally.unwrap();
        let (first, last) = tally.failing().unwrap();
        let took = span(first, last);
        println!("{what}: {tally}; from the first failure to the last {took:.1?}");
        assert!(took <= in_time, "{took:?}");
        let mode = self.cluster.policy_mode(namespace).await.unwrap();
        assert_eq!(mode.as_deref(), Some("PERMISSIVE"));
        let ready = self.cluster.until_ready_is(namespace, "RolledBack", LIMIT).await.unwrap();
        println!("    {}", ready.message);
        tally
    }

    async fn findings(&self, namespace: &str) -> String {
        let report = self.cluster.report(namespace, namespace).await.unwrap();
        report["status"]["findings"].to_string()
    }
}

fn span(first: Timestamp, last: Timestamp) -> Duration {
    last.duration_since(first).unsigned_abs()
}
