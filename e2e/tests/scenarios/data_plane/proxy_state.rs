//! Whether the proxies have taken a write, as the real istiod tells it to those it trusts.

use std::time::Duration;

use jiff::Timestamp;
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, Operator, OperatorOptions, RealWorkload, Rollout, until};
use serde_json::{Value, json};

use super::{PORT, options, served};

const LIMIT: Duration = Duration::from_secs(90);
/// So long is waited for proxies of which nobody tells: longer than this test takes.
const UNTOLD: &str = "10m";
/// Told, it needs a push, an evaluation a second, and the drain.
const TOLD: Duration = Duration::from_secs(15);

#[tokio::test]
async fn istiod_tells_whom_it_trusts_what_the_proxies_have_taken() {
    let Some((options, _place)) = options().await else { return };
    let trusted = "DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES".to_owned();
    let istiod_env = vec![(trusted, "meshrollout-system".to_owned())];
    let cluster = Cluster::start(meshrollout_e2e::Options { istiod_env, ..options }).await.unwrap();
    cluster.install().await.unwrap();
    for namespace in ["web", "one", "two", "three"] {
        cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
    }
    let mut loads = vec![];
    for namespace in ["one", "two"] {
        let server = RealWorkload::echo(namespace, "echo", PORT).counting_refusals();
        cluster.run(&server).await.unwrap();
        let url = format!("http://echo.{namespace}:{PORT}/");
        loads.push(
            served(&cluster, &RealWorkload::load("web", &format!("to-{namespace}"), &url, 10))
                .await,
        );
    }
    let marks: Vec<_> = loads.iter().map(|load| load.mark().unwrap()).collect();
    let scene = Scene { cluster: &cluster };

    // A stranger's token: one at a time, and said why.
    let operator = scene.operator("web", "default").await;
    let rollout = Rollout::enforce("shop", &[("both", &["one", "two"])])
        .with("/stages/0/bake", json!("5m"))
        .with("/stages/0/maxConcurrent", json!(2));
    cluster.apply_rollout(&rollout).await.unwrap();
    // Whichever is proven first goes first.
    let watched = |namespace| cluster.until_state_is("shop", namespace, "Watching", LIMIT);
    let (first, second) = tokio::select! {
        one = watched("one") => one.map(|_| ("one", "two")),
        two = watched("two") => two.map(|_| ("two", "one")),
    }
    .unwrap();
    operator.evaluated("shop", 10, LIMIT).await.unwrap();
    assert_eq!(cluster.policy_mode(second).await.unwrap().as_deref(), Some("PERMISSIVE"));
    assert_eq!(scene.covered(first).await, 0, "nobody has told that it was taken");
    let said = scene.found(second, "shop").await.unwrap();
    println!("a stranger: {said}");
    assert!(said.contains("one namespace at a time, not 2"), "{said}");
    assert!(said.contains("HTTP status 403 Forbidden"), "{said}");
    operator.stop().await.unwrap();

    // One that is trusted is told: the next goes while the first one bakes, and both bakes count.
    let begin = Timestamp::now();
    let operator = scene.operator("meshrollout-system", "meshrollout").await;
    watched(second).await.unwrap();
    for namespace in [first, second] {
        until(&format!("the bake of {namespace} to count"), TOLD, async || {
            match scene.covered(namespace).await {
                0 => Err(format!("{:?}", scene.found(namespace, "shop").await)),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
    }
    watched(first).await.unwrap();
    println!("told: both watched, both bakes count, {:.1?} after the start", since(begin));
    assert_eq!(scene.found(first, "shop").await, None);

    // A proxy that refuses what it is sent would take neither STRICT nor a rollback.
    cluster.run(&RealWorkload::echo("three", "echo", PORT)).await.unwrap();
    cluster.apply(&[refused_by_its_proxy("three")]).await.unwrap();
    let begin = Timestamp::now();
    let rollout = Rollout::enforce("third", &[("only", &["three"])]);
    cluster.apply_rollout(&rollout).await.unwrap();
    let said = until("the refusal to be named", LIMIT, async || {
        let said = scene.found("three", "third").await.ok_or("nothing is said")?;
        if said.contains("rejects it") { Ok(said) } else { Err(said) }
    });
    println!("a proxy that refuses, after {:.1?}: {}", since(begin), said.await.unwrap());
    operator.evaluated("third", 10, LIMIT).await.unwrap();
    assert_eq!(cluster.policy_mode("three").await.unwrap().as_deref(), Some("PERMISSIVE"));

    for (load, mark) in loads.iter().zip(marks) {
        let tally = load.since(mark).unwrap();
        println!("a meshed client over all of it: {tally}");
        assert_eq!(tally.failed(), 0);
    }
}

struct Scene<'a> {
    cluster: &'a Cluster,
}

impl Scene<'_> {
    /// An operator that shows istiod this ServiceAccount's token.
    async fn operator(&self, namespace: &str, account: &str) -> Operator {
        let token = ["create", "token", account, "-n", namespace, "--audience", "istio-ca"];
        let token = self.cluster.kubectl_text(&token).await.unwrap();
        let file = self.cluster.folder().join(format!("token-of-{account}"));
        std::fs::write(&file, token).unwrap();
        let config = format!(
            "drain: 1s\nproxyAcknowledgement: {UNTOLD}\nproxyState: {{tokenFile: {}}}\n",
            file.display()
        );
        let options = OperatorOptions { config, ..OperatorOptions::default() };
        self.cluster.operator(&options).await.unwrap()
    }

    /// How many seconds of its bake count.
    async fn covered(&self, namespace: &str) -> i64 {
        let report = self.cluster.report(namespace, "shop").await.unwrap();
        report["status"]["bake"]["coveredSeconds"].as_i64().unwrap_or(0)
    }

    /// What is said of the proxies there.
    async fn found(&self, namespace: &str, rollout: &str) -> Option<String> {
        let report = self.cluster.report(namespace, rollout).await.ok()?;
        let findings = report["status"]["findings"].as_array()?;
        let found = findings.iter().find(|found| found["code"] == "MR0801")?;
        Some(found["message"].as_str()?.to_owned())
    }
}

/// An inbound filter whose program does not parse: istiod passes it on, and Envoy refuses it.
fn refused_by_its_proxy(namespace: &str) -> Value {
    let program = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": "this is no program ("},
    });
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"namespace": namespace, "name": "broken"},
        "spec": {"configPatches": [{
            "applyTo": "HTTP_FILTER",
            "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter":
                {"name": "envoy.filters.network.http_connection_manager"}}}},
            "patch": {"operation": "INSERT_FIRST",
                "value": {"name": "broken", "typed_config": program}},
        }]},
    })
}

fn since(begin: Timestamp) -> Duration {
    Timestamp::now().duration_since(begin).unsigned_abs()
}
