//! What a user writes: MeshRollout.

use super::duration::{at_most, positive};
use super::{Duration, MeshRolloutStatus, NamespaceSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name as Kubernetes gives it to namespaces.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Which namespaces become STRICT, in which order, and what must be proven before each step.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "meshrollout.dev",
    version = "v1alpha1",
    kind = "MeshRollout",
    plural = "meshrollouts",
    shortname = "meshro",
    status = "MeshRolloutStatus",
    derive = "PartialEq",
    doc = "Takes namespaces of an Istio mesh from PERMISSIVE to STRICT mutual TLS, stage by stage, where it can prove that nothing breaks.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name also becomes a label value: use at most 63 characters"),
    printcolumn(
        name = "Ready", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether all that was asked for is reached and holds."
    ),
    printcolumn(
        name = "Reason", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready or not."
    ),
    printcolumn(
        name = "Stage", type_ = "string", json_path = ".status.currentStage",
        description = "The stage in flight."
    ),
    printcolumn(
        name = "Strict", type_ = "string", json_path = ".status.summary.progress",
        description = "Namespaces that are STRICT, of all in the plan."
    ),
    printcolumn(
        name = "Blocked-By", type_ = "string", json_path = ".status.summary.blockedBy",
        description = "The first finding that holds it back, and how many more."
    ),
    printcolumn(
        name = "Message", type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "The same in a sentence."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshRolloutSpec {
    /// What the operator does. Observe (the default) evaluates and reports and never writes a
    /// policy; Enforce also takes the steps.
    #[serde(default)]
    pub action: Action,

    /// True stops every new step; the operator still observes, and still rolls back. Default false.
    #[serde(default)]
    pub paused: bool,

    /// The metrics source the evidence is read from. Absent: the operator's own collection from
    /// the sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_source: Option<MetricsSourceRef>,

    /// The stages, in the order in which they are taken; 1 to 32. Only one is in flight at a time.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        // Every earlier stage as a map, so that a look-up costs one: comparing the names pairwise
        // exceeds the apiserver's cost budget fourfold. At 32 stages of 200 names this is within it.
        validation = Rule::new(
            "self.all(a, !has(a.namespaces) || [a.namespaces.transformMapEntry(i, n, {n: i})].all(m, \
             self.all(b, a.name >= b.name || !has(b.namespaces) || b.namespaces.all(n, !(n in m)))))"
        ).message("a namespace may be named in one stage only: remove it from the others")
    )]
    pub stages: Vec<Stage>,

    /// Settings of the gates. Every gate is always on.
    #[serde(default)]
    pub gates: Gates,

    /// Findings that somebody has looked at and answers for; at most 200. Each lowers one code on
    /// one subject to a warning, until it expires; GatesPassed then says GatesLowered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub acknowledgements: Vec<Acknowledgement>,

    /// Ports or workloads that stay PERMISSIVE, each by a PeerAuthentication that you write; at
    /// most 200. Without an exception such a policy keeps the rollout from being complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub exceptions: Vec<Exception>,

    /// What happens when harm is seen after a step.
    #[serde(default)]
    pub rollback: Rollback,

    /// What becomes of a namespace-wide policy that somebody else wrote. Refuse (the default): the
    /// namespace is blocked until a person acts. Adopt: a policy named default that says
    /// PERMISSIVE, without selector, ports or revision and without a mark of Argo CD, Flux or
    /// Helm, is taken over; its STRICT is the one write that forces, on spec.mtls only.
    #[serde(default)]
    pub existing_policies: ExistingPolicies,

    /// What becomes of the policies when this object is deleted. Keep (the default): they stay as
    /// they are. Restore: what stood there before is put back, where that is neither weaker nor
    /// STRICT; a finalizer keeps the object until then.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// A finding that somebody has looked at and answers for.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// The finding's code.
    #[schemars(length(min = 6, max = 6), regex(pattern = "^MR0[1-9][0-9]{2}$"))]
    pub code: String,
    /// Exactly what the finding is about, as it is reported.
    pub subject: AcknowledgedSubject,
    /// Why it breaks nothing.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who answers for it.
    #[schemars(length(min = 1, max = 253))]
    pub owner: String,
    /// From then on it counts for nothing.
    pub expires: Time,
}

