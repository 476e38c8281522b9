//! Stories of what a plan covers.

use meshrollout_core::condition::{self, Status};
use meshrollout_core::decide::State;
use meshrollout_core::finding::{Code, Level};
use meshrollout_core::ident::{Operator, Requirement, Selector};
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::Targets;
use meshrollout_core::reading::Reading;
use meshrollout_core::testing::{World, at};

#[test]
fn a_root_namespace_that_is_merely_selected_is_left_alone_and_said_so() {
    let mut world = World::shop();
    world.plan.stages.truncate(1);
    let labelled = Requirement { key: "istio-injection".into(), operator: Operator::Exists };
    world.plan.stages[0].targets = Targets::Selected(Selector::new(vec![labelled]));
    if let Reading::Known(mesh) = &mut world.snapshot.mesh {
        mesh.roots = vec!["orders".into()];
    }
    let decision = world.visits(24);
    let skipped: Vec<_> = decision.skipped.iter().map(|one| (one.code, one.level)).collect();
    assert_eq!(skipped, [(Code::RootNamespaceInScope, Level::Warn)]);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    assert_eq!(world.mode("orders"), None);
    let conditions = condition::of(&world.plan, &decision, &[], at(world.now));
    let accepted = conditions.iter().find(|one| one.kind == "Accepted").expect("always there");
    assert_eq!(accepted.status, Status::True);
    assert!(accepted.message.contains("orders, which is left alone"), "{}", accepted.message);
}

/// Nothing runs there yet, so that no workload's mode is in question; the mesh's still is.
#[test]
fn where_two_roots_differ_nothing_is_pinned_and_the_reason_is_told() {
    let mut world = World::shop();
    world.set_policy("usergroup-2", "default", Mode::Strict, None);
    let policies = world.snapshot.policies.clone();
    world.snapshot.policies = policies.with_further_roots(["usergroup-2".into()]);
    world.edit("catalog", |facts| facts.workloads.clear());
    let decision = world.visits(2);
    let catalog = &decision.namespaces[&"catalog".into()];
    assert_eq!((world.mode("catalog"), catalog.state), (None, State::Blocked));
    let told = catalog.findings.iter().find(|found| found.code == Code::EffectiveModeUnknown);
    assert!(told.is_some_and(|found| found.message.contains("usergroup-2")), "{catalog:?}");
}
