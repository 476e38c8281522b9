//! Does certificate rotation work? Under STRICT an expired certificate is an outage.
//!
//! Source: Istio renews at half of the lifetime (`istio-semantics.md` E8), so less than a quarter
//! left means that renewal has been failing for hours.

mod identity;

use super::{Context, list, unknown_metrics};
use crate::finding::{Code, Finding, Level, Subject};
use crate::reading::Reading;
use jiff::SignedDuration;

const ROOT_BLOCKS: SignedDuration = SignedDuration::from_hours(30 * 24);
const ROOT_WARNS: SignedDuration = SignedDuration::from_hours(60 * 24);

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, plan } = context;
    let mut findings = identity::examine(context);
    if let Some(left) = snapshot
        .telemetry
        .control_plane
        .known()
        .and_then(|plane| plane.root_remaining)
        .filter(|left| *left < ROOT_WARNS)
    {
        findings.push(
            Finding::new(
                Code::RootExpiring,
                Subject::cluster("ConfigMap", "istio-ca-root-cert"),
                format!("the mesh's root certificate ends in {} days", left.as_hours() / 24),
            )
            .at(if left < ROOT_BLOCKS { Level::Block } else { Level::Warn })
            .measured(format!("{} days", left.as_hours() / 24), "30 days")
            .remedy("rotate the root certificate before going STRICT"),
        );
    }

    let plane = snapshot.telemetry.control_plane.known();
    if let Some(plane) = plane.filter(|plane| plane.unsigned > 0.0) {
        let root = snapshot.policies.root();
        findings.push(
            Finding::new(
                Code::SigningErrors,
                Subject::istiod(),
                "certificates were asked for and not given in the last ten minutes: who keeps asking has none when its own ends",
            )
            .measured(format!("{:.0}", plane.unsigned.ceil()), "0")
            .remedy(format!("kubectl logs -n {root} -l app=istiod --tail=-1 --since=15m | grep -i -e csr -e authenticat")),
        );
    }

    let certificates = match &snapshot.telemetry.certificates {
        Reading::Known(certificates) => certificates,
        Reading::Unknown(cause) => {
            let unknown = unknown_metrics(cause, &facts.name, "what is left of certificates");
            findings.push(Finding { code: Code::CertificateUnknown, ..unknown });
            return findings;
        }
    };
    let tolerance = snapshot.telemetry.scrape_interval * 3;
    for workload in facts.servers() {
        let mut unknown = vec![];
        for pod in workload.meshed() {
            let Some(certificate) = certificates.get(&workload.pod_ref(pod)) else {
                let due = pod.ready_since.map(|since| since + tolerance);
                if due.is_some_and(|due| due <= snapshot.telemetry.at) {
                    unknown.push(pod.name.clone());
                }
                continue;
            };
            let least = i64::from(plan.gates.min_remaining_percent);
            let left = certificate.remaining.as_secs() * 100;
            if left < certificate.lifetime.as_secs() * least {
                let percent = left / certificate.lifetime.as_secs().max(1);
                findings.push(
                    Finding::new(
                        Code::CertificateExpiring,
                        Subject::new("Pod", &facts.name, &pod.name),
                        format!(
                            "the certificate of pod {}/{} has {percent} % of its lifetime left: its renewal is failing",
                            facts.name, pod.name
                        ),
                    )
                    .measured(format!("{percent} %"), format!("{least} %"))
                    .remedy(format!(
                        "kubectl logs {} -n {} -c istio-proxy | grep -i -e sds -e ca",
                        pod.name, facts.name
                    )),
                );
            }
        }
        if !unknown.is_empty() {
            findings.push(
                Finding::new(
                    Code::CertificateUnknown,
                    &workload.id,
                    format!(
                        "what is left of the certificates of {} is not known for {} pods: agent metrics are not scraped",
                        workload.id,
                        unknown.len()
                    ),
                )
                .evidence(format!("no istio_agent_cert_expiry_seconds from {}", list(unknown)))
                .remedy("scrape port 15020 (/stats/prometheus) of the sidecars; port 15090 lacks the agent's metrics"),
            );
        }
    }
    findings
}
