use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// What the exporter needs to know of a pod.
pub(super) struct PodFacts {
    pub(super) key: PodKey,
    pub(super) uid: String,
    pub(super) workload: String,
    pub(super) service_account: String,
    pub(super) app: String,
    pub(super) version: String,
    /// It holds a sidecar.
    pub(super) injected: bool,
    /// Its containers run, so that its proxy, if any, answers scrapes.
    pub(super) running: bool,
    /// It takes and sends traffic.
    pub(super) ready: bool,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct PodKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl PodKey {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

const UNKNOWN: &str = "unknown";

impl PodFacts {
    pub(super) fn of(pod: &Pod) -> Self {
        let label = |name: &str| pod.labels().get(name).cloned();
        let spec = pod.spec.as_ref();
        let containers = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let injected = containers.into_iter().any(|container| container.name == "istio-proxy");
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let running = phase == Some("Running");
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or(&[]);
        let ready = conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
        Self {
            key: PodKey::new(&pod.namespace().unwrap_or_default(), &pod.name_any()),
            uid: pod.uid().unwrap_or_default(),
            workload: workload(pod),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            app: label("app").unwrap_or_else(|| UNKNOWN.to_owned()),
            version: label("version").unwrap_or_else(|| UNKNOWN.to_owned()),
            injected,
            running,
            ready: running && ready && pod.metadata.deletion_timestamp.is_none(),
        }
    }

    pub(super) fn principal(&self) -> String {
        let (namespace, account) = (&self.key.namespace, &self.service_account);
        format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
    }
}

/// The name under which Istio reports a pod: that of the Deployment, StatefulSet, CronJob, …
fn workload(pod: &Pod) -> String {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else { return pod.name_any() };
    let hash = pod.labels().get("pod-template-hash");
    let of_deployment = hash.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
    let of_cron_job = owner.name.rsplit_once('-').filter(|(_, minutes)| {
        owner.kind == "Job" && minutes.len() >= 8 && minutes.bytes().all(|b| b.is_ascii_digit())
    });
    of_deployment.or(of_cron_job.map(|(name, _)| name)).unwrap_or(&owner.name).to_owned()
}

/// The ready pods of a workload.
pub(super) fn serving<'a>(
    pods: &'a BTreeMap<PodKey, PodFacts>,
    namespace: &'a str,
    workload: &'a str,
) -> impl Iterator<Item = &'a PodFacts> {
    pods.values()
        .filter(move |pod| pod.ready && pod.key.namespace == namespace && pod.workload == workload)
}
