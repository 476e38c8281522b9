//! Decision stories: they read like the manual. Every visit checks every invariant.

mod approvals;
mod believed;
mod edits;
mod exposure;
mod measured;
mod ownership;
mod rollout;
mod scope;
mod taking_back;
mod uptake;

use meshrollout_core::finding::Code;
use meshrollout_core::gate::Evaluation;
use meshrollout_core::ident::Namespace;
use meshrollout_core::mode::Mode;
use meshrollout_core::testing::World;

/// Enough visits for a whole rollout of the shop.
const LONG: usize = 24;

/// The shop with something changed in it.
fn shop(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::shop();
    change(&mut world);
    world
}

/// STRICT in the first stage, and the bake of 60 s has begun.
fn baking() -> World {
    let mut world = World::shop();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world
}

/// What the gates say of `catalog` now.
fn judged(world: &World) -> Evaluation {
    let (snapshot, _) = world.look();
    Evaluation::run(&world.plan, &snapshot, &snapshot.namespaces[&Namespace::from("catalog")])
}

/// The world never goes STRICT, and names this code while it waits.
#[track_caller]
fn held_by(mut world: World, code: Code) {
    let decision = world.visits(LONG);
    assert_ne!(world.mode("catalog"), Some(Mode::Strict), "went STRICT in spite of {code}");
    assert_ne!(world.mode("orders"), Some(Mode::Strict), "went STRICT in spite of {code}");
    let codes: Vec<_> = decision.obstacles().iter().map(|found| found.code).collect();
    assert!(codes.contains(&code), "{code} is not among {codes:?}");
}
