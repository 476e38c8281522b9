//! A person's word that a stage may go STRICT: MeshApproval.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// One stage of one plan, approved by whoever made this. It cannot be changed, and counts for
/// nothing once the plan is another; deleting it takes the word back, for steps that are yet to
/// come.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "meshrollout.dev",
    version = "v1alpha1",
    kind = "MeshApproval",
    plural = "meshapprovals",
    shortname = "meshappr",
    derive = "PartialEq",
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("an approval is of what it was given for: delete it, and approve again"),
    doc = "A person's approval of one stage of one plan of a MeshRollout. Made by kubectl meshrollout approve.",
    printcolumn(
        name = "Rollout",
        type_ = "string",
        json_path = ".spec.rollout",
        description = "The MeshRollout."
    ),
    printcolumn(
        name = "Stage",
        type_ = "string",
        json_path = ".spec.stage",
        description = "The stage that may go STRICT."
    ),
    printcolumn(
        name = "Plan",
        type_ = "string",
        json_path = ".spec.planHash",
        description = "The plan that was approved, as the rollout's status names it."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshApprovalSpec {
    /// Name of the MeshRollout.
    #[schemars(length(min = 1, max = 63))]
    pub rollout: String,
    /// Its uid: a namesake made anew is not meant.
    #[schemars(length(min = 1, max = 64))]
    pub rollout_uid: String,
    /// Name of the stage.
    #[schemars(length(min = 1, max = 63))]
    pub stage: String,
    /// The rollout's `status.planHash` when it was approved.
    #[schemars(length(equal = 40), regex(pattern = "^[0-9a-f]{40}$"))]
    pub plan_hash: String,
}
