//! Laws, put to random worlds.

use meshrollout_core::decide::{decide, step_back};
use meshrollout_core::effective::Policies;
use meshrollout_core::finding::{Code, Finding, Subject};
use meshrollout_core::gate::{Evaluation, Verdict};
use meshrollout_core::ident::{Labels, Namespace, Port, Uid};
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::testing::{SHOP, World, at, seconds};
use meshrollout_core::traffic::{Coverage, Presence, coverage};
use meshrollout_core::workload::Proxy;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ROOT: &str = "istio-system";

fn declared() -> impl Strategy<Value = Declared> {
    prop_oneof![
        Just(Declared::Unset),
        Just(Declared::Mode(Mode::Disable)),
        Just(Declared::Mode(Mode::Permissive)),
        Just(Declared::Mode(Mode::Strict)),
    ]
}

fn labels() -> impl Strategy<Value = Labels> {
    prop_oneof![
        3 => Just(Labels::default()),
        1 => Just(Labels::from_iter([("app", "web")])),
        1 => Just(Labels::from_iter([("app", "web"), ("version", "v1")])),
        1 => Just(Labels::from_iter([("app", "api")])),
    ]
}

prop_compose! {
    /// Few names and few seconds, so that ties are common, as they are with `kubectl apply -f`.
    fn policy()(
        namespace in prop::sample::select(vec![ROOT, "shop", "other"]),
        name in prop::sample::select(vec!["a", "b", "default"]),
        second in 0_i64..3,
        selector in labels(),
        mode in declared(),
        ports in prop::collection::btree_map(prop::sample::select(vec![8080_u16, 9090]), declared(), 0..2),
    ) -> Policy {
        // Ports without a selector are refused by the apiserver (A6).
        let ports = if selector.is_empty() { BTreeMap::new() } else { ports };
        Policy {
            namespace: namespace.into(),
            name: name.into(),
            uid: Uid::new(format!("{namespace}-{name}")),
            resource_version: "1".into(),
            created: Some(at(second)),
            selector,
            mode,
            ports: ports.into_iter().map(|(port, mode)| (Port(port), mode)).collect(),
            revision: None,
            managers: vec![],
            owner: None,
            ours: None,
        }
    }
}

/// As the apiserver stores them: one of each name.
fn policies() -> impl Strategy<Value = Vec<Policy>> {
    prop::collection::vec(policy(), 0..8).prop_map(|all| {
        let named: BTreeMap<_, _> =
            all.into_iter().map(|one| ((one.namespace.clone(), one.name.clone()), one)).collect();
        named.into_values().collect()
    })
}

/// The documentation, read naively and without a look at `effective.rs`: port, then workload, then
/// namespace, then mesh; within a scope the oldest counts, and what is unset inherits.
fn naive(policies: &[Policy], namespace: &str, labels: &Labels, port: Option<u16>) -> Mode {
    let oldest = |keep: &dyn Fn(&Policy) -> bool| -> Option<&Policy> {
        let mut found: Option<&Policy> = None;
        for one in policies.iter().filter(|one| keep(one)) {
            let older = found.is_none_or(|known| {
                one.created < known.created
                    || (one.created == known.created && one.name < known.name)
            });
            if older {
                found = Some(one);
            }
        }
        found
    };
    let said = |declared: &Declared| match declared {
        Declared::Mode(mode) => Some(*mode),
        Declared::Unset | Declared::Unknown(_) => None,
    };
    let mesh = oldest(&|one| one.namespace.as_str() == ROOT && one.selector.is_empty());
    let mut mode = mesh.and_then(|one| said(&one.mode)).unwrap_or(Mode::Permissive);
    if namespace == ROOT {
        return mode;
    }
    let wide = oldest(&|one| one.namespace.as_str() == namespace && one.selector.is_empty());
    mode = wide.and_then(|one| said(&one.mode)).unwrap_or(mode);
    let narrow = oldest(&|one| {
        one.namespace.as_str() == namespace
            && !one.selector.is_empty()
            && one.selector.select(labels)
    });
    mode = narrow.and_then(|one| said(&one.mode)).unwrap_or(mode);
    let of_port = narrow.zip(port).and_then(|(one, port)| one.ports.get(&Port(port)));
    of_port.and_then(said).unwrap_or(mode)
}

/// What may go wrong in one namespace of the shop, or nothing.
fn world() -> impl Strategy<Value = World> {
    let place = prop::sample::select(SHOP.to_vec());
    let breaks = prop::collection::vec((0_u8..7, place), 0..3);
    (breaks, 0_usize..8).prop_map(|(breaks, visits)| {
        let mut world = World::shop();
        if visits > 0 {
            world.visits(visits);
        }
        for (what, name) in breaks {
            match what {
                0 => world.edit_pods(name, |pod| pod.proxy = Proxy::None),
                1 => world.plaintext(None, name),
                2 => {
                    world.telemetry.presence =
                        Reading::Unknown(Cause::PartialAnswer("a store is missing".into()));
                }
                3 => world.set_policy(name, "a-first", Mode::Permissive, None),
                4 => world.failures(name, 2.0),
                5 => world.plan.paused = true,
                _ => world.telemetry.callers = Reading::Unknown(Cause::NotRead("callers".into())),
            }
        }
        world
    })
}

fn verdict(world: &World, name: &str) -> Verdict {
    let (snapshot, _) = world.look();
    let facts = snapshot.namespace(&Namespace::from(name)).expect("the shop is there");
    Evaluation::run(&world.plan, &snapshot, facts).verdict()
}

