//! The story of why this exists, told on a real control plane; and on real sidecars where that may
//! be.

mod real;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Client, Cluster, DataPlane, Doing, Edge, Error, Operator, OperatorOptions, Options, Rollout,
    Server, Shop,
};

const NAME: &str = "shop";
const LIMIT: Duration = Duration::from_secs(90);

/// Tells the story; with real sidecars unless it is to be `scripted` or we are not root. With `keep`
/// the control plane stays until Ctrl-C.
pub async fn demo(keep: bool, scripted: bool) -> Result<(), Error> {
    let begin = Instant::now();
    say("In an Istio mesh, applications speak plain HTTP. Their sidecars turn it into mutual TLS:");
    say("both sides show a certificate with an identity, such as");
    say("spiffe://cluster.local/ns/orders/sa/orders, and what is between them is encrypted.");
    say("");
    say(
        "A server in PERMISSIVE mode takes both, mutual TLS and plaintext. That is kind to whoever",
    );
    say("is not in the mesh yet, and it hides them. STRICT refuses plaintext. Most outages with");
    say("mutual TLS happen at the moment of that switch. This is about making it a dull moment.");
    if DataPlane::is_allowed() && !scripted {
        note("as root: with real sidecars and real requests; SCRIPTED=1 tells more, without them");
        return real::tell_it(keep).await;
    }
    note("without real sidecars, which need root: what they would measure is scripted");

    chapter("A mesh, and a shop in it");
    note("starting etcd, kube-apiserver, controller manager, scheduler, istiod and Prometheus");
    let cluster =
        Cluster::start(Options { keep: false, kinds: false, ..Options::default() }).await?;
    note(&format!(
        "all real, all on this machine, ready after {:.0} s",
        cluster.start_up().as_secs_f64()
    ));
    note(
        "no application runs: the pods are simulated, and what their sidecars would measure comes",
    );
    note("from a scripted exporter with Istio's own metric names, scraped by the real Prometheus");
    let shop = Shop::open(&cluster).await?;
    say("web calls orders, orders calls catalog and payments. Three things are wrong:");
    Shop::add_workload_without_sidecar(&cluster).await?;
    say("  1. orders/invoices has no sidecar: its template opts out of injection.");
    say("  2. legacy/batch is outside the mesh and fills the catalog in plaintext.");
    Shop::add_disabling_rule(&cluster).await?;
    let web = Edge::new(Client::workload("frontend", "web"), Server::workload("orders", "orders"))
        .rps(20.0);
    cluster.exporter().change(shop.traffic.web_to_orders, web.clone().plaintext());
    say(
        "  3. a DestinationRule in frontend turns TLS off towards orders, from an old debugging day.",
    );
    say("All of it works today, in PERMISSIVE, and would be an outage in STRICT.");

    chapter("The operator, and a plan");
    cluster.install().await?;
    let operator = cluster.operator(&OperatorOptions::default()).await?;
    let stages: [(&str, &[&str]); 3] =
        [("canary", &["payments"]), ("goods", &["catalog"]), ("core", &["orders"])];
    let rollout = Rollout::enforce(NAME, &stages);
    say("Three stages. In each, every gate must hold for a while (soak) before STRICT is written,");
    say(
        "and the namespace is watched for a while (bake) before the next. Here these take seconds;",
    );
    say("in a real mesh 30 and 15 minutes, looking back over 24 hours of traffic.");
    cluster.apply_rollout(&rollout).await?;
    let told = tell(&cluster, &operator);

    told.until_state("payments", "Enforced").await?;
    say("Nobody sent plaintext to payments, every pod has a sidecar, no rule is in the way: it is");
    say("STRICT. The write before it said PERMISSIVE, so that there is something to go back to.");

    chapter("Held back, with names");
    told.until_ready("PlaintextSourceUnknown").await?;
    told.explain().await?;
    say("It does not guess. catalog waits for legacy/batch; orders will wait for invoices and for");
    say("the rule. Each finding names the object, the evidence and what to do.");

    chapter("Mending: mesh the client");
    command("kubectl label namespace legacy istio-injection=enabled");
    cluster.label_namespace("legacy", "istio-injection", Some("enabled")).await?;
    command("kubectl rollout restart deployment batch -n legacy");
    cluster.rollout_restart("legacy", "batch").await?;
    note("its last plaintext must leave the look-back first; then the soak begins from zero");
    told.until_state("catalog", "Enforced").await?;
    say("catalog is STRICT, and batch noticed nothing.");

    chapter("Mending: the sidecar and the rule");
    told.until_state("orders", "Blocked").await?;
    command("kubectl label deployment invoices … sidecar.istio.io/inject- (in its template)");
    cluster.label_pods("orders", "invoices", "sidecar.istio.io/inject", None).await?;
    let to_invoices =
        Edge::new(Client::workload("orders", "orders"), Server::workload("orders", "invoices"));
    cluster.exporter().edge(to_invoices.rps(20.0));
    command("kubectl delete destinationrule orders-plain -n frontend");
    cluster.delete("destinationrule", "frontend", "orders-plain").await?;
    cluster.exporter().change(shop.traffic.web_to_orders, web.clone());
    told.until_state("orders", "Watching").await?;
    say("orders is STRICT now, and watched.");

    chapter("Then something breaks after all");
    let failing = web.clone().answered(503, "UC");
    cluster.exporter().change(shop.traffic.web_to_orders, failing);
    say("web cannot connect any more: its sidecar counts 503 with flag UC, \"upstream connection");
    say(
        "termination\". The server's own metrics show nothing: refused plaintext is never a request.",
    );
    told.until_state("orders", "RolledBack").await?;
    let mode = cluster.policy_mode("orders").await?.unwrap_or_default();
    say(&format!(
        "orders is {mode} again, written by the operator itself. The other stages stay STRICT."
    ));
    told.explain().await?;

    chapter("Mended, and tried again");
    cluster.exporter().change(shop.traffic.web_to_orders, web);
    command(&format!("kubectl meshrollout retry {NAME}"));
    let output = cluster.meshrollout(&["retry", NAME]).await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let ready = told.until_ready("Enforced").await?;
    let table = cluster.kubectl(&["get", "meshrollouts"]).await?;
    print!("{}", String::from_utf8_lossy(&table.stdout));
    let policies = cluster.kubectl(&["get", "peerauthentications", "-A"]).await?;
    print!("{}", String::from_utf8_lossy(&policies.stdout));
    if ready != "True" {
        return Err(Error::new(format!("Ready is {ready}, not True")));
    }
    say("");
    say(&format!(
        "Everything is STRICT, Ready=True, after {:.0} s. Nobody had to be awake for it.",
        begin.elapsed().as_secs_f64()
    ));
    if keep {
        stay(&cluster).await?;
    }
    Ok(())
}

