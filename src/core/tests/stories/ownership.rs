//! Stories of whose policy it is: what is taken over, what is not, and what is given back.

use meshrollout_core::action::Action;
use meshrollout_core::decide::State;
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::ident::{Labels, Namespace};
use meshrollout_core::invariant;
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::plan::Existing;
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::restore::{Restoration, restore};
use meshrollout_core::testing::{World, at};

/// Somebody's PERMISSIVE stands in `catalog`, and the rollout may take it over.
fn somebodys() -> World {
    let mut world = World::shop();
    world.plan.existing = Existing::Adopt;
    world.set_policy("catalog", "default", Mode::Permissive, None);
    world
}

fn change(world: &mut World, change: impl FnOnce(&mut Policy)) {
    let mut policy = world.policy(&"catalog".into()).expect("it stands there").clone();
    change(&mut policy);
    world.snapshot.policies = world.snapshot.policies.with(policy);
}

#[test]
fn a_permissive_policy_is_taken_over_and_forced_once() {
    let mut world = somebodys();
    let adopted = world.visit();
    assert!(matches!(adopted.actions[..], [Action::Adopt(_)]), "{:?}", adopted.actions);
    let ours = world.policy(&"catalog".into()).unwrap().ours.clone().unwrap();
    assert_eq!(ours.adopted, Some(["kubectl".to_owned()].into()));
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.visits(2);
    let (_, decision) = world.look();
    let [strict @ Action::EnforceStrict(_)] = &decision.actions[..] else {
        panic!("{:?}", decision.actions)
    };
    assert!(strict.takes_over(), "kubectl still holds the mode with us");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.failures("catalog", 2.0);
    let (_, back) = world.look();
    let taken_back = back.actions.iter().find(|action| matches!(action, Action::RollBack(_)));
    assert!(taken_back.is_some_and(|it| !it.takes_over()), "{:?}", back.actions);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_hand_that_came_after_the_adoption_is_not_forced() {
    let mut world = somebodys();
    world.visits(3);
    change(&mut world, |policy| policy.managers.push("another".into()));
    let (_, decision) = world.look();
    assert!(matches!(decision.actions[..], [Action::EnforceStrict(_)]), "{:?}", decision.actions);
    assert!(!decision.actions[0].takes_over(), "the apiserver is to refuse it");
}

#[test]
fn what_says_more_than_our_own_pin_is_not_taken_over() {
    let labels = Labels::from_iter([("app", "catalog")]);
    type Change = Box<dyn Fn(&mut Policy)>;
    let changes: [(&str, Change); 6] = [
        ("Argo CD", Box::new(|policy| policy.owner = Some("Argo CD"))),
        ("PERMISSIVE", Box::new(|policy| policy.mode = Declared::Mode(Mode::Disable))),
        ("PERMISSIVE", Box::new(|policy| policy.mode = Declared::Unset)),
        ("selector", Box::new(move |policy| policy.selector = labels.clone())),
        (
            "ports",
            Box::new(|policy| {
                policy
                    .ports
                    .insert(meshrollout_core::ident::Port(80), Declared::Mode(Mode::Permissive));
            }),
        ),
        ("revision", Box::new(|policy| policy.revision = Some("canary".into()))),
    ];
    for (why, made) in changes {
        let mut world = somebodys();
        change(&mut world, made);
        let decision = world.visits(6);
        let found = decision.obstacles();
        let found = found.iter().find(|found| found.code == Code::PolicyOwnedByOther);
        assert!(found.is_some_and(|found| found.message.contains(why)), "{why}: {found:?}");
        assert_eq!(world.policy(&"catalog".into()).unwrap().ours, None, "{why}");
    }
    // A policy of another name, and without being asked at all.
    let mut other = World::shop();
    other.plan.existing = Existing::Adopt;
    other.set_policy("catalog", "house-rules", Mode::Permissive, None);
    let decision = other.visits(6);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Blocked);
    let mut refused = somebodys();
    refused.plan.existing = Existing::Refuse;
    let decision = refused.visits(6);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Blocked);
    assert_eq!(refused.policy(&"catalog".into()).unwrap().ours, None);
}

fn catalog() -> Namespace {
    "catalog".into()
}

/// Carries the restoration out, and yields how it ended.
fn restored(world: &mut World) -> Restoration {
    // As often as the shell tries before it waits.
    for _ in 0..2 {
        match restore(&world.plan, &world.snapshot, &catalog()) {
            Restoration::Do(action) => {
                let broken =
                    invariant::broken_by(&world.plan, &world.snapshot, &action, at(world.now));
                assert_eq!(broken, vec![]);
                world.apply(&action);
            }
            end => return end,
        }
    }
    restore(&world.plan, &world.snapshot, &catalog())
}

