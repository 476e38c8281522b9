//! `meshrollout explain`: why it does not move: object, fact, threshold, age, and the next command.

use super::cluster::{Cluster, Error, reports, rollout};
use crate::api::{FindingReport, MeshReport, MeshRollout, NamespaceState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use meshrollout_core::explain::length;

/// Say why a rollout does not move, and what to do next.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The MeshRollout.
    #[arg(value_name = "ROLLOUT")]
    name: String,
    /// Only these namespaces, with their warnings as well.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let client = args.cluster.client().await?;
    let rollout = rollout(&client, &args.name).await?;
    let mut reports = reports(&client, &args.name).await?;
    reports.retain(|report| {
        let namespace = report.namespace().unwrap_or_default();
        args.namespace.is_empty() || args.namespace.contains(&namespace)
    });
    print!("{}", text(&rollout, &reports, !args.namespace.is_empty(), Timestamp::now()));
    Ok(())
}

/// The explanation, from what is stored: it is there with the operator down.
fn text(
    rollout: &MeshRollout,
    reports: &[MeshReport],
    with_warnings: bool,
    now: Timestamp,
) -> String {
    let name = rollout.name_any();
    let Some(status) = &rollout.status else {
        return format!("{name}: no operator has looked at it yet; is one running?\n");
    };
    let mut lines = vec![];
    if let Some(ready) = status.conditions.iter().find(|one| one.type_ == "Ready") {
        let since = age(&ready.last_transition_time, now);
        lines.push(format!("{name}: Ready={} {} for {since}", ready.status, ready.reason));
        lines.push(format!("  {}", ready.message));
    }
    for stage in &status.stages {
        lines.push(format!(
            "  stage {}: {:?}, {} of {} namespaces STRICT",
            stage.name, stage.state, stage.strict, stage.namespaces
        ));
    }
    if let Some(back) = &status.last_rollback {
        lines.push(format!(
            "  last rollback: {} in stage {}, {} ago, {}: {}",
            back.namespace,
            back.stage,
            age(&back.time, now),
            back.reason,
            back.message
        ));
    }
    let mut nothing = true;
    for report in reports {
        let namespace = report.namespace().unwrap_or_default();
        let Some(status) = &report.status else { continue };
        let shown: Vec<_> = status
            .findings
            .iter()
            .filter(|found| with_warnings || matches!(found.level.as_str(), "Hold" | "Block"))
            .collect();
        let state = status.state.map_or("-".to_owned(), |state| format!("{state:?}"));
        lines.push(String::new());
        lines.push(format!("namespace {namespace}: {state}, {} workloads STRICT", status.strict));
        if let Some(soak) = &status.soak {
            let until = soak.holds_until.as_ref().map(|at| format!(", STRICT after {}", at.0));
            lines.push(format!(
                "  every gate passes for {}{}",
                age(&soak.since, now),
                until.unwrap_or_default()
            ));
        }
        let stands =
            matches!(status.state, Some(NamespaceState::Watching | NamespaceState::Enforced));
        if let Some(bake) = status.bake.as_ref().filter(|_| stands) {
            lines.push(format!(
                "  STRICT for {}, {} of it watched with evidence",
                age(&bake.since, now),
                length(SignedDuration::from_secs(bake.covered_seconds))
            ));
        }
        for found in shown {
            nothing = false;
            let since = rollout_since(rollout, found).map(|since| age(since, now));
            lines.extend(finding(found, since));
        }
        for caller in &status.plaintext_callers {
            lines.push(format!(
                "  plaintext: {} → {}, at least {} calls in {}",
                caller.source, caller.destination, caller.count, caller.window
            ));
        }
    }
    if nothing && status.blocked_by.is_empty() && !reports.is_empty() {
        lines.push(String::new());
        lines.push("nothing holds it back".into());
    }
    // The reports follow the status by a moment, and a namespace that is missing has none.
    for blocker in status.blocked_by.iter().filter(|_| nothing) {
        let since = blocker.since.as_ref().map(|since| age(since, now)).unwrap_or_default();
        lines.push(String::new());
        lines.push(format!("  {} {}, for {since}", blocker.code, blocker.subject));
        lines.push(format!("      {}", blocker.message));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn finding(found: &FindingReport, since: Option<String>) -> Vec<String> {
    let since = since.map(|since| format!(", for {since}")).unwrap_or_default();
    let mut lines = vec![
        format!("  {} [{}] {}{since}", found.code, found.level, found.subject),
        format!("      {}", found.message),
    ];
    lines.extend(found.evidence.iter().map(|fact| format!("      seen: {fact}")));
    lines.extend(found.remedy.iter().map(|remedy| format!("      do:   {remedy}")));
    lines
}

fn rollout_since<'a>(rollout: &'a MeshRollout, found: &FindingReport) -> Option<&'a Time> {
    let status = rollout.status.as_ref()?;
    let blocker = status
        .blocked_by
        .iter()
        .find(|one| one.code == found.code && one.subject == found.subject)?;
    blocker.since.as_ref()
}

fn age(since: &Time, now: Timestamp) -> String {
    let age = now.duration_since(since.0);
    length(SignedDuration::from_secs(age.as_secs().max(0)))
}
