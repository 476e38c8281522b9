//! What is STRICT already: is it harmed, has it baked long enough, is it to be taken back?

use super::{Decision, Standing, State, step_back};
use crate::clearance::{our_policy, strict_since};
use crate::finding::{Code, Finding, Level, Subject};
use crate::invariant::spares_the_roots;
use crate::plan::{Plan, Trigger};
use crate::progress::{Bake, Memory};
use crate::proxies::{self, late};
use crate::rollback::{Harm, harm};
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;
use jiff::{SignedDuration, Timestamp};

/// Looks after what is STRICT already. Works while paused.
pub(super) fn watch(
    plan: &Plan,
    snapshot: &Snapshot,
    decision: &mut Decision,
    may_step_back: bool,
    now: Timestamp,
) {
    let requests = decision.progress.requests.clone();
    let finished = decision.progress.finished.clone();
    for (name, standing) in &mut decision.namespaces {
        let (Some(facts), Some(policy), Some(since)) = (
            snapshot.namespace(name),
            our_policy(plan, snapshot, name),
            strict_since(plan, snapshot, name),
        ) else {
            continue;
        };
        // Drift blocks what is next; a person may have our STRICT back all the same.
        let is_ours = matches!(standing.state, State::Watching | State::Enforced)
            || (standing.state == State::Blocked && policy.is_our_strict());
        if !is_ours {
            continue;
        }
        let asked = requests.standing().filter(|heard| {
            let Some(stage) = plan.stages.get(standing.stage) else {
                // A namespace that left the plan belongs to whatever is in flight.
                return true;
            };
            // What a stage reached is kept: only who joined it later is in flight.
            let reached = standing.state == State::Enforced && finished.contains(&stage.name);
            requests.rolls_everything_back()
                || (heard.stage.as_ref() == Some(&stage.name) && !reached)
        });
        let because = match asked {
            Some(_) => {
                let asked = Finding::new(
                    Code::HarmAfterStrict,
                    Subject::namespace(name),
                    "a person asked to step back",
                )
                .at(Level::Inform);
                if may_step_back {
                    standing.findings.push(asked.clone());
                }
                Some(asked)
            }
            // Enforced is never weakened by itself: refusals can be forged by a port scan.
            None if standing.state == State::Watching => {
                let Some(memory) = decision.progress.namespaces.get_mut(name) else { continue };
                bake(plan, snapshot, facts, since, standing, memory, now)
                    .filter(|_| plan.rollback == Trigger::Automatic)
            }
            None => {
                // What was normal before the switch is long forgotten: news is what is new now.
                let lately = since.max(now - plan.timing.harm_window * 2);
                if let Harm::Hard(found) | Harm::Soft(found) = harm(plan, snapshot, facts, lately) {
                    standing.findings.push(found.at(Level::Warn));
                }
                None
            }
        };
        if let (Some(because), true) = (because, may_step_back) {
            // One that has become the mesh's root meanwhile is a person's: what is written there
            // is the whole mesh's (S9).
            let back = step_back(name, policy, because);
            decision.actions.extend(back.filter(|back| spares_the_roots(plan, snapshot, back)));
        }
    }
}

/// One look at a namespace that bakes: counts the time, or says why to step back.
fn bake(
    plan: &Plan,
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    since: Timestamp,
    standing: &mut Standing,
    memory: &mut Memory,
    now: Timestamp,
) -> Option<Finding> {
    let known = memory.bake.filter(|bake| bake.strict_since == since);
    let mut bake = known.unwrap_or(Bake::begun(since, now));
    let late = late(snapshot, facts, since);
    if late.known().is_some_and(Vec::is_empty) {
        bake.taken.get_or_insert(now);
    }
    // Where nobody tells whether the proxies have taken it, it begins when they must have.
    let begins = bake.begins(&plan.timing);
    let gap = now.duration_since(bake.last.max(begins));
    // What no proxy has taken proves nothing by being quiet.
    let late = late.known().filter(|_| bake.taken.is_none() && now >= begins);
    let late = late.and_then(|late| proxies::finding(facts, late, "STRICT was not taken"));
    bake.last = now;
    let verdict = match harm(plan, snapshot, facts, since) {
        Harm::None => {
            bake.suspected = None;
            // The gates say what was changed; what is watched then is not what was asked for.
            let as_written =
                our_policy(plan, snapshot, &facts.name).is_some_and(|it| !it.has_drifted());
            if as_written
                && late.is_none()
                && gap > SignedDuration::ZERO
                && gap <= plan.timing.max_gap()
            {
                bake.covered += gap;
            }
            None
        }
        Harm::Blind(found) => {
            standing.findings.push(found.at(Level::Hold));
            None
        }
        Harm::Soft(found) => {
            // Looks at the same scrape are one, however many there are.
            let before = bake.suspected.filter(|first| *first < now);
            let scraped_again =
                |first| now.duration_since(first) >= snapshot.telemetry.scrape_interval;
            bake.suspected = before.or(Some(now));
            standing.findings.push(found.clone().at(Level::Hold));
            before.is_some_and(scraped_again).then_some(found)
        }
        Harm::Hard(found) => Some(found),
    };
    let long_enough = standing.bake.is_some_and(|wanted| bake.covered >= wanted);
    bake.complete = verdict.is_none() && bake.suspected.is_none() && long_enough;
    if bake.complete {
        standing.state = State::Enforced;
    }
    memory.bake = Some(bake);
    standing.findings.extend(late);
    if let Some(found) = &verdict {
        standing.findings.push(found.clone());
    }
    verdict
}
