//! Tells what was decided and done: status, MeshReports, events. All of it is ours alone, so it is
//! applied with force; nothing here touches a policy.

use crate::api::names::{FIELD_MANAGER, FINALIZER, ROLLOUT_LABEL};
use crate::api::{MeshReport, MeshReportStatus, MeshRollout, MeshRolloutStatus, StoredRollout};
use crate::status;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as EventReporter};
use kube::{Api, Client, Resource, ResourceExt};
use meshrollout_core::decide::{Decision, State};
use meshrollout_core::explain::where_it_stands;
use meshrollout_core::finding::Finding;
use meshrollout_core::ident::Namespace;
use meshrollout_core::plan::Plan;
use serde_json::json;
use std::collections::BTreeMap;

/// Reports written at one time.
const CONCURRENT: usize = 8;

/// Writes status, reports and events.
pub struct Reporter {
    client: Client,
    events: Recorder,
}

/// One report to be written.
pub struct Draft {
    /// Where.
    pub namespace: Namespace,
    /// The object is there already.
    pub exists: bool,
    /// What it is to say.
    pub status: MeshReportStatus,
}

impl Reporter {
    /// A reporter that signs its events as this replica.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter =
            EventReporter { controller: FIELD_MANAGER.into(), instance: Some(identity.to_owned()) };
        Self { events: Recorder::new(client.clone(), reporter), client }
    }

    /// Publishes that a namespace was taken back of which no report will tell.
    pub async fn rolled_back(&self, rollout: &MeshRollout, namespace: &Namespace, why: &Finding) {
        let reason = State::RolledBack.name();
        self.publish(rollout, true, reason, why.message.clone(), Some(object_of(namespace))).await;
    }

    /// Puts our finalizer on the rollout, or takes it off. The version that was seen must still
    /// stand: the list of finalizers is written whole.
    pub async fn finalizer(&self, rollout: &MeshRollout, wanted: bool) -> Result<(), kube::Error> {
        if rollout.finalizers().iter().any(|one| one == FINALIZER) == wanted {
            return Ok(());
        }
        let mut finalizers = rollout.finalizers().to_vec();
        finalizers.retain(|one| one != FINALIZER);
        finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
        let version = rollout.resource_version();
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
        let rollouts = Api::<StoredRollout>::all(self.client.clone());
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
        let patched = rollouts.patch(&rollout.name_any(), &params, &Patch::Merge(patch)).await;
        gone_is_fine(patched)
    }

    /// Tells what became of one namespace while the rollout was being deleted.
    pub async fn restored(
        &self,
        rollout: &MeshRollout,
        namespace: &Namespace,
        left: Option<&Finding>,
    ) {
        let (bad, note) = match left {
            Some(found) => (true, found.message.clone()),
            None => (false, format!("{namespace} is as it was before this rollout")),
        };
        tracing::info!(rollout = rollout.name_any(), %namespace, note, "restored");
        let reason = if bad { "NotRestored" } else { "Restored" };
        self.publish(rollout, bad, reason, note, Some(object_of(namespace))).await;
    }

    /// Writes the status, if it says anything new.
    pub async fn status(
        &self,
        rollout: &MeshRollout,
        old: &MeshRolloutStatus,
        new: MeshRolloutStatus,
    ) -> Result<(), kube::Error> {
        if new == *old {
            return Ok(());
        }
        let object = json!({
            "apiVersion": MeshRollout::api_version(&()),
            "kind": MeshRollout::kind(&()),
            "metadata": {"name": rollout.name_any(), "uid": rollout.uid()},
            "status": new,
        });
        let rollouts = Api::<StoredRollout>::all(self.client.clone());
        let applied =
            rollouts.patch_status(&rollout.name_any(), &ours(), &Patch::Apply(&object)).await;
        gone_is_fine(applied)
    }

    /// Writes the reports that say anything new, and removes those of namespaces no longer covered.
    pub async fn reports(
        &self,
        rollout: &MeshRollout,
        drafts: Vec<Draft>,
        uncovered: Vec<(Namespace, String)>,
    ) -> Result<(), kube::Error> {
        stream::iter(drafts)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENT, |draft| self.draft(rollout, draft))
            .await?;
        for (namespace, uid) in uncovered {
            let reports = Api::<MeshReport>::namespaced(self.client.clone(), namespace.as_str());
            let only_this = Preconditions { uid: Some(uid), ..Preconditions::default() };
            let params = DeleteParams::default().preconditions(only_this);
            gone_is_fine(reports.delete(&rollout.name_any(), &params).await)?;
        }
        Ok(())
    }

    async fn draft(&self, rollout: &MeshRollout, draft: Draft) -> Result<(), kube::Error> {
        let name = rollout.name_any();
        let reports = Api::<MeshReport>::namespaced(self.client.clone(), draft.namespace.as_str());
        if !draft.exists {
            let mut report =
                MeshReport::new(&name, crate::api::MeshReportSpec { rollout: name.clone() });
            report.labels_mut().insert(ROLLOUT_LABEL.into(), name.clone());
            // Deleting the rollout takes its reports with it, and no policy.
            report.owner_references_mut().extend(rollout.controller_owner_ref(&()));
            let params =
                PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
            match reports.create(&params, &report).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                // The namespace went meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => {
                    tracing::debug!(namespace = %draft.namespace, message = status.message, "no report");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let object = json!({
            "apiVersion": MeshReport::api_version(&()),
            "kind": MeshReport::kind(&()),
            "metadata": {"name": name},
            "status": draft.status,
        });
        gone_is_fine(reports.patch_status(&name, &ours(), &Patch::Apply(&object)).await)
    }

    /// Publishes what has changed since the last visit; `before` is empty on the first.
    pub async fn transitions(
        &self,
        rollout: &MeshRollout,
        plan: &Plan,
        before: &BTreeMap<Namespace, State>,
        decision: &Decision,
    ) {
        for (name, standing) in &decision.namespaces {
            let Some(old) = before.get(name).filter(|old| **old != standing.state) else {
                continue;
            };
            let gates = standing.evaluation.obstacles().into_iter();
            let found = gates.chain(&standing.findings).max_by_key(|found| found.level);
            let note = match standing.state {
                State::RolledBack | State::Blocked => found.map(|found| found.message.clone()),
                State::Pending
                | State::Preparing
                | State::Proving
                | State::AwaitingApproval
                | State::Enforcing
                | State::Watching
                | State::Enforced
                | State::Exempt => None,
            };
            let note = note.unwrap_or_else(|| where_it_stands(plan, decision, name, standing));
            let bad = matches!(standing.state, State::RolledBack | State::Blocked);
            tracing::info!(
                rollout = plan.name, namespace = %name,
                from = old.name(), to = standing.state.name(), "namespace moved"
            );
            let reason = standing.state.name();
            self.publish(rollout, bad, reason, note, Some(object_of(name))).await;
        }
    }

    /// Publishes that the condition Ready has another reason than before.
    pub async fn ready_changed(
        &self,
        rollout: &MeshRollout,
        old: &MeshRolloutStatus,
        new: &MeshRolloutStatus,
    ) {
        let Some(ready) = condition(new, "Ready") else { return };
        if condition(old, "Ready").is_some_and(|old| old.reason == ready.reason) {
            return;
        }
        let holds = |kind, status| condition(new, kind).is_some_and(|one| one.status == status);
        let bad = holds("Stalled", "True") || holds("GatesPassed", "False");
        tracing::info!(
            rollout = rollout.name_any(),
            reason = ready.reason,
            said = ready.message,
            "rollout"
        );
        self.publish(rollout, bad, &ready.reason, ready.message.clone(), None).await;
    }

    async fn publish(
        &self,
        rollout: &MeshRollout,
        bad: bool,
        reason: &str,
        note: String,
        secondary: Option<ObjectReference>,
    ) {
        let event = Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            // 1024 bytes are allowed, and a character may have four.
            note: Some(status::cut(&note, 250)),
            action: "Rollout".into(),
            secondary,
        };
        if let Err(error) = self.events.publish(&event, &rollout.object_ref(&())).await {
            tracing::warn!(%error, reason, "an event could not be published");
        }
    }
}

fn object_of(namespace: &Namespace) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Namespace".into()),
        name: Some(namespace.to_string()),
        ..ObjectReference::default()
    }
}

/// Nobody but us writes these; a field that another hand put there goes.
fn ours() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// What was deleted meanwhile needs no status.
fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn condition<'a>(status: &'a MeshRolloutStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|one| one.type_ == kind)
}
