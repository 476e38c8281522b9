//! Would anything show us harm? A refused plaintext call leaves no Istio metric on a sidecar
//! (`istio-semantics.md` E5): "no errors" proves nothing unless something would count them.

use super::{Context, unknown_metrics};
use crate::finding::{Code, Finding, Level, Subject};
use crate::reading::Reading;
use crate::workload::{Pod, Workload};

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    let telemetry = &snapshot.telemetry;
    let (refusals, edges) = match (&telemetry.refusals, &telemetry.edges) {
        (Reading::Known(refusals), Reading::Known(edges)) => (refusals, edges),
        (Reading::Unknown(cause), _) | (_, Reading::Unknown(cause)) => {
            return vec![unknown_metrics(cause, &facts.name, "whether harm would be seen")];
        }
    };
    let servers = || facts.servers().filter(|workload| workload.meshed().next().is_some());
    if servers().next().is_none() {
        return vec![];
    }
    let counted = servers().all(|workload| {
        workload
            .meshed()
            .filter(|pod| pod.is_ready())
            .all(|pod| refusals.contains_key(&workload.pod_ref(pod)))
    });
    let reported = edges.iter().any(|edge| {
        edge.destination.as_ref() == Some(&facts.name)
            && edge.requests.0.iter().any(|(_, count)| *count > 0.0)
    });

    let finding = |message: String| {
        Finding::new(Code::NoRefusalSignal, Subject::namespace(&facts.name), message).remedy(
            "export the refusal counter: ProxyConfig proxyStatsMatcher.inclusionPrefixes: [\"listener.\"], then restart the pods",
        )
    };
    match (counted, reported) {
        (true, true) => vec![],
        (false, false) => {
            let found = finding(format!(
                "nothing would show harm in {} after the switch: no refusal counter is exported and no client reports calls into it",
                facts.name
            ));
            // Where no server reports anything, the scrape is missing, not the counter.
            let reports = |(workload, pod): (&Workload, &Pod)| {
                let presence = telemetry.presence.known();
                presence.is_some_and(|all| all.contains_key(&workload.pod_ref(pod)))
            };
            let mut pods = servers().flat_map(|one| one.meshed().map(move |pod| (one, pod)));
            let level = if pods.any(reports) { Level::Block } else { Level::Hold };
            vec![found.at(level)]
        }
        (true, false) => vec![
            finding(format!(
                "no meshed client reports calls into {}: failures of misled clients would stay unseen",
                facts.name
            ))
            .at(Level::Warn)
            .remedy("scrape the sidecars of its clients"),
        ],
        (false, true) => vec![
            finding(format!(
                "refused plaintext clients of {} would stay unseen: the refusal counter is not exported",
                facts.name
            ))
            .at(Level::Warn),
        ],
    }
}
