//! Is the control plane healthy? With istiod down neither the switch nor a rollback takes effect.

use super::{Context, unknown_metrics};
use crate::finding::{Code, Finding, Subject};
use crate::proxies::{self, beyond_reach};
use crate::reading::Reading;
use jiff::SignedDuration;

/// A mesh that needs longer than this to take a change cannot be rolled back in time.
const SLOWEST_CONVERGENCE: SignedDuration = SignedDuration::from_secs(30);

pub(super) fn examine(context: Context<'_>) -> Vec<Finding> {
    let Context { snapshot, facts, .. } = context;
    let plane = match &snapshot.telemetry.control_plane {
        Reading::Known(plane) => plane,
        Reading::Unknown(cause) => {
            let unknown = unknown_metrics(cause, &facts.name, "the control plane's health");
            return vec![Finding { code: Code::ControlPlaneUnhealthy, ..unknown }];
        }
    };
    // Where it is not known, the switch is followed by a longer wait instead.
    let beyond = beyond_reach(snapshot, facts, context.plan.timing.acknowledgement);
    let beyond = beyond.known().and_then(|late| {
        proxies::finding(facts, late, "neither STRICT nor a rollback would be taken")
    });
    let mut findings: Vec<_> = beyond.into_iter().collect();
    if plane.instances == 0 {
        findings.push(
            Finding::new(
                Code::ControlPlaneUnhealthy,
                Subject::istiod(),
                "no istiod answers its scrape: neither STRICT nor a rollback would reach the proxies",
            )
            .measured("0 instances", "at least 1")
            .remedy(format!(
                "kubectl get pods -n {} -l app=istiod",
                snapshot.policies.root()
            )),
        );
    }
    if plane.rejects > 0.0 {
        findings.push(
            Finding::new(
                Code::ConfigRejected,
                Subject::istiod(),
                "proxies rejected configuration in the last ten minutes",
            )
            .measured(format!("{:.0}", plane.rejects.ceil()), "0")
            .remedy("istioctl proxy-status; then find the rejected object in istiod's log"),
        );
    }
    if let Some(slow) = plane.convergence.filter(|slow| *slow > SLOWEST_CONVERGENCE) {
        findings.push(
            Finding::new(
                Code::ControlPlaneUnhealthy,
                Subject::istiod(),
                format!("changes take {slow:#} to reach the proxies"),
            )
            .measured(format!("{slow:#}"), format!("{SLOWEST_CONVERGENCE:#}"))
            .remedy("give istiod more CPU or wait for the load to pass"),
        );
    }
    findings
}
