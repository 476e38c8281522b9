//! What was remembered, read back after a restart or by another leader.

use crate::api::{ConsumedRequest, MeshReportStatus, MeshRolloutStatus, NamespaceState};
use jiff::SignedDuration;
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::Plan;
use meshrollout_core::progress::{Bake, Heard, Memory, Progress, Requests, Soak};

/// The progress that a status and the reports of its namespaces tell of. What is missing there
/// restarts a clock; nothing here can pass a gate, and no rollback needs it.
pub fn progress<'a>(
    plan: &Plan,
    status: &MeshRolloutStatus,
    reports: impl IntoIterator<Item = (Namespace, &'a MeshReportStatus)>,
) -> Progress {
    let asked = status.requests.clone().unwrap_or_default();
    let heard = |request: Option<ConsumedRequest>| {
        request.map(|request| Heard {
            value: request.value,
            at: request.consumed_at.0,
            stage: request
                .stage
                .and_then(|name| plan.stages.iter().position(|stage| stage.name == name)),
        })
    };
    Progress {
        plan_hash: status.plan_hash.clone().unwrap_or_default(),
        namespaces: reports
            .into_iter()
            .filter(|(_, report)| {
                report.observed_rollout.as_ref().is_some_and(|of| of.uid == plan.uid.as_str())
            })
            .filter_map(|(name, report)| Some((name, memory(report)?)))
            .collect(),
        requests: Requests {
            abort: heard(asked.abort),
            retry: heard(asked.retry),
            rollback: heard(asked.rollback),
        },
    }
}

fn memory(report: &MeshReportStatus) -> Option<Memory> {
    Some(Memory {
        uid: Uid::new(report.namespace_uid.clone()?),
        soak: report
            .soak
            .as_ref()
            .map(|soak| Soak { since: soak.since.0, last: soak.last_evaluated.0 }),
        bake: report.bake.as_ref().map(|bake| Bake {
            strict_since: bake.since.0,
            covered: SignedDuration::from_secs(bake.covered_seconds),
            last: bake.last_evaluated.as_ref().map_or(bake.since.0, |last| last.0),
            suspicions: 0,
            complete: report.state == Some(NamespaceState::Enforced),
        }),
    })
}
