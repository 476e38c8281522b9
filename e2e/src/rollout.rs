//! A MeshRollout as a test writes and reads one.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::{Cluster, Doing, Error, until};

/// A rollout to apply. The times are short; everything else has its default.
#[derive(Clone, Debug)]
pub struct Rollout {
    name: String,
    spec: Value,
}

/// A condition as it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

impl Rollout {
    /// Enforces these stages, one after the other: each a name and its namespaces.
    pub fn enforce(name: &str, stages: &[(&str, &[&str])]) -> Self {
        let stages: Vec<_> = stages
            .iter()
            .map(|(name, namespaces)| {
                json!({"name": name, "namespaces": namespaces, "soak": "3s", "bake": "4s"})
            })
            .collect();
        let spec = json!({
            "action": "Enforce",
            "metricsSource": {"name": "main"},
            "gates": {"plaintext": {"lookback": "10s"}},
            "stages": stages,
        });
        Self { name: name.to_owned(), spec }
    }

    /// With the value at this JSON pointer below `spec` replaced or added.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        if let Some(place) = self.spec.pointer_mut(pointer) {
            *place = value;
            return self;
        }
        let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.spec.pointer_mut(parent).expect("its parent is there");
        parent[field] = value;
        self
    }

    /// With the sidecars themselves as its metrics source.
    #[must_use]
    pub fn asking_sidecars(mut self) -> Self {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.remove("metricsSource");
        }
        self
    }

    fn object(&self) -> Value {
        json!({"apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
            "metadata": {"name": self.name}, "spec": self.spec})
    }
}

impl Cluster {
    /// Applies a rollout.
    pub async fn apply_rollout(&self, rollout: &Rollout) -> Result<(), Error> {
        self.apply(&[rollout.object()]).await
    }

    /// The rollout as it is stored.
    pub async fn rollout(&self, name: &str) -> Result<Value, Error> {
        self.stored("MeshRollout", None, name).await
    }

    /// The report of a namespace as it is stored.
    pub async fn report(&self, namespace: &str, rollout: &str) -> Result<Value, Error> {
        self.stored("MeshReport", Some(namespace), rollout).await
    }

    async fn stored(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, Error> {
        let kind = GroupVersionKind::gvk("meshrollout.dev", "v1alpha1", kind);
        let resource = ApiResource::from_gvk(&kind);
        let objects: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
            None => Api::all_with(self.client(), &resource),
        };
        let found = objects.get(name).await.doing(format!("reading {} {name}", kind.kind))?;
        serde_json::to_value(found).doing("reading it as JSON")
    }

    /// A condition of a rollout.
    pub async fn condition(&self, rollout: &str, kind: &str) -> Result<Condition, Error> {
        let stored = self.rollout(rollout).await?;
        let conditions = stored["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == kind);
        let found = found.ok_or_else(|| Error::new(format!("no condition {kind} yet")))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok(Condition { status: text("status"), reason: text("reason"), message: text("message") })
    }

    /// Waits until the rollout's Ready has this reason, and returns it.
    pub async fn until_ready_is(
        &self,
        rollout: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Condition, Error> {
        until(&format!("{rollout} to be {reason}"), limit, async || {
            let ready =
                self.condition(rollout, "Ready").await.map_err(|error| error.to_string())?;
            if ready.reason == reason {
                return Ok(ready);
            }
            Err(format!("{} ({}): {}", ready.status, ready.reason, ready.message))
        })
        .await
    }

    /// Waits until a namespace's report says this state.
    pub async fn until_state_is(
        &self,
        rollout: &str,
        namespace: &str,
        state: &str,
        limit: Duration,
    ) -> Result<Value, Error> {
        until(&format!("{namespace} to be {state}"), limit, async || {
            let report =
                self.report(namespace, rollout).await.map_err(|error| error.to_string())?;
            match report["status"]["state"].as_str() {
                Some(now) if now == state => Ok(report),
                now => Err(format!("{now:?}: {}", report["status"]["conditions"])),
            }
        })
        .await
    }

    /// Gives a CRD another fingerprint of its schemas, and returns the one it had.
    pub async fn mark_definition(&self, name: &str, schema: &str) -> Result<String, String> {
        let read =
            ["get", "crd", name, "-o", r"jsonpath={.metadata.annotations.meshrollout\.dev/schema}"];
        let old = self.kubectl_text(&read).await?;
        if old.is_empty() {
            return Err(format!("CustomResourceDefinition {name} carries no fingerprint"));
        }
        let schema = format!("meshrollout.dev/schema={schema}");
        self.kubectl_text(&["annotate", "crd", name, &schema, "--overwrite"]).await?;
        Ok(old)
    }

    /// The mode of the policy `default` of a namespace, if it is there.
    pub async fn policy_mode(&self, namespace: &str) -> Result<Option<String>, Error> {
        let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
        let resource = ApiResource::from_gvk(&kind);
        let policies: Api<DynamicObject> =
            Api::namespaced_with(self.client(), namespace, &resource);
        let found = policies.get_opt("default").await.doing("reading the policy")?;
        let mode = found.and_then(|it| it.data["spec"]["mtls"]["mode"].as_str().map(Into::into));
        Ok(mode)
    }

    /// The names of the rollouts' reports in all namespaces, as `NAMESPACE/NAME`.
    pub async fn report_names(&self) -> Result<Vec<String>, Error> {
        let kind = GroupVersionKind::gvk("meshrollout.dev", "v1alpha1", "MeshReport");
        let reports: Api<DynamicObject> =
            Api::all_with(self.client(), &ApiResource::from_gvk(&kind));
        let found = reports.list(&Default::default()).await.doing("listing MeshReports")?;
        let name = |it: &DynamicObject| {
            format!("{}/{}", it.namespace().unwrap_or_default(), it.name_any())
        };
        Ok(found.items.iter().map(name).collect())
    }
}
