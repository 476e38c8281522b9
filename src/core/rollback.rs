//! When to step back, and when holding is safer.
//!
//! Refused plaintext leaves no request metric (`istio-semantics.md` E5), so harm is looked for on
//! the clients' side, in the refusal counter, and in traffic that should be there and is not.

use crate::clearance::strict_since;
use crate::finding::{Code, Finding, Subject};
use crate::plan::Plan;
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::traffic::Edge;
use crate::workload::NamespaceFacts;
use jiff::Timestamp;

/// A baseline edge counts only if it was this busy, in each of this many windows.
const BUSY: f64 = 20.0;
const BASELINE_WINDOWS: usize = 6;

/// What watching one namespace shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Harm {
    /// Evidence is there and shows none.
    None,
    /// Roll back now.
    Hard(Finding),
    /// Roll back if the next evaluation shows it again.
    Soft(Finding),
    /// Nothing can be seen, here or anywhere: hold, the bake stands still.
    Blind(Finding),
}

/// Looks for harm in a namespace that went STRICT at `since`.
pub fn harm(plan: &Plan, snapshot: &Snapshot, facts: &NamespaceFacts, since: Timestamp) -> Harm {
    let telemetry = &snapshot.telemetry;
    let known = (&telemetry.refusals, &telemetry.edges, &telemetry.presence);
    let (refusals, edges, presence) = match known {
        (Reading::Known(refusals), Reading::Known(edges), Reading::Known(presence)) => {
            (refusals, edges, presence)
        }
        (Reading::Unknown(cause), _, _)
        | (_, Reading::Unknown(cause), _)
        | (_, _, Reading::Unknown(cause)) => {
            return Harm::Blind(lost(facts, format!("{cause}; the bake stands still")));
        }
    };

    // What is seen counts, whatever else is not seen any more.
    for (pod, refused) in refusals
        .range(crate::ident::PodRef { namespace: facts.name.clone(), name: String::new() }..)
    {
        if pod.namespace != facts.name {
            break;
        }
        let before = refused.until(since).fold(0.0, f64::max);
        let now = refused.after(since).fold(0.0, f64::max);
        if now > before {
            return Harm::Hard(
                Finding::new(
                    Code::HarmAfterStrict,
                    Subject::new("Pod", &facts.name, &pod.name),
                    format!("connections to pod {pod} are refused since STRICT"),
                )
                .measured(format!("{:.0} in a window", now.ceil()), format!("{before:.0} before")),
            );
        }
    }

    // A client that could not tell whom it called may have called any namespace now watched.
    let into = |edge: &&Edge| edge.destination.as_ref().is_none_or(|to| *to == facts.name);
    for edge in edges.iter().filter(into) {
        let before = edge.failures.until(since).sum::<f64>();
        let now = edge.failures.after(since).sum::<f64>();
        if before <= 0.0 && now > 0.0 {
            return Harm::Hard(
                edge_finding(edge, facts, "cannot connect any more (UC, UF or URX)")
                    .measured(format!("{:.0} failures", now.ceil()), "0 before"),
            );
        }
    }
    let fresh = |facts: &NamespaceFacts| {
        let tolerance = telemetry.scrape_interval * 3;
        let mut ready = facts
            .workloads
            .values()
            .flat_map(|workload| workload.meshed().map(move |pod| (workload, pod)))
            .filter(|(_, pod)| {
                pod.ready_since.is_some_and(|since| since + tolerance < telemetry.at)
            })
            .peekable();
        ready.peek()?;
        Some(ready.all(|(workload, pod)| {
            presence
                .get(&workload.pod_ref(pod))
                .is_some_and(|reports| reports.last + tolerance >= telemetry.at)
        }))
    };
    if fresh(facts) == Some(false) {
        let switched = |namespace| strict_since(plan, snapshot, namespace).is_some();
        let others_report = snapshot
            .namespaces
            .values()
            .any(|other| !switched(&other.name) && fresh(other) == Some(true));
        return if others_report {
            // STRICT may have cut our own eyes.
            Harm::Soft(lost(
                facts,
                "other namespaces still report; STRICT may have cut the scrape".into(),
            ))
        } else {
            Harm::Blind(lost(facts, "no namespace reports; the bake stands still".into()))
        };
    }

    for edge in edges.iter().filter(into).filter(|edge| edge.destination.is_some()) {
        if let Some(soft) = soft(snapshot, edge, facts, since) {
            return Harm::Soft(soft);
        }
    }
    Harm::None
}

fn soft(
    snapshot: &Snapshot,
    edge: &Edge,
    facts: &NamespaceFacts,
    since: Timestamp,
) -> Option<Finding> {
    let baseline: Vec<_> = edge.requests.until(since).rev().take(BASELINE_WINDOWS).collect();
    let busy = baseline.len() == BASELINE_WINDOWS && baseline.iter().all(|count| *count >= BUSY);
    let client_up = snapshot.namespace(&edge.source.namespace).is_some_and(|client| {
        client.workloads.values().any(|workload| {
            workload.id.name == edge.source.workload
                && workload.running().any(crate::workload::Pod::is_ready)
        })
    });
    // The window in which the switch fell still holds requests from before it.
    let whole: Vec<_> = edge.requests.after(since).skip(1).collect();
    if busy && client_up && whole.last().is_some_and(|count| *count <= 0.0) {
        return Some(
            edge_finding(edge, facts, "has fallen silent")
                .measured("0 requests in a window", format!("at least {BUSY:.0} before")),
        );
    }
    let ratio = |errors: f64, requests: f64| if requests > 0.0 { errors / requests } else { 0.0 };
    let before =
        ratio(edge.errors.until(since).sum::<f64>(), edge.requests.until(since).sum::<f64>());
    let now = ratio(edge.errors.after(since).sum::<f64>(), edge.requests.after(since).sum::<f64>());
    (now > before + 0.05).then(|| {
        edge_finding(edge, facts, "gets more 5xx answers than before").measured(
            format!("{:.1} %", now * 100.0),
            format!("{:.1} % + 5 points", before * 100.0),
        )
    })
}

fn edge_finding(edge: &Edge, facts: &NamespaceFacts, what: &str) -> Finding {
    let client = format!("{}/{}", edge.source.namespace, edge.source.workload);
    Finding::new(
        Code::HarmAfterStrict,
        Subject::namespace(&facts.name),
        format!("{client} → {} {what} since STRICT", edge.service),
    )
    .evidence(format!("reported by the sidecar of {client}"))
    .remedy(format!(
        "kubectl get destinationrules -A; kubectl logs -n {} -c istio-proxy -l app={}",
        edge.source.namespace, edge.source.workload
    ))
}

fn lost(facts: &NamespaceFacts, why: String) -> Finding {
    Finding::new(
        Code::MetricsLostAfterStrict,
        Subject::namespace(&facts.name),
        format!("the evidence about {} was lost after STRICT: {why}", facts.name),
    )
    .remedy("check the metrics source, then its scrape of this namespace")
}
