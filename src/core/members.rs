//! Which namespace belongs to which stage, and what is wrong with that.

use crate::clearance::our_policy;
use crate::finding::{Code, Finding, Level, Subject};
use crate::ident::Namespace;
use crate::plan::{Plan, Targets};
use crate::policy::Ours;
use crate::progress::Progress;
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Which namespace belongs to which stage, and what is wrong with that.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) members: BTreeMap<Namespace, usize>,
    pub(crate) refused: Vec<Finding>,
    pub(crate) skipped: Vec<Finding>,
}

pub(crate) fn members(plan: &Plan, snapshot: &Snapshot) -> Members {
    let Members { mut members, mut refused, mut skipped } = Members::default();
    for (index, stage) in plan.stages.iter().enumerate() {
        // A named namespace counts even before it exists; a selected one is there by nature.
        let covered: Vec<Namespace> = match &stage.targets {
            Targets::Named(names) => names.iter().cloned().collect(),
            Targets::Selected(_) => snapshot
                .namespaces
                .values()
                .filter(|facts| {
                    !facts.terminating && stage.targets.cover(&facts.name, &facts.labels)
                })
                .map(|facts| facts.name.clone())
                .collect(),
        };
        for name in covered {
            let known = snapshot.mesh.known().is_some();
            if known && snapshot.is_forbidden(&name, &plan.operator_namespace) {
                let found = |message: String| {
                    Finding::new(Code::RootNamespaceInScope, Subject::namespace(&name), message)
                };
                let stage_name = &stage.name;
                match &stage.targets {
                    Targets::Named(_) => refused.push(
                        found(format!("stage {stage_name} names {name}: nothing is ever written there"))
                            .remedy(format!("take {name} out of the stage")),
                    ),
                    Targets::Selected(_) => skipped.push(
                        found(format!(
                            "the selector of stage {stage_name} matches {name}, which is left alone: nothing is ever written there"
                        ))
                        .at(Level::Warn)
                        .remedy(format!("let the selector leave {name} out")),
                    ),
                }
                continue;
            }
            // Whoever wrote there keeps it, with its rollback.
            if let Some(other) = plan.claimed.get(&name)
                && our_policy(plan, snapshot, &name).is_none()
            {
                refused.push(
                    Finding::new(
                        Code::AnotherRolloutOwns,
                        Subject::namespace(&name),
                        format!("{name} belongs to rollout {other}, which wrote there or is older"),
                    )
                    .remedy(format!("take {name} out of one of the two rollouts")),
                );
                continue;
            }
            match members.insert(name.clone(), index) {
                Some(other) if other != index => refused.push(
                    Finding::new(
                        Code::AnotherRolloutOwns,
                        Subject::namespace(&name),
                        format!(
                            "{name} is in stage {} and in stage {}",
                            plan.stages[other].name, stage.name
                        ),
                    )
                    .remedy("let one stage cover it"),
                ),
                _ => {}
            }
        }
    }
    Members { members, refused, skipped }
}

/// Namespaces that left the plan while they were watched: they finish their bake, and nothing else
/// begins meanwhile. They count as behind the last stage. Where it is not remembered how far one
/// came, it is watched for as long as its bake takes at least.
pub(crate) fn strays(
    plan: &Plan,
    progress: &Progress,
    snapshot: &Snapshot,
    members: &BTreeMap<Namespace, usize>,
) -> BTreeMap<Namespace, usize> {
    let is_watched = |facts: &NamespaceFacts, ours: &Ours, since: Timestamp| {
        let known = progress.namespaces.get(&facts.name).filter(|known| known.uid == facts.uid);
        match (known, ours.bake) {
            (Some(memory), _) => memory.bake.is_none_or(|bake| !bake.complete),
            (None, Some(bake)) => snapshot.at < since + plan.timing.settles() + bake,
            (None, None) => false,
        }
    };
    snapshot
        .policies
        .all()
        .filter(|policy| !members.contains_key(&policy.namespace))
        .filter_map(|policy| {
            let facts = snapshot.namespace(&policy.namespace)?;
            let ours = our_policy(plan, snapshot, &policy.namespace)?.ours.as_ref()?;
            is_watched(facts, ours, ours.strict_since?).then(|| facts.name.clone())
        })
        .map(|name| (name, plan.stages.len()))
        .collect()
}
