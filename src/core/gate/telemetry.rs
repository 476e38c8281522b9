//! Is the evidence complete? "No plaintext seen" is worth what was looked at.

use super::{Context, list, unknown_metrics};
use crate::finding::{Code, Finding, Subject};
use crate::ident::PodRef;
use crate::reading::Reading;
use crate::traffic::{Coverage, Name, Presence, coverage};
use crate::workload::{Pod, Workload};
use std::collections::BTreeMap;

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, plan } = context;
    let telemetry = &snapshot.telemetry;
    let namespace = || Subject::namespace(&facts.name);
    let mut findings = vec![];

    for cause in &snapshot.stale {
        findings.push(unknown_metrics(cause, &facts.name, "the cluster's state"));
    }
    if telemetry.lookback < plan.gates.lookback {
        findings.push(Finding::new(
            Code::WindowNotCovered,
            namespace(),
            format!(
                "the metrics were read over {:#}, the plan looks back {:#}",
                telemetry.lookback, plan.gates.lookback
            ),
        ));
    }
    let skewed = match &telemetry.skew {
        Reading::Unknown(cause) => {
            findings.push(unknown_metrics(cause, &facts.name, "the metrics source's clock"));
            false
        }
        Reading::Known(skew) if skew.abs() > plan.timing.max_skew => {
            findings.push(
                Finding::new(
                    Code::ClockSkew,
                    namespace(),
                    format!("our clock and the metrics source's differ by {:#}", skew.abs()),
                )
                .measured(format!("{:#}", skew.abs()), format!("{:#}", plan.timing.max_skew))
                .remedy("set both clocks by NTP"),
            );
            true
        }
        Reading::Known(_) => false,
    };
    // Which root is whose cannot be told: what any of them takes away may be missing here.
    for missing in snapshot
        .overrides
        .iter()
        .filter(|over| over.namespace == facts.name || snapshot.policies.is_root(&over.namespace))
    {
        findings.push(
            Finding::new(
                Code::SecurityLabelRemoved,
                Subject::new("Telemetry", &missing.namespace, &missing.name),
                format!(
                    "Telemetry {}/{} takes away {}: plaintext cannot be told from mutual TLS",
                    missing.namespace, missing.name, missing.what
                ),
            )
            .remedy(format!("kubectl edit telemetry {} -n {}", missing.name, missing.namespace)),
        );
    }

    if let Reading::Unknown(cause) = &telemetry.open {
        findings.push(unknown_metrics(cause, &facts.name, "which connections stay open"));
    }
    match &telemetry.presence {
        Reading::Unknown(cause) => {
            findings.push(unknown_metrics(cause, &facts.name, "which proxies report"));
        }
        // By two clocks every pod would seem to be silent, and nobody would look at the clocks.
        Reading::Known(_) if skewed => {}
        Reading::Known(presence) => {
            for workload in facts.servers().filter(|workload| workload.meshed().next().is_some()) {
                findings.extend(missing_pods(context, workload, presence));
                findings.extend(uncovered(context, workload, presence));
            }
        }
    }
    findings.extend(idle(context));
    findings.extend(asleep(context));
    findings
}

/// Every pod that is Ready now must have reported since it became Ready, and still do.
fn missing_pods(
    context: Context<'_>,
    workload: &Workload,
    presence: &BTreeMap<PodRef, Presence>,
) -> Option<Finding> {
    let telemetry = &context.snapshot.telemetry;
    let tolerance = telemetry.scrape_interval * 3;
    let begin = telemetry.at - telemetry.lookback;
    let silent: Vec<_> = workload
        .meshed()
        .filter_map(|pod| {
            let due = pod.ready_since?.max(begin) + tolerance;
            let reports = presence.get(&workload.pod_ref(pod));
            let in_time = reports.is_some_and(|reports| {
                reports.first <= due && reports.last + tolerance >= telemetry.at
            });
            // A pod that became Ready a moment ago has not had its first scrape.
            let too_young = due > telemetry.at;
            (!in_time && !too_young).then(|| pod.name.clone())
        })
        .collect();
    if silent.is_empty() {
        return None;
    }
    Some(
        Finding::new(
            Code::SeriesMissing,
            &workload.id,
            format!(
                "{} pods of {} do not report metrics as they should",
                silent.len(),
                workload.id
            ),
        )
        .evidence(format!("silent: {}", list(silent)))
        .remedy("check in the metrics source that these pods are scraped (port 15020 or 15090)"),
    )
}

