//! What was remembered, read back after a restart or by another leader.

use crate::api::{ConsumedRequest, MeshReportStatus, MeshRolloutStatus, NamespaceState};
use crate::translate::ours::is_plausible;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::Plan;
use meshrollout_core::progress::{Bake, Heard, Memory, Progress, Requests, Soak};
use meshrollout_core::terms::Terms;

/// In seconds; the schema allows no longer one.
const LONGEST_BAKE: i64 = 168 * 3600;

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
            stage: request.stage,
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
        finished: status
            .stages
            .iter()
            .filter(|stage| stage.finished)
            .map(|stage| stage.name.clone())
            .collect(),
        requests: Requests {
            abort: heard(asked.abort),
            retry: heard(asked.retry),
            rollback: heard(asked.rollback),
        },
    }
}

/// Clocks that another hand has set to times that cannot be are as if they were not there.
fn memory(report: &MeshReportStatus) -> Option<Memory> {
    let is_plausible = |time: &Time| is_plausible(time.0);
    Some(Memory {
        uid: Uid::new(report.namespace_uid.clone()?),
        soak: report
            .soak
            .as_ref()
            .filter(|soak| is_plausible(&soak.since) && is_plausible(&soak.last_evaluated))
            // Without its terms nobody knows what it was proven under.
            .and_then(|soak| {
                let terms = Terms::parse(soak.terms.as_deref()?)?;
                Some(Soak { since: soak.since.0, last: soak.last_evaluated.0, terms })
            }),
        bake: report.bake.as_ref().filter(|bake| is_plausible(&bake.since)).map(|bake| Bake {
            strict_since: bake.since.0,
            // Asked anew.
            taken: None,
            covered: SignedDuration::from_secs(bake.covered_seconds.clamp(0, LONGEST_BAKE)),
            last: bake
                .last_evaluated
                .as_ref()
                .filter(|last| is_plausible(last))
                .map_or(bake.since.0, |last| last.0),
            suspected: None,
            complete: report.state == Some(NamespaceState::Enforced),
        }),
    })
}