#[test]
fn what_we_made_is_deleted_and_what_we_took_over_is_given_back() {
    for visits in [1, 4] {
        let mut made = World::shop();
        made.visits(visits);
        assert_eq!(restored(&mut made), Restoration::Nothing);
        assert_eq!(made.policy(&catalog()), None);

        let mut taken = somebodys();
        taken.visits(visits);
        assert_eq!(restored(&mut taken), Restoration::Nothing);
        let policy = taken.policy(&catalog()).expect("it was not ours to delete");
        assert_eq!((policy.mode.clone(), &policy.ours), (Declared::Mode(Mode::Permissive), &None));
    }
}

#[test]
fn restoring_makes_nothing_strict_and_nothing_weaker() {
    for (mesh_wide, said) in [(Mode::Strict, "STRICT"), (Mode::Disable, "DISABLE")] {
        for visits in [1, 4] {
            let mut world = World::shop();
            world.visits(visits);
            // Written by somebody after us: without our policy it would be in force here.
            world.set_policy("istio-system", "mesh", mesh_wide, None);
            let Restoration::Leave(found) = restored(&mut world) else {
                panic!("{mesh_wide} {visits}")
            };
            assert!(found.message.contains(said), "{found:?}");
            assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "{mesh_wide} {visits}");
        }
    }
}

#[test]
fn restoring_waits_for_what_is_not_known_and_leaves_what_another_hand_changed() {
    let mut unknown = World::shop();
    unknown.visits(4);
    unknown.snapshot.mesh = Reading::Unknown(Cause::NotRead("ConfigMap istio".into()));
    assert!(matches!(restored(&mut unknown), Restoration::Wait(_)));
    assert_eq!(unknown.mode("catalog"), Some(Mode::Permissive), "STRICT does not wait (S4)");

    // Two meshes, of which each would give back something else: both are named.
    let mut differ = World::shop();
    differ.visits(4);
    differ.set_policy("usergroup-2", "default", Mode::Strict, None);
    let policies = differ.snapshot.policies.clone();
    differ.snapshot.policies = policies.with_further_roots(["usergroup-2".into()]);
    let Restoration::Wait(found) = restored(&mut differ) else { panic!("it is not known") };
    for root in ["istio-system", "usergroup-2"] {
        assert!(found.message.contains(root), "{found:?}");
    }

    let mut drifted = World::shop();
    drifted.visits(4);
    change(&mut drifted, |policy| policy.mode = Declared::Mode(Mode::Permissive));
    assert!(matches!(restored(&mut drifted), Restoration::Leave(_)));

    let mut another = World::shop();
    another.visits(4);
    another.plan.uid = "a-namesake".into();
    assert_eq!(restored(&mut another), Restoration::Nothing, "it is not this rollout's");
}

#[test]
fn restoring_leaves_what_has_become_a_root_and_waits_while_no_root_is_known() {
    let taken = || {
        let mut world = somebodys();
        world.visits(4);
        world
    };
    let made = || {
        let mut world = World::shop();
        world.visits(4);
        world
    };
    for mut world in [taken(), made()] {
        world.snapshot.mesh = Reading::Unknown(Cause::NotRead("ConfigMap istio".into()));
        let mut waits = world.clone();
        assert!(matches!(restored(&mut waits), Restoration::Wait(_)));
        assert_eq!(waits.mode("catalog"), Some(Mode::Permissive));
        world.snapshot.mesh = World::shop().snapshot.mesh;
        if let Reading::Known(mesh) = &mut world.snapshot.mesh {
            mesh.roots.push(catalog());
        }
        let Restoration::Leave(found) = restored(&mut world) else { panic!("it is the mesh's") };
        assert_eq!(found.code, Code::RootNamespaceInScope);
        assert_eq!(
            world.mode("catalog"),
            Some(Mode::Strict),
            "what is written there is the mesh's"
        );
    }
}

#[test]
fn a_workload_that_is_strict_by_its_own_policy_keeps_nobody_from_restoring() {
    let mut made = World::shop();
    made.visits(4);
    made.set_workload_policy("catalog", "vault", 8080, Mode::Strict);
    assert_eq!(restored(&mut made), Restoration::Nothing);
    assert_eq!(made.mode("catalog"), None);

    let mut taken = somebodys();
    taken.visits(4);
    taken.set_workload_policy("catalog", "vault", 8080, Mode::Strict);
    assert_eq!(restored(&mut taken), Restoration::Nothing);
    assert_eq!(taken.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn our_strict_is_taken_back_although_another_hand_put_something_around_it() {
    let mut world = World::shop();
    world.visits(4);
    change(&mut world, |policy| policy.revision = Some("canary".into()));
    assert!(matches!(restored(&mut world), Restoration::Leave(_)));
    let policy = world.policy(&catalog()).unwrap();
    assert_eq!(policy.mode, Declared::Mode(Mode::Permissive));
}

#[test]
fn no_other_action_deletes_and_none_but_strict_forces() {
    let mut world = World::shop();
    let pin = world.visit();
    world.visits(3);
    let because = Finding::new(Code::HarmAfterStrict, Subject::namespace(&catalog()), "it broke");
    let policy = world.policy(&catalog()).unwrap();
    let back = meshrollout_core::decide::step_back(&catalog(), policy, because).unwrap();
    assert!(!pin.actions[0].takes_over() && !back.takes_over());
}