/// The workload's reports together must cover the whole look-back.
fn uncovered(
    context: Context<'_>,
    workload: &Workload,
    presence: &BTreeMap<PodRef, Presence>,
) -> Option<Finding> {
    let telemetry = &context.snapshot.telemetry;
    let from = PodRef { namespace: workload.id.namespace.clone(), name: String::new() };
    let reports: Vec<_> = presence
        .range(from..)
        .take_while(|(pod, _)| pod.namespace == workload.id.namespace)
        .filter(|(pod, _)| belongs(&pod.name, workload))
        .map(|(_, reports)| *reports)
        .collect();
    let lookback = telemetry.lookback;
    let covered = coverage(&reports, telemetry.at, lookback, telemetry.scrape_interval);
    let message = match covered {
        Coverage::Whole => return None,
        Coverage::Until(time) => format!(
            "the evidence about {} does not reach back {lookback:#} yet; it will at {time:.0}",
            workload.id
        ),
        Coverage::Gap { from, to } => format!(
            "the evidence about {} has a gap between {from:.0} and {to:.0}; it leaves the look-back at {:.0}",
            workload.id,
            to + lookback
        ),
        Coverage::Nothing => format!("no proxy of {} has ever reported", workload.id),
    };
    Some(
        Finding::new(Code::WindowNotCovered, &workload.id, message)
            .measured("partly covered", format!("{lookback:#}"))
            .remedy("wait; or shorten spec.gates.plaintext.lookback if that is long enough for your slowest caller"),
    )
}

/// Living pods are known by name. Dead ones are told by the shape that their controller gives to
/// names: a Deployment adds a hash and five characters, the others one part.
fn belongs(pod: &str, workload: &Workload) -> bool {
    if workload.pods.iter().any(|known| known.name == pod) {
        return true;
    }
    let Some(rest) = pod.strip_prefix(workload.id.name.as_str()).and_then(|r| r.strip_prefix('-'))
    else {
        return false;
    };
    let parts: Vec<_> = rest.split('-').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match workload.id.kind.as_str() {
        "Deployment" | "Rollout" => {
            matches!(parts.as_slice(), [hash, tail] if word(hash) && tail.len() == 5 && word(tail))
        }
        "StatefulSet" => matches!(parts.as_slice(), [ordinal] if number(ordinal)),
        // Each run, and each version, is a controller with a number of its own in between.
        "CronJob" | "DeploymentConfig" => {
            matches!(parts.as_slice(), [run, tail] if number(run) && tail.len() == 5 && word(tail))
        }
        _ => matches!(parts.as_slice(), [tail] if tail.len() == 5 && word(tail)),
    }
}

/// No Ready pod: who would call it, and whether it works, cannot be seen. A workload that is scaled
/// to zero over the weekend has callers on Monday.
fn asleep(context: Context<'_>) -> Vec<Finding> {
    let Context { facts, .. } = context;
    let is_server =
        |workload: &&Workload| workload.template.is_some() || workload.running().next().is_some();
    facts
        .workloads
        .values()
        .filter(is_server)
        .filter(|workload| !workload.is_gateway() && !workload.running().any(Pod::is_ready))
        .map(|workload| {
            Finding::new(
                Code::NothingSeen,
                &workload.id,
                format!("{} has no ready pod: its callers are unverified", workload.id),
            )
            .measured("0 ready pods", "at least 1")
            .remedy("start it, delete it, or set spec.gates.plaintext.onIdle: Allow")
        })
        .collect()
}

/// Neither mutual TLS nor plaintext: unverified, not safe.
fn idle(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, plan } = context;
    let telemetry = &snapshot.telemetry;
    let mutual = match &telemetry.mutual {
        Reading::Known(mutual) => mutual,
        Reading::Unknown(cause) => {
            return vec![unknown_metrics(cause, &facts.name, "who speaks mutual TLS")];
        }
    };
    let callers = telemetry.callers.known().map_or(&[][..], Vec::as_slice);
    facts
        .servers()
        .filter(|workload| workload.meshed().next().is_some())
        .filter(|workload| {
            let name = Name::from(&workload.id);
            mutual.get(&name).is_none_or(|count| *count <= 0.0)
                && !callers.iter().any(|caller| caller.destination == name)
        })
        .map(|workload| {
            Finding::new(
                Code::NothingSeen,
                &workload.id,
                format!(
                    "nobody called {} in the last {:#}: its callers are unverified",
                    workload.id, plan.gates.lookback
                ),
            )
            .measured("0 requests", "at least one over mutual TLS")
            .remedy("send it a request, lengthen the look-back, or set spec.gates.plaintext.onIdle: Allow")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::WorkloadRef;

    #[test]
    fn dead_pods_are_told_by_the_shape_of_their_names() {
        for (kind, pod, expected) in [
            ("Deployment", "web-6b5f9c-x7k2p", true),
            ("Deployment", "web-admin-6b5f9c-x7k2p", false),
            ("StatefulSet", "web-0", true),
            ("StatefulSet", "web-0-0", false),
            ("CronJob", "web-29123456-x7k2p", true),
            ("CronJob", "web-x7k2p", false),
            ("DeploymentConfig", "web-3-x7k2p", true),
            ("Job", "web-x7k2p", true),
            ("Job", "web-29123456-x7k2p", false),
        ] {
            let id = WorkloadRef::new("shop", kind, "web");
            let workload = Workload { id, desired: None, template: None, pods: vec![] };
            assert_eq!(belongs(pod, &workload), expected, "{kind} {pod}");
        }
    }
}
