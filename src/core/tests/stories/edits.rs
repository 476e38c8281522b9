//! Stories of edits in mid-run: what acts at once, what waits, and who comes and goes.

use super::{LONG, baking};
use meshrollout_core::condition::{self, Status};
use meshrollout_core::decide::{Decision, State};
use meshrollout_core::finding::Code;
use meshrollout_core::ident::{Labels, Namespace, Operator, Requirement, Selector, Uid};
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::plan::{EXCLUDE_LABEL, Strictness, Targets, Trigger};
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::Reading;
use meshrollout_core::testing::{World, at, seconds};

/// `front` is called over mutual TLS, as the others are.
fn with_callers_of_front() -> World {
    let mut world = World::shop();
    if let Reading::Known(edges) = &mut world.telemetry.edges {
        let mut into_front = edges[0].clone();
        into_front.destination = Some("front".into());
        edges.push(into_front);
    }
    world
}

fn name_in_stage(world: &mut World, stage: usize, name: &str) {
    let Targets::Named(names) = &mut world.plan.stages[stage].targets else { unreachable!() };
    names.insert(name.into());
}

fn state(decision: &Decision, name: &str) -> Option<State> {
    decision.namespaces.get(&Namespace::from(name)).map(|one| one.state)
}

#[track_caller]
fn ready(world: &World) -> (Status, &'static str, String) {
    let (_, decision) = world.look();
    let conditions = condition::of(&world.plan, &decision, &[], at(world.now));
    let ready = conditions.into_iter().find(|one| one.kind == "Ready").expect("always there");
    (ready.status, ready.reason, ready.message)
}

/// In the middle of a soak of four visits, half of which is over.
fn soaking() -> World {
    let mut world = World::shop();
    world.plan.stages[0].soak = seconds(120);
    world.visits(3);
    world
}

/// Visits until the first stage is STRICT.
#[track_caller]
fn visits_until_strict(mut world: World) -> usize {
    for visits in 0..LONG {
        if world.mode("catalog") == Some(Mode::Strict) {
            return visits;
        }
        world.visits(1);
    }
    panic!("never STRICT");
}

#[test]
fn an_edit_of_the_gates_restarts_the_soak_whether_tighter_or_looser() {
    let rest = visits_until_strict(soaking());
    let mut tighter = soaking();
    tighter.plan.gates.min_remaining_percent = 30;
    assert_eq!(visits_until_strict(tighter), rest + 2);
    let mut looser = soaking();
    looser.plan.gates.plaintext = Strictness::Warn;
    assert_eq!(visits_until_strict(looser), rest + 2, "what was proven was something else");
}

#[test]
fn a_shorter_soak_does_not_end_the_one_under_way() {
    let mut world = soaking();
    world.plan.stages[0].soak = seconds(30);
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "a soak of its own was short");
}

#[test]
fn a_tighter_gate_acts_at_once() {
    let mut world = World::shop();
    world.visits(3);
    // Due at the next visit, and not provable under the new gates.
    world.plan.gates.lookback = seconds(7200);
    let decision = world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert!(decision.obstacles().iter().any(|one| one.code == Code::WindowNotCovered));
}

#[test]
fn edits_elsewhere_restart_no_soak() {
    let rest = visits_until_strict(soaking());
    let mut others = soaking();
    name_in_stage(&mut others, 1, "front");
    others.plan.stages[1].soak = seconds(600);
    others.plan.stages[0].bake = seconds(600);
    others.plan.rollback = Trigger::Manual;
    assert_eq!(visits_until_strict(others), rest);
}

