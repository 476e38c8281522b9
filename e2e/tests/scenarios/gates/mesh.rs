//! The cluster and the operator that the tests share, and what they ask of both.

use std::ops::Deref;
use std::time::Duration;

use jiff::Timestamp;
use meshrollout_core::finding::Code;
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Audit, AuditMark, Client, Cluster, Condition, Edge, EdgeId, Event, OPERATOR_USER, Operator,
    OperatorOptions, Options, Rollout, Server, until,
};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Far above what anything here takes on an idle machine; only a failure waits this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);

/// The least that a soak needs to be over, in evaluations: what is still not STRICT after so many
/// more of them is held by a gate and not by the clock.
const EVALUATIONS: f64 = 5.0;

/// A mesh with an operator and one client, `front/web`.
pub(crate) struct Mesh {
    cluster: Cluster,
    operator: Operator,
    begin: AuditMark,
}

/// Why a namespace is held.
#[derive(Debug)]
pub(crate) struct Held {
    /// The rollout's condition Ready.
    pub(crate) ready: Condition,
    /// The finding in the namespace's report.
    pub(crate) finding: Value,
    /// The report's status.
    pub(crate) report: Value,
}

/// The mesh that all tests of this file share.
pub(crate) async fn mesh() -> &'static Mesh {
    static MESH: OnceCell<Mesh> = OnceCell::const_new();
    MESH.get_or_init(Mesh::start).await
}

impl Deref for Mesh {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Mesh {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install().await.unwrap();
        cluster.namespace("front", Injection::Enabled, &[]).await.unwrap();
        cluster.deploy(&Workload::new("front", "web")).await.unwrap();
        let begin = cluster.audit_mark().unwrap();
        let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
        Self { cluster, operator, begin }
    }

    /// A meshed namespace whose one workload, `app`, is called by `front/web` over mutual TLS.
    pub(crate) async fn serve(&self, namespace: &str) {
        self.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
        self.deploy(&Workload::new(namespace, "app")).await.unwrap();
        self.call(("front", "web"), (namespace, "app"));
    }

    /// Calls from one workload to another, as auto mTLS sends them, often enough for every window.
    pub(crate) fn call(&self, from: (&str, &str), to: (&str, &str)) -> EdgeId {
        let (from, to) = (Client::workload(from.0, from.1), Server::workload(to.0, to.1));
        self.exporter().edge(Edge::new(from, to).rps(40.0))
    }

    /// A rollout of the same name as its only namespace.
    pub(crate) async fn roll_out(&self, namespace: &str) {
        self.apply_rollout(&Rollout::enforce(namespace, &[("only", &[namespace])])).await.unwrap();
    }

    /// The finding of this code in a namespace's report, as soon as it stands there.
    pub(crate) async fn until_found(
        &self,
        rollout: &str,
        namespace: &str,
        code: Code,
    ) -> (Value, Value) {
        self.wait(&format!("{code} in {namespace}"), async || {
            let report = self.report(namespace, rollout).await.map_err(|e| e.to_string())?;
            let status = report["status"].clone();
            match find(&status["findings"], code) {
                Some(finding) => Ok((finding.clone(), status)),
                None => Err(status.to_string()),
            }
        })
        .await
    }

    /// Waits until the rollout is held by this and says so everywhere: in Ready, in `blockedBy`
    /// and in the namespace's report. Then lets as many evaluations pass as a soak would need, and
    /// asserts that STRICT was not even tried.
    pub(crate) async fn held(&self, rollout: &str, namespace: &str, code: Code) -> Held {
        let (finding, report) = self.until_found(rollout, namespace, code).await;
        let level = finding["level"].as_str().unwrap();
        assert!(level == "Block" || level == "Hold", "{finding}");
        assert_ne!(finding["remedy"].as_str().unwrap_or_default(), "", "{finding}");
        let ready = self.explained(self.until_ready_is(rollout, code.name(), LIMIT).await);
        assert_eq!(ready.status, "False", "{ready:?}");
        let status = self.rollout(rollout).await.unwrap()["status"].clone();
        let blocker = find(&status["blockedBy"], code).expect("listed in blockedBy");
        assert!(blocker["since"].is_string(), "{blocker}");
        let gates = self.condition(rollout, "GatesPassed").await.unwrap();
        let passed = if level == "Block" { "False" } else { "Unknown" };
        assert_eq!((gates.status.as_str(), gates.reason.as_str()), (passed, code.name()));

        self.evaluated(rollout).await;
        let strict = self.strict_writes(namespace);
        assert_eq!(strict.count(), 0, "{}", strict.summary());
        Held { ready, finding, report }
    }

