//! Stories of stages for which a person is asked.

use super::LONG;
use meshrollout_core::action::Action;
use meshrollout_core::condition::{self, Status};
use meshrollout_core::decide::{State, decide};
use meshrollout_core::explain::headline;
use meshrollout_core::invariant::strict_is_proven;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::Approval;
use meshrollout_core::snapshot::Source;
use meshrollout_core::testing::{World, at, seconds};

/// The shop, whose second stage waits for a person, as far as it goes by itself.
fn asked() -> World {
    let mut world = World::shop();
    world.plan.stages[1].needs_approval = true;
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "the first stage asks nobody");
    assert_eq!(world.mode("orders"), Some(Mode::Permissive));
    world
}

fn approve(world: &mut World, stage: usize) {
    let (stage, plan_hash) = (world.plan.stages[stage].name.clone(), world.plan.hash());
    world.plan.approvals.push(Approval { stage, plan_hash });
}

#[test]
fn what_is_proven_waits_for_a_person_and_goes_at_once_when_one_approves() {
    let mut world = asked();
    let (_, decision) = world.look();
    assert_eq!(decision.namespaces[&"orders".into()].state, State::AwaitingApproval);
    let conditions = condition::of(&world.plan, &decision, &[], at(world.now));
    let told: Vec<_> = conditions.iter().map(|one| (one.kind, one.status)).collect();
    use Status::{False, True};
    assert_eq!(
        told,
        [
            ("Accepted", True),
            ("GatesPassed", True),
            ("Enforced", False),
            ("Reconciling", True),
            ("Stalled", False),
            ("Ready", False)
        ]
    );
    assert!(conditions.iter().any(|one| one.reason == "AwaitingApproval"));
    let said = headline(&world.plan, &decision);
    let (rollout, stage) = (&world.plan.name, &world.plan.stages[1].name);
    let command = format!("kubectl meshrollout approve {rollout} --stage {stage}");
    assert!(said.contains("every gate passes in orders") && said.contains(&command), "{said}");

    approve(&mut world, 1);
    world.visit();
    assert_eq!(world.mode("orders"), Some(Mode::Strict), "its soak was over long ago");
    world.visits(LONG);
    assert!(world.look().1.is_complete());
}

#[test]
fn an_approval_of_another_stage_or_of_another_plan_counts_for_nothing() {
    let mut world = asked();
    approve(&mut world, 0);
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "that was of the first stage");

    let mut world = asked();
    approve(&mut world, 1);
    world.plan.gates.lookback = seconds(61);
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "that was of another look-back");
    approve(&mut world, 1);
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
}

#[test]
fn an_approval_does_not_stand_for_a_gate() {
    let mut world = World::shop();
    world.plan.stages[0].needs_approval = true;
    approve(&mut world, 0);
    world.edit_pods("catalog", |pod| pod.proxy = meshrollout_core::workload::Proxy::None);
    world.visits(LONG);
    assert_ne!(world.mode("catalog"), Some(Mode::Strict));
}

/// Whoever takes it back in the last moment is heard: it is asked for once more with the write.
#[test]
fn a_strict_that_nobody_approves_any_more_is_refused_by_ourselves() {
    let mut world = asked();
    approve(&mut world, 1);
    let (mut snapshot, _) = world.look();
    snapshot.source = Source::Quorum;
    let now = at(world.now);
    let strict = |world: &World| {
        let decision = decide(&world.plan, &world.progress, &snapshot, now);
        decision.actions.into_iter().find(|it| matches!(it, Action::EnforceStrict(_)))
    };
    let action = strict(&world).expect("it is approved");
    assert!(strict_is_proven(&world.plan, &snapshot, &action, now));
    world.plan.approvals.clear();
    assert_eq!(strict(&world), None);
    assert!(!strict_is_proven(&world.plan, &snapshot, &action, now));
}