#[test]
fn a_pause_keeps_the_soak_that_goes_on_meanwhile() {
    let mut world = soaking();
    world.plan.paused = true;
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.plan.paused = false;
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn a_shorter_bake_does_not_end_the_one_under_way_and_a_longer_one_does_not_wait() {
    let bake_ends = |edit: fn(&mut World)| {
        let mut world = baking();
        edit(&mut world);
        (1..LONG).find(|_| state(&world.visits(1), "catalog") == Some(State::Enforced))
    };
    let as_switched = bake_ends(|_| ());
    assert_eq!(as_switched, Some(3));
    assert_eq!(bake_ends(|world| world.plan.stages[0].bake = seconds(1)), as_switched);
    assert_eq!(bake_ends(|world| world.plan.stages[0].bake = seconds(120)), Some(5));
}

#[test]
fn one_that_leaves_the_plan_finishes_the_bake_it_was_switched_under() {
    let mut world = baking();
    world.plan.stages.remove(0);
    world.plan.stages[0].bake = seconds(1);
    assert_eq!(state(&world.visits(2), "catalog"), Some(State::Watching));
    assert_eq!(state(&world.visits(1), "catalog"), Some(State::Enforced), "60 s are over");
}

#[test]
fn a_policy_without_a_noted_bake_is_watched_as_the_plan_says() {
    let mut world = baking();
    let mut written_before = world.policy(&"catalog".into()).cloned().expect("ours");
    written_before.ours.as_mut().expect("ours").bake = None;
    world.snapshot.policies = world.snapshot.policies.with(written_before);
    world.plan.stages[0].bake = seconds(90);
    assert_eq!(state(&world.visits(3), "catalog"), Some(State::Watching));
    assert_eq!(state(&world.visits(1), "catalog"), Some(State::Enforced));
}

#[test]
fn a_trigger_made_automatic_undoes_harm_at_once() {
    let mut world = baking();
    world.plan.rollback = Trigger::Manual;
    world.failures("catalog", 2.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "a person was to decide");
    world.plan.rollback = Trigger::Automatic;
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_namespace_that_joins_a_finished_stage_is_proven_alone() {
    let mut world = with_callers_of_front();
    world.visits(LONG);
    assert_eq!(ready(&world).1, "Enforced");
    name_in_stage(&mut world, 0, "front");
    world.visits(2);
    let (status, reason, message) = ready(&world);
    assert_eq!((status, reason), (Status::False, "NewNamespace"));
    assert!(message.contains("front joined stage catalog after it was finished"), "{message}");
    // What holds it is told under the same reason.
    let mut held = world.clone();
    if let Reading::Known(mutual) = &mut held.telemetry.mutual {
        mutual.retain(|name, _| name.namespace.as_str() != "front");
    }
    let (_, reason, message) = ready(&held);
    assert_eq!(reason, "NewNamespace", "{message}");
    assert!(message.contains("proven alone: ") && message.contains("front/front"), "{message}");
    // What is wrong with one that is STRICT already comes first.
    if let Reading::Known(mutual) = &mut held.telemetry.mutual {
        mutual.retain(|name, _| name.namespace.as_str() != "orders");
    }
    assert_eq!(ready(&held).1, "NothingSeen");

    world.visits(LONG);
    assert_eq!(world.mode("front"), Some(Mode::Strict));
    assert_eq!(ready(&world).1, "Enforced");
}

#[test]
fn one_that_joins_a_finished_stage_goes_first_and_restarts_no_soak() {
    let mut world = with_callers_of_front();
    world.plan.stages[1].soak = seconds(300);
    while state(&world.visits(1), "orders") != Some(State::Proving) {}
    world.visits(1);
    let soak = |world: &World| world.progress.namespaces[&"orders".into()].soak;
    let begun = soak(&world).expect("every gate passes").since;
    name_in_stage(&mut world, 0, "front");
    while world.mode("front") != Some(Mode::Strict) {
        world.visits(1);
        assert_eq!(soak(&world).map(|soak| soak.since), Some(begun));
    }
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "one after the other");
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
}

#[test]
fn an_abort_takes_back_who_is_watched_whoever_joined_an_earlier_stage() {
    let mut world = with_callers_of_front();
    world.plan.stages[1].bake = seconds(10_000);
    world.visits(LONG);
    name_in_stage(&mut world, 0, "front");
    world.visits(2);
    world.plan.asked.abort = Some("now".into());
    world.visits(2);
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "it is the one in flight");
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "what was reached is kept");
}

#[test]
fn an_abort_of_one_that_joined_keeps_what_its_stage_had_reached() {
    let mut world = with_callers_of_front();
    world.visits(LONG);
    name_in_stage(&mut world, 0, "front");
    while world.mode("front") != Some(Mode::Strict) {
        world.visits(1);
    }
    world.plan.asked.abort = Some("now".into());
    world.visits(3);
    assert_eq!(world.mode("front"), Some(Mode::Permissive));
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
}

#[test]
fn after_a_rollback_of_everything_no_stage_counts_as_finished() {
    let mut world = World::shop();
    world.visits(LONG);
    assert_eq!(world.progress.finished.len(), 2);
    world.plan.asked.rollback = Some("1".into());
    world.visits(2);
    assert_eq!(world.progress.finished.len(), 0);
    world.plan.asked.retry = Some(at(world.now).to_string());
    world.visits(3);
    assert_eq!(ready(&world).1, "Soaking");
}

