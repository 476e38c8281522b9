//! Seven meshes: what STRICT at once breaks, the operator holds, says why, and lets nothing fail.

use std::time::{Duration, Instant};

use meshrollout_e2e::{Cluster, Load, Mark, OperatorOptions, Rollout, Tally, until};
use serde_json::Value;

use super::options;
use super::seven::Cause::{
    self, MixedHeadless, NoSidecar, OutsideTheMesh, OwnProbes, PodAddress, RuleDisable, TlsPort,
};
use super::seven::{Mesh, seven};
use super::without_us::{strict_at_once_breaks, taken_back_by_hand};

const NAME: &str = "shop";
/// So many requests without a failure are the claim.
const REQUESTS: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn what_strict_breaks_the_operator_holds_and_names_and_then_no_request_fails() {
    let Some((options, _place)) = options().await else { return };
    let cluster = Cluster::start(options).await.unwrap();
    let mut meshes = seven(&cluster).await;
    strict_at_once_breaks(&cluster, &meshes).await;
    taken_back_by_hand(&cluster, &meshes).await;

    cluster.install().await.unwrap();
    let mut counted = Counted::from_now(&meshes);
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    // The evidence is there when the rollout comes: what follows is not waiting for scrapes.
    tokio::time::sleep(Duration::from_secs(15)).await;

    let namespaces: Vec<&str> = Cause::ALL.iter().map(|cause| cause.namespace()).collect();
    // All in one stage: none waits for another.
    cluster.apply_rollout(&Rollout::enforce(NAME, &[("all", &namespaces)])).await.unwrap();
    let begin = Instant::now();
    for mesh in &meshes {
        let what = mesh.cause.what();
        let found = named(&cluster, mesh.cause).await;
        println!("held after {:.1?}, {what}: {found}", begin.elapsed());
        assert_ne!(
            cluster.policy_mode(mesh.cause.namespace()).await.unwrap().as_deref(),
            Some("STRICT")
        );
    }
    let evaluations = operator.evaluations(NAME).await.unwrap();
    println!("all seven held, with names, within {evaluations} evaluations");
    assert!(evaluations <= 2 + 1, "named within two; a third may be under way: {evaluations}");

    // However long it waits.
    operator.evaluated(NAME, 5, LIMIT).await.unwrap();
    for cause in Cause::ALL {
        let mode = cluster.policy_mode(cause.namespace()).await.unwrap();
        assert_ne!(mode.as_deref(), Some("STRICT"), "{}", cause.what());
    }
    counted.none_failed();

    for mesh in &mut meshes {
        if let Some(client) = mesh.mend(&cluster).await {
            counted.add(mesh.cause, client);
        }
    }
    let mended = Instant::now();
    let ready = cluster.until_ready_is(NAME, "Enforced", LIMIT * 2).await;
    if let Err(error) = &ready {
        println!(
            "{error}\n{}",
            operator.log().lines().rev().take(40).collect::<Vec<_>>().join("\n")
        );
    }
    assert_eq!(ready.unwrap().status, "True");
    println!("all seven are STRICT {:.0?} after the last was mended", mended.elapsed());
    for cause in Cause::ALL {
        let mode = cluster.policy_mode(cause.namespace()).await.unwrap();
        assert_eq!(mode.as_deref(), Some("STRICT"), "{}", cause.what());
    }
    until("enough requests", LIMIT, async || {
        let sent = counted.sent();
        if sent >= REQUESTS { Ok(()) } else { Err(format!("{sent} requests")) }
    })
    .await
    .unwrap();
    println!("{} requests, none failed", counted.none_failed());
    for cause in Cause::ALL {
        plaintext_is_refused(&cluster, cause).await;
    }
}

/// The finding that names the cause, once the report has it.
async fn named(cluster: &Cluster, cause: Cause) -> String {
    let (code, object) = match cause {
        RuleDisable => ("MR0401", "plain"),
        MixedHeadless => ("MR0404", "all"),
        NoSidecar | OutsideTheMesh | OwnProbes | TlsPort | PodAddress => ("MR0202", "echo"),
    };
    let what = format!("{code} about {object}");
    until(&what, LIMIT, async || {
        let report = cluster.report(cause.namespace(), NAME).await;
        let report = report.map_err(|error| error.to_string())?;
        let findings = report["status"]["findings"].as_array().cloned().unwrap_or_default();
        let about = |finding: &&Value| {
            finding["code"] == code && finding["subject"].to_string().contains(object)
        };
        let found = findings.iter().find(about).ok_or_else(|| format!("{findings:#?}"))?;
        Ok(format!("{code} {}", found["message"].as_str().unwrap_or_default()))
    })
    .await
    .unwrap()
}

/// All clients and what they have seen, those that were replaced included.
struct Counted(Vec<(Cause, Load, Mark)>);

impl Counted {
    fn from_now(meshes: &[Mesh]) -> Self {
        let all = meshes.iter().flat_map(|mesh| mesh.loads().map(|load| (mesh.cause, load)));
        Self(all.map(|(cause, load)| (cause, load.clone(), load.mark().unwrap())).collect())
    }

    /// A client that has just begun.
    fn add(&mut self, cause: Cause, load: Load) {
        self.0.push((cause, load, Mark::default()));
    }

    fn tallies(&self) -> impl Iterator<Item = (Cause, Tally)> {
        self.0.iter().map(|(cause, load, mark)| (*cause, load.since(*mark).unwrap()))
    }

    /// How many were sent; fails when one of them did.
    fn none_failed(&self) -> usize {
        let failed: Vec<String> = self
            .tallies()
            .filter(|(_, tally)| tally.failed() > 0)
            .map(|(cause, tally)| format!("{}: {tally}", cause.what()))
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        self.sent()
    }

    fn sent(&self) -> usize {
        self.tallies().map(|(_, tally)| tally.sent()).sum()
    }
}

/// From this machine, which is outside the mesh, at every pod of the server.
async fn plaintext_is_refused(cluster: &Cluster, cause: Cause) {
    for pod in cluster.pods(cause.namespace(), "echo").await.unwrap() {
        let address = pod.status.unwrap().pod_ip.unwrap();
        let said = meshrollout_e2e::plaintext(&format!("{address}:{}", cause.port())).await;
        println!("plaintext to {address}:{}, {}: {said:?}", cause.port(), cause.what());
        assert!(said.is_err(), "{}: {said:?}", cause.what());
    }
}
