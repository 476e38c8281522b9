//! The story with real sidecars and real requests, each of them counted.

use std::time::{Duration, Instant};

use super::{LIMIT, NAME, chapter, command, note, say, tell};
use crate::scenario::Injection;
use crate::{
    Cluster, DataPlane, Doing, Error, Load, OperatorOptions, Options, RealWorkload, Rollout, Tally,
    until,
};

const PORT: u16 = 8080;
const PER_SECOND: u32 = 20;
/// Of the experiment without the operator.
const REQUESTS: usize = 60;

pub(super) async fn tell_it(keep: bool) -> Result<(), Error> {
    let begin = Instant::now();
    chapter("A mesh, and a shop in it");
    note("starting a control plane, and a node that runs pods as processes, in networks of their");
    note("own, with Istio's injected sidecars: pilot-agent and Envoy");
    let load = std::env::current_exe().doing("finding this program")?;
    let data_plane = Some(DataPlane::with_load(load));
    let cluster =
        Cluster::start(Options { data_plane, kinds: false, ..Options::default() }).await?;
    let shop = Shop::open(&cluster).await?;
    note(&format!("all real, all on this machine, after {:.0} s", begin.elapsed().as_secs_f64()));
    say("web calls catalog and orders. Two things are wrong:");
    say("  1. legacy/batch is outside the mesh and calls the catalog in plaintext.");
    say("  2. a DestinationRule in frontend turns TLS off towards orders.");
    say("All of it works today, in PERMISSIVE:");
    shop.each(&cluster).await?;

    chapter("What people do at night: STRICT at once");
    for namespace in ["catalog", "orders"] {
        command(&format!("kubectl apply -n {namespace} -f strict.yaml"));
        cluster.peer_authentication(namespace, "default", "STRICT").await?;
    }
    // The proxies need a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outage = shop.each(&cluster).await?;
    if outage == 0 {
        return Err(Error::new("the experiment without the operator failed nobody"));
    }
    say("An outage for batch and for web's orders. Back to where it was:");
    for namespace in ["catalog", "orders"] {
        command(&format!("kubectl delete peerauthentication default -n {namespace}"));
        cluster.delete("peerauthentication", namespace, "default").await?;
    }
    shop.served(&cluster).await?;

    chapter("The same with the operator");
    cluster.install().await?;
    let operator = cluster.operator(&OperatorOptions::default()).await?;
    let mut counted = shop.marks(&cluster).await?;
    let stages: [(&str, &[&str]); 2] = [("goods", &["catalog"]), ("core", &["orders"])];
    cluster.apply_rollout(&Rollout::enforce(NAME, &stages)).await?;
    let told = tell(&cluster, &operator);
    told.until_ready("PlaintextSourceUnknown").await?;
    told.explain().await?;
    say("It holds and says why. Mending:");
    command("kubectl label namespace legacy istio-injection=enabled");
    cluster.label_namespace("legacy", "istio-injection", Some("enabled")).await?;
    command("kubectl rollout restart deployment batch -n legacy");
    cluster.rollout_restart("legacy", "batch").await?;
    counted.push(("legacy/batch", cluster.load("legacy", "batch").await?, Default::default()));
    told.until_state("catalog", "Enforced").await?;
    say("catalog is STRICT. Now the rule:");
    command("kubectl delete destinationrule orders-plain -n frontend");
    cluster.delete("destinationrule", "frontend", "orders-plain").await?;
    let ready = told.until_ready("Enforced").await?;
    let policies = cluster.kubectl(&["get", "peerauthentications", "-A"]).await?;
    print!("{}", String::from_utf8_lossy(&policies.stdout));
    if ready != "True" {
        return Err(Error::new(format!("Ready is {ready}, not True")));
    }
    let (mut sent, mut failed) = (0, 0);
    for (_, load, mark) in &counted {
        let tally = load.since(*mark)?;
        (sent, failed) = (sent + tally.sent(), failed + tally.failed());
    }
    say("");
    say(&format!("With the operator: {sent} requests, {failed} failed. Without it: {outage}"));
    say(&format!(
        "of {} in {} seconds. Everything is STRICT, Ready=True, after {:.0} s.",
        REQUESTS * 3,
        REQUESTS / PER_SECOND as usize,
        begin.elapsed().as_secs_f64()
    ));
    if failed > 0 {
        return Err(Error::new(format!("{failed} requests failed under the operator's hand")));
    }
    if keep {
        super::stay(&cluster).await?;
    }
    Ok(())
}

struct Shop;

/// Each client with its workload.
const CLIENTS: [(&str, &str, &str); 3] = [
    ("web to catalog", "frontend", "web-catalog"),
    ("web to orders", "frontend", "web-orders"),
    ("batch to catalog", "legacy", "batch"),
];

impl Shop {
    async fn open(cluster: &Cluster) -> Result<Self, Error> {
        for namespace in ["frontend", "catalog", "orders"] {
            cluster.namespace(namespace, Injection::Enabled, &[]).await?;
        }
        cluster.namespace("legacy", Injection::Absent, &[]).await?;
        let host = "orders.orders.svc.cluster.local";
        cluster.destination_rule("frontend", "orders-plain", host, "DISABLE").await?;
        for name in ["catalog", "orders"] {
            cluster.run(&RealWorkload::echo(name, name, PORT)).await?;
        }
        for (_, namespace, name) in CLIENTS {
            let server = if name == "web-orders" { "orders" } else { "catalog" };
            let url = format!("http://{server}.{server}:{PORT}/");
            cluster.run(&RealWorkload::load(namespace, name, &url, PER_SECOND)).await?;
        }
        let shop = Self;
        shop.served(cluster).await?;
        Ok(shop)
    }

    /// Waits until everybody's last requests were answered.
    async fn served(&self, cluster: &Cluster) -> Result<(), Error> {
        for (what, load, mark) in self.marks(cluster).await? {
            until(&format!("{what} to be served"), LIMIT, async || {
                let tally = load.since(mark).map_err(|error| error.to_string())?;
                match tally.served_since_failing() {
                    0..10 => Err(tally.to_string()),
                    10.. => Ok(()),
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn marks(
        &self,
        cluster: &Cluster,
    ) -> Result<Vec<(&'static str, Load, crate::Mark)>, Error> {
        let mut marks = vec![];
        for (what, namespace, name) in CLIENTS {
            let load = cluster.load(namespace, name).await?;
            let mark = load.mark()?;
            marks.push((what, load, mark));
        }
        Ok(marks)
    }

    /// Tells what each client sees of its next requests; yields how many of them failed.
    async fn each(&self, cluster: &Cluster) -> Result<usize, Error> {
        let mut failed = 0;
        for (what, load, mark) in self.marks(cluster).await? {
            let tally: Tally = until(&format!("requests of {what}"), LIMIT, async || {
                let tally = load.since(mark).map_err(|error| error.to_string())?;
                if tally.sent() >= REQUESTS { Ok(tally) } else { Err(tally.to_string()) }
            })
            .await?;
            println!("    {what}: {tally}");
            failed += tally.failed();
        }
        Ok(failed)
    }
}
