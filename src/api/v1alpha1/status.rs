//! What the operator answers on a MeshRollout. Detail per namespace is in the MeshReports, so that
//! this stays small whatever the number of namespaces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a rollout.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRolloutStatus {
    /// The generation of the spec this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Identifies stages and gates as they were evaluated: 40 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub plan_hash: Option<String>,

    /// The stage in flight; absent before the first and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub current_stage: Option<String>,

    /// True when the operator runs with --allow-short-times, which lifts the minimum times. Never
    /// so on a mesh that matters.
    #[serde(default, skip_serializing_if = "is_false")]
    pub short_times: bool,

    /// How many namespaces are where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,

    /// The stages, in the plan's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub stages: Vec<StageStatus>,

    /// What holds the rollout back, worst first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub blocked_by: Vec<Blocker>,

    /// How many more hold it back than blockedBy lists.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub blocked_by_more: i32,

    /// The last rollback, kept until another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rollback: Option<LastRollback>,

    /// What persons asked for by annotation, and when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,

    /// Accepted, GatesPassed, Enforced, Reconciling, Stalled and Ready, each present from the first
    /// visit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How many namespaces are where.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Namespaces in the plan.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub namespaces: i32,
    /// Of these, those whose every workload is effectively STRICT.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub strict: i32,
    /// Those not STRICT yet.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub permissive: i32,
    /// Those that stay PERMISSIVE in part by a policy of their own.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub exempt: i32,
    /// Those of which too little is known to say.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub unverified: i32,
    /// STRICT of all, as in 3/7; for the printed table.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub progress: String,
    /// The first of blockedBy and how many more, as in "MR0201 orders +2"; for the printed table.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub blocked_by: String,
}

/// One stage.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Its name in the plan.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Where it stands: Pending, Active, Enforced or RolledBack.
    pub state: StageState,
    /// Namespaces it covers now.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub namespaces: i32,
    /// Of these, those that are STRICT.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub strict: i32,
    /// Every namespace of it was done once; one that joins it later is proven alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub finished: bool,
}

/// Where a stage stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum StageState {
    /// Its turn has not come.
    Pending,
    /// In flight.
    Active,
    /// Every namespace is STRICT and baked.
    Enforced,
    /// A namespace of it was rolled back; a person must act.
    RolledBack,
}

/// One thing that holds the rollout back.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// The finding's stable code, as in MR0201.
    #[schemars(length(max = 16))]
    pub code: String,
    /// What it is about, as in Deployment orders/web.
    #[schemars(length(max = 320))]
    pub subject: String,
    /// What was found, in a sentence.
    #[schemars(length(max = 512))]
    pub message: String,
    /// The value measured, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub value: Option<String>,
    /// The value it must reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub threshold: Option<String>,
    /// When it was first found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// The last rollback.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRollback {
    /// The stage that was in flight.
    #[schemars(length(max = 63))]
    pub stage: String,
    /// The namespace that was taken back.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The code of the finding that caused it; absent when a person asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub code: Option<String>,
    /// The same as one word, as in a condition's reason.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What was seen, in a sentence.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When.
    pub time: Time,
}

/// What persons asked for by annotation.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// The last meshrollout.dev/abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<ConsumedRequest>,
    /// The last meshrollout.dev/retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<ConsumedRequest>,
    /// The last meshrollout.dev/rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<ConsumedRequest>,
}

/// One request that was acted on; the same value is not acted on again.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumedRequest {
    /// The annotation's value.
    #[schemars(length(max = 64))]
    pub value: String,
    /// When it was acted on.
    pub consumed_at: Time,
    /// The stage in flight then; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stage: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}
