//! What the operator tells the team of one namespace: MeshReport.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which rollout the report belongs to. All else is in status; only the operator writes reports.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "meshrollout.dev",
    version = "v1alpha1",
    kind = "MeshReport",
    plural = "meshreports",
    shortname = "meshrep",
    namespaced,
    status = "MeshReportStatus",
    derive = "PartialEq",
    doc = "What a rollout found in this namespace: modes, callers, and what to fix. Written by the operator only.",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Where the namespace stands."
    ),
    printcolumn(
        name = "Strict",
        type_ = "string",
        json_path = ".status.strict",
        description = "Workloads that are STRICT, of all."
    ),
    printcolumn(
        name = "Findings",
        type_ = "integer",
        json_path = ".status.findingsTotal",
        description = "How many findings there are."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "Where it stands, in a sentence."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshReportSpec {
    /// Name of the MeshRollout that covers this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub rollout: String,
}

/// What was found in one namespace.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshReportStatus {
    /// The rollout, and which generation of it, this was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_rollout: Option<ObservedRollout>,

    /// Uid of the namespace: clocks of a namesake that was deleted do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub namespace_uid: Option<String>,

    /// The stage that covers the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stage: Option<String>,

    /// Where the namespace stands: Pending, Preparing, Proving, AwaitingApproval, Enforcing,
    /// Watching, Enforced, RolledBack, Blocked or Exempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NamespaceState>,

    /// Whether the chart's guard keeps the namespace's policies as they are: the rollout enforces, and
    /// has begun here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guarded: bool,

    /// Workloads that are effectively STRICT of all, as in 3/4; for the printed table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub strict: String,

    /// The clock of the soak; absent while a gate does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,

    /// When the state before the switch was measured, against which harm is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Time>,

    /// The clock of the bake; absent while the namespace is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Bake>,

    /// The workloads, those that are not STRICT first; at most 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub workloads: Vec<WorkloadReport>,

    /// How many more workloads there are than listed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub workloads_more: i32,

    /// Who sent plaintext within the look-back, most first; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub plaintext_callers: Vec<PlaintextCaller>,

    /// How many more callers sent plaintext than listed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub plaintext_callers_more: i32,

    /// What was found, worst first; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub findings: Vec<FindingReport>,

    /// How many findings there are in all.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub findings_total: i32,

    /// When every gate last passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_proven: Option<Time>,

    /// Ready: whether the namespace is STRICT and holds, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The rollout a report was made for.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedRollout {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its uid.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
}

/// Where a namespace stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum NamespaceState {
    /// Its stage's turn has not come.
    Pending,
    /// PERMISSIVE is being pinned where nothing says so.
    Preparing,
    /// The gates are evaluated, or the soak runs.
    Proving,
    /// Proven; a person has to approve.
    AwaitingApproval,
    /// STRICT is being written.
    Enforcing,
    /// STRICT, and watched for harm.
    Watching,
    /// STRICT, baked and guarded.
    Enforced,
    /// Taken back after harm, or by a person.
    RolledBack,
    /// A person must act before it can move.
    Blocked,
    /// STRICT already by somebody else's policy: nothing to write.
    Exempt,
}

/// The clock of the soak.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Soak {
    /// Since when every gate has passed without a break.
    pub since: Time,
    /// The last evaluation that counted; a gap of more than three intervals starts it again.
    pub last_evaluated: Time,
    /// When the soak is over if nothing happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_until: Option<Time>,
    /// A hash of what it counts under: the gates, and the soak of the stage. An edit of these
    /// starts it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub terms: Option<String>,
}

/// The clock of the bake.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bake {
    /// Seconds watched that were covered by evidence.
    #[schemars(range(min = 0))]
    pub covered_seconds: i64,
    /// Since when it is watched.
    pub since: Time,
    /// The last evaluation that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_evaluated: Option<Time>,
}

/// One workload.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReport {
    /// Its kind, as Kubernetes spells it.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The effective mode, as Istio spells it, or Unknown.
    #[schemars(length(max = 16))]
    pub mode: String,
    /// The policy that decided it, as namespace/name; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub decided_by: Option<String>,
    /// Running pods.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub pods: i32,
    /// Of these, those with a sidecar.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub meshed: i32,
}

/// One caller that sent plaintext.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextCaller {
    /// Who sent it, as namespace/workload, or unknown.
    #[schemars(length(max = 320))]
    pub source: String,
    /// The workload that received it.
    #[schemars(length(max = 320))]
    pub destination: String,
    /// The Service it was addressed to, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub service: Option<String>,
    /// Requests or connections in the window.
    #[schemars(range(min = 0))]
    pub count: i64,
    /// The window counted, as in 24h.
    #[schemars(length(max = 18))]
    pub window: String,
}

/// One finding.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingReport {
    /// The stable code, as in MR0201.
    #[schemars(length(max = 16))]
    pub code: String,
    /// Inform, Warn, Hold or Block.
    #[schemars(length(max = 8))]
    pub level: String,
    /// What it is about.
    #[schemars(length(max = 320))]
    pub subject: String,
    /// What was found, in a sentence.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Facts with their values; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub evidence: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub remedy: Option<String>,
}
