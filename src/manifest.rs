//! From an action to the exact object that is sent. Nothing is decided here.

use crate::api::names::{POLICY_NAME, ROLLOUT_LABEL, policy as note};
use crate::fence::Stamp;
use crate::translate;
use jiff::Timestamp;
use meshrollout_core::action::Action;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A resource version that no object has. A server-side apply that carries one creates where
/// nothing stands and is refused where something does: the apiserver compares it with what is
/// there. (Creating by POST would make the same manager name two owners, "Update" and "Apply", and
/// every later apply would conflict with ourselves; see the decision record 5.)
const NOTHING_STANDS: &str = "1";

/// The PeerAuthentication that `action` applies, sent at `now` by the reign of this stamp.
pub fn policy(action: &Action, stamp: Option<&Stamp>, now: Timestamp) -> Value {
    let ours = action.notes(now);
    // What is given back keeps no note of ours: what an apply does not say again goes. The stamp
    // is for the fence.
    let given_back = matches!(action, Action::Restore(_));
    let mut annotations = match given_back {
        true => BTreeMap::new(),
        false => translate::ours::annotations(&ours),
    };
    let mut annotate = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    if let Some(stamp) = stamp {
        annotate(note::HOLDER, stamp.holder.clone());
        annotate(note::EPOCH, stamp.epoch.to_string());
    }
    if let Action::EnforceStrict(clearance) = action {
        annotate(note::EVIDENCE, clearance.evidence().to_owned());
        annotate(note::EVIDENCE_TIME, clearance.evidence_at().to_string());
    }
    let mut metadata = json!({
        "name": POLICY_NAME,
        "namespace": action.namespace().as_str(),
        "annotations": annotations,
    });
    if !given_back {
        metadata["labels"] = json!({ROLLOUT_LABEL: ours.rollout});
    }
    match action.precondition() {
        Some((uid, version)) => {
            metadata["uid"] = json!(uid.as_str());
            metadata["resourceVersion"] = json!(version);
        }
        None => metadata["resourceVersion"] = json!(NOTHING_STANDS),
    }
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": metadata,
        "spec": {"mtls": {"mode": action.mode().as_str()}},
    })
}
