//! From a decision to one sentence for a person: used for conditions, events and the command line
//! alike. Times are absolute, so that the sentence changes only when something has happened.

use crate::decide::{Decision, Standing, State};
use crate::finding::{Finding, Level};
use crate::ident::Namespace;
use crate::plan::{Mission, Plan};
use crate::progress::whole_second;
use jiff::SignedDuration;

/// Where the rollout stands and what comes next.
pub fn headline(plan: &Plan, decision: &Decision) -> String {
    let obstacles = decision.obstacles();
    let rolled_back =
        decision.namespaces.iter().find(|(_, standing)| standing.state == State::RolledBack);
    let asked = decision.progress.requests.standing();
    if !decision.refused.is_empty() {
        return first_of(&obstacles);
    }
    match (plan.action, rolled_back, asked) {
        (Mission::Observe, _, _) if obstacles.is_empty() => {
            return "observing; every gate passes in the current stage".into();
        }
        (Mission::Observe, _, _) => return format!("observing; {}", first_of(&obstacles)),
        (Mission::Enforce, Some((name, standing)), _) => {
            let why = standing.findings.iter().map(|found| found.message.as_str());
            let why = why.collect::<Vec<_>>().join("; ");
            return format!(
                "{name} {why}; when it is mended: kubectl meshrollout retry {}",
                plan.name
            );
        }
        (Mission::Enforce, None, Some(_)) => {
            return format!(
                "a person asked to stop; to go on: kubectl meshrollout retry {}",
                plan.name
            );
        }
        (Mission::Enforce, None, None) => {}
    }
    let blocked = obstacles.first().is_some_and(|worst| worst.level == Level::Block);
    if let Some((name, standing)) = decision.newcomer(plan)
        && !blocked
        && !decision.is_threatened()
    {
        let stage = plan.stages.get(standing.stage).map_or("", |stage| stage.name.as_str());
        let so_far = match obstacles.as_slice() {
            [] => where_it_stands(plan, decision, name, standing),
            obstacles => first_of(obstacles),
        };
        return format!(
            "{name} joined stage {stage} after it was finished and is proven alone: {so_far}"
        );
    }
    if !obstacles.is_empty() {
        return first_of(&obstacles);
    }
    if decision.is_complete() {
        return format!("all {} namespaces are STRICT and hold", decision.namespaces.len());
    }
    let current = decision.current_stage;
    let next = decision
        .namespaces
        .iter()
        .filter(|(_, standing)| Some(standing.stage) == current)
        .filter(|(_, standing)| !standing.state.is_done())
        .max_by_key(|(_, standing)| {
            (standing.state == State::AwaitingApproval, standing.state == State::Watching)
        });
    match next {
        Some((name, standing)) => {
            let paused = if plan.paused { "paused; " } else { "" };
            format!("{paused}{}", where_it_stands(plan, decision, name, standing))
        }
        None => "no namespace matches the plan".into(),
    }
}

/// What an accepted plan leaves out, if it does.
pub fn left_out(decision: &Decision) -> Option<String> {
    let skipped: Vec<_> = decision.skipped.iter().collect();
    (!skipped.is_empty()).then(|| first_of(&skipped))
}

/// Where one namespace stands and what comes next, when nothing is in the way.
pub fn where_it_stands(
    plan: &Plan,
    decision: &Decision,
    name: &Namespace,
    standing: &Standing,
) -> String {
    let memory = decision.progress.namespaces.get(name);
    let stage = plan.stages.get(standing.stage);
    let stage_name = stage.map_or("", |stage| stage.name.as_str());
    let soak = memory.and_then(|memory| memory.soak);
    let bake = memory.and_then(|memory| memory.bake);
    match standing.state {
        State::Pending => format!("{name} waits for the stages before {stage_name}"),
        State::Preparing => format!("{name} is about to be pinned to PERMISSIVE"),
        State::Proving | State::Enforcing => match (soak, stage) {
            (Some(soak), Some(stage)) => {
                let due = soak.since + stage.soak;
                let others = watched_beside(decision, name, standing);
                let next = match others.filter(|_| due <= soak.last) {
                    Some(other) => format!("it waits for the bake of {other}"),
                    None => format!("STRICT after {} if nothing happens", whole_second(due)),
                };
                format!("every gate passes in {name} since {}; {next}", whole_second(soak.since))
            }
            (Some(_) | None, _) => format!("{name} is being proven"),
        },
        State::AwaitingApproval => {
            let since =
                soak.map_or(String::new(), |soak| format!(" since {}", whole_second(soak.since)));
            format!(
                "every gate passes in {name}{since}; STRICT waits for a person: \
                 kubectl meshrollout approve {} --stage {stage_name} --plan {}",
                plan.name,
                plan.hash()
            )
        }
        State::Watching => match (bake, standing.bake) {
            (Some(bake), Some(wanted)) => format!(
                "{name} is STRICT since {}; watched for harm until {} at the earliest",
                whole_second(bake.strict_since),
                whole_second(bake.begins(&plan.timing) + wanted)
            ),
            (Some(_) | None, _) => format!("{name} is STRICT and watched for harm"),
        },
        State::Enforced => format!("{name} is STRICT and holds"),
        State::RolledBack => format!("{name} is back at PERMISSIVE"),
        State::Blocked => format!("{name} needs a person"),
        State::Exempt => format!("{name} is STRICT by a policy that is not ours"),
    }
}

/// Another namespace of the stage that has gone before and is watched still.
fn watched_beside<'a>(
    decision: &'a Decision,
    name: &Namespace,
    standing: &Standing,
) -> Option<&'a Namespace> {
    let mut beside = decision.namespaces.iter().filter(|(other, one)| {
        *other != name && one.stage == standing.stage && one.state == State::Watching
    });
    beside.next().map(|(other, _)| other)
}

/// A length as people write it: `30m`, `1h30m`, `45s`.
pub fn length(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let part = |count: i64, unit| if count == 0 { String::new() } else { format!("{count}{unit}") };
    match format!("{}{}{}", part(hours, "h"), part(minutes, "m"), part(seconds, "s")) {
        nothing if nothing.is_empty() => "0s".into(),
        text => text,
    }
}

fn first_of(obstacles: &[&Finding]) -> String {
    match obstacles {
        [] => String::new(),
        [only] => only.message.clone(),
        [first, others @ ..] => format!("{} (and {} more)", first.message, others.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_they_are_written() {
        for (seconds, text) in [(0, "0s"), (45, "45s"), (5400, "1h30m"), (86_400, "24h")] {
            assert_eq!(length(SignedDuration::from_secs(seconds)), text);
        }
    }
}
