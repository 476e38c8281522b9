//! Every label, annotation and manager name we write or read, in one place.

/// Our API group.
pub const GROUP: &str = "meshrollout.dev";

/// What the core itself decides by.
pub use meshrollout_core::plan::EXCLUDE_LABEL;
pub use meshrollout_core::policy::{FIELD_MANAGER, OUR_NAME as POLICY_NAME};

/// Annotation on our CustomResourceDefinitions: the fingerprint of what they say.
pub const SCHEMA: &str = "meshrollout.dev/schema";

/// Label on what we write: the name of the rollout it belongs to.
pub const ROLLOUT_LABEL: &str = "meshrollout.dev/rollout";

/// Annotations on a policy we wrote. Together they are all that a rollback needs, and the record
/// of why the write was right.
pub mod policy {
    /// The rollout's name.
    pub const ROLLOUT: &str = "meshrollout.dev/rollout";
    /// The rollout's uid: a namesake made anew owns nothing of the old one's.
    pub const ROLLOUT_UID: &str = "meshrollout.dev/rollout-uid";
    /// The namespace's uid: a namesake made anew starts again.
    pub const NAMESPACE_UID: &str = "meshrollout.dev/namespace-uid";
    /// The replica that wrote it, as the MeshFence names it.
    pub const HOLDER: &str = "meshrollout.dev/holder";
    /// The number of its reign.
    pub const EPOCH: &str = "meshrollout.dev/epoch";
    /// The spec that stood there before our write as JSON, or [`ABSENT`].
    pub const PREVIOUS: &str = "meshrollout.dev/previous";
    /// The field managers that held the mode of a policy we took over, separated by commas.
    pub const ADOPTED_FROM: &str = "meshrollout.dev/adopted-from";
    /// The mode that was effective before our write.
    pub const PREVIOUS_MODE: &str = "meshrollout.dev/previous-mode";
    /// Digest of the evidence the write was decided on.
    pub const EVIDENCE: &str = "meshrollout.dev/evidence";
    /// Time of that evidence, RFC 3339.
    pub const EVIDENCE_TIME: &str = "meshrollout.dev/evidence-time";
    /// When STRICT was written, RFC 3339.
    pub const STRICT_SINCE: &str = "meshrollout.dev/strict-since";
    /// The bake that its stage had then, as in `15m`.
    pub const BAKE: &str = "meshrollout.dev/bake";
    /// When it was rolled back, RFC 3339.
    pub const ROLLED_BACK_AT: &str = "meshrollout.dev/rolled-back-at";
    /// The finding that made us roll back: code and subject.
    pub const ROLLED_BACK_BECAUSE: &str = "meshrollout.dev/rolled-back-because";

    /// The value of [`PREVIOUS`] when no policy stood there.
    pub const ABSENT: &str = "absent";
    /// The value of [`PREVIOUS`] on a policy we took over: none but such are.
    pub const PERMISSIVE: &str = r#"{"mtls":{"mode":"PERMISSIVE"}}"#;
}

/// Keeps a deleted rollout until what stood before it is put back (`deletionPolicy: Restore`).
pub const FINALIZER: &str = "meshrollout.dev/restore";

/// Annotations on a MeshRollout by which a person asks for something once. The value is an RFC 3339
/// time; each is consumed once and echoed in status.
pub mod request {
    /// Stop, and roll the current stage back.
    pub const ABORT: &str = "meshrollout.dev/abort";
    /// Prove again what was rolled back or aborted.
    pub const RETRY: &str = "meshrollout.dev/retry";
    /// Roll back everything that this rollout made STRICT.
    pub const ROLLBACK: &str = "meshrollout.dev/rollback";
}
