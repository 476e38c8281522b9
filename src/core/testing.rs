//! A small world for everyone's tests: a shop that would go through, and what one may break in it.

use crate::action::Action;
use crate::client_tls::{Rule, Rules, TlsMode, TrafficPolicy};
use crate::decide::{Decision, decide};
use crate::effective::Policies;
use crate::egress::Scopes;
use crate::exposure::{Caller, Dialled, Entrance};
use crate::finding::Subject;
use crate::ident::{Labels, Namespace, PodRef, Port, Uid, WorkloadRef};
use crate::injection::{Template, chart_injectors};
use crate::mode::{Declared, Mode};
use crate::plan::{
    Asked, Existing, Mission, OnIdle, Plan, Settings, Stage, Strictness, Targets, Timing, Trigger,
};
use crate::policy::{FIELD_MANAGER, OUR_NAME, Ours, Policy};
use crate::progress::Progress;
use crate::reading::{Cause, Reading};
use crate::snapshot::{Mesh, Snapshot, Source};
use crate::traffic::{
    self, Certificate, ControlPlane, Edge, Name, Observed, Presence, Telemetry, Timeline,
};
use crate::workload::{
    Identity, NamespaceFacts, Phase, Pod, Proxy, Service, ServicePort, Workload,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Seconds of the test's clock, which begins in 2026: no time of it looks forged.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("in range")
}

/// So many seconds.
pub fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A plan, a cluster, a metrics source and a clock.
#[derive(Clone, Debug)]
pub struct World {
    /// The plan.
    pub plan: Plan,
    /// What is remembered.
    pub progress: Progress,
    /// The cluster as it is; its times are set anew at each visit.
    pub snapshot: Snapshot,
    /// The clock, in seconds.
    pub now: i64,
    /// What the metrics source says besides the times.
    pub telemetry: Telemetry,
}

/// The namespaces of [`World::shop`], one stage each.
pub const SHOP: [&str; 2] = ["catalog", "orders"];

impl World {
    /// Two meshed namespaces, called by `front/web` over mutual TLS for hours. Goes through.
    pub fn shop() -> Self {
        let stages = SHOP.map(|name| Stage {
            name: name.into(),
            targets: Targets::Named([Namespace::from(name)].into()),
            soak: seconds(60),
            bake: seconds(60),
            max_concurrent: 1,
            needs_approval: false,
        });
        let timing = Timing {
            interval: seconds(30),
            stale_watch: seconds(90),
            drain: seconds(0),
            acknowledgement: seconds(0),
            harm_window: seconds(30),
            max_skew: seconds(5),
        };
        let plan = Plan {
            name: "shop".into(),
            uid: Uid::new("rollout-1"),
            action: Mission::Enforce,
            paused: false,
            stages: stages.into(),
            gates: Settings {
                injection: Strictness::Enforce,
                plaintext: Strictness::Enforce,
                destination_rules: Strictness::Enforce,
                lookback: seconds(3600),
                on_idle: OnIdle::Hold,
                min_remaining_percent: 25,
            },
            rollback: Trigger::Automatic,
            existing: Existing::Refuse,
            asked: Asked::default(),
            claimed: BTreeMap::new(),
            approvals: vec![],
            source: None,
            waivers: Default::default(),
            operator_namespace: "meshrollout-system".into(),
            timing,
        };
        let namespaces: BTreeMap<_, _> =
            ["catalog", "front", "orders"].iter().map(|name| namespace(name)).collect();
        let policies = Policies::new("istio-system".into(), []);
        let telemetry = telemetry(&namespaces);
        let snapshot = Snapshot {
            at: at(0),
            source: Source::Quorum,
            mesh: Reading::Known(Mesh {
                roots: vec!["istio-system".into()],
                auto_mtls: true,
                trust_domain: "cluster.local".into(),
                trust_domains: Some(["cluster.local".to_owned()].into()),
                sends_to_known_only: false,
                networks: vec![],
            }),
            namespaces,
            policies,
            rules: Rules::default(),
            egress: Scopes::default(),
            inbound_filters: vec![],
            injectors: Reading::Known(chart_injectors("default", true)),
            entrances: Reading::Known(Arc::default()),
            scheduled: Reading::Known(Arc::default()),
            monitors: Reading::Known(Arc::default()),
            overrides: vec![],
            telemetry: Arc::new(telemetry.clone()),
            stale: vec![],
        };
        Self { plan, progress: Progress::default(), snapshot, now: 0, telemetry }
    }

