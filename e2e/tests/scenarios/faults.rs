//! Rollouts on a way to the apiserver and to the metrics source that fails as a seed says. When
//! the faults end, each reaches the end that its scenario has, and no write was unsafe.
//!
//! A schedule is one rollout of three stages and the faults of its own seed on every write to its
//! objects. Eight share an operator, two of each scenario; what they share (watches, lists, the
//! Lease, the metrics) fails by the seed of the first of the eight.
//!
//! SCHEDULES=60    how many, from seed 0 on
//! SEED=17         only that one and the seven that run with it
//! CLUSTERS=4      so many side by side
//! LIMIT=240       seconds from the beginning of a rollout to its end, faults included

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Audit, Client, Cluster, Draw, Edge, EdgeId, Error, FaultProxy, OperatorOptions, Options,
    Oracle, Rollout, Schedule, Server, Stage, until,
};
use serde_json::json;

/// From the beginning of a group to each of its ends, faults included.
static LIMIT: LazyLock<Duration> =
    LazyLock::new(|| Duration::from_secs(number("LIMIT").unwrap_or(240)));
const LOOKBACK: Duration = Duration::from_secs(6);
const SOAK: Duration = Duration::from_secs(2);
const BAKE: Duration = Duration::from_secs(2);
/// Acknowledgement and drain.
const SETTLE: Duration = Duration::from_secs(2);
/// Two evaluations and a scrape.
const EVIDENCE_AGE: Duration = Duration::from_secs(3);
/// So many share an operator.
const GROUP: usize = 8;
/// So many groups share a cluster: its Prometheus goes on searching the series of what is gone, and
/// every further group would be slower than the one before.
const GROUPS: usize = 3;
/// Nothing more may happen for so long after the end.
const STAYS: Duration = Duration::from_secs(4);

/// What happens beside the faults, by the seed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Scenario {
    /// Nothing: all STRICT.
    Clean,
    /// Plaintext reaches one stage at first: all STRICT, and that one not before.
    PlaintextGoes,
    /// Plaintext reaches one stage: the earlier ones STRICT, that one never.
    PlaintextStays,
    /// Clients of one stage are refused once it is STRICT: back to PERMISSIVE, earlier ones stay.
    Harm,
}

/// One seed's rollout.
struct Schedules {
    seed: u64,
    scenario: Scenario,
    /// The stage that the scenario is about.
    place: usize,
    namespaces: [String; 3],
    edges: Vec<EdgeId>,
    draw: Draw,
}

impl Schedules {
    fn of(seed: u64) -> Self {
        let mut draw = Draw::of(seed, "scenario", 0);
        let scenario = match seed % 4 {
            0 => Scenario::Clean,
            1 => Scenario::PlaintextGoes,
            2 => Scenario::PlaintextStays,
            _ => Scenario::Harm,
        };
        let place = [0, 1, 2][usize::try_from(draw.below(3)).unwrap()];
        let namespaces = ["one", "two", "three"].map(|name| format!("f{seed}-{name}"));
        Self { seed, scenario, place, namespaces, edges: vec![], draw }
    }

    fn rollout(&self) -> String {
        format!("f{}-shop", self.seed)
    }

    fn call(&self, stage: usize) -> Edge {
        let server = Server::workload(&self.namespaces[stage], "app");
        Edge::new(Client::workload("front", "web"), server)
    }

    fn oracle(&self) -> Oracle {
        let watched = BAKE + SETTLE;
        let stage = |namespace: &String| Stage { namespace: namespace.clone(), watched };
        let stages = self.namespaces.iter().map(stage).collect();
        Oracle::new(&self.rollout(), stages, LOOKBACK, SOAK, EVIDENCE_AGE)
    }

    /// The namespaces that must be STRICT in the end, each made so once.
    fn reached(&self) -> usize {
        match self.scenario {
            Scenario::Clean | Scenario::PlaintextGoes => 3,
            Scenario::PlaintextStays => self.place,
            // That one too, for a while.
            Scenario::Harm => self.place + 1,
        }
    }

    async fn prepare(&mut self, cluster: &Cluster) -> Result<(), Error> {
        let make = self.namespaces.iter().map(async |name| {
            cluster.namespace(name, Injection::Enabled, &[]).await?;
            cluster.deploy(&Workload::new(name, "app")).await
        });
        try_join_all(make).await?;
        for stage in 0..3 {
            self.edges.push(cluster.exporter().edge(self.call(stage).rps(40.0)));
        }
        Ok(())
    }

