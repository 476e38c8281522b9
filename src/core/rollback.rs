//! When to step back, and when holding is safer.
//!
//! Refused plaintext leaves no request metric (`istio-semantics.md` E5), so harm is looked for on
//! the clients' side, in the refusal counter, and in traffic that should be there and is not.

use crate::clearance::strict_since;
use crate::finding::{Code, Finding, Subject};
use crate::ident::PodRef;
use crate::plan::Plan;
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::traffic::{Edge, Presence, Telemetry, Timeline};
use crate::workload::{NamespaceFacts, Pod, Workload};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// A baseline edge counts only if it was this busy, in each of this many windows.
const BUSY: f64 = 20.0;
const BASELINE_WINDOWS: usize = 6;

/// Where some failures are everyday, this many in a window and so many times the worst before.
const NOISE: f64 = 10.0;
const JUMP: f64 = 4.0;

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
///
/// What is seen counts, whatever else is not seen any more: only when nothing hard shows is it
/// asked whether everybody reports.
pub fn harm(plan: &Plan, snapshot: &Snapshot, facts: &NamespaceFacts, since: Timestamp) -> Harm {
    let telemetry = &snapshot.telemetry;
    // Without windows from before the switch, what was normal is taken from just before now.
    let has_baseline = first_window(telemetry).is_some_and(|first| first <= since);
    let lately = telemetry.at - plan.timing.harm_window * 2;
    let since = match has_baseline {
        // By a clock that was ahead: nothing would come after it, and harm become what was normal.
        _ if since > telemetry.at => lately,
        true => since,
        false => since.max(lately),
    };

    let refused = telemetry.refusals.known().and_then(|all| refused(facts, all, since));
    let edges = telemetry.edges.known().map_or(&[][..], Vec::as_slice);
    // A client that could not tell whom it called may have called any namespace now watched.
    let into = |edge: &&Edge| edge.destination.as_ref().is_none_or(|to| *to == facts.name);
    let cut_off = || edges.iter().filter(into).find_map(|edge| cut_off(edge, facts, since));
    if let Some(found) = refused.or_else(cut_off) {
        return Harm::Hard(found);
    }
    let presence = match (&telemetry.refusals, &telemetry.edges, &telemetry.presence) {
        (Reading::Known(_), Reading::Known(_), Reading::Known(presence)) => presence,
        (Reading::Unknown(cause), _, _)
        | (_, Reading::Unknown(cause), _)
        | (_, _, Reading::Unknown(cause)) => {
            return Harm::Blind(lost(facts, format!("{cause}; the bake stands still")));
        }
    };
    let view = View { telemetry, presence };
    match view.reports(facts) {
        Some(true) => {}
        Some(false) => {
            // Those that went STRICT no later than this one may be blind for the same reason.
            let switched =
                |other| strict_since(plan, snapshot, other).is_some_and(|then| then >= since);
            let others_report = snapshot
                .namespaces
                .values()
                .any(|other| !switched(&other.name) && view.reports(other) == Some(true));
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
        None => {
            if let Some(workload) = facts.servers().find(|one| one.meshed().next().is_some()) {
                return if workload.meshed().any(Pod::is_ready) {
                    Harm::Blind(lost(facts, "no pod has been ready for long enough".into()))
                } else {
                    Harm::Soft(never_ready(workload))
                };
            }
        }
    }
    let unready = facts.servers().find(|workload| {
        workload.meshed().next().is_some() && !workload.meshed().any(Pod::is_ready)
    });
    if let Some(workload) = unready {
        return Harm::Soft(never_ready(workload));
    }
    for edge in edges.iter().filter(into).filter(|edge| edge.destination.is_some()) {
        if let Some(soft) = soft(snapshot, edge, facts, since, &view) {
            return Harm::Soft(soft);
        }
    }
    Harm::None
}

/// The end of the oldest window that was asked for.
fn first_window(telemetry: &Telemetry) -> Option<Timestamp> {
    let refusals = telemetry.refusals.known().into_iter().flat_map(|all| all.values());
    let edges = telemetry.edges.known().into_iter().flatten();
    let timelines = refusals.chain(edges.map(|edge| &edge.requests));
    timelines.filter_map(|timeline| timeline.0.first()).map(|(end, _)| *end).min()
}

/// Whether pods report now.
struct View<'a> {
    telemetry: &'a Telemetry,
    presence: &'a BTreeMap<PodRef, Presence>,
}