    /// What would be decided now; nothing is done.
    pub fn look(&self) -> (Snapshot, Decision) {
        let mut snapshot = self.snapshot.clone();
        snapshot.at = at(self.now);
        let mut telemetry = self.telemetry.clone();
        telemetry.at = at(self.now);
        if let Reading::Known(presence) = &mut telemetry.presence {
            for reports in presence.values_mut() {
                reports.first = at(self.now - 3600);
                reports.last = at(self.now);
            }
        }
        snapshot.telemetry = Arc::new(telemetry);
        let decision = decide(&self.plan, &self.progress, &snapshot, at(self.now));
        (snapshot, decision)
    }

    /// One visit: decides, checks every invariant, does what was decided.
    #[track_caller]
    pub fn visit(&mut self) -> Decision {
        let (snapshot, decision) = self.look();
        let broken = crate::invariant::violations(&self.plan, &snapshot, &decision, at(self.now));
        assert!(broken.is_empty(), "{broken:#?}");
        for action in &decision.actions {
            self.apply(action);
        }
        self.progress = decision.progress.clone();
        decision
    }

    /// Visits every interval, so many times.
    #[track_caller]
    pub fn visits(&mut self, times: usize) -> Decision {
        let mut last = self.visit();
        for _ in 1..times {
            self.now += 30;
            last = self.visit();
        }
        self.now += 30;
        last
    }

    /// Does one action to the cluster, as the apiserver would store it.
    pub fn apply(&mut self, action: &Action) {
        let namespace = action.namespace().clone();
        let noted = action.notes(at(self.now));
        if let Action::Restore(restore) = action {
            if restore.deletes() {
                self.snapshot.policies = self.snapshot.policies.without(&namespace, OUR_NAME);
            } else {
                self.set_policy(namespace.as_str(), OUR_NAME, action.mode(), None);
            }
            return;
        }
        if let (Action::Adopt(_), Some(old)) = (action, self.policy(&namespace)) {
            let mut managers = old.managers.clone();
            managers.push(FIELD_MANAGER.into());
            let adopted = Policy { ours: Some(noted), managers, ..old.clone() };
            self.snapshot.policies = self.snapshot.policies.with(adopted);
            return;
        }
        let old = self.policy(&namespace).cloned();
        self.set_policy(namespace.as_str(), OUR_NAME, action.mode(), Some(noted));
        if let (Some(old), Some(new)) = (old, self.policy(&namespace).cloned()) {
            // An apply leaves alone what another hand put around our fields.
            let Policy { selector, ports, revision, .. } = old;
            let kept = Policy { selector, ports, revision, ..new };
            self.snapshot.policies = self.snapshot.policies.with(kept);
        }
    }

    /// Puts a namespace-wide policy there.
    pub fn set_policy(&mut self, namespace: &str, name: &str, mode: Mode, ours: Option<Ours>) {
        let manager = if ours.is_some() { FIELD_MANAGER } else { "kubectl" };
        let policy = Policy {
            mode: Declared::Mode(mode),
            ours,
            managers: vec![manager.into()],
            ..policy(namespace, name, self.now)
        };
        self.snapshot.policies = self.snapshot.policies.with(policy);
    }

    /// Puts a policy for the one workload of `namespace` there, with a mode for one of its ports.
    pub fn set_workload_policy(&mut self, namespace: &str, name: &str, port: u16, mode: Mode) {
        let policy = Policy {
            selector: Labels::from_iter([("app", namespace)]),
            mode: Declared::Unset,
            ports: BTreeMap::from([(Port(port), Declared::Mode(mode))]),
            ..policy(namespace, name, self.now)
        };
        self.snapshot.policies = self.snapshot.policies.with(policy);
    }

    /// Somebody deletes our policy.
    pub fn delete_policy(&mut self, namespace: &str) {
        let root = self.snapshot.policies.root().clone();
        let everywhere = self.snapshot.namespaces.keys().chain([&root]);
        let left: Vec<_> = everywhere
            .flat_map(|name| self.snapshot.policies.of(name))
            .filter(|one| one.namespace.as_str() != namespace || one.name != OUR_NAME)
            .cloned()
            .collect();
        self.snapshot.policies = Policies::new(root, left);
    }