/// What a finding is about.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcknowledgedSubject {
    /// Its kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace; absent for what is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The port, where the finding is about one; 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// Ports of a workload, or all of it, that stay PERMISSIVE.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    /// The workload's namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub namespace: String,
    /// The workload.
    pub workload: ExceptedWorkload,
    /// Container ports, not Service ports; at most 50. None: the whole workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(range(min = 1, max = 65535)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ports: Vec<i32>,
    /// Who calls there and cannot speak mutual TLS.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who answers for it.
    #[schemars(length(min = 1, max = 253))]
    pub owner: String,
    /// From then on it counts for nothing, and what is still PERMISSIVE blocks.
    pub expires: Time,
}

/// A workload, by its owner.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExceptedWorkload {
    /// The owner's kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The owner's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What becomes of a policy that somebody else wrote.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ExistingPolicies {
    /// A person must act.
    #[default]
    Refuse,
    /// It is taken over where that changes nothing.
    Adopt,
}

/// What becomes of the policies when the rollout is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Keep,
    /// What stood there before is put back.
    Restore,
}

/// What the operator does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Action {
    /// Evaluate and report; never write a policy.
    #[default]
    Observe,
    /// Take the steps.
    Enforce,
}

/// Names a metrics source that the administrator registered in the operator's configuration.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSourceRef {
    /// The registered name; never a URL.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
}

/// Some namespaces that are taken to STRICT together.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespaces) != has(self.namespaceSelector)")
        .message("give exactly one of namespaces and namespaceSelector")
)]
pub struct Stage {
    /// Names the stage in status, events and commands. Unique in the plan.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,

    /// The namespaces by name, 1 to 200. The system's own namespaces are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 200),
        inner(length(min = 1, max = 63), regex(pattern = DNS_LABEL))
    )]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(
            "self.all(n, !(n in ['kube-system', 'kube-public', 'kube-node-lease']))"
        ).message("kube-system, kube-public and kube-node-lease are never changed: remove them")
    )]
    pub namespaces: Option<Vec<String>>,

    /// The namespaces by label. One that starts to match later is proven alone. The root
    /// namespace, the system's and the operator's own are skipped and reported; a namespace opts
    /// out by the label meshrollout.dev/exclude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<NamespaceSelector>,

    /// How long every gate must hold without a break before STRICT is written. Hours, minutes and
    /// seconds; 0s to 168h, default 30m.
    #[serde(default = "Stage::default_soak")]
    #[x_kube(validation = at_most("168h"))]
    pub soak: Duration,

    /// How long a namespace is watched after the write, counted in time covered by evidence,
    /// before the next step. Hours, minutes and seconds; more than 0s, at most 168h, default 15m;
    /// the operator refuses less than 5m.
    #[serde(default = "Stage::default_bake")]
    #[x_kube(
        validation = positive("harm shows only after old connections have drained"),
        validation = at_most("168h")
    )]
    pub bake: Duration,

    /// How many namespaces of the stage may be between the write and the end of their bake at one
    /// time; 1 to 100, default 1.
    #[serde(default = "Stage::default_max_concurrent")]
    #[schemars(range(min = 1, max = 100))]
    pub max_concurrent: i32,

    /// Whether a person must approve before STRICT is written in this stage, by a MeshApproval of
    /// this very plan (`kubectl meshrollout approve`): Automatic or Required; default Automatic.
    #[serde(default, skip_serializing_if = "ApprovalPolicy::is_automatic")]
    pub approval: ApprovalPolicy,
}

/// Whether a person is asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ApprovalPolicy {
    /// The gates, the soak and the bake decide.
    #[default]
    Automatic,
    /// They do, and a person does.
    Required,
}

