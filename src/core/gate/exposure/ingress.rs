//! Does a sidecar send what an ingress controller sends to a Service?
//!
//! Source: `istio-semantics.md` F4. Controllers dial the pods themselves, and what is dialled by
//! address a sidecar sends on as it is, the controller's own as well.

use crate::exposure::IngressController;
use crate::snapshot::Snapshot;
use crate::workload::{Pod, Proxy, Workload};

/// How what the controller sends arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrival {
    /// As mutual TLS of its sidecar.
    MutualTls,
    /// Past its sidecar: it dials the pods.
    PastItsSidecar,
    /// It has a sidecar, and whom it dials is a matter of settings that are not read here.
    Unsaid,
    /// As plaintext: no sidecar is seen at it, or it is not seen itself.
    Plaintext,
}

/// The one controller whose Ingresses say whom it dials.
const NGINX: &str = "k8s.io/ingress-nginx";

/// What `app.kubernetes.io/name` says on a controller's pods, in the charts of their makers. A
/// class may be named as any application is, so that its name tells nobody from another.
const PODS: [(&str, &str); 5] = [
    (NGINX, "ingress-nginx"),
    ("haproxy.org/ingress-controller", "kubernetes-ingress"),
    ("ingress-controllers.konghq.com/kong", "kong"),
    ("nginx.org/ingress-controller", "nginx-ingress"),
    ("traefik.io/ingress-controller", "traefik"),
];

pub(super) fn arrival(snapshot: &Snapshot, controller: &IngressController) -> Arrival {
    let name = controller.name.as_deref();
    let Some((_, label)) = PODS.iter().find(|(known, _)| name == Some(known)) else {
        return Arrival::Plaintext;
    };
    let mut pods = snapshot
        .namespaces
        .values()
        .flat_map(|facts| facts.workloads.values())
        .flat_map(Workload::running)
        .filter(|pod| pod.labels.value("app.kubernetes.io/name") == Some(label))
        .peekable();
    // What ztunnel sends to a sidecar may be plaintext (B5).
    let has_sidecar = |pod: &Pod| matches!(pod.proxy, Proxy::Sidecar { .. } | Proxy::Gateway);
    let is_meshed = pods.peek().is_some() && pods.all(has_sidecar);
    match (is_meshed, name == Some(NGINX), controller.through_service) {
        (false, _, _) => Arrival::Plaintext,
        (true, true, true) => Arrival::MutualTls,
        (true, true, false) => Arrival::PastItsSidecar,
        (true, false, _) => Arrival::Unsaid,
    }
}

/// What makes a sidecar send it, as a command or in words.
pub(super) fn remedy(controller: &IngressController, ingress: &str, service: &str) -> String {
    if controller.name.as_deref() != Some(NGINX) {
        return "give the controller a sidecar, and have it call the Service by its name instead of the pods".into();
    }
    format!(
        "give the controller a sidecar, and have it call the Service: kubectl annotate {ingress} \
         nginx.ingress.kubernetes.io/service-upstream=true \
         nginx.ingress.kubernetes.io/upstream-vhost={service}"
    )
}