    /// Our policy in `namespace`.
    pub fn policy(&self, namespace: &Namespace) -> Option<&Policy> {
        self.snapshot.policies.of(namespace).iter().find(|policy| policy.name == OUR_NAME)
    }

    /// The mode that stands in `namespace`, by its namespace-wide policy.
    pub fn mode(&self, namespace: &str) -> Option<Mode> {
        match self.snapshot.policies.namespace_wide(&namespace.into(), None)?.mode {
            Declared::Mode(mode) => Some(mode),
            Declared::Unset | Declared::Unknown(_) => None,
        }
    }

    /// Changes the facts of one namespace.
    pub fn edit(&mut self, namespace: &str, edit: impl FnOnce(&mut NamespaceFacts)) {
        if let Some(facts) = self.snapshot.namespaces.get_mut(&Namespace::from(namespace)) {
            edit(Arc::make_mut(facts));
        }
    }

    /// Changes every pod of one namespace.
    pub fn edit_pods(&mut self, namespace: &str, edit: impl Fn(&mut Pod)) {
        self.edit(namespace, |facts| {
            facts.workloads.values_mut().flat_map(|w| w.pods.iter_mut()).for_each(edit);
        });
    }

    /// Somebody sends plaintext into `namespace`.
    pub fn plaintext(&mut self, from: Option<(&str, &str)>, namespace: &str) {
        let caller = traffic::Caller {
            source: from.map(|(namespace, workload)| Name {
                namespace: namespace.into(),
                workload: workload.into(),
            }),
            destination: Name { namespace: namespace.into(), workload: namespace.into() },
            service: None,
            port: None,
            observed: Observed::Plaintext,
            protocol: "http".into(),
            count: 3.0,
        };
        self.telemetry.callers = Reading::Known(vec![caller]);
    }

    /// A DestinationRule of `tls` in `namespace` for `host`.
    pub fn rule(&mut self, namespace: &str, host: &str, tls: TlsMode) {
        let rule = Rule {
            namespace: namespace.into(),
            name: "rule".into(),
            created: None,
            host: host.into(),
            export_to: Default::default(),
            selector: None,
            policy: Some(TrafficPolicy { tls: Some(tls), ports: BTreeMap::new() }),
            passthrough: false,
            subsets: vec![],
            revision: None,
            malformed: None,
        };
        self.snapshot.rules = Rules::new(Some("istio-system".into()), [rule]);
    }

    /// An object leads `caller` to the Service of `namespace`.
    pub fn entrance(&mut self, caller: Caller, namespace: &str) {
        let entrance = Entrance {
            caller,
            declared_by: Subject::cluster("ValidatingWebhookConfiguration", namespace),
            detail: String::new(),
            namespace: namespace.into(),
            service: namespace.into(),
            port: Dialled::Number(Port(80)),
        };
        let known = self.snapshot.entrances.known().cloned().unwrap_or_default();
        let all = known.iter().cloned().chain([entrance]).collect();
        self.snapshot.entrances = Reading::Known(Arc::new(all));
    }

    /// The client of `namespace` has had a hundred answers, and this many of 5xx, in the current
    /// window.
    pub fn answers_of_5xx(&mut self, namespace: &str, count: f64) {
        let now = at(self.now);
        for edge in self.edges_to(namespace) {
            edge.requests.0.push((now, 100.0));
            edge.errors.0.push((now, count));
        }
    }

    /// The client of `namespace` has had this many failed connections in the current window.
    pub fn failures(&mut self, namespace: &str, count: f64) {
        let now = at(self.now);
        for edge in self.edges_to(namespace) {
            edge.failures.0.push((now, count));
        }
    }

    fn edges_to(&mut self, namespace: &str) -> impl Iterator<Item = &mut Edge> {
        let edges = match &mut self.telemetry.edges {
            Reading::Known(edges) => edges.as_mut_slice(),
            Reading::Unknown(_) => &mut [],
        };
        let to = Some(Namespace::from(namespace));
        edges.iter_mut().filter(move |edge| edge.destination == to)
    }
}