impl ApprovalPolicy {
    fn is_automatic(&self) -> bool {
        *self == Self::Automatic
    }
}

impl Stage {
    pub(crate) fn default_soak() -> Duration {
        Duration::new("30m")
    }

    pub(crate) fn default_bake() -> Duration {
        Duration::new("15m")
    }

    pub(crate) fn default_max_concurrent() -> i32 {
        1
    }
}

/// Settings of the gates.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gates {
    /// Every client and server pod in scope can speak mutual TLS.
    #[serde(default)]
    pub injection: InjectionGate,

    /// No plaintext arrived in the look-back window, and its absence is evidence.
    #[serde(default)]
    pub plaintext: PlaintextGate,

    /// No DestinationRule turns mutual TLS off towards the scope.
    #[serde(default)]
    pub destination_rules: DestinationRulesGate,

    /// Workload certificates are being renewed. This gate cannot be lowered.
    #[serde(default)]
    pub certificates: CertificatesGate,
}

/// Whether a gate's findings stop the rollout.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum GateLevel {
    /// They do.
    #[default]
    Enforce,
    /// They only warn; the condition GatesPassed then says GatesLowered.
    Warn,
}

/// Settings of the injection gate.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionGate {
    /// Enforce (the default): findings stop the rollout. Warn: they are reported only, and
    /// GatesPassed says GatesLowered.
    #[serde(default)]
    pub level: GateLevel,
}

/// Settings of the plaintext gate.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextGate {
    /// Enforce (the default): findings stop the rollout. Warn: they are reported only, and
    /// GatesPassed says GatesLowered.
    #[serde(default)]
    pub level: GateLevel,

    /// How far back plaintext counts; longer than the slowest caller's period. Hours, minutes and
    /// seconds; more than 0s, at most 720h, default 24h. After the last plaintext request a
    /// namespace needs this long plus its soak.
    #[serde(default = "PlaintextGate::default_lookback")]
    #[x_kube(
        validation = positive("without a look-back nothing is proven"),
        validation = at_most("720h")
    )]
    pub lookback: Duration,

    /// What a workload without any traffic in the window means. Hold (the default): unverified,
    /// wait. Allow: warn and go on; GatesPassed then says GatesLowered.
    #[serde(default)]
    pub on_idle: OnIdle,
}

impl Default for PlaintextGate {
    fn default() -> Self {
        Self {
            level: GateLevel::default(),
            lookback: Self::default_lookback(),
            on_idle: OnIdle::default(),
        }
    }
}

impl PlaintextGate {
    fn default_lookback() -> Duration {
        Duration::new("24h")
    }
}

/// What a workload without any traffic means.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnIdle {
    /// Unverified: wait.
    #[default]
    Hold,
    /// Warn and go on.
    Allow,
}

/// Settings of the DestinationRule gate.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRulesGate {
    /// Enforce (the default): findings stop the rollout. Warn: they are reported only, and
    /// GatesPassed says GatesLowered.
    #[serde(default)]
    pub level: GateLevel,
}

/// Settings of the certificate gate.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesGate {
    /// Percent of a workload certificate's own lifetime that must be left; less means that its
    /// renewal fails, since Istio renews at half. 1 to 49, default 25.
    #[serde(default = "CertificatesGate::default_min_remaining_ratio")]
    #[schemars(range(min = 1, max = 49))]
    pub min_remaining_ratio: i32,
}

impl Default for CertificatesGate {
    fn default() -> Self {
        Self { min_remaining_ratio: Self::default_min_remaining_ratio() }
    }
}

impl CertificatesGate {
    fn default_min_remaining_ratio() -> i32 {
        25
    }
}

/// What happens when harm is seen after a step.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Automatic (the default): the operator puts back what stood there before. Manual: it reports,
    /// and waits for a person.
    #[serde(default)]
    pub trigger: RollbackTrigger,
}

/// Who rolls back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RollbackTrigger {
    /// The operator, by itself.
    #[default]
    Automatic,
    /// A person.
    Manual,
}
