//! Meshes that follow from a seed: policies at every level and port, rules of every kind.

use meshrollout_e2e::Draw;
use serde_json::{Map, Value, json};

/// Where proxies, servers and rules live: group `n`'s namespace.
pub(crate) fn namespace(group: usize) -> String {
    format!("g{group:02}")
}

/// Services of each group: the name, whether it is headless, and what it selects.
const SERVICES: [(&str, bool, &str, &str); 4] = [
    ("app", false, "app", "app"),
    ("bare", false, "app", "bare"),
    ("mixed", true, "part", "all"),
    ("pure", true, "app", "app"),
];

/// Container ports that are asked about: two that Services lead to, and one that none does.
pub(crate) const PORTS: [u16; 3] = [8080, 9000, 7777];

const ROOT: &str = "istio-system";

/// What stays: two workloads of a group, one with a sidecar and one without, and its Services.
pub(crate) fn group(group: usize) -> Vec<Value> {
    let namespace = namespace(group);
    let deployment = |name: &str, inject: &str| {
        let labels = json!({"app": name, "part": "all", "tier": "a",
            "sidecar.istio.io/inject": inject});
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                "name": "app", "image": "example.com/app",
                "ports": [{"containerPort": 8080}, {"containerPort": 9000}],
            }]}},
        }})
    };
    let service = |(name, headless, label, value): (&str, bool, &str, &str)| {
        let mut spec = json!({"selector": {label: value}, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "tcp-raw", "port": 90, "targetPort": 9000},
        ]});
        if headless {
            spec["clusterIP"] = json!("None");
        }
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec})
    };
    let mut all = vec![deployment("app", "true"), deployment("bare", "false")];
    all.extend(SERVICES.map(service));
    all
}

/// All policies and rules of one batch of meshes: a group's and the whole mesh's.
pub(crate) struct Batch {
    draw: Draw,
    seed: u64,
    groups: usize,
    objects: Vec<Value>,
}

/// The objects of the batch with this seed.
pub(crate) fn batch(seed: u64, groups: usize) -> Vec<Value> {
    let mut batch = Batch { draw: Draw::of(seed, "truth", 0), seed, groups, objects: vec![] };
    for _ in 0..batch.draw.below(3) {
        let selector = batch.one_in(5);
        batch.policy(ROOT, selector);
    }
    for _ in 0..batch.draw.below(3) {
        batch.rule(ROOT, 0);
    }
    for group in 0..groups {
        let name = namespace(group);
        for _ in 0..batch.draw.below(3) {
            batch.policy(&name, false);
        }
        for _ in 0..batch.draw.below(3) {
            batch.policy(&name, true);
        }
        for _ in 0..batch.draw.below(4) {
            batch.rule(&name, group);
        }
    }
    batch.objects
}

impl Batch {
    fn one_in(&mut self, many: u64) -> bool {
        self.draw.below(many) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let many = u64::try_from(from.len()).expect("a few");
        from[usize::try_from(self.draw.below(many)).expect("it fits")].clone()
    }

    /// No order of names follows the order in which they are made.
    fn name(&mut self) -> String {
        format!("{:04x}-{}-{}", self.draw.below(1 << 16), self.seed, self.objects.len())
    }

    fn mtls(&mut self) -> Option<Value> {
        let modes = [
            None,
            Some(json!({})),
            Some(json!({"mode": "UNSET"})),
            Some(json!({"mode": "PERMISSIVE"})),
            Some(json!({"mode": "PERMISSIVE"})),
            Some(json!({"mode": "STRICT"})),
            Some(json!({"mode": "STRICT"})),
            Some(json!({"mode": "DISABLE"})),
        ];
        self.pick(&modes)
    }

    fn policy(&mut self, namespace: &str, selects: bool) {
        let mut spec = Map::new();
        if let Some(mtls) = self.mtls() {
            spec.insert("mtls".into(), mtls);
        }
        if selects {
            let selector = [
                json!({"app": "app"}),
                json!({"tier": "a"}),
                json!({"app": "app", "tier": "a"}),
                json!({"app": "bare"}),
                json!({"app": "other"}),
            ];
            let labels = self.pick(&selector);
            spec.insert("selector".into(), json!({"matchLabels": labels}));
            let mut ports = Map::new();
            for port in [8080, 9000, 7777, 80] {
                if self.one_in(3)
                    && let Some(mtls) = self.mtls()
                {
                    ports.insert(port.to_string(), mtls);
                }
            }
            if !ports.is_empty() && namespace != ROOT {
                spec.insert("portLevelMtls".into(), Value::Object(ports));
            }
        }
        let name = self.name();
        self.objects.push(json!({"apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec}));
    }

    fn tls(&mut self) -> Option<Value> {
        let files = json!({"mode": "MUTUAL", "clientCertificate": "/c.pem",
            "privateKey": "/k.pem", "caCertificates": "/ca.pem"});
        let kinds = [
            None,
            Some(json!({"mode": "DISABLE"})),
            Some(json!({"mode": "SIMPLE"})),
            Some(files),
            Some(json!({"mode": "ISTIO_MUTUAL"})),
            Some(json!({})),
        ];
        self.pick(&kinds)
    }

    fn traffic_policy(&mut self) -> Option<Value> {
        let mut policy = Map::new();
        if let Some(tls) = self.tls() {
            policy.insert("tls".into(), tls);
        }
        if self.one_in(3) {
            let mut port = json!({"port": {"number": 80},
                "connectionPool": {"tcp": {"maxConnections": 100}}});
            if let Some(tls) = self.tls() {
                port["tls"] = tls;
            }
            policy.insert("portLevelSettings".into(), json!([port]));
        }
        if self.one_in(8) {
            policy.insert("loadBalancer".into(), json!({"simple": "PASSTHROUGH"}));
        }
        (!policy.is_empty()).then_some(Value::Object(policy))
    }

    fn rule(&mut self, own: &str, group: usize) {
        let next = namespace((group + 1) % self.groups);
        let here = namespace(group);
        let service = self.pick(&SERVICES).0;
        let mut hosts = vec![
            format!("{service}.{here}.svc.cluster.local"),
            format!("{service}.{next}.svc.cluster.local"),
            format!("*.{here}.svc.cluster.local"),
            format!("*.{next}.svc.cluster.local"),
            "*.svc.cluster.local".to_owned(),
            "*.local".to_owned(),
        ];
        if own != ROOT {
            hosts.push(service.to_owned());
            hosts.push(format!("{service}.{next}"));
        }
        let mut spec = json!({"host": self.pick(&hosts)});
        if let Some(policy) = self.traffic_policy() {
            spec["trafficPolicy"] = policy;
        }
        let export = [
            json!(null),
            json!(null),
            json!(["."]),
            json!(["*"]),
            json!([next]),
            json!([here, next]),
        ];
        let export = self.pick(&export);
        if !export.is_null() {
            spec["exportTo"] = export;
        }
        if self.one_in(3) {
            let mut subset = json!({"name": "v1", "labels": {"tier": "a"}});
            if let Some(policy) = self.traffic_policy() {
                subset["trafficPolicy"] = policy;
            }
            spec["subsets"] = json!([subset]);
        }
        if self.one_in(6) {
            let app = self.pick(&["app", "other"]);
            spec["workloadSelector"] = json!({"matchLabels": {"app": app}});
        }
        let name = self.name();
        self.objects.push(json!({"apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"namespace": own, "name": name}, "spec": spec}));
    }
}