    /// Brings the rollout to its end, and says what is wrong with it.
    async fn run(&self, cluster: &Cluster, oracle: &mut Oracle) -> Result<(), Error> {
        let names = self.namespaces.each_ref().map(String::as_str);
        let place = names[self.place];
        let [first, second, third] = names.each_ref().map(std::slice::from_ref);
        let stages = [("first", first), ("second", second), ("third", third)];
        let mut rollout = Rollout::enforce(&self.rollout(), &stages)
            .with("/gates/plaintext/lookback", json!(seconds(LOOKBACK)));
        for stage in 0..3 {
            let harmed = self.scenario == Scenario::Harm && stage == self.place;
            // Harm comes before this bake ends.
            let bake = if harmed { "10m".to_owned() } else { seconds(BAKE) };
            rollout = rollout
                .with(&format!("/stages/{stage}/soak"), json!(seconds(SOAK)))
                .with(&format!("/stages/{stage}/bake"), json!(bake));
        }
        let plaintext = match self.scenario {
            Scenario::PlaintextGoes | Scenario::PlaintextStays => {
                let from = Client::workload("legacy", "batch");
                oracle.plaintext_begins(place);
                Some(cluster.exporter().edge(Edge::new(from, Server::workload(place, "app"))))
            }
            Scenario::Clean | Scenario::Harm => None,
        };
        cluster.apply_rollout(&rollout).await?;
        let name = self.rollout();
        match self.scenario {
            Scenario::Clean => {
                cluster.until_ready_is(&name, "Enforced", *LIMIT).await?;
            }
            Scenario::PlaintextGoes => {
                self.turn_of(cluster, self.place).await?;
                // How long it stands yet is the scenario, nothing is waited for.
                tokio::time::sleep(Duration::from_secs(2 + self.draw.clone().below(5))).await;
                self.modes_are(cluster, self.place).await?;
                if let Some(edge) = plaintext {
                    cluster.exporter().remove(edge);
                }
                oracle.plaintext_ends(place);
                cluster.until_ready_is(&name, "Enforced", *LIMIT).await?;
            }
            Scenario::PlaintextStays => {
                self.turn_of(cluster, self.place).await?;
                cluster.until_state_is(&name, place, "Blocked", *LIMIT).await?;
            }
            Scenario::Harm => {
                cluster.until_state_is(&name, place, "Watching", *LIMIT).await?;
                until("the bake to count", *LIMIT, async || {
                    let report = cluster.report(place, &name).await.map_err(|it| it.to_string())?;
                    match report["status"]["bake"]["coveredSeconds"].as_i64() {
                        Some(seconds) if seconds > 0 => Ok(()),
                        _ => Err(report["status"]["findings"].to_string()),
                    }
                })
                .await?;
                let failing = self.call(self.place).rps(5.0).answered(503, "UC");
                oracle.harm_begins(place);
                cluster.exporter().edge(failing);
                cluster.until_ready_is(&name, "RolledBack", *LIMIT).await?;
            }
        }
        tokio::time::sleep(STAYS).await;
        let reached = match self.scenario {
            Scenario::Harm => self.place,
            Scenario::Clean | Scenario::PlaintextGoes | Scenario::PlaintextStays => self.reached(),
        };
        self.modes_are(cluster, reached).await
    }

