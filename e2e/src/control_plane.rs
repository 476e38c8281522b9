use std::path::{Path, PathBuf};

use serde_json::json;

use crate::pki::{Pki, text};
use crate::ports::Ports;
use crate::process::Program;
use crate::tools::Tools;
use crate::{Doing, Error, node};

pub(crate) const AUDIT_LOG: &str = "audit.log";
/// The folder of etcd's data, in a cluster's folder.
pub(crate) const ETCD: &str = "etcd";

/// For the apiserver.
pub(crate) const OWNERS_ARE_ASKED: &str =
    "--enable-admission-plugins=OwnerReferencesPermissionEnforcement";

/// What a test of ours can feel the want of: each of the others would watch kinds of its own, as a
/// user of its own.
const CONTROLLERS: [&str; 15] = [
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Where the parts of Kubernetes listen.
pub(crate) struct Addresses {
    pub(crate) etcd: u16,
    pub(crate) etcd_peers: u16,
    pub(crate) apiserver: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
}

impl Addresses {
    pub(crate) fn take(ports: &mut Ports) -> Result<Self, Error> {
        Ok(Self {
            etcd: ports.take()?,
            etcd_peers: ports.take()?,
            apiserver: ports.take()?,
            controller_manager: ports.take()?,
            scheduler: ports.take()?,
        })
    }

    pub(crate) fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.apiserver)
    }
}

pub(crate) fn etcd(tools: &Tools, folder: &Path, at: &Addresses) -> Program {
    let (clients, peers) = (local(at.etcd), local(at.etcd_peers));
    Program::new("etcd", tools.program("etcd"), folder).args([
        format!("--data-dir={}", text(&folder.join(ETCD))),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // The data does not outlive the run.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ])
}

pub(crate) fn apiserver(
    tools: &Tools,
    folder: &Path,
    pki: &Pki,
    at: &Addresses,
) -> Result<Program, Error> {
    let policy = folder.join("audit-policy.json");
    std::fs::write(&policy, audit_policy()).doing("writing the audit policy")?;
    let pki = |name| text(&pki.path(name));
    // All others wait for it.
    let program = Program::new("kube-apiserver", tools.program("kube-apiserver"), folder)
        .env("GOMAXPROCS", "2");
    Ok(program.args([
        format!("--etcd-servers={}", local(at.etcd)),
        format!("--secure-port={}", at.apiserver),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--cert-dir={}", text(folder)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
        "--allow-privileged".to_owned(),
        // Tests in parallel are not tenants to be kept apart.
        "--enable-priority-and-fairness=false".to_owned(),
        "--max-requests-inflight=0".to_owned(),
        "--max-mutating-requests-inflight=0".to_owned(),
        format!("--audit-policy-file={}", text(&policy)),
        format!("--audit-log-path={}", text(&folder.join(AUDIT_LOG))),
        // An answered request is in the log: tests read it right after.
        "--audit-log-mode=blocking".to_owned(),
        // Megabytes; a rotated log would lose what tests look for.
        "--audit-log-maxsize=10000".to_owned(),
    ]))
}

pub(crate) fn controller_manager(
    tools: &Tools,
    folder: &Path,
    pki: &Pki,
    kubeconfig: &Path,
    at: &Addresses,
) -> Program {
    let name = "kube-controller-manager";
    let pki = |name| text(&pki.path(name));
    Program::new(name, tools.program(name), folder).args([
        format!("--kubeconfig={}", text(kubeconfig)),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--cert-dir={}", text(folder)),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", at.controller_manager),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ])
}

pub(crate) fn scheduler(
    tools: &Tools,
    folder: &Path,
    kubeconfig: &Path,
    at: &Addresses,
) -> Program {
    Program::new("kube-scheduler", tools.program("kube-scheduler"), folder).args([
        format!("--kubeconfig={}", text(kubeconfig)),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", at.scheduler),
        format!("--cert-dir={}", text(folder)),
    ])
}

/// The tests' oracle: every write with its body, every read by name; but what the control plane's
/// own programs read, and the beats of their hearts, nobody judges.
fn audit_policy() -> String {
    let programs = json!([
        "system:apiserver",
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "kwok",
        "istiod",
        node::USER,
    ]);
    let controllers = json!(["system:serviceaccounts:kube-system"]);
    let reads = json!(["get", "list", "watch"]);
    let beats = json!([
        {"group": "", "resources": ["events"]},
        {"group": "events.k8s.io", "resources": ["events"]},
        {"group": "coordination.k8s.io", "resources": ["leases"]},
    ]);
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            {"level": "None", "users": programs, "verbs": reads},
            {"level": "None", "userGroups": controllers, "verbs": reads},
            {"level": "None", "users": programs, "resources": beats},
            {"level": "None", "userGroups": controllers, "resources": beats},
            {"level": "RequestResponse",
             "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            {"level": "Metadata"},
        ],
    })
    .to_string()
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The kubeconfigs that the parts use, each under its own name, so that the audit log tells
/// them from the tests and from the operator.
pub(crate) struct Kubeconfigs {
    pub(crate) admin: PathBuf,
    pub(crate) controller_manager: PathBuf,
    pub(crate) scheduler: PathBuf,
    pub(crate) kwok: PathBuf,
    pub(crate) istiod: PathBuf,
    pub(crate) node: PathBuf,
}

impl Kubeconfigs {
    pub(crate) fn write(pki: &Pki, server: &str) -> Result<Self, Error> {
        let masters = Some("system:masters");
        Ok(Self {
            admin: pki.kubeconfig(server, "admin", masters)?,
            controller_manager: pki.kubeconfig(server, "system:kube-controller-manager", None)?,
            scheduler: pki.kubeconfig(server, "system:kube-scheduler", None)?,
            kwok: pki.kubeconfig(server, "kwok", masters)?,
            istiod: pki.kubeconfig(server, "istiod", masters)?,
            node: pki.kubeconfig(server, node::USER, masters)?,
        })
    }
}
