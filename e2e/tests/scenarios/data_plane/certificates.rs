//! Certificates that live for seconds: renewed under load, and then no longer.

use std::time::Duration;

use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, OperatorOptions, RealWorkload, Rollout, until};
use serde_json::{Value, json};

use super::{PORT, options, served};

const NAME: &str = "short";
const LIMIT: Duration = Duration::from_secs(90);
/// Istio renews at half of it; the gate wants a quarter left.
const LIFETIME: u32 = 40;

#[tokio::test]
async fn renewal_under_load_loses_nothing_and_its_end_is_seen_before_it_hurts() {
    let Some((options, _place)) = options().await else { return };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.install().await.unwrap();
    let lives = json!({"proxyMetadata": {"SECRET_TTL": format!("{LIFETIME}s")}}).to_string();
    for namespace in ["server", "client"] {
        cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
    }
    let server = RealWorkload::echo("server", "echo", PORT);
    cluster.run(&server.annotation("proxy.istio.io/config", &lives)).await.unwrap();
    let url = format!("http://echo.server:{PORT}/");
    let client = RealWorkload::load("client", "web", &url, 10);
    let load = served(&cluster, &client.annotation("proxy.istio.io/config", &lives)).await;
    let mark = load.mark().unwrap();
    let lifetime = format!("  workloadCertLifetime: {LIFETIME}s\n");
    let operator = OperatorOptions { source: lifetime, ..OperatorOptions::default() };
    let operator = cluster.operator(&operator).await.unwrap();
    // Never done, so that its gates are all that happens.
    let rollout =
        Rollout::enforce(NAME, &[("only", &["server"])]).with("/stages/0/soak", json!("10m"));
    cluster.apply_rollout(&rollout).await.unwrap();
    cluster.until_ready_is(NAME, "Soaking", LIMIT).await.unwrap();

    let renewals = until("three renewals", LIMIT * 2, async || {
        let renewals = renewals(&cluster).await?;
        if renewals >= 3.0 { Ok(renewals) } else { Err(renewals.to_string()) }
    })
    .await;
    let (renewals, tally) = (renewals.unwrap(), load.since(mark).unwrap());
    println!("{renewals} renewals under load: {tally}");
    assert_eq!(tally.failed(), 0);
    let ready = cluster.condition(NAME, "Ready").await.unwrap();
    assert_eq!(ready.reason, "Soaking", "{}", ready.message);

    cluster.istiod().stop().await.unwrap();
    let found = until("the gate to see that renewal has stopped", LIMIT, async || {
        let report = cluster.report("server", NAME).await.map_err(|error| error.to_string())?;
        let findings = report["status"]["findings"].as_array().cloned().unwrap_or_default();
        let about = |finding: &&Value| finding["code"] == "MR0601";
        findings.iter().find(about).cloned().ok_or_else(|| format!("{findings:#?}"))
    })
    .await
    .unwrap();
    let tally = load.since(mark).unwrap();
    println!("renewal stopped: {found:#}\nuntil then {tally}");
    assert_eq!((found["level"].as_str(), tally.failed()), (Some("Block"), 0));
    operator.stop().await.unwrap();
}

/// How often the server's agent has got a certificate, as its own metrics tell.
async fn renewals(cluster: &Cluster) -> Result<f64, String> {
    // What is left falls by a second a second, below three quarters and above them again.
    let changes = format!(
        r#"changes((istio_agent_cert_expiry_seconds{{resource_name="default",namespace="server"}} > bool {})[10m:1s])"#,
        LIFETIME * 3 / 4
    );
    let samples = cluster.prometheus().query(&changes).await.map_err(|error| error.to_string())?;
    let value = samples.first().and_then(|it| it["value"][1].as_str()).unwrap_or("0");
    let changes: f64 = value.parse().map_err(|_| value.to_owned())?;
    Ok((changes / 2.0).floor())
}