/// A namespace-wide policy that says nothing yet.
fn policy(namespace: &str, name: &str, now: i64) -> Policy {
    Policy {
        namespace: namespace.into(),
        name: name.into(),
        uid: Uid::new(format!("{namespace}-{name}")),
        resource_version: now.to_string(),
        created: Some(at(-10_000)),
        selector: Labels::default(),
        mode: Declared::Unset,
        ports: BTreeMap::new(),
        revision: None,
        managers: vec![FIELD_MANAGER.into()],
        owner: None,
        ours: None,
    }
}

fn namespace(name: &str) -> (Namespace, Arc<NamespaceFacts>) {
    let labels = Labels::from_iter([("app", name)]);
    let id = WorkloadRef::new(name, "Deployment", name);
    let pods = (0..2)
        .map(|index| Pod {
            name: format!("{name}-5d8f-0000{index}"),
            labels: Arc::new(labels.clone()),
            proxy: Proxy::Sidecar { revision: Some("default".into()), announces_tls: true },
            phase: Phase::Running,
            ready_since: Some(at(-90_000)),
            host_network: false,
            restarts: 0,
            inbound: Arc::default(),
            start: Arc::default(),
            identity: Arc::new(Identity { account: name.into(), trust_domain: None }),
        })
        .collect();
    let template = Template { labels: labels.clone(), ..Template::default() };
    let workload = Workload { id: id.clone(), desired: Some(2), template: Some(template), pods };
    let service = Service {
        name: name.into(),
        host: format!("{name}.{name}.svc.cluster.local").as_str().into(),
        ports: vec![ServicePort {
            port: Port(80),
            target: Some(Port(8080)),
            name: "http".into(),
            app_protocol: None,
        }],
        selector: labels,
        headless: false,
        external: None,
        export_to: None,
        published: None,
        labels: Labels::default(),
    };
    let facts = NamespaceFacts {
        name: name.into(),
        uid: Uid::new(name),
        labels: Labels::from_iter([("istio-injection", "enabled")]),
        terminating: false,
        workloads: BTreeMap::from([(id, workload)]),
        services: vec![service],
        machines: vec![],
        roots: None,
    };
    (name.into(), Arc::new(facts))
}

fn telemetry(namespaces: &BTreeMap<Namespace, Arc<NamespaceFacts>>) -> Telemetry {
    let pods = || {
        namespaces
            .values()
            .flat_map(|facts| facts.workloads.values())
            .flat_map(|workload| workload.pods.iter().map(|pod| workload.pod_ref(pod)))
    };
    let each = |reports: Presence| pods().map(|pod| (pod, reports)).collect();
    let windows = || (-10..0).map(|window| at(window * 30));
    let lifetime = SignedDuration::from_hours(24);
    Telemetry {
        at: at(0),
        lookback: seconds(3600),
        scrape_interval: seconds(15),
        skew: Reading::Known(SignedDuration::ZERO),
        callers: Reading::Known(vec![]),
        mutual: Reading::Known(
            namespaces
                .keys()
                .map(|name| (Name { namespace: name.clone(), workload: name.to_string() }, 900.0))
                .collect(),
        ),
        presence: Reading::Known(each(Presence {
            first: at(-3600),
            last: at(0),
            samples: 241,
            gap: None,
        })),
        certificates: Reading::Known(
            pods()
                .map(|pod| {
                    let remaining = SignedDuration::from_hours(20);
                    (pod, Certificate { remaining, lifetime })
                })
                .collect(),
        ),
        control_plane: Reading::Known(ControlPlane {
            instances: 1,
            rejects: 0.0,
            unsigned: 0.0,
            convergence: Some(seconds(1)),
            root_remaining: Some(SignedDuration::from_hours(87_600)),
        }),
        refusals: Reading::Known(
            pods().map(|pod: PodRef| (pod, Timeline::steady(windows(), 0.0))).collect(),
        ),
        clusters: Reading::Known(BTreeMap::new()),
        open: Reading::Known(BTreeMap::new()),
        edges: Reading::Known(
            SHOP.iter()
                .map(|to| Edge {
                    source: Name { namespace: "front".into(), workload: "front".into() },
                    destination: Some((*to).into()),
                    service: format!("{to}.{to}.svc.cluster.local"),
                    requests: Timeline::steady(windows(), 50.0),
                    failures: Timeline::steady(windows(), 0.0),
                    errors: Timeline::steady(windows(), 0.0),
                })
                .collect(),
        ),
        listeners: Reading::Unknown(Cause::NotRead("the proxies' state".into())),
        asked_at: None,
    }
}