    /// Waits until all stages before are done, and this one is looked at.
    async fn turn_of(&self, cluster: &Cluster, stage: usize) -> Result<(), Error> {
        let name = self.rollout();
        for namespace in &self.namespaces[..stage] {
            cluster.until_state_is(&name, namespace, "Enforced", *LIMIT).await?;
        }
        until("a report", *LIMIT, async || {
            let report = cluster.report(&self.namespaces[stage], &name).await;
            report.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// STRICT in so many stages, and not in the others.
    async fn modes_are(&self, cluster: &Cluster, strict: usize) -> Result<(), Error> {
        for (stage, namespace) in self.namespaces.iter().enumerate() {
            let mode = cluster.policy_mode(namespace).await?;
            if (mode.as_deref() == Some("STRICT")) != (stage < strict) {
                return Err(Error::new(format!("{namespace} is {mode:?}")));
            }
        }
        Ok(())
    }
}

fn seconds(length: Duration) -> String {
    format!("{}s", length.as_secs())
}

/// What all schedules together came to.
#[derive(Default)]
struct Tally {
    ends: BTreeMap<Scenario, usize>,
    faulted: BTreeMap<&'static str, u32>,
    judged: usize,
    restarts: usize,
    rollback: Duration,
    failures: Vec<String>,
}

/// Runs an operator, and another when it ends, as a kubelet does; dropping this ends it. `logs` are
/// the files that they log to.
async fn kept_running(
    cluster: &Cluster,
    proxy: &FaultProxy,
    tally: &Mutex<Tally>,
    logs: &Mutex<Vec<PathBuf>>,
) {
    let options = OperatorOptions {
        apiserver: Some(proxy.url()),
        config: "drain: 1s\nproxyAcknowledgement: 1s\nleaseDuration: 6s\nrenewDeadline: 3s\n\
                 retryPeriod: 1s\nwriteDeadline: 2s\nstaleWatch: 20s\n"
            .to_owned(),
        ..OperatorOptions::default()
    };
    loop {
        if let Ok(mut operator) = cluster.operator(&options).await {
            logs.lock().unwrap().push(operator.log_file().to_owned());
            while operator.check().is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        tally.lock().unwrap().restarts += 1;
    }
}

async fn run(cluster: &Cluster, group: Vec<Schedules>, tally: &Mutex<Tally>) {
    let apart =
        group.iter().map(|one| (format!("/f{}-", one.seed), Schedule::of(one.seed))).collect();
    let shared = Schedule::of(group[0].seed);
    let begin = Instant::now();
    let mark = cluster.audit_mark().unwrap();
    let proxy = cluster.fault_proxy(shared, apart).await.unwrap();
    cluster.metrics_proxy().follow(shared);
    let mut oracles: Vec<_> = group.iter().map(Schedules::oracle).collect();
    let logs = Mutex::new(vec![]);
    let ends = {
        let runs = group.iter().zip(&mut oracles).map(|(one, oracle)| one.run(cluster, oracle));
        tokio::select! {
            ends = join_all(runs) => ends,
            () = kept_running(cluster, &proxy, tally, &logs) => vec![],
        }
    };
    // What is judged, and whose reign it was: a small part of all that was asked.
    let audit = cluster.audit_since(mark).unwrap().filter(|event| {
        let about = event.object_ref.as_ref().map_or("", |object| object.resource.as_str());
        ["peerauthentications", "meshfences"].contains(&about)
    });
    judge(&group, &oracles, ends, &audit, &logs.into_inner().unwrap(), tally);
    println!("seeds {}–{}: {} s", group[0].seed, group[GROUP - 1].seed, begin.elapsed().as_secs());
    for (fault, count) in proxy.faulted() {
        *tally.lock().unwrap().faulted.entry(fault).or_default() += count;
    }
    for edge in group.iter().flat_map(|one| &one.edges) {
        cluster.exporter().remove(*edge);
    }
    for one in &group {
        cluster.delete("meshrollout", "default", &one.rollout()).await.unwrap();
        let mut arguments = vec!["delete", "namespace", "--wait=false"];
        arguments.extend(one.namespaces.iter().map(String::as_str));
        cluster.kubectl(&arguments).await.unwrap();
    }
}

/// Counts what was reached and tells what was wrong.
fn judge(
    group: &[Schedules],
    oracles: &[Oracle],
    ends: Vec<Result<(), Error>>,
    audit: &Audit,
    logs: &[PathBuf],
    tally: &Mutex<Tally>,
) {
    let mut wrong: Vec<String> = Oracle::strays(oracles, audit);
    let mut tally = tally.lock().unwrap();
    for ((one, oracle), end) in group.iter().zip(oracles).zip(ends) {
        let judgement = oracle.judge(audit);
        let mut found = judgement.wrong;
        if let Err(error) = end {
            found.push(format!("the end was not reached: {error}"));
        }
        let strict: Vec<_> = judgement.strict.values().copied().collect();
        if strict != vec![1; one.reached()] {
            found.push(format!("made STRICT: {:?}", judgement.strict));
        }
        tally.judged += judgement.judged;
        tally.rollback = tally.rollback.max(judgement.rollback.unwrap_or_default());
        match found.is_empty() {
            true => *tally.ends.entry(one.scenario).or_default() += 1,
            false => wrong.push(format!(
                "SEED={} {:?} at stage {}:\n  {}",
                one.seed,
                one.scenario,
                one.place,
                found.join("\n  ")
            )),
        }
    }
    if !wrong.is_empty() {
        let mut told = wrong.join("\n");
        let stored = audit.clone().of("peerauthentications").writes().summary();
        let log: String =
            logs.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        for one in group {
            let about = format!("namespace=f{}-", one.seed);
            let failed = told.contains(&format!("SEED={} ", one.seed));
            let lines: Vec<_> =
                log.lines().filter(|line| failed && line.contains(&about)).collect();
            let own = format!(" f{}-", one.seed);
            for line in stored.lines().filter(|line| failed && line.contains(&own)) {
                let _ = write!(told, "\n    {line}");
            }
            for line in &lines[lines.len().saturating_sub(20)..] {
                let line = line.split_once("}: ").map_or(*line, |(_, rest)| rest);
                let _ = write!(told, "\n    {line}");
            }
        }
        println!("{told}");
        tally.failures.push(told);
    }
}

async fn prepared(cluster: &Cluster, first: u64) -> Vec<Schedules> {
    let mut group: Vec<_> = (first..first + GROUP as u64).map(Schedules::of).collect();
    try_join_all(group.iter_mut().map(|one| one.prepare(cluster))).await.unwrap();
    group
}

/// One cluster after the other, and so many groups on each.
async fn lane(queue: &Mutex<VecDeque<u64>>, tally: &Mutex<Tally>) {
    let next = || {
        // Three failures tell enough.
        let enough = tally.lock().unwrap().failures.len() >= 3;
        queue.lock().unwrap().pop_front().filter(|_| !enough)
    };
    while let Some(first) = next() {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install().await.unwrap();
        cluster.front().await.unwrap();
        cluster.namespace("legacy", Injection::Absent, &[]).await.unwrap();
        cluster.deploy(&Workload::new("legacy", "batch")).await.unwrap();
        let mut group = prepared(&cluster, first).await;
        for _ in 1..GROUPS {
            let Some(first) = next() else { break };
            // The next ones' pods come up meanwhile.
            let both = tokio::join!(run(&cluster, group, tally), prepared(&cluster, first));
            group = both.1;
        }
        run(&cluster, group, tally).await;
        let mut tally = tally.lock().unwrap();
        for (fault, count) in cluster.metrics_proxy().faulted() {
            *tally.faulted.entry(fault).or_default() += count;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    Some(
        std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is no number")),
    )
}

#[test]
fn every_schedule_reaches_its_end_and_no_write_is_unsafe() {
    let begin = Instant::now();
    let schedules = number("SCHEDULES").unwrap_or(60).next_multiple_of(GROUP as u64);
    let queue: VecDeque<u64> = match number("SEED") {
        Some(seed) => VecDeque::from([seed - seed % GROUP as u64]),
        None => (0..schedules).step_by(GROUP).collect(),
    };
    let wanted = queue.len() * GROUP;
    let lanes = number("CLUSTERS").unwrap_or(4).min(queue.len() as u64);
    let (queue, tally) = (Mutex::new(queue), Mutex::new(Tally::default()));
    // Each on a thread of its own: reading and judging a log must not hold up the others.
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(lane(&queue, &tally));
            });
        }
    });

    let tally = tally.into_inner().unwrap();
    println!("{wanted} schedules in {} s on {lanes} clusters", begin.elapsed().as_secs());
    println!("requests faulted: {:?}", tally.faulted);
    println!("ends reached: {:?}", tally.ends);
    println!("operators that ended and were started again: {}", tally.restarts);
    println!("accepted policy writes judged: {}", tally.judged);
    println!("harm to rollback at worst: {:.1} s", tally.rollback.as_secs_f64());
    assert!(tally.failures.is_empty(), "{}", tally.failures.join("\n\n"));
    assert_eq!(tally.ends.values().sum::<usize>(), wanted);
    assert!(tally.judged >= wanted && tally.faulted.len() >= 10, "too little happened");
}