/// Every namespace of the shop in one stage, by the label that injects.
fn selected() -> World {
    let mut world = with_callers_of_front();
    let injected = Requirement { key: "istio-injection".into(), operator: Operator::Exists };
    world.plan.stages.truncate(1);
    world.plan.stages[0].targets = Targets::Selected(Selector::new(vec![injected]));
    world
}

fn exclude(world: &mut World, name: &str) {
    world.edit(name, |facts| facts.labels = facts.labels.clone().with(EXCLUDE_LABEL, "true"));
}

#[test]
fn a_namespace_opts_out_of_selectors_by_label_before_and_in_mid_run() {
    let mut world = selected();
    exclude(&mut world, "orders");
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    exclude(&mut world, "catalog");
    assert_eq!(state(&world.visits(1), "catalog"), Some(State::Watching), "its bake goes on");
    let decision = world.visits(LONG);
    assert_eq!(world.mode("front"), Some(Mode::Strict));
    assert_eq!(world.mode("orders"), None);
    assert_eq!(decision.namespaces.len(), 1, "the others are left alone");

    let mut named = World::shop();
    exclude(&mut named, "catalog");
    named.visits(4);
    assert_eq!(named.mode("catalog"), Some(Mode::Strict), "who is named is meant");
}

#[test]
fn one_that_leaves_while_it_soaks_keeps_its_pin_and_starts_again_when_it_returns() {
    let mut world = selected();
    world.plan.stages[0].soak = seconds(600);
    world.visits(3);
    exclude(&mut world, "catalog");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.edit("catalog", |facts| facts.labels = facts.labels.clone().without(EXCLUDE_LABEL));
    world.visits(2);
    let since = |name: &str| world.progress.namespaces[&name.into()].soak.map(|soak| soak.since);
    assert_eq!(since("front"), Some(at(30)), "nobody else's soak is touched");
    assert_eq!(since("catalog"), Some(at(world.now - 60)));
}

#[test]
fn a_recreated_namespace_starts_again() {
    let mut world = World::shop();
    world.visits(3);
    world.delete_policy("catalog");
    world.edit("catalog", |facts| facts.uid = Uid::new("catalog-again"));
    let decision = world.visits(1);
    assert_eq!(state(&decision, "catalog"), Some(State::Preparing), "no memory of its namesake");
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "its own soak is not over");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn notes_that_a_backup_brought_back_with_a_recreated_namespace_do_not_count() {
    let mut world = baking();
    world.edit("catalog", |facts| facts.uid = Uid::new("catalog-again"));
    let decision = world.visits(LONG);
    assert_eq!(state(&decision, "catalog"), Some(State::Blocked));
    let found: Vec<_> = decision.obstacles();
    assert_eq!(found[0].code, Code::PolicyOwnedByOther, "{found:?}");
    assert!(found[0].message.contains("an earlier namespace"), "{}", found[0].message);
    assert_eq!(world.mode("orders"), None, "a person must act first");
    world.delete_policy("catalog");
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "proven anew");
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
}

#[test]
fn the_older_rollout_is_refused_where_a_younger_one_wrote_first() {
    let mut older = World::shop();
    older.set_policy("catalog", "default", Mode::Permissive, None);
    let younger = older.policy(&"catalog".into()).cloned().expect("just put there");
    let mut notes =
        baking().policy(&"catalog".into()).and_then(|it| it.ours.clone()).expect("ours");
    notes.rollout = "younger".into();
    notes.rollout_uid = Uid::new("rollout-2");
    older.snapshot.policies = older.snapshot.policies.with(Policy {
        mode: Declared::Mode(Mode::Strict),
        selector: Labels::default(),
        ours: Some(notes),
        ..younger
    });
    older.plan.claimed.insert("catalog".into(), "younger".into());
    older.failures("catalog", 2.0);
    let decision = older.visits(LONG);
    assert_eq!(decision.refused[0].code, Code::AnotherRolloutOwns);
    assert_eq!(older.mode("catalog"), Some(Mode::Strict), "its harm is the younger one's to undo");
    let conditions = condition::of(&older.plan, &decision, &[], at(older.now));
    let accepted = conditions.iter().find(|one| one.kind == "Accepted").expect("always there");
    assert_eq!((accepted.status, accepted.reason), (Status::False, "AnotherRolloutOwns"));
}