proptest! {
    // A failure is minimal and printed whole; what it teaches becomes a story.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_effective_mode_agrees_with_a_naive_reading(
        all in policies(),
        namespace in prop::sample::select(vec![ROOT, "shop"]),
        labels in labels(),
        port in prop::option::of(prop::sample::select(vec![8080_u16, 9090, 7070])),
    ) {
        let ours = Policies::new(ROOT.into(), all.clone());
        let effective = ours.effective(&namespace.into(), &labels, port.map(Port), None);
        let mode = effective.known().map(|it| it.mode);
        prop_assert_eq!(mode, Some(naive(&all, namespace, &labels, port)));
    }

    #[test]
    fn the_order_of_objects_does_not_matter(
        (all, shuffled) in policies().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        labels in labels(),
    ) {
        let mode = |all: Vec<Policy>| {
            let policies = Policies::new(ROOT.into(), all);
            let effective = policies.effective(&"shop".into(), &labels, Some(Port(8080)), None);
            effective.known().map(|it| (it.mode, it.decided_by.policy().map(|by| by.name.clone())))
        };
        prop_assert_eq!(mode(all), mode(shuffled));
    }

    #[test]
    fn more_plaintext_never_helps(world in world(), name in prop::sample::select(SHOP.to_vec())) {
        let before = verdict(&world, name);
        let mut more = world;
        let known = more.telemetry.callers.known().cloned();
        if known.is_some() {
            more.plaintext(Some(("legacy", "batch")), name);
            if let Reading::Known(callers) = &mut more.telemetry.callers {
                callers.extend(known.into_iter().flatten());
            }
        }
        let after = verdict(&more, name);
        prop_assert!(after >= before && after != Verdict::Pass, "{before:?} became {after:?}");
    }

    #[test]
    fn losing_sight_of_anything_never_helps(
        world in world(),
        name in prop::sample::select(SHOP.to_vec()),
        lost in 0_u8..11,
    ) {
        let before = verdict(&world, name);
        let mut blind = world;
        let cause = || Cause::SourceUnavailable("down".into());
        let telemetry = &mut blind.telemetry;
        match lost {
            8 => blind.snapshot.entrances = Reading::Unknown(cause()),
            10 => blind.snapshot.monitors = Reading::Unknown(cause()),
            9 => blind.snapshot.scheduled = Reading::Unknown(cause()),
            0 => telemetry.skew = Reading::Unknown(cause()),
            1 => telemetry.callers = Reading::Unknown(cause()),
            2 => telemetry.mutual = Reading::Unknown(cause()),
            3 => telemetry.presence = Reading::Unknown(cause()),
            4 => telemetry.certificates = Reading::Unknown(cause()),
            5 => telemetry.control_plane = Reading::Unknown(cause()),
            6 => telemetry.refusals = Reading::Unknown(cause()),
            _ => telemetry.edges = Reading::Unknown(cause()),
        }
        let after = verdict(&blind, name);
        prop_assert!(after != Verdict::Pass, "{before:?} became {after:?}");
    }

    #[test]
    fn the_same_world_gives_the_same_decision(world in world()) {
        let (snapshot, first) = world.look();
        let again = decide(&world.plan, &world.progress, &snapshot, at(world.now));
        prop_assert_eq!(&first, &again);
        // Nothing was done meanwhile: deciding once more on what was remembered asks for the same.
        let third = decide(&world.plan, &first.progress, &snapshot, at(world.now));
        let modes = |one: &meshrollout_core::decide::Decision| {
            let asked = one.actions.iter();
            asked.map(|action| (action.namespace().clone(), action.mode())).collect::<Vec<_>>()
        };
        let states = |one: &meshrollout_core::decide::Decision| {
            one.namespaces.values().map(|standing| standing.state).collect::<Vec<_>>()
        };
        // Soft harm counts looks, so only a look that was repeated may ask for more.
        if modes(&first) == modes(&third) {
            prop_assert_eq!(states(&first), states(&third));
        }
    }

    #[test]
    fn no_visit_of_any_world_breaks_a_safety_statement(world in world(), visits in 1_usize..6) {
        // `visit` checks every statement about every decision.
        let mut world = world;
        world.visits(visits);
    }

    #[test]
    fn rolling_back_restores_what_was_recorded(world in world()) {
        let mut world = world;
        for name in SHOP {
            let Some(policy) = world.policy(&name.into()).cloned() else { continue };
            let recorded = policy.ours.as_ref().map(|ours| ours.previous);
            let asked = Finding::new(Code::HarmAfterStrict, Subject::namespace(&name.into()), "asked");
            let Some(back) = step_back(&name.into(), &policy, asked) else { continue };
            world.apply(&back);
            let restored = world.policy(&name.into()).cloned();
            prop_assert_eq!(restored.as_ref().and_then(Policy::mode_we_wrote), recorded);
            prop_assert!(restored.is_some_and(|policy| !policy.has_drifted()));
        }
    }

    #[test]
    fn fewer_reports_never_cover_more(
        reports in prop::collection::vec((0_i64..3600, 0_i64..3600), 0..6),
        drop in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = reports
            .iter()
            .map(|(from, to)| {
                let (first, last) = (*from.min(to), *from.max(to));
                Presence { first: at(first), last: at(last), samples: ((last - first) / 15 + 1) as u64, gap: None }
            })
            .collect();
        let covers = |reports: &[Presence]| {
            coverage(reports, at(3600), seconds(3600), seconds(15)) == Coverage::Whole
        };
        if !all.is_empty() && !covers(&all) {
            let mut fewer = all.clone();
            fewer.remove(drop.index(fewer.len()));
            prop_assert!(!covers(&fewer));
        }
    }
}