async fn stay(cluster: &Cluster) -> Result<(), Error> {
    println!("\nexport KUBECONFIG={}", cluster.kubeconfig().display());
    println!("Ctrl-C stops the control plane");
    tokio::signal::ctrl_c().await.doing("waiting for Ctrl-C")
}

/// Tells what the rollout says while it waits.
struct Told<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
}

fn tell<'a>(cluster: &'a Cluster, operator: &'a Operator) -> Told<'a> {
    Told { cluster, operator }
}

impl Told<'_> {
    /// Prints each new sentence of the rollout until its Ready has this reason; yields its status.
    async fn until_ready(&self, reason: &str) -> Result<String, Error> {
        self.until(&format!("the reason {reason}"), async || {
            let ready = self.cluster.condition(NAME, "Ready").await?;
            Ok((ready.reason == reason).then_some(ready.status))
        })
        .await
    }

    /// The same until a namespace is in this state.
    async fn until_state(&self, namespace: &str, state: &str) -> Result<(), Error> {
        self.until(&format!("{namespace} to be {state}"), async || {
            let report = self.cluster.report(namespace, NAME).await?;
            Ok((report["status"]["state"] == json!(state)).then_some(()))
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &str,
        mut reached: impl AsyncFnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let mut last = String::new();
        loop {
            if let Ok(ready) = self.cluster.condition(NAME, "Ready").await {
                let sentence = format!("{}: {}", ready.reason, ready.message);
                if sentence != last {
                    println!("    {:>5.1}s  {sentence}", begin.elapsed().as_secs_f64());
                    last = sentence;
                }
            }
            // Until the first report is written there is nothing to read.
            if let Ok(Some(value)) = reached().await {
                return Ok(value);
            }
            if begin.elapsed() > LIMIT {
                let log = self.operator.log();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Err(Error::new(format!("waited in vain for {what}: {last}\n{tail}")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn explain(&self) -> Result<(), Error> {
        command(&format!("kubectl meshrollout explain {NAME}"));
        let output = self.cluster.meshrollout(&["explain", NAME]).await?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("    {line}");
        }
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::new(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }
}

fn chapter(title: &str) {
    println!("\n== {title} ==");
}

fn say(text: &str) {
    println!("{text}");
}

fn note(text: &str) {
    println!("    ({text})");
}

fn command(text: &str) {
    println!("  $ {text}");
}
