//! Which replica's writes the apiserver accepts: MeshFence.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The replica that leads and the number of its reign. The admission policy `meshrollout-fence`
/// compares every policy write of the operator with it.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "meshrollout.dev",
    version = "v1alpha1",
    kind = "MeshFence",
    plural = "meshfences",
    namespaced,
    derive = "PartialEq",
    doc = "Which replica of the operator may write policies. Written by the leader only, and read by the admission policy that refuses everybody it has deposed.",
    printcolumn(
        name = "Holder",
        type_ = "string",
        json_path = ".spec.holder",
        description = "The replica that leads."
    ),
    printcolumn(
        name = "Epoch",
        type_ = "integer",
        json_path = ".spec.epoch",
        description = "Grows with each change of the leader."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshFenceSpec {
    /// The replica that leads, as the Lease names it.
    #[schemars(length(min = 1, max = 253))]
    pub holder: String,
    /// Grows with each change of the leader, and never falls behind what stands on a policy.
    #[schemars(range(min = 1))]
    pub epoch: i64,
}