impl View<'_> {
    /// Every pod that has been Ready for three scrapes does; `None` where there is no such pod.
    fn reports(&self, facts: &NamespaceFacts) -> Option<bool> {
        let mut settled = facts
            .workloads
            .values()
            .flat_map(|workload| workload.meshed().map(move |pod| (workload, pod)))
            .filter(|(_, pod)| {
                pod.ready_since.is_some_and(|since| since + self.tolerance() < self.telemetry.at)
            })
            .peekable();
        settled.peek()?;
        Some(settled.all(|(workload, pod)| self.is_fresh(workload, pod)))
    }

    fn is_fresh(&self, workload: &Workload, pod: &Pod) -> bool {
        let reports = self.presence.get(&workload.pod_ref(pod));
        reports.is_some_and(|reports| reports.last + self.tolerance() >= self.telemetry.at)
    }

    fn tolerance(&self) -> SignedDuration {
        self.telemetry.scrape_interval * 3
    }
}

/// Refusals above the busiest window before.
fn refused(
    facts: &NamespaceFacts,
    refusals: &BTreeMap<PodRef, Timeline>,
    since: Timestamp,
) -> Option<Finding> {
    let from = PodRef { namespace: facts.name.clone(), name: String::new() };
    let here = refusals.range(from..).take_while(|(pod, _)| pod.namespace == facts.name);
    here.into_iter().find_map(|(pod, refused)| {
        let before = refused.until(since).fold(0.0, f64::max);
        let now = refused.after(since).fold(0.0, f64::max);
        (now > before).then(|| {
            Finding::new(
                Code::HarmAfterStrict,
                Subject::new("Pod", &facts.name, &pod.name),
                format!("connections to pod {pod} are refused since STRICT"),
            )
            .measured(format!("{:.0} in a window", now.ceil()), format!("{before:.0} before"))
        })
    })
}

/// A client that could connect before and cannot now: it had no failure, or has many times more.
fn cut_off(edge: &Edge, facts: &NamespaceFacts, since: Timestamp) -> Option<Finding> {
    let before = edge.failures.until(since).fold(0.0, f64::max);
    let now = edge.failures.after(since).fold(0.0, f64::max);
    let jumped = now >= NOISE && now > before * JUMP;
    ((before <= 0.0 && now > 0.0) || jumped).then(|| {
        edge_finding(edge, facts, "cannot connect any more (UC, UF or URX)").measured(
            format!("{:.0} failures in a window", now.ceil()),
            format!("{:.0} before", before.ceil()),
        )
    })
}

fn never_ready(workload: &Workload) -> Finding {
    Finding::new(
        Code::HarmAfterStrict,
        &workload.id,
        format!("no pod of {} is ready any more since STRICT", workload.id),
    )
    .remedy(format!("kubectl get pods -n {}; probes may be refused", workload.id.namespace))
}

fn soft(
    snapshot: &Snapshot,
    edge: &Edge,
    facts: &NamespaceFacts,
    since: Timestamp,
    view: &View<'_>,
) -> Option<Finding> {
    let baseline: Vec<_> = edge.requests.until(since).rev().take(BASELINE_WINDOWS).collect();
    let busy = baseline.len() == BASELINE_WINDOWS && baseline.iter().all(|count| *count >= BUSY);
    // A client that is down, or whose own metrics are lost, has not fallen silent.
    let client_up = snapshot.namespace(&edge.source.namespace).is_some_and(|client| {
        client.workloads.values().any(|workload| {
            workload.id.name == edge.source.workload
                && workload.running().any(|pod| pod.is_ready() && view.is_fresh(workload, pod))
        })
    });
    // The window in which the switch fell still holds requests from before it.
    let last = edge.requests.after(since).skip(1).last();
    if busy && client_up && last.is_some_and(|count| count <= 0.0) {
        return Some(
            edge_finding(edge, facts, "has fallen silent")
                .measured("0 requests in a window", format!("at least {BUSY:.0} before")),
        );
    }
    let ratio = |errors: f64, requests: f64| if requests > 0.0 { errors / requests } else { 0.0 };
    let before =
        ratio(edge.errors.until(since).sum::<f64>(), edge.requests.until(since).sum::<f64>());
    let whole = |timeline: &Timeline| timeline.after(since).skip(1).sum::<f64>();
    let now = ratio(whole(&edge.errors), whole(&edge.requests));
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