    /// Waits until the rollout has been evaluated some more times.
    pub(crate) async fn evaluated(&self, rollout: &str) {
        let begin = self.evaluations(rollout).await.unwrap_or(0.0);
        self.wait(&format!("{rollout} to be evaluated"), async || {
            match self.evaluations(rollout).await? - begin {
                more if more >= EVALUATIONS => Ok(()),
                more => Err(format!("{more} times")),
            }
        })
        .await;
    }

    async fn evaluations(&self, rollout: &str) -> Result<f64, String> {
        let page = self.operator.page("/metrics").await.map_err(|error| error.to_string())?;
        let start = format!("meshrollout_evaluations_total{{rollout=\"{rollout}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
        count.ok_or_else(|| "never".to_owned())
    }

    /// Waits until the namespace is STRICT, and returns when that was written. Asserts that it
    /// took one write, and that no system namespace was ever written to.
    pub(crate) async fn until_strict(&self, rollout: &str, namespace: &str) -> Timestamp {
        self.wait(&format!("{namespace} to be STRICT"), async || {
            let mode = self.policy_mode(namespace).await.map_err(|error| error.to_string())?;
            if mode.as_deref() == Some("STRICT") {
                return Ok(());
            }
            let ready = self.condition(rollout, "Ready").await;
            Err(format!("{mode:?}, {ready:?}"))
        })
        .await;
        let told = self.wait("the audit log to tell", async || {
            let writes = self.strict_writes(namespace);
            if writes.count() > 0 { Ok(writes) } else { Err("nothing".to_owned()) }
        });
        let writes = told.await;
        assert_eq!(writes.count(), 1, "{}", writes.summary());
        self.spared_the_system();
        writes.events().next().unwrap().stage_timestamp.parse().unwrap()
    }

    /// Ends a rollout whose test is over, so that the operator has time for the others.
    pub(crate) async fn end(&self, rollout: &str) {
        self.spared_the_system();
        self.delete("meshrollout", "", rollout).await.unwrap();
    }

    /// What the operator has sent about policies, dry runs included.
    pub(crate) fn policy_writes(&self) -> Audit {
        let audit = self.audit_since(self.begin).unwrap();
        audit.of("peerauthentications").by(OPERATOR_USER).filter(Event::is_write)
    }

    /// The STRICT among them in one namespace, refused ones included.
    pub(crate) fn strict_writes(&self, namespace: &str) -> Audit {
        self.policy_writes().writes().within(namespace).filter(|event| {
            let sent = event.request_object.as_ref();
            sent.is_some_and(|policy| policy["spec"]["mtls"]["mode"] == "STRICT")
        })
    }

    /// Asserts that the operator has never sent a policy to a root or system namespace.
    pub(crate) fn spared_the_system(&self) {
        let system = ["istio-system", "meshrollout-system"];
        let there = self.policy_writes().filter(|event| {
            let namespace = event.object_ref.as_ref().map_or("", |it| it.namespace.as_str());
            namespace.starts_with("kube-") || namespace.is_empty() || system.contains(&namespace)
        });
        assert_eq!(there.count(), 0, "{}", there.summary());
    }

    /// Waits until `attempt` yields a value.
    pub(crate) async fn wait<T>(
        &self,
        what: &str,
        attempt: impl AsyncFnMut() -> Result<T, String>,
    ) -> T {
        self.explained(until(what, LIMIT, attempt).await)
    }

    /// The value, or a panic with the operator's last words.
    fn explained<T>(&self, result: Result<T, meshrollout_e2e::Error>) -> T {
        result.unwrap_or_else(|error| {
            let log = self.operator.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            panic!("{error}\nthe operator's log ends so:\n{}", last.join("\n"))
        })
    }
}

impl Held {
    /// The finding's field as text.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.finding[field].as_str().unwrap_or_default()
    }
}

/// The entry of this code in a list of findings or blockers.
pub(crate) fn find(list: &Value, code: Code) -> Option<&Value> {
    list.as_array()?.iter().find(|one| one["code"] == code.id())
}
