//! Clients in other clusters of the mesh.

use crate::finding::{Code, Finding, Subject};
use crate::gate::list;
use crate::ident::Namespace;
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Service};

/// Signs that the mesh is larger than this cluster. Who is elsewhere and has no sidecar is seen by
/// the servers here alone, and only when he comes.
pub(super) fn examine(snapshot: &Snapshot, facts: &NamespaceFacts) -> Option<Finding> {
    let networks = snapshot.mesh.known().into_iter().flat_map(|mesh| &mesh.networks);
    let networks = networks.map(|network| format!("meshNetworks names {network}"));
    // By Istio's chart, by a Gateway of its own class, and by the network that either stands before.
    let of_it = |(space, service): &(&Namespace, &Service)| {
        let is_it = service.labels.value("istio") == Some("eastwestgateway")
            || service.labels.value("gateway.istio.io/managed")
                == Some("istio.io-eastwest-controller")
            || service.labels.value("topology.istio.io/network").is_some();
        is_it.then(|| format!("Service {space}/{} is an east-west gateway", service.name))
    };
    let services = snapshot
        .namespaces
        .values()
        .flat_map(|other| other.services.iter().map(move |service| (&other.name, service)));
    let clusters = snapshot.telemetry.clusters.known().and_then(|all| all.get(&facts.name));
    let clusters = clusters.into_iter().flatten();
    let clusters = clusters.map(|cluster| format!("calls came from cluster {cluster}"));
    let mut signs =
        networks.chain(services.filter_map(|one| of_it(&one))).chain(clusters).peekable();
    signs.peek()?;
    Some(
        Finding::new(
            Code::OtherClusterClients,
            Subject::namespace(&facts.name),
            format!("the mesh is larger than this cluster: who calls {} from elsewhere without a sidecar is in no object that is read here", facts.name),
        )
        .evidence(list(signs))
        .remedy("run preflight in the other clusters as well; where their clients are in the mesh, acknowledge this finding in the rollout's spec.acknowledgements"),
    )
}
